//! The real Prometheus, and the checkers of what `deploy/` ships: promtool, systemd-analyze, hadolint.

use super::process::{Process, free_port};
use super::{PATIENCE, cache, http, need, poll};
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use tempfile::TempDir;

/// A Prometheus that scrapes one target four times a second. Its first scrape comes after 5 s, whatever the settings: one per
/// run of the tests is enough.
pub struct Prometheus {
    address: String,
    process: Process,
    _dir: TempDir,
}

/// A sample of an instant query.
#[derive(Clone, Debug)]
pub struct Sample {
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Prometheus {
    /// `target` is `host:port`; `rules` a file of alerts to load as well.
    pub fn start(target: &str, rules: Option<&Path>) -> Prometheus {
        need("prometheus");
        (0..5)
            .find_map(|_| Self::try_start(target, rules))
            .expect("Prometheus found its port taken five times")
    }

    fn try_start(target: &str, rules: Option<&Path>) -> Option<Prometheus> {
        let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        let address = format!("127.0.0.1:{}", free_port());
        let rules =
            rules.map(|r| format!("rule_files: [{:?}]\n", r.display().to_string())).unwrap_or_default();
        let config = format!(
            "global: {{scrape_interval: 250ms, scrape_timeout: 250ms, evaluation_interval: 250ms}}\n{rules}\
             scrape_configs:\n- job_name: parcelwatch\n  static_configs: [{{targets: ['{target}']}}]\n"
        );
        let file = dir.path().join("prometheus.yml");
        std::fs::write(&file, config).unwrap();
        let mut command = Command::new("prometheus");
        command
            .arg(format!("--config.file={}", file.display()))
            .arg(format!("--storage.tsdb.path={}", dir.path().join("tsdb").display()))
            .arg(format!("--web.listen-address={address}"))
            .args(["--storage.tsdb.retention.time=1h", "--log.level=warn"])
            .current_dir(dir.path());
        let mut process = Process::start("Prometheus", command);
        let up = poll("Prometheus to be ready", PATIENCE, || match process.ended() {
            Some(_) if process.tail().contains("address already in use") => Ok(false),
            Some(status) => panic!("Prometheus ended: {status}\n{}", process.tail()),
            None => match http::request(&address, "GET", "/-/ready", &[], b"") {
                Ok(answer) if answer.status == 200 => Ok(true),
                other => Err(format!("{other:?}")),
            },
        });
        up.then_some(Prometheus { address, process, _dir: dir })
    }

    /// Waits until the target has been scraped without an error.
    pub fn wait_up(&self) {
        poll("Prometheus to scrape its target", PATIENCE, || match self.query("up == 1").len() {
            1.. => Ok(()),
            0 => Err(format!("{}\n{}", self.get("/api/v1/targets").text(), self.process.tail())),
        });
    }

    /// An instant query; an expression that does not parse fails the test.
    pub fn query(&self, expression: &str) -> Vec<Sample> {
        let answer = self.get(&format!("/api/v1/query?{}", http::query("query", expression)));
        assert_eq!(answer.status, 200, "{expression}: {}", answer.text());
        let json = answer.json();
        let sample = |entry: &serde_json::Value| Sample {
            labels: serde_json::from_value(entry["metric"].clone()).unwrap(),
            value: entry["value"][1].as_str().unwrap().parse().unwrap(),
        };
        json["data"]["result"].as_array().unwrap().iter().map(sample).collect()
    }

    pub fn get(&self, path: &str) -> http::Response {
        http::request(&self.address, "GET", path, &[], b"").unwrap()
    }
}

/// `promtool check config`: the rule files that it names are checked too.
pub fn check_config(file: &Path) -> Result<(), String> {
    promtool(&["check", "config"], file)
}

pub fn check_rules(file: &Path) -> Result<(), String> {
    promtool(&["check", "rules"], file)
}

pub fn test_rules(file: &Path) -> Result<(), String> {
    promtool(&["test", "rules"], file)
}

/// An exposition in the text format: it parses, follows the conventions, and, what promtool does not look for, has no sample
/// twice (Prometheus would keep the first and say nothing).
pub fn check_metrics(text: &str) -> Result<(), String> {
    need("prometheus");
    let mut child = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    outcome("promtool check metrics", &child.wait_with_output().unwrap())?;
    let mut seen = BTreeSet::new();
    let series = text.lines().filter(|l| !l.starts_with('#')).filter_map(|l| Some(l.rsplit_once(' ')?.0));
    match series.filter(|s| !seen.insert(*s)).collect::<Vec<_>>().as_slice() {
        [] => Ok(()),
        twice => Err(format!("exported twice: {twice:?}")),
    }
}

/// The alerts of a file of rules by name, as parsed YAML.
pub fn alerts(file: &Path) -> Vec<(String, serde_yaml::Value)> {
    let rules: serde_yaml::Value = serde_yaml::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    let groups = rules["groups"].as_sequence().unwrap();
    let rules = groups.iter().flat_map(|g| g["rules"].as_sequence().unwrap());
    rules.map(|r| (r["alert"].as_str().unwrap().to_owned(), r.clone())).collect()
}

/// Every metric of parcelwatch that the alerts of a file name, a histogram by its own name: what `/metrics` has to offer.
pub fn metrics_in_alerts(file: &Path) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (_, rule) in alerts(file) {
        let expression = rule["expr"].as_str().unwrap().to_owned();
        let words = expression.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
        let ours = words.filter(|w| w.starts_with("parcelwatch_"));
        names.extend(ours.map(|w| w.strip_suffix("_bucket").unwrap_or(w).to_owned()));
    }
    names
}

