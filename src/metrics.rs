//! What Prometheus scrapes (DESIGN §11, `reference/alerting.md` §5): every name, its help and its labels in one place.
//!
//! The only module that names the `prometheus` crate. A [`Metrics`] has a registry of its own, so that tests make as many
//! as they like. Label sets that are known exist from the start at 0: those of rules and receivers from
//! [`Metrics::set_rules`] and [`Metrics::set_receivers`], those of a partition from [`Metrics::partition`]. No label ever
//! holds a parcel, a number of one, an address or a URL. Points in time are exported as seconds since 1970, 0 for never,
//! so that age is the reader's subtraction.

use std::collections::BTreeSet;
use std::sync::Mutex;

use prometheus::core::Collector;
use prometheus::process_collector::ProcessCollector;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};

use crate::model::{RejectReason, Resolution, Severity};

/// The content type of [`Metrics::text`]: text format 0.0.4.
pub const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

/// Reasons of `notifications_failed_total`.
pub const FAILURE_REASONS: [&str; 6] =
    ["permanent", "transient", "rate_limited", "auth", "template", "outcome_unknown"];
/// States of `outbox_rows`.
pub const OUTBOX_STATES: [&str; 6] = ["pending", "delivered", "withdrawn", "dead", "dropped", "dry_run"];
/// Why folding waits: `folding_waits`.
pub const WAIT_REASONS: [&str; 6] =
    ["cases", "disk", "clock_ahead", "partition_count_changed", "snapshot", "queue_full"];
/// What may be dropped because a parcel's bounds are full: `dropped_over_bounds_total`.
pub const BOUNDS: [&str; 4] = ["occurrences", "holds", "retractions", "facts"];
/// Kinds of `clock_violations_total`.
pub const CLOCK_VIOLATIONS: [&str; 2] = ["backwards", "ahead"];
/// Kinds of `gaps_total`.
pub const GAP_KINDS: [&str; 4] = ["retention", "truncation", "topic_recreated", "no_snapshot"];
/// What may be wrong with a feed: `feed_incidents_open`.
pub const FEED_TROUBLES: [&str; 3] = ["silent", "failing", "stopped"];
/// Why a notification was decided against: `notifications_suppressed_total`.
pub const SUPPRESSIONS: [&str; 13] = [
    "acknowledged",
    "duplicate",
    "grouped",
    "inhibited",
    "min_severity",
    "muted",
    "no_policy",
    "no_receiver",
    "nothing_new",
    "rate_limited",
    "receiver_disabled",
    "resolved_before_send",
    "silenced",
];

const LATENESS: [f64; 15] =
    [0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 6.0, 10.0, 15.0, 30.0, 60.0, 300.0, 900.0, 3600.0, 86400.0];
const DELAY: [f64; 15] =
    [0.5, 1.0, 5.0, 10.0, 20.0, 30.0, 45.0, 60.0, 120.0, 300.0, 900.0, 3600.0, 14400.0, 43200.0, 86400.0];
const SHORT: [f64; 13] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0];

