//! The loop before an outbox in memory, receivers that answer as a test wants, and a clock that is set by hand.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

use futures_util::future::BoxFuture;

use super::*;

/// Stands still unless a test moves it. Counts how often somebody asked how long to wait.
#[derive(Default)]
struct HandClock(AtomicI64, AtomicU64);

impl WallClock for HandClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
    fn until(&self, ms: i64) -> Duration {
        self.1.fetch_add(1, Ordering::SeqCst);
        Duration::from_millis(u64::try_from(ms.saturating_sub(self.now_ms())).unwrap_or(0))
    }
}

#[derive(Clone)]
struct Memory {
    standing: Arc<Mutex<Vec<(i64, Stated)>>>,
    rows: Arc<Mutex<BTreeMap<String, Stored>>>,
    news: Arc<Notify>,
    /// Woken at every outcome.
    settled: Arc<Notify>,
    failing: Arc<Mutex<u32>>,
}

#[derive(Clone, Debug)]
struct Stored {
    row: Message,
    outcome: Option<Outcome>,
    leased_until: i64,
}

impl Memory {
    fn new(rows: impl IntoIterator<Item = Message>) -> Memory {
        let stored = |row: Message| (row.id.clone(), Stored { row, outcome: None, leased_until: 0 });
        Memory {
            standing: Arc::default(),
            rows: Arc::new(Mutex::new(rows.into_iter().map(stored).collect())),
            news: Arc::new(Notify::new()),
            settled: Arc::new(Notify::new()),
            failing: Arc::new(Mutex::new(0)),
        }
    }

    fn put(&self, row: Message) {
        let stored = Stored { row: row.clone(), outcome: None, leased_until: 0 };
        self.rows.lock().unwrap().insert(row.id, stored);
        self.news.notify_waiters();
    }

    fn outcome(&self, id: &str) -> Option<Outcome> {
        self.rows.lock().unwrap()[id].outcome.clone()
    }

    /// Waits until `ready` holds of the rows.
    async fn until(&self, what: &str, ready: impl Fn(&BTreeMap<String, Stored>) -> bool) {
        let wait = async {
            loop {
                let settled = self.settled.notified();
                if ready(&self.rows.lock().unwrap()) {
                    return;
                }
                settled.await;
            }
        };
        let rows = || format!("{:#?}", self.rows.lock().unwrap());
        assert!(
            tokio::time::timeout(Duration::from_secs(20), wait).await.is_ok(),
            "{what} never came: {}",
            rows()
        );
    }

    async fn delivered(&self, ids: &[&str]) {
        self.until("delivery", |rows| ids.iter().all(|id| rows[*id].outcome == Some(Outcome::Delivered)))
            .await;
    }

    async fn retried(&self, id: &str) -> i64 {
        self.until("a retry", |rows| matches!(rows[id].outcome, Some(Outcome::Retry { .. }))).await;
        self.rows.lock().unwrap()[id].row.due_ms
    }

    async fn check(&self) -> Result<(), OutboxError> {
        let mut failing = self.failing.lock().unwrap();
        if *failing == 0 {
            return Ok(());
        }
        *failing -= 1;
        Err(OutboxError("the disk is full".into()))
    }
}

impl Outbox for Memory {
    async fn due(
        &self,
        receiver: &str,
        now: i64,
        limit: u32,
        lease: i64,
    ) -> Result<Vec<Message>, OutboxError> {
        self.check().await?;
        let mut rows = self.rows.lock().unwrap();
        let open = |s: &Stored| !matches!(s.outcome, Some(Outcome::Delivered | Outcome::Dead { .. }));
        let mut heads: BTreeMap<String, String> = BTreeMap::new();
        let mut order: Vec<(i64, String, String)> = rows
            .values()
            .filter(|s| s.row.receiver == receiver && open(s))
            .map(|s| (s.row.created_ms, s.row.id.clone(), s.row.thread.clone()))
            .collect();
        order.sort();
        for (_, id, thread) in &order {
            heads.entry(thread.clone()).or_insert_with(|| id.clone());
        }
        let mut taken = Vec::new();
        for (_, id, _) in order {
            let stored = rows.get_mut(&id).unwrap();
            let head = heads[&stored.row.thread] == id;
            if head && stored.row.due_ms <= now && stored.leased_until <= now && taken.len() < limit as usize
            {
                stored.leased_until = now + lease;
                taken.push(stored.row.clone());
            }
        }
        Ok(taken)
    }

