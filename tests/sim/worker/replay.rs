//! After the snapshot is loaded: through the recorded turns to the recorded place, the configured rules, the comparison.

use std::sync::Arc;

use parcelwatch::rules::RuleSet;

use super::{Phase, Worker, World, names_of};
use crate::cases::{Place, Turn};
use crate::run::say;

impl Worker {
    /// The next turn of a replay, the configured rules, the comparison with cases: whichever comes next.
    pub fn settle(&mut self, world: &mut World) {
        if !self.at_rest() {
            return;
        }
        match self.phase {
            Phase::Live => self.take_wanted(world),
            Phase::Replaying => {
                if let Some((goal, turn)) = self.goals.front().cloned() {
                    self.toward(goal, turn, world);
                } else {
                    self.phase = Phase::Reconciling;
                    self.position = self.position.max(self.shard.next_offset());
                    self.take_wanted(world);
                }
            }
            Phase::Reconciling => {
                let book = &world.cases.books[self.partition];
                let standing: Vec<_> = book.standing.values().cloned().collect();
                self.shard.reconcile(&standing, &mut self.out);
                assert!(book.lossy || self.out.is_empty(), "reconcile finds {}", say(&self.out[0]));
                self.phase = Phase::Live;
            }
        }
    }

    fn toward(&mut self, goal: Place, turn: Option<Turn>, world: &World) {
        let waiting = self.queue.front().is_some_and(|(o, _)| *o < goal.offset);
        if waiting || (self.position < goal.offset && !self.short) {
            return;
        }
        if self.shard.watermark() < goal.watermark {
            self.allowed = self.allowed.max(goal.watermark);
            self.raising = Some(goal.watermark);
            return;
        }
        self.goals.pop_front();
        match turn {
            Some(Turn::Rules(hash)) => {
                self.take_rules(world.rules[&hash].clone());
                self.turn = None;
            }
            Some(Turn::Gap(to)) => {
                self.turns += 1;
                if to > self.shard.next_offset() {
                    self.gap(to);
                    self.position = self.position.max(to);
                }
            }
            None => {}
        }
    }

    /// The configured rules, once W has moved since rules were last taken: rules that come, go and come again at one and
    /// the same W would give their changes names that are there already.
    fn take_wanted(&mut self, world: &World) {
        let last = world.cases.books[self.partition].turns.last();
        if last.is_none_or(|(place, _)| place.watermark < self.shard.watermark()) {
            self.take_rules(self.wanted.clone());
        }
    }

    fn take_rules(&mut self, rules: Arc<RuleSet>) {
        if rules.hash == self.shard.rules().hash {
            return;
        }
        self.turn = Some((self.place(), Turn::Rules(rules.hash.clone())));
        self.turns += 1;
        self.names = names_of(&rules);
        self.shard.swap_rules(rules, &mut self.out);
    }
}
