use super::*;
use crate::model::{HOUR, MINUTE, SECOND};

const WEEK: [bool; 7] = [true, true, true, true, true, false, false];
const ALL: [bool; 7] = [true; 7];

fn time(text: &str) -> Time {
    Time::parse(text).unwrap_or_else(|| panic!("{text}"))
}

fn date(text: &str) -> i64 {
    time(&format!("{text}T00:00:00Z")).0 / DAY
}

fn hours(text: &str) -> Vec<(i64, i64)> {
    let clock = |t: &str| super::super::calendar_file::clock(t).unwrap();
    text.split(',').map(|w| w.split_once('-').map(|(a, b)| (clock(a), clock(b))).unwrap()).collect()
}

fn calendar(zone: &str, days: [bool; 7], windows: &str, holidays: &[&str]) -> Calendar {
    Calendar::new("c", zone, days, hours(windows), holidays.iter().map(|d| date(d)).collect(), Vec::new())
        .unwrap()
}

fn span(text: &str) -> Span {
    super::super::duration::parse(text).unwrap()
}

/// Monday to Friday all day, in Madrid, with the holidays around Christmas.
fn madrid() -> Calendar {
    calendar("Europe/Madrid", WEEK, "00:00-24:00", &["2026-12-25", "2027-01-01"])
}

/// A desk in Madrid: split shifts.
fn desk() -> Calendar {
    calendar("Europe/Madrid", WEEK, "09:00-14:00,15:00-18:00", &["2026-12-25", "2027-01-01"])
}

#[track_caller]
fn after(c: &Calendar, from: &str, by: &str, expected: &str) {
    assert_eq!(c.add(time(from), span(by), false).to_string(), time(expected).to_string(), "{from} + {by}");
}

#[track_caller]
fn before(c: &Calendar, from: &str, by: &str, expected: &str) {
    assert_eq!(c.add(time(from), span(by), true).to_string(), time(expected).to_string(), "{from} - {by}");
}

#[test]
fn business_days_keep_the_local_time() {
    let c = madrid();
    // Saturday 07:00 + 1bd = Monday 07:00 (SEMANTICS 6.1).
    after(&c, "2026-10-17T07:00:00+02:00", "1bd", "2026-10-19T07:00:00+02:00");
    after(&c, "2026-10-16T23:59:59.999+02:00", "1bd", "2026-10-19T23:59:59.999+02:00");
    after(&c, "2026-10-14T10:00:00+02:00", "5bd", "2026-10-21T10:00:00+02:00");
    // Over the end of summer time: the same local time, 49 hours later.
    after(&c, "2026-10-23T12:00:00+02:00", "1bd", "2026-10-26T12:00:00+01:00");
    // Christmas is a Friday, New Year's Day too.
    after(&c, "2026-12-24T09:00:00+01:00", "1bd", "2026-12-28T09:00:00+01:00");
    after(&c, "2026-12-24T09:00:00+01:00", "5bd", "2027-01-04T09:00:00+01:00");
    after(&c, "2026-12-25T09:00:00+01:00", "1bd", "2026-12-28T09:00:00+01:00");
    // The local date counts: 23:30 UTC on Sunday is Monday in Madrid.
    after(&c, "2026-10-18T22:30:00Z", "1bd", "2026-10-20T00:30:00+02:00");
    before(&c, "2026-10-19T07:00:00+02:00", "1bd", "2026-10-16T07:00:00+02:00");
    before(&c, "2026-10-18T07:00:00+02:00", "1bd", "2026-10-16T07:00:00+02:00");
    before(&c, "2026-12-28T09:00:00+01:00", "2bd", "2026-12-23T09:00:00+01:00");
    // Opening hours do not matter for bd and d.
    after(&desk(), "2026-10-17T07:00:00+02:00", "1bd", "2026-10-19T07:00:00+02:00");
}