/// A metric could not be registered: two of one name, or a bad one. A fault of this program.
#[derive(Debug, thiserror::Error)]
#[error("cannot register metrics: {0}")]
pub struct MetricsError(#[from] prometheus::Error);

/// All metrics of a process.
pub struct Metrics {
    registry: Registry,
    labels: Mutex<Labels>,

    // intake
    /// Assigned partitions.
    pub partitions_assigned: IntGauge,
    /// Assignments and revocations.
    pub rebalances: IntCounter,
    /// Records whose `event_id` was known already.
    pub records_duplicate: IntCounter,
    /// Records of parcels that were forgotten.
    pub records_swallowed: IntCounter,
    /// Records with `is_test`.
    pub records_test: IntCounter,
    /// Records with a milestone that is not known.
    pub records_unmapped: IntCounter,
    /// Records dated ahead of their append time.
    pub records_future: IntCounter,
    /// Records whose key is not their parcel.
    pub key_mismatch: IntCounter,
    // engine
    /// Parcels in memory.
    pub parcels_tracked: IntGauge,
    /// Ids remembered of parcels that were forgotten.
    pub parcels_remembered: IntGauge,
    /// Seconds from a fire time to its change being written, live only.
    pub fire_lateness_seconds: Histogram,
    // escalation and delivery
    /// Seconds from a change to its message's delivery.
    pub notification_delay_seconds: Histogram,
    /// 0 where nothing waits.
    pub outbox_oldest_pending: Gauge,
    /// Exceptions whose next step is overdue.
    pub escalation_steps_overdue: IntGauge,
    /// 1: this process leads the escalation; of several that share a database one does.
    pub escalation_leader: IntGauge,
    // configuration and state
    /// 1 where the last (re)load of rules and policies succeeded.
    pub config_last_reload_successful: IntGauge,
    /// When it last succeeded.
    pub config_last_reload_success: Gauge,
    /// Seconds a transaction into cases takes.
    pub cases_write_seconds: Histogram,
    /// When every assigned shard had last been saved.
    pub snapshot_last_success: Gauge,
    /// Seconds a snapshot takes.
    pub snapshot_seconds: Histogram,
    /// Bytes of the last snapshots of all assigned shards.
    pub snapshot_size_bytes: IntGauge,
    /// Snapshots that failed.
    pub snapshot_failures: IntCounter,

    families: Families,
}

/// Metrics with labels; reached through the methods, which keep the label sets closed.
struct Families {
    consumed: IntCounterVec,
    rejected: IntCounterVec,
    lag: IntGaugeVec,
    watermark: GaugeVec,
    caught_up: IntGaugeVec,
    certificate: GaugeVec,
    gaps: IntCounterVec,
    clock_violations: IntCounterVec,
    folding_waits: IntGaugeVec,
    dropped: IntCounterVec,
    open: IntGaugeVec,
    rules: IntGaugeVec,
    opened: IntCounterVec,
    resolved: IntCounterVec,
    notifications: IntCounterVec,
    failed: IntCounterVec,
    dead_letters: IntCounterVec,
    latency: HistogramVec,
    suppressed: IntCounterVec,
    feed_incidents: IntGaugeVec,
    outbox_rows: IntGaugeVec,
    queue_items: IntGaugeVec,
    queue_capacity: IntGaugeVec,
    http_requests: IntCounterVec,
    http_seconds: HistogramVec,
}

#[derive(Default)]
struct Labels {
    rules: BTreeSet<String>,
    receivers: BTreeSet<(String, String)>,
}

/// The metrics of one partition, with the labels looked up once: the fold counts every record.
#[derive(Clone)]
pub struct PartitionMetrics {
    /// Records read.
    pub consumed: IntCounter,
    /// Records between our position and the end of the partition.
    pub lag: IntGauge,
    /// 1 where everything was folded when a certificate was last asked for.
    pub caught_up: IntGauge,
    watermark: Gauge,
    certificate: Gauge,
}

impl PartitionMetrics {
    /// The shard's watermark, in milliseconds since 1970.
    pub fn set_watermark_ms(&self, ms: i64) {
        set_time(&self.watermark, ms);
    }

    /// The wall time of the certificate that stands, in milliseconds since 1970.
    pub fn set_certificate_ms(&self, ms: i64) {
        set_time(&self.certificate, ms);
    }
}

/// The gauge of one bounded queue.
#[derive(Clone)]
pub struct QueueMetrics {
    /// What is in it.
    pub items: IntGauge,
}

/// Sets a gauge of seconds from milliseconds since 1970; what lies before 1970 reads 0, never.
#[allow(clippy::cast_precision_loss, reason = "milliseconds of a date fit a double's 53 bits")]
pub fn set_time(gauge: &Gauge, ms: i64) {
    gauge.set(ms.max(0) as f64 / 1000.0);
}

/// Observes a span given in milliseconds, in seconds; a negative one counts as 0.
#[allow(clippy::cast_precision_loss, reason = "a span of milliseconds fits a double's 53 bits")]
pub fn observe_ms(histogram: &Histogram, ms: i64) {
    histogram.observe(ms.max(0) as f64 / 1000.0);
}

/// Registers what it makes, prefixed.
struct Make<'r>(&'r Registry);

