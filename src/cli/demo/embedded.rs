//! The daemon of `run`, started on the demonstration's folder as `run` starts it, but for the clock.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};

use super::clock::FastClock;
use crate::cli::run;
use crate::config::Config;
use crate::rules::{Policies, RuleSet};
use crate::runtime::daemon::Daemon;

/// A running daemon and what it decides with.
pub struct Embedded {
    /// The daemon.
    pub daemon: Daemon,
    /// Its rules.
    pub rules: Arc<RuleSet>,
    /// Its policies.
    pub policies: Arc<Policies>,
    /// `time.skew`, milliseconds.
    pub skew: i64,
}

/// Starts it on a configuration file.
///
/// # Errors
/// What [`Daemon::start`] says, or the configuration or the rules have errors.
pub async fn start(path: &Path, clock: &FastClock) -> anyhow::Result<Embedded> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => bail!(
            "the embedded configuration is wrong: {}",
            problems.iter().map(|p| p.render(false)).collect::<Vec<_>>().join("\n")
        ),
    };
    let in_force = run::in_force(&config)?.context("the shipped rules cannot be used")?;
    let (rules, policies) = (Arc::clone(&in_force.rules), Arc::clone(&in_force.policies));
    let settings = run::settings(&config, false)?;
    let daemon = run::start(&config, settings, in_force, Arc::new(clock.clone())).await?;
    Ok(Embedded { daemon, rules, policies, skew: config.time.skew })
}
