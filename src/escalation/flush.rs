//! A group's moment: what its members have to say by now becomes messages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::body::{self, Envelope};
use super::digest::{self, Bucket, Budget, Cause, Digest, Gathered, Way};
use super::ladder::{self, Due};
use super::pipeline::Stage;
use super::quiet::{self, Held, Mutes, Quiet};
use super::{
    Case, Evidence, Group, NEVER, Reason, State, Told, Unsent, Why, Word, pipeline, policy_in_force, rest,
};
use crate::model::Time;
use crate::rules::policies::{Policies, Policy, ReceiverKind};

/// Exceptions a message lists at most; the rest goes into further messages (DESIGN §7).
pub const MAX_LISTED: usize = 100;

/// Bytes of listed exceptions a message holds at most, well under what receivers' proxies refuse (1 MiB and up).
const MAX_BYTES: usize = 256 * 1024;
/// A webhook's body: under 20 kB, as Standard Webhooks asks.
const MAX_HOOK_BODY: usize = 19_900;
/// Of it for the list of exceptions: the rest is for what is around it.
const MAX_HOOK_BYTES: usize = 17_000;
/// Exceptions a message to a channel lists: more is not read, and Slack refuses what is too long.
const MAX_CHAT: usize = 30;

/// How many exceptions, and how many bytes of them, a message of this kind lists.
const fn room(kind: &ReceiverKind) -> (usize, usize) {
    match kind {
        ReceiverKind::Webhook { .. } => (MAX_LISTED, MAX_HOOK_BYTES),
        ReceiverKind::Slack { .. } => (MAX_CHAT, MAX_BYTES),
        _ => (MAX_LISTED, MAX_BYTES),
    }
}

/// How many exceptions a full message of this kind usually lists: what a rate is reckoned by before anything is rendered.
const fn usual(kind: &ReceiverKind) -> usize {
    match kind {
        ReceiverKind::Webhook { .. } => 20,
        ReceiverKind::Slack { .. } => MAX_CHAT,
        _ => MAX_LISTED,
    }
}

/// What a flush needs besides the group.
#[derive(Debug, Clone, Copy)]
pub struct Sender<'a> {
    /// The policies in force.
    pub policies: &'a Policies,
    /// `http.public_url`, without a `/` at its end.
    pub public_url: Option<&'a str>,
}

/// An exception that waits for the flush.
#[derive(Debug, Clone, PartialEq)]
pub struct Member {
    /// As it stands.
    pub case: Case,
    /// Who was told and is owed its resolve.
    pub told: BTreeSet<Told>,
    /// What the latest change knew.
    pub evidence: Evidence,
}

impl Member {
    /// One of which nothing else has been read yet.
    #[must_use]
    pub fn unread(case: Case) -> Member {
        Member { case, told: BTreeSet::new(), evidence: Evidence::default() }
    }
}

/// How many of the group stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Open.
    pub open: i64,
    /// Acknowledged.
    pub acknowledged: i64,
    /// Whose end is told by this flush.
    pub resolved: i64,
}

/// A message to one recipient: a row of the outbox.
#[derive(Debug, Clone, PartialEq)]
pub struct Message {
    /// Derived: the same decision has the same id.
    pub id: String,
    /// Whom.
    pub to: Told,
    /// `email` or `webhook`.
    pub integration: &'static str,
    /// Why.
    pub reason: Reason,
    /// The group's subject.
    pub subject: String,
    /// The JSON of DESIGN §11.
    pub body: String,
    /// The group's id.
    pub thread: String,
    /// What it says.
    pub notices: Vec<Notice>,
}

/// One piece of news in a message: its identity (DESIGN §11).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice {
    /// [`Case::number`].
    pub exception: i64,
    /// [`Case::exception_id`].
    pub exception_id: String,
    /// What is said.
    pub word: Word,
    /// The stage.
    pub stage: u8,
    /// Of the ladder, from 1; 0 for a resolve.
    pub step: u32,
    /// The change's `at`.
    pub at: Time,
    /// A reminder's number; else 0.
    pub number: u32,
    /// What the resolve ends: the `at` of the latest opened or raised.
    pub of: Time,
}

