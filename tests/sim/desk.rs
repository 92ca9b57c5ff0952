//! What cases keeps for the escalation, without a database: rows of exceptions, groups, who was told, the outbox. What a
//! committed change does to its row is told by DESIGN §6 and §7 and SEMANTICS 8.2.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use parcelwatch::escalation::{
    Ack, After, Body, Budget, Case, Counts, Evidence, Flushed, Group, Ladder, Member, Message, NEVER, News,
    Notice, Opening, Reason, Saying, Sender, Silence, State, Told, Unsent, Why, Word, digest_message, fence,
    group_of, policy_of,
};
use parcelwatch::model::{Change, ChangeKind, Resolution, Severity, Time};
use parcelwatch::rules::Policies;

/// A row of the outbox with its fate.
pub struct Row {
    pub message: Message,
    pub decided_ms: i64,
    pub delivered: bool,
    pub dead: bool,
    /// It was handed out: it may have arrived.
    pub out: bool,
    pub withdrawn: bool,
    pub due_ms: i64,
}

impl Row {
    /// Nothing more becomes of it.
    pub fn done(&self) -> bool {
        self.delivered || self.dead || self.withdrawn
    }
}

/// Everything durable.
#[derive(Default)]
pub struct Desk {
    /// By number.
    pub cases: BTreeMap<i64, Case>,
    numbers: BTreeMap<String, i64>,
    pub groups: BTreeMap<String, Group>,
    pub told: BTreeMap<i64, BTreeSet<Told>>,
    evidence: BTreeMap<i64, Evidence>,
    pub outbox: Vec<Row>,
    pub unsent: Vec<Unsent>,
    pub silences: Vec<Silence>,
    pub budget: Budget,
    /// Entries that became part of a digest, and those of the digests that were sent.
    pub gathered: u64,
    pub digested: u64,
    /// What was ever said and not withdrawn, in the order of decisions: to whom, when, in which message.
    pub said: Vec<(Told, Notice, i64, String)>,
    /// What a digest that is being gathered says last of each exception.
    latest: BTreeMap<String, BTreeMap<i64, Notice>>,
    seq: i64,
}

impl Desk {
    /// A shard's transaction.
    pub fn commit(&mut self, change: &Change, policies: &Policies, policy: &str, now: i64) {
        self.seq += 1;
        let id = change.exception_id();
        let next = self.numbers.len() as i64 + 1;
        let number = *self.numbers.entry(id.clone()).or_insert(next);
        let seq = self.seq;
        self.wake_explained(number, now);
        let case = self.cases.entry(number).or_insert_with(|| fresh(change, number, id, policy, now));
        let opened = change.kind == ChangeKind::Opened;
        if let Some(text) = &change.evidence {
            self.evidence.insert(number, Evidence::parse(text));
        }
        if let ChangeKind::Resolved(resolution) = change.kind {
            case.engine_open = false;
            if case.state == State::Resolved {
                return;
            }
            (case.state, case.resolved) = (State::Resolved, Some((change.at, resolution)));
            case.ladder.ended_ms = now;
            case.ladder.held = None;
            if case.ladder.told || case.ladder.waiting {
                case.ladder.next_ms = now;
            } else {
                case.ladder.next_ms = NEVER;
                let why = parcelwatch::escalation::Why::ResolvedBeforeFlush;
                self.unsent.push(Unsent { exception: number, why, step: 0, at_ms: now });
            }
            return;
        }
        let anew = opened || case.state == State::Resolved || change.severity > case.highest_severity;
        if opened {
            (case.opened_at, case.opened_ms) = (change.at, now);
            (case.highest_stage, case.highest_severity) = (0, Severity::Info);
        }
        case.engine_open = true;
        (case.stage, case.severity, case.anchor, case.due) =
            (change.stage, change.severity, change.anchor, change.due);
        case.highest_stage = case.highest_stage.max(change.stage);
        case.highest_severity = case.highest_severity.max(change.severity);
        let word = if opened { Word::Opened } else { Word::Raised };
        case.news = News { word, at: change.at, seq };
        if opened || case.state == State::Resolved {
            case.ladder.held = None;
        }
        if anew {
            (case.state, case.ack, case.resolved) = (State::Open, None, None);
            (case.ladder.start_ms, case.ladder.round, case.ladder.step) = (now, 0, 0);
        }
        case.ladder.next_ms = now;
        if opened {
            let facts = self.evidence.get(&number).cloned().unwrap_or_default().facts;
            let opening = Opening {
                rule: &case.rule,
                parcel_id: &case.parcel_id,
                owner: &case.body.owner,
                severity: case.severity,
                facts: &facts,
            };
            let policy = policy_of(policies, Some(&case.body.policy)).expect("there is a default policy");
            let group = group_of(policy, &opening);
            case.group_id.clone_from(&group.id);
            self.groups.entry(group.id.clone()).or_insert(group);
        }
    }

