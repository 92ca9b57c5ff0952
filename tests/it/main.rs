//! All integration tests in one program: linked once, and servers that several tests need are started once.

mod delivery;
mod deploy;
mod fixtures_test;
mod oracle;
#[path = "../oracle/mod.rs"]
mod oracle_impl;
mod parts;
mod rules;
