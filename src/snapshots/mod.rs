//! Shards as they were at an offset, kept in a directory or a bucket (DESIGN §2). The only module that names
//! `object_store`.
//!
//! A snapshot is two objects, `<topic>/<partition>/<W>-<offset>-<nonce>.data` and, written last and once, the manifest
//! `<topic>/<partition>/<W>-<offset>.json`. What has no manifest does not exist. Names order by W, which never goes back
//! (offsets do where a topic is made anew), so the newest is found by listing; nothing is ever overwritten.
//!
//! The data is the engine's sections, each a zstd frame with its own checksum, and the manifest holds their sizes and a
//! hash of the whole. A snapshot that does not fit its manifest is reported and the one before is used; without any the
//! partition is replayed.

mod load;
mod location;
mod store;
#[cfg(test)]
mod tests;

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::Time;

pub use load::Loaded;
pub use location::Location;
pub use store::{Store, Upload};

/// The version of the layout; the one before is read too (there is none yet).
pub const FORMAT: u32 = 1;

/// What a snapshot is of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Head {
    /// The topic's name.
    pub topic: String,
    /// Its id, where the broker tells it: a topic made anew has another.
    pub topic_id: Option<String>,
    /// How many partitions it had.
    pub partitions: i32,
    /// The partition.
    pub partition: i32,
    /// The first offset not folded.
    pub next_offset: i64,
    /// W, in milliseconds since 1970.
    pub watermark_ms: i64,
    /// The rules it was folded with.
    pub rules_hash: String,
}

impl Head {
    /// W.
    #[must_use]
    pub fn watermark(&self) -> Time {
        Time(self.watermark_ms)
    }
}

/// What was published.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Published {
    /// Bytes stored.
    pub bytes: u64,
    /// One of the same (partition, offset, W) was there already, and was left.
    pub already: bool,
}

/// Why a snapshot could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// `snapshots.to` cannot be used.
    #[error("snapshots.to: {0}")]
    Location(String),
    /// The folder cannot be made or read.
    #[error("{}: {source}", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// What the system says.
        source: std::io::Error,
    },
    /// The directory or bucket refuses.
    #[error("snapshots: {0}")]
    Store(#[from] object_store::Error),
    /// It does not fit its manifest.
    #[error("snapshot {name} is damaged: {why}")]
    Damaged {
        /// Its name.
        name: String,
        /// What does not fit.
        why: String,
    },
    /// A background task died.
    #[error("snapshots: {0}")]
    Task(#[from] tokio::task::JoinError),
}

impl SnapshotError {
    /// Whether this one snapshot is of no use, as opposed to a store that does not answer now.
    #[must_use]
    pub const fn is_damage(&self) -> bool {
        matches!(
            self,
            SnapshotError::Damaged { .. } | SnapshotError::Store(object_store::Error::NotFound { .. })
        )
    }
}

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Manifest {
    format: u32,
    #[serde(flatten)]
    head: Head,
    /// The data object's name within the partition's folder.
    data: String,
    /// Bytes of the data object.
    bytes: u64,
    /// XXH3-128 of the data object, hexadecimal.
    hash: String,
    /// Each section, in order; the engine's head is the last.
    sections: Vec<Section>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
struct Section {
    /// Bytes of its frame.
    stored: u64,
    /// Bytes of the section itself.
    raw: u64,
}

/// The common part of a snapshot's names, whose order is that of age.
fn stem(watermark_ms: i64, next_offset: i64) -> String {
    format!("{:020}-{:020}", watermark_ms.max(0), next_offset.max(0))
}
