//! All files of a directory → [`RuleSet`] and [`Policies`], or every problem.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use super::calendar_file::{self, calendars};
use super::canon;
use super::keys;
use super::matchers::scalar;
use super::names::Names;
use super::policies::Policies;
use super::policy_file::{FILE_KEYS, policy_file};
use super::problem::{Level, Place, Problem, Source, code};
use super::reader::Reader;
use super::rule::{RULE_KEYS, rule};
use super::ruleset::{DeclaredFact, Rule, RuleSet};
use super::template::{self, template_files};
use super::whole::{self, File};
use crate::model::{DerivedFact, Time, known_fact};
use crate::yaml::{self, Node, cut};

/// A file as it was found.
#[derive(Clone, Debug)]
pub struct SourceFile {
    /// As the user names it; its file name says what it holds.
    pub path: PathBuf,
    /// Its bytes, or why there are none.
    pub content: Result<Vec<u8>, Unreadable>,
    /// Only a neighbour of what is judged: what it defines is known, its own problems are not told.
    pub context: bool,
}

/// Why a file's bytes are not there.
#[derive(Clone, Debug)]
pub struct Unreadable {
    /// What happened.
    pub message: String,
    /// What to do.
    pub help: String,
}

/// What came of a directory.
#[derive(Debug, Default)]
pub struct Loaded {
    /// `None` where any problem is an error.
    pub rules: Option<RuleSet>,
    /// `None` where any problem is an error; empty where there is no policies.yaml.
    pub policies: Option<Policies>,
    /// Errors and lints, by file and place.
    pub problems: Vec<Problem>,
    /// The texts, to be kept with what was decided by them.
    pub sources: Vec<Arc<Source>>,
}

impl Loaded {
    /// Whether any problem is an error.
    #[must_use]
    pub fn has_errors(&self) -> bool {
        self.problems.iter().any(|p| p.level == Level::Error)
    }
}

const TOP_KEYS: [&str; keys::FILE.len()] = keys::names(&keys::FILE);
/// What a declared fact may be said to hold.
pub(super) const KINDS: [&str; 9] =
    ["text", "number", "boolean", "bool", "list", "object", "money", "time", "date"];
/// More declared facts are refused: each costs memory for each parcel.
const MAX_FACTS: usize = 500;
/// More rules are refused: each record is put to all of them.
const MAX_RULES: usize = 10_000;

/// Whether a file of this name holds receivers and policies.
#[must_use]
pub fn is_policies(path: &std::path::Path) -> bool {
    matches!(path.file_name().and_then(|n| n.to_str()), Some("policies.yaml" | "policies.yml"))
}

/// Compiles the files of one rules directory. Pure: reading them is `config::read_rules`.
#[must_use]
pub fn compile(files: &[SourceFile]) -> Loaded {
    compile_at(files, None)
}

