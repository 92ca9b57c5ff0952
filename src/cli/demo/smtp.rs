//! A mail server that delivers nowhere: it takes every mail and reads what it says.
//!
//! RFC 5321 as far as a submitting client goes: EHLO, HELO, MAIL, RCPT, DATA, RSET, NOOP, QUIT. Lines and mails are bounded.

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};

use super::inbox::{Arrival, Inbox, Notice};

const LINE: u64 = 4 << 10;
const MAIL: usize = 4 << 20;

/// Takes connections until the task is dropped.
pub async fn serve(listener: TcpListener, inbox: Inbox) {
    loop {
        match listener.accept().await {
            // A connection that breaks is the client's to try again.
            Ok((stream, _)) => drop(tokio::spawn(session(stream, inbox.clone()))),
            Err(error) => {
                tracing::warn!(%error, "the embedded mail server cannot accept a connection");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

/// One line without its end; `None` when the client is gone or the line is too long.
async fn line<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> std::io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    (&mut *from).take(LINE).read_until(b'\n', &mut line).await?;
    if line.pop() != Some(b'\n') {
        return Ok(None);
    }
    if line.last() == Some(&b'\r') {
        line.pop();
    }
    Ok(Some(line))
}

async fn session(stream: TcpStream, inbox: Inbox) -> std::io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    let mut sender = false;
    let mut recipients: Vec<String> = Vec::new();
    write.write_all(b"220 parcelwatch demo\r\n").await?;
    while let Some(command) = line(&mut read).await? {
        let text = String::from_utf8_lossy(&command).into_owned();
        let verb = text.get(..4).unwrap_or(&text).to_ascii_uppercase();
        let answer = match verb.as_str() {
            "EHLO" => "250-parcelwatch demo\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n250 SIZE 4194304\r\n",
            "HELO" | "NOOP" => "250 ok\r\n",
            "MAIL" => {
                (sender, recipients) = (true, Vec::new());
                "250 ok\r\n"
            }
            "RCPT" => match address(&text) {
                Some(_) if !sender || recipients.len() >= 100 => "503 no sender, or too many recipients\r\n",
                Some(to) => {
                    recipients.push(to.to_owned());
                    "250 ok\r\n"
                }
                None => "501 no address\r\n",
            },
            "DATA" if recipients.is_empty() => "503 nobody to send to\r\n",
            "DATA" => {
                write.write_all(b"354 go on\r\n").await?;
                let Some(mail) = data(&mut read).await? else { return Ok(()) };
                for to in recipients.drain(..) {
                    match read_mail(&mail, &to) {
                        Ok(arrival) => inbox.put(arrival),
                        Err(fault) => inbox.fault(format!("a mail to {to}: {fault}")),
                    }
                }
                sender = false;
                "250 taken\r\n"
            }
            "RSET" => {
                (sender, recipients) = (false, Vec::new());
                "250 ok\r\n"
            }
            "QUIT" => {
                write.write_all(b"221 bye\r\n").await?;
                return Ok(());
            }
            _ => "502 not known here\r\n",
        };
        write.write_all(answer.as_bytes()).await?;
    }
    Ok(())
}

fn address(command: &str) -> Option<&str> {
    let (_, rest) = command.split_once('<')?;
    rest.split_once('>').map(|(address, _)| address).filter(|a| a.contains('@'))
}

/// A mail up to its lone dot, doubled dots at the start of lines made single again.
async fn data<R: AsyncRead + Unpin>(from: &mut BufReader<R>) -> std::io::Result<Option<Vec<u8>>> {
    let mut mail = Vec::new();
    while let Some(line) = line(from).await? {
        if line == b"." {
            return Ok(Some(mail));
        }
        if mail.len() + line.len() > MAIL {
            return Ok(None);
        }
        mail.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
        mail.extend_from_slice(b"\r\n");
    }
    Ok(None)
}

/// What a mail of the daemon's says: its headers, and the blocks of its plain text.
fn read_mail(mail: &[u8], recipient: &str) -> Result<Arrival, String> {
    let mail = String::from_utf8_lossy(mail);
    let (head, body) = mail.split_once("\r\n\r\n").ok_or("it has no body")?;
    let id = header(head, "message-id").ok_or("it has no Message-ID")?;
    let id = id.trim_matches(['<', '>']).split('@').next().unwrap_or_default().to_owned();
    let text = plain_text(head, body)?;
    let notices = notices(&text)?;
    if notices.is_empty() {
        return Err(format!("{id} names no exception"));
    }
    let step = text.split_once(", step ").and_then(|(_, rest)| rest.split(')').next()?.parse().ok());
    let title = header(head, "subject").unwrap_or_default();
    Ok(Arrival { id, recipient: recipient.to_owned(), title, step, notices })
}

/// A header's value, folded lines joined.
fn header(head: &str, name: &str) -> Option<String> {
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    unfolded.split("\r\n").find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })
}

/// The `text/plain` part, decoded.
fn plain_text(head: &str, body: &str) -> Result<String, String> {
    let kind = header(head, "content-type").unwrap_or_default();
    let Some((_, boundary)) = kind.split_once("boundary=") else { return decoded(head, body) };
    let boundary = format!("--{}", boundary.trim_matches('"'));
    body.split(&boundary)
        .find_map(|part| {
            let (head, body) = part.trim_start_matches("\r\n").split_once("\r\n\r\n")?;
            header(head, "content-type")?.starts_with("text/plain").then(|| decoded(head, body))
        })
        .ok_or("it has no plain text")?
}

