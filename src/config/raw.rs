//! The file as serde sees it: texts, with every default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_yaml::Value;

use super::{
    Cases, Config, Dkim, Http, Kafka, Log, Reload, Smtp, Snapshots, Start, Times, Token, environment,
};
use crate::http::auth::Role;
use crate::log::Format;
use crate::model::Time;
use crate::rules::duration;
use crate::rules::policies::SecretText;

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
pub struct Raw {
    kafka: RawKafka,
    rules: Option<String>,
    state: Option<String>,
    reload: RawReload,
    cases: RawCases,
    snapshots: RawSnapshots,
    time: RawTime,
    http: RawHttp,
    smtp: RawSmtp,
    webhook: RawWebhook,
    command: RawCommand,
    log: RawLog,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawKafka {
    bootstrap_servers: Option<String>,
    topic: Option<String>,
    group_id: Option<String>,
    start: Option<String>,
    properties: Option<BTreeMap<String, Value>>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawReload {
    max_openings: Option<u32>,
    every: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawCases {
    url: Option<String>,
    password: Option<RawSecret>,
    keep: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawSnapshots {
    to: Option<String>,
    every: Option<String>,
    keep: Option<u32>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawTime {
    skew: Option<String>,
    certificate_ttl: Option<String>,
    forget_after: Option<String>,
    remember_ids: Option<String>,
    abandon_after: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawHttp {
    listen: Option<String>,
    public_url: Option<String>,
    tokens: Option<Vec<RawToken>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    name: String,
    role: String,
    token: RawSecret,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawSmtp {
    url: Option<String>,
    from: Option<String>,
    username: Option<String>,
    password: Option<RawSecret>,
    dkim: Option<RawDkim>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawDkim {
    domain: Option<String>,
    selector: Option<String>,
    key: Option<RawSecret>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawWebhook {
    allow_private_networks: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawCommand {
    allow: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct RawLog {
    format: Option<String>,
    filter: Option<String>,
}

/// `{file: PATH}` or `{env: NAME}`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawSecret {
    file: Option<PathBuf>,
    env: Option<String>,
}

/// A key and what is wrong with it. The table of keys has checked all that a person writes; this is for what it missed.
type Wrong = (&'static str, String);

impl Raw {
    /// Reads a text that has been checked, with the environment over it.
    pub fn read(text: &str, overlay: Value) -> Result<Raw, serde_yaml::Error> {
        let mut document: Value = serde_yaml::from_str(text)?;
        if document.is_null() {
            document = Value::Mapping(serde_yaml::Mapping::new());
        }
        environment::merge(&mut document, overlay);
        // An empty section is one with its defaults.
        if let Value::Mapping(map) = &mut document {
            map.retain(|_, value| !value.is_null());
        }
        // Through the text once more: a plain number is taken there as a text where one is wanted.
        serde_yaml::from_str(&serde_yaml::to_string(&document)?)
    }

    /// The typed configuration.
    pub fn finish(self, path: &Path, folder: &Path) -> Result<Config, Wrong> {
        let secret = |s: Option<RawSecret>| s.map(|s| place(s, folder)).transpose();
        let Some(bootstrap_servers) = self.kafka.bootstrap_servers else {
            let message = "it is missing; write where Kafka is, as in bootstrap_servers: 127.0.0.1:9092";
            return Err(("kafka.bootstrap_servers", message.into()));
        };
        let kafka = Kafka {
            bootstrap_servers,
            topic: self.kafka.topic.unwrap_or_else(|| "milestones".into()),
            group_id: self.kafka.group_id.unwrap_or_else(|| "parcelwatch".into()),
            start: start(self.kafka.start.as_deref())?,
            properties: properties(self.kafka.properties.unwrap_or_default(), folder)?,
        };
        let cases = Cases {
            url: self.cases.url.filter(|u| u != "sqlite"),
            password: secret(self.cases.password)?,
            keep: ms("cases.keep", self.cases.keep, "3650d")?,
        };
        let reload = Reload {
            max_openings: self.reload.max_openings.unwrap_or(1_000),
            every: ms("reload.every", self.reload.every, "10s")?,
        };
        let snapshots = Snapshots {
            to: self.snapshots.to,
            every: ms("snapshots.every", self.snapshots.every, "5m")?,
            keep: self.snapshots.keep.unwrap_or(3),
        };
        let time = Times {
            skew: ms("time.skew", self.time.skew, "5s")?,
            certificate_ttl: ms("time.certificate_ttl", self.time.certificate_ttl, "15s")?,
            forget_after: ms("time.forget_after", self.time.forget_after, "30d")?,
            remember_ids: ms("time.remember_ids", self.time.remember_ids, "60d")?,
            abandon_after: ms("time.abandon_after", self.time.abandon_after, "400d")?,
        };
        let listen = self.http.listen.unwrap_or_else(|| "127.0.0.1:9464".into());
        let http = Http {
            listen: listen.parse().map_err(|e| ("http.listen", format!("{listen}: {e}")))?,
            public_url: self.http.public_url.map(|u| u.trim_end_matches('/').to_owned()),
            tokens: tokens(self.http.tokens.unwrap_or_default(), folder)?,
        };
        let dkim = self.smtp.dkim.unwrap_or_default();
        let smtp = Smtp {
            url: self.smtp.url,
            from: self.smtp.from,
            username: self.smtp.username,
            password: secret(self.smtp.password)?,
            dkim: Dkim { domain: dkim.domain, selector: dkim.selector, key: secret(dkim.key)? },
        };
        let format = self.log.format.as_deref().unwrap_or("text");
        let log = Log {
            format: Format::from_name(format).ok_or_else(|| ("log.format", format.to_owned()))?,
            filter: self.log.filter.unwrap_or_else(|| "info".into()),
        };
        Ok(Config {
            path: path.to_owned(),
            kafka,
            rules: folder.join(self.rules.as_deref().unwrap_or("../rules")),
            state: folder.join(self.state.as_deref().unwrap_or("../data")),
            reload,
            cases,
            snapshots,
            time,
            http,
            smtp,
            allow_private_networks: networks(self.webhook.allow_private_networks)?,
            allow_commands: texts("command.allow", self.command.allow)?
                .into_iter()
                .map(PathBuf::from)
                .collect(),
            log,
        })
    }
}

fn place(secret: RawSecret, folder: &Path) -> Result<SecretText, Wrong> {
    match (secret.file, secret.env) {
        (Some(file), None) => Ok(SecretText::File(folder.join(file))),
        (None, Some(name)) => Ok(SecretText::Env(name)),
        _ => Err(("{file} or {env}", "a secret is kept in one place".into())),
    }
}

fn ms(key: &'static str, text: Option<String>, default: &str) -> Result<i64, Wrong> {
    duration::parse_elapsed(text.as_deref().unwrap_or(default)).map_err(|(message, _)| (key, message))
}

fn start(text: Option<&str>) -> Result<Start, Wrong> {
    match text.unwrap_or("earliest") {
        "earliest" => Ok(Start::Earliest),
        "latest" => Ok(Start::Latest),
        time => Time::parse(time).map(Start::At).ok_or_else(|| ("kafka.start", time.to_owned())),
    }
}

fn properties(map: BTreeMap<String, Value>, folder: &Path) -> Result<BTreeMap<String, SecretText>, Wrong> {
    let read = |value: Value| match value {
        Value::String(text) => Ok(SecretText::Plain(text)),
        Value::Bool(b) => Ok(SecretText::Plain(b.to_string())),
        Value::Number(n) => Ok(SecretText::Plain(n.to_string())),
        other => {
            let secret = serde_yaml::from_value(other).map_err(|e| ("kafka.properties", e.to_string()))?;
            place(secret, folder)
        }
    };
    map.into_iter().map(|(key, value)| Ok((key, read(value)?))).collect()
}

fn tokens(list: Vec<RawToken>, folder: &Path) -> Result<Vec<Token>, Wrong> {
    let read = |t: RawToken| {
        let role = Role::from_name(&t.role).ok_or_else(|| ("http.tokens", t.role.clone()))?;
        Ok(Token { name: t.name, role, token: place(t.token, folder)? })
    };
    list.into_iter().map(read).collect()
}

fn networks(value: Option<Value>) -> Result<Vec<ipnet::IpNet>, Wrong> {
    const KEY: &str = "webhook.allow_private_networks";
    let read = |t: &String| t.parse().map_err(|e| (KEY, format!("{t}: {e}")));
    texts(KEY, value)?.iter().map(read).collect()
}

/// One text, or a list of them.
fn texts(key: &'static str, value: Option<Value>) -> Result<Vec<String>, Wrong> {
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::String(one)) => Ok(vec![one]),
        Some(list) => serde_yaml::from_value(list).map_err(|e| (key, e.to_string())),
    }
}