/// What a flush decided.
#[derive(Debug, Clone, PartialEq)]
pub struct Flushed {
    /// The group afterwards.
    pub group: Group,
    /// Its members afterwards.
    pub cases: Vec<Case>,
    /// To be sent.
    pub messages: Vec<Message>,
    /// Who was told of which exception (its number) and is owed a resolve.
    pub told: BTreeSet<(i64, Told)>,
    /// Exceptions whose resolves went out: nobody is owed any more.
    pub settled: Vec<i64>,
    /// Not sent, and why.
    pub unsent: Vec<Unsent>,
    /// Digests that grew; only where a [`Budget`] was given.
    pub gathered: Vec<Gathered>,
    /// What recipients may still be sent.
    pub buckets: BTreeMap<Told, Bucket>,
}

/// One exception in a message to somebody.
struct Entry {
    member: usize,
    reason: Reason,
    notice: Notice,
}

type Entries = BTreeMap<(Told, u32), Vec<Entry>>;

/// [`flush_unless`] where no operator keeps quiet and nothing explains anything else.
#[must_use]
pub fn flush(sender: &Sender<'_>, group: Group, members: Vec<Member>, counts: Counts, now: i64) -> Flushed {
    flush_unless(sender, &Quiet::default(), group, members, counts, now)
}

/// Turns what the members have to say at `now` into messages, one for each (receiver, recipient, step), at most [`MAX_LISTED`]
/// exceptions in each. Who is to keep quiet waits for the end of that; a resolve does not.
#[must_use]
pub fn flush_unless(
    sender: &Sender<'_>,
    quiet_now: &Quiet,
    group: Group,
    mut members: Vec<Member>,
    counts: Counts,
    now: i64,
) -> Flushed {
    let mutes = Mutes::at(sender.policies, now);
    let policy = policy_in_force(sender.policies, &group);
    let mut out = Flushed {
        group,
        cases: Vec::new(),
        messages: Vec::new(),
        told: BTreeSet::new(),
        settled: Vec::new(),
        unsent: Vec::new(),
        gathered: Vec::new(),
        buckets: BTreeMap::new(),
    };
    let mut counts = counts;
    let mut entries = Entries::new();
    for (at, member) in members.iter_mut().enumerate() {
        let acknowledged = member.case.state == State::Acknowledged;
        out.unsent.extend(ladder::settle(&mut member.case, policy, now));
        if acknowledged && member.case.state == State::Open {
            counts.open += 1;
            counts.acknowledged -= 1;
        }
        let due = ladder::due(&member.case, policy, now);
        let held = quiet::hold(quiet_now, &mutes, member, now);
        if let Some((stage, why)) = pipeline::held_back(&member.case, &due, held.map(|(h, _)| h.why)) {
            if stage < Stage::Dedup {
                hold_back(&mut member.case, &due, held, now, &mut out.unsent);
                continue;
            }
            if why == Why::ResolvedBeforeFlush {
                out.unsent.push(Unsent::of(&member.case, why, 0, now));
            }
        } else if due.resolve {
            counts.resolved += 1;
            tell_resolve(sender, member, at, now, &mut entries, &mut out);
        } else {
            tell(sender, policy, member, at, &due, now, &mut entries, &mut out);
        }
        rest(&mut member.case, policy, now, &mut out.unsent);
    }
    out.group.flush_ms = NEVER;
    let mut budget = quiet_now.budget.clone();
    for to in digest::recipients(&entries) {
        let steps: Vec<_> =
            entries.range((to.clone(), 0)..=(to.clone(), u32::MAX)).map(|(k, _)| k.1).collect();
        let mut lists: Vec<(u32, Vec<Entry>)> = Vec::new();
        for step in steps {
            lists.extend(entries.remove(&(to.clone(), step)).map(|list| (step, list)));
        }
        match way(sender, policy, &out.group, budget.as_mut(), &to, &lists, now) {
            Way::Tell => {
                for (step, mut list) in lists {
                    list.sort_by(|a, b| order(&members[a.member].case).cmp(&order(&members[b.member].case)));
                    compose(sender, &members, &counts, &to, step, &list, now, &mut out);
                }
            }
            Way::Gather(cause, due) => {
                gather(sender, &members, budget.as_mut(), (to, cause, due), lists, now, &mut out);
            }
        }
    }
    out.buckets = budget.map(|b| b.buckets).unwrap_or_default();
    if !out.messages.is_empty() || !out.gathered.is_empty() {
        out.group.last_ms = now;
    }
    out.cases = members.into_iter().map(|m| m.case).collect();
    out
}

