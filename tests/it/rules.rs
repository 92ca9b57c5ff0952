//! Files of rules, policies and configurations: what good ones mean, and what is said about bad ones.

use std::path::{Path, PathBuf};
use std::time::Duration;

use parcelwatch::config::{self, Config, Environment};
use parcelwatch::model::Time;
use parcelwatch::rules::problem::{Problem, code};
use parcelwatch::rules::{Loaded, SourceFile, compile, compile_at, problems_page};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A file of the corpus, under a name that does not depend on where the project lies.
fn file(path: &str, name: &str) -> SourceFile {
    let read = config::read_file(root().join("tests/data/rules").join(path), false);
    SourceFile { path: name.into(), ..read }
}

/// Time this thread has computed: a machine with other work does not make it longer.
fn computed() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` is a timespec that outlives the call.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap())
}

fn render(problems: &[Problem]) -> String {
    problems.iter().map(|p| p.render(false) + "\n\n").collect()
}

#[track_caller]
fn good(files: &[SourceFile]) -> Loaded {
    let loaded = compile(files);
    assert!(loaded.problems.is_empty(), "{}", render(&loaded.problems));
    loaded
}

#[test]
fn the_rules_of_the_design_compile() {
    let rules = good(&[file("good/design.yaml", "design.yaml")]).rules.unwrap();
    let ids: Vec<&str> = rules.rules.iter().map(|r| &*r.id).collect();
    assert_eq!(ids, ["cleared_no_domestic_scan", "everything", "hold_vs_guarantee"]);
    let (_, first) = rules.rule("cleared_no_domestic_scan").unwrap();
    assert_eq!((first.bodies.len(), first.overrides.len()), (2, 1));
    assert_eq!(first.bodies[1].stages.len(), 1);
}

#[test]
fn policies_and_calendars_compile() {
    let files = [
        file("good/policies.yaml", "conf/policies.yaml"),
        file("good/with_policies.yaml", "conf/rules.yaml"),
    ];
    let loaded = good(&files);
    let (rules, policies) = (loaded.rules.unwrap(), loaded.policies.unwrap());
    assert_eq!((rules.rules.len(), rules.calendars.len()), (2, 3));
    assert_eq!((policies.receivers.len(), policies.policies.len()), (3, 3));
    assert_eq!((policies.inhibit.len(), policies.mute.len()), (1, 2));
    assert_eq!(policies.feeds.as_ref().unwrap().silent_after, 3 * 3_600_000);
    let office = policies.policy("office").unwrap();
    assert!(office.comment_needed && office.digest_at == Some(8 * 3_600_000));
    assert_eq!((office.spans[1].business_days, office.spans[1].ms), (1, 2 * 3_600_000));
    let hash = |change: &dyn Fn(&str) -> String| {
        let text =
            String::from_utf8(std::fs::read(root().join("tests/data/rules/good/policies.yaml")).unwrap())
                .unwrap();
        let files = [bytes("policies.yaml", change(&text)), file("good/with_policies.yaml", "rules.yaml")];
        good(&files).policies.unwrap().hash
    };
    let same = hash(&|t| t.to_owned());
    for (from, to) in [
        ("outside: true, ", ""),
        ("equal: [lane]", "equal: []"),
        ("1bd2h", "1bd3h"),
        ("08:00", "08:30"),
        ("3h, target", "4h, target"),
    ] {
        assert_ne!(same, hash(&|t| t.replace(from, to)), "{from} -> {to}");
    }
    assert_eq!(policies.default_policy.as_deref(), Some("handoff"));
    // A secret's path starts from the folder of the file that names it; its place is not shown.
    let erp = format!("{:?}", policies.receiver("erp").unwrap());
    assert!(!erp.contains("secrets/erp"), "{erp}");
}

#[test]
fn an_alias_is_what_its_anchor_names() {
    let rules = good(&[file("good/anchors.yaml", "anchors.yaml")]).rules.unwrap();
    assert_eq!(rules.rules[0].scope, rules.rules[1].scope);
    assert_eq!(rules.rules[0].bodies[0].stages, rules.rules[1].bodies[0].stages);
    assert_eq!(rules.rules[0].bodies[0].stages.len(), 2);
}

#[test]
fn shipped_rules_compile() {
    let dir = root().join("rules");
    let loaded = good(&config::read_rules(&dir).unwrap());
    assert!(loaded.rules.unwrap().rules.len() >= 11);
}

/// What is said about each bad file stands beside it; `UPDATE_EXPECT=1` writes it anew.
#[test]
fn bad_files_are_told_what_is_wrong() {
    let dir = root().join("tests/data/rules/bad");
    let mut names: Vec<PathBuf> = std::fs::read_dir(&dir).unwrap().map(|e| e.unwrap().path()).collect();
    names.retain(|p| p.extension().is_some_and(|e| e == "yaml"));
    names.sort();
    assert!(names.len() >= 50);
    let update = std::env::var_os("UPDATE_EXPECT").is_some();
    let mut wrong = Vec::new();
    for path in names {
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let begun = computed();
        let problems = problems_of(&path, &name);
        let took = computed() - begun;
        assert!(took < Duration::from_secs(1), "{name} took {:?}", took);
        assert!(!problems.is_empty(), "{name}: nothing is said");
        let said = render(&problems);
        for secret in ["whsec_Mf", "hunter2", "0123456789abcdef"] {
            assert!(!said.contains(secret), "{name} shows a secret:\n{said}");
        }
        let beside = path.with_extension("txt");
        if update {
            std::fs::write(&beside, &said).unwrap();
        } else if std::fs::read_to_string(&beside).unwrap_or_default() != said {
            wrong.push(format!("{name} says:\n{said}"));
        }
    }
    assert!(wrong.is_empty(), "{}UPDATE_EXPECT=1 accepts this", wrong.join("\n"));
}

fn problems_of(path: &Path, name: &str) -> Vec<Problem> {
    if name.starts_with("config_") {
        let bytes = std::fs::read(path).unwrap();
        return Config::read(Path::new(name), &bytes, &Environment::new()).err().unwrap_or_default();
    }
    let one = format!("bad/{name}");
    if name.starts_with("policies_") && name != "policies_in_a_rules_file.yaml" {
        return compile(&[file(&one, "policies.yaml")]).problems;
    }
    if name.starts_with("with_policies_") {
        // Its own policies stand beside it, or are the good ones.
        let own = format!("bad/{}", name.replace(".yaml", ".policies"));
        let there = root().join("tests/data/rules").join(&own).exists();
        let policies = if there { own.as_str() } else { "good/policies.yaml" };
        return compile(&[file(&one, name), file(policies, "policies.yaml")]).problems;
    }
    compile_at(&[file(&one, name)], Time::parse("2026-10-01T00:00:00Z")).problems
}

fn bytes(name: &str, bytes: impl Into<Vec<u8>>) -> SourceFile {
    SourceFile { path: name.into(), content: Ok(bytes.into()), context: false }
}

/// A file that means harm gets one clear answer, at once.
#[track_caller]
fn hostile(what: &str, content: Vec<u8>, code: &str) {
    let begun = computed();
    let loaded = compile(&[bytes("rules.yaml", content)]);
    let said = render(&loaded.problems);
    let took = computed() - begun;
    assert!(took < Duration::from_secs(1), "{what} took {:?}", took);
    assert!(loaded.rules.is_none(), "{what}");
    assert!(loaded.problems.iter().any(|p| p.code == code), "{what}: {said}");
    assert!(said.len() < 200_000, "{what} is answered by {} bytes", said.len());
}

#[test]
fn hostile_files_are_answered_at_once() {
    let nested = |open: &str, n: usize| open.repeat(n).into_bytes();
    let blocks = |n: usize| (0..n).map(|i| format!("{}a:\n", " ".repeat(i))).collect::<String>().into_bytes();
    let bomb: String =
        (1..10).map(|i| format!("a{i}: &a{i} [{}]\n", format!("*a{},", i - 1).repeat(9))).collect();
    let wide = |entry: &str, n: usize| format!("rules:\n{}", entry.repeat(n)).into_bytes();
    hostile("100 kB of [", nested("[", 100_000), "PW104");
    hostile("100 kB of {", nested("{", 100_000), "PW104");
    hostile("100 kB of {a:", nested("{a: ", 25_000), "PW104");
    hostile("100 kB of -", nested("- ", 50_000), "PW104");
    hostile("10,000 nested mappings", blocks(1_400), "PW104");
    hostile("an alias bomb", format!("a0: &a0 [x]\n{bomb}").into_bytes(), "PW105");
    hostile("20,000 unknown keys", wide("  - {x: 1}\n", 20_000), "PW109");
    let keys = |n: usize| (0..n).map(|i| format!("k{i}: 1\n")).collect::<String>().into_bytes();
    hostile("20,000 different keys", keys(20_000), "PW109");
    hostile(
        "one key 20,000 times",
        format!("rules: []\n{}", "rules: []\n".repeat(20_000)).into_bytes(),
        "PW106",
    );
    hostile("quotes", nested("\"", 100_001), "PW103");
    hostile("exclamation marks", nested("!", 100_000), "PW103");
    hostile("question marks", nested("? ", 50_000), "PW104");
    hostile("anchors", nested("&a ", 30_000), "PW103");
    hostile(
        "one long line",
        format!("rules: [{{id: a, title: {}, x: 1}}]", "é".repeat(400_000)).into_bytes(),
        "PW201",
    );
    hostile("a long id", format!("rules: [{{id: {}}}]", "a".repeat(1_000_000)).into_bytes(), "PW212");
    hostile("zeros", vec![0; 1 << 20], "PW102");
    hostile("high bytes", vec![0xFF; 1 << 20], "PW102");
    hostile("tabs", nested("\t", 100_000), "PW108");
    hostile("carriage returns", nested("\r", 100_000), "PW108");
    let glob = format!(
        "rules: [{{id: a, scope: {{lane: {{glob: \"{}\"}}}}, after: delivered, within: 1d, severity: info}}]",
        "*".repeat(5_000)
    );
    hostile("a pattern of stars", glob.into_bytes(), "PW220");
    let stages = format!(
        "rules: [{{id: a, after: delivered, severity: info, stages: [{}]}}]",
        "{at: 1d}, ".repeat(10_000)
    );
    hostile("10,000 stages", stages.into_bytes(), "PW220");
    let facts = format!("facts: [{}]", (0..5_000).map(|i| format!("{{name: f{i}}}, ")).collect::<String>());
    hostile("5,000 facts", facts.into_bytes(), "PW220");
}

#[test]
fn what_is_no_file_of_text_is_not_read() {
    let dir = tempfile::tempdir().unwrap();
    let big = std::fs::File::create(dir.path().join("big.yaml")).unwrap();
    big.set_len(50 << 20).unwrap();
    std::fs::create_dir(dir.path().join("folder.yaml")).unwrap();
    std::os::unix::fs::symlink("loop.yaml", dir.path().join("loop.yaml")).unwrap();
    std::os::unix::fs::symlink("gone", dir.path().join("dangling.yaml")).unwrap();
    let pipe = std::ffi::CString::new(dir.path().join("pipe.yaml").to_str().unwrap()).unwrap();
    // SAFETY: the path is a C string that outlives the call.
    assert_eq!(unsafe { libc::mkfifo(pipe.as_ptr(), 0o600) }, 0);
    std::fs::write(dir.path().join("some_test.yaml"), "[[[").unwrap();
    std::fs::write(dir.path().join(".hidden.yaml"), "[[[").unwrap();
    let begun = computed();
    let loaded = compile(&config::read_rules(dir.path()).unwrap());
    let took = computed() - begun;
    assert!(took < Duration::from_secs(1));
    let said: Vec<String> = loaded
        .problems
        .iter()
        .map(|p| format!("{} {}: {}", p.code, p.file.file_name().unwrap().to_string_lossy(), p.message))
        .collect();
    assert_eq!(said.len(), 5, "{said:#?}");
    for (line, part) in
        said.iter().zip(["50 MiB", "cannot read", "a folder", "cannot read", "no regular file"])
    {
        assert!(line.starts_with("PW101") && line.contains(part), "{line}");
    }
}

/// What two texts have in common: the hash of the set and of each rule.
fn hashes(text: &str) -> Vec<String> {
    let rules = good(&[bytes("rules.yaml", text)]).rules.unwrap();
    std::iter::once(rules.hash.clone()).chain(rules.rules.iter().map(|r| r.hash.to_string())).collect()
}

#[test]
fn a_hash_is_of_the_meaning() {
    let one = hashes(
        "sets: {eu: [FR, ES]}\nrules:\n- {id: a, after: delivered, within: 90m, severity: high, scope: {lane: x, destination: {in: eu}}, expect: [cancelled, receipt_confirmed]}\n- {id: b, after: delivered, within: 1d, severity: low}\n"
            .replace("low", "info")
            .as_str(),
    );
    let same = hashes(
        "# the same, otherwise written\nrules:\n  - id: b\n    severity: info\n    stages: [{at: 1d}]\n    after: delivered\n  - id: a\n    stages:\n      - severity: high\n        at: 1h30m\n    expect: [receipt_confirmed, cancelled]\n    scope: {destination: [ES, FR], lane: 'x'}\n    after: delivered\n    grace: 0s\n",
    );
    assert_eq!(one, same);
    for (from, to) in [
        ("90m", "91m"),
        ("lane: x", "lane: y"),
        ("lane: x", "lane: {not: x}"),
        ("[FR, ES]", "[FR]"),
        ("cancelled, ", ""),
        ("id: a, ", "id: a, mode: shadow, "),
        ("id: a, ", "id: a, owner: ops, "),
        ("id: a, ", "id: a, pick: last, "),
    ] {
        let text = "sets: {eu: [FR, ES]}\nrules:\n- {id: a, after: delivered, within: 90m, severity: high, scope: {lane: x, destination: {in: eu}}, expect: [cancelled, receipt_confirmed]}\n- {id: b, after: delivered, within: 1d, severity: info}\n";
        let other = hashes(&text.replace(from, to));
        assert_ne!(one[..2], other[..2], "{from} -> {to}");
        assert_eq!(one[2], other[2], "{from} -> {to} changes the other rule");
    }
}

#[test]
fn a_calendar_is_part_of_the_rules_that_use_it() {
    let policies =
        "calendars: [{id: es, zone: Europe/Madrid, holidays: [2026-12-25]}, {id: fr, zone: Europe/Paris}]";
    let rules = "rules:\n- {id: a, after: delivered, within: 1bd, severity: high, calendar: es}\n- {id: b, after: delivered, within: 1d, severity: info}\n";
    let compiled =
        |policies: &str| good(&[bytes("policies.yaml", policies), bytes("r.yaml", rules)]).rules.unwrap();
    let (one, two) = (compiled(policies), compiled(&policies.replace("12-25", "12-26")));
    assert_ne!(one.hash, two.hash);
    assert_ne!(one.rules[0].hash, two.rules[0].hash);
    assert_eq!(one.rules[1].hash, two.rules[1].hash);
}

#[test]
fn calendars_may_stand_in_a_file_of_their_own() {
    let rules = "rules:\n- {id: a, after: delivered, within: 1bd, severity: high, calendar: es}\n";
    let own = "calendars: [{id: es, zone: Europe/Madrid, country: ES, holidays: [2026-12-25]}]";
    let (rules, own) = (bytes("r.yaml", rules), bytes("calendars.yaml", own));
    let loaded = good(&[own.clone(), rules.clone()]).rules.unwrap();
    assert_eq!((loaded.rules.len(), loaded.calendars.len()), (1, 1));
    // Neither an id nor a country is in two files.
    for (again, message) in [
        ("calendars: [{id: es, zone: UTC}]", "the calendar `es` stands here twice"),
        ("calendars: [{id: spain, zone: UTC, country: ES}]", "the country `ES` is in two calendars"),
    ] {
        let problems = compile(&[own.clone(), bytes("policies.yaml", again), rules.clone()]).problems;
        let texts: Vec<_> = problems.iter().map(|p| p.message.as_str()).collect();
        assert!(texts.contains(&message), "{texts:?}");
        assert!(render(&problems).contains("calendars.yaml"), "the first place is shown");
    }
}

#[test]
fn what_keys_mean() {
    use parcelwatch::model::{DAY, HOUR, Milestone};
    use parcelwatch::rules::ruleset::{AnchorSource, CalendarRef, Matcher, Test, Tolerance};
    let rules = good(&[file("good/design.yaml", "design.yaml")]).rules.unwrap();
    let (_, all) = rules.rule("everything").unwrap();
    assert!(all.anchor.list && all.anchor.last && !all.anchor.before && all.anchor.has_episodes());
    assert_eq!(all.anchor.sources[0], AnchorSource::Milestone(Milestone::ImportCustomsCleared));
    assert!(all.shadow && all.restart && all.after_terminal);
    assert_eq!((all.until, all.zone_slack, all.version.as_str()), (Some(15 * DAY), 14 * HOUR, "3"));
    assert_eq!(all.effective_from, Time::parse("2026-10-01T00:00:00Z"));
    assert_eq!(all.effective_to, Time::parse("2026-12-31T23:00:00Z"));
    let body = &all.bodies[0];
    assert_eq!((body.grace, body.reporting_delay, body.tolerance), (2 * HOUR, 36 * HOUR, Tolerance::Any));
    assert_eq!((body.calendar, body.evidence.0), (CalendarRef::Elapsed, 0b110));
    assert!(body.expect.next_expected && body.expect.derived.len() == 1);
    assert!(body.expect.milestones.contains(Milestone::Delivered));
    assert!(!body.expect.milestones.contains(Milestone::ReturnStarted));
    assert_eq!(body.labels["tier"], "1");
    // A set is spelt out.
    let Matcher::All(scope) = &all.scope else { panic!("{:?}", all.scope) };
    let Matcher::Fact(_, Test::AnyOf(eu)) = &scope[0] else { panic!("{:?}", scope[0]) };
    assert_eq!(eu.len(), 27);
    // The override keeps what it does not name.
    let (_, cleared) = rules.rule("cleared_no_domestic_scan").unwrap();
    assert_eq!(cleared.bodies[1].owner, "carrier");
    assert_eq!(cleared.bodies[1].unless, cleared.bodies[0].unless);
    assert_eq!(cleared.bodies[1].stages[0].at.ms, 60 * HOUR);
}

#[test]
fn files_of_a_directory_are_one() {
    let rule = |id: &str| {
        format!(
            "rules: [{{id: {id}, after: delivered, within: 1d, severity: info, scope: {{destination: {{in: eu}}}}}}]\n"
        )
    };
    let one = bytes("a.yaml", format!("sets: {{eu: [AT]}}\n{}", rule("a")));
    let two = bytes("b.yaml", rule("b"));
    assert_eq!(good(&[one.clone(), two.clone()]).rules.unwrap().rules.len(), 2);
    // Alone it is told what it lacks; as a neighbour the first gives its set, but not its rules.
    assert_eq!(compile(std::slice::from_ref(&two)).problems[0].code, "PW209");
    let neighbour = SourceFile { context: true, ..one.clone() };
    assert_eq!(good(&[neighbour, two.clone()]).rules.unwrap().rules.len(), 1);
    // What is defined twice in two files shows both places.
    let again = bytes("b.yaml", format!("sets: {{eu: [BE]}}\n{}", rule("a")));
    let said = render(&compile(&[one, again]).problems);
    for part in [
        "the set `eu` is defined twice",
        "the rule id `a` is used twice",
        "a.yaml:1:8",
        "a.yaml:2:14",
        "b.yaml:1:8",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    // A file that cannot be read hides what it may define: that is not called unknown.
    let broken = bytes("a.yaml", "sets: [");
    let problems = compile(&[broken, two]).problems;
    assert_eq!(problems.len(), 1, "{}", render(&problems));
}

#[test]
fn a_disabled_rule_is_checked_and_left_out() {
    let rule = |expect: &str| {
        format!(
            "rules: [{{id: a, after: delivered, expect: {expect}, within: 1d, severity: info, enabled: false}}]"
        )
    };
    assert_eq!(good(&[bytes("r.yaml", rule("cancelled"))]).rules.unwrap().rules.len(), 0);
    assert_eq!(compile(&[bytes("r.yaml", rule("canceled"))]).problems.len(), 1);
}

/// No prefix of a good file, and no file with one byte changed, brings the reader down.
#[test]
fn damaged_files_never_panic() {
    let texts = ["good/design.yaml", "good/policies.yaml", "good/with_policies.yaml"];
    for path in texts {
        let name = if path.contains("good/policies") { "policies.yaml" } else { "rules.yaml" };
        let original = file(path, name).content.unwrap();
        let mut state = 0x2545_F491_4F6C_DD1Du64;
        for round in 0..300usize {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            let mut damaged = original.clone();
            let at = (state % damaged.len() as u64) as usize;
            match round % 3 {
                0 => damaged.truncate(at),
                1 => damaged[at] = b" \t\n[]{}:,-#&*!|>'\"%@`\0\xFF0a"[(state >> 32) as usize % 24],
                _ => drop(damaged.remove(at)),
            }
            let loaded = compile(&[bytes(name, damaged)]);
            let _ = render(&loaded.problems);
        }
    }
}

