use std::path::PathBuf;

use serde_json::{Value as Json, json};

use super::*;
use crate::rules::problem::{Problem, code};
use crate::rules::{Level, SourceFile, compile};

fn template(form: Form, text: &str) -> Template {
    Template { form, source: Arc::new(Source::new("rules/t.txt".into(), text.as_bytes())) }
}

fn body() -> Json {
    json!({
        "type": "exceptions.opened", "timestamp": "2026-10-14T07:10:30Z",
        "data": {
            "receiver": "ops", "policy": "handoff", "step": 1, "reason": "new", "group_id": "g", "group": {"lane": "CN-ES"},
            "counts": {"open": 2, "acknowledged": 0, "resolved": 0}, "truncated": 0,
            "exceptions": [
                {"parcel_id": "P<1>\nBcc: x", "severity": "high", "runbook": null, "due": "2026-10-14T07:10:00Z", "overdue_seconds": 93780,
                 "facts": {"lane": "CN-ES", "weight": 1.50, "paid": false}, "last": null, "labels": {"team": "iberia"}},
                {"parcel_id": "P2", "severity": "info", "runbook": "javascript:alert(1)", "facts": {}},
            ],
        },
    })
}

fn context() -> Context {
    Context::new(
        &body(),
        "[parcelwatch] CN-ES",
        "g",
        Links { ack: Some(("https://x.example/ack?a=1&b=2", "2026-10-21T07:10:30Z")), list: None },
    )
}

#[track_caller]
fn says(form: Form, text: &str, wanted: &str) {
    assert_eq!(
        template(form, text).render(&context()).map_err(|e| e.to_string()).as_deref(),
        Ok(wanted),
        "{text}"
    );
}

#[track_caller]
fn fails(form: Form, text: &str, wanted: &str) {
    let said = template(form, text).render(&context()).map_err(|e| e.to_string());
    assert!(said.as_ref().is_err_and(|e| e.contains(wanted)), "{text}: {said:?}");
}

#[test]
fn a_value_is_one_line_and_escaped_for_where_it_goes() {
    let parcel = "{{ data.exceptions[0].parcel_id }}";
    says(Form::Text, parcel, "P<1> Bcc: x");
    says(Form::Html, parcel, "P&lt;1&gt; Bcc: x");
    says(Form::Slack, parcel, "P&lt;1&gt; Bcc: x");
    // Whatever a template does about it.
    for way in [
        "{% autoescape false %}{{ data.exceptions[0].parcel_id }}{% endautoescape %}",
        "{% set x = data.exceptions[0].parcel_id %}{{ x }}",
        "{% set x %}{{ data.exceptions[0].parcel_id }}{% endset %}{{ x }}",
        "{% macro m(x) %}{{ x }}{% endmacro %}{{ m(data.exceptions[0].parcel_id) }}",
        "{{ data.exceptions[0].parcel_id | e }}",
        "{% autoescape 'none' %}{% set x %}{{ data.exceptions[0].parcel_id }}{% endset %}{{ x | replace('@', '@') }}{% endautoescape %}",
        "{{ data.exceptions | map(attribute='parcel_id') | first }}",
        "{% for x in data.exceptions[0].parcel_id | lines %}{{ x }} {% endfor %}",
    ] {
        let made = template(Form::Html, way).render(&context()).map_err(|e| e.to_string());
        assert!(made.as_ref().is_ok_and(|m| !m.contains('<') && !m.contains('\n')), "{way}: {made:?}");
    }
    fails(Form::Html, "{{ data.exceptions[0].parcel_id | safe }}", "filter safe is unknown");
    says(
        Form::Html,
        "<a href=\"{{ ack.url }}\">",
        "<a href=\"https:&#x2f;&#x2f;x.example&#x2f;ack?a=1&amp;b=2\">",
    );
    let all = "{{ data.exceptions | map(attribute='parcel_id') | join(', ') }}";
    says(Form::Text, all, "P<1> Bcc: x, P2");
    says(Form::Html, all, "P&lt;1&gt; Bcc: x, P2");
    // What it made itself goes on as it was made, its lines as well.
    let made = "{% set x %}a\n{{ data.exceptions[0].parcel_id }}{% endset %}{{ x | indent(2) }}";
    says(Form::Text, made, "a\n  P<1> Bcc: x");
    says(Form::Html, made, "a\n  P&lt;1&gt; Bcc: x");
    says(Form::Text, "a\r\n{% if ack %}\r\nb\r\n{% endif %}\r\nc", "a\r\nb\r\nc");
    // What a template says itself is as it is; tags on lines of their own leave none.
    says(Form::Text, "a\n{% if ack %}\n  b & c\n{% endif %}\nd", "a\n  b & c\nd");
}

