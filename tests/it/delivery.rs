//! From a committed change to what arrives: cases, escalator, dispatcher and listener as they are, before real and
//! misbehaving servers.

use std::sync::Arc;
use std::time::Duration;

use parcelwatch::cases::{Batch, Cases, Recorded};
use parcelwatch::http::{Server, Site, ports};
use parcelwatch::metrics::Metrics;
use parcelwatch::model::{Change, ChangeKind, Milestone, Resolution, Severity, Time};
use parcelwatch::notify::backoff::Backoff;
use parcelwatch::notify::email::EmailSettings;
use parcelwatch::notify::link::LinkKey;
use parcelwatch::notify::webhook::WebhookSettings;
use parcelwatch::rules::policies::{Policies, Policy, Receiver, ReceiverKind, SecretText, Step};
use parcelwatch::rules::ruleset::{
    Anchor, AnchorSource, Body, CalendarRef, ClassFilter, Expect, Matcher, Rule, RuleSet, Span, Stage,
    Tolerance,
};
use parcelwatch::runtime::clock::{SystemClock, WallClock};
use parcelwatch::runtime::dispatcher::{Dispatcher, Options, Route};
use parcelwatch::runtime::escalator::{Backlog, Escalator};
use parcelwatch::runtime::{ports::Api, receivers};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::parts::exim::Exim;
use crate::parts::smtp::{self, Mail, SmtpServer};
use crate::parts::webhook::{Answer, Webhooks};
use crate::parts::{PATIENCE, http, poll, tls};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

fn rules() -> RuleSet {
    let body = Body {
        title: "Cleared import customs, but the domestic carrier has not scanned it".into(),
        description: String::new(),
        runbook: None,
        owner: "carrier".into(),
        policy: None,
        labels: Default::default(),
        unless: None,
        while_: None,
        expect: Expect { names: vec!["domestic_scan".into()], ..Expect::default() },
        evidence: ClassFilter::default(),
        tolerance: Tolerance::Ms(0),
        grace: 0,
        reporting_delay: 0,
        calendar: CalendarRef::Elapsed,
        stages: vec![Stage { at: Span::default(), severity: Severity::High }],
    };
    let anchor = AnchorSource::Milestone(Milestone::from_name("import_customs_cleared").unwrap());
    let rule = Rule {
        id: "late".into(),
        hash: "h".into(),
        version: String::new(),
        shadow: false,
        anchor: Anchor { before: false, list: false, last: false, sources: vec![anchor] },
        scope: Matcher::All(Vec::new()),
        holds: None,
        restart: false,
        until: None,
        after_terminal: false,
        effective_from: None,
        effective_to: None,
        zone_slack: 0,
        bodies: vec![body],
        overrides: Vec::new(),
    };
    RuleSet { hash: "rules".into(), rules: vec![rule], ..RuleSet::default() }
}

/// Everything at once, nothing repeated.
pub(super) fn policies(receivers: Vec<(&str, ReceiverKind)>) -> Policies {
    let notify = receivers.iter().map(|(id, _)| (*id).to_owned()).collect();
    Policies {
        hash: "policies".into(),
        receivers: receivers.into_iter().map(|(id, kind)| Receiver::new(id, kind)).collect(),
        policies: vec![Policy {
            id: "handoff".into(),
            group_by: vec!["rule".into(), "parcel_id".into()],
            group_wait: 0,
            group_interval: 0,
            repeat_every: None,
            ack_timeout: None,
            steps: vec![Step { after: 0, notify, min_severity: None }],
            show: Vec::new(),
            ..Policy::default()
        }],
        default_policy: Some("handoff".into()),
        ..Policies::default()
    }
}

fn mail(to: &[&str]) -> ReceiverKind {
    ReceiverKind::Email { to: to.iter().map(|a| (*a).to_owned()).collect() }
}

fn hook(url: &str) -> ReceiverKind {
    ReceiverKind::Webhook {
        url: SecretText::Plain(url.to_owned()),
        secret: Some(SecretText::Plain(SECRET.to_owned())),
    }
}

