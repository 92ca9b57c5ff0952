//! Tests of rules: files of tests with what is said about them, and what coverage and mutants find.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parcelwatch::cli::check;
use parcelwatch::cli::test::{Done, Format, Suite, human, run_suite, suites, write};
use parcelwatch::config;
use parcelwatch::rules::{SourceFile, compile};
use parcelwatch::testing::coverage::Coverage;
use parcelwatch::testing::file::{Known, parse};
use parcelwatch::testing::judge::judge;
use parcelwatch::testing::mutate::{Outcome, mutate};
use parcelwatch::testing::run::run;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/tests")
}

/// The files of tests in a folder of the corpus.
fn corpus(folder: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(root().join(folder)).unwrap();
    let mut files: Vec<PathBuf> = entries.map(|e| e.unwrap().path()).collect();
    files.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    assert!(!files.is_empty(), "{folder}");
    files
}

/// The rules of the corpus with files of tests, named without their folders.
fn suite(paths: &[PathBuf]) -> Result<Suite, String> {
    let files = config::read_rules(&root()).unwrap();
    let loaded = compile(&files);
    let said: String = loaded.problems.iter().map(|p| p.render(false)).collect();
    assert_eq!(said, "");
    let (rules, policies) = (loaded.rules.unwrap(), loaded.policies.unwrap());
    let (mut tests, mut said) = (Vec::new(), String::new());
    for path in paths {
        let read = config::read_file(path.clone(), false);
        let file = SourceFile { path: path.file_name().unwrap().into(), ..read };
        let (read, problems) = parse(&file, Known { rules: &rules, policies: &policies });
        tests.extend(read);
        said.extend(problems.iter().map(|p| p.render(false) + "\n\n"));
    }
    if !said.is_empty() {
        return Err(said);
    }
    let files =
        files.into_iter().map(|f| SourceFile { path: f.path.file_name().unwrap().into(), ..f }).collect();
    Ok(Suite { dir: "rules".into(), files, rules: Arc::new(rules), policies, tests })
}

fn lines(suite: &Suite) -> (usize, String) {
    let done = run_suite(suite, None);
    let all: Vec<&Done<'_>> = done.iter().collect();
    let mut out = Vec::new();
    human(&mut out, &all, false, Duration::ZERO).unwrap();
    let failed = done.iter().filter(|d| !d.verdict.faults.is_empty()).count();
    (failed, String::from_utf8(out).unwrap())
}

/// Compares what is said with the file beside; `UPDATE_EXPECT=1` writes it anew.
fn beside(path: &Path, said: &str, wrong: &mut Vec<String>) {
    let beside = path.with_extension("txt");
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&beside, said).unwrap();
    } else if std::fs::read_to_string(&beside).unwrap_or_default() != said {
        wrong.push(format!("{} says:\n{said}", path.display()));
    }
}

#[test]
fn tests_that_are_right_pass() {
    for path in corpus("passes") {
        let suite = suite(std::slice::from_ref(&path)).unwrap_or_else(|said| panic!("{said}"));
        let (failed, said) = lines(&suite);
        assert_eq!(failed, 0, "{said}");
    }
}

