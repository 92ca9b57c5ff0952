//! Alertmanager by its API v2: one alert for each exception (`reference/alerting.md` §4.7).
//!
//! Alertmanager is no inbox but a lease: an alert that is not stated again ends by itself, and it would tell so. So what
//! stands is stated anew every minute ([`Notifier::restate`]) and good for [`LEASE`], which covers a restart of ours. What
//! ended is stated as ended for a while too, since an Alertmanager that was restarted knows nothing.
//!
//! An alert is its labels. They are what an exception keeps for life (rule, parcel, episode, group) and its severity: a raise
//! ends the old alert in the same post that begins the new one. All else is an annotation.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Map, Value, json};

use super::body::{Body, Listed};
use super::mail::{self, Links, Mail};
use super::webhook::{Target, WebhookClient, WebhookError};
use super::{Delivery, Failure, FailureClass, Message, Notifier, Scope, Stated, one_line};
use crate::model::{MINUTE, Severity, Time};

/// How long an alert is good for, milliseconds: many rounds, so that neither a lost one nor a restart of ours looks like the
/// end of the trouble.
pub const LEASE: i64 = 15 * MINUTE;
/// How long what ended is still stated (Prometheus: 15 minutes).
const ENDED_FOR: i64 = 15 * MINUTE;
/// Alerts in one post: small, since a bad one among them makes the answer 400.
const MAX_POSTED: usize = 100;
/// Ended alerts that are remembered.
const MAX_ENDED: usize = 10_000;

/// One or several Alertmanagers.
pub struct Alertmanager {
    /// By recipient: its base URL as written.
    targets: BTreeMap<String, Target>,
    memory: Mutex<Memory>,
}

/// What was stated lately. Lost with the process: then an alert that a raise replaced ends with its lease.
#[derive(Default)]
struct Memory {
    /// By (recipient, exception id): the severity its alert has.
    severity: BTreeMap<(String, String), String>,
    /// (Until when to state it, recipient, alert.)
    ended: VecDeque<(i64, String, Value)>,
}

impl Alertmanager {
    /// The Alertmanagers at these base URLs.
    ///
    /// # Errors
    /// Where a URL is not one to call.
    pub fn new(client: &WebhookClient, urls: &[String]) -> Result<Alertmanager, WebhookError> {
        let target = |url: &String| {
            let api = format!("{}/api/v2/alerts", url.trim_end_matches('/'));
            Ok((url.clone(), Target::new(client, &api)?))
        };
        let targets = urls.iter().map(target).collect::<Result<_, WebhookError>>()?;
        Ok(Alertmanager { targets, memory: Mutex::default() })
    }

    fn target(&self, recipient: &str) -> Result<&Target, Failure> {
        self.targets.get(recipient).ok_or_else(|| {
            let text = "this Alertmanager is no longer one of the receiver's";
            Failure::new(FailureClass::Permanent, Scope::Message, text)
        })
    }

    async fn send(&self, message: &Message, now_ms: i64) -> Result<(), Failure> {
        let body = Body::read(&message.body).map_err(|error| {
            let text = format!("the body cannot be read: {error}");
            Failure::new(FailureClass::Permanent, Scope::Message, text)
        })?;
        let target = self.target(&message.recipient)?;
        let group: Map<String, Value> = body.data.group.clone().into_iter().collect();
        let mut alerts = Vec::new();
        for e in &body.data.exceptions {
            alerts.extend(self.alerts(&message.recipient, e, &group, now_ms));
        }
        // A digest lists the worst of what it counts; those it tells nothing of are stated with the next round.
        if alerts.is_empty() {
            alerts.push(notice(message, &body, now_ms));
        }
        post(target, &alerts, now_ms).await?;
        for e in &body.data.exceptions {
            self.remember(&message.recipient, e, &group, now_ms);
        }
        Ok(())
    }

    /// The alert of an exception, before it the one that it replaces.
    fn alerts(&self, recipient: &str, e: &Listed, group: &Map<String, Value>, now_ms: i64) -> Vec<Value> {
        let before = self.lock().severity.get(&(recipient.to_owned(), e.exception_id.clone())).cloned();
        let replaced = before.filter(|severity| *severity != e.severity && e.change != "resolved");
        let mut alerts: Vec<Value> =
            replaced.iter().map(|severity| alert(e, group, severity, now_ms, Some(now_ms))).collect();
        let ends = (e.change == "resolved").then(|| e.at.map_or(now_ms, |at| at.0.min(now_ms)));
        alerts.push(alert(e, group, &e.severity, now_ms, ends));
        alerts
    }

