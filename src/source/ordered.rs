//! Lines of many files in the order of their append time, stably (SEMANTICS 1.2), in bounded memory.
//!
//! Files that are in order by themselves are merged as they are read ([`Merge::of_files`]); the first line that goes back ends
//! that with [`Trouble::OutOfOrder`]. Then, and for what can be read only once, [`sort`] makes runs that are in order: one in
//! memory where it fits, else in a temporary file that has no name. The merge of the runs is the order wanted.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, sync_channel};

use super::blocks::{BLOCK, Block, Blocks, Line};
use super::files::FileError;
use crate::model::Time;

/// Lines of a round, about.
const ROUND_LINES: usize = 8 << 10;
/// Bytes of lines sorted at once, unless told otherwise.
pub const RUN: usize = 256 << 20;
/// Bytes in hand of all runs together while they are merged.
const MERGE: usize = 64 << 20;
/// Files that are kept open, each read ahead by a thread of its own; of more only those whose turn has come.
const OPEN: usize = 16;

/// Why the lines end early.
#[derive(Debug, thiserror::Error)]
pub enum Trouble {
    /// A line goes back: [`sort`] first.
    #[error("a line goes back in time")]
    OutOfOrder,
    /// A file cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// The temporary file fails.
    #[error("cannot sort the events in a temporary file in {}: {source}", dir.display())]
    Spill {
        /// Its directory.
        dir: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What the caller reads from fails.
    #[error("{0}")]
    Other(String),
}

/// What was met, the lines that were not handed out included.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub struct Met {
    /// All lines.
    pub lines: u64,
    /// Of them, those without a readable time: rejected, each of them.
    pub untimed: u64,
}

impl Met {
    fn add(&mut self, block: &Block) {
        self.lines += block.lines().len() as u64;
        self.untimed += block.lines().iter().filter(|l| l.append == Time::MIN).count() as u64;
    }
}

/// A piece of the order: ranges of lines of blocks.
#[derive(Debug, Default)]
pub struct Round {
    /// What the ranges are of.
    pub blocks: Vec<Arc<Block>>,
    /// (index of the block, its lines), in order. Lines without a time are among them.
    pub order: Vec<(u32, Range<u32>)>,
}

impl Round {
    /// The lines that have a time, in order.
    pub fn lines(&self) -> impl Iterator<Item = (&Block, &Line)> {
        self.order.iter().flat_map(|(block, range)| {
            let block = &*self.blocks[*block as usize];
            block.lines()[range.start as usize..range.end as usize]
                .iter()
                .filter(|l| l.append != Time::MIN)
                .map(move |line| (block, line))
        })
    }
}

/// Where blocks come from that are in order.
enum Source {
    /// A file whose turn has not come.
    Closed(PathBuf),
    /// One that a thread reads ahead.
    Open(Receiver<Result<Block, FileError>>),
    /// One that is read when asked.
    Direct(PathBuf, Box<Blocks>),
    /// Sorted in memory.
    Sorted(Sorted),
    /// Sorted in the temporary file.
    Run { file: Arc<File>, at: u64, end: u64, chunk: usize },
}

struct Head {
    source: Source,
    block: Option<Arc<Block>>,
    /// The next line of it.
    at: usize,
    /// Its index in the round at hand.
    slot: Option<u32>,
    last: Time,
}

/// Merges sources that are in order, of equal times the earlier source first.
pub struct Merge {
    heads: Vec<Head>,
    heap: BinaryHeap<Reverse<(Time, usize)>>,
    until: Time,
    met: Met,
    bytes: Arc<AtomicU64>,
    ahead: bool,
    /// What comes was met when it was sorted.
    sorted: bool,
}

impl Merge {
    /// Of files, each of which is in order. Lines after `until` are counted and left out. `bytes` counts what is read.
    ///
    /// # Errors
    /// A file cannot be read, or its first lines are out of order.
    pub fn of_files(paths: &[PathBuf], until: Time, bytes: &Arc<AtomicU64>) -> Result<Merge, Trouble> {
        let sources = paths.iter().map(|p| Source::Closed(p.clone())).collect();
        Merge::of(sources, until, bytes, None)
    }

