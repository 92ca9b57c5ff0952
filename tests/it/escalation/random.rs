//! Random changes, operators, crashes and restarts; afterwards a naive account of what stood when says whether every
//! message was right and none is missing.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};

use parcelwatch::cases::{Act, Acted, NewSilence, Who};
use parcelwatch::model::{Change, ChangeKind, Resolution, Severity, Time};
use parcelwatch::rules::condition::Condition;
use serde_json::{Value, json};

use crate::world::{HOUR, MINUTE, SECOND, START, World, change, on_postgres, policies, step};

const WAIT: i64 = 30 * SECOND;
const INTERVAL: i64 = 5 * MINUTE;
const REPEAT: i64 = 4 * HOUR;
const ACK_TIMEOUT: i64 = 8 * HOUR;
/// (after, receivers, least severity) of each step.
const STEPS: [(i64, &[&str], Option<Severity>); 3] = [
    (0, &["erp", "ops_mail"], None),
    (HOUR, &["pager"], Some(Severity::High)),
    (3 * HOUR, &["correos_desk"], None),
];

/// A small generator of random numbers: the same seed, the same run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

/// A stretch of time in which an exception stood unacknowledged and its ladder climbed from the start.
#[derive(Debug, Clone)]
struct Climb {
    from: i64,
    to: i64,
    severity: Severity,
}

/// The naive account of one exception.
#[derive(Debug, Clone)]
struct Account {
    parcel: String,
    engine: Option<(u8, Severity)>,
    highest: Severity,
    open: bool,
    acknowledged: Option<i64>,
    climbs: Vec<Climb>,
    /// (from, to, open): when it stood unacknowledged.
    stood: Vec<(i64, i64)>,
    /// When it was resolved.
    ends: Vec<i64>,
    /// Raises of equal severity: (when, `at`).
    equal: Vec<(i64, Time)>,
    /// Silences: from, to, number.
    silent: Vec<(i64, i64, i64)>,
}

impl Account {
    /// The first moment from `at` on at which nothing is silent.
    fn loud(&self, mut at: i64) -> i64 {
        while let Some((_, to, _)) = self.silent.iter().find(|(from, to, _)| *from <= at && at < *to) {
            at = *to;
        }
        at
    }

    /// Whether a silence touches this time.
    fn silenced(&self, from: i64, to: i64) -> bool {
        self.silent.iter().any(|(begin, end, _)| *begin <= to && from <= *end)
    }

    fn begin(&mut self, now: i64, severity: Severity) {
        self.pause(now);
        self.climbs.push(Climb { from: now, to: i64::MAX, severity });
        self.stood.push((now, i64::MAX));
    }

    fn pause(&mut self, now: i64) {
        if let Some(climb) = self.climbs.last_mut().filter(|c| c.to == i64::MAX) {
            climb.to = now;
        }
        if let Some(stood) = self.stood.last_mut().filter(|s| s.1 == i64::MAX) {
            stood.1 = now;
        }
    }

    /// Acknowledgements that ran out by now.
    fn expire(&mut self, now: i64) {
        let Some(at) = self.acknowledged.filter(|at| at + ACK_TIMEOUT <= now) else { return };
        self.acknowledged = None;
        let severity = self.engine.map_or(self.highest, |(_, s)| s);
        self.begin(at + ACK_TIMEOUT, severity);
    }

    fn end(&mut self, now: i64) {
        self.pause(now);
        self.open = false;
        self.acknowledged = None;
        self.ends.push(now);
    }
}

/// One line of one message.
#[derive(Debug, Clone)]
struct Line {
    at: i64,
    id: String,
    who: (String, String),
    parcel: String,
    word: String,
    step: u64,
    change_at: String,
}

struct Run {
    world: World,
    dice: Dice,
    accounts: Vec<Account>,
    offset: i64,
    committed: Vec<(i32, Change)>,
    /// What arrived.
    lines: Vec<Line>,
    /// Receivers are slow: much changes between a decision and its sending.
    slow: bool,
}

