//! YAML text → our own tree with byte ranges, and every fault of the text in words a rule's author understands.
//!
//! The parser underneath gives events; nothing here recurses on input, accepts more than [`MAX_BYTES`] and [`MAX_DEPTH`]
//! or lets aliases copy more than [`MAX_COPIED`], so a hostile file costs no more than an honest one. Syntax ends a file at its first
//! fault (what follows has no structure); everything else is collected.

mod anchors;
mod explain;

use std::collections::BTreeMap;
use std::ops::Range;

use granit_parser::{Event, Options, Parser, ScalarStyle};

use crate::model::Decimal;
pub use anchors::MAX_COPIED;
use anchors::{Anchors, Copied};
use explain::{explain, too_deep};

/// Files above this many bytes are refused unread.
pub const MAX_BYTES: u64 = 1 << 20;
/// Lists and mappings within each other.
pub const MAX_DEPTH: usize = 32;

/// A value and where it stands: bytes of the text.
#[derive(Clone, Debug)]
pub struct Node {
    /// Bytes of the text, without the comment behind it.
    pub at: Range<usize>,
    /// What stands there.
    pub kind: Kind,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// One value; `plain`: written without quotes.
    Scalar {
        /// Its text, unescaped.
        text: String,
        /// Only plain ones can be numbers, truth values or nothing.
        plain: bool,
    },
    /// A list.
    Seq(Vec<Node>),
    /// A mapping in the order of the text; each key is a scalar and stands once.
    Map(Vec<(Node, Node)>),
    /// A fault has been reported for it already: whoever reads it says nothing more.
    Refused,
}

/// What a scalar means by YAML 1.2's core schema: `no`, `on` and `12:30` are texts.
#[derive(Clone, Debug, PartialEq)]
pub enum Value<'a> {
    /// Nothing, `~` or `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number.
    Number(Decimal),
    /// A number that no rule can count with: `.inf`, `.nan`, or one of too many digits.
    NoNumber,
    /// Anything else.
    Text(&'a str),
}

/// What is wrong with a text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FaultKind {
    NotText,
    Syntax,
    TooDeep,
    Unsupported,
    DuplicateKey,
    SeveralDocuments,
    Empty,
}

/// One fault.
#[derive(Clone, Debug)]
pub struct Fault {
    /// Its class.
    pub kind: FaultKind,
    /// Where.
    pub at: Range<usize>,
    /// What, in a sentence.
    pub message: String,
    /// What to do.
    pub help: Option<String>,
    /// A second place, and what it has to do with it.
    pub also: Option<(Range<usize>, &'static str)>,
}

impl Fault {
    fn new(kind: FaultKind, at: Range<usize>, message: impl Into<String>, help: impl Into<String>) -> Fault {
        Fault { kind, at, message: message.into(), help: Some(help.into()), also: None }
    }
}

impl Node {
    /// What it means, if it is a scalar.
    #[must_use]
    pub fn value(&self) -> Option<Value<'_>> {
        match &self.kind {
            Kind::Scalar { text, plain: true } => Some(core_schema(text)),
            Kind::Scalar { text, plain: false } => Some(Value::Text(text)),
            Kind::Seq(_) | Kind::Map(_) | Kind::Refused => None,
        }
    }

    /// Its text as it was written, if it is a scalar.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar { text, .. } => Some(text),
            Kind::Seq(_) | Kind::Map(_) | Kind::Refused => None,
        }
    }

    /// Nothing, `~` or `null`.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.value() == Some(Value::Null)
    }

    /// The value of this key of a mapping.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => entries.iter().find(|(k, _)| k.text() == Some(key)).map(|(_, v)| v),
            Kind::Scalar { .. } | Kind::Seq(_) | Kind::Refused => None,
        }
    }
}

fn core_schema(text: &str) -> Value<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return Value::NoNumber;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return i64::from_str_radix(digits, radix)
                .map_or(Value::NoNumber, |n| Value::Number(Decimal::whole(n)));
        }
    }
    if !is_number(unsigned) {
        return Value::Text(text);
    }
    // `.5` and `5.` are numbers of the core schema, but none for `Decimal`.
    let mut plain = String::with_capacity(text.len() + 1);
    plain.push_str(if text.starts_with('-') { "-" } else { "" });
    plain.push_str(if unsigned.starts_with('.') { "0" } else { "" });
    plain.push_str(unsigned);
    if let Some(dot) = plain.find('.')
        && !plain[dot + 1..].starts_with(|c: char| c.is_ascii_digit())
    {
        plain.remove(dot);
    }
    Decimal::parse(&plain).map_or(Value::NoNumber, Value::Number)
}

