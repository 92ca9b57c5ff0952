//! What the two databases have in common, and the little they have not (DESIGN §2): SQLite inside the process, PostgreSQL where several
//! processes share the work. Statements are the same text for both; only a list of very many placeholders is not.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::Connection as _;
use sqlx::SqlSafeStr as _;
use sqlx::any::{AnyConnectOptions, AnyPoolOptions};
use sqlx::migrate::{Migration, Migrator};
use sqlx::{AnyPool, AssertSqlSafe, ConnectOptions as _};

use super::store::Options;

/// A connection of the pool.
pub(super) type Conn = sqlx::AnyConnection;
/// A row of an answer.
pub(super) type Row = sqlx::any::AnyRow;
/// A transaction of the writer.
pub(super) type Tx = sqlx::Transaction<'static, sqlx::Any>;
/// A query with its arguments bound.
pub(super) type Query<'q> = sqlx::query::Query<'q, sqlx::Any, sqlx::any::AnyArguments>;

/// Written for SQLite; [`migrator`] makes the others of them.
static MIGRATIONS: Migrator = sqlx::migrate!("src/cases/migrations");

/// Where the database is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// A file of SQLite, made where there is none.
    File(PathBuf),
    /// A database of a PostgreSQL server, which several processes may share.
    Server(Server),
}

/// How a PostgreSQL is reached.
#[derive(Clone, PartialEq, Eq)]
pub struct Server {
    /// `postgres://user:password@host:port/database?sslmode=…`.
    url: url::Url,
}

/// Without its password.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shown())
    }
}

impl Server {
    /// Of `cases.url` and `cases.password`.
    ///
    /// # Errors
    /// What is wrong with the address, for people.
    pub fn new(url: &str, password: Option<&str>) -> Result<Server, String> {
        let mut url = url::Url::parse(url).map_err(|e| e.to_string())?;
        if !matches!(url.scheme(), "postgres" | "postgresql") {
            return Err("it begins with postgres://".to_owned());
        }
        if url.password().is_some() {
            return Err("a password in it would be seen in logs; put it into cases.password".to_owned());
        }
        if url.path().trim_matches('/').is_empty() {
            return Err("it names no database: postgres://user@host/database".to_owned());
        }
        if password.is_some() && url.set_password(password).is_err() {
            return Err("it names no host: postgres://user@host/database".to_owned());
        }
        Ok(Server { url })
    }

    fn shown(&self) -> String {
        let mut url = self.url.clone();
        let _ = url.set_password(None);
        url.set_query(None);
        url.to_string()
    }
}

impl Place {
    /// As messages show it: a path, or an address without its password.
    pub(super) fn shown(&self) -> PathBuf {
        match self {
            Place::File(path) => path.clone(),
            Place::Server(server) => server.shown().into(),
        }
    }

    /// Whether it is a PostgreSQL.
    pub(super) const fn is_server(&self) -> bool {
        matches!(self, Place::Server(_))
    }

    /// The one connection that writes. A transaction that takes it has nobody beside it, in this process or another.
    pub(super) async fn writer(&self, options: &Options) -> sqlx::Result<AnyPool> {
        self.pool(1, options, false).await
    }

    /// The connections that read.
    pub(super) async fn reader(&self, options: &Options) -> sqlx::Result<AnyPool> {
        self.pool(4, options, true).await
    }

    async fn pool(&self, connections: u32, options: &Options, reads: bool) -> sqlx::Result<AnyPool> {
        sqlx::any::install_default_drivers();
        let (url, setup) = match self {
            Place::File(path) => (file_url(path)?, pragmas(options, reads)),
            Place::Server(server) => (server.url.clone(), session(reads)),
        };
        let connect = AnyConnectOptions::from_url(&url)?;
        // Once without the pool, which would try again what cannot succeed and then say only that it took too long.
        let mut first = connect.connect().await?;
        prepare(&mut first, &setup).await?;
        first.close().await?;
        let patience = if self.is_server() {
            Duration::from_secs(10)
        } else {
            options.busy_timeout + Duration::from_secs(25)
        };
        let pool = AnyPoolOptions::new()
            .max_connections(connections)
            .acquire_timeout(patience)
            // On a full disk or a failed write SQLite ends the transaction by itself; sqlx then counts one that it can never
            // end, and would refuse every later one. Such a connection is of no use any more: another takes its place.
            .before_acquire(|connection, _| Box::pin(std::future::ready(Ok(!connection.is_in_transaction()))))
            .after_connect(move |connection, _| {
                let setup = setup.clone();
                Box::pin(async move { prepare(connection, &setup).await })
            });
        let pool = if reads { pool } else { pool.idle_timeout(None).max_lifetime(None) };
        pool.connect_with(connect).await
    }

    /// Brings the tables up to date.
    pub(super) async fn migrate(&self, writer: &AnyPool) -> sqlx::Result<()> {
        Ok(migrator(self.is_server()).run(writer).await?)
    }

    /// How a transaction that writes begins: it waits until nobody else writes. PostgreSQL would let transactions run side by side, and
    /// everything here, from the numbers of rows to the fold of an exception, reads before it writes; the lock lets readers pass, and
    /// autovacuum gives way to it.
    pub(super) const fn begin(&self) -> &'static str {
        match self {
            Place::File(_) => "BEGIN IMMEDIATE",
            Place::Server(_) => "BEGIN; LOCK TABLE settings IN EXCLUSIVE MODE",
        }
    }
}

