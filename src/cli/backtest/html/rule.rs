//! One rule's part of the page: its figures, how late it was, examples with their timeline.

use maud::{Markup, html};
use serde_json::Value;

use super::super::Findings;
use super::super::learn::Pair;
use super::super::report::{Example, OfRule, Tally};
use super::super::sketch::{duration, second};
use super::super::table::{percent, rate};
use super::or_dash;
use crate::model::{Change, ChangeKind, DAY, HOUR, Resolution, Severity, Time, grouped};
use crate::rules::Rule;

/// Bounds of the histogram of how much too late.
const TOO_LATE: [(i64, &str); 10] = [
    (HOUR, "up to 1 h"),
    (3 * HOUR, "1 – 3 h"),
    (6 * HOUR, "3 – 6 h"),
    (12 * HOUR, "6 – 12 h"),
    (DAY, "12 – 24 h"),
    (2 * DAY, "1 – 2 days"),
    (3 * DAY, "2 – 3 days"),
    (7 * DAY, "3 – 7 days"),
    (14 * DAY, "7 – 14 days"),
    (i64::MAX, "more"),
];

/// What a resolution means, for a reader who does not know the words.
const fn meaning(resolution: Resolution) -> &'static str {
    match resolution {
        Resolution::SatisfiedLate => "it happened, too late",
        Resolution::LateEvidence => "it had happened in time and was only reported late",
        Resolution::Terminal => "the parcel's journey ended",
        Resolution::Expired => "the rule stopped waiting",
        Resolution::ConditionEnded => "its condition no longer held",
        Resolution::AnchorMoved => "its start moved or was taken back",
        Resolution::RuleChanged => "the rules changed",
        Resolution::ByOperator => "closed by hand",
        Resolution::Forgotten => "nothing more was heard of the parcel",
    }
}

/// The details of a rule.
pub fn details(f: &Findings<'_>, rule: &Rule, of: &OfRule) -> Markup {
    let body = &rule.bodies[0];
    let pair = f.learned.and_then(|l| l.pairs.iter().find(|p| *p.rule == *rule.id));
    html! {
        details.rule id={ "rule-" (rule.id) } {
            summary {
                b { (body.title) }
                span.soft { span.id { (rule.id) } " · " (grouped(of.opened)) " opened, " (rate(of.opened as f64 / f.days)) " a day" }
            }
            @if !body.description.is_empty() { p { (body.description) } }
            p.note {
                "Owner " (body.owner)
                @if let Some(policy) = &body.policy { ", policy " span.id { (policy) } }
                @if rule.shadow { ", in shadow: nobody is told" }
                @if let Some(runbook) = &body.runbook { ". What to do: " (runbook) }
            }
            @if of.opened == 0 && of.ended() == 0 {
                p { "It opened nothing in this time." }
            } @else {
                (days(f, of))
                div.grid {
                    div { (severities(of)) (endings(of)) }
                    div { (too_late(of)) }
                    div { h3 { "Lanes" } (tally(&of.lanes)) }
                    div { h3 { "Carriers" } (tally(&of.carriers)) }
                }
                @if !of.messages.is_empty() {
                    h3 { "Notifications a day" }
                    (bars(of.messages.iter().map(|(r, n)| (r.as_str(), *n, rate(*n as f64 / f.days)))))
                }
            }
            @if let Some(pair) = pair { (usual(pair)) }
            @if !of.examples.is_empty() {
                h3 { "Examples, drawn by a hash" }
                @for example in sorted(&of.examples) { (timeline(example)) }
            }
        }
    }
}

fn sorted(examples: &[Example]) -> Vec<&Example> {
    let mut all: Vec<&Example> = examples.iter().collect();
    all.sort_by_key(|e| (e.changes.first().map(|c| c.at), &e.parcel_id));
    all
}

fn bars<'a>(rows: impl Iterator<Item = (&'a str, u64, String)>) -> Markup {
    let rows: Vec<_> = rows.collect();
    let most = rows.iter().map(|r| r.1).max().unwrap_or(0).max(1);
    html! {
        div.bars { @for (name, n, text) in &rows {
            span { (name) }
            div.track { i style={ "width:" (n * 100 / most) "%" } {} }
            span { (text) }
        } }
    }
}

