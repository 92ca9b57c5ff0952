//! The demonstration from its start to its verdict.

use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::Options;
use super::api::Api;
use super::check::{Check, Checked};
use super::clock::FastClock;
use super::embedded::{self, Embedded};
use super::files::{Addresses, Folder, TOPIC};
use super::inbox::Inbox;
use super::network::Network;
use super::news::{Happening, Standing, arrived, ended};
use super::producer::Producer;
use super::screen::{Figures, Screen, summary};
use super::verdict::Verdict;
use super::{hook, smtp};
use crate::model::{DAY, Severity, Time};
use crate::source::kafka_mock::EmbeddedBroker;

/// Partitions: the mock broker keeps 5 MiB of each, the history is some 4 MiB in all, and the daemon may lag a while.
const PARTITIONS: i32 = 6;
/// The parcels' network has been running for so long when the clock starts.
const HISTORY: i64 = 24 * DAY;
/// How often the picture changes, in real time.
const LOOK: Duration = Duration::from_millis(250);
/// Longest real wait for what should take moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// Longest real time that the daemon takes to stop.
const STOP: Duration = Duration::from_secs(10);

/// When the clock starts: a Monday, so that business days are seen.
fn start_time() -> Time {
    Time::parse("2026-11-02T06:00:00Z").unwrap_or(Time(0))
}

/// Plays it; 0 where what arrived is what was owed.
///
/// # Errors
/// Something embedded could not be started, or broke.
pub async fn play(options: &Options) -> anyhow::Result<u8> {
    let mut folder = Folder::new()?;
    let mut stage = Stage::set(options, &folder).await?;
    tokio::select! {
        done = stage.catch_up() => done?,
        _ = tokio::signal::ctrl_c() => bail!("ended before it began"),
    }
    stage.run().await?;
    let outcome = tokio::select! {
        outcome = stage.end(&folder) => outcome?,
        _ = tokio::signal::ctrl_c() => bail!("ended before what arrived was checked"),
    };
    let right = outcome.verdict.differences.is_empty();
    let kept = if right { None } else { Some(folder.keep().display().to_string()) };
    let Outcome { screen, rows, verdict } = outcome;
    let lines = summary(&rows, &verdict.differences, kept.as_deref(), screen.paint());
    screen.end(&lines);
    Ok(u8::from(!right))
}

struct Stage {
    /// Asked for its end offsets until the daemon has stopped.
    broker: EmbeddedBroker,
    clock: FastClock,
    factor: u32,
    seconds: Option<u64>,
    seed: u64,
    producer: Producer,
    embedded: Embedded,
    inbox: Inbox,
    receivers: [JoinHandle<()>; 2],
    api: Api,
    screen: Screen,
    standing: Standing,
    shown: usize,
    opened: u64,
    resolved: u64,
}

struct Outcome {
    screen: Screen,
    rows: Vec<(&'static str, String)>,
    verdict: Verdict,
}

impl Stage {
    async fn set(options: &Options, folder: &Folder) -> anyhow::Result<Stage> {
        let clock = FastClock::new(start_time(), options.factor);
        let broker = EmbeddedBroker::new(TOPIC, PARTITIONS)?;
        let (mails, hooks) =
            (TcpListener::bind("127.0.0.1:0").await?, TcpListener::bind("127.0.0.1:0").await?);
        let at = Addresses {
            kafka: broker.bootstrap_servers(),
            http: free_address().await?,
            smtp: mails.local_addr()?,
            webhook: hooks.local_addr()?,
        };
        let (config, key) = folder.fill(&at)?;
        let inbox = Inbox::new(clock.clone());
        let receivers = [
            tokio::spawn(smtp::serve(mails, inbox.clone())),
            tokio::spawn(hook::serve(hooks, key, inbox.clone())),
        ];
        let network = Network::new(options.seed, start_time().minus(HISTORY));
        let producer =
            Producer::start(network, broker.producer()?, clock.clone(), &folder.join("events.ndjson"))?;
        let embedded = embedded::start(&config, &clock).await?;
        let http = embedded.daemon.address();
        Ok(Stage {
            broker,
            clock,
            factor: options.factor,
            seconds: options.seconds,
            seed: options.seed,
            producer,
            embedded,
            inbox,
            receivers,
            api: Api(http),
            screen: Screen::new(http),
            standing: Standing::default(),
            shown: 0,
            opened: 0,
            resolved: 0,
        })
    }

    /// Waits until the daemon has read what was told before the clock starts.
    async fn catch_up(&mut self) -> anyhow::Result<()> {
        let until = Instant::now() + PATIENCE;
        while !self.has_caught_up().await? {
            if Instant::now() > until {
                let status = self.api.get("/api/v1/status").await?;
                bail!("the daemon has not caught up within {} s: {status}", PATIENCE.as_secs());
            }
            self.look("starting", None).await?;
        }
        Ok(())
    }

