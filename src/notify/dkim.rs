//! DKIM (RFC 6376, RFC 8463): a mail is signed in the name of its sender's domain, so that the other side believes `From`.
//!
//! Written here in place of lettre's `dkim`: that one brings the `rsa` crate, whose signing leaks timing (RUSTSEC-2023-0071, not
//! repaired), and dates each signature anew, where every try of a row has to send the same bytes. The key's arithmetic is the
//! TLS provider's, which runs in constant time.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls::SignatureScheme;
use rustls::crypto::ring::sign::any_supported_type;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::sign::SigningKey;
use sha2::{Digest, Sha256};

/// What is signed, as far as a mail has it: all that its reader or a filter goes by.
const SIGNED: [&str; 13] = [
    "from",
    "to",
    "cc",
    "reply-to",
    "subject",
    "date",
    "message-id",
    "in-reply-to",
    "references",
    "mime-version",
    "content-type",
    "auto-submitted",
    "list-id",
];
/// What nobody may add to a mail: named once more than it is there, so that another one breaks the signature. Not `list-id`, which a
/// mailing list on the way writes.
const SEALED: [&str; 8] = ["from", "to", "cc", "reply-to", "subject", "date", "message-id", "content-type"];

/// How mails are signed: `smtp.dkim:` of the configuration. Never printed.
#[derive(Clone)]
pub struct DkimSettings {
    /// In whose name: the sender's domain, or one above it.
    pub domain: String,
    /// The public key is published at `selector._domainkey.domain`.
    pub selector: String,
    /// The private key: PEM, PKCS#8, or PKCS#1 for RSA.
    pub pem: String,
}

/// Who signs, and with what.
pub struct Dkim {
    domain: String,
    selector: String,
    key: Arc<dyn SigningKey>,
    scheme: SignatureScheme,
}

/// Why mails cannot be signed with these settings. No text holds the key.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum DkimError {
    /// It cannot be used.
    #[error(
        "smtp.dkim.key: {0}; it has to be an RSA key of 2048 to 4096 bits, or an Ed25519 key, in PEM and without a pass phrase, as \
         `openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048` writes it"
    )]
    Key(&'static str),
    /// It failed where nothing can fail.
    #[error("the mail cannot be signed (smtp.dkim): {0}")]
    Sign(String),
}

impl Dkim {
    /// Signs with these settings.
    ///
    /// # Errors
    /// [`DkimError::Key`].
    pub fn new(settings: &DkimSettings) -> Result<Dkim, DkimError> {
        let der = PrivateKeyDer::from_pem_slice(settings.pem.as_bytes())
            .map_err(|_| DkimError::Key("it holds no private key"))?;
        let key = any_supported_type(&der).map_err(|_| DkimError::Key("it cannot be used"))?;
        let usable = [SignatureScheme::RSA_PKCS1_SHA256, SignatureScheme::ED25519];
        let signer =
            key.choose_scheme(&usable).ok_or(DkimError::Key("it is of a kind that DKIM does not know"))?;
        let (domain, selector) = (settings.domain.to_lowercase(), settings.selector.clone());
        Ok(Dkim { domain, selector, scheme: signer.scheme(), key })
    }

    /// The mail with its signature before it, dated `at_s` (seconds since 1970). The same mail, date and key give the same bytes.
    ///
    /// # Errors
    /// [`DkimError::Sign`].
    pub fn sign(&self, mail: &[u8], at_s: i64) -> Result<Vec<u8>, DkimError> {
        let (head, body) = split(mail);
        let fields = fields(&head);
        let algorithm = if self.scheme == SignatureScheme::ED25519 { "ed25519" } else { "rsa" };
        let mut header = format!(
            "DKIM-Signature: v=1; a={algorithm}-sha256; c=relaxed/relaxed; d={};\r\n s={}; t={at_s};\r\n h={};\r\n bh={};\r\n b=",
            self.domain,
            self.selector,
            in_lines(&covered(&fields)),
            STANDARD.encode(Sha256::digest(relaxed_body(body))),
        );
        let mut signed = String::new();
        for line in chosen(&fields) {
            signed.push_str(&line);
            signed.push_str("\r\n");
        }
        signed.push_str(&relaxed_field(&header));
        // Ed25519 signs the digest, RSA's own scheme makes it (RFC 8463 §3).
        let signature = match self.scheme {
            SignatureScheme::ED25519 => self.signature(&Sha256::digest(&signed)),
            _ => self.signature(signed.as_bytes()),
        }?;
        header.push_str(&folded(&STANDARD.encode(signature)));
        header.push_str("\r\n");
        Ok([header.as_bytes(), mail].concat())
    }

