//! E-mail by SMTP: one message to one recipient (`reference/alerting.md` §4.9, `reference/crates.md` §11).
//!
//! The only module that names lettre. Every try of a row sends the same bytes: `Message-ID` from the row, `Date` from when it
//! was written. All messages of a group refer to one root that is never sent, so that clients thread them.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use lettre::address::Envelope;
use lettre::message::header::{ContentType, HeaderName, HeaderValue};
use lettre::message::{Mailbox, MultiPart, SinglePart};
use lettre::transport::smtp::PoolConfig;
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Certificate, Tls, TlsParameters};
use lettre::{Address, AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use sha2::{Digest, Sha256};
use url::Url;

use super::body::Body;
use super::dkim::{Dkim, DkimError, DkimSettings};
use super::link::{GOOD_FOR, LinkKey, Purpose};
use super::mail::Links;
use super::templated::{self, Written};
use super::{Delivery, Failure, FailureClass, Message, Notifier, Scope, one_line};
use crate::model::{MINUTE, SECOND, Time};
use crate::rules::template::Templates;

const CONNECT: Duration = Duration::from_secs(10);
const TOTAL: Duration = Duration::from_secs(60);

/// How mails are sent: `smtp:` of the configuration.
#[derive(Clone)]
pub struct EmailSettings {
    /// `smtp://host[:port]` in the clear, `smtp://host[:port]?tls=required` by STARTTLS, `smtps://host[:port]`.
    pub url: String,
    /// `name <address>` or an address.
    pub from: String,
    /// A login, where the server wants one.
    pub login: Option<(String, String)>,
    /// Where this process is reached from outside, for links.
    pub public_url: Option<String>,
    /// The key of links; no link without it.
    pub link_key: Option<LinkKey>,
    /// How mails are signed, where they are.
    pub dkim: Option<DkimSettings>,
    /// A further root certificate, PEM.
    pub root_pem: Option<Vec<u8>>,
    /// The limit of a whole try, in real time.
    pub total: Duration,
    /// Texts of their own, by receiver.
    pub templates: BTreeMap<String, Templates>,
}

impl EmailSettings {
    /// Settings without login, links, signature and further trust.
    #[must_use]
    pub fn new(url: impl Into<String>, from: impl Into<String>) -> EmailSettings {
        EmailSettings {
            url: url.into(),
            from: from.into(),
            login: None,
            public_url: None,
            link_key: None,
            dkim: None,
            root_pem: None,
            total: TOTAL,
            templates: BTreeMap::new(),
        }
    }
}

/// Why mails cannot be sent with these settings. No text holds a credential.
#[derive(Debug, thiserror::Error)]
pub enum EmailError {
    /// `smtp.url` is not one.
    #[error("smtp.url: {0}; write smtp://host:port, smtp://host:port?tls=required or smtps://host:port")]
    Url(String),
    /// `smtp.from` is no address.
    #[error("smtp.from {0:?} is no address; write name@example.org or \"parcelwatch <name@example.org>\"")]
    From(String),
    /// The password would be readable on the way.
    #[error(
        "smtp.username is set, but smtp.url would send the password in the clear; use ?tls=required or smtps://"
    )]
    LoginInTheClear,
    /// TLS could not be set up.
    #[error("smtp: cannot set up TLS: {0}")]
    Tls(String),
    /// The key of signatures is none.
    #[error(transparent)]
    Dkim(#[from] DkimError),
}

/// The sender of mails, shared by all receivers of this kind. To be made, used and dropped within a tokio runtime: its pool of
/// connections closes them by a task.
pub struct Email {
    smtp: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    public_url: Option<String>,
    link_key: Option<LinkKey>,
    dkim: Option<Dkim>,
    total: Duration,
    templates: BTreeMap<String, Templates>,
}

/// How the connection is protected.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Security {
    None,
    StartTls,
    Implicit,
}

#[derive(PartialEq, Eq, Debug)]
struct Server {
    host: String,
    port: u16,
    security: Security,
}

