//! Texts of one's own: a receiver's templates, in files beside policies.yaml (DESIGN §7).
//!
//! The language is Jinja's, as minijinja reads it; what a template may name is a webhook's body (DESIGN §11), see [`context`].
//! Every value is printed on one line and escaped for where it goes, and nothing switches that off: a parcel's id can write no
//! line, no tag and no link of its own. A template includes no other file. Work, memory and output are bounded, so that a
//! mistake costs a message its own text and nothing else. [`check`] renders each template for all that can happen, before it
//! is in force.

pub mod check;
pub mod context;
mod filters;
mod named;
mod samples;

use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, HtmlEscape, UndefinedBehavior, Value};

use super::problem::Source;
pub use context::{Context, Links};
pub use filters::span;
pub use named::template_files;
pub(super) use named::{FORMS, source, templates};

/// Bytes of a template's file at most.
pub const MAX_FILE: usize = 64 << 10;
/// Bytes that a text or HTML may have: mail readers cut what is longer than some 100 kB.
const MAX_OUTPUT: usize = 256 << 10;
/// Characters of a subject, as of the built-in one.
const MAX_SUBJECT: usize = 200;
/// Steps of work, each of which may also make 64 bytes: some tens of milliseconds and 12 MB. A message of 100 exceptions takes a twentieth.
const FUEL: u64 = 200_000;

/// What a template makes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// A mail's subject: one line, and only of what is the same for all messages of a thread.
    Subject,
    /// A mail's text.
    Text,
    /// A mail's HTML.
    Html,
    /// A message of Slack.
    Slack,
    /// The title of an incident: one line.
    Summary,
}

impl Form {
    /// Its key in `templates`.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Form::Subject => "subject",
            Form::Text | Form::Slack => "text",
            Form::Html => "html",
            Form::Summary => "summary",
        }
    }

    const fn is_line(self) -> bool {
        matches!(self, Form::Subject | Form::Summary)
    }
}

/// A template that was read.
#[derive(Debug, Clone)]
pub struct Template {
    /// What it makes.
    pub form: Form,
    /// Its file.
    pub source: Arc<Source>,
}

impl PartialEq for Template {
    fn eq(&self, other: &Template) -> bool {
        let of = |t: &Template| (t.form, t.source.path.clone());
        of(self) == of(other) && self.source.text == other.source.text
    }
}

/// The templates of a receiver; where one is missing, the built-in text is sent.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Templates {
    /// Of a mail's subject.
    pub subject: Option<Template>,
    /// Of a mail's text, or of a message to Slack.
    pub text: Option<Template>,
    /// Of a mail's HTML; a mail with a text of its own and no HTML of its own has none.
    pub html: Option<Template>,
    /// Of an incident's title.
    pub summary: Option<Template>,
}

impl Templates {
    /// All there are.
    pub fn iter(&self) -> impl Iterator<Item = &Template> {
        [&self.subject, &self.text, &self.html, &self.summary].into_iter().flatten()
    }
}

/// Why a template makes no text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Its file's name.
    pub file: String,
    /// Bytes of its text, where they are known.
    pub at: Option<Range<usize>>,
    /// Line and column, from 1.
    pub place: Option<(usize, usize)>,
    /// What is wrong: lower-case, no full stop.
    pub message: String,
    /// A name that is not there.
    pub undefined: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.place {
            Some((line, column)) => write!(f, "{}:{line}:{column}: {}", self.file, self.message),
            None => write!(f, "{}: {}", self.file, self.message),
        }
    }
}

impl Template {
    /// Its file's name.
    #[must_use]
    pub fn file(&self) -> String {
        let name = |p: &Path| p.file_name().map(|n| n.to_string_lossy().into_owned());
        name(&self.source.path).unwrap_or_default()
    }

    /// The text it makes of a message.
    ///
    /// # Errors
    /// [`Fault`]: it is no template, names what is not there, takes too long, says nothing or too much.
    pub fn render(&self, context: &Context) -> Result<String, Fault> {
        let mut made = self.render_all([context], UndefinedBehavior::Strict)?;
        made.pop().unwrap_or_else(|| Err(self.whole("it makes nothing")))
    }

