//! Every key of the configuration and what may stand there: the one table behind problems, environment and tests.

use std::net::SocketAddr;

use ipnet::IpNet;

use super::schema::{ROLES, TOKEN};
use crate::model::Time;
use crate::rules::problem::code;
use crate::rules::reader::Reader;
use crate::rules::receiver::{is_address, secret};
use crate::yaml::{Kind, Node, Value, cut};

/// What may stand at a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Want {
    /// Any text that is not empty.
    Text,
    /// A path, relative to the file.
    Path,
    /// A duration of the plain clock, at least a millisecond.
    Duration,
    /// A number from 1.
    Count,
    /// `{file: PATH}` or `{env: NAME}`, or nothing.
    Secret,
    /// A text or nothing.
    MaybeText,
    /// `earliest`, `latest` or a time.
    Start,
    /// librdkafka's.
    Properties,
    /// `sqlite`.
    CasesUrl,
    /// A bucket or nothing.
    Bucket,
    /// `address:port`.
    Listen,
    /// An http or https URL, or nothing.
    HttpUrl,
    /// `smtp://` or `smtps://`, or nothing.
    SmtpUrl,
    /// Who mails are from, or nothing.
    From,
    /// A name in DNS, or nothing.
    DnsName,
    /// Tokens.
    Tokens,
    /// CIDRs.
    Networks,
    /// Absolute paths.
    Programs,
    /// `text` or `json`.
    LogFormat,
}

/// All keys, what may stand there and what it is; a section's name is before the dot, and a section may stand in another.
pub const KEYS: [(&str, Want, &str); 34] = [
    (
        "kafka.bootstrap_servers",
        Want::Text,
        "host:port, several with commas; the one setting without a default",
    ),
    ("kafka.topic", Want::Text, "The one input topic; its keys are parcel ids"),
    ("kafka.group_id", Want::Text, "The consumer group"),
    ("kafka.start", Want::Start, "Where a partition without a snapshot begins"),
    ("kafka.properties", Want::Properties, "Handed to librdkafka; any value may be kept elsewhere"),
    ("rules", Want::Path, "The directory of rules and policies.yaml, relative to this file"),
    (
        "state",
        Want::Path,
        "The folder of cases.sqlite and snapshots, relative to this file; each process has its own",
    ),
    (
        "reload.max_openings",
        Want::Count,
        "New rules that would open more exceptions at once wait until somebody accepts them",
    ),
    ("reload.every", Want::Duration, "How often the files of rules are looked at"),
    (
        "cases.url",
        Want::CasesUrl,
        "Where exceptions are kept: sqlite, a file in `state`; or postgres://user@host/database, which several processes may share",
    ),
    ("cases.password", Want::Secret, "Of a PostgreSQL that wants one"),
    ("cases.keep", Want::Duration, "How long resolved exceptions are kept"),
    (
        "snapshots.to",
        Want::Bucket,
        "A bucket, or file:///folder for one that several processes share; null: a folder in `state`",
    ),
    ("snapshots.every", Want::Duration, "How often each shard is saved"),
    ("snapshots.keep", Want::Count, "How many of each partition are kept"),
    ("time.skew", Want::Duration, "How far this machine's clock may be ahead of the brokers'"),
    ("time.certificate_ttl", Want::Duration, "How long a proof of having read everything holds"),
    (
        "time.forget_after",
        Want::Duration,
        "A finished parcel leaves the memory so long after its last record",
    ),
    ("time.remember_ids", Want::Duration, "And its late records are swallowed for so long after that"),
    (
        "time.abandon_after",
        Want::Duration,
        "A parcel that never finished leaves so long after its last record",
    ),
    ("http.listen", Want::Listen, "address:port; one that other machines reach needs tokens"),
    ("http.public_url", Want::HttpUrl, "How people reach it, for links in mails"),
    ("http.tokens", Want::Tokens, "Who may do what"),
    ("smtp.url", Want::SmtpUrl, "No mail without it"),
    ("smtp.from", Want::From, "Who mails are from"),
    ("smtp.username", Want::MaybeText, "Login"),
    ("smtp.password", Want::Secret, "Where its password is kept"),
    (
        "smtp.dkim.domain",
        Want::DnsName,
        "Mails are signed in the name of this domain, that of `from` or above it",
    ),
    ("smtp.dkim.selector", Want::DnsName, "The public key is published at selector._domainkey.domain"),
    ("smtp.dkim.key", Want::Secret, "Where the private key is kept: PEM, RSA or Ed25519"),
    (
        "webhook.allow_private_networks",
        Want::Networks,
        "Networks that webhooks may reach though they are private",
    ),
    (
        "command.allow",
        Want::Programs,
        "Programs that receivers by `command` may run, or directories of such; none where it is absent",
    ),
    ("log.format", Want::LogFormat, "How a line looks"),
    ("log.filter", Want::Text, "A level, or levels by target: info,parcelwatch::source=debug"),
];