#[test]
fn what_a_message_lacks_is_empty_and_what_no_message_has_is_an_error() {
    says(Form::Text, "[{{ data.exceptions[0].runbook }}{{ data.exceptions[0].last.time | time }}]", "[]");
    says(
        Form::Text,
        "{{ data.exceptions[1].facts.broker | default('-') }}{{ data.exceptions[0].runbook | d('!') }}",
        "-!",
    );
    says(Form::Text, "{% if not data.exceptions[0].last and not data.digest %}none{% endif %}", "none");
    says(Form::Text, "x{% for e in data.summary %}{{ e }}{% endfor %}", "x");
    fails(Form::Text, "{{ data.exeptions }}", "t.txt:1:4: `data.exeptions` is undefined");
    fails(Form::Text, "a\n{{ e }}", "t.txt:2:4: `e` is undefined");
    fails(Form::Text, "{% for e in data.exceptions %}\n {{ e.titel }}\n{% endfor %}", "t.txt:2:");
    fails(Form::Text, "{% if data.polcy %}{% endif %}", "undefined");
    fails(Form::Text, " \n ", "it makes an empty text");
    fails(Form::Text, "{% include 'x' %}", "unknown statement include");
}

#[test]
fn numbers_times_spans_and_links() {
    let e = "{% set e = data.exceptions[0] %}";
    says(Form::Text, &format!("{e}{{{{ e.facts.weight }}}} {{{{ e.facts.paid }}}}"), "1.5 false");
    says(Form::Text, &format!("{e}{{{{ e.overdue_seconds | span }}}}"), "1 d 2 h");
    says(Form::Text, &format!("{e}{{{{ e.due | time }}}}"), "2026-10-14 07:10 UTC");
    let berlin = format!("{e}{{{{ e.due | time(zone='Europe/Berlin', format='%d.%m.%Y %H:%M') }}}}");
    says(Form::Text, &berlin, "14.10.2026 09:10");
    fails(Form::Text, "{{ data.exceptions[0].runbook | time(zone='Europe/Berln') }}", "is no time zone");
    fails(Form::Text, "{{ timestamp | time(format='%Q') }}", "is no pattern of a time");
    fails(Form::Text, "{{ data.policy | time }}", "wants a time, not `handoff`");
    says(
        Form::Text,
        "[{{ data.exceptions[1].runbook | link }}{{ ack.url | link }}]",
        "[https://x.example/ack?a=1&b=2]",
    );
    says(Form::Text, "{{ 'a b/c' | urlencode }}", "a%20b/c");
}

#[test]
fn a_subject_knows_what_is_the_same_in_its_thread() {
    says(
        Form::Subject,
        "{{ data.receiver }}:\n\n {{ data.group.lane }} \r\n({{ data.policy }})\n",
        "ops: CN-ES (handoff)",
    );
    for of_message in
        ["{{ data.reason }}", "{{ type }}", "{{ data.counts.open }}", "{{ data.exceptions[0].parcel_id }}"]
    {
        fails(Form::Subject, of_message, "undefined");
    }
    assert_eq!(
        template(Form::Subject, &"ä".repeat(500)).render(&context()).unwrap().chars().count(),
        MAX_SUBJECT
    );
    // A day's digest is of one group today and of several tomorrow.
    let digest = Context::new(&body(), "[parcelwatch] daily digest", "a day", Links::default());
    let made =
        template(Form::Subject, "{% if data.group %}{{ data.group.lane }}{% else %}{{ subject }}{% endif %}")
            .render(&digest);
    assert_eq!(made.unwrap(), "[parcelwatch] daily digest");
}

#[test]
fn work_memory_and_output_are_bounded() {
    // Each would take minutes, or all there is of memory.
    let doubled = format!("{{% set a = 'x' * 60 %}}{}{{{{ a }}}}", "{% set a = a ~ a %}".repeat(40));
    for long in [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}x",
        "{{ 'x' * 1000000000 }}",
        "{% macro m() %}{{ m() }}{{ m() }}{% endmacro %}{{ m() }}",
        doubled.as_str(),
        "{% for a in range(9999) %}{{ data.exceptions }}{% endfor %}",
    ] {
        let made = template(Form::Text, long).render(&context());
        assert!(made.is_err(), "{long}");
    }
    fails(
        Form::Text,
        "{% for a in range(9000) %}0123456789012345678901234567890123456789{% endfor %}",
        "more than 256 kB",
    );
    let deep = "{% if 1 %}".repeat(5_000);
    fails(Form::Text, &deep, "");
}

