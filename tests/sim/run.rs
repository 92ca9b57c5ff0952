//! One run: a schedule of records, clocks, faults and steps, all drawn from one seed; then quiet, then the reckoning.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use parcelwatch::engine::Lifetimes;
use parcelwatch::model::{Change, DAY, HOUR, MINUTE, SECOND};
use parcelwatch::rules::RuleSet;

use crate::broker::{Broker, Seen};
use crate::cases::Cases;
use crate::checks;
use crate::random::Random;
use crate::rulebook::Rulebook;
use crate::stream::{EPOCH, Planned, plan};
use crate::worker::{Phase, Worker, World};

/// How far any clock may be from the true time: two of them differ by less than the skew allowed for.
const DRIFT: i64 = 2_400;

/// One seed's world with those who work in it.
pub struct Run {
    pub random: Random,
    pub world: World,
    pub planned: VecDeque<Planned>,
    pub parcels: u64,
    pub workers: Vec<Worker>,
    book: Rulebook,
    before: Rulebook,
    wanted: Arc<RuleSet>,
    transaction: Option<(usize, u64)>,
    transactions: u64,
    /// One in so many draws of a fault is each of them.
    calmness: u64,
    /// Retention and truncation may take records that nobody has read yet.
    loses: bool,
    /// The workers lived up to here: nothing is stored before it any more.
    lived: i64,
    pub trace: Trace,
    pub tally: Tally,
}

/// How often what happened: a simulation in which nothing goes wrong proves nothing.
#[derive(Default, Debug)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    pub fn count(&mut self, what: &str, n: u64) {
        *self.0.entry(what.to_owned()).or_default() += n;
    }

    pub fn of(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or(0)
    }

    pub fn add(&mut self, other: Tally) {
        for (what, n) in other.0 {
            self.count(&what, n);
        }
    }
}

/// What happened, kept only where somebody will read it.
pub struct Trace(pub Option<Vec<String>>);

impl Trace {
    pub fn note(&mut self, line: impl FnOnce() -> String) {
        if let Some(lines) = &mut self.0 {
            lines.push(line());
        }
    }
}

impl Run {
    pub fn new(seed: u64, traced: bool) -> Run {
        let mut random = Random::new(seed);
        let partitions = random.within(1, 3) as usize;
        let parcels = random.within(4, 24) as u64;
        let span = *random.pick(&[2 * HOUR, 12 * HOUR, 2 * DAY]);
        let planned = plan(&mut random.fork(), parcels, span);
        let skews = (0..3).map(|_| random.within(-DRIFT, DRIFT)).collect();
        let book = Rulebook::new(&mut random);
        let wanted = book.build();
        let lifetimes = match random.below(4) {
            0 => Lifetimes { forget_after: 2 * HOUR, remember_ids: 3 * HOUR, abandon_after: 9 * HOUR },
            _ => Lifetimes::default(),
        };
        let world = World {
            now: EPOCH - MINUTE,
            broker: Broker::new(partitions, skews),
            cases: Cases::new(partitions),
            rules: BTreeMap::from([(wanted.hash.clone(), wanted.clone())]),
            lifetimes,
            keep_evidence: random.percent(25),
        };
        Run {
            loses: random.percent(12),
            calmness: *random.pick(&[300, 1_000, 3_000]),
            random,
            world,
            planned: planned.into(),
            parcels,
            workers: Vec::new(),
            before: book.clone(),
            book,
            wanted,
            transaction: None,
            transactions: 0,
            lived: i64::MIN,
            trace: Trace(traced.then(Vec::new)),
            tally: Tally::default(),
        }
    }

    /// Everything, the checks included; panics where one fails.
    pub fn whole(&mut self) {
        let steps = self.random.within(150, 400);
        for _ in 0..steps {
            self.pass_time();
            self.produce();
            self.fault();
            for _ in 0..self.random.below(24) {
                self.work();
            }
        }
        self.calm();
        checks::all(self);
        checks::count(self);
        // Then nothing comes any more, and every deadline passes.
        self.world.now += 3 * DAY;
        self.calm();
        checks::all(self);
    }

    fn pass_time(&mut self) {
        let step = match self.random.below(20) {
            0..=12 => self.random.within(0, SECOND),
            13..=16 => self.random.within(0, MINUTE),
            17 | 18 => self.random.within(0, 10 * MINUTE),
            _ => self.random.within(0, 2 * HOUR),
        };
        let now = self.world.now + step;
        // While records are outstanding time does not run past them for long.
        self.world.now = match self.planned.front() {
            Some(p) if p.append + HOUR < now => p.append + HOUR,
            _ => now,
        };
    }

