//! Taking what the feed brings: decode, the append time of each record, fold.

use std::time::Instant;

use crossbeam_channel::TryRecvError;

use super::{Partition, SLICE, recorded};
use crate::cases::Rejected;
use crate::engine::Record;
use crate::model::{Event, MINUTE, Reject, Time};
use crate::runtime::progress::Wait;
use crate::source::decode::decode;
use crate::source::kafka::{Gap, Item};
use crate::source::{Batch, Raw, Stamp};

/// Records decoded and folded at once.
const CHUNK: usize = 256;
/// How far a broker's clock may be ahead of ours (DESIGN §4.6).
const AHEAD: i64 = MINUTE;
/// How much of a rejected record is kept.
const SAMPLE: usize = 200;

impl Partition {
    /// Folds a chunk of the batch at hand, or takes the next item. Whether there was anything.
    pub(super) fn take(&mut self) -> bool {
        if let Some((batch, at)) = self.batch.take() {
            let (at, stopped) = self.fold(&batch, at);
            if at < batch.len() {
                self.batch = Some((batch, at));
            }
            return !stopped;
        }
        match self.feed.items.try_recv() {
            Ok(Item::Batch(batch)) => self.batch = Some((batch, 0)),
            Ok(Item::Position(offset)) => self.hole = self.hole.max(offset),
            Ok(Item::Gap(gap)) => self.gap(&gap),
            Ok(Item::Start { offset, gap, topic_id }) => self.start(offset, gap.as_ref(), topic_id),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return false,
        }
        true
    }

    fn start(&mut self, offset: i64, gap: Option<&Gap>, topic_id: Option<String>) {
        self.topic_id = topic_id;
        self.started = true;
        match gap {
            Some(gap) => self.gap(gap),
            None if self.shard.next_offset() != offset => self.shard.begin_at(offset),
            None => {}
        }
        self.complete = recorded(&self.shard);
    }

    /// Records are missing: the shard goes on from the first there is, and parcels known now say so (DESIGN §4.7).
    pub(super) fn gap(&mut self, gap: &Gap) {
        self.shard.gap(gap.to);
        self.hole = gap.to;
        // A restart must not read from before the gap again: it would decide on other records than this run did.
        self.save_due = Instant::now();
        self.progress.gap(gap.to_string());
        self.context.progress.metrics.gap(gap.kind.name());
        if gap.to < gap.from {
            // Offsets begin again: what was recorded is of another log.
            self.legs.clear();
            self.forget = true;
        }
        self.complete = recorded(&self.shard);
    }

    /// Folds up to a chunk from `at`. Where it goes on, and whether something keeps it from going on at once.
    fn fold(&mut self, batch: &Batch, at: usize) -> (usize, bool) {
        let end = batch.len().min(at + CHUNK);
        let mut raws = &batch.records()[at..end];
        if let Some(leg) = self.legs.front() {
            let before = raws.iter().position(|r| r.offset >= leg.until.position).unwrap_or(raws.len());
            raws = &raws[..before];
            if raws.is_empty() {
                // The leg ends before this record; `restore` sees it by the hole.
                self.hole = self.hole.max(leg.until.position);
                return (at, false);
            }
        }
        let now = self.context.clock.now_ms();
        let mut clock = AppendClock { watermark: self.shard.watermark(), now, create_time: false };
        let mut appends = Vec::with_capacity(raws.len());
        for raw in raws {
            match clock.append(raw) {
                Some(append) => appends.push(append),
                None => break,
            }
        }
        let stopped = appends.len() < raws.len();
        let events: Vec<Result<Event<'_>, Reject>> =
            raws[..appends.len()].iter().map(|r| decode(batch.value(r), &self.names)).collect();
        let records: Vec<Record<'_>> = raws
            .iter()
            .zip(&appends)
            .zip(&events)
            .map(|((raw, append), event)| Record {
                offset: raw.offset,
                append: *append,
                event: event.as_ref().map_err(|r| r.reason),
            })
            .collect();
        let taken = self.shard.fold(&records, SLICE, &mut self.out);
        if taken == records.len() {
            self.complete = recorded(&self.shard);
        }
        for ((raw, append), event) in raws.iter().zip(&appends).zip(&events).take(taken) {
            self.count(batch, raw, *append, event, now);
        }
        self.progress.metrics.consumed.inc_by(taken as u64);
        let stopped = stopped && taken == appends.len();
        self.clock_ahead(raws.get(taken).filter(|_| stopped), clock.create_time);
        (at + taken, stopped)
    }

