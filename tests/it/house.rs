//! The house rules of DESIGN §9.1: who may name whom, which outside crate belongs to whom, and what the pure layers must
//! not hold. The sources are read as text, comments and literals left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Layers that have no IO, no clock, no randomness, no floats and no order of a hash (DESIGN §9.1).
const PURE: [&str; 4] = ["model", "rules", "engine", "escalation"];

/// A module and the modules it may name.
const MAY_NAME: [(&str, &[&str]); 16] = [
    ("model", &[]),
    ("yaml", &["model"]),
    ("log", &[]),
    ("metrics", &["model"]),
    ("rules", &["model", "yaml"]),
    ("engine", &["model", "rules"]),
    ("escalation", &["model", "rules"]),
    ("config", &["model", "rules", "yaml", "http", "log"]),
    ("cases", &["model", "rules", "engine", "escalation", "metrics"]),
    ("snapshots", &["model", "engine", "metrics"]),
    ("source", &["model", "metrics"]),
    ("notify", &["model", "rules", "metrics"]),
    ("http", &["model", "rules", "notify", "metrics"]),
    ("testing", &["model", "yaml", "rules", "engine", "escalation", "source", "cases"]),
    ("runtime", EVERYTHING),
    ("cli", EVERYTHING),
];

const EVERYTHING: &[&str] = &[
    "model",
    "yaml",
    "log",
    "metrics",
    "rules",
    "engine",
    "escalation",
    "config",
    "cases",
    "snapshots",
    "source",
    "notify",
    "http",
    "testing",
    "runtime",
    "cli",
];

/// An outside crate and the modules (or files) that alone may name it. `*`: plumbing that anybody may use who is not pure.
const OWNERS: [(&str, &[&str]); 43] = [
    ("tokio", &["cases", "snapshots", "source/kafka", "notify", "http", "runtime", "cli", "main"]),
    ("rdkafka", &["source/kafka", "source/kafka_mock", "runtime/mock", "cli/demo"]),
    ("serde", &["*", "rules", "escalation"]),
    ("serde_json", &["*", "model", "rules", "engine", "escalation"]),
    ("serde_yaml", &["config"]),
    ("granit_parser", &["yaml"]),
    ("chrono", &["rules/calendar"]),
    ("chrono_tz", &["rules/calendar"]),
    ("crossbeam_channel", &["source", "runtime"]),
    ("prometheus", &["metrics"]),
    ("tracing", &["*"]),
    ("tracing_subscriber", &["log"]),
    ("sd_notify", &["runtime"]),
    ("lettre", &["notify/email"]),
    ("reqwest", &["notify/webhook", "notify/egress", "cli/client"]),
    ("rustls", &["notify", "snapshots", "runtime", "cli", "main"]),
    ("hmac", &["notify", "cli/demo"]),
    ("sha2", &["*", "model", "rules", "escalation"]),
    ("base64", &["notify", "http", "cli/demo"]),
    ("ipnet", &["notify", "config"]),
    ("url", &["notify", "snapshots", "rules", "config", "cases"]),
    ("getrandom", &["cases", "notify", "runtime", "snapshots", "cli/demo"]),
    ("axum", &["http"]),
    ("maud", &["http", "notify", "cli/backtest"]),
    ("minijinja", &["rules/template"]),
    ("sqlx", &["cases"]),
    ("object_store", &["snapshots"]),
    ("zstd", &["snapshots", "source"]),
    ("flate2", &["source"]),
    ("futures_util", &["*"]),
    ("bytes", &["*"]),
    ("hashbrown", &["engine"]),
    ("xxhash_rust", &["engine", "snapshots"]),
    ("memchr", &["source"]),
    ("mimalloc", &["main"]),
    ("clap", &["cli", "main"]),
    ("annotate_snippets", &["rules/problem"]),
    ("strsim", &["rules"]),
    ("indicatif", &["cli"]),
    ("thiserror", &["*", "model", "rules", "engine", "escalation"]),
    ("anyhow", &["cli", "runtime", "main"]),
    ("libc", &["runtime", "cli"]),
    ("regex_lite", &["cli"]),
];

/// What no pure layer holds.
const BANNED: [&str; 17] = [
    "tokio",
    "tracing",
    "SystemTime",
    "Instant",
    "rand",
    "getrandom",
    "HashMap",
    "HashSet",
    "RandomState",
    "DefaultHasher",
    "async",
    "await",
    "f32",
    "f64",
    "println",
    "eprintln",
    "unsafe",
];

/// Nor these parts of the standard library.
const BANNED_PATHS: [&str; 6] = ["std::env", "std::fs", "std::net", "std::thread", "std::io", "std::process"];

/// Lines of a file before its tests.
const MAX_LINES: usize = 600;
/// Files that are longer for now, and how long they may be. A file that has shrunk has no place here.
const LONG: [(&str, usize); 0] = [];

