//! `parcelwatch notify test|preview`: over the daemon's HTTP.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Daemon, text};
use super::explain::escaped;
use super::outbox::Who;
use super::silence::name;
use super::{FAILED, FINE};
use crate::rules::duration;

/// Between two looks at what became of a test.
const LOOK: Duration = Duration::from_millis(250);

/// How a message is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A mail's text
    Text,
    /// A mail's HTML
    Html,
    /// A webhook's body
    Json,
}

/// What to try.
#[derive(Debug, Subcommand)]
pub enum Notify {
    /// Send a test to a receiver and say what became of it; fails where it is not delivered in time
    Test {
        /// Which receiver of the policies
        #[arg(long)]
        receiver: String,
        /// Only show what would be sent
        #[arg(long)]
        dry_run: bool,
        /// How long to wait for the outcome, as 60s or 2m; a number alone counts seconds
        #[arg(long, default_value = "60s", value_name = "DURATION", value_parser = seconds)]
        timeout: u64,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Show what an exception would send now, without sending it
    Preview {
        /// The exception's id
        exception_id: String,
        /// To which receiver [default: the first of its policy]
        #[arg(long)]
        receiver: Option<String>,
        /// As what
        #[arg(long, value_enum, default_value_t = Format::Text)]
        format: Format,
        /// Into this file in place of standard output
        #[arg(long)]
        out: Option<PathBuf>,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Runs it; what there is to say goes to standard output.
///
/// # Errors
/// The daemon cannot be reached, or refuses; the file cannot be written.
pub fn run(notify: &Notify) -> anyhow::Result<u8> {
    match notify {
        Notify::Test { receiver, dry_run, timeout, who, daemon } => {
            let body = json!({"by": name(who.by.as_deref()), "comment": who.comment, "dry_run": dry_run});
            let path = format!("/api/v1/receivers/{}/test", escaped(receiver));
            let sent = daemon.ask("POST", &path, Some(&body))?;
            let messages = sent["messages"].as_array().map_or(&[][..], Vec::as_slice);
            anyhow::ensure!(!messages.is_empty(), "the receiver {receiver} has nobody to send to");
            if *dry_run {
                messages.iter().for_each(|message| print!("{}", would_be_sent(message)));
                return Ok(FINE);
            }
            outcome(daemon, messages, Duration::from_secs(*timeout))
        }
        Notify::Preview { exception_id, receiver, format, out, daemon } => {
            let format = match format {
                Format::Text => "text",
                Format::Html => "html",
                Format::Json => "json",
            };
            let mut path = format!("/api/v1/exceptions/{}/preview?format={format}", escaped(exception_id));
            if let Some(receiver) = receiver {
                path.push_str(&format!("&receiver={}", escaped(receiver)));
            }
            let shown = daemon.ask("GET", &path, None)?;
            let content = text(&shown["content"]);
            match out {
                Some(file) => std::fs::write(file, content)
                    .with_context(|| format!("cannot write {}", file.display()))?,
                None => {
                    if format == "text" {
                        println!("Subject: {}\n", text(&shown["subject"]));
                    }
                    println!("{}", content.trim_end());
                }
            }
            Ok(FINE)
        }
    }
}

/// `60s`, `2m`, `60` → seconds.
fn seconds(text: &str) -> Result<u64, String> {
    if let Ok(plain) = text.parse() {
        return Ok(plain);
    }
    let ms = duration::parse_elapsed(text).map_err(|(why, help)| format!("{why}; {help}"))?;
    u64::try_from(ms / 1_000).map_err(|_| "it lies in the past".to_owned())
}

/// Waits until each message is finished, or it has been long enough.
fn outcome(daemon: &Daemon, messages: &[Value], patience: Duration) -> anyhow::Result<u8> {
    let until = Instant::now() + patience;
    let mut code = FINE;
    for message in messages {
        let path = format!("/api/v1/outbox/{}", escaped(text(&message["id"])));
        let now = loop {
            let now = daemon.ask("GET", &path, None)?;
            if now["state"] != "pending" || Instant::now() >= until {
                break now;
            }
            std::thread::sleep(LOOK);
        };
        if now["state"] != "delivered" {
            code = FAILED;
        }
        println!("{}", became(&now));
    }
    Ok(code)
}

/// `ops to ann@example.org: delivered`.
fn became(now: &Value) -> String {
    let to = Some(text(&now["recipient"]))
        .filter(|r| !r.is_empty())
        .map_or_else(String::new, |r| format!(" to {r}"));
    let state = match text(&now["state"]) {
        "pending" if now["attempts"] == 0 => {
            "not tried yet; is the receiver paused after a failure?".to_owned()
        }
        "pending" => format!("not delivered yet, after {} tries", now["attempts"]),
        "dead" => "given up".to_owned(),
        state => state.to_owned(),
    };
    let why = match text(&now["reason"]) {
        "" => String::new(),
        reason => format!(": {reason}: {}", text(&now["detail"])),
    };
    format!("{}{to}: {state}{why}", text(&now["receiver"]))
}

fn would_be_sent(message: &Value) -> String {
    let head = format!(
        "{} {}\nSubject: {}\n\n",
        text(&message["integration"]),
        text(&message["recipient"]),
        text(&message["subject"])
    );
    match message["text"].as_str() {
        Some(mail) => format!("{head}{mail}\n"),
        None => format!("{head}{:#}\n", message["body"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_a_duration_or_seconds() {
        assert_eq!(["60s", "2m", "60", "0"].map(seconds), [Ok(60), Ok(120), Ok(60), Ok(0)]);
        for bad in ["", "soon", "-5s", "1bd"] {
            assert!(seconds(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_became_of_a_test_is_said_in_one_line() {
        let now = |state: &str, attempts: u32, reason: &str| {
            became(
                &json!({"receiver": "ops", "recipient": "a@x", "state": state, "attempts": attempts, "reason": reason,
                "detail": "550 no"}),
            )
        };
        assert_eq!(now("delivered", 1, ""), "ops to a@x: delivered");
        assert_eq!(now("dead", 1, "permanent"), "ops to a@x: given up: permanent: 550 no");
        let later = "ops to a@x: not delivered yet, after 2 tries: transient: 550 no";
        assert_eq!(now("pending", 2, "transient"), later);
        assert!(now("pending", 0, "").contains("not tried yet"));
    }
}
