//! How `check` tells what it found: to a person, to a program, to GitHub; and the page that explains each code.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};

use clap::ValueEnum;
use serde_json::{Value, json};

use super::Found;
use crate::cli::{FINE, USAGE};
use crate::rules::problem::{Level, Problem, suggest};
use crate::rules::{PROBLEMS_PAGE, problems_page};

/// How `check` writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Format {
    /// The line, the place marked and the remedy below; in colour on a terminal
    Human,
    /// One JSON document
    Json,
    /// Workflow commands: annotations beside the lines of a pull request
    Github,
}

/// Writes it all. A pipe that was closed has heard enough.
pub(super) fn write(found: &Found, format: Format) {
    let mut out = std::io::stdout().lock();
    let _ = match format {
        Format::Human => {
            human(found);
            writeln!(out, "{}", found.summary())
        }
        Format::Json => writeln!(out, "{:#}", json(found)),
        Format::Github => writeln!(out, "{}{}", github(found), found.summary()),
    };
}

fn human(found: &Found) {
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let mut err = std::io::stderr().lock();
    for problem in &found.problems {
        if writeln!(err, "{}\n", problem.render(colour)).is_err() {
            return;
        }
    }
    let codes: BTreeSet<&str> = found.problems.iter().map(|p| p.code).collect();
    if let Some(first) = codes.first() {
        let all = codes.iter().copied().collect::<Vec<_>>().join(", ");
        let _ =
            writeln!(err, "{PROBLEMS_PAGE} explains {all}; or ask: parcelwatch check --explain {first}\n");
    }
}

const fn level(problem: &Problem) -> &'static str {
    match problem.level {
        Level::Error => "error",
        Level::Lint => "lint",
    }
}

/// The page's section about a code.
fn page(code: &str) -> String {
    format!("{PROBLEMS_PAGE}#{}", code.to_lowercase())
}

/// One document: `errors`, `lints`, `summary`, and `problems` by file and place.
#[must_use]
pub fn json(found: &Found) -> Value {
    let problems: Vec<Value> = found.problems.iter().map(problem).collect();
    json!({
        "errors": found.count(Level::Error),
        "lints": found.count(Level::Lint),
        "summary": found.summary(),
        "problems": problems,
    })
}

fn problem(p: &Problem) -> Value {
    let also: Vec<Value> = p
        .also
        .iter()
        .map(|(place, why)| {
            json!({"file": place.source.path.display().to_string(), "line": place.line, "column": place.column, "message": why})
        })
        .collect();
    json!({
        "code": p.code,
        "level": level(p),
        "file": p.file.display().to_string(),
        "line": p.place.as_ref().map(|p| p.line),
        "column": p.place.as_ref().map(|p| p.column),
        "end_line": p.end().map(|(line, _)| line),
        "end_column": p.end().map(|(_, column)| column),
        "rule": p.rule,
        "message": p.message,
        "help": p.help,
        "source": p.line_text(),
        "also": also,
        "page": page(p.code),
    })
}

/// A workflow command a problem.
#[must_use]
pub fn github(found: &Found) -> String {
    found.problems.iter().map(|p| command(p) + "\n").collect()
}

fn command(p: &Problem) -> String {
    let kind = match p.level {
        Level::Error => "error",
        Level::Lint => "warning",
    };
    let mut out = format!("::{kind} file={}", property(&p.file.display().to_string()));
    if let (Some(place), Some((end_line, end_column))) = (&p.place, p.end()) {
        out +=
            &format!(",line={},endLine={end_line},col={},endColumn={end_column}", place.line, place.column);
    }
    let title = match &p.rule {
        Some(rule) => format!("{} in rule {rule}", p.code),
        None => p.code.to_owned(),
    };
    let mut text = p.message.clone();
    if let Some(help) = &p.help {
        text += &format!("\n{help}");
    }
    text += &format!("\n{}", page(p.code));
    out + &format!(",title={}::{}", property(&title), data(&text))
}

/// The message of a workflow command.
fn data(text: &str) -> String {
    text.replace('%', "%25").replace('\r', "%0D").replace('\n', "%0A")
}

/// The value of one of its properties.
fn property(text: &str) -> String {
    data(text).replace(':', "%3A").replace(',', "%2C")
}

/// Prints what a code means; the exit code.
#[must_use]
pub fn explain(code: &str) -> u8 {
    let wanted = code.to_uppercase();
    if let Some((_, text)) = problems_page().find(|(c, _)| *c == wanted) {
        let _ = writeln!(std::io::stdout(), "{text}");
        return FINE;
    }
    let near = suggest(&wanted, problems_page().map(|(c, _)| c)).unwrap_or_default();
    eprintln!("parcelwatch: there is no code `{code}`; {near}");
    USAGE
}
