//! Webhooks by Standard Webhooks: a signed POST of the row's body (`reference/alerting.md` §4.3).
//!
//! The only module that names reqwest. No redirect is followed, no proxy of the environment used, no cookie kept, at most
//! 4 kB of an answer read; [`super::egress`] decides what is dialled. A URL may be a secret (Slack's are), so no error
//! here shows more of it than scheme, host and port.

use std::error::Error as StdError;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use hmac::{Hmac, KeyInit, Mac};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{Client, Response, StatusCode, redirect};
use sha2::Sha256;
use url::Url;

use super::egress::{self, AllowList, Refused};
use super::{Delivery, Failure, FailureClass, Message, Notifier, Scope, one_line};
use crate::model::{MINUTE, SECOND, Time, time};

const CONNECT: Duration = Duration::from_secs(3);
const TOTAL: Duration = Duration::from_secs(12);
/// Calls in flight to one receiver: a program answers, and most of a call is waiting.
const AT_ONCE: usize = 64;
const ANSWER_MAX: usize = 4096;

/// Why a webhook receiver cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its URL is not one to call.
    #[error("{0}")]
    Url(#[from] Refused),
    /// Its secret is none.
    #[error("the signing secret is not \"whsec_\" followed by base64 of 24 to 64 bytes")]
    Secret,
    /// TLS could not be set up.
    #[error("cannot set up the HTTP client: {0}")]
    Client(String),
}

/// What all webhook receivers share: the connections and the guard.
#[derive(Clone)]
pub struct WebhookClient {
    client: Client,
    allow: AllowList,
    total: Duration,
}

/// Limits and trust, at their defaults but in tests.
#[derive(Clone, Debug)]
pub struct WebhookSettings {
    /// Networks that may be called although they are not public.
    pub allow: AllowList,
    /// The limit of a whole call, in real time.
    pub total: Duration,
    /// A further root certificate, PEM.
    pub root_pem: Option<Vec<u8>>,
}

impl Default for WebhookSettings {
    fn default() -> WebhookSettings {
        WebhookSettings { allow: Arc::new([]), total: TOTAL, root_pem: None }
    }
}

struct Guard(AllowList);

impl reqwest::dns::Resolve for Guard {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let allow = self.0.clone();
        Box::pin(async move {
            let addresses = egress::resolve(name.as_str(), &allow).await?;
            Ok(Box::new(addresses.into_iter()) as reqwest::dns::Addrs)
        })
    }
}

impl WebhookClient {
    /// A client behind the guard.
    ///
    /// # Errors
    /// [`WebhookError::Client`] where TLS cannot be set up.
    pub fn new(settings: WebhookSettings) -> Result<WebhookClient, WebhookError> {
        // An error says that one is installed already, which is as good.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let failed = |e: reqwest::Error| WebhookError::Client(e.to_string());
        let mut builder = Client::builder()
            .dns_resolver(Arc::new(Guard(settings.allow.clone())))
            .redirect(redirect::Policy::none())
            .no_proxy()
            .referer(false)
            .user_agent(concat!("parcelwatch/", env!("CARGO_PKG_VERSION")))
            .connect_timeout(CONNECT)
            .timeout(settings.total)
            .pool_max_idle_per_host(AT_ONCE)
            .pool_idle_timeout(Duration::from_secs(60));
        if let Some(pem) = &settings.root_pem {
            builder = builder.tls_certs_merge([reqwest::Certificate::from_pem(pem).map_err(failed)?]);
        }
        let client = builder.build().map_err(failed)?;
        Ok(WebhookClient { client, allow: settings.allow, total: settings.total })
    }
}

/// A URL behind the guard: what is posted there is judged the same way for every integration.
pub(super) struct Target {
    client: WebhookClient,
    url: Url,
}

impl Target {
    pub(super) fn new(client: &WebhookClient, url: &str) -> Result<Target, WebhookError> {
        let url = egress::check_url(url.trim(), &client.allow)?;
        Ok(Target { client: client.clone(), url })
    }

    /// The limit of a call.
    pub(super) const fn limit(&self) -> Duration {
        self.client.total
    }

