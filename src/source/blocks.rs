//! Files in large blocks, for who reads millions of lines: whole lines, each with its append time and a hash of its parcel.
//!
//! [`scan`] reads those two without decoding the line, and agrees with [`decode`] on every line that decodes: only lines in
//! which the wanted keys cannot be mistaken go the short way, all others are decoded.

use std::fs::File;
use std::io::{self, BufRead, Read};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use memchr::memmem::Finder;
use memchr::{memchr, memchr_iter, memchr2_iter, memrchr};

use super::decode::{FactNames, decode};
use super::files::{FileError, decompressed};
use super::{Batch, MAX_RECORD, Stamp};
use crate::model::Time;

/// Bytes of a block, but for lines that are longer.
pub const BLOCK: usize = 1 << 20;

/// One line of a [`Block`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line {
    /// Its append time; [`Time::MIN`] where none can be read: it moves nothing and folds nothing.
    pub append: Time,
    /// Of the parcel's id: lines of one parcel have one.
    pub hash: u32,
    /// The append time is a broker's, or a producer's: it holds whatever the line says.
    pub stamped: bool,
    start: u32,
    len: u32,
}

/// Lines in one piece of memory.
#[derive(Debug, Default)]
pub struct Block {
    bytes: Vec<u8>,
    lines: Vec<Line>,
    /// Where its memory goes when it is done with.
    pool: Option<Arc<Pool>>,
}

impl Drop for Block {
    fn drop(&mut self) {
        if let Some(pool) = &self.pool {
            pool.give(std::mem::take(&mut self.bytes));
        }
    }
}

/// Memory of blocks that are done with: fresh memory of this size costs more than reading into it does.
#[derive(Debug, Default)]
struct Pool(Mutex<Vec<Vec<u8>>>);

impl Pool {
    /// Buffers kept at most.
    const MOST: usize = 32;

    fn take(&self) -> Vec<u8> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop();
        kept.unwrap_or_else(|| vec![0; BLOCK])
    }

    fn give(&self, bytes: Vec<u8>) {
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() < Pool::MOST && bytes.len() == BLOCK {
            kept.push(bytes);
        }
    }
}

impl Block {
    /// The lines, in order.
    #[must_use]
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The bytes of one of them, without its end.
    #[must_use]
    pub fn text(&self, line: &Line) -> &[u8] {
        &self.bytes[line.start as usize..][..line.len as usize]
    }

    /// What it takes in memory.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len() + self.lines.len() * size_of::<Line>()
    }

    /// Adds a line; of `like` only its time, hash and stamp count.
    pub fn push(&mut self, like: Line, text: &[u8]) {
        let (start, len) = (self.bytes.len() as u32, text.len() as u32);
        self.bytes.extend_from_slice(text);
        self.lines.push(Line { start, len, ..like });
    }

    /// A source's batch. A stamp is the append time; a record without one says its own.
    #[must_use]
    pub fn of_batch(batch: &Batch, scanner: &Scanner) -> Block {
        let mut block = Block::default();
        for raw in batch.records() {
            let text = batch.value(raw);
            let own = scanner.line(text);
            let line = match raw.stamp {
                Stamp::None => own,
                Stamp::Create(append) | Stamp::Append(append) => Line { append, stamped: true, ..own },
            };
            block.push(line, text);
        }
        block
    }
}

impl Line {
    /// A line that is yet to get a place.
    #[must_use]
    pub fn new(append: Time, hash: u32, stamped: bool) -> Line {
        Line { append, hash, stamped, start: 0, len: 0 }
    }
}

/// Finds a line's append time and parcel.
#[derive(Debug)]
pub struct Scanner {
    parcel: Finder<'static>,
    time: Finder<'static>,
    names: FactNames,
}

impl Default for Scanner {
    fn default() -> Scanner {
        Scanner {
            parcel: Finder::new(b"\"parcel_id\""),
            time: Finder::new(b"_time\""),
            names: FactNames::new([]),
        }
    }
}