/// What is said of templates beside these policies.
fn problems(policies: &str, files: &[(&str, &str)]) -> Vec<Problem> {
    let file = |name: &str, text: &str| SourceFile {
        path: PathBuf::from("conf").join(name),
        content: Ok(text.as_bytes().to_vec()),
        context: false,
    };
    let mut all = vec![file("policies.yaml", policies)];
    all.extend(files.iter().map(|(name, text)| file(name, text)));
    compile(&all).problems
}

const POLICIES: &str = "receivers: [{id: ops, email: {to: [a@x.org]}, templates: {subject: s.txt, text: templates/t.txt, html: h.html}}]\n\
    policies: [{id: p, group_by: [rule, lane], steps: [{notify: [ops]}]}]\ndefault_policy: p\n";

fn of_text(text: &str) -> Vec<Problem> {
    problems(POLICIES, &[("s.txt", "{{ subject }}"), ("templates/t.txt", text), ("h.html", "<p>x</p>")])
}

#[test]
fn sound_templates_have_no_problem_and_are_part_of_the_hash() {
    let hash = |text: &str| {
        let file = |name: &str, text: &str| SourceFile {
            path: name.into(),
            content: Ok(text.as_bytes().to_vec()),
            context: false,
        };
        let files = [
            file("policies.yaml", POLICIES),
            file("s.txt", "a"),
            file("templates/t.txt", text),
            file("h.html", "b"),
        ];
        let loaded = compile(&files);
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        assert_eq!(loaded.sources.len(), 4);
        loaded.policies.unwrap().hash
    };
    assert_eq!(hash("x"), hash("x"));
    assert_ne!(hash("x"), hash("y"));
}

#[test]
fn unknown_names_are_told_wherever_they_stand() {
    for (text, code, says, help) in [
        ("{{ data.polcy }}", code::UNKNOWN_NAME, "`data` has no `polcy`", "`policy`"),
        ("{{ policy }}", code::UNKNOWN_NAME, "there is no `policy`", "data.policy"),
        (
            "{% for e in data.exceptions %}{{ e.titel | default('x') }}{% endfor %}x",
            code::UNKNOWN_NAME,
            "an exception has no `titel`",
            "`title`",
        ),
        (
            "{% if data.reason == 'never' %}{{ data.cuonts.open }}{% endif %}x",
            code::UNKNOWN_NAME,
            "`cuonts`",
            "`counts`",
        ),
        ("{% if ack.ulr is defined %}{% endif %}x", code::UNKNOWN_NAME, "a link has no `ulr`", "`url`"),
        (
            "{% for e in data.exceptions %}{{ e.facts.lnae }}{% endfor %}x",
            code::UNKNOWN_FACT,
            "no fact `lnae`",
            "`lane`",
        ),
        ("{{ data.group.destination }}x", code::UNKNOWN_NAME, "no policy groups by `destination`", "lane"),
        (
            "{% for e in data.exceptions %}{{ e.last.tiem }}{% endfor %}x",
            code::UNKNOWN_NAME,
            "no `tiem`",
            "`time`",
        ),
    ] {
        let found = of_text(text);
        let [p] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!((p.code, p.level), (code, Level::Error), "{text}: {}", p.message);
        assert!(p.message.contains(says), "{text}: {}", p.message);
        assert!(p.help.as_ref().is_some_and(|h| h.contains(help)), "{text}: {:?}", p.help);
        assert!(p.location().starts_with("conf/templates/t.txt:1:"), "{}", p.location());
    }
}

#[test]
fn all_that_is_wrong_is_told_at_once() {
    let text = "{% for e in data.exceptions %}{{ e.titel }} {{ e.facts.lnae }}{% if e.last %}{{ e.last.tme }}{% endif %}{{ e.due | tiem }}\
                {% endfor %}x";
    let found = of_text(text);
    let mut said: Vec<(&str, usize)> =
        found.iter().map(|p| (p.code, p.place.as_ref().map_or(0, |place| place.column))).collect();
    said.sort_by_key(|(_, column)| *column);
    let at = |name: &str| text.find(name).unwrap() + 1;
    let wanted = [
        (code::UNKNOWN_NAME, at("titel")),
        (code::UNKNOWN_FACT, at("lnae")),
        (code::UNKNOWN_NAME, at("tme")),
        (code::BAD_TEMPLATE, said.last().unwrap().1),
    ];
    assert_eq!(said, wanted, "{found:?}");
    let subject =
        problems(POLICIES, &[("s.txt", "{{ group.lane }}"), ("templates/t.txt", "t"), ("h.html", "h")]);
    assert!(
        matches!(subject.as_slice(), [p] if p.help.as_deref() == Some("it stands in `data`: data.group")),
        "{subject:?}"
    );
}

