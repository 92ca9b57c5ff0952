//! YAML text → [`RuleSet`] and [`Policies`], or every problem at once (DESIGN §5, §10).

pub mod calendar;
pub mod policies;
pub mod ruleset;

pub use policies::Policies;
pub use ruleset::{Rule, RuleSet};