impl Run {
    async fn new(seed: u64, slow: bool) -> Run {
        let mut policies =
            policies(STEPS.iter().map(|(after, to, least)| step(*after, to, *least)).collect());
        policies.policies[0].repeat_every = Some(REPEAT);
        policies.policies[0].ack_timeout = Some(ACK_TIMEOUT);
        let accounts = (0..6)
            .map(|i| Account {
                parcel: format!("P{i}"),
                engine: None,
                highest: Severity::Info,
                open: false,
                acknowledged: None,
                climbs: Vec::new(),
                stood: Vec::new(),
                ends: Vec::new(),
                equal: Vec::new(),
                silent: Vec::new(),
            })
            .collect();
        Run {
            world: World::new(policies).await,
            dice: Dice(seed),
            accounts,
            offset: 0,
            committed: Vec::new(),
            lines: Vec::new(),
            slow,
        }
    }

    async fn commit(&mut self, which: usize, kind: ChangeKind, stage: u8, severity: Severity) -> Change {
        self.offset += 1;
        let mut change = change(kind, &self.accounts[which].parcel, self.offset, stage, severity);
        change.at = Time(self.world.now() - 7);
        let partition = i32::try_from(which % 3).unwrap_or(0);
        assert_eq!(self.world.commit(partition, &[change.clone()]).await.new, [true]);
        self.committed.push((partition, change.clone()));
        change
    }

    /// Something the engine may do to an exception.
    async fn engine(&mut self, which: usize) {
        let now = self.world.now();
        let Some((stage, severity)) = self.accounts[which].engine else {
            let severity = [Severity::Info, Severity::Warning, Severity::High][self.dice.below(3) as usize];
            self.commit(which, ChangeKind::Opened, 1, severity).await;
            let account = &mut self.accounts[which];
            (account.engine, account.open, account.highest) = (Some((1, severity)), true, severity);
            account.acknowledged = None;
            account.begin(now, severity);
            return;
        };
        if self.dice.below(2) == 0 {
            let resolution = ChangeKind::Resolved(Resolution::SatisfiedLate);
            self.commit(which, resolution, stage, severity).await;
            let account = &mut self.accounts[which];
            account.engine = None;
            if account.open {
                account.end(now);
            }
            return;
        }
        let worse = if self.dice.below(2) == 0 { severity } else { Severity::Critical.min(next(severity)) };
        let change = self.commit(which, ChangeKind::Raised, stage + 1, worse).await;
        let account = &mut self.accounts[which];
        let begins = worse > account.highest || !account.open;
        account.engine = Some((stage + 1, worse));
        account.highest = account.highest.max(worse);
        account.open = true;
        if begins {
            account.acknowledged = None;
            account.begin(now, worse);
        } else if account.acknowledged.is_none() {
            account.equal.push((now, change.at));
        }
    }

    async fn operator(&mut self, which: usize) {
        let now = self.world.now();
        let id = parcelwatch::model::exception_id("late", &self.accounts[which].parcel, "");
        match self.dice.below(12) {
            0..3 => return self.silence(which).await,
            3 => return self.speak(which).await,
            4 => {
                let who = Who { by: "ann", ..Who::default() };
                let acted = self.world.cases.act(Act::Unacknowledge, &id, &who, now).await.expect("acts");
                let account = &mut self.accounts[which];
                assert_eq!(acted == Acted::Done, account.acknowledged.is_some());
                if account.acknowledged.take().is_some() {
                    let severity = account.engine.map_or(account.highest, |(_, s)| s);
                    account.begin(now, severity);
                }
                return;
            }
            _ => {}
        }
        if self.dice.below(3) == 0 {
            let acted = self.world.cases.resolve(&id, "ann", "", now).await.expect("acts");
            let account = &mut self.accounts[which];
            assert_eq!(acted == Acted::Done, account.open);
            if account.open {
                account.end(now);
            }
        } else {
            let acted = self.world.cases.acknowledge(&id, "ann", "", now).await.expect("acts");
            let account = &mut self.accounts[which];
            assert_eq!(
                acted == Acted::Done,
                account.open && account.acknowledged.is_none(),
                "{acted:?} {account:?}"
            );
            if acted == Acted::Done {
                account.pause(now);
                account.acknowledged = Some(now);
            }
        }
    }