/// How one recipient is told: as ever, or by a digest.
fn way(
    sender: &Sender<'_>,
    policy: &Policy,
    group: &Group,
    budget: Option<&mut Budget>,
    to: &Told,
    lists: &[(u32, Vec<Entry>)],
    now: i64,
) -> Way {
    let Some(receiver) = sender.policies.receiver(&to.receiver) else { return Way::Tell };
    if receiver.kind.keeps_what_stands() {
        return Way::Tell;
    }
    let each = usual(&receiver.kind);
    let messages = |n: usize| i64::try_from(n.div_ceil(each)).unwrap_or(i64::MAX);
    let needed: i64 = lists.iter().map(|(_, list)| messages(list.len())).sum();
    match budget {
        Some(budget) => {
            // The first slice of very many is told as all of them will be.
            let all = messages(usize::try_from(budget.waiting).unwrap_or(0));
            let rate = sender.policies.rate(&to.receiver);
            budget.way(to, policy, group, rate, (needed, needed.max(all)), now)
        }
        None => Budget::default().way(to, policy, group, None, (needed, needed), now),
    }
}

/// Adds what there is to tell to a digest. Where nobody keeps one, it is a message at once.
fn gather(
    sender: &Sender<'_>,
    members: &[Member],
    budget: Option<&mut Budget>,
    (to, cause, due_ms): (Told, Cause, i64),
    lists: Vec<(u32, Vec<Entry>)>,
    now: i64,
    out: &mut Flushed,
) {
    let Some(receiver) = sender.policies.receiver(&to.receiver) else { return };
    let key = (to.clone(), cause.clone());
    let begun = budget.as_ref().and_then(|b| b.gathering.get(&key)).cloned();
    let (mut digest, due_ms) = begun.unwrap_or_else(|| (Digest::begun(&to, &cause, now), due_ms));
    let mut notices = Vec::new();
    for Entry { member, notice: n, .. } in lists.into_iter().flat_map(|(_, list)| list) {
        let Member { case, evidence, .. } = &members[member];
        let listed = match digest.lists(case, n.word) {
            true => body::listed(case, evidence, n.word, n.at, now, sender.public_url),
            false => Value::Null,
        };
        digest.add(case, evidence, &out.group, n.word, listed);
        if !matches!(cause, Cause::Daily(_)) {
            out.unsent.push(Unsent {
                exception: n.exception,
                why: Why::RateLimited,
                step: n.step,
                at_ms: now,
            });
        }
        notices.push(n);
    }
    if let Some(budget) = budget {
        budget.gathering.insert(key, (digest.clone(), due_ms));
        out.gathered.push(Gathered { to, cause, digest, due_ms, notices });
    } else {
        let integration = receiver.kind.integration();
        out.messages.push(digest_message(sender, integration, &to, &cause, &digest, notices, now));
    }
}

/// A digest as it is sent.
#[must_use]
pub fn digest_message(
    sender: &Sender<'_>,
    integration: &'static str,
    to: &Told,
    cause: &Cause,
    digest: &Digest,
    notices: Vec<Notice>,
    now: i64,
) -> Message {
    let most = if integration == "webhook" { MAX_HOOK_BODY } else { MAX_BYTES };
    Message {
        id: digest.id.clone(),
        to: to.clone(),
        integration,
        reason: Reason::Digest,
        subject: digest.subject(cause),
        body: digest.body(to, cause, now, sender.public_url, most),
        thread: digest.thread(cause),
        notices,
    }
}

/// Lets a member wait for the end of what keeps it quiet. That it was so decided is said once for each piece of news.
fn hold_back(case: &mut Case, due: &Due, held: Option<(Held, i64)>, now: i64, unsent: &mut Vec<Unsent>) {
    let Some((held, until)) = held else { return };
    let ladder = &mut case.ladder;
    if ladder.held.is_none_or(|before| (before.why, before.seq) != (held.why, held.seq)) {
        let step = due.steps.last().copied().unwrap_or(0);
        unsent.push(Unsent { exception: case.number, why: held.why, step, at_ms: now });
    }
    ladder.held = Some(held);
    ladder.waiting = false;
    ladder.next_ms = until.max(now + 1);
}

