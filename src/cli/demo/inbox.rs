//! What arrived at the embedded receivers, in order, and what was wrong with it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use super::clock::FastClock;
use crate::model::Time;

/// One exception in one message.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Notice {
    /// Its id.
    pub exception_id: String,
    /// The parcel.
    pub parcel_id: String,
    /// `opened`, `raised`, `reminder` or `resolved` in a webhook; a mail tells only whether it is over: `""` or `resolved`.
    pub change: String,
    /// In lower case; of a mail's resolve "".
    pub severity: String,
    /// What only a webhook tells: stage and `at` of the change.
    pub news: Option<(u64, String)>,
}

/// One message that somebody got.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Arrival {
    /// `webhook-id`, or the local part of `Message-ID`.
    pub id: String,
    /// A mail's recipient; "" for the webhook.
    pub recipient: String,
    /// A mail's subject, a webhook's `type`.
    pub title: String,
    /// The step of the ladder; `None` on resolves.
    pub step: Option<u64>,
    /// What it says.
    pub notices: Vec<Notice>,
}

struct Held {
    clock: FastClock,
    /// By recipient and id, to know repeats.
    seen: BTreeMap<(String, String), usize>,
    arrivals: Vec<(Time, Arrival)>,
    repeats: u64,
    faults: Vec<String>,
}

/// Where all receivers put what they got. Clones are the same inbox.
#[derive(Clone)]
pub struct Inbox(Arc<Mutex<Held>>);

/// Faults kept at most; one is enough to fail.
const FAULTS: usize = 100;

impl Inbox {
    /// An empty one; what it gets is stamped by this clock.
    #[must_use]
    pub fn new(clock: FastClock) -> Inbox {
        let (seen, arrivals, faults) = (BTreeMap::new(), Vec::new(), Vec::new());
        Inbox(Arc::new(Mutex::new(Held { clock, seen, arrivals, repeats: 0, faults })))
    }

    fn held(&self) -> std::sync::MutexGuard<'_, Held> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a message. The same id again is a repeat, which is allowed where it says the same.
    pub fn put(&self, arrival: Arrival) {
        let mut held = self.held();
        let key = (arrival.recipient.clone(), arrival.id.clone());
        match held.seen.get(&key).copied() {
            None => {
                let place = held.arrivals.len();
                held.seen.insert(key, place);
                let at = held.clock.now();
                held.arrivals.push((at, arrival));
            }
            Some(place) if held.arrivals[place].1 == arrival => held.repeats += 1,
            Some(_) => {
                drop(held);
                self.fault(format!(
                    "message {} came twice and said something else the second time",
                    arrival.id
                ));
            }
        }
    }

    /// Notes what should not happen.
    pub fn fault(&self, text: String) {
        let mut held = self.held();
        if held.faults.len() < FAULTS {
            held.faults.push(text);
        }
    }

    /// Messages from the `n`-th on, with the time they came.
    #[must_use]
    pub fn since(&self, n: usize) -> Vec<(Time, Arrival)> {
        self.held().arrivals.get(n..).unwrap_or_default().to_vec()
    }

    /// Mails, webhooks, repeats so far.
    #[must_use]
    pub fn counts(&self) -> (usize, usize, u64) {
        let held = self.held();
        let hooks = held.arrivals.iter().filter(|(_, a)| a.recipient.is_empty()).count();
        (held.arrivals.len() - hooks, hooks, held.repeats)
    }

    /// What was wrong.
    #[must_use]
    pub fn faults(&self) -> Vec<String> {
        self.held().faults.clone()
    }
}
