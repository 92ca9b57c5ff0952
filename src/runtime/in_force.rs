//! What decides and whom it tells: today's, by the files, and what was in force before a restart.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::restore::Compile;
use crate::cases::{Cases, CasesError};
use crate::rules::problem::Source;
use crate::rules::{self, Level, Loaded, Policies, RuleSet, SourceFile};

/// What decides, and whom it tells.
pub struct InForce {
    /// The rules.
    pub rules: Arc<RuleSet>,
    /// The policies.
    pub policies: Arc<Policies>,
    /// The texts of the rules, file name → text, kept under their hash.
    pub texts: BTreeMap<String, String>,
    /// Makes rules of such texts.
    pub compile: Compile,
}

impl InForce {
    /// What a directory of rules holds; `None` where it has errors.
    #[must_use]
    pub fn of(loaded: Loaded) -> Option<InForce> {
        // Templates may stand in a folder beside policies.yaml, and are named with it.
        let policies = loaded.sources.iter().find(|s| rules::is_policies(&s.path));
        let folder = policies.and_then(|s| s.path.parent());
        let name = |s: &Source| {
            let inside =
                folder.and_then(|f| s.path.strip_prefix(f).ok()).map(|p| p.to_string_lossy().into_owned());
            inside.or_else(|| s.path.file_name().map(|n| n.to_string_lossy().into_owned()))
        };
        let texts = loaded.sources.iter().filter_map(|s| Some((name(s)?, s.text.clone()))).collect();
        Some(InForce {
            rules: Arc::new(loaded.rules?),
            policies: Arc::new(loaded.policies?),
            texts,
            compile: Arc::new(compile_texts),
        })
    }
}

/// Rules of texts that were kept.
fn compile_texts(texts: &BTreeMap<String, String>) -> Result<RuleSet, String> {
    let file = |(name, text): (&String, &String)| SourceFile {
        path: name.into(),
        content: Ok(text.clone().into_bytes()),
        context: false,
    };
    let loaded = rules::compile(&texts.iter().map(file).collect::<Vec<_>>());
    let problem = loaded.problems.iter().find(|p| p.level == Level::Error);
    let why = problem.map_or_else(|| "they are not understood".to_owned(), |p| p.message.clone());
    loaded.rules.ok_or(why)
}

/// The rules that were in force when the last run ended, and their texts, where today's are others. `None` as well where they cannot be
/// used any more: then today's are taken as they are.
pub(super) async fn before(
    cases: &Cases,
    today: &InForce,
) -> Result<Option<(Arc<RuleSet>, BTreeMap<String, String>)>, CasesError> {
    let Some(last) = cases.rules_loads(1).await?.into_iter().next() else { return Ok(None) };
    if last.rules_hash == today.rules.hash {
        return Ok(None);
    }
    let Some(texts) = cases.rules_texts(&last.rules_hash).await? else { return Ok(None) };
    let hash = &last.rules_hash;
    match (today.compile)(&texts) {
        Ok(rules) if rules.hash == *hash => {
            tracing::info!(
                before = hash,
                now = today.rules.hash,
                "the rules are others than before the restart: those of before stay in force until it is known what the new ones would open"
            );
            Ok(Some((Arc::new(rules), texts)))
        }
        Ok(_) => {
            tracing::warn!(
                hash,
                "the rules of before the restart mean something else to this version; today's are taken as they are"
            );
            Ok(None)
        }
        Err(why) => {
            tracing::warn!(
                hash,
                "the rules of before the restart cannot be used: {why}; today's are taken as they are"
            );
            Ok(None)
        }
    }
}
