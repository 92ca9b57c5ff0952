//! One rule: its keys → [`Rule`] (DESIGN §5, SEMANTICS 5).

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::body::{Draft, OVERRIDE_KEYS};
use super::keys;
use super::lints;
use super::matchers::matcher;
use super::names::{Names, anchors};
use super::problem::code;
use super::reader::{Fields, Reader};
use super::ruleset::{Anchor, AnchorSource, HoldsFilter, Matcher, Rule};
use crate::model::{DerivedTime, Milestone, Time};
use crate::yaml::{Kind, Node, cut};

/// What all overrides of a rule together may repeat of it, in tests and names.
const MAX_BODIES: usize = 200_000;

/// Every key of a rule.
pub const RULE_KEYS: [&str; keys::RULE.len()] = keys::names(&keys::RULE);

/// Reads a rule. `None`: it has problems, or is not enabled. `ids` learns where its id stands.
pub fn rule(
    r: &mut Reader,
    names: &Names,
    node: &Node,
    ids: &mut BTreeMap<String, super::problem::Place>,
) -> Option<Rule> {
    r.rule = node.get("id").and_then(Node::text).map(cut);
    let fields = r.fields(node, "a rule", &RULE_KEYS)?;
    let id = identity(r, &fields, ids);
    let anchor = anchor(r, &fields);
    let scope = optional(&fields, "scope", |n| matcher(r, names, n, "`scope`", &[]));
    let holds = optional(&fields, "holds", |n| holds_filter(r, n));
    let restart = flag(r, &fields, "restart");
    let until = optional(&fields, "until", |n| r.elapsed(n, "`until`"));
    let after_terminal = flag(r, &fields, "after_terminal");
    let effective = optional(&fields, "effective", |n| effective(r, names, n));
    let zone_slack = optional(&fields, "zone_slack", |n| r.elapsed(n, "`zone_slack`"));
    let enabled = fields.get("enabled").map(|n| r.flag(n, "`enabled`"));
    let mode = fields.get("mode").map(|n| r.word(n, "mode", &["live", "shadow"]));
    let version = optional(&fields, "version", |n| r.text(n, "`version`").map(str::to_owned));
    let draft = Draft::read(r, names, &fields);
    let bodies = bodies(r, names, &fields, draft, anchor.as_ref());

    if after_terminal == Some(true) && fields.get("until").is_none() {
        let at = &fields.entry("after_terminal").map_or(node.at.clone(), |(k, _)| k.at.clone());
        let help = "say how long it waits, as in `until: 15d`; else it would wait for ever";
        r.error(code::CONTRADICTION, at, "`after_terminal` needs `until`", help);
    }
    if restart == Some(true)
        && let Some((key, _)) = fields.entry("before")
    {
        let at = fields.entry("restart").map_or(&key.at, |(k, _)| &k.at).clone();
        let help = "a clock that counts back from a fixed time cannot begin anew; remove `restart`";
        r.error(code::CONTRADICTION, &at, "`restart` cannot stand with `before`", help);
    }
    let (effective_from, effective_to) = effective?.unwrap_or_default();
    let (overrides, bodies) = bodies?;
    let shadow = match mode {
        Some(word) => word? == "shadow",
        None => false,
    };
    let rule = Rule {
        id: Arc::from(id?),
        hash: Arc::from(""),
        version: version?.unwrap_or_default(),
        shadow,
        anchor: anchor?,
        scope: scope?.unwrap_or_default(),
        holds: holds?,
        restart: restart?,
        until: until?,
        after_terminal: after_terminal?,
        effective_from,
        effective_to,
        zone_slack: zone_slack?.unwrap_or(0),
        bodies,
        overrides,
    };
    match enabled {
        None | Some(Some(true)) => {
            lints::rule(r, names, &fields, &rule);
            Some(rule)
        }
        Some(Some(false) | None) => None,
    }
}

/// Reads a key that may be absent: `None` where it is there and wrong.
pub(super) fn optional<'n, T>(
    fields: &Fields<'n>,
    key: &str,
    read: impl FnOnce(&'n Node) -> Option<T>,
) -> Option<Option<T>> {
    match fields.get(key) {
        None => Some(None),
        Some(node) => read(node).map(Some),
    }
}

fn flag(r: &mut Reader, fields: &Fields<'_>, key: &str) -> Option<bool> {
    optional(fields, key, |n| r.flag(n, &format!("`{key}`"))).map(|f| f.unwrap_or(false))
}

