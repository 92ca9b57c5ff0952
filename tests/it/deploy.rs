//! What `deploy/` ships is accepted by the programs that it is for.

use crate::parts::prometheus::{
    alerts, check_config, check_exposure, check_rules, check_unit, hadolint, test_rules,
};
use crate::parts::{repository, webhook};
use std::path::PathBuf;
use std::process::Command;

fn deploy(name: &str) -> PathBuf {
    repository().join("deploy").join(name)
}

fn text(name: &str) -> String {
    std::fs::read_to_string(deploy(name)).unwrap()
}

#[test]
fn prometheus_takes_the_scrape_and_the_alerts() {
    assert_eq!(check_config(&deploy("prometheus.yml")), Ok(()));
    assert_eq!(check_rules(&deploy("alerts.yaml")), Ok(()));
    assert_eq!(test_rules(&deploy("alerts_test.yaml")), Ok(()));
}

#[test]
fn each_alert_says_what_it_means_and_is_tested_both_ways() {
    let tests: serde_yaml::Value = serde_yaml::from_str(&text("alerts_test.yaml")).unwrap();
    let cases = tests["tests"].as_sequence().unwrap().iter();
    let cases: Vec<_> = cases.flat_map(|t| t["alert_rule_test"].as_sequence().unwrap()).collect();
    for (name, rule) in alerts(&deploy("alerts.yaml")) {
        assert!(name.starts_with("Parcelwatch"), "{name}");
        let severity = rule["labels"]["severity"].as_str();
        assert!(matches!(severity, Some("critical" | "warning" | "info")), "{name}: {severity:?}");
        let summary = rule["annotations"]["summary"].as_str().unwrap();
        assert!(
            !summary.contains("{{"),
            "{name}: a summary is the same each time, so that mails of it gather"
        );
        assert!(rule["annotations"]["description"].is_string(), "{name}");
        let expected: Vec<_> =
            cases.iter().filter(|c| c["alertname"] == *name).map(|c| &c["exp_alerts"]).collect();
        let fires = |alerts: &&&serde_yaml::Value| !alerts.as_sequence().unwrap().is_empty();
        assert!(
            expected.iter().any(|e| fires(&e)) && !expected.iter().all(|e| fires(&e)),
            "{name}: {expected:?}"
        );
    }
}

#[test]
fn systemd_takes_the_unit() {
    assert_eq!(check_unit(&deploy("parcelwatch.service")), Ok(()));
    assert_eq!(check_exposure(&deploy("parcelwatch.service"), 2.0), Ok(()));
    let unit = text("parcelwatch.service");
    for line in ["Type=notify", "WatchdogSec=30", "DynamicUser=yes", "StateDirectory=parcelwatch"] {
        assert!(unit.lines().any(|l| l == line), "{line}");
    }
}

#[test]
fn the_checks_of_deploy_find_mistakes() {
    let dir = tempfile::tempdir().unwrap();
    let broken = |name: &str, from: &str, to: &str| {
        let file = dir.path().join(name);
        let whole = text(name);
        assert!(whole.contains(from), "{name} has no {from}");
        std::fs::write(&file, whole.replacen(from, to, 1)).unwrap();
        file
    };
    assert!(check_unit(&broken("parcelwatch.service", "ProtectSystem", "ProtectSytem")).is_err());
    assert!(check_rules(&broken("alerts.yaml", "== 0", "=== 0")).is_err());
    assert!(hadolint(&broken("Dockerfile", "debian:bookworm-slim", "debian:latest")).is_err());
}

#[test]
fn the_container_file_is_clean_and_its_health_check_works() {
    assert_eq!(hadolint(&deploy("Dockerfile")), Ok(()));
    let file = text("Dockerfile").replace("\\\n", " ");
    let check = file.lines().find_map(|l| l.strip_prefix("HEALTHCHECK ")?.split_once("CMD ")).unwrap().1;
    let check: Vec<String> = serde_json::from_str(check).unwrap();
    let healthy = |port: u16| {
        let run = Command::new(&check[0]).args(&check[1..]).env("PORT", port.to_string()).output().unwrap();
        run.status.success()
    };
    let server = webhook::Webhooks::start();
    let port = server.address().rsplit_once(':').unwrap().1.parse().unwrap();
    assert!(healthy(port));
    assert_eq!(server.hooks()[0].path, "/-/healthy");
    server.script("/-/healthy", [webhook::Answer::Status(503)]);
    assert!(!healthy(port));
    drop(server);
    assert!(!healthy(crate::parts::process::free_port()));
}
