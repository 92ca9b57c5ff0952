//! Tries each template on all that can happen, before it is in force.
//!
//! Three looks, since a template says what it needs in three ways: names that stand in it, whether reached or not; each sample
//! rendered, strictly; and the names it asked for meanwhile that no message has, even where a default hid it.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;

use minijinja::UndefinedBehavior;

use super::context::Shape;
use super::samples::{Sample, samples};
use super::{Fault, Form, Template, filters};
use crate::model::{DerivedFact, FactRef};
use crate::rules::names::Names;
use crate::rules::policies::Policies;
use crate::rules::problem::{Level, Place, Problem, code, did_you_mean, suggest};
use crate::rules::ruleset::{Matcher, Rule};

/// What the engine itself looks up among a message's names.
const OF_ENGINE: [&str; 10] =
    ["range", "dict", "namespace", "loop", "caller", "self", "super", "varargs", "kwargs", "debug"];
/// What groups of messages about feeds are made of.
const OF_FEEDS: [&str; 2] = ["source", "lane"];

/// What is wrong with the templates of all receivers. `rules`: all there are; none where not all could be read.
pub(in crate::rules) fn problems(policies: &Policies, rules: &[Rule], names: &Names) -> Vec<Problem> {
    let grouped: BTreeSet<&str> =
        policies.policies.iter().flat_map(|p| &p.group_by).map(String::as_str).chain(OF_FEEDS).collect();
    let known =
        Known { grouped: grouped.into_iter().collect(), carried: carried(policies, rules, names), names };
    let (mut all, mut seen): (Vec<Problem>, BTreeSet<(PathBuf, &str)>) = Default::default();
    for receiver in policies.receivers.iter().filter(|r| r.templates.iter().next().is_some()) {
        let samples = samples(&receiver.id, &known.grouped);
        for template in receiver.templates.iter() {
            // Several receivers may name one file, which seldom asks for whom it is.
            let again = !seen.insert((template.source.path.clone(), template.form.key()));
            if again && !template.source.text.contains("receiver") {
                continue;
            }
            for problem in one(template, &samples, &known) {
                let same = |p: &Problem| p.location() == problem.location() && p.message == problem.message;
                if !all.iter().any(same) {
                    all.push(problem);
                }
            }
        }
    }
    all
}

struct Known<'a> {
    /// Names that groups have.
    grouped: Vec<&'a str>,
    /// Facts that messages carry; `None`: not known.
    carried: Option<BTreeSet<String>>,
    names: &'a Names,
}

/// The facts that messages of any rule carry: what its matchers and its policy name.
fn carried(policies: &Policies, rules: &[Rule], names: &Names) -> Option<BTreeSet<String>> {
    fn walk(names: &Names, matcher: &Matcher, all: &mut BTreeSet<String>) {
        match matcher {
            Matcher::All(list) | Matcher::Any(list) | Matcher::None(list) => {
                list.iter().for_each(|m| walk(names, m, all));
            }
            Matcher::Fact(fact, _) => {
                all.insert(names.fact_name(*fact).to_owned());
            }
        }
    }
    if rules.is_empty() {
        return None;
    }
    let of_policies = policies.policies.iter().flat_map(|p| p.group_by.iter().chain(&p.show));
    let mut all: BTreeSet<String> = of_policies.cloned().collect();
    for rule in rules {
        let bodies = rule.bodies.iter().flat_map(|b| b.while_.iter().chain(&b.unless));
        for matcher in std::iter::once(&rule.scope).chain(&rule.overrides).chain(bodies) {
            walk(names, matcher, &mut all);
        }
    }
    Some(all)
}

fn one(template: &Template, samples: &[Sample], known: &Known<'_>) -> Vec<Problem> {
    let contexts = || samples.iter().map(|s| &s.context);
    let mut made = match template.render_all(contexts(), UndefinedBehavior::Strict) {
        Ok(made) => made,
        Err(fault) => return vec![of_fault(template, &fault, None)],
    };
    // A name that is not there ends a text; filters that do not exist show where that is overlooked.
    if made.iter().any(|m| m.as_ref().is_err_and(|fault| fault.undefined))
        && let Ok(further) = template.render_all(contexts(), UndefinedBehavior::Chainable)
    {
        for (made, further) in made.iter_mut().zip(further) {
            // All else may come of the name.
            if further.as_ref().is_err_and(|fault| fault.message.ends_with(" is unknown")) {
                *made = further;
            }
        }
    }
    let mut unknown = undeclared(template);
    for context in contexts() {
        unknown.extend(context.asked().into_iter().filter(|(_, name)| !OF_ENGINE.contains(&name.as_str())));
    }
    let mut found: Vec<Problem> =
        unknown.iter().filter_map(|(shape, name)| of_name(template, *shape, name, known)).collect();
    let told = found.iter().any(|p| p.level == Level::Error);
    let mut failed = made.into_iter().zip(samples).filter_map(|(made, sample)| Some((made.err()?, sample)));
    // What is wrong with a name is said once; all else is said of the first message that shows it.
    if let Some((fault, sample)) = failed.find(|(fault, _)| !(fault.undefined && told)) {
        found.push(of_fault(template, &fault, Some(&sample.what)));
    }
    found.extend((template.form == Form::Html).then(|| outside(template)).flatten());
    found
}

