//! What is wrong with the connection, in one clear line: said when it changes and each minute while it lasts.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::Options;

/// Kinds of trouble, of which one each is kept.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Kind {
    /// Brokers, logins, TLS.
    Connection,
    /// The topic is missing or forbidden.
    Topic,
    /// The group refuses us.
    Group,
    /// The partition count changed.
    Partitions,
    /// A transaction is left open.
    Transaction,
}

struct Entry {
    text: String,
    rank: u8,
    since: Instant,
    seen: Instant,
    logged: Option<Instant>,
}

/// What is wrong now.
pub struct Troubles {
    servers: String,
    topic: String,
    group: String,
    entries: Mutex<BTreeMap<Kind, Entry>>,
}

/// How often what lasts is said again.
const AGAIN: Duration = Duration::from_secs(60);
/// What is over before this was no trouble: a broker that closes an idle connection, for one.
const MOMENT: Duration = Duration::from_secs(1);

impl Troubles {
    pub(super) fn new(options: &Options) -> Troubles {
        Troubles {
            servers: options.bootstrap_servers.clone(),
            topic: options.topic.clone(),
            group: options.group_id.clone(),
            entries: Mutex::new(BTreeMap::new()),
        }
    }

    /// What is wrong, a line each.
    #[must_use]
    pub fn texts(&self) -> Vec<String> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner).values().map(|e| e.text.clone()).collect()
    }

    /// Notes what librdkafka reported; errors that say nothing about a lasting state are passed over.
    pub(super) fn note(&self, error: &KafkaError, reason: &str) {
        let Some(code) = error.rdkafka_error_code() else { return };
        if let Some((kind, rank, text)) = self.explain(code, reason) {
            self.say(kind, rank, text);
        }
    }

    pub(super) fn say(&self, kind: Kind, rank: u8, text: String) {
        let now = Instant::now();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.get_mut(&kind) {
            // "All brokers are down" follows each refused login and says less.
            Some(old) if old.rank > rank && now - old.seen < AGAIN => {}
            Some(old) if old.text == text => old.seen = now,
            Some(old) => *old = Entry { text, rank, since: old.since, seen: now, logged: None },
            None => {
                entries.insert(kind, Entry { text, rank, since: now, seen: now, logged: None });
            }
        }
    }

    /// Logs what has lasted a moment and was not said lately. Called often.
    pub(super) fn speak(&self) {
        let now = Instant::now();
        for entry in self.entries.lock().unwrap_or_else(PoisonError::into_inner).values_mut() {
            match entry.logged {
                None if entry.rank >= 3 || now - entry.since >= MOMENT => tracing::warn!("{}", entry.text),
                Some(at) if now - at >= AGAIN => tracing::warn!("still: {}", entry.text),
                _ => continue,
            }
            entry.logged = Some(now);
        }
    }

    pub(super) fn clear(&self, kind: Kind) {
        let over = self.entries.lock().unwrap_or_else(PoisonError::into_inner).remove(&kind);
        if let Some(entry) = over.filter(|e| e.logged.is_some()) {
            tracing::info!("over: {}", entry.text);
        }
    }

    /// The kind of trouble, how much it says (more wins), and the line for the operator.
    fn explain(&self, code: RDKafkaErrorCode, reason: &str) -> Option<(Kind, u8, String)> {
        use RDKafkaErrorCode as Code;
        let (servers, topic, group) = (&self.servers, &self.topic, &self.group);
        let why = plain(reason);
        Some(match code {
            Code::Authentication | Code::SaslAuthenticationFailed | Code::UnsupportedSASLMechanism => (
                Kind::Connection,
                3,
                format!(
                    "kafka {servers}: the broker refuses the login: {why}; check security.protocol, sasl.mechanism, \
                     sasl.username and sasl.password in kafka.properties"
                ),
            ),
            Code::SSL => (
                Kind::Connection,
                3,
                format!(
                    "kafka {servers}: no TLS with the broker: {why}; check security.protocol, ssl.ca.location and the \
                     broker's name in its certificate"
                ),
            ),
            Code::Resolve => {
                (Kind::Connection, 2, format!("kafka {servers}: {why}; check kafka.bootstrap_servers"))
            }
            Code::BrokerTransportFailure => (
                Kind::Connection,
                2,
                format!(
                    "kafka {servers}: no connection: {why}; check kafka.bootstrap_servers and that a broker runs there"
                ),
            ),
            Code::AllBrokersDown
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::NetworkException => (
                Kind::Connection,
                1,
                format!(
                    "kafka {servers}: no broker answers; check kafka.bootstrap_servers and that a broker runs there"
                ),
            ),
            Code::UnknownTopicOrPartition
            | Code::UnknownTopic
            | Code::UnknownPartition
            | Code::UnknownTopicId => (
                Kind::Topic,
                2,
                format!(
                    "kafka {servers}: there is no topic {topic}; create it, or name the right one in kafka.topic"
                ),
            ),
            Code::TopicAuthorizationFailed => (
                Kind::Topic,
                2,
                format!("kafka {servers}: no permission to read topic {topic}; it needs READ and DESCRIBE"),
            ),
            Code::GroupAuthorizationFailed => (
                Kind::Group,
                2,
                format!("kafka {servers}: no permission to use group {group}; it needs READ"),
            ),
            _ => return None,
        })
    }
}

/// librdkafka's reason without its tail of states and identical errors.
fn plain(reason: &str) -> String {
    let end = reason.find(" (after ").unwrap_or(reason.len());
    reason[..end].trim().trim_end_matches('.').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn troubles() -> Troubles {
        Troubles::new(&Options::new("broker:9092", "milestones", "g", "i"))
    }

    #[test]
    fn the_most_telling_reason_stays() {
        let t = troubles();
        let login = KafkaError::Global(RDKafkaErrorCode::Authentication);
        t.note(
            &login,
            "sasl_ssl://broker:9092/bootstrap: SASL authentication error: no (after 5ms in state AUTH_REQ)",
        );
        t.note(&KafkaError::Global(RDKafkaErrorCode::AllBrokersDown), "1/1 brokers are down");
        let texts = t.texts();
        assert_eq!(texts.len(), 1);
        assert!(texts[0].contains("refuses the login"), "{texts:?}");
        assert!(texts[0].contains("sasl.password") && !texts[0].contains("after 5ms"), "{texts:?}");
        t.clear(Kind::Connection);
        assert!(t.texts().is_empty());
    }

    #[test]
    fn what_passes_by_itself_is_no_trouble() {
        let t = troubles();
        t.note(&KafkaError::Global(RDKafkaErrorCode::NotCoordinator), "not coordinator");
        assert!(t.texts().is_empty());
    }
}
