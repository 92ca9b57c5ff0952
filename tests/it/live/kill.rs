//! `kill -9` at any moment: nothing is lost, and nothing is told twice but under its own id.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::{SECRET, items, now, policies, setup, tell, wait_owed, wait_sent};
use crate::parts::PATIENCE;
use crate::parts::daemon::Daemon;
use crate::parts::kafka::Kafka;
use crate::parts::poll;
use crate::parts::smtp::{self, SmtpServer};
use crate::parts::webhook::{Hook, Webhooks};

const KILLS: u32 = 20;

const RULES: &str = "
rules:
  - id: late
    title: Cleared, but not delivered
    after: import_customs_cleared
    expect: [delivered]
    stages: [{at: 1s, severity: warning}, {at: 4s, severity: high}]
    owner: carrier
";

const POLICY: &str = "
policies:
  - {id: desk, group_by: [rule, lane], group_wait: 0s, group_interval: 1s, steps: [{after: 0m, notify: [erp, ops_mail]}]}
default_policy: desk
";

#[test]
fn killed_twenty_times_it_loses_nothing_and_doubles_nothing() {
    let (kafka, hooks, relay) =
        (Kafka::shared(), Webhooks::start(), SmtpServer::start(smtp::Options::default()));
    kafka.create_topic("killed", 3, true, &[]);
    let mut setup = setup(kafka, "killed", &hooks);
    policies(&setup, &hooks, "  - {id: ops_mail, email: {to: [ops@example.test]}}", POLICY);
    setup.rules("rules.yaml", RULES).set("smtp.url", relay.url()).set("smtp.from", "watch@example.test");
    setup.set("snapshots.every", "1s");
    let mut random = [0; 2];
    getrandom::fill(&mut random).unwrap();
    let mut seed = u32::from(u16::from_le_bytes(random));
    eprintln!("seed {seed}");

    let done = AtomicBool::new(false);
    let daemon = std::thread::scope(|s| {
        s.spawn(|| stream(kafka, &done));
        for _ in 0..KILLS {
            let mut daemon = setup.start();
            seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let lives = Duration::from_millis(u64::from(seed >> 16) % 2_500);
            alive(&mut daemon, lives);
            daemon.kill9();
        }
        done.store(true, Ordering::SeqCst);
        setup.start()
    });
    let owed = wait_owed(&daemon, kafka, "killed", &setup);
    // The groups' next flush tells whatever is not told yet.
    poll("everything that stands to be told", PATIENCE, || {
        wait_sent(&daemon);
        untold(&daemon, &hooks.hooks())
    });
    let rows = wait_sent(&daemon);
    assert!(rows.iter().all(|r| r["state"] == "delivered"), "{rows:#?}");
    let opened = owed.iter().filter(|c| c.contains(" opened ")).count();
    let ended = owed.iter().filter(|c| c.contains(" resolved ")).count();
    assert!(opened > 50 && ended > 20, "{opened} opened, {ended} resolved: too little to prove anything");
    let news = news(&hooks.hooks());
    each_told_in_order(&daemon, &news);
    // Each row of the outbox came over, under its own id, and nothing else did.
    let rows_of = |receiver: &str| -> BTreeSet<String> {
        let of = rows.iter().filter(|r| r["receiver"] == receiver);
        of.map(|r| r["notification_id"].as_str().unwrap().to_owned()).collect()
    };
    let ids: BTreeSet<String> = hooks.hooks().iter().map(|h| h.id().to_owned()).collect();
    assert_eq!(ids, rows_of("erp"));
    let mails: BTreeSet<String> = relay.mails().iter().map(|m| m.message_id().to_owned()).collect();
    let mail_rows = rows_of("ops_mail");
    assert_eq!(mails.len(), mail_rows.len());
    assert!(mail_rows.iter().all(|id| mails.iter().any(|m| m.contains(id))), "{mail_rows:?}\n{mails:?}");
}

