//! What a mail says: its text and its HTML, from the message's body. A pure function of the row, so that every try sends the
//! same bytes.
//!
//! The first line says the state, since subjects stay the same over a thread. Every text of a parcel's is held to one line
//! and escaped: a parcel's id cannot write a line of its own. No remote image, no script; colours for light and dark. An
//! exception's `url` is left out: it names the API, for which the reader of a mail has no token.

mod html;

use std::fmt::Write as _;

use serde_json::Value;

use super::body::{Body, Last, Listed};
use super::one_line;
use crate::model::{SECOND, Severity, Time, grouped};
use crate::rules::template::span;

/// What a mail is made from.
pub(super) struct Mail<'a> {
    /// The body, read.
    pub body: &'a Body,
    /// The receiver's id.
    pub receiver: &'a str,
    /// Where its reader can go.
    pub links: Links,
}

/// Addresses that open without a token, each with until when it is good.
#[derive(Debug, Clone, Default)]
pub(super) struct Links {
    /// Where its reader can acknowledge.
    pub ack: Option<(String, Time)>,
    /// Where everything it tells of is as a table.
    pub list: Option<(String, Time)>,
}

impl Mail<'_> {
    /// The state in one line: "OPEN, high: 12 open, 1 acknowledged, 3 resolved".
    pub fn headline(&self) -> String {
        let (body, data) = (self.body, &self.body.data);
        if body.kind == "test" || data.reason == "test" {
            return "TEST: this message only checks that the receiver is reached".to_owned();
        }
        match body.kind.as_str() {
            "feed.incident" => return "INCIDENT: a feed does not work".to_owned(),
            "feed.resolved" => return "RESOLVED: the incident of a feed is over".to_owned(),
            _ => {}
        }
        let state = match data.group_state.as_str() {
            "" => body.kind.strip_prefix("exceptions.").unwrap_or("notice"),
            state => state,
        };
        let mut line = state.to_uppercase();
        if state != "resolved"
            && let Some(worst) = self.worst()
        {
            let _ = write!(line, ", {}", worst.name());
        }
        let c = data.counts;
        let [open, acknowledged, resolved] = [c.open, c.acknowledged, c.resolved].map(grouped);
        let _ = write!(line, ": {open} open, {acknowledged} acknowledged, {resolved} resolved");
        line
    }

    pub fn worst(&self) -> Option<Severity> {
        let standing = self.body.data.exceptions.iter().filter(|e| e.change != "resolved");
        standing.filter_map(|e| Severity::from_name(&e.severity)).max()
    }

    pub fn why(&self) -> String {
        let data = &self.body.data;
        let step = data.step.map_or_else(String::new, |s| format!(", step {s}"));
        let policy = format!("policy {}{step}", one_line(&data.policy));
        match data.reason.as_str() {
            "new" => format!("New ({policy})"),
            "raised" => format!("More serious than told before ({policy})"),
            "step" => format!("Not acknowledged in time, so you are told too ({policy})"),
            "reminder" => format!("Reminder: it still stands ({policy})"),
            "ack_expired" => format!("The acknowledgement has run out ({policy})"),
            "mute_ended" => format!("Held back until now ({policy})"),
            "resolved" => format!("Nothing more to do ({policy})"),
            "feed.incident" | "feed.resolved" => {
                "One message for the feed, none for each of its parcels".to_owned()
            }
            "digest" => format!("Summary ({policy})"),
            _ => policy,
        }
    }

    /// The title where all exceptions share one, those too that are not listed.
    pub fn title(&self) -> Option<String> {
        if !self.one_rule() {
            return None;
        }
        let mut titles = self.body.data.exceptions.iter().map(title);
        let first = titles.next()?;
        titles.all(|t| t == first).then_some(first)
    }

    /// Whether what the listed ones share of their rule holds for all that the message tells of.
    fn one_rule(&self) -> bool {
        self.body.data.truncated == 0 || self.body.data.group.contains_key("rule")
    }

    pub fn group(&self) -> String {
        let shown = self.body.data.group.iter().filter(|(name, _)| *name != "rule");
        pairs(shown).join(", ")
    }

    /// What is shown of a parcel beside what its whole group has in common and what [`ids`] says.
    pub fn facts(&self, e: &Listed) -> String {
        self.facts_beside(e, &Common::default())
    }

    fn facts_beside(&self, e: &Listed, common: &Common<'_>) -> String {
        let group = &self.body.data.group;
        let own = |(name, value): &(&String, &Value)| {
            group.get(*name) != Some(*value)
                && !IDS.contains(&name.as_str())
                && !common.facts.iter().any(|(known, _)| known == name)
        };
        pairs(e.facts.iter().filter(own)).join(", ")
    }

    /// What need not be said again for each exception.
    fn common(&self) -> Common<'_> {
        let mut common = Common { title: self.title(), ..Common::default() };
        let [first, others @ ..] = self.body.data.exceptions.as_slice() else { return common };
        if others.is_empty() {
            return common;
        }
        let group = &self.body.data.group;
        let shared = |(name, value): &(&String, &Value)| {
            group.get(*name) != Some(*value)
                && !IDS.contains(&name.as_str())
                && others.iter().all(|e| e.facts.get(*name) == Some(*value))
        };
        if self.body.data.truncated == 0 {
            common.facts = first.facts.iter().filter(shared).collect();
        }
        let everywhere =
            |r: &&str| self.one_rule() && others.iter().all(|e| e.runbook.as_deref() == Some(*r));
        common.runbook = first.runbook.as_deref().filter(everywhere);
        common
    }

    /// What the link to act on reaches: what is listed, which may be few of many.
    fn act(&self) -> String {
        match self.body.data.truncated {
            0 => "Acknowledge or resolve".to_owned(),
            _ => format!("Acknowledge or resolve the {} listed here", self.body.data.exceptions.len()),
        }
    }

    fn left_out(&self) -> Option<String> {
        let left = self.body.data.truncated;
        (left > 0).then(|| format!("and {} more that this message does not list", grouped(left)))
    }

    /// The plain text, in lines of 72 characters as far as there are blanks.
    pub fn text(&self) -> String {
        let data = &self.body.data;
        let mut out = String::new();
        let common = self.common();
        let title = common.title.clone().unwrap_or_default();
        for line in [self.headline(), title, self.group(), common.facts(), self.why()] {
            if !line.is_empty() {
                fill(&mut out, "", "  ", &line);
            }
        }
        if let Some(at) = self.body.timestamp {
            let _ = writeln!(out, "As of {}", clock(at));
        }
        if let Some(runbook) = common.runbook {
            fill(&mut out, "", "  ", &format!("Runbook: {}", one_line(runbook)));
        }
        if !data.summary.is_empty() {
            out.push('\n');
        }
        for line in &data.summary {
            fill(&mut out, "", "  ", &counted(line));
        }
        for (what, link) in [(self.act(), &self.links.ack), (TABLE.to_owned(), &self.links.list)] {
            if let Some((url, until)) = link {
                out.push('\n');
                fill(&mut out, "", "  ", &format!("{what}, good until {}:", clock(*until)));
                let _ = writeln!(out, "{url}");
            }
        }
        for e in &data.exceptions {
            out.push('\n');
            self.text_of(&mut out, e, &common);
        }
        if let Some(left) = self.left_out() {
            let _ = write!(out, "\n{left}\n");
        }
        let _ = write!(out, "\n-- \nparcelwatch, receiver {}\n", one_line(self.receiver));
        out
    }

    fn text_of(&self, out: &mut String, e: &Listed, common: &Common<'_>) {
        const INDENT: &str = "          ";
        fill(out, &format!("{:8}  {}  ", mark(e), one_line(&e.parcel_id)), INDENT, &status(e));
        let mut more = Vec::new();
        if common.title.is_none() {
            more.push(title(e));
        }
        let heard =
            Some(last(e)).filter(|l| !l.is_empty()).map_or_else(String::new, |l| format!("last: {l}"));
        more.extend(
            [owner(e), ids(e), heard, expected(e), self.facts_beside(e, common), doubt(e)]
                .into_iter()
                .filter(|l| !l.is_empty()),
        );
        if let Some(runbook) = e.runbook.as_ref().filter(|_| common.runbook.is_none()) {
            more.push(format!("runbook: {}", one_line(runbook)));
        }
        if !e.exception_id.is_empty() {
            more.push(format!("exception: {}", one_line(&e.exception_id)));
        }
        for line in more {
            fill(out, INDENT, "            ", &line);
        }
    }
}

