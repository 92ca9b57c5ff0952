//! What systemd is told, where it asks: READY, WATCHDOG while healthy, STOPPING.

use std::sync::Arc;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::http::ports::Daemon;

/// Says something; where no systemd listens, nothing happens.
fn say(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("systemd does not listen: {error}");
    }
}

/// The listener is up: what depends on this unit may start.
pub fn ready() {
    say(&[NotifyState::Ready]);
}

/// It ends of its own will.
pub fn stopping() {
    say(&[NotifyState::Stopping]);
}

/// Feeds systemd's watchdog while the daemon's own loops turn; a daemon that stands still is restarted. Ends at once where
/// no watchdog is configured.
pub async fn watchdog(daemon: Arc<dyn Daemon>) {
    let Some(limit) = sd_notify::watchdog_enabled() else { return };
    let every = (limit / 3).max(Duration::from_millis(100));
    loop {
        match daemon.healthy() {
            Ok(()) => say(&[NotifyState::Watchdog]),
            Err(why) => tracing::error!("not healthy: {why}"),
        }
        tokio::time::sleep(every).await;
    }
}