    async fn standing(
        &self,
        _to: (&str, &str),
        after: i64,
        limit: u32,
        _now: i64,
    ) -> Result<Vec<(i64, Stated)>, OutboxError> {
        let all = self.standing.lock().unwrap();
        Ok(all.iter().filter(|(n, _)| *n > after).take(limit as usize).cloned().collect())
    }

    async fn next(&self, receiver: &str) -> Result<Option<i64>, OutboxError> {
        let rows = self.rows.lock().unwrap();
        let open = |s: &&Stored| !matches!(s.outcome, Some(Outcome::Delivered | Outcome::Dead { .. }));
        let mine = rows.values().filter(|s| s.row.receiver == receiver).filter(open);
        Ok(mine.map(|s| s.row.due_ms.max(s.leased_until)).min())
    }

    async fn done(&self, ended: &[(String, Outcome)], _now: i64) -> Result<(), OutboxError> {
        self.check().await?;
        for (id, outcome) in ended {
            let mut rows = self.rows.lock().unwrap();
            let stored = rows.get_mut(id).unwrap();
            assert_ne!(stored.outcome, Some(Outcome::Delivered), "{id} was delivered twice");
            stored.leased_until = 0;
            if let Outcome::Retry { at_ms, .. } = outcome {
                stored.row.due_ms = *at_ms;
                stored.row.attempts += 1;
            }
            stored.outcome = Some(outcome.clone());
        }
        self.settled.notify_waiters();
        self.news.notify_waiters();
        Ok(())
    }

    fn filled(&self) -> Arc<Notify> {
        self.news.clone()
    }
}

type Script = Box<dyn Fn(&Message, usize) -> Option<Delivery> + Send + Sync>;

/// Answers by its script, given the message and how many came before; `None` never answers.
struct Receiver {
    script: Script,
    seen: Mutex<Vec<String>>,
    called: Notify,
}

impl Receiver {
    fn new(script: impl Fn(&Message, usize) -> Option<Delivery> + Send + Sync + 'static) -> Arc<Receiver> {
        Arc::new(Receiver { script: Box::new(script), seen: Mutex::default(), called: Notify::new() })
    }

    fn fine() -> Arc<Receiver> {
        Receiver::new(|_, _| Some(Delivery::Delivered))
    }

    fn seen(&self) -> Vec<String> {
        self.seen.lock().unwrap().clone()
    }
}

impl Notifier for Receiver {
    fn deliver<'a>(&'a self, message: &'a Message, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        Box::pin(async move {
            let nth = {
                let mut seen = self.seen.lock().unwrap();
                seen.push(message.id.clone());
                seen.len() - 1
            };
            self.called.notify_one();
            match (self.script)(message, nth) {
                Some(delivery) => delivery,
                None => std::future::pending().await,
            }
        })
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}

fn row(id: &str, receiver: &str, thread: &str, created_ms: i64) -> Message {
    Message {
        id: id.into(),
        receiver: receiver.into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: String::new(),
        body: r#"{"data":{"reason":"new","exceptions":[{"change":"opened","at":"1970-01-01T00:00:00Z"}]}}"#
            .into(),
        thread: thread.into(),
        attempts: 0,
        created_ms,
        due_ms: created_ms,
        standing: 0,
    }
}

fn fail(class: FailureClass, scope: Scope) -> Option<Delivery> {
    Some(Delivery::Failed(Failure::new(class, scope, "as asked")))
}