/// Facts that [`ids`] tells in its own words.
const IDS: [&str; 3] = ["tracking_number", "carrier_code", "order_id"];

/// What all exceptions of a message have in common.
#[derive(Default)]
struct Common<'a> {
    title: Option<String>,
    facts: Vec<(&'a String, &'a Value)>,
    runbook: Option<&'a str>,
}

impl Common<'_> {
    fn facts(&self) -> String {
        pairs(self.facts.iter().copied()).join(", ")
    }
}

/// A line of counts, each of which stays with what it counts.
fn counted(line: &str) -> String {
    let line = one_line(line);
    let mut characters = line.chars().peekable();
    let mut out = String::with_capacity(line.len());
    while let Some(c) = characters.next() {
        let count = c == ' ' && characters.peek().is_some_and(char::is_ascii_digit);
        out.push(if count { KEEP } else { c });
    }
    out
}

/// A blank at which no line ends.
const KEEP: char = '\u{a0}';
/// Characters of a line.
const WIDTH: usize = 72;

/// Writes a text in lines, the first after `first`, the others after `rest`; a word that is longer than a line stays whole.
fn fill(out: &mut String, first: &str, rest: &str, text: &str) {
    // A date stays with its time, and with what it is.
    let mut text: Vec<char> = text.replace("(due ", "(due\u{a0}").chars().collect();
    for at in 6..text.len().saturating_sub(3) {
        if text[at..].starts_with(&[' ', 'U', 'T', 'C']) && text[at - 6] == ' ' {
            (text[at], text[at - 6]) = (KEEP, KEEP);
        }
    }
    let text: String = text.into_iter().collect();
    let mut line = first.to_owned();
    let mut empty = true;
    for word in text.split(' ').filter(|w| !w.is_empty()) {
        let used = line.trim_end().chars().count();
        let gap = usize::from(!empty);
        if line.chars().count() + gap + word.chars().count() > WIDTH && used > rest.len() {
            let _ = writeln!(out, "{}", line.trim_end().replace(KEEP, " "));
            rest.clone_into(&mut line);
        } else if gap > 0 {
            line.push(' ');
        }
        line.push_str(word);
        empty = false;
    }
    let _ = writeln!(out, "{}", line.trim_end().replace(KEEP, " "));
}

