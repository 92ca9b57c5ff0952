//! The second fold: what stands, the wall clock and what operators did → who is told what (DESIGN §7). Pure: it is
//! handed everything, the time too, and cannot fail.
//!
//! There are two calls. [`step`] looks at exceptions whose time has come: each says nothing (and when to look again), or waits
//! for the next flush of its group, which it brings forward. [`flush()`] is a group's moment: what its members have to say *by
//! then* becomes messages. Nothing is remembered between the calls but what they return, and that is written in one
//! transaction with the messages ([`crate::cases::Escalation`]); so a crash anywhere repeats the decision or none.
//!
//! Timers are derived: [`ladder::next_look`] from an exception's row, [`Group::schedule`] from its group's. A new
//! change, an operator's action, new policies or the end of a backlog just make an exception's time come.

pub mod audit;
pub mod body;
mod case;
pub mod digest;
pub mod feeds;
mod fence;
mod flush;
mod group;
pub mod ladder;
mod letters;
pub mod pipeline;
pub mod quiet;

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};

use crate::rules::policies::{Policies, Policy};

pub use case::{Ack, Body, Case, Evidence, Group, Ladder, NEVER, News, Reason, State, Told, Word};
pub use digest::{Bucket, Budget, Cause, Digest, Gathered};
pub use fence::{After, Saying, Withdrawn, fence};
pub use flush::{
    Counts, Flushed, MAX_LISTED, Member, Message, Notice, Sender, digest_message, flush, flush_unless,
    recipients,
};
pub use group::{Opening, group_of, policy_of};
pub use letters::{Unreachable, tell_others};
pub use quiet::{Held, Quiet, Silence};

/// Why something was not sent; kept with the exception, so that nobody need guess.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum Why {
    Acknowledged,
    BelowSeverity,
    Duplicate,
    Grouped,
    Inhibited,
    Muted,
    NoPolicy,
    NoReceiver,
    NothingNew,
    RateLimited,
    ReceiverGone,
    ResolvedBeforeFlush,
    Silenced,
}

impl Why {
    /// All of them.
    pub const ALL: [Why; 13] = [
        Why::Acknowledged,
        Why::BelowSeverity,
        Why::Duplicate,
        Why::Grouped,
        Why::Inhibited,
        Why::Muted,
        Why::NoPolicy,
        Why::NoReceiver,
        Why::NothingNew,
        Why::RateLimited,
        Why::ReceiverGone,
        Why::ResolvedBeforeFlush,
        Why::Silenced,
    ];

    /// The reason of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Why> {
        Why::ALL.into_iter().find(|w| w.name() == name)
    }

    /// Its name in SQL and outputs.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Why::Acknowledged => "acknowledged",
            Why::BelowSeverity => "min_severity",
            Why::Duplicate => "duplicate",
            Why::Grouped => "grouped",
            Why::Inhibited => "inhibited",
            Why::Muted => "muted",
            Why::NoPolicy => "no_policy",
            Why::NoReceiver => "no_receiver",
            Why::NothingNew => "nothing_new",
            Why::RateLimited => "rate_limited",
            Why::ReceiverGone => "receiver_disabled",
            Why::ResolvedBeforeFlush => "resolved_before_send",
            Why::Silenced => "silenced",
        }
    }
}

/// A decision not to send.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Unsent {
    /// [`Case::number`].
    pub exception: i64,
    /// Why.
    pub why: Why,
    /// Which step, counted from 1; 0: of no step.
    pub step: u32,
    /// Wall time.
    pub at_ms: i64,
}

impl Unsent {
    fn of(case: &Case, why: Why, step: u32, at_ms: i64) -> Unsent {
        Unsent { exception: case.number, why, step, at_ms }
    }
}

/// 32 hexadecimal digits of the SHA-256 over parts: an id that is the same for the same.
#[must_use]
pub fn id_of(parts: &[&str]) -> String {
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}

/// Where neither the group's policy nor a default one exists any more: nobody new is told, resolves still go.
static NO_POLICY: Policy = Policy {
    id: String::new(),
    group_by: Vec::new(),
    group_wait: 0,
    group_interval: 0,
    repeat_every: None,
    ack_timeout: None,
    steps: Vec::new(),
    show: Vec::new(),
    calendar: None,
    spans: Vec::new(),
    digest_at: None,
    comment_needed: false,
    hold_resolve: 0,
    reopen_within: 0,
};

fn policy_in_force<'a>(policies: &'a Policies, group: &Group) -> &'a Policy {
    policy_of(policies, Some(&group.policy)).unwrap_or(&NO_POLICY)
}

/// Looks at exceptions whose `next_ms` has come. Changes them and the groups (by id) in place: who has something to say waits, its
/// group's flush is scheduled; who has not learns when to look again.
pub fn step(
    policies: &Policies,
    groups: &mut BTreeMap<String, Group>,
    cases: &mut [Case],
    now: i64,
) -> Vec<Unsent> {
    let mut unsent = Vec::new();
    for case in cases {
        let Some(group) = groups.get_mut(&case.group_id) else {
            case.ladder.next_ms = NEVER;
            continue;
        };
        let policy = policy_in_force(policies, group);
        let waited = case.ladder.waiting;
        unsent.extend(ladder::settle(case, policy, now));
        let due = ladder::due(case, policy, now);
        match pipeline::held_back(case, &due, None) {
            None => {
                case.ladder.waiting = true;
                case.ladder.next_ms = NEVER;
                group.schedule(policy, now);
            }
            Some((_, why)) => {
                if waited && why == Why::ResolvedBeforeFlush {
                    unsent.push(Unsent::of(case, why, 0, now));
                }
                rest(case, policy, now, &mut unsent);
            }
        }
    }
    unsent
}

/// It has nothing to say: look again when it will.
fn rest(case: &mut Case, policy: &Policy, now: i64, unsent: &mut Vec<Unsent>) {
    if policy.steps.is_empty() && case.state == State::Open && case.ladder.told_seq < case.news.seq {
        unsent.push(Unsent::of(case, Why::NoPolicy, 0, now));
        case.ladder.told_seq = case.news.seq;
    }
    case.ladder.waiting = false;
    case.ladder.held = None;
    case.ladder.next_ms = ladder::next_look(case, policy);
}
