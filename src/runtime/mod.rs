//! Joins everything into a daemon: threads that fold, tasks that commit, escalate and deliver, and what they tell one
//! another.
//!
//! Reading order: [`daemon`] (how it is put together and taken apart), [`group`] (which partitions are ours), [`restore`]
//! (what they begin with), [`partition`] (one shard at work), [`worker`] (the threads), [`writer`] (the one that commits),
//! [`saver`] (snapshots), [`progress`] (what is known of all of it), [`escalator`], `lead` (which of several processes
//! escalates), [`dispatcher`] and [`receivers`] (who
//! is told), [`reload`] (new rules without a restart), [`ports`] and [`status`] (what the others see).

pub mod auditor;
pub mod clock;
pub mod daemon;
mod desk;
pub mod dispatcher;
pub mod escalator;
pub mod group;
mod in_force;
mod lead;
mod mailroom;
pub mod partition;
pub mod ports;
pub mod progress;
pub mod receivers;
pub mod reload;
mod restate;
pub mod restore;
pub mod saver;
pub mod status;
pub mod systemd;
mod trial;
pub mod worker;
pub mod writer;
