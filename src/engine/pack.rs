//! A parcel as bytes: what the table holds, and what a snapshot stores.
//!
//! Times are distances (LEB128, zigzag) from the append time of the last record or from their neighbour, texts are codes
//! or stand inline, rare parts cost one flag. Measured in `benches/`: some 300 bytes for a parcel half-way through its
//! life. The layout is versioned by the snapshot that holds it ([`FORMAT`]).

use super::parcel::{
    Claim, Fact, FilteredOrigin, HoldEvent, Occurrence, Origin, Parcel, Restart, Stamp, Standing, TakenBack,
    Text, Value,
};
use crate::model::{Milestone, Time};

/// Version of the layout.
pub const FORMAT: u8 = 1;

const HOLDS: u8 = 1;
const DOCUMENTS: u8 = 2;
const CLAIM: u8 = 4;
const TAKEN_BACK: u8 = 8;
const RULES: u8 = 16;
const STANDING: u8 = 32;
const INCOMPLETE: u8 = 64;

struct Writer<'a> {
    out: &'a mut Vec<u8>,
    base: i64,
}

impl Writer<'_> {
    #[inline]
    fn byte(&mut self, b: u8) {
        self.out.push(b);
    }

    #[inline]
    fn number(&mut self, mut n: u64) {
        if n < 0x80 {
            self.out.push(n as u8);
            return;
        }
        let mut bytes = [0; 10];
        let mut len = 0;
        while n >= 0x80 {
            bytes[len] = n as u8 | 0x80;
            len += 1;
            n >>= 7;
        }
        bytes[len] = n as u8;
        self.out.extend_from_slice(&bytes[..=len]);
    }

    #[inline]
    fn signed(&mut self, n: i64) {
        self.number(((n << 1) ^ (n >> 63)) as u64);
    }

    fn time(&mut self, t: i64) {
        self.signed(self.base.wrapping_sub(t));
    }

    fn stamp(&mut self, s: Stamp) {
        self.time(s.event_time);
        self.signed(s.append.wrapping_sub(s.event_time));
    }

    fn id(&mut self, id: u64) {
        self.out.extend_from_slice(&id.to_le_bytes()[..6]);
    }

    fn text(&mut self, t: Text, own: &[u8]) {
        match t {
            Text::Shared(code) => self.number(u64::from(code) << 1 | 1),
            Text::Own(start, len) => {
                self.number(u64::from(len) << 1);
                self.out.extend_from_slice(&own[start as usize..(start + len) as usize]);
            }
        }
    }

    fn maybe<T>(&mut self, value: Option<T>, write: impl FnOnce(&mut Self, T)) {
        self.byte(u8::from(value.is_some()));
        if let Some(v) = value {
            write(self, v);
        }
    }
}

impl Parcel {
    /// Appends the parcel's bytes to `out`. They begin with the id: its length, then its bytes.
    pub fn pack(&self, out: &mut Vec<u8>) {
        out.reserve(1_024);
        let mut w = Writer { out, base: self.last_append };
        w.number(self.id.len() as u64);
        w.out.extend_from_slice(self.id.as_bytes());
        let flag = |on: bool, bit: u8| if on { bit } else { 0 };
        let flags = flag(!self.hold_ids.is_empty(), HOLDS)
            | flag(self.documents_added.is_some(), DOCUMENTS)
            | flag(self.claim.is_some(), CLAIM)
            | flag(!self.taken_back.is_empty() || !self.retractions.is_empty(), TAKEN_BACK)
            | flag(!self.filtered.is_empty() || !self.restarts.is_empty(), RULES)
            | flag(!self.standing.is_empty(), STANDING)
            | flag(self.incomplete, INCOMPLETE);
        w.byte(flags);
        w.out.extend_from_slice(&self.last_append.to_le_bytes());
        self.pack_occurrences(&mut w);
        self.pack_facts(&mut w);
        self.pack_origins(&mut w);
        if flags & HOLDS != 0 {
            self.pack_holds(&mut w);
        }
        if flags & DOCUMENTS != 0 {
            w.time(self.documents_added.unwrap_or_default());
            w.number(self.documents.len() as u64);
            for d in &self.documents {
                w.text(*d, &self.own);
            }
        }
        if let Some(c) = self.claim {
            pack_claim(&mut w, c);
        }
        if flags & TAKEN_BACK != 0 {
            w.number(self.taken_back.len() as u64);
            for t in &self.taken_back {
                w.id(t.id);
                w.byte(u8::from(t.seen));
            }
            w.number(self.retractions.len() as u64);
            for id in &self.retractions {
                w.id(*id);
            }
        }
        if flags & RULES != 0 {
            self.pack_rules(&mut w);
        }
        if flags & STANDING != 0 {
            self.pack_standing(&mut w);
        }
    }

