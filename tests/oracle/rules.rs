//! Rules as they are written (DESIGN 5, SEMANTICS 5).
use super::facts::HoldFilter;
use super::matcher::Sets;
use super::time::{Calendar, Millis, Span, parse_instant};
use super::vocabulary::{DERIVED_TIMES, MILESTONES, MOVING_TIMES, reaches};
use serde_yaml::{Mapping, Value};

pub const SEVERITIES: [&str; 4] = ["info", "warning", "high", "critical"];

/// A directory of rules.
pub struct RuleBook {
    pub rules: Vec<Rule>,
    pub sets: Sets,
    pub declared_facts: Vec<String>,
    pub calendars: Vec<Calendar>,
}

pub struct Rule {
    pub id: String,
    pub scope: Option<Value>,
    /// `before` counts back from its anchor
    pub counts_back: bool,
    pub anchors: Vec<String>,
    pub anchors_are_a_list: bool,
    pub pick_last: bool,
    pub holds: HoldFilter,
    pub restart: bool,
    pub zone_slack: Millis,
    pub until: Option<Millis>,
    pub effective_from: Option<Millis>,
    pub effective_to: Option<Millis>,
    pub after_terminal: bool,
    /// what holds where no override matches
    pub own: Terms,
    /// 5.8: the first whose matcher holds applies, alone
    pub overrides: Vec<(Value, Terms)>,
}

/// The keys that an override may replace and that decide changes (5.8).
pub struct Terms {
    pub unless: Option<Value>,
    pub while_: Option<Value>,
    pub expect: Vec<Expectation>,
    /// None: any class, and none at all
    pub evidence: Option<Vec<String>>,
    /// None: `any`
    pub tolerance: Option<Millis>,
    pub grace: Millis,
    pub reporting_delay: Millis,
    pub calendar: String,
    pub stages: Vec<Stage>,
}

pub struct Stage {
    pub at: Span,
    /// an index into SEVERITIES
    pub severity: usize,
}

/// 5.10
pub enum Expectation {
    Milestone(String),
    NextExpected,
    DerivedTime(String),
}

fn text<'a>(value: &'a Value, what: &str) -> &'a str {
    value.as_str().unwrap_or_else(|| panic!("{what} is a text"))
}

fn texts(value: &Value) -> Vec<String> {
    match value {
        Value::Sequence(list) => list.iter().map(|v| text(v, "an element").to_string()).collect(),
        one => vec![text(one, "a value").to_string()],
    }
}

/// 6.3: these keys are elapsed time.
fn elapsed(value: Option<&Value>) -> Option<Millis> {
    value.map(|value| Span::parse(text(value, "a duration")).expect("a duration").elapsed())
}

/// 5.7: a date means 00:00 UTC.
fn date_or_time(value: &Value) -> Millis {
    let written = text(value, "a date");
    parse_instant(written)
        .or_else(|| parse_instant(&format!("{written}T00:00:00Z")))
        .expect("a date or a time with an offset")
}

fn expectations(value: Option<&Value>) -> Vec<Expectation> {
    let list = match value {
        None => return Vec::new(),
        Some(Value::Sequence(list)) => list.clone(),
        Some(one) => vec![one.clone()],
    };
    let mut expectations = Vec::new();
    for wanted in &list {
        match wanted {
            Value::Mapping(from) => {
                let from = text(&from["from"], "from");
                let spelt_out = MILESTONES.iter().filter(|(name, _)| reaches(name, from));
                expectations.extend(spelt_out.map(|(name, _)| Expectation::Milestone(name.to_string())));
            }
            name => expectations.push(match text(name, "an expectation") {
                "next_expected" => Expectation::NextExpected,
                name if DERIVED_TIMES.contains(&name) => Expectation::DerivedTime(name.to_string()),
                name => Expectation::Milestone(name.to_string()),
            }),
        }
    }
    expectations
}

/// 5.9: a stage without severity takes the rule's; `within` is short for one stage.
fn stages(rule: &Mapping) -> Vec<Stage> {
    let stage = |at: &Value, severity: Option<&Value>| {
        let severity = severity.or(rule.get("severity")).expect("a stage has a severity");
        let severity = text(severity, "severity");
        Stage {
            at: Span::parse(text(at, "at")).expect("a duration"),
            severity: SEVERITIES.iter().position(|s| *s == severity).expect("a severity"),
        }
    };
    match rule.get("within") {
        Some(within) => vec![stage(within, None)],
        None => rule["stages"]
            .as_sequence()
            .expect("stages are a list")
            .iter()
            .map(|s| stage(&s["at"], s.get("severity")))
            .collect(),
    }
}

