//! The shipped calendars against the laws they are made of: what follows from a rule (Easter, the n-th weekday of a month,
//! substitute days) is computed anew, the plain way.

use std::collections::BTreeSet;
use std::path::Path;

use chrono::{Datelike as _, Days, NaiveDate, Weekday};
use serde_yaml::Value;

const YEARS: std::ops::RangeInclusive<i32> = 2025..=2028;

fn shipped(id: &str, key: &str) -> BTreeSet<NaiveDate> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("rules/calendars.yaml");
    let file: Value = serde_yaml::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
    let calendars = file["calendars"].as_sequence().unwrap();
    let calendar = calendars.iter().find(|c| c["id"] == id).unwrap();
    let days = calendar[key].as_sequence().unwrap();
    days.iter().map(|d| d.as_str().unwrap().parse().unwrap()).collect()
}

fn day(year: i32, month: u32, day: u32) -> NaiveDate {
    NaiveDate::from_ymd_opt(year, month, day).unwrap()
}

/// The algorithm of Butcher and Meeus for the Gregorian calendar.
fn easter(year: i32) -> NaiveDate {
    let (a, b, c) = (year % 19, year / 100, year % 100);
    let (d, e) = (b / 4, b % 4);
    let g = (8 * b + 13) / 25;
    let h = (19 * a + b - d - g + 15) % 30;
    let (i, k) = (c / 4, c % 4);
    let l = (32 + 2 * e + 2 * i - h - k) % 7;
    let m = (a + 11 * h + 19 * l) / 433;
    let month = (h + l - 7 * m + 90) / 25;
    day(year, month as u32, ((h + l - 7 * m + 33 * month + 19) % 32) as u32)
}

/// Days after Easter Sunday; negative before it.
fn from_easter(year: i32, days: i64) -> NaiveDate {
    let sunday = easter(year);
    if days < 0 { sunday - Days::new(days.unsigned_abs()) } else { sunday + Days::new(days as u64) }
}

/// The n-th of a weekday in a month; from the end where `n` is negative.
fn nth(year: i32, month: u32, weekday: Weekday, n: i32) -> NaiveDate {
    let all: Vec<NaiveDate> = (1..=31)
        .filter_map(|d| NaiveDate::from_ymd_opt(year, month, d))
        .filter(|d| d.weekday() == weekday)
        .collect();
    if n > 0 { all[n as usize - 1] } else { all[all.len() - n.unsigned_abs() as usize] }
}

fn agrees(id: &str, of_year: impl Fn(i32) -> Vec<NaiveDate>) {
    let mut expected: BTreeSet<NaiveDate> = YEARS.chain([2029]).flat_map(of_year).collect();
    expected.retain(|d| YEARS.contains(&d.year()));
    assert_eq!(shipped(id, "holidays"), expected, "{id}");
}

/// Fixed days of a year as (month, day), and days after Easter.
fn fixed(year: i32, days: &[(u32, u32)], after_easter: &[i64]) -> Vec<NaiveDate> {
    let of_year = days.iter().map(|(m, d)| day(year, *m, *d));
    of_year.chain(after_easter.iter().map(|n| from_easter(year, *n))).collect()
}

#[test]
fn easter_is_where_almanacs_have_it() {
    let known = [(2024, 3, 31), (2025, 4, 20), (2026, 4, 5), (2027, 3, 28), (2028, 4, 16), (2038, 4, 25)];
    for (y, m, d) in known {
        assert_eq!(easter(y), day(y, m, d));
    }
}

#[test]
fn federal_holidays_of_the_united_states() {
    agrees("us", |y| {
        let fixed = [(1, 1), (6, 19), (7, 4), (11, 11), (12, 25)].map(|(m, d)| day(y, m, d));
        let observed = fixed.iter().filter_map(|d| match d.weekday() {
            Weekday::Sat => Some(*d - Days::new(1)),
            Weekday::Sun => Some(*d + Days::new(1)),
            _ => None,
        });
        let moving = [
            nth(y, 1, Weekday::Mon, 3),
            nth(y, 2, Weekday::Mon, 3),
            nth(y, 5, Weekday::Mon, -1),
            nth(y, 9, Weekday::Mon, 1),
            nth(y, 10, Weekday::Mon, 2),
            nth(y, 11, Weekday::Thu, 4),
        ];
        fixed.into_iter().chain(observed).chain(moving).collect()
    });
}

