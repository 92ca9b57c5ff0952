//! What the two clients are configured with: ours, then the user's `kafka.properties`, but for what the clock's proof and
//! the exactly-once of the cases rest on.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;

/// What a source needs to know.
#[derive(Clone)]
pub struct Options {
    /// `kafka.bootstrap_servers`.
    pub bootstrap_servers: String,
    /// `kafka.topic`.
    pub topic: String,
    /// `kafka.group_id`.
    pub group_id: String,
    /// Made once and kept in `state`: a restart takes its partitions back without waiting for a session to run out.
    pub instance_id: String,
    /// `kafka.properties`, secrets read already.
    pub properties: BTreeMap<String, String>,
    /// How often the topic's metadata is asked for.
    pub metadata_every: Duration,
    /// How often certificates are taken.
    pub certificate_every: Duration,
}

impl Options {
    /// Options with the usual intervals.
    #[must_use]
    pub fn new(bootstrap_servers: &str, topic: &str, group_id: &str, instance_id: &str) -> Options {
        Options {
            bootstrap_servers: bootstrap_servers.to_owned(),
            topic: topic.to_owned(),
            group_id: group_id.to_owned(),
            instance_id: instance_id.to_owned(),
            properties: BTreeMap::new(),
            metadata_every: Duration::from_secs(30),
            certificate_every: Duration::from_millis(250),
        }
    }

    /// Whether librdkafka would take these, without connecting to anything: what `check` asks.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub fn check(&self) -> Result<(), ConfigError> {
        for config in [self.consumer()?, self.probe()?] {
            config.create::<rdkafka::consumer::BaseConsumer>().map_err(|e| ConfigError::refused(&e))?;
        }
        Ok(())
    }

    pub(super) fn consumer(&self) -> Result<ClientConfig, ConfigError> {
        let mut config = self.base()?;
        config
            .set("group.id", &self.group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("partition.assignment.strategy", "cooperative-sticky")
            .set("statistics.interval.ms", "1000");
        for (key, value) in [
            ("group.instance.id", self.instance_id.as_str()),
            ("fetch.queue.backoff.ms", "5"),
            ("queued.max.messages.kbytes", "32768"),
            ("queued.min.messages", "20000"),
            ("topic.metadata.refresh.interval.ms", "30000"),
        ] {
            if !self.properties.contains_key(key) {
                config.set(key, value);
            }
        }
        Ok(config)
    }

    pub(super) fn probe(&self) -> Result<ClientConfig, ConfigError> {
        let mut config = self.base()?;
        // Uncommitted records count: one that will be committed later may be what a parcel waits for (DESIGN §4.2).
        config.set("isolation.level", "read_uncommitted");
        for key in ["group.instance.id", "group.protocol"] {
            config.remove(key);
        }
        Ok(config)
    }

    /// For who reads a topic once and leaves no trace: partitions are assigned, so that no group is joined.
    pub(super) fn dump(&self) -> Result<ClientConfig, ConfigError> {
        let mut config = self.base()?;
        config
            .set("group.id", "parcelwatch-reads-only")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true");
        for key in ["group.instance.id", "group.protocol"] {
            config.remove(key);
        }
        Ok(config)
    }

    fn base(&self) -> Result<ClientConfig, ConfigError> {
        if let Some((key, why)) = OWNED.iter().find(|(key, _)| self.properties.contains_key(*key)) {
            return Err(ConfigError::Owned { key: (*key).to_owned(), why: (*why).to_owned() });
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Warning);
        config.set("bootstrap.servers", &self.bootstrap_servers);
        config.set("client.id", "parcelwatch");
        // A broker that comes back is seen soon; the defaults go up to 10 s.
        config.set("reconnect.backoff.max.ms", "2000");
        for (key, value) in &self.properties {
            config.set(key, value);
        }
        Ok(config)
    }
}

