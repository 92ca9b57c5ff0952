//! `parcelwatch outbox list|retry|drop`: over the daemon's HTTP.

use clap::{Subcommand, ValueEnum};
use serde_json::{Value, json};

use super::client::{Daemon, text};
use super::explain::escaped;
use super::silence::name;
use super::{FAILED, FINE};

/// How a list is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For a person
    Table,
    /// The API's answer
    Json,
}

/// What to do with the outbox.
#[derive(Debug, Subcommand)]
pub enum Outbox {
    /// Messages, newest first
    List {
        /// Only these: pending, delivered, withdrawn, dead, dropped, dry_run
        #[arg(long)]
        state: Option<String>,
        /// Only this receiver's
        #[arg(long)]
        receiver: Option<String>,
        /// How many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
        limit: u32,
        /// Where the page before ended
        #[arg(long)]
        cursor: Option<String>,
        /// For a person, or a program
        #[arg(long, value_enum, default_value_t = Format::Table)]
        format: Format,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Try dead letters again at once, under the same id
    Retry {
        /// Their ids
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<String>,
        /// All dead letters of one receiver
        #[arg(long, requires = "receiver")]
        all: bool,
        /// Which receiver
        #[arg(long, requires = "all")]
        receiver: Option<String>,
        /// Only those written at this time or later (RFC 3339)
        #[arg(long, requires = "all")]
        from: Option<String>,
        /// Only those written before this time (RFC 3339)
        #[arg(long, requires = "all")]
        to: Option<String>,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        daemon: Daemon,
    },
    /// Never send messages that are pending or dead
    Drop {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
        #[command(flatten)]
        who: Who,
        #[command(flatten)]
        daemon: Daemon,
    },
}

/// Who acts.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Who {
    /// Who [default: the environment variable USER]
    #[arg(long)]
    pub by: Option<String>,
    /// Why
    #[arg(long)]
    pub comment: Option<String>,
}

/// Runs it; what there is to say goes to standard output. It fails where one of several messages was refused.
///
/// # Errors
/// The daemon cannot be reached, or refuses.
pub fn run(outbox: &Outbox) -> anyhow::Result<u8> {
    match outbox {
        Outbox::List { state, receiver, limit, cursor, format, daemon } => {
            let mut path = format!("/api/v1/outbox?limit={limit}");
            for (name, value) in [("state", state), ("receiver", receiver), ("cursor", cursor)] {
                if let Some(value) = value {
                    path.push_str(&format!("&{name}={}", escaped(value)));
                }
            }
            let list = daemon.ask("GET", &path, None)?;
            match format {
                Format::Json => println!("{list:#}"),
                Format::Table => print!("{}", table(&list)),
            }
            Ok(FINE)
        }
        Outbox::Retry { all: true, receiver, from, to, who, daemon, .. } => {
            let body = json!({"receiver": receiver, "state": "dead", "from": from, "to": to,
                "by": name(who.by.as_deref()), "comment": who.comment});
            let done = daemon.ask("POST", "/api/v1/outbox/retry", Some(&body))?;
            println!("{} messages are tried again", done["retried"]);
            Ok(FINE)
        }
        Outbox::Retry { ids, who, daemon, .. } => Ok(each(daemon, ids, who, "retry")),
        Outbox::Drop { ids, who, daemon } => Ok(each(daemon, ids, who, "drop")),
    }
}

/// Acts on messages one by one: one that is refused does not keep the others.
fn each(daemon: &Daemon, ids: &[String], who: &Who, what: &str) -> u8 {
    let body = json!({"by": name(who.by.as_deref()), "comment": who.comment});
    let mut code = FINE;
    for id in ids {
        match daemon.ask("POST", &format!("/api/v1/outbox/{}/{what}", escaped(id)), Some(&body)) {
            Ok(now) => println!("{id}  {}", text(&now["state"])),
            Err(error) => {
                eprintln!("{id}: {error:#}");
                code = FAILED;
            }
        }
    }
    code
}

/// One message a line, its failure on a line of its own.
fn table(list: &Value) -> String {
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    if items.is_empty() {
        return "no messages\n".to_owned();
    }
    let mut lines = String::new();
    for m in items {
        let to = if text(&m["recipient"]).is_empty() { "" } else { " to " };
        lines.push_str(&format!(
            "{}  {:9}  {}  {}{to}{}  {}, {} tries  {}\n",
            text(&m["id"]),
            text(&m["state"]),
            text(&m["created_at"]),
            text(&m["receiver"]),
            text(&m["recipient"]),
            text(&m["kind"]),
            m["attempts"],
            text(&m["subject"]),
        ));
        if !text(&m["reason"]).is_empty() {
            lines.push_str(&format!("    {}: {}\n", text(&m["reason"]), text(&m["detail"])));
        }
    }
    if let Some(cursor) = list["next_cursor"].as_str() {
        lines.push_str(&format!("more: --cursor {cursor}\n"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_shows_what_went_wrong() {
        let list = json!({"items": [
            {"id": "a1", "state": "dead", "created_at": "2026-10-14T07:10:00Z", "receiver": "ops", "recipient": "a@example.org",
             "kind": "new", "attempts": 3, "subject": "[parcelwatch] late", "reason": "permanent", "detail": "550 no such user"},
        ], "next_cursor": "7"});
        let expected = "a1  dead       2026-10-14T07:10:00Z  ops to a@example.org  new, 3 tries  [parcelwatch] late\n    \
                        permanent: 550 no such user\nmore: --cursor 7\n";
        assert_eq!(table(&list), expected);
        assert_eq!(table(&json!({"items": []})), "no messages\n");
    }
}
