//! The chapter "Write a rule in ten minutes" of the README, run as it stands.

use std::path::Path;
use std::process::Command;

use crate::live::{POLICY, event, now, policies, setup};
use crate::parts::kafka::Kafka;
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, poll};

const CHAPTER: &str = "## Write a rule in ten minutes\n";

/// A fenced block: what stands behind the fence, and its text.
fn blocks(chapter: &str) -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    let mut open: Option<(String, String)> = None;
    for line in chapter.lines() {
        match (line.strip_prefix("```"), &mut open) {
            (Some(info), None) => open = Some((info.to_owned(), String::new())),
            (Some(_), Some(_)) => blocks.extend(open.take()),
            (None, Some((_, text))) => *text += &format!("{line}\n"),
            (None, None) => {}
        }
    }
    blocks
}

/// Commands with the output that stands below each.
fn commands(block: &str) -> Vec<(String, String)> {
    let mut all: Vec<(String, String)> = Vec::new();
    for line in block.lines() {
        match line.strip_prefix("$ ") {
            Some(command) => all.push((command.to_owned(), String::new())),
            None => all.last_mut().expect("a command first").1.push_str(&format!("{line}\n")),
        }
    }
    all
}

/// What differs from run to run: times of day of a live system, hashes, how long it took.
fn steady(text: &str, live: bool) -> String {
    let mut out = String::new();
    for word in text.split_inclusive([' ', '\n', ',', '(', ')']) {
        let bare = word.trim_end_matches([' ', '\n', ',', '(', ')']);
        let tail = &word[bare.len()..];
        let is_hash = bare.len() == 64 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        let is_time = live && bare.len() >= 20 && bare.starts_with("20") && bare.ends_with('Z');
        let is_count = bare.parse::<f64>().is_ok() && bare.contains('.');
        let shown = match (is_hash, is_time, is_count) {
            (true, ..) => "HASH",
            (_, true, _) => "TIME",
            (.., true) => "SECONDS",
            _ => bare,
        };
        out += shown;
        out += tail;
    }
    // A rate stands alone behind the seconds.
    let lines: Vec<String> = out
        .lines()
        .map(|l| match l.split_once(" SECONDS s, ") {
            Some((front, _)) => format!("{front} SECONDS s"),
            None => l.to_owned(),
        })
        .collect();
    lines.join("\n")
}

fn run(dir: &Path, command: &str) -> String {
    let path = format!("{}:{}", dir.join("bin").display(), std::env::var("PATH").unwrap());
    let shell = format!("{{ {command}\n}} 2>&1");
    let out = Command::new("sh").args(["-c", &shell]).current_dir(dir).env("PATH", path).output().unwrap();
    String::from_utf8(out.stdout).unwrap()
}

#[test]
fn the_chapter_on_writing_a_rule_says_what_happens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let readme = std::fs::read_to_string(root.join("README.md")).unwrap();
    let chapter = readme.split_once(CHAPTER).expect("the chapter").1.split_once("\n## ").unwrap().0;

    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("ten-minutes", 1, true, &[]);
    let mut setup = setup(kafka, "ten-minutes", &hooks);
    setup.set("snapshots.every", "1s").set("reload.every", "1h");
    setup.rules("rules.yaml", "rules:\n  - {id: not_picked_up, title: Nobody has picked it up, after: shipment_created, expect: [picked_up], within: 48h, severity: warning, owner: seller, runbook: Ask the seller.}\n");
    policies(&setup, &hooks, "", POLICY);
    let daemon = setup.start();
    daemon.wait_ready();
    let dir = setup.path("");
    // The commands read where the daemon listens from its configuration.
    let config = std::fs::read_to_string(setup.path("config/parcelwatch.yaml")).unwrap();
    std::fs::write(setup.path("config/parcelwatch.yaml"), config.replace("127.0.0.1:0", daemon.address()))
        .unwrap();
    for n in 0..3 {
        let parcel = format!("P-{n}");
        let cleared = event(&parcel, "import_customs_cleared", now() - 60 * 3_600_000);
        kafka.produce("ten-minutes", &parcel, &cleared, None, None);
    }
    std::fs::create_dir(setup.path("bin")).unwrap();
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_parcelwatch"), setup.path("bin/parcelwatch")).unwrap();
    std::fs::create_dir(setup.path("mine")).unwrap();
    let told = now();
    poll("a snapshot from after the parcels were told", PATIENCE, || {
        let said = run(&dir, "parcelwatch plan --json --rules rules 2> /dev/null");
        let json: serde_json::Value = serde_json::from_str(&said).unwrap_or_default();
        let watermark = json["watermark"].as_str().and_then(parcelwatch::model::Time::parse);
        let whole = json["parcels"] == 3 && watermark.is_some_and(|w| w.0 > told);
        if whole { Ok(()) } else { Err(said) }
    });

    let mut ran = 0;
    for (info, text) in blocks(chapter) {
        if let Some((_, file)) = info.split_once(' ') {
            std::fs::write(dir.join(file), text).unwrap();
            continue;
        }
        for (command, wanted) in commands(&text) {
            let live = command.contains("plan") || command.contains("reload");
            let found = run(&dir, &command);
            assert_eq!(steady(&found, live), steady(&wanted, live), "$ {command}\n{found}");
            ran += 1;
        }
    }
    assert!(ran >= 10, "only {ran} commands");
}
