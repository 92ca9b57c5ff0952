//! Feeds as a whole: whether one that normally speaks does, and what it says of itself (DESIGN §7). While a feed's incident
//! stands, it is told in place of the exceptions of the parcels that last spoke through it.
//!
//! What is kept of a feed is the set of hours, by append time, in which it spoke: hearing the same records again, in any order
//! and from any number of partitions, gives the same set. So a replay, a rebalance and a restart learn nothing wrong.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use super::body::{Own, own};
use super::{Member, State, Told, id_of, quiet};
use crate::model::{DAY, HOUR, Time};
use crate::rules::policies::FeedWatch;

/// Hours remembered: four weeks.
const KEPT: i64 = 28 * 24;
const WEEK: i64 = 7 * 24;
/// Nothing is expected of a feed that spoke in fewer hours.
const SPOKEN_LEAST: i64 = 12;
/// Nor of one that has been known for less, in milliseconds.
const KNOWN_LEAST: i64 = DAY;
/// What a feed said of itself is over once it has spoken in so many hours since.
const OUTLIVED: i64 = 3;

/// The hours, counted from 1970, in which a feed spoke.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hours {
    /// The latest; [`i64::MIN`]: none.
    newest: i64,
    bits: [u8; KEPT as usize / 8],
}

impl Default for Hours {
    fn default() -> Hours {
        Hours { newest: i64::MIN, bits: [0; KEPT as usize / 8] }
    }
}

impl Hours {
    /// The latest hour in which it spoke.
    #[must_use]
    pub const fn newest(&self) -> Option<i64> {
        if self.newest == i64::MIN { None } else { Some(self.newest) }
    }

    /// It spoke in this hour. What is more than four weeks older than the newest is left out.
    pub fn hear(&mut self, hour: i64) {
        if self.newest == i64::MIN {
            self.newest = hour;
        }
        if hour <= self.newest.saturating_sub(KEPT) {
            return;
        }
        if hour > self.newest {
            for passed in self.newest.max(hour - KEPT)..hour {
                self.set(passed + 1, false);
            }
            self.newest = hour;
        }
        self.set(hour, true);
    }

    fn set(&mut self, hour: i64, spoke: bool) {
        let (byte, bit) = place(hour);
        self.bits[byte] = self.bits[byte] & !bit | if spoke { bit } else { 0 };
    }

    /// Whether it spoke in an hour that is remembered, or has come since.
    fn spoke(&self, hour: i64) -> bool {
        let (byte, bit) = place(hour);
        hour <= self.newest && hour > self.newest - KEPT && self.bits[byte] & bit != 0
    }

    /// In how many hours after this one.
    fn since(&self, hour: i64) -> i64 {
        let from = hour.max(self.newest.saturating_sub(KEPT)).saturating_add(1);
        (from..=self.newest).filter(|h| self.spoke(*h)).count() as i64
    }

    /// As text, for a database.
    #[must_use]
    pub fn text(&self) -> String {
        let digits: String = self.bits.iter().map(|b| format!("{b:02x}")).collect();
        format!("{}:{digits}", self.newest)
    }

    /// What [`Hours::text`] wrote; anything else is read as far as it goes.
    #[must_use]
    pub fn parse(text: &str) -> Hours {
        let mut hours = Hours::default();
        let Some((newest, digits)) = text.split_once(':') else { return hours };
        let Some(newest) = newest.parse().ok().filter(|n: &i64| n.unsigned_abs() < 1 << 40) else {
            return hours;
        };
        hours.newest = newest;
        for (byte, pair) in hours.bits.iter_mut().zip(digits.as_bytes().chunks(2)) {
            let pair = std::str::from_utf8(pair).unwrap_or_default();
            *byte = u8::from_str_radix(pair, 16).unwrap_or(0);
        }
        hours
    }
}

const fn place(hour: i64) -> (usize, u8) {
    let at = hour.rem_euclid(KEPT);
    (at as usize / 8, 1 << (at % 8))
}

/// What a `feed_health` record says; at one time the worst counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Health {
    Success,
    Failing,
    Stopped,
}

impl Health {
    /// The health of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Health> {
        [Health::Success, Health::Failing, Health::Stopped].into_iter().find(|h| h.name() == name)
    }

    /// Its name in records and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Health::Success => "success",
            Health::Failing => "failing",
            Health::Stopped => "stopped",
        }
    }
}

