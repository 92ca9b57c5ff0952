//! The file: how it is opened, its two pools, what is kept in memory beside it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{Connection as _, Row as _};
use tokio::sync::Notify;

use super::commit::Interned;
use super::{CasesError, row};
use crate::escalation::feeds::Trouble;
use crate::escalation::{Body, Why};
use crate::model::Severity;

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("src/cases/migrations");

/// The database. Cheap to clone.
#[derive(Clone)]
pub struct Cases {
    pub(super) inner: Arc<Inner>,
}

pub(super) struct Inner {
    path: PathBuf,
    /// One connection: whoever has it is the only writer.
    writer: SqlitePool,
    pub(super) reader: SqlitePool,
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
    /// Whether a commit waits for the disk (`synchronous=FULL`). Only tests that cut no power do without.
    pub durable: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { busy_timeout: Duration::from_secs(5), max_page_count: None, durable: true }
    }
}

/// A transaction of the writer.
pub(super) type Tx = sqlx::Transaction<'static, Sqlite>;

impl Cases {
    /// Changes a transaction takes at most.
    pub const MAX_BATCH: usize = 10_000;
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
        let failed = |e| CasesError::of(path, e);
        let mut connect = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(if options.durable { SqliteSynchronous::Full } else { SqliteSynchronous::Off })
            .busy_timeout(options.busy_timeout)
            // 64 MiB of pages, and as much of log between checkpoints: indexes of a million exceptions are written
            // all over, and a page that many transactions touch goes back to the file once.
            // The statement journal of multi-row inserts stays in memory; it needs no durability.
            .pragma("temp_store", "MEMORY")
            .pragma("cache_size", "-65536")
            .pragma("wal_autocheckpoint", "16384");
        if let Some(pages) = options.max_page_count {
            connect = connect.pragma("max_page_count", pages.to_string());
        }
        let wait = options.busy_timeout + Duration::from_secs(25);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .acquire_timeout(wait)
            .idle_timeout(None)
            .max_lifetime(None)
            // On a full disk or a failed write SQLite ends the transaction by itself; sqlx then counts one that it can never
            // end, and would refuse every later one. Such a connection is of no use any more: another takes its place.
            .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
            .connect_with(connect.clone())
            .await
            .map_err(failed)?;
        MIGRATIONS.run(&writer).await.map_err(|e| failed(e.into()))?;
        let reader = SqlitePoolOptions::new()
            .max_connections(4)
            .acquire_timeout(wait)
            .connect_with(connect.pragma("query_only", "1"))
            .await
            .map_err(failed)?;
        let cases = Cases {
            inner: Arc::new(Inner {
                path: path.to_path_buf(),
                writer,
                reader,
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

    /// Reads what is kept in memory, and ends the leases of the process before: it was the only one (DESIGN §2).
    async fn restore(&self) -> Result<(), CasesError> {
        let rows = sqlx::query("SELECT body, words FROM bodies")
            .fetch_all(&self.inner.reader)
            .await
            .map_err(|e| self.failed(e))?;
        let mut bodies = BTreeMap::new();
        for row in &rows {
            let body = self.body_of(row).map_err(|e| self.failed(e))?;
            bodies.insert(body.number, Arc::new(body));
        }
        *lock(&self.inner.bodies) = bodies;
        let rows =
            sqlx::query("SELECT rule, severity, COUNT(*) FROM exceptions WHERE state <> 'resolved' GROUP BY rule, severity")
                .fetch_all(&self.inner.reader)
                .await
                .map_err(|e| self.failed(e))?;
        let mut open = BTreeMap::new();
        for r in &rows {
            let key = self.counted(r).map_err(|e| self.failed(e))?;
            open.insert(key.0, key.1);
        }
        *lock(&self.inner.open) = open;
        let mut tx = self.begin().await?;
        // Not 0: what was handed out may have arrived, and is never withdrawn.
        sqlx::query("UPDATE outbox SET lease_ms = 1 WHERE state = 'pending' AND lease_ms > 1")
            .execute(&mut *tx)
            .await
            .map_err(|e| self.failed(e))?;
        self.end(tx).await
    }

    fn counted(&self, r: &sqlx::sqlite::SqliteRow) -> sqlx::Result<((String, Severity), i64)> {
        Ok(((r.try_get(0)?, row::severity(r, 1)?), r.try_get(2)?))
    }

    fn body_of(&self, row: &sqlx::sqlite::SqliteRow) -> sqlx::Result<Body> {
        let number = row.try_get(0)?;
        let words: &str = row.try_get(1)?;
        let body: Body = serde_json::from_str(words).map_err(|e| sqlx::Error::Decode(Box::new(e)))?;
        Ok(Body { number, ..body })
    }

    /// Closes the connections after what is under way.
    pub async fn close(&self) {
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

    pub(super) fn failed(&self, error: sqlx::Error) -> CasesError {
        CasesError::of(&self.inner.path, error)
    }

    /// Takes the writer. Nobody else writes until [`Cases::end`] or the transaction is dropped.
    pub(super) async fn begin(&self) -> Result<Tx, CasesError> {
        self.inner.writer.begin_with("BEGIN IMMEDIATE").await.map_err(|e| self.failed(e))
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
pub(super) async fn next_number(tx: &mut SqliteConnection, sql: &'static str) -> sqlx::Result<i64> {
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