    /// Somebody silences a parcel.
    async fn silence(&mut self, which: usize) {
        let now = self.world.now();
        let parcel = self.accounts[which].parcel.clone();
        let matchers = json!({"parcel_id": parcel, "rule": ["late", "other"]});
        let hours = i64::try_from(1 + self.dice.below(12)).unwrap_or(1);
        let new = NewSilence {
            on: Condition::from_json(&matchers).expect("a condition"),
            matchers,
            starts_ms: now,
            ends_ms: now + hours * HOUR,
            by: "ann".into(),
            comment: "works".into(),
            via: String::new(),
        };
        let made = self.world.cases.silence(&new, now).await.expect("makes");
        let number = made["id"].as_str().and_then(|n| n.parse().ok()).expect("a number");
        self.accounts[which].silent.push((now, new.ends_ms, number));
    }

    /// The latest silence of a parcel ends before its time.
    async fn speak(&mut self, which: usize) {
        let now = self.world.now();
        let Some((_, to, number)) = self.accounts[which].silent.last_mut() else { return };
        let who = Who { by: "bob", ..Who::default() };
        let ended = self.world.cases.end_silence(*number, &who, now).await.expect("ends");
        assert!(ended.is_some());
        *to = now.min(*to);
    }

    /// A turn that is cut off somewhere in the middle, as by `kill -9`, and everything in memory lost.
    async fn crash(&mut self) {
        let polls = self.dice.below(40);
        {
            let mut turn = pin!(self.world.escalator.turn(&mut self.world.memory));
            let mut left = polls;
            std::future::poll_fn(|context: &mut Context<'_>| {
                let done = turn.as_mut().poll(context).is_ready();
                if done || left == 0 {
                    return Poll::Ready(());
                }
                left -= 1;
                Poll::Pending
            })
            .await;
        }
        self.world.restart().await;
        // The shard begins at its snapshot: it says again what it said before.
        let again = self.dice.below(4) as usize;
        for (partition, change) in self.committed.iter().rev().take(again).rev() {
            assert_eq!(self.world.commit(*partition, std::slice::from_ref(change)).await.new, [false]);
        }
    }

    async fn go(&mut self, steps: u64) {
        for _ in 0..steps {
            let which = self.dice.below(self.accounts.len() as u64) as usize;
            let wait = match self.dice.below(8) {
                0..4 => i64::try_from(self.dice.below(90)).unwrap_or(0) * SECOND,
                4..7 => i64::try_from(self.dice.below(40)).unwrap_or(0) * MINUTE,
                _ => i64::try_from(self.dice.below(12)).unwrap_or(0) * HOUR,
            };
            self.world.run_for(wait).await;
            let now = self.world.now();
            self.accounts.iter_mut().for_each(|a| a.expire(now));
            self.deliver().await;
            match self.dice.below(10) {
                0..6 => self.engine(which).await,
                6..9 => self.operator(which).await,
                _ => self.crash().await,
            }
        }
        // All comes to an end.
        self.world.run_for(HOUR).await;
        let now = self.world.now();
        self.accounts.iter_mut().for_each(|a| a.expire(now));
        self.deliver().await;
        for which in 0..self.accounts.len() {
            if let Some((stage, severity)) = self.accounts[which].engine {
                self.commit(which, ChangeKind::Resolved(Resolution::Terminal), stage, severity).await;
                let account = &mut self.accounts[which];
                if account.open {
                    account.end(now);
                }
            }
        }
        self.world.run_for(HOUR).await;
        self.slow = false;
        self.deliver().await;
    }

    /// Receivers take what there is; slow ones not always.
    async fn deliver(&mut self) {
        for receiver in ["erp", "ops_mail", "pager", "correos_desk"] {
            if self.slow && self.dice.below(3) > 0 {
                continue;
            }
            for m in self.world.sent(receiver).await {
                let text = |v: &Value| v.as_str().unwrap_or("").to_owned();
                let still = |e: &Value| {
                    let account = self.accounts.iter().find(|a| a.parcel == e["parcel_id"]);
                    account.is_some_and(|a| a.open && a.acknowledged.is_none()) || e["change"] == "resolved"
                };
                assert!(m.exceptions().iter().any(still), "sent, and nothing of it stands: {m:?}");
                for e in m.exceptions() {
                    self.lines.push(Line {
                        at: m.at,
                        id: m.id.clone(),
                        who: (receiver.to_owned(), m.recipient.clone()),
                        parcel: text(&e["parcel_id"]),
                        word: text(&e["change"]),
                        step: m.body["data"]["step"].as_u64().unwrap_or(0),
                        change_at: text(&e["at"]),
                    });
                }
            }
        }
    }
}

