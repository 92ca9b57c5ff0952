//! JSON Schema (2020-12) of rules and policies, made from the tables that their readers take their keys from.
//!
//! A schema sees one file: names that another file defines, and what two values demand of each other, it cannot judge;
//! `check` does.

mod defs;

use std::collections::BTreeSet;

use serde_json::{Map, Value, json};

use super::keys::{self, Def, Form, Key, Object};
use super::policy_keys;

/// Builds a schema and the definitions it needs.
#[derive(Default)]
pub struct Builder {
    used: BTreeSet<Def>,
}

/// `schema rules`.
#[must_use]
pub fn rules() -> Value {
    let mut b = Builder::default();
    let mut file = b.object(&keys::FILE, &[]);
    file["properties"]["reported_within"]["propertyNames"] = b.refer(Def::Milestone);
    b.document("Rules of parcelwatch", "What must follow what, and by when: rules/*.yaml", file)
}

/// `schema policies`.
#[must_use]
pub fn policies() -> Value {
    let mut b = Builder::default();
    let mut file = b.object(&policy_keys::FILE, &[]);
    file["properties"]["owners"]["propertyNames"] = b.refer(Def::Owner);
    file["if"] = json!({"properties": {"policies": {"minItems": 2}}, "required": ["policies"]});
    file["then"] = json!({"required": ["default_policy"]});
    b.document("Policies of parcelwatch", "Who is told, when: rules/policies.yaml", file)
}

impl Builder {
    /// A whole document around a schema.
    #[must_use]
    pub fn document(mut self, title: &str, about: &str, schema: Value) -> Value {
        let mut defs = Map::new();
        // Definitions need others in turn.
        while let Some(def) = self.used.iter().find(|d| !defs.contains_key(name(**d))).copied() {
            let made = defs::definition(&mut self, def);
            defs.insert(name(def).to_owned(), made);
        }
        let mut document = json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": title,
            "description": about,
        });
        if let (Value::Object(into), Value::Object(from)) = (&mut document, schema) {
            into.extend(from);
            if !defs.is_empty() {
                into.insert("$defs".to_owned(), Value::Object(defs));
            }
        }
        document
    }

    /// A reference to a definition.
    pub fn refer(&mut self, def: Def) -> Value {
        self.used.insert(def);
        json!({"$ref": format!("#/$defs/{}", name(def))})
    }

    /// A mapping with these keys and no others.
    pub fn object(&mut self, keys: &[Key], required: &[&str]) -> Value {
        let properties: Map<String, Value> =
            keys.iter().map(|k| (k.name.to_owned(), self.property(k))).collect();
        let mut object = json!({"type": "object", "properties": properties, "additionalProperties": false});
        if !required.is_empty() {
            object["required"] = json!(required);
        }
        object
    }

    fn property(&mut self, key: &Key) -> Value {
        let mut schema = self.form(&key.form);
        schema["description"] = json!(key.about);
        // An example that is no JSON is found by a test.
        if let Ok(example) = serde_json::from_str::<Value>(key.example) {
            schema["examples"] = json!([example]);
        }
        schema
    }

    /// What may stand somewhere.
    pub fn form(&mut self, form: &Form) -> Value {
        let list = |items: Value, least: usize| {
            let mut list = json!({"type": "array", "items": items});
            if least > 0 {
                list["minItems"] = json!(least);
            }
            list
        };
        match form {
            Form::Is(def) => self.refer(*def),
            Form::List(def) => list(self.refer(*def), 1),
            Form::AnyList(def) => list(self.refer(*def), 0),
            Form::OneOrMany(def) => {
                let one = self.refer(*def);
                json!({"anyOf": [one, list(one.clone(), 1)]})
            }
            Form::OneOrAny(def) => {
                let one = self.refer(*def);
                json!({"anyOf": [one, list(one.clone(), 0)]})
            }
            Form::MapOf(form) => json!({"type": "object", "additionalProperties": self.form(form)}),
            Form::Object(object) => self.inner(object),
        }
    }

    fn inner(&mut self, object: &Object) -> Value {
        let mut schema = self.object(object.keys, object.required);
        if object.required.is_empty() {
            schema["minProperties"] = json!(1);
        }
        schema
    }
}

/// A definition's name.
fn name(def: Def) -> &'static str {
    match def {
        Def::Text => "text",
        Def::Id => "id",
        Def::Name => "name",
        Def::Flag => "flag",
        Def::Span => "span",
        Def::Elapsed => "elapsed",
        Def::Tolerance => "tolerance",
        Def::Severity => "severity",
        Def::Owner => "owner",
        Def::Evidence => "evidence",
        Def::Anchor => "anchor",
        Def::Milestone => "milestone",
        Def::Expected => "expected",
        Def::From => "from",
        Def::Matcher => "matcher",
        Def::ExceptionMatcher => "exception_matcher",
        Def::Test => "test",
        Def::Scalar => "scalar",
        Def::Moment => "moment",
        Def::Date => "date",
        Def::FactType => "fact_type",
        Def::FactName => "fact_name",
        Def::GroupFact => "group_fact",
        Def::ExceptionFact => "exception_fact",
        Def::Pick => "pick",
        Def::Mode => "mode",
        Def::Calendar => "calendar",
        Def::Day => "day",
        Def::Hours => "hours",
        Def::Country => "country",
        Def::Clock => "clock",
        Def::Address => "address",
        Def::Url => "url",
        Def::HttpUrl => "http_url",
        Def::TemplateFile => "template_file",
        Def::Secret => "secret",
        Def::Number => "number",
        Def::Rule => "rule",
        Def::Override => "override",
        Def::Stage => "stage",
        Def::DeclaredFact => "declared_fact",
        Def::Receiver => "receiver",
        Def::Policy => "policy",
        Def::Step => "step",
        Def::CalendarOf => "calendar_entry",
        Def::Inhibit => "inhibit",
        Def::Mute => "mute",
        Def::OwnerRoute => "owner_route",
    }
}
