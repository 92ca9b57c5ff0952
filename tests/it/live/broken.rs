//! A state that is damaged, locked or full: said, waited for, and nothing lost.

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use sqlx::{ConnectOptions as _, Connection as _};

use super::{items, setup, tell, wait_exceptions, wait_owed};
use crate::parts::daemon::Daemon;
use crate::parts::kafka::Kafka;
use crate::parts::webhook::{Hook, Webhooks};
use crate::parts::{PATIENCE, block_on, poll};

#[test]
fn while_another_process_locks_the_cases_folding_waits_and_then_goes_on() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("locked-cases", 2, true, &[]);
    let setup = setup(kafka, "locked-cases", &hooks);
    let daemon = setup.start();
    daemon.wait_ready();
    tell(kafka, "locked-cases", "P-0", "import_customs_cleared");
    wait_exceptions(&daemon, "open", 1);
    hooks.wait_for(1);

    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(setup.path("data/cases.sqlite"));
    let mut other = block_on(options.connect()).unwrap();
    block_on(sqlx::query("BEGIN EXCLUSIVE").execute(&mut other)).unwrap();
    for n in 1..40 {
        tell(kafka, "locked-cases", &format!("P-{n}"), "import_customs_cleared");
    }
    waits(&daemon, "cases", "locked by another process");
    assert_eq!(hooks.hooks().len(), 1);
    block_on(sqlx::query("ROLLBACK").execute(&mut other)).unwrap();
    block_on(other.close()).unwrap();
    goes_on(&daemon);
    let owed = wait_owed(&daemon, kafka, "locked-cases", &setup);
    assert_eq!(owed.len(), 40);
    told(&daemon, &hooks, 40);
}

/// A disk of its own for the state, seen by the daemon alone: `unshare` gives it a view of the file system, which ends with it.
const SMALL_DISK: &str = "#!/bin/sh
exec unshare $UNSHARE --mount sh -c 'mkdir -p data && mount -t tmpfs -o size=32m none data && exec \"$0\" \"$@\"' \"$PARCELWATCH\" \"$@\"
";

/// How a private view of the file system can be had here: by root, else by a user's own namespace.
fn unshare() -> Option<&'static str> {
    let works = |flags: &&str| {
        let mut command = std::process::Command::new("unshare");
        command.args(flags.split_whitespace()).args(["--mount", "mount", "-t", "tmpfs", "none", "/tmp"]);
        command.output().is_ok_and(|out| out.status.success())
    };
    ["", "--user --map-root-user"].into_iter().find(|flags| works(flags))
}

#[test]
fn on_a_full_disk_folding_waits_and_goes_on_when_there_is_room() {
    let Some(flags) = unshare() else {
        // The same is proved of the database alone in `cases`.
        eprintln!("this machine lets nobody mount a small disk: a daemon on a full one is not tried");
        return;
    };
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("full", 2, true, &[]);
    let mut setup = setup(kafka, "full", &hooks);
    let script = setup.path("on-a-small-disk");
    std::fs::write(&script, SMALL_DISK).unwrap();
    std::fs::set_permissions(&script, PermissionsExt::from_mode(0o755)).unwrap();
    setup.program(&script).env("UNSHARE", flags).env("PARCELWATCH", env!("CARGO_BIN_EXE_parcelwatch"));
    let daemon = setup.start();
    daemon.wait_ready();
    tell(kafka, "full", "P-0", "import_customs_cleared");
    hooks.wait_for(1);
    // As the daemon sees it.
    let disk = PathBuf::from(format!("/proc/{}/root", daemon.pid()));
    let filler = disk.join(setup.path("data/filler").strip_prefix("/").unwrap());
    fill(&filler);
    for n in 1..60 {
        tell(kafka, "full", &format!("P-{n}"), "import_customs_cleared");
    }
    waits(&daemon, "disk", "the disk is full");
    std::fs::remove_file(&filler).unwrap();
    goes_on(&daemon);
    let owed = wait_owed(&daemon, kafka, "full", &setup);
    assert_eq!(owed.len(), 60);
    told(&daemon, &hooks, 60);
}

/// Takes whatever room there is.
fn fill(path: &Path) {
    use std::io::Write as _;
    let mut file = std::fs::File::create(path).unwrap();
    for size in [65_536, 4_096, 512, 1] {
        while file.write_all(&vec![b'x'; size]).is_ok() {}
    }
}

fn waits(daemon: &Daemon, reason: &str, detail: &str) {
    daemon.wait_series("folding_waits", &[("reason", reason)], |n| n == 1.0);
    let ready = daemon.wait_get("/-/ready", "be not ready", |a| (a.status == 503).then(|| a.text()));
    assert!(ready.contains(detail), "{ready}");
    assert_eq!(daemon.get("/-/healthy").status, 200);
    let waits = daemon.get("/api/v1/status").json()["folding_waits"].to_string();
    assert!(waits.contains(reason) && waits.contains(detail), "{waits}");
    assert!(daemon.log().iter().any(|l| l.contains(detail)), "{}", daemon.tail());
}

fn goes_on(daemon: &Daemon) {
    daemon.wait_ready();
    daemon.wait_metric("folding_waits", |n| n == 0.0);
}

