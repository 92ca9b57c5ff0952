//! `--format html`: one page for people who read rules, not code. It loads nothing, runs nothing, and escapes whatever the events
//! say.

mod rule;

use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::Findings;
use super::against::Difference;
use super::learn::Learned;
use super::sketch::duration;
use super::table::{percent, rate};
use crate::model::grouped;

/// Nothing is loaded and nothing runs, whatever else might stand in the page.
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'";
/// Learned delays that are shown at once; the rest is behind a click.
const DELAYS: usize = 25;

/// The whole page.
#[must_use]
pub fn page(findings: &Findings<'_>) -> String {
    let title = format!("What the rules in {} would have told", findings.title);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="Content-Security-Policy" content=(POLICY);
                meta name="referrer" content="no-referrer";
                title { (title) }
                style { (PreEscaped(include_str!("html/style.css"))) }
            }
            body {
                h1 { (title) }
                p.soft { (findings.sentence()) }
                (cards(findings))
                (budget(findings))
                (differences(findings))
                (rules(findings))
                (receivers(findings))
                h2 id="details" { "Rule by rule" }
                @for (rule, of) in findings.noisiest() { (rule::details(findings, rule, of)) }
                @if let Some(learned) = findings.learned { (delays(learned)) }
                (reading(findings))
            }
        }
    }
    .into_string()
}

fn card(figure: &str, what: &str) -> Markup {
    html! { div.card { b { (figure) } span { (what) } } }
}

fn cards(f: &Findings<'_>) -> Markup {
    let of = &f.report.of;
    let opened: u64 = of.iter().map(|o| o.opened).sum();
    let ended: u64 = of.iter().map(super::report::OfRule::ended).sum();
    let late: u64 = of.iter().map(super::report::OfRule::late_evidence).sum();
    let messages: u64 = f.report.messages.values().sum();
    html! {
        div.cards {
            (card(&grouped(opened), "exceptions opened"))
            (card(&rate(opened as f64 / f.days), "exceptions a day"))
            (card(&percent(late, ended), "of those that ended were only reported late"))
            (card(&grouped(of.iter().map(|o| o.standing).sum()), "still open at the end"))
            @if f.report.told { (card(&rate(messages as f64 / f.days), "notifications a day")) }
        }
    }
}

fn budget(f: &Findings<'_>) -> Markup {
    let Some(excesses) = f.excesses else { return html! {} };
    html! {
        @if excesses.is_empty() {
            div.verdict { span.good { "Within the budget." } }
        } @else {
            div.verdict.over {
                span.bad { "Noisier than the budget allows" }
                ul { @for e in excesses { li { (e.to_string()) } } }
            }
        }
    }
}

fn rules(f: &Findings<'_>) -> Markup {
    let most = f.report.of.iter().map(|o| o.opened).max().unwrap_or(0).max(1);
    html! {
        h2 { "Rules, the noisiest first" }
        div.scroll { table {
            thead { tr {
                th { "Rule" } th { "" } th.n { "Opened" } th.n { "A day" } th.n { "Busiest day" }
                th.n { "Half open for" } th.n { "95 % open for" } th.n { "Only reported late" } th.n { "Still open" }
            } }
            tbody { @for (rule, of) in f.noisiest() {
                tr {
                    td {
                        a href={ "#rule-" (rule.id) } { (rule.bodies[0].title) }
                        br; span.id.soft { (rule.id) @if rule.shadow { " (shadow: nobody is told)" } }
                    }
                    td { div.track { i style={ "width:" (of.opened * 100 / most) "%" } {} } }
                    td.n { (grouped(of.opened)) }
                    td.n { (rate(of.opened as f64 / f.days)) }
                    td.n { (grouped(of.days.values().copied().max().unwrap_or(0))) }
                    td.n { (or_dash(of.stood.percentile(50))) }
                    td.n { (or_dash(of.stood.percentile(95))) }
                    td.n { (percent(of.late_evidence(), of.ended())) }
                    td.n { (grouped(of.standing)) }
                }
            } }
        } }
    }
}

fn or_dash(ms: Option<i64>) -> String {
    ms.map_or_else(|| "–".to_owned(), duration)
}

fn receivers(f: &Findings<'_>) -> Markup {
    html! {
        h2 { "Who would have been told" }
        @if !f.report.told {
            p { "Nobody: the directory has no policies, so no notification was worked out." }
        } @else if f.report.messages.is_empty() {
            p { "Nobody was sent anything in this time." }
        } @else {
            div.scroll { table {
                thead { tr { th { "Receiver" } th.n { "Messages" } th.n { "A day" } th { "From which rules" } } }
                tbody { @for (receiver, n) in &f.report.messages {
                    tr {
                        td { span.id { (receiver) } }
                        td.n { (grouped(*n)) }
                        td.n { (rate(*n as f64 / f.days)) }
                        td { (from_rules(f, receiver)) }
                    }
                } }
            } }
            p.note {
                "One message may hold exceptions of several rules and is counted for each of them. Worked out with the policies of "
                "the directory, as if every change were known at once, and nobody ever acknowledged anything."
            }
        }
    }
}

