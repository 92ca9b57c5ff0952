//! Is what was decided still to be said? Asked in the transaction that hands a message out for the first time (DESIGN §7): between its
//! decision and its sending somebody may have acknowledged, or all of it may have ended. A message that was handed out before is not
//! asked about: it may have arrived.
//!
//! What is withdrawn leaves no trace at its recipient, so its exceptions are as if they had not been told there: no resolve is owed, and
//! one that waits behind it goes as well. The steps are taken back, so that what stands again climbs them again.

use super::{State, Unsent, Why, Word};

/// What a message says of one exception, and what its recipient hears of that exception otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Saying {
    /// [`super::Case::number`].
    pub exception: i64,
    /// What it says.
    pub word: Word,
    /// Of the ladder, from 1.
    pub step: u32,
    /// As the exception stands now.
    pub state: State,
    /// The latest word of the messages before; `None`: there are none.
    pub before: Option<Word>,
    /// The first word of the messages behind.
    pub after: After,
}

/// What the messages behind say first of an exception.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// Nothing.
    Nothing,
    /// That it stands: it is an opening itself.
    News,
    /// That it ended, in a message that can still be changed.
    End,
    /// That it ended, in a digest, which cannot.
    EndInDigest,
    /// That it ended, in a message that went out, or may have.
    EndSent,
}

/// A message that is not to be sent any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Withdrawn {
    /// [`Why::Acknowledged`] where any of it is, else [`Why::ResolvedBeforeFlush`].
    pub why: Why,
    /// One for each exception.
    pub unsent: Vec<Unsent>,
    /// Exceptions that nobody told its recipient of, each with the step to climb again (0: all of them).
    pub untold: Vec<(i64, u32)>,
    /// Exceptions whose end is told behind it to somebody who never heard of them: to be taken out there.
    pub unopened: Vec<i64>,
}

/// Whether a message that was never handed out is withdrawn; `None`: it goes. One with an end in it always goes, one of which anything
/// still stands unacknowledged goes as it is, and a digest goes unless all of it ended.
#[must_use]
pub fn fence(sayings: &[Saying], is_digest: bool, now: i64) -> Option<Withdrawn> {
    let stands = |s: &Saying| match s.state {
        State::Open => true,
        State::Acknowledged => is_digest,
        State::Resolved => false,
    };
    // A digest counts ends without naming them all: one that ends what is opened here needs this opening.
    let needed = |s: &Saying| !heard(s) && s.after == After::EndInDigest;
    if sayings.is_empty() || sayings.iter().any(|s| s.word == Word::Resolved || stands(s) || needed(s)) {
        return None;
    }
    let why = |s: &Saying| match s.state {
        State::Acknowledged => Why::Acknowledged,
        State::Open | State::Resolved => Why::ResolvedBeforeFlush,
    };
    let unheard = || sayings.iter().filter(|s| !heard(s));
    Some(Withdrawn {
        why: sayings.iter().map(why).min().unwrap_or(Why::ResolvedBeforeFlush),
        unsent: sayings
            .iter()
            .map(|s| Unsent { exception: s.exception, why: why(s), step: s.step, at_ms: now })
            .collect(),
        untold: unheard()
            .filter(|s| s.after == After::Nothing)
            .map(|s| (s.exception, s.step.saturating_sub(1)))
            .collect(),
        unopened: unheard().filter(|s| s.after == After::End).map(|s| s.exception).collect(),
    })
}

/// Its recipient knows that it stands without this message.
fn heard(saying: &Saying) -> bool {
    saying.before.is_some_and(|word| word != Word::Resolved)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saying(exception: i64, state: State) -> Saying {
        Saying { exception, word: Word::Opened, step: 1, state, before: None, after: After::Nothing }
    }

    #[test]
    fn what_anything_stands_of_goes_and_so_does_an_end() {
        let acknowledged = saying(1, State::Acknowledged);
        assert_eq!(fence(&[], false, 0), None, "a test of a receiver holds no news");
        assert_eq!(fence(&[acknowledged, saying(2, State::Open)], false, 0), None);
        let end = Saying { word: Word::Resolved, ..saying(2, State::Resolved) };
        assert_eq!(fence(&[acknowledged, end], false, 0), None);
        assert_eq!(fence(&[acknowledged, saying(2, State::Resolved)], true, 0), None, "a digest");
        assert!(fence(&[saying(2, State::Resolved)], true, 0).is_some());
    }

    #[test]
    fn each_exception_has_its_reason_and_what_follows() {
        let told = Saying { before: Some(Word::Opened), step: 2, ..saying(2, State::Resolved) };
        let ended = Saying { before: Some(Word::Resolved), after: After::End, ..saying(3, State::Resolved) };
        let again = Saying { after: After::News, ..saying(4, State::Acknowledged) };
        let sent = Saying { after: After::EndSent, ..saying(5, State::Resolved) };
        let all = [saying(1, State::Acknowledged), told, ended, again, sent];
        let withdrawn = fence(&all, false, 7).unwrap();
        assert_eq!(withdrawn.why, Why::Acknowledged);
        let why: Vec<_> = withdrawn.unsent.iter().map(|u| (u.exception, u.why.name(), u.step)).collect();
        let (ack, end) = ("acknowledged", "resolved_before_send");
        assert_eq!(why, [(1, ack, 1), (2, end, 2), (3, end, 1), (4, ack, 1), (5, end, 1)]);
        assert_eq!((withdrawn.untold, withdrawn.unopened), (vec![(1, 0)], vec![3]));
        assert_eq!(fence(&[told], false, 7).unwrap().why, Why::ResolvedBeforeFlush);
    }

    #[test]
    fn an_opening_whose_end_is_in_a_digest_goes() {
        let counted = Saying { after: After::EndInDigest, ..saying(1, State::Resolved) };
        assert_eq!(fence(&[counted], false, 0), None);
        assert!(fence(&[Saying { before: Some(Word::Raised), ..counted }], false, 0).is_some());
    }
}
