//! Names of facts and of derived times: the closed lists of SEMANTICS 2.2, 2.8 and DESIGN §3.

/// The facts that every shard keeps of a parcel (SEMANTICS 2.2). Their index is their [`FactRef::Stated`] number; facts
/// declared in a rules directory follow after them. A dotted name looks inside an object.
pub const KNOWN_FACTS: [&str; 44] = [
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
    "documents",
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
    // Reserved: keeps the numbers of declared facts stable when a known fact is added.
    "",
    "",
];

/// The number of a known fact.
#[must_use]
pub fn known_fact(name: &str) -> Option<u16> {
    if name.is_empty() {
        return None;
    }
    KNOWN_FACTS.iter().position(|n| *n == name).and_then(|i| u16::try_from(i).ok())
}

/// What a matcher reads.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum FactRef {
    /// A fact that records state: an index into [`KNOWN_FACTS`], or that list's length plus the index of a declared one.
    Stated(u16),
    /// One computed from others.
    Derived(DerivedFact),
}

/// Facts computed from facts, occurrences and holds (DESIGN §3, SEMANTICS 2.4, 2.5, 2.8).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum DerivedFact {
    HoldsOpen,
    HoldReasons,
    Terminal,
    WeakDescription,
    MissingDocuments,
    LandedCostDriftPercent,
    LandedCostDrift,
    Seen,
    LastMilestone,
    FacilityScans,
}

impl DerivedFact {
    /// All of them.
    pub const ALL: [DerivedFact; 10] = [
        DerivedFact::HoldsOpen,
        DerivedFact::HoldReasons,
        DerivedFact::Terminal,
        DerivedFact::WeakDescription,
        DerivedFact::MissingDocuments,
        DerivedFact::LandedCostDriftPercent,
        DerivedFact::LandedCostDrift,
        DerivedFact::Seen,
        DerivedFact::LastMilestone,
        DerivedFact::FacilityScans,
    ];

    /// Its name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DerivedFact::HoldsOpen => "holds_open",
            DerivedFact::HoldReasons => "hold_reasons",
            DerivedFact::Terminal => "terminal",
            DerivedFact::WeakDescription => "weak_description",
            DerivedFact::MissingDocuments => "missing_documents",
            DerivedFact::LandedCostDriftPercent => "landed_cost_drift_percent",
            DerivedFact::LandedCostDrift => "landed_cost_drift",
            DerivedFact::Seen => "seen",
            DerivedFact::LastMilestone => "last_milestone",
            DerivedFact::FacilityScans => "facility_scans",
        }
    }
}

/// Times computed from occurrences, holds and facts, usable as anchors (DESIGN §3).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum DerivedTime {
    ImportCustomsFullyCleared,
    HoldOpened,
    HoldsClosed,
    DocumentsAdded,
    FirstEvent,
    LastEvent,
    LastScan,
    FacilitySince,
    GuaranteeStart,
    GuaranteeEnd,
    DutyDueBy,
    HoldRespondBy,
    NextExpectedBy,
}

impl DerivedTime {
    /// All of them, in the order of their codes.
    pub const ALL: [DerivedTime; 13] = [
        DerivedTime::ImportCustomsFullyCleared,
        DerivedTime::HoldOpened,
        DerivedTime::HoldsClosed,
        DerivedTime::DocumentsAdded,
        DerivedTime::FirstEvent,
        DerivedTime::LastEvent,
        DerivedTime::LastScan,
        DerivedTime::FacilitySince,
        DerivedTime::GuaranteeStart,
        DerivedTime::GuaranteeEnd,
        DerivedTime::DutyDueBy,
        DerivedTime::HoldRespondBy,
        DerivedTime::NextExpectedBy,
    ];

    /// Its name in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            DerivedTime::ImportCustomsFullyCleared => "import_customs_fully_cleared",
            DerivedTime::HoldOpened => "hold_opened",
            DerivedTime::HoldsClosed => "holds_closed",
            DerivedTime::DocumentsAdded => "documents_added",
            DerivedTime::FirstEvent => "first_event",
            DerivedTime::LastEvent => "last_event",
            DerivedTime::LastScan => "last_scan",
            DerivedTime::FacilitySince => "facility_since",
            DerivedTime::GuaranteeStart => "guarantee_start",
            DerivedTime::GuaranteeEnd => "guarantee_end",
            DerivedTime::DutyDueBy => "duty_due_by",
            DerivedTime::HoldRespondBy => "hold_respond_by",
            DerivedTime::NextExpectedBy => "next_expected_by",
        }
    }

    /// The derived time of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<DerivedTime> {
        DerivedTime::ALL.into_iter().find(|t| t.name() == name)
    }

    /// Each of its values is an episode of its own (SEMANTICS 5.1).
    #[must_use]
    pub const fn has_episodes(self) -> bool {
        matches!(
            self,
            DerivedTime::LastEvent
                | DerivedTime::LastScan
                | DerivedTime::FacilitySince
                | DerivedTime::NextExpectedBy
        )
    }

    /// May stand in `expect` (SEMANTICS 5.10).
    #[must_use]
    pub const fn can_be_expected(self) -> bool {
        matches!(
            self,
            DerivedTime::ImportCustomsFullyCleared | DerivedTime::HoldsClosed | DerivedTime::DocumentsAdded
        )
    }

    /// A rule's `holds:` filter narrows it (SEMANTICS 5.11).
    #[must_use]
    pub const fn sees_filtered_holds(self) -> bool {
        matches!(self, DerivedTime::HoldOpened | DerivedTime::HoldsClosed | DerivedTime::HoldRespondBy)
    }
}
