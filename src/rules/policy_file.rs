//! policies.yaml → [`Policies`] (DESIGN §7, §10).

use std::collections::BTreeMap;

use super::body::{OWNERS, severity};
use super::calendar::{self, Calendar};
use super::calendar_file;
use super::condition::OF_EXCEPTION;
use super::keys::names as names_of;
use super::matchers::{condition, unknown_fact};
use super::names::Names;
use super::policies::{Auditor, FeedWatch, Inhibit, Mute, OwnerRoute, Policies, Policy, Rate, Step};
use super::policy_keys;
use super::problem::{Place, code};
use super::reader::{Fields, Reader};
use super::receiver::receiver;
use super::rule::optional;
use super::ruleset::Span;
use crate::model::{DAY, HOUR, MINUTE, SECOND, Severity, Time};
use crate::yaml::{Kind, Node, cut};

/// Every key of the file.
pub const FILE_KEYS: [&str; policy_keys::FILE.len()] = names_of(&policy_keys::FILE);
const POLICY_KEYS: [&str; policy_keys::POLICY.len()] = names_of(&policy_keys::POLICY);
/// What groups know besides facts.
pub(super) const GROUP_BY: [&str; 4] = ["rule", "severity", "owner", "parcel_id"];

/// Reads the file; what it defines goes into `names`. `None`: it has problems.
pub fn policy_file(
    r: &mut Reader,
    names: &mut Names,
    node: &Node,
    seen: &mut calendar_file::Seen,
) -> Option<Policies> {
    let fields = r.fields(node, "policies.yaml", &FILE_KEYS)?;
    if let Some(n) = fields.get("calendars") {
        calendar_file::calendars(r, names, n, seen);
    }
    let mut file = Policies::default();
    let mut receivers = BTreeMap::new();
    for node in list(r, &fields, "receivers") {
        let Some(id) = identified(r, node, "a receiver", &mut receivers) else { continue };
        file.receivers.extend(receiver(r, names, node, id));
    }
    let mut ids = BTreeMap::new();
    for node in list(r, &fields, "policies") {
        let Some(id) = identified(r, node, "a policy", &mut ids) else { continue };
        let policy = policy(r, names, node, id, &receivers);
        let to_owner =
            policy.as_ref().is_some_and(|p| p.steps.iter().any(|s| s.notify.iter().any(|n| n == "owner")));
        names.policies.insert(id.to_owned(), to_owner);
        if let Some(p) = &policy {
            let least = p.steps.iter().map(|s| s.min_severity.unwrap_or(Severity::Info)).min();
            names.listens.extend(least.map(|least| (id.to_owned(), least)));
        }
        file.policies.extend(policy);
    }
    if let Some(node) = fields.get("owners") {
        file.owners = owners(r, names, node, &receivers).unwrap_or_default();
    }
    file.default_policy = default_policy(r, names, &fields, &file);
    names.default_policy = file.default_policy.clone();
    file.inhibit = inhibit(r, names, &fields);
    file.mute = mute(r, names, &fields);
    file.auditor = fields.get("auditor").and_then(|n| auditor(r, n, &receivers)).unwrap_or_default();
    file.feeds = fields.get("feeds").and_then(|n| feeds(r, names, n, &receivers));
    file.rates = fields.get("rates").map(|n| rates(r, n, &receivers, &file)).unwrap_or_default();
    Some(file)
}

fn list<'n>(r: &mut Reader, fields: &Fields<'n>, key: &str) -> &'n [Node] {
    fields.get(key).and_then(|n| r.list(n, &format!("`{key}`"))).unwrap_or_default()
}

/// The id of an entry, which must be its own.
fn identified<'n>(
    r: &mut Reader,
    node: &'n Node,
    what: &str,
    seen: &mut BTreeMap<&'n str, Place>,
) -> Option<&'n str> {
    r.map(node, what)?;
    let Some(id_node) = node.get("id").filter(|n| !n.is_null()) else {
        r.missing(&node.at, what, "id", "give it a short name");
        return None;
    };
    let id = r.name(id_node, what)?;
    if id == "owner" {
        r.error(
            code::BAD_ID,
            &id_node.at,
            format!("{what} cannot be named `owner`"),
            "`notify: [owner]` means the owner of the rule",
        );
        return None;
    }
    if let Some(first) = seen.get(id) {
        let message = format!("`{id}` stands here twice");
        r.error_also(
            code::DEFINED_TWICE,
            &id_node.at,
            message,
            "rename one of them",
            (first.clone(), "first here"),
        );
        return None;
    }
    seen.insert(id, r.place(&id_node.at));
    Some(id)
}

