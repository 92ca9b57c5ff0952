//! The fold on one core: decode + fold + deadlines, memory, a burst of deadlines, snapshots.
//!
//! `cargo bench --bench engine -- --parcels 1000000`. Each figure stands beside its baseline from the same run; nothing is
//! asserted.

#[path = "workload/mod.rs"]
mod workload;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parcelwatch::engine::snapshot::Step;
use parcelwatch::engine::{Lifetimes, Record, Shard};
use parcelwatch::model::{Change, DAY, Event, HOUR, MINUTE, Time};
use parcelwatch::rules::RuleSet;
use parcelwatch::source::decode::{FactNames, decode};
use serde::Deserialize;
use workload::{EPOCH, GAP, Item, Network};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PARTITIONS: usize = 12;

/// The baseline: a bare borrowed serde_json decode of the fields that the record has.
#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
struct Bare<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    parcel_id: Cow<'a, str>,
    #[serde(borrow)]
    milestone: Cow<'a, str>,
    #[serde(borrow)]
    evidence_class: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow)]
    tracking_number: Cow<'a, str>,
    #[serde(borrow)]
    location: Place<'a>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow, default)]
    lane: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    order_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    duty_status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    broker_reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    carrier: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
struct Place<'a> {
    #[serde(borrow)]
    country: Cow<'a, str>,
    #[serde(borrow)]
    facility: Cow<'a, str>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
struct Source<'a> {
    #[serde(borrow)]
    system: Cow<'a, str>,
    #[serde(borrow)]
    role: Cow<'a, str>,
}

/// Records of one hour, rendered one behind the other.
#[derive(Default)]
struct Hour {
    items: Vec<Item>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Hour {
    fn make(&mut self, network: Network, hour: i64) {
        network.hour(hour, &mut self.items);
        self.bytes.clear();
        self.ends.clear();
        let mut one = Vec::new();
        for item in &self.items {
            network.render(*item, &mut one);
            self.bytes.extend_from_slice(&one);
            self.ends.push(self.bytes.len());
        }
    }

    fn record(&self, i: usize) -> &[u8] {
        let start = if i == 0 { 0 } else { self.ends[i - 1] };
        &self.bytes[start..self.ends[i]]
    }

    fn partition(&self, i: usize) -> usize {
        (workload::mix(self.items[i].parcel) >> 40) as usize % PARTITIONS
    }
}

struct World {
    shards: Vec<Shard>,
    names: FactNames,
    changes: Vec<Change>,
    told: u64,
}

impl World {
    fn new(rules: &Arc<RuleSet>) -> World {
        let shards = (0..PARTITIONS)
            .map(|_| Shard::new(rules.clone(), Lifetimes::default(), false))
            .collect::<Vec<_>>();
        World { shards, names: FactNames::new([]), changes: Vec::new(), told: 0 }
    }

    /// Decodes and folds an hour, partition by partition in batches of 64, as a worker does.
    fn fold(&mut self, hour: &Hour) {
        let mut by_partition: Vec<Vec<usize>> = vec![Vec::new(); PARTITIONS];
        for i in 0..hour.items.len() {
            by_partition[hour.partition(i)].push(i);
        }
        for (shard, mine) in self.shards.iter_mut().zip(&by_partition) {
            let mut events: Vec<(Time, Event<'_>)> = Vec::with_capacity(64);
            for chunk in mine.chunks(64) {
                events.clear();
                for i in chunk {
                    if let Ok(e) = decode(hour.record(*i), &self.names) {
                        events.push((Time(hour.items[*i].append), e));
                    }
                }
                let records: Vec<_> = events
                    .iter()
                    .map(|(append, e)| Record { offset: 0, append: *append, event: Ok(e) })
                    .collect();
                shard.fold(&records, usize::MAX, &mut self.changes);
            }
        }
        self.told += self.changes.len() as u64;
        self.changes.clear();
    }

    fn parcels(&self) -> usize {
        self.shards.iter().map(Shard::parcels).sum()
    }
}

fn cpu() -> Duration {
    let mut t = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the clock id is valid and `t` outlives the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut t) };
    Duration::new(t.tv_sec as u64, t.tv_nsec as u32)
}

