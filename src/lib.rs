//! parcelwatch: a rule-driven exception watchdog for cross-border parcels.
