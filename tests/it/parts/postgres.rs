//! A real PostgreSQL, without root, on a free port; each test has a schema of its own in it, or a server of its own.

use super::process::{Process, free_port};
use super::{PATIENCE, block_on, need, poll};
use sqlx::Connection as _;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

use tempfile::TempDir;

/// `nobody` and its group on Debian: PostgreSQL refuses to run as root.
const NOBODY: u32 = 65534;
/// The one user, who needs no password.
const USER: &str = "parcelwatch";

pub struct Postgres {
    dir: TempDir,
    port: u16,
    process: Mutex<Process>,
}

impl Postgres {
    /// The one server that tests share.
    pub fn shared() -> &'static Postgres {
        static SHARED: OnceLock<Postgres> = OnceLock::new();
        // A static is not dropped; what it holds must still not stay behind on the disk.
        extern "C" fn clean_up() {
            if let Some(postgres) = SHARED.get() {
                super::lock(&postgres.process).kill();
                let _ = std::fs::remove_dir_all(postgres.dir.path());
            }
        }
        SHARED.get_or_init(|| {
            // SAFETY: the handler takes no arguments, does not unwind, and what it touches lives in a static.
            unsafe { libc::atexit(clean_up) };
            Postgres::start()
        })
    }

    pub fn start() -> Postgres {
        need("postgres");
        // In the system's own place for such things: the user `nobody` may not be able to enter the project's.
        let dir = tempfile::Builder::new().prefix("postgres-").tempdir().unwrap();
        let programs = programs();
        if as_root() {
            chown(dir.path(), Some(NOBODY), Some(NOBODY)).unwrap();
        }
        let mut init = command(&programs.join("initdb"), dir.path());
        init.arg("-D").arg(dir.path().join("data"));
        init.args([
            "-U",
            USER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--locale=C.UTF-8",
            "--no-sync",
            "--no-instructions",
        ]);
        let out = init.output().unwrap();
        assert!(out.status.success(), "initdb: {}", String::from_utf8_lossy(&out.stderr));
        // A port may be taken between looking and binding; then PostgreSQL ends at once and another is tried.
        let (port, process) = (0..5)
            .find_map(|_| {
                let port = free_port();
                Some((port, serve(&programs, dir.path(), port)?))
            })
            .expect("PostgreSQL found its port taken five times");
        Postgres { dir, port, process: Mutex::new(process) }
    }

    /// A schema of its own, as `cases.url` names it.
    pub fn schema(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        // Programs that share a server would not share a number; they have servers of their own.
        let name = format!("t{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        self.sql(&format!("CREATE SCHEMA {name}"));
        format!("postgres://{USER}@127.0.0.1:{}/postgres?options[search_path]={name}", self.port)
    }

    pub fn sql(&self, statement: &str) {
        let url = format!("postgres://{USER}@127.0.0.1:{}/postgres", self.port);
        block_on(async {
            let mut connection = sqlx::PgConnection::connect(&url).await.expect("connects");
            sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()))
                .execute(&mut connection)
                .await
                .expect("does");
        });
    }

    /// Ends it as a power cut does.
    pub fn kill(&self) {
        super::lock(&self.process).kill();
    }

    /// Starts it again, on the port and with the data that it had.
    pub fn again(&self) {
        let process = serve(&programs(), self.dir.path(), self.port).expect("its own port is free");
        *super::lock(&self.process) = process;
    }
}

fn serve(programs: &Path, dir: &Path, port: u16) -> Option<Process> {
    let mut serve = command(&programs.join("postgres"), dir);
    serve.arg("-D").arg(dir.join("data")).arg("-k").arg(dir).args([
        "-h",
        "127.0.0.1",
        "-p",
        &port.to_string(),
    ]);
    // Nothing here survives a power cut, and need not; commits are as synchronous as ever.
    serve.args([
        "-F",
        "-c",
        "full_page_writes=off",
        "-c",
        "shared_buffers=64MB",
        "-c",
        "max_connections=300",
    ]);
    let mut process = Process::start("PostgreSQL", serve);
    let up = poll("PostgreSQL to be ready", PATIENCE, || match process.ended() {
        Some(_) if process.tail().contains("Address already in use") => Ok(false),
        Some(status) => panic!("PostgreSQL ended: {status}\n{}", process.tail()),
        None => {
            let ready = Command::new(programs.join("pg_isready"))
                .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string(), "-U", USER, "-d", "postgres"])
                .status()
                .unwrap();
            ready.success().then_some(true).ok_or_else(|| process.tail())
        }
    });
    up.then_some(process)
}

/// Run by `nobody` where the tests run as root, in a folder that this one may enter.
fn command(program: &Path, dir: &Path) -> Command {
    let mut command = Command::new(program);
    command.current_dir(dir);
    if as_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
}

fn as_root() -> bool {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Where Debian keeps them: not on the PATH.
fn programs() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.map(|v| v.unwrap().path()).max_by_key(|path| version(path)).expect("a version");
    newest.join("bin")
}

fn version(path: &Path) -> u32 {
    path.file_name().and_then(|name| name.to_str()?.parse().ok()).unwrap_or(0)
}