/// Compiles them, and says what has expired by `now`.
#[must_use]
pub fn compile_at(files: &[SourceFile], now: Option<Time>) -> Loaded {
    let mut problems = Vec::new();
    let mut names = Names { now, ..Names::default() };
    let mut parsed = Vec::new();
    let of_policies = files.iter().filter(|f| is_policies(&f.path));
    let templates: BTreeSet<PathBuf> = of_policies.flat_map(template_files).collect();
    let (templates, files): (Vec<&SourceFile>, Vec<&SourceFile>) =
        files.iter().partition(|f| templates.contains(&f.path));
    names.templates = templates.into_iter().map(|f| (f.path.clone(), template::source(f))).collect();
    for file in files {
        names.has_policies |= is_policies(&file.path);
        match read(file) {
            Ok(one) => parsed.push(one),
            Err((source, found)) => {
                *if is_policies(&file.path) { &mut names.policies_broken } else { &mut names.rules_broken } =
                    true;
                problems.extend(found.into_iter().filter(|_| !file.context));
                parsed.extend(source.map(|s| Parsed::empty(file, s)));
            }
        }
    }
    // What is judged defines first; neighbours only what it leaves open.
    parsed.sort_by_key(|p| p.context);
    let mut seen = calendar_file::Seen::default();
    definitions(&mut parsed, &mut names, &mut seen);
    let policies = read_policies(&mut parsed, &mut names, &mut seen);
    let rules = read_rules(&mut parsed, &names);
    together(&mut parsed, &names, !problems.is_empty());
    if let Some(policies) = &policies
        && !parsed.iter().any(|p| p.context && is_policies(&p.path))
    {
        problems.extend(template::check::problems(policies, &rules, &names));
    }

    let mut sources: Vec<Arc<Source>> =
        names.templates.values().filter_map(|s| s.as_ref().ok().map(Arc::clone)).collect();
    for p in parsed {
        sources.push(Arc::clone(&p.source));
        problems.extend(p.faults);
        problems.extend(p.reader.into_problems().into_iter().filter(|_| !p.context));
    }
    problems.sort_by(|a, b| a.order().cmp(&b.order()));
    sources.sort_by(|a, b| a.path.cmp(&b.path));
    let mut loaded = Loaded { rules: None, policies: None, problems, sources };
    if !loaded.has_errors()
        && let Some(calendars) = names.calendars.iter().map(|(_, c)| c.clone()).collect::<Option<Vec<_>>>()
    {
        loaded.rules = Some(finish(rules, calendars, &names));
        let mut policies = policies.unwrap_or_default();
        policies.hash = canon::hash(&canon::policies(&policies));
        loaded.policies = Some(policies);
    }
    loaded
}

/// A file whose text has a structure.
struct Parsed {
    path: PathBuf,
    context: bool,
    source: Arc<Source>,
    node: Option<Node>,
    faults: Vec<Problem>,
    reader: Reader,
}

impl Parsed {
    fn empty(file: &SourceFile, source: Arc<Source>) -> Parsed {
        Parsed {
            path: file.path.clone(),
            context: file.context,
            reader: Reader::new(Arc::clone(&source)),
            source,
            node: None,
            faults: Vec::new(),
        }
    }
}

fn read(file: &SourceFile) -> Result<Parsed, (Option<Arc<Source>>, Vec<Problem>)> {
    let bytes = match &file.content {
        Ok(bytes) => bytes,
        Err(why) => {
            let mut p = Problem::of_file(file.path.clone(), code::UNREADABLE, why.message.clone());
            p.help = Some(why.help.clone());
            return Err((None, vec![p]));
        }
    };
    let source = Arc::new(Source::new(file.path.clone(), bytes));
    let text = match yaml::decode(bytes) {
        Ok(text) => text,
        Err(fault) => {
            let p = Problem::of_fault(&source, fault);
            return Err((Some(source), vec![p]));
        }
    };
    let (node, faults) = yaml::parse(text);
    let empty = faults.iter().any(|f| f.kind == yaml::FaultKind::Empty);
    let faults: Vec<Problem> = faults.into_iter().map(|f| Problem::of_fault(&source, f)).collect();
    match node {
        Some(node) if !empty => {
            let mut parsed = Parsed::empty(file, source);
            parsed.node = Some(node);
            parsed.faults = if file.context { Vec::new() } else { faults };
            Ok(parsed)
        }
        _ => Err((Some(source), faults)),
    }
}

