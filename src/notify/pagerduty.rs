//! PagerDuty by Events v2: one incident for each receiver and group, resolved when nothing of it stands
//! (`reference/alerting.md` §4.6).
//!
//! `dedup_key` is derived from receiver and group, not from the row: the resolve has to name the incident that the trigger
//! opened. Whether something stands is asked when a message is taken to be sent ([`Message::standing`]), since other
//! members of the group may have opened or ended after it was written; a partial resolve is therefore no event at all.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::body::{Body, Listed};
use super::mail::{self, Links, Mail};
use super::templated;
use super::webhook::{Target, WebhookClient, WebhookError};
use super::{Delivery, Failure, FailureClass, Message, Notifier, Scope, one_line};
use crate::model::Severity;
use crate::rules::template::Templates;

/// Where events go unless the receiver names another place.
pub const ENQUEUE: &str = "https://events.pagerduty.com/v2/enqueue";
/// Characters of a summary.
const MAX_SUMMARY: usize = 1_024;
/// Exceptions named in `custom_details`; an event may have 512 kB.
const MAX_DETAILS: usize = 20;

/// A service of PagerDuty.
pub struct PagerDuty {
    target: Target,
    routing_key: String,
    templates: Templates,
}

impl PagerDuty {
    /// The service behind this integration key.
    ///
    /// # Errors
    /// Where the URL is not one to call.
    pub fn new(
        client: &WebhookClient,
        url: Option<&str>,
        routing_key: &str,
    ) -> Result<PagerDuty, WebhookError> {
        let target = Target::new(client, url.unwrap_or(ENQUEUE))?;
        Ok(PagerDuty { target, routing_key: routing_key.trim().to_owned(), templates: Templates::default() })
    }

    /// The same with titles of its own.
    #[must_use]
    pub fn with_templates(self, templates: Templates) -> PagerDuty {
        PagerDuty { templates, ..self }
    }

    async fn send(&self, message: &Message, now_ms: i64) -> Delivery {
        let body = match Body::read(&message.body) {
            Ok(body) => body,
            Err(error) => {
                let text = format!("the body cannot be read: {error}");
                return Delivery::Failed(Failure::new(FailureClass::Permanent, Scope::Message, text));
            }
        };
        let Some(mut event) = event(&self.routing_key, message, &body) else { return Delivery::Delivered };
        let failed = self.title(&mut event, message);
        match self.target.post(&[], event.to_string(), now_ms).await {
            Err(failure) => Delivery::Failed(failure),
            Ok(()) => failed.map_or(Delivery::Delivered, Delivery::DeliveredPlain),
        }
    }
}

impl PagerDuty {
    /// Puts in the title of one's own; the reason where there should be one and is not.
    fn title(&self, event: &mut Value, message: &Message) -> Option<String> {
        // A resolve has no title.
        let payload = event.get_mut("payload")?;
        match templated::own(self.templates.summary.as_ref(), message.into())? {
            Ok(summary) => {
                payload["summary"] = summary.into();
                None
            }
            Err(why) => {
                payload["custom_details"]["template_failed"] = templated::note(&why).into();
                Some(why)
            }
        }
    }
}

impl Notifier for PagerDuty {
    fn deliver<'a>(&'a self, message: &'a Message, now_ms: i64) -> BoxFuture<'a, Delivery> {
        self.send(message, now_ms).boxed()
    }

    fn limit(&self) -> Duration {
        self.target.limit()
    }
}

/// The same for every message about a group to a receiver; 255 characters are allowed.
fn dedup_key(message: &Message) -> String {
    let hash = Sha256::new()
        .chain_update(&message.receiver)
        .chain_update([0])
        .chain_update(&message.thread)
        .finalize();
    let hex: String = hash[..20].iter().map(|b| format!("{b:02x}")).collect();
    format!("parcelwatch-{hex}")
}

/// What is posted; `None`: some of the group ended and others stand, which is no news of the incident.
fn event(routing_key: &str, message: &Message, body: &Body) -> Option<Value> {
    let data = &body.data;
    let dedup_key = dedup_key(message);
    if data.reason == "resolved" {
        let end = json!({"routing_key": routing_key, "event_action": "resolve", "dedup_key": dedup_key});
        return (message.standing == 0).then_some(end);
    }
    let mail = Mail { body, receiver: &message.receiver, links: Links::default() };
    let severity = match mail.worst() {
        Some(Severity::Critical) => "critical",
        Some(Severity::High) => "error",
        Some(Severity::Warning) => "warning",
        Some(Severity::Info) => "info",
        // Of our own: a test, or that escalation stands still.
        None if data.reason == "test" => "info",
        None => "error",
    };
    let what = mail.title().unwrap_or_else(|| one_line(&message.subject));
    let group = mail.group();
    let summary = [what.as_str(), group.as_str(), &mail.headline()]
        .into_iter()
        .filter(|p| !p.is_empty())
        .collect::<Vec<_>>()
        .join(" · ");
    let named: Vec<Value> = data.exceptions.iter().take(MAX_DETAILS).map(|e| detail(&mail, e)).collect();
    let left = data.truncated + (data.exceptions.len() - named.len()) as u64;
    let mut event = json!({
        "routing_key": routing_key,
        "event_action": "trigger",
        "dedup_key": dedup_key,
        "client": "parcelwatch",
        "payload": {
            "summary": summary.chars().take(MAX_SUMMARY).collect::<String>(),
            "source": "parcelwatch",
            "severity": severity,
            "timestamp": body.timestamp.map(|t| t.to_string()),
            "group": mail.group().chars().take(200).collect::<String>(),
            "class": data.exceptions.first().map_or("parcelwatch", |e| e.rule.as_str()),
            "custom_details": {
                "why": mail.why(),
                "counts": {"open": data.counts.open, "acknowledged": data.counts.acknowledged, "resolved": data.counts.resolved},
                "summary": data.summary,
                "exceptions": named,
                "not_listed": left,
            },
        },
    });
    let runbook =
        data.exceptions.iter().find_map(|e| e.runbook.as_deref()).filter(|r| r.starts_with("https://"));
    if let Some(runbook) = runbook {
        event["links"] = json!([{"href": runbook, "text": "runbook"}]);
    }
    Some(event)
}

fn detail(mail: &Mail<'_>, e: &Listed) -> Value {
    json!({
        "exception_id": e.exception_id,
        "parcel_id": e.parcel_id,
        "severity": e.severity,
        "rule": e.rule,
        "title": mail::title(e),
        "status": mail::status(e),
        "owner": e.owner,
        "last": mail::last(e),
        "facts": mail.facts(e),
    })
}

#[cfg(test)]
#[path = "pagerduty_tests.rs"]
mod tests;
