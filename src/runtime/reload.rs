//! New rules and policies without a restart (DESIGN §9.7): read and checked whole, then put in force; on any problem the old ones
//! stay, and a metric, the log and whoever asked say what and where.
//!
//! A brake holds a reload that would open more than [`Reload::max_openings`] exceptions at once, until it is accepted by its hash.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::{Mutex, mpsc, watch};

use super::clock::WallClock;
use super::daemon::InForce;
use super::dispatcher::{self, Dispatcher, Route};
use super::progress::Progress;
use super::worker::{Order, Worker};
use crate::cases::{Cases, CasesError};
use crate::engine::swap::Foreseen;
use crate::metrics::set_time;
use crate::rules::{Policies, RuleSet};

/// What is read anew.
pub struct Fresh {
    /// Rules and policies, checked.
    pub in_force: InForce,
    /// How its receivers are reached.
    pub routes: Vec<Route>,
}

/// Reads and checks everything; the error is every problem, with its place, for people.
pub type ReadAnew = Arc<dyn Fn() -> Result<Fresh, String> + Send + Sync>;
/// Something that is another one whenever a file is. `None` where the files cannot be read now.
pub type Fingerprint = Arc<dyn Fn() -> Option<String> + Send + Sync>;

/// How a daemon reloads.
#[derive(Clone)]
pub struct Reload {
    /// Reads anew.
    pub read: ReadAnew,
    /// Sees that files have changed.
    pub fingerprint: Fingerprint,
    /// How often it looks, in real time; `None`: never.
    pub every: Option<Duration>,
    /// More exceptions than these opening at once need somebody's word.
    pub max_openings: u64,
}

/// Why a reload did not happen.
#[derive(Debug, Clone, PartialEq)]
pub enum Refusal {
    /// Rules or policies have problems.
    Problems(String),
    /// They would open too much at once.
    Brake {
        /// Hash of the rules; accepted by it.
        hash: String,
        /// Exceptions that would open.
        openings: u64,
        /// By rule.
        foreseen: Value,
    },
    /// The database refuses, or the partitions do not answer.
    NotNow(String),
}

/// The one who reloads.
pub struct Reloader {
    /// How.
    pub reload: Reload,
    /// The rules in force.
    pub rules: watch::Sender<Arc<RuleSet>>,
    /// The policies in force.
    pub policies: watch::Sender<Arc<Policies>>,
    /// Who folds.
    pub workers: Arc<Vec<Worker>>,
    /// Shared.
    pub progress: Arc<Progress>,
    /// The database.
    pub cases: Cases,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// Who delivers; `None` in a dry run.
    pub dispatcher: Mutex<Option<Dispatcher>>,
    /// One reload at a time.
    pub one: Mutex<()>,
}

/// Who reloads when the files have changed.
const BY_FILE: &str = "file";
/// The fewest digits of a hash that stand for it.
const SHORT: usize = 8;
/// How long the partitions may take to say what new rules would change.
const FORESEE: Duration = Duration::from_secs(300);
/// How long what is being delivered may take before the receivers are made anew.
const LAND: Duration = Duration::from_secs(5);

impl Reloader {
    /// Reads rules and policies anew and puts them in force. `by`: a token's name, `SIGHUP`, `file`. `accept`: the hash of rules that
    /// may open as much as they do.
    ///
    /// # Errors
    /// [`Refusal`]; the old ones stay.
    pub async fn reload(self: &Arc<Self>, by: &str, accept: Option<&str>) -> Result<Value, Refusal> {
        let _one = self.one.lock().await;
        let outcome = self.try_reload(by, accept).await;
        let metrics = &self.progress.metrics;
        metrics.config_last_reload_successful.set(i64::from(outcome.is_ok()));
        match &outcome {
            Ok(_) => set_time(&metrics.config_last_reload_success, self.clock.now_ms()),
            Err(Refusal::Problems(problems)) => {
                tracing::error!(by, "the rules are not reloaded, the old ones stay:\n{problems}");
            }
            Err(Refusal::Brake { hash, openings, .. }) => tracing::error!(
                by,
                hash,
                openings,
                "the rules are not reloaded: they would open more exceptions at once than reload.max_openings ({}); look at \
                 them with `parcelwatch plan`, then accept them with `parcelwatch rules accept {hash}`",
                self.reload.max_openings
            ),
            Err(Refusal::NotNow(why)) => tracing::error!(by, "the rules are not reloaded: {why}"),
        }
        outcome
    }

    async fn try_reload(self: &Arc<Self>, by: &str, accept: Option<&str>) -> Result<Value, Refusal> {
        let read = Arc::clone(&self.reload.read);
        let fresh = tokio::task::spawn_blocking(move || read())
            .await
            .map_err(|e| Refusal::NotNow(format!("reading the rules failed: {e}")))?
            .map_err(Refusal::Problems)?;
        let Fresh { in_force, routes } = fresh;
        let (rules, policies) = (in_force.rules, in_force.policies);
        let new_rules = self.rules.borrow().hash != rules.hash;
        let new_policies = self.policies.borrow().hash != policies.hash;
        let foreseen = if new_rules { self.foresee(&rules).await? } else { Foreseen::default() };
        let openings = foreseen.openings();
        let accepted =
            accept.is_some_and(|a| a.len() >= SHORT && rules.hash.starts_with(&a.to_ascii_lowercase()));
        if openings > self.reload.max_openings && !accepted {
            let foreseen = shown(&foreseen);
            return Err(Refusal::Brake { hash: rules.hash.clone(), openings, foreseen });
        }
        let refused = |e: CasesError| Refusal::NotNow(e.to_string());
        let now = self.clock.now_ms();
        self.cases.keep_rules(&rules.hash, &in_force.texts, now).await.map_err(refused)?;
        if new_rules || new_policies {
            let load = crate::cases::RulesLoad {
                rules_hash: rules.hash.clone(),
                policies_hash: policies.hash.clone(),
                by: by.to_owned(),
                at_ms: now,
            };
            self.cases.rules_loaded(&load, &in_force.texts).await.map_err(refused)?;
            self.put_in_force(&rules, &policies, routes, new_policies).await;
            tracing::info!(
                by,
                rules = rules.hash,
                policies = policies.hash,
                "rules and policies are in force"
            );
        } else if by != BY_FILE {
            // Somebody asked for it: a secret behind an unchanged place may be another one.
            self.reach_anew(routes).await;
        }
        Ok(json!({
            "changed": new_rules || new_policies,
            "rules": {"hash": rules.hash, "count": rules.rules.len(), "changed": new_rules},
            "policies": {"hash": policies.hash, "changed": new_policies},
            "foreseen": shown(&foreseen),
        }))
    }