async fn prepare(connection: &mut Conn, setup: &[String]) -> sqlx::Result<()> {
    for statement in setup {
        sqlx::raw_sql(AssertSqlSafe(statement.clone())).execute(&mut *connection).await?;
    }
    Ok(())
}

fn file_url(path: &Path) -> sqlx::Result<url::Url> {
    let bad = |what: &str| sqlx::Error::Configuration(what.to_owned().into());
    let path = std::path::absolute(path).map_err(sqlx::Error::Io)?;
    let file = url::Url::from_file_path(path).map_err(|()| bad("no path of a file"))?;
    url::Url::parse(&format!("sqlite://{}?mode=rwc", file.path())).map_err(|e| bad(&e.to_string()))
}

fn pragmas(options: &Options, reads: bool) -> Vec<String> {
    let mut set = vec![
        format!("PRAGMA busy_timeout = {}", options.busy_timeout.as_millis()),
        "PRAGMA journal_mode = WAL".to_owned(),
        format!("PRAGMA synchronous = {}", if options.durable { "FULL" } else { "OFF" }),
        // The statement journal of multi-row inserts stays in memory; it needs no durability.
        "PRAGMA temp_store = MEMORY".to_owned(),
        // 64 MiB of pages, and as much of log between checkpoints: indexes of a million exceptions are written all over, and a page
        // that many transactions touch goes back to the file once.
        "PRAGMA cache_size = -65536".to_owned(),
        "PRAGMA wal_autocheckpoint = 16384".to_owned(),
    ];
    if let Some(pages) = options.max_page_count {
        set.push(format!("PRAGMA max_page_count = {pages}"));
    }
    if reads {
        set.push("PRAGMA query_only = 1".to_owned());
    }
    set
}

/// A statement that takes minutes is one of a server in trouble: better an error that is tried again. A process that is stopped within a
/// transaction holds everybody up: after five seconds the server ends it.
fn session(reads: bool) -> Vec<String> {
    let mut set = vec![
        "SET application_name = 'parcelwatch'".to_owned(),
        "SET statement_timeout = '5min'".to_owned(),
        "SET lock_timeout = '30s'".to_owned(),
        "SET idle_in_transaction_session_timeout = '5s'".to_owned(),
    ];
    if reads {
        set.push("SET default_transaction_read_only = on".to_owned());
    }
    set
}

/// The migrations as this database takes them. `INTEGER PRIMARY KEY` is SQLite's row number, of 64 bits; the checksums are those of the
/// files.
fn migrator(server: bool) -> Migrator {
    let migrations = MIGRATIONS.iter().map(|m| {
        let sql = if server {
            let text = m.sql.as_str().replace("INTEGER PRIMARY KEY", "BIGINT PRIMARY KEY");
            AssertSqlSafe(text).into_sql_str()
        } else {
            m.sql.clone()
        };
        Migration { sql, ..m.clone() }
    });
    Migrator { migrations: migrations.collect::<Vec<_>>().into(), ..Migrator::DEFAULT }
}

/// Which of the two a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Dialect {
    /// SQLite's.
    Sqlite,
    /// PostgreSQL's.
    Postgres,
}

impl Dialect {
    /// Of this connection.
    pub(super) fn of(conn: &Conn) -> Dialect {
        if conn.backend_name() == "SQLite" { Dialect::Sqlite } else { Dialect::Postgres }
    }
}

/// `head` with `rows` times `width` placeholders and `tail`. SQLite takes `(?, ?), …`: to it `$N` are names, and each is looked for among
/// all the others when it is parsed and again when it is bound (a hundred times slower at 10,000 of them). PostgreSQL takes `$N` only.
pub(super) fn values_sql(dialect: Dialect, head: &str, width: usize, rows: usize, tail: &str) -> String {
    if dialect == Dialect::Sqlite {
        let row = format!(" ({})", vec!["?"; width].join(", "));
        return format!("{head}{}{tail}", vec![row.as_str(); rows].join(","));
    }
    let mut sql = String::with_capacity(head.len() + tail.len() + rows * (width * 7 + 4));
    sql.push_str(head);
    for row in 0..rows {
        sql.push_str(if row == 0 { " (" } else { ", (" });
        for column in 0..width {
            let comma = if column == 0 { "" } else { ", " };
            let _ =
                std::fmt::Write::write_fmt(&mut sql, format_args!("{comma}${}", row * width + column + 1));
        }
        sql.push(')');
    }
    sql.push_str(tail);
    sql
}

/// `head` with one list of `count` placeholders and `tail`.
pub(super) fn list_sql(dialect: Dialect, head: &str, count: usize, tail: &str) -> String {
    values_sql(dialect, head, count, 1, tail)
}

/// The placeholder of the argument with this number, which comes after a list of all before it.
pub(super) fn placeholder(dialect: Dialect, number: usize) -> String {
    match dialect {
        Dialect::Sqlite => "?".to_owned(),
        Dialect::Postgres => format!("${number}"),
    }
}
