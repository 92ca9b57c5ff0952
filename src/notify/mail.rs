//! What a mail says: its text and its HTML, from the message's body. A pure function of the row, so that every try sends the
//! same bytes.
//!
//! The first line says the state, since subjects stay the same over a thread. Every text of a parcel's is held to one line
//! and escaped: a parcel's id cannot write a line of its own. No remote image, no script; colours for light and dark. An
//! exception's `url` is left out: it names the API, for which the reader of a mail has no token.

use std::fmt::Write as _;

use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde_json::Value;

use super::body::{Body, Listed};
use super::one_line;
use crate::model::{SECOND, Severity, Time};
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
        let _ = write!(line, ": {} open, {} acknowledged, {} resolved", c.open, c.acknowledged, c.resolved);
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

    /// The title where all exceptions share one.
    pub fn title(&self) -> Option<String> {
        let mut titles = self.body.data.exceptions.iter().map(title);
        let first = titles.next()?;
        titles.all(|t| t == first).then_some(first)
    }

    pub fn group(&self) -> String {
        let shown = self.body.data.group.iter().filter(|(name, _)| *name != "rule");
        pairs(shown).join(", ")
    }

    /// What is shown of a parcel beside what its whole group has in common.
    pub fn facts(&self, e: &Listed) -> String {
        let group = &self.body.data.group;
        pairs(e.facts.iter().filter(|(name, value)| group.get(*name) != Some(*value))).join(", ")
    }

    /// The plain text.
    pub fn text(&self) -> String {
        let data = &self.body.data;
        let mut out = format!("{}\n", self.headline());
        let shared = self.title();
        for line in [shared.clone().unwrap_or_default(), self.group(), self.why()] {
            if !line.is_empty() {
                let _ = writeln!(out, "{line}");
            }
        }
        if let Some(at) = self.body.timestamp {
            let _ = writeln!(out, "As of {}", clock(at));
        }
        if !data.summary.is_empty() {
            out.push('\n');
        }
        for line in &data.summary {
            let _ = writeln!(out, "{}", one_line(line));
        }
        if let Some((url, until)) = &self.links.ack {
            let _ = write!(out, "\nAcknowledge or resolve (good until {}):\n{url}\n", clock(*until));
        }
        if let Some((url, until)) = &self.links.list {
            let _ = write!(out, "\n{TABLE} (CSV, good until {}):\n{url}\n", clock(*until));
        }
        for e in &data.exceptions {
            out.push('\n');
            self.text_of(&mut out, e, shared.is_none());
        }
        if data.truncated > 0 {
            let _ = write!(out, "\nand {} more that this message does not list\n", data.truncated);
        }
        let _ = write!(out, "\n-- \nparcelwatch, receiver {}\n", one_line(self.receiver));
        out
    }

    fn text_of(&self, out: &mut String, e: &Listed, with_title: bool) {
        let _ = writeln!(out, "{:8}  {}  {}", mark(e), one_line(&e.parcel_id), status(e));
        let mut more = Vec::new();
        if with_title {
            more.push(title(e));
        }
        let heard =
            Some(last(e)).filter(|l| !l.is_empty()).map_or_else(String::new, |l| format!("last: {l}"));
        more.extend(
            [owner(e), ids(e), heard, expected(e), self.facts(e), doubt(e)]
                .into_iter()
                .filter(|l| !l.is_empty()),
        );
        if let Some(runbook) = &e.runbook {
            more.push(format!("runbook: {}", one_line(runbook)));
        }
        if !e.exception_id.is_empty() {
            more.push(format!("exception: {}", one_line(&e.exception_id)));
        }
        for line in more {
            let _ = writeln!(out, "          {line}");
        }
    }

    /// The HTML.
    pub fn html(&self) -> String {
        let shared = self.title();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="color-scheme" content="light dark";
                    meta name="supported-color-schemes" content="light dark";
                    title { (self.headline()) }
                    style { (PreEscaped(STYLE)) }
                }
                body class="pw-page" style=(PAGE) {
                    p class="pw-strong" style="margin:0 0 4px;font-size:18px;font-weight:700" { (self.headline()) }
                    (self.html_intro(shared.as_deref()))
                    (self.html_table(shared.is_none()))
                    @if self.body.data.truncated > 0 {
                        p class="pw-soft" style=(SOFT) { "and " (self.body.data.truncated) " more that this message does not list" }
                    }
                    p class="pw-soft" style=(SOFT) { "parcelwatch, receiver " (one_line(self.receiver)) }
                }
            }
        };
        page.into_string()
    }

    fn html_intro(&self, title: Option<&str>) -> Markup {
        let group = self.group();
        html! {
            @if let Some(title) = title { p style="margin:0 0 4px;font-size:15px" { (title) } }
            p class="pw-soft" style=(SOFT) {
                @if !group.is_empty() { (group) " · " }
                (self.why())
                @if let Some(at) = self.body.timestamp { " · as of " (clock(at)) }
            }
            @for line in &self.body.data.summary {
                p style="margin:4px 0;font-size:14px" { (one_line(line)) }
            }
            @if let Some((url, until)) = &self.links.ack {
                p style="margin:12px 0" {
                    a href=(url) style=(BUTTON) { "Acknowledge or resolve" }
                    span class="pw-soft" style="color:#57606a;font-size:13px" { "  good until " (clock(*until)) }
                }
            }
            @if let Some((url, until)) = &self.links.list {
                p style="margin:12px 0;font-size:14px" {
                    a class="pw-link" href=(url) style="color:#0550ae" { (TABLE) " (CSV)" }
                    span class="pw-soft" style="color:#57606a;font-size:13px" { "  good until " (clock(*until)) }
                }
            }
        }
    }

    fn html_table(&self, with_title: bool) -> Markup {
        if self.body.data.exceptions.is_empty() {
            return html! {};
        }
        html! {
            table role="table" cellpadding="0" cellspacing="0" style="border-collapse:collapse;width:100%;margin:12px 0" {
                tr class="pw-head" {
                    @for head in ["Severity", "Parcel", "Due", "Owner", "Last milestone"] {
                        th class="pw-cell pw-soft" align="left" style=(HEAD) { (head) }
                    }
                }
                @for e in &self.body.data.exceptions { (html_row(e, &self.facts(e), with_title)) }
            }
        }
    }
}

