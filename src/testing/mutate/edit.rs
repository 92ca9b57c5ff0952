//! Changing a tree of YAML, and writing it as text again: in flow style, every text in quotes, so that it reads back as
//! the same tree.

use crate::yaml::{Kind, Node, Value};

/// A text.
pub fn text(text: &str) -> Node {
    Node { at: 0..0, kind: Kind::Scalar { text: text.to_owned(), plain: false } }
}

/// A mapping of one entry.
pub fn one(key: &str, value: Node) -> Node {
    Node { at: value.at.clone(), kind: Kind::Map(vec![(text(key), value)]) }
}

/// A list.
pub fn list(items: Vec<Node>) -> Node {
    Node { at: 0..0, kind: Kind::Seq(items) }
}

/// The entries of a mapping; none of anything else.
pub fn entries(node: &Node) -> &[(Node, Node)] {
    match &node.kind {
        Kind::Map(entries) => entries,
        _ => &[],
    }
}

/// The items of a list; none of anything else.
pub fn items(node: &Node) -> &[Node] {
    match &node.kind {
        Kind::Seq(items) => items,
        _ => &[],
    }
}

/// The mapping with another value under this key; it is put at the end where it was not there.
pub fn with(map: &Node, key: &str, value: Node) -> Node {
    let mut changed = entries(map).to_vec();
    match changed.iter_mut().find(|(k, _)| k.text() == Some(key)) {
        Some((_, old)) => *old = value,
        None => changed.push((text(key), value)),
    }
    Node { at: map.at.clone(), kind: Kind::Map(changed) }
}

/// The mapping without this key.
pub fn without(map: &Node, key: &str) -> Node {
    let left = entries(map).iter().filter(|(k, _)| k.text() != Some(key)).cloned().collect();
    Node { at: map.at.clone(), kind: Kind::Map(left) }
}

/// The list with another item at `i`, or without it.
pub fn at(seq: &Node, i: usize, item: Option<Node>) -> Node {
    let mut changed = items(seq).to_vec();
    match item {
        Some(item) => changed[i] = item,
        None => drop(changed.remove(i)),
    }
    Node { at: seq.at.clone(), kind: Kind::Seq(changed) }
}

/// Appends a node in flow style.
pub fn write(node: &Node, out: &mut String) {
    match &node.kind {
        Kind::Refused => out.push_str("null"),
        Kind::Scalar { text, .. } => match node.value() {
            Some(Value::Text(_)) | None => quoted(text, out),
            _ => out.push_str(if text.is_empty() { "null" } else { text }),
        },
        Kind::Seq(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(item, out);
            }
            out.push(']');
        }
        Kind::Map(entries) => {
            out.push('{');
            for (i, (key, value)) in entries.iter().enumerate() {
                out.push_str(if i > 0 { ", " } else { "" });
                write(key, out);
                out.push_str(": ");
                write(value, out);
            }
            out.push('}');
        }
    }
}

/// JSON's escapes are YAML's too.
fn quoted(text: &str, out: &mut String) {
    out.push_str(&serde_json::Value::from(text).to_string());
}
