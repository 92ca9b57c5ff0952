//! `receivers:` of policies.yaml.

use std::path::PathBuf;

use super::names::Names;
use super::policies::{Receiver, ReceiverKind, SecretText};
use super::policy_keys;
use super::problem::code;
use super::reader::Reader;
use super::template::templates;
use crate::model::{MINUTE, SECOND};
use crate::yaml::{Kind, Node, cut};

const KEYS: [&str; policy_keys::RECEIVER.len()] = super::keys::names(&policy_keys::RECEIVER);
/// Keys that say nothing of how it is reached.
pub const BESIDE: [&str; 2] = ["id", "templates"];
/// Kinds, as messages name them.
const KINDS: &str = "`email`, `webhook`, `slack`, `pagerduty`, `alertmanager` or `command`";

/// Reads a receiver.
pub fn receiver(r: &mut Reader, names: &Names, node: &Node, id: &str) -> Option<Receiver> {
    let fields = r.fields(node, "a receiver", &KEYS)?;
    let kinds: Vec<_> = fields.iter().filter(|(key, _, _)| !BESIDE.contains(key)).collect();
    let Some((key, _, value)) = kinds.first() else {
        let help = "say how it is reached, as in `email: {to: [ops@example.org]}`";
        r.lacks(&node.at, format!("a receiver has none of {KINDS}"), help);
        return None;
    };
    if let Some((_, second, _)) = kinds.get(1) {
        let help = "write a receiver of its own for each, and name both in `notify`";
        r.error(code::CONTRADICTION, &second.at, "a receiver is reached in one way", help);
        return None;
    }
    let kind = match *key {
        "email" => email(r, value),
        "webhook" => webhook(r, value),
        "slack" => slack(r, value),
        "pagerduty" => pagerduty(r, value),
        "alertmanager" => alertmanager(r, value),
        "command" => command(r, value),
        _ => None,
    };
    let kind = kind?;
    let templates = templates(r, names, &fields, &kind);
    Some(Receiver { id: id.to_owned(), kind, templates })
}

fn email(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.fields(node, "`email`", &policy_keys::EMAIL_NAMES)?;
    let Some(to) = fields.get("to") else {
        r.missing(&node.at, "`email`", "to", "name addresses, as in `to: [ops@example.org]`");
        return None;
    };
    let items = r.one_or_many(to, "`to`")?;
    let mut addresses = Vec::with_capacity(items.len());
    for item in items {
        let text = r.text(item, "an address")?;
        if !is_address(text) {
            let message = format!("`{}` is no mail address", cut(text));
            r.error(
                code::BAD_ADDRESS,
                &item.at,
                message,
                "write one address an entry, without a name: ops@example.org",
            );
            continue;
        }
        addresses.push(text.to_owned());
    }
    (addresses.len() == items.len()).then_some(ReceiverKind::Email { to: addresses })
}

/// Whether it has the form of a mail address: what a server accepts it decides itself.
pub fn is_address(text: &str) -> bool {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>()[],;:\\\"".contains(c);
    let Some((local, domain)) = text.rsplit_once('@') else { return false };
    let labels = || domain.split('.').all(|l| !l.is_empty() && !l.starts_with('-') && !l.ends_with('-'));
    !local.is_empty()
        && local.len() <= 64
        && domain.len() <= 253
        && !local.contains('@')
        && !text.contains(odd)
        && labels()
}

fn webhook(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.fields(node, "`webhook`", &policy_keys::WEBHOOK_NAMES)?;
    let url = match fields.get("url") {
        Some(n) => url(r, n),
        None => {
            r.missing(
                &node.at,
                "`webhook`",
                "url",
                "say where to, as in `url: \"https://erp.example.org/hooks\"`",
            );
            None
        }
    };
    let secret = super::rule::optional(&fields, "secret", |n| secret(r, n, "`secret`"));
    Some(ReceiverKind::Webhook { url: url?, secret: secret? })
}

fn slack(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.object(node, "`slack`", &policy_keys::SLACK)?;
    let Some(url) = fields.get("url") else {
        let help = "an incoming webhook's URL is its password: write it into a file and name it, `url: {file: PATH}`";
        r.missing(&node.at, "`slack`", "url", help);
        return None;
    };
    Some(ReceiverKind::Slack { url: secret(r, url, "`url`")? })
}

fn pagerduty(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.object(node, "`pagerduty`", &policy_keys::PAGERDUTY)?;
    let key = match fields.get("routing_key") {
        Some(n) => secret(r, n, "`routing_key`"),
        None => {
            let help = "name where the integration's key is kept, as in `routing_key: {file: /run/secrets/pagerduty}`";
            r.missing(&node.at, "`pagerduty`", "routing_key", help);
            None
        }
    };
    let url = super::rule::optional(&fields, "url", |n| plain_url(r, n));
    Some(ReceiverKind::PagerDuty { routing_key: key?, url: url? })
}

