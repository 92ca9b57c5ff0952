//! Any bytes give an answer: within a second of computing, within 100 MB, and never a panic.
//!
//! A case is made by its seed alone. `FUZZ_SEED=N` runs one case again, `FUZZ_CASES=N` runs more of them.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use parcelwatch::config::{Config, Environment};
use parcelwatch::model::Time;
use parcelwatch::rules::{SourceFile, compile_at};

/// What a case may compute for, in a build without optimisation too.
const LIMIT: Duration = Duration::from_secs(1);
/// What it may have in memory at once.
const MEMORY: isize = 100 << 20;

/// Counts what each thread has in memory; that of the whole test program.
pub struct Counting;

thread_local! {
    static LIVE: Cell<isize> = const { Cell::new(0) };
    static PEAK: Cell<isize> = const { Cell::new(0) };
}

fn count(more: isize) {
    // A thread that ends frees after its counters are gone.
    let _ = LIVE.try_with(|live| {
        live.set(live.get() + more);
        let _ = PEAK.try_with(|peak| peak.set(peak.get().max(live.get())));
    });
}

// SAFETY: every call is handed on as it is; the counters neither allocate nor touch the memory.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size().cast_signed());
        // SAFETY: as of the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-layout.size().cast_signed());
        // SAFETY: as of the caller.
        unsafe { System.dealloc(at, layout) }
    }

    unsafe fn realloc(&self, at: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size.cast_signed() - layout.size().cast_signed());
        // SAFETY: as of the caller.
        unsafe { System.realloc(at, layout, size) }
    }
}

/// What comes of some work, the time this thread computed for it, and what it had more in memory at once.
fn cost<T>(work: impl FnOnce() -> T) -> (T, Duration, isize) {
    let before = LIVE.get();
    PEAK.set(before);
    let begun = computed();
    let done = work();
    (done, computed() - begun, PEAK.get() - before)
}

/// Time this thread has computed: a machine with other work does not make it longer.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

/// Dice that a seed decides (SplitMix64).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.roll() % n.max(1) as u64).unwrap()
    }

    fn pick<'a, T: ?Sized>(&mut self, from: &[&'a T]) -> &'a T {
        from[self.below(from.len())]
    }

    /// Mostly few, now and then many.
    fn times(&mut self) -> usize {
        match self.below(20) {
            0 => 20_000,
            1..=3 => 500,
            _ => 1 + self.below(8),
        }
    }
}

/// What means something to the reader.
const WORDS: [&str; 64] = [
    "&a ",
    "*a",
    "&a [*a]",
    "<<: *a",
    "!!str ",
    "---\n",
    "...\n",
    "- ",
    "? ",
    ": ",
    "#",
    "|\n",
    ">\n",
    "'",
    "\"",
    "[",
    "]",
    "{",
    "}",
    ",",
    "\t",
    "\r\n",
    "\u{feff}",
    "\0",
    "~",
    "null",
    "yes",
    "no",
    "0123",
    "12:30",
    ".inf",
    "1e999",
    "-1d",
    "99999999999d",
    "2bd",
    "any_of: ",
    "none_of: ",
    "{not: ",
    "{in: eu}",
    "{glob: \"*\"}",
    "{gt: 1, lt: 0}",
    "{missing: true}",
    "{from: delivered}",
    "after: ",
    "before: ",
    "overrides: ",
    "match: ",
    "scope: ",
    "while: ",
    "unless: ",
    "expect: ",
    "stages: ",
    "within: ",
    "severity: high",
    "calendar: by_destination",
    "sets: ",
    "facts: ",
    "rules:\n",
    "é",
    "🦀",
    "\u{202e}",
    "reported_within: ",
    "effective: ",
    "policy: ",
];

