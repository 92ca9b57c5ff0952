//! New rules without a restart: taken whole or not at all, held by the brake, and decided alike after a crash.

use std::os::unix::fs::symlink;

use serde_json::json;

use super::{
    POLICY, RULES, SECRET as KEY, decided, items, policies, setup, tell, wait_exceptions, wait_sent,
};
use crate::parts::daemon::{Daemon, Setup};
use crate::parts::kafka::Kafka;
use crate::parts::process::free_port;
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, poll};

/// Beside the rule of [`RULES`]: everything cleared opens at once.
pub(super) const SECOND: &str = "
  - id: at_once
    title: Cleared
    after: import_customs_cleared
    expect: [delivered]
    within: 0s
    severity: info
    owner: carrier
";

fn hash(daemon: &Daemon) -> String {
    daemon.get("/api/v1/status").json()["rules"]["hash"].as_str().unwrap().to_owned()
}

#[test]
fn new_rules_take_over_the_parcels_in_flight_and_a_crash_decides_alike() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("new-rules", 2, true, &[]);
    let mut setup = setup(kafka, "new-rules", &hooks);
    setup.set("reload.every", "1h");
    let mut daemon = setup.start();
    daemon.wait_ready();
    let first = hash(&daemon);
    for n in 0..6 {
        tell(kafka, "new-rules", &format!("P-{n}"), "import_customs_cleared");
    }
    wait_exceptions(&daemon, "open", 6);

    setup.rules("rules.yaml", &format!("{RULES}{SECOND}"));
    let answer = daemon.post("/-/reload", &json!(null));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let said = answer.json();
    assert_eq!(
        (&said["changed"], &said["foreseen"]["at_once"]["opened"]),
        (&json!(true), &json!(6)),
        "{said}"
    );
    let all = wait_exceptions(&daemon, "open", 12);
    let second = hash(&daemon);
    assert_ne!(first, second);
    let of = |rule: &str| all.iter().filter(|e| e["rule"] == rule).count();
    assert_eq!((of("late"), of("at_once")), (6, 6));
    // Again changes nothing; and the record says who took what.
    assert_eq!(daemon.post("/-/reload", &json!(null)).json()["changed"], json!(false));
    let loads = items(&daemon, "/api/v1/rules");
    let by: Vec<_> =
        loads.iter().map(|l| (l["rules"].as_str().unwrap(), l["by"].as_str().unwrap())).collect();
    assert_eq!(by, [(second.as_str(), "anybody (no tokens)"), (first.as_str(), "start")]);
    let kept = daemon.get(&format!("/api/v1/rules/{}", &second[..10])).json();
    assert!(kept["files"]["rules.yaml"].as_str().unwrap().contains("at_once"), "{kept}");

    // The old rules come again by SIGHUP, and the exceptions of the new one end.
    setup.rules("rules.yaml", RULES);
    daemon.signal(libc::SIGHUP);
    let ended = wait_exceptions(&daemon, "resolved", 6);
    assert!(ended.iter().all(|e| e["rule"] == "at_once" && e["resolution"] == "rule_changed"), "{ended:#?}");
    let before = decided(&daemon);
    daemon.kill9();
    let daemon = setup.start();
    daemon.wait_ready();
    assert_eq!(decided(&daemon), before);
    assert_eq!(daemon.metrics().sum("exceptions_opened_total", &[]), Some(0.0));
    tell(kafka, "new-rules", "P-0", "delivered");
    wait_exceptions(&daemon, "resolved", 7);
    wait_sent(&daemon);
}

#[test]
fn on_any_problem_the_old_rules_stay_and_it_is_said_where() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("broken-rules", 1, true, &[]);
    let mut setup = setup(kafka, "broken-rules", &hooks);
    setup.set("reload.every", "1h");
    let mut daemon = setup.start();
    daemon.wait_ready();
    let first = hash(&daemon);
    setup.rules("rules.yaml", &RULES.replace("severity: high", "severity: hihg"));
    let refused = daemon.post("/-/reload", &json!(null));
    assert_eq!(refused.status, 422, "{}", refused.text());
    let detail = refused.json()["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("rules.yaml:8:15") && detail.contains("did you mean `high`"), "{detail}");
    daemon.wait_log("the rules are not reloaded, the old ones stay");
    assert_eq!(daemon.metrics().sum("config_last_reload_successful", &[]), Some(0.0));
    // A policy that names a receiver which is not there refuses the rules too: whole or not at all.
    setup.rules("rules.yaml", &format!("{RULES}{SECOND}"));
    let whole = std::fs::read_to_string(setup.path("rules/policies.yaml")).unwrap();
    setup.rules("policies.yaml", &whole.replace("notify: [erp]", "notify: [epr]"));
    let refused = daemon.post("/-/reload", &json!(null));
    assert!(refused.status == 422 && refused.text().contains("policies.yaml"), "{}", refused.text());
    assert_eq!(hash(&daemon), first);
    tell(kafka, "broken-rules", "P-1", "import_customs_cleared");
    let open = wait_exceptions(&daemon, "open", 1);
    assert_eq!(open[0]["rule"], "late");

    policies(&setup, &hooks, "", POLICY);
    assert_eq!(daemon.post("/-/reload", &json!(null)).status, 200);
    assert_eq!(daemon.metrics().sum("config_last_reload_successful", &[]), Some(1.0));
    wait_exceptions(&daemon, "open", 2);
}