/// Names that stand in it and that no message has, where they can be told without rendering.
fn undeclared(template: &Template) -> BTreeSet<(Shape, String)> {
    let root = if template.form == Form::Subject { Shape::SubjectRoot } else { Shape::Root };
    let mut unknown = BTreeSet::new();
    for path in template.names() {
        let mut shape = root;
        for name in path.split('.') {
            let known = shape.names();
            if known.is_empty() || (shape == root && OF_ENGINE.contains(&name)) {
                break;
            }
            if !known.contains(&name) {
                unknown.insert((shape, name.to_owned()));
                break;
            }
            // Lists have no names; their entries do, and those are known by rendering.
            if matches!(name, "exceptions" | "summary") {
                break;
            }
            shape = shape.under(name);
        }
    }
    unknown
}

fn of_name(template: &Template, shape: Shape, name: &str, known: &Known<'_>) -> Option<Problem> {
    let at = find(&template.source.text, name);
    let error = |code, message: String, help: Option<String>| {
        let mut p = problem(template, at.clone(), code, message);
        p.help = help;
        Some(p)
    };
    match shape {
        Shape::Free => None,
        Shape::Facts => {
            if known.names.fact(name).is_none() {
                let help = did_you_mean(name, known.names.facts()).unwrap_or_else(|| {
                    format!("declare it in a file of rules: `facts: [{{name: {name}, type: text}}]`")
                });
                return error(code::UNKNOWN_FACT, format!("there is no fact `{name}`"), Some(help));
            }
            never_shown(template, name, at, known)
        }
        Shape::Group => {
            if known.grouped.contains(&name) {
                return None;
            }
            let help = did_you_mean(name, known.grouped.iter().copied()).unwrap_or_else(|| {
                format!("its names are those of `group_by`: {}", known.grouped.join(", "))
            });
            error(code::UNKNOWN_NAME, format!("no policy groups by `{name}`"), Some(help))
        }
        Shape::SubjectRoot | Shape::SubjectData => {
            let of_text = if shape == Shape::SubjectRoot { Shape::Root } else { Shape::Data };
            if of_text.names().contains(&name) {
                let help = "a mail's subject is the same for all messages of its thread, so it may say: subject, data.receiver, \
                            data.policy, data.group_id, data.group";
                let message = format!("a subject does not know `{name}`");
                return error(code::UNKNOWN_NAME, message, Some(help.to_owned()));
            }
            let deeper = shape == Shape::SubjectRoot && Shape::SubjectData.names().contains(&name);
            let help =
                if deeper { Some(in_data(name)) } else { suggest(name, shape.names().iter().copied()) };
            error(code::UNKNOWN_NAME, unknown(shape, name), help)
        }
        shape => {
            let deeper = shape == Shape::Root && Shape::Data.names().contains(&name);
            let all = format!("its names are: {}", shape.names().join(", "));
            let help = deeper
                .then(|| in_data(name))
                .or_else(|| did_you_mean(name, shape.names().iter().copied()))
                .unwrap_or(all);
            error(code::UNKNOWN_NAME, unknown(shape, name), Some(help))
        }
    }
}

/// What stands one deeper is often asked for at the top.
fn in_data(name: &str) -> String {
    format!("it stands in `data`: data.{name}")
}

fn unknown(shape: Shape, name: &str) -> String {
    match shape {
        Shape::Root | Shape::SubjectRoot => format!("there is no `{name}`"),
        Shape::Exception => format!("an exception has no `{name}`"),
        Shape::Last => format!("a parcel's last milestone has no `{name}`"),
        Shape::Data | Shape::SubjectData => format!("`data` has no `{name}`"),
        Shape::Counts => format!("`data.counts` has no `{name}`"),
        Shape::Digest => format!("`data.digest` has no `{name}`"),
        Shape::Feed => format!("`data.feed` has no `{name}`"),
        Shape::Link => format!("a link has no `{name}`"),
        Shape::Group | Shape::Facts | Shape::Free => format!("there is no `{name}` here"),
    }
}

