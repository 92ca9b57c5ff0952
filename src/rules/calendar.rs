//! Calendars with zones, opening hours and holidays (SEMANTICS 6).
//!
//! The zones are inside the program: a rule means the same on every host. Everything here is total: the plain clock takes
//! over beyond what a calendar can know, and one that never opens gives a time far away.

use chrono::{DateTime, MappedLocalTime, Offset, TimeZone};
use chrono_tz::Tz;

use super::ruleset::Span;
use crate::model::{DAY, Time};

/// A named calendar.
#[derive(Debug, Clone, PartialEq)]
pub struct Calendar {
    /// Its id.
    pub id: String,
    /// Its zone.
    zone: Tz,
    /// Working days, Monday first.
    days: [bool; 7],
    /// Opening hours, milliseconds of the local day, in order, without overlap.
    windows: Vec<(i64, i64)>,
    /// Days since 1970-01-01, in order.
    holidays: Vec<i64>,
    /// Days of work whatever `days` says, likewise.
    working: Vec<i64>,
    /// Destinations it is for (`country:`).
    pub countries: Vec<String>,
    /// `country: any`.
    pub any: bool,
}

/// No calendar looks further than this for days that are open: about 20 years.
const NEVER: i64 = 7_305;
/// Nor does one count hours over more days than this: about 60 years.
const FAR: i64 = 21_915;
/// Instants further than this from 1970 (some 35,000 years) have no calendar.
const BEYOND: u64 = 1 << 50;
/// Local times this far apart have at most one change of the clock between them.
const LATER: i64 = DAY / 2;

impl Calendar {
    /// A calendar. `windows` in milliseconds of the day, each `(from, to)` with from < to ≤ 24 h; `holidays` and `working` days in days
    /// since 1970-01-01. `None`: the zone does not exist.
    #[must_use]
    pub fn new(
        id: &str,
        zone: &str,
        days: [bool; 7],
        mut windows: Vec<(i64, i64)>,
        mut holidays: Vec<i64>,
        mut working: Vec<i64>,
    ) -> Option<Calendar> {
        windows.sort_unstable();
        for dates in [&mut holidays, &mut working] {
            dates.sort_unstable();
            dates.dedup();
        }
        let zone = zone.parse().ok()?;
        let (id, countries) = (id.to_owned(), Vec::new());
        Some(Calendar { id, zone, days, windows, holidays, working, countries, any: false })
    }

    /// `from` moved by a rule's duration, back where `back`: business days first, then days, both at the same local
    /// time, then opening hours (SEMANTICS 6.1).
    #[must_use]
    pub fn add(&self, from: Time, span: Span, back: bool) -> Time {
        let mut at = from.0;
        if at.unsigned_abs() > BEYOND {
            return elapsed(from, span, back);
        }
        if span.business_days > 0 || span.days > 0 {
            let local = at.saturating_add(self.offset(at));
            let (day, time_of_day) = (local.div_euclid(DAY), local.rem_euclid(DAY));
            let day = self.business_days(day, span.business_days, back);
            let day = day + if back { -i64::from(span.days) } else { i64::from(span.days) };
            at = self.instant(day.saturating_mul(DAY).saturating_add(time_of_day));
        }
        if span.ms > 0 {
            at = if back { self.open_before(at, span.ms) } else { self.open_after(at, span.ms) };
        }
        Time(at)
    }

    /// Whether it is open at this instant.
    #[must_use]
    pub fn is_open(&self, at: Time) -> bool {
        at.0.unsigned_abs() > BEYOND || self.open_after(at.0, 1) == at.0.saturating_add(1)
    }

    /// The first instant after `at` at which it opens where it is closed, or closes where it is open; about 20 years on where
    /// it does neither.
    #[must_use]
    pub fn turns(&self, at: Time) -> Time {
        if at.0.unsigned_abs() > BEYOND {
            return at.plus(NEVER * DAY);
        }
        if !self.is_open(at) {
            return Time(self.open_after(at.0, 1).saturating_sub(1).max(at.0 + 1));
        }
        // Windows that touch, as one day's 24:00 and the next one's 00:00, are one stretch.
        let mut end = at.0;
        let mut near = Offsets::around(self, self.first_day(at.0, -1), 1);
        for _ in 0..NEVER {
            if self.works(near.day) {
                for window in &self.windows {
                    let (from, to) = self.window(&near, *window);
                    if to > end && from <= end {
                        end = to;
                    } else if from > end && end > at.0 {
                        return Time(end);
                    }
                }
            } else if near.day.saturating_mul(DAY) > end.saturating_add(2 * DAY) {
                return Time(end);
            }
            near.step(self);
        }
        Time(end)
    }

