use super::*;

fn listed(change: &str, severity: &str) -> Listed {
    serde_json::from_value(json!({"exception_id": "e1", "change": change, "rule": "late", "title": "Late", "parcel_id": "P1",
        "severity": severity, "owner": "carrier", "at": "2026-10-14T07:10:30Z", "due": "2026-10-14T07:10:30Z"}))
    .unwrap()
}

fn group() -> Map<String, Value> {
    json!({"rule": "late", "lane": "CN-ES", "severity": "info", "2nd leg": "x", "broker": null})
        .as_object()
        .unwrap()
        .clone()
}

fn watch() -> Alertmanager {
    let allow: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().unwrap()];
    let settings = super::super::webhook::WebhookSettings { allow: allow.into(), ..Default::default() };
    let client = WebhookClient::new(settings).unwrap();
    Alertmanager::new(&client, &["http://127.0.0.1:9/".into()]).unwrap()
}

const NOW: i64 = 1_800_000_000_000;
const TO: &str = "http://127.0.0.1:9";

fn ends(alert: &Value) -> i64 {
    Time::parse(alert["endsAt"].as_str().unwrap()).unwrap().0
}

#[tokio::test]
async fn a_raise_ends_the_old_alert_beside_the_new_one() {
    let am = watch();
    let opened = am.alerts(TO, &listed("opened", "warning"), &group(), NOW);
    assert_eq!(opened.len(), 1);
    assert_eq!(ends(&opened[0]), NOW + LEASE);
    am.remember(TO, &listed("opened", "warning"), &group(), NOW);
    let raised = am.alerts(TO, &listed("raised", "high"), &group(), NOW + 1);
    let severities: Vec<_> = raised.iter().map(|a| a["labels"]["severity"].as_str().unwrap()).collect();
    assert_eq!(severities, ["warning", "high"]);
    assert_eq!(raised[0]["labels"], opened[0]["labels"], "what ends has to be what was stated");
    assert_eq!((ends(&raised[0]), ends(&raised[1])), (NOW + 1, NOW + 1 + LEASE));
    // Not a second time, and not for another Alertmanager.
    am.remember(TO, &listed("raised", "high"), &group(), NOW + 1);
    assert_eq!(am.alerts(TO, &listed("reminder", "high"), &group(), NOW + 2).len(), 1);
    assert_eq!(am.alerts("http://127.0.0.1:10", &listed("raised", "high"), &group(), NOW).len(), 1);
}

#[tokio::test]
async fn what_ended_is_stated_as_ended() {
    let am = watch();
    am.remember(TO, &listed("opened", "high"), &group(), NOW);
    let resolved = am.alerts(TO, &listed("resolved", "high"), &group(), NOW);
    assert_eq!(resolved.len(), 1);
    assert!(ends(&resolved[0]) <= NOW);
    am.remember(TO, &listed("resolved", "high"), &group(), NOW);
    let memory = am.lock();
    assert!(memory.severity.is_empty());
    assert_eq!(memory.ended.len(), 1);
}

#[test]
fn labels_are_such_as_every_alertmanager_takes() {
    let alert = alert(&listed("opened", "high"), &group(), "high", NOW, None);
    let labels = alert["labels"].as_object().unwrap();
    let names: Vec<_> = labels.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        ["_2nd_leg", "alertname", "exception_id", "lane", "owner", "parcel_id", "rule", "severity"]
    );
    assert_eq!(labels["severity"], "high", "not the one it had when its group was made");
}
