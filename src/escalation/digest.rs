//! A message in place of very many: what somebody is told once a day, and what a storm becomes (DESIGN §7). It is gathered bit by
//! bit, since a storm is decided in slices, and stays small whatever its number: counts, and the worst few by name.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{Case, Evidence, Group, Notice, Told, Word, body};
use crate::model::{Time, grouped};
use crate::rules::policies::{Policy, Rate};

/// Exceptions listed by name.
const TOP: usize = 20;
/// Values counted one by one under a heading; the rest is `other`.
const VALUES: usize = 50;
/// A bucket counts in thousandths of a message.
const MESSAGE: i64 = 1_000;

/// What a digest is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// A policy's `digest_at`.
    Daily(String),
    /// One group has more to say than its receiver takes.
    Group(String),
    /// All groups together have.
    Receiver,
}

impl Cause {
    /// Its name in SQL.
    #[must_use]
    pub fn key(&self) -> String {
        match self {
            Cause::Daily(policy) => format!("daily {policy}"),
            Cause::Group(group) => format!("group {group}"),
            Cause::Receiver => "receiver".to_owned(),
        }
    }

    /// The cause of this name.
    #[must_use]
    pub fn from_key(key: &str) -> Option<Cause> {
        match key.split_once(' ') {
            Some(("daily", policy)) => Some(Cause::Daily(policy.to_owned())),
            Some(("group", group)) => Some(Cause::Group(group.to_owned())),
            _ => (key == "receiver").then_some(Cause::Receiver),
        }
    }
}

/// What has been gathered for one recipient.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Digest {
    /// The message's id, fixed with the first entry.
    pub id: String,
    /// Wall time of the first entry.
    pub since_ms: i64,
    /// Entries in all.
    pub total: u64,
    /// By what is said of them.
    pub words: BTreeMap<String, u64>,
    /// By rule.
    pub rules: BTreeMap<String, u64>,
    /// By lane.
    pub lanes: BTreeMap<String, u64>,
    /// By carrier.
    pub carriers: BTreeMap<String, u64>,
    /// The worst, and of these the longest overdue.
    top: Vec<Top>,
    /// The policy, where all are of one.
    pub policy: String,
    /// The group, where all are of one: its id and values.
    pub group: Option<(String, Map<String, Value>)>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Top {
    /// The worst first.
    order: (i64, i64, String),
    listed: Value,
}

/// A digest that grew in a flush.
#[derive(Debug, Clone, PartialEq)]
pub struct Gathered {
    /// For whom.
    pub to: Told,
    /// By what.
    pub cause: Cause,
    /// All that has been gathered by now.
    pub digest: Digest,
    /// Wall time at which it is to be sent.
    pub due_ms: i64,
    /// What was added.
    pub notices: Vec<Notice>,
}

impl Digest {
    /// An empty one that is begun at `now`.
    #[must_use]
    pub fn begun(to: &Told, cause: &Cause, now: i64) -> Digest {
        let mut hash = Sha256::new();
        for part in ["digest", &to.receiver, &to.recipient, &cause.key()] {
            hash.update(part.as_bytes());
            hash.update([0]);
        }
        hash.update(now.to_be_bytes());
        let id = hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect();
        Digest { id, since_ms: now, ..Digest::default() }
    }

    /// Adds an entry.
    pub(super) fn add(&mut self, case: &Case, evidence: &Evidence, group: &Group, word: Word, listed: Value) {
        if self.total == 0 {
            self.policy.clone_from(&group.policy);
            self.group = Some((group.id.clone(), group.values.clone()));
        }
        if self.policy != group.policy {
            self.policy = String::new();
        }
        if self.group.as_ref().is_some_and(|(id, _)| *id != group.id) {
            self.group = None;
        }
        self.total += 1;
        let fact = |names: &[&str]| {
            let value = names.iter().find_map(|n| evidence.facts.get(*n)).filter(|v| !v.is_null());
            value.map_or_else(|| "unknown".to_owned(), body::plain)
        };
        count(&mut self.words, word.name().to_owned());
        count(&mut self.rules, case.rule.clone());
        count(&mut self.lanes, fact(&["lane"]));
        count(&mut self.carriers, fact(&["domestic_carrier", "carrier_code"]));
        // What ended is the least of what there is to know.
        let weight = if word == Word::Resolved { 0 } else { 1 + i64::from(case.severity as u8) };
        let top = Top { order: (-weight, case.due.0, case.exception_id.clone()), listed };
        let at = self.top.partition_point(|t| t.order < top.order);
        if at < TOP {
            self.top.insert(at, top);
            self.top.truncate(TOP);
        }
    }

