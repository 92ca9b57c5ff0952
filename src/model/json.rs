//! A JSON reader that borrows: one pass over valid UTF-8, no recursion, no allocation but for escaped strings.
//!
//! It accepts what `serde_json` accepts (a differential test holds that), and is a third of its cost on a milestone,
//! because values that nobody reads are skipped, not built.

use std::borrow::Cow;

/// Not JSON; where does not matter to anyone, the record is kept with its first bytes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct NotJson;

/// A value, located.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token<'a> {
    /// A text as it stands between its quotes, and whether it holds escapes.
    Text(&'a str, bool),
    /// A number as it was written.
    Number(&'a str),
    /// `true` or `false`.
    Bool(bool),
    /// `null`.
    Null,
    /// A list as it was written, brackets included.
    List(&'a str),
    /// An object as it was written, braces included.
    Object(&'a str),
}

impl<'a> Token<'a> {
    /// The text, unescaped; `None` for another type.
    pub fn text(self) -> Option<Cow<'a, str>> {
        match self {
            Token::Text(raw, false) => Some(Cow::Borrowed(raw)),
            Token::Text(raw, true) => Some(Cow::Owned(unescape(raw))),
            _ => None,
        }
    }
}

/// Reads one text from front to back.
pub struct Reader<'a> {
    text: &'a str,
    bytes: &'a [u8],
    at: usize,
    /// The deepest nesting read so far, counted from where reading began.
    pub deepest: usize,
    /// Objects entered by [`Reader::enter_object`].
    depth: usize,
}

impl<'a> Reader<'a> {
    /// Starts at the front.
    pub fn new(text: &'a str) -> Reader<'a> {
        Reader { text, bytes: text.as_bytes(), at: 0, deepest: 0, depth: 0 }
    }

    #[inline]
    fn space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.bytes.get(self.at) {
            self.at += 1;
        }
    }

    #[inline]
    fn take(&mut self, b: u8) -> bool {
        let found = self.bytes.get(self.at) == Some(&b);
        self.at += usize::from(found);
        found
    }

    /// Whether nothing but white space is left.
    pub fn at_end(&mut self) -> bool {
        self.space();
        self.at == self.bytes.len()
    }

    /// Enters an object or a list: `true` where the next byte is `open`.
    pub fn enter(&mut self, open: u8) -> bool {
        self.space();
        self.take(open)
    }

    /// Enters the object that the next value is: where it starts. `None` where it is something else.
    #[inline]
    pub fn enter_object(&mut self) -> Option<usize> {
        self.space();
        let start = self.at;
        if !self.take(b'{') {
            return None;
        }
        self.depth += 1;
        self.deepest = self.deepest.max(self.depth);
        Some(start)
    }

    /// Leaves an object entered, whose last key was read: its text from `start` on.
    #[inline]
    pub fn leave_object(&mut self, start: usize) -> &'a str {
        self.depth -= 1;
        &self.text[start..self.at]
    }

    /// The next key of an object entered, `None` at its end. `first` says whether no key was read yet.
    #[inline]
    pub fn key(&mut self, first: bool) -> Result<Option<Token<'a>>, NotJson> {
        self.space();
        if self.take(b'}') {
            return Ok(None);
        }
        if !first {
            if !self.take(b',') {
                return Err(NotJson);
            }
            self.space();
        }
        if !self.take(b'"') {
            return Err(NotJson);
        }
        let key = self.string()?;
        self.space();
        if self.take(b':') { Ok(Some(key)) } else { Err(NotJson) }
    }

    /// Whether a list entered has another element.
    pub fn more(&mut self, first: bool) -> Result<bool, NotJson> {
        self.space();
        if self.take(b']') {
            return Ok(false);
        }
        if first || self.take(b',') { Ok(true) } else { Err(NotJson) }
    }

    /// The next value, whole.
    #[inline]
    pub fn value(&mut self) -> Result<Token<'a>, NotJson> {
        self.space();
        let start = self.at;
        match self.bytes.get(self.at) {
            Some(b'"') => {
                self.at += 1;
                self.string()
            }
            Some(b'{') => {
                self.skip_nested()?;
                Ok(Token::Object(&self.text[start..self.at]))
            }
            Some(b'[') => {
                self.skip_nested()?;
                Ok(Token::List(&self.text[start..self.at]))
            }
            Some(_) => self.scalar(),
            None => Err(NotJson),
        }
    }

    fn scalar(&mut self) -> Result<Token<'a>, NotJson> {
        let rest = &self.bytes[self.at..];
        for (word, token) in [
            (&b"true"[..], Token::Bool(true)),
            (&b"false"[..], Token::Bool(false)),
            (&b"null"[..], Token::Null),
        ] {
            if rest.starts_with(word) {
                self.at += word.len();
                return Ok(token);
            }
        }
        self.number()
    }

    fn digits(&mut self) -> usize {
        let start = self.at;
        while self.bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        self.at - start
    }

    fn number(&mut self) -> Result<Token<'a>, NotJson> {
        let start = self.at;
        self.take(b'-');
        let zero = self.bytes.get(self.at) == Some(&b'0');
        let n = self.digits();
        if n == 0 || (zero && n > 1) {
            return Err(NotJson);
        }
        if self.take(b'.') && self.digits() == 0 {
            return Err(NotJson);
        }
        if self.take(b'e') || self.take(b'E') {
            if !self.take(b'+') {
                self.take(b'-');
            }
            if self.digits() == 0 {
                return Err(NotJson);
            }
        }
        Ok(Token::Number(&self.text[start..self.at]))
    }

    /// The rest of a string whose opening quote was taken.
    #[inline]
    fn string(&mut self) -> Result<Token<'a>, NotJson> {
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at = plain_to(self.bytes, self.at);
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    let token = Token::Text(&self.text[start..self.at], escaped);
                    self.at += 1;
                    return Ok(token);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(NotJson),
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        self.at += 2;
        match self.bytes.get(self.at - 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(()),
            Some(b'u') => {
                let unit = self.hex()?;
                match unit {
                    0xD800..=0xDBFF => {
                        if self.take(b'\\') && self.take(b'u') && matches!(self.hex()?, 0xDC00..=0xDFFF) {
                            Ok(())
                        } else {
                            Err(NotJson)
                        }
                    }
                    0xDC00..=0xDFFF => Err(NotJson),
                    _ => Ok(()),
                }
            }
            _ => Err(NotJson),
        }
    }

    fn hex(&mut self) -> Result<u32, NotJson> {
        let digits = self.bytes.get(self.at..self.at + 4).ok_or(NotJson)?;
        self.at += 4;
        digits.iter().try_fold(0, |n, b| char::from(*b).to_digit(16).map(|d| n * 16 + d)).ok_or(NotJson)
    }

    /// Skips the list or object at the current byte, checking it; without recursion, so that no depth hurts.
    fn skip_nested(&mut self) -> Result<(), NotJson> {
        let mut open = Nesting::default();
        loop {
            // A value starts here.
            self.space();
            match self.bytes.get(self.at) {
                Some(b'{') => {
                    self.at += 1;
                    self.deepest = self.deepest.max(self.depth + open.push(true));
                    self.space();
                    if !self.take(b'}') {
                        self.member_key()?;
                        continue;
                    }
                    open.pop();
                }
                Some(b'[') => {
                    self.at += 1;
                    self.deepest = self.deepest.max(self.depth + open.push(false));
                    self.space();
                    if !self.take(b']') {
                        continue;
                    }
                    open.pop();
                }
                Some(b'"') => {
                    self.at += 1;
                    self.string()?;
                }
                Some(_) => {
                    self.scalar()?;
                }
                None => return Err(NotJson),
            }
            // A value ended here.
            loop {
                let Some(object) = open.innermost() else { return Ok(()) };
                self.space();
                if self.take(b',') {
                    if object {
                        self.space();
                        self.member_key()?;
                    }
                    break;
                }
                if !self.take(if object { b'}' } else { b']' }) {
                    return Err(NotJson);
                }
                open.pop();
            }
        }
    }

    fn member_key(&mut self) -> Result<(), NotJson> {
        if !self.take(b'"') {
            return Err(NotJson);
        }
        self.string()?;
        self.space();
        if self.take(b':') { Ok(()) } else { Err(NotJson) }
    }
}

