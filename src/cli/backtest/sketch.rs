//! Durations as a histogram of logarithmic buckets: quantiles to one percent, in little memory, whatever comes.

use std::collections::BTreeMap;

use crate::model::Time;

/// The width of a bucket: a value is told at most 1 % too high or too low.
const GAMMA: f64 = 1.02;

/// Many durations, in milliseconds. Those below a millisecond count as none at all.
#[derive(Debug, Clone, Default)]
pub struct Sketch {
    buckets: BTreeMap<u16, u64>,
    none: u64,
    count: u64,
    greatest: i64,
}

impl Sketch {
    /// Adds one.
    pub fn add(&mut self, ms: i64) {
        self.count += 1;
        self.greatest = self.greatest.max(ms);
        if ms < 1 {
            self.none += 1;
        } else {
            let bucket = ((ms as f64).ln() / GAMMA.ln()).ceil();
            *self.buckets.entry(bucket as u16).or_insert(0) += 1;
        }
    }

    /// How many.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The duration that this percentage of them does not exceed; `None` where there are none.
    #[must_use]
    pub fn percentile(&self, percent: u64) -> Option<i64> {
        if self.count == 0 {
            return None;
        }
        let mut rank = (self.count * percent).div_ceil(100).max(1);
        if rank <= self.none {
            return Some(0);
        }
        rank -= self.none;
        for (bucket, n) in &self.buckets {
            if rank <= *n {
                let middle = 2.0 * GAMMA.powi(i32::from(*bucket)) / (GAMMA + 1.0);
                return Some((middle.round() as i64).min(self.greatest));
            }
            rank -= n;
        }
        Some(self.greatest)
    }

    /// How many are above `from` and at most `to`, each counted by the middle of its bucket.
    #[must_use]
    pub fn between(&self, from: i64, to: i64) -> u64 {
        let low = if from < 0 { self.none } else { 0 };
        let inside = self.buckets.iter().filter(|(bucket, _)| {
            let middle = (2.0 * GAMMA.powi(i32::from(**bucket)) / (GAMMA + 1.0)) as i64;
            from < middle && middle <= to
        });
        low + inside.map(|(_, n)| n).sum::<u64>()
    }
}

/// The value that this percentage of sorted ones does not exceed (the nearest rank).
#[must_use]
pub fn percentile(sorted: &[i64], percent: usize) -> Option<i64> {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied()
}

/// A moment to the minute, for a person who reads many of them: `2026-10-14 07:10`.
#[must_use]
pub fn minute(time: Time) -> String {
    cut(time, 16)
}

/// A moment to the second: `2026-10-14 07:10:00`.
#[must_use]
pub fn second(time: Time) -> String {
    cut(time, 19)
}

fn cut(time: Time, chars: usize) -> String {
    time.to_string().chars().take(chars).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// A duration for a person: `3d 4h`, `2h 30m`, `45s`, `0.2s`.
#[must_use]
pub fn duration(ms: i64) -> String {
    if ms < 0 {
        return format!("-{}", duration(-ms));
    }
    let (s, m, h, d) = (ms / 1_000, ms / 60_000, ms / 3_600_000, ms / 86_400_000);
    let two = |a: i64, x: &str, b: i64, y: &str| {
        if b == 0 { format!("{a}{x}") } else { format!("{a}{x} {b}{y}") }
    };
    match ms {
        0 => "0s".to_owned(),
        1..1_000 => format!("{:.1}s", ms as f64 / 1e3),
        1_000..60_000 => format!("{s}s"),
        60_000..3_600_000 => two(m, "m", s % 60, "s"),
        3_600_000..86_400_000 => two(h, "h", m % 60, "m"),
        _ => two(d, "d", h % 24, "h"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_within_one_percent_of_the_exact_ones() {
        let mut state = 7_u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as i64
        };
        for n in [1_usize, 2, 19, 1_000] {
            let mut exact: Vec<i64> = (0..n).map(|_| next() % 10_i64.pow(1 + (next() % 9) as u32)).collect();
            let mut sketch = Sketch::default();
            exact.iter().for_each(|v| sketch.add(*v));
            exact.sort_unstable();
            for p in [1, 50, 95, 99, 100] {
                let (e, s) = (percentile(&exact, p).unwrap(), sketch.percentile(p as u64).unwrap());
                assert!((e - s).abs() as f64 <= 1.0 + e as f64 * 0.0101, "p{p} of {n}: {e} is told as {s}");
            }
            assert_eq!(sketch.between(-1, i64::MAX), n as u64);
        }
        assert_eq!(Sketch::default().percentile(50), None);
    }

    #[test]
    fn durations_as_people_say_them() {
        for (ms, text) in [
            (0, "0s"),
            (250, "0.2s"),
            (45_000, "45s"),
            (90_000, "1m 30s"),
            (7_200_000, "2h"),
            (273_600_000, "3d 4h"),
            (-90_000, "-1m 30s"),
        ] {
            assert_eq!(duration(ms), text);
        }
    }
}
