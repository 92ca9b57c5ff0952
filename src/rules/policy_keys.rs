//! Every key of policies.yaml, as [`super::keys`] has those of rules.

use super::keys::Form::{self, Is, List, MapOf, OneOrAny, OneOrMany};
use super::keys::{Def, Key, Object, key};

/// The file.
pub const FILE: [Key; 10] = [
    key("receivers", List(Def::Receiver), "Whom there is to tell", ""),
    key("policies", List(Def::Policy), "Who is told, when: groups and ladders", ""),
    key("default_policy", Is(Def::Name), "Of rules that name none", r#""handoff""#),
    key(
        "owners",
        MapOf(&Is(Def::OwnerRoute)),
        "Whom `notify: [owner]` reaches, by the rule's owner",
        r#"{"carrier": {"by": "domestic_carrier", "to": {"correos": ["correos_desk"]}, "default": ["ops_mail"]}}"#,
    ),
    key("inhibit", List(Def::Inhibit), "An exception that silences others", ""),
    key("mute", List(Def::Mute), "Times at which some exceptions are not told", ""),
    key(
        "rates",
        MapOf(&Form::Object(&RATES)),
        "How many messages a receiver takes",
        r#"{"ops_mail": {"messages": 20, "per": "10m"}}"#,
    ),
    key(
        "auditor",
        Form::Object(&AUDITOR),
        "Who hears of escalations that stand still",
        r#"{"fallback": "ops_mail", "every": "5m"}"#,
    ),
    key(
        "feeds",
        Form::Object(&FEEDS),
        "Who hears of feeds that are silent, failing or stopped; absent: nobody",
        r#"{"notify": ["ops_mail"], "silent_after": "2h"}"#,
    ),
    key("calendars", List(Def::CalendarOf), "Working days, hours and holidays", ""),
];

/// A receiver.
pub const RECEIVER: [Key; 8] = [
    key("id", Is(Def::Name), "Its name", r#""ops_mail""#),
    key("email", Form::Object(&EMAIL), "By mail: one message a recipient", r#"{"to": ["ops@example.org"]}"#),
    key(
        "webhook",
        Form::Object(&WEBHOOK),
        "By a POST in the form of Standard Webhooks",
        r#"{"url": "https://erp.example.org/hooks/parcels", "secret": {"file": "/run/secrets/erp"}}"#,
    ),
    key(
        "slack",
        Form::Object(&SLACK),
        "By an incoming webhook of Slack",
        r#"{"url": {"file": "/run/secrets/slack"}}"#,
    ),
    key(
        "pagerduty",
        Form::Object(&PAGERDUTY),
        "By Events v2: one incident a group",
        r#"{"routing_key": {"file": "/run/secrets/pagerduty"}}"#,
    ),
    key(
        "alertmanager",
        Form::Object(&ALERTMANAGER),
        "By Alertmanager's API v2: one alert an exception",
        r#"{"url": ["http://alertmanager-1:9093", "http://alertmanager-2:9093"]}"#,
    ),
    key(
        "command",
        Form::Object(&COMMAND),
        "By a program, which reads the message on its standard input",
        r#"{"argv": ["/usr/local/bin/page", "--team", "ops"], "timeout": "30s"}"#,
    ),
    key(
        "templates",
        Form::Object(&TEMPLATES),
        "Texts of its own, by their files: of `email` subject, text and html, of `slack` text, of `pagerduty` summary",
        r#"{"subject": "ops.subject.txt", "text": "templates/ops.txt", "html": "templates/ops.html"}"#,
    ),
];

const TEMPLATE_KEYS: [Key; 4] = [
    key(
        "subject",
        Is(Def::TemplateFile),
        "A mail's subject, the same for all messages of a thread",
        r#""ops.subject.txt""#,
    ),
    key("text", Is(Def::TemplateFile), "A mail's text, a message to Slack", r#""templates/ops.txt""#),
    key(
        "html",
        Is(Def::TemplateFile),
        "A mail's HTML; absent beside a text: a mail without",
        r#""templates/ops.html""#,
    ),
    key("summary", Is(Def::TemplateFile), "An incident's title", r#""templates/pager.txt""#),
];
/// `templates`.
pub const TEMPLATES: Object = Object {
    keys: &TEMPLATE_KEYS,
    required: &[],
    about: "Texts of one's own, each in a file beside policies.yaml or in its folder templates/",
};

const EMAIL_KEYS: [Key; 1] = [key("to", OneOrMany(Def::Address), "Addresses", r#"["ops@example.org"]"#)];
const EMAIL: Object = Object { keys: &EMAIL_KEYS, required: &["to"], about: "A mail" };
const WEBHOOK_KEYS: [Key; 2] = [
    key("url", Is(Def::Url), "Where to; may be kept elsewhere", r#""https://erp.example.org/hooks/parcels""#),
    key("secret", Is(Def::Secret), "The signing key, whsec_…: where it is kept", r#"{"env": "ERP_KEY"}"#),
];
const WEBHOOK: Object = Object { keys: &WEBHOOK_KEYS, required: &["url"], about: "A webhook" };
const SLACK_KEYS: [Key; 1] =
    [key("url", Is(Def::Secret), "The incoming webhook: where it is kept", r#"{"env": "SLACK_URL"}"#)];
/// `slack`.
pub const SLACK: Object = Object { keys: &SLACK_KEYS, required: &["url"], about: "A channel of Slack" };
const PAGERDUTY_KEYS: [Key; 2] = [
    key("routing_key", Is(Def::Secret), "The integration's key: where it is kept", r#"{"env": "PD_KEY"}"#),
    key(
        "url",
        Is(Def::HttpUrl),
        "Where events go; absent: https://events.pagerduty.com/v2/enqueue",
        r#""https://events.eu.pagerduty.com/v2/enqueue""#,
    ),
];
/// `pagerduty`.
pub const PAGERDUTY: Object =
    Object { keys: &PAGERDUTY_KEYS, required: &["routing_key"], about: "A service of PagerDuty" };
const ALERTMANAGER_KEYS: [Key; 1] = [key(
    "url",
    OneOrMany(Def::HttpUrl),
    "Base URLs; each of them is told, so name all of a cluster",
    r#""http://alertmanager:9093""#,
)];
/// `alertmanager`.
pub const ALERTMANAGER: Object =
    Object { keys: &ALERTMANAGER_KEYS, required: &["url"], about: "One or several Alertmanagers" };
const COMMAND_KEYS: [Key; 2] = [
    key(
        "argv",
        OneOrMany(Def::Text),
        "The program, which the configuration allows, and its arguments; no shell",
        r#"["/usr/local/bin/page", "--team", "ops"]"#,
    ),
    key("timeout", Is(Def::Elapsed), "How long it may take; absent: 30s", r#""30s""#),
];
/// `command`.
pub const COMMAND: Object = Object { keys: &COMMAND_KEYS, required: &["argv"], about: "A program" };
/// `email` and `webhook`, for their readers.
pub const EMAIL_NAMES: [&str; 1] = super::keys::names(&EMAIL_KEYS);
/// See [`EMAIL_NAMES`].
pub const WEBHOOK_NAMES: [&str; 2] = super::keys::names(&WEBHOOK_KEYS);

/// A policy.
pub const POLICY: [Key; 13] = [
    key("id", Is(Def::Name), "Its name", r#""handoff""#),
    key(
        "group_by",
        OneOrAny(Def::GroupFact),
        "What makes exceptions one group, told together",
        r#"["rule", "lane"]"#,
    ),
    key("group_wait", Is(Def::Elapsed), "From a group's first news to its first message", r#""30s""#),
    key("group_interval", Is(Def::Elapsed), "Between messages of one group", r#""5m""#),
    key("repeat_every", Is(Def::Elapsed), "What stands is told again; absent: never", r#""24h""#),
    key("ack_timeout", Is(Def::Elapsed), "An acknowledgement ends; absent: never", r#""24h""#),
    key("steps", List(Def::Step), "The ladder", r#"[{"after": "0m", "notify": ["ops_mail"]}]"#),
    key("show", OneOrAny(Def::FactName), "Facts that messages show besides", r#"["broker_reference"]"#),
    key("calendar", Is(Def::Calendar), "What its steps count in", r#""es""#),
    key("digest_at", Is(Def::Clock), "All it has to say, once a day", r#""08:00""#),
    key("comment_needed", Is(Def::Flag), "Nobody acknowledges without a comment", "true"),
    key(
        "hold_resolve",
        Is(Def::Elapsed),
        "A resolve is held back so long: what opens again by then goes on as if it had never ended",
        r#""30m""#,
    ),
    key(
        "reopen_within",
        Is(Def::Elapsed),
        "So long after an end, what opens again stays in its group and its thread",
        r#""24h""#,
    ),
];
/// A step.
pub const STEP: [Key; 3] = [
    key("after", Is(Def::Span), "So long after the exception opened; absent: at once", r#""4h""#),
    key("notify", OneOrMany(Def::Name), "Receivers, or owner", r#"["ops_mail", "owner"]"#),
    key("min_severity", Is(Def::Severity), "Only exceptions at least this bad", r#""high""#),
];

/// `owners:` one entry.
pub const ROUTE: [Key; 3] = [
    key("by", Is(Def::FactName), "The fact that picks", r#""domestic_carrier""#),
    key(
        "to",
        MapOf(&OneOrMany(Def::Name)),
        "Receivers by that fact's value",
        r#"{"correos": ["correos_desk"]}"#,
    ),
    key("default", OneOrMany(Def::Name), "Receivers where none fits", r#"["ops_mail"]"#),
];

/// `inhibit:` one entry.
pub const INHIBIT: [Key; 3] = [
    key("source", Is(Def::ExceptionMatcher), "Which exceptions silence", r#"{"rule": "feed_dark"}"#),
    key("target", Is(Def::ExceptionMatcher), "Which they silence", r#"{"rule": ["silent_tracking"]}"#),
    key("equal", OneOrMany(Def::ExceptionFact), "What both have to share", r#"["parcel_id"]"#),
];

/// `mute:` one entry.
pub const MUTE: [Key; 4] = [
    key("id", Is(Def::Name), "Its name", r#""nights""#),
    key("calendar", Is(Def::Calendar), "In whose open times it mutes", r#""es""#),
    key("outside", Is(Def::Flag), "In its closed times instead", "true"),
    key("match", Is(Def::ExceptionMatcher), "Which exceptions", r#"{"severity": ["info", "warning"]}"#),
];

/// `rates:` one entry.
pub const RATE: [Key; 2] = [
    key("messages", Is(Def::Number), "So many at most", "20"),
    key("per", Is(Def::Elapsed), "In so much time", r#""10m""#),
];
const RATES: Object =
    Object { keys: &RATE, required: &["messages", "per"], about: "How many in how much time" };

const AUDITOR_KEYS: [Key; 3] = [
    key("fallback", Is(Def::Name), "The receiver that is told by another way", r#""ops_mail""#),
    key("dead_mans_switch", Is(Def::Name), "The receiver that is told while all is well", r#""erp""#),
    key("every", Is(Def::Elapsed), "How often it looks", r#""5m""#),
];
/// `auditor`.
pub const AUDITOR: Object =
    Object { keys: &AUDITOR_KEYS, required: &[], about: "Who hears of escalations that stand still" };

const FEED_KEYS: [Key; 3] = [
    key("notify", OneOrMany(Def::Name), "Receivers that are told", r#"["ops_mail"]"#),
    key(
        "silent_after",
        Is(Def::Elapsed),
        "So long any feed may be silent, 2h where absent; more where it was silent longer before",
        r#""2h""#,
    ),
    key(
        "target",
        Is(Def::ExceptionMatcher),
        "Which exceptions are held back meanwhile; absent: all of parcels that last spoke through it",
        r#"{"severity": {"not": "critical"}}"#,
    ),
];
/// `feeds`.
pub const FEEDS: Object =
    Object { keys: &FEED_KEYS, required: &["notify"], about: "Who hears of feeds that do not work" };

/// `calendars:` one entry.
pub const CALENDAR: [Key; 7] = [
    key("id", Is(Def::Name), "Its name, for rules", r#""es""#),
    key("zone", Is(Def::Text), "An IANA time zone", r#""Europe/Madrid""#),
    key(
        "days",
        OneOrMany(Def::Day),
        "Working days; mon to fri where absent",
        r#"["mon", "tue", "wed", "thu", "fri"]"#,
    ),
    key(
        "hours",
        OneOrMany(Def::Hours),
        "Opening hours; the whole day where absent",
        r#"["09:00-14:00", "15:00-18:00"]"#,
    ),
    key("holidays", OneOrAny(Def::Date), "Days that are no working days", r#"["2026-12-25"]"#),
    key("working_days", OneOrAny(Def::Date), "Days of work that are none by the week", r#"["2026-09-26"]"#),
    key(
        "country",
        OneOrMany(Def::Country),
        "For `by_destination`: two capitals, or any for all others",
        r#""ES""#,
    ),
];
