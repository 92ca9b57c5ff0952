//! The program's own `backtest` over a generated file, beside a bare serde_json decode of the same lines on as many threads.
//!
//! `cargo bench --bench backtest -- --events 10000000 [--threads 2] [--format jsonl] [--dir DIR] [--shuffle]`. The file is made once and kept in DIR
//! (default: the system's temporary directory) for the next run; `--shuffle` makes one whose lines are out of order. Wall
//! time, CPU time and peak memory are the child process's; nothing is asserted.

#[path = "bare/mod.rs"]
mod bare;
#[allow(dead_code, reason = "its rules are for benches that compile none")]
#[path = "workload/mod.rs"]
mod workload;

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use workload::{LIFE, Network};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn option(name: &str, default: &str) -> String {
    let mut args = std::env::args().skip_while(|a| a != name);
    args.nth(1).unwrap_or_else(|| default.to_owned())
}

/// Writes the file, unless it is there.
fn events(dir: &Path, count: u64, shuffle: bool) -> PathBuf {
    let path = dir.join(format!("parcelwatch-{count}{}.ndjson", if shuffle { "-shuffled" } else { "" }));
    if path.is_file() {
        return path;
    }
    let part = path.with_extension("part");
    let mut out = BufWriter::with_capacity(1 << 20, File::create(&part).expect("a file"));
    // Three months, so that parcels come, go and are forgotten.
    let network = Network { in_flight: count * 20 / 90 / 13 + 1 };
    let (mut items, mut line, mut written) = (Vec::new(), Vec::new(), 0);
    for hour in 0.. {
        network.hour(hour, &mut items);
        if shuffle {
            items.sort_by_key(|i| workload::mix(i.parcel ^ u64::from(i.step)));
        }
        for item in &items {
            network.render(*item, &mut line);
            // A file tells its append time itself.
            line.pop();
            let _ = write!(line, ",\"received_time\":\"{}\"}}", parcelwatch::model::Time(item.append));
            line.push(b'\n');
            out.write_all(&line).expect("room");
            written += 1;
        }
        if written >= count {
            break;
        }
    }
    out.into_inner().expect("room").sync_all().expect("room");
    std::fs::rename(&part, &path).expect("renamed");
    path
}

/// Thirty rules like the shipped ones.
fn rules(dir: &Path) -> PathBuf {
    let folder = dir.join("parcelwatch-rules");
    std::fs::create_dir_all(&folder).expect("a folder");
    let mut text = String::from("rules:\n");
    for i in 0..30 {
        let (anchor, expect) = match i {
            0 => ("after: import_customs_fully_cleared".to_owned(), "[{from: domestic_scan}]".to_owned()),
            1 | 2 => ("before: guarantee_end".to_owned(), "[delivered]".to_owned()),
            3 => ("after: last_event".to_owned(), String::new()),
            _ => (format!("after: {}", LIFE[i % 11]), format!("[{{from: {}}}]", LIFE[i % 11 + 1 + i % 2])),
        };
        text += &format!(
            "  - id: rule_{i:02}\n    title: Rule {i}\n    {anchor}\n    owner: ops\n    severity: warning\n"
        );
        if !expect.is_empty() {
            text += &format!("    expect: {expect}\n");
        }
        if i % 3 == 2 {
            text += "    scope: {lane: {glob: \"CN-*\"}}\n";
        }
        text += match i {
            0 => {
                "    unless: {duty_status: [unpaid, x]}\n    evidence: physical_scan\n    stages: [{at: 48h}, {at: 192h, severity: high}]\n"
            }
            1 => "    while: {holds_open: {gt: 0}}\n    stages: [{at: 192h}, {at: 96h, severity: high}]\n",
            2 => "    stages: [{at: 192h}, {at: 96h, severity: high}]\n",
            _ => "    stages: [{at: 96h}, {at: 192h, severity: high}]\n",
        };
        if !matches!(i, 1 | 2) {
            text += "    tolerance: 14h\n";
        }
        text += "    grace: 2h\n";
    }
    std::fs::write(folder.join("rules.yaml"), text).expect("rules");
    folder
}