impl Scanner {
    /// The append time of a line in a file (SEMANTICS 1.1), and a hash of its parcel. A line that decodes has the time that
    /// [`decode`] finds; one that does not may have another: it folds nothing.
    #[must_use]
    pub fn scan(&self, line: &[u8]) -> (Option<Time>, u32) {
        if let Some((append, id)) = self.short(line) {
            return (append, hash(id));
        }
        match decode(line, &self.names) {
            Ok(event) => (Some(event.file_append()), hash(event.parcel_id.as_bytes())),
            Err(reject) => (reject.file_append, 0),
        }
    }

    fn line(&self, text: &[u8]) -> Line {
        let (append, hash) = self.scan(text);
        Line::new(append.unwrap_or(Time::MIN), hash, false)
    }

    /// `None`: the long way is needed. Without a backslash a key can only be written in one way; where it is there once, it is
    /// the one that counts.
    fn short<'a>(&self, line: &'a [u8]) -> Option<(Option<Time>, &'a [u8])> {
        if line.len() > MAX_RECORD || memchr(b'\\', line).is_some() {
            return None;
        }
        let mut ids = self.parcel.find_iter(line);
        let id = match ids.next() {
            Some(at) => text_after(line, at + b"\"parcel_id\"".len())??,
            None => b"",
        };
        if ids.next().is_some() {
            return None;
        }
        let (mut event, mut received) = (None, None);
        for at in self.time.find_iter(line) {
            let (slot, key) = if line[..at].ends_with(b"\"event") {
                (&mut event, at - b"\"event".len())
            } else if line[..at].ends_with(b"\"received") {
                (&mut received, at - b"\"received".len())
            } else {
                continue;
            };
            if slot.is_some() {
                return None;
            }
            *slot = Some((key, text_after(line, at + b"_time\"".len())?.and_then(time)));
        }
        // Another's `received_time` may stand in an object inside; a line without an `event_time` of its own does not decode.
        let received = received.filter(|(key, _)| is_outermost(line, *key)).and_then(|(_, time)| time);
        Some((received.or(event.and_then(|(_, time)| time)), id))
    }
}

/// The text behind a key: `Some(None)` where the value is no text. `None`: no colon follows, so it was no key.
fn text_after(line: &[u8], at: usize) -> Option<Option<&[u8]>> {
    let rest = line[at..].trim_ascii_start().strip_prefix(b":")?.trim_ascii_start();
    let Some(rest) = rest.strip_prefix(b"\"") else { return Some(None) };
    Some(memchr(b'"', rest).map(|end| &rest[..end]))
}

fn time(text: &[u8]) -> Option<Time> {
    std::str::from_utf8(text).ok().and_then(Time::parse)
}

/// Whether a key is one of the outermost object's, in a line without a backslash: of what comes before it, or behind, only one
/// brace is not closed. `key` is where its first quote stands.
fn is_outermost(line: &[u8], key: usize) -> bool {
    let (before, behind) = line.split_at(key);
    if before.len() <= behind.len() { braces(before) == 1 } else { braces(behind) == -1 }
}

/// Braces opened less those closed, those inside texts aside. Begins and ends outside of a text.
fn braces(part: &[u8]) -> i32 {
    let (mut open, mut quotes, mut from) = (0, 0, 0);
    for at in memchr2_iter(b'{', b'}', part) {
        quotes += memchr_iter(b'"', &part[from..at]).count();
        from = at;
        if quotes % 2 == 0 {
            open += if part[at] == b'{' { 1 } else { -1 };
        }
    }
    open
}

/// FNV-1a over eight bytes at a time, mixed at the end: all bits of it may be used.
fn hash(id: &[u8]) -> u32 {
    let mut h = 0xcbf2_9ce4_8422_2325_u64 ^ id.len() as u64;
    for chunk in id.chunks(8) {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        h = (h ^ u64::from_le_bytes(word)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        h ^= h >> 29;
    }
    h = (h ^ (h >> 32)).wrapping_mul(0xD6E8_FEB8_6659_FD93);
    (h >> 32) as u32
}

/// The blocks of one file.
pub struct Blocks {
    input: Box<dyn BufRead + Send>,
    scanner: Scanner,
    pool: Arc<Pool>,
    /// The beginning of a line whose end is not read yet.
    carry: Vec<u8>,
    ended: bool,
}

/// Counts the bytes that come out of a file, compressed as they may be.
struct Counted<R> {
    inner: R,
    bytes: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        self.bytes.fetch_add(n as u64, Ordering::Relaxed);
        Ok(n)
    }
}

