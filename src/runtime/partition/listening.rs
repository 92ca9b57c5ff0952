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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::decode::{FactNames, decode};

    fn listen(records: &[(i64, &str)]) -> Listening {
        let mut listening = Listening::default();
        let names = FactNames::new(std::iter::empty());
        for (append, json) in records {
            let event = decode(json.as_bytes(), &names).expect("a record");
            listening.note(&event, Time(*append));
        }
        listening
    }

    const SCAN: &str = r#"{"parcel_id":"P1","milestone":"domestic_scan","event_time":"2026-10-14T07:00:00Z","lane":"CN-ES",
        "source":{"system":"correos"}}"#;

    #[test]
    fn a_feed_that_speaks_all_the_time_is_handed_over_now_and_then() {
        let mut listening = listen(&[(HOUR, SCAN), (HOUR + 1, SCAN), (HOUR + SLOT, SCAN), (3 * HOUR, SCAN)]);
        let heard = listening.take();
        let [heard] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((&*heard.source, &*heard.lane), ("correos", "CN-ES"));
        assert_eq!(heard.spoke, Some((HOUR, 3 * HOUR)));
        assert_eq!(heard.hours.iter().copied().collect::<Vec<_>>(), [1, 3]);
        assert!(listening.take().is_empty());
        let event = decode(SCAN.as_bytes(), &FactNames::new(std::iter::empty())).expect("a record");
        listening.note(&event, Time(3 * HOUR + SLOT - 1));
        assert!(listening.take().is_empty(), "nothing new within the slot");
        listening.note(&event, Time(3 * HOUR + SLOT));
        assert_eq!(listening.take().len(), 1);
    }

    #[test]
    fn health_is_what_a_record_without_a_parcel_says_and_no_sign_of_life() {
        let health = |more: &str| {
            format!(
                r#"{{"control":"feed_health","event_time":"1970-01-01T01:00:00Z","source":{{"system":"17track"}},{more}}}"#
            )
        };
        let about_feed = health(r#""feed_status":"failing""#);
        let about_parcel = health(r#""feed_status":"stopped","parcel_id":"P1""#);
        let unknown = health(r#""feed_status":"tired""#);
        let test = health(r#""feed_status":"stopped","is_test":true"#);
        let records = [about_feed.as_str(), &about_parcel, &unknown, &test].map(|r| (2 * HOUR, r));
        let heard = listen(&records).take();
        let [heard] = &heard[..] else { panic!("{heard:?}") };
        assert_eq!((heard.health, heard.spoke), (Some((HOUR, Health::Failing)), None));
        // A time far ahead of its being stored is none.
        let heard = listen(&[(0, &about_feed)]).take();
        assert_eq!(heard[0].health, Some((0, Health::Failing)));
    }
}