fn alertmanager(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.object(node, "`alertmanager`", &policy_keys::ALERTMANAGER)?;
    let Some(url) = fields.get("url") else {
        r.missing(&node.at, "`alertmanager`", "url", "say where, as in `url: \"http://alertmanager:9093\"`");
        return None;
    };
    let items = r.one_or_many(url, "`url`")?;
    let urls: Vec<String> =
        items.iter().filter_map(|n| plain_url(r, n)).map(|u| u.trim_end_matches('/').to_owned()).collect();
    (urls.len() == items.len()).then_some(ReceiverKind::Alertmanager { urls })
}

fn command(r: &mut Reader, node: &Node) -> Option<ReceiverKind> {
    let fields = r.object(node, "`command`", &policy_keys::COMMAND)?;
    let Some(argv) = fields.get("argv") else {
        let help = "name the program and its arguments, as in `argv: [/usr/local/bin/page, --team, ops]`";
        r.missing(&node.at, "`command`", "argv", help);
        return None;
    };
    let items = r.one_or_many(argv, "`argv`")?;
    let texts: Vec<String> =
        items.iter().filter_map(|n| r.text(n, "an entry of `argv`").map(str::to_owned)).collect();
    let timeout = super::rule::optional(&fields, "timeout", |n| {
        let ms = r.elapsed(n, "`timeout`")?;
        if !(SECOND..=5 * MINUTE).contains(&ms) {
            let help = "write 1s to 5m; a program that takes longer is to put its work aside and answer";
            r.error(code::BAD_VALUE, &n.at, "`timeout` is out of bounds", help);
            return None;
        }
        Some(ms)
    });
    if let (Some(program), Some(first)) = (texts.first(), items.first())
        && !program.starts_with('/')
    {
        let help =
            "write its whole path; no shell looks for it, and command.allow of the configuration names it so";
        r.error(code::BAD_VALUE, &first.at, format!("`{}` is no absolute path", cut(program)), help);
        return None;
    }
    let timeout = timeout?.unwrap_or(30 * SECOND);
    (texts.len() == items.len()).then_some(ReceiverKind::Command { argv: texts, timeout })
}

fn url(r: &mut Reader, node: &Node) -> Option<SecretText> {
    if matches!(node.kind, Kind::Map(_)) {
        return secret(r, node, "`url`");
    }
    plain_url(r, node).map(SecretText::Plain)
}

fn plain_url(r: &mut Reader, node: &Node) -> Option<String> {
    let text = r.text(node, "`url`")?;
    let parsed =
        url::Url::parse(text).ok().filter(|u| matches!(u.scheme(), "http" | "https") && u.has_host());
    if parsed.is_none() {
        let help = "write it whole, as in \"https://erp.example.org/hooks/parcels\"";
        r.error(code::BAD_ADDRESS, &node.at, format!("`{}` is no http or https URL", cut(text)), help);
        return None;
    }
    if parsed.is_some_and(|u| u.password().is_some()) {
        let help = "write the whole URL into a file and name it: url: {file: PATH}";
        r.error(code::SECRET_IN_PLACE, &node.at, "this URL holds a password", help);
        return None;
    }
    Some(text.to_owned())
}

/// `{file: PATH}` or `{env: NAME}`.
pub fn secret(r: &mut Reader, node: &Node, what: &str) -> Option<SecretText> {
    if matches!(node.kind, Kind::Scalar { .. }) {
        let help = "write it into a file only the program may read, and name that: {file: /run/secrets/NAME}; or {env: NAME}";
        r.error(
            code::SECRET_IN_PLACE,
            &node.at,
            format!("{what} holds a secret, which cannot be written in place"),
            help,
        );
        return None;
    }
    let fields = r.fields(node, what, &["file", "env"])?;
    match (fields.get("file"), fields.get("env")) {
        (Some(n), None) => {
            let path = PathBuf::from(r.text(n, "`file`")?);
            Some(SecretText::File(r.folder().join(path)))
        }
        (None, Some(n)) => {
            let name = r.text(n, "`env`")?;
            if name.contains(['=', '\0', '$', ' ']) {
                let message = format!("`{}` is no name of a variable", cut(name));
                r.error(code::BAD_VALUE, &n.at, message, "write the name alone, as in {env: ERP_KEY}");
                return None;
            }
            Some(SecretText::Env(name.to_owned()))
        }
        _ => {
            if fields.iter().count() != 1 {
                let help = "name one: {file: PATH} or {env: NAME}";
                r.error(
                    code::WRONG_SHAPE,
                    &node.at,
                    format!("{what} is neither a file nor a variable"),
                    help,
                );
            }
            None
        }
    }
}
