//! Changes committed to SQLite: a change's row and its exception's, `synchronous=FULL`, 10,000 a transaction, into a
//! million exceptions that the same commit has written before.
//!
//! `cargo bench --bench cases -- --exceptions 1000000 --changes 100000`; with `--url postgres://user@host/database` into that PostgreSQL
//! (an empty schema, which it fills), while the baseline stays what it is. The baseline, from the same run: bare multi-row
//! inserts of as many rows and columns into one plain table without an index, same pragmas, same evidence. Nothing is
//! asserted.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parcelwatch::cases::{Batch, Cases, Options, Place, Recorded, Server};
use parcelwatch::config::read_rules;
use parcelwatch::engine::{Lifetimes, Record, Shard};
use parcelwatch::model::{Change, ChangeKind, DAY, HOUR, Time};
use parcelwatch::rules::compile;
use parcelwatch::runtime::daemon::InForce;
use parcelwatch::source::decode::{FactNames, decode};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, SqliteConnection};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// 2026-01-01.
const EPOCH: i64 = 1_767_225_600_000;
/// Columns of `changes` and of `exceptions`.
const WIDTHS: [usize; 2] = [17, 38];
/// Rows of a statement of the baseline: as many as the product takes.
const ROWS: usize = 250;
const PARTITIONS: u64 = 12;

/// One parcel's life as the engine tells it under the shipped rules: opened, raised, resolved.
fn life(in_force: &InForce) -> [Change; 3] {
    let record = |step: i64, milestone: &str, class: &str, more: &str| {
        let time = Time(EPOCH + step * HOUR);
        let text = format!(
            "{{\"event_id\":\"e{step}\",\"parcel_id\":\"P\",\"milestone\":\"{milestone}\",\"evidence_class\":\"{class}\",\
             \"event_time\":\"{time}\",\"location\":{{\"country\":\"ES\",\"facility\":\"ES07\"}},\"source\":{{\"system\":\
             \"correos\",\"role\":\"carrier\"}},\"tracking_number\":\"LP00012345678ES\"{more}}}"
        );
        (time, text)
    };
    let records = [
        record(
            0,
            "order_created",
            "electronic_notice",
            ",\"lane\":\"CN-ES\",\"order_id\":\"0012345678\",\"seller_id\":\"S0012345\"",
        ),
        record(90, "picked_up", "physical_scan", ",\"broker\":\"b-iberia\",\"carrier\":\"cainiao\""),
        record(
            200,
            "arrived_destination_country",
            "physical_scan",
            ",\"service_level\":\"std\",\"duty_status\":\"prepaid\"",
        ),
        record(
            210,
            "import_customs_started",
            "electronic_notice",
            ",\"broker_reference\":\"26ES00000012345678\"",
        ),
        record(230, "import_customs_cleared", "electronic_notice", ",\"domestic_carrier\":\"correos\""),
        record(230 + 60, "domestic_scan", "physical_scan", ""),
    ];
    let mut shard = Shard::new(in_force.rules.clone(), Lifetimes::default(), true);
    let (names, mut changes) = (FactNames::new([]), Vec::new());
    for (offset, (time, text)) in records.iter().enumerate() {
        let event = decode(text.as_bytes(), &names).expect("the records are good");
        let record = Record { offset: offset as i64, append: *time, event: Ok(&event) };
        shard.fold(&[record], usize::MAX, &mut changes);
    }
    shard.advance(Time(EPOCH + 30 * DAY), usize::MAX, &mut changes);
    let mut of = |name: &str| {
        let at = changes.iter().position(|c| &*c.rule == "cleared_no_domestic_scan" && c.kind.name() == name);
        changes.remove(at.unwrap_or_else(|| panic!("the shipped rules give no {name}: {changes:#?}")))
    };
    [of("opened"), of("raised"), of("resolved")]
}

/// The `i`-th parcel's own.
fn of_parcel(change: &Change, i: u64, offset: i64) -> Change {
    // Ids of parcels come in no order.
    let mixed = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    Change { parcel_id: format!("P{mixed:016x}").into(), offset, ..change.clone() }
}

struct Store<'a> {
    cases: Cases,
    in_force: &'a InForce,
    offset: i64,
}

impl Store<'_> {
    /// Commits this change of these parcels, 10,000 a transaction. How long the commits took.
    async fn commit(&mut self, change: &Change, parcels: impl IntoIterator<Item = u64>) -> Duration {
        let mut took = Duration::ZERO;
        let mut parcels = parcels.into_iter();
        loop {
            let changes: Vec<Change> = parcels
                .by_ref()
                .take(Cases::MAX_BATCH)
                .map(|i| {
                    self.offset += 1;
                    of_parcel(change, i, self.offset)
                })
                .collect();
            if changes.is_empty() {
                return took;
            }
            let partition = (self.offset as u64 / Cases::MAX_BATCH as u64 % PARTITIONS) as i32;
            let recorded = Recorded {
                position: self.offset + 1,
                watermark: change.at,
                rules_hash: self.in_force.rules.hash.clone(),
            };
            let batch = Batch {
                partition,
                changes: &changes,
                heard: &[],
                rules: &self.in_force.rules,
                policies: &self.in_force.policies,
                recorded: &recorded,
                now_ms: change.at.0,
            };
            let started = Instant::now();
            let committed = self.cases.commit(&batch).await.expect("the database takes it");
            took += started.elapsed();
            let new = committed.new.iter().filter(|n| **n).count();
            assert_eq!(new, changes.len(), "every change has to be new, or the figure is none");
        }
    }
}