/// A fact that is known to the rules, and of which no message tells.
fn never_shown(
    template: &Template,
    name: &str,
    at: Option<Range<usize>>,
    known: &Known<'_>,
) -> Option<Problem> {
    let carried = known.carried.as_ref()?;
    if carried.contains(name) {
        return None;
    }
    let derived =
        matches!(known.names.fact(name), Some(FactRef::Derived(f)) if DerivedFact::ALL.contains(&f));
    let what = if derived { "derived fact" } else { "fact" };
    let mut p = problem(
        template,
        at,
        code::NEVER_SHOWN,
        format!("no message carries the {what} `{name}`: it is always empty"),
    );
    p.level = Level::Lint;
    p.help = Some(format!("name it in the policy: `show: [{name}]`"));
    Some(p)
}

/// `what`: the message that it fails for; `None`: it is no template at all.
fn of_fault(template: &Template, fault: &Fault, what: Option<&str>) -> Problem {
    let text = &template.source.text;
    let of_line = |line: usize| {
        let start: usize = text.split_inclusive('\n').take(line.saturating_sub(1)).map(str::len).sum();
        start..text[start..].find('\n').map_or(text.len(), |n| start + n)
    };
    let at = fault.at.clone().or_else(|| fault.place.map(|(line, _)| of_line(line)));
    let message = what.map_or_else(|| fault.message.clone(), |what| format!("{}, in {what}", fault.message));
    let mut p = problem(template, at, code::BAD_TEMPLATE, message);
    p.help = Some(remedy(fault, what.is_some()));
    p
}

/// `runs`: it is a template, and fails for some message.
fn remedy(fault: &Fault, runs: bool) -> String {
    let says = |what: &str| fault.message.contains(what);
    if ["include", "import", "extends", "block"].iter().any(|s| says(&format!("unknown statement {s}"))) {
        return "a template stands for itself and takes nothing from other files; write the text here"
            .to_owned();
    }
    if let Some(name) = fault.message.strip_prefix("filter ").and_then(|m| m.split_whitespace().next()) {
        if name == "safe" {
            return "what a message holds is always escaped; remove the filter".to_owned();
        }
        return did_you_mean(name, filters::NAMES)
            .unwrap_or_else(|| format!("among the filters are: {}", filters::NAMES.join(", ")));
    }
    if fault.undefined {
        return "look at what there is: `parcelwatch notify preview EXCEPTION_ID --format json`; `{{ x | default(\"-\") }}` says what \
                to write where there is nothing"
            .to_owned();
    }
    if says("too long") || says("more than") {
        return "a message of 100 exceptions has to fit; say less of each".to_owned();
    }
    if says("empty text") {
        return "say something in every case, as with `{% else %}`".to_owned();
    }
    if runs {
        return "ask first whether it can be, as in `{% if data.counts.open %}…{% endif %}`; `parcelwatch notify preview` shows what \
                messages hold"
            .to_owned();
    }
    "templates are written as Jinja's: {{ data.policy }}, {% for e in data.exceptions %}{{ e.parcel_id }}{% endfor %}, {% if ack %}…{% \
     endif %}"
        .to_owned()
}

/// Whether a mail of this HTML asks other servers for anything: who reads it would be told of.
fn outside(template: &Template) -> Option<Problem> {
    const SIGNS: [&str; 11] = [
        "<script",
        "<link",
        "<iframe",
        "<object",
        "<embed",
        "<base",
        "@import",
        "src=\"http",
        "src='http",
        "url(http",
        "src=\"//",
    ];
    let text = template.source.text.to_ascii_lowercase();
    let (at, sign) = SIGNS.iter().filter_map(|s| Some((text.find(s)?, *s))).min()?;
    let message = "this would load something from outside, or run it";
    let mut p = problem(template, Some(at..at + sign.len()), code::LOADS_FROM_OUTSIDE, message.to_owned());
    p.level = Level::Lint;
    p.help = Some("mail readers block it, and it tells others who reads the mail; write styles in place, leave pictures out".to_owned());
    Some(p)
}

fn problem(template: &Template, at: Option<Range<usize>>, code: &'static str, message: String) -> Problem {
    let mut p = Problem::of_file(template.source.path.clone(), code, message);
    p.place = at.map(|at| Place::new(&Arc::clone(&template.source), at));
    p
}

/// Where a name stands: behind a dot, in quotes, else as a word.
fn find(text: &str, name: &str) -> Option<Range<usize>> {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let places = text.match_indices(name).filter(|(i, _)| {
        let before = text[..*i].chars().next_back();
        let after = text[i + name.len()..].chars().next();
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    });
    let behind = |c: &str| places.clone().find(|(i, _)| text[..*i].ends_with(c));
    let at = behind(".").or_else(|| behind("\"")).or_else(|| behind("'")).or_else(|| places.clone().next());
    at.map(|(i, _)| i..i + name.len())
}
