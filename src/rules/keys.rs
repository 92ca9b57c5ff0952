//! Every key of a file of rules, once: its name, what may stand there, what it means, an example. The reader takes its
//! keys from these tables, and so does the schema: the two cannot drift apart.

/// A key.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// Its name.
    pub name: &'static str,
    /// What may stand there.
    pub form: Form,
    /// What it means, for a person.
    pub about: &'static str,
    /// A value as JSON; "" where the form says enough.
    pub example: &'static str,
}

/// How a value stands there.
#[derive(Clone, Copy, Debug)]
pub enum Form {
    /// One of these.
    Is(Def),
    /// One, or a list that is not empty.
    OneOrMany(Def),
    /// A list that is not empty.
    List(Def),
    /// A list.
    AnyList(Def),
    /// One, or a list.
    OneOrAny(Def),
    /// A mapping from any name to these.
    MapOf(&'static Form),
    /// A mapping with keys of its own.
    Object(&'static Object),
}

/// What a value is. The schema has a definition for each.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the schema's descriptions say it")]
pub enum Def {
    Text,
    Id,
    Name,
    Flag,
    Span,
    Elapsed,
    Tolerance,
    Severity,
    Owner,
    Evidence,
    Anchor,
    Milestone,
    Expected,
    From,
    Matcher,
    ExceptionMatcher,
    Test,
    Scalar,
    Moment,
    Date,
    FactType,
    FactName,
    GroupFact,
    ExceptionFact,
    Pick,
    Mode,
    Calendar,
    Day,
    Hours,
    Country,
    Clock,
    Address,
    Url,
    HttpUrl,
    TemplateFile,
    Secret,
    Number,
    Rule,
    Override,
    Stage,
    DeclaredFact,
    Receiver,
    Policy,
    Step,
    CalendarOf,
    Inhibit,
    Mute,
    OwnerRoute,
}

/// A mapping with keys of its own.
#[derive(Debug)]
pub struct Object {
    /// Its keys.
    pub keys: &'static [Key],
    /// Those that must be there.
    pub required: &'static [&'static str],
    /// What it is.
    pub about: &'static str,
}

/// A key of a table.
pub const fn key(name: &'static str, form: Form, about: &'static str, example: &'static str) -> Key {
    Key { name, form, about, example }
}

/// The names of a table's keys.
pub const fn names<const N: usize>(keys: &[Key; N]) -> [&'static str; N] {
    let mut names = [""; N];
    let mut i = 0;
    while i < N {
        names[i] = keys[i].name;
        i += 1;
    }
    names
}

use Form::{AnyList, Is, List, MapOf, OneOrMany};

/// A file of rules.
pub const FILE: [Key; 5] = [
    key("rules", AnyList(Def::Rule), "The rules", ""),
    key(
        "sets",
        MapOf(&List(Def::Scalar)),
        "Names of lists, shared by all files of the directory: `{in: eu}`",
        r#"{"eu": ["AT", "BE"]}"#,
    ),
    key(
        "facts",
        List(Def::DeclaredFact),
        "Facts of your own: known to all rules of the directory from here on",
        r#"[{"name": "warehouse_zone", "type": "text"}]"#,
    ),
    key("calendars", List(Def::CalendarOf), "Working days, hours and holidays", ""),
    key(
        "reported_within",
        MapOf(&Is(Def::Elapsed)),
        "How late the reports of a milestone may be: `check` warns of windows that are shorter",
        r#"{"domestic_scan": "12h"}"#,
    ),
];

/// A rule.
pub const RULE: [Key; 32] = [
    key(
        "id",
        Is(Def::Id),
        "A stable name in snake_case; never reused for another meaning",
        r#""cleared_no_domestic_scan""#,
    ),
    key(
        "title",
        Is(Def::Text),
        "The sentence people read when it is late",
        r#""Cleared, but not scanned by the domestic carrier""#,
    ),
    key(
        "description",
        Is(Def::Text),
        "What the rule is for, and why",
        r#""Within two days the carrier must have scanned it.""#,
    ),
    key(
        "after",
        OneOrMany(Def::Anchor),
        "The anchor: from where the clock runs. Of a list the earliest",
        r#""import_customs_cleared""#,
    ),
    key("before", Is(Def::Anchor), "The anchor lies ahead: stages count back from it", r#""guarantee_end""#),
    key(
        "pick",
        Is(Def::Pick),
        "Which occurrence of the anchor: the first (default), or the last, each an episode of its own",
        r#""last""#,
    ),
    key("scope", Is(Def::Matcher), "Which parcels; absent: all", r#"{"destination": ["ES", "FR"]}"#),
    key(
        "holds",
        Form::Object(&HOLDS),
        "Which holds of customs this rule sees",
        r#"{"reason": "duty_unpaid"}"#,
    ),
    key(
        "unless",
        Is(Def::Matcher),
        "Not live while this holds",
        r#"{"duty_status": ["unpaid", "collect_on_delivery"]}"#,
    ),
    key(
        "while",
        Is(Def::Matcher),
        "Live only while this holds; when it ends, the exception resolves",
        r#"{"holds_open": {"gt": 0}}"#,
    ),
    key(
        "restart",
        Is(Def::Flag),
        "The clock begins anew when `while` and `unless` let the rule live again",
        "true",
    ),
    key(
        "expect",
        OneOrMany(Def::Expected),
        "What ends it well: any of these. Absent: nothing does",
        r#"["domestic_scan", "delivered"]"#,
    ),
    key(
        "evidence",
        OneOrMany(Def::Evidence),
        "Only occurrences of these classes satisfy",
        r#""physical_scan""#,
    ),
    key(
        "tolerance",
        Is(Def::Tolerance),
        "How much earlier than the anchor the expected may be; any: whatever its time",
        r#""14h""#,
    ),
    key("grace", Is(Def::Elapsed), "Time after the anchor became known before anything fires", r#""2h""#),
    key(
        "reporting_delay",
        Is(Def::Elapsed),
        "How long reports that are on their way are waited for",
        r#""6h""#,
    ),
    key("zone_slack", Is(Def::Elapsed), "More time where the anchor's time zone was a guess", r#""14h""#),
    key("until", Is(Def::Elapsed), "So long after the anchor it is over, whatever happened", r#""15d""#),
    key(
        "calendar",
        Is(Def::Calendar),
        "What the stages count in: elapsed (default), by_destination, or a calendar of policies.yaml",
        r#""elapsed""#,
    ),
    key(
        "stages",
        List(Def::Stage),
        "When it is late, and how bad that is",
        r#"[{"at": "24h", "severity": "warning"}, {"at": "48h", "severity": "high"}]"#,
    ),
    key("within", Is(Def::Span), "Short for one stage; with `severity`", r#""48h""#),
    key("severity", Is(Def::Severity), "Of stages that name none", r#""high""#),
    key("owner", Is(Def::Owner), "Whose it is; `notify: [owner]` of a policy reaches them", r#""carrier""#),
    key("policy", Is(Def::Name), "Who is told, when: a policy of policies.yaml", r#""handoff""#),
    key(
        "labels",
        MapOf(&Is(Def::Text)),
        "Words of your own, shown with the exception",
        r#"{"team": "customs"}"#,
    ),
    key(
        "overrides",
        List(Def::Override),
        "The first whose `match` holds replaces keys of the rule, alone",
        "",
    ),
    key(
        "effective",
        Form::Object(&EFFECTIVE),
        "Only anchors within these times count",
        r#"{"from": "2026-10-01"}"#,
    ),
    key("enabled", Is(Def::Flag), "false: checked, and left out", "true"),
    key("mode", Is(Def::Mode), "shadow: decided and shown, nobody is told", r#""shadow""#),
    key("version", Is(Def::Text), "Yours, for the record", r#""2026-10""#),
    key(
        "runbook",
        Is(Def::Text),
        "What is to be done, or where that is written",
        r#""Ask the carrier for the parcel by its own number.""#,
    ),
    key(
        "after_terminal",
        Is(Def::Flag),
        "Live also for parcels that are delivered, refused, returned, lost or cancelled; needs `until`",
        "true",
    ),
];

/// `match` of an override.
pub const MATCH: Key = key(
    "match",
    Is(Def::Matcher),
    "For which parcels, by the facts of the moment",
    r#"{"domestic_carrier": "correos"}"#,
);

/// A stage.
pub const STAGE: [Key; 2] = [
    key("at", Is(Def::Span), "So long after (or before) the anchor", r#""24h""#),
    key("severity", Is(Def::Severity), "How bad it is then", r#""warning""#),
];

const HOLDS_KEYS: [Key; 2] = [
    key(
        "reason",
        OneOrMany(Def::Text),
        "Only holds for one of these reasons",
        r#"["duty_unpaid", "value_query"]"#,
    ),
    key("authority", OneOrMany(Def::Text), "Only holds by one of these authorities", r#""cbp""#),
];
/// `holds`.
pub const HOLDS: Object =
    Object { keys: &HOLDS_KEYS, required: &[], about: "Holds of customs, by reason and authority" };

const EFFECTIVE_KEYS: [Key; 2] = [
    key("from", Is(Def::Moment), "Anchors from here on", r#""2026-10-01""#),
    key("to", Is(Def::Moment), "Anchors before this", r#""2027-01-01T00:00:00+01:00""#),
];
/// `effective`.
pub const EFFECTIVE: Object =
    Object { keys: &EFFECTIVE_KEYS, required: &[], about: "From when to when; either may be missing" };

/// A declared fact.
pub const FACT: [Key; 2] = [
    key("name", Is(Def::FactName), "As events name it; a dot looks inside an object", r#""warehouse_zone""#),
    key("type", Is(Def::FactType), "What it holds; text where absent", r#""text""#),
];

/// An entry of `expect` that stands for a milestone and all later ones.
pub const FROM: [Key; 1] = [key(
    "from",
    Is(Def::Milestone),
    "This milestone or any that comes later on the way",
    r#""domestic_scan""#,
)];