fn server(text: &str) -> Result<Server, EmailError> {
    let bad = |why: &str| EmailError::Url(why.to_owned());
    let url = Url::parse(text).map_err(|e| EmailError::Url(e.to_string()))?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err(bad("it holds a user name or a password; these go into smtp.username and smtp.password"));
    }
    let host = url.host_str().filter(|h| !h.is_empty()).ok_or_else(|| bad("it names no host"))?;
    if !matches!(url.path(), "" | "/") {
        return Err(bad("it has a path"));
    }
    let mut tls = None;
    for (key, value) in url.query_pairs() {
        match (key.as_ref(), value.as_ref()) {
            ("tls", "required") => tls = Some(()),
            ("tls", "opportunistic") => {
                return Err(bad(
                    "tls=opportunistic can be stripped by anybody on the way and is not offered",
                ));
            }
            ("tls", other) => return Err(EmailError::Url(format!("tls={other} is not known"))),
            (other, _) => return Err(EmailError::Url(format!("{other} is not known"))),
        }
    }
    let (security, port) = match (url.scheme(), tls) {
        ("smtp", None) => (Security::None, 25),
        ("smtp", Some(())) => (Security::StartTls, 587),
        ("smtps", _) => (Security::Implicit, 465),
        (scheme, _) => return Err(EmailError::Url(format!("the scheme is {scheme:?}"))),
    };
    let host = host.trim_matches(['[', ']']).to_owned();
    Ok(Server { host, port: url.port().unwrap_or(port), security })
}