const TABLE: &str = "All it tells of, as a table (CSV)";

pub(super) fn mark(e: &Listed) -> &'static str {
    if e.change == "resolved" {
        return "RESOLVED";
    }
    match Severity::from_name(&e.severity) {
        Some(Severity::Critical) => "CRITICAL",
        Some(Severity::High) => "HIGH",
        Some(Severity::Warning) => "WARNING",
        _ => "INFO",
    }
}

pub(super) fn title(e: &Listed) -> String {
    one_line(if e.title.is_empty() { &e.rule } else { &e.title })
}

/// How it stands or ended, "" where it is not overdue; and when it was due, where that matters still.
fn state_and_due(e: &Listed) -> (String, Option<Time>) {
    if e.change == "resolved" {
        let how = match e.resolution.as_deref() {
            Some("satisfied_late") => "it happened, late".to_owned(),
            Some("late_evidence") => "it had happened in time and was reported late".to_owned(),
            Some("terminal") => "the parcel's journey is over".to_owned(),
            Some("expired") => "no longer watched: its time is over".to_owned(),
            Some("condition_ended") => "the condition no longer holds".to_owned(),
            Some("anchor_moved") => "the step it counted from has changed".to_owned(),
            Some("rule_changed") => "the rule has changed".to_owned(),
            Some("by_operator") => "resolved by an operator".to_owned(),
            Some(other) => one_line(other),
            None => "resolved".to_owned(),
        };
        return (how, None);
    }
    let overdue = e.overdue_seconds;
    let state = if overdue > 0 {
        format!("overdue by {}", span(overdue.saturating_mul(SECOND)))
    } else {
        String::new()
    };
    (state, e.due)
}

