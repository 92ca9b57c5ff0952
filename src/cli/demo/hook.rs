//! A webhook receiver that checks what it gets: Standard Webhooks headers, the signature, the body.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::Value;
use sha2::Sha256;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::inbox::{Arrival, Inbox, Notice};

const HEAD: usize = 16 << 10;
const BODY: usize = 1 << 20;
const IDLE: Duration = Duration::from_secs(120);

/// Takes connections until the task is dropped. `key` is what the sender signs with.
pub async fn serve(listener: TcpListener, key: Vec<u8>, inbox: Inbox) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(connection(stream, key.clone(), inbox.clone()))),
            Err(error) => {
                tracing::warn!(%error, "the embedded webhook receiver cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// One POST.
struct Request {
    head: String,
    body: Vec<u8>,
}

impl Request {
    fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

async fn connection(mut stream: TcpStream, key: Vec<u8>, inbox: Inbox) -> std::io::Result<()> {
    let (read, mut write) = stream.split();
    let mut read = BufReader::new(read);
    while let Ok(Some(request)) = tokio::time::timeout(IDLE, request(&mut read)).await? {
        let answer: &[u8] = match check(&request, &key) {
            Ok(arrival) => {
                inbox.put(arrival);
                b"HTTP/1.1 204 No Content\r\n\r\n"
            }
            Err(fault) => {
                inbox.fault(format!("a webhook: {fault}"));
                b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
            }
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

/// The next request; `None` where the client is gone or asks for more than a webhook does.
async fn request<R: AsyncBufReadExt + Unpin>(read: &mut R) -> std::io::Result<Option<Request>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let left = HEAD.saturating_sub(head.len()) as u64;
        if (&mut *read).take(left).read_until(b'\n', &mut head).await? == 0 {
            return Ok(None);
        }
    }
    let mut request = Request { head: String::from_utf8_lossy(&head).into_owned(), body: Vec::new() };
    let Some(length) = request.header("content-length").and_then(|n| n.parse::<usize>().ok()) else {
        return Ok(None);
    };
    if length > BODY {
        return Ok(None);
    }
    request.body.resize(length, 0);
    read.read_exact(&mut request.body).await?;
    Ok(Some(request))
}

fn check(request: &Request, key: &[u8]) -> Result<Arrival, String> {
    if !request.head.starts_with("POST ") {
        return Err(format!("{} is no POST", request.head.lines().next().unwrap_or_default()));
    }
    let header = |name: &str| request.header(name).ok_or_else(|| format!("it has no {name}"));
    let (id, timestamp) = (header("webhook-id")?, header("webhook-timestamp")?);
    let mut mac = Hmac::<Sha256>::new_from_slice(key).map_err(|e| e.to_string())?;
    mac.update(format!("{id}.{timestamp}.").as_bytes());
    mac.update(&request.body);
    let signed = header("webhook-signature")?
        .split(' ')
        .filter_map(|s| STANDARD.decode(s.strip_prefix("v1,")?).ok())
        .any(|s| mac.clone().verify_slice(&s).is_ok());
    if !signed {
        return Err(format!("{id} is not signed with our key"));
    }
    let body: Value = serde_json::from_slice(&request.body).map_err(|e| format!("{id}: {e}"))?;
    let data = &body["data"];
    if data["notification_id"] != id {
        return Err(format!("{id} says it is {}", data["notification_id"]));
    }
    let listed = data["exceptions"].as_array().ok_or_else(|| format!("{id} lists no exceptions"))?;
    Ok(Arrival {
        id: id.to_owned(),
        recipient: String::new(),
        title: text(&body["type"]),
        step: data["step"].as_u64(),
        notices: listed.iter().map(notice).collect(),
    })
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn notice(listed: &Value) -> Notice {
    Notice {
        exception_id: text(&listed["exception_id"]),
        parcel_id: text(&listed["parcel_id"]),
        change: text(&listed["change"]),
        severity: text(&listed["severity"]),
        news: Some((listed["stage"].as_u64().unwrap_or(0), text(&listed["at"]))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::clock::FastClock;
    use crate::model::Time;

    const KEY: &[u8] = b"0123456789abcdef0123456789abcdef";
    const SENT: &str = r#"{"type":"exceptions.opened","data":{"notification_id":"n1","step":1,"exceptions":[
        {"exception_id":"aa","parcel_id":"P-1","change":"opened","severity":"high","stage":2,"at":"2026-11-02T00:00:00Z"}]}}"#;

    fn signed(body: &str, key: &[u8]) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(b"n1.7.");
        mac.update(body.as_bytes());
        let signature = STANDARD.encode(mac.finalize().into_bytes());
        let length = body.len();
        format!(
            "POST /hook HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\nwebhook-id: n1\r\nWebhook-Timestamp: 7\r\n\
             webhook-signature: v1,AAAA v1,{signature}\r\n\r\n{body}"
        )
    }

    #[tokio::test]
    async fn what_is_signed_arrives_and_what_is_not_is_a_fault() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let inbox = Inbox::new(FastClock::new(Time(0), 1));
        let server = tokio::spawn(serve(listener, KEY.to_vec(), inbox.clone()));
        let mut client = TcpStream::connect(at).await.unwrap();
        let talk = [signed(SENT, KEY), signed(SENT, KEY), signed(SENT, &[1; 32])].concat();
        client.write_all(talk.as_bytes()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        assert_eq!(said.matches("204").count(), 2);
        assert_eq!(said.matches("400").count(), 1);
        assert_eq!(inbox.counts(), (0, 1, 1));
        assert_eq!(inbox.faults(), ["a webhook: n1 is not signed with our key"]);
        let notice = &inbox.since(0)[0].1.notices[0];
        assert_eq!(
            (notice.change.as_str(), &notice.news),
            ("opened", &Some((2, "2026-11-02T00:00:00Z".to_owned())))
        );
        server.abort();
    }
}
