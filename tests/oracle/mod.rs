//! A second, naive implementation of what the engine decides: for every parcel it keeps the whole list of records and,
//! after each of them and at every time that may matter, works everything out anew by the text of DESIGN §3-§6 and
//! SEMANTICS §1-§8. Slow and obvious on purpose; it shares no code with the program.
//!
//! Where the text leaves room, the most literal reading was taken:
//! - 1.1: a line that is no UTF-8, no JSON, no object, too large or too deep has no readable time and moves nothing;
//!   one that is rejected for anything else moves the clock. An unreadable `received_time` counts as missing.
//! - 1.4: only what became an occurrence, and retractions, have their ids remembered: a record that was estimated or
//!   unmapped does not make a later one with its id a repetition. A remembered id makes any later record a repetition,
//!   control records too. A derived id takes the event_time as stated, also where 1.6 replaces it.
//! - 2.1: a field with an empty list states nothing: an older value stays. `unknown` states nothing as an authority too.
//! - 2.4, 2.8, 3.5, 3.7, 4: lists that a parcel always has (`terminal`, `seen`, `hold_reasons`, `documents`,
//!   `missing_documents`) may be empty: then `missing: true` holds, `false` equals them (4.2), comparisons fail (4.3).
//!   `hold_reasons` has one element for each open hold, so a reason may be there twice.
//! - 2.4: an item without a description is not weak.
//! - 2.7: a record that is an occurrence when it is folded states `feed_status: success` even where a retraction takes
//!   the occurrence back, before or after: a retraction takes back no facts.
//! - 3.2: an id taken back voids any occurrence of that id, also where a control record with that id came first.
//! - 3.5: a `respond_by` that cannot be read is told all the same, and is no time.
//! - 3.8: `facility_scans` counts the occurrences that name the facility, not those passed over.
//! - 3.9: of two claims with equal times the greater (milestone, then next_expected_by, as texts). The milestone claimed
//!   counts itself even where it is `return_started` or ranks 90 and more. The milestone that made the claim is that of
//!   the record, occurrence or not. With `tolerance: any` and `before` (5.4) any occurrence counts, whatever its time,
//!   the one that made the claim too.
//! - 5.0: in a list, of members at the same time, the one whose record was appended first gives append(anchor). Where a
//!   derived time is among them and two records of one append time gave them, the engine takes the one named first.
//! - 5.1: the names of 5.1 have episodes with `before` too; a list of one is a list.
//! - 5.2: "changed" compares with the value after the record before; gone and back again is changed.
//! - 5.6: due_1 is that of the first stage as written.
//! - 5.12, 7.3: `expired` looks at the anchor that decides whether the rule is live, so at the current one while the
//!   episode is current; an episode left behind, or an anchor that is gone, at the one told.
//! - 6.1: where no day is counted (`0d`, `0bd`, hours alone) the anchor's instant stays, also in an hour that comes
//!   twice. Opening hours are used up at closing time, not at the next opening; counting none stays where it is.
//! - 7.2: satisfied, and the due time it is measured by, are judged at the end by the anchor and due of the latest
//!   `opened` or `raised`; expect, evidence and tolerance are those in force at the end.
//! - 7.3: the own claim of an episode left behind is the last one known while the episode was current.
//! - 8.1, terminal: every fire time of enabled rules with `after_terminal` counts, in scope or not, satisfied or not. A
//!   stage that fires at the very moment of forgetting fires first (else the last one would never fire), and what
//!   stands then keeps the parcel until it has ended; it goes at that moment. Not terminal: abandoning comes first.
//! - 8.1: a record appended exactly `remember_ids` after the parcel went is still swallowed.
mod decimal;
mod facts;
pub mod generate;
mod judge;
mod matcher;
mod record;
pub mod rules;
pub mod time;
pub mod vocabulary;

use rules::RuleBook;
use std::collections::BTreeMap;
use time::Millis;

/// Everything that decides the output of `backtest`.
#[derive(Clone, Debug)]
pub struct Case {
    pub rules: String,
    pub policies: Option<String>,
    pub events: Vec<u8>,
    pub until: Option<Millis>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    Opened,
    Raised,
    Resolved,
}

/// One line of `backtest --format jsonl`; ordered as SEMANTICS 7.5 says, then by the rest.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    pub at: Millis,
    pub parcel_id: String,
    pub rule: String,
    pub change: Change,
    pub episode: String,
    pub stage: u64,
    pub severity: Option<String>,
    pub due: Option<Millis>,
    pub anchor: Millis,
    pub resolution: Option<String>,
}

/// What `backtest` has to write for this case.
pub fn judge(case: &Case) -> Vec<Line> {
    let book = RuleBook::read(&case.rules, case.policies.as_deref());
    let arrivals = record::arrivals(&case.events, case.until);
    // 1.1, 7.5: the clock ends just past `until`, else just past the last append time, of whatever record
    let Some(end) = case.until.or(arrivals.iter().map(|arrival| arrival.append).max()) else {
        return Vec::new();
    };
    let mut parcels: BTreeMap<String, Vec<record::Record>> = BTreeMap::new();
    for record in arrivals.into_iter().filter_map(|arrival| arrival.record) {
        parcels.entry(record.parcel_id.clone()).or_default().push(record);
    }
    // parcels share nothing but the clock, and the clock passes every instant in order
    let mut lines: Vec<Line> =
        parcels.into_iter().flat_map(|(id, records)| judge::changes(&book, &id, records, end)).collect();
    lines.sort();
    lines
}