    /// Keeps what was stated.
    fn remember(&self, recipient: &str, e: &Listed, group: &Map<String, Value>, now_ms: i64) {
        let key = (recipient.to_owned(), e.exception_id.clone());
        let mut memory = self.lock();
        if e.change == "resolved" {
            memory.severity.remove(&key);
            let ended =
                alert(e, group, &e.severity, now_ms, Some(e.at.map_or(now_ms, |at| at.0.min(now_ms))));
            memory.ended.push_back((now_ms.saturating_add(ENDED_FOR), key.0, ended));
            if memory.ended.len() > MAX_ENDED {
                memory.ended.pop_front();
            }
        } else {
            memory.severity.insert(key, e.severity.clone());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn again(&self, recipient: &str, standing: &[Stated], now_ms: i64) -> Result<(), Failure> {
        let target = self.target(recipient)?;
        let mut alerts = Vec::new();
        for stated in standing {
            // What cannot be read was written by ourselves a moment ago: there is nothing of that kind.
            let Ok(e) = serde_json::from_value::<Listed>(stated.listed.clone()) else { continue };
            alerts.extend(self.alerts(recipient, &e, &stated.group, now_ms));
            self.remember(recipient, &e, &stated.group, now_ms);
        }
        if standing.is_empty() {
            let mut memory = self.lock();
            memory.ended.retain(|(until, ..)| *until > now_ms);
            let of = memory.ended.iter().filter(|(_, to, _)| to == recipient);
            alerts.extend(of.map(|(.., alert)| alert.clone()));
        }
        for some in alerts.chunks(MAX_POSTED) {
            post(target, some, now_ms).await?;
        }
        Ok(())
    }
}

impl Notifier for Alertmanager {
    fn deliver<'a>(&'a self, message: &'a Message, now_ms: i64) -> BoxFuture<'a, Delivery> {
        let sent = self.send(message, now_ms);
        async { sent.await.map_or_else(Delivery::Failed, |()| Delivery::Delivered) }.boxed()
    }

    fn limit(&self) -> Duration {
        // A post that was refused is tried alert by alert.
        self.targets.values().map(Target::limit).max().unwrap_or_default() * 3
    }

    fn forgets(&self) -> bool {
        true
    }

    fn restate<'a>(
        &'a self,
        recipient: &'a str,
        standing: &'a [Stated],
        now_ms: i64,
    ) -> BoxFuture<'a, Result<(), Failure>> {
        self.again(recipient, standing, now_ms).boxed()
    }
}

/// Posts alerts. An answer of 400 may mean one bad alert among good ones, which are taken all the same: then each is posted
/// alone, and only those that are refused alone are lost.
async fn post(target: &Target, alerts: &[Value], now_ms: i64) -> Result<(), Failure> {
    let refused = match target.post(&[], Value::from(alerts).to_string(), now_ms).await {
        Err(failure) if failure.class == FailureClass::Permanent && alerts.len() > 1 => failure,
        other => return other,
    };
    let mut lost = 0;
    for one in alerts {
        match target.post(&[], json!([one]).to_string(), now_ms).await {
            Err(failure) if failure.class == FailureClass::Permanent => lost += 1,
            other => other?,
        }
    }
    if lost == 0 {
        return Ok(());
    }
    let text = format!("{lost} of {} alerts were refused: {}", alerts.len(), refused.detail);
    Err(Failure::new(FailureClass::Permanent, Scope::Message, text))
}

fn alert(e: &Listed, group: &Map<String, Value>, severity: &str, now_ms: i64, ends: Option<i64>) -> Value {
    let mut labels = BTreeMap::new();
    for (name, value) in group {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        // Labels without a value are dropped by Alertmanager; the severity of the group is that of its opening.
        if !value.is_null() && !text.is_empty() && name != "severity" {
            labels.insert(label_name(name), one_line(&text));
        }
    }
    for (name, value) in [
        ("alertname", e.rule.as_str()),
        ("severity", severity),
        ("parcel_id", &e.parcel_id),
        ("owner", &e.owner),
        ("exception_id", &e.exception_id),
    ] {
        if !value.is_empty() {
            labels.insert(name.to_owned(), one_line(value));
        }
    }
    let text = |value: String| Some(value).filter(|v| !v.is_empty());
    let mut notes = BTreeMap::new();
    let time = |t: Option<Time>| t.map(|t| t.to_string()).unwrap_or_default();
    for (name, value) in [
        ("summary", text(mail::title(e))),
        ("description", text(mail::status(e))),
        ("due", text(time(e.due))),
        ("last", text(mail::last(e))),
        ("ids", text(mail::ids(e))),
        ("acknowledged_by", e.acknowledged_by.as_deref().map(one_line)),
        ("runbook_url", e.runbook.as_deref().map(one_line)),
    ] {
        notes.extend(value.map(|v| (name.to_owned(), v)));
    }
    let starts = e.at.map_or(now_ms, |at| at.0.min(now_ms));
    let ends = ends.unwrap_or(now_ms + LEASE);
    json!({
        "labels": labels,
        "annotations": notes,
        "startsAt": Time(starts.min(ends)).to_string(),
        "endsAt": Time(ends).to_string(),
    })
}

/// What is about no exception: a test, a sign of life, a summary of our own. It ends with its lease.
fn notice(message: &Message, body: &Body, now_ms: i64) -> Value {
    let name = match body.data.reason.as_str() {
        "test" => "ParcelwatchTest",
        "alive" => "ParcelwatchAlive",
        _ => "ParcelwatchNotice",
    };
    let mail = Mail { body, receiver: &message.receiver, links: Links::default() };
    let mut said: Vec<String> = body.data.summary.iter().map(|line| one_line(line)).collect();
    if said.is_empty() {
        said.push(mail.headline());
    }
    let severity = if name == "ParcelwatchNotice" { Severity::High } else { Severity::Info };
    json!({
        "labels": {"alertname": name, "severity": severity.name(), "thread": message.thread},
        "annotations": {"summary": one_line(&message.subject), "description": said.join(" ")},
        "startsAt": Time(now_ms).to_string(),
        "endsAt": Time(now_ms + LEASE).to_string(),
    })
}

/// A name that every Alertmanager takes: letters, digits and `_`, no digit first.
fn label_name(name: &str) -> String {
    let clean: String = name.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).collect();
    if clean.starts_with(|c: char| c.is_ascii_digit()) { format!("_{clean}") } else { clean }
}

#[cfg(test)]
#[path = "alertmanager_tests.rs"]
mod tests;
