use super::*;
use crate::model::Time;

fn message(receiver: &str, thread: &str, standing: i64) -> Message {
    Message {
        id: "m1".into(),
        receiver: receiver.into(),
        integration: "pagerduty".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: "[parcelwatch] late, CN-ES".into(),
        body: String::new(),
        thread: thread.into(),
        attempts: 0,
        created_ms: 0,
        due_ms: 0,
        standing,
    }
}

fn body(reason: &str, severity: &str, exceptions: usize) -> Body {
    let change = if reason == "resolved" { "resolved" } else { "opened" };
    let one = |n: usize| {
        json!({"exception_id": format!("e{n}"), "change": change, "rule": "late", "title": "t".repeat(2_000), "parcel_id": format!("P{n}"),
            "severity": severity, "owner": "carrier", "facts": {}})
    };
    let listed: Vec<Value> = (0..exceptions).map(one).collect();
    let text = json!({"type": "exceptions.opened", "timestamp": "2026-10-14T07:10:30Z", "data": {"policy": "handoff", "step": 1,
        "reason": reason, "group": {"lane": "CN-ES"}, "group_state": "open", "counts": {"open": 1}, "exceptions": listed}});
    Body::read(&text.to_string()).unwrap()
}

#[test]
fn a_trigger_and_its_resolve_name_one_incident_of_receiver_and_group() {
    let trigger = event("key", &message("oncall", "g1", 3), &body("new", "high", 3)).unwrap();
    let resolve = event("key", &message("oncall", "g1", 0), &body("resolved", "high", 3)).unwrap();
    assert_eq!((&trigger["event_action"], &resolve["event_action"]), (&json!("trigger"), &json!("resolve")));
    assert_eq!(trigger["dedup_key"], resolve["dedup_key"]);
    assert!(trigger["dedup_key"].as_str().unwrap().len() <= 255);
    for (receiver, group) in [("oncall", "g2"), ("other", "g1")] {
        let other = event("key", &message(receiver, group, 1), &body("new", "high", 1)).unwrap();
        assert_ne!(other["dedup_key"], trigger["dedup_key"]);
    }
}

#[test]
fn a_partial_resolve_is_no_event() {
    assert_eq!(event("key", &message("oncall", "g1", 1), &body("resolved", "high", 2)), None);
}

#[test]
fn severities_are_theirs_and_texts_are_within_their_limits() {
    for (ours, theirs) in
        [("info", "info"), ("warning", "warning"), ("high", "error"), ("critical", "critical")]
    {
        let event = event("key", &message("oncall", "g1", 1), &body("new", ours, 100)).unwrap();
        let payload = &event["payload"];
        assert_eq!(payload["severity"], theirs);
        assert!((1..=1_024).contains(&payload["summary"].as_str().unwrap().chars().count()));
        assert_eq!(payload["custom_details"]["exceptions"].as_array().unwrap().len(), 20);
        assert_eq!(payload["custom_details"]["not_listed"], 80);
        assert!(event.to_string().len() < 512_000);
        assert!(Time::parse(payload["timestamp"].as_str().unwrap()).is_some());
    }
}
