//! YAML text → [`RuleSet`] and [`Policies`], or every problem at once (DESIGN §5, §10).
//!
//! Pure: files are read by `config::read_rules`, their bytes judged by [`compile`]. What comes out is complete and
//! consistent; nobody behind it has to check again.

mod body;
pub mod calendar;
mod calendar_file;
mod canon;
mod compile;
pub mod condition;
pub mod duration;
pub mod keys;
mod lints;
mod logic;
mod matchers;
mod names;
pub mod policies;
mod policy_file;
mod policy_keys;
pub mod problem;
mod problems_page;
pub mod reader;
pub mod receiver;
mod rule;
pub mod ruleset;
pub mod schema;
pub mod template;
mod whole;

pub use compile::{Loaded, SourceFile, Unreadable, compile, compile_at, is_policies};
pub use policies::Policies;
pub use problem::{Level, Problem};
pub use problems_page::{PROBLEMS_PAGE, problems_page};
pub use ruleset::{Rule, RuleSet};
pub use template::template_files;
