//! Rules, policies and changes made by hand, and an escalator whose clock the test moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use parcelwatch::cases::{Batch, Cases, CasesError, Committed, Options, Place, Recorded, Server};
use parcelwatch::escalation::feeds::Heard;
use parcelwatch::model::{Change, ChangeKind, DerivedTime, FactRef, Resolution, Severity, Time, known_fact};
use parcelwatch::rules::policies::{OwnerRoute, Policies, Policy, Receiver, ReceiverKind, SecretText, Step};
use parcelwatch::rules::ruleset::{
    Anchor, AnchorSource, Body, CalendarRef, ClassFilter, Expect, Matcher, Rule, RuleSet, Scalar, Span,
    Stage, Test, Tolerance,
};
use parcelwatch::runtime::clock::WallClock;
use parcelwatch::runtime::escalator::{Backlog, Escalator, Memory};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::parts::postgres::Postgres;

pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
/// 2026-10-14T07:00:00Z.
pub const START: i64 = 1_791_961_200_000;

/// A clock that stands until it is moved.
#[derive(Default)]
pub struct HandClock(AtomicI64);

impl HandClock {
    pub fn set(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

impl WallClock for HandClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }

    fn until(&self, ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(ms - self.now_ms()).unwrap_or(0))
    }
}

fn rule(id: &str, shadow: bool) -> Rule {
    let scope = Test::Equals(Scalar::Text("ES".into()));
    Rule {
        id: id.into(),
        hash: format!("hash of {id}").into(),
        version: String::new(),
        shadow,
        anchor: Anchor {
            before: false,
            list: false,
            last: false,
            sources: vec![AnchorSource::Derived(DerivedTime::ImportCustomsFullyCleared)],
        },
        scope: Matcher::All(vec![Matcher::Fact(
            FactRef::Stated(known_fact("destination").expect("known")),
            scope,
        )]),
        holds: None,
        restart: false,
        until: None,
        after_terminal: false,
        effective_from: None,
        effective_to: None,
        zone_slack: 0,
        bodies: vec![Body {
            title: format!("Title of {id}"),
            description: String::new(),
            runbook: Some("https://runbook.example/1".into()),
            owner: "carrier".into(),
            policy: None,
            labels: BTreeMap::from([("team".into(), "es".into())]),
            unless: None,
            while_: None,
            expect: Expect { names: vec!["domestic_scan".into()], ..Expect::default() },
            evidence: ClassFilter::default(),
            tolerance: Tolerance::Ms(0),
            grace: 0,
            reporting_delay: 0,
            calendar: CalendarRef::Elapsed,
            stages: vec![Stage { at: Span::default(), severity: Severity::Warning }],
        }],
        overrides: Vec::new(),
    }
}

/// `late` and `silent`, and `quiet`, which is in shadow mode.
pub fn rules() -> RuleSet {
    RuleSet {
        hash: "rules-1".into(),
        rules: vec![rule("late", false), rule("quiet", true), rule("silent", false)],
        ..RuleSet::default()
    }
}

pub fn step(after: i64, notify: &[&str], min_severity: Option<Severity>) -> Step {
    Step { after, notify: notify.iter().map(|n| (*n).to_owned()).collect(), min_severity }
}

pub fn policies(steps: Vec<Step>) -> Policies {
    let webhook =
        || ReceiverKind::Webhook { url: SecretText::Plain("http://127.0.0.1:1/".into()), secret: None };
    let mail = |to: &[&str]| ReceiverKind::Email { to: to.iter().map(|a| (*a).to_owned()).collect() };
    let receiver = |id: &str, kind| Receiver::new(id, kind);
    Policies {
        hash: "policies-1".into(),
        receivers: vec![
            receiver("erp", webhook()),
            receiver("ops_mail", mail(&["a@example.org", "b@example.org"])),
            receiver("pager", webhook()),
            receiver("correos_desk", mail(&["desk@correos.example"])),
        ],
        policies: vec![Policy {
            id: "handoff".into(),
            group_by: vec!["rule".into(), "lane".into()],
            group_wait: 30 * SECOND,
            group_interval: 5 * MINUTE,
            repeat_every: None,
            ack_timeout: None,
            steps,
            show: vec!["order_id".into()],
            ..Policy::default()
        }],
        default_policy: Some("handoff".into()),
        owners: BTreeMap::from([(
            "carrier".into(),
            OwnerRoute {
                by: Some("domestic_carrier".into()),
                to: BTreeMap::from([("correos".into(), vec!["correos_desk".into()])]),
                default: vec!["ops_mail".into()],
            },
        )]),
        ..Policies::default()
    }
}