fn next(severity: Severity) -> Severity {
    Severity::from_code(severity as u8 + 1).unwrap_or(severity)
}

/// Each piece of news once; each message lists an exception once.
fn no_news_twice(lines: &[Line]) {
    let (mut news, mut listed) = (BTreeSet::new(), BTreeSet::new());
    for l in lines {
        assert!(listed.insert((&l.id, &l.parcel)), "listed twice: {l:?}");
        if l.word != "reminder" {
            assert!(news.insert((&l.who, &l.parcel, &l.word, l.step, &l.change_at)), "told twice: {l:?}");
        }
    }
}

/// What is told stood then, unacknowledged; a resolve follows a telling, and every telling is followed by one.
fn only_what_stood(accounts: &[Account], lines: &[Line]) {
    for account in accounts {
        let mut owed: BTreeMap<&(String, String), bool> = BTreeMap::new();
        let mut mine: Vec<&Line> = lines.iter().filter(|l| l.parcel == account.parcel).collect();
        mine.sort_by_key(|l| l.at);
        for l in mine {
            let owed = owed.entry(&l.who).or_default();
            if l.word == "resolved" {
                assert!(*owed, "a resolve to whom nothing was told: {l:?}");
                assert!(account.ends.iter().any(|end| *end <= l.at), "not resolved yet: {l:?}");
                *owed = false;
            } else {
                // Told and ended in the same millisecond: the telling came first.
                let stood = account.stood.iter().any(|(from, to)| *from <= l.at && l.at <= *to);
                assert!(stood, "told of what did not stand open: {l:?} {account:?}");
                // In the very millisecond in which it began the telling may have come first.
                let quiet = account.silent.iter().any(|(from, to, _)| *from < l.at && l.at < *to);
                assert!(!quiet, "told in a silence: {l:?} {account:?}");
                *owed = true;
            }
        }
        assert!(owed.values().all(|owed| !owed), "an end was not told: {account:?} {owed:?}");
    }
}

/// Every step that came due while its climb went on was told, in time.
fn nothing_missing(accounts: &[Account], lines: &[Line]) {
    let within = WAIT + INTERVAL;
    for account in accounts {
        for climb in &account.climbs {
            for (k, (after, receivers, least)) in STEPS.iter().enumerate() {
                let first = climb.from + after;
                let mut due = first;
                // A silence that begins before the group's message goes out counts as well.
                while account.silenced(due, due + within) && account.loud(due + within) != due {
                    let last =
                        account.silent.iter().filter(|(from, to, _)| *from <= due + within && due <= *to);
                    let end = last.map(|(_, to, _)| *to).max().unwrap_or(due);
                    if end <= due {
                        break;
                    }
                    due = end;
                }
                if climb.to <= due + within || least.is_some_and(|least| climb.severity < least) {
                    continue;
                }
                for receiver in *receivers {
                    let told = lines.iter().any(|l| {
                        l.parcel == account.parcel
                            && l.who.0 == *receiver
                            && l.step == k as u64 + 1
                            && (first..=due + within).contains(&l.at)
                    });
                    assert!(told, "step {} was not told to {receiver}: {account:?} {climb:?}", k + 1);
                }
            }
        }
        for (when, at) in &account.equal {
            let stood = account.stood.iter().any(|(from, to)| from <= when && *to > when + within);
            let climb = account.climbs.iter().find(|c| c.from <= *when && *when < c.to);
            // The first step tells it where it has not been told yet.
            if stood
                && !account.silenced(*when, when + within)
                && climb.is_some_and(|c| c.to > when + within && c.from + within < *when)
            {
                for receiver in ["erp", "ops_mail"] {
                    let told = lines.iter().any(|l| {
                        l.parcel == account.parcel
                            && l.who.0 == receiver
                            && l.word == "raised"
                            && l.change_at == at.to_string()
                            && (*when..=when + within).contains(&l.at)
                    });
                    let later =
                        account.equal.iter().any(|(w, a)| a != at && *w >= *when && *w <= when + within);
                    assert!(told || later, "a raise was not told to {receiver}: {account:?}");
                }
            }
        }
    }
}

