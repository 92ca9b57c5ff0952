//! Tests of receivers and previews of messages, from the listener to the cases.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::desk::who;
use super::ports::{Api, unavailable};
use crate::cases::{Deed, OutboxRow};
use crate::escalation::body::{self, Own};
use crate::escalation::{Case, State, id_of, policy_of};
use crate::http::ports::{ApiError, Operator};
use crate::http::receivers::{Format, Receivers};
use crate::notify::templated::{Words, preview};
use crate::rules::Policies;
use crate::rules::policies::Receiver;

impl Receivers for Api {
    fn test<'a>(
        &'a self,
        receiver: &'a str,
        dry_run: bool,
        by: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move {
            let policies = self.policies.borrow().clone();
            let Some(receiver) = policies.receiver(receiver) else { return Ok(None) };
            let now = self.clock.now_ms();
            let rows = tests(receiver, by, now);
            if !dry_run {
                if self.dry_run {
                    let why = "the daemon runs with --dry-run and sends nothing; ask for what would be sent (dry_run)";
                    return Err(ApiError::Invalid(why.to_owned()));
                }
                let object = format!("receiver {}", receiver.id);
                let ids: Vec<&str> = rows.iter().map(|r| r.id.as_str()).collect();
                let detail = json!({ "messages": ids });
                let deed = Deed { who: who(by), action: "test", object: &object, detail: &detail, at_ms: now };
                self.cases.outbox_test(&rows, &deed).await.map_err(unavailable)?;
            }
            let messages: Vec<Value> = rows.iter().map(|row| shown(row, receiver)).collect();
            Ok(Some(json!({"receiver": receiver.id, "dry_run": dry_run, "messages": messages})))
        }
        .boxed()
    }

    fn preview<'a>(
        &'a self,
        exception_id: &'a str,
        receiver: Option<&'a str>,
        format: Format,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move {
            let policies = self.policies.borrow().clone();
            if let Some(id) = receiver
                && policies.receiver(id).is_none()
            {
                let all: Vec<&str> = policies.receivers.iter().map(|r| r.id.as_str()).collect();
                let why = format!("there is no receiver {id:?} in the policies in force: {}", all.join(", "));
                return Err(ApiError::Invalid(why));
            }
            let to = |case: &Case| receiver.map_or_else(|| first_told(&policies, case), str::to_owned);
            let now = self.clock.now_ms();
            let found = self.cases.preview(exception_id, &to, self.public_url.as_deref(), now).await;
            let Some(found) = found.map_err(unavailable)? else { return Ok(None) };
            let body: Value = serde_json::from_str(&found.body).unwrap_or_default();
            let to = body["data"]["receiver"].as_str().unwrap_or_default();
            let mut subject = found.subject.clone();
            let thread = body["data"]["group_id"].as_str().unwrap_or_default();
            let words = Words { receiver: to, subject: &found.subject, body: &found.body, thread };
            let receiver = policies.receiver(to);
            let (integration, templates) =
                receiver.map(|r| (r.kind.integration(), r.templates.clone())).unwrap_or_default();
            let written = preview(integration, &templates, words);
            let content = match format {
                Format::Json => found.body.clone(),
                Format::Text | Format::Html => {
                    let written = written.map_err(|e| {
                        ApiError::Unavailable(format!("the message of {exception_id} cannot be read: {e}"))
                    })?;
                    subject = written.subject;
                    // A mail of a text alone has no HTML to show.
                    if format == Format::Text { written.text } else { written.html.unwrap_or(written.text) }
                }
            };
            Ok(Some(json!({"receiver": to, "subject": subject, "content": content})))
        }
        .boxed()
    }
}

/// The first whom the exception's policy tells: a receiver, or `owner`.
fn first_told(policies: &Policies, case: &Case) -> String {
    let policy = policy_of(policies, Some(&case.body.policy));
    let first = policy.and_then(|p| p.steps.first()).and_then(|step| step.notify.first());
    first.cloned().unwrap_or_default()
}

/// A message to each recipient, in a thread of its own: nothing that waits holds it up.
fn tests(receiver: &Receiver, by: &Operator, now: i64) -> Vec<OutboxRow> {
    let mut summary = vec![format!("A test of the receiver {}, asked for by {}.", receiver.id, by.by)];
    summary.extend(Some(by.comment.clone()).filter(|c| !c.is_empty()));
    let of = |recipient: String| {
        let id = id_of(&["test", &receiver.id, &recipient, &by.by, &now.to_string()]);
        let body = body::own(&Own {
            kind: "test",
            reason: "test",
            id: &id,
            receiver: &receiver.id,
            thread: &id,
            state: State::Open,
            summary: &summary,
            now,
        });
        OutboxRow {
            thread: id.clone(),
            id,
            receiver: receiver.id.clone(),
            integration: receiver.kind.integration().to_owned(),
            recipient,
            kind: "test".to_owned(),
            subject: format!("[parcelwatch] test of {}", receiver.id),
            body: body.to_string(),
            attempts: 0,
            created_ms: now,
            due_ms: now,
        }
    };
    receiver.kind.recipients().into_iter().map(of).collect()
}

fn shown(row: &OutboxRow, receiver: &Receiver) -> Value {
    let words =
        Words { receiver: &row.receiver, subject: &row.subject, body: &row.body, thread: &row.thread };
    let written = preview(&row.integration, &receiver.templates, words).ok();
    let has_text = row.integration == "email" || receiver.templates.text.is_some();
    json!({
        "id": row.id, "integration": row.integration, "recipient": row.recipient,
        "subject": written.as_ref().map_or(&row.subject, |w| &w.subject),
        "text": written.as_ref().filter(|_| has_text).map(|w| &w.text),
        "body": serde_json::from_str::<Value>(&row.body).unwrap_or_default(),
    })
}
