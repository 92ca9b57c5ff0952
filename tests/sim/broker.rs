//! A broker without a network: partitions with their logs, clocks that differ, transactions, retention, loss.

use std::rc::Rc;

use parcelwatch::model::Time;

/// Whether consumers see a stored record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Seen {
    Yes,
    /// In a transaction that is not decided.
    Pending(u64),
    /// A marker, or a record of a transaction given up: an offset without a record.
    Hole,
}

/// One offset of a log.
#[derive(Clone, Debug)]
pub struct Stored {
    pub append: Time,
    pub bytes: Rc<[u8]>,
    pub seen: Seen,
}

/// One partition; the offset of `log[i]` is i.
#[derive(Default)]
pub struct Partition {
    pub log: Vec<Stored>,
    /// Offsets below were deleted.
    pub start: i64,
    /// Which broker leads it.
    pub leader: usize,
    /// Records that were appended after others with a later append time: the weak spot of a change of leader.
    pub went_back: bool,
}

/// What a fetch gave.
#[derive(Debug)]
pub enum Fetched {
    /// No answer.
    Cut,
    /// The position is not in the log.
    OutOfRange { start: i64, end: i64 },
    /// (offset, record) in order, and where to read on.
    Records(Vec<(i64, Stored)>, i64),
}

/// All partitions of the topic.
pub struct Broker {
    /// How far each broker's clock is ahead, in milliseconds.
    pub skews: Vec<i64>,
    pub partitions: Vec<Partition>,
    /// Nobody gets an answer; producers do.
    pub cut: bool,
}

impl Broker {
    pub fn new(partitions: usize, skews: Vec<i64>) -> Broker {
        let partitions =
            (0..partitions).map(|i| Partition { leader: i % skews.len(), ..Partition::default() }).collect();
        Broker { skews, partitions, cut: false }
    }

    /// The append time that a record stored at `now` gets.
    pub fn clock(&self, partition: usize, now: i64) -> Time {
        Time(now + self.skews[self.partitions[partition].leader])
    }

    pub fn append(&mut self, partition: usize, now: i64, bytes: Vec<u8>, seen: Seen) {
        let append = self.clock(partition, now);
        let p = &mut self.partitions[partition];
        p.went_back |= p.log.last().is_some_and(|l| l.append > append);
        p.log.push(Stored { append, bytes: bytes.into(), seen });
    }

    /// Decides a transaction on a partition and writes its marker.
    pub fn decide(&mut self, partition: usize, now: i64, transaction: u64, commit: bool) {
        for s in self.partitions[partition].log.iter_mut().filter(|s| s.seen == Seen::Pending(transaction)) {
            s.seen = if commit { Seen::Yes } else { Seen::Hole };
        }
        self.append(partition, now, Vec::new(), Seen::Hole);
    }

    /// The offset after the last stored one, undecided transactions and markers included.
    pub fn end(&self, partition: usize) -> Option<i64> {
        (!self.cut).then(|| self.partitions[partition].log.len() as i64)
    }

    pub fn fetch(&self, partition: usize, from: i64, max: usize) -> Fetched {
        let p = &self.partitions[partition];
        let end = p.log.len() as i64;
        if self.cut {
            return Fetched::Cut;
        }
        if from < p.start || from > end {
            return Fetched::OutOfRange { start: p.start, end };
        }
        let (mut records, mut at) = (Vec::new(), from);
        for s in &p.log[from as usize..] {
            match s.seen {
                Seen::Pending(_) => break,
                Seen::Yes if records.len() >= max => break,
                Seen::Yes => records.push((at, s.clone())),
                Seen::Hole => {}
            }
            at += 1;
        }
        Fetched::Records(records, at)
    }
}
