//! A broker that does not answer for half a minute, while a daemon idles and while another is busy; and one that is not there
//! when the daemon starts.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{RULES, event, items, now, record, secret_file, setup, tell, wait_exceptions, wait_owed};
use crate::parts::PATIENCE;
use crate::parts::daemon::Daemon;
use crate::parts::kafka::{self, Kafka};
use crate::parts::poll;
use crate::parts::webhook::Webhooks;

const OUTAGE: Duration = Duration::from_secs(30);

#[test]
fn a_broker_that_hangs_for_half_a_minute_makes_no_false_alarm_and_hides_no_true_one() {
    let kafka = Kafka::start(&kafka::Options::default());
    let hooks = Webhooks::start();
    let (mut idle, mut busy) = (setup(&kafka, "idle", &hooks), setup(&kafka, "busy", &hooks));
    for (topic, setup) in [("idle", &mut idle), ("busy", &mut busy)] {
        kafka.create_topic(topic, 2, true, &[]);
        setup.rules("rules.yaml", &RULES.replace("within: 2s", "within: 5s"));
    }
    let (idle_daemon, busy_daemon) = (idle.start(), busy.start());
    idle_daemon.wait_ready();
    busy_daemon.wait_ready();
    for parcel in ["P-1", "P-2", "P-3"] {
        tell(&kafka, "idle", parcel, "import_customs_cleared");
    }
    idle_daemon.wait_metric("parcels_tracked", |n| n == 3.0);
    let done = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| stream(&kafka, &done));
        busy_daemon.wait_metric("parcels_tracked", |n| n > 100.0);
        // The daemon stands still while P-1's delivery is stored, so that it cannot have read it when the broker hangs.
        idle_daemon.signal(libc::SIGSTOP);
        tell(&kafka, "idle", "P-1", "delivered");
        kafka.pause();
        idle_daemon.signal(libc::SIGCONT);
        let since = Instant::now();
        poll("the outage to last", PATIENCE, || {
            nothing_told(&idle_daemon, &hooks);
            assert_eq!(busy_daemon.get("/-/healthy").status, 200, "{}", busy_daemon.tail());
            if since.elapsed() > OUTAGE { Ok(()) } else { Err(format!("{:?}", since.elapsed())) }
        });
        kafka.resume();
        let late = wait_exceptions(&idle_daemon, "open", 2);
        assert!(late.iter().all(|e| e["parcel_id"] != "P-1"), "{late:#?}");
        let before = busy_daemon.metrics().sum("parcels_tracked", &[]).unwrap();
        busy_daemon.wait_metric("parcels_tracked", |n| n > before + 200.0);
        busy_daemon.wait_metric("exceptions_resolved_total", |n| n > 20.0);
        done.store(true, Ordering::SeqCst);
    });
    let owed = wait_owed(&busy_daemon, &kafka, "busy", &busy);
    assert!(
        owed.iter().any(|c| c.contains(" opened ")) && owed.iter().any(|c| c.contains(" resolved ")),
        "{owed:#?}"
    );
    wait_owed(&idle_daemon, &kafka, "idle", &idle);
    for (daemon, topic) in [(&idle_daemon, "idle"), (&busy_daemon, "busy")] {
        daemon.wait_ready();
        daemon.wait_metric("consumer_lag_records", |n| n == 0.0);
        assert_eq!(daemon.metrics().sum("gaps_total", &[]), Some(0.0), "{topic}");
    }
    let told = |p: &str| {
        let hooks = hooks.hooks();
        hooks
            .iter()
            .any(|h| h.json()["data"]["exceptions"].as_array().unwrap().iter().any(|e| e["parcel_id"] == p))
    };
    assert!(!told("P-1"));
    poll("P-2 and P-3 to be told", PATIENCE, || {
        if told("P-2") && told("P-3") { Ok(()) } else { Err(idle_daemon.tail()) }
    });
}

fn nothing_told(daemon: &Daemon, hooks: &Webhooks) {
    assert_eq!(daemon.get("/-/healthy").status, 200, "{}", daemon.tail());
    assert_eq!(items(daemon, "/api/v1/exceptions?state=all"), Vec::<Value>::new(), "{}", daemon.tail());
    let idle = |e: &Value| e["parcel_id"].as_str().is_some_and(|p| !p.starts_with("B-"));
    let told =
        hooks.hooks().iter().any(|h| h.json()["data"]["exceptions"].as_array().unwrap().iter().any(idle));
    assert!(!told, "{}", daemon.tail());
}

/// Parcels by the hundred, of which the most are delivered in time, some late and some never.
fn stream(kafka: &Kafka, done: &AtomicBool) {
    for n in 0_u64.. {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let begun = now();
        let mut batch = Vec::new();
        for i in 0..20 {
            let id = format!("B-{n}-{i}");
            batch.push((id.clone(), event(&id, "import_customs_cleared", begun)));
            if i > 2 {
                batch.push((id.clone(), event(&id, "delivered", begun)));
            }
            if i == 1 && n >= 55 {
                let late = format!("B-{}-1", n - 55);
                batch.push((late.clone(), event(&late, "delivered", begun)));
            }
        }
        kafka.produce_all("busy", batch.iter().map(|(key, payload)| record(key, payload, None)));
        poll("the next batch's time", PATIENCE, || {
            if now() - begun > 100 { Ok(()) } else { Err("not yet".into()) }
        });
    }
}

#[test]
fn a_broker_that_comes_up_after_the_daemon_is_waited_for_and_its_login_is_kept_in_a_file() {
    let kafka = Kafka::start(&kafka::Options { sasl: true, ..kafka::Options::default() });
    kafka.create_topic("scram", 2, true, &[]);
    let hooks = Webhooks::start();
    let mut setup = setup(&kafka, "scram", &hooks);
    setup.set("kafka.bootstrap_servers", kafka.sasl_bootstrap()).set("log.filter", "debug");
    let mut properties = serde_yaml::Mapping::new();
    for (name, value) in kafka.sasl_properties() {
        let value = if name == "sasl.password" {
            secret_file(&setup, "kafka.password", &value)
        } else {
            value.into()
        };
        properties.insert(name.into(), value);
    }
    setup.set("kafka.properties", properties);
    kafka.stop();

    let mut daemon = setup.start();
    let line = daemon.wait_log(&kafka.sasl_bootstrap());
    assert!(line.contains("ERROR") || line.contains("WARN"), "{line}");
    assert_eq!(daemon.get("/-/healthy").status, 200);
    let ready = daemon.get("/-/ready");
    assert_eq!(ready.status, 503, "{}", ready.text());
    let troubles = daemon.get("/api/v1/status").json()["kafka"]["troubles"].clone();
    assert!(!troubles.as_array().unwrap().is_empty(), "{}", daemon.tail());

    kafka.restart();
    daemon.wait_ready();
    tell(&kafka, "scram", "P-1", "import_customs_cleared");
    let hook = hooks.wait_for(1).remove(0);
    assert_eq!(hook.json()["data"]["exceptions"][0]["parcel_id"], "P-1");
    let status = daemon.get("/api/v1/status");
    assert_eq!(status.json()["kafka"]["troubles"], serde_json::json!([]));
    let said = daemon.log().join("\n") + &status.text() + &daemon.get("/metrics").text();
    assert!(!said.contains(kafka::PASSWORD), "the password is shown");
    assert_eq!(daemon.terminate(), Some(0));
}
