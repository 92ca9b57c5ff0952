//! Instants to the millisecond (SEMANTICS 1.3), read and printed as RFC 3339.
//!
//! Own arithmetic instead of chrono's: it is a third of the cost of a library's parser in the hot path, takes
//! second 60 as the next minute (DESIGN §3), and keeps the core free of a clock. Calendars with zones are
//! `rules::calendar`.

use std::fmt;

/// Milliseconds in a second, a minute, an hour, a day of 24 hours.
pub const SECOND: i64 = 1_000;
pub const MINUTE: i64 = 60 * SECOND;
pub const HOUR: i64 = 60 * MINUTE;
pub const DAY: i64 = 24 * HOUR;

/// An instant: milliseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Time(pub i64);

impl Time {
    /// Later than every instant a record can name.
    pub const MAX: Time = Time(i64::MAX);
    /// Earlier than every instant a record can name.
    pub const MIN: Time = Time(i64::MIN);

    /// This instant moved by `ms` milliseconds; stays at the ends instead of overflowing.
    #[must_use]
    pub fn plus(self, ms: i64) -> Time {
        Time(self.0.saturating_add(ms))
    }

    /// This instant moved back by `ms` milliseconds.
    #[must_use]
    pub fn minus(self, ms: i64) -> Time {
        Time(self.0.saturating_sub(ms))
    }

    /// Reads RFC 3339 with an offset: `2026-10-14T09:10:00+02:00`. Digits beyond the millisecond are cut, second 60
    /// is the next minute. `None` for anything else, a time without a zone included.
    #[must_use]
    pub fn parse(text: &str) -> Option<Time> {
        parse(text.as_bytes())
    }
}

fn two(b: &[u8]) -> Option<i64> {
    let (h, l) = (b[0].wrapping_sub(b'0'), b[1].wrapping_sub(b'0'));
    (h < 10 && l < 10).then(|| i64::from(h) * 10 + i64::from(l))
}

fn parse(b: &[u8]) -> Option<Time> {
    if b.len() < 20 || b[4] != b'-' || b[7] != b'-' || b[13] != b':' || b[16] != b':' {
        return None;
    }
    if !matches!(b[10], b'T' | b't' | b' ') {
        return None;
    }
    let year = two(&b[0..2])? * 100 + two(&b[2..4])?;
    let (month, day) = (two(&b[5..7])?, two(&b[8..10])?);
    let (hour, minute, second) = (two(&b[11..13])?, two(&b[14..16])?, two(&b[17..19])?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let (mut at, mut milli) = (19, 0);
    if b[at] == b'.' {
        let start = at + 1;
        at = start;
        while at < b.len() && b[at].is_ascii_digit() {
            if at - start < 3 {
                milli = milli * 10 + i64::from(b[at] - b'0');
            }
            at += 1;
        }
        match at - start {
            0 => return None,
            1 => milli *= 100,
            2 => milli *= 10,
            _ => {}
        }
    }
    let offset = match b.get(at)? {
        b'Z' | b'z' if b.len() == at + 1 => 0,
        sign @ (b'+' | b'-') if b.len() == at + 6 && b[at + 3] == b':' => {
            let (h, m) = (two(&b[at + 1..at + 3])?, two(&b[at + 4..at + 6])?);
            if h > 23 || m > 59 {
                return None;
            }
            let ms = h * HOUR + m * MINUTE;
            if *sign == b'-' { -ms } else { ms }
        }
        _ => return None,
    };
    let days = days_from_civil(year, month, day);
    Some(Time(days * DAY + hour * HOUR + minute * MINUTE + second * SECOND + milli - offset))
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a proleptic Gregorian date (Howard Hinnant, "chrono-compatible low-level date algorithms").
#[must_use]
pub fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let yoe = y - era * 400;
    let doy = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    let doe = yoe * 365 + yoe / 4 - yoe / 100 + doy;
    era * 146_097 + doe - 719_468
}

/// The inverse of [`days_from_civil`]: (year, month, day).
#[must_use]
pub fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let doe = z - era * 146_097;
    let yoe = (doe - doe / 1_460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    (yoe + era * 400 + i64::from(month <= 2), month, day)
}

impl fmt::Display for Time {
    /// UTC with `Z`; three digits of fraction, or none where it is zero.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (days, ms) = (self.0.div_euclid(DAY), self.0.rem_euclid(DAY));
        let (year, month, day) = civil_from_days(days);
        let (h, m, s, milli) = (ms / HOUR, ms / MINUTE % 60, ms / SECOND % 60, ms % SECOND);
        write!(f, "{year:04}-{month:02}-{day:02}T{h:02}:{m:02}:{s:02}")?;
        if milli != 0 {
            write!(f, ".{milli:03}")?;
        }
        f.write_str("Z")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, printed: Option<&str>) {
        assert_eq!(Time::parse(text).map(|t| t.to_string()).as_deref(), printed, "{text}");
    }

    #[test]
    fn reads_and_prints() {
        check("1970-01-01T00:00:00Z", Some("1970-01-01T00:00:00Z"));
        check("2026-10-14T09:10:00+02:00", Some("2026-10-14T07:10:00Z"));
        check("2026-10-14t09:10:00.5z", Some("2026-10-14T09:10:00.500Z"));
        check("2026-10-14 09:10:00.123999999-00:30", Some("2026-10-14T09:40:00.123Z"));
        check("2024-02-29T23:59:60Z", Some("2024-03-01T00:00:00Z"));
        check("9999-12-31T23:59:59Z", Some("9999-12-31T23:59:59Z"));
        check("0000-01-01T00:00:00Z", Some("0000-01-01T00:00:00Z"));
    }

    #[test]
    fn refuses_what_is_no_instant() {
        for text in [
            "",
            "2026-10-14",
            "2026-10-14T09:10:00",
            "2026-10-14T09:10Z",
            "2026-10-14T24:00:00Z",
            "2025-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-10-14T09:10:61Z",
            "2026-10-14T09:10:00.Z",
            "2026-10-14T09:10:00+0200",
            "2026-10-14T09:10:00+24:00",
            " 2026-10-14T09:10:00Z",
            "2026-10-14T09:10:00Z ",
            "２026-10-14T09:10:00Z",
        ] {
            check(text, None);
        }
    }

    #[test]
    fn days_go_there_and_back() {
        for days in (-800_000..3_000_000).step_by(97) {
            let (y, m, d) = civil_from_days(days);
            assert_eq!(days_from_civil(y, m, d), days);
        }
    }
}