#[test]
fn bank_holidays_of_england_and_wales() {
    agrees("gb", |y| {
        let mut days = fixed(y, &[], &[-2, 1]);
        days.extend([nth(y, 5, Weekday::Mon, 1), nth(y, 5, Weekday::Mon, -1), nth(y, 8, Weekday::Mon, -1)]);
        let fixed = [day(y, 1, 1), day(y, 12, 25), day(y, 12, 26)];
        days.extend(fixed);
        // One on a weekend is taken on the next weekday that is no holiday; Christmas chooses before Boxing Day.
        for holiday in fixed.into_iter().filter(|d| d.weekday().num_days_from_monday() > 4) {
            let mut other = holiday;
            while other.weekday().num_days_from_monday() > 4 || days.contains(&other) {
                other = other + Days::new(1);
            }
            days.push(other);
        }
        days
    });
}

#[test]
fn holidays_by_date_and_by_easter() {
    agrees("de", |y| fixed(y, &[(1, 1), (5, 1), (10, 3), (12, 25), (12, 26)], &[-2, 1, 39, 50]));
    agrees("fr", |y| {
        fixed(y, &[(1, 1), (5, 1), (5, 8), (7, 14), (8, 15), (11, 1), (11, 11), (12, 25)], &[1, 39, 50])
    });
    agrees("it", |y| {
        let mut days =
            vec![(1, 1), (1, 6), (4, 25), (5, 1), (6, 2), (8, 15), (11, 1), (12, 8), (12, 25), (12, 26)];
        if y >= 2026 {
            days.push((10, 4));
        }
        fixed(y, &days, &[0, 1])
    });
    agrees("nl", |y| {
        let king = if day(y, 4, 27).weekday() == Weekday::Sun { (4, 26) } else { (4, 27) };
        fixed(y, &[(1, 1), king, (5, 5), (12, 25), (12, 26)], &[-2, 0, 1, 39, 49, 50])
    });
    agrees("pl", |y| {
        let days = [(1, 1), (1, 6), (5, 1), (5, 3), (8, 15), (11, 1), (11, 11), (12, 24), (12, 25), (12, 26)];
        fixed(y, &days, &[0, 1, 49, 60])
    });
    agrees("br", |y| {
        let days = [(1, 1), (4, 21), (5, 1), (9, 7), (10, 12), (11, 2), (11, 15), (11, 20), (12, 25)];
        fixed(y, &days, &[-2])
    });
    // Where one falls on a Sunday, each community chooses what to do.
    agrees("es", |y| {
        let days = [(1, 1), (1, 6), (5, 1), (8, 15), (10, 12), (11, 1), (12, 6), (12, 8), (12, 25)];
        let mut all = fixed(y, &days, &[-2]);
        all.retain(|d| d.weekday() != Weekday::Sun);
        all
    });
}

/// China's are announced, not computed: only what must hold of any announcement is asked.
#[test]
fn working_weekends_of_china_are_weekends_near_a_holiday() {
    let (holidays, working) = (shipped("cn", "holidays"), shipped("cn", "working_days"));
    assert!(working.iter().all(|d| d.weekday().num_days_from_monday() > 4), "{working:?}");
    assert!(working.is_disjoint(&holidays));
    for day in &working {
        let near = holidays.iter().any(|h| (*h - *day).num_days().abs() <= 14);
        assert!(near, "{day}");
    }
    for y in YEARS {
        for (m, d) in [(1, 1), (5, 1), (5, 2), (10, 1), (10, 2), (10, 3)] {
            let holiday = day(y, m, d);
            let weekend = holiday.weekday().num_days_from_monday() > 4;
            assert!(weekend || holidays.contains(&holiday), "{holiday}");
        }
    }
}