async fn plain(path: &Path) -> SqliteConnection {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .pragma("cache_size", "-65536")
        .pragma("wal_autocheckpoint", "16384");
    let mut connection = options.connect().await.expect("a new file opens");
    let columns: Vec<String> = (0..WIDTHS[1]).map(|i| format!("c{i} BIGINT")).collect();
    let sql = format!("CREATE TABLE plain ({})", columns.join(", "));
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect("the statement is good");
    connection
}

/// As many rows as `changes` changes write, as wide: 17 columns with the evidence, and 38 with the texts of an exception.
async fn insert_plain(connection: &mut SqliteConnection, change: &Change, changes: u64) -> Duration {
    let statements = WIDTHS.map(|width| {
        let columns: Vec<String> = (0..width).map(|i| format!("c{i}")).collect();
        let row = format!("({})", vec!["?"; width].join(", "));
        format!("INSERT INTO plain ({}) VALUES {}", columns.join(", "), vec![row; ROWS].join(", "))
    });
    let evidence = change.evidence.as_deref().unwrap_or_default();
    let (id, name) = (change.exception_id(), "0123456789abcdef0123456789abcdef");
    let started = Instant::now();
    let mut left = changes as usize;
    while left > 0 {
        let mut tx = connection.begin_with("BEGIN IMMEDIATE").await.expect("nobody else writes");
        let these = left.min(Cases::MAX_BATCH);
        for _ in 0..these.div_ceil(ROWS) {
            for (statement, width) in statements.iter().zip(WIDTHS) {
                let mut query = sqlx::query(AssertSqlSafe(statement.as_str()));
                // The texts that such a row has, the rest numbers.
                let texts: &[&str] = match width {
                    17 => &[name, "opened", "", name, evidence],
                    _ => &[&id, &change.rule, &change.parcel_id, "", "open", "opened", "", "", "", name],
                };
                for row in 0..ROWS {
                    for text in texts {
                        query = query.bind((*text).to_owned());
                    }
                    for column in texts.len()..width {
                        query = query.bind(EPOCH + (row * column) as i64);
                    }
                }
                query.execute(&mut *tx).await.expect("the statement is good");
            }
        }
        tx.commit().await.expect("the disk takes it");
        left -= these;
    }
    started.elapsed()
}

fn rate(n: u64, took: Duration) -> f64 {
    n as f64 / took.as_secs_f64()
}

async fn measure(dir: &Path, place: &Place, exceptions: u64, changes: u64) {
    let rules = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("rules");
    let loaded = compile(&read_rules(&rules).expect("the shipped rules can be read"));
    let in_force = InForce::of(loaded).expect("the shipped rules are good");
    let [opened, raised, resolved] = life(&in_force);
    println!(
        "{changes} changes each into {exceptions} exceptions, {} bytes of evidence, {} a transaction, synchronous=FULL",
        opened.evidence.as_deref().map_or(0, str::len),
        Cases::MAX_BATCH
    );
    let mut bare = plain(&dir.join("plain.sqlite")).await;
    let before = rate(changes, insert_plain(&mut bare, &opened, changes).await);
    let cases = Cases::connect(place, &Options::default()).await.expect("an empty database opens");
    let mut store = Store { cases, in_force: &in_force, offset: 0 };
    let took = store.commit(&opened, 0..exceptions).await;
    println!(
        "built: {exceptions} opened in {:.1} s, {:.1} k/s",
        took.as_secs_f64(),
        rate(exceptions, took) / 1e3
    );
    let told = |what: &str, took: Duration, bare: f64| {
        let rate = rate(changes, took);
        println!("  {what:<34} {:7.1} k changes/s  {:.2} x", rate / 1e3, rate / bare);
    };
    // What is raised and resolved lies all over the table.
    let stride = (exceptions / changes.max(1)).max(1);
    let scattered = || (0..changes.min(exceptions)).map(|i| i * stride);
    let new = store.commit(&opened, exceptions..exceptions + changes).await;
    let up = store.commit(&raised, scattered()).await;
    let down = store.commit(&resolved, scattered()).await;
    let after = rate(changes, insert_plain(&mut bare, &opened, changes).await);
    let baseline = before.max(after);
    println!(
        "  bare inserts, one plain table      {:7.1} k changes/s  (baseline; {:.1} before, {:.1} after)",
        baseline / 1e3,
        before / 1e3,
        after / 1e3
    );
    told("opened: exception and change new", new, baseline);
    told("raised: exception written over", up, baseline);
    told("resolved: exception written over", down, baseline);
    store.cases.close().await;
    if let Place::File(file) = place {
        let size = std::fs::metadata(file).map_or(0, |m| m.len());
        println!("  file: {} MB, {} bytes an exception", size >> 20, size / (exceptions + changes));
    }
    assert!(matches!(resolved.kind, ChangeKind::Resolved(_)));
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(default)
    };
    let exceptions = number("--exceptions", 1_000_000);
    let changes = number("--changes", 100_000).min(exceptions);
    let dir = tempfile::Builder::new()
        .prefix("cases-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a directory");
    let url = args.iter().position(|a| a == "--url").and_then(|i| args.get(i + 1));
    let place = url.map_or_else(
        || Place::File(dir.path().join("cases.sqlite")),
        |url| Place::Server(Server::new(url, None).expect("postgres://user@host/database")),
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
    runtime.expect("threads").block_on(measure(dir.path(), &place, exceptions, changes));
}