#[test]
fn a_saturday_may_make_up_for_a_holiday() {
    // Spring Festival 2026: Monday 16 to Friday 20 February and Monday 23 are free, Saturday 28 is worked.
    let days = ["16", "17", "18", "19", "20", "23"].map(|d| date(&format!("2026-02-{d}"))).to_vec();
    let c = Calendar::new("cn", "Asia/Shanghai", WEEK, hours("09:00-18:00"), days, vec![date("2026-02-28")]);
    let c = c.unwrap();
    after(&c, "2026-02-13T10:00:00+08:00", "1bd", "2026-02-24T10:00:00+08:00");
    after(&c, "2026-02-27T10:00:00+08:00", "1bd", "2026-02-28T10:00:00+08:00");
    after(&c, "2026-02-27T10:00:00+08:00", "2bd", "2026-03-02T10:00:00+08:00");
    before(&c, "2026-03-02T10:00:00+08:00", "1bd", "2026-02-28T10:00:00+08:00");
    // Its opening hours are open on that Saturday too: 8 of them on Friday, 1 on Saturday.
    after(&c, "2026-02-27T10:00:00+08:00", "9h", "2026-02-28T10:00:00+08:00");
}

#[test]
fn calendar_days_keep_the_local_time() {
    let c = desk();
    after(&c, "2026-10-24T12:00:00+02:00", "1d", "2026-10-25T12:00:00+01:00");
    after(&c, "2026-03-28T12:00:00+01:00", "1d", "2026-03-29T12:00:00+02:00");
    before(&c, "2026-10-25T12:00:00+01:00", "1d", "2026-10-24T12:00:00+02:00");
    // bd first, then d: Friday, Monday, Tuesday.
    after(&c, "2026-10-16T12:00:00+02:00", "1bd1d", "2026-10-20T12:00:00+02:00");
    // The other way round it would be Monday: Friday + 1d is Saturday.
    before(&c, "2026-10-19T12:00:00+02:00", "1bd1d", "2026-10-15T12:00:00+02:00");
    after(&c, "2026-10-16T12:00:00+02:00", "0d", "2026-10-16T12:00:00+02:00");
    after(&c, "2026-10-16T12:00:00+02:00", "0bd", "2026-10-16T12:00:00+02:00");
}

#[test]
fn skipped_and_doubled_local_times() {
    let c = madrid();
    // 02:30 does not exist on 29 March 2026: with the offset before the change it is 03:30.
    after(&c, "2026-03-28T02:30:00+01:00", "1d", "2026-03-29T03:30:00+02:00");
    before(&c, "2026-03-30T02:30:00+02:00", "1d", "2026-03-29T03:30:00+02:00");
    // 02:30 comes twice on 25 October 2026: the first.
    after(&c, "2026-10-24T02:30:00+02:00", "1d", "2026-10-25T02:30:00+02:00");
    before(&c, "2026-10-26T02:30:00+01:00", "1d", "2026-10-25T02:30:00+02:00");
    // Nothing to add keeps the second one.
    after(&c, "2026-10-25T02:30:00+01:00", "0d", "2026-10-25T02:30:00+01:00");
    // A gap at midnight (Beirut) and one of half an hour (Lord Howe).
    let beirut = calendar("Asia/Beirut", ALL, "00:00-24:00", &[]);
    after(&beirut, "2026-03-28T00:15:00+02:00", "1d", "2026-03-29T01:15:00+03:00");
    let howe = calendar("Australia/Lord_Howe", ALL, "00:00-24:00", &[]);
    after(&howe, "2026-10-03T02:15:00+10:30", "1d", "2026-10-04T02:45:00+11:00");
    // Samoa had no 30 December 2011 at all.
    let apia = calendar("Pacific/Apia", ALL, "00:00-24:00", &[]);
    after(&apia, "2011-12-29T12:00:00-10:00", "1d", "2011-12-31T12:00:00+14:00");
}

