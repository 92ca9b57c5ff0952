//! A network of parcels on their way from China to five countries: most go well, some do not.
//!
//! Everything is a function of the seed and the time: the n-th parcel sets out in the n-th interval, and its whole life
//! ([`super::life`]) is rolled when it does. Records come out in the order in which their senders tell them.

use std::collections::BTreeMap;

use super::dice::Dice;
use super::life;
use crate::model::{MINUTE, Time};

/// A parcel sets out once in this time: 19 a day, few enough that a reader can follow what goes wrong.
const EVERY: i64 = 75 * MINUTE;

/// One record of the topic.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Telling {
    /// When its sender tells it.
    pub at: Time,
    /// Kafka's key.
    pub parcel_id: String,
    /// The JSON object but for its last brace and `received_time`.
    pub body: String,
}

impl Telling {
    /// The record's value as the broker gets it at this time.
    #[must_use]
    pub fn value(&self, received: Time) -> String {
        format!("{},\"received_time\":\"{received}\"}}", self.body)
    }
}

/// The network, as far as it has been told.
#[derive(Clone, Debug)]
pub struct Network {
    seed: u64,
    from: Time,
    parcels: u64,
    /// Ahead of the clock: what parcels that have set out will tell. The number keeps equal times in order.
    coming: BTreeMap<(Time, u64), Telling>,
    rolled: u64,
}

impl Network {
    /// A network whose first parcel sets out at `from`.
    #[must_use]
    pub fn new(seed: u64, from: Time) -> Network {
        Network { seed, from, parcels: 0, coming: BTreeMap::new(), rolled: 0 }
    }

    /// Parcels that have set out.
    #[must_use]
    pub fn parcels(&self) -> u64 {
        self.parcels
    }

    /// What is told by `now` and was not yet handed out, in order.
    pub fn tell(&mut self, now: Time) -> Vec<Telling> {
        while self.sets_out(self.parcels) <= now {
            self.set_out();
        }
        let later = self.coming.split_off(&(now.plus(1), 0));
        std::mem::replace(&mut self.coming, later).into_values().collect()
    }

    /// The earliest that the next record can come.
    #[must_use]
    pub fn next(&self) -> Time {
        let told = self.coming.keys().next().map_or(Time::MAX, |(at, _)| *at);
        told.min(self.sets_out(self.parcels))
    }

    fn sets_out(&self, n: u64) -> Time {
        self.from.plus(i64::try_from(n).unwrap_or(i64::MAX).saturating_mul(EVERY))
    }

    fn set_out(&mut self) {
        let n = self.parcels;
        let mut dice = Dice::new(self.seed, n);
        let at = self.sets_out(n).plus(dice.between(0, EVERY - 1));
        for telling in life::live(n, at, dice) {
            self.coming.insert((telling.at, self.rolled), telling);
            self.rolled += 1;
        }
        self.parcels += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::model::{Control, DAY};
    use crate::source::decode::{FactNames, decode};

    fn from() -> Time {
        Time::parse("2026-10-01T00:00:00Z").unwrap()
    }

    fn all(seed: u64, days: i64) -> Vec<Telling> {
        Network::new(seed, from()).tell(from().plus(days * DAY))
    }

    #[test]
    fn the_same_seed_tells_the_same_however_often_it_is_asked() {
        let mut network = Network::new(7, from());
        let mut steps = Vec::new();
        let mut now = from();
        while now < from().plus(30 * DAY) {
            now = now.plus(17 * MINUTE + 3);
            steps.extend(network.tell(now));
        }
        assert_eq!(steps, Network::new(7, from()).tell(now));
        assert_ne!(steps, Network::new(8, from()).tell(now));
        assert!(steps.is_sorted_by_key(|t| t.at));
        assert!(network.next() > now);
        assert_eq!(network.tell(now), []);
    }

    #[test]
    fn every_record_but_the_broken_ones_decodes_and_none_is_from_the_future() {
        let names = FactNames::new(std::iter::empty());
        let (mut broken, mut milestones, mut controls) = (0, BTreeSet::new(), BTreeSet::new());
        let told = all(1, 60);
        for telling in &told {
            let value = telling.value(telling.at);
            match decode(value.as_bytes(), &names) {
                Err(_) => broken += 1,
                Ok(event) => {
                    assert_eq!(event.file_append(), telling.at, "{value}");
                    assert!(event.event_time <= telling.at, "{value}");
                    assert_eq!(event.parcel_id, telling.parcel_id, "{value}");
                    milestones.extend(event.milestone);
                    controls.extend(event.control.map(|c| c as u8));
                }
            }
        }
        assert!(broken > 0 && broken * 100 < told.len(), "{broken}");
        assert!(milestones.len() >= 18, "{milestones:?}");
        for control in [Control::EventRetracted, Control::ParcelFacts, Control::TrackingLinked] {
            assert!(controls.contains(&(control as u8)), "{control:?}");
        }
    }

    #[test]
    fn a_month_fits_the_mock_broker() {
        let told = all(1, 40);
        let bytes: usize = told.iter().map(|t| t.value(t.at).len()).sum();
        let parcels: BTreeSet<_> = told.iter().map(|t| &t.parcel_id).collect();
        assert!((700..800).contains(&parcels.len()), "{}", parcels.len());
        assert!(bytes < 8 << 20, "{bytes}");
    }
}