/// Properties that are not the user's to set, and why.
const OWNED: [(&str, &str); 11] = [
    ("bootstrap.servers", "it is kafka.bootstrap_servers"),
    ("metadata.broker.list", "it is kafka.bootstrap_servers"),
    ("group.id", "it is kafka.group_id"),
    ("enable.auto.commit", "offsets are committed after a snapshot is safe"),
    ("enable.auto.offset.store", "it would commit records that were never folded"),
    (
        "auto.offset.reset",
        "a lost offset must be seen, never reset; where a new partition begins is kafka.start",
    ),
    ("enable.partition.eof", "an end of partition is no proof of anything"),
    ("partition.assignment.strategy", "it is cooperative-sticky"),
    ("statistics.interval.ms", "the clock needs one each second"),
    ("log.queue", "logs are read from a queue"),
    ("group.protocol", "only the classic protocol is supported yet"),
];

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// Not the user's to set.
    #[error("kafka.properties: {key} cannot be set: {why}")]
    Owned {
        /// The property.
        key: String,
        /// Why not.
        why: String,
    },
    /// librdkafka refuses it.
    #[error("kafka.properties: {0}")]
    Refused(String),
}

impl ConfigError {
    pub(super) fn refused(error: &KafkaError) -> ConfigError {
        ConfigError::Refused(match error {
            // The value is left out: it may be a secret.
            KafkaError::ClientConfig(_, why, key, _) => format!("{key}: {}", without_value(why, key)),
            KafkaError::ClientCreation(why) if why.contains("No provider for SASL mechanism GSSAPI") => {
                "sasl.mechanism GSSAPI (Kerberos) is not part of this build; use SCRAM-SHA-512, SCRAM-SHA-256 or PLAIN"
                    .to_owned()
            }
            KafkaError::ClientCreation(why) => why.trim().to_owned(),
            other => other.to_string(),
        })
    }
}

/// librdkafka's sentence about a property, which may quote the value, cut before it does.
fn without_value(why: &str, key: &str) -> String {
    if why.starts_with("No such configuration property") {
        return "no such property".to_owned();
    }
    let lower = key.to_ascii_lowercase();
    let secret = ["password", "secret", "key", "token", "jaas"].iter().any(|word| lower.contains(word));
    if secret { "librdkafka refuses its value".to_owned() } else { why.trim().to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> Result<(), ConfigError> {
        let mut options = Options::new("127.0.0.1:1", "milestones", "g", "i");
        options.properties.insert(key.to_owned(), value.to_owned());
        options.check()
    }

    #[test]
    fn what_is_ours_cannot_be_set() {
        for (key, _) in OWNED {
            let error = with(key, "x").unwrap_err().to_string();
            assert!(error.starts_with(&format!("kafka.properties: {key} cannot be set: ")), "{error}");
        }
    }

    #[test]
    fn what_librdkafka_refuses_is_named_without_secrets() {
        assert_eq!(
            with("fetch.mim.bytes", "1").unwrap_err().to_string(),
            "kafka.properties: fetch.mim.bytes: no such property"
        );
        let error = with("session.timeout.ms", "soon").unwrap_err().to_string();
        assert!(error.starts_with("kafka.properties: session.timeout.ms: Invalid value"), "{error}");
        let mut options = Options::new("127.0.0.1:1", "milestones", "g", "i");
        options.properties.insert("security.protocol".to_owned(), "ssl".to_owned());
        options.properties.insert("ssl.key.pem".to_owned(), "hunter2".to_owned());
        let error = options.check().unwrap_err().to_string();
        assert!(error.starts_with("kafka.properties: ") && !error.contains("hunter2"), "{error}");
    }

    #[test]
    fn the_users_properties_are_taken() {
        assert_eq!(with("session.timeout.ms", "12000"), Ok(()));
        assert_eq!(with("group.instance.id", "pod-0"), Ok(()));
        let mut options = Options::new("127.0.0.1:1", "milestones", "g", "i");
        options.properties.insert("fetch.queue.backoff.ms".to_owned(), "77".to_owned());
        assert_eq!(options.consumer().unwrap().get("fetch.queue.backoff.ms"), Some("77"));
        assert_eq!(options.consumer().unwrap().get("group.instance.id"), Some("i"));
        assert_eq!(options.probe().unwrap().get("isolation.level"), Some("read_uncommitted"));
    }
}