#[test]
fn opening_hours() {
    let c = desk();
    after(&c, "2026-10-14T09:00:00+02:00", "2h", "2026-10-14T11:00:00+02:00");
    // Over lunch, into the evening, over the weekend.
    after(&c, "2026-10-14T13:30:00+02:00", "1h", "2026-10-14T15:30:00+02:00");
    after(&c, "2026-10-14T17:00:00+02:00", "2h", "2026-10-15T10:00:00+02:00");
    after(&c, "2026-10-16T17:00:00+02:00", "90m", "2026-10-19T09:30:00+02:00");
    after(&c, "2026-10-17T12:00:00+02:00", "1s", "2026-10-19T09:00:01+02:00");
    // Ends where a window ends, not where the next begins.
    after(&c, "2026-10-14T09:00:00+02:00", "5h", "2026-10-14T14:00:00+02:00");
    after(&c, "2026-10-14T09:00:00+02:00", "8h", "2026-10-14T18:00:00+02:00");
    after(&c, "2026-10-14T14:00:00+02:00", "1h", "2026-10-14T16:00:00+02:00");
    // Eight hours a day, a week of five, over Christmas.
    after(&c, "2026-10-14T12:00:00+02:00", "40h", "2026-10-21T12:00:00+02:00");
    after(&c, "2026-12-24T17:30:00+01:00", "1h", "2026-12-28T09:30:00+01:00");
    // Over the end of summer time.
    after(&c, "2026-10-23T17:30:00+02:00", "1h", "2026-10-26T09:30:00+01:00");
    after(&c, "2026-10-23T10:00:00+02:00", "1bd1h", "2026-10-26T11:00:00+01:00");
    before(&c, "2026-10-14T11:00:00+02:00", "2h", "2026-10-14T09:00:00+02:00");
    before(&c, "2026-10-14T15:30:00+02:00", "1h", "2026-10-14T13:30:00+02:00");
    before(&c, "2026-10-19T09:30:00+02:00", "90m", "2026-10-16T17:00:00+02:00");
    before(&c, "2026-10-14T18:00:00+02:00", "8h", "2026-10-14T09:00:00+02:00");
    before(&c, "2026-10-18T12:00:00+02:00", "1m", "2026-10-16T17:59:00+02:00");
}

#[test]
fn whole_days_are_as_long_as_they_are() {
    let c = madrid();
    // Sunday does not count; Monday begins at 00:00 local.
    after(&c, "2026-10-16T23:00:00+02:00", "2h", "2026-10-19T01:00:00+02:00");
    // The day of the change has 25 hours where Sundays count.
    let all = calendar("Europe/Madrid", ALL, "00:00-24:00", &[]);
    after(&all, "2026-10-25T00:00:00+02:00", "25h", "2026-10-26T00:00:00+01:00");
    after(&all, "2026-03-29T00:00:00+01:00", "23h", "2026-03-30T00:00:00+02:00");
    // All days, all hours: the plain clock.
    after(&all, "2026-10-24T07:11:13.017+02:00", "200h", "2026-11-01T14:11:13.017+01:00");
    before(&all, "2026-11-01T14:11:13.017+01:00", "200h", "2026-10-24T07:11:13.017+02:00");
}

#[test]
fn a_calendar_that_never_opens_ends() {
    let c = calendar("UTC", [false; 7], "00:00-24:00", &[]);
    let from = time("2026-10-14T00:00:00Z");
    for by in ["1bd", "1h", "3bd4d5h"] {
        assert!(c.add(from, span(by), false).0 > from.0 + 19 * 365 * DAY, "{by}");
        assert!(c.add(from, span(by), true).0 < from.0 - 19 * 365 * DAY, "{by}");
    }
}

#[test]
fn the_ends_of_time_do_not_overflow() {
    let c = desk();
    for from in
        [Time::MIN, Time(i64::MIN / 2), time("0000-01-01T00:00:00Z"), time("9999-12-31T23:59:59Z"), Time::MAX]
    {
        for by in ["3660bd", "3660d", "87840h", "1bd1d1h"] {
            for back in [false, true] {
                let _ = c.add(from, span(by), back);
                let _ = elapsed(from, span(by), back);
            }
        }
    }
}

