//! The configuration file and `check`.

use std::path::{Path, PathBuf};

use parcelwatch::cli::check::{Found, github, json, judge};
use parcelwatch::config::{Config, Environment, Start, read_secret};
use parcelwatch::rules::policies::SecretText;

const KAFKA: &str = "kafka: {bootstrap_servers: \"127.0.0.1:9092\"}\n";

#[track_caller]
fn config(text: &str, env: &[(&str, &str)]) -> Config {
    let env: Environment = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    Config::read(Path::new("etc/parcelwatch.yaml"), text.as_bytes(), &env)
        .unwrap_or_else(|problems| panic!("{}", problems.iter().map(|p| p.render(false)).collect::<String>()))
}

#[track_caller]
fn refused(text: &str, env: &[(&str, &str)]) -> String {
    let env: Environment = env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
    let problems = Config::read(Path::new("parcelwatch.yaml"), text.as_bytes(), &env).expect_err("is taken");
    problems.iter().map(|p| p.render(false) + "\n").collect()
}

#[test]
fn the_shipped_file_is_the_defaults() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(root.join("config/parcelwatch.yaml")).unwrap();
    assert_eq!(config(&text, &[]), config(KAFKA, &[]));
    // Every key of the file of DESIGN §10 stands in it.
    for key in "bootstrap_servers topic group_id start properties rules state url password keep to every skew certificate_ttl \
                forget_after remember_ids abandon_after listen public_url tokens from username allow_private_networks format filter"
        .split_whitespace()
    {
        assert!(text.lines().any(|l| l.trim_start().starts_with(&format!("{key}:"))), "{key}");
    }
}

#[test]
fn values_are_typed_and_paths_start_from_the_file() {
    let c = config(
        "kafka:\n  bootstrap_servers: a:1,b:2\n  topic: 123\n  start: 2026-10-01T00:00:00Z\n  properties:\n    security.protocol: SASL_SSL\n    \
         session.timeout.ms: 6000\n    enable.ssl.certificate.verification: true\n    sasl.password: {file: kafka.pw}\nstate: /var/lib/pw\ntime: {skew: 1m30s}\nhttp: {listen: \"0.0.0.0:80\", \
         public_url: \"https://p.example.org/\", tokens: [{name: erp, role: operator, token: {env: T}}]}\nwebhook: {allow_private_networks: [10.0.0.0/8]}\nsnapshots:\n",
        &[],
    );
    assert_eq!(c.kafka.topic, "123");
    assert!(matches!(c.kafka.start, Start::At(_)));
    let property = |key: &str| c.kafka.properties[key].clone();
    assert!(property("session.timeout.ms") == SecretText::Plain("6000".into()));
    assert!(property("enable.ssl.certificate.verification") == SecretText::Plain("true".into()));
    assert!(property("sasl.password") == SecretText::File("etc/kafka.pw".into()));
    assert_eq!((c.rules.as_path(), c.state.as_path()), (Path::new("etc/../rules"), Path::new("/var/lib/pw")));
    assert_eq!((c.time.skew, c.snapshots.every), (90_000, 300_000));
    assert_eq!(c.http.public_url.as_deref(), Some("https://p.example.org"));
    assert_eq!(c.allow_private_networks.len(), 1);
    let shown = format!("{c:?}");
    assert!(!shown.contains("kafka.pw") && shown.contains("<secret>"), "{shown}");
}

