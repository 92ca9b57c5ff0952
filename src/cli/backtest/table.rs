//! `--format table`: the figures for a terminal.

use std::fmt::Write as _;

use super::Findings;
use super::against::Difference;
use super::sketch::duration;
use crate::model::grouped;

/// Rows of learned delays that are shown.
const DELAYS: usize = 20;

/// Columns, the first to the left, the others to the right.
struct Grid {
    rows: Vec<Vec<String>>,
    left: usize,
}

impl Grid {
    fn new<const N: usize>(left: usize, head: [&str; N]) -> Grid {
        Grid { rows: vec![head.map(str::to_owned).to_vec()], left }
    }

    fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }

    fn write(&self, out: &mut String) {
        let wide = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.rows[0].len()).map(wide).collect();
        for row in &self.rows {
            let mut line = String::new();
            for (i, (cell, width)) in row.iter().zip(&widths).enumerate() {
                let gap = " ".repeat(width - cell.chars().count());
                let _ =
                    if i < self.left { write!(line, "{cell}{gap}  ") } else { write!(line, "{gap}{cell}  ") };
            }
            let _ = writeln!(out, "{}", line.trim_end());
        }
    }
}

/// A figure a day: few digits, none that mean nothing.
#[must_use]
pub fn rate(n: f64) -> String {
    if n >= 100.0 || n == 0.0 {
        grouped(n.round() as u64)
    } else if n >= 0.1 {
        format!("{n:.1}")
    } else {
        format!("{n:.2}")
    }
}

/// `12 %`, `–` of nothing.
#[must_use]
pub fn percent(part: u64, whole: u64) -> String {
    match (part, whole) {
        (_, 0) => "–".to_owned(),
        (0, _) => "0 %".to_owned(),
        _ => {
            let p = part as f64 * 100.0 / whole as f64;
            if p < 1.0 { "<1 %".to_owned() } else { format!("{p:.0} %") }
        }
    }
}

/// Control characters of what others wrote, made harmless for a terminal.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

fn time_or_dash(ms: Option<i64>) -> String {
    ms.map_or_else(|| "–".to_owned(), duration)
}

fn some(n: u64, ms: i64) -> String {
    time_or_dash((n > 0).then_some(ms))
}

/// The whole text.
#[must_use]
pub fn table(findings: &Findings<'_>) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}\n", findings.sentence());
    rules(findings, &mut out);
    receivers(findings, &mut out);
    differences(findings, &mut out);
    if let Some(learned) = findings.learned {
        pairs(learned, &mut out);
        delays(learned, &mut out);
        if learned.one_of > 1 {
            let _ = writeln!(
                out,
                "Delays and usual times are of {} parcels, one in {}, drawn by their ids.\n",
                grouped(learned.parcels),
                learned.one_of
            );
        }
    }
    out
}

fn rules(findings: &Findings<'_>, out: &mut String) {
    let mut grid = Grid::new(
        1,
        ["rule", "opened", "a day", "busiest day", "open p50", "open p95", "late evidence", "still open"],
    );
    for (rule, of) in findings.noisiest() {
        grid.row([
            format!("{}{}", rule.id, if rule.shadow { " (shadow)" } else { "" }),
            grouped(of.opened),
            rate(of.opened as f64 / findings.days),
            grouped(of.days.values().copied().max().unwrap_or(0)),
            time_or_dash(of.stood.percentile(50)),
            time_or_dash(of.stood.percentile(95)),
            percent(of.late_evidence(), of.ended()),
            grouped(of.standing),
        ]);
    }
    grid.write(out);
    out.push('\n');
}

fn receivers(findings: &Findings<'_>, out: &mut String) {
    if !findings.report.told {
        out.push_str("Nobody would have been told: the directory has no policies.\n\n");
        return;
    }
    let mut grid = Grid::new(1, ["receiver", "messages", "a day"]);
    for (receiver, n) in &findings.report.messages {
        grid.row([receiver.clone(), grouped(*n), rate(*n as f64 / findings.days)]);
    }
    if findings.report.messages.is_empty() {
        out.push_str("Nobody would have been told anything.\n");
    } else {
        grid.write(out);
    }
    out.push('\n');
}

fn differences(findings: &Findings<'_>, out: &mut String) {
    let Some(compare) = findings.compare else { return };
    let titles = Difference::ALL.map(Difference::title);
    let mut grid = Grid::new(1, ["rule", "same", titles[0], titles[1], titles[2], titles[3], titles[4]]);
    for (rule, of) in compare.of.iter().filter(|(_, of)| of.counts.iter().any(|n| *n > 0)) {
        let [a, b, c, d, e] = of.counts.map(grouped);
        grid.row([rule.clone(), grouped(of.same), a, b, c, d, e]);
    }
    if compare.count == 0 {
        out.push_str("The two rule sets do the same with these events.\n\n");
        return;
    }
    grid.write(out);
    out.push('\n');
    for (rule, of) in &compare.of {
        for (difference, examples) in Difference::ALL.iter().zip(&of.examples) {
            for example in examples.iter().take(1) {
                let _ = writeln!(out, "{rule}, {}, for instance {}", difference.title(), clean(example));
            }
        }
    }
    out.push('\n');
}

fn pairs(learned: &super::learn::Learned, out: &mut String) {
    if learned.pairs.is_empty() {
        return;
    }
    let after = |i: usize| {
        learned.pairs[0].windows.get(i).map_or(String::new(), |w| format!(">{}", duration(w.after)))
    };
    let heads: Vec<String> = [1, 3, 4, 5, 6].map(after).to_vec();
    let mut grid = Grid::new(
        2,
        [
            "rule",
            "from its anchor",
            "n",
            "p50",
            "p95",
            "p99",
            &heads[0],
            &heads[1],
            &heads[2],
            &heads[3],
            &heads[4],
            "reporting_delay",
            "suggested",
        ],
    );
    for pair in &learned.pairs {
        let late = |i: usize| {
            pair.windows
                .get(i)
                .map_or(String::new(), |w| if w.parcels == 0 { "–".to_owned() } else { grouped(w.late) })
        };
        grid.row([
            pair.rule.clone(),
            format!("{}{}", if pair.approximate { "about " } else { "" }, pair.from),
            grouped(pair.took.n),
            some(pair.took.n, pair.took.p50),
            some(pair.took.n, pair.took.p95),
            some(pair.took.n, pair.took.p99),
            late(1),
            late(3),
            late(4),
            late(5),
            late(6),
            duration(pair.waits),
            some(pair.told.n, pair.suggested),
        ]);
    }
    out.push_str(
        "Usual time from a rule's anchor to what it expects, and how many parcels a window would catch\n",
    );
    grid.write(out);
    out.push('\n');
}

fn delays(learned: &super::learn::Learned, out: &mut String) {
    let mut grid = Grid::new(3, ["feed", "lane", "milestone", "n", "p50", "p95", "p99", "suggested"]);
    for row in learned.delays.iter().take(DELAYS) {
        grid.row([
            clean(&row.feed),
            clean(&row.lane),
            row.milestone.clone(),
            grouped(row.told.n),
            duration(row.told.p50),
            duration(row.told.p95),
            duration(row.told.p99),
            duration(row.told.suggested()),
        ]);
    }
    out.push_str("From happening to being told, and the reporting_delay that waits for 99 of 100\n");
    grid.write(out);
    if learned.delays.len() > DELAYS {
        let _ = writeln!(out, "and {} more rows in --format html", learned.delays.len() - DELAYS);
    }
    out.push('\n');
}
