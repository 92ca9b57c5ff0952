//! The listener: API, acknowledge page, health, metrics (DESIGN §11).
//!
//! The only folder that names axum; maud is here and in the mail's HTML. It knows the rest through [`ports`] alone. Every
//! error is a problem detail but the page's own; every answer forbids caching; a request has a limit in size and time, a
//! connection in idleness, and there are only so many of them. Query strings are never logged: those of links are secrets.

mod ack;
mod api;
pub mod auth;
mod csv;
mod listener;
pub mod outbox;
pub mod ports;
mod problem;
pub mod receivers;
pub mod silences;

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use futures_util::FutureExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::metrics::{CONTENT_TYPE, Metrics};
use crate::notify::link::LinkKey;
use auth::{Caller, OpenListener, Token, check_listen};
use ports::{CasesApi, Daemon, ReloadError};
use problem::Problem;

const BODY_MAX: usize = 64 * 1024;
const CONNECTIONS_MAX: usize = 256;
const IDLE_MAX: Duration = Duration::from_secs(60);
const REQUEST_MAX: Duration = Duration::from_secs(30);

/// What the listener serves.
#[derive(Clone)]
pub struct Site {
    /// The daemon.
    pub daemon: Arc<dyn Daemon>,
    /// The cases.
    pub cases: Arc<dyn CasesApi>,
    /// What `/metrics` shows.
    pub metrics: Arc<Metrics>,
    /// Who may do what; empty: everybody.
    pub tokens: Vec<Token>,
    /// The key of links in mails; without it there is no acknowledge page.
    pub link_key: Option<LinkKey>,
    /// Milliseconds since 1970, for links that end.
    pub now_ms: Arc<dyn Fn() -> i64 + Send + Sync>,
}

/// Shared by all requests.
type Shared = Arc<Site>;

/// Why the listener does not start.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Reachable from elsewhere without tokens.
    #[error(transparent)]
    Open(#[from] OpenListener),
    /// The address cannot be had.
    #[error(
        "cannot listen on {address}: {error}; set http.listen to a free address, or stop what uses this one"
    )]
    Bind {
        /// `http.listen`.
        address: SocketAddr,
        /// The system's words.
        error: std::io::Error,
    },
}

/// A running listener.
pub struct Server {
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Listens on `address` (port 0: any free one) and serves `site`.
    ///
    /// # Errors
    /// [`HttpError`].
    pub async fn start(address: SocketAddr, site: Site) -> Result<Server, HttpError> {
        check_listen(address, &site.tokens)?;
        let bind = |error| HttpError::Bind { address, error };
        let listener = TcpListener::bind(address).await.map_err(bind)?;
        let bound = listener.local_addr().map_err(bind)?;
        let (stop, mut stopped) = watch::channel(false);
        let listener = listener::Bounded::new(listener, CONNECTIONS_MAX, IDLE_MAX);
        let app = router(Arc::new(site), REQUEST_MAX);
        let task = tokio::spawn(async move {
            let serving = axum::serve(listener, app).with_graceful_shutdown(async move {
                // An error says that the server was dropped: stop as well.
                let _ = stopped.wait_for(|stop| *stop).await;
            });
            if let Err(error) = serving.await {
                tracing::error!(%error, "the HTTP listener ended");
            }
        });
        Ok(Server { address: bound, stop, task })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops: requests under way may end within `within`.
    pub async fn stop(mut self, within: Duration) {
        let _ = self.stop.send(true);
        if tokio::time::timeout(within, &mut self.task).await.is_err() {
            self.task.abort();
        }
    }
}

fn router(site: Shared, request_max: Duration) -> Router {
    let guarded = api::routes()
        .merge(silences::routes())
        .merge(outbox::routes())
        .merge(receivers::routes())
        .merge(csv::routes())
        .route("/-/reload", post(reload))
        .layer(middleware::from_fn_with_state(site.clone(), auth::require));
    Router::new()
        .route("/metrics", get(metrics))
        .route("/-/healthy", get(healthy))
        .route("/-/ready", get(ready))
        .merge(guarded)
        .merge(ack::routes())
        .merge(csv::link_routes())
        .fallback(async || Problem::not_found("there is nothing here; the API is under /api/v1/"))
        .method_not_allowed_fallback(async || {
            Problem::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "this method is not offered here; the header Allow says which are",
            )
        })
        .layer(DefaultBodyLimit::max(BODY_MAX))
        .layer(middleware::from_fn_with_state((site.clone(), request_max), envelope))
        .with_state(site)
}