    async fn put_in_force(
        &self,
        rules: &Arc<RuleSet>,
        policies: &Arc<Policies>,
        routes: Vec<Route>,
        new_policies: bool,
    ) {
        let metrics = &self.progress.metrics;
        metrics.set_rules(rules.rules.iter().map(|r| (&*r.id, r.shadow)));
        metrics.set_receivers(policies.receivers.iter().map(|r| (r.id.as_str(), r.kind.integration())));
        if new_policies {
            // What the new rules open is addressed by the new policies; and nobody is decided to be told who is not reached.
            self.reach_anew(routes).await;
            self.policies.send_replace(Arc::clone(policies));
        }
        self.rules.send_replace(Arc::clone(rules));
        for worker in self.workers.iter() {
            worker.order(Order::Rules(Arc::clone(rules)));
            worker.bell().ring();
        }
    }

    /// Delivers by these routes from now on.
    async fn reach_anew(&self, routes: Vec<Route>) {
        let mut dispatcher = self.dispatcher.lock().await;
        if let Some(old) = dispatcher.take() {
            old.stop(LAND).await;
            let (metrics, options) = (&self.progress.metrics, dispatcher::Options::default());
            *dispatcher = Some(Dispatcher::start(&self.cases, routes, &self.clock, metrics, &options));
        }
    }

    /// Asks every partition what these rules would change. One that cannot say yet would count as nothing: then it is not the time.
    async fn foresee(&self, rules: &Arc<RuleSet>) -> Result<Foreseen, Refusal> {
        let ours = || self.progress.partitions().iter().map(|p| p.partition).collect::<BTreeSet<i32>>();
        let not_now = |why: &str| Refusal::NotNow(why.to_owned());
        if !self.progress.is_assigned() || self.progress.is_loading() {
            return Err(not_now(
                "no partitions are assigned yet, or their state is being loaded, so nobody can say what the new rules would open; see /-/ready",
            ));
        }
        let (answer, mut answers) = mpsc::channel(4_096);
        for worker in self.workers.iter() {
            worker.order(Order::Preview(Arc::clone(rules), answer.clone()));
            worker.bell().ring();
        }
        drop(answer);
        let all = async {
            let (mut all, mut asked) = (Foreseen::default(), BTreeSet::new());
            while let Some((partition, one)) = answers.recv().await {
                all.add(one);
                asked.insert(partition);
            }
            (all, asked)
        };
        let (all, asked) = tokio::time::timeout(FORESEE, all).await.map_err(|_| {
            not_now("the partitions did not say in time what the new rules would change; see /-/ready")
        })?;
        // One that is being loaded is not yet with a worker; one that has gone meanwhile is somebody else's to ask.
        let silent = ours().difference(&asked).count();
        if silent > 0 {
            let why = format!(
                "the state of {silent} partitions is being restored, so nobody can say what the new rules would open; \
                 wait for /-/ready"
            );
            return Err(Refusal::NotNow(why));
        }
        Ok(all)
    }

    /// Looks for files that have changed, until `stop`. A change is taken once it has stood for a round: it may be half written.
    pub async fn watch(self: Arc<Self>, mut stop: watch::Receiver<bool>) {
        let Some(every) = self.reload.every else { return };
        let mut taken = (self.reload.fingerprint)();
        let mut before = taken.clone();
        let mut again = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(every) => {}
                _ = stop.changed() => return,
            }
            let fingerprint = Arc::clone(&self.reload.fingerprint);
            let Ok(now) = tokio::task::spawn_blocking(move || fingerprint()).await else { return };
            if now.is_some() && (again || now != taken) && now == before {
                // What is wrong with the files is in the log and the metric, and is looked at again when they change. What is
                // wrong with the moment passes, even where the files are what they were by then.
                again = matches!(self.reload(BY_FILE, None).await, Err(Refusal::NotNow(_)));
                taken.clone_from(&now);
            }
            before = now;
        }
    }
}

/// What is foreseen, by rule.
fn shown(foreseen: &Foreseen) -> Value {
    let of = |(rule, tally): (&String, &crate::engine::swap::Tally)| {
        let examples: Vec<Value> = tally
            .examples
            .iter()
            .map(|c| json!({"change": c.kind.name(), "parcel_id": c.parcel_id, "due": c.due.to_string(), "severity": c.severity.name()}))
            .collect();
        let tally = json!({
            "opened": tally.opened, "raised": tally.raised, "resolved": tally.resolved, "examples": examples,
        });
        (rule.clone(), tally)
    };
    foreseen.rules.iter().map(of).collect::<serde_json::Map<_, _>>().into()
}
