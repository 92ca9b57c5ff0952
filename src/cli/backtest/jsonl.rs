//! `--format jsonl`: one change a line (DESIGN §8, SEMANTICS 7.5).

use std::fs::File;
use std::io::{self, Read, Seek, Write};

use super::pipeline::Sink;
use crate::model::{Change, ChangeKind, Time};
use crate::source::ordered::nameless;

/// The order of output.
#[must_use]
pub fn order(c: &Change) -> (Time, &str, &str, &str, Option<Time>) {
    (c.at, &c.parcel_id, &c.rule, c.kind.name(), c.episode)
}

/// One change as a line of `--format jsonl`, without the line end.
#[must_use]
pub fn json_line(c: &Change) -> String {
    let text = |t: &str| serde_json::to_string(t).unwrap_or_default();
    let mut line = format!(
        "{{\"at\":\"{}\",\"change\":\"{}\",\"rule\":{},\"parcel_id\":{},\"episode\":\"{}\",\"stage\":{}",
        c.at,
        c.kind.name(),
        text(&c.rule),
        text(&c.parcel_id),
        c.episode_text(),
        c.stage,
    );
    match c.kind {
        ChangeKind::Resolved(resolution) => line += &format!(",\"resolution\":\"{}\"", resolution.name()),
        ChangeKind::Opened | ChangeKind::Raised => {
            line += &format!(",\"severity\":\"{}\",\"due\":\"{}\"", c.severity.name(), c.due);
        }
    }
    line + &format!(",\"anchor\":\"{}\"}}", c.anchor)
}

/// Text that is kept until it is known to be right: in memory, and beyond [`Held::MEMORY`] in a temporary file.
#[derive(Debug, Default)]
pub struct Held {
    memory: Vec<u8>,
    file: Option<File>,
}

impl Held {
    /// Bytes in memory at most.
    const MEMORY: usize = 32 << 20;

    /// Adds a line.
    ///
    /// # Errors
    /// The temporary file cannot be written.
    pub fn line(&mut self, line: &str) -> io::Result<()> {
        self.memory.extend_from_slice(line.as_bytes());
        self.memory.push(b'\n');
        if self.memory.len() > Held::MEMORY {
            let file = match &mut self.file {
                Some(file) => file,
                none => none.insert(nameless()?),
            };
            file.write_all(&self.memory)?;
            self.memory.clear();
        }
        Ok(())
    }

    /// Writes all of it.
    ///
    /// # Errors
    /// The temporary file cannot be read, or `out` fails.
    pub fn write_to(mut self, out: &mut dyn Write) -> io::Result<()> {
        if let Some(file) = &mut self.file {
            file.rewind()?;
            let mut buffer = vec![0; 1 << 20];
            loop {
                let n = file.read(&mut buffer)?;
                if n == 0 {
                    break;
                }
                out.write_all(&buffer[..n])?;
            }
        }
        out.write_all(&self.memory)
    }
}

/// Writes changes with `at` in [from, to).
#[derive(Debug)]
pub struct Lines {
    /// What was written.
    pub held: Held,
    /// How many changes.
    pub count: u64,
    from: Time,
    to: Time,
}

impl Lines {
    /// None yet.
    #[must_use]
    pub fn new(from: Option<Time>, to: Option<Time>) -> Lines {
        let (from, to) = (from.unwrap_or(Time::MIN), to.unwrap_or(Time::MAX));
        Lines { held: Held::default(), count: 0, from, to }
    }
}

impl Sink for Lines {
    fn changes(&mut self, _: usize, mut changes: Vec<Change>) -> anyhow::Result<()> {
        changes.retain(|c| self.from <= c.at && c.at < self.to);
        changes.sort_by(|a, b| order(a).cmp(&order(b)));
        for change in &changes {
            self.held.line(&json_line(change))?;
        }
        self.count += changes.len() as u64;
        Ok(())
    }
}
