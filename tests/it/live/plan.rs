//! `plan` and `explain` beside a running daemon: they read what it saved, or ask it, and change nothing.

use std::process::{Command, Output};

use serde_json::Value;

use super::reload::SECOND;
use super::{RULES, setup, tell, wait_exceptions, wait_sent};
use crate::parts::kafka::Kafka;
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, poll};

fn parcelwatch(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_parcelwatch")).args(args).output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn a_plan_says_what_new_rules_do_to_the_parcels_in_flight() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("planned", 2, true, &[]);
    let mut setup = setup(kafka, "planned", &hooks);
    setup.set("snapshots.every", "1s").set("reload.every", "1h");
    let daemon = setup.start();
    daemon.wait_ready();
    for n in 0..4 {
        tell(kafka, "planned", &format!("P-{n}"), "import_customs_cleared");
    }
    wait_exceptions(&daemon, "open", 4);
    wait_sent(&daemon);
    let config = setup.path("config/parcelwatch.yaml").display().to_string();
    let folder = setup.path("rules").display().to_string();
    let plan = |rules: &str| parcelwatch(&["plan", "--json", "--config", &config, "--rules", rules]);
    let other = setup.path("tighter");
    std::fs::create_dir(&other).unwrap();
    std::fs::copy(setup.path("rules/policies.yaml"), other.join("policies.yaml")).unwrap();
    let slower = RULES.replace("within: 2s", "within: 1s").replace("severity: high", "severity: critical");
    std::fs::write(other.join("rules.yaml"), format!("{slower}{SECOND}")).unwrap();
    let other = other.display().to_string();
    let said = poll("a snapshot of all that was decided", PATIENCE, || {
        let out = plan(&other);
        let said: Value = serde_json::from_slice(&out.stdout).unwrap_or_default();
        let whole = out.status.code() == Some(4) && said["rules"]["late"]["raised"] == 4;
        if whole { Ok(said) } else { Err(format!("{out:?}")) }
    });
    let of = |rule: &str, what: &str| said["rules"][rule][what].as_u64().unwrap();
    assert_eq!((of("at_once", "opened"), of("at_once", "resolved")), (4, 0), "{said:#}");
    assert_eq!((of("late", "raised"), of("late", "moved")), (4, 0), "a worse severity raises: {said:#}");
    assert_eq!(said["told_within_an_hour"]["erp"]["exceptions"], 8, "{said:#}");
    let shown = parcelwatch(&["plan", "--config", &config, "--rules", &other]);
    assert!(text(&shown.stdout).contains("at_once"), "{shown:?}");
    let same = plan(&folder);
    assert_eq!(same.status.code(), Some(0), "the rules in force change nothing: {same:?}");
    // Nothing came of asking.
    assert_eq!(wait_exceptions(&daemon, "all", 4).len(), 4);
}

#[test]
fn explain_says_why_and_who_was_told() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("explained", 1, true, &[]);
    let mut setup = setup(kafka, "explained", &hooks);
    setup.set("snapshots.every", "1s");
    let daemon = setup.start();
    daemon.wait_ready();
    tell(kafka, "explained", "P 1/é", "import_customs_cleared");
    wait_exceptions(&daemon, "open", 1);
    wait_sent(&daemon);
    let url = format!("http://{}", daemon.address());
    let asked = parcelwatch(&["explain", "P 1/é", "--url", &url]);
    let said = text(&asked.stdout);
    for part in [
        "import_customs_cleared",
        "OWED: late, Cleared, but not delivered",
        "opened (high)",
        "erp: new, delivered",
    ] {
        assert!(said.contains(part), "{part} is not in\n{said}\n{}", text(&asked.stderr));
    }
    let later = parcelwatch(&["explain", "P 1/é", "--url", &url, "--rule", "late", "--format", "json"]);
    let json: Value = serde_json::from_slice(&later.stdout).unwrap();
    assert_eq!(
        (json["rules"][0]["verdict"].as_str(), json["rules"][0]["stage"].as_u64()),
        (Some("reached"), Some(1))
    );
    let config = setup.path("config/parcelwatch.yaml").display().to_string();
    poll("the parcel to be saved", PATIENCE, || {
        let out = parcelwatch(&["explain", "P 1/é", "--snapshot", "--config", &config]);
        let said = text(&out.stdout);
        if said.contains("OWED: late") { Ok(()) } else { Err(format!("{said}{}", text(&out.stderr))) }
    });
    let nobody = parcelwatch(&["explain", "P-404", "--url", &url]);
    assert!(
        !nobody.status.success() && text(&nobody.stderr).contains("nothing is known of the parcel P-404")
    );
}
