//! JSON Schema of the configuration, made from the table of its keys; defaults are those of the shipped file.

use serde_json::{Map, Value, json};

use super::keys::{KEYS, SECRET_PROPERTIES, Want};
use crate::rules::keys::{Def, Form, Object, key};
use crate::rules::schema::Builder;
use crate::yaml;

/// Every setting at its default; a test holds that it is.
const SHIPPED: &str = include_str!("../../config/parcelwatch.yaml");

const TOKEN_KEYS: [crate::rules::keys::Key; 3] = [
    key("name", Form::Is(Def::Text), "What is acknowledged with it is recorded by this name", r#""erp""#),
    key("role", Form::Is(Def::Text), "viewer reads, operator acknowledges and resolves, admin reloads", ""),
    key("token", Form::Is(Def::Secret), "Where it is kept", r#"{"file": "/run/secrets/erp_token"}"#),
];
/// An entry of `http.tokens`.
pub const TOKEN: Object =
    Object { keys: &TOKEN_KEYS, required: &["name", "role", "token"], about: "Who may do what" };
/// What a token may allow.
pub const ROLES: [&str; 3] = ["viewer", "operator", "admin"];

/// `schema config`.
#[must_use]
pub fn config() -> Value {
    let mut b = Builder::default();
    let shipped = yaml::parse(SHIPPED).0;
    let mut top = Map::new();
    for (path, want, about) in KEYS {
        let mut schema = value(&mut b, want);
        schema["description"] = json!(about);
        let at =
            |node: &yaml::Node, path: &str| path.split('.').try_fold(node.clone(), |n, k| n.get(k).cloned());
        if path != "kafka.bootstrap_servers"
            && let Some(default) = shipped.as_ref().and_then(|n| at(n, path))
        {
            schema["default"] = yaml::to_json(&default);
        }
        match path.split_once('.') {
            None => drop(top.insert(path.to_owned(), schema)),
            Some((first, rest)) => {
                let empty =
                    json!({"type": ["object", "null"], "properties": {}, "additionalProperties": false});
                let mut section = top.entry(first).or_insert_with(|| empty.clone());
                let mut names = rest.split('.').peekable();
                while let Some(name) = names.next() {
                    let within = &mut section["properties"][name];
                    if names.peek().is_none() {
                        *within = schema.take();
                    } else if within.is_null() {
                        *within = empty.clone();
                    }
                    section = within;
                }
            }
        }
    }
    let schema = json!({"type": ["object", "null"], "properties": top, "additionalProperties": false});
    b.document("Configuration of parcelwatch", "config/parcelwatch.yaml", schema)
}

fn value(b: &mut Builder, want: Want) -> Value {
    let or_nothing = |schema: Value| json!({"anyOf": [schema, {"type": "null"}]});
    let text =
        |pattern: &str, example: &str| json!({"type": "string", "pattern": pattern, "examples": [example]});
    match want {
        Want::Text | Want::Path => b.form(&Form::Is(Def::Text)),
        Want::MaybeText => or_nothing(b.refer(Def::Text)),
        Want::Duration => {
            let elapsed = b.refer(Def::Elapsed);
            json!({"allOf": [elapsed], "type": "string", "pattern": "[1-9]"})
        }
        Want::Count => json!({"type": "integer", "minimum": 1, "maximum": 1000}),
        Want::Secret => or_nothing(b.refer(Def::Secret)),
        Want::Start => {
            let time =
                text("^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}", "2026-10-01T00:00:00Z");
            json!({"anyOf": [{"enum": ["earliest", "latest"]}, time]})
        }
        Want::Properties => {
            let (mut secret, plain) = (b.refer(Def::Secret), b.refer(Def::Text));
            secret["description"] = json!("A secret: where it is kept");
            let secrets: Map<String, Value> =
                SECRET_PROPERTIES.iter().map(|name| ((*name).to_owned(), secret.clone())).collect();
            json!({"type": ["object", "null"], "properties": secrets, "additionalProperties": {"anyOf": [plain, secret]}})
        }
        Want::CasesUrl => {
            json!({"type": "string", "pattern": format!("^sqlite$|{}/[^/]+$", url("postgres|postgresql"))})
        }
        Want::Bucket => {
            or_nothing(text(&format!("{}|^file:///", url("s3|gs|az")), "s3://bucket/parcelwatch"))
        }
        Want::Listen => text(r"^(?:\[[0-9A-Fa-f:.]+\]|[0-9.]+):[0-9]{1,5}$", "127.0.0.1:9464"),
        Want::HttpUrl => or_nothing(text(&url("https?"), "https://parcels.example.org")),
        Want::SmtpUrl => or_nothing(text(&url("smtps?"), "smtps://mail.example.org")),
        Want::From => or_nothing(text(
            r"^(?:[^<>]*<[^\s<>@]+@[^\s<>@]+>|[^\s<>@]+@[^\s<>@]+)$",
            "Parcel watch <parcels@example.org>",
        )),
        Want::DnsName => or_nothing(text(r"^[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?$", "example.org")),
        Want::Tokens => {
            let mut token = b.object(TOKEN.keys, TOKEN.required);
            token["properties"]["role"]["enum"] = json!(ROLES);
            json!({"type": ["array", "null"], "items": token})
        }
        Want::Networks => {
            let network = text("^[0-9A-Fa-f:.]+/[0-9]{1,3}$", "10.20.0.0/16");
            json!({"anyOf": [network, {"type": ["array", "null"], "items": network}]})
        }
        Want::Programs => {
            let program = text("^/", "/usr/local/lib/parcelwatch");
            json!({"anyOf": [program, {"type": ["array", "null"], "items": program}]})
        }
        Want::LogFormat => json!({"enum": ["text", "json"]}),
    }
}

/// A URL without a password.
fn url(schemes: &str) -> String {
    format!("^(?:{schemes})://(?![^/]*:[^/]*@)[^\\s/]+")
}
