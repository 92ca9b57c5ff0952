//! The loop around the escalation fold: waits for changes or the next timer, decides, writes (DESIGN §7).

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, watch};

use super::clock::WallClock;
use crate::cases::Cases;
use crate::rules::Policies;

/// Which partitions are out of their backlog (DESIGN §4.8). The runtime says when a shard's watermark has come within a
/// minute of the wall clock; the escalator lets 15 minutes after its own start count as well.
#[derive(Debug, Clone, Default)]
pub struct Backlog {
    over: Arc<Mutex<BTreeSet<i32>>>,
    news: Arc<Notify>,
}

impl Backlog {
    /// This partition has caught up.
    pub fn over(&self, _partition: i32) {
        todo!()
    }

    /// It was assigned anew and begins with a backlog.
    pub fn begins(&self, _partition: i32) {
        todo!()
    }
}

/// What the loop needs.
pub struct Escalator {
    /// The database.
    pub cases: Cases,
    /// The policies in force; a new value is a reload.
    pub policies: watch::Receiver<Arc<Policies>>,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Which partitions may speak.
    pub backlog: Backlog,
    /// `http.public_url`, for `url`.
    pub public_url: Option<String>,
    /// Decide and record, send nothing.
    pub dry_run: bool,
}

impl Escalator {
    /// Runs until `stop` is woken. Never fails: where the database refuses it says so in the log and tries again.
    pub async fn run(self, _stop: Arc<Notify>) {
        todo!()
    }
}
