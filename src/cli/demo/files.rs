//! The folder of a demonstration: the configuration and the rules that are shipped, written out so that the daemon starts as
//! it would anywhere; the records, for a backtest; the state.

use std::fs::{DirBuilder, File};
use std::io::Write as _;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;

/// The files of `rules/` but the policies.
const SHIPPED: [(&str, &str); 11] = [
    ("before_departure.yaml", include_str!("../../../rules/before_departure.yaml")),
    ("calendars.yaml", include_str!("../../../rules/calendars.yaml")),
    ("customs.yaml", include_str!("../../../rules/customs.yaml")),
    ("customs_notices.yaml", include_str!("../../../rules/customs_notices.yaml")),
    ("delivery.yaml", include_str!("../../../rules/delivery.yaml")),
    ("duty.yaml", include_str!("../../../rules/duty.yaml")),
    ("duty_regimes.yaml", include_str!("../../../rules/duty_regimes.yaml")),
    ("guarantee.yaml", include_str!("../../../rules/guarantee.yaml")),
    ("handoff.yaml", include_str!("../../../rules/handoff.yaml")),
    ("lanes.yaml", include_str!("../../../rules/lanes.yaml")),
    ("tracking.yaml", include_str!("../../../rules/tracking.yaml")),
];
const POLICIES: &str = include_str!("policies.yaml");

/// Where everything is, inside and outside.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// The embedded broker.
    pub kafka: String,
    /// The daemon's listener.
    pub http: SocketAddr,
    /// The embedded mail server.
    pub smtp: SocketAddr,
    /// The embedded webhook receiver.
    pub webhook: SocketAddr,
}

/// The folder; removed when dropped, unless it was kept.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    keep: bool,
}

impl Folder {
    /// A new folder of our own among the temporary files.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn new() -> anyhow::Result<Folder> {
        let base = std::env::temp_dir();
        let mut name = [0; 8];
        getrandom::fill(&mut name).context("no random numbers")?;
        let path = base.join(format!("parcelwatch-demo-{:016x}", u64::from_ne_bytes(name)));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Folder { path, keep: false })
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Leaves it where it is; returns where.
    pub fn keep(&mut self) -> &Path {
        self.keep = true;
        &self.path
    }

    /// Writes the configuration and the rules. Returns the configuration's path and the key that webhooks are signed with.
    ///
    /// # Errors
    /// A file cannot be written.
    pub fn fill(&self, at: &Addresses) -> anyhow::Result<(PathBuf, Vec<u8>)> {
        let mut key = vec![0; 32];
        getrandom::fill(&mut key).context("no random numbers")?;
        let secret = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(&key));
        self.write("erp.key", &secret)?;
        let rules = self.join("rules");
        DirBuilder::new().create(&rules).with_context(|| format!("cannot create {}", rules.display()))?;
        for (name, text) in rules_files(at.webhook) {
            self.write(&format!("rules/{name}"), &text)?;
        }
        let config = format!(
            "kafka: {{bootstrap_servers: \"{}\", topic: {TOPIC}}}\n\
             rules: rules\n\
             state: state\n\
             http: {{listen: \"{http}\", public_url: \"http://{http}\"}}\n\
             smtp: {{url: \"smtp://{}\", from: \"parcelwatch <parcelwatch@example.org>\"}}\n\
             webhook: {{allow_private_networks: [127.0.0.0/8]}}\n\
             log: {{format: text, filter: error}}\n",
            at.kafka,
            at.smtp,
            http = at.http,
        );
        self.write("parcelwatch.yaml", &config)?;
        Ok((self.join("parcelwatch.yaml"), key))
    }

    fn write(&self, name: &str, text: &str) -> anyhow::Result<()> {
        let path = self.join(name);
        let mut file = File::options()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&path)
            .with_context(|| format!("cannot create {}", path.display()))?;
        file.write_all(text.as_bytes()).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if !self.keep
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

/// The topic.
pub const TOPIC: &str = "milestones";

/// The rules as shipped, and policies whose receivers are inside.
fn rules_files(webhook: SocketAddr) -> Vec<(&'static str, String)> {
    let mut files: Vec<_> = SHIPPED.iter().map(|(name, text)| (*name, (*text).to_owned())).collect();
    files.push(("policies.yaml", POLICIES.replace("WEBHOOK", &webhook.to_string())));
    files
}

#[cfg(test)]
pub(super) mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use super::*;
    use crate::cli::backtest::backtest;
    use crate::cli::demo::network::Network;
    use crate::model::{Change, DAY, Time};
    use crate::rules::{Policies, RuleSet, SourceFile, compile};
    use crate::source::{Batch, Stamp};

    /// The rules of a demonstration, compiled.
    pub fn rules() -> (Arc<RuleSet>, Policies) {
        let files = rules_files("127.0.0.1:1".parse().unwrap());
        let files = files.into_iter().map(|(name, text)| SourceFile {
            path: name.into(),
            content: Ok(text.into_bytes()),
            context: false,
        });
        let loaded = compile(&files.collect::<Vec<_>>());
        assert!(loaded.problems.is_empty(), "{:?}", loaded.problems);
        (Arc::new(loaded.rules.unwrap()), loaded.policies.unwrap())
    }

    /// What the rules say of some days of a network.
    pub fn run(seed: u64, days: i64) -> Vec<Change> {
        let from = Time::parse("2026-10-09T06:00:00Z").unwrap();
        let mut batch = Batch::new(0);
        for (offset, telling) in (0..).zip(Network::new(seed, from).tell(from.plus(days * DAY))) {
            batch.push(
                offset,
                Stamp::None,
                telling.parcel_id.as_bytes(),
                telling.value(telling.at).as_bytes(),
            );
        }
        backtest(&rules().0, &[batch], Some(from.plus(days * DAY)), 2).changes
    }

    #[test]
    fn most_shipped_rules_have_something_to_say() {
        let mut said: BTreeMap<(String, String), u32> = BTreeMap::new();
        for change in run(1, 60) {
            let kind = match change.kind {
                crate::model::ChangeKind::Resolved(why) => why.name(),
                kind => kind.name(),
            };
            *said.entry((change.rule.to_string(), kind.to_owned())).or_default() += 1;
        }
        // The rest is about what its parcels do not meet: sea freight, seizures, tariffs that change.
        let (rules, _) = rules();
        let speaks = |id: &str| said.contains_key(&(id.to_owned(), "opened".to_owned()));
        let silent: Vec<_> = rules.rules.iter().map(|r| &*r.id).filter(|id| !speaks(id)).collect();
        assert!(silent.len() <= 20, "silent: {silent:?} {said:#?}");
        for kind in ["raised", "satisfied_late", "late_evidence", "terminal", "condition_ended"] {
            assert!(said.keys().any(|(_, k)| k == kind), "{kind} {said:#?}");
        }
    }

    #[test]
    fn the_folder_is_ours_and_goes_away() {
        let mut folder = Folder::new().unwrap();
        let address: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let at =
            Addresses { kafka: "127.0.0.1:2".to_owned(), http: address, smtp: address, webhook: address };
        let (config, key) = folder.fill(&at).unwrap();
        assert_eq!(key.len(), 32);
        crate::config::Config::load(&config).unwrap();
        let path = folder.keep().to_owned();
        drop(Folder { path: path.clone(), keep: false });
        assert!(!path.exists());
    }
}
