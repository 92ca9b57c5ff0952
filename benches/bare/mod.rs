//! The baseline of everything that reads records: a bare borrowed serde_json decode of the fields that the workload's have.

use std::borrow::Cow;

use serde::Deserialize;

/// A record of the workload.
#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
pub struct Bare<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(borrow)]
    parcel_id: Cow<'a, str>,
    #[serde(borrow)]
    milestone: Cow<'a, str>,
    #[serde(borrow)]
    evidence_class: Cow<'a, str>,
    #[serde(borrow)]
    event_time: Cow<'a, str>,
    #[serde(borrow)]
    tracking_number: Cow<'a, str>,
    #[serde(borrow)]
    location: Place<'a>,
    #[serde(borrow)]
    source: Source<'a>,
    #[serde(borrow, default)]
    lane: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    order_id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    duty_status: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    broker_reference: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    carrier: Option<Cow<'a, str>>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
struct Place<'a> {
    #[serde(borrow)]
    country: Cow<'a, str>,
    #[serde(borrow)]
    facility: Cow<'a, str>,
}

#[derive(Deserialize)]
#[allow(dead_code, reason = "decoded, never read: that is the baseline")]
struct Source<'a> {
    #[serde(borrow)]
    system: Cow<'a, str>,
    #[serde(borrow)]
    role: Cow<'a, str>,
}
