//! Chance that repeats: the same seed rolls the same numbers on every machine.

/// SplitMix64: small, even, and good enough for a play of parcels.
#[derive(Clone, Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice for the `n`-th thing of a seed; each thing has its own, so that none depends on how many others there are.
    #[must_use]
    pub fn new(seed: u64, n: u64) -> Dice {
        let mut dice = Dice(seed ^ n.wrapping_mul(0xA076_1D64_78BD_642F));
        dice.roll();
        dice
    }

    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// From `low` up to and including `high`.
    pub fn between(&mut self, low: i64, high: i64) -> i64 {
        let span = (high - low).unsigned_abs() + 1;
        low + i64::try_from(self.roll() % span).unwrap_or(0)
    }

    fn below(&mut self, n: usize) -> usize {
        let last = i64::try_from(n).unwrap_or(1) - 1;
        usize::try_from(self.between(0, last)).unwrap_or(0)
    }

    /// One of these.
    pub fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.below(of.len())]
    }

    /// One of these words.
    pub fn word(&mut self, of: &[&'static str]) -> &'static str {
        of[self.below(of.len())]
    }

    /// True `n` times of a thousand.
    pub fn permille(&mut self, n: i64) -> bool {
        self.between(0, 999) < n
    }
}