/// `sets:`, `facts:` and `calendars:` of all files of rules.
fn definitions(parsed: &mut [Parsed], names: &mut Names, seen: &mut calendar_file::Seen) {
    let mut sets: BTreeMap<String, Place> = BTreeMap::new();
    let mut facts: BTreeMap<String, Place> = BTreeMap::new();
    for p in parsed.iter_mut().filter(|p| !is_policies(&p.path)) {
        let (Some(node), r) = (&p.node, &mut p.reader) else { continue };
        if let Some(list) = node.get("facts").filter(|n| !n.is_null()) {
            for item in r.list(list, "`facts`").unwrap_or_default() {
                if facts.len() >= MAX_FACTS {
                    let message = format!("more than {MAX_FACTS} declared facts");
                    r.error(code::TOO_LARGE, &item.at, message, "declare those that rules use");
                    break;
                }
                declared(r, item, p.context, &mut facts, names);
            }
        }
        if let Some(map) = node.get("reported_within").filter(|n| !n.is_null()) {
            reported(r, map, names);
        }
        if let Some(list) = node.get("calendars").filter(|n| !n.is_null()) {
            calendars(r, names, list, seen);
        }
        if let Some(map) = node.get("sets").filter(|n| !n.is_null()) {
            for (key, value) in r.map(map, "`sets`").unwrap_or_default() {
                let Some(name) = r.name(key, "the set") else { continue };
                if let Some(first) = sets.get(name) {
                    if !p.context {
                        let message = format!("the set `{name}` is defined twice");
                        r.error_also(
                            code::DEFINED_TWICE,
                            &key.at,
                            message,
                            "keep one of the two",
                            (first.clone(), "first here"),
                        );
                    }
                    continue;
                }
                sets.insert(name.to_owned(), r.place(&key.at));
                let items = r.list(value, &format!("the set `{name}`")).unwrap_or_default();
                let members = items.iter().filter_map(|n| member(r, n)).collect();
                names.sets.insert(name.to_owned(), members);
            }
        }
    }
    names.declared.sort_by(|a, b| a.name.cmp(&b.name));
}

/// What only all files together show, once none of them has an error and none is missing.
fn together(parsed: &mut [Parsed], names: &Names, broken: bool) {
    let whole = |p: &Parsed| !p.context && p.faults.is_empty() && !p.reader.has_errors();
    if broken || !parsed.iter().all(whole) {
        return;
    }
    let files = parsed.iter_mut().filter_map(|p| {
        Some(File { policies: is_policies(&p.path), reader: &mut p.reader, node: p.node.as_ref()? })
    });
    let mut files: Vec<File<'_>> = files.collect();
    if files.iter().any(|f| !f.policies) {
        whole::lint(&mut files, names.default_policy.as_deref());
    }
}

/// `reported_within:` how late a milestone's reports may be.
fn reported(r: &mut Reader, node: &Node, names: &mut Names) {
    for (key, value) in r.map(node, "`reported_within`").unwrap_or_default() {
        let Some(milestone) = super::body::milestone(r, key) else { continue };
        if let Some(ms) = r.elapsed(value, &format!("`{}`", milestone.name())) {
            let longest = names.reported.entry(milestone).or_default();
            *longest = ms.max(*longest);
        }
    }
}

fn member(r: &mut Reader, node: &Node) -> Option<super::ruleset::Scalar> {
    if node.value().is_none() && !matches!(node.kind, yaml::Kind::Refused) {
        let message =
            format!("a member of a set has to be a text or number, not {}", super::reader::kind(node));
        r.error(code::WRONG_SHAPE, &node.at, message, "write the members one by one");
    }
    scalar(r, node)
}

fn declared(
    r: &mut Reader,
    node: &Node,
    context: bool,
    facts: &mut BTreeMap<String, Place>,
    names: &mut Names,
) {
    let Some(fields) = r.fields(node, "a declared fact", &keys::names(&keys::FACT)) else { return };
    let Some(name_node) = fields.get("name") else {
        r.missing(&node.at, "a declared fact", "name", "write {name: warehouse_zone, type: text}");
        return;
    };
    let Some(name) = r.text(name_node, "`name`") else { return };
    let part =
        |p: &str| !p.is_empty() && p.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
    if name.len() > 100 || !name.split('.').all(part) || matches!(name, "any_of" | "none_of" | "all_of") {
        let help = "letters, digits and `_`; a dot looks inside an object, as in location.country";
        r.error(code::BAD_ID, &name_node.at, format!("`{}` cannot be the name of a fact", cut(name)), help);
        return;
    }
    if known_fact(name).is_some() || DerivedFact::ALL.iter().any(|f| f.name() == name) {
        let message = format!("the fact `{name}` is known already");
        r.error(code::DEFINED_TWICE, &name_node.at, message, "remove it from `facts:`; rules can use it");
        return;
    }
    if let Some(first) = facts.get(name) {
        if !context {
            let message = format!("the fact `{name}` is declared twice");
            r.error_also(
                code::DEFINED_TWICE,
                &name_node.at,
                message,
                "keep one of the two",
                (first.clone(), "first here"),
            );
        }
        return;
    }
    let kind = fields.get("type").map_or(Some("text"), |n| r.word(n, "type of a fact", &KINDS));
    facts.insert(name.to_owned(), r.place(&name_node.at));
    names.declared.push(DeclaredFact { name: name.to_owned(), kind: kind.unwrap_or("text").to_owned() });
}