/// A change of rule `late` (body 0), stage and severity as given.
pub fn change(kind: ChangeKind, parcel: &str, offset: i64, stage: u8, severity: Severity) -> Change {
    let at = Time(START + offset * SECOND);
    Change {
        kind,
        rule: "late".into(),
        body: Some((0, 0)),
        parcel_id: parcel.into(),
        episode: None,
        offset,
        at,
        stage,
        severity,
        anchor: Time(START - 48 * HOUR),
        due: Time(START - 24 * HOUR),
        incomplete: false,
        evidence: Some(
            json!({
                "facts": {"lane": "CN-ES", "destination": "ES", "domestic_carrier": if parcel.ends_with('7') { "seur" } else { "correos" },
                    "tracking_number": "TN1", "order_id": "O-1", "broker": "not shown"},
                "occurrences": [], "holds": [],
                "last": {"milestone": "import_customs_cleared", "time": "2026-10-12T07:00:00Z", "facility": null},
            })
            .to_string()
            .into(),
        ),
    }
}

pub fn opened(parcel: &str, offset: i64) -> Change {
    change(ChangeKind::Opened, parcel, offset, 1, Severity::Warning)
}

pub fn raised(parcel: &str, offset: i64, stage: u8, severity: Severity) -> Change {
    change(ChangeKind::Raised, parcel, offset, stage, severity)
}

pub fn ended(parcel: &str, offset: i64) -> Change {
    change(ChangeKind::Resolved(Resolution::SatisfiedLate), parcel, offset, 1, Severity::Warning)
}

/// A database in a folder of its own, an escalator over it, and the clock of both.
pub struct World {
    pub dir: tempfile::TempDir,
    pub place: Place,
    pub url: String,
    pub cases: Cases,
    pub rules: Arc<RuleSet>,
    pub policies: Arc<Policies>,
    pub clock: Arc<HandClock>,
    pub escalator: Escalator,
    pub memory: Memory,
    _policies: watch::Sender<Arc<Policies>>,
}

/// Not durable against a power cut, which no test makes.
pub fn options() -> Options {
    Options { durable: false, busy_timeout: Duration::from_millis(100), ..Options::default() }
}

/// Set to `postgres`, the worlds of this program are in a PostgreSQL.
pub const DATABASE: &str = "PARCELWATCH_TEST_DATABASE";

/// Whether the worlds of this program are in a PostgreSQL.
pub fn on_postgres() -> bool {
    std::env::var_os(DATABASE).is_some_and(|d| d == "postgres")
}

/// Where a world's database is, and the address under which a test reaches it behind the world's back.
fn place(dir: &Path) -> (Place, String) {
    if on_postgres() {
        // Opened again, a folder has the schema that it had.
        static SCHEMAS: Mutex<BTreeMap<PathBuf, String>> = Mutex::new(BTreeMap::new());
        let mut schemas = SCHEMAS.lock().expect("not poisoned");
        let url = schemas.entry(dir.to_owned()).or_insert_with(|| Postgres::shared().schema()).clone();
        return (Place::Server(Server::new(&url, None).expect("an address")), url);
    }
    let file = dir.join("cases.sqlite");
    (Place::File(file.clone()), format!("sqlite://{}", file.display()))
}

/// A database without anything, in this folder or in the PostgreSQL.
pub async fn empty(dir: &Path) -> Cases {
    open(&place(dir).0).await
}

async fn open(place: &Place) -> Cases {
    Cases::connect(place, &options()).await.expect("opens")
}

fn escalator(
    cases: &Cases,
    policies: &Arc<Policies>,
    clock: &Arc<HandClock>,
) -> (Escalator, watch::Sender<Arc<Policies>>) {
    let (sender, policies) = watch::channel(Arc::clone(policies));
    let escalator = Escalator {
        cases: cases.clone(),
        policies,
        clock: Arc::clone(clock) as Arc<dyn WallClock>,
        backlog: Backlog::default(),
        public_url: Some("https://pw.example/".into()),
        dry_run: false,
    };
    (escalator, sender)
}

/// Commits changes of a partition, which stands behind the last of them then.
pub async fn commit(
    cases: &Cases,
    (rules, policies): (&RuleSet, &Policies),
    partition: i32,
    changes: &[Change],
    now_ms: i64,
) -> Result<Committed, CasesError> {
    let position = changes.iter().map(|c| c.offset + 1).max().unwrap_or(0);
    let recorded = Recorded { position, watermark: Time(now_ms), rules_hash: rules.hash.clone() };
    let batch = Batch { partition, changes, heard: &[], rules, policies, recorded: &recorded, now_ms };
    cases.commit(&batch).await
}