impl Blocks {
    /// Opens a file, or standard input for `-`. What is read of it is added to `bytes`.
    ///
    /// # Errors
    /// The file cannot be opened, is a directory, or its first bytes cannot be read.
    pub fn open(path: &Path, bytes: &Arc<AtomicU64>) -> Result<Blocks, FileError> {
        let at = |source| FileError { path: path.to_owned(), source };
        let bytes = Arc::clone(bytes);
        let raw: Box<dyn Read + Send> = if path == Path::new("-") {
            Box::new(Counted { inner: io::stdin(), bytes })
        } else {
            Box::new(Counted { inner: File::open(path).map_err(at)?, bytes })
        };
        let input = decompressed(raw).map_err(at)?;
        Ok(Blocks {
            input,
            scanner: Scanner::default(),
            pool: Arc::default(),
            carry: Vec::new(),
            ended: false,
        })
    }

    /// The next lines; `None` at the end. A line without a byte is a line too, but for what follows the last line end; of one
    /// above [`MAX_RECORD`] one byte more than that is kept.
    ///
    /// # Errors
    /// The system or the decompressor fails.
    pub fn next_block(&mut self) -> io::Result<Option<Block>> {
        let mut bytes = self.pool.take();
        let mut filled = self.carry.len();
        if bytes.len() < filled {
            bytes.resize(filled + BLOCK, 0);
        }
        bytes[..filled].copy_from_slice(&self.carry);
        self.carry.clear();
        while !self.ended {
            if bytes.len() == filled {
                bytes.resize(filled + BLOCK, 0);
            }
            let before = filled;
            self.fill(&mut bytes, &mut filled)?;
            if let Some(end) = memrchr(b'\n', &bytes[before..filled]).filter(|_| !self.ended) {
                let end = before + end + 1;
                self.carry.extend_from_slice(&bytes[end..filled]);
                filled = end;
                break;
            }
            // In the middle of a line: no more of it is kept than shows that it is too large.
            if !bytes[before..filled].contains(&b'\n') {
                filled = filled.min(MAX_RECORD + 2);
            }
        }
        if filled == 0 {
            return Ok(None);
        }
        let lines = self.cut(&bytes[..filled]);
        Ok(Some(Block { bytes, lines, pool: Some(Arc::clone(&self.pool)) }))
    }