/// The same in one line.
pub(super) fn status(e: &Listed) -> String {
    match state_and_due(e) {
        (state, Some(due)) if state.is_empty() => format!("due {}", clock(due)),
        (state, Some(due)) => format!("{state} (due {})", clock(due)),
        (state, None) => state,
    }
}

pub(super) fn owner(e: &Listed) -> String {
    let mut line = if e.owner.is_empty() { String::new() } else { format!("owner: {}", one_line(&e.owner)) };
    if let Some(by) = &e.acknowledged_by {
        let _ = write!(line, "{}acknowledged by {}", if line.is_empty() { "" } else { ", " }, one_line(by));
    }
    line
}

pub(super) fn ids(e: &Listed) -> String {
    let mut parts = Vec::new();
    if let Some(number) = &e.tracking_number {
        let carrier = e.carrier_code.as_deref().map_or_else(String::new, |c| format!(" ({})", one_line(c)));
        parts.push(format!("tracking {}{carrier}", one_line(number)));
    }
    if let Some(order) = &e.order_id {
        parts.push(format!("order {}", one_line(order)));
    }
    parts.join(", ")
}

pub(super) fn last(e: &Listed) -> String {
    let Some(last) = &e.last else { return String::new() };
    let mut line = place(last);
    if let Some(time) = last.time {
        let _ = write!(line, ", {}", clock(time));
    }
    line
}

fn place(last: &Last) -> String {
    let mut line = one_line(&last.milestone);
    if let Some(facility) = &last.facility {
        let _ = write!(line, " at {}", one_line(facility));
    }
    line
}

fn expected(e: &Listed) -> String {
    if e.expected.is_empty() || e.change == "resolved" {
        return String::new();
    }
    format!("expected: {}", e.expected.iter().map(|m| one_line(m)).collect::<Vec<_>>().join(" or "))
}

/// What is known may not be all there was (DESIGN §4.7).
fn doubt(e: &Listed) -> String {
    match e.evidence.as_deref() {
        Some("incomplete") => {
            "records were lost while this parcel was on its way: check before acting".to_owned()
        }
        _ => String::new(),
    }
}

fn pairs<'v>(of: impl Iterator<Item = (&'v String, &'v Value)>) -> Vec<String> {
    of.filter_map(|(name, value)| {
        let value = match value {
            Value::Null => return None,
            Value::String(text) => one_line(text),
            other => one_line(&other.to_string()),
        };
        Some(format!("{} {value}", one_line(name)))
    })
    .collect()
}

/// The text where it is a link that may be followed: a `javascript:` URL is none.
fn web(text: &str) -> Option<&str> {
    (text.starts_with("https://") || text.starts_with("http://")).then_some(text)
}

/// "2026-10-14 07:10 UTC".
fn clock(time: Time) -> String {
    let text = time.to_string().replace('T', " ");
    let end = text.len().min(16);
    format!("{} UTC", text.get(..end).unwrap_or(&text))
}

#[cfg(test)]
#[path = "mail_tests.rs"]
mod tests;
