//! An HTTP server that catches webhooks and answers as the path or a script says:
//!
//! | path | answer |
//! |---|---|
//! | `/ok`, and whatever is not below | 200 |
//! | `/500`, `/410`, any code | that code |
//! | `/429?retry_after=2` | the code with a `Retry-After` header, as it stands |
//! | `/301?to=URL` | the code with a `Location` header; `/ok` of this server without `to` |
//! | `/hang` | none, ever |
//! | `/close` | none, the connection is closed |
//!
//! [`Webhooks::script`] gives a path a row of answers for its next requests.

use super::http::{find, read_chunks, read_exact, read_headers, read_line};
use super::{Caught, PATIENCE, lock};
use std::collections::{HashMap, VecDeque};
use std::io::{BufReader, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

#[derive(Clone, Debug)]
pub enum Answer {
    Status(u16),
    /// Status, headers, body.
    Full(u16, Vec<(String, String)>, String),
    /// The usual answer, so much later.
    Slow(Duration),
    Hang,
    Close,
}

/// A request as it came in.
#[derive(Clone, Debug)]
pub struct Hook {
    pub method: String,
    /// With its query.
    pub path: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    pub at: Instant,
}

pub struct Webhooks {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    hooks: Caught<Hook>,
    scripts: Mutex<HashMap<String, VecDeque<Answer>>>,
    connections: Mutex<Vec<TcpStream>>,
    connected: AtomicUsize,
    closing: AtomicBool,
}

impl Webhooks {
    pub fn start() -> Webhooks {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
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
                    // An error is a client that went away.
                    let _ = serve(&state, &stream, address);
                    // Said outright, since the list of connections holds the socket open.
                    let _ = stream.shutdown(Shutdown::Both);
                });
            }
        });
        Webhooks { address, shared }
    }

    /// `http://127.0.0.1:PORT` and the path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// The next requests for `path` (without query) are answered so, one after the other; later ones as usual.
    pub fn script(&self, path: &str, answers: impl IntoIterator<Item = Answer>) {
        lock(&self.shared.scripts).entry(path.to_owned()).or_default().extend(answers);
    }

    /// Ends what `script` began.
    pub fn unscript(&self, path: &str) {
        lock(&self.shared.scripts).remove(path);
    }

    /// All requests so far, whatever they were answered.
    pub fn hooks(&self) -> Vec<Hook> {
        self.shared.hooks.all()
    }

    pub fn hooks_at(&self, path: &str) -> Vec<Hook> {
        self.hooks().into_iter().filter(|h| h.path == path).collect()
    }

    /// Waits until at least `n` requests came in.
    pub fn wait_for(&self, n: usize) -> Vec<Hook> {
        self.wait_until(&format!("{n} webhooks"), PATIENCE, |hooks| {
            (hooks.len() >= n).then(|| hooks.to_vec())
        })
    }

    /// Waits until `pick` finds in all requests so far what the test is after.
    pub fn wait_until<R>(&self, what: &str, within: Duration, pick: impl FnMut(&[Hook]) -> Option<R>) -> R {
        self.shared.hooks.wait(within, pick).unwrap_or_else(|| {
            let got: Vec<String> = self.hooks().iter().map(Hook::summary).collect();
            panic!("waited {within:?} in vain for {what}; got\n{}", got.join("\n"))
        })
    }

    /// How often somebody connected.
    pub fn connections(&self) -> usize {
        self.shared.connected.load(Ordering::SeqCst)
    }

    pub fn forget(&self) {
        self.shared.hooks.clear();
    }
}

impl Drop for Webhooks {
    fn drop(&mut self) {
        self.shared.closing.store(true, Ordering::SeqCst);
        let _ = TcpStream::connect(self.address);
        for connection in lock(&self.shared.connections).drain(..) {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }
}

impl Hook {
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The `webhook-id`: the same on every try of one notification.
    pub fn id(&self) -> &str {
        self.header("webhook-id").unwrap_or_else(|| panic!("no webhook-id: {}", self.summary()))
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("no JSON ({e}): {}", self.summary()))
    }

    /// The signature by the Standard Webhooks library, which also wants the timestamp to be of the last five minutes.
    pub fn verify(&self, secret: &str) -> Result<(), String> {
        let mut headers = reqwest::header::HeaderMap::new();
        for (name, value) in &self.headers {
            if let (Ok(name), Ok(value)) = (reqwest::header::HeaderName::try_from(name), value.parse()) {
                headers.append(name, value);
            }
        }
        let verifier = standardwebhooks::Webhook::new(secret).map_err(|e| e.to_string())?;
        verifier.verify(&self.body, &headers).map_err(|e| e.to_string())
    }

    fn summary(&self) -> String {
        format!("{} {} {}", self.method, self.path, String::from_utf8_lossy(&self.body))
    }
}

fn serve(shared: &Shared, stream: &TcpStream, address: SocketAddr) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    loop {
        let line = read_line(&mut reader)?;
        let mut words = line.split(' ').map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let headers = read_headers(&mut reader)?;
        let body = match find(&headers, "content-length") {
            Some(length) => read_exact(&mut reader, length.parse().unwrap_or(0))?,
            None if find(&headers, "transfer-encoding").is_some() => read_chunks(&mut reader)?,
            None => Vec::new(),
        };
        let (name, query) = path.split_once('?').unwrap_or((&path, ""));
        // Taken before the request is shown to anybody who waits, and who may then write the next script.
        let scripted = lock(&shared.scripts).get_mut(name).and_then(VecDeque::pop_front);
        let answer = match scripted {
            Some(Answer::Slow(delay)) => Err(delay),
            Some(answer) => Ok(answer),
            None => Err(Duration::ZERO),
        };
        let usual = usual(name, query, address);
        shared.hooks.push(Hook { method, path, headers, body, at: Instant::now() });
        let answer = answer.unwrap_or_else(|delay| {
            std::thread::sleep(delay);
            usual
        });
        let (status, headers, body) = match answer {
            Answer::Status(status) => (status, Vec::new(), String::new()),
            Answer::Full(status, headers, body) => (status, headers, body),
            Answer::Close | Answer::Slow(_) => return Ok(()),
            Answer::Hang => {
                // Until the client gives up, or the server is dropped and shuts the connection.
                let _ = read_line(&mut reader);
                return Ok(());
            }
        };
        let headers: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        let length = body.len();
        let text = format!("HTTP/1.1 {status} as asked\r\nContent-Length: {length}\r\n{headers}\r\n{body}");
        (&mut &*stream).write_all(text.as_bytes())?;
    }
}

/// What a path is answered without a script.
fn usual(name: &str, query: &str, address: SocketAddr) -> Answer {
    let parameter = |key: &str| {
        query.split('&').find_map(|p| p.strip_prefix(key)?.strip_prefix('=')).map(ToOwned::to_owned)
    };
    match name {
        "/hang" => return Answer::Hang,
        "/close" => return Answer::Close,
        _ => {}
    }
    let Some(status) = name.strip_prefix('/').and_then(|code| code.parse().ok()) else {
        return Answer::Status(200);
    };
    let mut headers = Vec::new();
    if let Some(after) = parameter("retry_after") {
        headers.push(("Retry-After".to_owned(), after.replace("%20", " ")));
    }
    if (300..400).contains(&status) {
        let to = parameter("to").unwrap_or_else(|| format!("http://{address}/ok"));
        headers.push(("Location".to_owned(), to));
    }
    Answer::Full(status, headers, String::new())
}
