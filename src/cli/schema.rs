//! `schema`: JSON Schemas for editors and for those who make events.

use std::io::Write as _;
use std::path::Path;

use anyhow::Context as _;
use clap::ValueEnum;
use serde_json::Value;

use super::FINE;
use crate::{config, rules, source};

/// What there is a schema of.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum What {
    /// Files of rules
    Rules,
    /// policies.yaml
    Policies,
    /// parcelwatch.yaml
    Config,
    /// A record of the topic, a line of a file of events
    Event,
}

impl What {
    /// All of them.
    pub const ALL: [What; 4] = [What::Rules, What::Policies, What::Config, What::Event];

    /// The schema.
    #[must_use]
    pub fn schema(self) -> Value {
        match self {
            What::Rules => rules::schema::rules(),
            What::Policies => rules::schema::policies(),
            What::Config => config::schema::config(),
            What::Event => source::schema::event(),
        }
    }

    /// The file it is shipped as, in rules/schema.
    #[must_use]
    pub const fn file_name(self) -> &'static str {
        match self {
            What::Rules => "rules.json",
            What::Policies => "policies.json",
            What::Config => "config.json",
            What::Event => "event.json",
        }
    }

    /// Its text.
    #[must_use]
    pub fn text(self) -> String {
        format!("{:#}\n", self.schema())
    }
}

/// Writes a schema to standard output, or one or all of them into a folder.
///
/// # Errors
/// A file cannot be written.
pub fn schema(what: Option<What>, out: Option<&Path>) -> anyhow::Result<u8> {
    let Some(folder) = out else {
        let what =
            what.context("say of what: rules, policies, config or event; or --out DIR for all of them")?;
        // A pipe that was closed has read enough.
        let _ = std::io::stdout().write_all(what.text().as_bytes());
        return Ok(FINE);
    };
    std::fs::create_dir_all(folder)
        .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    for what in What::ALL.into_iter().filter(|w| what.is_none_or(|one| one == *w)) {
        let path = folder.join(what.file_name());
        std::fs::write(&path, what.text()).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(FINE)
}