    /// The first instant after `at` at which its local clock shows this time of day (milliseconds).
    #[must_use]
    pub fn next_clock(&self, at: Time, time_of_day: i64) -> Time {
        let today = at.0.saturating_add(self.offset(at.0)).div_euclid(DAY);
        (today - 1..=today + 2)
            .map(|day| self.instant(day.saturating_mul(DAY).saturating_add(time_of_day)))
            .find(|t| *t > at.0)
            .map_or(at.plus(DAY), Time)
    }

    /// Its zone's name.
    #[must_use]
    pub fn zone_name(&self) -> &'static str {
        self.zone.name()
    }

    /// One line that says all it means, for hashes.
    #[must_use]
    pub fn canonical(&self) -> String {
        let Calendar { id, zone, days, windows, holidays, working, countries, any } = self;
        let days: String = days.iter().map(|d| if *d { '1' } else { '0' }).collect();
        let mut text = format!("{id} {} {days} {windows:?} {holidays:?} {countries:?} {any}", zone.name());
        // A calendar without them keeps the hash that it had before they could be said.
        if !working.is_empty() {
            text += &format!(" working {working:?}");
        }
        text
    }

    fn works(&self, day: i64) -> bool {
        // 1970-01-01 was a Thursday.
        let by_week =
            self.days[(day + 3).rem_euclid(7) as usize] && self.holidays.binary_search(&day).is_err();
        by_week || self.working.binary_search(&day).is_ok()
    }

    /// The `n`-th working day after (before) `day`; `day` itself for 0.
    fn business_days(&self, mut day: i64, mut n: u32, back: bool) -> i64 {
        let step = if back { -1 } else { 1 };
        let mut idle = 0;
        while n > 0 && idle < NEVER {
            day += step;
            if self.works(day) {
                n -= 1;
                idle = 0;
            } else {
                idle += 1;
            }
        }
        day
    }

    /// The earliest instant with `ms` of opening hours between `at` and it.
    fn open_after(&self, at: i64, mut ms: i64) -> i64 {
        let mut cursor = at;
        let mut idle = 0;
        let mut near = Offsets::around(self, self.first_day(at, -1), 1);
        while idle < NEVER && near.walked < FAR {
            idle += 1;
            if self.works(near.day) {
                for window in &self.windows {
                    let (from, to) = self.window(&near, *window);
                    let from = from.max(cursor);
                    if to > from {
                        if ms <= to - from {
                            return from + ms;
                        }
                        ms -= to - from;
                        cursor = to;
                        idle = 0;
                    }
                }
            }
            near.step(self);
        }
        cursor.max(near.day.saturating_mul(DAY))
    }

    /// The latest instant with `ms` of opening hours between it and `at`.
    fn open_before(&self, at: i64, mut ms: i64) -> i64 {
        let mut cursor = at;
        let mut idle = 0;
        let mut near = Offsets::around(self, self.first_day(at, 1), -1);
        while idle < NEVER && near.walked < FAR {
            idle += 1;
            if self.works(near.day) {
                for window in self.windows.iter().rev() {
                    let (from, to) = self.window(&near, *window);
                    let to = to.min(cursor);
                    if to > from {
                        if ms <= to - from {
                            return to - ms;
                        }
                        ms -= to - from;
                        cursor = from;
                        idle = 0;
                    }
                }
            }
            near.step(self);
        }
        cursor.min(near.day.saturating_mul(DAY))
    }

    /// The local day of an instant, or its neighbour where a change of the clock nearby may have moved a window of
    /// that over midnight.
    fn first_day(&self, at: i64, neighbour: i64) -> i64 {
        let offset = self.offset(at);
        let day = at.saturating_add(offset).div_euclid(DAY);
        let steady = [-DAY, DAY].into_iter().all(|moved| self.offset(at.saturating_add(moved)) == offset);
        if steady { day } else { day + neighbour }
    }

    fn window(&self, near: &Offsets, (from, to): (i64, i64)) -> (i64, i64) {
        let midnight = near.day.saturating_mul(DAY);
        match near.steady() {
            Some(offset) => (midnight + from - offset, midnight + to - offset),
            None => (self.instant(midnight + from), self.instant(midnight + to)),
        }
    }

    /// Milliseconds that local time is ahead of UTC at this instant.
    fn offset(&self, at: i64) -> i64 {
        DateTime::from_timestamp_millis(at)
            .map_or(0, |t| seconds(&self.zone.offset_from_utc_datetime(&t.naive_utc())))
    }

    /// The instant of a local time; one that comes twice is the first, one that is skipped is taken with the offset
    /// before the change (SEMANTICS 6.2).
    fn instant(&self, local: i64) -> i64 {
        let Some(naive) = DateTime::from_timestamp_millis(local).map(|t| t.naive_utc()) else { return local };
        let offset = match self.zone.offset_from_local_datetime(&naive) {
            MappedLocalTime::Single(o) | MappedLocalTime::Ambiguous(o, _) => seconds(&o),
            MappedLocalTime::None => {
                // The offset after the change, then the one in force just before it.
                let after = self.offset(local.saturating_add(LATER));
                self.offset(local.saturating_sub(after))
            }
        };
        local.saturating_sub(offset)
    }
}