/// `systemd-analyze verify`: anything it prints is a finding, since it exits 0 on a misspelt key. The program of the unit is
/// not installed where the tests run, so that another takes its place for the check.
pub fn check_unit(file: &Path) -> Result<(), String> {
    need("systemd");
    let dir = tempfile::tempdir().unwrap();
    let unit = std::fs::read_to_string(file).unwrap();
    let stand_in = |line: &str| match line.strip_prefix("ExecStart=") {
        Some(command) => {
            let arguments = command.split_once(' ').map_or("", |(_, arguments)| arguments);
            format!("ExecStart=/usr/bin/true {arguments}\n")
        }
        None => format!("{line}\n"),
    };
    let copy = dir.path().join(file.file_name().unwrap());
    std::fs::write(&copy, unit.lines().map(stand_in).collect::<String>()).unwrap();
    let out = Command::new("systemd-analyze").args(["verify", "--man=no"]).arg(copy).output().unwrap();
    let said = said(&out);
    if said.is_empty() { outcome("systemd-analyze verify", &out) } else { Err(said) }
}

/// The exposure that `systemd-analyze security` finds, 0 (best) to 10, stays below a bound.
pub fn check_exposure(file: &Path, at_most: f64) -> Result<(), String> {
    need("systemd");
    let threshold = format!("--threshold={:.0}", at_most * 10.0);
    let out = Command::new("systemd-analyze")
        .args(["security", "--offline=true", "--no-pager", &threshold])
        .arg(file)
        .output()
        .unwrap();
    outcome("systemd-analyze security", &out)
}

pub fn hadolint(file: &Path) -> Result<(), String> {
    need("hadolint");
    let program = cache().join("hadolint/bin/hadolint");
    outcome("hadolint", &Command::new(program).arg("--no-color").arg(file).output().unwrap())
}

fn promtool(arguments: &[&str], file: &Path) -> Result<(), String> {
    need("prometheus");
    let out = Command::new("promtool").args(arguments).arg(file).output().unwrap();
    outcome(&format!("promtool {}", arguments.join(" ")), &out)
}

fn said(out: &std::process::Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&out.stdout), String::from_utf8_lossy(&out.stderr));
    format!("{stdout}{stderr}").trim().to_owned()
}

fn outcome(what: &str, out: &std::process::Output) -> Result<(), String> {
    match out.status.success() {
        true => Ok(()),
        false => Err(format!("{what}: {}\n{}", out.status, said(out))),
    }
}