/// The worst first, then the longest overdue.
fn order(case: &Case) -> (std::cmp::Reverse<u8>, Time, &str, &str) {
    (std::cmp::Reverse(case.severity as u8), case.due, &case.parcel_id, &case.exception_id)
}

fn tell_resolve(
    sender: &Sender<'_>,
    member: &mut Member,
    at: usize,
    now: i64,
    entries: &mut Entries,
    out: &mut Flushed,
) {
    let case = &mut member.case;
    let ended = case.resolved.map_or(case.news.at, |(at, _)| at);
    for to in &member.told {
        if sender.policies.receiver(&to.receiver).is_none() {
            out.unsent.push(Unsent::of(case, Why::ReceiverGone, 0, now));
            continue;
        }
        let notice = notice(case, Word::Resolved, 0, ended, 0);
        entries.entry((to.clone(), 0)).or_default().push(Entry {
            member: at,
            reason: Reason::Resolved,
            notice,
        });
    }
    case.ladder.told = false;
    case.ladder.told_seq = case.news.seq;
    out.group.told -= 1;
    out.settled.push(case.number);
}

#[allow(clippy::too_many_arguments, reason = "the parts of one flush")]
fn tell(
    sender: &Sender<'_>,
    policy: &Policy,
    member: &mut Member,
    at: usize,
    due: &Due,
    now: i64,
    entries: &mut Entries,
    out: &mut Flushed,
) {
    let (plan, twice) = plan(sender, policy, member, due);
    let case = &mut member.case;
    if let Some(step) = twice {
        out.unsent.push(Unsent::of(case, Why::Duplicate, step, now));
    }
    let number = case.ladder.reminders + 1;
    let mut reminded = false;
    for (to, (step, reason, word)) in &plan {
        let number = if *word == Word::Reminder { number } else { 0 };
        reminded |= number > 0;
        let notice = notice(case, *word, *step, case.news.at, number);
        entries.entry((to.clone(), *step)).or_default().push(Entry { member: at, reason: *reason, notice });
        out.told.insert((case.number, to.clone()));
    }
    let ladder = &mut case.ladder;
    if plan.is_empty() {
        let step = due.steps.last().copied().unwrap_or(0);
        out.unsent.push(Unsent { exception: case.number, why: Why::NoReceiver, step, at_ms: now });
    } else if !ladder.told {
        ladder.told = true;
        out.group.told += 1;
    }
    ladder.step = ladder.step.max(due.steps.last().copied().unwrap_or(0));
    ladder.told_seq = case.news.seq;
    ladder.told_ms = now;
    ladder.reminders += u32::from(reminded);
}

/// Whom to tell what of one exception: each recipient once, the highest step before a raise before a reminder. And a step, if any, that
/// had a recipient who is told otherwise.
fn plan(
    sender: &Sender<'_>,
    policy: &Policy,
    member: &Member,
    due: &Due,
) -> (BTreeMap<Told, (u32, Reason, Word)>, Option<u32>) {
    let Member { case, told, evidence } = member;
    let ladder = &case.ladder;
    let untold = ladder.told_seq < case.news.seq;
    let was_quiet = ladder.held.is_some_and(|h| h.why != Why::Inhibited && h.seq == case.news.seq);
    let (mut plan, mut twice) = (BTreeMap::new(), None);
    if due.raise || due.reminder {
        let said =
            if due.raise { (Reason::Raised, Word::Raised) } else { (Reason::Reminder, Word::Reminder) };
        let said = if was_quiet { (Reason::MuteEnded, said.1) } else { said };
        for to in told.iter().filter(|t| sender.policies.receiver(&t.receiver).is_some()) {
            plan.insert(to.clone(), (ladder.step.max(1), said.0, said.1));
        }
    }
    let anew = !untold && ladder.round > 0;
    let reason = match case.news.word {
        _ if was_quiet => Reason::MuteEnded,
        Word::Opened if untold => Reason::New,
        _ if untold => Reason::Raised,
        _ if ladder.round > 0 && ladder.told_ms < ladder.start_ms => Reason::AckExpired,
        _ => Reason::Step,
    };
    for &k in &due.steps {
        for receiver in receivers(sender.policies, policy, k, case, evidence) {
            for to in recipients(sender.policies, &receiver) {
                // Who has not heard of it is told the news; there is nothing to be reminded of.
                let word = if anew && told.contains(&to) { Word::Reminder } else { case.news.word };
                if plan.insert(to, (k, reason, word)).is_some_and(|(before, ..)| before > 0) {
                    twice = Some(k);
                }
            }
        }
    }
    (plan, twice)
}

