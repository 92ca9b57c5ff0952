//! `backtest` as a program: what it reports, compares, allows, learns; and that none of it depends on threads or order.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;

use crate::oracle_impl::generate::Draft;
use crate::parts::{
    self,
    kafka::{Kafka, Record},
};
use crate::world::{self, step};
use parcelwatch::cases::Memory;
use parcelwatch::cli::backtest::learn::{Learned, Learner, Quantiles};
use parcelwatch::cli::backtest::{backtest, json_line};
use parcelwatch::escalation::Flushed;
use parcelwatch::model::{ChangeKind, DAY, HOUR, MINUTE, Resolution, Severity, Time};
use parcelwatch::rules::{RuleSet, SourceFile, compile};
use parcelwatch::source::decode::{FactNames, decode};
use parcelwatch::source::{Batch, Stamp};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use serde_json::Value;
use tempfile::TempDir;

/// Hostile to a page, a terminal and a line.
const HOSTILE: &str = r#"<script src="https://evil.example/x.js">'&\u001b[31m</script>"#;

const RULES: &str = r#"
rules:
  - id: late_scan
    title: Cleared, but nobody scans it
    after: import_customs_cleared
    expect: domestic_scan
    stages: [{at: 24h, severity: warning}, {at: 48h, severity: high}]
    owner: carrier
"#;

const POLICIES: &str = r#"
receivers:
  - {id: ops_mail, email: {to: [ops@example.org]}}
  - {id: desk, email: {to: [desk@example.org]}}
policies:
  - id: usual
    group_by: [rule]
    group_wait: 1m
    group_interval: 5m
    steps: [{after: 0m, notify: [ops_mail]}, {after: 12h, notify: [desk]}]
default_policy: usual
"#;

/// A directory of rules, events and whatever else a test writes.
struct World(TempDir);

impl World {
    fn new() -> World {
        let world = World(tempfile::tempdir().expect("a directory"));
        world.write("rules/rules.yaml", RULES);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(path.parent().expect("inside")).expect("a folder");
        fs::write(&path, text).expect("written");
        path
    }

    fn run(&self, args: &[&str]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_parcelwatch"));
        command.args(["backtest", "--rules", "rules"]).args(args).current_dir(self.0.path());
        command.output().expect("the program")
    }