/// What is wrong with a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Trouble {
    /// It normally speaks and does not.
    Silent,
    Failing,
    Stopped,
}

impl Trouble {
    /// All of them.
    pub const ALL: [Trouble; 3] = [Trouble::Silent, Trouble::Failing, Trouble::Stopped];

    /// The trouble of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Trouble> {
        Trouble::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Its name in SQL and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Trouble::Silent => "silent",
            Trouble::Failing => "failing",
            Trouble::Stopped => "stopped",
        }
    }
}

/// What some records told of a feed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Heard {
    /// `source.system`.
    pub source: String,
    /// `lane`; "": none was named.
    pub lane: String,
    /// Append times of the first and the last of its records; `None`: none of them was of the feed itself.
    pub spoke: Option<(i64, i64)>,
    /// The hours in which they were appended.
    pub hours: BTreeSet<i64>,
    /// What was said of its health, and of when.
    pub health: Option<(i64, Health)>,
}

/// A source, or what it says of one lane.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Feed {
    /// Its number.
    pub number: i64,
    /// `source.system`.
    pub source: String,
    /// `lane`; "": the source as a whole.
    pub lane: String,
    /// Append time of the first record known.
    pub first_ms: i64,
    /// Append time of the latest one; a little before it, where records are many.
    pub last_ms: i64,
    /// When it spoke.
    pub hours: Hours,
    /// What it last said of itself.
    pub health: Option<(i64, Health)>,
    /// What stands.
    pub incident: Option<Incident>,
    /// Who was told of an incident and not yet of its end.
    pub told: BTreeSet<Told>,
}

/// A feed's incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Incident {
    /// What is wrong.
    pub trouble: Trouble,
    /// Since when: its last record, or what it said of itself.
    pub since_ms: i64,
    /// Wall time at which it was noticed.
    pub opened_ms: i64,
}

impl Feed {
    /// Takes in what was heard; the same again changes nothing. Whether anything is new.
    pub fn hear(&mut self, heard: &Heard) -> bool {
        let before = (self.first_ms, self.last_ms, self.hours.clone(), self.health);
        if let Some((first, last)) = heard.spoke {
            let unknown = self.hours.newest().is_none();
            self.first_ms = if unknown { first } else { self.first_ms.min(first) };
            self.last_ms = if unknown { last } else { self.last_ms.max(last) };
            heard.hours.iter().for_each(|hour| self.hours.hear(*hour));
        }
        self.health = self.health.max(heard.health);
        before != (self.first_ms, self.last_ms, self.hours.clone(), self.health)
    }

    /// What is wrong with it and since when, where everything appended before `known_to` is known. `silent_after`: how long any feed
    /// may say nothing.
    #[must_use]
    pub fn trouble(&self, silent_after: i64, known_to: i64) -> Option<(Trouble, i64)> {
        let said = self.health.filter(|(at, _)| self.hours.since(at.div_euclid(HOUR)) < OUTLIVED);
        match said {
            Some((at, Health::Failing)) => return Some((Trouble::Failing, at)),
            Some((at, Health::Stopped)) => return Some((Trouble::Stopped, at)),
            _ => {}
        }
        self.is_silent(silent_after, known_to).then_some((Trouble::Silent, self.last_ms))
    }

    fn is_silent(&self, silent_after: i64, known_to: i64) -> bool {
        let Some(newest) = self.hours.newest() else { return false };
        if self.source.is_empty()
            || self.last_ms.saturating_sub(self.first_ms) < KNOWN_LEAST
            || self.hours.since(i64::MIN) < SPOKEN_LEAST
        {
            return false;
        }
        // The hour in which it last spoke and the present one are not whole.
        let now = known_to.div_euclid(HOUR);
        let missed = (newest + 1..now.min(newest + KEPT)).filter(|h| self.counts(*h)).count() as i64;
        missed * HOUR >= silent_after && missed >= 2 * self.usual_gap(newest)
    }

    /// Whether silence in this hour says anything: not where it was silent in the same hour of all the weeks before. So
    /// nights and week-ends of a feed that has some raise no alarm.
    fn counts(&self, hour: i64) -> bool {
        let Some(newest) = self.hours.newest() else { return false };
        let begun = self.first_ms.div_euclid(HOUR).max(newest - KEPT + 1);
        let mut known = (1..=3).map(|week| hour - week * WEEK).filter(|h| *h >= begun && *h <= newest);
        let spoke = known.clone().any(|h| self.hours.spoke(h));
        spoke || known.next().is_none()
    }