#[test]
fn tests_that_are_wrong_fail_with_the_difference() {
    let mut wrong = Vec::new();
    for path in corpus("fails") {
        let suite = suite(std::slice::from_ref(&path)).unwrap_or_else(|said| panic!("{said}"));
        let (failed, said) = lines(&suite);
        assert_eq!(failed, suite.tests[0].tests.len(), "a test passes:\n{said}");
        beside(&path, &said, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}UPDATE_EXPECT=1 accepts this", wrong.join("\n"));
}

#[test]
fn files_that_cannot_be_used_are_told_why() {
    let mut wrong = Vec::new();
    for path in corpus("bad") {
        let said = match suite(std::slice::from_ref(&path)) {
            Err(said) => said,
            Ok(_) => panic!("{} is taken", path.display()),
        };
        beside(&path, &said, &mut wrong);
    }
    assert!(wrong.is_empty(), "{}UPDATE_EXPECT=1 accepts this", wrong.join("\n"));
}

/// Whatever stands in a file: it is read or refused, and what is read runs and is judged.
#[test]
fn no_text_breaks_the_reader_or_the_run() {
    let loaded = compile(&config::read_rules(&root()).unwrap());
    let (rules, policies) = (Arc::new(loaded.rules.unwrap()), loaded.policies.unwrap());
    let texts: Vec<Vec<u8>> = ["passes", "fails", "bad"]
        .into_iter()
        .flat_map(corpus)
        .map(|path| std::fs::read(path).unwrap())
        .filter(|text| !text.is_empty())
        .collect();
    let pieces: [&[u8]; 10] =
        [b"{", b"]", b": ", b"\n", b"+0h", b"-99999d", b"~", b"\xff", b"[]", b"2026-10-12"];
    let (mut state, mut taken, mut refused) = (1_u64, 0, 0);
    let mut below = |n: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(state >> 33).unwrap() % n
    };
    for round in 0..400 {
        let mut text = texts[round % texts.len()].clone();
        // Other numbers in half of them, which mostly leave a file that runs; anything in the others.
        let digits: Vec<usize> = (0..text.len()).filter(|i| text[*i].is_ascii_digit()).collect();
        for _ in 0..=below(3) {
            if round % 2 == 0 && !digits.is_empty() {
                text[digits[below(digits.len())]] = b"0123456789"[below(10)];
                continue;
            }
            let (at, piece) = (below(text.len()), pieces[below(pieces.len())]);
            let end = (at + below(8)).min(text.len());
            text.splice(at..end, piece.iter().copied());
        }
        let file = SourceFile { path: "x_test.yaml".into(), content: Ok(text), context: false };
        let (read, problems) = parse(&file, Known { rules: &rules, policies: &policies });
        assert!(read.is_some() || !problems.is_empty(), "{round} is refused without a reason");
        for problem in &problems {
            assert!(!problem.render(false).is_empty());
        }
        *if read.is_some() { &mut taken } else { &mut refused } += 1;
        for test in read.iter().flat_map(|f| &f.tests) {
            let _ = judge(test, &run(test, &rules, &policies));
        }
    }
    assert!(taken > 20 && refused > 100, "{taken} taken, {refused} refused: too much alike");
}

/// What `exact` shows can be copied into `expect`, and the test then passes.
#[test]
fn lines_that_are_shown_are_lines_of_a_file() {
    let dir = Dir::new();
    let text = "start: 2026-10-12T07:10:00Z\nfacts: {destination: ES}\ntests:\n  - name: all\n    events:\n      \
         - {at: +0h, milestone: import_customs_cleared}\n      - {at: +1h, parcel_id: \"P 2: {\", milestone: import_customs_cleared}\n    \
         feed: {lost: [{from: +2h, to: +3h}]}\n    until: +10d\n    exact: true\n    expect:\n      - {at: +24h30s, notify: ops_mail, parcel_id: P-1}\n";
    dir.rules();
    dir.write("a_test.yaml", text);
    let found = suites(&[dir.path("")]).unwrap_or_else(|_| panic!("it is refused"));
    let done = run_suite(&found[0], None);
    let shown: Vec<String> = done[0].verdict.faults.iter().flat_map(|f| f.details.clone()).collect();
    let (changes, notices) = (
        shown.iter().filter(|l| !l.contains("notify")).count(),
        shown.iter().filter(|l| l.contains("notify")).count(),
    );
    assert!(changes >= 6 && notices >= 4, "{shown:#?}");
    dir.write("a_test.yaml", &format!("{text}      {}\n", shown.join("\n      ")));
    let found = suites(&[dir.path("")]).unwrap_or_else(|_| panic!("the lines are refused: {shown:#?}"));
    let (failed, said) = lines(&found[0]);
    assert_eq!(failed, 0, "{said}");
}

/// A folder with the rules of the corpus.
struct Dir(tempfile::TempDir);

impl Dir {
    fn new() -> Dir {
        Dir(tempfile::tempdir().unwrap())
    }

    fn rules(&self) {
        for name in ["rules.yaml", "policies.yaml"] {
            self.write(name, &std::fs::read_to_string(root().join(name)).unwrap());
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }
}

fn written(format: Format, suite: &Suite) -> String {
    let done = run_suite(suite, None);
    let all: Vec<&Done<'_>> = done.iter().collect();
    let mut out = Vec::new();
    write(&mut out, format, &all, &[], Duration::from_millis(1_500)).unwrap();
    String::from_utf8(out).unwrap()
}

/// Reads XML strictly enough for JUnit's: elements with attributes, text, the five entities and numbers of characters.
/// Gives (depth, name, attributes, text) of each element in the order in which they begin.
#[derive(Debug)]
struct Element {
    depth: usize,
    name: String,
    attributes: Vec<(String, String)>,
    text: String,
}

fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        assert!(!rest[..at].contains('<'));
        out += &rest[..at];
        let end = rest[at..].find(';').expect("an entity ends") + at;
        match &rest[at + 1..end] {
            "amp" => out.push('&'),
            "lt" => out.push('<'),
            "gt" => out.push('>'),
            "quot" => out.push('"'),
            "apos" => out.push('\''),
            other => {
                let number = other.strip_prefix('#').expect("a known entity").parse().expect("a number");
                out.push(char::from_u32(number).expect("a character"));
            }
        }
        rest = &rest[end + 1..];
    }
    out + rest
}

