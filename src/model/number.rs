//! Exact decimal numbers of facts and rules: compared by value (3 = 3.0), never as floats.

use std::cmp::Ordering;

/// `mantissa` × 10^-`scale`. Numbers with more than 38 significant digits, or an exponent beyond ±18, are no numbers
/// for a matcher: no amount, count or percentage needs them, and comparing them would need unbounded work.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    mantissa: i128,
    scale: u32,
}

impl Decimal {
    /// A whole number.
    #[must_use]
    pub fn whole(n: i64) -> Decimal {
        Decimal { mantissa: i128::from(n), scale: 0 }
    }

    /// Reads a JSON number or a text that is a decimal number: sign, digits, fraction, exponent.
    #[must_use]
    pub fn parse(text: &str) -> Option<Decimal> {
        let b = text.as_bytes();
        let (mut i, negative) = match b.first()? {
            b'-' => (1, true),
            b'+' => (1, false),
            _ => (0, false),
        };
        let (mut mantissa, mut scale, mut digits) = (0i128, 0i64, 0);
        let mut fraction = false;
        while i < b.len() {
            match b[i] {
                d @ b'0'..=b'9' => {
                    mantissa = mantissa.checked_mul(10)?.checked_add(i128::from(d - b'0'))?;
                    digits += 1;
                    scale += i64::from(fraction);
                }
                b'.' if !fraction && digits > 0 && b.get(i + 1).is_some_and(u8::is_ascii_digit) => {
                    fraction = true
                }
                b'e' | b'E' if digits > 0 => {
                    let rest = &text[i + 1..];
                    let plain = rest.strip_prefix(['+', '-']).unwrap_or(rest);
                    if plain.is_empty() || plain.len() > 3 || !plain.bytes().all(|c| c.is_ascii_digit()) {
                        return None;
                    }
                    scale -= rest.parse::<i64>().ok()?;
                    i = b.len();
                    continue;
                }
                _ => return None,
            }
            i += 1;
        }
        if digits == 0 {
            return None;
        }
        if scale < 0 {
            if scale < -18 && mantissa != 0 {
                return None;
            }
            mantissa = mantissa.checked_mul(10i128.checked_pow(u32::try_from(-scale).ok()?.min(18))?)?;
            scale = 0;
        }
        let mut n = Decimal {
            mantissa: if negative { -mantissa } else { mantissa },
            scale: u32::try_from(scale).ok()?,
        };
        n.trim();
        (n.scale <= 38).then_some(n)
    }

    /// Drops trailing zeros of the fraction, so that equal numbers have equal parts.
    fn trim(&mut self) {
        while self.scale > 0 && self.mantissa % 10 == 0 {
            self.mantissa /= 10;
            self.scale -= 1;
        }
    }

    /// `self − other`, exactly; `None` where it does not fit.
    #[must_use]
    pub fn minus(self, other: Decimal) -> Option<Decimal> {
        let scale = self.scale.max(other.scale);
        let mut n = Decimal { mantissa: self.at(scale)?.checked_sub(other.at(scale)?)?, scale };
        n.trim();
        Some(n)
    }

    fn at(self, scale: u32) -> Option<i128> {
        self.mantissa.checked_mul(10i128.checked_pow(scale - self.scale)?)
    }

    /// Whether it is 0.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// The whole number it is, if it is one that fits.
    #[must_use]
    pub fn as_whole(self) -> Option<i64> {
        if self.scale == 0 { i64::try_from(self.mantissa).ok() } else { None }
    }

    /// Compares `self ÷ by × 100` with `other`, exactly; `None` where it does not fit or `by` is 0.
    #[must_use]
    pub fn percent_of_cmp(self, by: Decimal, other: Decimal) -> Option<Ordering> {
        if by.is_zero() {
            return None;
        }
        // a/b×100 ? c  ⇔  a×100 ? c×b  (turned round where b < 0)
        let left = Decimal { mantissa: self.mantissa.checked_mul(100)?, scale: self.scale };
        let right =
            Decimal { mantissa: other.mantissa.checked_mul(by.mantissa)?, scale: other.scale + by.scale };
        let order = left.compare(right)?;
        Some(if by.mantissa < 0 { order.reverse() } else { order })
    }

    /// `self ÷ by × 100` as a text with at most `digits` digits of fraction, cut; for outputs only.
    #[must_use]
    pub fn percent_of_text(self, by: Decimal, digits: u32) -> Option<String> {
        if by.is_zero() {
            return None;
        }
        let scale = self.scale.max(by.scale);
        let n = self.at(scale)?.checked_mul(100)?.checked_mul(10i128.checked_pow(digits)?)? / by.at(scale)?;
        let mut n = Decimal { mantissa: n, scale: digits };
        n.trim();
        Some(n.to_string())
    }

    /// Compares by value; `None` only where aligning the scales does not fit into 128 bits.
    #[must_use]
    pub fn compare(self, other: Decimal) -> Option<Ordering> {
        let scale = self.scale.max(other.scale);
        match (self.at(scale), other.at(scale)) {
            (Some(a), Some(b)) => Some(a.cmp(&b)),
            // One does not fit: it is the larger in magnitude.
            (None, Some(_)) => Some(if self.mantissa < 0 { Ordering::Less } else { Ordering::Greater }),
            (Some(_), None) => Some(if other.mantissa < 0 { Ordering::Greater } else { Ordering::Less }),
            (None, None) => None,
        }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Decimal) -> bool {
        self.mantissa == other.mantissa && self.scale == other.scale
    }
}

impl Eq for Decimal {}

impl std::fmt::Display for Decimal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (sign, digits) =
            (if self.mantissa < 0 { "-" } else { "" }, self.mantissa.unsigned_abs().to_string());
        let scale = self.scale as usize;
        if scale == 0 {
            return write!(f, "{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, fraction) = digits.split_at(digits.len() - scale);
        write!(f, "{sign}{whole}.{fraction}")
    }
}

/// A count as people read it: `100,000`.
#[must_use]
pub fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_grouped_by_thousands() {
        let read = [0, 999, 1_000, 100_000, 1_234_567].map(grouped);
        assert_eq!(read, ["0", "999", "1,000", "100,000", "1,234,567"]);
    }

    #[test]
    fn equal_by_value() {
        for (a, b) in [("3", "3.0"), ("-0", "0"), ("1e2", "100"), ("1.50", "1.5"), ("120e-1", "12")] {
            assert_eq!(Decimal::parse(a), Decimal::parse(b), "{a} {b}");
        }
    }

    #[test]
    fn no_numbers() {
        for text in ["", "-", ".", "1.", ".5", "0x1", "1e", "1e9999", "abc", "1 ", "1,5", "--1"] {
            assert_eq!(Decimal::parse(text), None, "{text}");
        }
    }

    #[test]
    fn percent_is_exact() {
        let n = |t| Decimal::parse(t).unwrap();
        assert_eq!(n("1").percent_of_cmp(n("3"), n("33.333333333333")), Some(Ordering::Greater));
        assert_eq!(n("8.94").percent_of_cmp(n("50"), n("17.88")), Some(Ordering::Equal));
        assert_eq!(n("8.94").percent_of_text(n("50"), 6).as_deref(), Some("17.88"));
        assert_eq!(n("-1").percent_of_text(n("3"), 3).as_deref(), Some("-33.333"));
    }
}
