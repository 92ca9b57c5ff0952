//! The sender against an SMTP server on a real socket that does what the recipient's name says.

use std::sync::{Arc, Mutex};

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

use super::*;

/// One session in steps; the local part of a recipient says what happens:
/// `NNN` = RCPT answered so, `grey` = 451 4.7.1, `busy` = 451 rate, `data-NNN` = after DATA, `stall` = no answer after DATA,
/// `drop` = hangs up after DATA without an answer.
struct Relay {
    port: u16,
    pem: Vec<u8>,
    mails: Arc<Mutex<Vec<String>>>,
    task: JoinHandle<()>,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Plain,
    StartTls,
    Implicit,
}

impl Relay {
    async fn new(mode: Mode) -> Relay {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let key = rustls::pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let mails = Arc::new(Mutex::new(Vec::new()));
        let stored = mails.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, stored) = (acceptor.clone(), stored.clone());
                tokio::spawn(async move {
                    // A client that hangs up ends its own session only.
                    let _ = serve(stream, mode, acceptor, stored).await;
                });
            }
        });
        Relay { port, pem: made.cert.pem().into_bytes(), mails, task }
    }

    fn mails(&self) -> Vec<String> {
        self.mails.lock().unwrap().clone()
    }

    fn settings(&self, scheme: &str, query: &str) -> EmailSettings {
        let url = format!("{scheme}://localhost:{}{query}", self.port);
        EmailSettings {
            root_pem: Some(self.pem.clone()),
            ..EmailSettings::new(url, "parcelwatch <watch@example.org>")
        }
    }
}

async fn serve(
    stream: tokio::net::TcpStream,
    mode: Mode,
    acceptor: TlsAcceptor,
    mails: Arc<Mutex<Vec<String>>>,
) -> std::io::Result<()> {
    if mode == Mode::Implicit {
        let stream = acceptor.accept(stream).await?;
        return session(stream, true, true, &mails).await.map(|_| ());
    }
    let offer = mode == Mode::StartTls;
    if let Some(stream) = session(stream, offer, false, &mails).await? {
        let stream = acceptor.accept(stream).await?;
        session(stream, false, true, &mails).await?;
    }
    Ok(())
}

/// Returns the stream where the client asked for STARTTLS.
async fn session<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    offer_tls: bool,
    secure: bool,
    mails: &Mutex<Vec<String>>,
) -> std::io::Result<Option<S>> {
    let mut stream = BufReader::new(stream);
    let after_starttls = secure && !offer_tls;
    if !after_starttls {
        stream.write_all(b"220 localhost ESMTP\r\n").await?;
    }
    let mut recipient = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(None);
        }
        let verb = line.trim_end().to_ascii_uppercase();
        let answer = if verb.starts_with("EHLO") {
            let starttls = if offer_tls && !secure { "250-STARTTLS\r\n" } else { "" };
            let auth = if secure { "250-AUTH PLAIN LOGIN\r\n" } else { "" };
            format!("250-localhost\r\n{starttls}{auth}250 8BITMIME")
        } else if verb == "STARTTLS" {
            stream.write_all(b"220 go ahead\r\n").await?;
            return Ok(Some(stream.into_inner()));
        } else if verb.starts_with("AUTH PLAIN") {
            use base64::Engine as _;
            let right = base64::engine::general_purpose::STANDARD.encode("\0tester\0s3cret");
            let given = line.trim_end().rsplit(' ').next().unwrap_or_default();
            if given == right { "235 2.7.0 welcome".into() } else { "535 5.7.8 wrong".into() }
        } else if verb.starts_with("RCPT") {
            recipient = line.split(['<', '@']).nth(1).unwrap_or_default().to_owned();
            at_rcpt(&recipient)
        } else if verb == "DATA" {
            stream.write_all(b"354 go ahead\r\n").await?;
            let mail = data(&mut stream).await?;
            match recipient.as_str() {
                "stall" => std::future::pending().await,
                "drop" => {
                    mails.lock().unwrap().push(mail);
                    return Ok(None);
                }
                other => match other.strip_prefix("data-") {
                    Some(code) => format!("{code} {}.0.0 as asked", &code[..1]),
                    None => {
                        mails.lock().unwrap().push(mail);
                        "250 2.0.0 stored".to_owned()
                    }
                },
            }
        } else {
            "250 2.0.0 fine".to_owned()
        };
        stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
    }
}

