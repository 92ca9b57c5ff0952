//! A snapshot in the making, and what is in one.

use std::collections::BTreeMap;
use std::rc::Rc;

use parcelwatch::engine::Shard;
use parcelwatch::engine::snapshot::Step;

use crate::cases::{Place, Snapshot};

/// A save under way.
pub struct Save {
    pub at: Place,
    pub turns: usize,
    /// Changes decided before it that are not written yet.
    pub owed: usize,
    pub sections: Vec<Vec<u8>>,
    pub head: Option<Vec<u8>>,
    pub torn: Option<Rc<Snapshot>>,
    /// What a save of the shard at rest held at that moment.
    pub quiet: Parcels,
}

/// Parcels by their bytes, with when to look next.
pub type Parcels = BTreeMap<Vec<u8>, i64>;

impl Save {
    pub fn new(at: Place, turns: usize, owed: usize, quiet: Parcels) -> Save {
        Save { at, turns, owed, sections: Vec::new(), head: None, torn: None, quiet }
    }

    /// A whole save between two events.
    pub fn at_once(shard: &mut Shard) -> Vec<Vec<u8>> {
        shard.save_begin();
        match shard.save_step(u32::MAX) {
            Some(Step::Last(section, _)) => vec![section],
            other => panic!("one step saves all, not {other:?}"),
        }
    }

    pub fn snapshot(&self, whole: bool) -> Snapshot {
        Snapshot {
            at: self.at,
            turns: self.turns,
            sections: self.sections.clone(),
            head: self.head.clone().filter(|_| whole),
            rotten: false,
        }
    }
}

/// The parcels of a snapshot, whatever their order.
pub fn parcels_of(sections: &[Vec<u8>]) -> Parcels {
    let mut parcels = Parcels::new();
    for section in sections {
        let mut rest = section.as_slice();
        while !rest.is_empty() {
            let (n, tail) = rest.split_at(4);
            let (look, tail) = tail.split_at(8);
            let n = u32::from_le_bytes(n.try_into().expect("4 bytes")) as usize;
            let (bytes, tail) = tail.split_at(n);
            let look = i64::from_le_bytes(look.try_into().expect("8 bytes"));
            assert!(parcels.insert(bytes.to_vec(), look).is_none(), "a parcel is saved twice");
            rest = tail;
        }
    }
    parcels
}