    /// The texts it makes of messages, up to the first fault that is not a name: that one would be of all that follow. The
    /// error is that it is no template.
    fn render_all<'c>(
        &self,
        contexts: impl IntoIterator<Item = &'c Context>,
        undefined: UndefinedBehavior,
    ) -> Result<Vec<Result<String, Fault>>, Fault> {
        let mut env = environment(self.form);
        env.set_undefined_behavior(undefined);
        let template = env.template_from_named_str("template", &self.source.text);
        let template = template.map_err(|e| self.fault(&e))?;
        let one = |context: &Context| {
            let text = template.render(context.value(self.form)).map_err(|e| self.fault(&e))?;
            if text.len() > MAX_OUTPUT {
                return Err(self.whole(&format!("it makes more than {} kB", MAX_OUTPUT >> 10)));
            }
            let text = if self.form.is_line() { line(&text) } else { text };
            if text.trim().is_empty() {
                return Err(self.whole("it makes an empty text"));
            }
            Ok(text)
        };
        let mut all = Vec::new();
        for context in contexts {
            let made = one(context);
            let ends = made.as_ref().is_err_and(|fault| !fault.undefined);
            all.push(made);
            if ends {
                break;
            }
        }
        Ok(all)
    }

    /// Names it uses and does not define, as paths: `data.policy`. Empty where it is no template.
    fn names(&self) -> Vec<String> {
        let env = environment(self.form);
        let Ok(template) = env.template_from_named_str("template", &self.source.text) else {
            return Vec::new();
        };
        let mut names: Vec<String> = template.undeclared_variables(true).into_iter().collect();
        names.sort();
        names
    }

    fn whole(&self, message: &str) -> Fault {
        Fault { file: self.file(), at: None, place: None, message: message.to_owned(), undefined: false }
    }

    fn fault(&self, error: &minijinja::Error) -> Fault {
        let detail = error.detail().unwrap_or_default();
        let message = match error.kind() {
            ErrorKind::OutOfFuel => "it takes too long, or makes too much".to_owned(),
            ErrorKind::UndefinedError if detail.is_empty() => "a name is not there".to_owned(),
            ErrorKind::UndefinedError
            | ErrorKind::SyntaxError
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
                if !detail.is_empty() =>
            {
                detail.to_owned()
            }
            kind if detail.is_empty() => kind.to_string(),
            kind => format!("{kind}: {detail}"),
        };
        let text = &self.source.text;
        let at = error.range().filter(|at| at.start <= at.end && text.get(at.clone()).is_some());
        let of_line = || error.line().filter(|_| at.is_none()).map(|line| (line, 1));
        Fault {
            file: self.file(),
            place: at.as_ref().map(|at| self.source.line_column(at.start)).or_else(of_line),
            at,
            message: one_line(&message),
            undefined: error.kind() == ErrorKind::UndefinedError,
        }
    }
}

/// What the language knows where a text of this form is made.
fn environment(form: Form) -> Environment<'static> {
    let mut env = Environment::new();
    filters::add(&mut env);
    env.set_debug(true);
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_fuel(Some(FUEL));
    // A tag on a line of its own leaves no empty line behind.
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        env.set_syntax(syntax);
    }
    // What the tag `autoescape` says is for the engine's own filters; what is printed goes through here.
    let escape = match form {
        Form::Html => AutoEscape::Html,
        _ => AutoEscape::Custom("line".into()),
    };
    env.set_auto_escape_callback(move |_| escape.clone());
    env.set_formatter(move |out, _, value| {
        if value.is_safe() {
            // Made by the template itself, of values that were printed so: `{% set %}`, a macro.
            return out.write_str(value.as_str().unwrap_or_default()).map_err(minijinja::Error::from);
        }
        let text = match value.kind() {
            ValueKind::None | ValueKind::Undefined => return Ok(()),
            // As in the body; the engine has Python's way.
            ValueKind::Bool => value.is_true().to_string(),
            _ => one_line(&value.to_string()),
        };
        let written = match form {
            Form::Html => write!(out, "{}", HtmlEscape(&text)),
            // Slack's three characters; so a parcel's id can name no user and no channel.
            Form::Slack => {
                out.write_str(&text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;"))
            }
            Form::Subject | Form::Text | Form::Summary => out.write_str(&text),
        };
        written.map_err(minijinja::Error::from)
    });
    env
}

/// Control characters become blanks: a value cannot begin a line of its own.
fn one_line(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') { ' ' } else { c })
        .collect()
}

/// A template's text as one line: each run of blanks is one, and what is too long is cut.
fn line(text: &str) -> String {
    let words: Vec<&str> =
        text.split(|c: char| c.is_whitespace() || c.is_control()).filter(|w| !w.is_empty()).collect();
    words.join(" ").chars().take(MAX_SUBJECT).collect()
}

/// A value of a template, for [`filters`].
fn text_of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
#[path = "template/template_tests.rs"]
mod tests;