    fn pack_occurrences(&self, w: &mut Writer<'_>) {
        w.byte(self.occurrences.len() as u8);
        let mut before = self.last_append;
        for o in &self.occurrences {
            let bits = o.class | u8::from(o.future) << 2 | u8::from(o.zone_assumed) << 3;
            w.byte(o.milestone as u8);
            w.byte(bits | u8::from(o.facility.is_some()) << 4);
            w.signed(o.stamp.event_time.wrapping_sub(before));
            w.signed(o.stamp.append.wrapping_sub(o.stamp.event_time));
            w.id(o.id);
            if let Some(f) = o.facility {
                w.number(u64::from(f));
            }
            before = o.stamp.event_time;
        }
    }

    fn pack_facts(&self, w: &mut Writer<'_>) {
        let mut stamps: [Stamp; 24] = [Stamp::default(); 24];
        let mut n = 0;
        let mut places: [u8; 128] = [0; 128];
        for (i, f) in self.facts.iter().enumerate() {
            let place = stamps[..n].iter().position(|s| *s == f.stamp).unwrap_or_else(|| {
                if n < stamps.len() {
                    stamps[n] = f.stamp;
                    n += 1;
                    n - 1
                } else {
                    usize::from(u8::MAX)
                }
            });
            if let Some(p) = places.get_mut(i) {
                *p = place as u8;
            }
        }
        w.byte(n as u8);
        for s in &stamps[..n] {
            w.stamp(*s);
        }
        w.number(self.facts.len() as u64);
        for (i, f) in self.facts.iter().enumerate() {
            w.number(u64::from(f.number));
            // Facts beyond the small tables carry their stamp themselves.
            let place = places.get(i).copied().unwrap_or(u8::MAX);
            w.byte(place);
            if place == u8::MAX {
                w.stamp(f.stamp);
            }
            match f.value {
                Value::Text(t) => {
                    w.byte(0);
                    w.text(t, &self.own);
                }
                Value::Number(t) => {
                    w.byte(1);
                    w.text(t, &self.own);
                }
                Value::Json(t) => {
                    w.byte(2);
                    w.text(t, &self.own);
                }
                Value::Bool(b) => w.byte(3 + u8::from(b)),
            }
        }
    }

    /// Most origins are records that are occurrences too: one byte then.
    fn pack_origins(&self, w: &mut Writer<'_>) {
        let bits = self.origins.iter().enumerate().fold(0u64, |b, (i, o)| b | u64::from(o.is_some()) << i);
        w.number(bits);
        for origin in self.origins.iter().flatten() {
            self.pack_origin(w, *origin);
        }
    }

    fn pack_origin(&self, w: &mut Writer<'_>, origin: Origin) {
        let same = |o: &Occurrence| o.stamp.append == origin.append && o.zone_assumed == origin.zone_assumed;
        match self.occurrences.iter().position(same) {
            Some(i) => w.byte(i as u8),
            None => {
                w.byte(0x80 | u8::from(origin.zone_assumed));
                w.time(origin.append);
            }
        }
    }

    fn pack_holds(&self, w: &mut Writer<'_>) {
        w.byte(self.hold_ids.len() as u8);
        for id in &self.hold_ids {
            w.maybe(*id, |w, t| w.text(t, &self.own));
        }
        w.number(self.hold_events.len() as u64);
        for h in &self.hold_events {
            w.byte(h.hold);
            w.byte(u8::from(h.opens));
            w.stamp(h.stamp);
            w.id(h.id);
            w.maybe(h.reason, |w, t| w.text(t, &self.own));
            w.maybe(h.authority, |w, t| w.text(t, &self.own));
            w.maybe(h.respond_by, |w, t| w.maybe(t, |w, t| w.time(t.0)));
        }
    }

    fn pack_rules(&self, w: &mut Writer<'_>) {
        w.number(self.filtered.len() as u64);
        for f in &self.filtered {
            w.number(u64::from(f.rule));
            w.byte(f.time);
            w.time(f.value.0);
            self.pack_origin(w, f.origin);
        }
        w.number(self.restarts.len() as u64);
        for r in &self.restarts {
            w.number(u64::from(r.rule));
            w.byte(u8::from(r.holds));
            w.maybe(r.since, |w, s| w.stamp(s));
        }
    }