    /// Its longest silence of the last four weeks, in hours that count. Once its weeks are known, one is left out: an outage is
    /// no habit.
    fn usual_gap(&self, newest: i64) -> i64 {
        let begun = self.first_ms.div_euclid(HOUR).max(newest - KEPT + 1);
        let weekly = newest - begun >= 2 * WEEK;
        let (mut run, mut longest, mut second) = (0, 0, 0);
        for hour in if weekly { begun + WEEK } else { begun }..=newest {
            if !self.hours.spoke(hour) {
                run += i64::from(self.counts(hour));
                continue;
            }
            second = second.max(run.min(longest));
            longest = longest.max(run);
            run = 0;
        }
        if weekly { second } else { longest }
    }

    /// Nothing was heard of it for so long that it is no feed any more.
    #[must_use]
    pub fn is_forgotten(&self, known_to: i64) -> bool {
        let newest = self.hours.newest().map_or(i64::MIN, |h| h.saturating_mul(HOUR));
        let said = self.health.map_or(i64::MIN, |(at, _)| at);
        newest.max(said) < known_to.saturating_sub(KEPT * HOUR)
    }
}

/// Brings the incidents of all feeds up to date, at wall time `now`. `watermark`: everything appended before it is known, of every partition.
/// Returns the places of those that changed.
///
/// Silence is measured against other records, never against the wall clock: by the watermark, so that our own lag looks like no silence, and
/// by the newest record there is, so that a topic on which nobody speaks is nobody's fault.
pub fn decide(feeds: &mut [Feed], watch: Option<&FeedWatch>, watermark: Time, now: i64) -> Vec<usize> {
    let newest = feeds.iter().filter(|f| f.hours.newest().is_some()).map(|f| f.last_ms).max();
    let known_to = watermark.0.min(newest.unwrap_or(i64::MIN));
    let mut changed = Vec::new();
    for (at, feed) in feeds.iter_mut().enumerate() {
        let wanted = watch
            .filter(|_| !feed.is_forgotten(watermark.0))
            .and_then(|w| feed.trouble(w.silent_after, known_to));
        if wanted.map(|(t, _)| t) == feed.incident.map(|i| i.trouble) {
            continue;
        }
        // One trouble after another is one incident.
        let opened_ms = feed.incident.map_or(now, |i| i.opened_ms);
        feed.incident = wanted.map(|(trouble, since_ms)| Incident { trouble, since_ms, opened_ms });
        changed.push(at);
    }
    changed
}

/// Incidents that stand, by source and lane: the number of the feed.
pub type Incidents = BTreeMap<(String, String), i64>;

/// Adds to `sources` which of the members last spoke through a feed with an incident: the number of the feed, negative, for a
/// feed is no exception. One of the whole source goes before one of a lane.
pub fn explain(
    watch: &FeedWatch,
    incidents: &Incidents,
    members: &[Member],
    sources: &mut BTreeMap<i64, i64>,
) {
    if incidents.is_empty() {
        return;
    }
    for Member { case, evidence, .. } in members {
        let text =
            |name: &str| evidence.facts.get(name).and_then(|v| v.as_str()).unwrap_or_default().to_owned();
        let source = text("source.system");
        if source.is_empty()
            || sources.contains_key(&case.number)
            || !watch.target.holds(&quiet::said(case, evidence))
        {
            continue;
        }
        let whole = incidents.get(&(source.clone(), String::new()));
        if let Some(number) = whole.or_else(|| incidents.get(&(source, text("lane")))) {
            sources.insert(case.number, -number);
        }
    }
}

/// The body of a message about a feed, in the shape of DESIGN §11.
#[must_use]
pub fn body(feed: &Feed, id: &str, to: &Told, now: i64) -> String {
    let (kind, state) = match feed.incident {
        Some(_) => ("feed.incident", State::Open),
        None => ("feed.resolved", State::Resolved),
    };
    let lane = if feed.lane.is_empty() { Value::Null } else { feed.lane.clone().into() };
    let since = feed.incident.map(|i| Time(i.since_ms).to_string());
    let incident = feed.incident.map(|i| i.trouble.name());
    let last = feed.hours.newest().map(|_| Time(feed.last_ms).to_string());
    let mut body = own(&Own {
        kind,
        reason: kind,
        id,
        receiver: &to.receiver,
        thread: &feed.thread(),
        state,
        summary: &summary(feed),
        now,
    });
    body["data"]["group"] = json!({"source": feed.source, "lane": lane});
    body["data"]["feed"] = json!({"source": feed.source, "lane": lane, "incident": incident, "since": since, "last_record": last});
    body.to_string()
}

