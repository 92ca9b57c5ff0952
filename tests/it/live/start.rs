//! How it starts: on a month of history, on nothing at all, and under Prometheus.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    POLICY, SECRET, event, items, mail_through, now, policies, record, setup, tell, wait_owed, wait_sent,
};
use crate::parts::daemon::Setup;
use crate::parts::exim::Exim;
use crate::parts::kafka::Kafka;
use crate::parts::prometheus::{Prometheus, check_metrics, metrics_in_alerts};
use crate::parts::webhook::Webhooks;
use crate::parts::{PATIENCE, poll, repository};

const DAY: i64 = 86_400_000;

/// Wide enough for partitions that catch up one after the other on a busy machine.
const BY_LANE: &str = "
policies:
  - {id: desk, group_by: [rule, lane], group_wait: 10s, group_interval: 1s, steps: [{after: 0m, notify: [erp, ops_mail]}]}
default_policy: desk
";

#[test]
fn a_month_of_history_is_one_message_a_group() {
    let (kafka, exim, hooks) = (Kafka::shared(), Exim::start(), Webhooks::start());
    // Its records are older than a week, which a broker would otherwise throw away.
    kafka.create_topic("month", 3, false, &[("retention.ms", "-1")]);
    let first = now() - 30 * DAY;
    let mut records = Vec::new();
    for n in 0..400 {
        let id = format!("P-{n}");
        let at = first + n * DAY / 14;
        records.push((at, id.clone(), "import_customs_cleared"));
        match n % 4 {
            0 => records.push((at + 1_000, id, "delivered")),
            1 => records.push((at + 5 * DAY / 10, id, "delivered")),
            _ => {}
        }
    }
    records.sort();
    let records: Vec<_> = records.into_iter().map(|(at, id, what)| (at, event(&id, what, at), id)).collect();
    kafka.produce_all("month", records.iter().map(|(at, payload, id)| record(id, payload, Some(*at))));
    let mut setup = setup(kafka, "month", &hooks);
    policies(&setup, &hooks, "  - {id: ops_mail, email: {to: [ops@example.test]}}", BY_LANE);
    mail_through(&mut setup, &exim);
    let daemon = setup.start();
    daemon.wait_ready();
    let owed = wait_owed(&daemon, kafka, "month", &setup);
    assert_eq!(owed.iter().filter(|c| c.contains(" opened ")).count(), 300);
    let standing: BTreeSet<String> = items(&daemon, "/api/v1/exceptions").iter().map(id).collect();
    assert_eq!(standing.len(), 200);
    let told = hooks.wait_until("all that stands to be told", PATIENCE, |hooks| {
        let told: BTreeSet<String> = hooks
            .iter()
            .flat_map(|h| {
                h.json()["data"]["exceptions"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
            })
            .collect();
        (told.len() >= standing.len()).then_some(told)
    });
    assert_eq!(told, standing);
    exim.wait_for(4);
    let rows = wait_sent(&daemon);
    let mut messages = BTreeMap::<(String, String), BTreeSet<String>>::new();
    for row in &rows {
        let text = |field: &str| row[field].as_str().unwrap().to_owned();
        messages.entry((text("receiver"), text("group_id"))).or_default().insert(text("notification_id"));
    }
    // Four lanes, two receivers.
    assert_eq!(messages.len(), 8, "{messages:#?}");
    // A webhook of 50 exceptions is over 20 kB: it comes in as few parts as hold them.
    let most = |receiver: &str| if receiver == "erp" { 3 } else { 1 };
    assert!(messages.iter().all(|((receiver, _), m)| m.len() <= most(receiver)), "{messages:#?}");
    let sent: usize = messages.iter().filter(|((r, _), _)| r == "erp").map(|(_, m)| m.len()).sum();
    assert_eq!((hooks.hooks().len(), exim.mails().len()), (sent, 4));
    assert!(hooks.hooks().iter().all(|h| h.body.len() < 20_000));
    assert!(hooks.hooks().iter().all(|h| h.verify(SECRET).is_ok()));
}

fn id(exception: &serde_json::Value) -> String {
    exception["exception_id"].as_str().unwrap().to_owned()
}

#[test]
fn what_it_cannot_run_on_is_said_with_its_place_and_a_remedy() {
    let hooks = Webhooks::start();
    let broker = "127.0.0.1:1";
    let with = || {
        let mut setup = Setup::new();
        setup.kafka(broker, "none").rules("rules.yaml", super::RULES);
        setup
    };
    let (status, said) = with().fails();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(
        said.contains("there is nobody to tell") && said.contains("policies.yaml names no receiver"),
        "{said}"
    );
    assert!(said.contains("email: {to: [ops@example.org]}"), "{said}");

    let mut misspelt = with();
    misspelt.set("kafka.topik", "milestones");
    policies(&misspelt, &hooks, "", POLICY);
    let (status, said) = misspelt.fails();
    assert_eq!(status.code(), Some(2), "{said}");
    let text = std::fs::read_to_string(misspelt.path("config/parcelwatch.yaml")).unwrap();
    let line = text.lines().position(|l| l.contains("topik")).unwrap() + 1;
    let column = text.lines().nth(line - 1).unwrap().find("topik").unwrap() + 1;
    assert!(said.contains(&format!("parcelwatch.yaml:{line}:{column}")), "{said}");
    assert!(said.contains("`kafka` has no key `topik`") && said.contains("topic"), "{said}");

    let mut wrong = with();
    wrong.rules("rules.yaml", &super::RULES.replace("within: 2s", "within: 2 sec"));
    policies(&wrong, &hooks, "", POLICY);
    let (status, said) = wrong.fails();
    assert_eq!(status.code(), Some(2), "{said}");
    assert!(said.contains("rules.yaml:7:13"), "{said}");
}

#[test]
fn prometheus_scrapes_it_and_finds_whatever_the_alerts_ask_for() {
    let (kafka, hooks) = (Kafka::shared(), Webhooks::start());
    kafka.create_topic("scraped", 2, true, &[]);
    let setup = setup(kafka, "scraped", &hooks);
    let daemon = setup.start();
    daemon.wait_ready();
    let prometheus = Prometheus::start(daemon.address(), None);
    tell(kafka, "scraped", "P-1", "import_customs_cleared");
    hooks.wait_for(1);
    wait_sent(&daemon);
    prometheus.wait_up();
    poll("Prometheus to know of the exception", PATIENCE, || {
        let open = prometheus.query("parcelwatch_exceptions_open{rule=\"late\",severity=\"high\"} == 1");
        let told = prometheus.query("parcelwatch_notifications_total{receiver=\"erp\"} == 1");
        if open.len() == 1 && told.len() == 1 { Ok(()) } else { Err(format!("{open:?} {told:?}")) }
    });
    let text = daemon.metrics().text;
    assert_eq!(check_metrics(&text), Ok(()));
    let known: BTreeSet<&str> =
        text.lines().filter_map(|l| l.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    let asked = metrics_in_alerts(&repository().join("deploy/alerts.yaml"));
    let missing: Vec<_> = asked.iter().filter(|name| !known.contains(name.as_str())).collect();
    assert!(missing.is_empty() && asked.len() > 10, "{missing:?} of {asked:?}");
    assert!(known.contains("process_start_time_seconds"), "{known:?}");
}