/// Calls `f` with each member of an object that was checked before.
pub fn each_member<'a>(raw: &'a str, mut f: impl FnMut(&str, Token<'a>)) {
    let mut r = Reader::new(raw);
    if !r.enter(b'{') {
        return;
    }
    let mut first = true;
    while let Ok(Some(key)) = r.key(first) {
        first = false;
        let Ok(value) = r.value() else { return };
        if let Some(key) = key.text() {
            f(&key, value);
        }
    }
}

/// Calls `f` with each element of a list that was checked before.
pub fn each_element<'a>(raw: &'a str, mut f: impl FnMut(Token<'a>)) {
    let mut r = Reader::new(raw);
    if !r.enter(b'[') {
        return;
    }
    let mut first = true;
    while let Ok(true) = r.more(first) {
        first = false;
        let Ok(value) = r.value() else { return };
        f(value);
    }
}

/// The kinds of the containers that are open: 64 in a word, deeper ones in a vector.
#[derive(Default)]
struct Nesting {
    depth: usize,
    word: u64,
    deeper: Vec<u64>,
}

impl Nesting {
    fn push(&mut self, object: bool) -> usize {
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.deeper.push(self.word);
            self.word = 0;
        }
        let bit = 1 << (self.depth % 64);
        self.word = if object { self.word | bit } else { self.word & !bit };
        self.depth += 1;
        self.depth
    }

    fn pop(&mut self) {
        self.depth -= 1;
        if self.depth > 0 && self.depth.is_multiple_of(64) {
            self.word = self.deeper.pop().unwrap_or(0);
        }
    }

    fn innermost(&self) -> Option<bool> {
        (self.depth > 0).then(|| self.word & (1 << ((self.depth - 1) % 64)) != 0)
    }
}