/// What is said of a feed, in lines.
fn summary(feed: &Feed) -> Vec<String> {
    let name = feed.name();
    let time = |ms| Time(ms).to_string();
    let Some(incident) = feed.incident else {
        let last = feed.hours.newest().map(|_| format!(" Its latest record: {}.", time(feed.last_ms)));
        return vec![
            format!("The incident of the feed {name} is over.{}", last.unwrap_or_default()),
            "What is still open of its parcels is told from now on.".to_owned(),
        ];
    };
    let since = time(incident.since_ms);
    let first = match incident.trouble {
        Trouble::Silent => {
            format!("The feed {name} is silent: nothing came since {since}, though others speak.")
        }
        Trouble::Failing => format!("The feed {name} says that it is failing, since {since}."),
        Trouble::Stopped => format!("The feed {name} says that it has stopped, at {since}."),
    };
    vec![
        first,
        "Exceptions of parcels that last spoke through it are held back until this is over; then what is still open is told.".to_owned(),
    ]
}

impl Feed {
    /// The thread of its messages.
    #[must_use]
    pub fn thread(&self) -> String {
        id_of(&["feed", &self.source, &self.lane])
    }

    /// The id of a message to somebody: one for the beginning, one for the end of each incident.
    #[must_use]
    pub fn message_id(&self, to: &Told, now: i64) -> String {
        let (word, at) = self.incident.map_or(("resolved", now), |i| ("incident", i.opened_ms));
        id_of(&[word, &self.source, &self.lane, &to.receiver, &to.recipient, &at.to_string()])
    }