/// Files of a section of the page, by the words behind each fence: a name, and how it is written.
fn fences(section: &str) -> Vec<(String, Vec<u8>)> {
    let mut files = Vec::new();
    for block in section.replace("\n```jinja ", "\n```yaml ").split("\n```yaml ").skip(1) {
        let (head, rest) = block.split_once('\n').unwrap();
        let text = rest.split("```").next().unwrap();
        let mut words = head.split_whitespace();
        let name = words.next().unwrap().to_owned();
        let mut bytes = text.as_bytes().to_vec();
        for how in words {
            if how == "latin-1" {
                bytes = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
            } else {
                let times: usize = how.strip_prefix("last-line-x").unwrap().parse().unwrap();
                let last = text.trim_end().rsplit('\n').next().unwrap();
                bytes.extend(format!("{last}\n").repeat(times - 1).into_bytes());
            }
        }
        files.push((name, bytes));
    }
    files
}

/// The page explains every code, and each example gets the code it explains.
#[test]
fn every_code_has_its_section_and_each_example_its_code() {
    let codes: Vec<&str> = problems_page().map(|(code, _)| code).collect();
    assert_eq!(codes, code::ALL, "left are the page's sections, right the program's codes");
    let now = Time::parse("2026-10-01T00:00:00Z");
    for (code, section) in problems_page() {
        assert!(section.lines().nth(1).unwrap().starts_with("**"), "{code} has no title");
        assert!(section.contains("\nRemedy: "), "{code} has no remedy");
        let problems = match fences(section).as_slice() {
            [] if code == code::UNREADABLE => {
                compile(&[config::read_file("gone.yaml".into(), false)]).problems
            }
            [] => panic!("{code} has no example"),
            [(name, bytes)] if name == "parcelwatch.yaml" => {
                Config::read(Path::new(name), bytes, &Environment::new()).unwrap_err()
            }
            files => {
                let files = files.iter().map(|(n, b)| bytes(n, b.clone()));
                let (tests, files): (Vec<SourceFile>, Vec<SourceFile>) =
                    files.partition(|f| f.path.to_string_lossy().ends_with("_test.yaml"));
                let mut loaded = compile_at(&files, now);
                loaded.problems.extend(parcelwatch::testing::check::problems(&loaded, &tests));
                loaded.problems
            }
        };
        let got: Vec<&str> = problems.iter().map(|p| p.code).collect();
        assert!(got.contains(&code), "the example of {code} gets {got:?}:\n{}", render(&problems));
    }
}