/// A file, changed in a few places.
fn case(seed: u64, corpus: &[(String, Vec<u8>)]) -> (String, Vec<u8>) {
    let mut dice = Dice(seed);
    let (name, text) = &corpus[dice.below(corpus.len())];
    let mut bytes = text.clone();
    for _ in 0..=dice.below(4) {
        let at = dice.below(bytes.len() + 1);
        let to = at + dice.below(bytes.len() - at + 1).min(1 + dice.below(120));
        match dice.below(10) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..to)),
            2 if at < bytes.len() => bytes[at] = u8::try_from(dice.below(256)).unwrap(),
            3 => drop(bytes.splice(at..at, dice.pick(&WORDS).repeat(dice.times()).into_bytes())),
            4 => drop(bytes.splice(at..to, dice.pick(&WORDS).bytes())),
            // A piece again and again.
            5 => {
                let piece = bytes[at..to].repeat(dice.times());
                drop(bytes.splice(to..to, piece));
            }
            // A line again and again, its name changed.
            6 => {
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let lines: Vec<&str> = text.lines().collect();
                let line = lines.get(dice.below(lines.len())).copied().unwrap_or("- {}");
                let many: String =
                    (0..dice.times()).map(|i| line.replace("id: ", &format!("id: n{i}")) + "\n").collect();
                drop(bytes.splice(at..at, many.into_bytes()));
            }
            // A piece of another file.
            7 => {
                let other = &corpus[dice.below(corpus.len())].1;
                let from = dice.below(other.len() + 1);
                let piece = other[from..(from + dice.below(300)).min(other.len())].to_vec();
                drop(bytes.splice(at..at, piece));
            }
            8 => {
                let (open, close) = if dice.below(2) == 0 { ("[", "]") } else { ("{a: ", "}") };
                let deep = dice.times();
                drop(bytes.splice(at..to, (open.repeat(deep) + "x" + &close.repeat(deep)).into_bytes()));
            }
            _ => bytes.extend(
                (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect::<Vec<_>>(),
            ),
        }
        bytes.truncate(1 << 20);
    }
    (name.clone(), bytes)
}

/// Reads it as what it is, and renders what is said.
fn answer(name: &str, bytes: &[u8]) -> usize {
    let problems = if name == "parcelwatch.yaml" {
        Config::read(Path::new(name), bytes, &Environment::new()).err().unwrap_or_default()
    } else {
        let file = SourceFile { path: name.into(), content: Ok(bytes.to_vec()), context: false };
        compile_at(&[file], Time::parse("2026-10-01T00:00:00Z")).problems
    };
    problems.iter().map(|p| p.render(false).len()).sum()
}

/// All files that the project has, by what they are.
fn corpus() -> Vec<(String, Vec<u8>)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<PathBuf> = Vec::new();
    for folder in ["rules", "config", "tests/data/rules/good", "tests/data/rules/bad"] {
        paths.extend(std::fs::read_dir(root.join(folder)).unwrap().map(|e| e.unwrap().path()));
    }
    paths.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    paths.sort();
    assert!(paths.len() > 200);
    let kind = |name: &str| match name {
        n if n.starts_with("config_") || n == "parcelwatch.yaml" => "parcelwatch.yaml",
        n if n.starts_with("policies") => "policies.yaml",
        _ => "rules.yaml",
    };
    let read =
        |p: PathBuf| (kind(&p.file_name().unwrap().to_string_lossy()).to_owned(), std::fs::read(&p).unwrap());
    paths.into_iter().map(read).collect()
}

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|n| n.parse().expect("a number"))
}

#[test]
fn changed_files_are_answered_at_once() {
    let corpus = corpus();
    let (first, cases) = match number("FUZZ_SEED") {
        Some(seed) => (seed, 1),
        None => (0, number("FUZZ_CASES").unwrap_or(300)),
    };
    for seed in first..first + cases {
        let (name, bytes) = case(seed, &corpus);
        let (said, took, peak) = cost(|| catch_unwind(AssertUnwindSafe(|| answer(&name, &bytes))));
        let again = format!("FUZZ_SEED={seed} makes this case again ({name}, {} bytes)", bytes.len());
        let Ok(said) = said else { panic!("a panic: {again}") };
        assert!(took < LIMIT, "{took:?}: {again}");
        assert!(peak < MEMORY, "{} MB: {again}", peak >> 20);
        assert!(said < 1 << 20, "{said} bytes are said: {again}");
    }
}