impl World {
    /// Partitions 0 to 3 have caught up.
    pub async fn new(policies: Policies) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let (place, url) = place(dir.path());
        let cases = open(&place).await;
        let (policies, clock) = (Arc::new(policies), Arc::new(HandClock::default()));
        clock.set(START);
        let (escalator, sender) = escalator(&cases, &policies, &clock);
        for partition in 0..4 {
            escalator.backlog.over(partition, START);
        }
        let memory = Memory::starting(START);
        World {
            dir,
            place,
            url,
            cases,
            rules: Arc::new(rules()),
            policies,
            clock,
            escalator,
            memory,
            _policies: sender,
        }
    }

    /// As after `kill -9`: everything in memory is gone.
    pub async fn restart(&mut self) {
        self.cases.close().await;
        self.cases = open(&self.place).await;
        let (escalator, sender) = escalator(&self.cases, &self.policies, &self.clock);
        for partition in 0..4 {
            escalator.backlog.over(partition, self.now());
        }
        (self.escalator, self._policies) = (escalator, sender);
        self.memory = Memory::starting(self.now());
    }

    pub fn now(&self) -> i64 {
        self.clock.now_ms()
    }

    pub async fn commit(&self, partition: i32, changes: &[Change]) -> Committed {
        let in_force = (&*self.rules, &*self.policies);
        commit(&self.cases, in_force, partition, changes, self.now()).await.expect("commits")
    }

    /// What the records of a partition, known up to now, told of a feed.
    pub async fn hear(&self, partition: i32, heard: &[Heard]) {
        let recorded =
            Recorded { position: 0, watermark: Time(self.now()), rules_hash: self.rules.hash.clone() };
        let batch = Batch {
            partition,
            changes: &[],
            heard,
            rules: &self.rules,
            policies: &self.policies,
            recorded: &recorded,
            now_ms: self.now(),
        };
        self.cases.commit(&batch).await.expect("commits");
    }

    /// Lets the clock run to `ms`, with a turn of the escalator now and at each of its timers.
    pub async fn run_to(&mut self, ms: i64) {
        loop {
            let next = self.escalator.turn(&mut self.memory).await.expect("a turn");
            assert!(next > self.now(), "a turn leaves nothing due: {next} at {}", self.now());
            if next > ms {
                break;
            }
            self.clock.set(next);
        }
        self.clock.set(ms);
        self.escalator.turn(&mut self.memory).await.expect("a turn");
    }

    pub async fn run_for(&mut self, ms: i64) {
        self.run_to(self.now() + ms).await;
    }

    /// Takes all that is in the outbox of a receiver, delivered.
    pub async fn sent(&self, receiver: &str) -> Vec<Message> {
        let mut all = Vec::new();
        loop {
            let rows = self.cases.outbox_due(receiver, self.now(), 100, MINUTE).await.expect("rows");
            let next = self.cases.outbox_next(receiver).await.expect("a time");
            if rows.is_empty() && next.is_none_or(|next| next > self.now()) {
                return all;
            }
            for row in rows {
                let body: Value = serde_json::from_str(&row.body).expect("JSON");
                assert_eq!(body["data"]["notification_id"], json!(row.id));
                all.push(Message {
                    at: row.created_ms,
                    id: row.id.clone(),
                    recipient: row.recipient,
                    kind: row.kind,
                    body,
                });
                let done = parcelwatch::cases::Outcome::Delivered;
                self.cases.outbox_done(&row.id, self.now(), done).await.expect("done");
            }
        }
    }
}

/// Does something to the file behind everybody's back.
pub async fn sql(world: &World, statement: &'static str) {
    use sqlx::Connection as _;
    let mut connection = sqlx::AnyConnection::connect(&world.url).await.expect("opens");
    sqlx::query(statement).execute(&mut connection).await.expect("does");
}

/// One text of the file.
pub async fn text(world: &World, query: &'static str) -> String {
    use sqlx::Connection as _;
    let mut connection = sqlx::AnyConnection::connect(&world.url).await.expect("opens");
    sqlx::query_scalar(query).fetch_one(&mut connection).await.expect("one")
}

/// A message that arrived.
#[derive(Debug, Clone)]
pub struct Message {
    pub at: i64,
    pub id: String,
    pub recipient: String,
    pub kind: String,
    pub body: Value,
}

impl Message {
    pub fn exceptions(&self) -> &[Value] {
        self.body["data"]["exceptions"].as_array().map_or(&[], Vec::as_slice)
    }

    /// `reason type step parcels`, in short.
    pub fn line(&self) -> String {
        let parcels: Vec<&str> = self.exceptions().iter().filter_map(|e| e["parcel_id"].as_str()).collect();
        let data = &self.body["data"];
        let kind = self.body["type"].as_str().unwrap_or("");
        format!("{} {kind} {} {}", self.kind, data["step"], parcels.join(","))
    }
}

/// Lines of messages.
pub fn lines(messages: &[Message]) -> Vec<String> {
    messages.iter().map(Message::line).collect()
}
