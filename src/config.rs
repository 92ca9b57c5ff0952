//! The configuration file (DESIGN §10): every problem at once, defaults for the rest, and what it points to.
//!
//! The text is read twice: by our own tree, for limits and for problems with their places, and by serde_yaml for the
//! values. The environment is laid over it in between: `PARCELWATCH_KAFKA__BOOTSTRAP_SERVERS`, `__` for a dot.

mod environment;
mod files;
mod keys;
mod raw;
pub mod schema;
mod secret;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use ipnet::IpNet;

pub use files::{RulesDirError, is_rules_file, read_file, read_rules, read_templates};
pub use secret::{Secret, SecretError, read_secret};

use crate::http::auth::Role;
use crate::log;
use crate::model::Time;
use crate::rules::policies::SecretText;
use crate::rules::problem::{Problem, Source, code};
use crate::rules::reader::Reader;
use crate::yaml;

/// The configuration, checked. Durations are in milliseconds, paths as they can be opened.
#[derive(Clone, PartialEq, Debug)]
pub struct Config {
    /// The file it comes from.
    pub path: PathBuf,
    /// `kafka:`
    pub kafka: Kafka,
    /// The rules directory.
    pub rules: PathBuf,
    /// The folder of cases.sqlite and snapshots.
    pub state: PathBuf,
    /// `reload:`
    pub reload: Reload,
    /// `cases:`
    pub cases: Cases,
    /// `snapshots:`
    pub snapshots: Snapshots,
    /// `time:`
    pub time: Times,
    /// `http:`
    pub http: Http,
    /// `smtp:`
    pub smtp: Smtp,
    /// Networks that webhooks may reach though they are private.
    pub allow_private_networks: Vec<IpNet>,
    /// Programs, or directories of programs, that receivers by `command` may run.
    pub allow_commands: Vec<PathBuf>,
    /// `log:`
    pub log: Log,
}

/// `kafka:`
#[derive(Clone, PartialEq, Debug)]
pub struct Kafka {
    /// `host:port,…`
    pub bootstrap_servers: String,
    /// The one input topic.
    pub topic: String,
    /// The consumer group.
    pub group_id: String,
    /// Where a partition without a snapshot begins.
    pub start: Start,
    /// Handed to librdkafka; any may be kept elsewhere.
    pub properties: BTreeMap<String, SecretText>,
}

/// `kafka.start`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At the first record there is.
    Earliest,
    /// At the end.
    Latest,
    /// At the first record stored at or after this time.
    At(Time),
}

/// `reload:`
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Reload {
    /// New rules that would open more exceptions at once wait until somebody accepts them.
    pub max_openings: u32,
    /// How often the files are looked at, milliseconds.
    pub every: i64,
}

/// `cases:`
#[derive(Clone, PartialEq, Debug)]
pub struct Cases {
    /// `postgres://user@host/database`; `None`: SQLite in `state`.
    pub url: Option<String>,
    /// Of a database that wants one.
    pub password: Option<SecretText>,
    /// How long resolved exceptions are kept.
    pub keep: i64,
}

/// `snapshots:`
#[derive(Clone, PartialEq, Debug)]
pub struct Snapshots {
    /// A bucket's URL; `None`: a folder in `state`.
    pub to: Option<String>,
    /// How often each shard is saved.
    pub every: i64,
    /// How many of each partition are kept.
    pub keep: u32,
}

/// `time:`
#[derive(Clone, PartialEq, Debug)]
#[allow(missing_docs, reason = "the names are those of DESIGN §4 and §10")]
pub struct Times {
    pub skew: i64,
    pub certificate_ttl: i64,
    pub forget_after: i64,
    pub remember_ids: i64,
    pub abandon_after: i64,
}

/// `http:`
#[derive(Clone, PartialEq, Debug)]
pub struct Http {
    /// Where it listens.
    pub listen: SocketAddr,
    /// How it is reached from outside, without a slash at its end.
    pub public_url: Option<String>,
    /// Who may do what.
    pub tokens: Vec<Token>,
}

/// One of `http.tokens`.
#[derive(Clone, PartialEq, Debug)]
pub struct Token {
    /// Whose it is.
    pub name: String,
    /// What it allows.
    pub role: Role,
    /// Where it is kept.
    pub token: SecretText,
}

/// `smtp:`
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Smtp {
    /// `smtp://` or `smtps://`; `None`: no mail.
    pub url: Option<String>,
    /// Who mails are from.
    pub from: Option<String>,
    /// Login.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretText>,
    /// `smtp.dkim:`
    pub dkim: Dkim,
}

/// `smtp.dkim:`, all of it or nothing.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Dkim {
    /// In whose name mails are signed.
    pub domain: Option<String>,
    /// Which of its keys.
    pub selector: Option<String>,
    /// The private key, in PEM.
    pub key: Option<SecretText>,
}

/// `log:`
#[derive(Clone, PartialEq, Debug)]
pub struct Log {
    /// How a line looks.
    pub format: log::Format,
    /// `info`, or levels by target.
    pub filter: String,
}

