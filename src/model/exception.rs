//! Exceptions and their changes (DESIGN §6).

use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::Time;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Severity {
    Info = 1,
    Warning = 2,
    High = 3,
    Critical = 4,
}

impl Severity {
    /// All of them, from the least.
    pub const ALL: [Severity; 4] = [Severity::Info, Severity::Warning, Severity::High, Severity::Critical];

    /// Its name in rules, outputs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Severity::Info => "info",
            Severity::Warning => "warning",
            Severity::High => "high",
            Severity::Critical => "critical",
        }
    }

    /// The severity of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Severity> {
        Severity::ALL.into_iter().find(|s| s.name() == name)
    }

    /// The severity of this code (1 to 4).
    #[must_use]
    pub fn from_code(code: u8) -> Option<Severity> {
        Severity::ALL.into_iter().find(|s| *s as u8 == code)
    }
}

/// Why an exception ended: the first that applies, in this order (SEMANTICS 7.3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Resolution {
    SatisfiedLate,
    LateEvidence,
    Terminal,
    Expired,
    ConditionEnded,
    AnchorMoved,
    RuleChanged,
    ByOperator,
    Forgotten,
}

impl Resolution {
    /// All of them.
    pub const ALL: [Resolution; 9] = [
        Resolution::SatisfiedLate,
        Resolution::LateEvidence,
        Resolution::Terminal,
        Resolution::Expired,
        Resolution::ConditionEnded,
        Resolution::AnchorMoved,
        Resolution::RuleChanged,
        Resolution::ByOperator,
        Resolution::Forgotten,
    ];

    /// Its name in outputs and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Resolution::SatisfiedLate => "satisfied_late",
            Resolution::LateEvidence => "late_evidence",
            Resolution::Terminal => "terminal",
            Resolution::Expired => "expired",
            Resolution::ConditionEnded => "condition_ended",
            Resolution::AnchorMoved => "anchor_moved",
            Resolution::RuleChanged => "rule_changed",
            Resolution::ByOperator => "by_operator",
            Resolution::Forgotten => "forgotten",
        }
    }

    /// The resolution of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Resolution> {
        Resolution::ALL.into_iter().find(|r| r.name() == name)
    }
}

/// What happened to an exception.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum ChangeKind {
    /// From nothing to a stage.
    Opened,
    /// To a higher stage or severity.
    Raised,
    /// Ended.
    Resolved(Resolution),
}

impl ChangeKind {
    /// `opened`, `raised` or `resolved`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            ChangeKind::Opened => "opened",
            ChangeKind::Raised => "raised",
            ChangeKind::Resolved(_) => "resolved",
        }
    }
}

/// An exception's identity as 32 hexadecimal digits.
pub type ExceptionId = String;

/// The id of (rule, parcel, episode): the first 16 bytes of the SHA-256 of the three with a zero byte between them. It
/// depends on nothing else, so no retry, replay or second owner can make another (DESIGN §6).
#[must_use]
pub fn exception_id(rule: &str, parcel_id: &str, episode: &str) -> ExceptionId {
    let mut hash = Sha256::new();
    for part in [rule.as_bytes(), b"\0", parcel_id.as_bytes(), b"\0", episode.as_bytes()] {
        hash.update(part);
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// What the engine returns: one change of one exception.
#[derive(Clone, PartialEq, Debug)]
pub struct Change {
    /// Opened, raised or resolved, and why.
    pub kind: ChangeKind,
    /// The rule's id.
    pub rule: Arc<str>,
    /// Index of the rule in the rule set that decided, and of the body in force (0 = the rule's own, n = its n-th
    /// override). `None` where the rule set has no such rule any more.
    pub body: Option<(u16, u16)>,
    /// The parcel.
    pub parcel_id: Box<str>,
    /// The anchor's time that names the episode; `None` is the episode "".
    pub episode: Option<Time>,
    /// Offset of the last record folded.
    pub offset: i64,
    /// The fire time where the clock brought it about, else the append time of the record that did.
    pub at: Time,
    /// Counted from 1; of a resolve, that of the latest opened or raised.
    pub stage: u8,
    /// Of the stage; of a resolve, that of the latest opened or raised.
    pub severity: Severity,
    /// The rule's anchor then.
    pub anchor: Time,
    /// The due time of the stage.
    pub due: Time,
    /// The parcel was open across a gap in the log: the evidence may miss records.
    pub incomplete: bool,
    /// Facts, occurrences and holds that decided it: the JSON object of `engine::evidence`. `None` where the shard was
    /// told not to keep it (backtest).
    pub evidence: Option<Box<str>>,
}

impl Change {
    /// The episode as it is printed: "" or the anchor's time.
    #[must_use]
    pub fn episode_text(&self) -> String {
        self.episode.map(|t| t.to_string()).unwrap_or_default()
    }

    /// The exception's id.
    #[must_use]
    pub fn exception_id(&self) -> ExceptionId {
        exception_id(&self.rule, &self.parcel_id, &self.episode_text())
    }
}
