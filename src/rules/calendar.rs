//! Calendars with zones, opening hours and holidays (SEMANTICS 6).

use super::ruleset::Span;
use crate::model::Time;

/// A named calendar.
#[derive(Debug)]
pub struct Calendar {
    pub countries: Vec<String>,
    pub any: bool,
}

impl Calendar {
    pub fn add(&self, from: Time, span: Span, back: bool) -> Time {
        let _ = (span, back);
        from
    }
}
