//! Calendars with zones, opening hours and holidays (SEMANTICS 6).

/// A named calendar.
#[derive(Debug)]
pub struct Calendar {}
