//! What is wrong with a file, where, and what to do: the one form in which rules, policies and the configuration
//! complain.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use annotate_snippets::{
    AnnotationKind, Element, Level as Title, Origin, Renderer, Snippet, normalize_untrusted_str,
};

use crate::yaml;

/// Stable names of problems. PW1xx: the file cannot be read. PW2xx: it cannot mean what it says. PW3xx: a lint; it can,
/// but probably should not.
pub mod code {
    macro_rules! codes {
        ($($(#[$doc:meta])* $name:ident $text:literal)*) => {
            $($(#[$doc])* pub const $name: &str = $text;)*
            /// All of them, in their order.
            pub const ALL: &[&str] = &[$($name),*];
        };
    }
    codes! {
        /// No file, no right to read it, a folder, too large.
        UNREADABLE "PW101"
        /// Not UTF-8.
        NOT_TEXT "PW102"
        /// Not YAML.
        SYNTAX "PW103"
        /// Nested too deep.
        TOO_DEEP "PW104"
        /// Tags; aliases that lead nowhere or copy too much.
        UNSUPPORTED "PW105"
        /// A key twice in a mapping.
        DUPLICATE_KEY "PW106"
        /// A second document.
        SEVERAL_DOCUMENTS "PW107"
        /// Nothing in it.
        EMPTY_FILE "PW108"
        /// Further problems of the file are not told.
        TOO_MANY "PW109"
        /// A key that does not exist.
        UNKNOWN_KEY "PW201"
        /// A key that must be there.
        MISSING_KEY "PW202"
        /// A list where a text is wanted, and the like.
        WRONG_SHAPE "PW203"
        /// A value outside of what is allowed.
        BAD_VALUE "PW204"
        /// No duration, or one that cannot stand here.
        BAD_DURATION "PW205"
        /// A milestone or derived time that does not exist.
        UNKNOWN_MILESTONE "PW206"
        /// A fact that nobody declared.
        UNKNOWN_FACT "PW207"
        /// A severity, owner or evidence class that does not exist.
        UNKNOWN_WORD "PW208"
        /// A set, calendar, policy or receiver that nothing defines.
        UNDEFINED "PW209"
        /// One name for two things.
        DEFINED_TWICE "PW210"
        /// Keys that exclude each other.
        CONTRADICTION "PW211"
        /// An id that is not snake_case.
        BAD_ID "PW212"
        /// What an anchor cannot be (SEMANTICS 5.1).
        BAD_ANCHOR "PW213"
        /// `bd` without a calendar.
        NO_CALENDAR "PW214"
        /// What an override cannot set.
        BAD_OVERRIDE "PW215"
        /// A secret written in place.
        SECRET_IN_PLACE "PW216"
        /// Zones, hours, days and holidays.
        BAD_CALENDAR "PW218"
        /// Mail addresses and URLs.
        BAD_ADDRESS "PW219"
        /// More than the program handles.
        TOO_LARGE "PW220"
        /// A template that cannot be read as one, or that fails for a message that may come.
        BAD_TEMPLATE "PW221"
        /// A template names what no message has.
        UNKNOWN_NAME "PW222"
        /// Stages in an odd order.
        STAGES_ORDER "PW301"
        /// A text that looks like a pattern.
        LOOKS_LIKE_GLOB "PW302"
        /// `yes` and `no` are texts.
        LOOKS_LIKE_BOOL "PW303"
        /// Zeros that a number loses.
        LEADING_ZEROS "PW305"
        /// A value that the fact never has.
        NEVER_EQUAL "PW306"
        /// Said twice, or without effect.
        WITHOUT_EFFECT "PW307"
        /// Nobody would be told.
        NOBODY_TOLD "PW308"
        /// `before` a time that nobody knows until it has come.
        NOT_AHEAD "PW309"
        /// An expected milestone that lies before the anchor on a parcel's way.
        NEVER_FOLLOWS "PW310"
        /// A matcher that holds for no parcel, or an `unless` that holds for all.
        NEVER_HOLDS "PW311"
        /// An override that no parcel reaches.
        OVERRIDE_UNREACHED "PW312"
        /// `effective` lies in the past.
        EXPIRED "PW313"
        /// A policy nobody uses, a receiver nobody reaches.
        UNUSED "PW314"
        /// A rule without owner or runbook.
        UNATTENDED "PW315"
        /// A window that ends before a report can arrive.
        SHORT_WINDOW "PW316"
        /// A severity that no step of the policy listens to.
        UNHEARD "PW317"
        /// A value that is nearly one used elsewhere.
        NEAR_MISS "PW318"
        /// A rule that no test names, where there are tests.
        UNTESTED "PW319"
        /// A mail that would load something from outside.
        LOADS_FROM_OUTSIDE "PW320"
        /// A template shows a fact that no message carries.
        NEVER_SHOWN "PW321"
    }
}

/// A file that was read, for places in it.
#[derive(Debug)]
pub struct Source {
    /// As the user names it.
    pub path: PathBuf,
    /// Without its byte-order mark; what is no UTF-8 replaced.
    pub text: String,
    /// Where lines begin.
    lines: Vec<usize>,
}

impl Source {
    /// A file's bytes.
    #[must_use]
    pub fn new(path: PathBuf, bytes: &[u8]) -> Source {
        let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
        let text = String::from_utf8_lossy(bytes).into_owned();
        let lines = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        Source { path, text, lines }
    }

    /// Line and column (in characters) of a byte, both from 1.
    #[must_use]
    pub fn line_column(&self, byte: usize) -> (usize, usize) {
        let line = self.lines.partition_point(|start| *start <= byte).max(1);
        let start = self.lines[line - 1];
        let column = self.text.get(start..byte.min(self.text.len())).map_or(1, |s| s.chars().count() + 1);
        (line, column)
    }

    /// The bytes of a line, without its end.
    fn line(&self, line: usize) -> Range<usize> {
        let start = self.lines[line - 1];
        let end = self.lines.get(line).map_or(self.text.len(), |next| next - 1);
        start..start + self.text[start..end].trim_end_matches('\r').len()
    }
}

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// The files cannot be used.
    Error,
    /// They can; something is odd.
    Lint,
}

/// A place in a file.
#[derive(Clone, Debug)]
pub struct Place {
    /// The file.
    pub source: Arc<Source>,
    /// Bytes of its text.
    pub at: Range<usize>,
    /// From 1.
    pub line: usize,
    /// In characters, from 1.
    pub column: usize,
}

impl Place {
    /// These bytes of the file.
    #[must_use]
    pub fn new(source: &Arc<Source>, at: Range<usize>) -> Place {
        let (line, column) = source.line_column(at.start);
        Place { source: Arc::clone(source), at, line, column }
    }
}

/// One problem.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Error or lint.
    pub level: Level,
    /// One of [`code`].
    pub code: &'static str,
    /// As the user names it.
    pub file: PathBuf,
    /// `None`: the file as a whole, or what is in none.
    pub place: Option<Place>,
    /// The rule it is about, where known.
    pub rule: Option<String>,
    /// What is wrong: lower-case, no full stop.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// Further places and what they have to do with it.
    pub also: Vec<(Place, String)>,
}

impl Problem {
    /// An error about a file as a whole.
    #[must_use]
    pub fn of_file(file: PathBuf, code: &'static str, message: impl Into<String>) -> Problem {
        Problem {
            level: Level::Error,
            code,
            file,
            place: None,
            rule: None,
            message: message.into(),
            help: None,
            also: Vec::new(),
        }
    }

    /// A fault of the text.
    #[must_use]
    pub fn of_fault(source: &Arc<Source>, fault: yaml::Fault) -> Problem {
        use yaml::FaultKind as F;
        let code = match fault.kind {
            F::NotText => code::NOT_TEXT,
            F::Syntax => code::SYNTAX,
            F::TooDeep => code::TOO_DEEP,
            F::Unsupported => code::UNSUPPORTED,
            F::DuplicateKey => code::DUPLICATE_KEY,
            F::SeveralDocuments => code::SEVERAL_DOCUMENTS,
            F::Empty => code::EMPTY_FILE,
        };
        let mut p = Problem::of_file(source.path.clone(), code, fault.message);
        p.place = (fault.kind != F::Empty).then(|| Place::new(source, fault.at));
        p.help = fault.help;
        p.also = fault.also.into_iter().map(|(at, why)| (Place::new(source, at), why.to_owned())).collect();
        p
    }

    /// The order in which problems are told: by file, then by place.
    #[must_use]
    pub fn order(&self) -> (&PathBuf, usize, &'static str) {
        (&self.file, self.place.as_ref().map_or(0, |p| p.at.start + 1), self.code)
    }

    /// `file:line:column`, as far as it is known.
    #[must_use]
    pub fn location(&self) -> String {
        match &self.place {
            Some(p) => format!("{}:{}:{}", self.file.display(), p.line, p.column),
            None => self.file.display().to_string(),
        }
    }

    /// The line it is in, secrets hidden; `None` where it is in none, or in one that no person wrote.
    #[must_use]
    pub fn line_text(&self) -> Option<String> {
        let place = self.place.as_ref()?;
        let line = place.source.line(place.line);
        (line.len() <= LONG).then(|| mask(&place.source.text[line]))
    }

    /// Where it ends: line and column, both from 1, the column behind its last character.
    #[must_use]
    pub fn end(&self) -> Option<(usize, usize)> {
        let place = self.place.as_ref()?;
        Some(place.source.line_column(place.at.end.max(place.at.start)))
    }

    /// The problem with its line, the place marked and the remedy below.
    #[must_use]
    pub fn render(&self, colour: bool) -> String {
        let title = match self.level {
            Level::Error => Title::ERROR,
            Level::Lint => Title::WARNING.with_name("lint"),
        };
        let message = match &self.rule {
            Some(rule) => format!("{} (rule `{rule}`)", self.message),
            None => self.message.clone(),
        };
        let message = normalize_untrusted_str(&message);
        let file = normalize_untrusted_str(&self.file.display().to_string());
        let mut parts: Vec<Element<'_>> = Vec::new();
        match &self.place {
            Some(place) => parts.extend(show(place, AnnotationKind::Primary, None)),
            None => parts.push(Origin::path(file).into()),
        }
        for (place, why) in &self.also {
            parts.extend(show(place, AnnotationKind::Context, Some(why.clone())));
        }
        if let Some(help) = &self.help {
            parts.push(Title::HELP.message(normalize_untrusted_str(help)).into());
        }
        let report = &[title.primary_title(message).id(self.code).elements(parts)];
        let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
        renderer.term_width(180).render(report)
    }
}

/// Bytes of a line that are shown at most.
const WINDOW: usize = 160;
/// A line longer than this was not written by a person, and is not shown at all.
const LONG: usize = 4_096;

/// `file:line:column` and the line with the place marked. Of a very long line only the part around the place is
/// shown, and secrets never.
fn show(place: &Place, kind: AnnotationKind, why: Option<String>) -> Vec<Element<'static>> {
    let path = normalize_untrusted_str(&place.source.path.display().to_string());
    let line = place.source.line(place.line);
    if line.len() > LONG {
        return vec![Origin::path(path).line(place.line).char_column(place.column).into()];
    }
    let start = place.at.start.clamp(line.start, line.end);
    let end = place.at.end.clamp(start, line.end);
    let text = mask(&place.source.text[line.clone()]);
    let (start, end) = (start - line.start, end - line.start);
    let (from, to) = window(&text, start);
    let shown = text[from..to].to_owned();
    let span = start - from..end.min(to) - from;
    let snippet = Snippet::source(shown).line_start(place.line).annotation(kind.span(span).label(why));
    // The library counts columns in what it shows; of a line that was cut they have to be told.
    if from == 0 {
        return vec![snippet.path(path).into()];
    }
    let origin = Origin::path(path).line(place.line).char_column(place.column);
    vec![origin.into(), snippet.into()]
}

/// The part of a line around `at`.
fn window(line: &str, at: usize) -> (usize, usize) {
    if line.len() <= WINDOW {
        return (0, line.len());
    }
    let floor = |mut i: usize| {
        while !line.is_char_boundary(i) {
            i -= 1;
        }
        i
    };
    (floor(at.saturating_sub(WINDOW / 2)), floor((at + WINDOW / 2).min(line.len())))
}

/// Keys whose values are never shown.
const SECRET_KEYS: [&str; 7] = ["secret", "password", "token", "routing_key", "api_key", "key.pem", "key"];

/// Hides what a line writes in place as a secret: each byte becomes `*`, so that columns stay.
fn mask(line: &str) -> String {
    let mut out = line.as_bytes().to_vec();
    for key in SECRET_KEYS {
        for (i, _) in line.match_indices(key) {
            // The one that others end in is a key of its own: `sort_key` is not.
            let within = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
            if key == "key" && line[..i].ends_with(within) {
                continue;
            }
            let rest = &line[i + key.len()..];
            let rest = rest.trim_start_matches(['"', '\'']);
            let Some(value) = rest.trim_start().strip_prefix(':') else { continue };
            let value = value.trim_start();
            if value.starts_with('{') {
                continue;
            }
            let from = line.len() - value.len();
            let len = match value.chars().next() {
                Some(q @ ('"' | '\'')) => value[1..].find(q).map_or(value.len(), |n| n + 2),
                _ => value.find([',', '}', '#']).unwrap_or(value.len()),
            };
            out[from..from + len].fill(b'*');
        }
    }
    // scheme://user:password@host
    for (i, _) in line.match_indices("://") {
        let rest = &line[i + 3..];
        let end = rest.find(['/', '"', '\'', ' ', ',']).unwrap_or(rest.len());
        if let Some(at) = rest[..end].rfind('@')
            && let Some(colon) = rest[..at].find(':')
        {
            out[i + 3 + colon + 1..i + 3 + at].fill(b'*');
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| "*".repeat(line.len()))
}

/// The names of a list that `word` was probably meant to be: the nearest, or several that are equally near.
#[must_use]
pub fn nearest<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    let lower = word.to_lowercase();
    if word.is_empty() || word.len() > 80 {
        return Vec::new();
    }
    let mut near: Vec<&str> = Vec::new();
    let mut least = usize::MAX;
    for name in names.into_iter().filter(|n| !n.is_empty()) {
        let distance = strsim::damerau_levenshtein(&lower, &name.to_lowercase());
        if distance > (name.len().max(word.len()) / 3).max(1) || distance > least {
            continue;
        }
        if distance < least {
            least = distance;
            near.clear();
        }
        if near.len() < 3 && !near.contains(&name) {
            near.push(name);
        }
    }
    near
}

/// Whether one word was probably meant to be the other: a letter or two of many.
#[must_use]
pub fn near_miss(word: &str, other: &str) -> bool {
    let longest = word.chars().count().max(other.chars().count());
    let allowed = match longest {
        0..=3 => 0,
        4..=7 => 1,
        8..=80 => 2,
        _ => 0,
    };
    let digits = |t: &str| t.chars().filter(char::is_ascii_digit).collect::<String>();
    word != other
        && allowed > 0
        && digits(word) == digits(other)
        && strsim::damerau_levenshtein(&word.to_lowercase(), &other.to_lowercase()) <= allowed
}

/// "did you mean `x`?"
#[must_use]
pub fn did_you_mean<'a>(word: &str, names: impl IntoIterator<Item = &'a str>) -> Option<String> {
    let near = nearest(word, names);
    let quoted: Vec<String> = near.iter().map(|n| format!("`{n}`")).collect();
    (!quoted.is_empty()).then(|| format!("did you mean {}?", quoted.join(" or ")))
}

/// "did you mean `x`?", or what there is to choose from.
#[must_use]
pub fn suggest<'a>(word: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> Option<String> {
    did_you_mean(word, names.clone()).or_else(|| {
        let all: Vec<&str> = names.into_iter().filter(|n| !n.is_empty()).collect();
        (!all.is_empty() && all.len() <= 12).then(|| format!("one of: {}", all.join(", ")))
    })
}
