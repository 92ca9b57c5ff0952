//! The live path: a record in, a mail and a signed webhook out, and all views of it agree.

use serde_json::Value;

use super::{SECRET, items, mail_through, policies, setup, tell, wait_exceptions, wait_sent};
use crate::parts::daemon::Daemon;
use crate::parts::exim::Exim;
use crate::parts::kafka::Kafka;
use crate::parts::smtp::Mail;
use crate::parts::webhook::{Hook, Webhooks};

const POLICY: &str = "
policies:
  - {id: desk, group_by: [rule], group_wait: 0s, group_interval: 1s, steps: [{after: 0m, notify: [erp, ops_mail]}]}
default_policy: desk
";

#[test]
fn a_late_parcel_is_told_and_its_end_too_where_the_broker_stamps_the_records() {
    the_whole_way("path-append", true);
}

#[test]
fn a_late_parcel_is_told_and_its_end_too_where_producers_stamp_the_records() {
    the_whole_way("path-create", false);
}

fn the_whole_way(topic: &str, log_append_time: bool) {
    let (kafka, exim, hooks) = (Kafka::shared(), Exim::start(), Webhooks::start());
    kafka.create_topic(topic, 3, log_append_time, &[]);
    let mut setup = setup(kafka, topic, &hooks);
    policies(&setup, &hooks, "  - {id: ops_mail, email: {to: [ops@example.test]}}", POLICY);
    mail_through(&mut setup, &exim);
    let mut daemon = setup.start();
    daemon.wait_ready();
    // Three at once, one of them in time and one forgotten by nobody: only P-1 is late.
    tell(kafka, topic, "P-2", "import_customs_cleared");
    tell(kafka, topic, "P-2", "delivered");
    tell(kafka, topic, "P-1", "import_customs_cleared");

    let hook = hooks.wait_for(1).remove(0);
    let told = one_exception(&hook, "exceptions.opened", "opened");
    assert_eq!(told["state"], "open");
    assert_eq!(told["severity"], "high");
    let mail = exim.wait_for(1).remove(0);
    in_order(&mail);
    assert!(mail.part("text/plain").unwrap().starts_with("OPEN, high: 1 open"), "{}", mail.raw);
    let id = told["exception_id"].as_str().unwrap();
    wait_sent(&daemon);
    counts(&daemon, 1.0, 0.0, 1.0);
    let open = items(&daemon, "/api/v1/exceptions");
    assert_eq!(open.len(), 1, "{open:#?}");
    for field in
        ["exception_id", "rule", "rule_hash", "parcel_id", "stage", "severity", "anchor", "due", "owner"]
    {
        assert_eq!(open[0][field], told[field], "{field}");
    }
    let parcel = daemon.get("/api/v1/parcels/P-1").json();
    assert_eq!(parcel["standing"][0]["rule"], "late", "{parcel:#}");
    assert_eq!(daemon.get("/api/v1/parcels/P-2").json()["standing"], serde_json::json!([]));
    rows(&daemon, id, "opened", &hook, &mail);

    tell(kafka, topic, "P-1", "delivered");
    let end = hooks.wait_for(2).remove(1);
    let resolved = one_exception(&end, "exceptions.resolved", "resolved");
    assert_eq!(
        (&resolved["exception_id"], &resolved["resolution"]),
        (&told["exception_id"], &"satisfied_late".into())
    );
    let last = exim.wait_for(2).remove(1);
    in_order(&last);
    assert!(last.part("text/plain").unwrap().starts_with("RESOLVED: 0 open"), "{}", last.raw);
    assert_eq!((last.header("references"), last.subject()), (mail.header("references"), mail.subject()));
    assert!(mail.header("references").is_some());
    assert_eq!(
        (last.header("in-reply-to"), mail.header("in-reply-to")),
        (last.header("references"), last.header("references"))
    );
    assert_ne!(last.message_id(), mail.message_id());
    assert_ne!(end.id(), hook.id());
    wait_sent(&daemon);
    counts(&daemon, 1.0, 1.0, 2.0);
    wait_exceptions(&daemon, "resolved", 1);
    assert_eq!(items(&daemon, "/api/v1/exceptions"), Vec::<Value>::new());
    rows(&daemon, id, "resolved", &end, &last);
    assert_eq!(daemon.get("/api/v1/parcels/P-1").json()["standing"], serde_json::json!([]));

    let status = daemon.get("/api/v1/status").json();
    let equality = if log_append_time { "guaranteed" } else { "not guaranteed" };
    assert_eq!(status["replay_equality"], equality, "{status:#}");
    assert_eq!(daemon.log().iter().any(|l| l.contains("CreateTime")), !log_append_time, "{}", daemon.tail());
    assert_eq!(daemon.terminate(), Some(0));
    assert_eq!((hooks.hooks().len(), exim.mails().len()), (2, 2));
}

