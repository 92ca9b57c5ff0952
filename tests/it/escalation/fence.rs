//! What was decided and is no longer so when it is to be sent for the first time.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use parcelwatch::cases::{Act, Outcome, Who};
use parcelwatch::metrics::Metrics;
use parcelwatch::notify::{Delivery, Message as Sent, Notifier};
use parcelwatch::runtime::clock::WallClock;
use parcelwatch::runtime::dispatcher::{Dispatcher, Options, Route};
use serde_json::{Value, json};
use tokio::sync::Semaphore;

use crate::world::{HOUR, MINUTE, Message, SECOND, World, ended, lines, opened, policies, step};

fn one_step() -> parcelwatch::rules::Policies {
    policies(vec![step(0, &["erp"], None)])
}

fn id(parcel: &str) -> String {
    opened(parcel, 1).exception_id()
}

async fn acknowledge(world: &World, parcel: &str) {
    world.cases.acknowledge(&id(parcel), "ann", "", world.now()).await.expect("acts");
}

/// What the API says of the messages about a parcel: the newest first.
async fn states(world: &World, parcel: &str) -> Vec<String> {
    let told = world.cases.notifications(Some(&id(parcel)), 10, None).await.expect("a page");
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    told.items
        .iter()
        .map(|n| format!("{} {} {}", text(&n["change"]), text(&n["state"]), text(&n["failure"])))
        .collect()
}

async fn unsent(world: &World, parcel: &str) -> Vec<String> {
    let seen = world.cases.exception(&id(parcel), world.now()).await.expect("read").expect("there");
    let all = seen["unsent"].as_array().expect("a list").iter();
    all.map(|u| format!("{} {}", u["reason"].as_str().unwrap_or(""), u["step"])).collect()
}

#[tokio::test]
async fn what_is_acknowledged_before_its_first_try_is_not_sent_and_comes_when_it_is_given_back() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    assert!(world.cases.take_suppressed().is_empty());
    acknowledge(&world, "P1").await;
    assert!(world.sent("erp").await.is_empty());
    assert_eq!(states(&world, "P1").await, ["opened withdrawn acknowledged"]);
    assert_eq!(unsent(&world, "P1").await, ["acknowledged 1"]);
    let counted: Vec<_> = world.cases.take_suppressed().into_iter().map(|(why, n)| (why.name(), n)).collect();
    assert_eq!(counted, [("acknowledged", 1)]);
    let by_receiver = world.cases.outbox_by_receiver().await.expect("figures");
    assert_eq!(by_receiver[&("erp".to_owned(), "withdrawn".to_owned())], 1);
    assert_eq!(by_receiver[&("erp".to_owned(), "dead".to_owned())], 0);
    // Given back: an opening, since nobody heard of it; then its end.
    let ann = Who { by: "ann", ..Who::default() };
    world.cases.act(Act::Unacknowledge, &id("P1"), &ann, world.now()).await.expect("acts");
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["ack_expired exceptions.opened 1 P1"]);
    world.commit(0, &[ended("P1", 9)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("erp").await), ["resolved exceptions.resolved null P1"]);
}

#[tokio::test]
async fn what_nobody_heard_of_has_no_end_either() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1), opened("P2", 2)]).await;
    world.run_for(MINUTE).await;
    acknowledge(&world, "P1").await;
    world.cases.resolve(&id("P2"), "ann", "", world.now()).await.expect("acts");
    assert!(world.sent("erp").await.is_empty());
    assert_eq!(unsent(&world, "P2").await, ["resolved_before_send 1"]);
    world.commit(0, &[ended("P1", 3)]).await;
    world.run_for(HOUR).await;
    assert!(world.sent("erp").await.is_empty());
    // Nothing of the group is told: the next news of it waits as the first.
    world.commit(0, &[opened("P3", 4)]).await;
    let from = world.now();
    world.run_for(HOUR).await;
    let sent = world.sent("erp").await;
    assert_eq!(
        (lines(&sent), sent[0].at),
        (vec!["new exceptions.opened 1 P3".to_owned()], from + 30 * SECOND)
    );
}

#[tokio::test]
async fn what_was_handed_out_goes_on_under_its_id() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    let taken = world.cases.outbox_due("erp", world.now(), 10, MINUTE).await.expect("rows");
    acknowledge(&world, "P1").await;
    world.restart().await;
    let again = world.cases.outbox_due("erp", world.now(), 10, MINUTE).await.expect("rows");
    assert_eq!(again, taken, "after a restart it may have arrived");
    let at_ms = world.now() + 2 * MINUTE;
    let retry = Outcome::Retry { at_ms, reason: "transient".into(), detail: "x".into() };
    world.cases.outbox_done(&taken[0].id, world.now(), retry).await.expect("done");
    world.run_for(HOUR).await;
    let sent: Vec<Message> = world.sent("erp").await;
    assert_eq!((sent.len(), &sent[0].id), (1, &taken[0].id));
}

