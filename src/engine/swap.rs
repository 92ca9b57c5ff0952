//! New rules for parcels in flight: put in force in slices, or only foreseen (DESIGN §6).

use std::collections::BTreeMap;
use std::sync::Arc;

use super::derive::Derived;
use super::evaluate::Program;
use super::parcel::{FilteredOrigin, Origin, Parcel, Stamp};
use super::{Scratch, Shard};
use crate::model::{Change, ChangeKind, KNOWN_FACTS};
use crate::rules::RuleSet;

/// New rules on their way to all parcels. Until it is done the shard must neither fold nor advance, and no save begin: the
/// parcels not come to yet are still as the old rules left them.
#[derive(Debug)]
pub struct Swap {
    /// Names of the facts declared before, where the new rules number them otherwise.
    renumber: Option<Vec<String>>,
    /// Codes of the rules before.
    old: Vec<u32>,
    /// The next slot.
    at: u32,
}

/// What new rules would do to the parcels in flight; nothing is changed by asking.
pub struct Preview {
    program: Program,
    swap: Swap,
    /// What is foreseen so far.
    pub found: Foreseen,
    /// Every change, where somebody wants them all.
    pub kept: Option<Vec<Change>>,
}

/// Changes that new rules would make at once, by rule.
#[derive(Debug, Default, Clone)]
pub struct Foreseen {
    /// By the rule's id.
    pub rules: BTreeMap<String, Tally>,
}

/// What is foreseen of one rule.
#[derive(Debug, Default, Clone)]
pub struct Tally {
    /// Exceptions that would open.
    pub opened: u64,
    /// That would rise.
    pub raised: u64,
    /// That would resolve.
    pub resolved: u64,
    /// That would stand on with another due time.
    pub moved: u64,
    /// The first few.
    pub examples: Vec<Change>,
}

/// Examples kept of a rule.
const EXAMPLES: usize = 5;

impl Foreseen {
    /// Exceptions that would open.
    #[must_use]
    pub fn openings(&self) -> u64 {
        self.rules.values().map(|t| t.opened).sum()
    }

    /// Takes changes that would be made.
    pub fn take(&mut self, changes: impl IntoIterator<Item = Change>) {
        for change in changes {
            let tally = self.rules.entry(change.rule.to_string()).or_default();
            match change.kind {
                ChangeKind::Opened => tally.opened += 1,
                ChangeKind::Raised => tally.raised += 1,
                ChangeKind::Resolved(_) => tally.resolved += 1,
            }
            if tally.examples.len() < EXAMPLES {
                tally.examples.push(change);
            }
        }
    }

    /// Adds what another shard foresees.
    pub fn add(&mut self, other: Foreseen) {
        for (rule, tally) in other.rules {
            let mine = self.rules.entry(rule).or_default();
            mine.opened += tally.opened;
            mine.raised += tally.raised;
            mine.resolved += tally.resolved;
            mine.moved += tally.moved;
            let room = EXAMPLES.saturating_sub(mine.examples.len());
            mine.examples.extend(tally.examples.into_iter().take(room));
        }
    }
}

impl Swap {
    fn of(before: &Program, rules: &RuleSet) -> Swap {
        let names = |rules: &RuleSet| rules.declared.iter().map(|d| d.name.clone()).collect::<Vec<_>>();
        let declared = names(&before.rules);
        let renumber = (declared != names(rules)).then_some(declared);
        Swap { renumber, old: before.codes.clone(), at: 0 }
    }
}

impl Shard {
    /// Puts new rules in force for all parcels at once; what that changes has `at` = W.
    pub fn swap_rules(&mut self, rules: Arc<RuleSet>, out: &mut Vec<Change>) {
        let mut swap = self.swap_begin(rules, out);
        self.swap_step(&mut swap, u32::MAX, out);
    }

    /// Begins to put new rules in force. What an advance that stopped at its limit left undecided below W is decided first, by the
    /// old rules.
    pub fn swap_begin(&mut self, rules: Arc<RuleSet>, out: &mut Vec<Change>) -> Swap {
        self.advance(self.watermark, usize::MAX, out);
        let swap = Swap::of(&self.program, &rules);
        self.program = Program::new(rules, &mut self.interner);
        swap
    }