/// A webhook that is signed and lists P-1 alone.
fn one_exception(hook: &Hook, kind: &str, change: &str) -> Value {
    hook.verify(SECRET).unwrap();
    assert!(hook.verify("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx").is_err());
    let body = hook.json();
    assert_eq!(body["type"], kind, "{body:#}");
    assert_eq!(body["data"]["notification_id"], hook.id(), "{body:#}");
    let listed = body["data"]["exceptions"].as_array().unwrap();
    assert_eq!(listed.len(), 1, "{body:#}");
    assert_eq!((&listed[0]["parcel_id"], &listed[0]["change"]), (&"P-1".into(), &change.into()), "{body:#}");
    listed[0].clone()
}

/// Over TLS, logged in, readable as text and as HTML.
fn in_order(mail: &Mail) {
    assert!(mail.tls && mail.authenticated, "{}", mail.raw);
    assert_eq!(
        (mail.from.as_str(), mail.to.as_slice()),
        ("watch@example.test", &["ops@example.test".to_owned()][..])
    );
    for kind in ["text/plain", "text/html"] {
        let text = mail.part(kind).unwrap_or_else(|| panic!("no {kind} in\n{}", mail.raw));
        assert!(text.contains("P-1") && !text.contains("P-2"), "{text}");
    }
}

/// The two messages about a change, as the API has them.
fn rows(daemon: &Daemon, exception: &str, change: &str, hook: &Hook, mail: &Mail) {
    let rows = items(daemon, &format!("/api/v1/notifications?exception_id={exception}"));
    let rows: Vec<_> = rows.iter().filter(|r| r["change"] == change).collect();
    let by = |receiver: &str| rows.iter().find(|r| r["receiver"] == receiver).unwrap();
    assert_eq!(rows.len(), 2, "{rows:#?}");
    assert!(rows.iter().all(|r| r["state"] == "delivered" && r["attempts"] == 1), "{rows:#?}");
    assert_eq!(by("erp")["notification_id"], hook.id());
    assert_eq!(by("ops_mail")["recipient"], "ops@example.test");
    let id = by("ops_mail")["notification_id"].as_str().unwrap();
    assert!(mail.message_id().contains(id), "{} of {id}", mail.message_id());
}

fn counts(daemon: &Daemon, opened: f64, resolved: f64, sent: f64) {
    daemon.wait_series("exceptions_opened_total", &[("rule", "late")], |n| n == opened);
    daemon.wait_series(
        "exceptions_resolved_total",
        &[("rule", "late"), ("resolution", "satisfied_late")],
        |n| n == resolved,
    );
    daemon.wait_series("exceptions_open", &[("rule", "late"), ("severity", "high")], |n| {
        n == opened - resolved
    });
    for (receiver, integration) in [("erp", "webhook"), ("ops_mail", "email")] {
        let labels = [("receiver", receiver), ("integration", integration)];
        daemon.wait_series("notifications_total", &labels, |n| n == sent);
    }
    daemon.wait_metric("notifications_failed_total", |n| n == 0.0);
    daemon.wait_series("outbox_rows", &[("state", "delivered")], |n| n == 2.0 * sent);
}