fn policy(
    r: &mut Reader,
    names: &Names,
    node: &Node,
    id: &str,
    receivers: &BTreeMap<&str, Place>,
) -> Option<Policy> {
    let fields = r.fields(node, "a policy", &POLICY_KEYS)?;
    let group_by = optional(&fields, "group_by", |n| facts(r, names, n, "`group_by`", &GROUP_BY));
    let group_wait = optional(&fields, "group_wait", |n| r.elapsed(n, "`group_wait`"));
    let group_interval = optional(&fields, "group_interval", |n| at_least(r, n, "`group_interval`", SECOND));
    let repeat_every = optional(&fields, "repeat_every", |n| at_least(r, n, "`repeat_every`", MINUTE));
    let ack_timeout = optional(&fields, "ack_timeout", |n| at_least(r, n, "`ack_timeout`", MINUTE));
    let show = optional(&fields, "show", |n| facts(r, names, n, "`show`", &[]));
    let calendar = optional(&fields, "calendar", |n| calendar_of(r, names, n));
    let digest_at = optional(&fields, "digest_at", |n| time_of_day(r, n));
    let hold_resolve = optional(&fields, "hold_resolve", |n| r.elapsed(n, "`hold_resolve`"));
    let reopen_within = optional(&fields, "reopen_within", |n| r.elapsed(n, "`reopen_within`"));
    let comment_needed = optional(&fields, "comment_needed", |n| r.flag(n, "`comment_needed`"));
    let steps = match fields.get("steps") {
        Some(n) => steps(r, n, receivers, matches!(calendar, Some(Some(Some(_))))),
        None => {
            r.missing(
                &node.at,
                "a policy",
                "steps",
                "say whom it tells, as in `steps: [{after: 0m, notify: [ops_mail]}]`",
            );
            (None, Vec::new())
        }
    };
    Some(Policy {
        id: id.to_owned(),
        group_by: group_by?.unwrap_or_else(|| vec!["rule".into()]),
        group_wait: group_wait?.unwrap_or(30 * SECOND),
        group_interval: group_interval?.unwrap_or(5 * MINUTE),
        repeat_every: repeat_every?,
        ack_timeout: ack_timeout?,
        steps: steps.0?,
        spans: steps.1,
        show: show?.unwrap_or_default(),
        calendar: calendar?.flatten(),
        digest_at: digest_at?,
        comment_needed: comment_needed?.unwrap_or(false),
        hold_resolve: hold_resolve?.unwrap_or(0),
        reopen_within: reopen_within?.unwrap_or(0),
    })
}

/// The calendar of this name; `Some(None)`: the plain clock.
fn calendar_of(r: &mut Reader, names: &Names, node: &Node) -> Option<Option<Calendar>> {
    let id = r.text(node, "`calendar`")?;
    if id == "elapsed" {
        return Some(None);
    }
    match names.calendars.iter().find(|(c, _)| c == id) {
        // One with problems of its own has told them.
        Some((_, calendar)) => calendar.clone().map(Some),
        None => {
            let ids = names.calendars.iter().map(|(c, _)| c.as_str());
            r.unknown(code::UNDEFINED, &node.at, format!("no calendar is named `{}`", cut(id)), id, ids);
            None
        }
    }
}

fn time_of_day(r: &mut Reader, node: &Node) -> Option<i64> {
    let text = r.text(node, "`digest_at`")?;
    let clock = calendar_file::clock(text).filter(|ms| *ms < DAY);
    if clock.is_none() {
        let message = format!("`{}` is no time of day", cut(text));
        r.error(code::BAD_VALUE, &node.at, message, "write HH:MM, as in \"08:00\"");
    }
    clock
}

fn at_least(r: &mut Reader, node: &Node, what: &str, least: i64) -> Option<i64> {
    let ms = r.elapsed(node, what)?;
    if ms < least {
        let help = match least {
            // The default takes the place of that one.
            HOUR => "at least 1h: silence is measured by the hour",
            MINUTE => "at least 1m; leave the key out to go without",
            _ => "at least 1s; leave the key out to go without",
        };
        r.error(code::BAD_DURATION, &node.at, format!("{what} is too short"), help);
        return None;
    }
    Some(ms)
}

