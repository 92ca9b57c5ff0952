//! The daemon, assembled: started in the order in which its parts need each other, stopped in the order in which they have
//! something to lose.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinHandle;

use super::auditor::Auditor;
use super::clock::{SourceClocks, WallClock};
use super::dispatcher::{self, Dispatcher, Route};
use super::escalator::{Backlog, Escalator};
use super::group::Group;
use super::in_force;
pub use super::in_force::InForce;
use super::lead::Candidate;
use super::partition::Context;
use super::ports::Api;
use super::progress::Progress;
use super::reload::{Refusal, Reload, Reloader};
use super::restore::Restorer;
use super::saver::Saver;
use super::status::{DaemonPort, Facts};
use super::worker::{Order, Worker};
use super::writer::{self, Writer};
use crate::cases::{self, Cases, CasesError};
use crate::engine::Lifetimes;
use crate::http::auth::Token;
use crate::http::{Server, Site};
use crate::metrics::{Metrics, set_time};
use crate::notify::link::LinkKey;
use crate::rules::{Policies, RuleSet};
use crate::snapshots::{Location, Store};
use crate::source::kafka::{Kafka, Options, StartAt};

/// What a daemon is told.
pub struct Settings {
    /// The topic. Its `instance_id` is replaced by the one kept in `state`.
    pub kafka: Options,
    /// `kafka.start`.
    pub start: StartAt,
    /// `state`: the folder of everything embedded.
    pub state: PathBuf,
    /// `snapshots.to`; `None`: a folder in `state`.
    pub snapshots: Option<Location>,
    /// `snapshots.every`, in real time.
    pub snapshots_every: Duration,
    /// `snapshots.keep`.
    pub snapshots_keep: usize,
    /// `cases.url`, where it is a PostgreSQL; `None`: a file in `state`.
    pub database: Option<cases::Server>,
    /// How the database is opened; tests use others than the default.
    pub cases: cases::Options,
    /// `cases.keep`, milliseconds.
    pub cases_keep: i64,
    /// `time.forget_after` and so on.
    pub lifetimes: Lifetimes,
    /// `time.skew`, milliseconds.
    pub skew: i64,
    /// `time.certificate_ttl`, in real time.
    pub certificate_ttl: Duration,
    /// `http.listen`.
    pub listen: SocketAddr,
    /// `http.public_url`.
    pub public_url: Option<String>,
    /// `http.tokens`.
    pub tokens: Vec<Token>,
    /// Decide and record, send nothing.
    pub dry_run: bool,
    /// Threads that fold.
    pub threads: usize,
    /// Takes new rules without a restart; called once the key of links is known. `None`: only a restart does.
    pub reload: Option<Reloading>,
}

/// How a daemon reloads, once the key of links is known.
pub type Reloading = Arc<dyn Fn(LinkKey) -> Reload + Send + Sync>;

/// Makes the receivers' routes; called once the key of links is known.
pub type Routes<'a> = &'a (dyn Fn(LinkKey) -> anyhow::Result<Vec<Route>> + Send + Sync);

/// A running daemon.
pub struct Daemon {
    /// Its metrics.
    pub metrics: Arc<Metrics>,
    /// How far it is.
    pub progress: Arc<Progress>,
    /// What it keeps.
    pub cases: Cases,
    port: Arc<DaemonPort>,
    server: Server,
    kafka: Arc<Kafka>,
    workers: Arc<Vec<Worker>>,
    group: std::thread::JoinHandle<()>,
    group_stop: Arc<AtomicBool>,
    writer: JoinHandle<()>,
    give_up: watch::Sender<bool>,
    saver: Saver,
    escalator: JoinHandle<()>,
    /// Where other processes share the database.
    candidate: Option<JoinHandle<()>>,
    stop: watch::Sender<bool>,
    purger: JoinHandle<()>,
    reloader: Arc<Reloader>,
    fatal: watch::Receiver<Option<String>>,
    _lock: File,
}