/// Properties of librdkafka that are secrets.
pub(super) const SECRET_PROPERTIES: [&str; 6] = [
    "sasl.password",
    "ssl.key.password",
    "ssl.key.pem",
    "ssl.keystore.password",
    "sasl.oauthbearer.client.secret",
    "sasl.oauthbearer.config",
];

/// The kind of a key.
pub fn want(path: &str) -> Option<Want> {
    KEYS.iter().find(|(p, _, _)| *p == path).map(|(_, w, _)| *w)
}

/// Sections and keys without one.
pub fn top() -> Vec<&'static str> {
    let mut names: Vec<&str> = Vec::new();
    for (path, _, _) in KEYS {
        let name = path.split('.').next().unwrap_or_default();
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

/// Keys of a section, and the sections in it.
pub fn within(section: &str) -> Vec<&'static str> {
    let keys = KEYS.iter().filter_map(|(p, _, _)| p.strip_prefix(section)?.strip_prefix('.'));
    let mut names: Vec<_> = keys.map(|k| k.split('.').next().unwrap_or_default()).collect();
    names.dedup();
    names
}

/// Checks the whole file: unknown keys and values, all of them.
pub fn check(r: &mut Reader, root: &Node) {
    let Some(entries) = r.map(root, "the configuration") else { return };
    let names = top();
    for (key, value) in entries {
        let name = key.text().unwrap_or_default();
        if let Some(want) = want(name) {
            check_value(r, name, want, value);
        } else if names.contains(&name) {
            section(r, name, value);
        } else {
            let message = format!("the configuration has no key `{}`", cut(name));
            r.unknown(code::UNKNOWN_KEY, &key.at, message, name, names.iter().copied());
        }
    }
}

fn section(r: &mut Reader, name: &str, node: &Node) {
    // An empty section is one with its defaults.
    if node.is_null() {
        return;
    }
    let Some(entries) = r.map(node, &format!("`{name}`")) else { return };
    let known = within(name);
    for (key, value) in entries {
        let text = key.text().unwrap_or_default();
        let path = format!("{name}.{text}");
        match want(&path) {
            Some(want) => check_value(r, &path, want, value),
            None if known.contains(&text) => section(r, &path, value),
            None => {
                let message = format!("`{name}` has no key `{}`", cut(text));
                r.unknown(code::UNKNOWN_KEY, &key.at, message, text, known.iter().copied());
            }
        }
    }
}