fn xml(text: &str) -> Vec<Element> {
    let mut rest = text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>").expect("a declaration");
    let (mut elements, mut open): (Vec<Element>, Vec<usize>) = (Vec::new(), Vec::new());
    while let Some(at) = rest.find('<') {
        if let Some(top) = open.last() {
            elements[*top].text += &unescaped(&rest[..at]);
        } else {
            assert!(rest[..at].trim().is_empty(), "text outside of the root: {}", &rest[..at]);
        }
        rest = &rest[at + 1..];
        if let Some(closing) = rest.strip_prefix('/') {
            let end = closing.find('>').expect("a tag ends");
            let top = open.pop().expect("it was opened");
            assert_eq!(closing[..end], elements[top].name);
            rest = &closing[end + 1..];
            continue;
        }
        let name_end = rest.find([' ', '>', '/']).expect("a tag ends");
        let name = rest[..name_end].to_owned();
        rest = &rest[name_end..];
        let mut attributes = Vec::new();
        while let Some(more) = rest.strip_prefix(' ') {
            let (key, value) = more.split_once("=\"").expect("an attribute");
            let (value, after) = value.split_once('"').expect("a value ends");
            assert!(!value.contains('<'), "{value}");
            assert!(attributes.iter().all(|(k, _)| k != key), "{key} twice");
            attributes.push((key.to_owned(), unescaped(value)));
            rest = after;
        }
        let depth = open.len();
        elements.push(Element { depth, name, attributes, text: String::new() });
        if let Some(after) = rest.strip_prefix("/>") {
            rest = after;
        } else {
            rest = rest.strip_prefix('>').expect("a tag ends");
            open.push(elements.len() - 1);
        }
    }
    assert!(open.is_empty() && rest.trim().is_empty(), "{rest}");
    let allowed = |c: char| c >= ' ' || matches!(c, '\n' | '\t' | '\r');
    assert!(text.chars().all(allowed), "a character that XML cannot hold");
    elements
}

/// A file whose names and texts hold all that needs escaping.
fn hostile() -> (Dir, Suite) {
    let dir = Dir::new();
    dir.rules();
    dir.write(
        "a&b_test.yaml",
        "tests:\n  - name: \"<a href='x'>& ]]> \\\"100%\\\", one:two\\nline \\a\"\n    facts: {destination: ES}\n    \
         events: [{at: +0h, parcel_id: \"<P&1>\", milestone: import_customs_cleared}]\n    until: +25h\n    exact: true\n  \
         - name: fine\n    events: [{at: +0h, milestone: delivered}]\n    exact: true\n",
    );
    let suite = suites(&[dir.path("")]).unwrap_or_else(|_| panic!("it is refused")).remove(0);
    (dir, suite)
}

#[test]
fn junit_is_well_formed_and_says_what_is_wrong() {
    let (_dir, suite) = hostile();
    let text = written(Format::Junit, &suite);
    let elements = xml(&text);
    let names: Vec<(usize, &str)> = elements.iter().map(|e| (e.depth, e.name.as_str())).collect();
    assert_eq!(
        names,
        [(0, "testsuites"), (1, "testsuite"), (2, "testcase"), (3, "failure"), (2, "testcase")],
        "{text}"
    );
    let get = |i: usize, key: &str| {
        let found = elements[i].attributes.iter().find(|(k, _)| k == key);
        found.unwrap_or_else(|| panic!("{key} in {:?}", elements[i])).1.clone()
    };
    for (i, key, value) in [
        (0, "tests", "2"),
        (0, "failures", "1"),
        (0, "time", "1.500"),
        (1, "failures", "1"),
        (2, "line", "2"),
    ] {
        assert_eq!(get(i, key), value, "{key}");
    }
    assert_eq!(get(2, "name"), "<a href='x'>& ]]> \"100%\", one:two\nline \u{fffd}");
    assert!(get(1, "name").ends_with("a&b_test.yaml"));
    assert!(
        elements[3].text.contains("- {at: +24h, opened: cleared_no_scan, parcel_id: \"<P&1>\""),
        "{:?}",
        elements[3]
    );
}