/// How long a database that is locked, or does not answer, at the start is waited for.
const OPEN: Duration = Duration::from_secs(60);
/// How often it is said meanwhile.
const SAY_AGAIN: Duration = Duration::from_secs(15);

/// Who puts rules in force when a process starts.
const START: &str = "start";
/// How often it is looked whether the partitions are there.
const SOON: Duration = Duration::from_millis(100);
/// How often a reload by a signal is tried while it cannot be, and how long in between.
const AGAIN_AT_MOST: u32 = 120;
const AGAIN: Duration = Duration::from_secs(5);

impl Daemon {
    /// Starts everything. An unreachable broker is no error here.
    ///
    /// # Errors
    /// The state cannot be had, the database is damaged, the listener's address is taken, librdkafka refuses a property.
    pub async fn start(
        settings: Settings,
        in_force: InForce,
        routes: Routes<'_>,
        clock: Arc<dyn WallClock>,
    ) -> anyhow::Result<Daemon> {
        let started = Instant::now();
        let state = &settings.state;
        std::fs::create_dir_all(state)
            .with_context(|| format!("state: cannot make the folder {}", state.display()))?;
        let lock = lock_state(state)?;
        let metrics = Arc::new(Metrics::new()?);
        let place = match &settings.database {
            Some(server) => cases::Place::Server(server.clone()),
            None => cases::Place::File(state.join("cases.sqlite")),
        };
        let options = cases::Options { shared: settings.database.is_some(), ..settings.cases.clone() };
        let cases = open_cases(&place, &options).await?;
        if cases.is_shared() {
            warn_of_own_snapshots(&settings);
        }
        // Rules that are other ones than before have to pass the brake, as in a reload, once it can be said what they would open.
        let before =
            if settings.reload.is_some() { in_force::before(&cases, &in_force).await? } else { None };
        let held = before.is_some();
        let (rules_first, texts) =
            before.unwrap_or_else(|| (Arc::clone(&in_force.rules), in_force.texts.clone()));
        show_rules(&metrics, &rules_first, &in_force.policies, clock.now_ms());
        cases.keep_rules(&rules_first.hash, &texts, clock.now_ms()).await?;
        let load = cases::RulesLoad {
            rules_hash: rules_first.hash.clone(),
            policies_hash: in_force.policies.hash.clone(),
            by: START.to_owned(),
            at_ms: clock.now_ms(),
        };
        cases.rules_loaded(&load, &in_force.texts).await?;
        let link_key = LinkKey::new(cases.link_key().await?);
        let routes = routes(link_key.clone())?;

        let location =
            settings.snapshots.clone().unwrap_or_else(|| Location::Folder(state.join("snapshots")));
        let store = Store::open(&location, &settings.kafka.topic, settings.snapshots_keep)?;
        let instance_id = instance_id(&state.join("instance_id"))?;
        let options = Options { instance_id: instance_id.clone(), ..settings.kafka.clone() };
        let kafka = Arc::new(Kafka::spawn(options, Arc::new(SourceClocks::new(Arc::clone(&clock))))?);

        let progress = Arc::new(Progress::new(Arc::clone(&metrics)));
        let backlog = Backlog::default();
        let (policies_tx, policies) = watch::channel(Arc::clone(&in_force.policies));
        let (rules_tx, rules) = watch::channel(rules_first);
        let (give_up, giving_up) = watch::channel(false);
        let (writes, written) = mpsc::channel(writer::QUEUE);
        let writer = Writer {
            cases: cases.clone(),
            policies: policies.clone(),
            clock: Arc::clone(&clock),
            backlog: backlog.clone(),
            progress: Arc::clone(&progress),
            give_up: giving_up,
        };
        let writer = tokio::spawn(writer.run(written));
        let committing = Arc::clone(&kafka);
        let saver = Saver::new(
            store.clone(),
            Handle::current(),
            Arc::clone(&clock),
            Arc::clone(&progress),
            Arc::new(move |partition, offset| committing.commit(vec![(partition, offset)])),
        );
        let context = Arc::new(Context {
            cases: cases.clone(),
            writes,
            progress: Arc::clone(&progress),
            clock: Arc::clone(&clock),
            handle: Handle::current(),
            saver: saver.clone(),
            skew: settings.skew,
            certificate_ttl: settings.certificate_ttl,
            save_every: settings.snapshots_every,
            topic: settings.kafka.topic.clone(),
        });
        let workers = (0..settings.threads.max(1)).map(|n| Worker::start(n, Arc::clone(&progress)));
        let workers =
            Arc::new(workers.collect::<std::io::Result<Vec<_>>>().context("cannot start a thread")?);
        let (fatal_tx, fatal) = watch::channel(None);
        let group_stop = Arc::new(AtomicBool::new(false));
        let group = Group {
            kafka: Arc::clone(&kafka),
            context,
            restorer: Arc::new(Restorer {
                cases: cases.clone(),
                store,
                rules: rules.clone(),
                compile: Arc::clone(&in_force.compile),
                lifetimes: settings.lifetimes,
                start: settings.start.clone(),
                me: instance_id.clone(),
                known: std::sync::Mutex::default(),
            }),
            workers: Arc::clone(&workers),
            backlog: backlog.clone(),
            rules,
            needs_all: !cases.is_shared(),
            fatal: fatal_tx,
            stop: Arc::clone(&group_stop),
        };
        let group = std::thread::Builder::new().name("group".to_owned()).spawn(move || group.run())?;

        let (stop, stopping) = watch::channel(false);
        let candidate = cases.is_shared().then(|| {
            let candidate = Candidate {
                cases: cases.clone(),
                backlog: backlog.clone(),
                metrics: Arc::clone(&metrics),
                me: instance_id.clone(),
            };
            tokio::spawn(candidate.run(stopping.clone()))
        });
        metrics.escalation_leader.set(i64::from(cases.leads()));
        let auditor = Auditor {
            cases: cases.clone(),
            policies: policies.clone(),
            clock: Arc::clone(&clock),
            backlog: backlog.clone(),
            metrics: Arc::clone(&metrics),
            dry_run: settings.dry_run,
        };
        tokio::spawn(auditor.run(stopping.clone()));
        let policies_shown = policies.clone();
        let escalator = Escalator {
            cases: cases.clone(),
            policies,
            clock: Arc::clone(&clock),
            backlog: backlog.clone(),
            public_url: settings.public_url.clone(),
            dry_run: settings.dry_run,
        };
        let escalator = tokio::spawn(escalator.run(stopping.clone()));
        let purger =
            tokio::spawn(purge(cases.clone(), Arc::clone(&clock), settings.cases_keep, stopping.clone()));
        let dispatcher = (!settings.dry_run).then(|| {
            let options = dispatcher::Options::default();
            Dispatcher::start(&cases, routes, &clock, &metrics, &options)
        });

        let reloader = Arc::new(Reloader {
            reload: settings.reload.as_ref().map_or_else(without_reload, |r| r(link_key.clone())),
            rules: rules_tx,
            policies: policies_tx,
            workers: Arc::clone(&workers),
            progress: Arc::clone(&progress),
            cases: cases.clone(),
            clock: Arc::clone(&clock),
            dispatcher: Mutex::new(dispatcher),
            one: Mutex::default(),
        });
        tokio::spawn(Arc::clone(&reloader).watch(stopping));

        let port = Arc::new(DaemonPort {
            reloader: Arc::clone(&reloader),
            progress: Arc::clone(&progress),
            workers: Arc::clone(&workers),
            kafka: Arc::clone(&kafka),
            cases: cases.clone(),
            backlog,
            clock: Arc::clone(&clock),
            facts: Facts {
                topic: settings.kafka.topic.clone(),
                group: settings.kafka.group_id.clone(),
                snapshots: location.to_string(),
                dry_run: settings.dry_run,
            },
            started,
        });
        let now = Arc::clone(&clock);
        let site = Site {
            daemon: Arc::clone(&port) as Arc<dyn crate::http::ports::Daemon>,
            cases: Arc::new(Api {
                cases: cases.clone(),
                clock,
                policies: policies_shown,
                public_url: settings.public_url.clone(),
                dry_run: settings.dry_run,
            }),
            metrics: Arc::clone(&metrics),
            tokens: settings.tokens,
            link_key: Some(link_key),
            now_ms: Arc::new(move || now.now_ms()),
        };
        let server = Server::start(settings.listen, site).await?;
        tracing::info!(address = %server.address(), "listening on http://{}", server.address());
        let daemon = Daemon {
            metrics,
            progress,
            cases,
            port,
            server,
            kafka,
            workers,
            group,
            group_stop,
            writer,
            give_up,
            saver,
            escalator,
            candidate,
            stop,
            purger,
            reloader,
            fatal,
            _lock: lock,
        };
        if held {
            daemon.metrics.config_last_reload_successful.set(0);
            daemon.reload(START);
        }
        Ok(daemon)
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.server.address()
    }