fn identity(
    r: &mut Reader,
    fields: &Fields<'_>,
    ids: &mut BTreeMap<String, super::problem::Place>,
) -> Option<String> {
    let Some(node) = fields.get("id") else {
        if r.rule.is_none() {
            r.missing(
                &fields.at,
                "a rule",
                "id",
                "give it a short name in snake_case that never changes its meaning",
            );
        }
        return None;
    };
    let id = r.id(node, "the rule id")?;
    if let Some(first) = ids.get(id) {
        let also = (first.clone(), "first here");
        let help = "an id names one rule: rename one of them, or remove it";
        r.error_also(code::DEFINED_TWICE, &node.at, format!("the rule id `{id}` is used twice"), help, also);
        return None;
    }
    ids.insert(id.to_owned(), r.place(&node.at));
    Some(id.to_owned())
}

/// `after` or `before`, with `pick` (SEMANTICS 5.0, 5.1).
fn anchor(r: &mut Reader, fields: &Fields<'_>) -> Option<Anchor> {
    let (key, node, before) = match (fields.entry("after"), fields.entry("before")) {
        (Some((k, n)), None) => (k, n, false),
        (None, Some((k, n))) => (k, n, true),
        (Some((k, _)), Some((other, _))) => {
            let at = if k.at.start > other.at.start { &k.at } else { &other.at };
            let help =
                "keep `after` where the clock runs from a milestone, `before` where the time lies ahead";
            r.error(code::CONTRADICTION, at, "a rule has `after` or `before`, not both", help);
            return None;
        }
        (None, None) => {
            let help = "say from what its clock runs, as in `after: import_customs_cleared`";
            r.lacks(&fields.at, "a rule has neither `after` nor `before`".to_owned(), help);
            return None;
        }
    };
    let list = matches!(node.kind, Kind::Seq(_));
    if list && before {
        let help = "name one time; for several write a rule each";
        r.error(code::BAD_ANCHOR, &node.at, "`before` takes no list", help);
        return None;
    }
    let items = r.one_or_many(node, &format!("`{}`", key.text().unwrap_or_default()))?;
    let mut sources = Vec::with_capacity(items.len());
    for item in items {
        let source = anchor_source(r, item)?;
        if sources.contains(&source) {
            let message = format!("`{}` is named twice", item.text().unwrap_or_default());
            r.lint(code::WITHOUT_EFFECT, &item.at, message, "once is enough");
        } else {
            sources.push(source);
        }
    }
    let last = match fields.get("pick") {
        Some(n) => r.word(n, "pick", &["first", "last"])? == "last",
        None => false,
    };
    let derived = sources.iter().any(|s| matches!(s, AnchorSource::Derived(_)));
    if let Some((pick, _)) = fields.entry("pick")
        && derived
        && !(list && last)
    {
        let help = "a derived time is one already: remove `pick`; it chooses among a milestone's occurrences, and `pick: last` \
                    the latest of a list";
        r.error(code::BAD_ANCHOR, &pick.at, "`pick` cannot stand with a derived time", help);
        return None;
    }
    Some(Anchor { before, list, last, sources })
}

fn anchor_source(r: &mut Reader, node: &Node) -> Option<AnchorSource> {
    let name = r.text(node, "an anchor")?;
    let found = Milestone::from_name(name)
        .map(AnchorSource::Milestone)
        .or_else(|| DerivedTime::from_name(name).map(AnchorSource::Derived));
    if found.is_none() {
        let message = format!("`{}` is no milestone and no derived time", cut(name));
        r.unknown(code::UNKNOWN_MILESTONE, &node.at, message, name, anchors());
    }
    found
}

fn holds_filter(r: &mut Reader, node: &Node) -> Option<HoldsFilter> {
    let fields = r.object(node, "`holds`", &keys::HOLDS)?;
    if fields.iter().next().is_none() {
        if r.has_refused(&node.at) {
            return None;
        }
        r.error(
            code::BAD_VALUE,
            &node.at,
            "`holds` names neither `reason` nor `authority`",
            "name one, or remove `holds`",
        );
        return None;
    }
    let reason = optional(&fields, "reason", |n| r.texts(n, "`reason`"))?;
    let authority = optional(&fields, "authority", |n| r.texts(n, "`authority`"))?;
    Some(HoldsFilter { reason, authority })
}

