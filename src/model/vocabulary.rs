//! The closed vocabularies in words: what each milestone, fact and derived time means, for the schema, for lints and for
//! whoever completes a rule in an editor. `tests` below hold the tables complete.

use super::{Control, DerivedTime, Milestone};

/// What a fact usually holds. A fact keeps the JSON type that records state (SEMANTICS 4.1), whatever this says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs, reason = "the names are the documentation")]
pub enum FactKind {
    Text,
    Number,
    Bool,
    /// A true/false or a word.
    BoolOrText,
    List,
    /// `{amount, currency}`; matchers compare the amount.
    Money,
    /// RFC 3339.
    Time,
}

/// A fact in words.
#[derive(Clone, Copy, Debug)]
pub struct FactWords {
    /// Its name.
    pub name: &'static str,
    /// What it usually holds.
    pub kind: FactKind,
    /// What it says.
    pub about: &'static str,
    /// Values that are usual; others are possible.
    pub usual: &'static [&'static str],
}

const fn fact(
    name: &'static str,
    kind: FactKind,
    about: &'static str,
    usual: &'static [&'static str],
) -> FactWords {
    FactWords { name, kind, about, usual }
}

use FactKind::{Bool, BoolOrText, List, Money, Number, Text, Time};

/// Every fact that matchers read without a declaration: those that records state, then those computed from them.
pub const FACT_WORDS: [FactWords; 52] = [
    fact("lane", Text, "From where to where, and how: CN-US-air", &[]),
    fact(
        "origin",
        Text,
        "Country of origin, two capitals; where not stated, the first part of the lane",
        &[],
    ),
    fact(
        "destination",
        Text,
        "Country of destination, two capitals; where not stated, the second part of the lane",
        &[],
    ),
    fact(
        "entry_type",
        Text,
        "How the parcel enters the country",
        &[
            "postal",
            "express",
            "marketplace_consolidated",
            "h7",
            "h1",
            "us_01",
            "us_11",
            "us_13",
            "bonded_72h",
        ],
    ),
    fact("customs_programme", Text, "A programme with rules of its own, such as bonded_72h", &[]),
    fact("broker", Text, "The customs broker", &[]),
    fact("broker_reference", Text, "The broker's number of the entry: entry number, MRN", &[]),
    fact(
        "duty_status",
        Text,
        "Whether duty is owed and by whom it was paid",
        &["prepaid", "paid", "assessed", "unpaid", "waived", "deferred", "collect_on_delivery"],
    ),
    fact("duty_amount", Money, "The duty assessed", &[]),
    fact("duty_payer", Text, "Who owes the duty", &["seller", "buyer", "platform"]),
    fact("duty_due_by", Time, "By when the duty has to be paid", &[]),
    fact(
        "inspection_outcome",
        Text,
        "What an inspection ended with",
        &["none", "documentary", "xray", "physical_passed", "detained", "refused", "seized", "abandoned"],
    ),
    fact(
        "carrier_handoff_readiness",
        Text,
        "Whether the parcel may go to the domestic carrier",
        &["not_ready", "ready", "ready_after_payment", "handed_over"],
    ),
    fact("next_expected_milestone", Text, "What the source itself says comes next", &[]),
    fact("next_expected_by", Time, "By when the source says it comes", &[]),
    fact("declared_value", Money, "The value declared to customs", &[]),
    fact("landed_cost_quoted", Money, "What the buyer was told duties and taxes would be", &[]),
    fact("landed_cost_actual", Money, "What they were", &[]),
    fact(
        "category_forced_labour",
        BoolOrText,
        "Whether the goods belong to a category suspected of forced labour, or which",
        &[],
    ),
    fact("items", List, "What is in the parcel", &[]),
    fact("documents", List, "The types of the documents that were ever named", &[]),
    fact("seller_id", Text, "The seller", &[]),
    fact("importer_of_record", Text, "Who imports, before the law", &[]),
    fact("order_id", Text, "The order the parcel belongs to", &[]),
    fact("parcel_index", Number, "Which of the order's parcels this is", &[]),
    fact("parcel_count", Number, "How many parcels the order has", &[]),
    fact("tracking_number", Text, "The number that the first carrier gave", &[]),
    fact("linked_tracking", List, "Numbers of further legs", &[]),
    fact("carrier_code", Text, "Whose number the tracking number is", &[]),
    fact("carrier", Text, "The carrier", &[]),
    fact("linehaul_carrier", Text, "Who carries it between the countries", &[]),
    fact("domestic_carrier", Text, "Who delivers it", &[]),
    fact("service_level", Text, "What was bought: standard, express …", &[]),
    fact("guarantee_start", Time, "When the buyer's guarantee began", &[]),
    fact("guarantee_days", Number, "How many days the guarantee lasts; 60 where not stated", &[]),
    fact("feed_status", Text, "How the feed of this parcel is", &["success", "failing", "stopped"]),
    fact("delay_reason", Text, "Why a scan says it is late", &[]),
    fact("incident_reason", Text, "What an incident was", &["lost", "damaged", "destroyed", "security"]),
    fact("location.country", Text, "The country of the latest record that names one, two capitals", &[]),
    fact("location.facility", Text, "The facility of the latest record that names one", &[]),
    fact("source.system", Text, "Who told the latest record", &[]),
    fact(
        "source.role",
        Text,
        "What the teller of the latest record is",
        &["marketplace", "carrier", "broker", "customs", "forwarder", "aggregator"],
    ),
    fact("holds_open", Number, "How many holds of customs are open", &[]),
    fact(
        "hold_reasons",
        List,
        "The reasons of the open holds",
        &[
            "duty_unpaid",
            "value_query",
            "description_query",
            "missing_invoice",
            "missing_certificate",
            "permit_required",
            "ip_rights",
            "prohibited",
            "restricted",
            "forced_labour",
            "health_agri",
            "security_screening",
            "random_inspection",
            "addressee_info",
            "unknown",
        ],
    ),
    fact(
        "terminal",
        List,
        "The milestones that ended the parcel's life; true asks whether there is any",
        &[],
    ),
    fact("weak_description", Bool, "An item's description is too weak for customs", &[]),
    fact(
        "missing_documents",
        List,
        "What a parcel of a suspected category still lacks",
        &["certificate_of_origin", "supplier_declaration"],
    ),
    fact("landed_cost_drift_percent", Number, "Actual less quoted landed cost, in percent of the quote", &[]),
    fact("landed_cost_drift", Number, "Actual less quoted landed cost", &[]),
    fact("seen", List, "The milestones that occurred", &[]),
    fact("last_milestone", Text, "The milestone of the latest occurrence", &[]),
    fact("facility_scans", Number, "How many occurrences the stay at the present facility has", &[]),
];