/// How the receivers of these tests are reached: all of them on this machine.
pub(super) fn routes(policies: &Policies, email: Option<EmailSettings>) -> Vec<Route> {
    let here: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
    let webhook =
        WebhookSettings { allow: here.into(), total: Duration::from_secs(2), ..WebhookSettings::default() };
    let read = |secret: &SecretText| match secret {
        SecretText::Plain(text) => Ok(text.clone()),
        other => Err(format!("{other:?}")),
    };
    receivers::routes(policies, email, webhook, &[], &read).unwrap()
}

/// The parts between a shard and the world, running.
pub(super) struct Bench {
    pub(super) cases: Cases,
    rules: RuleSet,
    pub(super) policies: Arc<Policies>,
    server: Server,
    pub(super) metrics: Arc<Metrics>,
    stop: watch::Sender<bool>,
    dispatcher: Dispatcher,
    _policies: watch::Sender<Arc<Policies>>,
    _dir: tempfile::TempDir,
}

struct Idle;

impl ports::Daemon for Idle {
    fn healthy(&self) -> Result<(), String> {
        Ok(())
    }
    fn ready(&self) -> Result<(), String> {
        Ok(())
    }
    fn status(&self) -> futures_util::future::BoxFuture<'_, Value> {
        Box::pin(async { json!({}) })
    }
    fn parcel<'a>(&'a self, _id: &'a str) -> futures_util::future::BoxFuture<'a, Option<Value>> {
        Box::pin(async { None })
    }
    fn explain<'a>(
        &'a self,
        _id: &'a str,
        _rule: Option<&'a str>,
        _at: Option<parcelwatch::model::Time>,
    ) -> futures_util::future::BoxFuture<'a, Option<Value>> {
        Box::pin(async { None })
    }
    fn reload<'a>(
        &'a self,
        _by: &'a str,
        _accept: Option<&'a str>,
    ) -> futures_util::future::BoxFuture<'a, Result<Value, ports::ReloadError>> {
        Box::pin(async { Err(ports::ReloadError::NotNow("not in this test".to_owned())) })
    }
}

impl Bench {
    pub(super) async fn start(receivers: Vec<(&str, ReceiverKind)>, email: Option<EmailSettings>) -> Bench {
        Bench::start_grouped(&["rule", "parcel_id"], receivers, email).await
    }

    pub(super) async fn start_grouped(
        group_by: &[&str],
        receivers: Vec<(&str, ReceiverKind)>,
        email: Option<EmailSettings>,
    ) -> Bench {
        let mut policies = policies(receivers);
        policies.policies[0].group_by = group_by.iter().map(|n| (*n).to_owned()).collect();
        Bench::start_with(policies, email).await
    }

