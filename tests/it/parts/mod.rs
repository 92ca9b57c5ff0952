//! Real servers and scripted ones for the tests: each in a directory of its own, on a free port, dead with the test.
//!
//! - [`kafka`]: Apache Kafka; [`postgres`]: PostgreSQL; [`exim`]: a real mail server; [`alertmanager`]: Alertmanager; [`prometheus`]: Prometheus, promtool and the checkers of `deploy/`
//! - [`smtp`], [`webhook`]: servers in this process that misbehave on demand and keep what they got
//! - [`daemon`]: parcelwatch itself, run as its users run it
//!
//! Whatever waits has a deadline, and says what it waited for and what it saw when that passes.
#![allow(dead_code)] // a toolbox: not every tool is in use at every time

pub mod alertmanager;
pub mod daemon;
pub mod exim;
pub mod http;
pub mod kafka;
pub mod postgres;
pub mod process;
pub mod prometheus;
pub mod smtp;
pub mod tls;
pub mod webhook;

use std::collections::HashMap;
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// How long a test waits for what should come at once. Generous: the machine may be building something beside.
pub const PATIENCE: Duration = Duration::from_secs(60);

pub fn repository() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Where `tests/parts.sh` keeps what it fetched.
pub fn cache() -> PathBuf {
    let dir = std::env::var_os("PARCELWATCH_PARTS").unwrap_or_else(|| "target/parts".into());
    repository().join(dir)
}

/// A file that lives as long as this program of tests: removed when it exits.
pub fn scratch_file(name: &str) -> PathBuf {
    static FILES: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());
    extern "C" fn clean_up() {
        lock(&FILES).drain(..).for_each(|file| drop(std::fs::remove_file(file)));
    }
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut files = lock(&FILES);
    if files.is_empty() {
        // SAFETY: the handler takes no arguments, does not unwind, and what it touches lives in a static.
        unsafe { libc::atexit(clean_up) };
    }
    files.push(path.clone());
    path
}

/// Sees to it that a real part is on this machine, or fails the test that needs it: a test without its server proves nothing, so
/// it must not pass as skipped. Asked once per part and process; `parts.sh` itself holds a lock against other processes.
pub fn need(part: &'static str) {
    static ASKED: OnceLock<Mutex<HashMap<&str, Result<(), String>>>> = OnceLock::new();
    let mut asked = lock(ASKED.get_or_init(Mutex::default));
    let answer = asked.entry(part).or_insert_with(|| {
        let out = Command::new(repository().join("tests/parts.sh"))
            .args(["fetch", part])
            .output()
            .map_err(|e| format!("tests/parts.sh does not start: {e}"))?;
        match out.status.success() {
            true => Ok(()),
            false => Err(String::from_utf8_lossy(&out.stderr).into_owned()),
        }
    });
    let answer = answer.clone();
    drop(asked);
    if let Err(why) = answer {
        panic!("this test needs the real {part}, which `tests/parts.sh fetch {part}` could not get:\n{why}");
    }
}

/// Waits for something outside this process that can only be asked. `what` and the last answer tell the reader of a failure.
pub fn poll<T>(what: &str, within: Duration, mut ask: impl FnMut() -> Result<T, String>) -> T {
    let end = Instant::now() + within;
    loop {
        match ask() {
            Ok(value) => return value,
            Err(seen) if Instant::now() > end => panic!("waited {within:?} in vain for {what}; last: {seen}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

/// Runs a future to its end, on a thread of its own so that it works inside and outside of tokio.
pub fn block_on<F: Future + Send>(future: F) -> F::Output
where
    F::Output: Send,
{
    std::thread::scope(|s| {
        let run =
            || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
        s.spawn(run).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A lock that a failed test elsewhere does not poison for everyone who shares the server.
pub fn lock<T: ?Sized>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What a server caught, and the bell that rings when more comes: waiting needs no polling.
pub struct Caught<T> {
    items: Mutex<Vec<T>>,
    more: Condvar,
}

impl<T> Default for Caught<T> {
    fn default() -> Self {
        Caught { items: Mutex::default(), more: Condvar::new() }
    }
}

impl<T: Clone> Caught<T> {
    pub fn push(&self, item: T) {
        lock(&self.items).push(item);
        self.more.notify_all();
    }

    pub fn all(&self) -> Vec<T> {
        lock(&self.items).clone()
    }

    pub fn clear(&self) {
        lock(&self.items).clear();
    }

    /// Waits until `pick` finds in everything caught so far what the test is after.
    /// `None` once the time is over: the caller knows best what to print.
    pub fn wait<R>(&self, within: Duration, mut pick: impl FnMut(&[T]) -> Option<R>) -> Option<R> {
        let end = Instant::now() + within;
        let mut items = lock(&self.items);
        loop {
            if let Some(found) = pick(&items) {
                return Some(found);
            }
            let left = end.checked_duration_since(Instant::now())?;
            items = self.more.wait_timeout(items, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