/// Parcels that are never delivered, delivered in time, or late, until `done`.
fn stream(kafka: &Kafka, done: &AtomicBool) {
    let begun = Instant::now();
    for n in 0_u64.. {
        if done.load(Ordering::SeqCst) {
            return;
        }
        let id = |n: u64| format!("P-{n}");
        tell(kafka, "killed", &id(n), "import_customs_cleared");
        if n % 4 == 0 {
            tell(kafka, "killed", &id(n), "delivered");
        }
        // Some 2, 4 and 6 s after the clearance: before the second stage and after it.
        let ago = 20 * (1 + n % 3);
        if n % 2 == 1 && n >= ago {
            tell(kafka, "killed", &id(n - ago), "delivered");
        }
        poll("the next moment", PATIENCE, || match begun.elapsed().as_millis() >= u128::from(n) * 100 {
            true => Ok(()),
            false => Err("not yet".to_owned()),
        });
    }
}

/// Lets it live so long, and sees that it does.
fn alive(daemon: &mut Daemon, lives: Duration) {
    let begun = now();
    poll("its time to come", PATIENCE, || {
        assert!(daemon.is_running(), "{}", daemon.tail());
        if now() - begun >= i64::try_from(lives.as_millis()).unwrap() { Ok(()) } else { Err("alive".into()) }
    });
}

/// What was told of each exception, repeats of the same id dropped: (change, stage, at), in the order of arrival.
fn news(hooks: &[Hook]) -> BTreeMap<String, Vec<(String, i64, String)>> {
    let mut bodies = BTreeMap::new();
    let mut news = BTreeMap::<String, Vec<_>>::new();
    for hook in hooks {
        hook.verify(SECRET).unwrap();
        if let Some(before) = bodies.insert(hook.id().to_owned(), hook.body.clone()) {
            assert_eq!(before, hook.body, "a repeat says something else");
            continue;
        }
        for e in hook.json()["data"]["exceptions"].as_array().unwrap() {
            let text = |field: &str| e[field].as_str().unwrap().to_owned();
            let said = (text("change"), e["stage"].as_i64().unwrap(), text("at"));
            news.entry(text("exception_id")).or_default().push(said);
        }
    }
    news
}

/// Exceptions that stand and whose present stage nobody was told, or that ended and whose end is still owed.
fn untold(daemon: &Daemon, hooks: &[Hook]) -> Result<(), String> {
    let news = news(hooks);
    let owed = |e: &&Value| {
        let told = news.get(e["exception_id"].as_str().unwrap()).map_or(&[][..], Vec::as_slice);
        let resolved = told.iter().any(|(change, ..)| change == "resolved");
        match e["state"] == "resolved" {
            true => !told.is_empty() && !resolved,
            false => !told
                .iter()
                .any(|(change, stage, _)| change != "resolved" && *stage == e["stage"].as_i64().unwrap()),
        }
    };
    let all = items(daemon, "/api/v1/exceptions?state=all");
    let untold: Vec<_> = all.iter().filter(owed).collect();
    if untold.is_empty() { Ok(()) } else { Err(format!("{} {untold:#?}\n{}", untold.len(), daemon.tail())) }
}

/// Nothing is told twice, nothing of what was not decided, and an end only once and last.
fn each_told_in_order(daemon: &Daemon, news: &BTreeMap<String, Vec<(String, i64, String)>>) {
    let all = items(daemon, "/api/v1/exceptions?state=all");
    for (id, told) in news {
        let exception =
            all.iter().find(|e| e["exception_id"] == **id).unwrap_or_else(|| panic!("{id} is not known"));
        let once: BTreeSet<_> = told.iter().collect();
        assert_eq!(once.len(), told.len(), "told twice: {told:#?}\n{exception:#}");
        let opened = told.iter().filter(|(change, ..)| change == "opened").count();
        let resolved = told.iter().filter(|(change, ..)| change == "resolved").count();
        let ended = usize::from(exception["state"] == "resolved");
        assert!(opened <= 1 && resolved == ended, "{told:#?}\n{exception:#}");
        assert_eq!(told.last().unwrap().0 == "resolved", ended == 1, "{told:#?}\n{exception:#}");
        for (change, stage, at) in told {
            let same = |c: &&Value| c["change"] == **change && c["stage"] == *stage && c["at"] == **at;
            let found = exception["changes"].as_array().unwrap().iter().find(same);
            assert!(found.is_some(), "{change} {stage} {at} was told and not decided: {exception:#}");
        }
    }
}