/// Names of facts, and a few others.
fn facts(r: &mut Reader, names: &Names, node: &Node, what: &str, extra: &[&str]) -> Option<Vec<String>> {
    if matches!(&node.kind, Kind::Seq(items) if items.is_empty()) {
        return Some(Vec::new());
    }
    let items = r.one_or_many(node, what)?;
    let mut list: Vec<String> = Vec::with_capacity(items.len());
    let mut good = true;
    for item in items {
        let name = r.text(item, what)?;
        if names.fact(name).is_none() && !extra.contains(&name) {
            unknown_fact(r, names, item, name, extra);
            good = false;
        } else if list.iter().any(|n| n == name) {
            r.lint(code::WITHOUT_EFFECT, &item.at, format!("`{name}` is named twice"), "once is enough");
        } else {
            list.push(name.to_owned());
        }
    }
    good.then_some(list)
}

/// The steps, and where they count in a calendar what each `after` is there.
fn steps(
    r: &mut Reader,
    node: &Node,
    receivers: &BTreeMap<&str, Place>,
    in_calendar: bool,
) -> (Option<Vec<Step>>, Vec<Span>) {
    let Some(items) = r.list(node, "`steps`") else { return (None, Vec::new()) };
    let mut steps: Vec<Step> = Vec::with_capacity(items.len());
    let mut spans = Vec::new();
    for item in items {
        let Some((step, span)) = step(r, item, receivers, in_calendar) else { continue };
        spans.extend(span);
        if steps.last().is_some_and(|s| step.after <= s.after) {
            let help = "put the earliest first: 0m, 4h, 24h; whom to tell at one time goes into one step";
            r.lint(code::STAGES_ORDER, &item.at, "this step is not later than the one before it", help);
        }
        steps.push(step);
    }
    ((steps.len() == items.len()).then_some(steps), spans)
}

fn step(
    r: &mut Reader,
    node: &Node,
    receivers: &BTreeMap<&str, Place>,
    in_calendar: bool,
) -> Option<(Step, Option<Span>)> {
    let fields = r.fields(node, "a step", &names_of(&policy_keys::STEP))?;
    let (mut span, mut after) = (None, Some(None));
    if in_calendar {
        let read = optional(&fields, "after", |n| r.span(n, "`after`"));
        span = Some(read?.unwrap_or_default());
        // For the order of steps, about.
        after = Some(span.map(|s| calendar::elapsed(Time(0), s, false).0));
    } else if fields.get("after").is_some() {
        after = optional(&fields, "after", |n| r.elapsed(n, "`after`"));
    }
    let min_severity = optional(&fields, "min_severity", |n| severity(r, n));
    let Some(notify) = fields.get("notify") else {
        r.missing(&node.at, "a step", "notify", "name receivers, or owner, as in `notify: [ops_mail]`");
        return None;
    };
    let notify = told(r, notify, "`notify`", receivers, true);
    Some((Step { after: after?.unwrap_or(0), notify: notify?, min_severity: min_severity? }, span))
}

/// Receivers' ids that are defined.
fn told(
    r: &mut Reader,
    node: &Node,
    what: &str,
    receivers: &BTreeMap<&str, Place>,
    owner: bool,
) -> Option<Vec<String>> {
    let items = r.one_or_many(node, what)?;
    let mut list: Vec<String> = Vec::with_capacity(items.len());
    let mut good = true;
    for item in items {
        let name = r.text(item, what)?;
        let known = receivers.contains_key(name) || (owner && name == "owner");
        if !known {
            let ids = receivers.keys().copied().chain(owner.then_some("owner"));
            r.unknown(code::UNDEFINED, &item.at, format!("no receiver is named `{}`", cut(name)), name, ids);
            good = false;
        } else if list.iter().any(|n| n == name) {
            r.lint(code::WITHOUT_EFFECT, &item.at, format!("`{name}` is named twice"), "once is enough");
        } else {
            list.push(name.to_owned());
        }
    }
    good.then_some(list)
}

fn default_policy(r: &mut Reader, names: &Names, fields: &Fields<'_>, file: &Policies) -> Option<String> {
    let ids = || names.policies.keys().map(String::as_str);
    if let Some(node) = fields.get("default_policy") {
        let name = r.text(node, "`default_policy`")?;
        if !names.policies.contains_key(name) {
            r.unknown(code::UNDEFINED, &node.at, format!("no policy is named `{}`", cut(name)), name, ids());
            return None;
        }
        return Some(name.to_owned());
    }
    match names.policies.len() {
        0 => {
            if !file.receivers.is_empty() {
                let at = fields.entry("receivers").map_or(0..0, |(k, _)| k.at.clone());
                let help = "add `policies:`, which say when whom to tell";
                r.lint(
                    code::NOBODY_TOLD,
                    &at,
                    "there are receivers but no policy: nobody is ever told",
                    help,
                );
            }
            None
        }
        1 => ids().next().map(str::to_owned),
        _ => {
            let at = fields.entry("policies").map_or(0..0, |(k, _)| k.at.clone());
            let help = format!(
                "add `default_policy:` for rules that name none, one of: {}",
                ids().collect::<Vec<_>>().join(", ")
            );
            r.error(code::MISSING_KEY, &at, "there are several policies but no `default_policy`", help);
            None
        }
    }
}

