//! What can go wrong with the database, and what to do about it.

use std::path::{Path, PathBuf};

use super::sql::Place;

/// Why the database refused. A caller that folds waits and tries again on all but [`CasesError::Corrupt`] and
/// [`CasesError::Newer`], which need a person, and [`CasesError::Deposed`], after which it has nothing more to say.
#[derive(Debug, thiserror::Error)]
pub enum CasesError {
    /// The file is damaged or is no SQLite database.
    #[error(
        "{path}: the database is damaged or is no SQLite file ({detail}); stop the daemon, put a backup in its place, or move the \
         file away to begin with an empty one (exceptions are made anew from Kafka, acknowledgements and history are not)"
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// Somebody else holds it longer than the busy timeout.
    #[error(
        "{path}: the database is locked by another process; find it with `fuser {path}` and end it (a backup that copies the file, a \
         second daemon, an open sqlite3 shell), it is tried again until then"
    )]
    Locked {
        /// The file.
        path: PathBuf,
    },
    /// No space left.
    #[error(
        "{path}: the disk is full ({detail}); make room, it is tried again until then and nothing is lost meanwhile"
    )]
    Full {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// It cannot be opened, read or written: permissions, a missing folder, a failing disk.
    #[error(
        "{path}: the database cannot be opened or written ({detail}); check that the folder exists and that this user may write it"
    )]
    Unavailable {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
    /// The PostgreSQL server cannot be reached, turns us away, or is going down.
    #[error(
        "{path}: PostgreSQL does not answer as it should ({detail}); check that it runs, that cases.url and cases.password are right and \
         that this user may create tables there; it is tried again until then and nothing is lost meanwhile"
    )]
    Server {
        /// Its address, without the password.
        path: PathBuf,
        /// Its words.
        detail: String,
    },
    /// Another process has taken over what this one did; it wrote nothing.
    #[error(
        "{path}: {detail}; this process was silent for too long (stopped, or cut off from the database), and nothing of what it wanted to \
         write was written"
    )]
    Deposed {
        /// The database.
        path: PathBuf,
        /// Who took what.
        detail: String,
    },
    /// A later version of the program made it.
    #[error(
        "{path}: the database was made by a newer parcelwatch ({detail}); start that version, or restore the backup made before it"
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Which migration.
        detail: String,
    },
    /// Anything else: a fault of the program.
    #[error(
        "{path}: the database refused a statement ({detail}); this is a fault of parcelwatch, please report it"
    )]
    Statement {
        /// The file.
        path: PathBuf,
        /// SQLite's words.
        detail: String,
    },
}

impl CasesError {
    /// Whether waiting may help.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        !matches!(self, CasesError::Corrupt { .. } | CasesError::Newer { .. } | CasesError::Deposed { .. })
    }

    /// One word for metrics and logs: `corrupt`, `locked`, `full`, `unavailable`, `server`, `deposed`, `newer`, `statement`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            CasesError::Corrupt { .. } => "corrupt",
            CasesError::Locked { .. } => "locked",
            CasesError::Full { .. } => "full",
            CasesError::Unavailable { .. } => "unavailable",
            CasesError::Server { .. } => "server",
            CasesError::Deposed { .. } => "deposed",
            CasesError::Newer { .. } => "newer",
            CasesError::Statement { .. } => "statement",
        }
    }

    /// Sorts what sqlx said.
    pub(super) fn of(place: &Place, error: sqlx::Error) -> CasesError {
        let path = place.shown();
        let detail = error.to_string();
        let cause = match &error {
            sqlx::Error::Migrate(m) => match CasesError::of_migration(&path, m) {
                Ok(cause) => cause,
                Err(error) => return error,
            },
            other => other,
        };
        match place {
            Place::File(_) => CasesError::of_file(path, cause, detail),
            Place::Server(_) => CasesError::of_server(path, cause, detail),
        }
    }

    fn of_file(path: PathBuf, error: &sqlx::Error, detail: String) -> CasesError {
        let code = match error {
            sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<i64>().ok()).map(|c| c & 0xff),
            sqlx::Error::PoolTimedOut => return CasesError::Locked { path },
            sqlx::Error::Io(_) | sqlx::Error::WorkerCrashed | sqlx::Error::PoolClosed => {
                return CasesError::Unavailable { path, detail };
            }
            _ => None,
        };
        // Primary result codes of https://sqlite.org/rescode.html.
        match code {
            Some(5 | 6) => CasesError::Locked { path },
            Some(11 | 26) => CasesError::Corrupt { path, detail },
            Some(13) => CasesError::Full { path, detail },
            Some(3 | 8 | 10 | 14 | 23) => CasesError::Unavailable { path, detail },
            _ => CasesError::Statement { path, detail },
        }
    }

    fn of_server(path: PathBuf, error: &sqlx::Error, detail: String) -> CasesError {
        let code = match error {
            sqlx::Error::Database(e) => e.code().unwrap_or_default().into_owned(),
            sqlx::Error::Encode(_)
            | sqlx::Error::Decode(_)
            | sqlx::Error::ColumnDecode { .. }
            | sqlx::Error::RowNotFound => {
                return CasesError::Statement { path, detail };
            }
            // A connection that broke, a pool that found none, TLS, the protocol.
            _ => return CasesError::Server { path, detail },
        };
        // Classes of https://www.postgresql.org/docs/current/errcodes-appendix.html: 53100 disk_full; 55P03 lock_not_available, 40… a
        // transaction rolled back; 08 connection, 25 (006: a standby takes no writes; P03: idle too long), 28 authorization, 3D no such
        // database, 42501 insufficient_privilege, 53 resources, 57 intervention (a shutdown, a statement's time limit), 58 system.
        match (code.get(..2).unwrap_or_default(), code.as_str()) {
            (_, "53100") => CasesError::Full { path, detail },
            (_, "55P03") | ("40", _) => CasesError::Locked { path },
            ("XX", _) => CasesError::Corrupt { path, detail },
            (_, "42501") | ("08" | "25" | "28" | "3D" | "53" | "57" | "58", _) => {
                CasesError::Server { path, detail }
            }
            _ => CasesError::Statement { path, detail },
        }
    }

    /// What the database itself refused in the midst of a migration, or what is wrong with the migrations.
    fn of_migration<'e>(
        path: &Path,
        error: &'e sqlx::migrate::MigrateError,
    ) -> Result<&'e sqlx::Error, CasesError> {
        use sqlx::migrate::MigrateError as M;
        let detail = error.to_string();
        let path = path.to_path_buf();
        match error {
            M::Execute(cause) | M::ExecuteMigration(cause, _) => Ok(cause),
            M::VersionMissing(_) | M::VersionMismatch(_) | M::VersionTooNew(..) => {
                Err(CasesError::Newer { path, detail })
            }
            _ => Err(CasesError::Statement { path, detail }),
        }
    }
}
