//! The closed vocabularies of the input: 35 milestones with their ranks, 6 control records, 3 evidence classes.
//!
//! Source: the project's domain reference, section 1.2 (DESIGN section 3). The order of the variants is that of the ranks.

macro_rules! milestones {
    ($($rank:literal $variant:ident $name:literal,)*) => {
        /// What happened to a parcel.
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        #[repr(u8)]
        #[allow(missing_docs, reason = "the names are the documentation")]
        pub enum Milestone { $($variant,)* }

        impl Milestone {
            /// All of them, in the order of their ranks.
            pub const ALL: [Milestone; 35] = [$(Milestone::$variant,)*];

            /// Its name in records and rules.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Milestone::$variant => $name,)* }
            }

            /// Its place on the way; from 90 on it is an outcome.
            #[must_use]
            pub const fn rank(self) -> u8 {
                match self { $(Milestone::$variant => $rank,)* }
            }

            /// The milestone of this name; `None` is what a record calls unmapped.
            #[must_use]
            pub fn from_name(name: &str) -> Option<Milestone> {
                match name { $($name => Some(Milestone::$variant),)* _ => None }
            }
        }
    };
}

milestones! {
    10 OrderCreated "order_created",
    12 ShipmentCreated "shipment_created",
    15 PickedUp "picked_up",
    18 OriginFacilityScan "origin_facility_scan",
    20 HandedToLinehaul "handed_to_linehaul",
    22 ExportCustomsStarted "export_customs_started",
    23 ExportCustomsHeld "export_customs_held",
    25 ExportCustomsCleared "export_customs_cleared",
    28 DepartedOriginCountry "departed_origin_country",
    30 InTransitScan "in_transit_scan",
    33 ImportDeclarationFiled "import_declaration_filed",
    35 ArrivedDestinationCountry "arrived_destination_country",
    40 ImportCustomsStarted "import_customs_started",
    41 ImportCustomsInspection "import_customs_inspection",
    42 ImportCustomsInfoRequired "import_customs_info_required",
    43 ImportCustomsHeld "import_customs_held",
    44 ImportClearanceException "import_clearance_exception",
    45 ImportCustomsHoldReleased "import_customs_hold_released",
    46 ImportDutyAssessed "import_duty_assessed",
    47 ImportDutyPaid "import_duty_paid",
    48 ImportCustomsReleased "import_customs_released",
    50 ImportCustomsCleared "import_customs_cleared",
    52 DepartedCustoms "departed_customs",
    54 HandedToDomesticCarrier "handed_to_domestic_carrier",
    60 DomesticScan "domestic_scan",
    70 OutForDelivery "out_for_delivery",
    72 DeliveryAttempted "delivery_attempted",
    74 AvailableForPickup "available_for_pickup",
    75 ReturnStarted "return_started",
    80 Delivered "delivered",
    85 ReceiptConfirmed "receipt_confirmed",
    90 ImportCustomsRefused "import_customs_refused",
    92 ReturnedToSender "returned_to_sender",
    94 ParcelIncident "parcel_incident",
    96 Cancelled "cancelled",
}

impl Milestone {
    /// The milestone of this code ([`Milestone::ALL`]'s index).
    #[must_use]
    pub fn from_code(code: u8) -> Option<Milestone> {
        Milestone::ALL.get(usize::from(code)).copied()
    }

    /// Ends a parcel's life (SEMANTICS 3.7).
    #[must_use]
    pub const fn is_terminal(self) -> bool {
        matches!(
            self,
            Milestone::Delivered
                | Milestone::ImportCustomsRefused
                | Milestone::ReturnedToSender
                | Milestone::ParcelIncident
                | Milestone::Cancelled
        )
    }

    /// Closes the hold that has no id (SEMANTICS 3.4), a release without an id aside.
    #[must_use]
    pub const fn closes_status_hold(self) -> bool {
        matches!(
            self,
            Milestone::ImportCustomsCleared
                | Milestone::DepartedCustoms
                | Milestone::HandedToDomesticCarrier
                | Milestone::DomesticScan
                | Milestone::OutForDelivery
                | Milestone::DeliveryAttempted
                | Milestone::AvailableForPickup
                | Milestone::Delivered
        )
    }