#[test]
fn the_environment_lies_over_the_file() {
    let c = config(
        "kafka: {topic: a}\nsmtp: {url: \"smtps://mail.example.org\", from: a@example.org, username: me, password: {file: pw}}\n",
        &[
            ("PARCELWATCH_KAFKA__BOOTSTRAP_SERVERS", "kafka:9092"),
            ("PARCELWATCH_KAFKA__TOPIC", "007"),
            ("PARCELWATCH_KAFKA__PROPERTIES__SASL_PASSWORD", "hunter2"),
            ("PARCELWATCH_SNAPSHOTS__KEEP", "7"),
            ("PARCELWATCH_TIME__SKEW", "2s"),
            ("PARCELWATCH_RULES", "/etc/rules"),
            ("PARCELWATCH_SMTP__PASSWORD", "hunter2"),
            ("PARCELWATCH_SMTP__DKIM__DOMAIN", "example.org"),
            ("PARCELWATCH_SMTP__DKIM__SELECTOR", "pw1"),
            ("PARCELWATCH_SMTP__DKIM__KEY", "hunter2"),
            ("PARCELWATCH_WEBHOOK__ALLOW_PRIVATE_NETWORKS", "[10.0.0.0/8, 192.168.0.0/16]"),
            ("PARCELWATCH_CONFIG", "/etc/parcelwatch.yaml"),
            ("PARCELWATCH_LOG__FILTER", "info,rdkafka=warn"),
        ],
    );
    assert_eq!((c.kafka.bootstrap_servers.as_str(), c.kafka.topic.as_str()), ("kafka:9092", "007"));
    assert_eq!((c.snapshots.keep, c.time.skew, c.rules.as_path()), (7, 2_000, Path::new("/etc/rules")));
    assert!(c.smtp.password == Some(SecretText::Env("PARCELWATCH_SMTP__PASSWORD".into())));
    let dkim = &c.smtp.dkim;
    assert_eq!((dkim.domain.as_deref(), dkim.selector.as_deref()), (Some("example.org"), Some("pw1")));
    assert!(dkim.key == Some(SecretText::Env("PARCELWATCH_SMTP__DKIM__KEY".into())));
    let password = &c.kafka.properties["sasl.password"];
    assert!(*password == SecretText::Env("PARCELWATCH_KAFKA__PROPERTIES__SASL_PASSWORD".into()));
    assert_eq!(c.allow_private_networks.len(), 2);
    assert_eq!(c.log.filter, "info,rdkafka=warn");
    assert!(!format!("{c:?}").contains("hunter2"));
}

#[test]
fn the_environment_is_checked_too() {
    let said = refused(
        KAFKA,
        &[
            ("PARCELWATCH_TIME__SKEW", "soon"),
            ("PARCELWATCH_TIME__SKWE", "5s"),
            ("PARCELWATCH_HTTP__TOKENS", "[{name: a, role: admin, token: hunter2}]"),
        ],
    );
    for part in [
        "PARCELWATCH_TIME__SKEW",
        "`time.skew`: `soon` is no duration",
        "did you mean `time.skew`",
        "PARCELWATCH_HTTP__TOKENS",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert!(!said.contains("hunter2"), "{said}");
    let said = refused("", &[]);
    assert!(said.contains("bootstrap_servers"), "{said}");
}

#[test]
fn a_secret_is_read_and_never_shown() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("pw");
    std::fs::write(&path, "hunter2\n").unwrap();
    let secret = read_secret(&SecretText::File(path.clone())).unwrap();
    assert_eq!((secret.expose(), format!("{secret} {secret:?}").as_str()), ("hunter2", "<secret> <secret>"));
    std::fs::write(&path, "\n").unwrap();
    let error = read_secret(&SecretText::File(path.clone())).unwrap_err().to_string();
    assert!(error.contains("pw") && error.contains("empty"), "{error}");
    std::fs::write(&path, vec![b'x'; 70_000]).unwrap();
    assert!(read_secret(&SecretText::File(path)).is_err());
    assert!(read_secret(&SecretText::File(dir.path().join("gone"))).is_err());
    assert!(read_secret(&SecretText::Env("PARCELWATCH_TEST_THAT_IS_NOT_SET".into())).is_err());
}

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    fn judge(&self, names: &[&str]) -> Found {
        let paths: Vec<PathBuf> = names.iter().map(|n| self.0.path().join(n)).collect();
        judge(&paths, None).unwrap()
    }
}

const RULE: &str = "rules: [{id: a, after: departed_customs, within: 1d, severity: info, owner: ops, runbook: Call them.}]\n";
const TEST: &str = "tests: [{name: a day, events: [{at: +0h, milestone: departed_customs}], until: +2d, expect: [{at: +1d, opened: a}]}]\n";
const POLICIES: &str =
    "receivers: [{id: ops, email: {to: [ops@example.org]}}]\npolicies: [{id: p, steps: [{notify: ops}]}]\n";

#[test]
fn check_says_what_there_is_and_exits_accordingly() {
    let place = Place::new();
    place.write("rules/a.yaml", RULE);
    place.write("rules/policies.yaml", POLICIES);
    place.write("rules/a_test.yaml", TEST);
    let found = place.judge(&["rules"]);
    assert_eq!((found.summary().as_str(), found.exit_code()), ("1 rule, 1 policy, 1 receiver: ok", 0));

    place.write(
        "rules/b.yaml",
        "rules: [{id: b, policy: p, after: departed_customs, within: 1d, severity: info, owner: ops, runbook: x, scope: {lane: CN-*}}]\n",
    );
    let found = place.judge(&["rules"]);
    // Its scope looks like a pattern, and no test touches it.
    assert_eq!((found.summary().as_str(), found.exit_code()), ("2 rules, 1 policy, 1 receiver: 2 lints", 3));
    // Alone a file knows its neighbours, and only its own problems are told.
    place.write("rules/c.yaml", "rules: [{id: c}]\n");
    let found = place.judge(&["rules/b.yaml"]);
    assert_eq!((found.problems.len(), found.exit_code()), (1, 3));
    let found = place.judge(&["rules"]);
    assert_eq!((found.summary().as_str(), found.exit_code()), ("2 errors, 1 lint", 1));
    assert!(judge(&[place.0.path().join("nowhere")], None).is_err());
}

