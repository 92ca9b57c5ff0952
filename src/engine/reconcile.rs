//! What should be open against what cases says is open (DESIGN §6).

use std::collections::BTreeMap;

use super::Shard;
use super::parcel::Parcel;
use super::table::hash_of;
use crate::model::{Change, ChangeKind, Resolution, Severity, Time};

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