struct Source {
    /// From the crate's root, with `/`.
    path: String,
    /// Without comments, literals and unit tests.
    code: String,
    lines: usize,
}

impl Source {
    /// The module it belongs to: `engine` of `src/engine/pack.rs`.
    fn module(&self) -> &str {
        let inside = self.path.trim_start_matches("src/");
        inside.split('/').next().unwrap_or_default().trim_end_matches(".rs")
    }

    fn is_test(&self) -> bool {
        let name = self.path.rsplit('/').next().unwrap_or_default();
        name == "tests.rs" || name.ends_with("_tests.rs")
    }

    /// `ident` in `crate::ident`.
    fn crate_paths(&self) -> BTreeSet<String> {
        let mut found = BTreeSet::new();
        for (at, _) in self.code.match_indices("crate::") {
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                // `use crate::{a, b::c}`: each first name at the outer level.
                Some(group) => {
                    let mut depth = 0;
                    for piece in group.split_inclusive([',', '{', '}']) {
                        if depth == 0 {
                            found.extend(first_word(piece.trim()));
                        }
                        depth += i32::from(piece.ends_with('{')) - i32::from(piece.ends_with('}'));
                        if depth < 0 {
                            break;
                        }
                    }
                }
                None => found.extend(first_word(rest)),
            }
        }
        found.remove("Self");
        found
    }
}

fn first_word(text: &str) -> Option<String> {
    let word: String = text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!word.is_empty()).then_some(word)
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(folder: &Path, out: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> =
        std::fs::read_dir(folder).expect("a folder").map(|e| e.expect("an entry").path()).collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, out);
        } else if path.extension().is_some_and(|e| e == "rs") {
            out.push(path);
        }
    }
}

fn sources(folder: &str) -> Vec<Source> {
    let mut files = Vec::new();
    rust_files(&root().join(folder), &mut files);
    files
        .iter()
        .map(|file| {
            let text = std::fs::read_to_string(file).expect("UTF-8");
            let path = file.strip_prefix(root()).expect("inside").to_string_lossy().replace('\\', "/");
            let before = text.split("\n#[cfg(test)]\nmod ").next().unwrap_or_default();
            Source { path, code: without_comments_and_literals(before), lines: before.lines().count() }
        })
        .collect()
}