/// Files that mean harm: what they are, and under which name the program reads them.
fn hostile() -> Vec<(&'static str, &'static str, String)> {
    let rule = |i: usize, more: &str| {
        format!("- {{id: r{i}, after: import_customs_cleared, within: 1d, severity: high{more}}}\n")
    };
    let rules =
        |n: usize, more: &str| "rules:\n".to_owned() + &(0..n).map(|i| rule(i, more)).collect::<String>();
    let numbers = |n: usize| (0..n).map(|i| format!("v{i}, ")).collect::<String>();
    let bomb: String =
        (1..40).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{}, ", i - 1).repeat(9))).collect();
    let over = |n: usize| {
        format!(
            ", overrides: [{}]",
            (0..n).map(|i| format!("{{match: {{broker: b{i}}}, within: 2d}}, ")).collect::<String>()
        )
    };
    vec![
        ("brackets", "rules.yaml", "[".repeat(1 << 20)),
        ("braces", "rules.yaml", "{a: ".repeat(1 << 18)),
        ("an alias bomb", "rules.yaml", format!("a0: &a0 [x]\n{bomb}")),
        (
            "aliases of a large text",
            "rules.yaml",
            format!("a: &a {}\nrules: [{}]\n", "x".repeat(500_000), "*a, ".repeat(100_000)),
        ),
        (
            "nested anchors",
            "rules.yaml",
            format!("rules: {}x{}", "&a [".repeat(30), "]".repeat(30)) + &"#".repeat(900_000),
        ),
        ("one huge text", "rules.yaml", format!("rules: [{{id: a, title: {}}}]", "é".repeat(500_000))),
        ("a huge key", "rules.yaml", format!("{}: 1\n", "k".repeat(1_000_000))),
        ("100,000 keys", "rules.yaml", (0..100_000).map(|i| format!("k{i}: 1\n")).collect()),
        ("100,000 rules", "rules.yaml", format!("rules:\n{}", "- {}\n".repeat(100_000))),
        (
            "100,000 rules with ids",
            "rules.yaml",
            format!("rules:\n{}", (0..90_000).map(|i| format!("- id: i{i}\n")).collect::<String>()),
        ),
        ("as many good rules as fit", "rules.yaml", rules(12_000, "")),
        ("100,000 unknown milestones", "rules.yaml", rules(1, &format!(", expect: [{}]", numbers(100_000)))),
        (
            "100,000 unknown facts",
            "policies.yaml",
            format!("policies: [{{id: p, group_by: [{}], steps: []}}]", numbers(100_000)),
        ),
        (
            "100,000 values",
            "rules.yaml",
            rules(1, &format!(", scope: {{destination: [{}]}}", numbers(100_000))),
        ),
        (
            "a large set, often",
            "rules.yaml",
            format!("sets: {{s: [{}]}}\n", numbers(50_000)) + &rules(4_000, ", scope: {broker: {in: s}}"),
        ),
        (
            "a large condition, often repeated",
            "rules.yaml",
            rules(1, &format!(", unless: {{broker: [{}]}}{}", numbers(40_000), over(10_000))),
        ),
        ("10,000 overrides", "rules.yaml", rules(1, &over(10_000))),
        (
            "a thousand choices",
            "rules.yaml",
            rules(
                1,
                &format!(
                    ", scope: {{any_of: [{}]}}",
                    "{any_of: [{broker: a}, {none_of: [{broker: b}, {carrier: c}]}]}, ".repeat(5_000)
                ),
            ),
        ),
        (
            "carriers that are nearly others",
            "rules.yaml",
            rules(
                1,
                &format!(
                    ", scope: {{carrier: [{}]}}",
                    (0..80_000).map(|i| format!("carrier{i}, ")).collect::<String>()
                ),
            ),
        ),
        ("100,000 receivers", "policies.yaml", format!("receivers:\n{}", "- {id: a}\n".repeat(90_000))),
        (
            "tokens",
            "parcelwatch.yaml",
            format!("kafka: {{}}\nhttp: {{tokens: [{}]}}", "{name: a}, ".repeat(80_000)),
        ),
        (
            "properties",
            "parcelwatch.yaml",
            format!(
                "kafka: {{properties: {{{}}}}}",
                (0..60_000).map(|i| format!("k{i}: v, ")).collect::<String>()
            ),
        ),
    ]
}

#[test]
fn hostile_files_cost_no_more_than_honest_ones() {
    // A build without optimisation computes some times longer.
    let limit = if cfg!(debug_assertions) { 4 * LIMIT } else { LIMIT };
    let mut wrong = Vec::new();
    for (what, name, mut text) in hostile() {
        // The largest that is read.
        let mut end = text.len().min(1 << 20);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        text.truncate(end);
        let (said, took, peak) = cost(|| answer(name, text.as_bytes()));
        println!("{what}: {said} bytes said, {took:?}, {} MB", peak >> 20);
        if took > limit || peak > MEMORY || said > 1 << 20 {
            wrong.push(format!("{what}: {said} bytes said, {took:?}, {} MB", peak >> 20));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