/// Waits until that many parcels were told, each once.
fn told(daemon: &Daemon, hooks: &Webhooks, n: usize) {
    let listed = poll(&format!("{n} parcels to be told"), PATIENCE, || {
        let listed = |h: &Hook| h.json()["data"]["exceptions"].as_array().unwrap().clone();
        let each: Vec<_> = hooks.hooks().iter().flat_map(listed).collect();
        let each: Vec<String> = each.iter().map(|e| e["parcel_id"].as_str().unwrap().to_owned()).collect();
        if each.len() >= n { Ok(each) } else { Err(format!("{}\n{}", each.len(), daemon.tail())) }
    });
    let distinct: BTreeSet<_> = listed.iter().collect();
    assert_eq!((distinct.len(), listed.len()), (n, n), "{listed:?}");
}

/// The manifests of one partition's snapshots, oldest first.
fn snapshots(folder: &Path) -> Vec<PathBuf> {
    let mut manifests: Vec<_> =
        std::fs::read_dir(folder).into_iter().flatten().map(|e| e.unwrap().path()).collect();
    manifests.retain(|p| p.extension().is_some_and(|e| e == "json"));
    manifests.sort();
    manifests
}

#[test]
fn of_a_damaged_snapshot_the_one_before_is_used_and_of_none_the_log() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("torn", 1, true, &[]);
    let mut setup = setup(kafka, "torn", &hooks);
    setup.set("snapshots.every", "1s");
    let folder = setup.path("data/snapshots/torn/00000");
    let mut daemon = setup.start();
    daemon.wait_ready();
    for n in 0..3 {
        tell(kafka, "torn", &format!("P-{n}"), "import_customs_cleared");
        wait_exceptions(&daemon, "open", n + 1);
        let before = snapshots(&folder);
        poll("another snapshot", PATIENCE, || {
            let now = snapshots(&folder);
            if now.last() > before.last() && now.len() > 1.min(n) { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }
    assert_eq!(daemon.terminate(), Some(0));
    let data = |manifest: &Path| {
        let json: serde_json::Value = serde_json::from_slice(&std::fs::read(manifest).unwrap()).unwrap();
        folder.join(json["data"].as_str().unwrap())
    };
    let kept = snapshots(&folder);
    assert!(kept.len() >= 2, "{kept:?}");
    let newest = data(kept.last().unwrap());
    let mut bytes = std::fs::read(&newest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x40;
    std::fs::write(&newest, bytes).unwrap();

    let mut daemon = setup.start();
    daemon.wait_log("the one before is used");
    daemon.wait_ready();
    tell(kafka, "torn", "P-1", "delivered");
    wait_exceptions(&daemon, "resolved", 1);
    wait_owed(&daemon, kafka, "torn", &setup);
    assert_eq!(daemon.metrics().sum("exceptions_opened_total", &[]), Some(0.0));
    daemon.kill9();

    for manifest in snapshots(&folder) {
        std::fs::write(manifest, b"{").unwrap();
    }
    let mut daemon = setup.start();
    daemon.wait_log("the one before is used, else the log is read again");
    daemon.wait_ready();
    tell(kafka, "torn", "P-2", "delivered");
    wait_exceptions(&daemon, "resolved", 2);
    wait_owed(&daemon, kafka, "torn", &setup);
    assert_eq!(items(&daemon, "/api/v1/exceptions?state=all").len(), 3);
}

/// As after a broker lost the end of a log that was read already: what is recorded lies beyond all there is.
#[test]
fn a_log_that_ends_before_the_recorded_place_is_a_gap_and_no_wait_for_ever() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("cut-below", 1, true, &[]);
    let setup = setup(kafka, "cut-below", &hooks);
    let mut daemon = setup.start();
    daemon.wait_ready();
    tell(kafka, "cut-below", "P-1", "import_customs_cleared");
    wait_exceptions(&daemon, "open", 1);
    assert_eq!(daemon.terminate(), Some(0));
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(setup.path("data/cases.sqlite"));
    let mut cases = block_on(options.connect()).unwrap();
    let beyond = "UPDATE partitions SET next_offset = next_offset + 1000";
    assert_eq!(block_on(sqlx::query(beyond).execute(&mut cases)).unwrap().rows_affected(), 1);
    block_on(cases.close()).unwrap();

    let mut daemon = setup.start();
    daemon.wait_log("the log was cut");
    daemon.wait_ready();
    let status = daemon.get("/api/v1/status").json();
    assert!(status["partitions"][0]["gaps"][0].as_str().unwrap().contains("the log was cut"), "{status}");
    tell(kafka, "cut-below", "P-1", "delivered");
    tell(kafka, "cut-below", "P-2", "import_customs_cleared");
    wait_exceptions(&daemon, "resolved", 1);
    wait_exceptions(&daemon, "open", 1);
    assert_eq!(items(&daemon, "/api/v1/exceptions?state=all").len(), 2);
}

#[test]
fn a_damaged_file_of_cases_ends_the_start_in_one_clear_line() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("no-cases", 1, true, &[]);
    let setup = setup(kafka, "no-cases", &hooks);
    std::fs::create_dir(setup.path("data")).unwrap();
    std::fs::write(setup.path("data/cases.sqlite"), "no database at all, ".repeat(1_000)).unwrap();
    let (status, said) = setup.fails();
    assert_eq!(status.code(), Some(1), "{said}");
    let lines: Vec<_> = said.lines().filter(|l| l.contains("ERROR")).collect();
    assert_eq!(lines.len(), 1, "{said}");
    assert!(
        lines[0].contains("cases.sqlite: the database is damaged")
            && lines[0].contains("put a backup in its place"),
        "{said}"
    );
}