    fn count(&mut self, batch: &Batch, raw: &Raw, append: Time, event: &Result<Event<'_>, Reject>, now: i64) {
        let metrics = &self.context.progress.metrics;
        if matches!(raw.stamp, Stamp::Create(at) if is_ahead(at, now)) {
            metrics.clock_violation("ahead");
        }
        match event {
            Ok(event) => {
                self.listening.note(event, append);
                let key = batch.key(raw);
                if !key.is_empty() && key != event.parcel_id.as_bytes() && !event.parcel_id.is_empty() {
                    metrics.key_mismatch.inc();
                }
            }
            Err(reject) => {
                metrics.rejected(reject.reason);
                self.rejected.push(Rejected {
                    partition: self.id,
                    offset: raw.offset,
                    append,
                    reason: reject.reason.name(),
                    key: sample(batch.key(raw)),
                    head: sample(batch.value(raw)),
                });
            }
        }
    }

    /// A broker's clock far ahead of ours would fire what is not due: the shard stands before that record until the clock
    /// has caught up.
    fn clock_ahead(&self, before: Option<&Raw>, create_time: bool) {
        let progress = &self.context.progress;
        if create_time && progress.saw_create_time() {
            tracing::warn!(
                topic = self.context.topic,
                "records carry their producers' time (message.timestamp.type=CreateTime): a replay may decide otherwise than \
                 the live run; set LogAppendTime on the topic"
            );
        }
        let Some(Raw { offset, stamp: Stamp::Append(at), .. }) = before else {
            return progress.goes_on(Wait::ClockAhead, self.id);
        };
        let why = format!(
            "partition {}: the record at offset {offset} was stored at {at} by the broker's clock, more than a minute ahead of \
             this machine's; check both clocks",
            self.id
        );
        if progress.waits(Wait::ClockAhead, self.id, &why) {
            progress.metrics.clock_violation("ahead");
        }
    }
}

/// The append time of live records (DESIGN §4.5, §4.6).
struct AppendClock {
    watermark: Time,
    now: i64,
    create_time: bool,
}

fn is_ahead(at: Time, now: i64) -> bool {
    at.0 > now.saturating_add(AHEAD)
}

impl AppendClock {
    /// `None`: the broker's clock is too far ahead of ours.
    fn append(&mut self, raw: &Raw) -> Option<Time> {
        let append = match raw.stamp {
            Stamp::Append(at) if is_ahead(at, self.now) => return None,
            Stamp::Append(at) => at,
            Stamp::Create(at) => {
                self.create_time = true;
                let at = if is_ahead(at, self.now) { Time(self.now) } else { at };
                at.max(self.watermark)
            }
            Stamp::None => Time(self.now).max(self.watermark),
        };
        self.watermark = self.watermark.max(append);
        Some(append)
    }
}

/// The first bytes of something, printable.
fn sample(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(SAMPLE)]);
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn appends(watermark: i64, now: i64, stamps: &[Stamp]) -> Vec<Option<i64>> {
        let mut batch = Batch::new(0);
        for (i, stamp) in stamps.iter().enumerate() {
            batch.push(i as i64, *stamp, b"", b"");
        }
        let mut clock = AppendClock { watermark: Time(watermark), now, create_time: false };
        batch.records().iter().map(|r| clock.append(r).map(|t| t.0)).collect()
    }

    #[test]
    fn the_brokers_time_is_taken_as_it_is_unless_it_is_far_ahead() {
        let append = |ms| Stamp::Append(Time(ms));
        let now = 1_000_000;
        let given = [append(5), append(3), append(now + AHEAD), append(now + AHEAD + 1)];
        assert_eq!(appends(4, now, &given), [Some(5), Some(3), Some(now + AHEAD), None]);
    }

    #[test]
    fn a_producers_time_never_goes_back_and_is_replaced_where_it_is_far_ahead() {
        let create = |ms| Stamp::Create(Time(ms));
        let now = 1_000_000;
        let given = [create(5), create(3), create(now + AHEAD + 1), create(7), Stamp::None];
        assert_eq!(appends(4, now, &given), [Some(5), Some(5), Some(now), Some(now), Some(now)]);
    }

    #[test]
    fn samples_are_short_and_printable() {
        assert_eq!(sample(b"a\nb\xff"), "a\u{fffd}b\u{fffd}");
        assert_eq!(sample(&vec![b'x'; 5_000]).len(), SAMPLE);
    }
}