struct Bench {
    outbox: Memory,
    clock: Arc<HandClock>,
    metrics: Arc<Metrics>,
    dispatcher: Dispatcher,
}

fn start(outbox: Memory, receivers: &[(&str, Arc<Receiver>)]) -> Bench {
    let clock = Arc::new(HandClock(AtomicI64::new(1_000), AtomicU64::new(0)));
    let metrics = Arc::new(Metrics::new().unwrap());
    metrics.set_receivers(receivers.iter().map(|(id, _)| (*id, "webhook")));
    let route = |(id, receiver): &(&str, Arc<Receiver>)| Route {
        receiver: (*id).to_owned(),
        integration: "webhook",
        notifier: receiver.clone(),
        restated: Vec::new(),
    };
    let routes = receivers.iter().map(route).collect();
    let options = Options { idle_max: Duration::from_millis(5), ..Options::default() };
    let wall: Arc<dyn WallClock> = clock.clone();
    let dispatcher = Dispatcher::start(&outbox, routes, &wall, &metrics, &options);
    Bench { outbox, clock, metrics, dispatcher }
}

impl Bench {
    fn set(&self, ms: i64) {
        self.clock.0.store(ms, Ordering::SeqCst);
    }

    /// Until the loop has asked the clock a few times more, whatever it did then.
    async fn looked(&self) {
        let asked = || self.clock.1.load(Ordering::SeqCst);
        let before = asked();
        while asked() < before + 4 {
            tokio::task::yield_now().await;
        }
    }

    #[track_caller]
    fn counted(&self, line: &str) {
        let text = self.metrics.text();
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }
}

#[tokio::test]
async fn what_is_due_is_delivered_and_counted() {
    let receiver = Receiver::fine();
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver)]);
    bench.outbox.delivered(&["r1"]).await;
    bench.outbox.put(row("r2", "erp", "g1", 500));
    bench.outbox.delivered(&["r2"]).await;
    bench.counted("parcelwatch_notifications_total{integration=\"webhook\",receiver=\"erp\"} 2");
    bench.counted("parcelwatch_notification_delay_seconds_count 2");
    bench.counted("parcelwatch_notification_delay_seconds_sum 2");
    bench.counted(
        "parcelwatch_notifications_failed_total{integration=\"webhook\",reason=\"transient\",receiver=\"erp\"} 0",
    );
}

#[tokio::test]
async fn a_transient_failure_is_tried_again_when_it_is_due_and_not_before() {
    let receiver = Receiver::new(|_, nth| {
        if nth == 0 { fail(FailureClass::Transient, Scope::Message) } else { Some(Delivery::Delivered) }
    });
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver.clone())]);
    let due = bench.outbox.retried("r1").await;
    assert!((5_000..=7_000).contains(&due), "{due}");
    bench.set(due - 1);
    bench.outbox.put(row("other", "erp", "g2", 0));
    bench.outbox.delivered(&["other"]).await;
    assert_eq!(receiver.seen(), ["r1", "other"]);
    bench.set(due);
    bench.outbox.delivered(&["r1"]).await;
    bench.counted(
        "parcelwatch_notifications_failed_total{integration=\"webhook\",reason=\"transient\",receiver=\"erp\"} 1",
    );
    bench.counted("parcelwatch_notifications_total{integration=\"webhook\",receiver=\"erp\"} 3");
}

#[tokio::test]
async fn messages_of_a_thread_keep_their_order_through_failures() {
    let receiver = Receiver::new(|message, nth| {
        if message.id == "r1" && nth == 0 {
            fail(FailureClass::Transient, Scope::Message)
        } else {
            Some(Delivery::Delivered)
        }
    });
    let rows = [row("r1", "erp", "g1", 0), row("r2", "erp", "g1", 1), row("r3", "erp", "g1", 2)];
    let bench = start(Memory::new(rows), &[("erp", receiver.clone())]);
    let due = bench.outbox.retried("r1").await;
    bench.set(due);
    bench.outbox.delivered(&["r1", "r2", "r3"]).await;
    assert_eq!(receiver.seen(), ["r1", "r1", "r2", "r3"]);
}

