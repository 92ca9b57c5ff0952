//! `calendars:` of policies.yaml, or of any other file of the directory → [`Calendar`] (SEMANTICS 6).

use std::collections::BTreeMap;

use super::calendar::{Calendar, zone_names};
use super::names::Names;
use super::policy_keys;
use super::problem::{Place, code, did_you_mean, suggest};
use super::reader::Reader;
use crate::model::{DAY, HOUR, MINUTE, Time};
use crate::yaml::{Node, cut};

const KEYS: [&str; policy_keys::CALENDAR.len()] = super::keys::names(&policy_keys::CALENDAR);
/// Days of the week.
pub(super) const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
/// More are refused: nobody has as many destinations.
const MAX_CALENDARS: usize = 500;
/// More are refused: each working day that is counted is looked up among them.
const MAX_HOLIDAYS: usize = 5_000;

/// Where the calendars of all files of a directory stand.
#[derive(Default)]
pub struct Seen {
    ids: BTreeMap<String, Place>,
    countries: BTreeMap<String, Place>,
}

/// Reads the list of one file into `names`.
pub fn calendars(r: &mut Reader, names: &mut Names, node: &Node, seen: &mut Seen) {
    let Some(items) = r.list(node, "`calendars`") else { return };
    if names.calendars.len() + items.len() > MAX_CALENDARS {
        r.error(
            code::TOO_LARGE,
            &node.at,
            format!("more than {MAX_CALENDARS} calendars"),
            "keep those that rules use",
        );
        return;
    }
    for item in items {
        let Some(fields) = r.fields(item, "a calendar", &KEYS) else { continue };
        let Some(id_node) = fields.get("id") else {
            r.missing(&item.at, "a calendar", "id", "rules name it by its id");
            continue;
        };
        let Some(id) = r.name(id_node, "the calendar") else { continue };
        if matches!(id, "elapsed" | "by_destination") {
            let help = "`elapsed` is the plain clock, `by_destination` chooses a calendar; take another id";
            r.error(code::BAD_ID, &id_node.at, format!("a calendar cannot be named `{id}`"), help);
            continue;
        }
        if let Some(first) = seen.ids.get(id) {
            let message = format!("the calendar `{id}` stands here twice");
            r.error_also(
                code::DEFINED_TWICE,
                &id_node.at,
                message,
                "keep one of the two",
                (first.clone(), "first here"),
            );
            continue;
        }
        seen.ids.insert(id.to_owned(), r.place(&id_node.at));
        let calendar = calendar(r, id, &fields, &mut seen.countries);
        names.calendars.push((id.to_owned(), calendar));
    }
}

fn calendar(
    r: &mut Reader,
    id: &str,
    fields: &super::reader::Fields<'_>,
    countries: &mut BTreeMap<String, Place>,
) -> Option<Calendar> {
    let days = fields.get("days").map_or(Some([true, true, true, true, true, false, false]), |n| days(r, n));
    let windows = fields.get("hours").map_or(Some(vec![(0, DAY)]), |n| hours(r, n));
    let holidays = fields.get("holidays").map_or(Some(Vec::new()), |n| dates(r, n, "holiday"));
    let working =
        fields.get("working_days").map_or(Some(Vec::new()), |n| working_days(r, n, holidays.as_ref()));
    let country = fields.get("country").map_or(Some(Vec::new()), |n| country(r, n, countries));
    let Some(zone) = fields.get("zone") else {
        r.missing(&fields.at, "a calendar", "zone", "name its time zone, as in `zone: Europe/Madrid`");
        return None;
    };
    let name = r.text(zone, "`zone`")?;
    let Some(mut calendar) = Calendar::new(id, name, days?, windows?, holidays?, working?) else {
        let message = format!("`{}` is no time zone", cut(name));
        let city = zone_names().find(|z| z.rsplit('/').next().is_some_and(|c| c.eq_ignore_ascii_case(name)));
        let help = city
            .map(|n| format!("did you mean `{n}`?"))
            .or_else(|| did_you_mean(name, zone_names()))
            .unwrap_or_else(|| "write an IANA name such as Europe/Madrid, Asia/Shanghai or UTC".to_owned());
        r.error(code::BAD_CALENDAR, &zone.at, message, help);
        return None;
    };
    for name in country? {
        if name == "any" {
            calendar.any = true;
        } else {
            calendar.countries.push(name);
        }
    }
    calendar.countries.sort();
    Some(calendar)
}

fn days(r: &mut Reader, node: &Node) -> Option<[bool; 7]> {
    let items = match &node.kind {
        crate::yaml::Kind::Seq(items) if items.is_empty() => {
            let help = "name at least one of mon, tue, wed, thu, fri, sat, sun";
            r.error(code::BAD_CALENDAR, &node.at, "the calendar has no working day", help);
            return None;
        }
        _ => r.one_or_many(node, "`days`")?,
    };
    let mut days = [false; 7];
    for item in items {
        let text = r.text(item, "a day")?;
        let Some(i) = DAYS.iter().position(|d| *d == text) else {
            let lower = text.to_lowercase();
            let near = DAYS.into_iter().find(|d| lower.starts_with(d));
            let help = match near {
                _ if text.contains('-') => "write each day: [mon, tue, wed, thu, fri]".to_owned(),
                Some(d) => format!("did you mean `{d}`?"),
                None => suggest(&lower, DAYS).unwrap_or_default(),
            };
            r.error(code::BAD_CALENDAR, &item.at, format!("`{}` is no day of the week", cut(text)), help);
            return None;
        };
        if days[i] {
            r.lint(code::WITHOUT_EFFECT, &item.at, format!("`{text}` is named twice"), "once is enough");
        }
        days[i] = true;
    }
    Some(days)
}