    /// Posts JSON once.
    pub(super) async fn post(
        &self,
        headers: &[(&'static str, &str)],
        body: String,
        now_ms: i64,
    ) -> Result<(), Failure> {
        let url =
            egress::check_url(self.url.as_str(), &self.client.allow).map_err(|r| refused_failure(&r))?;
        let mut request = self.client.client.post(url).header(CONTENT_TYPE, "application/json").body(body);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        match request.send().await {
            Ok(answer) => self.judge(answer, now_ms).await,
            Err(error) => Err(self.broken(error)),
        }
    }

    async fn judge(&self, mut answer: Response, now_ms: i64) -> Result<(), Failure> {
        let status = answer.status();
        if status.is_success() {
            return Ok(());
        }
        let retry_after_ms = answer
            .headers()
            .get(RETRY_AFTER)
            .and_then(|v| v.to_str().ok())
            .and_then(|v| retry_after(v, now_ms));
        let said = self.excerpt(&read_some(&mut answer).await);
        Err(classify(status, retry_after_ms, &egress::origin(&self.url), &said))
    }

    /// The start of an answer's body, or nothing where it repeats something of ours that is not for a log.
    fn excerpt(&self, body: &[u8]) -> String {
        let text = one_line(&String::from_utf8_lossy(body));
        let private = self.url.query().into_iter().chain([self.url.path()]).filter(|s| s.len() > 1);
        if private.into_iter().any(|p| text.contains(p)) { String::new() } else { text }
    }

    fn broken(&self, error: reqwest::Error) -> Failure {
        let origin = egress::origin(&self.url);
        if let Some(refused) = cause::<Refused>(&error) {
            return refused_failure(refused);
        }
        let (timeout, connect) = (error.is_timeout(), error.is_connect());
        let why = root_cause(&error.without_url());
        if timeout && !connect {
            let limit = self.client.total.as_secs();
            return Failure::new(
                FailureClass::OutcomeUnknown,
                Scope::Receiver,
                format!("{origin} did not answer within {limit} s"),
            )
            .not_before(15 * SECOND);
        }
        if connect {
            let class =
                if why.contains("certificate") { FailureClass::Auth } else { FailureClass::Transient };
            return Failure::new(class, Scope::Receiver, format!("cannot connect to {origin}: {why}"));
        }
        Failure::new(FailureClass::OutcomeUnknown, Scope::Receiver, format!("{origin} broke off: {why}"))
    }
}

/// One webhook receiver.
pub struct Webhook {
    target: Target,
    keys: Vec<SigningKey>,
}

impl Webhook {
    /// A receiver at `url`, signed with `secret` where there is one: `whsec_…`, or several of them separated by blanks while
    /// the other side changes from one to the next.
    ///
    /// # Errors
    /// [`WebhookError`]; its text holds neither the URL's query nor the secret.
    pub fn new(client: &WebhookClient, url: &str, secret: Option<&str>) -> Result<Webhook, WebhookError> {
        let target = Target::new(client, url)?;
        let keys = match secret {
            Some(secret) => SigningKey::parse_all(secret)?,
            None => Vec::new(),
        };
        Ok(Webhook { target, keys })
    }

    async fn post(&self, message: &Message, now_ms: i64) -> Delivery {
        let timestamp = now_ms.div_euclid(SECOND).to_string();
        let mut headers = vec![("webhook-id", message.id.as_str()), ("webhook-timestamp", &timestamp)];
        let sign = |k: &SigningKey| k.sign(&message.id, &timestamp, message.body.as_bytes());
        let signatures = self.keys.iter().map(sign).collect::<Vec<_>>().join(" ");
        if !signatures.is_empty() {
            headers.push(("webhook-signature", &signatures));
        }
        match self.target.post(&headers, message.body.clone(), now_ms).await {
            Ok(()) => Delivery::Delivered,
            Err(failure) => Delivery::Failed(failure),
        }
    }
}

impl Notifier for Webhook {
    fn deliver<'a>(&'a self, message: &'a Message, now_ms: i64) -> BoxFuture<'a, Delivery> {
        self.post(message, now_ms).boxed()
    }

    fn limit(&self) -> Duration {
        self.target.limit()
    }

    fn at_once(&self) -> usize {
        AT_ONCE
    }
}

fn refused_failure(refused: &Refused) -> Failure {
    // A name without an address may get one; an address inside stays inside until somebody changes the allow list.
    let class = match refused {
        Refused::NoAddress(_) => FailureClass::Transient,
        _ => FailureClass::Permanent,
    };
    Failure::new(class, Scope::Message, refused.to_string())
}

fn classify(status: StatusCode, retry_after_ms: Option<i64>, origin: &str, said: &str) -> Failure {
    let answered =
        format!("{origin} answered {}{}{said}", status.as_u16(), if said.is_empty() { "" } else { ": " });
    let (class, scope, floor) = match status.as_u16() {
        300..=399 => {
            let text =
                format!("{origin} answered {} with a redirect, which is never followed", status.as_u16());
            return Failure::new(FailureClass::Permanent, Scope::Message, text);
        }
        401 | 403 | 407 => (FailureClass::Auth, Scope::Receiver, 0),
        408 | 425 => (FailureClass::Transient, Scope::Receiver, 0),
        410 => {
            let text = format!("{origin} answered 410: it is gone and asks for no more messages");
            return Failure::new(FailureClass::Permanent, Scope::Gone, text);
        }
        // Throttle signals by Standard Webhooks: a gateway that cannot get through is not helped by more.
        429 | 502 | 504 => (FailureClass::RateLimited, Scope::Receiver, MINUTE),
        500..=599 => (FailureClass::Transient, Scope::Receiver, 0),
        _ => (FailureClass::Permanent, Scope::Message, 0),
    };
    Failure { retry_after_ms, ..Failure::new(class, scope, answered).not_before(floor) }
}

/// At most [`ANSWER_MAX`] bytes; the rest is dropped with the connection.
async fn read_some(answer: &mut Response) -> Vec<u8> {
    let mut body = Vec::new();
    while body.len() < ANSWER_MAX {
        match answer.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk[..chunk.len().min(ANSWER_MAX - body.len())]),
            Ok(None) | Err(_) => break,
        }
    }
    body
}