#[tokio::test]
async fn one_of_which_anything_stands_goes_and_ends_that_nobody_needs_are_taken_out() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    world.commit(0, &[opened("P2", 2), opened("P3", 3)]).await;
    world.run_for(10 * MINUTE).await;
    world.commit(0, &[ended("P1", 4), ended("P2", 5)]).await;
    world.run_for(10 * MINUTE).await;
    let sent = world.sent("erp").await;
    assert_eq!(lines(&sent), ["new exceptions.opened 1 P2,P3", "resolved exceptions.resolved null P2"]);
    assert_eq!(sent[1].body["data"]["counts"]["resolved"], json!(1));
    assert_eq!(states(&world, "P1").await, ["opened withdrawn resolved_before_send"]);
    // Alone in its message it is withdrawn with it.
    world.commit(0, &[opened("P4", 6)]).await;
    world.run_for(10 * MINUTE).await;
    world.commit(0, &[ended("P4", 7)]).await;
    world.run_for(10 * MINUTE).await;
    assert!(world.sent("erp").await.is_empty());
    let both = ["resolved withdrawn resolved_before_send", "opened withdrawn resolved_before_send"];
    assert_eq!(states(&world, "P4").await, both);
}

#[tokio::test]
async fn a_flap_climbs_the_step_that_was_withdrawn_meanwhile() {
    let mut policies = policies(vec![step(0, &["erp", "pager"], None)]);
    policies.policies[0].hold_resolve = HOUR;
    let mut world = World::new(policies).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    assert_eq!(world.sent("erp").await.len(), 1);
    world.commit(0, &[ended("P1", 2)]).await;
    world.run_for(MINUTE).await;
    assert!(world.sent("pager").await.is_empty());
    // It goes on as if it had never ended: who was not told is.
    world.commit(0, &[opened("P1", 3)]).await;
    world.run_for(HOUR).await;
    assert_eq!(lines(&world.sent("pager").await), ["step exceptions.opened 1 P1"]);
    world.sent("erp").await;
    world.commit(0, &[ended("P1", 4)]).await;
    world.run_for(2 * HOUR).await;
    for receiver in ["erp", "pager"] {
        assert_eq!(lines(&world.sent(receiver).await), ["resolved exceptions.resolved null P1"]);
    }
}

/// Answers yes when it is let through.
struct Hanging(Semaphore, tokio::sync::mpsc::UnboundedSender<String>);

impl Notifier for Hanging {
    fn deliver<'a>(&'a self, message: &'a Sent, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        Box::pin(async move {
            self.1.send(message.id.clone()).expect("the test listens");
            self.0.acquire().await.expect("open").forget();
            Delivery::Delivered
        })
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}

#[tokio::test]
async fn behind_a_receiver_that_hangs_an_acknowledgement_is_in_time() {
    let mut world = World::new(one_step()).await;
    world.commit(0, &[opened("P1", 1)]).await;
    world.run_for(MINUTE).await;
    world.commit(0, &[opened("P2", 2)]).await;
    world.run_for(10 * MINUTE).await;
    let (calls, mut called) = tokio::sync::mpsc::unbounded_channel();
    let receiver = Arc::new(Hanging(Semaphore::new(0), calls));
    let route = Route {
        receiver: "erp".into(),
        integration: "webhook",
        notifier: Arc::<Hanging>::clone(&receiver),
        restated: Vec::new(),
    };
    let clock = Arc::clone(&world.clock) as Arc<dyn WallClock>;
    let metrics = Arc::new(Metrics::new().expect("metrics"));
    let dispatcher = Dispatcher::start(&world.cases, vec![route], &clock, &metrics, &Options::default());
    called.recv().await.expect("the first is under way");
    // Both: the one that hangs may have arrived, the other has not.
    acknowledge(&world, "P1").await;
    acknowledge(&world, "P2").await;
    receiver.0.add_permits(10);
    tokio::time::timeout(Duration::from_secs(20), async {
        while world.cases.outbox_stats().await.expect("stats").rows["pending"] > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await
    .expect("both are finished");
    dispatcher.stop(Duration::from_secs(20)).await;
    assert_eq!(states(&world, "P1").await, ["opened delivered -"]);
    assert_eq!(states(&world, "P2").await, ["opened withdrawn acknowledged"]);
    assert!(called.try_recv().is_err(), "one call");
}