fn decoded(head: &str, body: &str) -> Result<String, String> {
    use base64::Engine as _;
    let encoding = header(head, "content-transfer-encoding").unwrap_or_default().to_ascii_lowercase();
    let bytes = match encoding.as_str() {
        "quoted-printable" => quoted_printable(body),
        "base64" => {
            let joined: String = body.split_whitespace().collect();
            base64::engine::general_purpose::STANDARD.decode(joined).map_err(|e| e.to_string())?
        }
        _ => body.as_bytes().to_vec(),
    };
    String::from_utf8(bytes).map_err(|_| "its text is not UTF-8".to_owned())
}

fn quoted_printable(text: &str) -> Vec<u8> {
    let (bytes, mut out, mut at) = (text.as_bytes(), Vec::new(), 0);
    while at < bytes.len() {
        let code = bytes.get(at + 1..at + 3).and_then(|c| std::str::from_utf8(c).ok());
        match (bytes[at], code) {
            (b'=', Some("\r\n")) => at += 3,
            (b'=', Some(code)) if u8::from_str_radix(code, 16).is_ok() => {
                out.push(u8::from_str_radix(code, 16).unwrap_or(b'?'));
                at += 3;
            }
            (byte, _) => {
                out.push(byte);
                at += 1;
            }
        }
    }
    out
}

/// The blocks of a mail's text: a line `SEVERITY  PARCEL  how it stands`, and among the indented ones below it the id of
/// the exception.
fn notices(text: &str) -> Result<Vec<Notice>, String> {
    let mut found: Vec<Notice> = Vec::new();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        let mark = words.next().unwrap_or_default();
        if matches!(mark, "INFO" | "WARNING" | "HIGH" | "CRITICAL" | "RESOLVED") {
            let mark = mark.to_ascii_lowercase();
            let over = mark == "resolved";
            found.push(Notice {
                exception_id: String::new(),
                parcel_id: words.next().unwrap_or_default().to_owned(),
                change: if over { mark.clone() } else { String::new() },
                severity: if over { String::new() } else { mark },
                news: None,
            });
        } else if let Some(id) = line.trim_start().strip_prefix("exception: ")
            && let Some(notice) = found.last_mut()
        {
            notice.exception_id = id.trim().to_owned();
        }
    }
    match found.iter().find(|n| n.exception_id.is_empty()) {
        Some(notice) => Err(format!("it names {} without the exception's id", notice.parcel_id)),
        None => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::demo::clock::FastClock;
    use crate::model::Time;

    const TEXT: &str = "OPEN, high: 2 open, 0 acknowledged, 1 resolved\nCleared, not scanned\nlane CN-ES\nNew (policy handoff, step 1)\n\n\
        HIGH      P-ES-00001  overdue by 2 d\n          owner: carrier\n          exception: aa\n\n\
        RESOLVED  P-ES-00002  it happened, late\n          exception: bb\n";

    #[test]
    fn blocks_of_a_mail_are_read() {
        let found = notices(TEXT).unwrap();
        let short: Vec<_> = found
            .iter()
            .map(|n| (n.exception_id.as_str(), n.parcel_id.as_str(), n.change.as_str()))
            .collect();
        assert_eq!(short, [("aa", "P-ES-00001", ""), ("bb", "P-ES-00002", "resolved")]);
        assert_eq!(found[0].severity, "high");
        assert!(notices("HIGH  P-ES-00001  overdue\n").is_err());
    }

    #[test]
    fn parts_and_encodings_are_decoded() {
        let mail = "Message-ID: <abc@demo>\r\nSubject: [parcelwatch] CN-ES,\r\n rule\r\n\
            Content-Type: multipart/alternative;\r\n boundary=\"b\"\r\n\r\n--b\r\nContent-Type: text/plain; charset=utf-8\r\n\
            Content-Transfer-Encoding: quoted-printable\r\n\r\nNew (policy x, step 2)\r\nHIGH  P=2D1  caf=C3=\r\n=A9\r\n  exception: aa\r\n\
            --b\r\nContent-Type: text/html\r\n\r\n<p>\r\n--b--\r\n";
        let arrival = read_mail(mail.as_bytes(), "x@example.org").unwrap();
        assert_eq!((arrival.id.as_str(), arrival.step), ("abc", Some(2)));
        assert_eq!(arrival.title, "[parcelwatch] CN-ES, rule");
        assert_eq!(arrival.notices[0].parcel_id, "P-1");
    }

    #[tokio::test]
    async fn a_session_takes_a_mail_and_undoes_the_dots() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = listener.local_addr().unwrap();
        let inbox = Inbox::new(FastClock::new(Time(0), 1));
        let server = tokio::spawn(serve(listener, inbox.clone()));
        let mut client = TcpStream::connect(at).await.unwrap();
        let talk = "EHLO x\r\nRCPT TO:<early@example.org>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n\
            Message-ID: <m1@demo>\r\nSubject: s\r\n\r\n..dot\r\nHIGH  P-1  x\r\n exception: aa\r\n.\r\nWHAT\r\nQUIT\r\n";
        client.write_all(talk.as_bytes()).await.unwrap();
        let mut said = String::new();
        client.read_to_string(&mut said).await.unwrap();
        let codes: Vec<&str> = said.lines().map(|l| &l[..4]).collect();
        assert_eq!(
            codes,
            ["220 ", "250-", "250-", "250-", "250 ", "503 ", "250 ", "250 ", "354 ", "250 ", "502 ", "221 "]
        );
        assert_eq!(inbox.counts(), (1, 0, 0));
        assert_eq!(inbox.since(0)[0].1.recipient, "c@d");
        assert!(inbox.faults().is_empty());
        server.abort();
    }
}
