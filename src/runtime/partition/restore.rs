//! Between a loaded snapshot and work: the recorded rules up to their recorded places, then what should be open against
//! what is (DESIGN §6).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::{Partition, SLICE, names, recorded};
use crate::cases::{Cases, CasesError, Standing};
use crate::engine::reconcile::StandingCase;
use crate::model::{Change, ChangeKind, Time};
use crate::rules::RuleSet;
use crate::runtime::progress::Wait;
use crate::source::kafka::{Gap, GapKind};

impl Partition {
    /// Ends legs that are reached, then reconciles. Whether there is more to do at once.
    pub(super) fn restore(&mut self) -> bool {
        if self.restored() || !self.started {
            return false;
        }
        let Some(leg) = self.legs.front() else { return self.reconcile() };
        if self.position() < leg.until.position {
            return self.ends_before(leg.until.position);
        }
        let until = leg.until.watermark;
        if !self.shard.advance(until, SLICE, &mut self.out) {
            return true;
        }
        self.complete = recorded(&self.shard);
        if !self.hand_over_all() {
            return false;
        }
        self.legs.pop_front();
        if let Some(next) = self.legs.front() {
            let rules = Arc::clone(&next.rules);
            self.swap(rules);
        }
        true
    }

    /// The log ends before the place that a replay has to reach: it was cut below what is recorded, and nothing would ever
    /// come. That is a gap like one seen live: what is left is all there is. Whether it is so.
    fn ends_before(&mut self, goal: i64) -> bool {
        let ttl = self.context.certificate_ttl;
        let fresh = self.feed.watch.certificate().filter(|c| c.at.elapsed() < ttl);
        let position = self.position();
        let Some(end) = fresh.map(|c| c.end).filter(|end| *end < goal && position >= *end) else {
            return false;
        };
        if self.batch.is_some() || !self.feed.items.is_empty() {
            return false; // more was read than when the broker was asked
        }
        let gap = Gap { partition: self.id, from: goal, to: position.max(end), kind: GapKind::Truncation };
        tracing::error!(partition = self.id, from = gap.from, to = gap.to, kind = gap.kind.name(), "{gap}");
        self.gap(&gap);
        true
    }

    /// Puts other rules in force; what those before decided is handed over already, under their hash.
    fn swap(&mut self, rules: Arc<RuleSet>) {
        if self.shard.rules().hash != rules.hash {
            self.names = names(&rules);
            self.shard.swap_rules(rules, &mut self.out);
            self.switched = self.shard.watermark();
        }
        self.complete = recorded(&self.shard);
    }

    /// Compares with cases once everything decided so far is there.
    fn reconcile(&mut self) -> bool {
        if !self.hand_over_all() || !self.progress.is_durable(self.number) {
            return false; // its being written rings no bell; the worker looks again soon
        }
        let Some(standing) = self.ask(|cases, id| async move { cases.standing(id).await }) else {
            return false;
        };
        // Else they take over a little later, at work.
        if self.may_switch() {
            let rules = Arc::clone(&self.rules);
            self.swap(rules);
        }
        // What the new rules changed is no difference to cases: it is on its way there.
        let standing = after(standing.iter().map(standing_case).collect(), &self.out);
        self.shard.reconcile(&standing, &mut self.out);
        self.complete = recorded(&self.shard);
        self.hand_over();
        self.progress.restored.store(true, Ordering::Relaxed);
        tracing::info!(
            partition = self.id,
            position = self.position(),
            parcels = self.shard.parcels(),
            "the state of the partition is restored"
        );
        true
    }

    /// Offsets begin again: the recorded ones would never be passed. Done once all writes of before are durable.
    pub(super) fn forget_position(&mut self) -> bool {
        if !self.hand_over_all() || !self.progress.is_durable(self.number) {
            return false;
        }
        self.forget = self.ask(|cases, id| async move { cases.forget_position(id).await }).is_none();
        !self.forget
    }

    /// Asks the database; `None` where it refuses, and it is to be asked again.
    fn ask<T, F>(&self, question: impl FnOnce(Cases, i32) -> F) -> Option<T>
    where
        F: Future<Output = Result<T, CasesError>>,
    {
        match self.context.handle.block_on(question(self.context.cases.clone(), self.id)) {
            Ok(answer) => {
                self.context.progress.goes_on(Wait::Cases, self.id);
                Some(answer)
            }
            Err(error) => {
                self.context.progress.waits(Wait::Cases, self.id, &error.to_string());
                None
            }
        }
    }
}

fn standing_case(s: &Standing) -> StandingCase {
    StandingCase {
        rule: s.rule.clone(),
        parcel_id: s.parcel_id.clone(),
        episode: Time::parse(&s.episode),
        stage: s.stage,
        severity: s.severity,
        due: s.due,
        anchor: s.anchor,
        by_operator: s.by_operator,
    }
}

/// What cases will hold once these changes are there too.
fn after(standing: Vec<StandingCase>, changes: &[Change]) -> Vec<StandingCase> {
    let mut by_id: BTreeMap<_, _> =
        standing.into_iter().map(|s| ((s.parcel_id.clone(), s.rule.clone(), s.episode), s)).collect();
    for c in changes {
        let id = (c.parcel_id.to_string(), c.rule.to_string(), c.episode);
        if matches!(c.kind, ChangeKind::Resolved(_)) {
            by_id.remove(&id);
            continue;
        }
        let (parcel_id, rule, episode) = id.clone();
        let case = StandingCase {
            rule,
            parcel_id,
            episode,
            stage: c.stage,
            severity: c.severity,
            due: c.due,
            anchor: c.anchor,
            by_operator: false,
        };
        by_id.insert(id, case);
    }
    by_id.into_values().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_on_its_way_to_cases_counts_as_there() {
        let case = |parcel: &str, rule: &str| StandingCase {
            rule: rule.to_owned(),
            parcel_id: parcel.to_owned(),
            episode: None,
            stage: 1,
            severity: crate::model::Severity::High,
            due: Time(1),
            anchor: Time(0),
            by_operator: false,
        };
        let change = |parcel: &str, rule: &str, kind| Change {
            kind,
            rule: rule.into(),
            body: None,
            parcel_id: parcel.into(),
            episode: None,
            offset: 1,
            at: Time(2),
            stage: 1,
            severity: crate::model::Severity::High,
            anchor: Time(0),
            due: Time(1),
            incomplete: false,
            evidence: None,
        };
        let gone = ChangeKind::Resolved(crate::model::Resolution::RuleChanged);
        let changes = [change("A", "old", gone), change("B", "new", ChangeKind::Opened)];
        let left = after(vec![case("A", "old"), case("A", "new")], &changes);
        assert_eq!(left, [case("A", "new"), case("B", "new")]);
    }
}
