//! The names: milestones with their ranks, the closed list of facts, the derived times.

/// A milestone and its rank (the canonical vocabulary, 35 names).
pub const MILESTONES: [(&str, u32); 35] = [
    ("order_created", 10),
    ("shipment_created", 12),
    ("picked_up", 15),
    ("origin_facility_scan", 18),
    ("handed_to_linehaul", 20),
    ("export_customs_started", 22),
    ("export_customs_held", 23),
    ("export_customs_cleared", 25),
    ("departed_origin_country", 28),
    ("in_transit_scan", 30),
    ("arrived_destination_country", 35),
    ("import_declaration_filed", 33),
    ("import_customs_started", 40),
    ("import_customs_inspection", 41),
    ("import_customs_info_required", 42),
    ("import_customs_held", 43),
    ("import_clearance_exception", 44),
    ("import_customs_hold_released", 45),
    ("import_duty_assessed", 46),
    ("import_duty_paid", 47),
    ("import_customs_released", 48),
    ("import_customs_cleared", 50),
    ("import_customs_refused", 90),
    ("departed_customs", 52),
    ("handed_to_domestic_carrier", 54),
    ("domestic_scan", 60),
    ("out_for_delivery", 70),
    ("delivery_attempted", 72),
    ("available_for_pickup", 74),
    ("delivered", 80),
    ("receipt_confirmed", 85),
    ("return_started", 75),
    ("returned_to_sender", 92),
    ("parcel_incident", 94),
    ("cancelled", 96),
];

/// 3.7
pub const TERMINAL: [&str; 5] =
    ["delivered", "import_customs_refused", "returned_to_sender", "parcel_incident", "cancelled"];

/// 3.4: what closes the hold without an id, besides a release without an id.
pub const CLOSES_THE_STATUS: [&str; 8] = [
    "import_customs_cleared",
    "departed_customs",
    "handed_to_domestic_carrier",
    "domestic_scan",
    "out_for_delivery",
    "delivery_attempted",
    "available_for_pickup",
    "delivered",
];

/// DESIGN 3
pub const CONTROLS: [&str; 6] = [
    "parcel_facts",
    "tracking_linked",
    "event_retracted",
    "feed_health",
    "guarantee_updated",
    "duty_regime_changed",
];

/// 2.2, but for `documents`, which add up (2.4) and are no "latest wins".
pub const FACTS: [&str; 41] = [
    "lane",
    "origin",
    "destination",
    "entry_type",
    "customs_programme",
    "broker",
    "broker_reference",
    "duty_status",
    "duty_amount",
    "duty_payer",
    "duty_due_by",
    "inspection_outcome",
    "carrier_handoff_readiness",
    "next_expected_milestone",
    "next_expected_by",
    "declared_value",
    "landed_cost_quoted",
    "landed_cost_actual",
    "category_forced_labour",
    "items",
    "seller_id",
    "importer_of_record",
    "order_id",
    "parcel_index",
    "parcel_count",
    "tracking_number",
    "linked_tracking",
    "carrier_code",
    "carrier",
    "linehaul_carrier",
    "domestic_carrier",
    "service_level",
    "guarantee_start",
    "guarantee_days",
    "feed_status",
    "delay_reason",
    "incident_reason",
    "location.country",
    "location.facility",
    "source.system",
    "source.role",
];

/// DESIGN 3: the derived times.
pub const DERIVED_TIMES: [&str; 13] = [
    "import_customs_fully_cleared",
    "hold_opened",
    "holds_closed",
    "documents_added",
    "first_event",
    "last_event",
    "last_scan",
    "facility_since",
    "guarantee_start",
    "guarantee_end",
    "duty_due_by",
    "hold_respond_by",
    "next_expected_by",
];

/// 5.1: the derived times whose every value is an episode.
pub const MOVING_TIMES: [&str; 4] = ["last_event", "last_scan", "facility_since", "next_expected_by"];

pub fn rank(milestone: &str) -> Option<u32> {
    MILESTONES.iter().find(|(name, _)| *name == milestone).map(|(_, rank)| *rank)
}

/// 3.9 and 5.10: the milestone itself or one of higher rank; `return_started` and ranks from 90 on do not count as higher.
pub fn reaches(occurred: &str, wanted: &str) -> bool {
    if occurred == wanted {
        return true;
    }
    match (rank(occurred), rank(wanted)) {
        (Some(occurred_rank), Some(wanted_rank)) => {
            occurred_rank > wanted_rank && occurred_rank < 90 && occurred != "return_started"
        }
        _ => false,
    }
}
