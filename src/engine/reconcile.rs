//! New rules for parcels in flight, and what should be open against what cases says is open (DESIGN §6).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shard;
use super::evaluate::Program;
use super::parcel::{FilteredOrigin, Origin, Parcel};
use super::table::hash_of;
use crate::model::{Change, ChangeKind, Resolution, Severity, Time};
use crate::rules::RuleSet;

/// An exception that cases holds open for a partition, or that an operator resolved.
#[derive(Clone, PartialEq, Debug)]
pub struct StandingCase {
    pub rule: String,
    pub parcel_id: String,
    pub episode: Option<Time>,
    pub stage: u8,
    pub severity: Severity,
    pub due: Time,
    pub anchor: Time,
    /// Resolved by hand: it is left alone (SEMANTICS 8.2).
    pub by_operator: bool,
}

impl Shard {
    /// Puts new rules in force for all parcels; what that changes has `at` = W. What an advance that stopped at its limit
    /// left undecided below W is decided first, by the old rules.
    pub fn swap_rules(&mut self, rules: Arc<RuleSet>, out: &mut Vec<Change>) {
        self.advance(self.watermark, usize::MAX, out);
        let before: Vec<String> = self.program.rules.declared.iter().map(|d| d.name.clone()).collect();
        let old: Vec<_> = self.program.codes.clone();
        self.program = Program::new(rules, &mut self.interner);
        if before != self.program.rules.declared.iter().map(|d| d.name.clone()).collect::<Vec<_>>() {
            self.renumber_facts(&before);
        }
        let mut s = self.scratch.take().unwrap_or_default();
        for slot in 0..self.table.end() {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            s.parcel.unpack(&self.table.slot(slot).bytes);
            s.now.of(&s.parcel, &self.interner);
            s.parcel.restarts.retain(|r| self.program.codes.contains(&r.rule));
            s.parcel.filtered.retain(|f| self.program.codes.contains(&f.rule));
            self.note_new_rules(&mut s.parcel, &s.now, &old);
            let first = out.len();
            let found = self.look_at(self.watermark.0, self.watermark, true).take(&mut s.parcel, &s.now, out);
            self.attach_evidence(&s, &mut out[first..]);
            let look = found.next.min(self.farewell(&s.parcel, &s.now, found.after_terminal));
            s.bytes.clear();
            s.parcel.pack(&mut s.bytes);
            self.save_before_change(slot);
            self.table.store(slot, &s.bytes);
            self.list(slot, look);
        }
        self.scratch = Some(s);
    }

    /// A rule that is new to a parcel already known: no record made it begin to hold (SEMANTICS 5.5), and what its
    /// filter sees takes the origin of the same time without a filter.
    fn note_new_rules(&self, p: &mut Parcel, d: &super::derive::Derived, old: &[u32]) {
        let record = super::parcel::Stamp { event_time: p.last_append, append: p.last_append };
        let origin = Origin { append: p.last_append, zone_assumed: false };
        let (restarts, filtered) = (p.restarts.clone(), p.filtered.clone());
        let origins = p.origins;
        self.program.note_origins(p, Some(d), d, &self.interner, record, false);
        for r in &mut p.restarts {
            match restarts.iter().find(|k| k.rule == r.rule) {
                Some(known) => *r = *known,
                None => r.since = None,
            }
        }
        for f in &mut p.filtered {
            *f = match filtered.iter().find(|k| k.rule == f.rule && k.time == f.time) {
                Some(known) if old.contains(&f.rule) => *known,
                _ => FilteredOrigin { origin: origins[usize::from(f.time)].unwrap_or(origin), ..*f },
            };
        }
    }

    /// Compares what stands here with what cases holds for this partition and tells the difference, `at` = W.
    pub fn reconcile(&mut self, cases: &[StandingCase], out: &mut Vec<Change>) {
        let key = |c: &StandingCase| (c.parcel_id.clone(), c.rule.clone(), c.episode);
        let known: BTreeMap<_, _> = cases.iter().map(|c| (key(c), c)).collect();
        let mut s = self.scratch.take().unwrap_or_default();
        for slot in 0..self.table.end() {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            s.parcel.unpack(&self.table.slot(slot).bytes);
            if s.parcel.standing.is_empty() {
                continue;
            }
            s.now.of(&s.parcel, &self.interner);
            let first = out.len();
            for standing in &s.parcel.standing {
                let rule = self.interner.text(standing.rule);
                if !known.contains_key(&(s.parcel.id.clone(), rule.to_owned(), standing.episode)) {
                    out.push(self.told(
                        &s.parcel.id,
                        rule,
                        ChangeKind::Opened,
                        standing.into(),
                        s.parcel.incomplete,
                    ));
                }
            }
            self.attach_evidence(&s, &mut out[first..]);
        }
        self.scratch = Some(s);
        for case in cases.iter().filter(|c| !c.by_operator) {
            if let Some(resolution) = self.no_longer_stands(case) {
                let kind = ChangeKind::Resolved(resolution);
                out.push(self.told(&case.parcel_id, &case.rule, kind, case.into(), false));
            }
        }
    }

    /// `None` where the case stands here too; else why it does not.
    fn no_longer_stands(&self, case: &StandingCase) -> Option<Resolution> {
        let Some(slot) = self.table.find(&case.parcel_id, hash_of(&case.parcel_id)) else {
            return Some(Resolution::Forgotten);
        };
        let mut parcel = Parcel::default();
        parcel.unpack(&self.table.slot(slot).bytes);
        let code = self.interner.find(&case.rule);
        let stands = parcel.standing.iter().any(|s| Some(s.rule) == code && s.episode == case.episode);
        let known = self.program.rules.rule(&case.rule).is_some();
        (!stands).then_some(if known { Resolution::AnchorMoved } else { Resolution::RuleChanged })
    }

    fn told(&self, parcel: &str, rule: &str, kind: ChangeKind, told: Told, incomplete: bool) -> Change {
        let known = self.program.rules.rule(rule);
        Change {
            kind,
            rule: known.map_or_else(|| rule.into(), |(_, r)| r.id.clone()),
            body: known.map(|(i, _)| (i as u16, 0)),
            parcel_id: parcel.into(),
            episode: told.episode,
            offset: self.next_offset - 1,
            at: self.watermark,
            stage: told.stage,
            severity: told.severity,
            anchor: told.anchor,
            due: told.due,
            incomplete,
            evidence: None,
        }
    }
}

/// What a change says of an exception that was told before.
struct Told {
    episode: Option<Time>,
    stage: u8,
    severity: Severity,
    anchor: Time,
    due: Time,
}

impl From<&super::parcel::Standing> for Told {
    fn from(s: &super::parcel::Standing) -> Told {
        let severity = Severity::from_code(s.severity).unwrap_or(Severity::Critical);
        Told { episode: s.episode, stage: s.stage, severity, anchor: s.anchor, due: s.due }
    }
}

impl From<&StandingCase> for Told {
    fn from(c: &StandingCase) -> Told {
        Told { episode: c.episode, stage: c.stage, severity: c.severity, anchor: c.anchor, due: c.due }
    }
}
