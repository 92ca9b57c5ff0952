//! The file: how it is opened, its two pools, what is kept in memory beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::AnyPool;
use sqlx::Row as _;
use tokio::sync::Notify;

use super::commit::Interned;
use super::leases::{self, Fences};
use super::sql::{Conn, Dialect, Place, Row, Tx};
use super::{CasesError, row};
use crate::escalation::feeds::Trouble;
use crate::escalation::{Body, Why};
use crate::model::Severity;

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Cases {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    place: Place,
    /// One connection: whoever has it is the only writer.
    writer: AnyPool,
    pub(super) reader: AnyPool,
    /// One connection for what must not wait behind a transaction: signs of life.
    pub(super) beats: AnyPool,
    /// Other processes work on it too.
    shared: bool,
    /// What this process may write, where it is not the only one.
    pub(super) fences: Mutex<Fences>,
    pub(super) bodies: Mutex<BTreeMap<i64, Arc<Body>>>,
    pub(super) interned: Mutex<Interned>,
    pub(super) open: Mutex<BTreeMap<(String, Severity), i64>>,
    /// Policies under which nobody acknowledges without a comment.
    pub(super) comments: Mutex<BTreeSet<String>>,
    /// Decisions not to send since somebody last asked.
    pub(super) suppressed: Mutex<BTreeMap<Why, u64>>,
    /// Incidents of feeds that stand, by what is wrong.
    pub(super) incidents: Mutex<BTreeMap<Trouble, i64>>,
    /// Something was heard of a feed that may begin or end an incident.
    pub(super) stirred: AtomicBool,
    changed: Arc<Notify>,
    filled: Arc<Notify>,
}

/// How the file is opened; tests use others than the default.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long a statement waits for another process's lock.
    pub busy_timeout: Duration,
    /// SQLite's `max_page_count`: a full disk for tests.
    pub max_page_count: Option<u32>,
    /// Other processes work on it at the same time: this one leads, and writes of partitions, only where it holds the lease.
    pub shared: bool,
    /// Whether a commit waits for the disk (`synchronous=FULL`). Only tests that cut no power do without.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { busy_timeout: Duration::from_secs(5), max_page_count: None, shared: false, durable: true }
    }
}

impl Cases {
    /// Changes a transaction takes at most: a third of a second, in which everybody else who writes waits.
    pub const MAX_BATCH: usize = 5_000;
    /// Rejected records kept.
    pub const MAX_REJECTED: i64 = 10_000;

