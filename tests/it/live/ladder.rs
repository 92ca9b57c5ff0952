//! Who acknowledges stops the climb, by the API or by the link in a mail.

use serde_json::{Value, json};

use super::{items, policies, setup, tell, wait_exceptions, wait_sent};
use crate::parts::http;
use crate::parts::kafka::Kafka;
use crate::parts::smtp::{self, Mail, SmtpServer};
use crate::parts::webhook::{Hook, Webhooks};

/// The second step comes late enough to be forestalled on a busy machine.
const POLICY: &str = "
policies:
  - id: desk
    group_by: [parcel_id]
    group_wait: 0s
    group_interval: 1s
    steps: [{after: 0m, notify: [ops_mail]}, {after: 12s, notify: [erp]}]
default_policy: desk
";

#[test]
fn an_acknowledgement_by_api_or_by_mail_stops_the_ladder_and_a_scanner_of_mails_does_not() {
    let (kafka, hooks, relay) =
        (Kafka::shared(), Webhooks::start(), SmtpServer::start(smtp::Options::default()));
    kafka.create_topic("ladder", 1, true, &[]);
    let mut setup = setup(kafka, "ladder", &hooks);
    policies(&setup, &hooks, "  - {id: ops_mail, email: {to: [ops@example.test]}}", POLICY);
    setup.set("smtp.url", relay.url()).set("smtp.from", "watch@example.test");
    setup.set("http.public_url", "https://parcels.example.test");
    let daemon = setup.start();
    daemon.wait_ready();
    for parcel in ["P-1", "P-2", "P-3"] {
        tell(kafka, "ladder", parcel, "import_customs_cleared");
    }
    let mails = relay.wait_for(3);
    let mail = |parcel: &str| mails.iter().find(|m| m.part("text/plain").unwrap().contains(parcel)).unwrap();
    let open = wait_exceptions(&daemon, "open", 3);
    let id = |parcel: &str| {
        open.iter().find(|e| e["parcel_id"] == parcel).unwrap()["exception_id"].as_str().unwrap()
    };

    let ack = daemon
        .post(&format!("/api/v1/exceptions/{}/ack", id("P-1")), &json!({"by": "Ines", "comment": "calling"}));
    assert_eq!(ack.status, 200, "{}", ack.text());
    let link = link(mail("P-2"));
    for path in [&link, &self::link(mail("P-3"))] {
        let page = daemon.get(path);
        assert_eq!(page.status, 200, "{}", page.text());
    }
    assert_eq!(items(&daemon, "/api/v1/exceptions?state=open").len(), 2, "a GET acknowledged");
    let form = [("Content-Type", "application/x-www-form-urlencoded")];
    let done = daemon.request("POST", &link, &form, b"by=Maria&comment=&action=acknowledge");
    assert_eq!(done.status, 200, "{}", done.text());
    let forged = link.replace("/ack?", "/ack?x=1&").replacen(|c: char| c.is_ascii_digit(), "7", 3);
    let refused = daemon.request("POST", &forged, &form, b"by=Eve&action=acknowledge");
    assert!(refused.status >= 400 || forged == link, "{}", refused.text());

    let climbed = hooks.wait_for(1);
    assert_eq!(parcels(&climbed), ["P-3"]);
    assert_eq!(climbed[0].json()["data"]["step"], 2, "{:#}", climbed[0].json());
    let acknowledged = wait_exceptions(&daemon, "acknowledged", 2);
    let by = |parcel: &str| {
        acknowledged.iter().find(|e| e["parcel_id"] == parcel).unwrap()["acknowledged_by"].clone()
    };
    assert_eq!((by("P-1"), by("P-2")), (Value::from("Ines"), Value::from("Maria")));
    // Whoever was told learns of the end, acknowledged or not; `erp` was told of one alone.
    for parcel in ["P-1", "P-2", "P-3"] {
        tell(kafka, "ladder", parcel, "delivered");
    }
    relay.wait_for(6);
    hooks.wait_for(2);
    wait_exceptions(&daemon, "resolved", 3);
    wait_sent(&daemon);
    assert_eq!(parcels(&hooks.hooks()), ["P-3", "P-3"]);
    assert_eq!(relay.mails().len(), 6);
    let one = daemon.get(&format!("/api/v1/exceptions/{}", id("P-1"))).json();
    assert_eq!(one["actions"][0]["by"], "Ines", "{one:#}");
}

fn parcels(hooks: &[Hook]) -> Vec<String> {
    let listed = |h: &Hook| h.json()["data"]["exceptions"].as_array().unwrap().clone();
    hooks.iter().flat_map(listed).map(|e| e["parcel_id"].as_str().unwrap().to_owned()).collect()
}

/// The path of a mail's link, which begins with the public URL.
fn link(mail: &Mail) -> String {
    let text = mail.part("text/plain").unwrap();
    let url = text.split_whitespace().find_map(|w| w.strip_prefix("https://parcels.example.test"));
    let path = url.unwrap_or_else(|| panic!("no link in\n{text}"));
    assert!(path.starts_with("/ack?"), "{path}");
    path.to_owned()
}

#[test]
fn what_changes_something_needs_a_token_once_there_is_one() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("tokens", 1, true, &[]);
    let mut setup = setup(kafka, "tokens", &hooks);
    let token = |name: &str, role: &str, value: serde_yaml::Value| {
        let mut token = serde_yaml::Mapping::new();
        token.insert("name".into(), name.into());
        token.insert("role".into(), role.into());
        token.insert("token".into(), value);
        serde_yaml::Value::from(token)
    };
    let kept = |name: &str, value: &str| super::secret_file(&setup, name, value);
    let tokens = vec![
        token("desk", "operator", kept("desk.token", "desk-token-of-many-letters-0123456789")),
        token("wall", "viewer", kept("wall.token", "wall-token-of-many-letters-0123456789")),
    ];
    setup.set("http.tokens", tokens);
    let daemon = setup.start();
    for open in ["/metrics", "/-/healthy"] {
        assert_eq!(daemon.get(open).status, 200, "{open}");
    }
    assert_eq!(daemon.get("/api/v1/exceptions").status, 401);
    let bearer = |t: &str| format!("Bearer {t}-token-of-many-letters-0123456789");
    let read = daemon.request("GET", "/api/v1/exceptions", &[("Authorization", &bearer("wall"))], b"");
    assert_eq!(read.status, 200, "{}", read.text());
    tell(kafka, "tokens", "P-1", "import_customs_cleared");
    let id =
        hooks.wait_for(1)[0].json()["data"]["exceptions"][0]["exception_id"].as_str().unwrap().to_owned();
    let ack = |who: Option<&str>| -> http::Response {
        let bearer = who.map(bearer).unwrap_or_default();
        let headers = [("Content-Type", "application/json"), ("Authorization", bearer.as_str())];
        let headers = if who.is_some() { &headers[..] } else { &headers[..1] };
        daemon.request("POST", &format!("/api/v1/exceptions/{id}/ack"), headers, br#"{"by":"Ines"}"#)
    };
    assert_eq!(ack(None).status, 401);
    assert_eq!(ack(Some("wall")).status, 403);
    let done = ack(Some("desk"));
    assert_eq!(done.status, 200, "{}", done.text());
}
