//! Reading a tree into typed values: each reading either gives a value or leaves a problem behind, never both.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::duration;
use super::keys::Object;
use super::problem::{Level, Place, Problem, Source, code, suggest};
use super::ruleset::Span;
use crate::yaml::{Kind, Node, Value, cut};

/// Problems of one file beyond this number are not told: they come of one mistake.
const MAX_PROBLEMS: usize = 200;

/// Steps that questions of logic may take in one file: some 20 ms.
const EFFORT: u32 = 200_000;

/// Members of sets that one file may copy to where it names them.
pub const MAX_MEMBERS: usize = 200_000;

/// Reads one file and collects its problems.
pub struct Reader {
    source: Arc<Source>,
    /// The rule being read: problems name it.
    pub rule: Option<String>,
    /// Steps that questions of logic may still take in this file.
    pub effort: u32,
    /// Members of sets that may still be copied to where the sets are named.
    pub members: usize,
    problems: Vec<Problem>,
    /// Takes what is beyond [`MAX_PROBLEMS`].
    spill: Option<Problem>,
    /// Mappings with keys that were refused: what they lack was probably meant by those.
    refused: BTreeSet<(usize, usize)>,
}

/// The entries of a mapping that are known and have a value.
pub struct Fields<'n> {
    /// Of the mapping.
    pub at: Range<usize>,
    entries: Vec<(&'n str, &'n Node, &'n Node)>,
}

impl<'n> Fields<'n> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&'n Node> {
        self.entry(key).map(|(_, value)| value)
    }

    /// A key's node and its value.
    pub fn entry(&self, key: &str) -> Option<(&'n Node, &'n Node)> {
        self.entries.iter().find(|(name, _, _)| *name == key).map(|(_, k, v)| (*k, *v))
    }

    /// All of them, in the order of the text.
    pub fn iter(&self) -> impl Iterator<Item = (&'n str, &'n Node, &'n Node)> + '_ {
        self.entries.iter().copied()
    }
}

impl Reader {
    /// A reader of this file.
    pub fn new(source: Arc<Source>) -> Reader {
        Reader {
            source,
            rule: None,
            effort: EFFORT,
            members: MAX_MEMBERS,
            problems: Vec::new(),
            spill: None,
            refused: BTreeSet::new(),
        }
    }

    /// What was wrong.
    pub fn into_problems(mut self) -> Vec<Problem> {
        if self.spill.is_some() {
            let message = "there are more problems in this file, which are not shown";
            let mut p = Problem::of_file(self.source.path.clone(), code::TOO_MANY, message);
            p.help = Some("correct these first; most of them probably have one cause".into());
            self.problems.push(p);
        }
        self.problems
    }

    /// A place in this file.
    pub fn place(&self, at: &Range<usize>) -> Place {
        Place::new(&self.source, at.clone())
    }

    /// The file that names something: paths in it are relative to its folder.
    pub fn folder(&self) -> &std::path::Path {
        self.source.path.parent().unwrap_or(std::path::Path::new(""))
    }

    fn push(&mut self, level: Level, code: &'static str, at: &Range<usize>, message: String) -> &mut Problem {
        let mut p = Problem::of_file(self.source.path.clone(), code, message);
        p.level = level;
        p.rule = self.rule.clone();
        if self.problems.len() >= MAX_PROBLEMS {
            return self.spill.insert(p);
        }
        let place = self.place(at);
        let same = |q: &Problem| {
            q.code == p.code && q.message == p.message && q.place.as_ref().is_some_and(|o| o.at == place.at)
        };
        // An override repeats what its rule got wrong.
        if let Some(i) = self.problems.iter().position(same) {
            return &mut self.problems[i];
        }
        p.place = Some(place);
        self.problems.push(p);
        let last = self.problems.len() - 1;
        &mut self.problems[last]
    }

    /// Whether no more problems are kept: then nothing more needs to be read.
    pub fn is_full(&self) -> bool {
        self.spill.is_some()
    }

    /// Whether any problem is an error.
    pub fn has_errors(&self) -> bool {
        self.spill.is_some() || self.problems.iter().any(|p| p.level == Level::Error)
    }

