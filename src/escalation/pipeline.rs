//! The order of a flush (DESIGN §7): inhibit → mute calendar → silence → dedup → step. A resolve passes all of them.

use super::ladder::Due;
use super::{Case, State, Why};

/// A place in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Another exception explains this one.
    Inhibit,
    /// A calendar keeps quiet.
    Mute,
    /// An operator keeps quiet.
    Silence,
    /// It has no news.
    Dedup,
    /// Which steps, whom: [`super::flush()`].
    Step,
}

/// The order.
pub const ORDER: [Stage; 5] = [Stage::Inhibit, Stage::Mute, Stage::Silence, Stage::Dedup, Stage::Step];

/// The first stage that keeps a member back, and why. `held` is what [`super::quiet`] says of it at this moment; what has no
/// news has nothing that could be kept quiet.
#[must_use]
pub fn held_back(case: &Case, due: &Due, held: Option<Why>) -> Option<(Stage, Why)> {
    if due.resolve {
        return None;
    }
    let held = held.filter(|_| !due.is_empty());
    ORDER.into_iter().find_map(|stage| {
        let why = match stage {
            Stage::Inhibit => held.filter(|w| *w == Why::Inhibited),
            Stage::Mute => held.filter(|w| *w == Why::Muted),
            Stage::Silence => held.filter(|w| *w == Why::Silenced),
            Stage::Dedup => due.is_empty().then(|| no_news(case)),
            Stage::Step => None,
        };
        why.map(|why| (stage, why))
    })
}

fn no_news(case: &Case) -> Why {
    match case.state {
        // Its end is held back for a while.
        State::Resolved if case.ladder.told => Why::NothingNew,
        State::Resolved => Why::ResolvedBeforeFlush,
        State::Acknowledged => Why::Acknowledged,
        State::Open => Why::NothingNew,
    }
}