    /// Opens or makes the database at `path` (a file) and brings its tables up to date.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn open(path: &Path) -> Result<Cases, CasesError> {
        Cases::open_with(path, &Options::default()).await
    }

    /// As [`Cases::open`], with other limits.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn open_with(path: &Path, options: &Options) -> Result<Cases, CasesError> {
        Cases::connect(&Place::File(path.to_owned()), options).await
    }

    /// Opens the database at a place and brings its tables up to date.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn connect(place: &Place, options: &Options) -> Result<Cases, CasesError> {
        let failed = |e| CasesError::of(place, e);
        let writer = place.writer(options).await.map_err(failed)?;
        place.migrate(&writer).await.map_err(failed)?;
        let reader = place.reader(options).await.map_err(failed)?;
        let beats =
            if options.shared { place.writer(options).await.map_err(failed)? } else { writer.clone() };
        let cases = Cases {
            inner: Arc::new(Inner {
                place: place.clone(),
                writer,
                reader,
                beats,
                shared: options.shared,
                fences: Mutex::default(),
                bodies: Mutex::default(),
                interned: Mutex::default(),
                open: Mutex::default(),
                comments: Mutex::default(),
                suppressed: Mutex::default(),
                incidents: Mutex::default(),
                stirred: AtomicBool::new(true),
                changed: Arc::default(),
                filled: Arc::default(),
            }),
        };
        cases.restore().await?;
        Ok(cases)
    }

    /// Reads what is kept in memory, and ends the leases of the process before, where it was the only one (DESIGN §2).
    async fn restore(&self) -> Result<(), CasesError> {
        self.read_bodies(0).await.map_err(|e| self.failed(e))?;
        if self.is_shared() {
            return Ok(());
        }
        self.count_open().await?;
        let mut tx = self.begin().await?;
        leases::free_outbox(&mut tx).await.map_err(|e| self.failed(e))?;
        self.end(tx).await
    }

    /// Reads bodies from this number on.
    async fn read_bodies(&self, from: i64) -> sqlx::Result<()> {
        let rows = sqlx::query("SELECT body, words FROM bodies WHERE body >= $1")
            .bind(from)
            .fetch_all(&self.inner.reader)
            .await?;
        let read = rows.iter().map(|row| self.body_of(row)).collect::<sqlx::Result<Vec<_>>>()?;
        lock(&self.inner.bodies).extend(read.into_iter().map(|body| (body.number, Arc::new(body))));
        Ok(())
    }

    /// What the rules of these rows say. Rows of another process may have bodies that this one has not seen yet; those were
    /// committed before the rows were.
    pub(super) async fn bodies_of(&self, rows: &[Row]) -> sqlx::Result<BTreeMap<i64, Arc<Body>>> {
        if self.is_shared() {
            let newest = rows.iter().map(row::body).collect::<sqlx::Result<Vec<_>>>()?.into_iter().max();
            if newest.is_some_and(|n| n > self.newest_body()) {
                self.more_bodies().await?;
            }
        }
        Ok(lock(&self.inner.bodies).clone())
    }

    fn newest_body(&self) -> i64 {
        lock(&self.inner.bodies).keys().next_back().copied().unwrap_or(0)
    }

    /// Reads the bodies that other processes have written meanwhile.
    pub(super) async fn more_bodies(&self) -> sqlx::Result<()> {
        if self.is_shared() { self.read_bodies(self.newest_body() + 1).await } else { Ok(()) }
    }

    /// Counts the standing exceptions, for [`Cases::open_counts`]: at the start, and from time to time where others commit too.
    ///
    /// # Errors
    /// Every [`CasesError`].
    pub async fn count_open(&self) -> Result<(), CasesError> {
        let rows =
            sqlx::query("SELECT rule, severity, COUNT(*) FROM exceptions WHERE state <> 'resolved' GROUP BY rule, severity")
                .fetch_all(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
        let counted = rows.iter().map(|r| self.counted(r)).collect::<sqlx::Result<BTreeMap<_, _>>>();
        let counted = counted.map_err(|e| self.failed(e))?;
        let mut open = lock(&self.inner.open);
        // A rule of which none stands any more keeps its 0.
        open.values_mut().for_each(|n| *n = 0);
        open.extend(counted);
        Ok(())
    }

    fn counted(&self, r: &Row) -> sqlx::Result<((String, Severity), i64)> {
        Ok(((r.try_get(0)?, row::severity(r, 1)?), r.try_get(2)?))
    }

    fn body_of(&self, row: &Row) -> sqlx::Result<Body> {
        let number = row.try_get(0)?;
        let words: &str = row.try_get(1)?;
        let body: Body = serde_json::from_str(words).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(Body { number, ..body })
    }

    /// Closes the connections after what is under way.
    pub async fn close(&self) {
        self.inner.beats.close().await;
        self.inner.reader.close().await;
        self.inner.writer.close().await;
    }

    /// Woken when changes were committed or an operator acted: the escalator waits on it. One waiter; a wake-up that meets
    /// nobody waiting is kept for the next.
    #[must_use]
    pub fn changed(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.changed)
    }

    /// Woken (`notify_waiters`) when outbox rows were written or came free. Any number may wait: make the future, and
    /// [`enable`](tokio::sync::futures::Notified::enable) it, before asking [`Cases::outbox_due`].
    #[must_use]
    pub fn outbox_filled(&self) -> Arc<Notify> {
        Arc::clone(&self.inner.filled)
    }

    /// Standing exceptions by (rule, severity), kept up to date by every commit; no query.
    #[must_use]
    pub fn open_counts(&self) -> BTreeMap<(String, Severity), i64> {
        lock(&self.inner.open).clone()
    }

    /// Whether other processes work on this database at the same time.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.inner.shared
    }

    pub(super) fn place(&self) -> &Place {
        &self.inner.place
    }

    pub(super) fn dialect(&self) -> Dialect {
        if self.inner.place.is_server() { Dialect::Postgres } else { Dialect::Sqlite }
    }

    pub(super) fn failed(&self, error: sqlx::Error) -> CasesError {
        CasesError::of(&self.inner.place, error)
    }

    /// Takes the writer. Nobody else writes until [`Cases::end`] or the transaction is dropped.
    pub(super) async fn begin(&self) -> Result<Tx, CasesError> {
        self.inner.writer.begin_with(self.inner.place.begin()).await.map_err(|e| self.failed(e))
    }

    /// Makes it durable.
    pub(super) async fn end(&self, tx: Tx) -> Result<(), CasesError> {
        tx.commit().await.map_err(|e| self.failed(e))
    }

    /// Decisions not to send since the last call, by why.
    #[must_use]
    pub fn take_suppressed(&self) -> BTreeMap<Why, u64> {
        std::mem::take(&mut *lock(&self.inner.suppressed))
    }

    /// Counts decisions not to send that are durable.
    pub(super) fn suppress(&self, decided: &BTreeMap<Why, u64>) {
        let mut all = lock(&self.inner.suppressed);
        for (why, n) in decided {
            *all.entry(*why).or_insert(0) += n;
        }
    }

    /// Applies what a durable transaction did to the numbers of standing exceptions.
    pub(super) fn count(&self, moves: BTreeMap<(String, Severity), i64>) {
        if self.is_shared() {
            return; // The leader counts.
        }
        let mut open = lock(&self.inner.open);
        for (key, by) in moves {
            *open.entry(key).or_insert(0) += by;
        }
    }
}

/// A lock whose holder panicked is taken all the same: what it guards is replaced whole.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The next number of a table that counts by itself.
pub(super) async fn next_number(tx: &mut Conn, sql: &'static str) -> sqlx::Result<i64> {
    let top: Option<i64> = sqlx::query_scalar(sql).fetch_one(tx).await?;
    Ok(top.unwrap_or(0) + 1)
}

#[cfg(test)]
mod tests {
    use super::Cases;

    #[tokio::test]
    async fn a_transaction_that_sqlite_ended_by_itself_does_not_stop_later_ones() {
        let dir = tempfile::tempdir().unwrap();
        let cases = Cases::open(&dir.path().join("cases.sqlite")).await.unwrap();
        let mut tx = cases.begin().await.unwrap();
        // As a full disk does: the transaction is over, and sqlx does not know.
        sqlx::query("ROLLBACK").execute(&mut *tx).await.unwrap();
        drop(tx);
        let tx = cases.begin().await.unwrap();
        cases.end(tx).await.unwrap();
    }
}