#[test]
fn json_and_github_say_the_same() {
    let (_dir, suite) = hostile();
    let json: serde_json::Value = serde_json::from_str(&written(Format::Json, &suite)).unwrap();
    assert_eq!((json["tests"].as_u64(), json["failed"].as_u64()), (Some(2), Some(1)));
    let (bad, fine) = (&json["results"][0], &json["results"][1]);
    assert_eq!((bad["passed"].as_bool(), bad["line"].as_u64()), (Some(false), Some(2)));
    assert_eq!((fine["name"].as_str(), fine["passed"].as_bool()), (Some("fine"), Some(true)));
    assert!(bad["faults"][0]["details"][0].as_str().unwrap().contains("opened: cleared_no_scan"));
    let github = written(Format::Github, &suite);
    let lines: Vec<&str> = github.lines().collect();
    assert_eq!(lines.len(), 2, "one command, one summary: {github}");
    assert!(
        lines[0].starts_with("::error file=") && lines[0].contains("100%25\"%2C one%3Atwo%0Aline"),
        "{github}"
    );
}

#[test]
fn only_tests_that_are_asked_for_run() {
    let suite = suite(&[root().join("passes/feed_test.yaml")]).unwrap();
    let names = |pattern: &str| {
        let pattern = regex_lite::Regex::new(pattern).unwrap();
        run_suite(&suite, Some(&pattern)).len()
    };
    assert_eq!((names("^lost:"), names("gap"), names("nothing like it")), (3, 4, 0));
}

// ---- coverage and mutants

fn coverage(suite: &Suite) -> Coverage {
    let mut coverage = Coverage::new(&suite.rules, &suite.policies, &suite.tests);
    for d in run_suite(suite, None) {
        assert!(d.verdict.faults.is_empty(), "{}", d.test.name);
        coverage.take(d.verdict.asked.iter().map(|i| &d.happened[*i]));
    }
    coverage
}

fn mutants(suite: &Suite) -> Outcome {
    mutate(&suite.files, &suite.tests)
}

#[test]
fn tests_that_ask_for_everything_leave_no_gap_and_no_mutant() {
    let suite = suite(&corpus("passes")).unwrap_or_else(|said| panic!("{said}"));
    let coverage = coverage(&suite);
    assert_eq!(coverage.percent(), 100, "{}", coverage.report("rules"));
    let outcome = mutants(&suite);
    assert_eq!((outcome.percent(), outcome.excused), (100, 0), "{}", outcome.report("rules"));
    assert!(outcome.killed >= 35, "{} mutants prove little", outcome.killed);
}

#[test]
fn tests_that_ask_too_little_are_told_what_nobody_notices() {
    let path = root().join("weak/weak_test.yaml");
    let suite = suite(std::slice::from_ref(&path)).unwrap_or_else(|said| panic!("{said}"));
    let (coverage, outcome) = (coverage(&suite), mutants(&suite));
    let alive = |sentence: &str| outcome.alive.iter().any(|s| s.sentence == sentence);
    // It asks that it opens, not when; the second later is excused.
    assert!(alive("nobody notices if `cleared_no_scan` reached stage 2 after 48h1s instead of 48h"));
    assert!(alive("nobody notices if `cleared_no_scan` reached stage 1 after 23h59m59s instead of 24h"));
    assert!(!alive("nobody notices if `cleared_no_scan` reached stage 1 after 24h1s instead of 24h"));
    assert_eq!((outcome.excused, outcome.idle.len()), (1, 1));
    let mut wrong = Vec::new();
    beside(&path, &(coverage.report("rules") + "\n" + &outcome.report("rules")), &mut wrong);
    assert!(wrong.is_empty(), "{}UPDATE_EXPECT=1 accepts this", wrong.join("\n"));
}

// ---- the command

/// Exit code, standard output and standard error of `parcelwatch test` in this folder.
fn command(dir: &Dir, args: &[&str]) -> (i32, String, String) {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_parcelwatch"))
        .arg("test")
        .args(args)
        .current_dir(dir.path(""))
        .output()
        .unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (done.status.code().unwrap(), text(done.stdout), text(done.stderr))
}

