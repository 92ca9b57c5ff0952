//! What only the files of a directory together show: policies nobody uses, receivers nobody reaches, values that are
//! nearly others.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use super::problem::{code, near_miss};
use super::reader::Reader;
use crate::yaml::{Kind, Node, cut};

/// A file and its reader.
pub struct File<'a> {
    /// Where lints go.
    pub reader: &'a mut Reader,
    /// What stands in it.
    pub node: &'a Node,
    /// It is policies.yaml.
    pub policies: bool,
}

/// Looks at all files of a directory that has no error.
pub fn lint(files: &mut [File<'_>], default_policy: Option<&str>) {
    unused(files, default_policy);
    near_misses(files);
}

fn items<'n>(node: &'n Node, key: &str) -> &'n [Node] {
    match node.get(key).map(|n| &n.kind) {
        Some(Kind::Seq(items)) => items,
        _ => &[],
    }
}

/// One text, or a list of them.
fn texts(node: Option<&Node>) -> Vec<&str> {
    match node.map(|n| &n.kind) {
        Some(Kind::Seq(items)) => items.iter().filter_map(Node::text).collect(),
        _ => node.and_then(Node::text).into_iter().collect(),
    }
}

fn unused(files: &mut [File<'_>], default_policy: Option<&str>) {
    let mut used: BTreeSet<&str> = default_policy.into_iter().collect();
    for rule in files.iter().filter(|f| !f.policies).flat_map(|f| items(f.node, "rules")) {
        let overrides = items(rule, "overrides").iter();
        used.extend(std::iter::once(rule).chain(overrides).filter_map(|n| n.get("policy")?.text()));
    }
    for File { reader: r, node, .. } in files.iter_mut().filter(|f| f.policies) {
        let mut reached: BTreeSet<&str> = BTreeSet::new();
        for policy in items(node, "policies") {
            reached.extend(items(policy, "steps").iter().flat_map(|s| texts(s.get("notify"))));
            let Some(id) = policy.get("id") else { continue };
            let name = id.text().unwrap_or_default();
            if !used.contains(name) {
                let help = "name it in a rule's `policy:` or as `default_policy`, or remove it";
                r.lint(code::UNUSED, &id.at, format!("no rule uses the policy `{}`", cut(name)), help);
            }
        }
        if let Some(Kind::Map(owners)) = node.get("owners").map(|n| &n.kind) {
            for (_, route) in owners {
                reached.extend(texts(Some(route)));
                reached.extend(texts(route.get("default")));
                if let Some(Kind::Map(to)) = route.get("to").map(|n| &n.kind) {
                    reached.extend(to.iter().flat_map(|(_, n)| texts(Some(n))));
                }
            }
        }
        for id in items(node, "receivers").iter().filter_map(|n| n.get("id")) {
            let name = id.text().unwrap_or_default();
            if !reached.contains(name) {
                let message = format!("nothing reaches the receiver `{}`", cut(name));
                let help = "name it in a step's `notify:` or in `owners:`, or remove it";
                r.lint(code::UNUSED, &id.at, message, help);
            }
        }
    }
}

/// Facts whose values are names of ours that no list holds: who carries, who declares.
const NAMING: [(&str, &str); 5] = [
    ("carrier", "carrier"),
    ("domestic_carrier", "carrier"),
    ("linehaul_carrier", "carrier"),
    ("carrier_code", "carrier"),
    ("broker", "broker"),
];
/// More values are no directory of a person: then nothing is compared.
const MAX_VALUES: usize = 200;

/// A value, the file it stands in and where.
type Found<'n> = (&'n str, usize, Range<usize>);

/// A carrier's name that is written once and is nearly one that is written more often.
fn near_misses(files: &mut [File<'_>]) {
    let mut lints: Vec<(usize, Range<usize>, String, String)> = Vec::new();
    for group in ["carrier", "broker"] {
        let names = |fact: &str| NAMING.contains(&(fact, group));
        let mut found: Vec<Found<'_>> = Vec::new();
        for (i, file) in files.iter().enumerate() {
            collect(file.node, i, &names, &mut found);
        }
        let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
        for (value, _, _) in &found {
            *counts.entry(value).or_default() += 1;
        }
        if counts.len() > MAX_VALUES {
            continue;
        }
        let often: Vec<&str> = counts.iter().filter(|(_, n)| **n > 1).map(|(v, _)| *v).collect();
        for (value, file, at) in found.iter().filter(|(v, _, _)| counts[v] == 1) {
            if let Some(other) = often.iter().find(|o| near_miss(value, o)) {
                let message = format!("the {group} `{}` is named only here", cut(value));
                lints.push((*file, at.clone(), message, format!("did you mean `{}`?", cut(other))));
            }
        }
    }
    for (file, at, message, help) in lints {
        files[file].reader.lint(code::NEAR_MISS, &at, message, help);
    }
}

/// Texts that stand as values of these facts, and the keys of an owner's `to` where `by` is one of them.
fn collect<'n>(node: &'n Node, file: usize, names: &dyn Fn(&str) -> bool, out: &mut Vec<Found<'n>>) {
    match &node.kind {
        Kind::Seq(items) => items.iter().for_each(|n| collect(n, file, names, out)),
        Kind::Map(entries) => {
            for (key, value) in entries {
                if key.text().is_some_and(names) {
                    values(value, file, out);
                }
                // The owner `carrier` has the name of a fact.
                collect(value, file, names, out);
            }
            if node.get("by").and_then(Node::text).is_some_and(names)
                && let Some(Kind::Map(to)) = node.get("to").map(|n| &n.kind)
            {
                out.extend(to.iter().filter_map(|(k, _)| Some((k.text()?, file, k.at.clone()))));
            }
        }
        Kind::Scalar { .. } | Kind::Refused => {}
    }
}

fn values<'n>(node: &'n Node, file: usize, out: &mut Vec<Found<'n>>) {
    match &node.kind {
        Kind::Scalar { text, .. } => out.push((text, file, node.at.clone())),
        Kind::Seq(items) => items.iter().for_each(|n| values(n, file, out)),
        Kind::Map(_) => node.get("not").into_iter().for_each(|n| values(n, file, out)),
        Kind::Refused => {}
    }
}