/// While it stands unacknowledged, nobody who was told goes without a word for longer than `repeat_every`.
fn reminded(accounts: &[Account], lines: &[Line]) {
    for account in accounts {
        for (from, to) in &account.stood {
            let mut last = None;
            let mut told: Vec<i64> = lines
                .iter()
                .filter(|l| l.parcel == account.parcel && l.who.0 == "erp" && l.word != "resolved")
                .map(|l| l.at)
                .filter(|at| (*from..*to).contains(at))
                .collect();
            told.sort_unstable();
            told.push(*to);
            for at in told {
                if let Some(last) = last.filter(|last| !account.silenced(*last, at)) {
                    // Another receiver's step counts as telling: at most one more round in between.
                    assert!(at - last <= 2 * (REPEAT + INTERVAL), "no reminder: {account:?} {last} {at}");
                }
                last = Some(at);
            }
        }
    }
}

fn seeds() -> std::ops::Range<u64> {
    let one = std::env::var("PARCELWATCH_SEED").ok().and_then(|s| s.parse().ok());
    let count = std::env::var("PARCELWATCH_SEEDS")
        .ok()
        .and_then(|s| s.parse().ok())
        .unwrap_or(if on_postgres() { 24 } else { 300 });
    one.map_or(0..count, |seed: u64| seed..seed + 1)
}

async fn check(seed: u64) -> usize {
    let mut run = Run::new(seed, false).await;
    run.go(30).await;
    let lines = std::mem::take(&mut run.lines);
    no_news_twice(&lines);
    only_what_stood(&run.accounts, &lines);
    nothing_missing(&run.accounts, &lines);
    reminded(&run.accounts, &lines);
    lines.len()
}

/// Whom a slow receiver tells of what: nothing that was acknowledged or ended before, no end without a beginning, and no beginning
/// without its end.
async fn check_slow(seed: u64) -> usize {
    let mut run = Run::new(seed, true).await;
    run.go(30).await;
    no_news_twice(&run.lines);
    only_what_stood(&run.accounts, &run.lines);
    let counts = run.world.cases.outbox_stats().await.expect("stats").rows;
    assert_eq!(counts["pending"], 0, "{counts:?}");
    usize::try_from(counts["withdrawn"]).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn random_lives_are_told_rightly_whatever_crashes() {
    let mut told = 0;
    let seeds: Vec<u64> = seeds().collect();
    for some in seeds.chunks(8) {
        let runs: Vec<_> = some.iter().map(|&seed| (seed, tokio::spawn(check(seed)))).collect();
        for (seed, run) in runs {
            told += run.await.unwrap_or_else(|_| panic!("PARCELWATCH_SEED={seed} shows it"));
        }
    }
    assert!(told > 0, "the runs told something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_slow_receivers_hear_is_true_when_it_is_sent() {
    let mut withdrawn = 0;
    let seeds: Vec<u64> = seeds().step_by(3).collect();
    for some in seeds.chunks(8) {
        let runs: Vec<_> = some.iter().map(|&seed| (seed, tokio::spawn(check_slow(seed)))).collect();
        for (seed, run) in runs {
            withdrawn += run.await.unwrap_or_else(|_| panic!("PARCELWATCH_SEED={seed} shows it"));
        }
    }
    assert!(withdrawn > 0, "no run withdrew anything");
}

#[tokio::test]
async fn a_turn_that_is_cut_off_at_any_point_is_made_up_for() {
    for polls in (0..60).step_by(3) {
        let mut world = World::new(policies(vec![step(0, &["erp"], None)])).await;
        let changes: Vec<_> = (0..5).map(|i| crate::world::opened(&format!("P{i}"), i)).collect();
        world.commit(0, &changes).await;
        world.run_for(WAIT - 1).await;
        world.clock.set(START + WAIT);
        {
            let mut turn = pin!(world.escalator.turn(&mut world.memory));
            let mut context = Context::from_waker(Waker::noop());
            for _ in 0..polls {
                if turn.as_mut().poll(&mut context).is_ready() {
                    break;
                }
                tokio::task::yield_now().await;
                std::thread::yield_now();
            }
        }
        world.restart().await;
        world.run_for(HOUR).await;
        let sent = world.sent("erp").await;
        assert_eq!(sent.len(), 1, "cut off after {polls} polls: one message, once");
        assert_eq!(sent[0].exceptions().len(), 5);
    }
}