/// Around every request: a time limit, panics as 500, headers that every answer has, and its metrics.
async fn envelope(
    State((site, request_max)): State<(Shared, Duration)>,
    request: Request,
    next: Next,
) -> Response {
    let begun = Instant::now();
    let handler = request.extensions().get::<MatchedPath>().map_or("other", MatchedPath::as_str).to_owned();
    let method = match request.method().as_str() {
        known @ ("GET" | "HEAD" | "POST" | "PUT" | "DELETE" | "OPTIONS" | "PATCH") => known.to_owned(),
        _ => "other".to_owned(),
    };
    let answer = AssertUnwindSafe(next.run(request)).catch_unwind();
    let mut response = match tokio::time::timeout(request_max, answer).await {
        Ok(Ok(response)) => response,
        Ok(Err(_)) => {
            tracing::error!(handler, method, "a request made the program panic");
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "a fault of this program; it is in the log")
                .into_response()
        }
        Err(_) => {
            let mut detail = format!("no answer within {} s", request_max.as_secs());
            if handler == "/-/reload" {
                detail.push_str(
                    "; the reload goes on, `parcelwatch rules log` and the log say what came of it",
                );
            }
            Problem::new(StatusCode::GATEWAY_TIMEOUT, detail).into_response()
        }
    };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    let ms = i64::try_from(begun.elapsed().as_millis()).unwrap_or(i64::MAX);
    site.metrics.http_request(&handler, &method, response.status().as_u16(), ms);
    response
}

async fn metrics(State(site): State<Shared>) -> Response {
    site.daemon.before_scrape().await;
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], site.metrics.text()).into_response()
}

async fn healthy(State(site): State<Shared>) -> Response {
    told(site.daemon.healthy(), "healthy\n")
}

async fn ready(State(site): State<Shared>) -> Response {
    told(site.daemon.ready(), "ready\n")
}

fn told(state: Result<(), String>, yes: &'static str) -> Response {
    match state {
        Ok(()) => yes.into_response(),
        Err(why) => Problem::new(StatusCode::SERVICE_UNAVAILABLE, why).into_response(),
    }
}

/// `?accept=HASH`: these rules may open as much as they do.
#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct ReloadQuery {
    accept: Option<String>,
}

async fn reload(
    State(site): State<Shared>,
    Extension(caller): Extension<Caller>,
    uri: Uri,
) -> Result<Json<serde_json::Value>, Problem> {
    let query: ReloadQuery = api::query(&uri)?;
    let by = caller.0.map_or_else(|| "anybody (no tokens)".to_owned(), |name| format!("token {name}"));
    match site.daemon.reload(&by, query.accept.as_deref()).await {
        Ok(now) => Ok(Json(now)),
        Err(ReloadError::Refused(why)) => Err(Problem::new(StatusCode::UNPROCESSABLE_ENTITY, why)),
        Err(ReloadError::Brake { hash, openings, foreseen }) => {
            let detail = format!(
                "these rules would open {openings} exceptions at once, more than reload.max_openings; look at them with \
                 `parcelwatch plan`, and accept them with POST /-/reload?accept={hash} or `parcelwatch rules accept {hash}`"
            );
            let problem = Problem::new(StatusCode::CONFLICT, detail);
            Err(problem
                .with("hash", hash.into())
                .with("openings", openings.into())
                .with("foreseen", foreseen))
        }
        Err(ReloadError::NotNow(why)) => Err(Problem::new(StatusCode::SERVICE_UNAVAILABLE, why)),
    }
}

#[cfg(test)]
mod outbox_tests;
#[cfg(test)]
mod tests;