fn resident() -> u64 {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ').nth(1).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) * 4096
}

fn per(d: Duration, n: u64) -> f64 {
    d.as_nanos() as f64 / n as f64
}

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let number = |name: &str, default: u64| {
        args.iter().position(|a| a == name).and_then(|i| args.get(i + 1)?.parse().ok()).unwrap_or(default)
    };
    let in_flight = number("--parcels", 1_000_000);
    let measured = number("--events", 2_000_000);
    let network = Network { in_flight };
    let rules = Arc::new(workload::rules());
    println!("{in_flight} parcels in flight, {} rules, {PARTITIONS} partitions", rules.rules.len());
    let mut world = World::new(&rules);
    let mut hour = Hour::default();
    let empty = resident();
    let started = Instant::now();
    let (mut hours, fill_hours) = (0, 12 * GAP / HOUR + 24);
    while hours < fill_hours {
        hour.make(network, hours);
        world.fold(&hour);
        hours += 1;
    }
    println!(
        "filled in {:.1} s, {} parcels held, {} changes",
        started.elapsed().as_secs_f64(),
        world.parcels(),
        world.told
    );
    let (mut bare, mut ours, mut all) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
    let (mut events, mut bytes) = (0u64, 0u64);
    let told = world.told;
    while events < measured {
        hour.make(network, hours);
        hours += 1;
        let t = cpu();
        for i in 0..hour.items.len() {
            std::hint::black_box(serde_json::from_slice::<Bare<'_>>(hour.record(i)).is_ok());
        }
        bare += cpu() - t;
        let t = cpu();
        for i in 0..hour.items.len() {
            std::hint::black_box(decode(hour.record(i), &world.names).is_ok());
        }
        ours += cpu() - t;
        let t = cpu();
        world.fold(&hour);
        all += cpu() - t;
        events += hour.items.len() as u64;
        bytes += hour.bytes.len() as u64;
    }
    let (bare, ours, all) = (per(bare, events), per(ours, events), per(all, events));
    println!("{events} events of {} bytes, {} changes, one core:", bytes / events, world.told - told);
    println!("  bare serde_json decode, borrowed   {bare:7.0} ns  {:7.0} k/s   (baseline)", 1e6 / bare);
    println!(
        "  our decode                         {ours:7.0} ns  {:7.0} k/s   {:.2} x",
        1e6 / ours,
        bare / ours
    );
    println!(
        "  decode + fold + deadlines          {all:7.0} ns  {:7.0} k/s   {:.2} x",
        1e6 / all,
        bare / all
    );
    let held = world.parcels() as u64;
    let used = resident().saturating_sub(empty);
    println!("memory: {} parcels held, {:.0} bytes each, all included", held, used as f64 / held as f64);
    snapshot(&mut world, &rules);
    reload(&mut world);
    burst(&rules, in_flight.min(10_000_000));
}

/// New rules for all parcels: first foreseen, then put in force, in slices as the daemon takes them.
fn reload(world: &mut World) {
    const SLOTS: u32 = 8_192;
    let mut changed = workload::rules();
    changed.hash = "an hour sooner".to_owned();
    for stage in changed.rules.iter_mut().flat_map(|r| &mut r.bodies).flat_map(|b| &mut b.stages) {
        stage.at.ms = (stage.at.ms - 3_600_000).max(0);
    }
    let changed = Arc::new(changed);
    let parcels = world.parcels() as u64;
    let (mut foresee, mut longest) = (Duration::ZERO, Duration::ZERO);
    let mut openings = 0;
    for shard in &mut world.shards {
        let t = Instant::now();
        let mut preview = shard.preview(Arc::clone(&changed));
        while !shard.preview_step(&mut preview, SLOTS) {}
        foresee += t.elapsed();
        openings += preview.found.openings();
    }
    let started = Instant::now();
    let mut out = Vec::new();
    for shard in &mut world.shards {
        let t = Instant::now();
        let mut swap = shard.swap_begin(Arc::clone(&changed), &mut out);
        longest = longest.max(t.elapsed());
        let mut done = false;
        while !done {
            let t = Instant::now();
            done = shard.swap_step(&mut swap, SLOTS, &mut out);
            longest = longest.max(t.elapsed());
        }
    }
    println!(
        "new rules: {parcels} parcels, {} changes ({openings} openings foreseen): longest pause {:.1} ms, {:.0} ns a parcel; foreseen \
         in {:.0} ns a parcel",
        out.len(),
        longest.as_secs_f64() * 1e3,
        per(started.elapsed(), parcels),
        per(foresee, parcels),
    );
}

