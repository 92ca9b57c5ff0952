//! What can go wrong with the database, and what to do about it.

use std::path::{Path, PathBuf};

/// Why the database refused. A caller that folds waits and tries again on all but [`CasesError::Corrupt`] and
/// [`CasesError::Newer`], which need a person.
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
        !matches!(self, CasesError::Corrupt { .. } | CasesError::Newer { .. })
    }

    /// One word for metrics and logs: `corrupt`, `locked`, `full`, `unavailable`, `newer`, `statement`.
    #[must_use]
    pub const fn reason(&self) -> &'static str {
        match self {
            CasesError::Corrupt { .. } => "corrupt",
            CasesError::Locked { .. } => "locked",
            CasesError::Full { .. } => "full",
            CasesError::Unavailable { .. } => "unavailable",
            CasesError::Newer { .. } => "newer",
            CasesError::Statement { .. } => "statement",
        }
    }

    /// Sorts what sqlx said.
    pub(super) fn of(path: &Path, error: sqlx::Error) -> CasesError {
        let path = path.to_path_buf();
        let detail = error.to_string();
        let code = match &error {
            sqlx::Error::Database(e) => e.code().and_then(|c| c.parse::<i64>().ok()).map(|c| c & 0xff),
            sqlx::Error::PoolTimedOut => return CasesError::Locked { path },
            sqlx::Error::Migrate(m) => return CasesError::of_migration(&path, m),
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

    fn of_migration(path: &Path, error: &sqlx::migrate::MigrateError) -> CasesError {
        use sqlx::migrate::MigrateError as M;
        let detail = error.to_string();
        let path = path.to_path_buf();
        match error {
            M::VersionMissing(_) | M::VersionMismatch(_) | M::VersionTooNew(..) => {
                CasesError::Newer { path, detail }
            }
            _ => CasesError::Statement { path, detail },
        }
    }
}
