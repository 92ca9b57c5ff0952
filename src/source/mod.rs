//! Where records come from: a Kafka topic or files, in one shape.
//!
//! A source copies the bytes of many records into one arena, the [`Batch`], and hands it over whole; whoever folds decodes
//! out of it by [`decode`]. A source says *where* a record stood and *when* it was stored, never what it means.
//!
//! - [`kafka`]: the consumer, its certificates and everything that can go wrong with a log (DESIGN §4).
//! - [`kafka_mock`]: a broker inside the process, for `demo`.
//! - [`files`]: NDJSON, gzip, zstd, standard input; [`blocks`] and [`ordered`]: many of them, in the order of append time.

pub mod blocks;
pub mod decode;
pub mod files;
pub mod kafka;
pub mod kafka_mock;
pub mod ordered;
pub mod schema;

use std::ops::Range;

use crate::model::Time;

/// A record longer than this is rejected as `too_large` (DESIGN §3); of a longer one a source keeps one byte more, which
/// is enough to say so.
pub const MAX_RECORD: usize = 1 << 20;

/// What the source knows of when a record was stored.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Stamp {
    /// Nothing: files, where the record itself says it; brokers of old.
    #[default]
    None,
    /// The producer's clock (`CreateTime`).
    Create(Time),
    /// The broker's clock (`LogAppendTime`).
    Append(Time),
}

/// One record's place and bytes within its [`Batch`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Raw {
    /// Kafka's offset, or the number of the line from 0.
    pub offset: i64,
    /// When it was stored, as far as the source knows.
    pub stamp: Stamp,
    start: u32,
    key: u32,
    value: u32,
}

/// Records of one partition (or file), in the order of their log.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Batch {
    /// Kafka's partition, or the number of the file from 0.
    pub partition: i32,
    records: Vec<Raw>,
    bytes: Vec<u8>,
}

impl Batch {
    /// An empty one.
    #[must_use]
    pub fn new(partition: i32) -> Batch {
        Batch { partition, ..Batch::default() }
    }

    /// Adds a record; a value above [`MAX_RECORD`] is cut to one byte more than that.
    pub fn push(&mut self, offset: i64, stamp: Stamp, key: &[u8], value: &[u8]) {
        let key = &key[..key.len().min(MAX_RECORD)];
        let value = &value[..value.len().min(MAX_RECORD + 1)];
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
        // The arena is handed over at a few MiB ([`Batch::is_full`]), so that these fit.
        let raw =
            Raw { offset, stamp, start: start as u32, key: key.len() as u32, value: value.len() as u32 };
        self.records.push(raw);
    }

    /// The records.
    #[must_use]
    pub fn records(&self) -> &[Raw] {
        &self.records
    }

    /// The key of a record of this batch; empty where it has none.
    #[must_use]
    pub fn key(&self, raw: &Raw) -> &[u8] {
        &self.bytes[range(raw.start, raw.key)]
    }

    /// The value of a record of this batch; empty where it has none.
    #[must_use]
    pub fn value(&self, raw: &Raw) -> &[u8] {
        &self.bytes[range(raw.start + raw.key, raw.value)]
    }

    /// How many records.
    #[must_use]
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Bytes of its records.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it is time to hand it over.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.records.len() >= 512 || self.bytes.len() >= 256 << 10
    }
}

fn range(start: u32, len: u32) -> Range<usize> {
    start as usize..(start + len) as usize
}