impl Make<'_> {
    fn put<C: Collector + Clone + 'static>(&self, c: C) -> Result<C, MetricsError> {
        self.0.register(Box::new(c.clone()))?;
        Ok(c)
    }

    fn opts(name: &str, help: &str) -> Opts {
        Opts::new(format!("parcelwatch_{name}"), help)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, MetricsError> {
        self.put(IntCounter::with_opts(Self::opts(name, help))?)
    }

    fn counters(&self, name: &str, labels: &[&str], help: &str) -> Result<IntCounterVec, MetricsError> {
        self.put(IntCounterVec::new(Self::opts(name, help), labels)?)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, MetricsError> {
        self.put(IntGauge::with_opts(Self::opts(name, help))?)
    }

    fn gauges(&self, name: &str, labels: &[&str], help: &str) -> Result<IntGaugeVec, MetricsError> {
        self.put(IntGaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn time(&self, name: &str, help: &str) -> Result<Gauge, MetricsError> {
        self.put(Gauge::with_opts(Self::opts(name, help))?)
    }

    fn times(&self, name: &str, labels: &[&str], help: &str) -> Result<GaugeVec, MetricsError> {
        self.put(GaugeVec::new(Self::opts(name, help), labels)?)
    }

    fn histogram(&self, name: &str, buckets: &[f64], help: &str) -> Result<Histogram, MetricsError> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.put(Histogram::with_opts(opts)?)
    }

    fn histograms(
        &self,
        name: &str,
        labels: &[&str],
        buckets: &[f64],
        help: &str,
    ) -> Result<HistogramVec, MetricsError> {
        let opts = HistogramOpts::from(Self::opts(name, help)).buckets(buckets.to_vec());
        self.put(HistogramVec::new(opts, labels)?)
    }

    #[rustfmt::skip] // one line a metric
    fn families(&self) -> Result<Families, MetricsError> {
        Ok(Families {
            consumed: self.counters("records_consumed_total", &["topic", "partition"], "Records read from Kafka.")?,
            rejected: self.counters("records_rejected_total", &["reason"], "Records that could not be decoded.")?,
            lag: self.gauges("consumer_lag_records", &["partition"], "Records between the consumer's position and the end of the partition.")?,
            watermark: self.times("watermark_timestamp_seconds", &["partition"], "By this append time everything was folded.")?,
            caught_up: self.gauges("partition_caught_up", &["partition"], "1 where all that the broker had when last asked is folded.")?,
            certificate: self.times("certificate_timestamp_seconds", &["partition"], "Wall time of the latest certificate of a partition's end; 0 for none yet.")?,
            gaps: self.counters("gaps_total", &["kind"], "Times that records were lost before they were read.")?,
            clock_violations: self.counters("clock_violations_total", &["kind"], "Append times that went back or were ahead of the wall clock.")?,
            folding_waits: self.gauges("folding_waits", &["reason"], "1 where folding waits for this reason.")?,
            dropped: self.counters("dropped_over_bounds_total", &["what"], "Parts of a parcel not kept because its bounds were full.")?,
            open: self.gauges("exceptions_open", &["rule", "severity"], "Exceptions that stand, acknowledged ones included.")?,
            rules: self.gauges("rule_info", &["rule", "mode"], "1 for each rule in force, and whether anybody is told of it (live) or not (shadow).")?,
            opened: self.counters("exceptions_opened_total", &["rule"], "Exceptions opened.")?,
            resolved: self.counters("exceptions_resolved_total", &["rule", "resolution"], "Exceptions resolved, by how.")?,
            notifications: self.counters("notifications_total", &["receiver", "integration"], "Attempts to deliver a message, failed ones included.")?,
            failed: self.counters("notifications_failed_total", &["receiver", "integration", "reason"], "Attempts to deliver a message that failed, by class of failure.")?,
            dead_letters: self.counters("dead_letters_total", &["receiver", "integration"], "Messages given up for good.")?,
            latency: self.histograms("notification_latency_seconds", &["integration"], &SHORT, "Seconds that one attempt to deliver takes.")?,
            feed_incidents: self.gauges("feed_incidents_open", &["what"], "Feeds that are silent or say that they do not work.")?,
            suppressed: self.counters("notifications_suppressed_total", &["reason"], "Decisions not to tell somebody, by why.")?,
            outbox_rows: self.gauges("outbox_rows", &["state"], "Messages in the outbox.")?,
            queue_items: self.gauges("queue_items", &["queue"], "What waits in a bounded queue.")?,
            queue_capacity: self.gauges("queue_capacity_items", &["queue"], "What a bounded queue holds at most.")?,
            http_requests: self.counters("http_requests_total", &["handler", "method", "code"], "Requests answered.")?,
            http_seconds: self.histograms("http_request_duration_seconds", &["handler"], &SHORT, "Seconds that a request takes.")?,
        })
    }
}

impl Metrics {
    /// All metrics, at 0.
    ///
    /// # Errors
    /// Two of one name or a bad one: a fault of this program.
    #[rustfmt::skip] // one line a metric
    pub fn new() -> Result<Metrics, MetricsError> {
        let registry = Registry::new();
        registry.register(Box::new(ProcessCollector::for_self()))?;
        let m = Make(&registry);
        let build = m.gauges("build_info", &["version"], "1; the labels say what runs.")?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        let metrics = Metrics {
            partitions_assigned: m.gauge("partitions_assigned", "Partitions this process owns.")?,
            rebalances: m.counter("rebalances_total", "Assignments and revocations of partitions.")?,
            records_duplicate: m.counter("records_duplicate_total", "Records whose event_id was known already.")?,
            records_swallowed: m.counter("records_swallowed_total", "Records of parcels that were forgotten.")?,
            records_test: m.counter("records_test_total", "Records with is_test, never folded.")?,
            records_unmapped: m.counter("records_unmapped_total", "Records with an unknown milestone.")?,
            records_future: m.counter("records_future_total", "Records dated more than 15 minutes after they were stored.")?,
            key_mismatch: m.counter("key_mismatch_total", "Records whose key is not their parcel_id.")?,
            parcels_tracked: m.gauge("parcels_tracked", "Parcels whose facts are in memory.")?,
            parcels_remembered: m.gauge("parcels_remembered", "Ids remembered of parcels that were forgotten.")?,
            fire_lateness_seconds: m.histogram("fire_lateness_seconds", &LATENESS, "Seconds from a deadline's fire time to its change being written, live only.")?,
            notification_delay_seconds: m.histogram("notification_delay_seconds", &DELAY, "Seconds from the oldest change in a message to its delivery.")?,
            outbox_oldest_pending: m.time("outbox_oldest_pending_timestamp_seconds", "When the oldest message still to be delivered was written; 0 for none.")?,
            escalation_leader: m.gauge("escalation_leader", "1 where this process leads the escalation: of several that share a database, one.")?,
            escalation_steps_overdue: m.gauge("escalation_steps_overdue", "Exceptions that stand and whose next step is overdue.")?,
            config_last_reload_successful: m.gauge("config_last_reload_successful", "1 where rules and policies were last loaded without a problem.")?,
            config_last_reload_success: m.time("config_last_reload_success_timestamp_seconds", "When rules and policies were last loaded without a problem.")?,
            cases_write_seconds: m.histogram("cases_write_seconds", &SHORT, "Seconds that a transaction takes.")?,
            snapshot_last_success: m.time("snapshot_last_success_timestamp_seconds", "When a snapshot was last published; of several shards, the oldest.")?,
            snapshot_seconds: m.histogram("snapshot_duration_seconds", &SHORT, "Seconds that a snapshot takes.")?,
            snapshot_size_bytes: m.gauge("snapshot_size_bytes", "Bytes of the latest snapshots.")?,
            snapshot_failures: m.counter("snapshot_failures_total", "Snapshots that could not be written.")?,
            families: m.families()?,
            labels: Mutex::default(),
            registry,
        };
        metrics.families.exist();
        Ok(metrics)
    }

    /// What `/metrics` answers, of type [`CONTENT_TYPE`].
    #[must_use]
    pub fn text(&self) -> String {
        let mut out = Vec::with_capacity(32 * 1024);
        // Encoding fails only where a family is empty or writing fails; a vector's writing does not.
        if let Err(error) = TextEncoder::new().encode(&self.registry.gather(), &mut out) {
            tracing::error!(%error, "cannot encode metrics");
        }
        String::from_utf8_lossy(&out).into_owned()
    }

    /// The metrics of a partition; they exist from here on.
    #[must_use]
    pub fn partition(&self, topic: &str, partition: i32) -> PartitionMetrics {
        let (f, p) = (&self.families, partition.to_string());
        PartitionMetrics {
            consumed: f.consumed.with_label_values(&[topic, &p]),
            lag: f.lag.with_label_values(&[&p]),
            caught_up: f.caught_up.with_label_values(&[&p]),
            watermark: f.watermark.with_label_values(&[&p]),
            certificate: f.certificate.with_label_values(&[&p]),
        }
    }

    /// Ends the gauges of a partition that was revoked; its counter stays.
    pub fn forget_partition(&self, partition: i32) {
        let (f, p) = (&self.families, [partition.to_string()]);
        // An error says that there was no such series, which is what is wanted.
        let _ = f.lag.remove_label_values(&p);
        let _ = f.caught_up.remove_label_values(&p);
        let _ = f.watermark.remove_label_values(&p);
        let _ = f.certificate.remove_label_values(&p);
    }

    /// The gauge of a bounded queue. `queue` is a name of this program's own.
    #[must_use]
    pub fn queue(&self, queue: &str, capacity: usize) -> QueueMetrics {
        let capacity = i64::try_from(capacity).unwrap_or(i64::MAX);
        self.families.queue_capacity.with_label_values(&[queue]).set(capacity);
        QueueMetrics { items: self.families.queue_items.with_label_values(&[queue]) }
    }

    /// The rules in force: series of new ones begin at 0, those of rules that went end.
    /// Each with whether it is in shadow, where nobody is told.
    pub fn set_rules<'r>(&self, rules: impl IntoIterator<Item = (&'r str, bool)>) {
        let f = &self.families;
        f.rules.reset();
        let named = |(rule, shadow): (&str, bool)| {
            f.rules.with_label_values(&[rule, if shadow { "shadow" } else { "live" }]).set(1);
            rule.to_owned()
        };
        let rules: BTreeSet<String> = rules.into_iter().map(named).collect();
        let mut labels = lock(&self.labels);
        for gone in labels.rules.difference(&rules) {
            let _ = f.opened.remove_label_values(&[gone]);
            for severity in Severity::ALL {
                let _ = f.open.remove_label_values(&[gone.as_str(), severity.name()]);
            }
            for resolution in Resolution::ALL {
                let _ = f.resolved.remove_label_values(&[gone.as_str(), resolution.name()]);
            }
        }
        for rule in &rules {
            let _ = f.opened.with_label_values(&[rule]);
            for severity in Severity::ALL {
                let _ = f.open.with_label_values(&[rule.as_str(), severity.name()]);
            }
            for resolution in Resolution::ALL {
                let _ = f.resolved.with_label_values(&[rule.as_str(), resolution.name()]);
            }
        }
        labels.rules = rules;
    }

    /// The receivers in force as (id, integration): series of new ones begin at 0, those of receivers that went end.
    pub fn set_receivers<'r>(&self, receivers: impl IntoIterator<Item = (&'r str, &'r str)>) {
        let receivers: BTreeSet<(String, String)> =
            receivers.into_iter().map(|(r, i)| (r.to_owned(), i.to_owned())).collect();
        let f = &self.families;
        let mut labels = lock(&self.labels);
        for (receiver, integration) in labels.receivers.difference(&receivers) {
            let gone = [receiver.as_str(), integration.as_str()];
            let _ = f.notifications.remove_label_values(&gone);
            let _ = f.dead_letters.remove_label_values(&gone);
            for reason in FAILURE_REASONS {
                let _ = f.failed.remove_label_values(&[gone[0], gone[1], reason]);
            }
        }
        for (receiver, integration) in &receivers {
            let labels = [receiver.as_str(), integration.as_str()];
            let _ = f.notifications.with_label_values(&labels);
            let _ = f.dead_letters.with_label_values(&labels);
            let _ = f.latency.with_label_values(&[integration]);
            for reason in FAILURE_REASONS {
                let _ = f.failed.with_label_values(&[labels[0], labels[1], reason]);
            }
        }
        labels.receivers = receivers;
    }

    /// A record was rejected.
    pub fn rejected(&self, reason: RejectReason) {
        self.families.rejected.with_label_values(&[reason.name()]).inc();
    }

    /// Records were lost; `kind` is one of [`GAP_KINDS`].
    pub fn gap(&self, kind: &str) {
        self.families.gaps.with_label_values(&[kind]).inc();
    }

    /// An append time broke the clock's rules; `kind` is one of [`CLOCK_VIOLATIONS`].
    pub fn clock_violation(&self, kind: &str) {
        self.families.clock_violations.with_label_values(&[kind]).inc();
    }

    /// Whether folding waits for `reason`, one of [`WAIT_REASONS`].
    pub fn folding_waits(&self, reason: &str, waits: bool) {
        self.families.folding_waits.with_label_values(&[reason]).set(i64::from(waits));
    }

    /// `n` parts of parcels were not kept; `what` is one of [`BOUNDS`].
    pub fn dropped_over_bounds(&self, what: &str, n: u64) {
        self.families.dropped.with_label_values(&[what]).inc_by(n);
    }

    /// How many exceptions of a rule and severity stand. A rule that is not in force has no series.
    pub fn set_exceptions_open(&self, rule: &str, severity: Severity, n: i64) {
        if lock(&self.labels).rules.contains(rule) {
            self.families.open.with_label_values(&[rule, severity.name()]).set(n);
        }
    }

    /// How many incidents of feeds stand; `what` is one of [`FEED_TROUBLES`].
    pub fn set_feed_incidents(&self, what: &str, n: i64) {
        self.families.feed_incidents.with_label_values(&[what]).set(n);
    }

    /// An exception opened.
    pub fn exception_opened(&self, rule: &str) {
        self.families.opened.with_label_values(&[rule]).inc();
    }

    /// An exception was resolved. That of a rule that went counts too, in a series that lives until the rules change next.
    pub fn exception_resolved(&self, rule: &str, resolution: Resolution) {
        self.families.resolved.with_label_values(&[rule, resolution.name()]).inc();
    }

    /// A message was tried at a receiver and took `ms`; `failed` names the class of the failure, of [`FAILURE_REASONS`].
    pub fn notification(&self, receiver: &str, integration: &str, ms: i64, failed: Option<&str>) {
        let f = &self.families;
        f.notifications.with_label_values(&[receiver, integration]).inc();
        observe_ms(&f.latency.with_label_values(&[integration]), ms);
        if let Some(reason) = failed {
            self.notification_failed(receiver, integration, reason);
        }
    }

    /// A message failed in a way that is no attempt: its template.
    pub fn notification_failed(&self, receiver: &str, integration: &str, reason: &str) {
        self.families.failed.with_label_values(&[receiver, integration, reason]).inc();
    }

    /// A message was given up.
    pub fn dead_letter(&self, receiver: &str, integration: &str) {
        self.families.dead_letters.with_label_values(&[receiver, integration]).inc();
    }

    /// Nobody was told, and why: of [`SUPPRESSIONS`].
    pub fn suppressed(&self, reason: &str, n: u64) {
        self.families.suppressed.with_label_values(&[reason]).inc_by(n);
    }

    /// How many rows of the outbox are in `state`, one of [`OUTBOX_STATES`].
    pub fn set_outbox_rows(&self, state: &str, n: i64) {
        self.families.outbox_rows.with_label_values(&[state]).set(n);
    }

    /// A request was answered. `handler` is the route's pattern, never the path.
    pub fn http_request(&self, handler: &str, method: &str, code: u16, ms: i64) {
        self.families.http_requests.with_label_values(&[handler, method, &code.to_string()]).inc();
        observe_ms(&self.families.http_seconds.with_label_values(&[handler]), ms);
    }
}