#[test]
fn elapsed_days_have_24_hours() {
    let from = time("2026-10-24T12:00:00+02:00");
    assert_eq!(elapsed(from, span("1d"), false), time("2026-10-25T11:00:00+01:00"));
    assert_eq!(elapsed(from, span("1d12h"), true), time("2026-10-23T00:00:00+02:00"));
}

#[test]
fn the_calendar_of_a_destination() {
    let mut c = [madrid(), desk(), calendar("UTC", WEEK, "00:00-24:00", &[])];
    c[0].countries = vec!["ES".into(), "PT".into()];
    c[2].any = true;
    assert_eq!(by_destination(&c, Some("PT")), Some(0));
    assert_eq!(by_destination(&c, Some("FR")), Some(2));
    assert_eq!(by_destination(&c, None), Some(2));
    assert_eq!(by_destination(&c[..2], Some("FR")), None);
}

/// Whether the calendar is open at an instant, by asking each window of the days around.
fn open(c: &Calendar, at: i64) -> bool {
    let day = (at + c.offset(at)).div_euclid(DAY);
    (day - 1..=day + 1).any(|d| {
        c.works(d)
            && c.windows
                .iter()
                .any(|(from, to)| (c.instant(d * DAY + from)..c.instant(d * DAY + to)).contains(&at))
    })
}

/// Minute by minute.
fn walk(c: &Calendar, from: i64, minutes: i64, back: bool) -> i64 {
    let (mut at, mut left) = (from, minutes);
    while left > 0 {
        let minute = if back { at - MINUTE } else { at };
        left -= i64::from(open(c, minute));
        at += if back { -MINUTE } else { MINUTE };
    }
    at
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
}

/// The walk against the arithmetic, in zones with odd changes of the clock, near those changes.
#[test]
fn opening_hours_are_those_of_a_naive_walk() {
    let zones = [
        "Europe/Madrid",
        "America/New_York",
        "Asia/Beirut",
        "America/Havana",
        "Australia/Lord_Howe",
        "UTC",
        "Asia/Kathmandu",
    ];
    let windows = [
        "00:00-24:00",
        "09:00-14:00,15:00-18:00",
        "00:00-02:30,03:00-06:00,22:15-24:00",
        "02:15-02:45,23:30-24:00",
    ];
    let changes = [
        "2026-03-28T12:00:00Z",
        "2026-10-24T12:00:00Z",
        "2026-03-07T12:00:00Z",
        "2026-10-31T12:00:00Z",
        "2026-10-03T12:00:00Z",
    ];
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    for round in 0..60 {
        let zone = zones[random.below(7) as usize];
        let mut days = [true; 7];
        days[random.below(7) as usize] = false;
        let c = calendar(zone, days, windows[random.below(4) as usize], &["2026-03-27", "2026-10-26"]);
        let near = time(changes[random.below(5) as usize]).0;
        let from = near + random.below(4 * 24 * 60) as i64 * MINUTE - DAY;
        let minutes = 1 + random.below(1_000) as i64;
        for back in [false, true] {
            let by = Span { business_days: 0, days: 0, ms: minutes * MINUTE };
            let (got, expected) = (c.add(Time(from), by, back), Time(walk(&c, from, minutes, back)));
            assert_eq!(
                got.to_string(),
                expected.to_string(),
                "{round}: {zone} {} {minutes}m back {back}",
                Time(from)
            );
        }
    }
}