    /// Whether another entry of this order would be among those listed: what would not need not be rendered.
    pub(super) fn lists(&self, case: &Case, word: Word) -> bool {
        let weight = if word == Word::Resolved { 0 } else { 1 + i64::from(case.severity as u8) };
        let order = (-weight, case.due.0, case.exception_id.clone());
        self.top.len() < TOP || self.top.last().is_some_and(|t| order < t.order)
    }

    /// The JSON of DESIGN §11, with what a digest counts. As many of the worst are listed as there is room for in `bytes`.
    #[must_use]
    pub fn body(&self, to: &Told, cause: &Cause, now: i64, public_url: Option<&str>, bytes: usize) -> String {
        (0..=self.top.len())
            .rev()
            .map(|listed| self.listing(to, cause, now, public_url, listed))
            .find(|body| body.len() <= bytes)
            .unwrap_or_else(|| self.listing(to, cause, now, public_url, 0))
    }

    fn listing(&self, to: &Told, cause: &Cause, now: i64, public_url: Option<&str>, listed: usize) -> String {
        let count = |word: Word| self.words.get(word.name()).copied().unwrap_or(0);
        let resolved = count(Word::Resolved);
        let open = self.total - resolved;
        let (group_id, group) = match &self.group {
            Some((id, values)) => (id.clone(), values.clone()),
            None => (self.thread(cause), Map::new()),
        };
        let by = |counts: &BTreeMap<String, u64>, name: &str| -> Vec<Value> {
            let mut all: Vec<_> = counts.iter().collect();
            all.sort_by_key(|(value, n)| (std::cmp::Reverse(**n), (*value).clone()));
            all.iter().map(|(value, n)| json!({name: value, "count": n})).collect()
        };
        let what = |word: Word, name: &str| match count(word) {
            0 => None,
            n => Some(format!("{} {name}", grouped(n))),
        };
        let said = [
            what(Word::Opened, "opened"),
            what(Word::Raised, "more serious"),
            what(Word::Reminder, "still standing"),
            what(Word::Resolved, "resolved"),
        ];
        let mut summary = vec![said.into_iter().flatten().collect::<Vec<_>>().join(", ")];
        for (heading, counts) in [("Rule", &self.rules), ("Lane", &self.lanes), ("Carrier", &self.carriers)] {
            summary.push(line(heading, counts));
        }
        let listed: Vec<&Value> = self.top.iter().take(listed).map(|t| &t.listed).collect();
        let at = |path: &str| public_url.map(|base| format!("{}/api/v1/{path}", base.trim_end_matches('/')));
        json!({
            "type": "exceptions.digest",
            "timestamp": Time(now).to_string(),
            "data": {
                "notification_id": self.id,
                "receiver": to.receiver,
                "policy": self.policy,
                "step": null,
                "reason": "digest",
                "group_id": group_id,
                "group": group,
                "group_state": if open > 0 { "open" } else { "resolved" },
                "counts": {"open": open, "acknowledged": 0, "resolved": resolved},
                "truncated": self.total - listed.len() as u64,
                "exceptions": listed,
                "summary": summary,
                "digest": {
                    "cause": if matches!(cause, Cause::Daily(_)) { "daily" } else { "storm" },
                    "since": Time(self.since_ms).to_string(),
                    "total": self.total,
                    "opened": count(Word::Opened),
                    "raised": count(Word::Raised),
                    "reminders": count(Word::Reminder),
                    "resolved": resolved,
                    "by_rule": by(&self.rules, "rule"),
                    "by_lane": by(&self.lanes, "lane"),
                    "by_carrier": by(&self.carriers, "carrier"),
                    "url": at("exceptions"),
                    "csv_url": at(&format!("outbox/{}/exceptions.csv", self.id)),
                },
            },
        })
        .to_string()
    }