fn read_policies(
    parsed: &mut [Parsed],
    names: &mut Names,
    seen: &mut calendar_file::Seen,
) -> Option<Policies> {
    let mut files = parsed.iter_mut().filter(|p| is_policies(&p.path));
    let first = files.next()?;
    let policies = first.node.as_ref().and_then(|n| policy_file(&mut first.reader, names, n, seen));
    if policies.is_none() {
        names.policies_broken = true;
    }
    for other in files.filter(|p| !p.context) {
        let message = "there are two files of policies";
        let mut p = Problem::of_file(other.path.clone(), code::DEFINED_TWICE, message);
        p.help = Some(format!("keep one; the other is {}", first.path.display()));
        other.faults.push(p);
    }
    policies
}

fn read_rules(parsed: &mut [Parsed], names: &Names) -> Vec<Rule> {
    let mut ids = BTreeMap::new();
    let mut rules = Vec::new();
    for p in parsed.iter_mut().filter(|p| !is_policies(&p.path) && !p.context) {
        let (Some(node), r) = (&p.node, &mut p.reader) else { continue };
        top(r, node);
        let Some(list) = node.get("rules").filter(|n| !n.is_null()) else { continue };
        // `rules: []` says that there are none.
        if matches!(&list.kind, yaml::Kind::Seq(items) if items.is_empty()) {
            continue;
        }
        for item in r.list(list, "`rules`").unwrap_or_default() {
            if r.is_full() {
                break;
            }
            rules.extend(rule(r, names, item, &mut ids));
            r.rule = None;
            if ids.len() > MAX_RULES {
                r.error(
                    code::TOO_LARGE,
                    &item.at,
                    format!("more than {MAX_RULES} rules"),
                    "a rule with overrides does the work of many",
                );
                break;
            }
        }
    }
    rules.sort_by(|a, b| a.id.cmp(&b.id));
    rules
}

/// The keys at the top of a file of rules.
fn top(r: &mut Reader, node: &Node) {
    let yaml::Kind::Map(entries) = &node.kind else {
        r.fields(node, "a file of rules", &TOP_KEYS);
        return;
    };
    let mut of_rule = false;
    for (key, value) in entries {
        let name = key.text().unwrap_or_default();
        if TOP_KEYS.contains(&name) {
            if value.is_null() {
                let help = "write something below it, or remove it";
                r.error(code::WRONG_SHAPE, &key.at, format!("`{name}` has no value"), help);
            }
        } else if FILE_KEYS.contains(&name) {
            let message = format!("`{name}` does not belong into a file of rules");
            r.error(code::UNKNOWN_KEY, &key.at, message, "move it to policies.yaml in the same folder");
        } else if RULE_KEYS.contains(&name) {
            // Once is enough: the whole rule stands here.
            if std::mem::replace(&mut of_rule, true) {
                continue;
            }
            let message = format!("`{name}` is the key of a rule, and stands at the top of the file");
            r.error(
                code::UNKNOWN_KEY,
                &key.at,
                message,
                "put the rule into a list: `rules:`, then `  - id: …` below it",
            );
        } else {
            let message = format!("a file of rules has no key `{}`", cut(name));
            r.unknown(code::UNKNOWN_KEY, &key.at, message, name, TOP_KEYS);
        }
    }
}

/// Hashes, and the whole.
fn finish(mut rules: Vec<Rule>, calendars: Vec<super::calendar::Calendar>, names: &Names) -> RuleSet {
    let texts = canon::Calendars::new(&calendars);
    let mut hash = canon::SetHash::new();
    for rule in &mut rules {
        let text = canon::rule(rule, names, &texts);
        rule.hash = Arc::from(canon::hash(&text));
        hash.rule(&text);
    }
    let hash = hash.finish(&names.declared, &texts);
    RuleSet { hash, rules, calendars, declared: names.declared.clone() }
}
