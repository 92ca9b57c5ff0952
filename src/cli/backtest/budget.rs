//! `--budget FILE`: how noisy a rule may be.
//!
//! ```yaml
//! default:                                   # for every rule; all keys are optional
//!   max_exceptions_per_day: 50
//!   max_late_evidence_percent: 20            # of those that ended: reported late, not late
//!   max_notifications_per_receiver_per_day: 20
//! rules:                                     # laid over the default, key by key
//!   cleared_no_domestic_scan: {max_exceptions_per_day: 20}
//! receivers:                                 # all rules together
//!   pager: {max_notifications_per_day: 5}
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use super::report::Report;
use crate::config::read_file;
use crate::rules::problem::{Problem, Source, code};
use crate::rules::reader::{Fields, Reader};
use crate::rules::{Policies, RuleSet};
use crate::yaml::{self, Node};

/// The limits of a rule; `None`: none.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Limits {
    /// Opened.
    pub exceptions: Option<f64>,
    /// Resolved as `late_evidence`, of all resolved.
    pub late_evidence: Option<f64>,
    /// Messages with an exception of the rule.
    pub notifications: Option<f64>,
}

/// What a file allows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Budget {
    default: Limits,
    rules: BTreeMap<String, Limits>,
    receivers: BTreeMap<String, f64>,
}

/// One figure that is above its limit.
#[derive(Debug, Clone, PartialEq)]
pub struct Excess {
    /// `rule late_scan` or `receiver pager`.
    pub of: String,
    /// What was counted.
    pub what: String,
    /// The figure.
    pub found: f64,
    /// What is allowed.
    pub limit: f64,
}

impl std::fmt::Display for Excess {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Excess { of, what, found, limit } = self;
        write!(f, "{of}: {found:.1} {what}, and {limit} is the most")
    }
}

const LIMITS: [&str; 3] =
    ["max_exceptions_per_day", "max_late_evidence_percent", "max_notifications_per_receiver_per_day"];

impl Budget {
    /// Reads the file, for these rules and policies.
    ///
    /// # Errors
    /// Every problem of it.
    pub fn load(path: &Path, rules: &RuleSet, policies: &Policies) -> Result<Budget, Vec<Problem>> {
        let bytes = read_file(path.to_owned(), false).content.map_err(|why| {
            let mut p = Problem::of_file(path.to_owned(), code::UNREADABLE, why.message);
            p.help = Some(why.help);
            vec![p]
        })?;
        let source = Arc::new(Source::new(path.to_owned(), &bytes));
        let text = yaml::decode(&bytes).map_err(|f| vec![Problem::of_fault(&source, f)])?;
        let (root, faults) = yaml::parse(text);
        let mut problems: Vec<_> = faults.into_iter().map(|f| Problem::of_fault(&source, f)).collect();
        let mut r = Reader::new(source);
        let budget = root.as_ref().map(|root| Budget::read(&mut r, root, rules, policies));
        problems.extend(r.into_problems());
        if problems.is_empty() { Ok(budget.unwrap_or_default()) } else { Err(problems) }
    }

    fn read(r: &mut Reader, root: &Node, rules: &RuleSet, policies: &Policies) -> Budget {
        let mut budget = Budget::default();
        let Some(fields) = r.fields(root, "a budget", &["default", "rules", "receivers"]) else {
            return budget;
        };
        if let Some(node) = fields.get("default") {
            budget.default = limits(r, node, "`default`", Limits::default());
        }
        let each = |r: &mut Reader, key: &str| -> Vec<(Node, Node)> {
            fields.get(key).and_then(|n| r.map(n, &format!("`{key}`"))).unwrap_or_default().to_vec()
        };
        for (key, value) in each(r, "rules") {
            let Some(id) = r.id(&key, "the rule") else { continue };
            if rules.rule(id).is_none() {
                let ids: Vec<&str> = rules.rules.iter().map(|r| &*r.id).collect();
                let message = format!("there is no rule `{id}` that is enabled");
                r.unknown(code::UNDEFINED, &key.at, message, id, ids);
                continue;
            }
            let over = limits(r, &value, &format!("the budget of `{id}`"), budget.default);
            budget.rules.insert(id.to_owned(), over);
        }
        for (key, value) in each(r, "receivers") {
            let Some(id) = r.name(&key, "the receiver") else { continue };
            if policies.receiver(id).is_none() {
                let ids: Vec<&str> = policies.receivers.iter().map(|r| r.id.as_str()).collect();
                r.unknown(code::UNDEFINED, &key.at, format!("there is no receiver `{id}`"), id, ids);
                continue;
            }
            let what = format!("the budget of `{id}`");
            let Some(fields) = r.fields(&value, &what, &["max_notifications_per_day"]) else { continue };
            if let Some(most) = number(r, &fields, "max_notifications_per_day") {
                budget.receivers.insert(id.to_owned(), most);
            }
        }
        budget
    }

    /// Whether it limits what people are sent.
    #[must_use]
    pub fn counts_notifications(&self) -> bool {
        !self.receivers.is_empty()
            || self.rules.values().chain([&self.default]).any(|l| l.notifications.is_some())
    }

    /// What is above its limit, in a report of so many days.
    #[must_use]
    pub fn excesses(&self, report: &Report, days: f64) -> Vec<Excess> {
        let mut found = Vec::new();
        let mut see = |of: &str, what: &str, figure: f64, limit: Option<f64>| {
            if let Some(limit) = limit.filter(|limit| figure > *limit) {
                found.push(Excess { of: of.to_owned(), what: what.to_owned(), found: figure, limit });
            }
        };
        for (rule, of) in report.rules.rules.iter().zip(&report.of) {
            let limits = self.rules.get(&*rule.id).unwrap_or(&self.default);
            let name = format!("rule {}", rule.id);
            see(&name, "exceptions a day", of.opened as f64 / days, limits.exceptions);
            if of.ended() > 0 {
                let percent = of.late_evidence() as f64 * 100.0 / of.ended() as f64;
                see(&name, "% of its exceptions were late evidence", percent, limits.late_evidence);
            }
            for (receiver, n) in &of.messages {
                let what = format!("notifications a day to {receiver}");
                see(&name, &what, *n as f64 / days, limits.notifications);
            }
        }
        for (receiver, limit) in &self.receivers {
            let n = report.messages.get(receiver).copied().unwrap_or(0);
            see(&format!("receiver {receiver}"), "notifications a day", n as f64 / days, Some(*limit));
        }
        found
    }
}

fn limits(r: &mut Reader, node: &Node, what: &str, under: Limits) -> Limits {
    let Some(fields) = r.fields(node, what, &LIMITS) else { return under };
    let [exceptions, late_evidence, notifications] = LIMITS.map(|key| number(r, &fields, key));
    Limits {
        exceptions: exceptions.or(under.exceptions),
        late_evidence: late_evidence.or(under.late_evidence),
        notifications: notifications.or(under.notifications),
    }
}

fn number(r: &mut Reader, fields: &Fields<'_>, key: &str) -> Option<f64> {
    let node = fields.get(key)?;
    let text = r.text(node, &format!("`{key}`"))?;
    let number = match node.value() {
        Some(yaml::Value::Number(_)) => text.parse::<f64>().ok().filter(|n| *n >= 0.0 && n.is_finite()),
        _ => None,
    };
    if number.is_none() {
        let message = format!("`{key}` has to be a number that is not negative");
        r.error(code::BAD_VALUE, &node.at, message, "write the number alone, as in `20` or `0.5`");
    }
    number
}
