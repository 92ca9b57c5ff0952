//! Log lines: text for people, JSON for machines (DESIGN §10 `log`). To stderr, since stdout belongs to a command's output.
//!
//! librdkafka speaks through the `log` crate with targets `librdkafka` and `rdkafka`; both are bridged into tracing and
//! held at `warn`, unless the filter names them.

use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::reload;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, fmt};

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// One line of text, coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line: `timestamp level message target` and the line's fields.
    Json,
}

impl Format {
    /// `text` or `json`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Format> {
        match name {
            "text" => Some(Format::Text),
            "json" => Some(Format::Json),
            _ => None,
        }
    }
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is no filter.
    #[error(
        "log.filter {filter:?} is not understood: {problem}; write a level (error, warn, info, debug, trace), or \
         levels by target such as info,parcelwatch::source=debug"
    )]
    Filter {
        /// As it was written.
        filter: String,
        /// What the parser says.
        problem: ParseError,
    },
    /// Something else has set a subscriber already.
    #[error("logging is set up already")]
    Twice,
}

/// Changes the filter while the process runs.
#[derive(Clone, Debug)]
pub struct FilterHandle(reload::Handle<EnvFilter, Registry>);

impl FilterHandle {
    /// Takes another filter from here on.
    ///
    /// # Errors
    /// [`LogError::Filter`] where it is no filter; the old one stays.
    pub fn set(&self, filter: &str) -> Result<(), LogError> {
        let new = parse(filter)?;
        // Fails only where the subscriber is gone, and then nobody logs.
        let _ = self.0.reload(new);
        Ok(())
    }
}

/// Sets the process's one subscriber: to stderr, in `format`, through `filter`.
///
/// # Errors
/// [`LogError`]: the filter is none, or logging is set up already.
pub fn init(format: Format, filter: &str, colour: bool) -> Result<FilterHandle, LogError> {
    let (filter, handle) = reload::Layer::new(parse(filter)?);
    let registry = tracing_subscriber::registry().with(filter);
    match format {
        Format::Text => registry.with(fmt::layer().with_ansi(colour).with_writer(std::io::stderr)).try_init(),
        Format::Json => registry.with(json(std::io::stderr)).try_init(),
    }
    .map_err(|_| LogError::Twice)?;
    Ok(FilterHandle(handle))
}

fn parse(filter: &str) -> Result<EnvFilter, LogError> {
    let mut full = filter.to_owned();
    for target in ["rdkafka", "librdkafka"] {
        // "rdkafka" is part of "librdkafka": look at whole directives.
        if !filter.split(',').any(|d| d.trim().split(['=', '[', ':']).next() == Some(target)) {
            full = format!("{target}=warn,{full}");
        }
    }
    EnvFilter::try_new(full).map_err(|problem| LogError::Filter { filter: filter.to_owned(), problem })
}

type JsonLayer<S, W> = fmt::Layer<S, fmt::format::JsonFields, fmt::format::Format<fmt::format::Json>, W>;

fn json<S, W>(writer: W) -> JsonLayer<S, W>
where
    W: for<'w> MakeWriter<'w> + 'static,
{
    fmt::layer().json().flatten_event(true).with_current_span(false).with_span_list(false).with_writer(writer)
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, lines: impl FnOnce()) -> String {
        let written = Lines::default();
        let sink = written.clone();
        let subscriber =
            tracing_subscriber::registry().with(parse(filter).unwrap()).with(json(move || sink.clone()));
        tracing::subscriber::with_default(subscriber, lines);
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn a_json_line_holds_its_fields_flat_and_no_raw_control_characters() {
        let text = logged("info", || {
            tracing::info!(topic = "milestones", partition = 3, "loaded\u{1b}[31m\nsnapshot");
            tracing::debug!("too quiet");
        });
        let line: serde_json::Value = serde_json::from_str(&text).expect(&text);
        assert_eq!(line["level"], "INFO");
        assert_eq!(line["topic"], "milestones");
        assert_eq!(line["partition"], 3);
        assert!(!text.contains('\u{1b}') && text.trim_end().lines().count() == 1, "{text}");
    }

    #[test]
    fn librdkafka_is_heard_from_warn_on_unless_the_filter_names_it() {
        let speak = || {
            tracing::info!(target: "librdkafka", "chatter");
            tracing::warn!(target: "librdkafka", "all brokers down");
        };
        assert_eq!(logged("debug", speak).lines().count(), 1);
        assert_eq!(logged("info,librdkafka=info", speak).lines().count(), 2);
    }

    #[test]
    fn a_wrong_filter_is_an_error_that_says_what_to_write() {
        let text = parse("parcelwatch=loud").unwrap_err().to_string();
        assert!(text.contains("log.filter \"parcelwatch=loud\"") && text.contains("debug"), "{text}");
    }
}