#[test]
fn a_template_that_fails_for_some_message_is_told_for_which() {
    for (text, says, help) in [
        ("{% for e in data.exceptions %}{{ 1 // data.counts.open }}{% endfor %}x", "an end (", "ask first"),
        ("{{ {'new': 'Neu'}[data.reason] }}", "a later step", "default"),
        ("{% if data.exceptions %}x{% endif %}", "empty text, in the test of a receiver", "else"),
        (
            "{% for e in data.exceptions %}{% for i in range(2000) %}{{ e.parcel_id }}{% endfor %}{% endfor %}x",
            "a hundred exceptions",
            "100",
        ),
    ] {
        let found = of_text(text);
        let [p] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!((p.code, p.level), (code::BAD_TEMPLATE, Level::Error));
        assert!(p.message.contains(says), "{text}: {}", p.message);
        assert!(p.help.as_ref().is_some_and(|h| h.contains(help)), "{text}: {:?}", p.help);
    }
    for (text, says, help) in [
        ("a\n{% for e in data.exceptions %}", "end of block", "Jinja"),
        ("{% include 'x.txt' %}", "unknown statement include", "nothing from other files"),
        ("{{ data.policy | uper }}", "filter uper is unknown", "`upper`"),
        ("{{ data.policy | safe }}", "filter safe is unknown", "always escaped"),
    ] {
        let found = of_text(text);
        let [p] = found.as_slice() else { panic!("{text}: {found:?}") };
        assert_eq!((p.code, p.level), (code::BAD_TEMPLATE, Level::Error));
        assert!(p.message.contains(says) && p.place.is_some(), "{text}: {}", p.message);
        assert!(p.help.as_ref().is_some_and(|h| h.contains(help)), "{text}: {:?}", p.help);
    }
}

#[test]
fn a_mail_that_asks_other_servers_is_a_lint() {
    let of_html =
        |html: &str| problems(POLICIES, &[("s.txt", "s"), ("templates/t.txt", "t"), ("h.html", html)]);
    for html in ["<SCRIPT>x</SCRIPT>", "<img src=\"https://x/p.png\">", "<style>@import 'x'</style>x"] {
        let found = of_html(html);
        assert!(
            matches!(found.as_slice(), [p] if p.code == code::LOADS_FROM_OUTSIDE && p.level == Level::Lint),
            "{html}: {found:?}"
        );
    }
    assert!(of_html("<a href=\"{{ ack.url }}\">x</a>").is_empty());
}

#[test]
fn a_file_that_is_not_there_or_no_text_is_told_where_it_is_named() {
    let found = problems(POLICIES, &[("s.txt", "s"), ("h.html", "x")]);
    assert_eq!(
        found.iter().map(|p| (p.code, p.location())).collect::<Vec<_>>(),
        [(code::UNREADABLE, "conf/policies.yaml:1:81".to_owned())]
    );
    let large = "x".repeat(MAX_FILE + 1);
    let found = problems(POLICIES, &[("s.txt", "s"), ("templates/t.txt", &large), ("h.html", "x")]);
    assert_eq!(found.iter().map(|p| p.code).collect::<Vec<_>>(), [code::TOO_LARGE]);
}

/// A file of templates is somebody's text: whatever is cut from it or put into it is answered.
#[test]
fn damaged_templates_never_panic() {
    let whole = "{% macro m(e) %}{{ e.parcel_id | upper ~ 'ä' }}{% endmacro %}{# é #}{% for e in data.exceptions %}{{ m(e) }}{{ e.due | \
                 time(zone='Europe/Berlin') }}{% else %}{{ 1 + 2 * data.counts.open }}{% endfor %}{% raw %}{{{% endraw %}";
    says(Form::Text, whole, "P<1> BCC: Xä2026-10-14 09:10P2ä{{");
    for at in (0..whole.len()).filter(|at| whole.is_char_boundary(*at)) {
        let (before, after) = whole.split_at(at);
        for text in [
            before.to_owned(),
            after.to_owned(),
            format!("{before}%}}{after}"),
            format!("{before}{{{{{after}"),
        ] {
            for form in [Form::Subject, Form::Text, Form::Html, Form::Slack] {
                let made = template(form, &text).render(&context());
                assert!(
                    made.map_err(|e| e.to_string()).map_or_else(|e| e.len() < 500, |t| t.len() < 500),
                    "{text}"
                );
            }
        }
    }
}
