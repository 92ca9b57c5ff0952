//! Instants, spans of time and calendars (1.3, 6).
use chrono::{
    DateTime, Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Utc,
};
use chrono_tz::Tz;
use serde_yaml::Value;

/// Milliseconds since 1970, UTC.
pub type Millis = i64;

pub const SECOND: Millis = 1000;
pub const MINUTE: Millis = 60 * SECOND;
pub const HOUR: Millis = 60 * MINUTE;
pub const DAY: Millis = 24 * HOUR;

/// 1.3: RFC 3339 with an offset, finer digits than milliseconds cut; second 60 is the next minute (DESIGN 3).
pub fn parse_instant(text: &str) -> Option<Millis> {
    DateTime::parse_from_rfc3339(text).ok().map(|t| t.timestamp_millis())
}

/// 1.3: printed with three digits of fraction or none.
pub fn print_instant(at: Millis) -> String {
    let time = DateTime::from_timestamp_millis(at).expect("an instant that chrono can print");
    let format = if at.rem_euclid(SECOND) == 0 { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S%.3fZ" };
    time.format(format).to_string()
}

/// `2bd`, `1d12h`: business days, calendar days, and the rest in milliseconds.
#[derive(Clone, Copy, Debug, Default)]
pub struct Span {
    business_days: u32,
    days: u32,
    rest: Millis,
}

impl Span {
    pub fn parse(text: &str) -> Option<Span> {
        let mut span = Span::default();
        let mut left = text;
        while !left.is_empty() {
            let digits = left.find(|c: char| !c.is_ascii_digit())?;
            let number: u32 = left[..digits].parse().ok()?;
            left = &left[digits..];
            let unit_length = left.find(|c: char| c.is_ascii_digit()).unwrap_or(left.len());
            match &left[..unit_length] {
                "bd" => span.business_days += number,
                "d" => span.days += number,
                "h" => span.rest += Millis::from(number) * HOUR,
                "m" => span.rest += Millis::from(number) * MINUTE,
                "s" => span.rest += Millis::from(number) * SECOND,
                _ => return None,
            }
            left = &left[unit_length..];
        }
        Some(span)
    }

    /// 6.3: elapsed time, a day is 24 hours.
    pub fn elapsed(self) -> Millis {
        Millis::from(self.days) * DAY + self.rest
    }
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Direction {
    After,
    Before,
}

#[derive(Clone, Debug)]
pub struct Calendar {
    pub id: String,
    pub countries: Vec<String>,
    zone: Tz,
    days: Vec<u32>,
    windows: Vec<(u32, u32)>,
    holidays: Vec<NaiveDate>,
    working: Vec<NaiveDate>,
}

fn texts(value: Option<&Value>) -> Vec<String> {
    match value {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Sequence(many)) => {
            many.iter().map(|v| v.as_str().expect("a list of texts").to_string()).collect()
        }
        _ => Vec::new(),
    }
}

fn minute_of_day(text: &str) -> u32 {
    let (hour, minute) = text.split_once(':').expect("a time of day");
    hour.parse::<u32>().expect("an hour") * 60 + minute.parse::<u32>().expect("a minute")
}

impl Calendar {
    /// 6: `days` defaults to mon-fri, `hours` to the whole day.
    pub fn read(value: &Value) -> Calendar {
        let weekdays = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
        let days = match value.get("days") {
            Some(_) => texts(value.get("days"))
                .iter()
                .map(|day| weekdays.iter().position(|w| w == day).expect("a weekday") as u32)
                .collect(),
            None => (0..5).collect(),
        };
        let hours = match value.get("hours") {
            Some(_) => texts(value.get("hours")),
            None => vec!["00:00-24:00".to_string()],
        };
        let windows = hours
            .iter()
            .map(|window| {
                let (from, to) = window.split_once('-').expect("a window of opening hours");
                (minute_of_day(from), minute_of_day(to))
            })
            .collect();
        let dates = |key: &str| -> Vec<NaiveDate> {
            texts(value.get(key)).iter().map(|day| day.parse().expect("a date")).collect()
        };
        Calendar {
            id: value["id"].as_str().expect("a calendar's id").to_string(),
            countries: texts(value.get("country")),
            zone: value["zone"].as_str().expect("a zone").parse().expect("a zone of the database"),
            days,
            windows,
            holidays: dates("holidays"),
            working: dates("working_days"),
        }
    }

    fn works_on(&self, date: NaiveDate) -> bool {
        self.days.contains(&date.weekday().num_days_from_monday()) && !self.holidays.contains(&date)
            || self.working.contains(&date)
    }

    /// 6.2: a skipped local time is taken with the offset before the change; one that comes twice is the first.
    fn instant(&self, local: NaiveDateTime) -> Millis {
        if let Some(time) = self.zone.from_local_datetime(&local).earliest() {
            return time.timestamp_millis();
        }
        let before_the_change = local - TimeDelta::hours(3);
        let offset = self
            .zone
            .from_local_datetime(&before_the_change)
            .earliest()
            .expect("no zone skips so much")
            .offset()
            .fix();
        (local - offset).and_utc().timestamp_millis()
    }

    fn local(&self, at: Millis) -> NaiveDateTime {
        let utc: DateTime<Utc> = DateTime::from_timestamp_millis(at).expect("an instant of the calendar");
        utc.with_timezone(&self.zone).naive_local()
    }

    /// The opening hours of a day as instants, in order.
    fn open(&self, date: NaiveDate) -> Vec<(Millis, Millis)> {
        if !self.works_on(date) {
            return Vec::new();
        }
        let at = |minute: u32| {
            let midnight = date.and_time(NaiveTime::MIN);
            self.instant(midnight + TimeDelta::minutes(i64::from(minute)))
        };
        self.windows.iter().map(|&(from, to)| (at(from), at(to))).filter(|(from, to)| from < to).collect()
    }

    /// 6.1: business days first, then days, both at the same local time, then the rest in opening hours.
    pub fn shift(&self, anchor: Millis, span: Span, direction: Direction) -> Millis {
        let local = self.local(anchor);
        let mut date = local.date();
        let next = |date: NaiveDate| match direction {
            Direction::After => date + Days::new(1),
            Direction::Before => date - Days::new(1),
        };
        for _ in 0..span.business_days {
            date = next(date);
            while !self.works_on(date) {
                date = next(date);
            }
        }
        for _ in 0..span.days {
            date = next(date);
        }
        let whole_days =
            if date == local.date() { anchor } else { self.instant(date.and_time(local.time())) };
        self.shift_open(whole_days, span.rest, direction)
    }

    /// Counts opening hours from `from`; the moment they are used up is the answer, even if it is closing time.
    fn shift_open(&self, from: Millis, span: Millis, direction: Direction) -> Millis {
        let mut left = span;
        if left == 0 {
            return from;
        }
        let mut date = self.local(from).date();
        // a day's last window may end in the next day's first minutes where midnight is skipped
        date = if direction == Direction::After { date - Days::new(1) } else { date + Days::new(1) };
        for _ in 0..20_000 {
            let mut windows = self.open(date);
            if direction == Direction::Before {
                windows.reverse();
            }
            for (open, close) in windows {
                match direction {
                    Direction::After => {
                        let start = open.max(from);
                        if start < close {
                            if left <= close - start {
                                return start + left;
                            }
                            left -= close - start;
                        }
                    }
                    Direction::Before => {
                        let end = close.min(from);
                        if open < end {
                            if left <= end - open {
                                return end - left;
                            }
                            left -= end - open;
                        }
                    }
                }
            }
            date = if direction == Direction::After { date + Days::new(1) } else { date - Days::new(1) };
        }
        panic!("calendar {} never opens long enough", self.id)
    }
}