    fn of(
        sources: Vec<Source>,
        until: Time,
        bytes: &Arc<AtomicU64>,
        met: Option<Met>,
    ) -> Result<Merge, Trouble> {
        let ahead = sources.len() <= OPEN;
        let head = |source| Head { source, block: None, at: 0, slot: None, last: Time::MIN };
        let heads: Vec<_> = sources.into_iter().map(head).collect();
        let (sorted, met, heap) = (met.is_some(), met.unwrap_or_default(), BinaryHeap::new());
        let mut merge = Merge { heads, heap, until, met, bytes: bytes.clone(), ahead, sorted };
        for i in 0..merge.heads.len() {
            if ahead || !matches!(merge.heads[i].source, Source::Closed(_)) {
                merge.settle(i)?;
            } else {
                merge.peek(i)?;
            }
        }
        Ok(merge)
    }

    /// Lines met so far.
    #[must_use]
    pub fn met(&self) -> Met {
        self.met
    }

    /// When a file begins, to know when to open it.
    fn peek(&mut self, i: usize) -> Result<(), Trouble> {
        let Source::Closed(path) = &self.heads[i].source else { return Ok(()) };
        let at = |source| FileError { path: path.clone(), source };
        let mut blocks = Blocks::open(path, &Arc::default())?;
        let block = blocks.next_block().map_err(at)?;
        let first = block.iter().flat_map(|b| b.lines()).map(|l| l.append).find(|t| *t != Time::MIN);
        // Without a time among its first lines it is opened at once.
        self.heap.push(Reverse((first.unwrap_or(Time::MIN), i)));
        Ok(())
    }

    /// Moves a head to its next line that has a time and belongs to the order, and enters it into the heap.
    fn settle(&mut self, i: usize) -> Result<(), Trouble> {
        loop {
            if self.heads[i].block.is_none() && !self.load(i)? {
                return Ok(());
            }
            let head = &mut self.heads[i];
            let Some(block) = &head.block else { return Ok(()) };
            while let Some(line) = block.lines().get(head.at) {
                if line.append != Time::MIN {
                    if line.append < head.last {
                        return Err(Trouble::OutOfOrder);
                    }
                    if line.append <= self.until {
                        self.heap.push(Reverse((line.append, i)));
                        return Ok(());
                    }
                    head.last = line.append;
                }
                head.at += 1;
            }
            (head.block, head.slot) = (None, None);
        }
    }

    fn load(&mut self, i: usize) -> Result<bool, Trouble> {
        if let Source::Closed(path) = &self.heads[i].source {
            self.heads[i].source = self.opened(path.clone())?;
        }
        let head = &mut self.heads[i];
        let Some(block) = next(&mut head.source)? else { return Ok(false) };
        if !self.sorted {
            self.met.add(&block);
        }
        (head.block, head.at, head.slot) = (Some(Arc::new(block)), 0, None);
        Ok(true)
    }

    fn opened(&self, path: PathBuf) -> Result<Source, FileError> {
        let mut blocks = Blocks::open(&path, &self.bytes)?;
        if !self.ahead {
            return Ok(Source::Direct(path, Box::new(blocks)));
        }
        let (send, receive) = sync_channel(2);
        let read = move || {
            loop {
                let next = match blocks.next_block() {
                    Ok(Some(block)) => Ok(block),
                    Ok(None) => return,
                    Err(source) => Err(FileError { path: path.clone(), source }),
                };
                let failed = next.is_err();
                if send.send(next).is_err() || failed {
                    return;
                }
            }
        };
        std::thread::spawn(read);
        Ok(Source::Open(receive))
    }

    /// The next piece of the order; `None` at the end.
    ///
    /// # Errors
    /// See [`Trouble`].
    pub fn next_round(&mut self) -> Result<Option<Round>, Trouble> {
        let mut round = Round::default();
        let mut lines = 0;
        while lines < ROUND_LINES
            && let Some(Reverse((_, i))) = self.heap.pop()
        {
            if self.heads[i].block.is_none() {
                // A file whose turn has come.
                self.settle(i)?;
                continue;
            }
            let bound = self.heap.peek().map_or((Time::MAX, usize::MAX), |Reverse(next)| *next);
            lines += self.take(i, bound, &mut round)?;
            self.settle(i)?;
        }
        for head in &mut self.heads {
            head.slot = None;
        }
        Ok((!round.order.is_empty()).then_some(round))
    }