#[test]
fn check_follows_a_configuration_to_its_rules() {
    let place = Place::new();
    place.write("rules/a.yaml", RULE);
    place.write("config/parcelwatch.yaml", KAFKA);
    for path in ["config/parcelwatch.yaml", "config"] {
        let found = place.judge(&[path]);
        assert_eq!((found.summary().as_str(), found.exit_code()), ("1 rule, 1 configuration: ok", 0));
    }
    place.write("config/parcelwatch.yaml", &format!("{KAFKA}time: {{skew: 5}}\n"));
    assert_eq!(place.judge(&["config"]).exit_code(), 1);
    // By what it says, whatever its name.
    place.write("other.yaml", &format!("{KAFKA}rules: rules\n"));
    assert_eq!(place.judge(&["other.yaml"]).summary(), "1 rule, 1 configuration: ok");
    place.write("config/parcelwatch.yaml", &format!("{KAFKA}rules: gone\n"));
    assert!(judge(&[place.0.path().join("config")], None).is_err());
}

/// A file with a problem of each level, judged.
fn two_problems(place: &Place) -> Found {
    place.write(
        "rules/a.yaml",
        "rules:\n  - {id: a, scope: {lane: CN-*}, after: deliverd, within: 1d, severity: info}\n  - {id: b, after: delivered, within: 100%, severity: info}\n",
    );
    place.judge(&["rules"])
}

#[test]
fn json_tells_a_program_what_a_person_is_told() {
    let place = Place::new();
    let found = two_problems(&place);
    let document = json(&found);
    let problems = document["problems"].as_array().unwrap();
    assert_eq!(
        (document["errors"].as_u64(), document["lints"].as_u64(), problems.len()),
        (Some(2), Some(1), 3)
    );
    assert_eq!(document["summary"], "2 errors, 1 lint");
    let lint = &problems[0];
    assert_eq!(
        (&lint["code"], &lint["level"], &lint["rule"]),
        (&"PW302".into(), &"lint".into(), &"a".into())
    );
    let milestone = &problems[1];
    let file = place.0.path().join("rules/a.yaml");
    assert_eq!(milestone["file"], file.to_str().unwrap());
    let numbers = ["line", "column", "end_line", "end_column"].map(|k| milestone[k].as_u64().unwrap());
    assert_eq!(numbers, [2, 41, 2, 49]);
    assert_eq!(milestone["help"], "did you mean `delivered`?");
    assert_eq!(milestone["page"], "rules/PROBLEMS.md#pw206");
    assert!(milestone["source"].as_str().unwrap().starts_with("  - {id: a, scope"));
    // What is in no line has none; a secret in a line is not shown.
    let gone =
        place.judge(&["empty"].map(|n| place.write(&format!("{n}/x"), "").parent().map(|_| n).unwrap()));
    let document = json(&gone);
    assert!(document["problems"][0]["line"].is_null(), "{document}");
    place.write("secret/policies.yaml", "receivers: [{id: a, webhook: {secret: hunter2}}]\n");
    let said = json(&place.judge(&["secret"])).to_string();
    assert!(said.contains("PW216") && !said.contains("hunter2"), "{said}");
}

#[test]
fn github_gets_a_command_for_each_problem() {
    let place = Place::new();
    let said = github(&two_problems(&place));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), 3, "{said}");
    let file = place.0.path().join("rules/a.yaml");
    let wanted = format!(
        "::error file={},line=2,endLine=2,col=41,endColumn=49,title=PW206 in rule a::`deliverd` is no milestone and no derived \
         time%0Adid you mean `delivered`?%0Arules/PROBLEMS.md#pw206",
        file.display()
    );
    assert_eq!(lines[1], wanted);
    assert!(lines[0].starts_with("::warning file=") && lines[0].contains("title=PW302 in rule a::"));
    assert!(lines[2].contains("`100%25`"), "{}", lines[2]);
}