/// `(\.[0-9]+ | [0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?`
fn is_number(unsigned: &str) -> bool {
    let (mantissa, exponent) = match unsigned.find(['e', 'E']) {
        Some(i) => (&unsigned[..i], Some(&unsigned[i + 1..])),
        None => (unsigned, None),
    };
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let good = digits(whole) && digits(fraction) && !(whole.is_empty() && fraction.is_empty());
    good && exponent.is_none_or(|e| {
        let e = e.strip_prefix(['-', '+']).unwrap_or(e);
        !e.is_empty() && digits(e)
    })
}

/// Checks that bytes are a text: UTF-8 without NUL. A byte-order mark at its start is dropped.
///
/// # Errors
/// The first byte that is none.
pub fn decode(bytes: &[u8]) -> Result<&str, Fault> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    if bytes.starts_with(b"\xFF\xFE") || bytes.starts_with(b"\xFE\xFF") {
        return Err(Fault::new(
            FaultKind::NotText,
            0..0,
            "the file is UTF-16, not UTF-8",
            "save it as UTF-8 (in Windows' Notepad: Save as, Encoding: UTF-8)",
        ));
    }
    match std::str::from_utf8(bytes) {
        Ok(text) => match text.find('\0') {
            Some(i) => Err(Fault::new(
                FaultKind::NotText,
                i..i,
                "the file holds a NUL byte",
                "it is no text file, or was damaged; write it anew as plain UTF-8 text",
            )),
            None => Ok(text),
        },
        Err(e) => {
            let i = e.valid_up_to();
            Err(Fault::new(
                FaultKind::NotText,
                i..i,
                format!("the byte 0x{:02X} here is not UTF-8", bytes[i]),
                "save the file as UTF-8; letters like ñ or é were probably written in another encoding",
            ))
        }
    }
}

/// A list or mapping whose end has not been read yet.
struct Open {
    start: usize,
    /// Its number, where it has an anchor; else 0.
    anchor: usize,
    /// Of a mapping: its entries so far, and the key whose value is awaited.
    map: Option<(Vec<(Node, Node)>, Option<Node>)>,
    seq: Vec<Node>,
    /// Keys seen, and where; only of a mapping too long to look through.
    keys: BTreeMap<String, Range<usize>>,
}

struct Builder<'t> {
    text: &'t str,
    faults: Vec<Fault>,
    stack: Vec<Open>,
    root: Option<Node>,
    anchors: Anchors,
}

/// Up to so many entries a mapping is looked through for a key that stands twice; beyond, it has an index.
const LONG: usize = 32;
/// Faults of one file beyond this number are not told: they come of one mistake.
const MAX_FAULTS: usize = 100;

/// Reads one document. A tree comes back unless the syntax is broken; then the last fault says where.
#[must_use]
pub fn parse(text: &str) -> (Option<Node>, Vec<Fault>) {
    let mut options = Options::default();
    options.set_emit_comments(false);
    options.emit_unresolved_aliases = true;
    options.flow_nesting_limit = MAX_DEPTH;
    options.block_nesting_limit = MAX_DEPTH;
    let mut b =
        Builder { text, faults: Vec::new(), stack: Vec::new(), root: None, anchors: Anchors::default() };
    let mut documents = 0;
    for event in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match event {
            Ok(e) => e,
            Err(e) => {
                let at = e.marker().byte_offset().unwrap_or(0).min(text.len());
                b.faults.push(explain(e.kind(), text, at));
                return (None, b.faults);
            }
        };
        let at = span.byte_range().unwrap_or(0..0);
        if let Event::DocumentStart(..) = event {
            documents += 1;
            if documents > 1 {
                b.fault(Fault::new(
                    FaultKind::SeveralDocuments,
                    at,
                    "a second document begins here; a file holds one",
                    "remove the line `---`, or move what follows into a file of its own",
                ));
                break;
            }
        }
        if !b.take(event, at) {
            return (None, b.faults);
        }
    }
    if b.root.as_ref().is_none_or(Node::is_null) && b.faults.is_empty() {
        b.fault(Fault::new(
            FaultKind::Empty,
            0..0,
            "the file is empty",
            "write something into it, or remove it",
        ));
    }
    (b.root, b.faults)
}