/// The first cause of type `T`, also inside an [`std::io::Error`].
fn cause<'e, T: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e T> {
    let mut at = Some(error);
    while let Some(e) = at {
        if let Some(found) = e.downcast_ref::<T>() {
            return Some(found);
        }
        let inner = e.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        if let Some(found) = inner.and_then(|i| cause::<T>(i)) {
            return Some(found);
        }
        at = e.source();
    }
    None
}

fn root_cause(error: &(dyn StdError + 'static)) -> String {
    let mut at = error;
    while let Some(next) = at.source() {
        at = next;
    }
    at.to_string()
}

/// `Retry-After` in milliseconds from now: seconds, or an HTTP date (RFC 9110 §5.6.7, the one form that may be sent).
fn retry_after(value: &str, now_ms: i64) -> Option<i64> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // What does not fit is as long as can be, and clamped later.
        return Some(value.parse::<i64>().unwrap_or(i64::MAX).saturating_mul(SECOND));
    }
    http_date(value).map(|at| (at.0 - now_ms).max(0))
}

/// `Sun, 06 Nov 1994 08:49:37 GMT`.
fn http_date(value: &str) -> Option<Time> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let mut words = value.split(' ');
    words.next()?.strip_suffix(',')?;
    let day: i64 = words.next()?.parse().ok()?;
    let name = words.next()?;
    let month = i64::try_from(MONTHS.iter().position(|m| *m == name)?).ok()? + 1;
    let year: i64 = words.next()?.parse().ok().filter(|y| (1900..10_000).contains(y))?;
    let clock: Vec<i64> = words.next()?.split(':').map(|n| n.parse().ok()).collect::<Option<_>>()?;
    let [hour, minute, second] = clock[..] else { return None };
    if words.next()? != "GMT" || words.next().is_some() {
        return None;
    }
    if !(1..=31).contains(&day)
        || !(0..24).contains(&hour)
        || !(0..60).contains(&minute)
        || !(0..=60).contains(&second)
    {
        return None;
    }
    let seconds = hour * 3600 + minute * 60 + second;
    Some(Time(time::days_from_civil(year, month, day) * crate::model::DAY + seconds * SECOND))
}

/// A key of Standard Webhooks. Never printed.
#[derive(Clone)]
struct SigningKey(Hmac<Sha256>);

impl SigningKey {
    fn parse_all(secret: &str) -> Result<Vec<SigningKey>, WebhookError> {
        let keys = secret.split_whitespace().map(SigningKey::parse).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() { Err(WebhookError::Secret) } else { Ok(keys) }
    }

    fn parse(text: &str) -> Result<SigningKey, WebhookError> {
        let encoded = text.strip_prefix("whsec_").ok_or(WebhookError::Secret)?;
        let key = STANDARD.decode(encoded).map_err(|_| WebhookError::Secret)?;
        if !(24..=64).contains(&key.len()) {
            return Err(WebhookError::Secret);
        }
        Hmac::new_from_slice(&key).map(SigningKey).map_err(|_| WebhookError::Secret)
    }

    fn sign(&self, id: &str, timestamp: &str, body: &[u8]) -> String {
        let mut mac = self.0.clone();
        for part in [id.as_bytes(), b".", timestamp.as_bytes(), b".", body] {
            mac.update(part);
        }
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

#[cfg(test)]
mod tests;