/// `HH:MM-HH:MM`, one or several.
fn hours(r: &mut Reader, node: &Node) -> Option<Vec<(i64, i64)>> {
    let mut windows: Vec<(i64, i64, &Node)> = Vec::new();
    for item in r.one_or_many(node, "`hours`")? {
        let text = r.text(item, "`hours`")?;
        let shown = cut(text);
        let Some((from, to)) = text.split_once('-').and_then(|(a, b)| Some((clock(a)?, clock(b)?))) else {
            let help = "write from and to as HH:MM-HH:MM, as in \"09:00-17:30\"; the day ends at 24:00";
            r.error(code::BAD_CALENDAR, &item.at, format!("`{shown}` are no opening hours"), help);
            return None;
        };
        if to <= from {
            let help = "a window lies within one day; write hours over midnight as two: \"22:00-24:00\" and \"00:00-06:00\"";
            r.error(code::BAD_CALENDAR, &item.at, format!("`{shown}` ends before it begins"), help);
            return None;
        }
        if let Some((_, _, other)) = windows.iter().find(|(f, t, _)| from < *t && *f < to) {
            let also = (r.place(&other.at), "overlaps with this");
            r.error_also(
                code::BAD_CALENDAR,
                &item.at,
                "these opening hours overlap",
                "join them into one window",
                also,
            );
            return None;
        }
        windows.push((from, to, item));
    }
    let mut windows: Vec<(i64, i64)> = windows.into_iter().map(|(f, t, _)| (f, t)).collect();
    windows.sort_unstable();
    Some(windows)
}

/// Milliseconds of the day of `HH:MM`.
pub fn clock(text: &str) -> Option<i64> {
    let (h, m) = text.trim().split_once(':')?;
    let two = |s: &str| {
        if s.len() == 2 && s.bytes().all(|b| b.is_ascii_digit()) { s.parse::<i64>().ok() } else { None }
    };
    let (h, m) = (two(h)?, two(m)?);
    let ms = h * HOUR + m * MINUTE;
    (m < 60 && ms <= DAY).then_some(ms)
}

/// Days of work that are none by the week, as a Saturday that makes up for a holiday.
fn working_days(r: &mut Reader, node: &Node, holidays: Option<&Vec<i64>>) -> Option<Vec<i64>> {
    let days = dates(r, node, "working day")?;
    let items = r.one_or_many(node, "`working_days`").unwrap_or_default();
    for (day, item) in days.iter().zip(items) {
        if holidays.is_some_and(|h| h.contains(day)) {
            let message = format!("`{}` is a holiday too", cut(item.text().unwrap_or_default()));
            let help = "a day is one or the other: remove it from `holidays` or from `working_days`";
            r.error(code::CONTRADICTION, &item.at, message, help);
            return None;
        }
    }
    Some(days)
}

/// Days since 1970-01-01.
fn dates(r: &mut Reader, node: &Node, what: &str) -> Option<Vec<i64>> {
    if matches!(&node.kind, crate::yaml::Kind::Seq(items) if items.is_empty()) {
        return Some(Vec::new());
    }
    let items = r.one_or_many(node, &format!("`{}s`", what.replace(' ', "_")))?;
    if items.len() > MAX_HOLIDAYS {
        let help = "remove those of years long past";
        r.error(code::TOO_LARGE, &node.at, format!("more than {MAX_HOLIDAYS} {what}s"), help);
        return None;
    }
    let mut days = Vec::with_capacity(items.len());
    for item in items {
        let text = r.text(item, &format!("a {what}"))?;
        let Some(day) = Time::parse(&format!("{text}T00:00:00Z")).filter(|_| text.len() == 10) else {
            let help = "write year-month-day, as in 2026-12-25; each year on its own";
            r.error(code::BAD_CALENDAR, &item.at, format!("`{}` is no date", cut(text)), help);
            return None;
        };
        days.push(day.0.div_euclid(DAY));
    }
    Some(days)
}

fn country(r: &mut Reader, node: &Node, seen: &mut BTreeMap<String, Place>) -> Option<Vec<String>> {
    let mut names = Vec::new();
    for item in r.one_or_many(node, "`country`")? {
        let text = r.text(item, "`country`")?;
        let code_like = text.len() == 2 && text.bytes().all(|b| b.is_ascii_uppercase());
        if !code_like && text != "any" {
            let help = match text {
                t if t.eq_ignore_ascii_case("any") => "write any, in small letters".to_owned(),
                t if t.len() == 2 && t.is_ascii() => {
                    format!("in capitals, as parcels name it: {}", t.to_uppercase())
                }
                _ => "write the two letters of ISO 3166, as in ES, or any".to_owned(),
            };
            r.error(code::BAD_CALENDAR, &item.at, format!("`{}` is no country code", cut(text)), help);
            return None;
        }
        if let Some(first) = seen.get(text) {
            let message = format!("the country `{text}` is in two calendars");
            let help = "`by_destination` must find one: remove it from the other";
            r.error_also(code::DEFINED_TWICE, &item.at, message, help, (first.clone(), "first here"));
            return None;
        }
        seen.insert(text.to_owned(), r.place(&item.at));
        names.push(text.to_owned());
    }
    Some(names)
}