fn effective(r: &mut Reader, names: &Names, node: &Node) -> Option<(Option<Time>, Option<Time>)> {
    let fields = r.object(node, "`effective`", &keys::EFFECTIVE)?;
    let from = optional(&fields, "from", |n| instant(r, n, "`from`"))?;
    let to = optional(&fields, "to", |n| instant(r, n, "`to`"))?;
    if let (Some(from), Some(to)) = (from, to)
        && from >= to
    {
        let at = fields.get("to").map_or(node.at.clone(), |n| n.at.clone());
        let help =
            "the rule would know no anchor at all: `to` is the first moment at which it no longer counts";
        r.error(code::CONTRADICTION, &at, "`to` is not after `from`", help);
        return None;
    }
    if let (Some(to), Some(now)) = (to, names.now)
        && to <= now
    {
        let at = fields.get("to").map_or(node.at.clone(), |n| n.at.clone());
        let message = format!("the rule knows no anchor from {to} on, and that is past");
        r.lint(
            code::EXPIRED,
            &at,
            message,
            "move `to`, or remove the rule once nothing of it stands any more",
        );
    }
    Some((from, to))
}

/// RFC 3339, or a date, which means 00:00 UTC.
fn instant(r: &mut Reader, node: &Node, what: &str) -> Option<Time> {
    let text = r.text(node, what)?;
    let time = if text.len() == 10 { Time::parse(&format!("{text}T00:00:00Z")) } else { Time::parse(text) };
    if time.is_none() {
        let help = "write a date (2026-10-01, which means 00:00 UTC) or a time with its offset (2026-10-01T00:00:00+02:00)";
        r.error(code::BAD_VALUE, &node.at, format!("{what}: `{}` is no date", cut(text)), help);
    }
    time
}

/// The rule's own body and one for each override, with the overrides' matchers.
fn bodies(
    r: &mut Reader,
    names: &Names,
    fields: &Fields<'_>,
    base: Option<Draft>,
    anchor: Option<&Anchor>,
) -> Option<(Vec<Matcher>, Vec<super::ruleset::Body>)> {
    let whole: Range<usize> = fields.at.clone();
    let own = base.as_ref().and_then(|b| b.finish(r, names, anchor, &whole));
    let (mut matchers, mut bodies) = (Vec::new(), Vec::new());
    let mut good = own.is_some();
    bodies.extend(own);
    if let Some(list) = fields.get("overrides") {
        let items = r.list(list, "`overrides`")?;
        let weight = base.as_ref().map_or(0, Draft::weight);
        if weight.saturating_mul(items.len()) > MAX_BODIES {
            let message = "this rule's conditions are too large to be repeated for so many overrides";
            let help = "move what never changes to `scope`, or write several rules";
            r.error(code::TOO_LARGE, &list.at, message, help);
            return None;
        }
        for node in items {
            let read = over(r, names, node).and_then(|(m, draft)| {
                let merged = base.as_ref()?.overridden(draft);
                Some((m, merged.finish(r, names, anchor, &whole)?))
            });
            match read {
                Some((m, body)) => {
                    matchers.push(m);
                    bodies.push(body);
                }
                None => good = false,
            }
        }
    }
    good.then_some((matchers, bodies))
}

/// One override (SEMANTICS 5.8).
fn over(r: &mut Reader, names: &Names, node: &Node) -> Option<(Matcher, Draft)> {
    let entries = r.map(node, "an override")?;
    let mut good = true;
    for (key, _) in entries {
        let name = key.text().unwrap_or_default();
        if RULE_KEYS.contains(&name) && !OVERRIDE_KEYS.contains(&name) {
            let help = format!("it may set: {}", OVERRIDE_KEYS[1..].join(", "));
            r.error(code::BAD_OVERRIDE, &key.at, format!("an override cannot set `{name}`"), help);
            good = false;
        }
    }
    let mut known = OVERRIDE_KEYS.to_vec();
    // Those of a rule have left their problem already.
    known.extend(RULE_KEYS.iter().filter(|k| !OVERRIDE_KEYS.contains(k)));
    let fields = r.fields(node, "an override", &known)?;
    let when = match fields.get("match") {
        Some(n) => matcher(r, names, n, "`match`", &[]),
        None => {
            r.missing(
                &node.at,
                "an override",
                "match",
                "say for which parcels it is, as in `match: {domestic_carrier: correos}`",
            );
            None
        }
    };
    if entries.len() == 1 && when.is_some() {
        r.lint(
            code::WITHOUT_EFFECT,
            &node.at,
            "this override replaces nothing",
            "name a key to replace, or remove it",
        );
    }
    let draft = Draft::read(r, names, &fields);
    if good { Some((when?, draft?)) } else { None }
}