#[tokio::test]
async fn a_receiver_that_hangs_slows_nobody_else() {
    let (hanging, fine) = (Receiver::new(|_, _| None), Receiver::fine());
    let rows = (0..20).flat_map(|n| {
        let (a, b, g) = (format!("a{n}"), format!("b{n}"), format!("g{n}"));
        [row(&a, "slow", &g, 0), row(&b, "fine", &g, 0)]
    });
    let bench = start(Memory::new(rows), &[("slow", hanging.clone()), ("fine", fine)]);
    let ids: Vec<String> = (0..20).map(|n| format!("b{n}")).collect();
    bench.outbox.delivered(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert!(hanging.seen().len() <= 4, "more than {} tries at once", 4);
}

#[tokio::test]
async fn a_dead_receiver_is_probed_with_one_message_and_then_all_go_out() {
    let down = Arc::new(Mutex::new(true));
    let state = down.clone();
    let receiver = Receiver::new(move |_, _| {
        if *state.lock().unwrap() {
            fail(FailureClass::Transient, Scope::Receiver)
        } else {
            Some(Delivery::Delivered)
        }
    });
    let ids: Vec<String> = (0..30).map(|n| format!("r{n:02}")).collect();
    let bench = start(Memory::new(ids.iter().map(|id| row(id, "erp", id, 0))), &[("erp", receiver.clone())]);
    bench.outbox.until("a pause", |rows| rows.values().all(|s| s.outcome.is_some())).await;
    let first = receiver.seen().len();
    assert!(first <= 4, "{first} calls at an endpoint that is down");
    for round in 1..=3 {
        bench.set(1_000 + round * 100_000);
        receiver.called.notified().await;
        bench.outbox.until("the outcome", |rows| rows.values().all(|s| s.leased_until == 0)).await;
    }
    assert!(receiver.seen().len() <= first + 3, "one probe a pause: {:?}", receiver.seen());
    *down.lock().unwrap() = false;
    bench.set(10_000_000);
    bench.outbox.delivered(&ids.iter().map(String::as_str).collect::<Vec<_>>()).await;
}

#[tokio::test]
async fn what_is_refused_for_good_or_too_old_is_a_dead_letter() {
    let receiver = Receiver::new(|message, _| match message.id.as_str() {
        "refused" => fail(FailureClass::Permanent, Scope::Message),
        _ => fail(FailureClass::Transient, Scope::Message),
    });
    let old = row("old", "erp", "g2", -4 * 24 * HOUR);
    let bench = start(Memory::new([row("refused", "erp", "g1", 0), old]), &[("erp", receiver)]);
    bench
        .outbox
        .until("the end", |rows| rows.values().all(|s| matches!(s.outcome, Some(Outcome::Dead { .. }))))
        .await;
    let Some(Outcome::Dead { reason, detail }) = bench.outbox.outcome("refused") else { panic!() };
    assert_eq!((reason, detail.as_str()), ("permanent", "as asked"));
    bench.counted("parcelwatch_dead_letters_total{integration=\"webhook\",receiver=\"erp\"} 2");
}

#[tokio::test]
async fn after_a_410_nothing_is_sent_for_an_hour() {
    let receiver = Receiver::new(|_, nth| {
        if nth == 0 { fail(FailureClass::Permanent, Scope::Gone) } else { Some(Delivery::Delivered) }
    });
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver.clone())]);
    bench.outbox.until("the end", |rows| matches!(rows["r1"].outcome, Some(Outcome::Dead { .. }))).await;
    bench.outbox.put(row("r2", "erp", "g2", 0));
    bench.outbox.until("the end", |rows| matches!(rows["r2"].outcome, Some(Outcome::Dead { .. }))).await;
    assert_eq!(receiver.seen(), ["r1"]);
    bench.set(1_000 + HOUR);
    bench.outbox.put(row("r3", "erp", "g3", 0));
    bench.outbox.delivered(&["r3"]).await;
}

