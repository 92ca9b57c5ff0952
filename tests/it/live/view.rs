//! What a person saw: the messages of one recipient in the order in which they arrived, repeats dropped, and what must hold of them whatever
//! happened on the way.

use std::collections::{BTreeMap, BTreeSet};

/// A message as it arrived.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The notification's id: the same on every try.
    pub id: String,
    /// It counts many exceptions rather than telling of each.
    pub digest: bool,
    /// When it was decided, ms since 1970.
    pub decided_ms: i64,
    /// Exception id → the last thing told of it: `opened`, `raised`, `resolved`.
    pub told: BTreeMap<String, String>,
}

/// What is known of an exception from outside.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// It stands no more.
    pub resolved: bool,
    /// When somebody's acknowledgement was confirmed, ms since 1970.
    pub acknowledged_ms: Option<i64>,
}

/// What is wrong with what a person saw; empty: nothing.
pub fn wrongs(seen: &[Seen], known: &BTreeMap<String, Known>) -> Vec<String> {
    let mut wrongs = Vec::new();
    let mut ids = BTreeSet::new();
    let mut last: BTreeMap<&str, &str> = BTreeMap::new();
    for message in seen.iter().filter(|m| ids.insert(m.id.as_str())) {
        for (exception, word) in &message.told {
            let mut wrong = |what: &str| {
                wrongs.push(format!("{exception}: {what}, in {} of {}", message.id, message.decided_ms))
            };
            let Some(known) = known.get(exception) else {
                wrong("nobody knows it");
                continue;
            };
            let before = last.insert(exception, word);
            match (before, word.as_str()) {
                (Some(before), word) if before == word => wrong("the same news twice"),
                (Some("resolved"), _) => wrong("news after its end"),
                // A digest counts what began and ended while it was gathered.
                (None, "resolved") if !message.digest => wrong("an end without a beginning"),
                _ => {}
            }
            // A digest counts what was news when it was gathered.
            let late = known.acknowledged_ms.is_some_and(|at| message.decided_ms > at);
            if word != "resolved" && late && !message.digest {
                wrong("decided after it was acknowledged");
            }
        }
    }
    for (exception, word) in last {
        if known[exception].resolved && word != "resolved" {
            wrongs.push(format!("{exception}: its end was not told, only that it was {word}"));
        }
    }
    wrongs
}

#[test]
fn each_wrong_is_seen() {
    let message = |id: &str, digest: bool, decided_ms: i64, word: &str| Seen {
        id: id.into(),
        digest,
        decided_ms,
        told: BTreeMap::from([("e".to_owned(), word.to_owned())]),
    };
    let known = |resolved: bool, acknowledged_ms: Option<i64>| {
        BTreeMap::from([("e".to_owned(), Known { resolved, acknowledged_ms })])
    };
    let (opened, ended) = (message("1", false, 10, "opened"), message("2", false, 20, "resolved"));
    let right = [opened.clone(), opened.clone(), ended.clone()];
    assert_eq!(wrongs(&right, &known(true, Some(10))), [""; 0]);
    assert_eq!(wrongs(&[message("1", true, 10, "resolved")], &known(true, None)), [""; 0]);
    for (seen, known, what) in [
        (vec![opened.clone(), message("3", false, 15, "opened")], known(false, None), "twice"),
        (
            vec![opened.clone(), ended.clone(), message("3", false, 30, "opened")],
            known(true, None),
            "after its end",
        ),
        (vec![ended], known(true, None), "without a beginning"),
        (vec![opened.clone()], known(true, None), "was not told"),
        (vec![opened.clone()], known(false, Some(9)), "acknowledged"),
        (vec![opened], BTreeMap::new(), "nobody knows"),
    ] {
        let said = std::panic::catch_unwind(|| wrongs(&seen, &known)).unwrap_or_default();
        assert!(said.iter().any(|s| s.contains(what)), "{what}: {said:?}");
    }
}