impl Smtp {
    /// What signatures ask for; else what is wrong, and what to do.
    fn signed(&self) -> Result<(), (String, &'static str)> {
        let domain = match &self.dkim {
            Dkim { domain: Some(domain), selector: Some(_), key: Some(_) } => domain.to_lowercase(),
            Dkim { domain: None, selector: None, key: None } => return Ok(()),
            _ => {
                let message = "`domain`, `selector` and `key` of `smtp.dkim` belong together";
                return Err((
                    message.to_owned(),
                    "write all three, or none for mails that are not signed here",
                ));
            }
        };
        let from = self.from.as_deref().unwrap_or_default();
        let of = from.rsplit('@').next().unwrap_or_default().trim_end().trim_end_matches('>').to_lowercase();
        // Others take a signature for the sender's only where it is (DMARC's alignment).
        if of == domain || of.ends_with(&format!(".{domain}")) {
            return Ok(());
        }
        let message = format!("`smtp.dkim` signs for {domain}, and `smtp.from` is of {of:?}");
        Err((message, "write the domain of smtp.from, or one above it"))
    }
}

/// The environment variables that are ours, by name.
pub type Environment = BTreeMap<String, String>;

impl Config {
    /// Reads the file and the environment.
    ///
    /// # Errors
    /// Every problem of the two.
    pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
        let file = read_file(path.to_owned(), false);
        let bytes = file.content.map_err(|why| {
            let mut p = Problem::of_file(path.to_owned(), code::UNREADABLE, why.message);
            p.help = Some(why.help);
            vec![p]
        })?;
        Config::read(path, &bytes, &environment::ours())
    }

    /// Reads a text and an environment.
    ///
    /// # Errors
    /// Every problem of the two.
    pub fn read(path: &Path, bytes: &[u8], env: &Environment) -> Result<Config, Vec<Problem>> {
        let source = Arc::new(Source::new(path.to_owned(), bytes));
        let text = yaml::decode(bytes).map_err(|f| vec![Problem::of_fault(&source, f)])?;
        let (root, faults) = yaml::parse(text);
        let mut problems: Vec<Problem> = faults
            .into_iter()
            .filter(|f| f.kind != yaml::FaultKind::Empty)
            .map(|f| Problem::of_fault(&source, f))
            .collect();
        let mut r = Reader::new(Arc::clone(&source));
        match root.as_ref().filter(|n| !n.is_null()) {
            Some(root) => keys::check(&mut r, root),
            None if !problems.is_empty() => return Err(problems),
            None => {}
        }
        problems.extend(r.into_problems());
        let overlay = environment::overlay(env, &mut problems);
        let servers =
            |n: Option<&yaml::Node>| n.and_then(|n| n.get("kafka")?.get("bootstrap_servers")).is_some();
        if !servers(root.as_ref()) && !env.contains_key("PARCELWATCH_KAFKA__BOOTSTRAP_SERVERS") {
            let message = "`kafka.bootstrap_servers` is missing, the one setting without a default";
            let mut p = Problem::of_file(path.to_owned(), code::MISSING_KEY, message);
            p.help = Some("say where Kafka is, as in `kafka: {bootstrap_servers: 127.0.0.1:9092}`".into());
            problems.push(p);
        }
        if !problems.is_empty() {
            problems.sort_by(|a, b| a.order().cmp(&b.order()));
            return Err(problems);
        }
        let wrong = |message: String| {
            let mut p = Problem::of_file(path.to_owned(), code::BAD_VALUE, message);
            p.help = Some(
                "compare it with config/parcelwatch.yaml, where every setting stands at its default".into(),
            );
            vec![p]
        };
        let raw = raw::Raw::read(text, overlay).map_err(|e| wrong(e.to_string()))?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let config =
            raw.finish(path, folder).map_err(|(key, message)| wrong(format!("`{key}`: {message}")))?;
        config.consistent(&source, root.as_ref()).map_err(|p| vec![*p])?;
        Ok(config)
    }

    /// What keys demand of each other.
    fn consistent(&self, source: &Arc<Source>, root: Option<&yaml::Node>) -> Result<(), Box<Problem>> {
        let place = |section: &str, key: &str| root.and_then(|n| n.get(section)).and_then(|n| n.get(key));
        let problem = |section: &str, key: &str, message: &str, help: &str| {
            let mut r = Reader::new(Arc::clone(source));
            match place(section, key) {
                Some(node) => r.error(code::CONTRADICTION, &node.at, message, help),
                None => {
                    let mut p = Problem::of_file(source.path.clone(), code::CONTRADICTION, message);
                    p.help = Some(help.to_owned());
                    return Err(Box::new(p));
                }
            }
            r.into_problems().pop().map_or(Ok(()), |p| Err(Box::new(p)))
        };
        if self.http.tokens.is_empty() && !self.http.listen.ip().to_canonical().is_loopback() {
            let message = format!(
                "`http.listen` {} is reachable from other machines, and without `http.tokens` everybody there could acknowledge \
                 and resolve",
                self.http.listen
            );
            return problem("http", "listen", &message, "add a token, or listen on 127.0.0.1");
        }
        if self.smtp.url.is_some() && self.smtp.from.is_none() {
            return problem(
                "smtp",
                "url",
                "`smtp.url` needs `smtp.from`",
                "say who mails are from: from: parcels@example.org",
            );
        }
        if self.smtp.username.is_some() != self.smtp.password.is_some() {
            let key = if self.smtp.username.is_some() { "username" } else { "password" };
            let help = "write both, or neither for a server that wants no login";
            return problem("smtp", key, "`smtp.username` and `smtp.password` belong together", help);
        }
        self.smtp
            .signed()
            .map_err(|(message, help)| problem("smtp", "dkim", &message, help))
            .or_else(|found| found)
    }
}
