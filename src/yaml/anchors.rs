//! Anchors and what their aliases copy: allowed, and bounded, so that ten lines cannot become a gigabyte.

use std::collections::BTreeMap;

use super::{Kind, Node};

/// What all anchors and aliases of a file may copy: bytes of text, and [`NODE`] for each value.
pub const MAX_COPIED: usize = 4 << 20;
/// What a value costs besides its text.
const NODE: usize = 128;

/// Values with an anchor, by the parser's number of it.
#[derive(Default)]
pub(super) struct Anchors {
    named: BTreeMap<usize, Named>,
    copied: usize,
}

struct Named {
    node: Option<Node>,
    weight: usize,
    depth: usize,
}

/// What became of an alias.
pub(super) enum Copied {
    /// The value.
    Here(Kind),
    /// The anchor's value has not ended yet.
    WithinItself,
    /// The file would grow beyond [`MAX_COPIED`].
    TooLarge,
    /// Lists and mappings would stand too deep.
    TooDeep,
}

impl Anchors {
    /// Keeps the value of an anchor; 0 is none.
    pub fn define(&mut self, anchor: usize, node: &Node) {
        if anchor == 0 {
            return;
        }
        let (weight, depth) = measure(node);
        let node = self.take(weight).then(|| node.clone());
        self.named.insert(anchor, Named { node, weight, depth });
    }

    /// The value again, where it may stand `room` deeper.
    pub fn copy(&mut self, anchor: usize, room: usize) -> Copied {
        let Some(Named { node, weight, depth }) = self.named.get(&anchor) else {
            return Copied::WithinItself;
        };
        let Some(kind) = node.as_ref().map(|n| &n.kind) else { return Copied::TooLarge };
        if *depth > room {
            return Copied::TooDeep;
        }
        if self.copied.saturating_add(*weight) > MAX_COPIED {
            return Copied::TooLarge;
        }
        self.copied += weight;
        Copied::Here(kind.clone())
    }

    fn take(&mut self, weight: usize) -> bool {
        let all = self.copied.saturating_add(weight);
        if all <= MAX_COPIED {
            self.copied = all;
        }
        all <= MAX_COPIED
    }
}

/// The weight of a value and how deep lists and mappings stand in it; its own depth is bounded already.
fn measure(node: &Node) -> (usize, usize) {
    let inner = |nodes: &mut dyn Iterator<Item = &Node>| {
        nodes.fold((NODE, 0), |(weight, depth), n| {
            let (w, d) = measure(n);
            (weight + w, depth.max(d))
        })
    };
    match &node.kind {
        Kind::Scalar { text, .. } => (NODE + text.len(), 0),
        Kind::Refused => (NODE, 0),
        Kind::Seq(items) => {
            let (weight, depth) = inner(&mut items.iter());
            (weight, depth + 1)
        }
        Kind::Map(entries) => {
            let (weight, depth) = inner(&mut entries.iter().flat_map(|(k, v)| [k, v]));
            (weight, depth + 1)
        }
    }
}
