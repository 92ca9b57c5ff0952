//! `demo`: everything embedded, nothing to install (DESIGN §8).
//!
//! The daemon of `run` under a clock that runs fast ([`clock`]), reading from librdkafka's mock broker what a simulated
//! network of parcels tells ([`network`], [`life`], [`producer`]), sending to a mail server and a webhook receiver inside
//! this process ([`smtp`], [`hook`]). At the end a backtest of the very records says what was owed ([`check`], [`verdict`]).
//!
//! At the default factor a second is 14.4 hours, so that 20 seconds are twelve days: a parcel's life is about six, the
//! slowest deadlines count in weeks. The network has been running for 24 days when the clock starts, which the daemon
//! meets as any first start on a topic with history.

pub mod api;
pub mod check;
pub mod clock;
pub mod dice;
pub mod embedded;
pub mod files;
pub mod hook;
pub mod inbox;
pub mod lanes;
pub mod life;
pub mod network;
pub mod news;
pub mod play;
pub mod producer;
pub mod screen;
pub mod smtp;
pub mod verdict;

use std::io::IsTerminal as _;

use crate::log;

/// How many times faster than real time the clock runs, unless told otherwise.
pub const FACTOR: u32 = 51_840;

/// What a demonstration is told.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Ends by itself after so many seconds of running; `None`: at Ctrl-C.
    pub seconds: Option<u64>,
    /// Which network.
    pub seed: u64,
    /// How many times faster than real time.
    pub factor: u32,
}

/// Runs a demonstration. Returns the exit code: 0 where what arrived is what a backtest of the same records and the policies
/// say was owed, else 1.
///
/// # Errors
/// Something embedded could not be started, or broke.
pub fn run(options: Options) -> anyhow::Result<u8> {
    log::init(log::Format::Text, "error", std::io::stderr().is_terminal())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let code = runtime.block_on(play::play(&options));
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    code
}