fn owners(
    r: &mut Reader,
    names: &mut Names,
    node: &Node,
    receivers: &BTreeMap<&str, Place>,
) -> Option<BTreeMap<String, OwnerRoute>> {
    let mut routes = BTreeMap::new();
    for (key, value) in r.map(node, "`owners`")? {
        let Some(owner) = r.word(key, "owner", &OWNERS) else { continue };
        names.owners.insert(owner.to_owned());
        if let Some(route) = route(r, names, owner, value, receivers) {
            routes.insert(owner.to_owned(), route);
        }
    }
    Some(routes)
}

/// `{by: fact, to: {value: receivers}, default: receivers}`, or only receivers.
fn route(
    r: &mut Reader,
    names: &Names,
    owner: &str,
    node: &Node,
    receivers: &BTreeMap<&str, Place>,
) -> Option<OwnerRoute> {
    if !matches!(node.kind, Kind::Map(_)) {
        let default = told(r, node, &format!("the owner `{owner}`"), receivers, false)?;
        return Some(OwnerRoute { default, ..OwnerRoute::default() });
    }
    let fields = r.fields(node, &format!("the owner `{owner}`"), &names_of(&policy_keys::ROUTE))?;
    let by = optional(&fields, "by", |n| facts(r, names, n, "`by`", &[]).and_then(|f| f.into_iter().next()));
    let to = optional(&fields, "to", |n| {
        let mut to = BTreeMap::new();
        for (key, value) in r.map(n, "`to`")? {
            to.insert(key.text().unwrap_or_default().to_owned(), told(r, value, "`to`", receivers, false)?);
        }
        Some(to)
    });
    let default = optional(&fields, "default", |n| told(r, n, "`default`", receivers, false));
    if fields.get("by").is_some() != fields.get("to").is_some() {
        let help = "`by` names the fact, `to` the receivers for each of its values";
        r.error(code::CONTRADICTION, &node.at, "`by` and `to` belong together", help);
        return None;
    }
    if default == Some(None) {
        let help = "add `default:` with a receiver for everything else";
        r.lint(
            code::NOBODY_TOLD,
            &node.at,
            format!("the owner `{owner}` has no `default`: where `to` has nothing, nobody is told"),
            help,
        );
    }
    Some(OwnerRoute { by: by?, to: to?.unwrap_or_default(), default: default?.unwrap_or_default() })
}

fn inhibit(r: &mut Reader, names: &Names, fields: &Fields<'_>) -> Vec<Inhibit> {
    let mut all = Vec::new();
    for entry in list(r, fields, "inhibit") {
        let Some(f) = r.fields(entry, "an entry of `inhibit`", &names_of(&policy_keys::INHIBIT)) else {
            continue;
        };
        let mut side = |key: &str| match f.get(key) {
            Some(n) => condition(r, names, n, &format!("`{key}`"), &OF_EXCEPTION),
            None => {
                r.missing(&entry.at, "an entry of `inhibit`", key, "source silences target");
                None
            }
        };
        let (source, target) = (side("source"), side("target"));
        let equal = optional(&f, "equal", |n| facts(r, names, n, "`equal`", &OF_EXCEPTION));
        if let (Some(source), Some(target), Some(equal)) = (source, target, equal) {
            all.push(Inhibit { source, target, equal: equal.unwrap_or_default() });
        }
    }
    all
}

fn mute(r: &mut Reader, names: &Names, fields: &Fields<'_>) -> Vec<Mute> {
    let mut all = Vec::new();
    let mut seen = BTreeMap::new();
    for entry in list(r, fields, "mute") {
        let id = identified(r, entry, "an entry of `mute`", &mut seen);
        let Some(f) = r.fields(entry, "an entry of `mute`", &names_of(&policy_keys::MUTE)) else {
            continue;
        };
        let calendar = match f.get("calendar") {
            Some(n) => {
                let calendar = calendar_of(r, names, n);
                if calendar == Some(None) {
                    let help = "name one of `calendars:`; a mute needs opening hours";
                    r.error(code::BAD_VALUE, &n.at, "the plain clock never opens or closes", help);
                }
                calendar.flatten()
            }
            None => {
                r.missing(&entry.at, "an entry of `mute`", "calendar", "name one of `calendars:`");
                None
            }
        };
        let outside = optional(&f, "outside", |n| r.flag(n, "`outside`"));
        let on = optional(&f, "match", |n| condition(r, names, n, "`match`", &OF_EXCEPTION));
        if let (Some(id), Some(calendar), Some(outside), Some(on)) = (id, calendar, outside, on) {
            let (outside, on) = (outside.unwrap_or(false), on.unwrap_or_default());
            all.push(Mute { id: id.to_owned(), calendar, outside, on });
        }
    }
    all
}

