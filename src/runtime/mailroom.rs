//! What operators do with the outbox, from the listener to the cases.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use serde_json::Value;

use super::desk::who;
use super::ports::{Api, check_cursor, page, unavailable};
use crate::cases;
use crate::http::outbox::{DeadLetters, Handled, Outbox};
use crate::http::ports::{ApiError, Operator, Page};

fn handled(handled: cases::Handled) -> Handled {
    match handled {
        cases::Handled::Done => Handled::Done,
        cases::Handled::Unfit(state) => Handled::Unfit(state),
        cases::Handled::NotFound => Handled::NotFound,
    }
}

impl Outbox for Api {
    fn messages<'a>(
        &'a self,
        state: Option<&'a str>,
        receiver: Option<&'a str>,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Page, ApiError>> {
        async move {
            check_cursor(cursor)?;
            let listed = self.cases.outbox_list(state, receiver, limit, cursor).await;
            listed.map(page).map_err(unavailable)
        }
        .boxed()
    }

    fn message<'a>(&'a self, id: &'a str) -> BoxFuture<'a, Result<Option<Value>, ApiError>> {
        async move { self.cases.outbox_shown(id).await.map_err(unavailable) }.boxed()
    }

    fn exceptions<'a>(
        &'a self,
        id: &'a str,
        limit: u32,
        cursor: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Page>, ApiError>> {
        async move {
            check_cursor(cursor)?;
            let listed = self.cases.outbox_exceptions(id, limit, cursor).await;
            listed.map(|found| found.map(page)).map_err(unavailable)
        }
        .boxed()
    }

    fn retry<'a>(&'a self, id: &'a str, by: &'a Operator) -> BoxFuture<'a, Result<Handled, ApiError>> {
        async move {
            let done = self.cases.outbox_retry(id, &who(by), self.clock.now_ms()).await;
            done.map(handled).map_err(unavailable)
        }
        .boxed()
    }

    fn retry_all<'a>(
        &'a self,
        which: &'a DeadLetters,
        by: &'a Operator,
    ) -> BoxFuture<'a, Result<u64, ApiError>> {
        async move {
            let which = cases::Replay {
                receiver: which.receiver.clone(),
                from_ms: which.from_ms,
                to_ms: which.to_ms,
            };
            self.cases.outbox_retry_all(&which, &who(by), self.clock.now_ms()).await.map_err(unavailable)
        }
        .boxed()
    }

    fn drop_message<'a>(&'a self, id: &'a str, by: &'a Operator) -> BoxFuture<'a, Result<Handled, ApiError>> {
        async move {
            let done = self.cases.outbox_drop(id, &who(by), self.clock.now_ms()).await;
            done.map(handled).map_err(unavailable)
        }
        .boxed()
    }
}