/// Checks one value.
pub fn check_value(r: &mut Reader, path: &str, want: Want, node: &Node) {
    let what = format!("`{path}`");
    let nothing = matches!(
        want,
        Want::Secret
            | Want::MaybeText
            | Want::Bucket
            | Want::HttpUrl
            | Want::SmtpUrl
            | Want::From
            | Want::DnsName
    );
    if nothing && node.is_null() {
        return;
    }
    match want {
        Want::Text | Want::MaybeText | Want::Path => drop(r.text(node, &what)),
        Want::Duration => {
            if r.elapsed(node, &what) == Some(0) {
                r.error(
                    code::BAD_DURATION,
                    &node.at,
                    format!("{what} cannot be 0"),
                    "write a duration such as 5s",
                );
            }
        }
        Want::Count => count(r, node, &what),
        Want::Secret => drop(secret(r, node, &what)),
        Want::Start => start(r, node, &what),
        Want::Properties => properties(r, node),
        Want::CasesUrl => cases_url(r, node, &what),
        Want::Bucket => {
            let help = "write s3://bucket/prefix, gs://bucket/prefix, az://container/prefix, file:///folder, or null for a folder in state";
            if !node.text().is_some_and(|t| t.starts_with("file:///")) {
                url(r, node, &what, &["s3", "gs", "az"], help);
            }
        }
        Want::HttpUrl => {
            url(r, node, &what, &["http", "https"], "write it whole, as in https://parcels.example.org")
        }
        Want::SmtpUrl => {
            let help =
                "write smtps://host or smtp://host:587?tls=required; the password goes into smtp.password";
            url(r, node, &what, &["smtp", "smtps"], help);
        }
        Want::Listen => {
            if let Some(text) = r.text(node, &what)
                && text.parse::<SocketAddr>().is_err()
            {
                let help = "write an address and a port, as in 127.0.0.1:9464 or [::1]:9464; 0.0.0.0:9464 is every interface";
                r.error(
                    code::BAD_ADDRESS,
                    &node.at,
                    format!("{what}: `{}` is no address with a port", cut(text)),
                    help,
                );
            }
        }
        Want::From => {
            if let Some(text) = r.text(node, &what) {
                let address = text.rsplit_once('<').map_or(text, |(_, a)| a.trim_end().trim_end_matches('>'));
                if !is_address(address) {
                    let help = "write parcels@example.org, or \"Parcel watch <parcels@example.org>\"";
                    r.error(
                        code::BAD_ADDRESS,
                        &node.at,
                        format!("{what}: `{}` is no sender", cut(text)),
                        help,
                    );
                }
            }
        }
        Want::DnsName => {
            if let Some(text) = r.text(node, &what)
                && !is_dns_name(text)
            {
                let help = "write it as it stands in DNS: letters, digits and hyphens, parts separated by dots; xn--… for others";
                r.error(
                    code::BAD_ADDRESS,
                    &node.at,
                    format!("{what}: `{}` is no name in DNS", cut(text)),
                    help,
                );
            }
        }
        Want::Tokens => tokens(r, node),
        Want::Networks => networks(r, node, &what),
        Want::Programs => programs(r, node, &what),
        Want::LogFormat => drop(r.word(node, "log format", &["text", "json"])),
    }
}

fn is_dns_name(text: &str) -> bool {
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    text.len() <= 200 && text.split('.').all(label)
}

fn count(r: &mut Reader, node: &Node, what: &str) {
    let good = matches!(node.value(), Some(Value::Number(n)) if n.as_whole().is_some_and(|n| (1..=1000).contains(&n)));
    if !good && !matches!(node.kind, Kind::Refused) {
        r.error(
            code::BAD_VALUE,
            &node.at,
            format!("{what} has to be a number from 1 to 1000"),
            "write a whole number",
        );
    }
}

fn start(r: &mut Reader, node: &Node, what: &str) {
    let Some(text) = r.text(node, what) else { return };
    if !matches!(text, "earliest" | "latest") && Time::parse(text).is_none() {
        let help = "write earliest, latest, or a time with its offset: 2026-10-01T00:00:00Z";
        r.error(code::BAD_VALUE, &node.at, format!("{what}: `{}` is no place to start", cut(text)), help);
    }
}

fn properties(r: &mut Reader, node: &Node) {
    if node.is_null() {
        return;
    }
    for (key, value) in r.map(node, "`kafka.properties`").unwrap_or_default() {
        let name = key.text().unwrap_or_default();
        let what = format!("`kafka.properties.{}`", cut(name));
        if matches!(value.kind, Kind::Map(_)) || SECRET_PROPERTIES.contains(&name) {
            secret(r, value, &what);
        } else {
            r.text(value, &what);
        }
    }
}