    /// Goes on with up to `slots` parcels; whether all are done. What the new rules change has `at` = W.
    pub fn swap_step(&mut self, swap: &mut Swap, slots: u32, out: &mut Vec<Change>) -> bool {
        let to = self.table.end().min(swap.at.saturating_add(slots));
        let mut s = self.scratch.take().unwrap_or_default();
        for slot in swap.at..to {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            s.parcel.unpack(&self.table.slot(slot).bytes);
            let first = out.len();
            let look = self.under_new_rules(&mut s, swap, out);
            self.attach_evidence(&s, &mut out[first..]);
            s.bytes.clear();
            s.parcel.pack(&mut s.bytes);
            self.save_before_change(slot);
            self.table.store(slot, &s.bytes);
            self.list(slot, look);
        }
        self.scratch = Some(s);
        swap.at = to;
        to >= self.table.end()
    }

    /// What a parcel becomes under the rules of `self.program`; when to look at it again.
    fn under_new_rules(&self, s: &mut Scratch, swap: &Swap, out: &mut Vec<Change>) -> i64 {
        if let Some(before) = &swap.renumber {
            renumber(&mut s.parcel, before, &self.program.rules);
        }
        s.now.of(&s.parcel, &self.interner);
        s.parcel.restarts.retain(|r| self.program.codes.contains(&r.rule));
        s.parcel.filtered.retain(|f| self.program.codes.contains(&f.rule));
        self.note_new_rules(&mut s.parcel, &s.now, &swap.old);
        let found = self.look_at(self.watermark.0, self.watermark, true).take(&mut s.parcel, &s.now, out);
        found.next.min(self.farewell(&s.parcel, &s.now, found.after_terminal))
    }

    /// A rule that is new to a parcel already known: no record made it begin to hold (SEMANTICS 5.5), and what its
    /// filter sees takes the origin of the same time without a filter.
    fn note_new_rules(&self, p: &mut Parcel, d: &Derived, old: &[u32]) {
        let record = Stamp { event_time: p.last_append, append: p.last_append };
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

    /// Rules of what stands whose stage would be due at another time than was told.
    fn moved(&self, p: &Parcel, d: &Derived) -> Vec<String> {
        let look = self.look_at(self.watermark.0, self.watermark, true);
        let rule = |code: u32| self.program.codes.iter().position(|c| *c == code);
        let moved = p.standing.iter().filter(|s| {
            let Some(i) = rule(s.rule) else { return false };
            let due = look.due_of(p, d, i, s.stage);
            due.is_some_and(|due| due != s.due)
        });
        moved.map(|s| self.interner.text(s.rule).to_owned()).collect()
    }

    /// Asks what these rules would change now.
    pub fn preview(&mut self, rules: Arc<RuleSet>) -> Preview {
        let swap = Swap::of(&self.program, &rules);
        let program = Program::new(rules, &mut self.interner);
        Preview { program, swap, found: Foreseen::default(), kept: None }
    }

    /// Goes on with up to `slots` parcels; whether all were asked. The shard may fold and advance in between; no parcel is
    /// changed by this.
    pub fn preview_step(&mut self, preview: &mut Preview, slots: u32) -> bool {
        let to = self.table.end().min(preview.swap.at.saturating_add(slots));
        let mut s = self.scratch.take().unwrap_or_default();
        let mut changes = Vec::new();
        std::mem::swap(&mut self.program, &mut preview.program);
        for slot in preview.swap.at..to {
            if self.table.slot(slot).bytes.is_empty() {
                continue;
            }
            s.parcel.unpack(&self.table.slot(slot).bytes);
            self.under_new_rules(&mut s, &preview.swap, &mut changes);
            if let Some(kept) = &mut preview.kept {
                self.attach_evidence(&s, &mut changes);
                kept.extend(changes.iter().cloned());
            }
            for rule in self.moved(&s.parcel, &s.now) {
                preview.found.rules.entry(rule).or_default().moved += 1;
            }
            preview.found.take(changes.drain(..));
        }
        std::mem::swap(&mut self.program, &mut preview.program);
        self.scratch = Some(s);
        preview.swap.at = to;
        to >= self.table.end()
    }
}

/// Declared facts were numbered after `before`: gives them the numbers of `rules`. One that is no longer declared goes.
pub(super) fn renumber(parcel: &mut Parcel, before: &[String], rules: &RuleSet) {
    let number = |old: u16| match usize::from(old).checked_sub(KNOWN_FACTS.len()) {
        None => Some(old),
        Some(i) => before.get(i).and_then(|name| rules.fact_number(name)),
    };
    parcel.facts.retain_mut(|f| match number(f.number) {
        Some(n) => {
            f.number = n;
            true
        }
        None => false,
    });
    parcel.facts.sort_by_key(|f| f.number);
}