/// A fact in words.
#[must_use]
pub fn fact_words(name: &str) -> Option<&'static FactWords> {
    FACT_WORDS.iter().find(|f| f.name == name)
}

impl Milestone {
    /// What it says of a parcel.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Milestone::OrderCreated => "The buyer paid",
            Milestone::ShipmentCreated => "Label or pre-advice: the seller says it is shipped",
            Milestone::PickedUp => "First physical acceptance",
            Milestone::OriginFacilityScan => "Scanned in a facility of the country of origin",
            Milestone::HandedToLinehaul => "Given to the carrier between the countries",
            Milestone::ExportCustomsStarted => "Presented to export customs",
            Milestone::ExportCustomsHeld => "Held by export customs",
            Milestone::ExportCustomsCleared => "Cleared by export customs",
            Milestone::DepartedOriginCountry => "Left the country of origin",
            Milestone::InTransitScan => "Any other scan on the way",
            Milestone::ImportDeclarationFiled => "Declared to import customs, often before it arrives",
            Milestone::ArrivedDestinationCountry => "Arrived in the country of destination",
            Milestone::ImportCustomsStarted => "In the hands of import customs",
            Milestone::ImportCustomsInspection => "Selected for an inspection",
            Milestone::ImportCustomsInfoRequired => "Customs asks for documents or data",
            Milestone::ImportCustomsHeld => "Customs opened a hold",
            Milestone::ImportClearanceException => "Something is wrong in customs; nobody says what",
            Milestone::ImportCustomsHoldReleased => "Customs closed a hold",
            Milestone::ImportDutyAssessed => "The duty is known",
            Milestone::ImportDutyPaid => "The duty is paid",
            Milestone::ImportCustomsReleased => "It may move, though formalities are open",
            Milestone::ImportCustomsCleared => "Cleared by import customs",
            Milestone::DepartedCustoms => "Left customs",
            Milestone::HandedToDomesticCarrier => "Whoever had it says it went to the domestic carrier",
            Milestone::DomesticScan => "Scanned by the domestic carrier",
            Milestone::OutForDelivery => "On the van",
            Milestone::DeliveryAttempted => "A delivery failed",
            Milestone::AvailableForPickup => "Waits at a pickup point",
            Milestone::ReturnStarted => "On its way back to the sender",
            Milestone::Delivered => "With the addressee",
            Milestone::ReceiptConfirmed => "The buyer confirms the receipt",
            Milestone::ImportCustomsRefused => "Refused, seized or abandoned in customs",
            Milestone::ReturnedToSender => "Back with the sender",
            Milestone::ParcelIncident => "Lost, damaged or destroyed",
            Milestone::Cancelled => "Cancelled",
        }
    }
}