    /// Takes the lines of one head that come before the others' next.
    fn take(&mut self, i: usize, bound: (Time, usize), round: &mut Round) -> Result<usize, Trouble> {
        let head = &mut self.heads[i];
        let Some(block) = &head.block else { return Ok(0) };
        let from = head.at;
        for line in &block.lines()[from..] {
            if line.append != Time::MIN {
                if line.append < head.last {
                    return Err(Trouble::OutOfOrder);
                }
                if line.append > self.until || (line.append, i) >= bound {
                    break;
                }
                head.last = line.append;
            }
            head.at += 1;
        }
        let slot = *head.slot.get_or_insert_with(|| {
            round.blocks.push(Arc::clone(block));
            round.blocks.len() as u32 - 1
        });
        round.order.push((slot, from as u32..head.at as u32));
        Ok(head.at - from)
    }
}

fn next(source: &mut Source) -> Result<Option<Block>, Trouble> {
    match source {
        Source::Closed(_) => Ok(None),
        Source::Open(receive) => receive.recv().ok().transpose().map_err(Trouble::File),
        Source::Direct(path, blocks) => {
            blocks.next_block().map_err(|source| FileError { path: path.clone(), source }.into())
        }
        Source::Sorted(sorted) => Ok(sorted.next()),
        Source::Run { file, at, end, chunk } => read_run(file, at, *end, *chunk).map_err(spill),
    }
}

fn spill(source: io::Error) -> Trouble {
    Trouble::Spill { dir: std::env::temp_dir(), source }
}

/// Lines sorted in memory, copied into blocks as they are asked for.
struct Sorted {
    blocks: Vec<Block>,
    order: Vec<(Time, u32, u32)>,
    at: usize,
}

impl Sorted {
    fn of(blocks: Vec<Block>) -> Sorted {
        let mut order = Vec::with_capacity(blocks.iter().map(|b| b.lines().len()).sum());
        for (b, block) in blocks.iter().enumerate() {
            let timed = block.lines().iter().enumerate().filter(|(_, l)| l.append != Time::MIN);
            order.extend(timed.map(|(l, line)| (line.append, b as u32, l as u32)));
        }
        if !order.is_sorted() {
            order.sort_unstable();
        }
        Sorted { blocks, order, at: 0 }
    }

    fn lines(&self) -> impl Iterator<Item = (Line, &[u8])> {
        self.order[self.at..].iter().map(|(_, b, l)| {
            let block = &self.blocks[*b as usize];
            let line = block.lines()[*l as usize];
            (line, block.text(&line))
        })
    }

    fn next(&mut self) -> Option<Block> {
        let mut block = Block::default();
        let mut taken = 0;
        for (line, text) in self.lines().take(ROUND_LINES) {
            block.push(line, text);
            taken += 1;
            if block.size() > BLOCK {
                break;
            }
        }
        self.at += taken;
        (taken > 0).then_some(block)
    }
}

/// Sorts blocks that are handed over in the order of arrival, in runs of about `run` bytes. The lines that have no time, or one
/// after `until`, are counted and left out.
///
/// # Errors
/// What `next` says, and a temporary file that cannot be written.
pub fn sort(
    mut next: impl FnMut() -> Result<Option<Block>, Trouble>,
    until: Time,
    run: usize,
) -> Result<Merge, Trouble> {
    let mut met = Met::default();
    let (mut blocks, mut size) = (Vec::new(), 0);
    let mut spilled: Option<(BufWriter<File>, u64)> = None;
    let mut runs: Vec<Range<u64>> = Vec::new();
    while let Some(block) = next()? {
        met.add(&block);
        if size > 0 && size + block.size() > run {
            let (file, at) = match &mut spilled {
                Some(spilled) => spilled,
                none => none.insert((BufWriter::with_capacity(BLOCK, nameless().map_err(spill)?), 0)),
            };
            let from = *at;
            write_run(file, at, &Sorted::of(std::mem::take(&mut blocks)), until).map_err(spill)?;
            runs.push(from..*at);
            size = 0;
        }
        size += block.size();
        blocks.push(block);
    }
    let mut sources = Vec::new();
    if let Some((file, _)) = spilled {
        let file = Arc::new(file.into_inner().map_err(|e| spill(e.into_error()))?);
        let chunk = (MERGE / runs.len()).clamp(64 << 10, BLOCK);
        sources.extend(runs.iter().map(|r| Source::Run {
            file: file.clone(),
            at: r.start,
            end: r.end,
            chunk,
        }));
    }
    sources.push(Source::Sorted(Sorted::of(blocks)));
    Merge::of(sources, until, &Arc::default(), Some(met))
}