    /// Reads rules and policies anew, as `by` asks, in a task of its own. What came of it is in the log and the metric.
    pub fn reload(&self, by: &'static str) {
        let (reloader, progress) = (Arc::clone(&self.reloader), Arc::clone(&self.progress));
        tokio::spawn(async move {
            // Before that nobody can say anything, and at the start it is no news.
            while by == START && (progress.is_loading() || !progress.is_assigned()) {
                tokio::time::sleep(SOON).await;
            }
            // Nobody waits for an answer to a signal: what only the moment refuses is tried again for a while.
            for _ in 0..AGAIN_AT_MOST {
                if !matches!(reloader.reload(by, None).await, Err(Refusal::NotNow(_))) {
                    return;
                }
                tokio::time::sleep(AGAIN).await;
            }
        });
    }

    /// The daemon as the listener sees it.
    #[must_use]
    pub fn port(&self) -> Arc<DaemonPort> {
        Arc::clone(&self.port)
    }

    /// Resolves once the daemon cannot go on, with the reason.
    pub async fn failed(&self) -> String {
        let mut fatal = self.fatal.clone();
        loop {
            if let Some(why) = fatal.borrow_and_update().clone() {
                return why;
            }
            if fatal.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// Stops within about `within` and loses nothing: what was decided is committed, what is in flight may land, the shards
    /// are saved as far as there is time. Stopping fires nothing (DESIGN §4.6).
    pub async fn stop(self, within: Duration) {
        let begun = Instant::now();
        let until = |share: u32| (begun + within * share / 10).saturating_duration_since(Instant::now());
        // Whatever decides or sends stops now; each has its share of the time.
        let _ = self.stop.send(true);
        self.group_stop.store(true, Ordering::Relaxed);
        let dispatcher = self.reloader.dispatcher.lock().await.take();
        let delivering = dispatcher.map(|d| tokio::spawn(d.stop(until(6))));
        let group = self.group;
        let deadline = begun + within * 4 / 10;
        for worker in self.workers.iter() {
            worker.order(Order::Stop(deadline));
        }
        let workers = Arc::clone(&self.workers);
        let folded = tokio::task::spawn_blocking(move || {
            if group.join().is_err() {
                tracing::error!("the group's thread panicked");
            }
            while workers.iter().any(|w| !w.has_ended()) {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
        if tokio::time::timeout(until(5), folded).await.is_err() {
            tracing::warn!("a folding thread does not end in time");
        }
        // The threads held the last senders, so the writer ends once everything is written.
        let mut writer = self.writer;
        if tokio::time::timeout(until(6), &mut writer).await.is_err() {
            let _ = self.give_up.send(true);
            let _ = tokio::time::timeout(until(7), writer).await;
        }
        if !self.saver.idle(until(7)).await {
            tracing::info!(
                "a snapshot was not finished in time; the next start reads on from the one before"
            );
        }
        let _ = tokio::time::timeout(until(8), self.escalator).await;
        self.purger.abort();
        if let Some(delivering) = delivering {
            let _ = tokio::time::timeout(until(8), delivering).await;
        }
        if let Some(candidate) = self.candidate {
            candidate.abort();
            // After everything that only the leader may write.
            if let Ok(Err(error)) = tokio::time::timeout(until(8), self.cases.leave_lead()).await {
                tracing::warn!(reason = error.reason(), %error, "the lead is not left: others take it when they miss this process");
            }
        }
        self.server.stop(until(8).min(Duration::from_secs(1))).await;
        let kafka = Arc::clone(&self.kafka);
        let closed = tokio::task::spawn_blocking(move || kafka.stop(Duration::from_secs(2)));
        let _ = tokio::time::timeout(until(9), closed).await;
        let _ = tokio::time::timeout(until(10), self.cases.close()).await;
        tracing::info!(
            milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "stopped"
        );
    }
}

/// A daemon that only a restart gives new rules.
fn without_reload() -> Reload {
    Reload {
        read: Arc::new(|| Err("this daemon was started without a way to read its rules again".to_owned())),
        fingerprint: Arc::new(|| None),
        every: None,
        max_openings: 0,
    }
}

fn show_rules(metrics: &Metrics, rules: &RuleSet, policies: &Policies, now_ms: i64) {
    metrics.set_rules(rules.rules.iter().map(|r| (&*r.id, r.shadow)));
    metrics.set_receivers(policies.receivers.iter().map(|r| (r.id.as_str(), r.kind.integration())));
    metrics.config_last_reload_successful.set(1);
    set_time(&metrics.config_last_reload_success, now_ms);
}

/// Whoever takes a partition over begins with the snapshot of the one before, where it can see it.
fn warn_of_own_snapshots(settings: &Settings) {
    if settings.snapshots.is_none() {
        tracing::warn!(
            "snapshots are kept in `state`, where other processes cannot see them: a partition that another one takes over is read \
             from the beginning of its log; set snapshots.to to a bucket or a folder that all of them share"
        );
    }
}

/// One process runs on one state.
fn lock_state(state: &Path) -> anyhow::Result<File> {
    let path = state.join("lock");
    let file = File::create(&path).with_context(|| format!("state: cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => bail!(
            "state: another parcelwatch runs on {}; stop it, or give this one a state and a kafka.group_id of its own",
            state.display()
        ),
        Err(std::fs::TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("state: cannot lock {}", path.display()))
        }
    }
}

async fn open_cases(place: &cases::Place, options: &cases::Options) -> anyhow::Result<Cases> {
    let begun = Instant::now();
    let mut said = None::<Instant>;
    loop {
        match Cases::connect(place, options).await {
            Err(error @ (CasesError::Locked { .. } | CasesError::Server { .. }))
                if begun.elapsed() < OPEN =>
            {
                if said.is_none_or(|at| at.elapsed() >= SAY_AGAIN) {
                    tracing::error!(reason = error.reason(), "{error}");
                    said = Some(Instant::now());
                }
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// The group's name for this process: made once, so that a restart waits for no session to run out.
fn instance_id(path: &Path) -> anyhow::Result<String> {
    let at = || format!("state: cannot keep {}", path.display());
    match std::fs::read_to_string(path) {
        Ok(text) if !text.trim().is_empty() => return Ok(text.trim().to_owned()),
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(error).with_context(at),
    }
    let id = format!("parcelwatch-{:016x}", getrandom::u64().context("no random numbers")?);
    std::fs::write(path, &id).with_context(at)?;
    Ok(id)
}

/// Forgets what is older than `cases.keep`, a slice at a time.
async fn purge(cases: Cases, clock: Arc<dyn WallClock>, keep: i64, mut stop: watch::Receiver<bool>) {
    const EVERY: Duration = Duration::from_secs(600);
    const SLICE: u32 = 1_000;
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            _ = stop.changed() => return,
        }
        while cases.leads() {
            match cases.purge(clock.now_ms().saturating_sub(keep), SLICE).await {
                Ok(0) => break,
                Ok(n) => tracing::debug!(n, "forgotten: resolved longer ago than cases.keep"),
                Err(error) => {
                    tracing::warn!(reason = error.reason(), "nothing forgotten: {error}");
                    break;
                }
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}
