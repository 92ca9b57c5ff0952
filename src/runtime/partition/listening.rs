//! What the records of a partition tell of feeds: which speak, and what is said of them as a whole (DESIGN §7).

use std::collections::{BTreeMap, HashMap};
use std::sync::LazyLock;

use crate::engine::parcel::FUTURE;
use crate::escalation::feeds::{Health, Heard};
use crate::model::{Control, Event, FactValue, HOUR, MINUTE, Time, known_fact};

/// That a feed spoke is handed over once in so long: by the hour is all that is asked of it.
const SLOT: i64 = 10 * MINUTE;
/// Feeds listened to; what names more is not learnt.
const MAX_FEEDS: usize = 10_000;
/// A name is no longer, in bytes.
const MAX_NAME: usize = 200;

static NUMBERS: LazyLock<[Option<u16>; 3]> =
    LazyLock::new(|| ["source.system", "lane", "feed_status"].map(known_fact));

/// What was heard and is not handed over yet.
#[derive(Default)]
pub(super) struct Listening {
    /// The slot handed over last, by source and lane.
    slots: HashMap<String, HashMap<String, i64>>,
    known: usize,
    news: BTreeMap<(String, String), Heard>,
}

impl Listening {
    /// A record was folded. What is heard twice is known twice: [`crate::escalation::feeds`] does not count.
    pub(super) fn note(&mut self, event: &Event<'_>, append: Time) {
        let [source, lane, status] = (*NUMBERS).map(|number| stated(event, number));
        let source = source.filter(|s| s.len() <= MAX_NAME).unwrap_or_default();
        let lane = lane.filter(|l| l.len() <= MAX_NAME && !source.is_empty()).unwrap_or_default();
        if event.is_test {
            return;
        }
        if event.control != Some(Control::FeedHealth) {
            self.spoke(source, lane, append);
        } else if event.parcel_id.is_empty()
            && !source.is_empty()
            && let Some(health) = status.and_then(Health::from_name)
        {
            let ahead = event.event_time > append.plus(FUTURE);
            let at = if ahead { append } else { event.event_time };
            let heard = self.news(source, lane);
            heard.health = heard.health.max(Some((at.0, health)));
        }
    }

    fn spoke(&mut self, source: &str, lane: &str, append: Time) {
        let slot = append.0.div_euclid(SLOT);
        match self.slots.get_mut(source).and_then(|lanes| lanes.get_mut(lane)) {
            Some(last) if *last == slot => return,
            Some(last) => *last = slot,
            None if self.known >= MAX_FEEDS => return,
            None => {
                self.known += 1;
                self.slots.entry(source.to_owned()).or_default().insert(lane.to_owned(), slot);
            }
        }
        let heard = self.news(source, lane);
        let (first, last) = heard.spoke.unwrap_or((append.0, append.0));
        heard.spoke = Some((first.min(append.0), last.max(append.0)));
        heard.hours.insert(append.0.div_euclid(HOUR));
    }

    fn news(&mut self, source: &str, lane: &str) -> &mut Heard {
        self.news.entry((source.to_owned(), lane.to_owned())).or_insert_with(|| Heard {
            source: source.to_owned(),
            lane: lane.to_owned(),
            ..Heard::default()
        })
    }

    /// What is new since the last call.
    pub(super) fn take(&mut self) -> Vec<Heard> {
        std::mem::take(&mut self.news).into_values().collect()
    }
}

fn stated<'a>(event: &'a Event<'_>, number: Option<u16>) -> Option<&'a str> {
    match event.facts.iter().find(|(n, _)| Some(*n) == number) {
        Some((_, FactValue::Text(text))) => Some(text),
        _ => None,
    }
}
