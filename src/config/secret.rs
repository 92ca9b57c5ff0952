//! Secrets: where they are kept is configuration, what they are is read at the last moment and never printed.

use std::fmt;
use std::io::Read as _;
use std::path::PathBuf;

use crate::rules::policies::SecretText;

/// The largest secret: a key in PEM fits.
const MAX_BYTES: u64 = 64 << 10;

/// A secret that was read. Prints as `<secret>`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// What it is. For the one who needs it on the wire, never for a message.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

/// Why a secret could not be read.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// Its file.
    #[error("cannot read the secret in {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Its file holds something else.
    #[error("the secret in {} is empty, larger than 64 KiB or no text", .0.display())]
    Content(PathBuf),
    /// Its variable.
    #[error("the environment variable {0}, which holds a secret, is not set or empty")]
    Env(String),
}

/// Reads a secret from where it is kept. The line end of a file is no part of it.
///
/// # Errors
/// It is not there. The error names the place, never the content.
pub fn read_secret(place: &SecretText) -> Result<Secret, SecretError> {
    match place {
        SecretText::Plain(text) => Ok(Secret(text.clone())),
        SecretText::Env(name) => {
            let value = std::env::var(name).ok().filter(|v| !v.is_empty());
            value.map(Secret).ok_or_else(|| SecretError::Env(name.clone()))
        }
        SecretText::File(path) => {
            let failed = |source| SecretError::File { path: path.clone(), source };
            let mut bytes = Vec::new();
            let file = std::fs::File::open(path).map_err(failed)?;
            file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
            let text = String::from_utf8(bytes).ok().filter(|t| t.len() as u64 <= MAX_BYTES);
            let text = text.map(|t| t.trim_end_matches(['\r', '\n']).to_owned()).filter(|t| !t.is_empty());
            text.map(Secret).ok_or_else(|| SecretError::Content(path.clone()))
        }
    }
}