impl Families {
    /// Makes every label set exist that is known before rules, receivers and partitions are.
    fn exist(&self) {
        for reason in RejectReason::ALL {
            let _ = self.rejected.with_label_values(&[reason.name()]);
        }
        let counters: [(&IntCounterVec, &[&str]); 4] = [
            (&self.gaps, &GAP_KINDS),
            (&self.clock_violations, &CLOCK_VIOLATIONS),
            (&self.dropped, &BOUNDS),
            (&self.suppressed, &SUPPRESSIONS),
        ];
        for (family, values) in counters {
            for value in values {
                let _ = family.with_label_values(&[value]);
            }
        }
        let gauges: [(&IntGaugeVec, &[&str]); 3] = [
            (&self.folding_waits, &WAIT_REASONS),
            (&self.outbox_rows, &OUTBOX_STATES),
            (&self.feed_incidents, &FEED_TROUBLES),
        ];
        for (family, values) in gauges {
            for value in values {
                let _ = family.with_label_values(&[value]);
            }
        }
    }
}

fn lock(labels: &Mutex<Labels>) -> std::sync::MutexGuard<'_, Labels> {
    // The sets are replaced whole, so they are right even if a holder panicked.
    labels.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn has(metrics: &Metrics, line: &str) {
        let text = metrics.text();
        assert!(text.lines().any(|l| l == line), "{line}\nis not in\n{text}");
    }

    fn full() -> Metrics {
        let m = Metrics::new().unwrap();
        m.set_rules([("late", false)]);
        m.set_receivers([("erp", "webhook")]);
        let _ = m.partition("milestones", 0);
        let _ = m.queue("changes", 64);
        m.http_request("/metrics", "GET", 200, 3);
        m
    }

    #[test]
    fn every_name_of_the_design_exists_from_the_start() {
        let m = full();
        for line in [
            "records_consumed_total{partition=\"0\",topic=\"milestones\"} 0",
            "records_rejected_total{reason=\"too_deep\"} 0",
            "consumer_lag_records{partition=\"0\"} 0",
            "watermark_timestamp_seconds{partition=\"0\"} 0",
            "partition_caught_up{partition=\"0\"} 0",
            "parcels_tracked 0",
            "exceptions_open{rule=\"late\",severity=\"critical\"} 0",
            "exceptions_opened_total{rule=\"late\"} 0",
            "exceptions_resolved_total{resolution=\"late_evidence\",rule=\"late\"} 0",
            "fire_lateness_seconds_count 0",
            "notifications_total{integration=\"webhook\",receiver=\"erp\"} 0",
            "notifications_failed_total{integration=\"webhook\",reason=\"rate_limited\",receiver=\"erp\"} 0",
            "notification_delay_seconds_count 0",
            "outbox_rows{state=\"pending\"} 0",
            "outbox_oldest_pending_timestamp_seconds 0",
            "config_last_reload_successful 0",
            "config_last_reload_success_timestamp_seconds 0",
            "snapshot_last_success_timestamp_seconds 0",
            "queue_capacity_items{queue=\"changes\"} 64",
            "folding_waits{reason=\"cases\"} 0",
        ] {
            has(&m, &format!("parcelwatch_{line}"));
        }
        has(&m, &format!("parcelwatch_build_info{{version=\"{}\"}} 1", env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn every_family_has_help_and_a_name_by_the_conventions() {
        let text = full().text();
        let types: Vec<_> = text.lines().filter_map(|l| l.strip_prefix("# TYPE ")).collect();
        assert!(types.len() > 45, "{types:?}");
        for line in types {
            let (name, kind) = line.split_once(' ').unwrap();
            assert!(text.contains(&format!("# HELP {name} ")), "{name} has no help");
            assert!(name.starts_with("parcelwatch_") || name.starts_with("process_"), "{name}");
            assert_eq!(kind == "counter", name.ends_with("_total"), "{name} is a {kind}");
        }
    }

    #[test]
    fn series_of_rules_and_receivers_that_went_end() {
        let m = full();
        m.exception_opened("late");
        m.set_exceptions_open("late", Severity::High, 3);
        has(&m, "parcelwatch_exceptions_open{rule=\"late\",severity=\"high\"} 3");
        m.set_rules([("other", true)]);
        has(&m, "parcelwatch_rule_info{mode=\"shadow\",rule=\"other\"} 1");
        m.set_receivers([("erp", "email")]);
        m.set_exceptions_open("late", Severity::High, 4);
        let text = m.text();
        assert!(!text.contains("rule=\"late\""), "{text}");
        assert!(!text.contains("integration=\"webhook\",receiver"), "{text}");
        has(&m, "parcelwatch_exceptions_opened_total{rule=\"other\"} 0");
        has(&m, "parcelwatch_notifications_total{integration=\"email\",receiver=\"erp\"} 0");
    }

    #[test]
    fn rules_that_stay_keep_their_counts() {
        let m = full();
        m.exception_opened("late");
        m.set_rules([("late", false), ("other", false)]);
        has(&m, "parcelwatch_exceptions_opened_total{rule=\"late\"} 1");
    }

    #[test]
    fn times_are_seconds_and_label_values_are_escaped() {
        let m = full();
        m.partition("milestones", 0).set_watermark_ms(1_500);
        has(&m, "parcelwatch_watermark_timestamp_seconds{partition=\"0\"} 1.5");
        m.set_rules([("a\"b\n", false)]);
        has(&m, "parcelwatch_exceptions_opened_total{rule=\"a\\\"b\\n\"} 0");
    }

    #[test]
    fn a_revoked_partition_has_no_lag() {
        let m = full();
        m.forget_partition(0);
        assert!(!m.text().contains("parcelwatch_consumer_lag_records{"), "{}", m.text());
    }
}
