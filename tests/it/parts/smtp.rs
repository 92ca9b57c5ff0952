//! An SMTP server that misbehaves on demand. The local part of the recipient says how, so that tests may share one server:
//!
//! | recipient | what happens |
//! |---|---|
//! | `r550@` | RCPT is answered 550; so with any code |
//! | `grey-N@` | 451 for the first N tries of this recipient, then accepted |
//! | `slow-MS@` | RCPT is answered after MS milliseconds |
//! | `drop-rcpt@` | the connection is closed at RCPT |
//! | `data-554@` | the whole message is answered 554 after DATA; so with any code |
//! | `drop@` | the message is read and thrown away, the connection closed before the last answer |
//! | `drop-ack@` | the message is *kept*, the connection closed before the 250: the sender cannot know |
//! | `drop-ack-N@` | so for the first N messages, the next ones are acknowledged |
//! | `slowack-MS@` | kept, and acknowledged after MS milliseconds |
//! | `stall@` | the message is read, and nothing is ever answered |
//!
//! Anything else is accepted. Kept messages can be waited for.

use super::{Caught, PATIENCE, lock, tls};
use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

pub const USER: &str = "tester";
pub const PASSWORD: &str = "s3cret";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Security {
    #[default]
    None,
    StartTls,
    Implicit,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    pub tls: Security,
    /// Mail is refused (530) until [`USER`] logs in, by PLAIN or LOGIN.
    pub auth: bool,
}

/// A message as it was handed over. Headers keep their encoding; [`Mail::part`] undoes that of the body.
#[derive(Clone, Debug)]
pub struct Mail {
    pub from: String,
    pub to: Vec<String>,
    pub tls: bool,
    pub authenticated: bool,
    /// Unfolded; names as they were sent.
    pub headers: Vec<(String, String)>,
    pub body: String,
    /// Nothing undone: headers and body, lines end with CR LF.
    pub raw: String,
    pub at: Instant,
}

pub struct SmtpServer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    options: Options,
    mails: Caught<Mail>,
    /// Every command of every connection, without what follows AUTH.
    commands: Caught<String>,
    tries: Mutex<HashMap<String, usize>>,
    connections: Mutex<Vec<TcpStream>>,
    connected: AtomicUsize,
    closing: AtomicBool,
}

