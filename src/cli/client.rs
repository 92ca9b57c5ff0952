//! A running daemon, asked over its HTTP. The address and the token come from the call, else from the configuration.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail};
use reqwest::{Method, StatusCode};
use serde_json::Value;

use crate::config::{Config, read_secret};
use crate::rules::policies::SecretText;

/// No answer is waited for longer: a daemon answers or refuses within 30 s.
const PATIENCE: Duration = Duration::from_secs(40);

/// Which daemon.
#[derive(Debug, Clone, clap::Args)]
pub struct Daemon {
    /// Where the daemon listens, as http://127.0.0.1:9464 [default: http.listen of the configuration]
    #[arg(long)]
    url: Option<String>,
    /// A file with the token [default: the environment variable PARCELWATCH_TOKEN, else none]
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// The configuration that says where the daemon listens
    #[arg(long, default_value = "config/parcelwatch.yaml")]
    config: PathBuf,
}

impl Daemon {
    /// A daemon at this address, without a token.
    #[must_use]
    pub fn at(url: &str) -> Daemon {
        Daemon { url: Some(url.to_owned()), token_file: None, config: PathBuf::new() }
    }

    /// The configuration that it reads where no address is named.
    #[must_use]
    pub fn config(&self) -> &Path {
        &self.config
    }

    /// Asks for `path` and returns the answer's JSON.
    ///
    /// # Errors
    /// The daemon cannot be reached, or what it says against it.
    pub fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> anyhow::Result<Value> {
        let base = match &self.url {
            Some(url) => url.trim_end_matches('/').to_owned(),
            None => listen(&self.config)?,
        };
        let method = Method::from_bytes(method.as_bytes()).context("no HTTP method")?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(self.send(method, &base, path, body))
    }

    async fn send(
        &self,
        method: Method,
        base: &str,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        // An error says that there is a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().timeout(PATIENCE).build().context("cannot make a client")?;
        let mut request = client.request(method, format!("{base}{path}"));
        if let Some(token) = self.token()? {
            request = request.bearer_auth(token);
        }
        if let Some(body) = body {
            request = request.header("content-type", "application/json").body(body.to_string());
        }
        let answer = request
            .send()
            .await
            .with_context(|| format!("cannot reach the daemon at {base}; does it run?"))?;
        let status = answer.status();
        let text = answer.text().await.with_context(|| format!("the answer of {base} broke off"))?;
        let json: Option<Value> = serde_json::from_str(&text).ok();
        if status.is_success() {
            return json.with_context(|| format!("{base}{path} answers with what is no JSON"));
        }
        let detail = json.as_ref().and_then(|j| j["detail"].as_str()).unwrap_or("it does not say why");
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            bail!("the daemon refuses: {detail} (--token-file, or PARCELWATCH_TOKEN)");
        }
        bail!("the daemon refuses ({}): {detail}", status.as_u16());
    }

    fn token(&self) -> anyhow::Result<Option<String>> {
        if let Some(path) = &self.token_file {
            let secret = read_secret(&SecretText::File(path.clone()))?;
            return Ok(Some(secret.expose().trim().to_owned()));
        }
        Ok(std::env::var("PARCELWATCH_TOKEN").ok().filter(|t| !t.is_empty()))
    }
}

/// A text of an answer; "" where there is none.
pub(super) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn listen(config: &Path) -> anyhow::Result<String> {
    let config = Config::load(config).map_err(|problems| {
        let said: Vec<String> = problems.iter().map(|p| p.render(false)).collect();
        anyhow::anyhow!("{}\nname the daemon with --url, or a configuration with --config", said.join("\n"))
    })?;
    let mut address = config.http.listen;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv6() {
            std::net::Ipv6Addr::LOCALHOST.into()
        } else {
            std::net::Ipv4Addr::LOCALHOST.into()
        });
    }
    Ok(format!("http://{address}"))
}
