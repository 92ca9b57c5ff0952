//! All integration tests in one program: linked once, and servers that several tests need are started once.

#![recursion_limit = "256"]

mod backtest;
mod calendars;
mod cargo2000;
mod cases;
mod check;
mod delivery;
mod demo;
mod deploy;
mod escalation;
mod fixtures_test;
mod house;
mod live;
mod new_rules;
mod oracle;
#[path = "../oracle/mod.rs"]
mod oracle_impl;
mod parts;
mod rules;
mod runtime;
mod shipped;
mod silence;
mod world;