#[test]
fn the_brake_holds_rules_that_open_too_much_until_somebody_accepts_them() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("brake", 1, true, &[]);
    let mut setup = setup(kafka, "brake", &hooks);
    setup.set("reload.every", "1h").set("reload.max_openings", 3);
    let daemon = setup.start();
    daemon.wait_ready();
    for n in 0..5 {
        tell(kafka, "brake", &format!("P-{n}"), "import_customs_cleared");
    }
    wait_exceptions(&daemon, "open", 5);
    let first = hash(&daemon);
    setup.rules("rules.yaml", &format!("{RULES}{SECOND}"));
    let held = daemon.post("/-/reload", &json!(null));
    let said = held.json();
    assert_eq!((held.status, &said["openings"]), (409, &json!(5)), "{said}");
    assert_eq!(said["foreseen"]["at_once"]["examples"].as_array().unwrap().len(), 5, "{said}");
    assert_eq!(hash(&daemon), first);
    let accepted = said["hash"].as_str().unwrap().to_owned();
    let other = daemon.post("/-/reload?accept=0123456789", &json!(null));
    assert_eq!(other.status, 409, "another hash accepts nothing: {}", other.text());
    let out = std::process::Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .args(["rules", "accept", &accepted[..8], "--url"])
        .arg(format!("http://{}", daemon.address()))
        .output()
        .unwrap();
    assert!(out.status.success(), "{out:?}");
    assert!(String::from_utf8_lossy(&out.stdout).contains("at_once: 5 opened"), "{out:?}");
    wait_exceptions(&daemon, "open", 10);
    assert_eq!(hash(&daemon), accepted);
}

/// The commonest way to new rules is a restart with other files.
#[test]
fn a_restart_with_other_rules_is_no_way_around_the_brake() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("braked-start", 2, true, &[]);
    let mut setup = setup(kafka, "braked-start", &hooks);
    setup.set("reload.every", "1h").set("reload.max_openings", 3);
    let mut daemon = setup.start();
    daemon.wait_ready();
    for n in 0..5 {
        tell(kafka, "braked-start", &format!("P-{n}"), "import_customs_cleared");
    }
    wait_exceptions(&daemon, "open", 5);
    let first = hash(&daemon);
    assert_eq!(daemon.terminate(), Some(0));
    setup.rules("rules.yaml", &format!("{RULES}{SECOND}"));
    let mut daemon = setup.start();
    daemon.wait_log("they would open more exceptions at once than reload.max_openings");
    assert_eq!(hash(&daemon), first);
    assert_eq!(daemon.metrics().sum("config_last_reload_successful", &[]), Some(0.0));
    wait_exceptions(&daemon, "open", 5);
    // Nor is another crash; and what came meanwhile is decided by the rules of before.
    daemon.kill9();
    tell(kafka, "braked-start", "P-5", "import_customs_cleared");
    let mut daemon = setup.start();
    daemon.wait_log("they would open more exceptions at once than reload.max_openings");
    let open = wait_exceptions(&daemon, "open", 6);
    assert!(open.iter().all(|e| e["rule"] == "late"), "{open:#?}");
    let held = daemon.post("/-/reload", &json!(null)).json();
    let accepted = held["hash"].as_str().unwrap();
    assert_eq!(daemon.post(&format!("/-/reload?accept={accepted}"), &json!(null)).status, 200);
    wait_exceptions(&daemon, "open", 12);

    // What opens little takes over by itself.
    assert_eq!(daemon.terminate(), Some(0));
    setup.rules("rules.yaml", RULES);
    let daemon = setup.start();
    wait_exceptions(&daemon, "resolved", 6);
    assert_eq!(hash(&daemon), first);
    assert_eq!(daemon.metrics().sum("config_last_reload_successful", &[]), Some(1.0));
    let loads = items(&daemon, "/api/v1/rules");
    let by: Vec<_> = loads.iter().map(|l| l["by"].as_str().unwrap()).collect();
    assert_eq!(by, ["start", "anybody (no tokens)", "start"], "{loads:#?}");
}

