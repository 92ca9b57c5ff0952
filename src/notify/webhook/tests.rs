//! The client against servers on a real socket that answer as a test wants.

use std::sync::Mutex;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

const NOW: i64 = 1_800_000_000_000;
const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

#[derive(Clone, Debug)]
struct Request {
    head: String,
    body: String,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().filter_map(|l| l.split_once(": "));
        lines.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v)
    }
}

/// A server that answers every request with the same bytes, or with silence where there are none.
struct Endpoint {
    port: u16,
    requests: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Endpoint {
    async fn new(answer: impl Into<Vec<u8>>) -> Endpoint {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (port, answer) = (listener.local_addr().unwrap().port(), answer.into());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let seen = requests.clone();
        let task = tokio::spawn(async move {
            let mut held = Vec::new();
            while let Ok((mut stream, _)) = listener.accept().await {
                let request = read(&mut stream).await;
                seen.lock().unwrap().push(request);
                if answer.is_empty() {
                    held.push(stream);
                } else {
                    // A client that has read enough goes away.
                    let _ = stream.write_all(&answer).await;
                }
            }
        });
        Endpoint { port, requests, task }
    }

    async fn status(status: &str) -> Endpoint {
        Endpoint::new(format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")).await
    }

    fn requests(&self) -> Vec<Request> {
        self.requests.lock().unwrap().clone()
    }
}

async fn read(stream: &mut TcpStream) -> Request {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let request = Request { head: head.to_owned(), body: body.to_owned() };
            let length: usize = request.header("content-length").map_or(0, |l| l.parse().unwrap());
            if body.len() >= length {
                return request;
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(n) if n > 0 => bytes.extend_from_slice(&chunk[..n]),
            _ => return Request { head: text, body: String::new() },
        }
    }
}

fn message() -> Message {
    Message {
        id: "msg_2b".into(),
        receiver: "erp".into(),
        integration: "webhook".into(),
        recipient: String::new(),
        kind: "new".into(),
        subject: "late".into(),
        body: r#"{"type":"exceptions.opened","data":{"parcel":"é"}}"#.into(),
        thread: "g1".into(),
        attempts: 0,
        created_ms: NOW,
        due_ms: NOW,
        standing: 0,
    }
}

fn settings() -> WebhookSettings {
    let allow: Vec<ipnet::IpNet> = vec!["127.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()];
    WebhookSettings { allow: allow.into(), ..WebhookSettings::default() }
}

async fn send_with(settings: WebhookSettings, url: &str, secret: Option<&str>) -> Delivery {
    let client = WebhookClient::new(settings).unwrap();
    Webhook::new(&client, url, secret).unwrap().deliver(&message(), NOW).await
}

async fn send(url: &str) -> Delivery {
    send_with(settings(), url, Some(SECRET)).await
}

#[track_caller]
fn failure(delivery: Delivery) -> Failure {
    match delivery {
        Delivery::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

fn url(endpoint: &Endpoint) -> String {
    format!("http://127.0.0.1:{}/hooks/parcels?token=s3cret", endpoint.port)
}

#[tokio::test]
async fn a_message_is_signed_as_standard_webhooks_verifies_it() {
    let endpoint = Endpoint::status("204 No Content").await;
    assert_eq!(send(&url(&endpoint)).await, Delivery::Delivered);
    let request = endpoint.requests().remove(0);
    assert!(request.head.starts_with("POST /hooks/parcels?token=s3cret HTTP/1.1"), "{}", request.head);
    assert_eq!(request.header("content-type"), Some("application/json"));
    assert_eq!(request.header("webhook-id"), Some("msg_2b"));
    assert_eq!(request.header("webhook-timestamp"), Some("1800000000"));
    assert_eq!(request.body, message().body);
    let verifier = standardwebhooks::Webhook::new(SECRET).unwrap();
    // Their own signature of the same id, time and body: `verify` wants the time to be near the machine's clock.
    let theirs = verifier.sign("msg_2b", 1_800_000_000, message().body.as_bytes()).unwrap();
    assert_eq!(request.header("webhook-signature"), Some(theirs.as_str()));
}

#[tokio::test]
async fn while_a_secret_changes_both_sign() {
    let endpoint = Endpoint::status("200 OK").await;
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD";
    let both = format!("{SECRET} {other}");
    assert_eq!(send_with(settings(), &url(&endpoint), Some(&both)).await, Delivery::Delivered);
    let request = endpoint.requests().remove(0);
    let signatures: Vec<&str> = request.header("webhook-signature").unwrap().split(' ').collect();
    let sign = |secret| {
        standardwebhooks::Webhook::new(secret)
            .unwrap()
            .sign("msg_2b", 1_800_000_000, message().body.as_bytes())
            .unwrap()
    };
    assert_eq!(signatures, [sign(SECRET), sign(other)]);
}

#[tokio::test]
async fn without_a_secret_nothing_is_signed() {
    let endpoint = Endpoint::status("200 OK").await;
    assert_eq!(send_with(settings(), &url(&endpoint), None).await, Delivery::Delivered);
    let request = endpoint.requests().remove(0);
    assert_eq!(request.header("webhook-signature"), None);
    assert_eq!(request.header("webhook-id"), Some("msg_2b"));
}

#[test]
fn a_secret_that_is_none_is_refused_without_being_shown() {
    let client = WebhookClient::new(settings()).unwrap();
    for secret in ["", "hunter2hunter2hunter2hunter2", "whsec_", "whsec_!!!", "whsec_c2hvcnQ="] {
        let refused = Webhook::new(&client, "https://example.org/", Some(secret)).err().unwrap().to_string();
        assert!(refused.contains("whsec_"), "{refused}");
        assert!(!refused.contains("hunter2") && !refused.contains("c2hvcnQ"), "{refused}");
    }
}

#[tokio::test]
async fn answers_are_classed() {
    use FailureClass::{Auth, Permanent, RateLimited, Transient};
    for (status, class, scope) in [
        ("400 Bad Request", Permanent, Scope::Message),
        ("404 Not Found", Permanent, Scope::Message),
        ("413 Too Large", Permanent, Scope::Message),
        ("415 Unsupported", Permanent, Scope::Message),
        ("401 Unauthorized", Auth, Scope::Receiver),
        ("403 Forbidden", Auth, Scope::Receiver),
        ("408 Timeout", Transient, Scope::Receiver),
        ("410 Gone", Permanent, Scope::Gone),
        ("429 Too Many", RateLimited, Scope::Receiver),
        ("500 Broken", Transient, Scope::Receiver),
        ("502 Bad Gateway", RateLimited, Scope::Receiver),
        ("503 Unavailable", Transient, Scope::Receiver),
        ("504 Gateway Timeout", RateLimited, Scope::Receiver),
    ] {
        let endpoint = Endpoint::status(status).await;
        let failed = failure(send(&url(&endpoint)).await);
        assert_eq!((failed.class, failed.scope), (class, scope), "{status}");
        assert!(failed.detail.contains(&status[..3]), "{failed:?}");
        assert!(!failed.detail.contains("s3cret") && !failed.detail.contains("hooks"), "{failed:?}");
    }
}

#[tokio::test]
async fn no_redirect_is_followed() {
    let inside = Endpoint::status("200 OK").await;
    for status in [301, 302, 303, 307, 308] {
        let answer = format!(
            "HTTP/1.1 {status} Moved\r\nlocation: http://127.0.0.1:{}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            inside.port
        );
        let endpoint = Endpoint::new(answer).await;
        let failed = failure(send(&url(&endpoint)).await);
        assert_eq!((failed.class, failed.scope), (FailureClass::Permanent, Scope::Message), "{status}");
        assert!(failed.detail.contains("redirect"), "{failed:?}");
    }
    assert!(inside.requests().is_empty());
}

#[tokio::test]
async fn what_lies_inside_is_never_dialled_by_name_or_literal() {
    let inside = Endpoint::status("200 OK").await;
    let client = WebhookClient::new(WebhookSettings::default()).unwrap();
    // A name passes the check of literals and is stopped when it is dialled.
    let by_name = format!("http://localhost:{}/?token=s3cret", inside.port);
    let webhook = Webhook::new(&client, &by_name, None).unwrap();
    let failed = failure(webhook.deliver(&message(), NOW).await);
    assert_eq!(failed.class, FailureClass::Permanent);
    assert!(
        failed.detail.contains("localhost leads to") && failed.detail.contains("allow_private"),
        "{failed:?}"
    );
    assert!(!failed.detail.contains("s3cret"), "{failed:?}");
    for host in ["127.0.0.1", "127.1", "2130706433", "[::1]", "[::ffff:127.0.0.1]"] {
        let url = format!("http://{host}:{}/", inside.port);
        assert!(Webhook::new(&client, &url, None).is_err(), "{url}");
    }
    assert!(inside.requests().is_empty());
}

#[tokio::test]
async fn retry_after_is_read_from_an_answer() {
    let with = async |value: &str| {
        let answer = format!(
            "HTTP/1.1 429 Slow\r\nretry-after: {value}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
        );
        failure(send(&url(&Endpoint::new(answer).await)).await)
    };
    assert_eq!(with("7").await.retry_after_ms, Some(7_000));
    let none = with("soon").await;
    assert_eq!((none.retry_after_ms, none.floor_ms), (None, MINUTE));
}

#[test]
fn retry_after_is_seconds_or_a_date() {
    let at = Time::parse("1994-11-06T08:49:37Z").unwrap().0;
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    assert_eq!(retry_after(date, at - 30_000), Some(30_000));
    assert_eq!(retry_after(date, at + 30_000), Some(0));
    assert_eq!(retry_after(" 120 ", 0), Some(120_000));
    assert_eq!(retry_after("99999999999999999999", 0), Some(i64::MAX));
    for wrong in [
        "",
        "-1",
        "1.5",
        "Sun, 06 Nov 1994 08:49 GMT",
        "06 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37",
        "Sun, 06 Foo 1994 08:49:37 GMT",
        "Sun, 06 Nov 99999999999999999 08:49:37 GMT",
        "Sun, 99 Nov 1994 08:49:37 GMT",
        "Sun, 06 Nov 1994 08:49:37 GMT x",
    ] {
        assert_eq!(retry_after(wrong, 0), None, "{wrong}");
    }
}

#[tokio::test]
async fn an_endless_answer_is_read_to_4_kb() {
    let mut answer = b"HTTP/1.1 400 Bad\r\ncontent-length: 100000000\r\n\r\n".to_vec();
    answer.extend(std::iter::repeat_n(b'x', 8_000_000));
    let endpoint = Endpoint::new(answer).await;
    let failed = failure(send(&url(&endpoint)).await);
    assert_eq!(failed.class, FailureClass::Permanent);
    assert!(failed.detail.len() < 400, "{}", failed.detail.len());
}

#[tokio::test]
async fn an_answer_that_repeats_our_secrets_is_not_shown() {
    let body = |text: &str| {
        format!("HTTP/1.1 400 Bad\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len())
    };
    let plain = failure(send(&url(&Endpoint::new(body("no \u{1b}[31m such\nfield")).await)).await);
    assert!(plain.detail.ends_with("400: no  [31m such field"), "{plain:?}");
    let leaky =
        failure(send(&url(&Endpoint::new(body("cannot POST /hooks/parcels?token=s3cret")).await)).await);
    assert!(!leaky.detail.contains("s3cret"), "{leaky:?}");
}

#[tokio::test]
async fn one_that_hangs_is_given_up_and_its_outcome_is_unknown() {
    let endpoint = Endpoint::new("").await;
    let quick = WebhookSettings { total: Duration::from_millis(100), ..settings() };
    let failed = failure(send_with(quick, &url(&endpoint), None).await);
    assert_eq!((failed.class, failed.scope), (FailureClass::OutcomeUnknown, Scope::Receiver));
    assert!(failed.floor_ms > 0 && failed.detail.contains("did not answer"), "{failed:?}");
}

#[tokio::test]
async fn one_that_hangs_up_has_an_unknown_outcome() {
    let endpoint = Endpoint::new("HTTP/1.1 2").await;
    let failed = failure(send(&url(&endpoint)).await);
    assert_eq!(failed.class, FailureClass::OutcomeUnknown, "{failed:?}");
    assert!(!failed.detail.contains("s3cret"), "{failed:?}");
}

#[tokio::test]
async fn nobody_there_is_transient_and_names_no_query() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let failed = failure(send(&format!("http://127.0.0.1:{port}/hooks/x?token=s3cret")).await);
    assert_eq!((failed.class, failed.scope), (FailureClass::Transient, Scope::Receiver));
    assert!(failed.detail.contains(&format!("cannot connect to http://127.0.0.1:{port}")), "{failed:?}");
    assert!(!failed.detail.contains("s3cret") && !failed.detail.contains("hooks"), "{failed:?}");
}

#[tokio::test]
async fn a_certificate_that_nobody_vouches_for_is_a_matter_of_configuration() {
    let (port, pem, _task) = tls_endpoint().await;
    let url = format!("https://localhost:{port}/hook");
    let stranger = failure(send(&url).await);
    assert_eq!(stranger.class, FailureClass::Auth, "{stranger:?}");
    let trusting = WebhookSettings { root_pem: Some(pem), ..settings() };
    assert_eq!(send_with(trusting, &url, Some(SECRET)).await, Delivery::Delivered);
}

async fn tls_endpoint() -> (u16, Vec<u8>, JoinHandle<()>) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let config = rustls::ServerConfig::builder()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // A client that does not trust us hangs up in the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut chunk = [0; 8192];
            let _ = stream.read(&mut chunk).await;
            let _ =
                stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
            let _ = stream.shutdown().await;
        }
    });
    (port, made.cert.pem().into_bytes(), task)
}
