//! Exact numbers: decimals and their quotients, as fractions of whole numbers.
use std::cmp::Ordering;

/// A fraction with a denominator above zero.
#[derive(Clone, Copy, Debug)]
pub struct Exact {
    numerator: i128,
    denominator: i128,
}

impl Exact {
    /// A decimal number as people write it: digits, at most one point, a minus in front.
    pub fn parse(text: &str) -> Option<Exact> {
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let dangling_point = digits.contains('.') && fraction.is_empty();
        if whole.is_empty() || dangling_point {
            return None;
        }
        if !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
            return None;
        }
        let numerator: i128 = format!("{whole}{fraction}").parse().ok()?;
        let denominator = 10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
        Some(Exact { numerator: if negative { -numerator } else { numerator }, denominator })
    }

    pub fn from_length(length: usize) -> Exact {
        Exact { numerator: length as i128, denominator: 1 }
    }

    pub fn is_zero(self) -> bool {
        self.numerator == 0
    }

    pub fn minus(self, other: Exact) -> Exact {
        Exact {
            numerator: self.numerator * other.denominator - other.numerator * self.denominator,
            denominator: self.denominator * other.denominator,
        }
    }

    /// This as a percentage of a number that is not zero.
    pub fn percent_of(self, other: Exact) -> Exact {
        let sign = other.numerator.signum();
        Exact {
            numerator: self.numerator * other.denominator * 100 * sign,
            denominator: self.denominator * other.numerator.abs(),
        }
    }

    pub fn compare(self, other: Exact) -> Ordering {
        (self.numerator * other.denominator).cmp(&(other.numerator * self.denominator))
    }
}
