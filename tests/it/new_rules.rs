//! New rules for parcels in flight, over random rules and streams: in slices as at once, and as foreseen.

use std::path::PathBuf;
use std::sync::Arc;

use parcelwatch::engine::explain::Verdict;
use parcelwatch::engine::{Lifetimes, Record, Shard};
use parcelwatch::model::{Change, ChangeKind, Event, Reject, Time};
use parcelwatch::rules::{RuleSet, SourceFile, compile};
use parcelwatch::source::decode::{FactNames, decode};

use crate::oracle_impl::Case;
use crate::oracle_impl::generate::Draft;

fn rules(case: &Case) -> Option<Arc<RuleSet>> {
    let file = |name: &str, text: &str| SourceFile {
        path: PathBuf::from(name),
        content: Ok(text.as_bytes().to_vec()),
        context: false,
    };
    let mut files = vec![file("rules.yaml", &case.rules)];
    files.extend(case.policies.iter().map(|text| file("policies.yaml", text)));
    compile(&files).rules.map(Arc::new)
}

/// The records of a stream in the order of append time, folded up to `share` of them.
fn folded(rules: &Arc<RuleSet>, lines: &[&[u8]], share: usize, out: &mut Vec<Change>) -> Shard {
    let names = FactNames::new(rules.declared.iter().map(|d| d.name.as_str()));
    let mut shard = Shard::new(rules.clone(), Lifetimes::default(), true);
    let events: Vec<(Time, Result<Event<'_>, Reject>)> = lines
        .iter()
        .filter_map(|line| match decode(line, &names) {
            Ok(event) => Some((event.file_append(), Ok(event))),
            Err(reject) => Some((reject.file_append?, Err(reject))),
        })
        .collect();
    let mut places: Vec<usize> = (0..events.len()).collect();
    places.sort_by_key(|i| events[*i].0);
    for (offset, i) in places.iter().take(events.len() * share / 4).enumerate() {
        let (append, event) = &events[*i];
        let event = event.as_ref().map_err(|r| r.reason);
        shard.fold(&[Record { offset: offset as i64, append: *append, event }], usize::MAX, out);
    }
    shard
}

fn sorted(mut changes: Vec<Change>) -> Vec<String> {
    changes.sort_by(|a, b| (&a.parcel_id, &a.rule, a.episode).cmp(&(&b.parcel_id, &b.rule, b.episode)));
    changes.iter().map(|c| format!("{c:?}")).collect()
}

/// What `explain` says is what the engine does: what stands is live and, where a stage is reached, stands; and what waits fires
/// just when it was said to.
#[test]
fn what_is_explained_is_what_happens() {
    let (mut reached, mut fired) = (0, 0);
    for seed in 0..120 {
        let case = Draft::of_seed(seed).case();
        let rules = rules(&case).expect("valid rules");
        let lines: Vec<&[u8]> = case.events.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
        for parcel in (0..6).map(|n| format!("P-{n}")) {
            let mut out = Vec::new();
            let mut shard = folded(&rules, &lines, 1 + seed as usize % 3, &mut out);
            let Some(json) = shard.parcel_json(&parcel) else { continue };
            let json: serde_json::Value = serde_json::from_str(&json).unwrap();
            let standing = |rule: &str, anchor: Option<Time>| {
                let episode = |s: &serde_json::Value| {
                    let text = s["episode"].as_str().unwrap();
                    text.is_empty() || Some(text) == anchor.map(|t| t.to_string()).as_deref()
                };
                json["standing"].as_array().unwrap().iter().any(|s| s["rule"] == rule && episode(s))
            };
            let before = shard.explained(&parcel, shard.watermark());
            for e in &before {
                match e.verdict {
                    Verdict::Reached(_) => {
                        reached += 1;
                        assert!(standing(&e.rule, e.anchor), "seed {seed} {parcel}: {e:?}\n{json:#}");
                    }
                    Verdict::Waits(_) => {}
                    _ => assert!(!standing(&e.rule, e.anchor), "seed {seed} {parcel}: {e:?}\n{json:#}"),
                }
            }
            let next = before.iter().filter_map(|e| match e.verdict {
                Verdict::Waits(Some(at)) if !standing(&e.rule, e.anchor) => Some((at, e.rule.clone())),
                _ => None,
            });
            let Some((at, rule)) = next.min() else { continue };
            out.clear();
            shard.advance(at, usize::MAX, &mut out);
            let opens = |out: &[Change]| {
                out.iter()
                    .any(|c| *c.parcel_id == *parcel && *c.rule == *rule && c.kind == ChangeKind::Opened)
            };
            assert!(!opens(&out), "seed {seed} {parcel}: {rule} fires before {at}");
            shard.advance(at.plus(1), usize::MAX, &mut out);
            if shard.parcel_json(&parcel).is_some() {
                fired += 1;
                assert!(opens(&out), "seed {seed} {parcel}: {rule} does not fire at {at}");
            }
        }
    }
    assert!(reached > 100 && fired > 30, "nothing was tried: {reached} reached, {fired} fired");
}

#[test]
fn new_rules_in_slices_decide_as_at_once_and_as_was_foreseen() {
    let (mut changed, mut opened) = (0, 0);
    for seed in 0..150 {
        let (old, new) = (Draft::of_seed(seed).case(), Draft::of_seed(seed + 10_000).case());
        let (Some(before), Some(after)) = (rules(&old), rules(&new)) else { panic!("seed {seed}: refused") };
        let lines: Vec<&[u8]> = old.events.split(|b| *b == b'\n').filter(|l| !l.is_empty()).collect();
        let share = 1 + seed as usize % 3;
        let mut ignored = Vec::new();
        let mut whole = folded(&before, &lines, share, &mut ignored);
        let mut sliced = folded(&before, &lines, share, &mut ignored);
        let mut asked = folded(&before, &lines, share, &mut ignored);
        let untouched = folded(&before, &lines, share, &mut ignored);

        let (mut at_once, mut in_slices) = (Vec::new(), Vec::new());
        whole.swap_rules(after.clone(), &mut at_once);
        let mut swap = sliced.swap_begin(after.clone(), &mut in_slices);
        while !sliced.swap_step(&mut swap, 1, &mut in_slices) {}
        let mut preview = asked.preview(after.clone());
        while !asked.preview_step(&mut preview, 1) {}

        let count = |kind: fn(&ChangeKind) -> bool| at_once.iter().filter(|c| kind(&c.kind)).count() as u64;
        let openings = count(|k| *k == ChangeKind::Opened);
        assert_eq!(preview.found.openings(), openings, "seed {seed}");
        let resolved = count(|k| matches!(k, ChangeKind::Resolved(_)));
        assert_eq!(preview.found.rules.values().map(|t| t.resolved).sum::<u64>(), resolved, "seed {seed}");
        changed += at_once.len();
        opened += openings;
        assert_eq!(sorted(at_once), sorted(in_slices), "seed {seed}");

        // What follows is decided alike, and by the shard that was only asked as if it had not been.
        let end = whole.watermark().plus(60 * 86_400_000);
        let rest = |shard: &mut Shard| {
            let mut out = Vec::new();
            shard.advance(end, usize::MAX, &mut out);
            sorted(out)
        };
        assert_eq!(rest(&mut whole), rest(&mut sliced), "seed {seed}");
        let mut untouched = untouched;
        assert_eq!(rest(&mut asked), rest(&mut untouched), "seed {seed}");
    }
    assert!(changed > 150 && opened > 50, "nothing was tried: {changed} changes, {opened} openings");
}