    fn produce(&mut self) {
        while let Some(p) = self.planned.front() {
            let partition = p.parcel as usize % self.world.broker.partitions.len();
            let aimed = p.append - self.world.broker.clock(partition, 0).0;
            if aimed > self.world.now {
                return;
            }
            let p = self.planned.pop_front().expect("there is one");
            let seen = match self.transaction {
                Some((of, id)) if of == partition => Seen::Pending(id),
                _ => Seen::Yes,
            };
            // Stored when it was to be, though never before a moment that has passed.
            let at = aimed.max(self.lived);
            self.trace.note(|| format!("{at} p{partition} stores {seen:?} {}", p.json));
            self.world.broker.append(partition, at, p.json.into(), seen);
        }
    }

    /// Something goes wrong, or is put right again.
    fn fault(&mut self) {
        self.lived = self.world.now;
        let partition = self.random.below(self.world.broker.partitions.len() as u64) as usize;
        let now = self.world.now;
        match self.random.below(self.calmness) {
            0..=4 => self.world.broker.cut = true,
            5..=24 => self.world.broker.cut = false,
            25..=27 => self.world.cases.full = true,
            28..=49 => self.world.cases.full = false,
            50..=54 => {
                let leader = self.random.below(3) as usize;
                self.world.broker.partitions[partition].leader = leader;
                self.trace.note(|| format!("{now} p{partition} is led by {leader}"));
            }
            55..=64 => self.transact(partition),
            65..=74 => self.world.broker.append(partition, now, Vec::new(), Seen::Hole),
            75..=79 => self.lose_records(partition),
            80..=81 if self.loses && self.random.percent(20) => self.truncate(partition),
            85..=89 => self.rot(partition),
            90..=94 => self.edit_rules(),
            100..=119 => self.crash(partition),
            120..=129 => self.stop(partition),
            130..=134 => self.take_over(partition),
            135..=137 => self.operator(partition),
            _ => {}
        }
    }

    fn transact(&mut self, partition: usize) {
        match self.transaction.take() {
            Some((of, id)) => {
                let commit = self.random.percent(60);
                self.trace.note(|| format!("p{of} transaction {id} ends, commit {commit}"));
                self.world.broker.decide(of, self.world.now, id, commit);
            }
            None => {
                self.transactions += 1;
                self.transaction = Some((partition, self.transactions));
            }
        }
    }

    /// Retention: in most runs only what every snapshot kept is past, in some whatever there is.
    fn lose_records(&mut self, partition: usize) {
        let p = &mut self.world.broker.partitions[partition];
        let book = &self.world.cases.books[partition];
        let oldest =
            book.snapshots.iter().filter(|s| s.head.is_some()).map(|s| s.at.offset).min().unwrap_or(0);
        let end = p.log.len() as i64;
        let to = if self.loses { self.random.within(p.start, end) } else { self.random.within(0, oldest) };
        p.start = p.start.max(to);
        let start = p.start;
        self.trace.note(|| format!("p{partition} begins at {start}"));
    }

    /// A leader that had not all of the log was elected.
    fn truncate(&mut self, partition: usize) {
        let p = &mut self.world.broker.partitions[partition];
        let end = self.random.within(p.start, p.log.len() as i64);
        p.log.truncate(end as usize);
        self.world.cases.books[partition].lossy = true;
        self.trace.note(|| format!("p{partition} is cut off at {end}"));
    }

    fn rot(&mut self, partition: usize) {
        if let Some(last) = self.world.cases.books[partition].snapshots.last_mut() {
            let mut rotten = last.copy();
            rotten.rotten = true;
            *last = rotten.into();
            self.trace.note(|| format!("p{partition} the newest snapshot rots"));
        }
    }

    fn edit_rules(&mut self) {
        // Now and then an edit is taken back.
        let edited = self.book.edited(&mut self.random);
        let before = std::mem::replace(&mut self.book, edited);
        if self.random.percent(40) {
            self.book = std::mem::replace(&mut self.before, before);
        } else {
            self.before = before;
        }
        self.wanted = self.book.build();
        let hash = self.wanted.hash.clone();
        self.trace.note(|| format!("the rules are {hash}"));
        self.world.rules.insert(hash, self.wanted.clone());
        if self.random.percent(50) {
            for w in &mut self.workers {
                w.wanted = self.wanted.clone();
            }
        }
    }

    /// The owner of a partition, or of all of them, is gone without a word.
    fn crash(&mut self, partition: usize) {
        let all = self.random.percent(30);
        self.trace.note(|| format!("p{partition} crash, all {all}"));
        for w in self.workers.iter().filter(|w| all || w.partition == partition) {
            let unwritten = u64::from(!w.out.is_empty());
            self.tally.count("crashed", 1);
            self.tally.count("crashed before a commit", unwritten);
        }
        self.workers.retain(|w| !all && w.partition != partition);
    }

    fn stop(&mut self, partition: usize) {
        self.trace.note(|| format!("p{partition} stops"));
        for w in std::mem::take(&mut self.workers) {
            if w.partition == partition {
                w.stop(&mut self.world);
            } else {
                self.workers.push(w);
            }
        }
    }

