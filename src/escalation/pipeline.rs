//! The order of a flush (DESIGN §7): inhibit → mute calendar → silence → dedup → step. A resolve passes all of them.

use super::ladder::Due;
use super::{Case, State, Why};

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Another exception explains this one. No policy can say so yet: nothing is held back.
    Inhibit,
    /// A calendar keeps quiet. No policy can say so yet: nothing is held back.
    Mute,
    /// An operator keeps quiet. None can say so yet: nothing is held back.
    Silence,
    /// It has no news.
    Dedup,
    /// Which steps, whom: [`super::flush()`].
    Step,
}

/// The order.
pub const ORDER: [Stage; 5] = [Stage::Inhibit, Stage::Mute, Stage::Silence, Stage::Dedup, Stage::Step];

/// The first stage that keeps a member back, and why.
#[must_use]
pub fn held_back(case: &Case, due: &Due) -> Option<(Stage, Why)> {
    if due.resolve {
        return None;
    }
    ORDER.into_iter().find_map(|stage| {
        let why = match stage {
            Stage::Inhibit | Stage::Mute | Stage::Silence | Stage::Step => None,
            Stage::Dedup => due.is_empty().then(|| no_news(case)),
        };
        why.map(|why| (stage, why))
    })
}

fn no_news(case: &Case) -> Why {
    match case.state {
        State::Resolved => Why::ResolvedBeforeFlush,
        State::Acknowledged => Why::Acknowledged,
        State::Open => Why::NothingNew,
    }
}