impl Control {
    /// What it does.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            Control::ParcelFacts => "States facts of a parcel",
            Control::TrackingLinked => "Names the number of a further leg",
            Control::EventRetracted => "Takes records back: `retracts` names their ids",
            Control::FeedHealth => "Tells how a feed is; without parcel_id it is about the whole feed",
            Control::GuaranteeUpdated => "Moves the buyer's guarantee",
            Control::DutyRegimeChanged => "A tariff changed",
        }
    }
}

impl DerivedTime {
    /// What it is the time of.
    #[must_use]
    pub const fn about(self) -> &'static str {
        match self {
            DerivedTime::ImportCustomsFullyCleared => "Cleared and no hold open: the later of the two",
            DerivedTime::HoldOpened => "When the oldest open hold was opened",
            DerivedTime::HoldsClosed => "When the last hold was closed, while none is open",
            DerivedTime::DocumentsAdded => "When documents were last added",
            DerivedTime::FirstEvent => "The earliest occurrence",
            DerivedTime::LastEvent => "The latest occurrence; each is an episode of its own",
            DerivedTime::LastScan => "The latest physical scan; each is an episode of its own",
            DerivedTime::FacilitySince => {
                "Since when it has been at its present facility; each stay is an episode of its own"
            }
            DerivedTime::GuaranteeStart => "When the buyer's guarantee began",
            DerivedTime::GuaranteeEnd => "When the buyer's guarantee ends; for `before`",
            DerivedTime::DutyDueBy => "By when the duty has to be paid; for `before`",
            DerivedTime::HoldRespondBy => "By when the first open hold has to be answered; for `before`",
            DerivedTime::NextExpectedBy => {
                "By when the source itself promised the next step; with `expect: next_expected`"
            }
        }
    }

    /// Known before it comes: what `before` needs.
    #[must_use]
    pub const fn is_known_ahead(self) -> bool {
        matches!(
            self,
            DerivedTime::GuaranteeEnd
                | DerivedTime::DutyDueBy
                | DerivedTime::HoldRespondBy
                | DerivedTime::NextExpectedBy
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{DerivedFact, KNOWN_FACTS};

    #[test]
    fn every_fact_has_its_words_and_no_other_has() {
        let stated = KNOWN_FACTS.into_iter().filter(|n| !n.is_empty());
        let all: Vec<&str> = stated.chain(DerivedFact::ALL.into_iter().map(DerivedFact::name)).collect();
        assert_eq!(FACT_WORDS.map(|f| f.name).to_vec(), all);
    }
}