fn cases_url(r: &mut Reader, node: &Node, what: &str) {
    let Some(text) = r.text(node, what) else { return };
    if text == "sqlite" {
        return;
    }
    let help = "write sqlite, and the file is kept in `state`; or postgres://user@host/database";
    if !text.starts_with("postgres") {
        let message = format!("{what}: `{}` is no database", cut(text));
        r.error(code::BAD_VALUE, &node.at, message, help);
        return;
    }
    url(r, node, what, &["postgres", "postgresql"], help);
    if url::Url::parse(text).is_ok_and(|u| u.password().is_none() && u.path().trim_matches('/').is_empty()) {
        r.error(code::BAD_ADDRESS, &node.at, format!("{what} names no database"), help);
    }
}

fn url(r: &mut Reader, node: &Node, what: &str, schemes: &[&str], help: &str) {
    let Some(text) = r.text(node, what) else { return };
    match url::Url::parse(text) {
        Ok(u) if u.password().is_some() => {
            let message = format!("{what} holds a password");
            r.error(
                code::SECRET_IN_PLACE,
                &node.at,
                message,
                "a secret is never written in place; take it out of the URL",
            );
        }
        Ok(u) if schemes.contains(&u.scheme()) && u.has_host() => {}
        _ => {
            let message = format!("{what}: `{}` is no {} URL", cut(text), schemes.join(" or "));
            r.error(code::BAD_ADDRESS, &node.at, message, help);
        }
    }
}

fn tokens(r: &mut Reader, node: &Node) {
    if matches!(&node.kind, Kind::Seq(items) if items.is_empty()) || node.is_null() {
        return;
    }
    let mut names: Vec<&str> = Vec::new();
    for item in r.list(node, "`http.tokens`").unwrap_or_default() {
        let Some(fields) = r.object(item, "a token", &TOKEN) else { continue };
        match fields.get("name") {
            Some(n) => {
                if let Some(name) = r.text(n, "the token's name") {
                    if names.contains(&name) {
                        let message = format!("the token `{}` stands here twice", cut(name));
                        r.error(
                            code::DEFINED_TWICE,
                            &n.at,
                            message,
                            "what is acknowledged is recorded by this name: rename one",
                        );
                    }
                    names.push(name);
                }
            }
            None => r.missing(
                &item.at,
                "a token",
                "name",
                "what is acknowledged with it is recorded by this name",
            ),
        }
        match fields.get("role") {
            Some(n) => drop(r.word(n, "role", &ROLES)),
            None => r.missing(
                &item.at,
                "a token",
                "role",
                "viewer reads, operator acknowledges and resolves, admin reloads",
            ),
        }
        match fields.get("token") {
            Some(n) => drop(secret(r, n, "`token`")),
            None => r.missing(
                &item.at,
                "a token",
                "token",
                "name where it is kept: {file: /run/secrets/erp_token}",
            ),
        }
    }
}

fn programs(r: &mut Reader, node: &Node, what: &str) {
    if matches!(&node.kind, Kind::Seq(items) if items.is_empty()) || node.is_null() {
        return;
    }
    for item in r.one_or_many(node, what).unwrap_or_default() {
        if let Some(text) = r.text(item, what)
            && !text.starts_with('/')
        {
            let help = "write a whole path, as in /usr/local/lib/parcelwatch";
            r.error(code::BAD_VALUE, &item.at, format!("`{}` is no absolute path", cut(text)), help);
        }
    }
}

fn networks(r: &mut Reader, node: &Node, what: &str) {
    if matches!(&node.kind, Kind::Seq(items) if items.is_empty()) || node.is_null() {
        return;
    }
    for item in r.one_or_many(node, what).unwrap_or_default() {
        if let Some(text) = r.text(item, what)
            && text.parse::<IpNet>().is_err()
        {
            let help = match text.parse::<std::net::IpAddr>() {
                Ok(ip) => format!("for this one address write {ip}/{}", if ip.is_ipv4() { 32 } else { 128 }),
                Err(_) => "write a network as in 10.20.0.0/16".to_owned(),
            };
            r.error(code::BAD_ADDRESS, &item.at, format!("`{}` is no network", cut(text)), help);
        }
    }
}