/// Rust's text with comments and the insides of literals taken out.
fn without_comments_and_literals(text: &str) -> String {
    let b: Vec<char> = text.chars().collect();
    let at = |i: usize| b.get(i).copied().unwrap_or('\0');
    let (mut out, mut i) = (String::new(), 0);
    while i < b.len() {
        let word_before = i > 0 && (b[i - 1].is_alphanumeric() || b[i - 1] == '_');
        match (b[i], at(i + 1)) {
            ('/', '/') => {
                while i < b.len() && b[i] != '\n' {
                    i += 1;
                }
            }
            ('/', '*') => {
                let mut depth = 0;
                loop {
                    match (at(i), at(i + 1)) {
                        ('/', '*') => (depth, i) = (depth + 1, i + 2),
                        ('*', '/') => (depth, i) = (depth - 1, i + 2),
                        _ => i += 1,
                    }
                    if depth == 0 || i >= b.len() {
                        break;
                    }
                }
            }
            ('r', '"' | '#') if !word_before || at(i.wrapping_sub(1)) == 'b' => {
                let hashes = b[i + 1..].iter().take_while(|c| **c == '#').count();
                if at(i + 1 + hashes) != '"' {
                    out.push('r');
                    i += 1;
                    continue;
                }
                i += hashes + 2;
                while i < b.len()
                    && !(b[i] == '"'
                        && b[i + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes)
                {
                    i += 1;
                }
                i += hashes + 1;
                out.push_str("\"\"");
            }
            ('"', _) => {
                i += 1;
                while i < b.len() && b[i] != '"' {
                    i += if b[i] == '\\' { 2 } else { 1 };
                }
                i += 1;
                out.push_str("\"\"");
            }
            ('\'', '\\') => {
                i += 3;
                while i < b.len() && b[i] != '\'' {
                    i += 1;
                }
                i += 1;
            }
            ('\'', _) if at(i + 2) == '\'' => i += 3,
            (c, _) => {
                out.push(c);
                i += 1;
            }
        }
    }
    out
}

fn words(code: &str) -> BTreeSet<&str> {
    code.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect()
}

/// Whether the code has a path that begins with this crate.
fn names_crate(code: &str, name: &str) -> bool {
    let begins = |at: usize| {
        let before = code[..at].chars().next_back().unwrap_or(' ');
        !(before.is_alphanumeric() || before == '_' || before == ':')
    };
    let path = format!("{name}::");
    code.match_indices(&path).any(|(at, _)| begins(at)) || code.contains(&format!("use {name};"))
}

fn dependencies() -> BTreeSet<String> {
    let text = std::fs::read_to_string(root().join("Cargo.toml")).expect("Cargo.toml");
    let section =
        text.split("[dependencies]").nth(1).and_then(|s| s.split("\n[").next()).expect("dependencies");
    let names = section.lines().filter(|l| !l.starts_with('#')).filter_map(|l| l.split_once(" = "));
    names.map(|(name, _)| name.trim().replace('-', "_")).collect()
}

#[test]
fn modules_name_only_those_below_them() {
    let table: BTreeMap<&str, &[&str]> = MAY_NAME.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| s.path != "src/lib.rs" && s.path != "src/main.rs") {
        let module = source.module();
        let Some(allowed) = table.get(module) else {
            wrong.push(format!("{}: module `{module}` has no line in the table", source.path));
            continue;
        };
        for named in source.crate_paths() {
            let is_module = table.contains_key(named.as_str());
            if is_module && named != module && !allowed.contains(&named.as_str()) && !source.is_test() {
                wrong.push(format!("{}: `{module}` names `{named}`", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_module_of_the_library_is_in_the_table() {
    let lib = std::fs::read_to_string(root().join("src/lib.rs")).expect("lib.rs");
    let declared: BTreeSet<&str> =
        lib.lines().filter_map(|l| l.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    let table: BTreeSet<&str> = MAY_NAME.iter().map(|(m, _)| *m).collect();
    assert_eq!(declared, table);
    for module in declared {
        let (file, folder) = (format!("src/{module}.rs"), format!("src/{module}/mod.rs"));
        let there = [file, folder].iter().any(|f| root().join(f).is_file());
        assert!(there, "module `{module}` has no file");
    }
}

#[test]
fn outside_crates_belong_to_their_modules() {
    let table: BTreeMap<&str, &[&str]> = OWNERS.into_iter().collect();
    let listed: BTreeSet<String> = OWNERS.iter().map(|(c, _)| (*c).to_owned()).collect();
    assert_eq!(dependencies(), listed, "left are Cargo.toml's dependencies, right the table's");
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| !s.is_test()) {
        let inside = source.path.trim_start_matches("src/").trim_end_matches(".rs");
        for (name, owners) in &table {
            let own = |o: &&str| {
                inside == *o
                    || inside.starts_with(&format!("{o}/"))
                    || (*o == "*" && !PURE.contains(&source.module()))
            };
            if names_crate(&source.code, name) && !owners.iter().any(own) {
                wrong.push(format!("{}: names `{name}`, which belongs to {owners:?}", source.path));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn pure_layers_have_no_clock_no_io_and_no_chance() {
    let mut wrong = Vec::new();
    for source in sources("src").iter().filter(|s| PURE.contains(&s.module())) {
        let words = words(&source.code);
        let words = BANNED.into_iter().filter(|b| words.contains(b));
        let paths = BANNED_PATHS.into_iter().filter(|b| source.code.contains(b));
        wrong.extend(words.chain(paths).map(|banned| format!("{}: `{banned}`", source.path)));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn files_are_short_and_nothing_is_left_undone() {
    let limits: BTreeMap<&str, usize> = LONG.into_iter().collect();
    let mut wrong = Vec::new();
    for source in sources("src") {
        let limit = limits.get(source.path.as_str()).copied();
        if source.lines > limit.unwrap_or(MAX_LINES) {
            wrong.push(format!("{}: {} lines before its tests", source.path, source.lines));
        }
        if limit.is_some() && source.lines <= MAX_LINES {
            wrong.push(format!("{}: short by now, take it off the list", source.path));
        }
        for undone in ["todo!", "unimplemented!", "dbg!"] {
            if source.code.contains(undone) {
                wrong.push(format!("{}: `{undone}`", source.path));
            }
        }
    }
    for source in sources("src").iter().chain(&sources("tests")) {
        if source.code.contains("#[ignore") {
            wrong.push(format!("{}: an ignored test", source.path));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_reader_of_sources_sees_code_alone() {
    let text = "use a::b; // tokio::x\n/* rand /* nested */ */ let s = \"crate::http\"; let r = r#\"f64 \" \"#; 'a: loop {} '\"'; x\n";
    let code = without_comments_and_literals(text);
    for gone in ["tokio", "rand", "nested", "http", "f64"] {
        assert!(!code.contains(gone), "{gone} in {code}");
    }
    assert!(code.contains("use a::b;") && code.contains("'a: loop") && code.ends_with("; x\n"), "{code}");
    let source = Source {
        path: "src/http/api.rs".into(),
        code: "use crate::{model::{A, B}, rules}; crate::log::x".into(),
        lines: 1,
    };
    assert_eq!(source.crate_paths().into_iter().collect::<Vec<_>>(), ["log", "model", "rules"]);
}