impl SmtpServer {
    pub fn start(options: Options) -> SmtpServer {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared { options, ..Shared::default() });
        let state = shared.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if state.closing.load(Ordering::SeqCst) {
                    return; // and the listener with it: the next one is refused
                }
                state.connected.fetch_add(1, Ordering::SeqCst);
                lock(&state.connections).extend(stream.try_clone());
                let state = state.clone();
                std::thread::spawn(move || {
                    // An error is a client that went away; what it was told before is what counts.
                    let _ = serve(&state, &stream);
                    // Said outright, since the list of connections holds the socket open.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        SmtpServer { address, shared }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// As `smtp.url` wants it.
    pub fn url(&self) -> String {
        match self.shared.options.tls {
            Security::None => format!("smtp://127.0.0.1:{}", self.port()),
            Security::StartTls => format!("smtp://localhost:{}?tls=required", self.port()),
            Security::Implicit => format!("smtps://localhost:{}", self.port()),
        }
    }

    pub fn mails(&self) -> Vec<Mail> {
        self.shared.mails.all()
    }

    pub fn mails_to(&self, recipient: &str) -> Vec<Mail> {
        self.mails().into_iter().filter(|m| m.to.iter().any(|to| to == recipient)).collect()
    }

    /// Waits until at least `n` messages were kept.
    pub fn wait_for(&self, n: usize) -> Vec<Mail> {
        self.wait_until(&format!("{n} mails"), PATIENCE, |mails| (mails.len() >= n).then(|| mails.to_vec()))
    }

    /// Waits until `pick` finds in all kept so far what the test is after.
    pub fn wait_until<R>(&self, what: &str, within: Duration, pick: impl FnMut(&[Mail]) -> Option<R>) -> R {
        self.shared.mails.wait(within, pick).unwrap_or_else(|| {
            let got: Vec<_> = self.mails().iter().map(|m| format!("{:?}: {}", m.to, m.subject())).collect();
            let said = self.shared.commands.all().join("\n");
            panic!("waited {within:?} in vain for {what}; got {got:#?}\ncommands:\n{said}")
        })
    }

    /// Waits until a client gave a command that begins so: to act in the middle of a conversation.
    pub fn wait_command(&self, prefix: &str) {
        let seen = |all: &[String]| all.iter().any(|c| c.starts_with(prefix)).then_some(());
        let found = self.shared.commands.wait(PATIENCE, seen);
        found.unwrap_or_else(|| panic!("no {prefix} within {PATIENCE:?}: {:?}", self.shared.commands.all()));
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.shared.connected.load(Ordering::SeqCst)
    }

    /// How often a recipient was named in RCPT.
    pub fn tries(&self, recipient: &str) -> usize {
        lock(&self.shared.tries).get(recipient).copied().unwrap_or(0)
    }

    pub fn forget(&self) {
        self.shared.mails.clear();
    }
}

impl Drop for SmtpServer {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Mail {
    pub fn parse(raw: &str) -> Mail {
        let (head, body) = raw.split_once("\r\n\r\n").or_else(|| raw.split_once("\n\n")).unwrap_or((raw, ""));
        Mail {
            from: String::new(),
            to: Vec::new(),
            tls: false,
            authenticated: false,
            headers: headers(head),
            body: body.to_owned(),
            raw: raw.to_owned(),
            at: Instant::now(),
        }
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        super::http::find(&self.headers, name)
    }

    pub fn subject(&self) -> &str {
        self.header("subject").unwrap_or("")
    }

    pub fn message_id(&self) -> &str {
        self.header("message-id").unwrap_or_else(|| panic!("no Message-ID in\n{}", self.raw))
    }

    /// The text of a part by its media type (`text/plain`, `text/html`), quoted-printable and base64 undone.
    pub fn part(&self, media_type: &str) -> Option<String> {
        find_part(&self.headers, &self.body, media_type)
    }
}

fn headers(head: &str) -> Vec<(String, String)> {
    let mut headers: Vec<(String, String)> = Vec::new();
    for line in head.lines() {
        match (line.strip_prefix([' ', '\t']), headers.last_mut()) {
            (Some(more), Some((_, value))) => *value += &format!(" {}", more.trim_start()),
            _ => {
                let (name, value) = line.split_once(':').unwrap_or((line, ""));
                headers.push((name.to_owned(), value.trim().to_owned()));
            }
        }
    }
    headers
}

fn find_part(headers: &[(String, String)], body: &str, media_type: &str) -> Option<String> {
    let content_type = super::http::find(headers, "content-type").unwrap_or("text/plain");
    if content_type.starts_with("multipart/") {
        let boundary = content_type.split("boundary=").nth(1)?.split(';').next()?.trim().trim_matches('"');
        let separator = format!("--{boundary}");
        return body.split(&separator).skip(1).find_map(|part| {
            let part = part.trim_start_matches("\r\n").trim_start_matches('\n');
            let (head, body) = part.split_once("\r\n\r\n").or_else(|| part.split_once("\n\n"))?;
            find_part(&self::headers(head), body, media_type)
        });
    }
    if !content_type.starts_with(media_type) {
        return None;
    }
    let encoding = super::http::find(headers, "content-transfer-encoding").unwrap_or("7bit");
    Some(match encoding.to_ascii_lowercase().as_str() {
        "quoted-printable" => unquote(body),
        "base64" => {
            use base64::Engine;
            let packed: String = body.split_whitespace().collect();
            let bytes = base64::engine::general_purpose::STANDARD.decode(packed).unwrap();
            String::from_utf8(bytes).unwrap()
        }
        _ => body.to_owned(),
    })
}

fn unquote(body: &str) -> String {
    let mut bytes = Vec::new();
    let joined = body.replace("=\r\n", "").replace("=\n", "");
    let mut rest = joined.as_bytes();
    while let [first, more @ ..] = rest {
        let code = more.get(..2).and_then(|h| u8::from_str_radix(std::str::from_utf8(h).ok()?, 16).ok());
        match (first, code) {
            (b'=', Some(byte)) => {
                bytes.push(byte);
                rest = &more[2..];
            }
            _ => {
                bytes.push(*first);
                rest = more;
            }
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// A connection, in the clear or under TLS.
trait Wire: Read + Write {}
impl<T: Read + Write> Wire for T {}

/// What a connection is told by the behaviour of a recipient.
enum Next {
    Answer(String),
    Close,
    /// Never answer; the client gives up or the server is dropped.
    Stall,
}

fn answer(text: &str) -> Next {
    Next::Answer(text.to_owned())
}

struct Session<'a> {
    shared: &'a Shared,
    tls: bool,
    authenticated: bool,
    from: String,
    to: Vec<String>,
}

fn serve(shared: &Shared, stream: &TcpStream) -> std::io::Result<()> {
    let mut session =
        Session { shared, tls: false, authenticated: false, from: String::new(), to: Vec::new() };
    if shared.options.tls != Security::Implicit {
        let mut plain = BufReader::new(stream);
        say(&mut plain, "220 localhost ESMTP")?;
        if !session.talk(&mut plain)? {
            return Ok(());
        }
    }
    let tls = rustls::ServerConnection::new(tls::certificate().server()).map_err(std::io::Error::other)?;
    session.tls = true;
    let mut secure = BufReader::new(rustls::StreamOwned::new(tls, stream));
    if shared.options.tls == Security::Implicit {
        say(&mut secure, "220 localhost ESMTP")?;
    }
    session.talk(&mut secure).map(|_| ())
}

fn say(wire: &mut BufReader<impl Wire>, line: &str) -> std::io::Result<()> {
    wire.get_mut().write_all(format!("{line}\r\n").as_bytes())?;
    wire.get_mut().flush()
}

fn hear(wire: &mut BufReader<impl Wire>) -> std::io::Result<String> {
    let mut line = Vec::new();
    if wire.read_until(b'\n', &mut line)? == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    Ok(String::from_utf8_lossy(&line).trim_end_matches(['\r', '\n']).to_owned())
}

impl Session<'_> {
    /// True when the conversation is to go on under TLS.
    fn talk(&mut self, wire: &mut BufReader<impl Wire>) -> std::io::Result<bool> {
        let options = self.shared.options;
        loop {
            let line = hear(wire)?;
            let verb = line.split(' ').next().unwrap_or("").to_ascii_uppercase();
            self.shared.commands.push(if verb == "AUTH" { verb.clone() } else { line.clone() });
            let next = match verb.as_str() {
                "EHLO" | "HELO" => {
                    say(wire, "250-localhost")?;
                    if options.tls == Security::StartTls && !self.tls {
                        say(wire, "250-STARTTLS")?;
                    }
                    if options.auth && (self.tls || options.tls == Security::None) {
                        say(wire, "250-AUTH PLAIN LOGIN")?;
                    }
                    answer("250 SMTPUTF8")
                }
                "STARTTLS" if options.tls == Security::StartTls && !self.tls => {
                    say(wire, "220 go ahead")?;
                    return Ok(true);
                }
                "AUTH" => self.login(wire, &line)?,
                "MAIL" if options.tls == Security::StartTls && !self.tls => {
                    answer("530 5.7.0 STARTTLS first")
                }
                "MAIL" if options.auth && !self.authenticated => answer("530 5.7.0 authenticate first"),
                "MAIL" => {
                    self.from = address(&line);
                    self.to.clear();
                    answer("250 2.1.0 OK")
                }
                "RCPT" => self.recipient(address(&line)),
                "DATA" if self.to.is_empty() => answer("554 5.5.1 no valid recipients"),
                "DATA" => {
                    say(wire, "354 go ahead")?;
                    let mut raw = String::new();
                    loop {
                        let line = hear(wire)?;
                        if line == "." {
                            break;
                        }
                        raw += line.strip_prefix('.').unwrap_or(&line);
                        raw += "\r\n";
                    }
                    self.message(&raw)
                }
                "RSET" | "NOOP" => answer("250 2.0.0 OK"),
                "QUIT" => {
                    say(wire, "221 2.0.0 bye")?;
                    return Ok(false);
                }
                _ => answer("500 5.5.2 what?"),
            };
            match next {
                Next::Answer(line) => say(wire, &line)?,
                Next::Close => return Ok(false),
                Next::Stall => drop(hear(wire)?),
            }
        }
    }

    fn login(&mut self, wire: &mut BufReader<impl Wire>, line: &str) -> std::io::Result<Next> {
        use base64::Engine;
        let decode = |text: &str| {
            let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap_or_default();
            String::from_utf8_lossy(&bytes).into_owned()
        };
        let mut words = line.split(' ').skip(1);
        let mechanism = words.next().unwrap_or("").to_ascii_uppercase();
        let mut ask = |prompt: &str, given: Option<&str>| match given {
            Some(text) => Ok(decode(text)),
            None => {
                say(wire, prompt)?;
                hear(wire).map(|text| decode(&text))
            }
        };
        let (user, password) = match mechanism.as_str() {
            "PLAIN" => {
                let text = ask("334 ", words.next())?;
                let mut parts = text.split('\0').skip(1).map(str::to_owned);
                (parts.next().unwrap_or_default(), parts.next().unwrap_or_default())
            }
            "LOGIN" => (ask("334 VXNlcm5hbWU6", words.next())?, ask("334 UGFzc3dvcmQ6", None)?),
            _ => return Ok(answer("504 5.5.4 mechanism not known")),
        };
        self.authenticated = user == USER && password == PASSWORD;
        Ok(answer(match self.authenticated {
            true => "235 2.7.0 welcome",
            false => "535 5.7.8 wrong user or password",
        }))
    }

    fn recipient(&mut self, to: String) -> Next {
        let tries = {
            let mut tries = lock(&self.shared.tries);
            let tries = tries.entry(to.clone()).or_default();
            *tries += 1;
            *tries
        };
        let local = to.split('@').next().unwrap_or("").to_owned();
        if let Some(code) = number(&local, "r") {
            return answer(&format!("{code} {}.0.0 as asked", code / 100));
        }
        if number(&local, "grey-").is_some_and(|n| tries <= n) {
            return answer("451 4.7.1 greylisted, try later");
        }
        if let Some(ms) = number(&local, "slow-") {
            std::thread::sleep(Duration::from_millis(ms as u64));
        }
        if local == "drop-rcpt" {
            return Next::Close;
        }
        self.to.push(to);
        answer("250 2.1.5 OK")
    }

    fn message(&mut self, raw: &str) -> Next {
        let locals: Vec<String> =
            self.to.iter().map(|to| to.split('@').next().unwrap_or("").to_owned()).collect();
        let any = |prefix| locals.iter().find_map(|l| number(l, prefix));
        let named = |name| locals.iter().any(|l| l == name);
        if let Some(code) = any("data-") {
            return answer(&format!("{code} {}.0.0 as asked", code / 100));
        }
        if named("stall") {
            return Next::Stall;
        }
        if named("drop") {
            return Next::Close;
        }
        let mut mail = Mail::parse(raw);
        mail.from.clone_from(&self.from);
        mail.to = std::mem::take(&mut self.to);
        (mail.tls, mail.authenticated) = (self.tls, self.authenticated);
        let before = self.shared.mails.all().iter().filter(|m| m.to == mail.to).count();
        self.shared.mails.push(mail);
        if named("drop-ack") || any("drop-ack-").is_some_and(|n| before < n) {
            return Next::Close;
        }
        if let Some(ms) = any("slowack-") {
            std::thread::sleep(Duration::from_millis(ms as u64));
        }
        answer("250 2.0.0 kept")
    }
}

fn number(local: &str, prefix: &str) -> Option<usize> {
    local.strip_prefix(prefix)?.parse().ok()
}

/// `a@b` of `MAIL FROM:<a@b> SIZE=1`.
fn address(line: &str) -> String {
    line.split('<').nth(1).and_then(|rest| rest.split('>').next()).unwrap_or("").to_owned()
}