/// Business days against a walk over dates.
#[test]
fn business_days_are_those_of_a_naive_walk() {
    let c = calendar("America/New_York", WEEK, "00:00-24:00", &["2026-11-26", "2026-12-25", "2027-01-01"]);
    let mut random = Random(7);
    for _ in 0..500 {
        let from = Time(time("2026-11-01T00:00:00Z").0 + random.below(90 * 24 * 3600) as i64 * SECOND);
        let n = random.below(15) as u32 + 1;
        let local = from.0 + c.offset(from.0);
        let (mut day, mut left) = (local.div_euclid(DAY), n);
        while left > 0 {
            day += 1;
            let weekend = matches!((day + 3).rem_euclid(7), 5 | 6);
            let holiday = ["2026-11-26", "2026-12-25", "2027-01-01"].iter().any(|h| date(h) == day);
            left -= u32::from(!weekend && !holiday);
        }
        let got = c.add(from, Span { business_days: n, days: 0, ms: 0 }, false);
        assert_eq!((got.0 + c.offset(got.0)).div_euclid(DAY), day, "{from} + {n}bd");
        let drift = (got.0 + c.offset(got.0)).rem_euclid(DAY) - local.rem_euclid(DAY);
        assert!(drift == 0 || drift == HOUR, "{from} + {n}bd: {got}");
    }
}

/// [`Calendar::turns`] against a look at every quarter of an hour.
#[test]
fn a_calendar_turns_where_it_does_not_stay_as_it_is() {
    let windows: [Vec<(i64, i64)>; 4] = [
        vec![(9 * HOUR, 14 * HOUR), (15 * HOUR, 18 * HOUR)],
        vec![(0, 24 * HOUR)],
        vec![(0, 6 * HOUR), (22 * HOUR, 24 * HOUR)],
        vec![(0, 2 * HOUR + HOUR / 2), (3 * HOUR, 24 * HOUR)],
    ];
    let quarter = HOUR / 4;
    // Both changes of the clock of 2026 in Europe, and a weekend.
    for start in ["2026-03-26T00:00:00Z", "2026-10-22T00:00:00Z"] {
        let start = Time::parse(start).unwrap();
        for (zone, windows) in ["Europe/Madrid", "UTC", "Asia/Kathmandu"]
            .iter()
            .flat_map(|z| windows.iter().map(move |w| (z, w)))
        {
            let days = [true, true, true, true, true, false, true];
            let calendar = Calendar::new("c", zone, days, windows.clone(), Vec::new(), Vec::new()).unwrap();
            let mut at = start;
            for _ in 0..40 {
                let (open, turn) = (calendar.is_open(at), calendar.turns(at));
                assert!(turn > at);
                let mut looked = at;
                while looked < turn {
                    assert_eq!(calendar.is_open(looked), open, "{zone} {windows:?} {looked} before {turn}");
                    looked = looked.plus(quarter);
                }
                assert_ne!(calendar.is_open(turn), open, "{zone} {windows:?} at {turn}");
                at = turn;
            }
        }
    }
    let always = Calendar::new("c", "UTC", [true; 7], vec![(0, 24 * HOUR)], Vec::new(), Vec::new()).unwrap();
    let never = Calendar::new("c", "UTC", [false; 7], vec![(0, 24 * HOUR)], Vec::new(), Vec::new()).unwrap();
    for (calendar, open) in [(always, true), (never, false)] {
        let start = Time::parse("2026-03-26T00:00:00Z").unwrap();
        assert_eq!(calendar.is_open(start), open);
        assert!(calendar.turns(start) > start.plus(3_650 * 24 * HOUR));
    }
}

#[test]
fn a_time_of_day_comes_once_a_day() {
    let calendar =
        Calendar::new("c", "Europe/Madrid", [true; 7], vec![(0, 24 * HOUR)], Vec::new(), Vec::new()).unwrap();
    for (at, next) in [
        ("2026-10-24T06:00:00Z", "2026-10-25T07:00:00Z"),
        ("2026-10-24T05:59:59Z", "2026-10-24T06:00:00Z"),
        ("2026-10-25T07:00:00Z", "2026-10-26T07:00:00Z"),
        ("2026-03-28T07:00:00Z", "2026-03-29T06:00:00Z"),
    ] {
        let next = Time::parse(next).unwrap();
        assert_eq!(calendar.next_clock(Time::parse(at).unwrap(), 8 * HOUR), next, "{at}");
    }
}