fn at_rcpt(recipient: &str) -> String {
    match recipient {
        "grey" => "451 4.7.1 greylisted, try later".into(),
        "busy" => "451 4.3.2 too many messages, slow down".into(),
        code if code.len() == 3 && code.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{code} {}.1.1 as asked", &code[..1])
        }
        _ => "250 2.1.5 fine".into(),
    }
}

async fn data<S: AsyncRead + Unpin>(stream: &mut BufReader<S>) -> std::io::Result<String> {
    let mut mail = String::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || line == ".\r\n" {
            return Ok(mail);
        }
        mail.push_str(&line);
    }
}

fn to(recipient: &str) -> Message {
    Message {
        id: "row-1".into(),
        receiver: "ops_mail".into(),
        integration: "email".into(),
        recipient: recipient.into(),
        kind: "new".into(),
        subject: "Cleared, not scanned: CN-ES".into(),
        body: include_str!("../mail_sample.json").into(),
        thread: "g1".into(),
        attempts: 0,
        created_ms: 1_760_425_830_000,
        due_ms: 1_760_425_830_000,
        standing: 0,
    }
}

async fn send(settings: EmailSettings, recipient: &str) -> Delivery {
    Email::new(settings).unwrap().deliver(&to(recipient), 0).await
}

#[track_caller]
fn failure(delivery: Delivery) -> Failure {
    match delivery {
        Delivery::Failed(failure) => failure,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_mail_threads_says_it_is_automatic_and_is_the_same_on_every_try() {
    let relay = Relay::new(Mode::Plain).await;
    let email = Email::new(relay.settings("smtp", "")).unwrap();
    for _ in 0..2 {
        assert_eq!(email.deliver(&to("ops@example.org"), 0).await, Delivery::Delivered);
    }
    let mails = relay.mails();
    assert_eq!(mails[0], mails[1], "a second try sends other bytes");
    for header in [
        "From: parcelwatch <watch@example.org>",
        "To: ops@example.org",
        "Subject: Cleared, not scanned: CN-ES",
        "Message-ID: <row-1@example.org>",
        "In-Reply-To: <group-g1@example.org>",
        "References: <group-g1@example.org>",
        "Auto-Submitted: auto-generated",
        "X-Auto-Response-Suppress: All",
        "List-Id: <ops_mail.parcelwatch.example.org>",
        "Date: Tue, 14 Oct 2025 07:10:30 +0000",
    ] {
        assert!(mails[0].lines().any(|l| l == header), "{header}\nis not in\n{}", mails[0]);
    }
    assert!(mails[0].contains("multipart/alternative"), "{}", mails[0]);
    let (text, html) = (mails[0].find("text/plain").unwrap(), mails[0].find("text/html").unwrap());
    assert!(text < html, "the text comes first, the richest part last");
    assert!(mails[0].lines().all(|l| l.len() <= 998), "a line is longer than SMTP allows");
}

#[tokio::test]
async fn a_mail_is_signed_as_it_arrives_and_alike_on_every_try() {
    use crate::notify::dkim::tests::{RSA, RSA_P, verified};
    let relay = Relay::new(Mode::Plain).await;
    let settings = |pem: &str| EmailSettings {
        dkim: Some(DkimSettings { domain: "example.org".into(), selector: "pw1".into(), pem: pem.into() }),
        ..relay.settings("smtp", "")
    };
    let email = Email::new(settings(RSA)).unwrap();
    let mut message = to("ops@example.org");
    // What mails are made of that canonical forms meet: letters beyond ASCII, long lines, lines that begin with a dot.
    message.subject = format!("Verspätet: {}", "CN-ES ".repeat(30));
    message.body = message.body.replace("O-77", ". .  \\t Ünterwegs");
    for _ in 0..2 {
        assert_eq!(email.deliver(&message, 0).await, Delivery::Delivered);
    }
    let mails = relay.mails();
    assert_eq!(mails[0], mails[1], "a second try sends other bytes");
    let arrived = mails[0].replace("\r\n..", "\r\n.");
    let tags = verified(&arrived, RSA_P).unwrap_or_else(|why| panic!("{why}\n{arrived}"));
    let of = |name: &str| tags[name].as_str();
    assert_eq!((of("d"), of("s"), of("t"), of("a")), ("example.org", "pw1", "1760425830", "rsa-sha256"));
    let signed: Vec<&str> = of("h").split(':').collect();
    for name in ["from", "to", "subject", "date", "message-id", "auto-submitted", "list-id", "references"] {
        assert!(signed.contains(&name), "{name} is not signed: {signed:?}");
    }
    assert!(!of("h").contains("received"), "{signed:?}");
    let no_key = Email::new(settings("hunter2")).err().unwrap().to_string();
    assert!(no_key.contains("smtp.dkim.key") && !no_key.contains("hunter2"), "{no_key}");
}

#[tokio::test]
async fn starttls_and_implicit_tls_with_a_login() {
    let login = Some(("tester".to_owned(), "s3cret".to_owned()));
    for (mode, scheme, query) in [(Mode::StartTls, "smtp", "?tls=required"), (Mode::Implicit, "smtps", "")] {
        let relay = Relay::new(mode).await;
        let settings = EmailSettings { login: login.clone(), ..relay.settings(scheme, query) };
        assert_eq!(send(settings.clone(), "ops@example.org").await, Delivery::Delivered, "{scheme}{query}");
        assert_eq!(relay.mails().len(), 1);
        let wrong = EmailSettings { login: Some(("tester".into(), "hunter2".into())), ..settings.clone() };
        let failed = failure(send(wrong, "ops@example.org").await);
        assert_eq!((failed.class, failed.scope), (FailureClass::Auth, Scope::Receiver), "{failed:?}");
        assert!(!failed.detail.contains("hunter2"), "{failed:?}");
        let stranger = EmailSettings { root_pem: None, ..settings };
        let failed = failure(send(stranger, "ops@example.org").await);
        assert_eq!(failed.class, FailureClass::Auth, "a certificate nobody vouches for: {failed:?}");
        assert_eq!(relay.mails().len(), 1);
    }
}

#[tokio::test]
async fn tls_that_is_wanted_and_not_offered_sends_nothing() {
    let relay = Relay::new(Mode::Plain).await;
    let failed = failure(send(relay.settings("smtp", "?tls=required"), "ops@example.org").await);
    assert_eq!(failed.class, FailureClass::Auth);
    assert!(failed.detail.contains("STARTTLS"), "{failed:?}");
    assert!(relay.mails().is_empty());
}

#[tokio::test]
async fn answers_are_classed() {
    use FailureClass::{Auth, OutcomeUnknown, Permanent, RateLimited, Transient};
    let relay = Relay::new(Mode::Plain).await;
    for (recipient, class, scope, floor) in [
        ("550", Permanent, Scope::Message, 0),
        ("553", Permanent, Scope::Message, 0),
        ("530", Auth, Scope::Receiver, 0),
        ("450", Transient, Scope::Message, 0),
        ("452", Transient, Scope::Message, 0),
        ("421", Transient, Scope::Receiver, 0),
        ("grey", Transient, Scope::Message, MINUTE),
        ("busy", RateLimited, Scope::Receiver, MINUTE),
        ("data-554", Permanent, Scope::Message, 0),
        ("data-451", Transient, Scope::Message, 0),
        ("drop", OutcomeUnknown, Scope::Receiver, 0),
    ] {
        let failed = failure(send(relay.settings("smtp", ""), &format!("{recipient}@example.org")).await);
        assert_eq!(
            (failed.class, failed.scope, failed.floor_ms),
            (class, scope, floor),
            "{recipient}: {failed:?}"
        );
    }
}

#[tokio::test]
async fn a_server_that_stalls_after_the_data_is_given_up_and_its_outcome_is_unknown() {
    let relay = Relay::new(Mode::Plain).await;
    let settings = EmailSettings { total: Duration::from_millis(300), ..relay.settings("smtp", "") };
    let failed = failure(send(settings, "stall@example.org").await);
    assert_eq!((failed.class, failed.scope), (FailureClass::OutcomeUnknown, Scope::Receiver), "{failed:?}");
}

#[tokio::test]
async fn nobody_there_is_transient() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    let settings = EmailSettings::new(format!("smtp://127.0.0.1:{port}"), "watch@example.org");
    let failed = failure(send(settings, "ops@example.org").await);
    assert_eq!((failed.class, failed.scope), (FailureClass::Transient, Scope::Receiver), "{failed:?}");
}

#[tokio::test]
async fn what_is_no_address_is_permanent_and_injects_nothing() {
    let relay = Relay::new(Mode::Plain).await;
    for recipient in
        ["", "ops", "ops@example.org\r\nBcc: all@example.org", "ops@example.org, more@example.org"]
    {
        let failed = failure(send(relay.settings("smtp", ""), recipient).await);
        assert_eq!((failed.class, failed.scope), (FailureClass::Permanent, Scope::Message), "{recipient:?}");
    }
    let mut message = to("ops@example.org");
    message.subject = "late\r\nBcc: all@example.org".into();
    message.id = "row 1>\r\nX-Evil: 1".into();
    let email = Email::new(relay.settings("smtp", "")).unwrap();
    assert_eq!(email.deliver(&message, 0).await, Delivery::Delivered);
    let mail = relay.mails().remove(0);
    assert!(!mail.lines().any(|l| l.starts_with("Bcc:") || l.starts_with("X-Evil")), "{mail}");
}

#[tokio::test]
async fn a_body_that_cannot_be_read_goes_out_plain() {
    let relay = Relay::new(Mode::Plain).await;
    let mut message = to("ops@example.org");
    message.body = "[1, 2]".into();
    let email = Email::new(relay.settings("smtp", "")).unwrap();
    let delivered = email.deliver(&message, 0).await;
    assert!(
        matches!(&delivered, Delivery::DeliveredPlain(why) if why.contains("cannot be read")),
        "{delivered:?}"
    );
    assert!(relay.mails()[0].contains("[1, 2]"));
}

#[tokio::test]
async fn a_link_is_in_mails_that_one_can_act_on() {
    let link_key = Some(LinkKey::new([1; 32]));
    let settings = EmailSettings {
        public_url: Some("https://watch.example.org/".into()),
        link_key,
        ..EmailSettings::new("smtp://localhost", "watch@example.org")
    };
    let email = Email::new(settings).unwrap();
    let message = to("ops@example.org");
    let (url, until) = email.link(Purpose::Acknowledge, &message).unwrap();
    assert!(url.starts_with("https://watch.example.org/ack?m=row-1&e="), "{url}");
    assert_eq!(until.to_string(), "2025-10-21T07:10:30Z");
    for kind in ["resolved", "test"] {
        assert_eq!(
            email.link(Purpose::Acknowledge, &Message { kind: kind.into(), ..message.clone() }),
            None,
            "{kind}"
        );
    }
}

#[test]
fn urls_say_how_the_connection_is_protected() {
    let ok = |text: &str| server(text).map_err(|e| e.to_string());
    let is = |host: &str, port, security| Ok(Server { host: host.into(), port, security });
    assert_eq!(ok("smtp://mail.example.org"), is("mail.example.org", 25, Security::None));
    assert_eq!(ok("smtp://mail.example.org:2525/"), is("mail.example.org", 2525, Security::None));
    assert_eq!(ok("smtp://mail.example.org?tls=required"), is("mail.example.org", 587, Security::StartTls));
    assert_eq!(ok("smtps://mail.example.org"), is("mail.example.org", 465, Security::Implicit));
    assert_eq!(ok("smtp://[::1]:25"), is("::1", 25, Security::None));
    for (text, says) in [
        ("smtp://mail.example.org?tls=opportunistic", "stripped"),
        ("smtp://mail.example.org?tls=maybe", "maybe"),
        ("smtp://mail.example.org?starttls=1", "starttls"),
        ("http://mail.example.org", "http"),
        ("mail.example.org:25", "names no host"),
        ("smtp://user:hunter2@mail.example.org", "smtp.username"),
        ("smtp://mail.example.org/path", "path"),
        ("", "smtp://host:port"),
    ] {
        let refused = ok(text).unwrap_err();
        assert!(refused.contains(says) && !refused.contains("hunter2"), "{text}: {refused}");
    }
}

#[tokio::test]
async fn a_password_does_not_cross_a_network_in_the_clear() {
    let login = Some(("u".to_owned(), "hunter2".to_owned()));
    let settings =
        |url: &str| EmailSettings { login: login.clone(), ..EmailSettings::new(url, "w@example.org") };
    assert!(matches!(Email::new(settings("smtp://mail.example.org")), Err(EmailError::LoginInTheClear)));
    for url in ["smtp://127.0.0.1", "smtp://localhost", "smtp://mail.example.org?tls=required"] {
        assert!(Email::new(settings(url)).is_ok(), "{url}");
    }
    let wrong = EmailSettings::new("smtp://localhost", "not an address");
    assert!(matches!(Email::new(wrong), Err(EmailError::From(_))));
}

#[test]
fn enhanced_codes_are_read_where_they_are() {
    assert_eq!(enhanced_status("4.7.1 greylisted"), Some((4, 7)));
    assert_eq!(enhanced_status("5.1.1"), Some((5, 1)));
    for none in ["", "try later", "4.7", "4.7.1.2 x", "9.1.1 x", "192.168.1.1 x", "a.b.c"] {
        assert_eq!(enhanced_status(none), None, "{none}");
    }
}