/// Where from `at` on the first byte is a quote, a backslash or a control character: eight bytes at a time.
#[inline]
fn plain_to(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    while let Some(chunk) = bytes.get(at..at + 8) {
        let word = u64::from_le_bytes(chunk.try_into().unwrap_or_default());
        let quote = word ^ (ONES * b'"' as u64);
        let slash = word ^ (ONES * b'\\' as u64);
        let found = ((quote.wrapping_sub(ONES) & !quote)
            | (slash.wrapping_sub(ONES) & !slash)
            | (word.wrapping_sub(ONES * 0x20) & !word))
            & HIGH;
        if found != 0 {
            return at + (found.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while let Some(b) = bytes.get(at) {
        if *b == b'"' || *b == b'\\' || *b < 0x20 {
            break;
        }
        at += 1;
    }
    at
}

/// A checked string without its escapes.
#[must_use]
pub fn unescape(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    let mut chars = raw.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some('b') => out.push('\u{8}'),
            Some('f') => out.push('\u{c}'),
            Some('n') => out.push('\n'),
            Some('r') => out.push('\r'),
            Some('t') => out.push('\t'),
            Some('u') => {
                let mut unit =
                    || (0..4).fold(0, |n, _| n * 16 + chars.next().and_then(|c| c.to_digit(16)).unwrap_or(0));
                let first = unit();
                let code = if (0xD800..0xDC00).contains(&first) {
                    chars.nth(1); // the backslash and the u of the second half
                    let mut unit = || {
                        (0..4).fold(0, |n, _| n * 16 + chars.next().and_then(|c| c.to_digit(16)).unwrap_or(0))
                    };
                    0x10000 + ((first - 0xD800) << 10) + unit().wrapping_sub(0xDC00)
                } else {
                    first
                };
                out.push(char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            Some(other) => out.push(other),
            None => {}
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepts(text: &str) -> bool {
        let mut r = Reader::new(text);
        r.value().is_ok() && r.at_end()
    }

    #[test]
    fn agrees_with_serde_json_on_mutated_texts() {
        let seeds = [
            r#"{"a":[1,2.5e-3,{"b":"x\u00e9\n\ud83d\ude00"},null,true],"c":{},"d":[],"e":"é"}"#,
            r#"[[],[[]],{"x":{"y":[{}]}},-0,0.1,1E+2,"\\\"\/"]"#,
            r#" {"parcel_id" : "P-1", "n":[ 1 , 2 ] } "#,
        ];
        let mut state = 0x9E37_79B9_7F4A_7C15u64;
        let mut next = move || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        let alphabet: Vec<char> = r#"{}[]",:\u0e1Ed83 tfn-+.é"#.chars().collect();
        let mut accepted = 0;
        for round in 0..60_000 {
            let mut text: Vec<char> = seeds[round % seeds.len()].chars().collect();
            for _ in 0..next() % 3 {
                let i = usize::try_from(next()).unwrap() % text.len();
                let c = alphabet[usize::try_from(next()).unwrap() % alphabet.len()];
                match next() % 3 {
                    0 => text[i] = c,
                    1 => text.insert(i, c),
                    _ => drop(text.remove(i)),
                }
            }
            let text: String = text.into_iter().collect();
            let theirs = serde_json::from_str::<Box<serde_json::value::RawValue>>(&text);
            // RawValue skips strings without looking at surrogates; a full decode does look.
            let theirs = theirs.is_ok() && serde_json::from_str::<serde_json::Value>(&text).is_ok();
            assert_eq!(accepts(&text), theirs, "{text}");
            accepted += usize::from(theirs);
        }
        assert!(accepted > 10_000, "{accepted}");
    }

    #[test]
    fn unescapes_like_serde_json() {
        for raw in [r"a\nb", r"\u00e9\ud83d\ude00x", r#"\"\\\/\b\f\r\t"#, "plain é"] {
            let theirs: String = serde_json::from_str(&format!("\"{raw}\"")).unwrap();
            assert_eq!(unescape(raw), theirs);
        }
    }

    #[test]
    fn any_depth_is_read_without_recursion() {
        for depth in [1, 63, 64, 65, 128, 129, 100_000] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            let mut r = Reader::new(&text);
            assert!(r.value().is_ok() && r.at_end());
            assert_eq!(r.deepest, depth);
            assert!(!accepts(&text[1..]));
        }
    }
}