    pub(super) async fn start_with(policies: Policies, email: Option<EmailSettings>) -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let cases = Cases::open(&dir.path().join("cases.sqlite")).await.unwrap();
        let key = LinkKey::new(cases.link_key().await.unwrap());
        let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
        let metrics = Arc::new(Metrics::new().unwrap());
        let policies = Arc::new(policies);
        metrics.set_receivers(policies.receivers.iter().map(|r| (r.id.as_str(), r.kind.integration())));
        let now = clock.clone();
        let site = Site {
            daemon: Arc::new(Idle),
            cases: Arc::new(Api {
                cases: cases.clone(),
                clock: clock.clone(),
                policies: watch::channel(policies.clone()).1,
                public_url: None,
                dry_run: false,
            }),
            metrics: metrics.clone(),
            tokens: Vec::new(),
            link_key: Some(key.clone()),
            now_ms: Arc::new(move || now.now_ms()),
        };
        let server = Server::start("127.0.0.1:0".parse().unwrap(), site).await.unwrap();
        let public_url = format!("http://{}", server.address());
        let email = email.map(|e| EmailSettings {
            public_url: Some(public_url.clone()),
            link_key: Some(key),
            root_pem: Some(tls::certificate().pem.clone().into_bytes()),
            ..e
        });
        let routes = routes(&policies, email);
        // Quick where the product waits: what is tested is what happens, the schedule has its own tests.
        let backoff = Backoff { delays: vec![100], ..Backoff::default() };
        let options = Options { backoff, pause_ms: 100, ..Options::default() };
        let dispatcher = Dispatcher::start(&cases, routes, &clock, &metrics, &options);
        let backlog = Backlog::default();
        backlog.over(0, clock.now_ms());
        let (stop, stopped) = watch::channel(false);
        let (sender, in_force) = watch::channel(policies.clone());
        let escalator = Escalator {
            cases: cases.clone(),
            policies: in_force,
            clock,
            backlog,
            public_url: Some(public_url),
            dry_run: false,
        };
        tokio::spawn(escalator.run(stopped));
        let rules = rules();
        Bench { cases, rules, policies, server, metrics, stop, dispatcher, _policies: sender, _dir: dir }
    }

    pub(super) async fn commit(&self, kind: ChangeKind, parcel: &str, offset: i64) {
        self.commit_as(kind, Severity::High, parcel, offset).await;
    }

    pub(super) async fn commit_as(&self, kind: ChangeKind, severity: Severity, parcel: &str, offset: i64) {
        let now = SystemClock.now_ms();
        let evidence = json!({
            "facts": {"lane": "CN-ES", "tracking_number": "LX1CN"}, "occurrences": [], "holds": [],
            "last": {"milestone": "import_customs_cleared", "time": "2026-10-12T07:00:00Z", "facility": null},
        });
        let change = Change {
            kind,
            rule: "late".into(),
            body: Some((0, 0)),
            parcel_id: parcel.into(),
            episode: None,
            offset,
            at: Time(now),
            stage: 1,
            severity,
            anchor: Time(now - 90_000_000),
            due: Time(now - 3_600_000),
            incomplete: false,
            evidence: Some(evidence.to_string().into()),
        };
        let batch = Batch {
            partition: 0,
            changes: &[change],
            heard: &[],
            rules: &self.rules,
            policies: &self.policies,
            recorded: &Recorded { position: offset + 1, watermark: Time(now), rules_hash: "rules".into() },
            now_ms: now,
        };
        self.cases.commit(&batch).await.unwrap();
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> http::Response {
        let json = [("content-type", "application/json")];
        http::request(&self.server.address().to_string(), "POST", path, &json, body.to_string().as_bytes())
            .unwrap()
    }

    pub(super) fn get(&self, path: &str) -> http::Response {
        http::request(&self.server.address().to_string(), "GET", path, &[], b"").unwrap()
    }

    pub(super) fn items(&self, path: &str) -> Vec<Value> {
        let answer = self.get(path);
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()["items"].as_array().unwrap().clone()
    }

    /// Waits until every message of the outbox has ended, and returns them, newest first.
    pub(super) fn settled(&self, n: usize) -> Vec<Value> {
        poll("the outbox to settle", PATIENCE, || {
            let items = self.items("/api/v1/notifications?limit=1000");
            let open = items.iter().filter(|i| i["state"] == "pending").count();
            if items.len() >= n && open == 0 { Ok(items) } else { Err(format!("{items:#?}")) }
        })
    }

    #[track_caller]
    pub(super) fn counted(&self, line: &str) {
        let text = self.metrics.text();
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }

    pub(super) async fn end(self) {
        self.dispatcher.stop(Duration::from_secs(5)).await;
        let _ = self.stop.send(true);
        self.server.stop(Duration::from_secs(5)).await;
        self.cases.close().await;
    }
}

