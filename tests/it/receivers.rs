//! Slack, PagerDuty and Alertmanager: what arrives there, each post held to the protocol's rules; Alertmanager is the real one.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use parcelwatch::model::{ChangeKind, Resolution, Severity};
use parcelwatch::rules::policies::{ReceiverKind, SecretText};
use parcelwatch::runtime::clock::{SystemClock, WallClock};
use parcelwatch::runtime::dispatcher::{Dispatcher, Options};
use serde_json::Value;

use crate::delivery::{Bench, routes};
use crate::parts::alertmanager::Alertmanager;
use crate::parts::webhook::{Answer, Hook, Webhooks};

const RESOLVED: ChangeKind = ChangeKind::Resolved(Resolution::SatisfiedLate);

fn plain(text: &str) -> SecretText {
    SecretText::Plain(text.to_owned())
}

/// What Slack checks of an incoming webhook's payload.
fn slack(hook: &Hook) -> Value {
    let payload: Value = serde_json::from_slice(&hook.body).expect("JSON");
    assert!(payload["text"].as_str().is_some_and(|t| !t.is_empty()), "{payload}");
    let blocks = payload["blocks"].as_array().expect("blocks");
    assert!((1..=50).contains(&blocks.len()));
    for block in blocks {
        let (kind, text, most) = match block["type"].as_str().expect("a type") {
            "header" => ("plain_text", &block["text"], 150),
            "section" => ("mrkdwn", &block["text"], 3_000),
            "context" => ("mrkdwn", &block["elements"][0], 3_000),
            other => panic!("a block of type {other}"),
        };
        assert_eq!(text["type"], kind);
        assert!((1..=most).contains(&text["text"].as_str().expect("text").chars().count()), "{block}");
    }
    payload
}

#[tokio::test(flavor = "multi_thread")]
async fn slack_is_told_once_and_asked_less_when_it_wants() {
    let there = Webhooks::start();
    let later = Answer::Full(429, vec![("retry-after".into(), "1".into())], "rate_limited".into());
    there.script("/services/T0/B0/x", [later, Answer::Full(200, Vec::new(), "ok".into())]);
    let url = there.url("/services/T0/B0/x");
    let bench = Bench::start(vec![("ops", ReceiverKind::Slack { url: plain(&url) })], None).await;
    bench.commit(ChangeKind::Opened, "P-1 <!channel>", 1).await;
    let row = &bench.settled(1)[0];
    assert_eq!((&row["state"], &row["integration"]), (&"delivered".into(), &"slack".into()));
    let hooks = there.hooks();
    assert_eq!(hooks.len(), 2, "one refused, one taken");
    assert!(hooks[1].at - hooks[0].at >= Duration::from_secs(1), "Retry-After is obeyed");
    assert_eq!(hooks[0].body, hooks[1].body);
    let payload = slack(&hooks[1]);
    assert!(!payload.to_string().contains("<!channel>"), "{payload}");
    assert!(payload.to_string().contains("P-1 &lt;!channel&gt;"), "{payload}");
    bench.end().await;
}

/// Incidents as PagerDuty would have them: by key, whether open.
fn incidents(hooks: &[Hook]) -> BTreeMap<String, bool> {
    let mut incidents = BTreeMap::new();
    for hook in hooks {
        let event: Value = serde_json::from_slice(&hook.body).expect("JSON");
        assert_eq!(event["routing_key"], "R0UT1NG");
        let key = event["dedup_key"].as_str().expect("a key");
        assert!((1..=255).contains(&key.len()));
        match event["event_action"].as_str().expect("an action") {
            "trigger" => {
                let payload = &event["payload"];
                assert!(
                    (1..=1_024).contains(&payload["summary"].as_str().expect("a summary").chars().count())
                );
                assert!(payload["source"].is_string(), "{payload}");
                let severity = payload["severity"].as_str().expect("a severity");
                assert!(["critical", "error", "warning", "info"].contains(&severity), "{severity}");
                incidents.insert(key.to_owned(), true);
            }
            "resolve" => {
                let open = incidents.insert(key.to_owned(), false);
                assert!(open.is_some(), "a resolve of what was never triggered");
            }
            other => panic!("{other}"),
        }
    }
    incidents
}

#[tokio::test(flavor = "multi_thread")]
async fn pagerduty_has_one_incident_a_group_until_nothing_of_it_stands() {
    let there = Webhooks::start();
    let url = Some(there.url("/v2/enqueue"));
    let kind = ReceiverKind::PagerDuty { routing_key: plain("R0UT1NG"), url };
    let bench = Bench::start_grouped(&["rule"], vec![("oncall", kind)], None).await;
    bench.commit(ChangeKind::Opened, "P-1", 1).await;
    bench.settled(1);
    bench.commit(ChangeKind::Opened, "P-2", 2).await;
    bench.settled(2);
    assert_eq!(incidents(&there.hooks()).into_values().collect::<Vec<_>>(), [true], "one for both");
    bench.commit(RESOLVED, "P-1", 3).await;
    bench.settled(3);
    assert_eq!(there.hooks().len(), 2, "one of two ended: the incident stands, and nothing is said");
    bench.commit(RESOLVED, "P-2", 4).await;
    bench.settled(4);
    assert_eq!(incidents(&there.hooks()).into_values().collect::<Vec<_>>(), [false]);
    bench.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_alertmanager_has_one_alert_an_exception_and_is_told_anew() {
    let am = Alertmanager::start();
    let kind = ReceiverKind::Alertmanager { urls: vec![am.url()] };
    let bench = Bench::start(vec![("am", kind)], None).await;
    bench.commit_as(ChangeKind::Opened, Severity::Warning, "P-1", 1).await;
    bench.commit(ChangeKind::Opened, "P-2", 2).await;
    bench.settled(2);
    let alerts = am.until("both alerts", |alerts| alerts.len() == 2);
    let first = alerts.iter().find(|a| a["labels"]["parcel_id"] == "P-1").expect("P-1");
    assert_eq!(
        (&first["labels"]["alertname"], &first["labels"]["severity"]),
        (&"late".into(), &"warning".into())
    );
    assert!(
        first["annotations"]["summary"]
            .as_str()
            .is_some_and(|s| s.contains("cleared") || s.contains("Cleared"))
    );

    // A raise is one alert in place of another.
    bench.commit_as(ChangeKind::Raised, Severity::Critical, "P-1", 3).await;
    bench.settled(3);
    let severities = |alerts: &[Value]| {
        let mut of: Vec<String> = alerts
            .iter()
            .filter(|a| a["labels"]["parcel_id"] == "P-1")
            .map(|a| a["labels"]["severity"].as_str().unwrap_or_default().to_owned())
            .collect();
        of.sort();
        of
    };
    am.until("the raise", |alerts| severities(alerts) == ["critical"]);

    // One that has forgotten everything is told anew when the daemon starts, and every minute.
    let am = am.start_anew();
    assert_eq!(am.alerts().len(), 0);
    let clock: Arc<dyn WallClock> = Arc::new(SystemClock);
    let again = routes(&bench.policies, None);
    let second = Dispatcher::start(&bench.cases, again, &clock, &bench.metrics, &Options::default());
    am.until("what stands", |alerts| alerts.len() == 2 && severities(alerts) == ["critical"]);
    second.stop(Duration::from_secs(5)).await;

    for (parcel, offset) in [("P-1", 4), ("P-2", 5)] {
        bench.commit_as(RESOLVED, Severity::Critical, parcel, offset).await;
    }
    bench.settled(5);
    am.until("the end", <[Value]>::is_empty);
    bench.end().await;
}