    pub fn acknowledge(&mut self, number: i64, now: i64) {
        let Some(case) = self.cases.get_mut(&number).filter(|c| c.state == State::Open) else { return };
        case.state = State::Acknowledged;
        case.ack = Some(Ack { by: "ana".into(), comment: String::new(), at_ms: now });
        case.ladder.next_ms = now;
    }

    pub fn unacknowledge(&mut self, number: i64, now: i64) {
        let Some(case) = self.cases.get_mut(&number).filter(|c| c.state == State::Acknowledged) else {
            return;
        };
        (case.state, case.ack) = (State::Open, None);
        (case.ladder.start_ms, case.ladder.step) = (now, 0);
        case.ladder.round += 1;
        case.ladder.next_ms = now;
    }

    /// What an exception explained, or a feed (a negative number), is looked at again.
    pub fn wake_explained(&mut self, source: i64, now: i64) {
        for case in self.cases.values_mut() {
            if case.ladder.held.is_some_and(|h| h.why == Why::Inhibited && h.by == source) {
                case.ladder.next_ms = now;
            }
        }
    }

    /// A silence ends before its time.
    pub fn end_silence(&mut self, number: i64, now: i64) {
        for silence in self.silences.iter_mut().filter(|s| s.number == number && s.ends_ms > now) {
            silence.ends_ms = now;
        }
        for case in self.cases.values_mut() {
            if case.ladder.held.is_some_and(|h| h.why == Why::Silenced && h.by == number) {
                case.ladder.next_ms = case.ladder.next_ms.min(now);
            }
        }
    }

    /// All with what their latest changes knew.
    pub fn known(&self) -> impl Iterator<Item = (&Case, &Evidence)> {
        self.cases.values().filter_map(|c| Some((c, self.evidence.get(&c.number)?)))
    }

    pub fn resolve(&mut self, number: i64, now: i64) {
        self.wake_explained(number, now);
        let Some(case) = self.cases.get_mut(&number).filter(|c| c.state != State::Resolved) else { return };
        case.state = State::Resolved;
        case.resolved = Some((Time(now), Resolution::ByOperator));
        case.ladder.next_ms = now;
    }

    /// Exceptions whose time has come.
    pub fn due(&self, now: i64) -> Vec<Case> {
        self.cases.values().filter(|c| c.ladder.next_ms <= now).cloned().collect()
    }

    /// The escalator's first transaction.
    pub fn write_step(&mut self, groups: BTreeMap<String, Group>, cases: Vec<Case>, unsent: Vec<Unsent>) {
        self.groups.extend(groups);
        self.cases.extend(cases.into_iter().map(|c| (c.number, c)));
        self.unsent.extend(unsent);
    }