    fn signature(&self, message: &[u8]) -> Result<Vec<u8>, DkimError> {
        let signer = self.key.choose_scheme(&[self.scheme]).ok_or(DkimError::Key("it cannot be used"))?;
        signer.sign(message).map_err(|e| DkimError::Sign(e.to_string()))
    }
}

/// Header and body: the empty line between them belongs to neither.
fn split(mail: &[u8]) -> (String, &[u8]) {
    const GAP: &[u8] = b"\r\n\r\n";
    let at = mail.windows(GAP.len()).position(|w| w == GAP);
    let (head, body) = at.map_or((mail, &[][..]), |at| (&mail[..at], &mail[at + GAP.len()..]));
    (String::from_utf8_lossy(head).into_owned(), body)
}

/// The fields of a header in order, each with its continuation lines.
fn fields(head: &str) -> Vec<String> {
    let mut fields: Vec<String> = Vec::new();
    for line in head.split("\r\n") {
        match fields.last_mut() {
            Some(field) if line.starts_with([' ', '\t']) => {
                field.push_str("\r\n");
                field.push_str(line);
            }
            _ => fields.push(line.to_owned()),
        }
    }
    fields
}

fn is(field: &str, name: &str) -> bool {
    field.split_once(':').is_some_and(|(n, _)| n.trim_end().eq_ignore_ascii_case(name))
}

/// `h=`: each signed name as often as it is there, and the sealed ones once more.
fn covered(fields: &[String]) -> Vec<String> {
    let mut named = Vec::new();
    for name in SIGNED {
        let there = fields.iter().filter(|f| is(f, name)).count();
        let times = there + usize::from(SEALED.contains(&name));
        if times > 0 {
            named.push(vec![name; times].join(":"));
        }
    }
    named
}

/// The fields of [`covered`], canonical: of several of one name the last first.
fn chosen(fields: &[String]) -> Vec<String> {
    let of = |name: &'static str| fields.iter().rev().filter(move |f| is(f, name)).map(|f| relaxed_field(f));
    SIGNED.into_iter().flat_map(of).collect()
}

/// RFC 6376 §3.4.2: the name in small letters, the value in one line, blanks as one, none at its ends.
fn relaxed_field(field: &str) -> String {
    let (name, value) = field.split_once(':').unwrap_or((field, ""));
    let words: Vec<&str> = value.split([' ', '\t', '\r', '\n']).filter(|w| !w.is_empty()).collect();
    format!("{}:{}", name.trim_end().to_ascii_lowercase(), words.join(" "))
}

/// RFC 6376 §3.4.4: blanks in a line as one, none at its end, no empty lines at the end of it all.
fn relaxed_body(body: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(body.len() + 2);
    // Ends of lines that are written once something follows them.
    let mut empty = 0_usize;
    let mut lines = body.split(|b| *b == b'\n').peekable();
    while let Some(line) = lines.next() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.is_empty() && lines.peek().is_none() {
            break; // behind the last line's end there is no line
        }
        let end = line.iter().rposition(|b| !matches!(b, b' ' | b'\t')).map_or(0, |at| at + 1);
        if end == 0 {
            empty += 1;
            continue;
        }
        out.extend(b"\r\n".repeat(std::mem::take(&mut empty)));
        let mut blank = false;
        for byte in &line[..end] {
            let is_blank = matches!(byte, b' ' | b'\t');
            if !(is_blank && blank) {
                out.push(if is_blank { b' ' } else { *byte });
            }
            blank = is_blank;
        }
        out.extend(b"\r\n");
    }
    out
}

/// A list with colons, as many names a line as fit.
fn in_lines(names: &[String]) -> String {
    let (mut out, mut width) = (String::new(), 3);
    for (at, name) in names.iter().enumerate() {
        if at > 0 {
            out.push(':');
        }
        if width + name.len() > 74 {
            out.push_str("\r\n  ");
            width = 2;
        }
        out.push_str(name);
        width += name.len() + 1;
    }
    out
}

/// A long word over several lines.
fn folded(word: &str) -> String {
    let lines: Vec<&str> = word.as_bytes().chunks(72).filter_map(|c| std::str::from_utf8(c).ok()).collect();
    lines.join("\r\n  ")
}

#[cfg(test)]
#[path = "dkim_tests.rs"]
pub(super) mod tests;