#[tokio::test]
async fn a_told_wait_is_kept_by_the_whole_receiver() {
    let receiver = Receiver::new(|_, nth| {
        if nth > 0 {
            return Some(Delivery::Delivered);
        }
        let limited = Failure::new(FailureClass::RateLimited, Scope::Receiver, "429");
        Some(Delivery::Failed(Failure { retry_after_ms: Some(90_000), ..limited }))
    });
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver.clone())]);
    assert_eq!(bench.outbox.retried("r1").await, 91_000);
    bench.set(90_999);
    bench.outbox.put(row("r2", "erp", "g2", 0));
    bench.looked().await;
    assert_eq!(receiver.seen(), ["r1"]);
    bench.set(91_000);
    bench.outbox.delivered(&["r1", "r2"]).await;
}

#[tokio::test]
async fn a_database_that_refuses_for_a_while_loses_nothing() {
    let receiver = Receiver::fine();
    let outbox = Memory::new([row("r1", "erp", "g1", 0)]);
    *outbox.failing.lock().unwrap() = 1;
    let bench = start(outbox.clone(), &[("erp", receiver.clone())]);
    bench.outbox.delivered(&["r1"]).await;
    *outbox.failing.lock().unwrap() = 0;
    assert_eq!(receiver.seen(), ["r1"]);
}

#[tokio::test]
async fn a_plain_fallback_is_delivered_and_counted_as_a_template_that_failed() {
    let receiver = Receiver::new(|_, _| Some(Delivery::DeliveredPlain("no such field".into())));
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver)]);
    bench.outbox.delivered(&["r1"]).await;
    bench.counted(
        "parcelwatch_notifications_failed_total{integration=\"webhook\",reason=\"template\",receiver=\"erp\"} 1",
    );
}

/// Answers yes when it is let through.
struct Gated(tokio::sync::Semaphore, AtomicU64);

impl Notifier for Gated {
    fn deliver<'a>(&'a self, _message: &'a Message, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        Box::pin(async move {
            self.1.fetch_add(1, Ordering::SeqCst);
            self.0.acquire().await.unwrap().forget();
            Delivery::Delivered
        })
    }
    fn limit(&self) -> Duration {
        Duration::from_secs(30)
    }
}

#[tokio::test]
async fn stopping_ends_what_is_in_flight_and_begins_nothing() {
    let outbox = Memory::new((0..9).map(|n| row(&format!("r{n}"), "erp", &format!("g{n}"), 0)));
    let receiver = Arc::new(Gated(tokio::sync::Semaphore::new(0), AtomicU64::new(0)));
    let clock: Arc<dyn WallClock> = Arc::new(HandClock::default());
    let metrics = Arc::new(Metrics::new().unwrap());
    let route = Route {
        receiver: "erp".into(),
        integration: "webhook",
        notifier: receiver.clone(),
        restated: Vec::new(),
    };
    let dispatcher = Dispatcher::start(&outbox, vec![route], &clock, &metrics, &Options::default());
    while receiver.1.load(Ordering::SeqCst) < 4 {
        tokio::task::yield_now().await;
    }
    dispatcher.stop.send(true).unwrap();
    receiver.0.add_permits(100);
    dispatcher.stop(Duration::from_secs(20)).await;
    let rows = outbox.rows.lock().unwrap().clone();
    let delivered = rows.values().filter(|s| s.outcome == Some(Outcome::Delivered)).count();
    assert_eq!((delivered, receiver.1.load(Ordering::SeqCst)), (4, 4));
    assert!(rows.values().all(|s| s.leased_until == 0), "a row that was not tried is held: {rows:#?}");
}

