//! Texts of one's own, from their files to what arrives: the README's chapter as it stands, a template that fails when it
//! matters, and what is said of wrong ones.

use std::path::Path;

use parcelwatch::cli::check::judge;
use parcelwatch::config;
use parcelwatch::model::{ChangeKind, Resolution};
use parcelwatch::notify::email::EmailSettings;
use parcelwatch::rules::policies::{Policies, ReceiverKind, SecretText};
use parcelwatch::rules::problem::code;
use parcelwatch::rules::template::Templates;
use parcelwatch::rules::{SourceFile, compile};
use parcelwatch::runtime::daemon::InForce;
use serde_json::{Value, json};

use crate::delivery::{Bench, policies};
use crate::live::{self, POLICY, event, now, setup};
use crate::parts::exim::Exim;
use crate::parts::kafka::Kafka;
use crate::parts::smtp::{Mail, Options, SmtpServer};
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, smtp};

const CHAPTER: &str = "## Texts of your own\n";

/// The files of the README's chapter, in a folder.
fn readme() -> tempfile::TempDir {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md")).unwrap();
    let chapter = text.split_once(CHAPTER).expect("the chapter").1.split_once("\n## ").unwrap().0;
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("templates")).unwrap();
    let mut files = 0;
    for block in chapter.split("\n```").skip(1).step_by(2) {
        let (head, text) = block.split_once('\n').unwrap();
        std::fs::write(dir.path().join(head.split_once(' ').unwrap().1), format!("{text}\n")).unwrap();
        files += 1;
    }
    assert_eq!(files, 3);
    dir
}

fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

/// The templates of the first receiver of a folder.
fn templates(dir: &Path) -> Templates {
    let loaded = compile(&config::read_rules(dir).unwrap());
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    loaded.policies.unwrap().receivers[0].templates.clone()
}

/// Templates of a mail, as they were written.
fn of_mail(subject: &str, text: &str, html: &str) -> Templates {
    let dir = tempfile::tempdir().unwrap();
    let names = "{subject: s.txt, text: t.txt, html: h.html}";
    let policies = format!(
        "receivers: [{{id: ops, email: {{to: [ops@example.test]}}, templates: {names}}}]\n\
         policies: [{{id: p, group_by: [rule, parcel_id], steps: [{{notify: [ops]}}]}}]\n"
    );
    for (name, text) in
        [("policies.yaml", policies.as_str()), ("s.txt", subject), ("t.txt", text), ("h.html", html)]
    {
        write(dir.path(), name, text);
    }
    templates(dir.path())
}

fn by_mail(templates: Templates) -> Policies {
    let mut policies = policies(vec![("ops", ReceiverKind::Email { to: vec!["ops@example.test".into()] })]);
    policies.receivers[0].templates = templates;
    policies
}

