//! Durations as people write them: `30s`, `90m`, `48h`, `7d`, `2bd`, `1d12h`.

use super::ruleset::Span;
use crate::model::{DAY, HOUR, MINUTE, SECOND};

/// No duration is longer: 10 years.
const MAX_DAYS: i64 = 3_660;

/// Reads a duration.
///
/// # Errors
/// What is wrong with it, and what to write instead.
pub fn parse(text: &str) -> Result<Span, (String, &'static str)> {
    const FORM: &str =
        "write a number and a unit: 30s, 90m, 48h, 7d, 2bd (business days), or combined: 1d12h";
    let fail = |message: String, help| Err((message, help));
    let shown = crate::yaml::cut(text);
    if text == "0" {
        return Ok(Span::default());
    }
    if text.starts_with('-') {
        return fail(
            format!("`{shown}` is negative"),
            "a duration counts forward; `before:` makes stages count back",
        );
    }
    let mut rest = text;
    let mut seen = [0i64; 5];
    let mut used = [false; 5];
    while !rest.is_empty() {
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        if digits == 0 {
            return fail(format!("`{shown}` is no duration"), FORM);
        }
        let i = match unit {
            "bd" => 0,
            "d" => 1,
            "h" => 2,
            "m" => 3,
            "s" => 4,
            "" if is_clock(text) => {
                return fail(
                    format!("`{shown}` is a time of day, no duration"),
                    "write hours and minutes with their units: 12h30m",
                );
            }
            "" if tail.starts_with('.') => {
                return fail(format!("`{shown}` is no duration"), "write whole numbers: 90m instead of 1.5h");
            }
            "" => return fail(format!("`{shown}` has no unit"), FORM),
            "w" | "week" | "weeks" => {
                return fail(format!("`{shown}` is no duration"), "write weeks as days: 7d, 14d");
            }
            "M" | "mo" | "month" | "months" | "y" | "year" | "years" => {
                return fail(
                    format!("`{shown}` is no duration"),
                    "months and years differ in length; write days: 30d",
                );
            }
            "ms" => return fail(format!("`{shown}` is no duration"), "a second is the shortest: 1s"),
            _ => return fail(format!("`{shown}` has an unknown unit"), FORM),
        };
        if used[i] {
            return fail(format!("`{shown}` names a unit twice"), FORM);
        }
        used[i] = true;
        seen[i] = number.parse().unwrap_or(i64::MAX);
        rest = tail;
    }
    let [bd, d, h, m, s] = seen;
    let ms = [(h, HOUR), (m, MINUTE), (s, SECOND)]
        .iter()
        .fold(0i64, |t, (n, u)| t.saturating_add(n.saturating_mul(*u)));
    let days = bd.saturating_add(d);
    if text.is_empty() {
        return fail("a duration is missing".into(), FORM);
    }
    if days.saturating_mul(DAY).saturating_add(ms) > MAX_DAYS * DAY {
        return fail(
            format!("`{shown}` is longer than 10 years"),
            "no deadline of a parcel is; check the unit",
        );
    }
    let (Ok(business_days), Ok(days)) = (u32::try_from(bd), u32::try_from(d)) else {
        return fail(format!("`{shown}` is no duration"), FORM);
    };
    Ok(Span { business_days, days, ms })
}

/// `12:30`, which some readers of YAML take for a number.
fn is_clock(text: &str) -> bool {
    text.contains(':')
        && text.split(':').all(|p| (1..=3).contains(&p.len()) && p.bytes().all(|b| b.is_ascii_digit()))
}

/// Reads a duration of the plain clock, in milliseconds: `d` is 24 h, `bd` is none.
///
/// # Errors
/// As [`parse`].
pub fn parse_elapsed(text: &str) -> Result<i64, (String, &'static str)> {
    let span = parse(text)?;
    if span.business_days > 0 || text.contains("bd") {
        let help = "this counts plain time; write days (d) or hours (h)";
        return Err((format!("`{}` counts business days", crate::yaml::cut(text)), help));
    }
    Ok(i64::from(span.days) * DAY + span.ms)
}

/// A duration in its shortest form: `1d12h`, `0s`.
#[must_use]
pub fn show(span: Span) -> String {
    let units = [(span.ms / HOUR, "h"), (span.ms % HOUR / MINUTE, "m"), (span.ms % MINUTE / SECOND, "s")];
    let days = [(i64::from(span.business_days), "bd"), (i64::from(span.days), "d")];
    let text: String =
        days.iter().chain(&units).filter(|(n, _)| *n > 0).map(|(n, unit)| format!("{n}{unit}")).collect();
    if text.is_empty() { "0s".into() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Option<(u32, u32, i64)>) {
        let got = parse(text).ok().map(|s| (s.business_days, s.days, s.ms));
        assert_eq!(got, expected, "{text}");
    }

    #[test]
    fn durations() {
        check("30s", Some((0, 0, 30 * SECOND)));
        check("90m", Some((0, 0, 90 * MINUTE)));
        check("1d12h", Some((0, 1, 12 * HOUR)));
        check("2bd", Some((2, 0, 0)));
        check("2bd1d3h4m5s", Some((2, 1, 3 * HOUR + 4 * MINUTE + 5 * SECOND)));
        check("0d", Some((0, 0, 0)));
        check("3660d", Some((0, 3660, 0)));
        for bad in [
            "",
            "d",
            "48",
            "1.5h",
            "-1d",
            "1d 12h",
            "1w",
            "1M",
            "48H",
            "1h1h",
            "3661d",
            "99999999999999999999d",
            "1d-2h",
            "٣d",
            "500ms",
            "3660d1s",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn shown() {
        for text in ["1d12h", "2bd", "30s", "0s", "1h30m"] {
            assert_eq!(show(parse(text).unwrap()), text);
        }
        assert_eq!(show(parse("90m").unwrap()), "1h30m");
    }

    #[test]
    fn business_days_are_no_plain_time() {
        assert_eq!(parse_elapsed("1d1h"), Ok(25 * HOUR));
        assert!(parse_elapsed("2bd").is_err());
        assert!(parse_elapsed("0bd").is_err());
    }
}
