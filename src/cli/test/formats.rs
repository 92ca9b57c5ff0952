//! How results of tests are written.

use std::io::Write;
use std::time::Duration;

use clap::ValueEnum;

use super::{Done, More};
use crate::rules::problem::Place;

/// How `test` writes its results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A line a test, and what is wrong
    Human,
    /// JUnit's XML
    Junit,
    /// One JSON document
    Json,
    /// Annotations of GitHub's workflows
    Github,
}

/// `file:line`.
fn location(place: &Place) -> String {
    format!("{}:{}", place.source.path.display(), place.line)
}

/// Writes them all, but the lines for people, which [`human`] wrote before. Standard output holds the one document that
/// was asked for; what else there is to say to people goes to standard error.
///
/// # Errors
/// The output is closed.
pub fn write(
    out: &mut impl Write,
    format: Format,
    done: &[&Done<'_>],
    more: &[More],
    took: Duration,
) -> std::io::Result<()> {
    match format {
        Format::Human => {}
        Format::Junit => junit(out, done, took)?,
        Format::Json => json(out, done, more)?,
        Format::Github => github(out, done, more)?,
    }
    for m in more {
        let end = m.below.as_ref().map(|b| format!("{b}\n")).unwrap_or_default();
        match format {
            Format::Human | Format::Github => write!(out, "\n{}{end}", m.text)?,
            Format::Junit => eprint!("\n{}{end}", m.text),
            Format::Json => eprint!("{end}"),
        }
    }
    Ok(())
}

fn failed(done: &[&Done<'_>]) -> usize {
    done.iter().filter(|d| !d.verdict.faults.is_empty()).count()
}

/// A line a test, and what is wrong.
///
/// # Errors
/// The output is closed.
pub fn human(out: &mut impl Write, done: &[&Done<'_>], colour: bool, took: Duration) -> std::io::Result<()> {
    let paint = |code: &str, text: &str| {
        if colour { format!("\u{1b}[{code}m{text}\u{1b}[0m") } else { text.to_owned() }
    };
    for d in done {
        let good = d.verdict.faults.is_empty();
        let word = if good { paint("32", "ok  ") } else { paint("1;31", "FAIL") };
        writeln!(out, "{word} {} {}", location(&d.test.place), d.test.name)?;
        for fault in &d.verdict.faults {
            writeln!(out, "     {}: {}", location(&fault.place), fault.message)?;
            for detail in &fault.details {
                writeln!(out, "         {detail}")?;
            }
        }
    }
    let failed = failed(done);
    let tests = if done.len() == 1 { "1 test".to_owned() } else { format!("{} tests", done.len()) };
    let end =
        if failed == 0 { paint("32", "all passed") } else { paint("1;31", &format!("{failed} failed")) };
    writeln!(out, "{tests}, {end} ({:.2} s)", took.as_secs_f64())
}

/// What a fault says, with its details.
fn whole(fault: &crate::testing::judge::Fault) -> String {
    let mut text = format!("{}: {}", location(&fault.place), fault.message);
    for detail in &fault.details {
        text += "\n    ";
        text += detail;
    }
    text
}

fn junit(out: &mut impl Write, done: &[&Done<'_>], took: Duration) -> std::io::Result<()> {
    writeln!(out, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")?;
    let (tests, failures, time) = (done.len(), failed(done), took.as_secs_f64());
    writeln!(
        out,
        "<testsuites name=\"parcelwatch\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" time=\"{time:.3}\">"
    )?;
    for of_file in done.chunk_by(|a, b| a.test.place.source.path == b.test.place.source.path) {
        let name = xml(&of_file[0].test.place.source.path.display().to_string());
        let (tests, failures) = (of_file.len(), failed(of_file));
        writeln!(
            out,
            "  <testsuite name=\"{name}\" tests=\"{tests}\" failures=\"{failures}\" errors=\"0\" skipped=\"0\">"
        )?;
        for d in of_file {
            let case = format!(
                "classname=\"{name}\" name=\"{}\" file=\"{name}\" line=\"{}\"",
                xml(&d.test.name),
                d.test.place.line
            );
            if d.verdict.faults.is_empty() {
                writeln!(out, "    <testcase {case}/>")?;
                continue;
            }
            writeln!(out, "    <testcase {case}>")?;
            for fault in &d.verdict.faults {
                writeln!(
                    out,
                    "      <failure message=\"{}\">{}</failure>",
                    xml(&fault.message),
                    xml(&whole(fault))
                )?;
            }
            writeln!(out, "    </testcase>")?;
        }
        writeln!(out, "  </testsuite>")?;
    }
    writeln!(out, "</testsuites>")
}

/// Text for XML; what XML 1.0 cannot hold is replaced.
fn xml(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => escaped += "&amp;",
            '<' => escaped += "&lt;",
            '>' => escaped += "&gt;",
            '"' => escaped += "&quot;",
            '\n' => escaped += "&#10;",
            '\t' => escaped += "&#9;",
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => escaped.push('\u{fffd}'),
            c => escaped.push(c),
        }
    }
    escaped
}

fn json(out: &mut impl Write, done: &[&Done<'_>], more: &[More]) -> std::io::Result<()> {
    let tests: Vec<serde_json::Value> = done
        .iter()
        .map(|d| {
            let faults: Vec<serde_json::Value> = d
                .verdict
                .faults
                .iter()
                .map(|f| {
                    serde_json::json!({
                        "file": f.place.source.path.display().to_string(),
                        "line": f.place.line,
                        "column": f.place.column,
                        "message": f.message,
                        "details": f.details,
                    })
                })
                .collect();
            serde_json::json!({
                "file": d.test.place.source.path.display().to_string(),
                "line": d.test.place.line,
                "name": d.test.name,
                "passed": d.verdict.faults.is_empty(),
                "faults": faults,
            })
        })
        .collect();
    let mut whole = serde_json::json!({"tests": done.len(), "failed": failed(done), "results": tests});
    for kind in ["coverage", "mutants"] {
        let of_kind: Vec<_> = more.iter().filter(|m| m.kind == kind).map(|m| m.json.clone()).collect();
        if !of_kind.is_empty() {
            whole[kind] = of_kind.into();
        }
    }
    writeln!(out, "{whole:#}")
}

/// Workflow commands: a percent sign and line ends are escaped, and in properties `:` and `,`.
fn github(out: &mut impl Write, done: &[&Done<'_>], more: &[More]) -> std::io::Result<()> {
    let data = |text: &str| text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A");
    let property = |text: &str| data(text).replace(':', "%3A").replace(',', "%2C");
    for d in done {
        for fault in &d.verdict.faults {
            writeln!(
                out,
                "::error file={},line={},col={},title={}::{}",
                property(&fault.place.source.path.display().to_string()),
                fault.place.line,
                fault.place.column,
                property(&d.test.name),
                data(&whole(fault)),
            )?;
        }
    }
    for (file, line, sentence) in more.iter().flat_map(|m| &m.gaps) {
        writeln!(
            out,
            "::warning file={},line={line},title=no test notices::{}",
            property(file),
            data(sentence)
        )?;
    }
    for below in more.iter().filter_map(|m| m.below.as_deref()) {
        writeln!(out, "::error title=too few tests::{}", data(below))?;
    }
    writeln!(out, "{} tests, {} failed", done.len(), failed(done))
}