    /// This milestone and those of higher rank that stand for progress (SEMANTICS 3.9, 5.10): `return_started` and
    /// ranks from 90 on do not count.
    #[must_use]
    pub fn or_later(self) -> MilestoneSet {
        let mut set = MilestoneSet::of(self);
        for m in Milestone::ALL {
            if m.rank() > self.rank() && m.rank() < 90 && m != Milestone::ReturnStarted {
                set.insert(m);
            }
        }
        set
    }
}

/// A set of milestones, one bit each.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct MilestoneSet(pub u64);

impl MilestoneSet {
    /// The set of one.
    #[must_use]
    pub const fn of(m: Milestone) -> MilestoneSet {
        MilestoneSet(1 << m as u8)
    }

    /// Adds one.
    pub fn insert(&mut self, m: Milestone) {
        self.0 |= 1 << m as u8;
    }

    /// Whether it is in the set.
    #[must_use]
    pub const fn contains(self, m: Milestone) -> bool {
        self.0 & (1 << m as u8) != 0
    }

    /// Whether the two share one.
    #[must_use]
    pub const fn meets(self, other: MilestoneSet) -> bool {
        self.0 & other.0 != 0
    }

    /// Those of both.
    #[must_use]
    pub const fn union(self, other: MilestoneSet) -> MilestoneSet {
        MilestoneSet(self.0 | other.0)
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its members in the order of their ranks.
    pub fn iter(self) -> impl Iterator<Item = Milestone> {
        Milestone::ALL.into_iter().filter(move |m| self.contains(*m))
    }
}

/// What a record that is no milestone does (DESIGN section 3).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Control {
    /// States facts.
    ParcelFacts,
    /// Names the number of the second leg.
    TrackingLinked,
    /// Takes records back.
    EventRetracted,
    /// Tells how a feed is.
    FeedHealth,
    /// Moves the buyer's guarantee.
    GuaranteeUpdated,
    /// A tariff changed.
    DutyRegimeChanged,
}

impl Control {
    /// All of them.
    pub const ALL: [Control; 6] = [
        Control::ParcelFacts,
        Control::TrackingLinked,
        Control::EventRetracted,
        Control::FeedHealth,
        Control::GuaranteeUpdated,
        Control::DutyRegimeChanged,
    ];

    /// Its name in records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Control::ParcelFacts => "parcel_facts",
            Control::TrackingLinked => "tracking_linked",
            Control::EventRetracted => "event_retracted",
            Control::FeedHealth => "feed_health",
            Control::GuaranteeUpdated => "guarantee_updated",
            Control::DutyRegimeChanged => "duty_regime_changed",
        }
    }

    /// The control record of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Control> {
        Control::ALL.into_iter().find(|c| c.name() == name)
    }
}

/// How a milestone is known.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
#[repr(u8)]
pub enum Evidence {
    /// Somebody held the parcel.
    PhysicalScan = 1,
    /// A system said so.
    ElectronicNotice = 2,
    /// A party says so.
    Claim = 3,
}

impl Evidence {
    /// All of them.
    pub const ALL: [Evidence; 3] = [Evidence::PhysicalScan, Evidence::ElectronicNotice, Evidence::Claim];

    /// Its name in records and rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Evidence::PhysicalScan => "physical_scan",
            Evidence::ElectronicNotice => "electronic_notice",
            Evidence::Claim => "claim",
        }
    }

    /// The class of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Evidence> {
        Evidence::ALL.into_iter().find(|e| e.name() == name)
    }

    /// The class of this code; 0 is "of no class".
    #[must_use]
    pub fn from_code(code: u8) -> Option<Evidence> {
        Evidence::ALL.into_iter().find(|e| *e as u8 == code)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_codes_agree() {
        for (i, m) in Milestone::ALL.into_iter().enumerate() {
            assert_eq!(Milestone::from_name(m.name()), Some(m));
            assert_eq!(m as usize, i);
        }
        assert!(Milestone::ALL.windows(2).all(|w| w[0].rank() < w[1].rank()));
    }

    #[test]
    fn or_later_leaves_returns_and_outcomes_out() {
        let set = Milestone::DomesticScan.or_later();
        let names: Vec<_> = set.iter().map(Milestone::name).collect();
        assert_eq!(
            names,
            [
                "domestic_scan",
                "out_for_delivery",
                "delivery_attempted",
                "available_for_pickup",
                "delivered",
                "receipt_confirmed"
            ]
        );
        assert!(Milestone::ImportCustomsRefused.or_later().contains(Milestone::ImportCustomsRefused));
    }
}
