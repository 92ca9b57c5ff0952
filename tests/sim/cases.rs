//! What is durable: exceptions and their changes under the transaction's guard, how far each partition is, what happened
//! to its rules and its log, who may write, and the snapshots. All of it survives every crash.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;

use parcelwatch::engine::reconcile::StandingCase;
use parcelwatch::model::{Change, ChangeKind, Time};

/// Where a shard stands on its log.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Place {
    pub offset: i64,
    pub watermark: Time,
}

/// What happens to a shard besides records and time.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Turn {
    /// Rules of this hash come into force.
    Rules(String),
    /// Records below this offset were lost.
    Gap(i64),
}

/// A change with the hash of the rules that decided it.
#[derive(Clone, Debug)]
pub struct Written {
    pub rules: String,
    pub change: Change,
}

/// What names a change (DESIGN §6), the exception's id spelt out.
pub type Name = (String, String, Option<Time>, String, i64, Time, &'static str, u8);

pub fn name(rules: &str, c: &Change) -> Name {
    let id = (c.rule.to_string(), c.parcel_id.to_string(), c.episode);
    (id.0, id.1, id.2, rules.to_owned(), c.offset, c.at, c.kind.name(), c.stage)
}

/// A whole or torn snapshot.
pub struct Snapshot {
    pub at: Place,
    /// How many turns of the partition are in it.
    pub turns: usize,
    pub sections: Vec<Vec<u8>>,
    /// The head is written last: without it a snapshot is torn.
    pub head: Option<Vec<u8>>,
    /// Its checksum does not fit.
    pub rotten: bool,
}

/// Everything about one partition.
#[derive(Default)]
pub struct Book {
    /// Who holds the lease.
    pub fence: u64,
    pub recorded: Option<Place>,
    pub turns: Vec<(Place, Turn)>,
    pub written: Vec<Written>,
    names: BTreeSet<Name>,
    pub standing: BTreeMap<(String, String, Option<Time>), StandingCase>,
    pub snapshots: Vec<Rc<Snapshot>>,
    /// Records that a shard had folded were lost before it saved itself: what it was cannot be made again.
    pub lossy: bool,
}

/// One transaction of a shard.
pub struct Batch<'a> {
    pub fence: u64,
    pub rules: &'a str,
    pub changes: &'a [Change],
    /// `None` while it replays what is recorded already.
    pub place: Option<Place>,
    /// A turn that goes with it.
    pub turn: Option<(Place, Turn)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Refused {
    /// Another owner has the lease.
    Fenced,
    /// The disk is full.
    Full,
}

/// The database.
pub struct Cases {
    pub books: Vec<Book>,
    pub full: bool,
}

impl Cases {
    pub fn new(partitions: usize) -> Cases {
        Cases { books: (0..partitions).map(|_| Book::default()).collect(), full: false }
    }

    /// Takes the lease of a partition away from whoever has it.
    pub fn lease(&mut self, partition: usize) -> u64 {
        self.books[partition].fence += 1;
        self.books[partition].fence
    }

    /// All or nothing; a change whose name is there already is a no-op.
    pub fn commit(&mut self, partition: usize, batch: &Batch<'_>) -> Result<(), Refused> {
        let book = &mut self.books[partition];
        if batch.fence != book.fence {
            return Err(Refused::Fenced);
        }
        if self.full {
            return Err(Refused::Full);
        }
        for change in batch.changes {
            if book.names.insert(name(batch.rules, change)) {
                book.take(change);
                book.written.push(Written { rules: batch.rules.to_owned(), change: change.clone() });
            }
        }
        if let Some(place) = batch.place {
            let ahead = book.recorded.is_none_or(|r| r <= place);
            assert!(ahead || book.lossy, "recorded goes back from {:?} to {place:?}", book.recorded);
            book.recorded = Some(place);
        }
        book.turns.extend(batch.turn.clone());
        Ok(())
    }
}

impl Book {
    fn take(&mut self, c: &Change) {
        let key = (c.rule.to_string(), c.parcel_id.to_string(), c.episode);
        let stands = self.standing.contains_key(&key);
        let fits = stands == (c.kind != ChangeKind::Opened);
        assert!(fits || self.lossy, "{c:?} of what {}", if stands { "stands" } else { "does not stand" });
        if let ChangeKind::Resolved(_) = c.kind {
            self.standing.remove(&key);
            return;
        }
        let case = StandingCase {
            rule: key.0.clone(),
            parcel_id: key.1.clone(),
            episode: c.episode,
            stage: c.stage,
            severity: c.severity,
            due: c.due,
            anchor: c.anchor,
            by_operator: false,
        };
        self.standing.insert(key, case);
    }

    /// The newest snapshot that is whole and not ahead of what is recorded.
    pub fn newest(&self) -> Option<Rc<Snapshot>> {
        let fit =
            |s: &&Rc<Snapshot>| s.head.is_some() && !s.rotten && self.recorded.is_some_and(|r| s.at <= r);
        self.snapshots.iter().filter(fit).max_by_key(|s| (s.turns, s.at)).cloned()
    }

    /// How many turns are in force at the beginning: the rules a partition began with.
    pub fn first_rules(&self) -> Option<&str> {
        self.turns.iter().find_map(|(_, t)| match t {
            Turn::Rules(hash) => Some(hash.as_str()),
            Turn::Gap(_) => None,
        })
    }
}