impl Builder<'_> {
    fn fault(&mut self, fault: Fault) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(fault);
        }
    }

    /// Takes one event; `false` ends the reading.
    fn take(&mut self, event: Event<'_>, at: Range<usize>) -> bool {
        match event {
            Event::Alias(anchor) => {
                let Some(kind) = self.alias(anchor, &at) else { return false };
                self.put(Node { at, kind });
            }
            Event::UnresolvedAlias(_) => {
                let shown = cut(self.text.get(at.clone()).unwrap_or("*"));
                self.fault(Fault::new(
                    FaultKind::Unsupported,
                    at.clone(),
                    format!(
                        "`{shown}` is an alias, and no anchor above it is named `&{}`",
                        &shown[1.min(shown.len())..]
                    ),
                    "if the text itself begins with `*`, put it in quotes; else write the value out",
                ));
                self.put(Node { at, kind: Kind::Refused });
            }
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain;
                let good = self.no_tag(tag.is_some(), &at);
                let kind = if good { Kind::Scalar { text: text.into_owned(), plain } } else { Kind::Refused };
                let node = Node { at, kind };
                self.anchors.define(anchor, &node);
                self.put(node);
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), &at);
                return self.open(at, anchor, false);
            }
            Event::MappingStart(_, anchor, tag) => {
                self.no_tag(tag.is_some(), &at);
                return self.open(at, anchor, true);
            }
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(open) = self.stack.pop() {
                    let (map, seq) = (open.map, open.seq);
                    let last = match &map {
                        Some((entries, _)) => entries.last().map(|(k, v)| v.at.end.max(k.at.end)),
                        None => seq.last().map(|n| n.at.end),
                    };
                    // A block ends where the next token begins: its last value is what one sees.
                    let end = if at.is_empty() { last.unwrap_or(at.end) } else { at.end };
                    let kind = map.map_or(Kind::Seq(seq), |(entries, _)| Kind::Map(entries));
                    let node = Node { at: open.start..end.max(open.start), kind };
                    self.anchors.define(open.anchor, &node);
                    self.put(node);
                }
            }
            _ => {}
        }
        true
    }

    /// What an alias stands for. `None` ends the reading: the file would grow too large or too deep.
    fn alias(&mut self, anchor: usize, at: &Range<usize>) -> Option<Kind> {
        let shown = cut(self.text.get(at.clone()).unwrap_or("*"));
        match self.anchors.copy(anchor, MAX_DEPTH - self.stack.len()) {
            Copied::Here(kind) => Some(kind),
            Copied::WithinItself => {
                let message = format!("the alias `{shown}` stands within what it names");
                let help = "a value cannot hold itself; write it out";
                self.fault(Fault::new(FaultKind::Unsupported, at.clone(), message, help));
                Some(Kind::Refused)
            }
            Copied::TooLarge => {
                let message = format!("up to `{shown}` aliases copy more than {} MiB", MAX_COPIED >> 20);
                let help = "write values out, or name lists in `sets:`, which cost nothing to repeat";
                self.faults.push(Fault::new(FaultKind::Unsupported, at.clone(), message, help));
                None
            }
            Copied::TooDeep => {
                self.faults.push(too_deep(at.start));
                None
            }
        }
    }

    /// Refuses a tag.
    fn no_tag(&mut self, tag: bool, at: &Range<usize>) -> bool {
        if tag {
            self.fault(Fault::new(
                FaultKind::Unsupported,
                at.clone(),
                "a tag (`!name`) is not supported here",
                "remove it; if the text itself begins with `!`, put it in quotes",
            ));
        }
        !tag
    }

    fn open(&mut self, at: Range<usize>, anchor: usize, map: bool) -> bool {
        if self.stack.len() >= MAX_DEPTH {
            self.faults.push(too_deep(at.start));
            return false;
        }
        let map = map.then(|| (Vec::new(), None));
        self.stack.push(Open { start: at.start, anchor, map, seq: Vec::new(), keys: BTreeMap::new() });
        true
    }

    fn put(&mut self, node: Node) {
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return;
        };
        let Some((entries, key)) = &mut open.map else {
            open.seq.push(node);
            return;
        };
        match key.take() {
            None => *key = Some(node),
            Some(k) => {
                let Some(name) = k.text().filter(|_| !k.is_null()) else {
                    let at = k.at.clone();
                    self.fault(Fault::new(
                        FaultKind::Syntax,
                        at,
                        "a key has to be a name",
                        "write `name: value`; a list or mapping cannot be a key",
                    ));
                    return;
                };
                if entries.len() == LONG {
                    let known =
                        entries.iter().filter_map(|(k, _)| Some((k.text()?.to_owned(), k.at.clone())));
                    open.keys = known.collect();
                }
                let first = if entries.len() < LONG {
                    entries.iter().find(|(k, _)| k.text() == Some(name)).map(|(k, _)| k.at.clone())
                } else {
                    open.keys.get(name).cloned()
                };
                if let Some(first) = first {
                    let also = Some((first, "first here"));
                    let message = format!("the key `{}` stands here twice", cut(name));
                    let help = Some("keep one of the two".to_owned());
                    let at = k.at.clone();
                    self.fault(Fault { kind: FaultKind::DuplicateKey, at, message, help, also });
                    return;
                }
                if entries.len() >= LONG {
                    open.keys.insert(name.to_owned(), k.at.clone());
                }
                entries.push((k, node));
            }
        }
    }
}

