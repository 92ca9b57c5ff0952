//! Asks the daemon as anybody outside would: by its HTTP API.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::verdict::Written;

const PATIENCE: Duration = Duration::from_secs(10);
const ANSWER: u64 = 64 << 20;

/// Where the daemon listens.
#[derive(Clone, Copy, Debug)]
pub struct Api(pub SocketAddr);

impl Api {
    /// What a GET answers.
    ///
    /// # Errors
    /// Nobody answers, or not with 200.
    pub async fn get(&self, path: &str) -> anyhow::Result<String> {
        let talk = async {
            let mut stream = TcpStream::connect(self.0).await?;
            // HTTP/1.0: one answer, its end is the connection's.
            let request = format!("GET {path} HTTP/1.0\r\nHost: {}\r\n\r\n", self.0);
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.take(ANSWER).read_to_string(&mut answer).await?;
            Ok::<_, std::io::Error>(answer)
        };
        let answer = tokio::time::timeout(PATIENCE, talk)
            .await
            .with_context(|| format!("GET {path}: no answer within {} s", PATIENCE.as_secs()))?
            .with_context(|| format!("GET {path}"))?;
        let (head, body) = answer.split_once("\r\n\r\n").with_context(|| format!("GET {path}: no HTTP"))?;
        let status = head.split(' ').nth(1).unwrap_or_default();
        if status != "200" {
            bail!("GET {path}: {} {body}", head.lines().next().unwrap_or_default());
        }
        Ok(body.to_owned())
    }

    /// The same, as JSON.
    ///
    /// # Errors
    /// As [`Api::get`], or it is no JSON.
    pub async fn json(&self, path: &str) -> anyhow::Result<Value> {
        let body = self.get(path).await?;
        serde_json::from_str(&body).with_context(|| format!("GET {path}: no JSON"))
    }

    /// All pages of `/api/v1/exceptions` in this state.
    ///
    /// # Errors
    /// As [`Api::json`].
    pub async fn exceptions(&self, state: &str) -> anyhow::Result<Vec<Value>> {
        let (mut all, mut cursor) = (Vec::new(), String::new());
        loop {
            let path = format!("/api/v1/exceptions?state={state}&limit=1000{cursor}");
            let mut page = self.json(&path).await?;
            let Some(items) = page["items"].as_array_mut() else { bail!("GET {path}: no items") };
            all.append(items);
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(all),
            }
        }
    }
}

/// The changes of exceptions as the API lists them.
#[must_use]
pub fn changes(exceptions: &[Value]) -> BTreeSet<Written> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let mut all = BTreeSet::new();
    for exception in exceptions {
        for change in exception["changes"].as_array().into_iter().flatten() {
            all.insert((
                text(&exception["exception_id"]),
                text(&change["change"]),
                text(&change["resolution"]),
                change["stage"].as_u64().unwrap_or(0),
                text(&change["severity"]),
                text(&change["at"]),
            ));
        }
    }
    all
}