/// The lines of files one after the other, for [`sort`].
///
/// # Errors
/// None by itself: what is returned fails where a file cannot be read.
pub fn in_turn(paths: &[PathBuf], bytes: &Arc<AtomicU64>) -> impl FnMut() -> Result<Option<Block>, Trouble> {
    let paths: Vec<PathBuf> = paths.to_vec();
    let mut paths = paths.into_iter();
    let bytes = Arc::clone(bytes);
    let mut open: Option<(PathBuf, Blocks)> = None;
    move || loop {
        if let Some((path, blocks)) = &mut open {
            let at = |source| FileError { path: path.clone(), source };
            if let Some(block) = blocks.next_block().map_err(at)? {
                return Ok(Some(block));
            }
        }
        let Some(path) = paths.next() else { return Ok(None) };
        open = Some((path.clone(), Blocks::open(&path, &bytes)?));
    }
}

/// A line's head in the temporary file: append time, hash, length with the stamp as its highest bit.
const HEAD: usize = 16;
const STAMPED: u32 = 1 << 31;

fn write_run(file: &mut BufWriter<File>, at: &mut u64, sorted: &Sorted, until: Time) -> io::Result<()> {
    for (line, text) in sorted.lines().take_while(|(l, _)| l.append <= until) {
        let len = text.len() as u32 | if line.stamped { STAMPED } else { 0 };
        file.write_all(&line.append.0.to_le_bytes())?;
        file.write_all(&line.hash.to_le_bytes())?;
        file.write_all(&len.to_le_bytes())?;
        file.write_all(text)?;
        *at += (HEAD + text.len()) as u64;
    }
    Ok(())
}

fn read_run(file: &File, at: &mut u64, end: u64, chunk: usize) -> io::Result<Option<Block>> {
    if *at >= end {
        return Ok(None);
    }
    let mut bytes = vec![0; chunk.min(usize::try_from(end - *at).unwrap_or(chunk))];
    file.read_exact_at(&mut bytes, *at)?;
    let mut block = Block::default();
    let mut rest = &bytes[..];
    while let Some((append, hash, stamped, len)) = head(rest) {
        let Some(text) = rest.get(HEAD..HEAD + len) else {
            if block.lines().is_empty() {
                // One line is longer than a chunk.
                bytes = vec![0; HEAD + len];
                file.read_exact_at(&mut bytes, *at)?;
                block.push(Line::new(append, hash, stamped), &bytes[HEAD..]);
                *at += bytes.len() as u64;
            }
            break;
        };
        block.push(Line::new(append, hash, stamped), text);
        *at += (HEAD + len) as u64;
        rest = &rest[HEAD + len..];
    }
    Ok(Some(block))
}

fn head(bytes: &[u8]) -> Option<(Time, u32, bool, usize)> {
    let (append, rest) = bytes.split_first_chunk()?;
    let (hash, rest) = rest.split_first_chunk()?;
    let (len, _) = rest.split_first_chunk()?;
    let len = u32::from_le_bytes(*len);
    let append = Time(i64::from_le_bytes(*append));
    Some((append, u32::from_le_bytes(*hash), len & STAMPED != 0, (len & !STAMPED) as usize))
}

