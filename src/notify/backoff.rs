//! When a message that failed is tried again, and when it is given up.
//!
//! 5 s, 30 s, 2 min, 5 min, 15 min, 30 min, then hourly, each ± 20 %; after 72 h it is a dead letter. An alarm is worth
//! little after days, and its ladder climbs to others meanwhile, so this is denser at the start and shorter than RFC 5321 and
//! Standard Webhooks advise for ordinary post. The jitter comes from the row and the attempt: it scatters many rows and is
//! the same in every run.

use sha2::{Digest, Sha256};

use super::{Failure, FailureClass};
use crate::model::{DAY, HOUR, MINUTE, SECOND};

/// Spans in milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    /// From the n-th failure to the next try; the last one repeats.
    pub delays: Vec<i64>,
    /// The least for a configuration error, which time alone seldom heals.
    pub auth: i64,
    /// From being written to being given up.
    pub give_up_after: i64,
    /// The longest `Retry-After` that is obeyed.
    pub retry_after_max: i64,
}

impl Default for Backoff {
    fn default() -> Backoff {
        Backoff {
            delays: vec![5 * SECOND, 30 * SECOND, 2 * MINUTE, 5 * MINUTE, 15 * MINUTE, 30 * MINUTE, HOUR],
            auth: 10 * MINUTE,
            give_up_after: 3 * DAY,
            retry_after_max: 2 * DAY,
        }
    }
}

/// What follows a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Try again then, milliseconds since 1970.
    Retry(i64),
    /// Never.
    GiveUp,
}

impl Backoff {
    /// What follows `failure` of the row `id`, written at `created_ms`, which had failed `attempts` times before.
    ///
    /// A stated `Retry-After` is obeyed where it is longer than the schedule's delay, up to [`Backoff::retry_after_max`],
    /// and is not shortened by jitter.
    #[must_use]
    pub fn next(&self, id: &str, created_ms: i64, attempts: u32, failure: &Failure, now_ms: i64) -> Next {
        if failure.class == FailureClass::Permanent {
            return Next::GiveUp;
        }
        let step = usize::try_from(attempts).unwrap_or(usize::MAX).min(self.delays.len().saturating_sub(1));
        let scheduled = jitter(self.delays.get(step).copied().unwrap_or(MINUTE), id, attempts);
        let mut wait = scheduled.max(failure.floor_ms);
        if failure.class == FailureClass::Auth {
            wait = wait.max(jitter(self.auth, id, attempts));
        }
        if let Some(told) = failure.retry_after_ms {
            wait = scheduled.max(told.min(self.retry_after_max));
        }
        let at = now_ms.saturating_add(wait);
        if at > created_ms.saturating_add(self.give_up_after) { Next::GiveUp } else { Next::Retry(at) }
    }
}

/// `ms` ± 20 %, the same for the same row and attempt.
#[must_use]
pub fn jitter(ms: i64, id: &str, attempt: u32) -> i64 {
    let hash = Sha256::new().chain_update(id).chain_update(attempt.to_le_bytes()).finalize();
    let draw = i64::from(u16::from_le_bytes([hash[0], hash[1]])); // 0 ..= 65,535
    let fifth = ms / 5;
    ms - fifth + fifth.saturating_mul(2).saturating_mul(draw) / i64::from(u16::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notify::Scope;

    fn failed(class: FailureClass) -> Failure {
        Failure::new(class, Scope::Receiver, "test")
    }

    fn wait(attempts: u32, failure: &Failure) -> i64 {
        match Backoff::default().next("row-1", 0, attempts, failure, 1000) {
            Next::Retry(at) => at - 1000,
            Next::GiveUp => panic!("given up"),
        }
    }

    #[test]
    fn delays_grow_within_their_jitter_and_stay_at_an_hour() {
        let transient = failed(FailureClass::Transient);
        for (attempts, delay) in
            [(0, 5), (1, 30), (2, 120), (3, 300), (4, 900), (5, 1800), (6, 3600), (60, 3600)]
        {
            let w = wait(attempts, &transient);
            assert!((delay * 800..=delay * 1200).contains(&w), "attempt {attempts}: {w} ms for {delay} s");
        }
    }

    #[test]
    fn jitter_is_the_same_each_time_and_scatters_rows() {
        assert_eq!(jitter(10_000, "row-1", 3), jitter(10_000, "row-1", 3));
        let waits: Vec<i64> = (0..500).map(|n| jitter(10_000, &format!("row-{n}"), 0)).collect();
        let (min, max) = (waits.iter().min().unwrap(), waits.iter().max().unwrap());
        assert!((8_000..8_300).contains(min) && (11_700..=12_000).contains(max), "{min} {max}");
        let mean = waits.iter().sum::<i64>() / 500;
        assert!((9_800..10_200).contains(&mean), "{mean}");
    }

    #[test]
    fn retry_after_is_obeyed_and_clamped() {
        let told = |s: i64| Failure { retry_after_ms: Some(s * SECOND), ..failed(FailureClass::RateLimited) };
        assert_eq!(wait(0, &told(42)), 42 * SECOND);
        assert!(wait(0, &told(0)) >= 4 * SECOND, "a Retry-After of 0 does not hammer");
        assert_eq!(wait(0, &told(999_999)), 2 * DAY);
        // A floor is for those who say nothing.
        assert_eq!(wait(0, &told(42).not_before(MINUTE)), 42 * SECOND);
        assert_eq!(wait(0, &failed(FailureClass::RateLimited).not_before(MINUTE)), MINUTE);
    }

    #[test]
    fn a_wrong_password_is_tried_rarely() {
        assert!(wait(0, &failed(FailureClass::Auth)) >= 8 * MINUTE);
    }

    #[test]
    fn permanent_and_too_old_are_given_up() {
        let b = Backoff::default();
        assert_eq!(b.next("r", 0, 0, &failed(FailureClass::Permanent), 0), Next::GiveUp);
        assert_eq!(b.next("r", 0, 70, &failed(FailureClass::Transient), 3 * DAY), Next::GiveUp);
        assert!(matches!(b.next("r", 0, 70, &failed(FailureClass::OutcomeUnknown), 2 * DAY), Next::Retry(_)));
    }

    #[test]
    fn a_far_clock_does_not_overflow() {
        let f = failed(FailureClass::Transient);
        assert_eq!(Backoff::default().next("r", i64::MIN, 0, &f, i64::MAX), Next::GiveUp);
    }
}
