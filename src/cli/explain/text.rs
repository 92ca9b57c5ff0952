//! An explanation for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde_json::Value;

/// The whole of it.
pub fn text(explained: &Value) -> String {
    let parcel = &explained["parcel"];
    let mut out = format!("Parcel {}", of(&parcel["parcel_id"]));
    if explained["forgotten"] == true {
        out += ": forgotten since; this is what was kept with its exceptions\n";
    } else {
        let ended = if parcel["terminal"] == true { ", ended" } else { "" };
        let _ = writeln!(out, "{ended}; everything told by {} is known", of(&explained["watermark"]));
    }
    timeline(parcel, &mut out);
    facts(explained, &mut out);
    rules(explained, &mut out);
    changes(explained, &mut out);
    exceptions(explained, &mut out);
    out
}

/// A text as it is, anything else as JSON.
fn of(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

fn each(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn timeline(parcel: &Value, out: &mut String) {
    *out += "\nWhat happened\n";
    for o in each(&parcel["occurrences"]) {
        let mut line = format!("  {}  {}", of(&o["event_time"]), of(&o["milestone"]));
        if let Some(class) = o["evidence_class"].as_str() {
            let _ = write!(line, " ({class})");
        }
        if let Some(facility) = o["facility"].as_str() {
            let _ = write!(line, " at {facility}");
        }
        if o["append_time"] != o["event_time"] {
            let _ = write!(line, ", told {}", of(&o["append_time"]));
        }
        if o["future"] == true {
            line += ", with a time in the future";
        }
        *out += &line;
        out.push('\n');
    }
    for h in each(&parcel["holds"]) {
        let end = match h["closed"].as_str() {
            Some(closed) => format!("closed {closed}"),
            None => "open".to_owned(),
        };
        let id = h["id"].as_str().unwrap_or("without an id");
        let _ = writeln!(out, "  {}  hold {id}, {}: {end}", of(&h["opened"]), of(&h["reason"]));
    }
}

fn facts(explained: &Value, out: &mut String) {
    *out += "\nWhat is known\n";
    for (name, value) in explained["parcel"]["facts"].as_object().into_iter().flatten() {
        let told = &explained["facts_told"][name]["event_time"];
        let since = told.as_str().map_or_else(String::new, |t| format!("  (as of {t})"));
        let _ = writeln!(out, "  {name}: {}{since}", of(value));
    }
}

/// What is owed first, then what was met, then what does not concern it: those in one line.
fn rules(explained: &Value, out: &mut String) {
    let mut aside: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    let all: Vec<&Value> = each(&explained["rules"]).filter(|r| r["rule"].is_string()).collect();
    if all.is_empty() {
        return;
    }
    *out += "\nWhat the rules make of it\n";
    let order = ["reached", "waits", "condition", "satisfied", "expired", "terminal"];
    for verdict in order {
        for rule in all.iter().filter(|r| r["verdict"] == verdict) {
            one(rule, verdict, out);
        }
    }
    for rule in all.iter().filter(|r| !order.iter().any(|v| r["verdict"] == *v)) {
        if all.len() <= 3 {
            one(rule, rule["verdict"].as_str().unwrap_or_default(), out);
        } else {
            aside.entry(rule["verdict"].as_str().unwrap_or_default()).or_default().push(of(&rule["rule"]));
        }
    }
    for (verdict, rules) in aside {
        let _ = writeln!(out, "  {}: {}", word(verdict), rules.join(", "));
    }
}

fn word(verdict: &str) -> &str {
    match verdict {
        "reached" => "OWED",
        "waits" => "waits",
        "condition" => "stands still",
        "satisfied" => "met",
        "expired" => "expired",
        "terminal" => "ended",
        "no_anchor" => "not begun",
        "not_effective" => "not in effect for it",
        "out_of_scope" => "not in scope",
        other => other,
    }
}

fn one(rule: &Value, verdict: &str, out: &mut String) {
    let shadow = if rule["shadow"] == true { " (shadow: nobody is told)" } else { "" };
    let _ = writeln!(out, "  {}: {}, {}{shadow}", word(verdict), of(&rule["rule"]), of(&rule["title"]));
    if let Some(anchor) = rule["anchor"].as_str() {
        let _ = writeln!(out, "      its clock counts from {anchor}");
    }
    if let Some(n) = rule["override"].as_u64() {
        let _ = writeln!(out, "      its override {n} is in force");
    }
    for because in each(&rule["because"]) {
        let _ = writeln!(out, "      {}", of(because));
    }
    if matches!(verdict, "reached" | "waits") {
        for (n, stage) in each(&rule["stages"]).enumerate() {
            let (due, fires) = (of(&stage["due"]), of(&stage["fires"]));
            let later = if due == fires { String::new() } else { format!(", fires {fires}") };
            let _ = writeln!(out, "      stage {}, {}: due {due}{later}", n + 1, of(&stage["severity"]));
        }
    }
}

fn changes(explained: &Value, out: &mut String) {
    if explained["changes"].as_array().is_none_or(Vec::is_empty) {
        return;
    }
    *out += "\nWhat was decided\n";
    for c in each(&explained["changes"]) {
        let how = c["resolution"].as_str().or(c["severity"].as_str()).unwrap_or_default();
        let _ = writeln!(out, "  {}  {} {} ({how})", of(&c["at"]), of(&c["rule"]), of(&c["change"]));
    }
}

fn exceptions(explained: &Value, out: &mut String) {
    if explained["exceptions"].as_array().is_none_or(Vec::is_empty) {
        return;
    }
    *out += "\nIts exceptions, and who was told\n";
    for e in each(&explained["exceptions"]) {
        let hash = of(&e["rule_hash"]);
        let version = hash.get(..12).unwrap_or(&hash);
        let _ = writeln!(
            out,
            "  {} {} (rule as of {version}), {}",
            of(&e["rule"]),
            of(&e["episode"]),
            of(&e["state"])
        );
        for c in each(&e["changes"]) {
            let how = c["resolution"].as_str().or(c["severity"].as_str()).unwrap_or_default();
            let _ = writeln!(out, "      {}  {} ({how})", of(&c["at"]), of(&c["change"]));
        }
        for n in each(&e["told"]) {
            let to = match n["recipient"].as_str().unwrap_or_default() {
                "" => of(&n["receiver"]),
                recipient => format!("{} <{recipient}>", of(&n["receiver"])),
            };
            let _ = writeln!(
                out,
                "      {}  {to}: {}, {}",
                of(&n["created_at"]),
                of(&n["reason"]),
                of(&n["state"])
            );
        }
        for a in each(&e["actions"]) {
            let by = a.get("by").or(a.get("actor")).map(of).unwrap_or_default();
            let _ = writeln!(out, "      {}  {} by {by}", of(&a["at"]), of(&a["action"]));
        }
        for u in each(&e["unsent"]) {
            let _ = writeln!(out, "      {}  not told: {}", of(&u["at"]), of(&u["reason"]));
        }
    }
}
