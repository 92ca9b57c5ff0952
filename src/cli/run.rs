//! `run`: the daemon (DESIGN §8).

use std::io::IsTerminal as _;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::cases::Server;
use crate::config::{self, Config, SecretError, Start, read_secret};
use crate::engine::Lifetimes;
use crate::http::HttpError;
use crate::http::auth::Token;
use crate::log;
use crate::notify::dkim::DkimSettings;
use crate::notify::email::EmailSettings;
use crate::notify::link::LinkKey;
use crate::notify::webhook::WebhookSettings;
use crate::rules::policies::{Policies, ReceiverKind, SecretText};
use crate::rules::{Level, compile};
use crate::runtime::clock::{SystemClock, WallClock};
use crate::runtime::daemon::{Daemon, InForce, Reloading, Settings};
use crate::runtime::dispatcher::Route;
use crate::runtime::reload::{Fresh, Reload};
use crate::runtime::{receivers, systemd};
use crate::snapshots::{Location, SnapshotError};
use crate::source::kafka::{ConfigError, Options, StartAt};

/// How long a stop may take: what orders it (systemd, a container engine) kills after 10 s at the least.
const STOP: Duration = Duration::from_millis(9_500);

/// Runs until a signal or until it cannot go on. The exit code.
///
/// # Errors
/// The configuration is wrong in a way that `check` cannot see.
pub fn run(path: &Path, dry_run: bool) -> anyhow::Result<u8> {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(problems) => {
            for problem in &problems {
                eprintln!("{}", problem.render(false));
            }
            return Ok(super::USAGE);
        }
    };
    log::init(config.log.format, &config.log.filter, std::io::stderr().is_terminal())?;
    let Some(in_force) = in_force(&config)? else { return Ok(super::USAGE) };
    check_receivers(&config, &in_force.policies)?;
    let settings = settings(&config, dry_run)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(threads().clamp(2, 4))
        .thread_name("tasks")
        .enable_all()
        .build()
        .context("cannot start threads")?;
    let code = runtime.block_on(serve(&config, settings, in_force));
    // What hangs in librdkafka or in a name server must not keep a stopped process.
    runtime.shutdown_timeout(Duration::from_millis(100));
    code
}

async fn serve(config: &Config, settings: Settings, in_force: InForce) -> anyhow::Result<u8> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Before the start too, where it would end the process; what comes then is taken once the daemon is up.
    let mut hangup = signal(SignalKind::hangup())?;
    let started = tokio::select! {
        started = start(config, settings, in_force, Arc::new(SystemClock)) => started,
        () = either(&mut terminate, &mut interrupt) => return Ok(super::FINE),
    };
    let daemon = match started {
        Ok(daemon) => daemon,
        Err(error) if is_configuration(&error) => return Err(error),
        Err(error) => {
            tracing::error!("cannot start: {error:#}");
            return Ok(super::FAILED);
        }
    };
    systemd::ready();
    let watchdog = tokio::spawn(systemd::watchdog(daemon.port()));
    let code = loop {
        tokio::select! {
            () = either(&mut terminate, &mut interrupt) => break super::FINE,
            _ = daemon.failed() => break super::FAILED,
            _ = hangup.recv() => daemon.reload("SIGHUP"),
        }
    };
    tracing::info!("stopping");
    systemd::stopping();
    let stop = tokio::spawn(daemon.stop(STOP));
    tokio::select! {
        _ = stop => {}
        () = either(&mut terminate, &mut interrupt) => tracing::warn!("told to stop twice: ending at once"),
    }
    watchdog.abort();
    Ok(code)
}

/// Starts a daemon under this clock.
///
/// # Errors
/// What [`Daemon::start`] says.
pub(super) async fn start(
    config: &Config,
    settings: Settings,
    in_force: InForce,
    clock: Arc<dyn WallClock>,
) -> anyhow::Result<Daemon> {
    let policies = Arc::clone(&in_force.policies);
    let routes = |key: LinkKey| routes(config, &policies, key);
    Daemon::start(settings, in_force, &routes, clock).await
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) {
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
}

/// Whether a start failed because of what the user wrote, as opposed to what the machine is like.
fn is_configuration(error: &anyhow::Error) -> bool {
    error.is::<ConfigError>()
        || error.is::<Unreachable>()
        || error.is::<SecretError>()
        || matches!(error.downcast_ref(), Some(HttpError::Open(_)))
        || matches!(error.downcast_ref(), Some(SnapshotError::Location(_)))
}

