//! The same as HTML: no script, nothing loaded, colours for light and dark, on a phone one exception below the other.

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::super::body::Listed;
use super::super::one_line;
use super::{
    Common, Mail, TABLE, clock, counted, doubt, expected, ids, mark, place, state_and_due, title, web,
};
use crate::model::Time;

impl Mail<'_> {
    /// The HTML.
    pub fn html(&self) -> String {
        let common = self.common();
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
                    (self.html_intro(&common))
                    (self.html_table(&common))
                    @if let Some(left) = self.left_out() { p class="pw-soft" style=(SOFT) { (left) } }
                    p class="pw-soft" style=(SOFT) { "parcelwatch, receiver " (one_line(self.receiver)) }
                }
            }
        };
        page.into_string()
    }

    fn html_intro(&self, common: &Common<'_>) -> Markup {
        let (group, facts) = (self.group(), common.facts());
        html! {
            @if let Some(title) = &common.title { p style="margin:0 0 4px;font-size:15px" { (title) } }
            p class="pw-soft" style=(SOFT) {
                @if !group.is_empty() { (group) " · " }
                @if !facts.is_empty() { (facts) " · " }
                (self.why())
                @if let Some(at) = self.body.timestamp { " · as of " (time(at)) }
            }
            @if let Some(runbook) = common.runbook { p class="pw-soft" style=(SOFT) { (html_runbook(runbook)) } }
            @for line in &self.body.data.summary {
                p style="margin:4px 0;font-size:14px" { (counted(line)) }
            }
            @if let Some((url, until)) = &self.links.ack {
                p style="margin:12px 0" {
                    a href=(url) style=(BUTTON) { (self.act()) }
                    (until_when(*until))
                }
            }
            @if let Some((url, until)) = &self.links.list {
                p style="margin:12px 0;font-size:14px" {
                    a class="pw-link" href=(url) style=(LINK) { (TABLE) }
                    (until_when(*until))
                }
            }
        }
    }

    fn html_table(&self, common: &Common<'_>) -> Markup {
        if self.body.data.exceptions.is_empty() {
            return html! {};
        }
        html! {
            table role="table" cellpadding="0" cellspacing="0" style="border-collapse:collapse;width:100%;margin:12px 0" {
                tr class="pw-head" {
                    @for head in ["Severity", "Parcel", "How it stands", "Owner", "Last milestone"] {
                        th class="pw-cell pw-soft" align="left" style=(HEAD) { (head) }
                    }
                }
                @for e in &self.body.data.exceptions { (html_row(e, &self.facts_beside(e, common), common)) }
            }
        }
    }
}

fn html_row(e: &Listed, facts: &str, common: &Common<'_>) -> Markup {
    let small = |text: String| {
        html! { @if !text.is_empty() { div class="pw-soft" style=(SMALL) { (text) } } }
    };
    // On a phone there are no columns, so no heads: what would not speak for itself says what it is.
    let label = |text: &str| html! { span class="pw-label pw-soft" style="display:none;mso-hide:all" { (text) ": " } };
    let (state, due) = state_and_due(e);
    html! {
        tr class="pw-row" {
            td class="pw-cell" style=(CELL) { span style=(badge(e)) { (mark(e)) } }
            td class="pw-cell" style=(CELL) {
                span style="font-weight:600" { (one_line(&e.parcel_id)) }
                @if common.title.is_none() { div { (title(e)) } }
                (small(ids(e)))
                (small(facts.to_owned()))
                (small(doubt(e)))
                @if let Some(runbook) = e.runbook.as_deref().filter(|_| common.runbook.is_none()) {
                    div class="pw-soft" style=(SMALL) { (html_runbook(runbook)) }
                }
            }
            td class="pw-cell" style=(CELL) {
                @if !state.is_empty() { div { (state) } }
                @if let Some(due) = due { div class=[(!state.is_empty()).then_some("pw-soft")] style=[(!state.is_empty()).then_some(SMALL)] { (due_at(due)) } }
            }
            td class="pw-cell" style=(CELL) {
                (label("owner")) (one_line(&e.owner))
                @if let Some(by) = &e.acknowledged_by { (small(format!("acknowledged by {}", one_line(by)))) }
            }
            td class="pw-cell" style=(CELL) {
                @if let Some(last) = &e.last {
                    (label("last")) (place(last))
                    @if let Some(at) = last.time { div class="pw-soft" style=(SMALL) { (time(at)) } }
                }
                (small(expected(e)))
            }
        }
    }
}

fn html_runbook(runbook: &str) -> Markup {
    match web(runbook) {
        Some(url) => html! { a class="pw-link" href=(url) style=(LINK) { "runbook" } },
        None => html! { "runbook: " (one_line(runbook)) },
    }
}

fn until_when(until: Time) -> Markup {
    html! { br; span class="pw-soft" style=(SMALL) { "good until " (time(until)) } }
}

fn due_at(due: Time) -> Markup {
    html! { span style="white-space:nowrap" { "due " (clock(due)) } }
}

/// A time that stays in one line.
fn time(time: Time) -> Markup {
    html! { span style="white-space:nowrap" { (clock(time)) } }
}

const PAGE: &str = "margin:0;padding:16px;background:#ffffff;color:#1f2328;\
    font:14px/1.45 -apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif";
const SOFT: &str = "margin:0 0 4px;color:#57606a;font-size:13px";
const SMALL: &str = "color:#57606a;font-size:13px";
const LINK: &str = "color:#0550ae";
const HEAD: &str =
    "padding:6px 16px 6px 0;border-bottom:2px solid #d0d7de;color:#57606a;font-size:13px;font-weight:600";
const CELL: &str = "padding:8px 16px 8px 0;border-bottom:1px solid #d0d7de;vertical-align:top";
const BUTTON: &str = "display:inline-block;padding:8px 16px;margin:0 0 4px;border-radius:6px;background:#0550ae;color:#ffffff;\
    font-weight:600;text-decoration:none";
/// For clients that read style sheets: on a phone one exception below the other, and dark colours, which come last, since they hold
/// for what a phone draws anew.
const STYLE: &str = "@media (max-width:640px){.pw-head{display:none!important}\
    .pw-row{display:block!important;padding:8px 0!important;border-bottom:1px solid #d0d7de!important}\
    .pw-row .pw-cell{display:block!important;padding:2px 0!important;border:0!important}\
    .pw-label{display:inline!important}}\
    @media (prefers-color-scheme:dark){.pw-page{background:#0d1117!important;color:#e6edf3!important}\
    .pw-soft{color:#9198a1!important}.pw-cell,.pw-row{border-color:#3d444d!important}.pw-link{color:#79c0ff!important}}";

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