#[test]
fn a_rule_in_shadow_decides_and_tells_nobody() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("shadow", 1, true, &[]);
    let mut setup = setup(kafka, "shadow", &hooks);
    setup.rules("rules.yaml", &format!("{RULES}{}", SECOND.replace("owner:", "mode: shadow\n    owner:")));
    let daemon = setup.start();
    daemon.wait_ready();
    tell(kafka, "shadow", "P-1", "import_customs_cleared");
    let open = wait_exceptions(&daemon, "open", 2);
    let shadow: Vec<_> =
        open.iter().filter(|e| e["shadow"] == true).map(|e| e["rule"].as_str().unwrap()).collect();
    assert_eq!(shadow, ["at_once"], "{open:#?}");
    hooks.wait_for(1);
    let told: Vec<_> = wait_sent(&daemon);
    assert_eq!(told.len(), 1, "{told:#?}");
    assert!(hooks.hooks().iter().all(|h| h.json()["data"]["exceptions"][0]["rule"] == "late"));
    let metrics = daemon.metrics();
    assert_eq!(metrics.sum("rule_info", &[("rule", "at_once"), ("mode", "shadow")]), Some(1.0));
    assert_eq!(metrics.sum("exceptions_open", &[("rule", "at_once")]), Some(1.0));
}

/// As Kubernetes changes a ConfigMap: files are links into a folder that is a link itself, and only that one is replaced.
#[test]
fn a_changed_link_of_a_config_map_is_seen() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("config-map", 1, true, &[]);
    let mut setup = setup(kafka, "config-map", &hooks);
    setup.set("reload.every", "1s");
    let rules = setup.path("rules");
    let version = |name: &str, text: &str| {
        let folder = setup.path("rules").join(name);
        std::fs::create_dir(&folder).unwrap();
        std::fs::write(folder.join("rules.yaml"), text).unwrap();
    };
    std::fs::remove_file(rules.join("rules.yaml")).unwrap();
    version("..v1", RULES);
    version("..v2", &format!("{RULES}{SECOND}"));
    symlink("..v1", rules.join("..data")).unwrap();
    symlink("..data/rules.yaml", rules.join("rules.yaml")).unwrap();
    let mut daemon = setup.start();
    daemon.wait_ready();
    let first = hash(&daemon);
    symlink("..v2", rules.join("..tmp")).unwrap();
    std::fs::rename(rules.join("..tmp"), rules.join("..data")).unwrap();
    daemon.wait_log("rules and policies are in force");
    assert_ne!(hash(&daemon), first);
    assert_eq!(items(&daemon, "/api/v1/rules")[0]["by"], "file");
}

#[test]
fn before_the_first_assignment_nothing_is_taken_and_a_hangup_ends_nothing() {
    let hooks = Webhooks::start();
    let mut setup = Setup::new();
    // Nobody listens there, so nobody can say what new rules would open.
    setup.kafka(&format!("127.0.0.1:{}", free_port()), "nowhere").set("reload.every", "1h");
    setup.rules("rules.yaml", RULES);
    std::fs::write(setup.path("erp.secret"), KEY).unwrap();
    policies(&setup, &hooks, "", POLICY);
    let mut daemon = setup.start();
    daemon.signal(libc::SIGHUP);
    let first = hash(&daemon);
    setup.rules("rules.yaml", &format!("{RULES}{SECOND}"));
    let refused = daemon.post("/-/reload", &json!(null));
    assert!(refused.status == 503 && refused.text().contains("/-/ready"), "{}", refused.text());
    assert!(daemon.is_running());
    assert_eq!(hash(&daemon), first);
}

#[test]
fn a_secret_that_was_rotated_signs_after_a_reload() {
    const ROTATED: &str = "whsec_AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("rotated", 1, true, &[]);
    let mut setup = setup(kafka, "rotated", &hooks);
    setup.set("reload.every", "1h");
    let daemon = setup.start();
    daemon.wait_ready();
    let nth = |n: usize, parcel: &str| {
        tell(kafka, "rotated", parcel, "import_customs_cleared");
        poll("the message", PATIENCE, || match hooks.hooks().get(n) {
            Some(hook) => Ok(hook.clone()),
            None => Err("not yet".to_owned()),
        })
    };
    let first = nth(0, "P-1");
    assert!(first.verify(KEY).is_ok() && first.verify(ROTATED).is_err());
    std::fs::write(setup.path("erp.secret"), ROTATED).unwrap();
    assert_eq!(daemon.post("/-/reload", &json!(null)).json()["changed"], json!(false));
    let second = nth(1, "P-2");
    assert!(second.verify(ROTATED).is_ok() && second.verify(KEY).is_err());
}