/// `rates: {ops_mail: {messages: 20, per: 10m}}`.
fn rates(
    r: &mut Reader,
    node: &Node,
    receivers: &BTreeMap<&str, Place>,
    file: &Policies,
) -> BTreeMap<String, Rate> {
    let mut all = BTreeMap::new();
    for (key, value) in r.map(node, "`rates`").unwrap_or_default() {
        let Some(name) = key.text() else { continue };
        if !receivers.contains_key(name) {
            let ids = receivers.keys().copied();
            r.unknown(code::UNDEFINED, &key.at, format!("no receiver is named `{}`", cut(name)), name, ids);
            continue;
        }
        if file.receiver(name).is_some_and(|known| known.kind.keeps_what_stands()) {
            let help = "remove it: such a receiver keeps one incident or alert for what stands, and a digest would leave it wrong";
            r.error(code::CONTRADICTION, &key.at, format!("`{}` has no rate", cut(name)), help);
            continue;
        }
        let Some(f) = r.fields(value, "a rate", &names_of(&policy_keys::RATE)) else { continue };
        let messages = f.get("messages").and_then(|n| match n.text().and_then(|t| t.parse().ok()) {
            Some(messages @ 1..=1_000_000) => Some(messages),
            _ => {
                r.error(
                    code::BAD_VALUE,
                    &n.at,
                    "`messages` is a whole number from 1 on",
                    "as in {messages: 20, per: 10m}",
                );
                None
            }
        });
        let per = f.get("per").and_then(|n| at_least(r, n, "`per`", SECOND));
        match (messages, per, f.get("messages"), f.get("per")) {
            (Some(messages), Some(per_ms), ..) => {
                all.insert(name.to_owned(), Rate { messages, per_ms });
            }
            (_, _, None, _) => r.missing(&value.at, "a rate", "messages", "as in {messages: 20, per: 10m}"),
            (_, _, _, None) => r.missing(&value.at, "a rate", "per", "as in {messages: 20, per: 10m}"),
            // Said above.
            _ => {}
        }
    }
    all
}

/// `feeds: {notify: [ops_mail], silent_after: 2h, target: {severity: [info, warning]}}`.
fn feeds(r: &mut Reader, names: &Names, node: &Node, receivers: &BTreeMap<&str, Place>) -> Option<FeedWatch> {
    let fields = r.object(node, "`feeds`", &policy_keys::FEEDS)?;
    let notify = fields.get("notify").and_then(|n| told(r, n, "`notify`", receivers, false));
    let silent_after = optional(&fields, "silent_after", |n| at_least(r, n, "`silent_after`", HOUR));
    let target = optional(&fields, "target", |n| condition(r, names, n, "`target`", &OF_EXCEPTION));
    if fields.get("notify").is_none() {
        r.missing(&node.at, "`feeds`", "notify", "name receivers, as in `notify: [ops_mail]`");
    }
    Some(FeedWatch {
        notify: notify?,
        silent_after: silent_after?.unwrap_or(2 * HOUR),
        target: target?.unwrap_or_default(),
    })
}

/// `auditor: {fallback: ops_mail, dead_mans_switch: snitch, every: 5m}`.
fn auditor(r: &mut Reader, node: &Node, receivers: &BTreeMap<&str, Place>) -> Option<Auditor> {
    let fields = r.object(node, "`auditor`", &policy_keys::AUDITOR)?;
    let mut one = |key: &str| {
        let node = fields.get(key)?;
        let name = r.text(node, &format!("`{key}`"))?;
        if !receivers.contains_key(name) {
            let ids = receivers.keys().copied();
            r.unknown(code::UNDEFINED, &node.at, format!("no receiver is named `{}`", cut(name)), name, ids);
            return None;
        }
        Some(name.to_owned())
    };
    let (fallback, dead_mans_switch) = (one("fallback"), one("dead_mans_switch"));
    let every = optional(&fields, "every", |n| at_least(r, n, "`every`", MINUTE));
    Some(Auditor { fallback, dead_mans_switch, every: every?.unwrap_or(5 * MINUTE) })
}