    /// The root of its mail thread: the group's, where it is of one, so that it stands among the group's other messages.
    #[must_use]
    pub fn thread(&self, cause: &Cause) -> String {
        match (&self.group, cause) {
            (Some((id, _)), Cause::Group(_) | Cause::Receiver) => id.clone(),
            (_, cause) => {
                let hash = Sha256::digest(cause.key().as_bytes());
                hash[..16].iter().map(|b| format!("{b:02x}")).collect()
            }
        }
    }

    /// Its subject: constant in its thread.
    #[must_use]
    pub fn subject(&self, cause: &Cause) -> String {
        match (&self.group, cause) {
            (Some((id, values)), Cause::Group(_) | Cause::Receiver) => {
                let group = Group {
                    id: id.clone(),
                    policy: self.policy.clone(),
                    values: values.clone(),
                    told: 0,
                    last_ms: 0,
                    flush_ms: super::NEVER,
                };
                group.subject()
            }
            (_, Cause::Daily(policy)) => format!("[parcelwatch] daily digest, {policy}"),
            _ => "[parcelwatch] digest".to_owned(),
        }
    }
}

/// `Lane: CN-ES 5,000; CN-FR 12 and 3 more`.
fn line(heading: &str, counts: &BTreeMap<String, u64>) -> String {
    let mut all: Vec<_> = counts.iter().collect();
    all.sort_by_key(|(value, n)| (std::cmp::Reverse(**n), (*value).clone()));
    let shown: Vec<String> =
        all.iter().take(10).map(|(value, n)| format!("{value} {}", grouped(**n))).collect();
    let rest = all.len().saturating_sub(10);
    let more = if rest > 0 { format!(" and {rest} more") } else { String::new() };
    format!("{heading}: {}{more}", shown.join("; "))
}

fn count(counts: &mut BTreeMap<String, u64>, value: String) {
    let known = counts.contains_key(&value) || counts.len() < VALUES;
    *counts.entry(if known { value } else { "other".to_owned() }).or_insert(0) += 1;
}

/// How many messages a recipient may still be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket {
    /// Thousandths of a message.
    pub level: i64,
    /// Wall time of that level.
    pub at_ms: i64,
}

impl Bucket {
    /// A full one.
    #[must_use]
    pub const fn full(rate: Rate, now: i64) -> Bucket {
        Bucket { level: rate.messages.saturating_mul(MESSAGE), at_ms: now }
    }

    /// Fills it up to `now`. A clock that was set back takes nothing away.
    pub fn refill(&mut self, rate: Rate, now: i64) {
        let full = rate.messages.saturating_mul(MESSAGE);
        let gained =
            i128::from(full) * i128::from((now - self.at_ms).max(0)) / i128::from(rate.per_ms.max(1));
        let gained = i64::try_from(gained).unwrap_or(full).min(full);
        if now < self.at_ms || self.level + gained >= full {
            self.level = (self.level + gained).min(full);
            self.at_ms = now;
        } else if gained > 0 {
            self.level += gained;
            // Only the time that was paid for: what is left of it counts the next time.
            let paid =
                (i128::from(gained) * i128::from(rate.per_ms) + i128::from(full) - 1) / i128::from(full);
            self.at_ms += i64::try_from(paid).unwrap_or(0);
        }
    }

    /// Takes `n` messages where there are so many.
    pub const fn take(&mut self, n: i64) -> bool {
        let enough = self.level >= n.saturating_mul(MESSAGE);
        if enough {
            self.level -= n * MESSAGE;
        }
        enough
    }

    /// Wall time at which there is one.
    #[must_use]
    pub fn next(&self, rate: Rate) -> i64 {
        let missing = (MESSAGE - self.level).max(0);
        let full = rate.messages.saturating_mul(MESSAGE).max(1);
        let wait = (i128::from(missing) * i128::from(rate.per_ms) + i128::from(full) - 1) / i128::from(full);
        self.at_ms.saturating_add(i64::try_from(wait).unwrap_or(rate.per_ms))
    }
}