fn link(mail: &Mail) -> String {
    let text = mail.part("text/plain").unwrap();
    let found = text.lines().find(|l| l.contains("/ack?")).unwrap_or_else(|| panic!("no link in\n{text}"));
    found[found.find("/ack?").unwrap()..].trim().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_arrives_by_a_real_mail_server_and_its_link_acknowledges() {
    let exim = Exim::start();
    for url in [exim.url(), exim.tls_url()] {
        let mut seen = exim.mails().iter().map(|m| m.message_id().to_owned()).collect::<Vec<_>>();
        // By id, since files of the same second have no order.
        let mut fresh = || {
            let unseen = |m: &&Mail| !seen.iter().any(|id| id == m.message_id());
            let mail = exim.wait_for_mail("a new mail", PATIENCE, |mails| mails.iter().find(unseen).cloned());
            seen.push(mail.message_id().to_owned());
            mail
        };
        let login = Some((smtp::USER.to_owned(), smtp::PASSWORD.to_owned()));
        let email = EmailSettings { login, ..EmailSettings::new(&url, "parcelwatch <watch@example.test>") };
        let bench = Bench::start(vec![("ops_mail", mail(&["ops@example.test"]))], Some(email)).await;
        bench.commit(ChangeKind::Opened, "P-1", 1).await;
        let first = fresh();
        let text = first.part("text/plain").unwrap();
        assert!(text.starts_with("OPEN, high: 1 open, 0 acknowledged, 0 resolved"), "{text}");
        assert!(text.contains("P-1  overdue by 1 h"), "{text}");
        assert!(first.part("text/html").unwrap().contains("Acknowledge or resolve"), "{}", first.raw);

        // A scanner follows the link, twice; nothing changes.
        let path = link(&first);
        for _ in 0..2 {
            let page = bench.get(&path);
            assert_eq!(page.status, 200, "{}", page.text());
            assert!(page.text().contains("P-1"), "{}", page.text());
        }
        assert_eq!(bench.items("/api/v1/exceptions?parcel_id=P-1")[0]["state"], "open");
        let form = [("content-type", "application/x-www-form-urlencoded")];
        let address = bench.server.address().to_string();
        let done =
            http::request(&address, "POST", &path, &form, b"by=Maria&comment=calling&action=acknowledge")
                .unwrap();
        assert!(done.text().contains("1 acknowledged by Maria"), "{}", done.text());
        let exception = &bench.items("/api/v1/exceptions?state=acknowledged")[0];
        assert_eq!(exception["acknowledged_by"], "Maria");

        bench.commit(ChangeKind::Resolved(Resolution::SatisfiedLate), "P-1", 2).await;
        let last = fresh();
        let text = last.part("text/plain").unwrap();
        assert!(text.starts_with("RESOLVED: 0 open, 0 acknowledged, 1 resolved"), "{text}");
        assert!(!text.contains("/ack?"), "{text}");
        assert_eq!(last.header("references"), first.header("references"));
        assert_eq!(last.subject(), first.subject());
        assert_ne!(last.message_id(), first.message_id());
        bench.end().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_refused_recipient_does_not_stop_the_other() {
    let relay = SmtpServer::start(smtp::Options::default());
    let to = ["r550@example.test", "ops@example.test", "data-554@example.test"];
    let email = EmailSettings::new(relay.url(), "watch@example.test");
    let bench = Bench::start(vec![("ops_mail", mail(&to))], Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    let rows = bench.settled(3);
    let state = |to: &str| rows.iter().find(|r| r["recipient"] == to).unwrap()["state"].clone();
    assert_eq!(to.map(state), ["dead", "delivered", "dead"], "{rows:#?}");
    assert_eq!(relay.mails().len(), 1);
    let id = bench.items("/api/v1/exceptions")[0]["exception_id"].as_str().unwrap().to_owned();
    assert_eq!(bench.items(&format!("/api/v1/notifications?exception_id={id}")).len(), 3);
    bench.counted("parcelwatch_notifications_total{integration=\"email\",receiver=\"ops_mail\"} 3");
    let failed = "parcelwatch_notifications_failed_total{integration=\"email\",reason=\"permanent\",receiver=\"ops_mail\"} 2";
    bench.counted(failed);
    bench.counted("parcelwatch_dead_letters_total{integration=\"email\",receiver=\"ops_mail\"} 2");
    assert_eq!((relay.tries("r550@example.test"), relay.tries("data-554@example.test")), (1, 1));
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_answer_was_lost_is_sent_again_as_the_same_message() {
    let relay = SmtpServer::start(smtp::Options::default());
    let email = EmailSettings::new(relay.url(), "watch@example.test");
    let to = mail(&["drop-ack-1@example.test"]);
    let bench = Bench::start(vec![("ops_mail", to)], Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    let mails = relay.wait_for(2);
    assert_eq!(mails[0].raw, mails[1].raw);
    assert_eq!(bench.settled(1)[0]["attempts"], 2);
    bench.counted(
        "parcelwatch_notifications_failed_total{integration=\"email\",reason=\"outcome_unknown\",receiver=\"ops_mail\"} 1",
    );
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stalls_after_the_data_holds_nobody_else_up() {
    let relay = SmtpServer::start(smtp::Options::default());
    let hooks = Webhooks::start();
    let email = EmailSettings {
        total: Duration::from_millis(500),
        ..EmailSettings::new(relay.url(), "watch@example.test")
    };
    let receivers = vec![
        ("stuck", mail(&["stall@example.test"])),
        ("fine", mail(&["ops@example.test"])),
        ("erp", hook(&hooks.url("/ok"))),
    ];
    let bench = Bench::start(receivers, Some(email)).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    relay.wait_until("the healthy recipient", PATIENCE, |mails| {
        mails.iter().any(|m| m.to == ["ops@example.test"]).then_some(())
    });
    hooks.wait_for(1);
    // It is tried again, under the same id, for as long as it stalls.
    poll("a second try", PATIENCE, || match relay.tries("stall@example.test") {
        n if n >= 2 => Ok(()),
        n => Err(format!("{n} tries")),
    });
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn webhooks_are_signed_and_tried_again_until_they_are_taken() {
    let hooks = Webhooks::start();
    hooks.script("/erp", [Answer::Status(500), Answer::Close, Answer::Hang]);
    let bench = Bench::start(vec![("erp", hook(&hooks.url("/erp")))], None).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    // A try that hung is followed by a wait that no test sits out; what came before it is what counts here.
    let seen = hooks.wait_for(3);
    for hook in &seen {
        hook.verify(SECRET).unwrap();
        assert_eq!((hook.id(), &hook.body), (seen[0].id(), &seen[0].body));
    }
    let body = seen[0].json();
    assert_eq!(body["type"], "exceptions.opened");
    assert_eq!(body["data"]["notification_id"], seen[0].id());
    assert_eq!(body["data"]["exceptions"][0]["parcel_id"], "P-1");
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_says_when_to_come_back_or_never() {
    let hooks = Webhooks::start();
    let later = Answer::Full(429, vec![("retry-after".into(), "1".into())], String::new());
    hooks.script("/busy", [later]);
    let receivers = vec![
        ("busy", hook(&hooks.url("/busy"))),
        ("gone", hook(&hooks.url("/410"))),
        ("moved", hook(&hooks.url("/301"))),
    ];
    let bench = Bench::start(receivers, None).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    let rows = bench.settled(3);
    let state = |to: &str| rows.iter().find(|r| r["receiver"] == to).unwrap()["state"].clone();
    assert_eq!(["busy", "gone", "moved"].map(state), ["delivered", "dead", "dead"], "{rows:#?}");
    let busy = hooks.hooks_at("/busy");
    assert_eq!(busy.len(), 2);
    let waited = busy[1].at - busy[0].at;
    assert!(waited >= Duration::from_millis(990), "came back after {waited:?}");
    assert!(hooks.hooks_at("/ok").is_empty(), "a redirect was followed");
    assert_eq!(hooks.hooks_at("/410").len(), 1);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_test_of_a_receiver_says_whether_it_was_delivered_and_why_not() {
    use parcelwatch::cli::{client, notify, outbox};
    let hooks = Webhooks::start();
    hooks.script("/broken", [Answer::Status(404)]);
    let (fine, broken) = (hook(&hooks.url("/fine")), hook(&hooks.url("/broken")));
    let bench = Bench::start(vec![("fine", fine), ("broken", broken)], None).await;
    let url = format!("http://{}", bench.server.address());
    for (receiver, code) in [("fine", 0), ("broken", 1)] {
        let test = notify::Notify::Test {
            receiver: receiver.into(),
            dry_run: false,
            timeout: 60,
            who: outbox::Who { by: Some("ann".into()), comment: None },
            daemon: client::Daemon::at(&url),
        };
        let done = tokio::task::spawn_blocking(move || notify::run(&test).unwrap()).await.unwrap();
        assert_eq!(done, code, "{receiver}");
    }
    assert_eq!(hooks.hooks_at("/fine")[0].json()["type"], "test");
    bench.end().await;
}
