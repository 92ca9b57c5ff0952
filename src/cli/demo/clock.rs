//! The clock that runs fast: start + factor × real time.
//!
//! It does two things that a machine's clock does not, both so that what is shown can be proved afterwards. It shows one
//! time while records stamped with that time are on their way to the broker ([`FastClock::hold`]), and then the right one again: so
//! no certificate is ever taken past a record that is not stored yet, whatever the machine is busy with, which is what a
//! broker that stamps records itself gives for free. And it can be told where to stop ([`FastClock::stop_after`]), so that the run ends at
//! a known instant.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::model::Time;
use crate::runtime::clock::WallClock;

/// Simulated time. Clones show the same.
#[derive(Clone, Debug)]
pub struct FastClock {
    shared: Arc<Mutex<State>>,
    factor: i64,
}

#[derive(Debug)]
struct State {
    /// It showed this...
    shown: i64,
    /// ...at this moment.
    at: Instant,
    /// It goes no further.
    stop: i64,
    held: bool,
}

impl State {
    /// What it shows; brings `shown` and `at` up to `now`.
    fn read(&mut self, now: Instant, factor: i64) -> i64 {
        // Microseconds: at a factor of some ten thousand a millisecond is the better part of a minute.
        let real = i64::try_from(now.saturating_duration_since(self.at).as_micros()).unwrap_or(i64::MAX);
        let passed = if self.held { 0 } else { real.saturating_mul(factor) / 1_000 };
        if passed > 0 {
            self.at = now;
        }
        self.shown = self.shown.saturating_add(passed).min(self.stop);
        self.shown
    }
}

impl FastClock {
    /// A clock that stands at `start` until it is told to run.
    #[must_use]
    pub fn new(start: Time, factor: u32) -> FastClock {
        let state = State { shown: start.0, at: Instant::now(), stop: start.0, held: false };
        FastClock { shared: Arc::new(Mutex::new(state)), factor: i64::from(factor.max(1)) }
    }

    fn with<T>(&self, work: impl FnOnce(&mut State, i64) -> T) -> T {
        let mut state = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = state.read(Instant::now(), self.factor);
        work(&mut state, shown)
    }

    /// What it shows.
    #[must_use]
    pub fn now(&self) -> Time {
        Time(self.with(|_, shown| shown))
    }

    /// Lets it run on without an end.
    pub fn run(&self) {
        self.with(|state, _| state.stop = i64::MAX);
    }

    /// Makes it stand still once `ms` more have passed, or lets it run on for that long where it stands; returns where it will
    /// stand.
    #[must_use]
    pub fn stop_after(&self, ms: i64) -> Time {
        Time(self.with(|state, shown| {
            state.stop = shown.saturating_add(ms);
            state.stop
        }))
    }

    /// Makes it show the same until [`FastClock::release`]; returns that.
    #[must_use]
    pub fn hold(&self) -> Time {
        Time(self.with(|state, shown| {
            state.held = true;
            shown
        }))
    }

    /// Ends a hold: it shows what it would without it.
    pub fn release(&self) {
        self.with(|state, _| state.held = false);
    }

    /// How many times faster than real time it runs.
    #[must_use]
    pub fn factor(&self) -> i64 {
        self.factor
    }

    /// Real time until it shows `at`, if nothing holds it.
    #[must_use]
    pub fn real_until(&self, at: Time) -> Duration {
        let left = at.0.saturating_sub(self.now().0).max(0);
        // Rounded up: zero says that it has.
        let real = left.saturating_mul(1_000).saturating_add(self.factor - 1) / self.factor;
        Duration::from_micros(u64::try_from(real).unwrap_or(u64::MAX))
    }
}

impl WallClock for FastClock {
    fn now_ms(&self) -> i64 {
        self.now().0
    }

    fn until(&self, ms: i64) -> Duration {
        self.real_until(Time(ms))
    }

    /// Nobody sets this clock, and it stands still at times: what goes apart from it was never there. The last time shown, so
    /// that one look at both sees the same.
    fn steady_ms(&self) -> Option<i64> {
        Some(self.shared.lock().unwrap_or_else(PoisonError::into_inner).shown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn clock() -> (State, Instant) {
        let now = Instant::now();
        (State { shown: 1_000, at: now, stop: i64::MAX, held: false }, now)
    }

    #[test]
    fn it_runs_by_its_factor_and_never_back() {
        let (mut state, now) = clock();
        assert_eq!(state.read(now + 10 * MS, 50), 1_500);
        assert_eq!(state.read(now, 50), 1_500);
        assert_eq!(state.read(now + 20 * MS, 50), 2_000);
    }

    #[test]
    fn parts_of_a_millisecond_are_not_lost() {
        let (mut state, now) = clock();
        for i in 1..=1_000 {
            state.read(now + MS * i / 1_000, 500);
        }
        assert_eq!(state.shown, 1_500);
    }

    #[test]
    fn it_stands_still_while_held_and_at_its_stop() {
        let (mut state, now) = clock();
        state.held = true;
        assert_eq!(state.read(now + 10 * MS, 50), 1_000);
        state.held = false;
        assert_eq!(state.read(now + 11 * MS, 50), 1_550);
        state.stop = 1_560;
        assert_eq!(state.read(now + 12 * MS, 50), 1_560);
        state.stop = i64::MAX;
        assert_eq!(state.read(now + 13 * MS, 50), 1_610);
    }

    #[test]
    fn clones_show_the_same() {
        let clock = FastClock::new(Time(5), 1_000);
        assert_eq!(clock.now(), Time(5));
        let held = clock.clone();
        assert_eq!(clock.stop_after(2), Time(7));
        assert_eq!(held.real_until(Time(5)), Duration::ZERO);
        while clock.now() < Time(7) {
            std::thread::yield_now();
        }
        assert_eq!(held.hold(), Time(7));
        clock.run();
        assert_eq!(held.now(), Time(7));
        clock.release();
        while held.now() == Time(7) {
            std::thread::yield_now();
        }
    }
}