fn seconds<O: Offset>(offset: &O) -> i64 {
    i64::from(offset.fix().local_minus_utc()) * 1_000
}

/// The offsets at the UTC midnights around a local day: where all are one, its windows need no look at the zone.
struct Offsets {
    day: i64,
    step: i64,
    walked: i64,
    /// At `day - 1`, `day`, `day + 1`, `day + 2`.
    at: [i64; 4],
}

impl Offsets {
    fn around(calendar: &Calendar, day: i64, step: i64) -> Offsets {
        let at = [-1, 0, 1, 2].map(|d| calendar.offset((day + d).saturating_mul(DAY)));
        Offsets { day, step, walked: 0, at }
    }

    fn steady(&self) -> Option<i64> {
        self.at.iter().all(|o| *o == self.at[0]).then_some(self.at[0])
    }

    fn step(&mut self, calendar: &Calendar) {
        self.day += self.step;
        self.walked += 1;
        if self.step > 0 {
            self.at.rotate_left(1);
            self.at[3] = calendar.offset((self.day + 2).saturating_mul(DAY));
        } else {
            self.at.rotate_right(1);
            self.at[0] = calendar.offset((self.day - 1).saturating_mul(DAY));
        }
    }
}

/// `from` moved by a duration on the plain clock, where every day has 24 hours (SEMANTICS 6.3).
#[must_use]
pub fn elapsed(from: Time, span: Span, back: bool) -> Time {
    let days = i64::from(span.business_days) + i64::from(span.days);
    let ms = days.saturating_mul(DAY).saturating_add(span.ms);
    if back { from.minus(ms) } else { from.plus(ms) }
}

/// The calendar of a parcel's destination, else the one with `country: any` (SEMANTICS 6.0).
#[must_use]
pub fn by_destination(calendars: &[Calendar], destination: Option<&str>) -> Option<usize> {
    destination
        .and_then(|d| calendars.iter().position(|c| c.countries.iter().any(|name| name == d)))
        .or_else(|| calendars.iter().position(|c| c.any))
}

/// A time as a zone's clock shows it, by a pattern of `strftime`: `%d.%m.%Y %H:%M`.
///
/// # Errors
/// What is wrong with the zone or the pattern, for people.
pub fn in_zone(time: Time, zone: &str, pattern: &str) -> Result<String, String> {
    use std::fmt::Write as _;
    let tz: Tz = zone.parse().map_err(|_| format!("`{zone}` is no time zone, as Europe/Madrid is"))?;
    let local = tz.timestamp_millis_opt(time.0).single().ok_or("the time lies too far away")?;
    let mut text = String::new();
    let written = write!(text, "{}", local.format(pattern));
    written.map_err(|_| format!("`{pattern}` is no pattern of a time, as `%d.%m.%Y %H:%M` is"))?;
    Ok(text)
}

/// The names of all zones.
pub fn zone_names() -> impl Iterator<Item = &'static str> + Clone {
    chrono_tz::TZ_VARIANTS.iter().map(|zone| zone.name())
}

#[cfg(test)]
mod tests;