    /// Reads until the buffer is full or the file ends.
    fn fill(&mut self, bytes: &mut [u8], filled: &mut usize) -> io::Result<()> {
        while *filled < bytes.len() {
            match self.input.read(&mut bytes[*filled..]) {
                Ok(0) => {
                    self.ended = true;
                    break;
                }
                Ok(n) => *filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn cut(&self, bytes: &[u8]) -> Vec<Line> {
        let mut lines = Vec::with_capacity(bytes.len() / 256 + 1);
        let mut start = 0;
        while start < bytes.len() {
            let end = memchr(b'\n', &bytes[start..]).map_or(bytes.len(), |n| start + n);
            let text = &bytes[start..end];
            let text = text.strip_suffix(b"\r").unwrap_or(text);
            let text = &text[..text.len().min(MAX_RECORD + 1)];
            lines.push(Line { start: start as u32, len: text.len() as u32, ..self.scanner.line(text) });
            start = end + 1;
        }
        lines
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn blocks(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut blocks = Blocks::open(file.path(), &Arc::default()).unwrap();
        let mut all = Vec::new();
        while let Some(block) = blocks.next_block().unwrap() {
            all.extend(block.lines().iter().map(|l| block.text(l).to_vec()));
        }
        all
    }

    /// What [`super::super::files::Lines`] makes of the same file.
    fn lines(bytes: &[u8]) -> Vec<Vec<u8>> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        let mut lines = super::super::files::Lines::open(file.path(), 0).unwrap();
        let mut all = Vec::new();
        while let Some(batch) = lines.next_batch().unwrap() {
            all.extend(batch.records().iter().map(|r| batch.value(r).to_vec()));
        }
        all
    }

    #[test]
    fn lines_are_those_of_small_batches() {
        for text in ["", "a", "a\n", "a\r\n\nb", "\n", "\n\n", "\r\n"] {
            assert_eq!(blocks(text.as_bytes()), lines(text.as_bytes()), "{text:?}");
        }
        let long = |n: usize| vec![b'x'; n];
        let mut many: Vec<u8> = (0..300_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        assert_eq!(blocks(&many), lines(&many));
        for n in [MAX_RECORD - 1, MAX_RECORD, MAX_RECORD + 1, MAX_RECORD + 2, 5 * MAX_RECORD + 7] {
            many.extend(long(n));
            many.extend_from_slice(b"\nshort\n");
            assert_eq!(blocks(&many), lines(&many), "{n}");
            assert_eq!(blocks(&long(n)), lines(&long(n)), "{n} alone");
        }
    }

    #[test]
    fn compressed_files_are_read_as_what_they_hold() {
        let text: Vec<u8> = (0..200_000).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        let mut gz = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gz.write_all(&text).unwrap();
        for packed in [gz.finish().unwrap(), zstd::encode_all(&text[..], 1).unwrap()] {
            assert_eq!(blocks(&packed), lines(&text));
        }
    }

    /// Lines made of pieces that a reader of keys could stumble over; every one that decodes has the time and the parcel that the
    /// decoder finds.
    #[test]
    fn the_short_way_agrees_with_the_decoder() {
        let pieces = [
            r#""parcel_id":"P""#,
            r#""parcel_id" : "Q-1""#,
            r#""parcel_id":7"#,
            r#""parcel\u005fid":"R""#,
            r#""note":"parcel_id""#,
            r#""milestone":"delivered""#,
            r#""milestone":"picked_up""#,
            r#""event_time":"2026-10-01T00:00:00Z""#,
            r#""event_time": "2026-10-02T00:00:00+08:00""#,
            r#""event_time":null"#,
            r#""received_time":"2026-10-03T00:00:00Z""#,
            r#""received_time" :"soon""#,
            r#""received_time":5"#,
            r#""raw":{"received_time":"2026-10-04T00:00:00Z"}"#,
            r#""raw":{"event_time":"2026-10-05T00:00:00Z","parcel_id":"S"}"#,
            r#""raw":[{"received_time":"2026-10-06T00:00:00Z"}]"#,
            r#""text":"a } brace""#,
            r#""text":"{ \" {""#,
            r#""x":{"y":{"z":[1,2]}}"#,
            r#""old_event_time":"2026-10-07T00:00:00Z""#,
        ];
        let (scanner, names) = (Scanner::default(), FactNames::new([]));
        let mut state = 1_u64;
        let mut next = |n: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) as usize % n
        };
        let (mut decoded, mut short) = (0, 0);
        for _ in 0..60_000 {
            let parts: Vec<&str> = (0..3 + next(4)).map(|_| pieces[next(pieces.len())]).collect();
            let line = format!("{{{}}}", parts.join([",", ", ", " ,\t"][next(3)]));
            let Ok(event) = decode(line.as_bytes(), &names) else { continue };
            decoded += 1;
            short += u32::from(scanner.short(line.as_bytes()).is_some());
            let (append, found) = scanner.scan(line.as_bytes());
            assert_eq!(append, Some(event.file_append()), "{line}");
            assert_eq!(found, hash(event.parcel_id.as_bytes()), "{line}");
        }
        assert!(decoded > 2_000 && short > 300, "{decoded} lines decoded, {short} the short way");
    }
}