fn snapshot(world: &mut World, rules: &Arc<RuleSet>) {
    let started = Instant::now();
    let (mut longest, mut size) = (Duration::ZERO, 0u64);
    let mut saved = Vec::new();
    for shard in &mut world.shards {
        let t = Instant::now();
        shard.save_begin();
        longest = longest.max(t.elapsed());
        let mut sections = Vec::new();
        loop {
            let t = Instant::now();
            let step = shard.save_step(4_096);
            longest = longest.max(t.elapsed());
            match step {
                Some(Step::Section(s)) => sections.push(s),
                Some(Step::More) => {}
                Some(Step::Last(s, head)) => {
                    sections.push(s);
                    saved.push((sections, head));
                    break;
                }
                None => break,
            }
        }
        size += saved.last().map_or(0, |(s, h)| s.iter().map(Vec::len).sum::<usize>() + h.len()) as u64;
    }
    println!(
        "snapshot in memory: longest pause {:.1} ms, {} MB before compression, {:.2} s in all",
        longest.as_secs_f64() * 1e3,
        size >> 20,
        started.elapsed().as_secs_f64()
    );
    world.shards.clear();
    let started = Instant::now();
    for (sections, head) in &saved {
        match Shard::load(sections, head, rules.clone(), Lifetimes::default(), false) {
            Ok(shard) => world.shards.push(shard),
            Err(e) => println!("cannot load: {e}"),
        }
    }
    println!("loaded: {} parcels in {:.2} s", world.parcels(), started.elapsed().as_secs_f64());
}

/// Parcels cleared within one minute whose first deadline falls into one minute.
fn burst(rules: &Arc<RuleSet>, parcels: u64) {
    let mut shard = Shard::new(rules.clone(), Lifetimes::default(), false);
    let names = FactNames::new([]);
    let mut changes = Vec::new();
    let mut text = String::new();
    for i in 0..parcels {
        use std::fmt::Write;
        text.clear();
        let at = Time(EPOCH + (i as i64 * MINUTE) / parcels as i64);
        let _ = write!(
            text,
            "{{\"parcel_id\":\"B{:013x}\",\"milestone\":\"import_customs_cleared\",\"event_time\":\"{at}\"}}",
            workload::mix(i)
        );
        if let Ok(e) = decode(text.as_bytes(), &names) {
            shard.fold(&[Record { offset: i as i64, append: at, event: Ok(&e) }], usize::MAX, &mut changes);
        }
    }
    changes.clear();
    shard.advance(Time(EPOCH + 47 * HOUR), usize::MAX, &mut changes);
    changes.clear();
    let (t, wall) = (cpu(), Instant::now());
    let mut told = 0;
    let mut to = EPOCH + 2 * DAY;
    while to < EPOCH + 2 * DAY + 2 * MINUTE {
        to += 1_000;
        while !shard.advance(Time(to), 10_000, &mut changes) {
            told += changes.len();
            changes.clear();
        }
        told += changes.len();
        changes.clear();
    }
    let spent = cpu() - t;
    println!(
        "burst: {told} changes of {parcels} deadlines in one minute: {:.2} s wall, {:.2} s CPU, {:.0} ns each",
        wall.elapsed().as_secs_f64(),
        spent.as_secs_f64(),
        per(spent, told.max(1) as u64)
    );
}