/// Rules and policies; problems go to standard error, `None` where one is an error.
pub(super) fn in_force(config: &Config) -> anyhow::Result<Option<InForce>> {
    let loaded = compile(&config::read_rules(&config.rules)?);
    for problem in &loaded.problems {
        match problem.level {
            Level::Error => eprintln!("{}", problem.render(false)),
            Level::Lint => tracing::warn!("{}", problem.message),
        }
    }
    Ok(InForce::of(loaded))
}

/// Nobody to tell makes a watchdog pointless; a mail receiver needs a way to send mail.
fn check_receivers(config: &Config, policies: &Policies) -> anyhow::Result<()> {
    if policies.receivers.is_empty() {
        bail!(
            "there is nobody to tell: {} names no receiver; add one, for instance\n  receivers:\n    - {{id: ops_mail, email: {{to: \
             [ops@example.org]}}}}\n  policies:\n    - {{id: tell_ops, steps: [{{after: 0m, notify: [ops_mail]}}]}}\n  \
             default_policy: tell_ops",
            config.rules.join("policies.yaml").display()
        );
    }
    let mail = policies.receivers.iter().find(|r| matches!(r.kind, ReceiverKind::Email { .. }));
    if let (Some(receiver), None) = (mail, &config.smtp.url) {
        bail!(
            "receiver {} is told by e-mail, and {} does not say how to send one; add\n  smtp: {{url: \
             \"smtp://localhost:25\", from: \"parcelwatch@example.org\"}}",
            receiver.id,
            config.path.display()
        );
    }
    Ok(())
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(2, usize::from)
}