impl Terms {
    fn read(rule: &Mapping) -> Terms {
        Terms {
            unless: rule.get("unless").cloned(),
            while_: rule.get("while").cloned(),
            expect: expectations(rule.get("expect")),
            evidence: rule.get("evidence").map(texts),
            tolerance: match rule.get("tolerance") {
                Some(value) if value.as_str() == Some("any") => None,
                value => Some(elapsed(value).unwrap_or(0)),
            },
            grace: elapsed(rule.get("grace")).unwrap_or(0),
            reporting_delay: elapsed(rule.get("reporting_delay")).unwrap_or(0),
            calendar: rule.get("calendar").map_or("elapsed", |value| text(value, "calendar")).to_string(),
            stages: stages(rule),
        }
    }
}

impl Rule {
    /// None where the rule is not enabled.
    fn read(value: &Value) -> Option<Rule> {
        let rule = value.as_mapping().expect("a rule is a mapping");
        let is_true = |key: &str| rule.get(key).and_then(Value::as_bool);
        if is_true("enabled") == Some(false) {
            return None;
        }
        let counts_back = rule.contains_key("before");
        let anchor = &rule[if counts_back { "before" } else { "after" }];
        let overrides = match rule.get("overrides") {
            Some(list) => list.as_sequence().expect("overrides are a list").clone(),
            None => Vec::new(),
        };
        let read_override = |replacement: &Value| {
            let keys = replacement.as_mapping().expect("an override is a mapping");
            let mut merged = rule.clone();
            for (key, value) in keys {
                // `stages` and `within` replace each other
                match key.as_str() {
                    Some("stages") => merged.remove("within"),
                    Some("within") => merged.remove("stages"),
                    _ => None,
                };
                merged.insert(key.clone(), value.clone());
            }
            (keys["match"].clone(), Terms::read(&merged))
        };
        let effective = |end: &str| rule.get("effective").and_then(|e| e.get(end)).map(date_or_time);
        let hold = |key: &str| rule.get("holds").and_then(|holds| holds.get(key)).map(texts);
        Some(Rule {
            id: text(&rule["id"], "id").to_string(),
            scope: rule.get("scope").cloned(),
            counts_back,
            anchors: texts(anchor),
            anchors_are_a_list: anchor.is_sequence(),
            pick_last: rule.get("pick").and_then(Value::as_str) == Some("last"),
            holds: HoldFilter { reasons: hold("reason"), authorities: hold("authority") },
            restart: is_true("restart") == Some(true),
            zone_slack: elapsed(rule.get("zone_slack")).unwrap_or(0),
            until: elapsed(rule.get("until")),
            effective_from: effective("from"),
            effective_to: effective("to"),
            after_terminal: is_true("after_terminal") == Some(true),
            own: Terms::read(rule),
            overrides: overrides.iter().map(read_override).collect(),
        })
    }

    /// 5.0, 5.1: is each anchor time an episode of its own?
    pub fn has_episodes(&self) -> bool {
        let moving = MOVING_TIMES.contains(&self.anchors[0].as_str());
        self.pick_last || (moving && !self.anchors_are_a_list)
    }
}

impl RuleBook {
    /// The texts of rules.yaml and policies.yaml.
    pub fn read(rules: &str, policies: Option<&str>) -> RuleBook {
        let file: Value = serde_yaml::from_str(rules).expect("rules.yaml is YAML");
        let policies: Value =
            policies.map_or(Value::Null, |p| serde_yaml::from_str(p).expect("policies.yaml"));
        let list = |value: Option<&Value>| value.and_then(Value::as_sequence).cloned().unwrap_or_default();
        let sets = file.get("sets").and_then(Value::as_mapping).cloned().unwrap_or_default();
        RuleBook {
            rules: list(file.get("rules")).iter().filter_map(Rule::read).collect(),
            sets: sets
                .iter()
                .map(|(name, values)| (text(name, "a set's name").to_string(), list(Some(values))))
                .collect(),
            declared_facts: list(file.get("facts"))
                .iter()
                .map(|fact| text(&fact["name"], "a fact's name").to_string())
                .collect(),
            calendars: list(policies.get("calendars")).iter().map(Calendar::read).collect(),
        }
    }

    /// 6.0: a calendar by its name, or the one of the parcel's destination; None is elapsed time.
    pub fn calendar(&self, name: &str, destination: Option<&str>) -> Option<&Calendar> {
        let of_country = |country: &str| {
            self.calendars.iter().find(|calendar| calendar.countries.iter().any(|c| c == country))
        };
        match name {
            "elapsed" => None,
            "by_destination" => {
                let its_own = destination.filter(|country| *country != "any").and_then(of_country);
                Some(its_own.or_else(|| of_country("any")).expect("a calendar for any country"))
            }
            name => Some(self.calendars.iter().find(|c| c.id == name).expect("a calendar of that name")),
        }
    }
}