#[tokio::test]
async fn a_stop_does_not_wait_for_one_that_hangs() {
    let receiver = Receiver::new(|_, _| None);
    let bench = start(Memory::new([row("r1", "erp", "g1", 0)]), &[("erp", receiver.clone())]);
    receiver.called.notified().await;
    let begun = Instant::now();
    bench.dispatcher.stop(Duration::from_millis(50)).await;
    assert!(begun.elapsed() < Duration::from_secs(10));
    assert_eq!(bench.outbox.outcome("r1"), None, "its lease ends and it is sent again");
}

#[tokio::test]
async fn on_a_fast_clock_a_lease_still_outlasts_the_networks_limits() {
    struct Fast;
    impl WallClock for Fast {
        fn now_ms(&self) -> i64 {
            0
        }
        fn until(&self, ms: i64) -> Duration {
            Duration::from_millis(u64::try_from(ms).unwrap_or(0) / 500)
        }
    }
    let (_stop, stopped) = watch::channel(false);
    let worker = Worker {
        outbox: Memory::new([]),
        route: Route {
            receiver: "erp".into(),
            integration: "webhook",
            notifier: Receiver::fine(),
            restated: Vec::new(),
        },
        clock: Arc::new(Fast),
        metrics: Arc::new(Metrics::new().unwrap()),
        options: Options::default(),
        stop: stopped,
        health: Health::default(),
        ended: Vec::new(),
    };
    let lease = worker.lease();
    assert!(Fast.until(worker.lease_ms(lease)) >= lease);
}

/// One that forgets: it keeps what it is told anew.
struct Forgetful(Mutex<Vec<(String, usize)>>, Notify);

impl Notifier for Forgetful {
    fn deliver<'a>(&'a self, _message: &'a Message, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        Box::pin(async { Delivery::Delivered })
    }

    fn limit(&self) -> Duration {
        Duration::from_secs(1)
    }

    fn forgets(&self) -> bool {
        true
    }

    fn restate<'a>(
        &'a self,
        recipient: &'a str,
        standing: &'a [Stated],
        _now_ms: i64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.0.lock().unwrap().push((recipient.to_owned(), standing.len()));
        self.1.notify_one();
        let down = recipient == "down";
        Box::pin(async move {
            if down {
                return Err(Failure::new(FailureClass::Transient, Scope::Receiver, "no connection"));
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn what_stands_is_stated_anew_to_every_recipient_and_at_once() {
    let outbox = Memory::new([]);
    let stated = Stated { group: serde_json::Map::new(), listed: serde_json::Value::Null };
    *outbox.standing.lock().unwrap() = (1..=250).map(|n| (n, stated.clone())).collect();
    let receiver = Arc::new(Forgetful(Mutex::default(), Notify::new()));
    let clock: Arc<dyn WallClock> = Arc::new(HandClock(AtomicI64::new(1_000), AtomicU64::new(0)));
    let metrics = Arc::new(Metrics::new().unwrap());
    metrics.set_receivers([("am", "alertmanager")]);
    let restated = vec!["down".to_owned(), "up".to_owned()];
    let route =
        Route { receiver: "am".into(), integration: "alertmanager", notifier: receiver.clone(), restated };
    let dispatcher = Dispatcher::start(&outbox, vec![route], &clock, &metrics, &Options::default());
    let all = async {
        while receiver.0.lock().unwrap().len() < 5 {
            receiver.1.notified().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), all).await.expect("all slices");
    let told = receiver.0.lock().unwrap().clone();
    let told: Vec<(&str, usize)> = told.iter().map(|(to, n)| (to.as_str(), *n)).collect();
    // One that is down hears the first slice only; the last, empty one is for what ended lately.
    assert_eq!(told, [("down", 100), ("up", 100), ("up", 100), ("up", 50), ("up", 0)]);
    dispatcher.stop(Duration::from_secs(1)).await;
}