/// That templates know all names that a body has: one that is added there and not here would be refused as unknown.
pub(super) fn knows(body: &Value) {
    fn walk(path: &str, value: &Value, names: &mut Vec<String>) {
        let Some(map) = value.as_object() else { return };
        for (name, value) in map.iter().filter(|(name, _)| *name != "shadow") {
            let path = format!("{path}.{name}");
            names.push(path.clone());
            if !matches!(name.as_str(), "group" | "facts" | "labels") {
                walk(&path, value.get(0).unwrap_or(value), names);
            }
        }
    }
    let mut names = Vec::new();
    walk("", body, &mut names);
    assert!(names.len() > 10, "{body}");
    let mut text = "x".to_owned();
    for name in &names {
        text += &match name.strip_prefix(".data.exceptions.") {
            Some(of_one) => {
                format!("{{% for e in data.exceptions %}}{{% if e.{of_one} %}}{{% endif %}}{{% endfor %}}")
            }
            None => format!("{{% if {} %}}{{% endif %}}", &name[1..]),
        };
    }
    let file = |name: &str, text: &str| SourceFile {
        path: name.into(),
        content: Ok(text.as_bytes().to_vec()),
        context: false,
    };
    let policies = "receivers: [{id: a, email: {to: [a@x.org]}, templates: {text: t.txt}}]\npolicies: [{id: p, steps: [{notify: [a]}]}]\n";
    let problems = compile(&[file("policies.yaml", policies), file("t.txt", &text)]).problems;
    let unknown: Vec<&str> =
        problems.iter().filter(|p| p.code == code::UNKNOWN_NAME).map(|p| p.message.as_str()).collect();
    assert!(unknown.is_empty(), "{unknown:?} in\n{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_chapter_of_the_readme_is_sound_and_is_what_arrives() {
    let dir = readme();
    let found = judge(&[dir.path().to_owned()], None).unwrap();
    assert_eq!((found.problems.len(), found.summary().as_str()), (0, "0 rules, 1 policy, 1 receiver: ok"));

    let server = SmtpServer::start(Options::default());
    let email = EmailSettings::new(server.url(), "watch@example.org");
    let mut policies = by_mail(templates(dir.path()));
    policies.policies[0].group_by = vec!["rule".into(), "lane".into()];
    let bench = Bench::start_with(policies, Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-1\r\nBcc: x@example.org", 1).await;
    let first = server.wait_for(1).remove(0);
    assert_eq!(first.subject(), "Sendungen: CN-ES, late");
    assert!(first.part("text/html").is_none(), "{}", first.raw);
    let text = first.part("text/plain").unwrap();
    let lines: Vec<&str> = text.trim_end().lines().collect();
    assert_eq!(lines[0], "OFFEN: 1 offen, 0 erledigt");
    assert!(lines[2].starts_with("Übernehmen oder abschließen: http://127.0.0.1:"), "{text}");
    let title = "Cleared import customs, but the domestic carrier has not scanned it";
    assert_eq!(lines[4], format!("HIGH P-1  Bcc: x@example.org: {title}"));
    assert!(lines[5].starts_with("  fällig ") && lines[5].ends_with("überfällig seit 1 h"), "{text}");
    assert_eq!(lines[6..], ["  Sendungsnummer LX1CN, Strecke CN-ES"]);
    bench.settled(1);

    bench.commit(ChangeKind::Resolved(Resolution::SatisfiedLate), "P-1\r\nBcc: x@example.org", 2).await;
    let last = server.wait_for(2).remove(1);
    assert_eq!((last.subject(), last.header("references")), (first.subject(), first.header("references")));
    assert!(last.part("text/plain").unwrap().starts_with("ERLEDIGT: 0 offen, 1 erledigt"), "{}", last.raw);

    // A look at it beforehand shows the same.
    let items = bench.items("/api/v1/exceptions?state=all");
    let id = items[0]["exception_id"].as_str().unwrap();
    let preview = bench.get(&format!("/api/v1/exceptions/{id}/preview?receiver=ops&format=text")).json();
    assert_eq!(preview["subject"], "Sendungen: CN-ES, late");
    assert!(preview["content"].as_str().unwrap().starts_with("ERLEDIGT: "), "{preview}");
    let body = bench.get(&format!("/api/v1/exceptions/{id}/preview?receiver=ops&format=json")).json();
    knows(&serde_json::from_str(body["content"].as_str().unwrap()).unwrap());
    let test = bench
        .post("/api/v1/receivers/ops/test", &json!({"by": "ann", "comment": "", "dry_run": true}))
        .json();
    let message = &test["messages"][0];
    assert_eq!(message["subject"], "Sendungen: [parcelwatch] test of ops");
    assert!(
        message["text"].as_str().unwrap().contains("\nA test of the receiver ops, asked for by ann.\n"),
        "{test}"
    );
    knows(&message["body"]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn html_of_ones_own_arrives_by_a_real_mail_server_with_nothing_of_a_parcel_in_it_but_text() {
    let exim = Exim::start();
    let templates = of_mail(
        "Pakete {{ data.group.parcel_id }}",
        "{{ data.counts.open }} offen",
        "<!DOCTYPE html><html><body>{% for e in data.exceptions %}<p title=\"{{ e.parcel_id }}\">{{ e.parcel_id }}</p>{% endfor %}\
         <p>{{ data.counts.open }} offen</p></body></html>",
    );
    let login = Some((smtp::USER.to_owned(), smtp::PASSWORD.to_owned()));
    let email = EmailSettings { login, ..EmailSettings::new(exim.url(), "parcelwatch <watch@example.test>") };
    let bench = Bench::start_with(by_mail(templates), Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-<script>\"x", 1).await;
    let arrived = |mails: &[Mail]| mails.first().cloned();
    let mail = exim.wait_for_mail("the mail", PATIENCE, arrived);
    assert_eq!(mail.part("text/plain").unwrap().trim_end(), "1 offen");
    let html = mail.part("text/html").unwrap();
    let parcel = "P-&lt;script&gt;&quot;x";
    assert!(html.contains(&format!("<p title=\"{parcel}\">{parcel}</p>")), "{html}");
    assert_eq!(mail.subject(), "Pakete P-<script>\"x");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_template_that_fails_when_it_matters_gives_way_to_the_built_in_text_which_says_so() {
    let templates = of_mail(
        "{{ subject }}",
        "{% for e in data.exceptions %}{% if e.parcel_id == 'P-2' %}{{ e.stage // 0 }}{% endif %}{% endfor %}well",
        "<p>well</p>",
    );
    let server = SmtpServer::start(Options::default());
    let email = EmailSettings::new(server.url(), "watch@example.org");
    let bench = Bench::start_with(by_mail(templates), Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    bench.commit(ChangeKind::Opened, "P-2", 2).await;
    let mails = server.wait_for(2);
    let text = |parcel: &str| {
        let mail = mails.iter().find(|m| m.subject().contains(parcel)).unwrap();
        (mail.part("text/plain").unwrap(), mail.part("text/html").unwrap())
    };
    assert_eq!(text("P-1").0.trim_end(), "well");
    let (plain, html) = text("P-2");
    let first = "This is the built-in text: a template of this receiver failed (t.txt:1:";
    assert!(plain.starts_with(first), "{plain}");
    assert!(
        plain.contains("OPEN, high: 1 open, 0 acknowledged, 0 resolved")
            && plain.contains("P-2  overdue by 1 h"),
        "{plain}"
    );
    assert!(html.contains(first) && html.contains("P-2") && !html.contains("well"), "{html}");
    let rows = bench.settled(2);
    assert!(rows.iter().all(|r| r["state"] == "delivered"), "{rows:#?}");
    bench.counted("parcelwatch_notifications_failed_total{integration=\"email\",reason=\"template\",receiver=\"ops\"} 1");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_and_pagerduty_say_it_in_other_words_too() {
    let dir = tempfile::tempdir().unwrap();
    write(
        dir.path(),
        "chat.txt",
        "{% for e in data.exceptions %}*{{ e.parcel_id }}* überfällig\n{% endfor %}Stand {{ timestamp | time }}",
    );
    write(dir.path(), "pager.txt", "{{ data.counts.open }} Pakete\nhängen {{ data.group.lane }}");
    let there = Webhooks::start();
    let (slack, pager) = (there.url("/slack"), there.url("/v2/enqueue"));
    let text = "receivers:\n  - {id: chat, slack: {url: {env: X}}, templates: {text: chat.txt}}\n  - {id: pager, pagerduty: {routing_key: \
                {env: X}}, templates: {summary: pager.txt}}\npolicies: [{id: p, group_by: [rule, lane], steps: [{notify: [chat, pager]}]}]\n";
    write(dir.path(), "policies.yaml", text);
    let loaded = compile(&config::read_rules(dir.path()).unwrap());
    assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
    let read = loaded.policies.unwrap().receivers;
    let mut policies = policies(vec![
        ("chat", ReceiverKind::Slack { url: SecretText::Plain(slack) }),
        ("pager", ReceiverKind::PagerDuty { routing_key: SecretText::Plain("R".into()), url: Some(pager) }),
    ]);
    policies.policies[0].group_by = vec!["rule".into(), "lane".into()];
    for (receiver, read) in policies.receivers.iter_mut().zip(read) {
        receiver.templates = read.templates;
    }
    let bench = Bench::start_with(policies, None).await;
    bench.commit(ChangeKind::Opened, "P-1 <!channel>", 1).await;
    bench.settled(2);
    let posted = |path: &str| -> Value { there.hooks_at(path)[0].json() };
    let payload = posted("/slack");
    assert_eq!(payload["text"], "*P-1 &lt;!channel&gt;* überfällig");
    let block = payload["blocks"][0]["text"]["text"].as_str().unwrap();
    assert!(
        block.starts_with("*P-1 &lt;!channel&gt;* überfällig\nStand 20") && block.ends_with(" UTC"),
        "{payload}"
    );
    assert_eq!(posted("/v2/enqueue")["payload"]["summary"], "1 Pakete hängen CN-ES");
    bench.end().await;
}

#[test]
fn what_was_in_force_is_kept_with_its_templates_and_read_from_there() {
    let dir = readme();
    let in_force = || InForce::of(compile(&config::read_rules(dir.path()).unwrap())).unwrap();
    let before = in_force();
    let names: Vec<&str> = before.texts.keys().map(String::as_str).collect();
    assert_eq!(names, ["policies.yaml", "templates/betreff.txt", "templates/betrieb.txt"]);
    assert_eq!((before.compile)(&before.texts).map(|rules| rules.hash), Ok(before.rules.hash.clone()));
    write(dir.path(), "templates/betreff.txt", "Pakete");
    let after = in_force();
    assert_ne!(
        before.policies.hash, after.policies.hash,
        "an edit of a template is a change of the policies"
    );
    assert_eq!(before.rules.hash, after.rules.hash);
}

#[test]
fn check_tells_of_a_template_by_its_own_name_and_by_that_of_its_policies() {
    let dir = readme();
    write(dir.path(), "templates/betrieb.txt", "Hallo,\n{{ data.recever }}\n");
    for path in ["", "policies.yaml", "templates/betrieb.txt"] {
        let found = judge(&[dir.path().join(path)], None).unwrap();
        let [problem] = found.problems.as_slice() else { panic!("{path}: {:?}", found.problems) };
        let place = format!("{}:2:9", dir.path().join("templates/betrieb.txt").display());
        assert_eq!((problem.code, problem.location()), (code::UNKNOWN_NAME, place), "{path}");
        let said = problem.render(false);
        assert!(said.contains("{{ data.recever }}") && said.contains("did you mean `receiver`?"), "{said}");
    }
    std::fs::remove_file(dir.path().join("templates/betrieb.txt")).unwrap();
    let found = judge(&[dir.path().to_owned()], None).unwrap();
    assert_eq!(found.problems.iter().map(|p| p.code).collect::<Vec<_>>(), [code::UNREADABLE]);
}

#[test]
fn an_edit_of_a_template_is_in_force_within_seconds_and_a_wrong_one_never() {
    let (kafka, hooks, mails) = (Kafka::shared(), Webhooks::start(), SmtpServer::start(Options::default()));
    kafka.create_topic("templates", 1, true, &[]);
    let mut setup = setup(kafka, "templates", &hooks);
    setup.set("reload.every", "1s").set("smtp.url", mails.url()).set("smtp.from", "watch@example.test");
    let ops = "  - {id: ops, email: {to: [ops@example.test]}, templates: {text: templates/ops.txt}}";
    live::policies(&setup, &hooks, ops, &POLICY.replace("[erp]", "[ops]"));
    std::fs::create_dir(setup.path("rules/templates")).unwrap();
    let write = |text: &str| std::fs::write(setup.path("rules/templates/ops.txt"), text).unwrap();
    let each =
        |mark: &str| format!("{mark}:{{% for e in data.exceptions %}} {{{{ e.parcel_id }}}}{{% endfor %}}");

    write("Hallo,\n{{ data.polcy }}");
    let (status, said) = setup.fails();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("templates/ops.txt:2:9") && said.contains("did you mean `policy`?"), "{said}");

    write(&each("eins"));
    let mut daemon = setup.start();
    daemon.wait_ready();
    let cleared = |parcel: &str| {
        let event = event(parcel, "import_customs_cleared", now() - 60_000);
        kafka.produce("templates", parcel, &event, None, None);
    };
    let arrives = |text: &str| {
        let found = |mails: &[Mail]| {
            mails.iter().any(|m| m.part("text/plain").is_some_and(|t| t.trim_end() == text)).then_some(())
        };
        mails.wait_until(text, PATIENCE, found);
    };
    cleared("P-1");
    arrives("eins: P-1");

    write("{{ data.polcy }}");
    daemon.wait_log("the rules are not reloaded, the old ones stay");
    write(&each("zwei"));
    daemon.wait_log("rules and policies are in force");
    cleared("P-2");
    arrives("zwei: P-2");
    // Which text it was is on record with the policies.
    let loads = daemon.get("/api/v1/rules").json();
    let hash = loads["items"][0]["policies"].as_str().unwrap_or_else(|| panic!("{loads:#}")).to_owned();
    let kept = daemon.get(&format!("/api/v1/rules/{hash}")).text();
    assert!(kept.contains("templates/ops.txt") && kept.contains("zwei:"), "{kept}");
}