    /// Another process becomes the owner; the old one does not know.
    fn take_over(&mut self, partition: usize) {
        if self.workers.iter().filter(|w| w.partition == partition).count() < 3 {
            let skew = self.random.within(-DRIFT, DRIFT);
            self.trace.note(|| format!("p{partition} has a new owner"));
            let worker = Worker::start(&mut self.world, partition, self.wanted.clone(), skew);
            self.workers.push(worker);
        }
    }

    /// Somebody resolves one by hand.
    fn operator(&mut self, partition: usize) {
        let standing = &mut self.world.cases.books[partition].standing;
        let n = self.random.below(standing.len().max(1) as u64) as usize;
        if let Some(case) = standing.values_mut().nth(n) {
            case.by_operator = true;
        }
    }

    /// One step of one worker.
    fn work(&mut self) {
        let partition = self.random.below(self.world.broker.partitions.len() as u64) as usize;
        if !self.workers.iter().any(|w| w.partition == partition) {
            if self.random.percent(10) {
                self.take_over(partition);
            }
            return;
        }
        let i = self.random.below(self.workers.len() as u64) as usize;
        let (random, world, worker) = (&mut self.random, &mut self.world, &mut self.workers[i]);
        let partition = worker.partition;
        let (before, waiting, was) = (worker.place(), worker.out.len(), worker.phase);
        let step = random.below(16);
        match step {
            0 | 1 => worker.fetch(world, random.within(1, 30) as usize),
            2..=5 => {
                let limit = *random.pick(&[1, 2, 5, 1_000]);
                worker.fold(world, random.within(1, 20) as usize, worker.out.len().max(limit / 2) + limit);
            }
            6 | 7 => {
                let max = *random.pick(&[1, 2, 1_000]);
                if !worker.commit(world, max) {
                    self.tally.count("fenced", 1);
                    self.trace.note(|| format!("p{partition} an owner finds itself fenced"));
                    self.workers.swap_remove(i);
                    return;
                }
            }
            8 | 9 => {
                worker.ask(world);
                if random.percent(60) {
                    worker.answer(world);
                }
            }
            10 => worker.answer(world),
            11 | 12 => worker.raise(world),
            13 => worker.settle(world),
            14 if random.percent(30) => worker.save_begin(),
            _ => worker.save_step(world, *random.pick(&[2, 5, 1_000])),
        }
        let (after, phase, out) = (worker.place(), worker.phase, worker.out.len());
        if phase == Phase::Live && was != Phase::Live {
            self.tally.count(if after.offset > 0 { "restored" } else { "begun" }, 1);
        }
        if before.watermark < after.watermark && before.offset == after.offset {
            self.tally.count("raised by a certificate", u64::from(phase == Phase::Live));
        }
        if after != before || out != waiting {
            let at = (after.offset, after.watermark);
            self.trace
                .note(|| format!("p{partition} step {step} {phase:?} at {} {}, {out} wait", at.0, at.1));
        }
        for c in worker.out.iter().skip(waiting) {
            self.trace.note(|| format!("  {}", say(c)));
        }
    }

    /// Faults stop: within so many rounds everybody must have caught up with the clock.
    pub fn calm(&mut self) {
        self.trace.note(|| "calm".to_owned());
        (self.world.broker.cut, self.world.cases.full) = (false, false);
        if let Some((of, id)) = self.transaction.take() {
            self.world.broker.decide(of, self.world.now, id, true);
        }
        for partition in 0..self.world.broker.partitions.len() {
            let mut owners: Vec<Worker> = std::mem::take(&mut self.workers);
            owners.retain(|w| w.partition != partition || w.owns(&self.world));
            self.workers = owners;
            if !self.workers.iter().any(|w| w.partition == partition) {
                self.take_over(partition);
            }
        }
        let rest = self.planned.back().map_or(0, |p| (p.append - self.world.now).max(0));
        let rounds = 60 + self.planned.len();
        for _ in 0..rounds {
            self.world.now += rest / rounds as i64 + 250;
            self.produce();
            self.lived = self.world.now;
            for w in &mut self.workers {
                w.round(&mut self.world);
            }
        }
        assert!(self.planned.is_empty(), "{} records are left to store", self.planned.len());
        for w in &self.workers {
            let lag = w.clock(&self.world).0.saturating_sub(w.shard.watermark().0);
            assert!(w.is_idle(), "p{} is not idle: {:?} {}", w.partition, w.phase, w.out.len());
            assert!(lag <= 5 * SECOND + 1_000, "p{} lags by {lag} ms", w.partition);
        }
    }
}

/// A change in one line.
pub fn say(c: &Change) -> String {
    let episode = c.episode_text();
    format!(
        "{:?} {} {} {episode} at {} offset {} stage {} {:?} anchor {} due {} incomplete {}",
        c.kind, c.rule, c.parcel_id, c.at, c.offset, c.stage, c.severity, c.anchor, c.due, c.incomplete
    )
}