fn severities(of: &OfRule) -> Markup {
    html! {
        h3 { "Opened as" }
        p {
            @for (i, (severity, n)) in Severity::ALL.iter().zip(of.severities).filter(|(_, n)| *n > 0).enumerate() {
                @if i > 0 { " · " }
                span class={ "sev " (severity.name()) } { (severity.name()) } " " (grouped(n))
            }
            @if of.raised > 0 { span.soft { " · raised " (grouped(of.raised)) " times" } }
        }
    }
}

fn endings(of: &OfRule) -> Markup {
    html! {
        h3 { "How it ended" }
        @if of.ended() == 0 { p.soft { "None ended in this time." } }
        @else {
            table { tbody { @for (resolution, n) in Resolution::ALL.iter().zip(of.resolved).filter(|(_, n)| *n > 0) {
                tr {
                    td { (meaning(*resolution)) br; span.id.soft { (resolution.name()) } }
                    td.n { (grouped(n)) }
                    td.n { (percent(n, of.ended())) }
                }
            } } }
            p.note { "Open for " (or_dash(of.stood.percentile(50))) " (half of them) and " (or_dash(of.stood.percentile(95))) " (95 %)." }
        }
    }
}

fn too_late(of: &OfRule) -> Markup {
    let mut from = -1;
    let rows = TOO_LATE.map(|(to, name)| {
        let n = of.too_late.between(from, to);
        from = to;
        (name, n, grouped(n))
    });
    let used = rows.iter().rposition(|r| r.1 > 0).map_or(0, |last| last + 1);
    html! {
        h3 { "How much too late" }
        @if of.too_late.count() == 0 { p.soft { "None ended because it happened too late." } }
        @else {
            (bars(rows.into_iter().take(used)))
            p.note { "From the due time until it was known to have happened; half within " (or_dash(of.too_late.percentile(50))) "." }
        }
    }
}

fn tally(tally: &Tally) -> Markup {
    let (top, rest) = tally.top(8);
    let other = (rest > 0).then(|| ("all others", rest, grouped(rest)));
    bars(top.into_iter().map(|(name, n)| (name, n, grouped(n))).chain(other))
}

/// Exceptions a day, as a picture.
fn days(f: &Findings<'_>, of: &OfRule) -> Markup {
    let (Some(first), Some(last)) = (f.first_day(), f.last_day()) else { return html! {} };
    let count = last - first + 1;
    if !(2..=400).contains(&count) {
        return html! {};
    }
    let most = of.days.values().copied().max().unwrap_or(0).max(1);
    let width = 640.0 / count as f64;
    let date = |day: i64| Time(day * DAY).to_string()[..10].to_owned();
    html! {
        svg viewBox="0 0 640 76" role="img" aria-label={ "exceptions a day, at most " (grouped(most)) } {
            @for (day, n) in &of.days {
                @let high = (*n as f64 / most as f64 * 56.0).max(1.0);
                rect x=(format!("{:.1}", (day - first) as f64 * width)) y=(format!("{:.1}", 62.0 - high))
                    width=(format!("{:.1}", (width * 0.85).max(0.6))) height=(format!("{high:.1}")) {
                    title { (date(*day)) ": " (grouped(*n)) }
                }
            }
            text x="0" y="74" { (date(first)) }
            text x="640" y="74" text-anchor="end" { (date(last)) }
        }
    }
}

fn usual(pair: &Pair) -> Markup {
    html! {
        h3 { "How long it usually takes" }
        @if pair.took.n == 0 {
            p.soft { "Nothing that it expects was seen after " span.id { (pair.from) } "." }
        } @else {
            p {
                "From " span.id { (pair.from) } @if pair.approximate { " (which stands here for the rule's own start)" } " to "
                span.id { (pair.expected) } ": half within " (duration(pair.took.p50)) ", 95 % within " (duration(pair.took.p95))
                ", 99 % within " (duration(pair.took.p99)) " (" (grouped(pair.took.n)) " parcels). "
                "99 of 100 were told within " (duration(pair.told.p99)) ": a " code { "reporting_delay" } " of "
                (duration(pair.suggested)) @if pair.waits == 0 { "; the rule has none." } @else { "; the rule has " (duration(pair.waits)) "." }
            }
            div.scroll { table {
                thead { tr { th { "A window of" } @for w in &pair.windows { th.n { (duration(w.after)) } } } }
                tbody {
                    tr { td { "would catch" } @for w in &pair.windows { td.n { (grouped(w.late)) } } }
                    tr { td { "of the parcels seen long enough" } @for w in &pair.windows { td.n { (percent(w.late, w.parcels)) } } }
                }
            } }
            p.note { "Without scope, conditions and overrides: of all parcels seen." }
        }
    }
}

