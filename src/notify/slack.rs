//! Slack by an incoming webhook: the body as blocks (`reference/alerting.md` §4.5).
//!
//! What is over a limit makes Slack refuse the whole message, so characters and blocks are counted before: at most 50
//! blocks, 3,000 characters in one, and a hidden bound on all of about 13,000. Slack has no key of idempotency: after a crash
//! between its yes and the row's mark a message shows twice.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};

use super::body::{Body, Listed};
use super::mail::{self, Links, Mail};
use super::templated;
use super::webhook::{Target, WebhookClient, WebhookError};
use super::{Delivery, Message, Notifier, one_line};
use crate::model::grouped;
use crate::rules::template::Templates;

/// Blocks for exceptions: with heading, introduction and end under Slack's 50.
const MAX_BLOCKS: usize = 40;
/// Characters of one exception.
const MAX_BLOCK: usize = 1_000;
/// Characters of all exceptions together, under the bound that Slack does not document.
const MAX_ALL: usize = 9_000;
/// Of a heading (`plain_text` of a header block).
const MAX_HEAD: usize = 150;

/// A channel.
pub struct Slack {
    target: Target,
    templates: Templates,
}

impl Slack {
    /// A channel behind this incoming webhook.
    ///
    /// # Errors
    /// Where the URL is not one to call; the text does not hold it.
    pub fn new(client: &WebhookClient, url: &str) -> Result<Slack, WebhookError> {
        Ok(Slack { target: Target::new(client, url)?, templates: Templates::default() })
    }

    /// The same with texts of its own.
    #[must_use]
    pub fn with_templates(self, templates: Templates) -> Slack {
        Slack { templates, ..self }
    }

    async fn send(&self, message: &Message, now_ms: i64) -> Delivery {
        let (payload, plain) = match Body::read(&message.body) {
            Ok(body) => match templated::own(self.templates.text.as_ref(), message.into()) {
                None => (payload(&body, &message.receiver), None),
                Some(Ok(text)) => (own(&text), None),
                Some(Err(why)) => {
                    let mut payload = payload(&body, &message.receiver);
                    if let Some(blocks) = payload["blocks"].as_array_mut() {
                        blocks.push(context(&escape(&templated::note(&why))));
                    }
                    (payload, Some(why))
                }
            },
            Err(error) => (
                json!({"text": escape(&format!("{}: see the API for this message", one_line(&message.subject)))}),
                Some(format!("the body cannot be read: {error}")),
            ),
        };
        match (self.target.post(&[], payload.to_string(), now_ms).await, plain) {
            (Err(failure), _) => Delivery::Failed(failure),
            (Ok(()), None) => Delivery::Delivered,
            (Ok(()), Some(why)) => Delivery::DeliveredPlain(why),
        }
    }
}

impl Notifier for Slack {
    fn deliver<'a>(&'a self, message: &'a Message, now_ms: i64) -> BoxFuture<'a, Delivery> {
        self.send(message, now_ms).boxed()
    }

    fn limit(&self) -> Duration {
        self.target.limit()
    }
}

/// What is posted.
fn payload(body: &Body, receiver: &str) -> Value {
    let mail = Mail { body, receiver, links: Links::default() };
    let data = &body.data;
    let headline = mail.headline();
    let shared = mail.title();
    let mut intro: Vec<String> = shared.iter().map(|title| format!("*{}*", escape(title))).collect();
    intro.extend([mail.group(), mail.why()].iter().filter(|l| !l.is_empty()).map(|l| escape(l)));
    intro.extend(data.summary.iter().map(|line| escape(&one_line(line))));
    let mut blocks = vec![
        json!({"type": "header", "text": {"type": "plain_text", "text": cut(&headline, MAX_HEAD), "emoji": false}}),
        section(&cut(&intro.join("\n"), 3 * MAX_BLOCK - 1)),
    ];
    let (mut listed, mut characters) = (0, 0);
    for e in data.exceptions.iter().take(MAX_BLOCKS) {
        let text = cut(&exception(&mail, e, shared.is_none()), MAX_BLOCK);
        characters += text.chars().count();
        if characters > MAX_ALL {
            break;
        }
        blocks.push(section(&text));
        listed += 1;
    }
    let left = data.truncated + (data.exceptions.len() - listed) as u64;
    let mut end = format!("parcelwatch, receiver {}", escape(&one_line(receiver)));
    if left > 0 {
        end = format!("and {} more that this message does not list · {end}", grouped(left));
    }
    blocks.push(context(&end));
    // `text` is what a notification of the phone shows.
    json!({"text": escape(&headline), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

/// A text of one's own in as many blocks as it takes: no line is cut in two unless it is longer than a block.
fn own(text: &str) -> Value {
    let mut blocks: Vec<String> = Vec::new();
    let mut left = MAX_ALL;
    for line in text.trim_end().lines() {
        let line = cut(line, left.min(3 * MAX_BLOCK - 1));
        let length = line.chars().count() + 1;
        match blocks.last_mut() {
            Some(block) if block.chars().count() + length < 3 * MAX_BLOCK => {
                block.push('\n');
                block.push_str(&line);
            }
            _ => blocks.push(line),
        }
        left = left.saturating_sub(length);
        if left == 0 {
            break;
        }
    }
    let head = text.lines().find(|l| !l.trim().is_empty()).unwrap_or_default();
    let blocks: Vec<Value> =
        blocks.iter().map(|b| section(if b.trim().is_empty() { " " } else { b })).collect();
    json!({"text": cut(head, MAX_HEAD), "blocks": blocks, "unfurl_links": false, "unfurl_media": false})
}

fn context(text: &str) -> Value {
    json!({"type": "context", "elements": [{"type": "mrkdwn", "text": text}]})
}

fn section(text: &str) -> Value {
    json!({"type": "section", "text": {"type": "mrkdwn", "text": if text.is_empty() { " " } else { text }, "verbatim": true}})
}

fn exception(mail: &Mail<'_>, e: &Listed, with_title: bool) -> String {
    let mut lines = vec![format!(
        "*{}*  `{}`  {}",
        mail::mark(e),
        escape(&one_line(&e.parcel_id)).replace('`', "'"),
        escape(&mail::status(e))
    )];
    let title = if with_title { mail::title(e) } else { String::new() };
    let last = mail::last(e);
    let heard = if last.is_empty() { last } else { format!("last: {last}") };
    for line in [title, mail::owner(e), mail::ids(e), heard, mail.facts(e)] {
        if !line.is_empty() {
            lines.push(escape(&line));
        }
    }
    match e.runbook.as_deref() {
        Some(url) if url.starts_with("https://") && !url.contains(['|', '>', ' ']) => {
            lines.push(format!("<{}|runbook>", url.replace('&', "&amp;")));
        }
        Some(text) => lines.push(format!("runbook: {}", escape(&one_line(text)))),
        None => {}
    }
    lines.join("\n")
}

/// Slack's three characters; so a parcel's id can name no user and no channel.
fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// At most `most` characters, never in the middle of an escape.
fn cut(text: &str, most: usize) -> String {
    if text.chars().count() <= most {
        return text.to_owned();
    }
    let mut short: String = text.chars().take(most - 1).collect();
    if let Some(at) = short.rfind('&').filter(|at| !short[*at..].contains(';') && short.len() - at < 6) {
        short.truncate(at);
    }
    short.push('…');
    short
}

#[cfg(test)]
#[path = "slack_tests.rs"]
mod tests;
