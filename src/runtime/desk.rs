//! What operators do, from the listener to the cases.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::ports::{Api, unavailable};
use crate::cases::{self, Act, Who};
use crate::http::ports::{Acted, Action, ApiError, Operator};
use crate::http::silences::{Desk, NewSilence};
use crate::rules::condition::Condition;

pub(super) const fn act(action: Action) -> Act {
    match action {
        Action::Acknowledge => Act::Acknowledge,
        Action::Unacknowledge => Act::Unacknowledge,
        Action::Resolve => Act::Resolve,
    }
}

pub(super) fn who(operator: &Operator) -> Who<'_> {
    Who { by: &operator.by, comment: &operator.comment, via: operator.via.as_deref().unwrap_or("") }
}

pub(super) const fn acted(acted: cases::Acted) -> Acted {
    match acted {
        cases::Acted::Done => Acted::Done,
        cases::Acted::Already => Acted::Already,
        cases::Acted::Resolved => Acted::Resolved,
        cases::Acted::CommentNeeded => Acted::CommentNeeded,
        cases::Acted::NotFound => Acted::NotFound,
    }
}

impl Desk for Api {
    fn silences(&self, ended_too: bool) -> BoxFuture<'_, Result<Vec<Value>, ApiError>> {
        async move { self.cases.silences(ended_too, self.clock.now_ms()).await.map_err(unavailable) }.boxed()
    }

    fn feeds(&self) -> BoxFuture<'_, Result<Vec<Value>, ApiError>> {
        async move { self.cases.feeds().await.map_err(unavailable) }.boxed()
    }

    fn reach<'a>(&'a self, on: &'a Condition) -> BoxFuture<'a, Result<(u64, u64), ApiError>> {
        async move {
            let reach = self.cases.reach(on).await.map_err(unavailable)?;
            Ok((reach.matching, reach.standing))
        }
        .boxed()
    }

    fn silence<'a>(
        &'a self,
        new: &'a NewSilence,
        operator: &'a Operator,
    ) -> BoxFuture<'a, Result<Value, ApiError>> {
        async move {
            let new = cases::NewSilence {
                matchers: new.matchers.clone(),
                on: new.on.clone(),
                starts_ms: new.starts_ms,
                ends_ms: new.ends_ms,
                by: operator.by.clone(),
                comment: operator.comment.clone(),
                via: operator.via.clone().unwrap_or_default(),
            };
            self.cases.silence(&new, self.clock.now_ms()).await.map_err(unavailable)
        }
        .boxed()
    }

    fn end_silence<'a>(
        &'a self,
        number: i64,
        operator: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move {
            self.cases.end_silence(number, &who(operator), self.clock.now_ms()).await.map_err(unavailable)
        }
        .boxed()
    }

    fn act_on_group<'a>(
        &'a self,
        action: Action,
        group: &'a str,
        operator: &'a Operator,
    ) -> BoxFuture<'a, Result<Option<(usize, usize, Acted)>, ApiError>> {
        async move {
            let now = self.clock.now_ms();
            let done = self.cases.act_on_group(act(action), group, &who(operator), now).await;
            let done = done.map_err(unavailable)?;
            Ok(done.map(|(group, met)| (group.members, group.done, acted(met))))
        }
        .boxed()
    }

    fn audit(&self, after: i64, limit: u32) -> BoxFuture<'_, Result<Vec<Value>, ApiError>> {
        async move { self.cases.audit(after, limit).await.map_err(unavailable) }.boxed()
    }
}