/// A moment of a timeline.
struct Moment {
    at: Option<Time>,
    what: Markup,
    told: bool,
}

fn timeline(example: &Example) -> Markup {
    let evidence: Value =
        example.evidence.as_deref().and_then(|e| serde_json::from_str(e).ok()).unwrap_or(Value::Null);
    let mut moments: Vec<Moment> = example.changes.iter().map(told).collect();
    for seen in evidence["occurrences"].as_array().into_iter().flatten() {
        moments.push(happened(seen));
    }
    if let Some(due) = example.changes.first() {
        let what = html! { "due: by now it should have happened" };
        moments.push(Moment { at: Some(due.due), what, told: true });
    }
    moments.sort_by_key(|m| (m.at, m.told));
    let fact = |name: &str| evidence["facts"][name].as_str().map(str::to_owned);
    let shown: Vec<_> = ["lane", "domestic_carrier", "broker", "entry_type", "tracking_number"]
        .into_iter()
        .filter_map(|name| Some((name, fact(name)?)))
        .collect();
    html! {
        details.example {
            summary {
                span.id { (example.parcel_id) }
                @if !example.episode.is_empty() { " " span.soft { "episode " (example.episode) } }
                @if let Some(first) = example.changes.first() { " " span.soft { "opened " (second(first.at)) } }
            }
            @if !shown.is_empty() {
                p.note { @for (i, (name, value)) in shown.iter().enumerate() {
                    @if i > 0 { " · " } (name) " " span.id { (value) }
                } }
            }
            table { tbody { @for moment in &moments {
                tr.told[moment.told] { td.when { (moment.at.map(second).unwrap_or_default()) } td { (moment.what) } }
            } } }
        }
    }
}

fn told(change: &Change) -> Moment {
    let what = match change.kind {
        ChangeKind::Resolved(r) => html! { b { "resolved" } ": " (meaning(r)) },
        kind => html! {
            b { (kind.name()) } ", stage " (change.stage) ", "
            span class={ "sev " (change.severity.name()) } { (change.severity.name()) }
        },
    };
    Moment { at: Some(change.at), what, told: true }
}

fn happened(seen: &Value) -> Moment {
    let text = |name: &str| seen[name].as_str().unwrap_or_default();
    let (at, append) = (Time::parse(text("event_time")), Time::parse(text("append_time")));
    let late = at.zip(append).map_or(0, |(at, append)| append.0 - at.0);
    let what = html! {
        span.id { (text("milestone")) }
        @if !text("evidence_class").is_empty() { " " span.soft { (text("evidence_class").replace('_', " ")) } }
        @if !text("facility").is_empty() { " at " span.id { (text("facility")) } }
        @if late >= HOUR { " " span.soft { "told " (duration(late)) " later" } }
    };
    Moment { at, what, told: false }
}

/// A difference's line, for a reader.
pub fn compared(line: &str) -> Markup {
    let value: Value = serde_json::from_str(line).unwrap_or(Value::Null);
    let side = |name: &str| {
        let steps = value[name].as_array().cloned().unwrap_or_default();
        html! {
            @if steps.is_empty() { span.soft { "does not open" } }
            @for (i, step) in steps.iter().enumerate() {
                @if i > 0 { ", " }
                (step["change"].as_str().unwrap_or_default()) " "
                (step["at"].as_str().and_then(Time::parse).map(second).unwrap_or_default())
                @if let Some(how) = step["severity"].as_str().or(step["resolution"].as_str()) { " (" (how.replace('_', " ")) ")" }
            }
        }
    };
    html! {
        p {
            span.id { (value["parcel_id"].as_str().unwrap_or_default()) }
            br; span.soft { "before: " } (side("against"))
            br; span.soft { "new: " } (side("rules"))
        }
    }
}