/// Reads the file with as many threads, each its share of the bytes, and decodes every line.
fn baseline(path: &Path, threads: u64) -> Duration {
    let size = std::fs::metadata(path).expect("a file").len();
    let started = Instant::now();
    std::thread::scope(|scope| {
        for t in 0..threads {
            scope.spawn(move || {
                use std::io::Seek;
                let (from, to) = (size * t / threads, size * (t + 1) / threads);
                let mut file = File::open(path).expect("a file");
                file.seek(std::io::SeekFrom::Start(from)).expect("a seek");
                let mut input = BufReader::with_capacity(1 << 20, file.take(to - from));
                let (mut line, mut first, mut wrong) = (String::new(), t > 0, 0_u64);
                while input.read_line(&mut line).expect("UTF-8") > 0 {
                    if !std::mem::take(&mut first) {
                        wrong += u64::from(serde_json::from_str::<bare::Bare<'_>>(&line).is_err());
                    }
                    line.clear();
                }
                assert!(wrong <= 1, "{wrong} lines do not decode");
            });
        }
    });
    started.elapsed()
}

/// Runs the program; wall time, CPU time, peak memory in MiB, its last line of standard error.
fn run(args: &[&str], threads: u64) -> (Duration, Duration, u64, String) {
    let started = Instant::now();
    #[allow(clippy::zombie_processes, reason = "wait4 below waits for it")]
    let mut child = Command::new("taskset")
        .args(["-c", &format!("0-{}", threads - 1), env!("CARGO_BIN_EXE_parcelwatch")])
        .args(args)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("taskset and the program");
    let mut text = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut text).expect("UTF-8");
    // SAFETY: plain data, written by wait4 for a child of ours that nobody else waits for.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        let mut status = 0;
        assert_eq!(libc::wait4(child.id() as i32, &raw mut status, 0, &raw mut usage), child.id() as i32);
        assert!(libc::WIFEXITED(status) && libc::WEXITSTATUS(status) == 0, "{text}");
        usage
    };
    let time = |t: libc::timeval| Duration::new(t.tv_sec as u64, t.tv_usec as u32 * 1_000);
    let cpu = time(usage.ru_utime) + time(usage.ru_stime);
    (
        started.elapsed(),
        cpu,
        usage.ru_maxrss as u64 / 1_024,
        text.lines().last().unwrap_or_default().to_owned(),
    )
}

fn main() {
    let count: u64 = option("--events", "1000000").parse().expect("a number");
    let threads: u64 = option("--threads", "2").parse().expect("a number");
    let shuffle = std::env::args().any(|a| a == "--shuffle");
    let dir = PathBuf::from(option("--dir", &std::env::temp_dir().to_string_lossy()));
    let (events, rules) = (events(&dir, count, shuffle), rules(&dir));
    let format = option("--format", "jsonl");
    let size = std::fs::metadata(&events).expect("a file").len() >> 20;
    println!("{}: {size} MiB, 30 rules, {threads} threads", events.display());
    let base = baseline(&events, threads);
    println!("bare serde_json decode of the same lines, {threads} threads: {:.2} s wall", base.as_secs_f64());
    let (events, rules) = (events.to_string_lossy(), rules.to_string_lossy());
    let (wall, cpu, peak, last) =
        run(&["backtest", "--rules", &rules, "--events", &events, "--format", &format], threads);
    println!(
        "backtest --format {format}: {:.2} s wall, {:.2} s CPU, {peak} MiB at most; {:.1} times the baseline",
        wall.as_secs_f64(),
        cpu.as_secs_f64(),
        wall.as_secs_f64() / base.as_secs_f64()
    );
    println!("  {last}");
}