fn html_row(e: &Listed, facts: &str, with_title: bool) -> Markup {
    let small = |text: String| {
        html! { @if !text.is_empty() { div class="pw-soft" style="color:#57606a;font-size:13px" { (text) } } }
    };
    html! {
        tr class="pw-row" {
            td class="pw-cell" style=(CELL) { span style=(badge(e)) { (mark(e)) } }
            td class="pw-cell" style=(CELL) {
                span style="font-weight:600" { (one_line(&e.parcel_id)) }
                @if with_title { div { (title(e)) } }
                (small(ids(e)))
                (small(facts.to_owned()))
                (small(doubt(e)))
                @if let Some(runbook) = &e.runbook {
                    @match web(runbook) {
                        Some(url) => { div { a class="pw-link" href=(url) style="color:#0550ae;font-size:13px" { "runbook" } } },
                        None => { (small(format!("runbook: {}", one_line(runbook)))) },
                    }
                }
            }
            td class="pw-cell" style=(CELL) { (status(e)) }
            td class="pw-cell" style=(CELL) {
                (one_line(&e.owner))
                @if let Some(by) = &e.acknowledged_by { (small(format!("acknowledged by {}", one_line(by)))) }
            }
            td class="pw-cell" style=(CELL) { (last(e)) (small(expected(e))) }
        }
    }
}

const TABLE: &str = "Everything this message tells of, as a table";

const PAGE: &str = "margin:0;padding:16px;background:#ffffff;color:#1f2328;\
    font:14px/1.45 -apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
const SOFT: &str = "margin:0 0 4px;color:#57606a;font-size:13px";
const HEAD: &str =
    "padding:6px 10px;border-bottom:2px solid #d0d7de;color:#57606a;font-size:13px;font-weight:600";
const CELL: &str = "padding:8px 10px;border-bottom:1px solid #d0d7de;vertical-align:top";
const BUTTON: &str = "display:inline-block;padding:8px 16px;border-radius:6px;background:#0550ae;color:#ffffff;\
    font-weight:600;text-decoration:none";
/// For clients that read style sheets: dark colours, and on a phone one exception below the other.
const STYLE: &str = "@media (prefers-color-scheme:dark){.pw-page{background:#0d1117!important;color:#e6edf3!important}\
    .pw-soft{color:#9198a1!important}.pw-cell,.pw-row{border-color:#3d444d!important}.pw-link{color:#79c0ff!important}}\
    @media (max-width:640px){.pw-head{display:none!important}\
    .pw-row{display:block!important;padding:8px 0!important;border-bottom:1px solid #d0d7de!important}\
    .pw-row .pw-cell{display:block!important;padding:2px 0!important;border:0!important}}";

/// White or black on a colour of at least 4.5 : 1, in light and dark alike.
fn badge(e: &Listed) -> String {
    let (back, fore) = match mark(e) {
        "CRITICAL" => ("#a40e26", "#ffffff"),
        "HIGH" => ("#bc4c00", "#ffffff"),
        "WARNING" => ("#f0c541", "#1f2328"),
        "RESOLVED" => ("#1a7f37", "#ffffff"),
        _ => ("#57606a", "#ffffff"),
    };
    format!(
        "display:inline-block;padding:1px 8px;border-radius:10px;background:{back};color:{fore};font-size:12px;font-weight:600"
    )
}

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

/// How it stands: overdue, due, or how it ended.
pub(super) fn status(e: &Listed) -> String {
    if e.change == "resolved" {
        return match e.resolution.as_deref() {
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
    }
    let due = e.due.map(clock);
    match (e.overdue_seconds, due) {
        (s, Some(due)) if s > 0 => format!("overdue by {} (due {due})", span(s.saturating_mul(SECOND))),
        (s, None) if s > 0 => format!("overdue by {}", span(s.saturating_mul(SECOND))),
        (_, Some(due)) => format!("due {due}"),
        (_, None) => String::new(),
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
    let mut line = one_line(&last.milestone);
    if let Some(facility) = &last.facility {
        let _ = write!(line, " at {}", one_line(facility));
    }
    if let Some(time) = last.time {
        let _ = write!(line, ", {}", clock(time));
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
