//! Texts that many parcels share, kept once per shard: lanes, carriers, facilities, rule ids.

use hashbrown::HashTable;
use xxhash_rust::xxh3::xxh3_64;

/// A text's number in its shard.
pub type Code = u32;

/// Grows only; codes are the order of first sight, a function of the log.
#[derive(Default)]
pub struct Interner {
    texts: Vec<Box<str>>,
    index: HashTable<Code>,
    /// How many texts each fact brought in: one that brings too many is no vocabulary and stays with its parcel.
    by_fact: Vec<u32>,
}

/// Distinct values of one fact that are shared; beyond, its new values stay with the parcel.
const SHARED_PER_FACT: u32 = 4_096;
/// The longest text that is shared, in bytes.
const SHARED_LENGTH: usize = 64;

impl Interner {
    /// The text of a code that this interner gave.
    #[must_use]
    pub fn text(&self, code: Code) -> &str {
        self.texts.get(code as usize).map_or("", |t| t)
    }

    /// The code of a text, where it is known.
    #[must_use]
    pub fn find(&self, text: &str) -> Option<Code> {
        self.index.find(xxh3_64(text.as_bytes()), |c| *self.texts[*c as usize] == *text).copied()
    }

    /// The code of a text, new or known.
    pub fn intern(&mut self, text: &str) -> Code {
        if let Some(code) = self.find(text) {
            return code;
        }
        let code = u32::try_from(self.texts.len()).expect("fewer than 2^32 texts fit into memory");
        self.texts.push(text.into());
        let texts = &self.texts;
        self.index.insert_unique(xxh3_64(text.as_bytes()), code, |c| xxh3_64(texts[*c as usize].as_bytes()));
        code
    }

    /// The code of a fact's text, if it is one that many parcels share.
    pub fn share(&mut self, fact: u16, text: &str) -> Option<Code> {
        if text.len() > SHARED_LENGTH {
            return None;
        }
        if let Some(code) = self.find(text) {
            return Some(code);
        }
        let fact = usize::from(fact);
        if self.by_fact.len() <= fact {
            self.by_fact.resize(fact + 1, 0);
        }
        if self.by_fact[fact] >= SHARED_PER_FACT {
            return None;
        }
        self.by_fact[fact] += 1;
        Some(self.intern(text))
    }

    /// All texts in the order of their codes, for a snapshot.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.texts.iter().map(|t| &**t)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.texts.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// How many texts each fact brought in, for a snapshot.
    #[must_use]
    pub fn by_fact(&self) -> &[u32] {
        &self.by_fact
    }

    /// Made anew from a snapshot.
    pub fn restore<'a>(texts: impl IntoIterator<Item = &'a str>, by_fact: Vec<u32>) -> Interner {
        let mut interner = Interner { by_fact, ..Interner::default() };
        for text in texts {
            interner.intern(text);
        }
        interner
    }
}
