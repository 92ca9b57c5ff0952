//! Cases behind the ports of delivery and HTTP: each of those names its own, so that neither knows the database.

use std::sync::Arc;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::{Value, json};
use tokio::sync::{Notify, watch};

use super::clock::WallClock;
use super::desk;
use super::dispatcher::{Outbox, OutboxError, Outcome};
use crate::cases::{self, Cases, CasesError};
use crate::http::ports::{
    Acted, Action, ApiError, CasesApi, Filter, LinkedMessage, Operator, Page, StateFilter,
};
use crate::http::silences::Desk;
use crate::model::Time;
use crate::notify::{Message, Stated};
use crate::rules::Policies;

impl Outbox for Cases {
    async fn due(
        &self,
        receiver: &str,
        now: i64,
        limit: u32,
        lease: i64,
    ) -> Result<Vec<Message>, OutboxError> {
        if !self.leads() {
            return Ok(Vec::new());
        }
        let rows = self.outbox_due(receiver, now, limit, lease).await.map_err(outbox_error)?;
        let mut messages: Vec<Message> = rows.into_iter().map(message).collect();
        for m in messages.iter_mut().filter(|m| m.integration == "pagerduty") {
            m.standing = self.told_standing(receiver, &m.recipient, &m.thread).await.map_err(outbox_error)?;
        }
        Ok(messages)
    }

    async fn standing(
        &self,
        to: (&str, &str),
        after: i64,
        limit: u32,
        now_ms: i64,
    ) -> Result<Vec<(i64, Stated)>, OutboxError> {
        if !self.leads() {
            return Ok(Vec::new());
        }
        let told = self.told_of(to, after, limit, None, now_ms).await.map_err(outbox_error)?;
        Ok(told.into_iter().map(|(number, group, listed)| (number, Stated { group, listed })).collect())
    }

    async fn next(&self, receiver: &str) -> Result<Option<i64>, OutboxError> {
        if !self.leads() {
            return Ok(None);
        }
        self.outbox_next(receiver).await.map_err(outbox_error)
    }

    async fn done(&self, ended: &[(String, Outcome)], now_ms: i64) -> Result<(), OutboxError> {
        let ours = |outcome: &Outcome| match outcome.clone() {
            Outcome::Delivered => cases::Outcome::Delivered,
            Outcome::Retry { at_ms, reason, detail } => {
                cases::Outcome::Retry { at_ms, reason: reason.to_owned(), detail }
            }
            Outcome::Dead { reason, detail } => cases::Outcome::Dead { reason: reason.to_owned(), detail },
        };
        let ended = ended.iter().map(|(id, outcome)| (id.clone(), ours(outcome))).collect();
        self.outbox_all_done(ended, now_ms).await.map_err(outbox_error)
    }

    fn filled(&self) -> Arc<Notify> {
        self.outbox_filled()
    }
}

fn outbox_error(error: CasesError) -> OutboxError {
    OutboxError(error.to_string())
}

fn message(row: cases::OutboxRow) -> Message {
    Message {
        id: row.id,
        receiver: row.receiver,
        integration: row.integration,
        recipient: row.recipient,
        kind: row.kind,
        subject: row.subject,
        body: row.body,
        thread: row.thread,
        attempts: row.attempts,
        created_ms: row.created_ms,
        due_ms: row.due_ms,
        standing: 0,
    }
}

/// Cases as the API sees them.
#[derive(Clone)]
pub struct Api {
    /// The database.
    pub cases: Cases,
    /// What time it is.
    pub clock: Arc<dyn WallClock>,
    /// The policies in force.
    pub policies: watch::Receiver<Arc<Policies>>,
    /// Where the listener is reached from outside, for what shows its address.
    pub public_url: Option<String>,
    /// The daemon sends nothing.
    pub dry_run: bool,
}

impl CasesApi for Api {
    fn exceptions<'a>(
        &'a self,
        filter: &'a Filter,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        async move {
            check_cursor(cursor)?;
            let filter = cases::Filter {
                state: match filter.state {
                    StateFilter::Standing => cases::StateFilter::Standing,
                    StateFilter::Open => cases::StateFilter::Open,
                    StateFilter::Acknowledged => cases::StateFilter::Acknowledged,
                    StateFilter::Resolved => cases::StateFilter::Resolved,
                    StateFilter::All => cases::StateFilter::All,
                },
                rule: filter.rule.clone(),
                parcel_id: filter.parcel_id.clone(),
                owner: filter.owner.clone(),
                severity: filter.severity,
                order_id: filter.order_id.clone(),
                group_id: filter.group_id.clone(),
            };
            let now = self.clock.now_ms();
            self.cases.exceptions(&filter, limit, cursor, now).await.map(page).map_err(unavailable)
        }
        .boxed()
    }

    fn rules_loads(&self, limit: u32) -> BoxFuture<'_, Result<Vec<Value>, ApiError>> {
        async move {
            let loads = self.cases.rules_loads(limit).await.map_err(unavailable)?;
            let shown = |l: cases::RulesLoad| {
                json!({
                    "rules": l.rules_hash, "policies": l.policies_hash, "by": l.by, "at": Time(l.at_ms).to_string(),
                })
            };
            Ok(loads.into_iter().map(shown).collect())
        }
        .boxed()
    }

    fn rules_texts<'a>(&'a self, hash: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move {
            let found = self.cases.texts_of(hash).await.map_err(unavailable)?;
            Ok(found.map(|(hash, files)| json!({"hash": hash, "files": files})))
        }
        .boxed()
    }

    fn exception<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move { self.cases.exception(id, self.clock.now_ms()).await.map_err(unavailable) }.boxed()
    }

    fn notifications<'a>(
        &'a self,
        exception_id: Option<&'a str>,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        async move {
            check_cursor(cursor)?;
            self.cases.notifications(exception_id, limit, cursor).await.map(page).map_err(unavailable)
        }
        .boxed()
    }

    fn act<'a>(
        &'a self,
        action: Action,
        id: &'a str,
        who: &'a Operator,
    ) -> BoxFuture<'a, Result<Acted, ApiError>> {
        async move {
            let acted = self.cases.act(desk::act(action), id, &desk::who(who), self.clock.now_ms()).await;
            acted.map(desk::acted).map_err(unavailable)
        }
        .boxed()
    }

    fn desk(&self) -> Option<&dyn Desk> {
        Some(self)
    }

    fn receivers(&self) -> Option<&dyn crate::http::receivers::Receivers> {
        Some(self)
    }

    fn outbox(&self) -> Option<&dyn crate::http::outbox::Outbox> {
        Some(self)
    }

    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<LinkedMessage>, ApiError>> {
        async move {
            let row = self.cases.outbox_message(id).await.map_err(unavailable)?;
            Ok(row.map(|r| LinkedMessage { recipient: r.recipient, subject: r.subject, body: r.body }))
        }
        .boxed()
    }
}

/// Cases take any cursor, and begin at the start where it is none; whoever asks should know that it is none.
pub(super) fn check_cursor(cursor: Option<&str>) -> Result<(), ApiError> {
    match cursor {
        Some(c) if c.parse::<i64>().is_err() => {
            Err(ApiError::Invalid("the cursor is not one that a list gave".to_owned()))
        }
        _ => Ok(()),
    }
}

pub(super) fn page(page: cases::Page) -> Page {
    Page { items: page.items, next_cursor: page.next_cursor }
}

pub(super) fn unavailable(error: CasesError) -> ApiError {
    ApiError::Unavailable(error.to_string())
}
