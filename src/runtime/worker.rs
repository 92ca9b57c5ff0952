//! The threads that fold: one per core, each with partitions of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, select};
use tokio::sync::{mpsc, oneshot};

use super::partition::{Partition, Turn};
use super::progress::Progress;
use crate::engine::swap::Foreseen;
use crate::model::Time;
use crate::rules::RuleSet;
use crate::source::kafka::Doorbell;

/// What a thread is told.
pub enum Order {
    /// A partition begins.
    Add(Box<Partition>),
    /// A partition was taken away. The answer is the number of its last write that is on its way.
    Remove(i32, Sender<u64>),
    /// What is known of a parcel: the partition it is in and its JSON; with a question, what its rules make of it.
    Parcel(String, Option<Question>, oneshot::Sender<Option<(i32, String)>>),
    /// These rules are wanted from now on.
    Rules(Arc<RuleSet>),
    /// What would these rules change? Each partition answers once.
    Preview(Arc<RuleSet>, mpsc::Sender<(i32, Foreseen)>),
    /// Hand over everything, save what there is time for, and end.
    Stop(Instant),
}

/// What is to be explained of a parcel.
#[derive(Debug, Clone, Default)]
pub struct Question {
    /// This rule alone.
    pub rule: Option<String>,
    /// As it would be then, if nothing comes.
    pub at: Option<Time>,
}

/// Orders that wait.
const ORDERS: usize = 256;
/// An idle thread looks around this often although nobody rang: certificates run out, positions are recorded.
const LOOK: Duration = Duration::from_millis(100);
/// How soon a thread tries again what a full queue refused.
const AGAIN: Duration = Duration::from_millis(5);

/// One thread, from outside.
pub struct Worker {
    orders: Sender<Order>,
    bell: Doorbell,
    thread: JoinHandle<()>,
}

impl Worker {
    /// Starts a thread.
    ///
    /// # Errors
    /// The system refuses one.
    pub fn start(number: usize, progress: Arc<Progress>) -> std::io::Result<Worker> {
        let (orders, received) = bounded(ORDERS);
        let (bell, heard) = Doorbell::new();
        let name = format!("fold-{number}");
        let body = Body {
            name: name.clone(),
            progress,
            orders: received,
            heard,
            partitions: BTreeMap::new(),
            wanted: None,
        };
        let thread = std::thread::Builder::new().name(name).spawn(move || body.run())?;
        Ok(Worker { orders, bell, thread })
    }

    /// The bell that wakes it.
    #[must_use]
    pub fn bell(&self) -> Doorbell {
        self.bell.clone()
    }

    /// Tells it something. `false`: it has ended.
    pub fn order(&self, order: Order) -> bool {
        self.orders.send(order).is_ok()
    }

    /// Asks without waiting for room.
    pub fn ask(&self, order: Order) -> bool {
        self.orders.try_send(order).is_ok()
    }

    /// Waits for its end.
    pub fn join(self) {
        if self.thread.join().is_err() {
            tracing::error!("a folding thread panicked");
        }
    }

    /// Whether it has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }
}

struct Body {
    name: String,
    progress: Arc<Progress>,
    orders: Receiver<Order>,
    heard: Receiver<()>,
    partitions: BTreeMap<i32, Partition>,
    /// The rules wanted last: a partition that was being loaded meanwhile began with others.
    wanted: Option<Arc<RuleSet>>,
}

impl Body {
    fn run(mut self) {
        loop {
            self.progress.beat(&self.name);
            while let Ok(order) = self.orders.try_recv() {
                if let Some(deadline) = self.obey(order) {
                    self.finish(deadline);
                    self.progress.ended(&self.name);
                    return;
                }
            }
            let turns = self.partitions.values_mut().map(Partition::turn);
            let wait = turns.fold(LOOK, |wait, turn| match turn {
                Turn::Busy => Duration::ZERO,
                Turn::Full => wait.min(AGAIN),
                Turn::Idle => wait,
            });
            if !wait.is_zero() && self.orders.is_empty() {
                select! {
                    recv(self.heard) -> _ => {}
                    default(wait) => {}
                }
            }
        }
    }

    /// The deadline where that was the last order.
    fn obey(&mut self, order: Order) -> Option<Instant> {
        match order {
            Order::Add(mut partition) => {
                if let Some(rules) = &self.wanted {
                    partition.want(Arc::clone(rules));
                }
                self.partitions.insert(partition.id(), *partition);
            }
            Order::Remove(id, answer) => {
                let last = self.partitions.remove(&id).map_or(0, |mut p| p.leave());
                // Whoever asked has left.
                let _ = answer.send(last);
            }
            Order::Parcel(id, question, answer) => {
                let found =
                    self.partitions.values().find_map(|p| Some((p.id(), p.parcel(&id, question.as_ref())?)));
                // Whoever asked has left.
                let _ = answer.send(found);
            }
            Order::Rules(rules) => {
                for partition in self.partitions.values_mut() {
                    partition.want(Arc::clone(&rules));
                }
                self.wanted = Some(rules);
            }
            Order::Preview(rules, answer) => {
                for partition in self.partitions.values_mut() {
                    partition.preview(Arc::clone(&rules), answer.clone());
                }
            }
            Order::Stop(deadline) => return Some(deadline),
        }
        None
    }

    /// Folds no more; hands over everything, then saves as long as there is time.
    fn finish(&mut self, deadline: Instant) {
        // Each is asked in each round, so that none waits for another.
        while self.partitions.values_mut().filter_map(|p| (!p.finish()).then_some(())).count() > 0
            && Instant::now() < deadline
        {
            std::thread::sleep(AGAIN);
        }
        for partition in self.partitions.values_mut() {
            if !(partition.is_saving() || partition.finish() && partition.begin_save()) {
                continue;
            }
            while Instant::now() < deadline {
                match partition.continue_save() {
                    Turn::Busy => {}
                    Turn::Full => std::thread::sleep(AGAIN),
                    Turn::Idle => break,
                }
            }
        }
    }
}