    pub fn members(&self, group: &str) -> (Vec<Member>, Counts) {
        let of = |c: &&Case| c.group_id == group;
        let mut counts = Counts::default();
        for case in self.cases.values().filter(of) {
            counts.open += i64::from(case.state == State::Open);
            counts.acknowledged += i64::from(case.state == State::Acknowledged);
        }
        let waiting = self.cases.values().filter(of).filter(|c| c.ladder.waiting);
        let members = waiting.map(|c| Member {
            case: c.clone(),
            told: self.told.get(&c.number).cloned().unwrap_or_default(),
            evidence: self.evidence.get(&c.number).cloned().unwrap_or_default(),
        });
        (members.collect(), counts)
    }

    /// The escalator's second transaction: ladders, who was told, the outbox.
    pub fn write_flush(&mut self, flushed: Flushed, now: i64) {
        for message in flushed.messages {
            assert!(message.notices.len() <= 100, "a message lists {}", message.notices.len());
            let known = self.outbox.iter().any(|r| r.message.id == message.id && !r.withdrawn);
            assert!(!known, "two decisions have one id: {message:?}");
            for n in &message.notices {
                self.said.push((message.to.clone(), n.clone(), now, message.id.clone()));
            }
            self.outbox.push(Row {
                message,
                decided_ms: now,
                delivered: false,
                dead: false,
                out: false,
                withdrawn: false,
                due_ms: now,
            });
        }
        self.budget.buckets.extend(flushed.buckets);
        for g in flushed.gathered {
            for n in &g.notices {
                // Of what ended and stands again a digest lists only that it stands.
                let (id, anew) = (&g.digest.id, n.word != Word::Resolved);
                let ended = |o: &Notice| anew && (o.exception, o.word) == (n.exception, Word::Resolved);
                self.said.retain(|(_, o, _, message)| message != id || !ended(o));
                self.said.push((g.to.clone(), n.clone(), now, id.clone()));
                self.latest.entry(g.digest.id.clone()).or_default().insert(n.exception, n.clone());
            }
            self.gathered += g.notices.len() as u64;
            self.budget.gathering.insert((g.to, g.cause), (g.digest, g.due_ms));
        }
        for (number, to) in flushed.told {
            self.told.entry(number).or_default().insert(to);
        }
        for number in flushed.settled {
            self.told.remove(&number);
        }
        self.groups.insert(flushed.group.id.clone(), flushed.group);
        self.cases.extend(flushed.cases.into_iter().map(|c| (c.number, c)));
        self.unsent.extend(flushed.unsent);
    }
}

impl Desk {
    /// Digests whose time has come.
    pub fn send_digests(&mut self, sender: &Sender<'_>, now: i64) {
        let due: Vec<_> = self
            .budget
            .gathering
            .iter()
            .filter(|(_, (_, due))| *due <= now)
            .map(|(key, _)| key.clone())
            .collect();
        for (to, cause) in due {
            let Some((digest, _)) = self.budget.gathering.remove(&(to.clone(), cause.clone())) else {
                continue;
            };
            self.digested += digest.total;
            if sender.policies.receiver(&to.receiver).is_none() {
                continue;
            }
            let notices = self.latest.remove(&digest.id).unwrap_or_default().into_values().collect();
            let message = digest_message(sender, "email", &to, &cause, &digest, notices, now);
            let known = self.outbox.iter().any(|r| r.message.id == message.id);
            assert!(!known, "two digests have one id: {message:?}");
            self.outbox.push(Row {
                message,
                decided_ms: now,
                delivered: false,
                dead: false,
                out: false,
                withdrawn: false,
                due_ms: now,
            });
        }
    }
}