fn from_rules(f: &Findings<'_>, receiver: &str) -> Markup {
    let of = f.report.rules.rules.iter().zip(&f.report.of);
    let mut all: Vec<_> = of.filter_map(|(rule, of)| Some((of.messages.get(receiver)?, rule))).collect();
    all.sort_by(|a, b| b.0.cmp(a.0).then(a.1.id.cmp(&b.1.id)));
    html! {
        @for (i, (n, rule)) in all.iter().take(4).enumerate() {
            @if i > 0 { ", " }
            span.id { (rule.id) } " " (grouped(**n))
        }
        @if all.len() > 4 { " and " (all.len() - 4) " more" }
    }
}

fn differences(f: &Findings<'_>) -> Markup {
    let Some(compare) = f.compare else { return html! {} };
    let against = f.against.unwrap_or_default();
    let names = |d: Difference| match d {
        Difference::OnlyRules => "Only new".to_owned(),
        Difference::OnlyAgainst => "No more".to_owned(),
        other => capital(other.title()),
    };
    html! {
        h2 { "Compared with " span.id { (against) } }
        @if compare.count == 0 {
            p { "The two rule sets do the same with these events." }
        } @else {
            p { "New is " span.id { (f.title) } ". An exception counts as the same where both have it open at one time." }
            div.scroll { table {
                thead { tr {
                    th { "Rule" } th.n { "Before" } th.n { "New" } th.n { "The same" }
                    @for d in Difference::ALL { th.n { (names(d)) } }
                } }
                tbody { @for (rule, of) in &compare.of {
                    tr {
                        td { span.id { (rule) } }
                        td.n { (grouped(of.opened[1])) }
                        td.n { (grouped(of.opened[0])) }
                        td.n { (grouped(of.same)) }
                        @for n in of.counts { td.n { (grouped(n)) } }
                    }
                } }
            } }
            @for (rule, of) in &compare.of {
                @if of.examples.iter().any(|e| !e.is_empty()) {
                    details.example {
                        summary { "Examples: " span.id { (rule) } }
                        @for (difference, examples) in Difference::ALL.iter().zip(&of.examples) {
                            @if !examples.is_empty() {
                                h3 { (names(*difference)) }
                                @for example in examples { (rule::compared(example)) }
                            }
                        }
                    }
                }
            }
            @if let Some(before) = f.before { (told_before(f, before)) }
        }
    }
}

fn told_before(f: &Findings<'_>, before: &super::report::Report) -> Markup {
    let mut receivers: Vec<&String> = f.report.messages.keys().chain(before.messages.keys()).collect();
    receivers.sort();
    receivers.dedup();
    let n = |messages: &std::collections::BTreeMap<String, u64>, r: &str| {
        rate(messages.get(r).copied().unwrap_or(0) as f64 / f.days)
    };
    html! {
        @if !receivers.is_empty() {
            h3 { "Notifications a day" }
            table {
                thead { tr { th { "Receiver" } th.n { "Before" } th.n { "New" } } }
                tbody { @for r in receivers {
                    tr {
                        td { span.id { (r) } }
                        td.n { (n(&before.messages, r)) }
                        td.n { (n(&f.report.messages, r)) }
                    }
                } }
            }
        }
    }
}

fn capital(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |c| c.to_uppercase().chain(chars).collect())
}

fn delays(learned: &Learned) -> Markup {
    let (first, rest) = learned.delays.split_at(learned.delays.len().min(DELAYS));
    html! {
        h2 id="delays" { "How long reports are on their way" }
        p {
            "From what happened (" code { "event_time" } ") to being told (the append time). A rule that waits "
            code { "reporting_delay" } " this long opens nothing for 99 of 100 parcels that were in time and only told late."
            (sampled(learned))
        }
        (delay_table(first))
        @if !rest.is_empty() {
            details.example { summary { (rest.len()) " further rows" } (delay_table(rest)) }
        }
    }
}

fn sampled(learned: &Learned) -> Markup {
    html! {
        @if learned.one_of > 1 {
            " Seen at " (grouped(learned.parcels)) " parcels, one in " (learned.one_of) ", drawn by their ids."
        } @else {
            " Seen at all " (grouped(learned.parcels)) " parcels."
        }
    }
}

fn delay_table(rows: &[super::learn::Delay]) -> Markup {
    html! {
        div.scroll { table {
            thead { tr {
                th { "Feed" } th { "Lane" } th { "Milestone" } th.n { "Reports" } th.n { "Half within" }
                th.n { "95 % within" } th.n { "99 % within" } th.n { "Suggested" }
            } }
            tbody { @for row in rows {
                tr {
                    td { span.id { (row.feed) } }
                    td { span.id { @if row.lane.is_empty() { "–" } @else { (row.lane) } } }
                    td { span.id { (row.milestone) } }
                    td.n { (grouped(row.told.n)) }
                    td.n { (duration(row.told.p50)) }
                    td.n { (duration(row.told.p95)) }
                    td.n { (duration(row.told.p99)) }
                    td.n { (duration(row.told.suggested())) }
                }
            } }
        } }
    }
}

fn reading(f: &Findings<'_>) -> Markup {
    html! {
        footer {
            p {
                "Exceptions are counted by when they open, endings by when they end; each may lie in the time shown without the other. "
                "All that happened before is known: the rules have seen every event from the first one on. "
                "Times are UTC. Durations are told to one percent."
            }
            p { "Rules " span.id { (f.report.rules.hash) } }
        }
    }
}