fn millis(ms: i64) -> Duration {
    Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// How long parcels and ids are kept.
pub(super) fn lifetimes(config: &Config) -> Lifetimes {
    Lifetimes {
        forget_after: config.time.forget_after,
        remember_ids: config.time.remember_ids,
        abandon_after: config.time.abandon_after,
    }
}

pub(super) fn settings(config: &Config, dry_run: bool) -> anyhow::Result<Settings> {
    let k = &config.kafka;
    let mut kafka = Options::new(&k.bootstrap_servers, &k.topic, &k.group_id, "");
    for (key, value) in &k.properties {
        let value = read_secret(value).with_context(|| format!("kafka.properties: {key}"))?;
        kafka.properties.insert(key.clone(), value.expose().to_owned());
    }
    let tokens = config.http.tokens.iter().map(|t| {
        let secret = read_secret(&t.token).with_context(|| format!("http.tokens: {}", t.name))?;
        Ok(Token::new(&t.name, t.role, secret.expose()))
    });
    Ok(Settings {
        kafka,
        start: match k.start {
            Start::Earliest => StartAt::Earliest,
            Start::Latest => StartAt::Latest,
            Start::At(time) => StartAt::At(time),
        },
        state: config.state.clone(),
        snapshots: config.snapshots.to.as_deref().map(Location::parse).transpose()?,
        snapshots_every: millis(config.snapshots.every),
        snapshots_keep: usize::try_from(config.snapshots.keep).unwrap_or(usize::MAX),
        database: database(config)?,
        cases: crate::cases::Options::default(),
        cases_keep: config.cases.keep,
        lifetimes: lifetimes(config),
        skew: config.time.skew,
        certificate_ttl: millis(config.time.certificate_ttl),
        listen: config.http.listen,
        public_url: config.http.public_url.clone(),
        tokens: tokens.collect::<anyhow::Result<_>>()?,
        dry_run,
        threads: threads(),
        reload: Some(reloading(config)),
    })
}

/// The PostgreSQL of `cases.url`.
fn database(config: &Config) -> anyhow::Result<Option<Server>> {
    let Some(url) = &config.cases.url else { return Ok(None) };
    let password = config.cases.password.as_ref().map(read_secret).transpose().context("cases.password")?;
    let server = Server::new(url, password.as_ref().map(|p| p.expose()));
    server.map(Some).map_err(|why| anyhow::anyhow!("cases.url: {why}"))
}

/// How the daemon reads its rules anew: as at the start, and with the same checks.
fn reloading(config: &Config) -> Reloading {
    let config = Arc::new(config.clone());
    Arc::new(move |key: LinkKey| {
        let (of_read, of_files) = (Arc::clone(&config), Arc::clone(&config));
        Reload {
            read: Arc::new(move || read_anew(&of_read, key.clone())),
            fingerprint: Arc::new(move || fingerprint(&of_files.rules)),
            every: Some(millis(config.reload.every)),
            max_openings: u64::from(config.reload.max_openings),
        }
    })
}

fn read_anew(config: &Config, key: LinkKey) -> Result<Fresh, String> {
    let words = |error: anyhow::Error| format!("{error:#}");
    let loaded = compile(&config::read_rules(&config.rules).map_err(|e| words(e.into()))?);
    let errors: Vec<String> =
        loaded.problems.iter().filter(|p| p.level == Level::Error).map(|p| p.render(false)).collect();
    if !errors.is_empty() {
        return Err(errors.join("\n\n"));
    }
    let in_force = InForce::of(loaded).ok_or("the rules cannot be used")?;
    check_receivers(config, &in_force.policies).map_err(words)?;
    let routes = routes(config, &in_force.policies, key).map_err(words)?;
    Ok(Fresh { in_force, routes })
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Another text whenever a file of the directory is another one, wherever a symbolic link leads. A template that is not there is a
/// state of its own, not one that passes: its name may be wrong.
fn fingerprint(rules: &Path) -> Option<String> {
    let mut all = String::new();
    for file in config::read_rules(rules).ok()? {
        let is_template = !config::is_rules_file(&file.path);
        let bytes = match file.content {
            Err(why) if is_template => why.message.into_bytes(),
            content => content.ok()?,
        };
        all += &format!("{}\0{}\0{}\n", file.path.display(), bytes.len(), hex(&Sha256::digest(&bytes)));
    }
    Some(all)
}

/// How each receiver is reached.
fn routes(config: &Config, policies: &Policies, key: LinkKey) -> anyhow::Result<Vec<Route>> {
    let allow = config.allow_private_networks.iter().copied().collect();
    let webhook = WebhookSettings { allow, ..WebhookSettings::default() };
    let read = |place: &SecretText| match read_secret(place) {
        Ok(secret) => Ok(secret.expose().to_owned()),
        Err(error) => Err(format!("{:#}", anyhow::Error::from(error))),
    };
    receivers::routes(policies, mail(config, key)?, webhook, &config.allow_commands, &read)
        .map_err(|problems| anyhow::Error::new(Unreachable(problems.join("; "))))
}

/// Receivers that cannot be reached as they are written.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Unreachable(String);

fn mail(config: &Config, key: LinkKey) -> anyhow::Result<Option<EmailSettings>> {
    let smtp = &config.smtp;
    let (Some(url), Some(from)) = (&smtp.url, &smtp.from) else { return Ok(None) };
    let mut settings = EmailSettings::new(url, from);
    if let (Some(username), Some(password)) = (&smtp.username, &smtp.password) {
        let password = read_secret(password).context("smtp.password")?;
        settings.login = Some((username.clone(), password.expose().to_owned()));
    }
    if let config::Dkim { domain: Some(domain), selector: Some(selector), key: Some(key) } = &smtp.dkim {
        let pem = read_secret(key).context("smtp.dkim.key")?;
        let (domain, selector, pem) = (domain.clone(), selector.clone(), pem.expose().to_owned());
        settings.dkim = Some(DkimSettings { domain, selector, pem });
    }
    settings.public_url.clone_from(&config.http.public_url);
    settings.link_key = Some(key);
    Ok(Some(settings))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Routes are made by this at the start and by every reload.
    #[test]
    fn the_key_of_signatures_is_read_anew_each_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("parcelwatch.yaml");
        let text = "kafka: {bootstrap_servers: a:1}\nsmtp: {url: smtp://localhost, from: p@mail.example.org, \
                    dkim: {domain: example.org, selector: pw1, key: {file: dkim.pem}}}\n";
        let config = Config::read(&path, text.as_bytes(), &config::Environment::new());
        let config = config.unwrap_or_else(|p| panic!("{}", p[0].render(false)));
        let signed = || mail(&config, LinkKey::new([0; 32])).map(|m| m.and_then(|m| m.dkim));
        let missing = signed().err().expect("there is no key");
        assert!(is_configuration(&missing), "{missing:#}");
        assert!(
            format!("{missing:#}").starts_with("smtp.dkim.key: cannot read the secret in "),
            "{missing:#}"
        );
        for key in ["one", "two"] {
            std::fs::write(dir.path().join("dkim.pem"), key).expect("written");
            let dkim = signed().expect("readable").expect("signed");
            assert_eq!(
                (dkim.domain.as_str(), dkim.selector.as_str(), dkim.pem.as_str()),
                ("example.org", "pw1", key)
            );
        }
    }
}
