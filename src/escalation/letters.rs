//! Dead letters: what a receiver could not be told is told to others (DESIGN §7). One summary to each of them, whatever the number of
//! messages.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::body::Own;
use super::flush::{notice, receivers, recipients};
use super::{Group, Member, Message, Reason, Sender, State, Told, body, id_of, ladder, policy_in_force};

/// Exceptions listed by name.
const TOP: usize = 20;

/// What became of the messages to a receiver.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreachable {
    /// The receiver's id.
    pub receiver: String,
    /// Messages given up.
    pub messages: i64,
    /// Of the latest: its class.
    pub reason: String,
    /// Of the latest: for people.
    pub detail: String,
}

/// Tells of what stands, and what a receiver was not reached about, to the receivers of the same policies' steps that were not told yet;
/// of what there are none for, to the auditor's fallback. `members` are the worst first. What is acknowledged or kept quiet is nobody's
/// concern now.
#[must_use]
pub fn tell_others(
    sender: &Sender<'_>,
    dead: &Unreachable,
    groups: &BTreeMap<String, Group>,
    members: &[Member],
    now: i64,
) -> Vec<Message> {
    let mut lists: BTreeMap<Told, Vec<&Member>> = BTreeMap::new();
    for member in members {
        let case = &member.case;
        let Some(group) = groups.get(&case.group_id) else { continue };
        if case.state != State::Open || case.ladder.held.is_some() || !case.ladder.told {
            continue;
        }
        for receiver in others(sender, group, member, &dead.receiver) {
            for to in recipients(sender.policies, &receiver) {
                lists.entry(to).or_default().push(member);
            }
        }
    }
    lists.into_iter().filter_map(|(to, list)| compose(sender, dead, to, &list, now)).collect()
}

/// Whom to tell of one exception.
fn others(sender: &Sender<'_>, group: &Group, member: &Member, dead: &str) -> BTreeSet<String> {
    let Member { case, told, evidence } = member;
    let policy = policy_in_force(sender.policies, group);
    let untold = |id: &String| id != dead && told.iter().all(|t| t.receiver != *id);
    let steps = (1..).zip(&policy.steps).filter(|(_, step)| ladder::meant_for(step, case.severity));
    let mut all: BTreeSet<String> = steps
        .flat_map(|(k, _)| receivers(sender.policies, policy, k, case, evidence))
        .filter(untold)
        .collect();
    if all.is_empty() {
        all.extend(sender.policies.auditor.fallback.clone().filter(untold));
    }
    all
}

fn compose(sender: &Sender<'_>, dead: &Unreachable, to: Told, list: &[&Member], now: i64) -> Option<Message> {
    let integration = sender.policies.receiver(&to.receiver)?.kind.integration();
    let thread = id_of(&["dead letters", &dead.receiver]);
    let id = id_of(&["dead letters", &dead.receiver, &to.receiver, &to.recipient, &now.to_string()]);
    let listed: Vec<Value> = list
        .iter()
        .take(TOP)
        .map(|m| {
            let news = m.case.news;
            body::listed(&m.case, &m.evidence, news.word, news.at, now, sender.public_url)
        })
        .collect();
    let summary = [
        format!(
            "Receiver {} could not be reached: {} messages were given up, the latest because of {} ({}).",
            dead.receiver, dead.messages, dead.reason, dead.detail
        ),
        format!("It was to be told of {} exceptions that stand and that you have not heard of.", list.len()),
        "Correct the receiver, or act in its place; what ends is told to you as well.".to_owned(),
    ];
    let mut body = body::own(&Own {
        kind: "exceptions.digest",
        reason: Reason::Digest.name(),
        id: &id,
        receiver: &to.receiver,
        thread: &thread,
        state: State::Open,
        summary: &summary,
        now,
    });
    let data = &mut body["data"];
    data["counts"]["open"] = list.len().into();
    data["truncated"] = (list.len() - listed.len()).into();
    data["exceptions"] = listed.into();
    Some(Message {
        id,
        integration,
        reason: Reason::Digest,
        subject: format!("[parcelwatch] receiver {} could not be reached", dead.receiver),
        body: body.to_string(),
        thread,
        notices: list
            .iter()
            .map(|m| notice(&m.case, m.case.news.word, m.case.ladder.step.max(1), m.case.news.at, 0))
            .collect(),
        to,
    })
}