/// The receivers of a step, `owner` spelt out for this parcel; each once.
pub(super) fn receivers(
    policies: &Policies,
    policy: &Policy,
    step: u32,
    case: &Case,
    evidence: &Evidence,
) -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    for name in policy.steps.get(step as usize - 1).map_or(&[][..], |s| &s.notify) {
        if name != "owner" {
            all.insert(name.clone());
            continue;
        }
        let Some(route) = policies.owners.get(&case.body.owner) else { continue };
        let text = route.by.as_ref().and_then(|fact| evidence.facts.get(fact)).map(body::plain);
        all.extend(text.and_then(|t| route.to.get(&t)).unwrap_or(&route.default).iter().cloned());
    }
    all
}

/// Whom a receiver reaches.
#[must_use]
pub fn recipients(policies: &Policies, receiver: &str) -> Vec<Told> {
    let told = |recipient: &str| Told { receiver: receiver.to_owned(), recipient: recipient.to_owned() };
    let kind = policies.receiver(receiver).map(|r| &r.kind);
    kind.map(|k| k.recipients().iter().map(|a| told(a)).collect()).unwrap_or_default()
}

pub(super) fn notice(case: &Case, word: Word, step: u32, at: Time, number: u32) -> Notice {
    Notice {
        exception: case.number,
        exception_id: case.exception_id.clone(),
        word,
        stage: case.stage,
        step,
        at,
        number,
        of: case.news.at,
    }
}

#[allow(clippy::too_many_arguments, reason = "the parts of one flush")]
fn compose(
    sender: &Sender<'_>,
    members: &[Member],
    counts: &Counts,
    to: &Told,
    step: u32,
    list: &[Entry],
    now: i64,
    out: &mut Flushed,
) {
    let Some(receiver) = sender.policies.receiver(&to.receiver) else { return };
    let (most, most_bytes) = room(&receiver.kind);
    let mut rest = list;
    while !rest.is_empty() {
        let (mut taken, mut bytes) = (Vec::new(), 0);
        for entry in &rest[..rest.len().min(most)] {
            let Member { case, evidence, .. } = &members[entry.member];
            let mut item =
                body::listed(case, evidence, entry.notice.word, entry.notice.at, now, sender.public_url);
            let mut size = item.to_string().len();
            if size > most_bytes {
                // A parcel with very long facts: they are in the API.
                item["facts"] = Value::Object(serde_json::Map::new());
                size = item.to_string().len();
            }
            bytes += size + 1;
            if bytes > most_bytes && !taken.is_empty() {
                break;
            }
            taken.push(item);
        }
        let (these, further) = rest.split_at(taken.len());
        rest = further;
        let reason = these.iter().map(|e| e.reason).min().unwrap_or(Reason::Resolved);
        let word = these.iter().map(|e| e.notice.word).min().unwrap_or(Word::Resolved);
        let id = message_id(&out.group.id, to, step, these);
        let envelope = Envelope { id: &id, receiver: &to.receiver, step, reason, word, counts, now };
        out.messages.push(Message {
            body: body::whole(&envelope, &out.group, taken),
            id,
            to: to.clone(),
            integration: receiver.kind.integration(),
            reason,
            subject: out.group.subject(),
            thread: out.group.id.clone(),
            notices: these.iter().map(|e| e.notice.clone()).collect(),
        });
    }
}

/// 32 hexadecimal digits over whom it goes to and what news it holds; the time of sending is no part of it.
fn message_id(group: &str, to: &Told, step: u32, entries: &[Entry]) -> String {
    let mut hash = Sha256::new();
    for part in [group, &to.receiver, &to.recipient] {
        hash.update(part.as_bytes());
        hash.update([0]);
    }
    hash.update(step.to_be_bytes());
    for Entry { notice: n, .. } in entries {
        hash.update(n.exception_id.as_bytes());
        hash.update(n.word.name().as_bytes());
        hash.update([n.stage]);
        hash.update(n.at.0.to_be_bytes());
        hash.update(n.of.0.to_be_bytes());
        hash.update(n.number.to_be_bytes());
    }
    hash.finalize()[..16].iter().map(|b| format!("{b:02x}")).collect()
}