    fn pack_standing(&self, w: &mut Writer<'_>) {
        w.number(self.standing.len() as u64);
        for s in &self.standing {
            w.number(u64::from(s.rule));
            w.maybe(s.episode, |w, t| w.time(t.0));
            for b in [s.highest_stage, s.highest_severity, s.stage, s.severity] {
                w.byte(b);
            }
            w.time(s.due.0);
            w.time(s.anchor.0);
            w.maybe(s.claim, pack_claim);
        }
    }
}

fn pack_claim(w: &mut Writer<'_>, c: Claim) {
    w.byte(c.milestone as u8);
    w.time(c.by.0);
    w.stamp(c.stamp);
    w.byte(c.made_by.map_or(u8::MAX, |m| m as u8));
}

/// Reads what [`Parcel::pack`] wrote. Bytes of a snapshot are checked by its checksums before they get here; what is
/// missing reads as zero, so that no bytes can make it fail.
struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    base: i64,
}

impl<'a> Reader<'a> {
    #[inline]
    fn byte(&mut self) -> u8 {
        let b = self.bytes.get(self.at).copied().unwrap_or(0);
        self.at += 1;
        b
    }

    #[inline]
    fn number(&mut self) -> u64 {
        let first = self.byte();
        if first < 0x80 { u64::from(first) } else { self.long_number(first) }
    }

    fn long_number(&mut self, first: u8) -> u64 {
        let (mut n, mut shift) = (u64::from(first & 0x7f), 7);
        loop {
            let b = self.byte();
            n |= u64::from(b & 0x7f) << shift;
            shift += 7;
            if b < 0x80 || shift > 63 {
                return n;
            }
        }
    }

    #[inline]
    fn signed(&mut self) -> i64 {
        let n = self.number();
        (n >> 1) as i64 ^ -((n & 1) as i64)
    }

    fn time(&mut self) -> i64 {
        let distance = self.signed();
        self.base.wrapping_sub(distance)
    }

    fn stamp(&mut self) -> Stamp {
        let event_time = self.time();
        Stamp { event_time, append: event_time.wrapping_add(self.signed()) }
    }

    #[inline]
    fn take(&mut self, n: usize) -> &'a [u8] {
        let rest = self.bytes.get(self.at..).unwrap_or_default();
        let taken = &rest[..n.min(rest.len())];
        self.at += taken.len();
        taken
    }

    fn id(&mut self) -> u64 {
        let mut b = [0; 8];
        let taken = self.take(6);
        b[..taken.len()].copy_from_slice(taken);
        u64::from_le_bytes(b)
    }

    fn text(&mut self, own: &mut Vec<u8>) -> Text {
        let n = self.number();
        if n & 1 == 1 {
            return Text::Shared((n >> 1) as u32);
        }
        let start = own.len() as u32;
        let taken = self.take((n >> 1) as usize);
        own.extend_from_slice(taken);
        Text::Own(start, taken.len() as u32)
    }

    fn maybe<T>(&mut self, read: impl FnOnce(&mut Self) -> T) -> Option<T> {
        (self.byte() != 0).then(|| read(self))
    }

    /// A count, bounded by the bytes that are left.
    fn count(&mut self) -> usize {
        let n = self.number() as usize;
        n.min(self.bytes.len().saturating_sub(self.at))
    }
}

/// The id that packed bytes begin with.
#[inline]
#[must_use]
pub fn packed_id(bytes: &[u8]) -> &[u8] {
    let mut r = Reader { bytes, at: 0, base: 0 };
    let n = r.number() as usize;
    r.take(n)
}

impl Parcel {
    /// Makes this the parcel of these bytes.
    pub fn unpack(&mut self, bytes: &[u8]) {
        self.clear();
        let mut r = Reader { bytes, at: 0, base: 0 };
        let n = r.count();
        self.id.push_str(std::str::from_utf8(r.take(n)).unwrap_or_default());
        let flags = r.byte();
        let mut base = [0; 8];
        let taken = r.take(8);
        base[..taken.len()].copy_from_slice(taken);
        r.base = i64::from_le_bytes(base);
        self.last_append = r.base;
        self.incomplete = flags & INCOMPLETE != 0;
        self.unpack_occurrences(&mut r);
        self.unpack_facts(&mut r);
        let bits = r.number();
        for i in 0..self.origins.len() {
            self.origins[i] = (bits >> i & 1 == 1).then(|| self.unpack_origin(&mut r));
        }
        if flags & HOLDS != 0 {
            self.unpack_holds(&mut r);
        }
        if flags & DOCUMENTS != 0 {
            self.documents_added = Some(r.time());
            for _ in 0..r.count() {
                let text = r.text(&mut self.own);
                self.documents.push(text);
            }
        }
        if flags & CLAIM != 0 {
            self.claim = Some(unpack_claim(&mut r));
        }
        if flags & TAKEN_BACK != 0 {
            for _ in 0..r.count() {
                self.taken_back.push(TakenBack { id: r.id(), seen: r.byte() != 0 });
            }
            for _ in 0..r.count() {
                self.retractions.push(r.id());
            }
        }
        if flags & RULES != 0 {
            self.unpack_rules(&mut r);
        }
        if flags & STANDING != 0 {
            self.unpack_standing(&mut r);
        }
    }

