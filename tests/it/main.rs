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
mod fuzz;
mod house;
mod live;
mod new_rules;
mod oracle;
#[path = "../oracle/mod.rs"]
mod oracle_impl;
mod parts;
mod postgres;
mod readme;
mod receivers;
mod rule_tests;
mod rules;
mod runtime;
mod schema;
mod shipped;
mod silence;
mod templates;
mod world;

#[global_allocator]
static MEMORY: fuzz::Counting = fuzz::Counting;
