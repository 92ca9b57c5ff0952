//! The wall clock, handed in: `demo` has one that runs fast.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What time it is.
pub trait WallClock: Send + Sync {
    /// Milliseconds since 1970.
    fn now_ms(&self) -> i64;

    /// Real time until this clock shows `ms`; zero where it has.
    fn until(&self, ms: i64) -> Duration;

    /// A clock beside this one that nobody sets, milliseconds from any zero, where it has one of its own; `None`: its pace is
    /// even, and the machine's steady clock tells it.
    fn steady_ms(&self) -> Option<i64> {
        None
    }
}

/// The machine's clock.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl WallClock for SystemClock {
    fn now_ms(&self) -> i64 {
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |d| i64::try_from(d.as_millis()).unwrap_or(i64::MAX))
    }

    fn until(&self, ms: i64) -> Duration {
        Duration::from_millis(u64::try_from(ms.saturating_sub(self.now_ms())).unwrap_or(0))
    }
}

/// A [`WallClock`] for the source, with a steady one of the same pace beside it.
pub struct SourceClocks {
    wall: std::sync::Arc<dyn WallClock>,
    start: std::time::Instant,
    /// Real milliseconds that this many of the wall clock take.
    real: i64,
}

/// Milliseconds of the wall clock whose real length is measured: long enough that reading the clock does not matter.
const SPAN: i64 = 1_000_000_000;

impl SourceClocks {
    /// Takes the pace of `wall` now; it is taken to keep it.
    #[must_use]
    pub fn new(wall: std::sync::Arc<dyn WallClock>) -> SourceClocks {
        let real = wall.until(wall.now_ms().saturating_add(SPAN));
        let real = i64::try_from(real.as_millis()).unwrap_or(SPAN).max(1);
        SourceClocks { wall, start: std::time::Instant::now(), real }
    }
}

impl crate::source::kafka::Clocks for SourceClocks {
    fn wall(&self) -> crate::model::Time {
        crate::model::Time(self.wall.now_ms())
    }

    fn steady(&self) -> i64 {
        if let Some(steady) = self.wall.steady_ms() {
            return steady;
        }
        let real = i128::try_from(self.start.elapsed().as_millis()).unwrap_or(i128::MAX);
        i64::try_from(real.saturating_mul(i128::from(SPAN)) / i128::from(self.real)).unwrap_or(i64::MAX)
    }
}