/// A temporary file that nobody can open by a name and that is gone with the process.
///
/// # Errors
/// The system's.
pub fn nameless() -> io::Result<File> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let dir = std::env::temp_dir();
    loop {
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path: &Path = &dir.join(format!(".parcelwatch-{}-{number}", std::process::id()));
        let made = File::options().read(true).write(true).create_new(true).open(path);
        match made {
            Ok(file) => {
                std::fs::remove_file(path)?;
                return Ok(file);
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::blocks::Scanner;

    /// Files of lines (time, text) as paths, in a directory that lives as long as the first value.
    fn files(of: &[Vec<(Option<i64>, String)>]) -> (tempfile::TempDir, Vec<PathBuf>) {
        let dir = tempfile::tempdir().unwrap();
        let paths = of.iter().enumerate().map(|(i, lines)| {
            let text: String = lines.iter().map(|(time, id)| line(*time, id) + "\n").collect();
            let path = dir.path().join(format!("{i}.ndjson"));
            std::fs::write(&path, text).unwrap();
            path
        });
        let paths = paths.collect();
        (dir, paths)
    }

    fn line(time: Option<i64>, id: &str) -> String {
        let time = time.map_or("never".to_owned(), |t| Time(t * 1_000).to_string());
        format!(r#"{{"parcel_id":"{id}","milestone":"delivered","event_time":"{time}"}}"#)
    }

    fn all(mut merge: Merge) -> Result<Vec<(i64, String)>, Trouble> {
        let mut all = Vec::new();
        while let Some(round) = merge.next_round()? {
            for (block, line) in round.lines() {
                let text = String::from_utf8_lossy(block.text(line)).into_owned();
                let id = text.split('"').nth(3).unwrap().to_owned();
                all.push((line.append.0 / 1_000, id));
            }
        }
        Ok(all)
    }

    fn naive(of: &[Vec<(Option<i64>, String)>], until: i64) -> Vec<(i64, String)> {
        let mut all: Vec<_> = of
            .iter()
            .flatten()
            .filter_map(|(t, id)| Some((t.filter(|t| *t <= until)?, id.clone())))
            .collect();
        all.sort_by_key(|(t, _)| *t);
        all
    }

    #[test]
    fn merging_and_sorting_give_the_stable_order() {
        let mut state = 3_u64;
        let mut next = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) % n
        };
        for seed in 0..60 {
            let sorted = seed % 2 == 0;
            let count = if seed % 10 == 0 { OPEN as u64 + 9 } else { 1 + next(4) };
            let of: Vec<Vec<(Option<i64>, String)>> = (0..count)
                .map(|f| {
                    let mut times: Vec<i64> = (0..next(400)).map(|_| next(120) as i64).collect();
                    if sorted {
                        times.sort_unstable();
                    }
                    let lines = times.into_iter().enumerate();
                    lines.map(|(i, t)| (Some(t).filter(|_| i % 9 != 4), format!("{f}-{i}"))).collect()
                })
                .collect();
            let (_dir, paths) = files(&of);
            let until = if seed % 3 == 0 { 70 } else { 1_000 };
            let wanted = naive(&of, until);
            let lines: u64 = of.iter().map(|f| f.len() as u64).sum();
            let untimed = of.iter().flatten().filter(|(t, _)| t.is_none()).count() as u64;
            let end = Time(until * 1_000);
            if sorted {
                let mut merge = Merge::of_files(&paths, end, &Arc::default()).unwrap();
                let mut found = Vec::new();
                while let Some(round) = merge.next_round().unwrap() {
                    found.extend(round.lines().map(|(_, l)| l.append.0 / 1_000));
                }
                assert_eq!(found, wanted.iter().map(|w| w.0).collect::<Vec<_>>(), "seed {seed}");
                assert_eq!(merge.met(), Met { lines, untimed }, "seed {seed}");
                let merge = Merge::of_files(&paths, end, &Arc::default()).unwrap();
                assert_eq!(all(merge).unwrap(), wanted, "seed {seed}");
            }
            // One run in memory, and many in the temporary file.
            for run in [usize::MAX, 20_000] {
                let merge = sort(in_turn(&paths, &Arc::default()), end, run).unwrap();
                assert_eq!(merge.met(), Met { lines, untimed }, "seed {seed}");
                assert_eq!(all(merge).unwrap(), wanted, "seed {seed}, runs of {run}");
            }
        }
    }

    #[test]
    fn a_line_that_goes_back_is_seen() {
        let of = [vec![(Some(1), "a".to_owned()), (Some(3), "b".to_owned()), (Some(2), "c".to_owned())]];
        let (_dir, paths) = files(&of);
        let merged = Merge::of_files(&paths, Time::MAX, &Arc::default()).and_then(all);
        assert!(matches!(merged, Err(Trouble::OutOfOrder)));
    }

    #[test]
    fn stamps_and_long_lines_survive_the_temporary_file() {
        let scanner = Scanner::default();
        let mut batch = crate::source::Batch::new(0);
        let long = "x".repeat(300_000);
        for (i, stamp) in [5_000, 4_000, 9_000].into_iter().enumerate() {
            let text = line(Some(1), &format!("{i}{long}"));
            batch.push(i as i64, crate::source::Stamp::Append(Time(stamp)), b"", text.as_bytes());
        }
        let mut blocks = (0..5).map(|_| Block::of_batch(&batch, &scanner));
        let mut merge = sort(|| Ok(blocks.next()), Time::MAX, 1).unwrap();
        let mut found = Vec::new();
        while let Some(round) = merge.next_round().unwrap() {
            for (block, line) in round.lines() {
                assert!(line.stamped && block.text(line).len() > 300_000);
                found.push((line.append.0, block.text(line)[14]));
            }
        }
        let wanted = [(4_000, b'1'), (5_000, b'0'), (9_000, b'2')].map(|w| [w; 5]).concat();
        assert_eq!(found, wanted);
    }
}