    /// Its standard output; it has to end well.
    fn out(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

fn at(day: i64, hour: i64) -> String {
    Time(1_791_763_200_000 + day * DAY + hour * HOUR).to_string()
}

fn event(parcel: &str, milestone: &str, happened: &str, told: &str) -> String {
    format!(
        "{{\"parcel_id\":{parcel:?},\"milestone\":\"{milestone}\",\"event_time\":\"{happened}\",\"received_time\":\"{told}\",\
         \"lane\":\"CN-ES\",\"domestic_carrier\":\"correos\",\"source\":{{\"system\":\"s\",\"feed\":\"f\"}}}}\n"
    )
}

/// One that is late, one that is only told late, one that nobody scans.
fn three() -> String {
    [
        event("late", "import_customs_cleared", &at(0, 0), &at(0, 1)),
        event("told", "import_customs_cleared", &at(0, 2), &at(0, 2)),
        event("never", "import_customs_cleared", &at(1, 0), &at(1, 0)),
        event("told", "domestic_scan", &at(0, 20), &at(1, 20)),
        event("late", "domestic_scan", &at(2, 12), &at(2, 12)),
        event("last", "order_created", &at(4, 0), &at(4, 0)),
    ]
    .concat()
}

fn changes(text: &str) -> Vec<(String, String, String)> {
    text.lines()
        .map(|line| {
            let v: Value = serde_json::from_str(line).expect("JSON");
            let text = |name: &str| v[name].as_str().unwrap_or_default().to_owned();
            (text("at"), text("parcel_id"), text("change"))
        })
        .collect()
}

#[test]
fn from_and_to_cut_what_is_reported_and_nothing_that_is_known() {
    let world = World::new();
    world.write("e.ndjson", &three());
    let all = world.out(&["--events", "e.ndjson"]);
    assert_eq!(changes(&all).len(), 7);
    let (from, to) = (at(1, 20), at(2, 12));
    let cut = world.out(&["--events", "e.ndjson", "--from", &from, "--to", &to]);
    let wanted: String = all
        .lines()
        .filter(|l| {
            (&*from..&*to)
                .contains(&serde_json::from_str::<Value>(l).expect("JSON")["at"].as_str().expect("at"))
        })
        .map(|l| format!("{l}\n"))
        .collect();
    assert_eq!(cut, wanted);
    // What resolves within opened before: it was known.
    assert_eq!(changes(&cut).first().expect("a change").2, "resolved");
    let output = world.run(&["--events", "e.ndjson", "--until", &at(1, 20)]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    let last = stderr.lines().last().expect("a summary");
    assert!(last.starts_with("6 events (0 rejected), 3 parcels, 3 changes, "), "{last}");
}

#[test]
fn the_order_of_files_and_lines_does_not_matter() {
    let world = World::new();
    let text = three();
    world.write("e.ndjson", &text);
    let wanted = world.out(&["--events", "e.ndjson"]);
    let lines: Vec<&str> = text.lines().collect();
    let some = |pick: &dyn Fn(usize) -> bool| -> String {
        lines.iter().enumerate().filter(|(i, _)| pick(*i)).map(|(_, l)| format!("{l}\n")).collect()
    };
    world.write("even.ndjson", &some(&|i| i % 2 == 0));
    world.write("odd.ndjson", &some(&|i| i % 2 == 1));
    assert_eq!(world.out(&["--events", "odd.ndjson", "even.ndjson"]), wanted, "two files, each in order");
    let back: String = lines.iter().rev().map(|l| format!("{l}\n")).collect();
    world.write("back.ndjson", &back);
    assert_eq!(world.out(&["--events", "back.ndjson"]), wanted, "backwards");
    let mut child = Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .args(["backtest", "--rules", "rules", "--events", "-"])
        .current_dir(world.0.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program");
    std::io::Write::write_all(&mut child.stdin.take().expect("piped"), back.as_bytes()).expect("read");
    let output = child.wait_with_output().expect("ended");
    assert_eq!(String::from_utf8_lossy(&output.stdout), wanted, "standard input");
}

#[test]
fn a_file_that_cannot_be_read_and_a_wrong_call_are_said() {
    let world = World::new();
    world.write("e.ndjson", &three());
    for (args, said) in [
        (&["--events", "gone.ndjson"][..], "gone.ndjson: cannot read it: No such file"),
        (&["--events", "rules"], "rules: cannot read it: Is a directory"),
        (&["--events", "e.ndjson", "--from", "yesterday"], "not an RFC 3339 time"),
        (&[], "--events"),
        (&["--events", "e.ndjson", "--out", "no/such/folder.html"], "cannot write no/such/folder.html"),
    ] {
        let output = world.run(args);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{said:?} is not in {stderr}");
    }
}

#[test]
fn two_rule_sets_are_compared_in_one_pass() {
    let world = World::new();
    world.write("e.ndjson", &three());
    world.write("same/rules.yaml", RULES);
    assert_eq!(world.out(&["--events", "e.ndjson", "--against", "same"]), "");
    // 60 h instead of 24 h: the two that end before open no more, the third opens later.
    let patient = RULES
        .replace("[{at: 24h, severity: warning}, {at: 48h, severity: high}]", "[{at: 60h, severity: high}]");
    world.write("patient/rules.yaml", &patient);
    let lines = world.out(&["--events", "e.ndjson", "--against", "patient"]);
    let found: Vec<Value> = lines.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let told: Vec<_> =
        found.iter().map(|v| ["parcel_id", "difference", "set"].map(|n| v[n].as_str().expect(n))).collect();
    assert_eq!(told, [["told", "only", "rules"], ["late", "only", "rules"], ["never", "time", "both"]]);
    assert_eq!(found[2]["rules"][0]["at"], at(2, 0));
    assert_eq!(found[2]["against"][0]["at"], at(3, 12));
    assert_eq!(found[0]["against"], Value::Null);
    // A rule of its own in the other set; and facts that only one of them declares.
    let own = RULES.replace("id: late_scan", "id: other") + "facts: [{name: zone, type: text}]\n";
    world.write("own/rules.yaml", &own);
    let lines = world.out(&["--events", "e.ndjson", "--against", "own"]);
    let sets: Vec<_> =
        lines.lines().map(|l| serde_json::from_str::<Value>(l).expect("JSON")["set"].clone()).collect();
    assert_eq!(sets.iter().filter(|s| **s == "rules").count(), 3);
    assert_eq!(sets.iter().filter(|s| **s == "against").count(), 3);
    for format in ["table", "html"] {
        let text = world.out(&["--events", "e.ndjson", "--against", "patient", "--format", format]);
        assert!(text.contains("late_scan") && text.contains("never"), "{text}");
    }
}

#[test]
fn a_budget_names_the_rule_the_figure_and_the_limit() {
    let world = World::new();
    world.write("e.ndjson", &three());
    world.write("rules/policies.yaml", POLICIES);
    world.write("wide.yaml", "default: {max_exceptions_per_day: 10, max_late_evidence_percent: 50}\n");
    assert!(world.run(&["--events", "e.ndjson", "--budget", "wide.yaml"]).status.success());
    let narrow = "default: {max_late_evidence_percent: 10, max_notifications_per_receiver_per_day: 0.1}\n\
                  rules: {late_scan: {max_exceptions_per_day: 0.5}}\nreceivers: {desk: {max_notifications_per_day: 0}}\n";
    world.write("narrow.yaml", narrow);
    let output = world.run(&["--events", "e.ndjson", "--budget", "narrow.yaml"]);
    assert_eq!(output.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&output.stderr);
    for said in [
        "rule late_scan: 0.8 exceptions a day, and 0.5 is the most",
        "rule late_scan: 50.0 % of its exceptions were late evidence, and 10 is the most",
        "rule late_scan: 1.5 notifications a day to ops_mail, and 0.1 is the most",
        "receiver desk: ",
    ] {
        assert!(stderr.contains(said), "{said:?} is not in {stderr}");
    }
    let summary = stderr.lines().last().expect("a summary");
    assert!(summary.contains("events/s"), "the summary stays the last line: {summary}");
    for (text, said) in [
        ("default: {max_exception_per_day: 1}", "budget.yaml:1:11"),
        ("rules: {late_scam: {}}", "did you mean `late_scan`?"),
        ("receivers: {desc: {max_notifications_per_day: 1}}", "did you mean `desk`?"),
        ("default: {max_exceptions_per_day: many}", "has to be a number"),
        ("default: [", "budget.yaml"),
    ] {
        world.write("budget.yaml", text);
        let output = world.run(&["--events", "e.ndjson", "--budget", "budget.yaml"]);
        let stderr = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{stderr}");
        assert!(stderr.contains(said), "{said:?} is not in {stderr}");
    }
}

#[test]
fn notifications_are_those_of_the_policies() {
    let world = World::new();
    world.write("e.ndjson", &three());
    world.write("rules/policies.yaml", POLICIES);
    let table = world.out(&["--events", "e.ndjson", "--format", "table"]);
    let row = |name: &str| -> Vec<String> {
        let line =
            table.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("no {name} in {table}"));
        line.split_whitespace().map(str::to_owned).collect()
    };
    // To ops: late opens; told opens; told ends; late rises and never opens, in one message; late ends; never rises. To the desk:
    // late, told and never twelve hours after each opened, never once more after its rise to a higher severity; two ends.
    assert_eq!(row("ops_mail")[1], "6");
    assert_eq!(row("desk")[1], "6");
    let alone = World::new();
    alone.write("e.ndjson", &three());
    let table = alone.out(&["--events", "e.ndjson", "--format", "table"]);
    assert!(table.contains("no policies"), "{table}");
}

/// The tags of a page with their attributes, and its texts: what a browser would make of it, without one.
fn parse_page(page: &str) -> (Vec<(String, BTreeMap<String, String>)>, String) {
    let (mut tags, mut text, mut rest) = (Vec::new(), String::new(), page);
    while let Some(open) = rest.find('<') {
        text.push_str(&rest[..open]);
        rest = &rest[open + 1..];
        let name: String =
            rest.chars().take_while(|c| c.is_ascii_alphanumeric() || "/!-".contains(*c)).collect();
        rest = &rest[name.len()..];
        let mut attributes = BTreeMap::new();
        loop {
            rest = rest.trim_start();
            if let Some(after) = rest.strip_prefix('>') {
                rest = after;
                break;
            }
            let key: String = rest.chars().take_while(|c| !"=> \"".contains(*c)).collect();
            assert!(!key.is_empty(), "no attribute at {:?}", &rest[..rest.len().min(80)]);
            rest = &rest[key.len()..];
            let value = match rest.strip_prefix("=\"") {
                Some(after) => {
                    let end = after.find('"').expect("a quote");
                    rest = &after[end + 1..];
                    after[..end].to_owned()
                }
                None => String::new(),
            };
            attributes.insert(key, value);
        }
        if name == "style" {
            rest = &rest[rest.find("</style>").expect("an end")..];
        }
        tags.push((name, attributes));
    }
    (tags, text + rest)
}

#[test]
fn a_page_loads_nothing_runs_nothing_and_escapes_what_events_say() {
    let world = World::new();
    let quoted = serde_json::to_string(HOSTILE).expect("JSON");
    let mut events = three();
    let hostile = event("X", "import_customs_cleared", &at(0, 5), &at(0, 5));
    let hostile =
        hostile.replace("\"X\"", &quoted).replace("\"CN-ES\"", &quoted).replace("\"correos\"", &quoted);
    let hostile = hostile.replace("\"s\"", &quoted).replace("\"f\"", &quoted);
    events.push_str(&hostile);
    world.write("e.ndjson", &events);
    world.write("rules/policies.yaml", POLICIES);
    world.write("same/rules.yaml", &RULES.replace("24h", "25h"));
    let output =
        world.run(&["--events", "e.ndjson", "--against", "same", "--format", "html", "--out", "page.html"]);
    assert!(output.status.success() && output.stdout.is_empty());
    let page = fs::read_to_string(world.path("page.html")).expect("a page");
    let (tags, text) = parse_page(&page);
    let names: Vec<&str> = tags.iter().map(|(n, _)| n.as_str()).collect();
    for never in ["script", "link", "img", "iframe", "object", "embed", "base", "form"] {
        assert!(!names.contains(&never), "<{never}>");
    }
    for (name, attributes) in &tags {
        for (key, value) in attributes {
            assert!(
                !key.starts_with("on") && !["src", "srcset", "action", "data"].contains(&key.as_str()),
                "<{name} {key}>"
            );
            assert!(key != "href" || value.starts_with('#'), "<{name} href={value}>");
            assert!(!value.contains("http") || key == "http-equiv", "<{name} {key}={value}>");
        }
    }
    let style = page.split("<style>").nth(1).and_then(|s| s.split("</style>").next()).expect("a style");
    assert!(!style.contains("url(") && !style.contains("@import"));
    // All tags are closed in their order.
    let mut open: Vec<&str> = Vec::new();
    for name in names.iter().filter(|n| !["!DOCTYPE", "meta", "br"].contains(n)) {
        match name.strip_prefix('/') {
            Some(closed) => assert_eq!(open.pop(), Some(closed)),
            None => open.push(name),
        }
    }
    assert!(open.is_empty(), "{open:?}");
    // The hostile parcel is there, as text.
    assert!(text.contains("&lt;script src=&quot;https://evil.example/x.js&quot;&gt;"), "it is not shown");
    for shown in [
        "Cleared, but nobody scans it",
        "late_scan",
        "ops_mail",
        "resolved",
        "domestic_scan",
        "Only reported late",
    ] {
        assert!(text.contains(shown), "{shown} is not shown");
    }
    // Nor does a terminal get to see it raw.
    let table = world.out(&["--events", "e.ndjson", "--against", "same", "--format", "table"]);
    assert!(!table.contains('\u{1b}'));
}

/// A month of parcels with seeds of their own; several feeds and lanes.
fn month(parcels: u64) -> Vec<String> {
    let mut lines = Vec::new();
    for p in 0..parcels {
        let h = |salt: u64| (p * 7_919 + salt * 104_729).wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 33;
        let (feed, lane) =
            (["push", "batch"][h(1) as usize % 2], ["CN-ES", "CN-FR", "CN-US"][h(2) as usize % 3]);
        let mut time = 1_791_763_200_000 + (h(3) % (20 * 86_400)) as i64 * 1_000;
        for (step, milestone) in
            ["arrived_destination_country", "import_customs_cleared", "domestic_scan", "delivered"]
                .iter()
                .enumerate()
        {
            time += (h(10 + step as u64) % (3 * 86_400)) as i64 * 1_000;
            if h(20 + step as u64).is_multiple_of(17) {
                break;
            }
            let told =
                time + (h(30 + step as u64) % if feed == "batch" { 36_000_000 } else { 120_000 }) as i64;
            let lane = if step == 0 { format!(",\"lane\":\"{lane}\"") } else { String::new() };
            lines.push((told, format!(
                "{{\"event_id\":\"{p}-{step}\",\"parcel_id\":\"P{p}\",\"milestone\":\"{milestone}\",\"event_time\":\"{}\",\"received_time\":\"{}\"{lane},\
                 \"source\":{{\"system\":\"sys\",\"feed\":\"{feed}\"}}}}",
                Time(time), Time(told),
            )));
            if h(40 + step as u64).is_multiple_of(11) {
                let again = lines.last().cloned().expect("just pushed");
                lines.push((again.0 + 1, again.1));
            }
        }
    }
    lines.sort();
    lines.into_iter().map(|(_, line)| line).collect()
}

fn rules(text: &str) -> Arc<RuleSet> {
    let file =
        SourceFile { path: "rules.yaml".into(), content: Ok(text.as_bytes().to_vec()), context: false };
    Arc::new(compile(&[file]).rules.expect("valid rules"))
}

/// Learns on so many threads, parcels dealt by a hash.
fn learned(lines: &[String], rules: &RuleSet, threads: u32) -> Learned {
    let names = FactNames::new([]);
    let mut learners: Vec<Learner> = (0..threads).map(|_| Learner::default()).collect();
    let scanner = parcelwatch::source::blocks::Scanner::default();
    for line in lines {
        let event = decode(line.as_bytes(), &names).expect("valid");
        let hash = scanner.scan(line.as_bytes()).1;
        let thread = hash % parcelwatch::cli::backtest::learn::PARTS % threads;
        learners[thread as usize].see(line.as_bytes(), &event, event.file_append(), hash);
    }
    let mut all = learners.swap_remove(0);
    learners.into_iter().for_each(|l| all.add(l));
    all.learned(rules)
}

#[test]
fn what_is_learned_is_what_a_naive_count_finds() {
    let lines = month(3_000);
    let rules = rules(RULES);
    let found = learned(&lines, &rules, 2);
    assert_eq!((found.parcels > 2_700, found.one_of), (true, 1));
    // Naively: every record once, grouped by (feed, lane of its parcel, milestone).
    let mut lanes = BTreeMap::new();
    let mut once = BTreeMap::new();
    for line in &lines {
        let v: Value = serde_json::from_str(line).expect("JSON");
        let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
        if let Some(lane) = v["lane"].as_str() {
            lanes.insert(text(&v["parcel_id"]), lane.to_owned());
        }
        let time = |name: &str| Time::parse(v[name].as_str().expect(name)).expect(name).0;
        let row = (
            text(&v["parcel_id"]),
            text(&v["milestone"]),
            text(&v["source"]["feed"]),
            time("event_time"),
            time("received_time"),
        );
        once.entry(text(&v["event_id"])).or_insert(row);
    }
    let mut delays: BTreeMap<(String, String, String), Vec<i64>> = BTreeMap::new();
    for (parcel, milestone, feed, event, told) in once.values() {
        let lane = lanes.get(parcel).cloned().unwrap_or_default();
        delays.entry((format!("sys/{feed}"), lane, milestone.clone())).or_default().push(told - event);
    }
    let naive = |mut values: Vec<i64>| {
        values.sort_unstable();
        let p = |q: f64| values[((values.len() as f64 * q).ceil() as usize).max(1) - 1];
        Quantiles { n: values.len() as u64, p50: p(0.50), p95: p(0.95), p99: p(0.99) }
    };
    let found_delays: BTreeMap<_, _> = found
        .delays
        .iter()
        .map(|d| ((d.feed.clone(), d.lane.clone(), d.milestone.clone()), d.told))
        .collect();
    let wanted: BTreeMap<_, _> = delays.into_iter().map(|(k, v)| (k, naive(v))).collect();
    assert_eq!(found_delays, wanted);
    // The pair of the rule: cleared → scanned.
    let first = |milestone: &str| -> BTreeMap<&str, i64> {
        once.values().filter(|r| r.1 == milestone).map(|r| (r.0.as_str(), r.3)).collect()
    };
    let (cleared, scanned) = (first("import_customs_cleared"), first("domestic_scan"));
    let took: Vec<i64> =
        cleared.iter().filter_map(|(p, at)| scanned.get(p).map(|s| s - at)).filter(|t| *t >= 0).collect();
    assert_eq!(found.pairs.len(), 1);
    assert_eq!(found.pairs[0].took, naive(took));
    let last = once.values().map(|r| r.4).max().expect("records");
    for window in &found.pairs[0].windows {
        let (mut parcels, mut late) = (0, 0);
        for (p, at) in &cleared {
            let met = scanned.get(p).is_some_and(|s| *s <= at + window.after);
            let delivered =
                once.values().any(|r| r.0 == **p && r.1 == "delivered" && r.3 <= at + window.after);
            if met || (at + window.after <= last && !delivered) {
                parcels += 1;
                late += u64::from(!met);
            }
        }
        assert_eq!((window.parcels, window.late), (parcels, late), "a window of {} h", window.after / HOUR);
    }
    let told = found.pairs[0].told;
    assert!(
        found.pairs[0].suggested >= told.p99 && told.suggested() <= DAY && told.suggested() >= 5 * MINUTE
    );
}

#[test]
fn a_sample_of_many_parcels_is_the_same_on_any_number_of_threads() {
    // More than a piece may hold, so that the sample is halved.
    let lines: Vec<String> = (0..200_000)
        .map(|i| {
            format!(
                "{{\"parcel_id\":\"P{i}\",\"milestone\":\"picked_up\",\"event_time\":\"{}\",\"received_time\":\"{}\"}}",
                Time(1_791_763_200_000 + i),
                Time(1_791_763_200_000 + i + i % 5_000)
            )
        })
        .collect();
    let rules = rules(RULES);
    let one = learned(&lines, &rules, 1);
    assert!(
        one.one_of >= 2 && one.parcels > 30_000 && one.parcels < 135_000,
        "{} of {}",
        one.parcels,
        one.one_of
    );
    for threads in [2, 7] {
        assert_eq!(learned(&lines, &rules, threads), one, "{threads} threads");
    }
    // It is a fair one: delays are even between 0 and 5 s.
    let told = one.delays[0].told;
    assert!((told.p50 - 2_500).abs() < 100 && (told.p95 - 4_750).abs() < 100, "{told:?}");
}

#[test]
fn changes_do_not_depend_on_threads_and_come_in_the_order_of_output() {
    for seed in 0..120 {
        let case = Draft::of_seed(seed).case();
        let file = |name: &str, text: &str| SourceFile {
            path: name.into(),
            content: Ok(text.as_bytes().to_vec()),
            context: false,
        };
        let mut files = vec![file("rules.yaml", &case.rules)];
        files.extend(case.policies.iter().map(|text| file("policies.yaml", text)));
        let rules = Arc::new(compile(&files).rules.expect("valid rules"));
        let mut batch = Batch::new(0);
        for (i, line) in case.events.split(|b| *b == b'\n').filter(|l| !l.is_empty()).enumerate() {
            batch.push(i as i64, Stamp::None, b"", line);
        }
        let until = case.until.map(Time);
        let lines = |threads| -> Vec<String> {
            let outcome = backtest(&rules, std::slice::from_ref(&batch), until, threads);
            assert!(outcome.changes.is_sorted_by_key(|c| c.at));
            outcome.changes.iter().map(json_line).collect()
        };
        let one = lines(1);
        for threads in [2, 5] {
            assert_eq!(lines(threads), one, "seed {seed}, {threads} threads");
        }
        // The program writes them as they become final; the order is the same.
        if seed % 12 == 0 {
            let world = World::new();
            world.write("rules/rules.yaml", &case.rules);
            if let Some(policies) = &case.policies {
                world.write("rules/policies.yaml", policies);
            }
            fs::write(world.path("e.ndjson"), &case.events).expect("written");
            let until = until.map(|t| t.to_string());
            let mut args = vec!["--events", "e.ndjson"];
            args.extend(until.iter().flat_map(|u| ["--until", u]));
            let found = world.out(&args);
            assert_eq!(found.lines().collect::<Vec<_>>(), one, "seed {seed}");
        }
    }
}

#[test]
fn streaming_gives_the_changes_of_a_whole_read() {
    let lines = month(12_000);
    let world = World::new();
    world.write("e.ndjson", &(lines.join("\n") + "\n"));
    let rules = rules(RULES);
    let mut batch = Batch::new(0);
    let mut batches = Vec::new();
    for (i, line) in lines.iter().enumerate() {
        batch.push(i as i64, Stamp::None, b"", line.as_bytes());
        if batch.is_full() {
            batches.push(std::mem::replace(&mut batch, Batch::new(0)));
        }
    }
    batches.push(batch);
    let outcome = backtest(&rules, &batches, None, 3);
    assert!(outcome.changes.len() > 5_000);
    let wanted: Vec<String> = outcome.changes.iter().map(json_line).collect();
    let output = world.run(&["--events", "e.ndjson"]);
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.lines().eq(wanted.iter().map(String::as_str)), "they differ");
    let stderr = String::from_utf8_lossy(&output.stderr);
    let summary = format!(
        "{} events (0 rejected), {} parcels, {} changes, ",
        outcome.events,
        outcome.parcels,
        wanted.len()
    );
    assert!(stderr.lines().last().is_some_and(|l| l.starts_with(&summary)), "not {summary} but {stderr}");
    assert!(Path::new(&world.path("e.ndjson")).exists());
}

#[test]
fn a_topic_is_read_to_its_ends_and_left_as_it_was() {
    // A broker of its own: that there is no group at all can only be seen where nobody else has one.
    let kafka = Kafka::start(&parts::kafka::Options::default());
    kafka.create_topic("history", 3, false, &[]);
    let base = 1_791_763_200_000;
    // The records' timestamps are the append times, whatever the records say; in no order.
    let mut stamped = Vec::new();
    for (i, line) in three().lines().enumerate() {
        let told = Time::parse(
            serde_json::from_str::<Value>(line).expect("JSON")["received_time"].as_str().expect("a time"),
        );
        stamped.push((told.expect("a time").0, line.replace("received_time", "ignored"), i as i32 % 3));
    }
    stamped.reverse();
    let record = |(at, line, partition): &'static (i64, String, i32)| Record {
        key: "k",
        payload: line.as_bytes(),
        partition: Some(*partition),
        timestamp: Some(*at),
    };
    let stamped: &'static [(i64, String, i32)] = stamped.leak();
    kafka.produce_all("history", stamped.iter().map(record));
    // Ends that hold no record: control records of transactions, one of them aborted.
    let extra: &'static (i64, String, i32) =
        Box::leak(Box::new((base + 5 * DAY, event("x", "import_customs_cleared", &at(4, 1), &at(4, 1)), 0)));
    kafka.transaction("history", &[record(extra)], false);
    let world = World::new();
    world.write(
        "config.yaml",
        &format!("kafka: {{bootstrap_servers: {:?}, topic: history}}\n", kafka.bootstrap()),
    );
    world.write("e.ndjson", &three());
    let found = world.out(&["--from-kafka", "config.yaml"]);
    assert_eq!(found, world.out(&["--events", "e.ndjson"]));
    let client: BaseConsumer =
        ClientConfig::new().set("bootstrap.servers", kafka.bootstrap()).create().expect("a client");
    let groups = client.fetch_group_list(None, parts::PATIENCE).expect("an answer");
    let names: Vec<_> = groups.groups().iter().map(|g| g.name()).collect();
    assert!(names.is_empty(), "{names:?}");
    let ours: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", kafka.bootstrap())
        .set("group.id", "parcelwatch-reads-only")
        .create()
        .expect("a client");
    let mut list = TopicPartitionList::new();
    for partition in 0..3 {
        list.add_partition("history", partition);
    }
    let committed = ours.committed_offsets(list, parts::PATIENCE).expect("an answer");
    assert!(committed.elements().iter().all(|e| e.offset() == Offset::Invalid), "{committed:?}");
    // A topic that is not there is no empty one.
    world.write(
        "wrong.yaml",
        &format!("kafka: {{bootstrap_servers: {:?}, topic: gone}}\n", kafka.bootstrap()),
    );
    let output = world.run(&["--from-kafka", "wrong.yaml"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{stderr}");
    assert!(stderr.contains("there is no topic gone"), "{stderr}");
}

/// When, to whom, for what reason, about which exceptions.
type Arrived = (i64, String, String, String, BTreeSet<String>);

/// Delivers what waits, and adds it to what arrived.
async fn arrive(world: &world::World, sent: &mut BTreeSet<Arrived>) {
    for receiver in ["erp", "ops_mail", "pager", "correos_desk"] {
        for m in world.sent(receiver).await {
            let id = |e: &Value| e["exception_id"].as_str().unwrap_or_default().to_owned();
            let of: BTreeSet<String> = m.exceptions().iter().map(id).collect();
            sent.insert((m.at, receiver.to_owned(), m.recipient, m.kind, of));
        }
    }
}

/// The count of notifications rests on it: the fold in memory sends the very messages that the database and the escalator send, at
/// the same times.
#[tokio::test]
async fn what_is_told_in_memory_is_what_the_daemon_tells() {
    let mut messages = 0;
    for seed in 0..10_u64 {
        let mut state = seed;
        let mut below = |n: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % n
        };
        let severe = Some(Severity::High);
        let mut policies = world::policies(vec![
            step(0, &["erp", "ops_mail"], None),
            step(HOUR, &["pager"], severe),
            step(3 * HOUR, &["owner"], None),
        ]);
        policies.policies[0].repeat_every = (seed % 2 == 0).then_some(4 * HOUR);
        let mut world = world::World::new(policies.clone()).await;
        let mut memory = Memory::new(Arc::clone(&world.rules), policies);
        let mut in_memory = BTreeSet::new();
        // When, whom, why, of which exceptions: all but the message's id, in which a reminder's number counts on after a reopening.
        let mut told = |at: Time, flushed: &Flushed| {
            for m in &flushed.messages {
                let of: BTreeSet<String> = m.notices.iter().map(|n| n.exception_id.clone()).collect();
                in_memory.insert((
                    at.0,
                    m.to.receiver.clone(),
                    m.to.recipient.clone(),
                    m.reason.name().to_owned(),
                    of,
                ));
            }
        };
        let mut standing: BTreeMap<u64, (u8, Severity)> = BTreeMap::new();
        let mut sent = BTreeSet::new();
        for offset in 0..60 {
            world.run_for(below(3 * HOUR as u64) as i64).await;
            // Taken at once: what waited while its exception ended would not go out any more.
            arrive(&world, &mut sent).await;
            let which = below(9);
            let (kind, stage, severity) = match standing.get(&which).copied() {
                None => (ChangeKind::Opened, 1, Severity::Warning),
                Some((stage, severity)) if below(2) == 0 => {
                    (ChangeKind::Resolved(Resolution::SatisfiedLate), stage, severity)
                }
                Some((stage, _)) => (
                    ChangeKind::Raised,
                    stage + 1,
                    if below(2) == 0 { Severity::Warning } else { Severity::High },
                ),
            };
            match kind {
                ChangeKind::Resolved(_) => drop(standing.remove(&which)),
                _ => drop(standing.insert(which, (stage, severity))),
            }
            let change = world::change(kind, &format!("P{which}"), offset, stage, severity);
            world.commit(0, std::slice::from_ref(&change)).await;
            memory.commit_at(&change, Time(world.now()), &mut told);
        }
        world.run_for(9 * HOUR).await;
        memory.run(world.now(), &mut told);
        arrive(&world, &mut sent).await;
        messages += sent.len();
        let (invented, missing) = (in_memory.difference(&sent).next(), sent.difference(&in_memory).next());
        assert_eq!(
            (invented, missing),
            (None, None),
            "seed {seed}: the first only in memory, the first only sent"
        );
    }
    assert!(messages > 1_000, "{messages} messages");
}