    fn unpack_occurrences(&mut self, r: &mut Reader<'_>) {
        let mut before = r.base;
        for _ in 0..r.byte() {
            let milestone = milestone(r.byte());
            let bits = r.byte();
            let event_time = before.wrapping_add(r.signed());
            let stamp = Stamp { event_time, append: event_time.wrapping_add(r.signed()) };
            before = event_time;
            let id = r.id();
            let facility = (bits & 16 != 0).then(|| r.number() as u32);
            let (class, future, zone_assumed) = (bits & 3, bits & 4 != 0, bits & 8 != 0);
            self.occurrences.push(Occurrence { milestone, class, stamp, id, facility, future, zone_assumed });
        }
    }

    fn unpack_facts(&mut self, r: &mut Reader<'_>) {
        let mut stamps = [Stamp::default(); 24];
        let n = usize::from(r.byte()).min(stamps.len());
        for s in &mut stamps[..n] {
            *s = r.stamp();
        }
        for _ in 0..r.count() {
            let number = r.number() as u16;
            let place = r.byte();
            let stamp = match stamps.get(usize::from(place)) {
                Some(s) => *s,
                None => r.stamp(),
            };
            let value = match r.byte() {
                0 => Value::Text(r.text(&mut self.own)),
                1 => Value::Number(r.text(&mut self.own)),
                2 => Value::Json(r.text(&mut self.own)),
                b => Value::Bool(b == 4),
            };
            self.facts.push(Fact { number, stamp, value });
        }
    }

    fn unpack_origin(&self, r: &mut Reader<'_>) -> Origin {
        let b = r.byte();
        match self.occurrences.get(usize::from(b)) {
            Some(o) if b < 0x80 => Origin { append: o.stamp.append, zone_assumed: o.zone_assumed },
            _ => Origin { append: r.time(), zone_assumed: b & 1 != 0 },
        }
    }

    fn unpack_holds(&mut self, r: &mut Reader<'_>) {
        for _ in 0..r.byte() {
            let id = r.maybe(|r| r.text(&mut self.own));
            self.hold_ids.push(id);
        }
        for _ in 0..r.count() {
            let (hold, opens) = (r.byte(), r.byte() != 0);
            let (stamp, id) = (r.stamp(), r.id());
            let reason = r.maybe(|r| r.text(&mut self.own));
            let authority = r.maybe(|r| r.text(&mut self.own));
            let respond_by = r.maybe(|r| r.maybe(|r| Time(r.time())));
            self.hold_events.push(HoldEvent { hold, opens, stamp, id, reason, authority, respond_by });
        }
    }

    fn unpack_rules(&mut self, r: &mut Reader<'_>) {
        for _ in 0..r.count() {
            let (rule, time) = (r.number() as u32, r.byte());
            let value = Time(r.time());
            let origin = self.unpack_origin(r);
            self.filtered.push(FilteredOrigin { rule, time, value, origin });
        }
        for _ in 0..r.count() {
            let (rule, holds) = (r.number() as u32, r.byte() != 0);
            self.restarts.push(Restart { rule, holds, since: r.maybe(Reader::stamp) });
        }
    }

    fn unpack_standing(&mut self, r: &mut Reader<'_>) {
        for _ in 0..r.count() {
            let rule = r.number() as u32;
            let episode = r.maybe(|r| Time(r.time()));
            let (highest_stage, highest_severity) = (r.byte(), r.byte());
            let (stage, severity) = (r.byte(), r.byte());
            let (due, anchor) = (Time(r.time()), Time(r.time()));
            let claim = r.maybe(unpack_claim);
            self.standing.push(Standing {
                rule,
                episode,
                highest_stage,
                highest_severity,
                stage,
                severity,
                due,
                anchor,
                claim,
            });
        }
    }
}

fn milestone(code: u8) -> Milestone {
    Milestone::from_code(code).unwrap_or(Milestone::OrderCreated)
}

fn unpack_claim(r: &mut Reader<'_>) -> Claim {
    let (code, by) = (r.byte(), Time(r.time()));
    Claim { milestone: milestone(code), by, stamp: r.stamp(), made_by: Milestone::from_code(r.byte()) }
}