/// What recipients may still be sent, and what is being gathered for them.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Budget {
    /// By recipient; one that is missing is full.
    pub buckets: BTreeMap<Told, Bucket>,
    /// Digests that were begun and not sent.
    pub gathering: BTreeMap<(Told, Cause), (Digest, i64)>,
    /// How many of the group wait for this flush, with those that come in later slices of it.
    pub waiting: i64,
}

/// What to do with what there is to tell to one recipient.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Way {
    /// Messages as ever.
    Tell,
    /// Into a digest that is due then.
    Gather(Cause, i64),
}

impl Budget {
    /// The way for a recipient to whom `needed` messages of this group are due now, and `all` with the slices that follow. Takes
    /// what it costs.
    pub(super) fn way(
        &mut self,
        to: &Told,
        policy: &Policy,
        group: &Group,
        rate: Option<Rate>,
        (needed, all): (i64, i64),
        now: i64,
    ) -> Way {
        if policy.digest_at.is_some() {
            return Way::Gather(Cause::Daily(policy.id.clone()), now);
        }
        let Some(rate) = rate else { return Way::Tell };
        for cause in [Cause::Receiver, Cause::Group(group.id.clone())] {
            if let Some((_, due)) = self.gathering.get(&(to.clone(), cause.clone())) {
                return Way::Gather(cause, *due);
            }
        }
        let bucket = self.buckets.entry(to.clone()).or_insert_with(|| Bucket::full(rate, now));
        bucket.refill(rate, now);
        if bucket.level >= all.saturating_mul(MESSAGE) && bucket.take(needed) {
            Way::Tell
        } else if bucket.take(1) {
            Way::Gather(Cause::Group(group.id.clone()), now)
        } else {
            // Its own message is paid for when it is due: until then nothing else of this recipient is sent.
            let due = bucket.next(rate);
            bucket.level -= MESSAGE;
            Way::Gather(Cause::Receiver, due)
        }
    }
}

/// Recipients of entries.
pub(super) fn recipients<T>(entries: &BTreeMap<(Told, u32), T>) -> BTreeSet<Told> {
    entries.keys().map(|(to, _)| to.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{MINUTE, SECOND};

    const RATE: Rate = Rate { messages: 10, per_ms: 10 * MINUTE };

    #[test]
    fn a_bucket_fills_with_time_and_never_over_its_rim() {
        let mut bucket = Bucket::full(RATE, 0);
        assert!(bucket.take(10) && !bucket.take(1));
        assert_eq!(bucket.next(RATE), MINUTE);
        // In many small steps as in one.
        for second in 1..=59 {
            bucket.refill(RATE, second * SECOND);
            assert!(!bucket.take(1), "after {second} s");
        }
        bucket.refill(RATE, MINUTE);
        assert!(bucket.take(1) && !bucket.take(1));
        bucket.refill(RATE, MINUTE - 30 * SECOND);
        assert_eq!(
            bucket.next(RATE),
            MINUTE + 30 * SECOND,
            "a clock set back gives nothing and takes nothing"
        );
        bucket.refill(RATE, 1_000 * MINUTE);
        assert!(bucket.take(10) && !bucket.take(1));
    }

    #[test]
    fn causes_are_read_as_they_are_written() {
        for cause in [Cause::Daily("a b".into()), Cause::Group("g".into()), Cause::Receiver] {
            assert_eq!(Cause::from_key(&cause.key()), Some(cause));
        }
        assert_eq!(Cause::from_key("x"), None);
    }

    #[test]
    fn values_are_counted_up_to_a_bound() {
        let mut counts = BTreeMap::new();
        for i in 0..VALUES + 7 {
            count(&mut counts, i.to_string());
            count(&mut counts, "3".into());
        }
        assert_eq!((counts.len(), counts["other"], counts["3"]), (VALUES + 1, 7, VALUES as u64 + 8));
        assert!(line("Lane", &counts).starts_with("Lane: 3 58; other 7; "), "{}", line("Lane", &counts));
    }
}