fn is_this_machine(host: &str) -> bool {
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

impl Email {
    /// A sender with these settings; connects at the first message.
    ///
    /// # Errors
    /// [`EmailError`], for the operator.
    pub fn new(settings: EmailSettings) -> Result<Email, EmailError> {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let server = server(&settings.url)?;
        let from: Mailbox = settings.from.parse().map_err(|_| EmailError::From(settings.from.clone()))?;
        let tls = tls(&server, settings.root_pem.as_deref())?;
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(&server.host)
            .port(server.port)
            .tls(tls)
            .timeout(Some(CONNECT))
            .pool_config(PoolConfig::new().max_size(4).idle_timeout(Duration::from_secs(60)));
        if let Some((user, password)) = settings.login {
            if server.security == Security::None && !is_this_machine(&server.host) {
                return Err(EmailError::LoginInTheClear);
            }
            builder = builder.credentials(Credentials::new(user, password));
        }
        Ok(Email {
            smtp: builder.build(),
            from,
            public_url: settings.public_url,
            link_key: settings.link_key,
            dkim: settings.dkim.as_ref().map(Dkim::new).transpose()?,
            total: settings.total,
            templates: settings.templates,
        })
    }

    /// The bytes of a row's mail and whom they go to, and why it is a plain one where it is.
    fn signed(&self, message: &Message) -> Result<(Envelope, Vec<u8>, Option<String>), Failure> {
        let (mail, plain) = self.compose(message)?;
        let bytes = mail.formatted();
        let bytes = match &self.dkim {
            None => bytes,
            // Dated like the mail itself: every try sends the same bytes.
            Some(dkim) => dkim
                .sign(&bytes, message.created_ms.div_euclid(SECOND))
                .map_err(|e| Failure::new(FailureClass::Auth, Scope::Receiver, e.to_string()))?,
        };
        Ok((mail.envelope().clone(), bytes, plain))
    }

    /// The mail of a row, and why it is a plain one where it is.
    fn compose(&self, message: &Message) -> Result<(lettre::Message, Option<String>), Failure> {
        let unfit = |what: &str, e: &dyn std::fmt::Display| {
            Failure::new(FailureClass::Permanent, Scope::Message, format!("{what}: {e}"))
        };
        let to: Mailbox = message
            .recipient
            .parse::<Address>()
            .map(|a| Mailbox::new(None, a))
            .or_else(|_| message.recipient.parse())
            .map_err(|e: lettre::address::AddressError| unfit("the recipient is no address", &e))?;
        let (subject, parts, plain) = self.parts(message);
        let (domain, thread) = (self.from.email.domain(), format!("group-{}", atom(&message.thread)));
        let root = format!("<{thread}@{domain}>");
        let mail = lettre::Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(one_line(if subject.is_empty() { "parcelwatch" } else { &subject }))
            .date(date(message.created_ms))
            .message_id(Some(format!("<{}@{domain}>", atom(&message.id))))
            .in_reply_to(root.clone())
            .references(root)
            .raw_header(raw("Auto-Submitted", "auto-generated"))
            .raw_header(raw("X-Auto-Response-Suppress", "All"))
            .raw_header(raw("List-Id", &format!("<{}.parcelwatch.{domain}>", atom(&message.receiver))))
            .multipart(parts)
            .map_err(|e| unfit("the message cannot be built", &e))?;
        Ok((mail, plain))
    }

    fn parts(&self, message: &Message) -> (String, MultiPart, Option<String>) {
        let built_in = Templates::default();
        let templates = self.templates.get(&message.receiver).unwrap_or(&built_in);
        let written = templated::mail(templates, message.into(), |body| self.links(message, body));
        let Written { subject, text, html, failed: plain } = written.unwrap_or_else(|error| Written {
            subject: message.subject.clone(),
            text: format!("{}\n\n{}\n", one_line(&message.subject), message.body),
            html: None,
            failed: Some(format!("the body cannot be read: {error}")),
        });
        // A boundary of the row's own keeps the bytes the same on every try.
        let parts = MultiPart::alternative()
            .boundary(format!("pw-{}", hex(&message.id)))
            .singlepart(SinglePart::builder().header(ContentType::TEXT_PLAIN).body(text));
        let parts = match html {
            Some(html) => parts.singlepart(SinglePart::builder().header(ContentType::TEXT_HTML).body(html)),
            None => parts,
        };
        (subject, parts, plain)
    }

    fn links(&self, message: &Message, body: &Body) -> Links {
        // What ended is nothing to act on; what is listed in full needs no table.
        let ack = (body.data.group_state != "resolved").then(|| self.link(Purpose::Acknowledge, message));
        let list = (body.data.truncated > 0).then(|| self.link(Purpose::List, message));
        Links { ack: ack.flatten(), list: list.flatten() }
    }

    /// A link to what the message told of, and until when it is good.
    fn link(&self, purpose: Purpose, message: &Message) -> Option<(String, Time)> {
        let (url, key) = (self.public_url.as_deref()?, self.link_key.as_ref()?);
        let kind = message.kind.as_str();
        if matches!(kind, "resolved" | "exceptions.resolved" | "test") || kind.starts_with("feed.") {
            return None;
        }
        let link = key.sign(purpose, &message.id, message.created_ms);
        Some((link.url(url), Time(message.created_ms.saturating_add(GOOD_FOR))))
    }

    async fn send(&self, message: &Message) -> Delivery {
        let (envelope, mail, plain) = match self.signed(message) {
            Ok(signed) => signed,
            Err(failure) => return Delivery::Failed(failure),
        };
        // lettre's own timeout covers the TCP connect alone.
        match tokio::time::timeout(self.total, self.smtp.send_raw(&envelope, &mail)).await {
            Ok(Ok(_)) => match plain {
                None => Delivery::Delivered,
                Some(why) => Delivery::DeliveredPlain(why),
            },
            Ok(Err(error)) => Delivery::Failed(classify(&error)),
            Err(_) => {
                let text = format!("the server did not finish within {} s", self.total.as_secs());
                Delivery::Failed(Failure::new(FailureClass::OutcomeUnknown, Scope::Receiver, text))
            }
        }
    }
}

impl Notifier for Email {
    fn deliver<'a>(&'a self, message: &'a Message, _now_ms: i64) -> BoxFuture<'a, Delivery> {
        self.send(message).boxed()
    }

    fn limit(&self) -> Duration {
        self.total
    }
}

fn tls(server: &Server, root_pem: Option<&[u8]>) -> Result<Tls, EmailError> {
    if server.security == Security::None {
        return Ok(Tls::None);
    }
    let failed = |e: lettre::transport::smtp::Error| EmailError::Tls(e.to_string());
    let mut parameters = TlsParameters::builder(server.host.clone());
    if let Some(pem) = root_pem {
        parameters = parameters.add_root_certificate(Certificate::from_pem(pem).map_err(failed)?);
    }
    let parameters = parameters.build_rustls().map_err(failed)?;
    Ok(if server.security == Security::Implicit {
        Tls::Wrapper(parameters)
    } else {
        Tls::Required(parameters)
    })
}

fn classify(error: &lettre::transport::smtp::Error) -> Failure {
    let code = error.status().map(|c| c.to_string().parse::<u16>().unwrap_or(0));
    let text = error.to_string();
    let (class, scope, floor) = match code {
        Some(code) => answered(code, &text),
        None if error.is_tls() => (FailureClass::Auth, Scope::Receiver, 0),
        // STARTTLS wanted and not offered, no common login: the configuration and the server disagree.
        None if error.is_client() && (text.contains("STARTTLS") || text.contains("authentication")) => {
            (FailureClass::Auth, Scope::Receiver, 0)
        }
        None if error.is_client() => (FailureClass::Permanent, Scope::Message, 0),
        // TLS errors of the handshake come as connection errors.
        None if text.contains("certificate") => (FailureClass::Auth, Scope::Receiver, 0),
        None if text.starts_with("Connection error") => (FailureClass::Transient, Scope::Receiver, 0),
        // The connection ended somewhere between the first command and the last answer.
        None => (FailureClass::OutcomeUnknown, Scope::Receiver, 0),
    };
    Failure::new(class, scope, text).not_before(floor)
}

/// The class of an answer. `text` begins with lettre's words and the code; the server's own follow.
fn answered(code: u16, text: &str) -> (FailureClass, Scope, i64) {
    let said = text.split_once("): ").map_or("", |(_, said)| said);
    let enhanced = enhanced_status(said);
    match code {
        530 | 534 | 535 | 538 => (FailureClass::Auth, Scope::Receiver, 0),
        500..=599 => (FailureClass::Permanent, Scope::Message, 0),
        421 => (FailureClass::Transient, Scope::Receiver, 0),
        _ if asks_for_less(said) => (FailureClass::RateLimited, Scope::Receiver, MINUTE),
        // Greylisting: the server wants to see whether we come back, not at once.
        _ if enhanced == Some((4, 7)) => (FailureClass::Transient, Scope::Message, MINUTE),
        _ => (FailureClass::Transient, Scope::Message, 0),
    }
}

fn asks_for_less(said: &str) -> bool {
    let said = said.to_ascii_lowercase();
    ["rate limit", "too many", "too fast", "throttl", "slow down", "exceeded"]
        .iter()
        .any(|w| said.contains(w))
}

/// Class and subject of an enhanced status code at the start of an answer: (4, 7) of `4.7.1 greylisted`.
fn enhanced_status(said: &str) -> Option<(u16, u16)> {
    let mut numbers = said.split(' ').next()?.split('.');
    let class = numbers.next()?.parse().ok().filter(|c| matches!(c, 2 | 4 | 5))?;
    let subject = numbers.next()?.parse().ok()?;
    numbers.next()?.parse::<u16>().ok()?;
    if numbers.next().is_none() { Some((class, subject)) } else { None }
}

fn raw(name: &'static str, value: &str) -> HeaderValue {
    HeaderValue::new(HeaderName::new_from_ascii_str(name), value.to_owned())
}

fn date(ms: i64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or(0))
}

/// A text as the atom of an id in a header; what holds other characters than letters, digits, `-` and `_` becomes its hash.
fn atom(text: &str) -> String {
    let plain = !text.is_empty()
        && text.len() <= 64
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
    if plain { text.to_owned() } else { hex(text) }
}

fn hex(text: &str) -> String {
    Sha256::digest(text)[..12].iter().map(|b| format!("{b:02x}")).collect()
}

#[cfg(test)]
mod tests;