    async fn has_caught_up(&self) -> anyhow::Result<bool> {
        if !self.producer.told().history.load(Ordering::Acquire) {
            return Ok(false);
        }
        let status = self.api.json("/api/v1/status").await?;
        let partitions = status["partitions"].as_array().map_or(&[][..], Vec::as_slice);
        let read: i64 = partitions.iter().filter_map(|p| p["position"].as_i64()).sum();
        let told = i64::try_from(self.producer.told().records.load(Ordering::Relaxed)).unwrap_or(i64::MAX);
        let caught_up = partitions.iter().all(|p| p["caught_up"] == true && p["backlog"] == false);
        Ok(partitions.len() == PARTITIONS as usize && caught_up && read >= told)
    }

    /// Lets the clock run until the time is over, or somebody has seen enough.
    async fn run(&mut self) -> anyhow::Result<()> {
        self.clock.run();
        let until = self.seconds.map(|s| Instant::now() + Duration::from_secs(s));
        while until.is_none_or(|u| Instant::now() < u) && !self.producer.told().enough.load(Ordering::Relaxed)
        {
            tokio::select! {
                done = self.look("running", until) => done?,
                pressed = tokio::signal::ctrl_c() => {
                    pressed.context("cannot wait for Ctrl-C")?;
                    break;
                }
            }
        }
        Ok(())
    }

    /// Takes a look, shows it, and waits for the next.
    async fn look(&mut self, phase: &'static str, until: Option<Instant>) -> anyhow::Result<()> {
        let left = until.map(|u| u.saturating_duration_since(Instant::now()));
        tokio::select! {
            () = tokio::time::sleep(LOOK.min(left.unwrap_or(LOOK))) => {}
            why = self.embedded.daemon.failed() => bail!("the daemon cannot go on: {why}"),
        }
        if self.producer.has_ended() {
            bail!("the simulated network has ended: its broker or its file refused a record");
        }
        let news = self.news().await?;
        let told = self.producer.told();
        let (mails, webhooks, _) = self.inbox.counts();
        let figures = Figures {
            now: self.clock.now(),
            factor: self.factor,
            phase,
            left,
            parcels: told.parcels.load(Ordering::Relaxed),
            records: told.records.load(Ordering::Relaxed),
            standing: Severity::ALL.map(|s| self.standing.at(s)),
            opened: self.opened,
            resolved: self.resolved,
            mails,
            webhooks,
        };
        self.screen.show(news, &figures);
        Ok(())
    }

    async fn news(&mut self) -> anyhow::Result<Vec<Happening>> {
        let (mut news, gone) = self.standing.look(&self.api.exceptions("standing").await?);
        for id in gone {
            news.extend(ended(&self.api.json(&format!("/api/v1/exceptions/{id}")).await?));
        }
        let arrivals = self.inbox.since(self.shown);
        self.shown += arrivals.len();
        news.extend(arrivals.iter().map(|(at, a)| arrived(a, *at)));
        news.sort_by_key(|h| h.at);
        self.opened += news.iter().filter(|h| h.what == "opened").count() as u64;
        self.resolved += news.iter().filter(|h| h.what == "resolved").count() as u64;
        Ok(news)
    }

    /// Ends the network, waits until all is told that is due, stops the daemon and judges.
    async fn end(mut self, folder: &Folder) -> anyhow::Result<Outcome> {
        self.look("ending: what is due is told, then checked", None).await?;
        let Stage { broker, clock, seed, producer, embedded, inbox, receivers, api, screen, .. } = self;
        let parcels = producer.told().parcels.load(Ordering::Relaxed);
        tokio::task::spawn_blocking(move || producer.stop()).await??;
        let Embedded { daemon, rules, policies, skew } = embedded;
        let records = folder.join("events.ndjson");
        let began = start_time();
        let check = Check { clock, began, api, inbox: inbox.clone(), rules, policies, skew, records };
        let Checked { mut verdict, backtest, ended, slowest } = check.run().await?;
        let here = Duration::from_millis(u64::try_from(slowest / check.clock.factor()).unwrap_or(0));
        let seen = inbox.since(0).len();
        daemon.stop(STOP).await;
        // It asks the broker for end offsets until it has stopped.
        drop(broker);
        for receiver in receivers {
            receiver.abort();
        }
        let late = inbox.since(seen).len();
        if late > 0 {
            verdict.differences.push(format!("{late} messages came after nothing was owed any more"));
        }
        // First, since what a receiver could not take is missing everywhere else.
        verdict.differences.splice(0..0, inbox.faults());
        let (mails, webhooks, repeats) = inbox.counts();
        let (days, history) = ((ended.0 - began.0) / DAY, HISTORY / DAY);
        let rows = vec![
            ("simulated", format!("{days} days, seed {seed}, after {history} days of history")),
            ("parcels", parcels.to_string()),
            ("records", format!("{} ({} rejected)", backtest.events, backtest.rejected)),
            ("changes", format!("{} of {} that the backtest found", verdict.changes, backtest.changes.len())),
            ("exceptions told", format!("{}, {} ends delivered", verdict.told, verdict.ends)),
            ("messages", format!("{mails} mails, {webhooks} webhooks, {repeats} repeated")),
            ("slowest message", format!("{:.1} s after its news, waits included", here.as_secs_f64())),
        ];
        Ok(Outcome { screen, rows, verdict })
    }
}

/// An address that nobody listens on: the mails name it before the daemon listens.
async fn free_address() -> std::io::Result<SocketAddr> {
    TcpListener::bind("127.0.0.1:0").await?.local_addr()
}