impl Desk {
    /// Asks of a message that is to be handed out for the first time whether it is still to be said.
    pub fn fence(&mut self, at: usize, now: i64) {
        let row = &self.outbox[at];
        let sayings: Vec<Saying> = row.message.notices.iter().map(|n| self.saying(at, n)).collect();
        let Some(withdrawn) = fence(&sayings, row.message.reason == Reason::Digest, now) else { return };
        let (to, id) = (row.message.to.clone(), row.message.id.clone());
        self.outbox[at].withdrawn = true;
        self.said.retain(|(.., message)| *message != id);
        self.unsent.extend(withdrawn.unsent);
        // A digest, which has a thread of its own, overtook the opening and counted its end: an opening after that would be worse.
        for s in sayings
            .iter()
            .filter(|s| s.after == After::EndSent && s.before.is_none_or(|w| w == Word::Resolved))
        {
            let overtook =
                |r: &&Row| r.message.to == to && r.message.notices.iter().any(|n| n.exception == s.exception);
            let end = self.outbox[at + 1..].iter().filter(|r| !r.withdrawn).find(overtook).expect("its end");
            assert_eq!(end.message.reason, Reason::Digest);
            self.said.retain(|(_, n, _, message)| n.exception != s.exception || *message != end.message.id);
        }
        for (number, step) in withdrawn.untold {
            let case = self.cases.get_mut(&number).expect("it is there");
            case.ladder.step = case.ladder.step.min(step);
            let Some(told) = self.told.get_mut(&number) else { continue };
            told.remove(&to);
            if told.is_empty() {
                self.told.remove(&number);
                case.ladder.told = false;
                self.groups.get_mut(&case.group_id).expect("it has a group").told -= 1;
            }
        }
        for number in withdrawn.unopened {
            let behind =
                |r: &&mut Row| r.message.to == to && r.message.notices.iter().any(|n| n.exception == number);
            let end =
                self.outbox[at + 1..].iter_mut().filter(|r| !r.withdrawn).find(behind).expect("its end");
            assert!(!end.out);
            end.message.notices.retain(|n| n.exception != number);
            end.withdrawn = end.message.notices.is_empty();
            let id = &end.message.id;
            self.said.retain(|(_, n, _, message)| n.exception != number || message != id);
        }
    }

    /// What a message says of an exception, among what its recipient hears of it otherwise.
    fn saying(&self, at: usize, n: &Notice) -> Saying {
        let to = &self.outbox[at].message.to;
        let says = |r: &Row| {
            let mine = !r.withdrawn && r.message.to == *to;
            r.message
                .notices
                .iter()
                .find(|o| mine && o.exception == n.exception)
                .map(|o| (o.word, r.message.reason, r.out))
        };
        let gathered = self.budget.gathering.iter().filter(|((other, _), _)| other == to);
        let mut gathered =
            gathered.filter_map(|(_, (digest, _))| self.latest.get(&digest.id)?.get(&n.exception));
        let after = match self.outbox[at + 1..].iter().find_map(says) {
            Some((Word::Resolved, _, true)) => After::EndSent,
            Some((Word::Resolved, Reason::Digest, false)) => After::EndInDigest,
            Some((Word::Resolved, ..)) => After::End,
            Some(_) => After::News,
            None => match gathered.next().map(|n| n.word) {
                Some(Word::Resolved) => After::EndInDigest,
                Some(_) => After::News,
                None => After::Nothing,
            },
        };
        Saying {
            exception: n.exception,
            word: n.word,
            step: n.step,
            state: self.cases[&n.exception].state,
            before: self.outbox[..at].iter().rev().find_map(says).map(|(word, ..)| word),
            after,
        }
    }
}

fn fresh(change: &Change, number: i64, id: String, policy: &str, now: i64) -> Case {
    Case {
        number,
        exception_id: id,
        rule: change.rule.to_string(),
        parcel_id: change.parcel_id.to_string(),
        episode: change.episode_text(),
        partition: 0,
        state: State::Open,
        engine_open: true,
        stage: change.stage,
        severity: change.severity,
        highest_stage: 0,
        highest_severity: Severity::Info,
        anchor: change.anchor,
        due: change.due,
        opened_at: change.at,
        opened_ms: now,
        news: News { word: Word::Opened, at: change.at, seq: 0 },
        evidence_seq: 0,
        resolved: None,
        ack: None,
        incomplete: false,
        body: Arc::new(Body { policy: policy.into(), owner: "carrier".into(), ..Body::default() }),
        group_id: String::new(),
        ladder: Ladder { start_ms: now, ..Ladder::default() },
    }
}