#[test]
fn the_command_writes_one_document_and_exits_accordingly() {
    let dir = Dir::new();
    dir.rules();
    assert_eq!(command(&dir, &["."]).0, 2, "there is no test");
    dir.write("a_test.yaml", &std::fs::read_to_string(root().join("weak/weak_test.yaml")).unwrap());
    let (code, out, _) = command(&dir, &["."]);
    assert_eq!(code, 0);
    assert!(out.starts_with("ok   ./a_test.yaml:4 it opens some day\n1 test, all passed ("), "{out}");
    assert_eq!(command(&dir, &["a_test.yaml", "--run", "some"]).0, 0);
    assert_eq!(command(&dir, &[".", "--run", "other"]).0, 2);

    // Each format keeps its document to itself.
    let (code, out, _) = command(&dir, &[".", "--format", "json", "--coverage", "--mutate"]);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}"));
    assert_eq!(code, 0);
    assert!(
        json["coverage"][0]["percent"].as_u64().unwrap() < 100
            && json["mutants"][0]["noticed"].as_u64().unwrap() > 0
    );
    let missing = serde_json::json!({"of": "cleared_no_scan", "item": "stage 2", "words": "high, 48h after"});
    assert!(json["coverage"][0]["missing"].as_array().unwrap().contains(&missing), "{json:#}");
    let (_, out, err) = command(&dir, &[".", "--format", "junit", "--coverage"]);
    assert_eq!(xml(&out).len(), 3, "{out}");
    assert!(err.contains("coverage of ."), "{err}");
    let (_, out, _) = command(&dir, &[".", "--format", "github", "--mutate"]);
    let warnings = out.lines().filter(|l| l.starts_with("::warning file=./rules.yaml,line=")).count();
    assert!(warnings > 5, "{out}");

    for (args, least) in
        [(["--min", "100"], 1), (["--min", "1"], 0), (["--min-killed", "100"], 1), (["--min-killed", "1"], 0)]
    {
        assert_eq!(command(&dir, &[&["."][..], &args[..]].concat()).0, least, "{args:?}");
    }
    dir.write(
        "a_test.yaml",
        "tests: [{name: x, events: [{at: +0h, milestone: delivered}], expect: [{opened: silent}]}]\n",
    );
    let (code, out, err) = command(&dir, &[".", "--coverage"]);
    assert!(code == 1 && out.contains("FAIL") && err.contains("neither coverage nor mutants"), "{out}{err}");
    dir.write("a_test.yaml", "tests: [{name: x, evnts: []}]\n");
    let (code, out, err) = command(&dir, &["."]);
    assert!(code == 2 && out.is_empty() && err.contains("did you mean `events`?"), "{out}{err}");
    assert_eq!(command(&dir, &["nowhere"]).0, 2);
}

// ---- check

#[test]
fn check_judges_tests_and_says_which_rules_have_none() {
    let dir = Dir::new();
    dir.rules();
    let judge = |name: &str| {
        let found = check::judge(&[dir.path(name)], None).unwrap();
        let said: Vec<(String, String)> =
            found.problems.iter().map(|p| (p.code.to_owned(), p.rule.clone().unwrap_or_default())).collect();
        (found.exit_code(), said)
    };
    let lint = |rule: &str| ("PW319".to_owned(), rule.to_owned());
    // Without any test nobody is told of it.
    assert_eq!(judge(""), (0, vec![]));
    dir.write(
        "a_test.yaml",
        "tests: [{name: x, events: [{at: +0h, milestone: delivered}], never: [{opened: silent}]}]\n",
    );
    assert_eq!(judge(""), (3, vec![lint("cleared_no_scan"), lint("hold_vs_guarantee"), lint("undelivered")]));
    // Named by `only`, and by a command.
    dir.write(
        "b_test.yaml",
        "tests: [{name: y, events: [{at: +0h, milestone: delivered}], exact: true, only: hold_vs_guarantee}]\n",
    );
    assert_eq!(judge(""), (3, vec![lint("cleared_no_scan"), lint("undelivered")]));
    // A file that cannot be read may hold the missing test.
    dir.write("b_test.yaml", "tests: [{name: y, evnts: [], exact: true, expect: [{opened: silnt}]}]\n");
    let (code, said) = judge("");
    assert_eq!((code, said.iter().map(|(c, _)| c.as_str()).collect::<Vec<_>>()), (1, vec!["PW201", "PW209"]));
    // A file alone is judged by the rules beside it.
    assert_eq!(judge("b_test.yaml").1, said);
    assert_eq!(judge("a_test.yaml").0, 0);
    // Rules that cannot be used: what tests name is not known, only whether they can be read.
    dir.write("c.yaml", "rules: [{id: broken}]\n");
    let (code, said) = judge("");
    assert!(code == 1 && said.iter().all(|(_, rule)| rule == "broken"), "{said:?}");
    // What an editor left behind is none.
    std::fs::remove_file(dir.path("c.yaml")).unwrap();
    std::fs::remove_file(dir.path("b_test.yaml")).unwrap();
    dir.write(".b_test.yaml", "tests: x\n");
    assert_eq!(judge("").0, 3);
}