    /// Leaves an error.
    pub fn error(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Level::Error, code, at, message.into()).help = Some(help.into()).filter(|h| !h.is_empty());
    }

    /// Leaves an error with a second place.
    pub fn error_also(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: impl Into<String>,
        help: &str,
        also: (Place, &str),
    ) {
        let p = self.push(Level::Error, code, at, message.into());
        p.help = Some(help.to_owned());
        p.also = vec![(also.0, also.1.to_owned())];
    }

    /// Leaves a lint.
    pub fn lint(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.push(Level::Lint, code, at, message.into()).help = Some(help.into()).filter(|h| !h.is_empty());
    }

    /// Leaves a lint with a second place.
    pub fn lint_also(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: impl Into<String>,
        help: &str,
        also: (Place, &str),
    ) {
        let p = self.push(Level::Lint, code, at, message.into());
        p.help = Some(help.to_owned());
        p.also = vec![(also.0, also.1.to_owned())];
    }

    /// "did you mean `x`?", or what there is to choose from; nothing once no more problems are kept.
    pub fn suggest<'a>(
        &self,
        word: &str,
        names: impl IntoIterator<Item = &'a str> + Clone,
    ) -> Option<String> {
        if self.is_full() { None } else { suggest(word, names) }
    }

    /// An error about a name that is not in a list of names.
    pub fn unknown<'a>(
        &mut self,
        code: &'static str,
        at: &Range<usize>,
        message: String,
        word: &str,
        names: impl IntoIterator<Item = &'a str> + Clone,
    ) {
        let help = self.suggest(word, names).unwrap_or_default();
        self.error(code, at, message, help);
    }

    /// A mapping with these keys. Unknown keys and keys without a value are errors; the known rest comes back.
    pub fn fields<'n>(&mut self, node: &'n Node, what: &str, known: &[&str]) -> Option<Fields<'n>> {
        let entries = self.map(node, what)?;
        let mut fields = Fields { at: node.at.clone(), entries: Vec::with_capacity(entries.len()) };
        for (key, value) in entries {
            let Some(name) = key.text() else { continue };
            if !known.contains(&name) {
                self.refused.insert((node.at.start, node.at.end));
                let shown = cut(name);
                let message = format!("{what} has no key `{shown}`");
                let help = if name == "<<" {
                    "merging with `<<` is not supported; write the keys out".to_owned()
                } else {
                    self.suggest(name, known.iter().copied())
                        .unwrap_or_else(|| format!("its keys are: {}", known.join(", ")))
                };
                self.error(code::UNKNOWN_KEY, &key.at, message, help);
            } else if value.is_null() {
                self.refused.insert((node.at.start, node.at.end));
                let help = "give it a value, or remove the key";
                self.error(code::WRONG_SHAPE, &key.at, format!("`{name}` has no value"), help);
            } else {
                fields.entries.push((name, key, value));
            }
        }
        Some(fields)
    }

    /// A mapping with the keys of a table.
    pub fn object<'n>(&mut self, node: &'n Node, what: &str, object: &Object) -> Option<Fields<'n>> {
        let known: Vec<&str> = object.keys.iter().map(|k| k.name).collect();
        self.fields(node, what, &known)
    }

    /// A mapping with any keys.
    pub fn map<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [(Node, Node)]> {
        match &node.kind {
            Kind::Map(entries) => Some(entries),
            Kind::Refused => None,
            Kind::Scalar { .. } | Kind::Seq(_) => {
                let message = format!("{what} has to be a mapping of keys and values, not {}", kind(node));
                self.error(
                    code::WRONG_SHAPE,
                    &node.at,
                    message,
                    "write `key: value`, one a line, or {key: value, …}",
                );
                None
            }
        }
    }

    /// A list that is not empty.
    pub fn list<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.kind {
            Kind::Seq(items) if items.is_empty() => {
                self.error(
                    code::BAD_VALUE,
                    &node.at,
                    format!("{what} is empty"),
                    "name at least one, or remove the key",
                );
                None
            }
            Kind::Seq(items) => Some(items),
            Kind::Refused => None,
            Kind::Scalar { .. } | Kind::Map(_) => {
                let message = format!("{what} has to be a list, not {}", kind(node));
                self.error(
                    code::WRONG_SHAPE,
                    &node.at,
                    message,
                    "write [a, b], or one a line, each after `- `",
                );
                None
            }
        }
    }

    /// One value, or a list of them that is not empty.
    pub fn one_or_many<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n [Node]> {
        match &node.kind {
            Kind::Scalar { .. } | Kind::Map(_) => Some(std::slice::from_ref(node)),
            Kind::Seq(_) | Kind::Refused => self.list(node, what),
        }
    }

    /// A text. A plain number or truth value is taken as it was written.
    pub fn text<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        match &node.kind {
            Kind::Refused => None,
            Kind::Scalar { .. } if node.is_null() => {
                self.error(
                    code::WRONG_SHAPE,
                    &node.at,
                    format!("{what} has no value"),
                    "give it a value, or remove the key",
                );
                None
            }
            Kind::Scalar { text, .. } if text.trim().is_empty() => {
                self.error(
                    code::BAD_VALUE,
                    &node.at,
                    format!("{what} is empty"),
                    "write a text, or remove the key",
                );
                None
            }
            Kind::Scalar { text, .. } => Some(text),
            Kind::Seq(_) | Kind::Map(_) => {
                let message = format!("{what} has to be a text, not {}", kind(node));
                self.error(
                    code::WRONG_SHAPE,
                    &node.at,
                    message,
                    "a text that begins with `[` or `{` needs quotes",
                );
                None
            }
        }
    }

    /// A text of a certain form.
    fn short_text<'n>(&mut self, node: &'n Node, what: &str, form: &str) -> Option<&'n str> {
        if matches!(node.kind, Kind::Seq(_) | Kind::Map(_)) {
            let message = format!("{what} has to be {form}, not {}", kind(node));
            self.error(code::WRONG_SHAPE, &node.at, message, "write the one value, without brackets");
            return None;
        }
        self.text(node, what)
    }

    /// Texts: one, or a list.
    pub fn texts(&mut self, node: &Node, what: &str) -> Option<Vec<String>> {
        let items = self.one_or_many(node, what)?;
        let texts: Vec<String> = items.iter().filter_map(|n| self.text(n, what).map(str::to_owned)).collect();
        (texts.len() == items.len()).then_some(texts)
    }

    /// `true` or `false`.
    pub fn flag(&mut self, node: &Node, what: &str) -> Option<bool> {
        match node.value() {
            Some(Value::Bool(b)) => return Some(b),
            None if matches!(node.kind, Kind::Refused) => return None,
            _ => {}
        }
        let lower = node.text().unwrap_or_default().to_lowercase();
        let help = match lower.as_str() {
            "yes" | "on" | "y" | "true" | "1" => "write true (without quotes); `yes` and `on` are texts here",
            "no" | "off" | "n" | "false" | "0" => {
                "write false (without quotes); `no` and `off` are texts here"
            }
            _ => "write true or false",
        };
        self.error(code::BAD_VALUE, &node.at, format!("{what} has to be true or false"), help);
        None
    }

    /// One of a list of words.
    pub fn word(&mut self, node: &Node, what: &str, words: &[&'static str]) -> Option<&'static str> {
        let text = self.text(node, what)?;
        let found = words.iter().copied().find(|w| *w == text);
        if found.is_none() {
            let message = format!("`{}` is no {what}", cut(text));
            let all = || format!("one of: {}", words.join(", "));
            let help = self.suggest(text, words.iter().copied()).unwrap_or_else(all);
            self.error(code::UNKNOWN_WORD, &node.at, message, help);
        }
        found
    }

    /// A duration, business days included.
    pub fn span(&mut self, node: &Node, what: &str) -> Option<Span> {
        let text = self.short_text(node, what, "a duration such as 48h")?;
        self.duration(node, what, duration::parse(text))
    }

    /// A duration of the plain clock, in milliseconds.
    pub fn elapsed(&mut self, node: &Node, what: &str) -> Option<i64> {
        let text = self.short_text(node, what, "a duration such as 48h")?;
        self.duration(node, what, duration::parse_elapsed(text))
    }

    fn duration<T>(&mut self, node: &Node, what: &str, read: Result<T, (String, &'static str)>) -> Option<T> {
        read.map_err(|(message, help)| {
            self.error(code::BAD_DURATION, &node.at, format!("{what}: {message}"), help);
        })
        .ok()
    }

    /// A name of ours: snake_case.
    pub fn id<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        let good = text.len() <= 100
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        if good {
            return Some(text);
        }
        let message = format!("{what} `{}` is not snake_case", cut(text));
        let snake: String = text
            .chars()
            .take(100)
            .map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '_' })
            .collect();
        let snake = snake.trim_matches('_');
        let help = if snake.starts_with(|c: char| c.is_ascii_lowercase()) && snake.len() < 100 {
            format!("small letters, digits and `_`, a letter first: `{snake}`")
        } else {
            "small letters, digits and `_`, a letter first, at most 100".to_owned()
        };
        self.error(code::BAD_ID, &node.at, message, help);
        None
    }

    /// A name of ours that is nobody's code: letters, digits, `_`, `-`, `.`.
    pub fn name<'n>(&mut self, node: &'n Node, what: &str) -> Option<&'n str> {
        let text = self.text(node, what)?;
        let good = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
        if text.len() <= 100 && text.bytes().all(good) {
            return Some(text);
        }
        let message = format!("{what} `{}` is no name", cut(text));
        self.error(code::BAD_ID, &node.at, message, "letters, digits, `_`, `-` and `.`, at most 100");
        None
    }

    /// A key that must be there.
    pub fn missing(&mut self, at: &Range<usize>, what: &str, key: &str, help: &str) {
        self.lacks(at, format!("{what} has no `{key}`"), help);
    }

    /// Something that must be there. Says nothing of a mapping that had keys refused: one of those was meant.
    pub fn lacks(&mut self, at: &Range<usize>, message: String, help: &str) {
        if !self.has_refused(at) {
            self.error(code::MISSING_KEY, at, message, help);
        }
    }

    /// Whether keys of the mapping that stands here were refused.
    pub fn has_refused(&self, at: &Range<usize>) -> bool {
        self.refused.contains(&(at.start, at.end))
    }
}

/// What a node is, in words.
pub fn kind(node: &Node) -> &'static str {
    match (&node.kind, node.value()) {
        (Kind::Seq(_), _) => "a list",
        (Kind::Map(_), _) => "a mapping",
        (_, Some(Value::Null)) => "nothing",
        (_, Some(Value::Bool(_))) => "a truth value",
        (_, Some(Value::Number(_) | Value::NoNumber)) => "a number",
        _ => "a text",
    }
}