/// The JSON that an editor would make of it; a value refused is nothing.
#[must_use]
pub fn to_json(node: &Node) -> serde_json::Value {
    use serde_json::Value as Json;
    match &node.kind {
        Kind::Seq(items) => items.iter().map(to_json).collect(),
        Kind::Map(entries) => {
            entries.iter().map(|(k, v)| (k.text().unwrap_or_default().to_owned(), to_json(v))).collect()
        }
        Kind::Refused => Json::Null,
        Kind::Scalar { .. } => match node.value() {
            Some(Value::Bool(b)) => Json::Bool(b),
            Some(Value::Number(n)) => n.to_string().parse().map_or(Json::Null, Json::Number),
            Some(Value::Text(text)) => Json::from(text),
            Some(Value::NoNumber) => Json::from(node.text().unwrap_or_default()),
            Some(Value::Null) | None => Json::Null,
        },
    }
}

/// A text short enough for a message, its control characters escaped.
#[must_use]
pub fn cut(text: &str) -> String {
    let mut out = String::new();
    for (n, c) in text.chars().enumerate() {
        if n == 60 {
            out.push('…');
            break;
        }
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn plain(text: &str, expected: Value<'_>) {
        assert_eq!(core_schema(text), expected, "{text}");
    }

    fn number(text: &str) -> Value<'static> {
        Value::Number(Decimal::parse(text).unwrap())
    }

    #[test]
    fn plain_scalars_are_those_of_the_core_schema() {
        for text in ["", "~", "null", "Null", "NULL"] {
            plain(text, Value::Null);
        }
        for (text, yes) in [("true", true), ("TRUE", true), ("False", false)] {
            plain(text, Value::Bool(yes));
        }
        for text in [
            "no",
            "yes",
            "on",
            "off",
            "NO",
            "12:30",
            "2026-10-01",
            "1_000",
            "=",
            ".",
            "-",
            "+",
            "1e",
            "e5",
            "0xG",
            "0o8",
            "1.2.3",
            "nan",
            "1d",
        ] {
            plain(text, Value::Text(text));
        }
        for (text, same) in [
            ("0", "0"),
            ("-3", "-3"),
            ("+3", "3"),
            ("0123", "123"),
            ("3.0", "3"),
            (".5", "0.5"),
            ("-.5", "-0.5"),
            ("5.", "5"),
            ("5.e2", "500"),
            ("1e3", "1000"),
            ("0x1F", "31"),
            ("0o17", "15"),
        ] {
            plain(text, number(same));
        }
        for text in [".inf", "-.inf", ".nan", "1e999", "0xFFFFFFFFFFFFFFFFFF"] {
            plain(text, Value::NoNumber);
        }
    }

    #[test]
    fn quotes_make_texts() {
        let (node, faults) = parse("a: 'true'\nb: \"12\"\nc: ''\nd: true\n");
        let node = node.unwrap();
        assert!(faults.is_empty());
        for (key, value) in [
            ("a", Value::Text("true")),
            ("b", Value::Text("12")),
            ("c", Value::Text("")),
            ("d", Value::Bool(true)),
        ] {
            assert_eq!(node.get(key).and_then(Node::value), Some(value), "{key}");
        }
    }

    #[test]
    fn nodes_know_where_they_stand() {
        let text = "rules:\n  - id: é  # comment\n    list: [1, 'two']\n    map:\n      x: y\n\n  - 2\n";
        let (node, _) = parse(text);
        let node = node.unwrap();
        let Some(Kind::Seq(rules)) = node.get("rules").map(|n| n.kind.clone()) else { panic!("{node:?}") };
        let shown = |n: &Node| text[n.at.clone()].to_owned();
        assert_eq!(shown(rules[0].get("id").unwrap()), "é");
        assert_eq!(shown(rules[0].get("list").unwrap()), "[1, 'two']");
        assert_eq!(shown(rules[0].get("map").unwrap()), "x: y");
        assert_eq!(shown(&rules[0]), "id: é  # comment\n    list: [1, 'two']\n    map:\n      x: y");
        assert_eq!(shown(&rules[1]), "2");
    }

    #[test]
    fn a_key_is_named_once_however_long_the_mapping() {
        for n in [2, LONG - 1, LONG, LONG + 1, 3 * LONG] {
            let text: String = (0..n).chain([n / 2]).map(|i| format!("k{i}: {i}\n")).collect();
            let (node, faults) = parse(&text);
            assert_eq!(faults.len(), 1, "{n}");
            assert_eq!(faults[0].kind, FaultKind::DuplicateKey);
            let Some(Kind::Map(entries)) = node.map(|n| n.kind) else { panic!("{n}") };
            assert_eq!(entries.len(), n);
        }
    }
}