    /// Its name, for people.
    #[must_use]
    pub fn name(&self) -> String {
        if self.lane.is_empty() { self.source.clone() } else { format!("{} ({})", self.source, self.lane) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::condition::Condition;

    const TWO_HOURS: i64 = 2 * HOUR;

    fn spoke(hours: impl IntoIterator<Item = i64>) -> Feed {
        let mut feed = Feed { source: "17track".into(), ..Feed::default() };
        feed.hear(&heard(hours));
        feed
    }

    fn heard(hours: impl IntoIterator<Item = i64>) -> Heard {
        let hours: BTreeSet<i64> = hours.into_iter().collect();
        let of = |h: Option<&i64>| h.map(|h| h * HOUR);
        let spoke = of(hours.first()).zip(of(hours.last()));
        Heard { source: "17track".into(), hours, spoke, ..Heard::default() }
    }

    /// The hour in which silence is first noticed, within a month.
    fn noticed(feed: &Feed) -> Option<i64> {
        let newest = feed.hours.newest()?;
        (newest..newest + KEPT).find(|h| feed.trouble(TWO_HOURS, h * HOUR).is_some())
    }

    #[test]
    fn a_feed_that_always_speaks_is_missed_after_two_whole_hours() {
        let feed = spoke(0..48);
        assert_eq!(noticed(&feed), Some(50));
        assert_eq!(feed.trouble(TWO_HOURS, 50 * HOUR - 1), None, "the second hour is not whole");
        assert_eq!(feed.trouble(TWO_HOURS, 50 * HOUR), Some((Trouble::Silent, 47 * HOUR)));
        assert_eq!(feed.trouble(5 * HOUR, 50 * HOUR), None);
    }

    #[test]
    fn what_is_new_or_rare_is_not_expected() {
        assert_eq!(noticed(&spoke(0..20)), None, "known for less than a day");
        assert_eq!(noticed(&spoke((0..11).map(|n| n * 24))), None, "spoke in eleven hours");
        assert_eq!(noticed(&Feed { source: String::new(), ..spoke(0..48) }), None, "of no source");
    }

    #[test]
    fn a_feed_that_sleeps_at_night_is_not_silent_then() {
        // From 8 to 20 each day.
        let day = |h: &i64| (8..20).contains(&h.rem_euclid(24));
        let young = spoke((8..44).filter(day));
        assert_eq!(noticed(&young), Some(44 + 24), "its nights have twelve hours: twice that");
        // Once its weeks are known, nights count for nothing: 20 to 8, then two hours of the day.
        let old = spoke((8..30 * 24 + 20).filter(day));
        let last = 30 * 24 + 19;
        assert_eq!(old.hours.newest(), Some(last));
        assert_eq!(noticed(&old), Some(last + 1 + 12 + 2));
    }

    #[test]
    fn week_ends_are_known_and_one_outage_is_no_habit() {
        let works = |h: &i64| (h.div_euclid(24)).rem_euclid(7) < 5;
        // The last hour of the fifth day of the fourth week.
        let friday = 26 * 24 - 1;
        let outage = |h: &i64| !(15 * 24..16 * 24).contains(h);
        let feed = spoke((0..=friday).filter(works).filter(outage));
        assert_eq!(feed.hours.newest(), Some(friday));
        let monday = 28 * 24;
        assert_eq!(noticed(&feed), Some(monday + 2));
    }

    #[test]
    fn the_order_and_the_number_of_hearings_do_not_matter() {
        let all: Vec<i64> = (0..900).filter(|h| h % 5 != 0).collect();
        let whole = spoke(all.clone());
        let mut pieces: Vec<Heard> = all.chunks(37).map(|c| heard(c.iter().copied())).collect();
        pieces.reverse();
        pieces.swap(3, 11);
        pieces.extend(pieces.clone());
        let mut feed = Feed { source: "17track".into(), ..Feed::default() };
        for piece in &pieces {
            feed.hear(piece);
        }
        assert_eq!(feed, whole);
        assert!(!feed.hear(&pieces[0]), "nothing new");
        assert_eq!(Hours::parse(&feed.hours.text()), feed.hours);
        assert_eq!(Hours::parse("nonsense"), Hours::default());
    }

    #[test]
    fn what_a_feed_says_of_itself_stands_until_it_says_otherwise_or_has_long_spoken_again() {
        let mut feed = spoke(0..48);
        let said = |at, health| Heard { health: Some((at, health)), ..heard([]) };
        feed.hear(&said(47 * HOUR, Health::Failing));
        assert_eq!(feed.trouble(TWO_HOURS, 47 * HOUR), Some((Trouble::Failing, 47 * HOUR)));
        feed.hear(&said(46 * HOUR, Health::Success));
        assert_eq!(
            feed.trouble(TWO_HOURS, 47 * HOUR),
            Some((Trouble::Failing, 47 * HOUR)),
            "that was before"
        );
        feed.hear(&heard([48, 49]));
        assert_eq!(feed.trouble(TWO_HOURS, 49 * HOUR), Some((Trouble::Failing, 47 * HOUR)), "a few records");
        feed.hear(&heard([50]));
        assert_eq!(feed.trouble(TWO_HOURS, 50 * HOUR), None);
        feed.hear(&said(50 * HOUR, Health::Stopped));
        feed.hear(&said(51 * HOUR, Health::Success));
        assert_eq!(feed.trouble(TWO_HOURS, 51 * HOUR), None);
    }

    #[test]
    fn neither_our_lag_nor_a_topic_that_stands_still_makes_a_feed_silent() {
        let watch = FeedWatch { notify: Vec::new(), silent_after: TWO_HOURS, target: Condition::default() };
        let both = || vec![spoke(0..48), Feed { source: "other".into(), ..spoke(0..100) }];
        let at = |hour| Time(hour * HOUR);
        assert!(decide(&mut both(), Some(&watch), at(49), 0).is_empty(), "the watermark is behind");
        assert!(decide(&mut [spoke(0..48)], Some(&watch), at(100), 0).is_empty(), "nobody speaks");
        assert!(decide(&mut both(), None, at(100), 0).is_empty(), "nobody asks");
        let mut feeds = both();
        assert_eq!(decide(&mut feeds, Some(&watch), at(100), 7), [0]);
        let incident = Incident { trouble: Trouble::Silent, since_ms: 47 * HOUR, opened_ms: 7 };
        assert_eq!(feeds[0].incident, Some(incident));
        assert!(decide(&mut feeds, Some(&watch), at(101), 8).is_empty(), "once");
        feeds[0].hear(&heard([101]));
        assert_eq!(decide(&mut feeds, Some(&watch), at(101), 9), [0]);
        assert_eq!(feeds[0].incident, None);
    }
}
