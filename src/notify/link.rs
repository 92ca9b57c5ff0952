//! Links in mails for a reader without a token: `{public_url}/ack?m=ROW&e=EXPIRY&s=SIGNATURE` to acknowledge, and
//! `/exceptions.csv?…` for a table of what the message told of. Neither is good for the other.
//!
//! The signature is HMAC-SHA256 under a random key that is made once and kept in cases. It names a row of the outbox, so the
//! link reaches what that one message listed and nothing else, and it ends after seven days. Whoever holds the mail holds
//! the link; a GET of it changes nothing, since mail scanners follow links.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::model::{DAY, SECOND};

/// How long a link is good, milliseconds from the row's creation.
pub const GOOD_FOR: i64 = 7 * DAY;

/// The key of links. Never printed.
#[derive(Clone)]
pub struct LinkKey([u8; 32]);

/// What a link lets its holder do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Purpose {
    /// Acknowledge or resolve what the message listed.
    Acknowledge,
    /// Read what the message told of.
    List,
}

impl Purpose {
    /// Where it leads.
    #[must_use]
    pub const fn path(self) -> &'static str {
        match self {
            Purpose::Acknowledge => "/ack",
            Purpose::List => "/exceptions.csv",
        }
    }

    /// Its name in what is signed.
    const fn name(self) -> &'static str {
        match self {
            Purpose::Acknowledge => "ack",
            Purpose::List => "list",
        }
    }
}

/// What a link says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// For what.
    pub purpose: Purpose,
    /// The outbox row.
    pub row: String,
    /// Good until, seconds since 1970.
    pub expires: i64,
    /// As it stands in the URL.
    pub signature: String,
}

/// Why a link is not taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum LinkError {
    /// Not signed by us, or changed since.
    #[error("the link is not genuine")]
    Forged,
    /// Too old.
    #[error("the link has expired")]
    Expired,
}

impl LinkKey {
    /// The key of these bytes, random ones.
    #[must_use]
    pub const fn new(bytes: [u8; 32]) -> LinkKey {
        LinkKey(bytes)
    }

    fn mac(&self, purpose: Purpose, row: &str, expires: i64) -> Hmac<Sha256> {
        let mut mac = <Hmac<Sha256> as KeyInit>::new(&block(&self.0));
        mac.update(format!("parcelwatch {} v1\n{expires}\n{row}", purpose.name()).as_bytes());
        mac
    }

    /// The signed link to what the row `row`, written at `created_ms`, listed or told of.
    #[must_use]
    pub fn sign(&self, purpose: Purpose, row: &str, created_ms: i64) -> Link {
        let expires = created_ms.saturating_add(GOOD_FOR).div_euclid(SECOND);
        self.other(&Link { purpose, row: row.to_owned(), expires, signature: String::new() }, purpose)
    }

    /// The link to the same message for another purpose, good for as long.
    #[must_use]
    pub fn other(&self, link: &Link, purpose: Purpose) -> Link {
        let signature =
            URL_SAFE_NO_PAD.encode(self.mac(purpose, &link.row, link.expires).finalize().into_bytes());
        Link { purpose, row: link.row.clone(), expires: link.expires, signature }
    }

    /// Whether `link` is ours and still good.
    ///
    /// # Errors
    /// [`LinkError`]. An old link that is not genuine is [`LinkError::Forged`].
    pub fn check(&self, link: &Link, now_ms: i64) -> Result<(), LinkError> {
        let signature = URL_SAFE_NO_PAD.decode(&link.signature).map_err(|_| LinkError::Forged)?;
        // Compares in constant time.
        self.mac(link.purpose, &link.row, link.expires)
            .verify_slice(&signature)
            .map_err(|_| LinkError::Forged)?;
        if now_ms.div_euclid(SECOND) >= link.expires { Err(LinkError::Expired) } else { Ok(()) }
    }
}

impl Link {
    /// The link under `public_url`, which may end in a slash or a path.
    #[must_use]
    pub fn url(&self, public_url: &str) -> String {
        let query = url::form_urlencoded::Serializer::new(String::new())
            .append_pair("m", &self.row)
            .append_pair("e", &self.expires.to_string())
            .append_pair("s", &self.signature)
            .finish();
        format!("{}{}?{query}", public_url.trim_end_matches('/'), self.purpose.path())
    }
}

/// The key as the block that HMAC-SHA256 takes: made so, the MAC cannot fail.
fn block(key: &[u8; 32]) -> hmac::digest::Key<Hmac<Sha256>> {
    let mut block = hmac::digest::Key::<Hmac<Sha256>>::default();
    block[..32].copy_from_slice(key);
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key() -> LinkKey {
        LinkKey::new([7; 32])
    }

    #[test]
    fn a_link_is_good_for_seven_days_from_its_row() {
        let link = key().sign(Purpose::Acknowledge, "row-1", 1_000_000);
        assert_eq!(key().check(&link, 1_000_000), Ok(()));
        assert_eq!(key().check(&link, 1_000_000 + GOOD_FOR - 1), Ok(()));
        assert_eq!(key().check(&link, 1_000_000 + GOOD_FOR), Err(LinkError::Expired));
    }

    #[test]
    fn whatever_is_changed_makes_it_a_forgery() {
        let link = key().sign(Purpose::Acknowledge, "row-1", 0);
        let forged = |change: fn(&mut Link)| {
            let mut l = link.clone();
            change(&mut l);
            key().check(&l, 0)
        };
        assert_eq!(forged(|l| l.row = "row-2".into()), Err(LinkError::Forged));
        assert_eq!(forged(|l| l.purpose = Purpose::List), Err(LinkError::Forged));
        assert_eq!(forged(|l| l.expires += 1), Err(LinkError::Forged));
        assert_eq!(forged(|l| l.signature.truncate(20)), Err(LinkError::Forged));
        assert_eq!(forged(|l| l.signature.clear()), Err(LinkError::Forged));
        assert_eq!(forged(|l| l.signature = "not base64!".into()), Err(LinkError::Forged));
        assert_eq!(LinkKey::new([8; 32]).check(&link, 0), Err(LinkError::Forged));
    }

    #[test]
    fn a_link_leads_to_another_that_is_good_for_as_long() {
        let table = key().other(&key().sign(Purpose::Acknowledge, "row-1", 0), Purpose::List);
        assert_eq!(table, key().sign(Purpose::List, "row-1", 0));
    }

    #[test]
    fn the_url_keeps_a_path_and_escapes_the_row() {
        let link = key().sign(Purpose::Acknowledge, "a b&c", 0);
        let url = link.url("https://watch.example.org/pw/");
        assert!(url.starts_with("https://watch.example.org/pw/ack?m=a+b%26c&e=604800&s="), "{url}");
        let table = key().sign(Purpose::List, "r", 0).url("https://watch.example.org");
        assert!(table.starts_with("https://watch.example.org/exceptions.csv?m=r&e=604800&s="), "{table}");
    }

    #[test]
    fn the_mac_is_plain_hmac_of_the_key() {
        let mut mac = Hmac::<Sha256>::new_from_slice(&[7; 32]).unwrap();
        mac.update(b"parcelwatch ack v1\n604800\nrow-1");
        assert_eq!(
            key().sign(Purpose::Acknowledge, "row-1", 0).signature,
            URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())
        );
    }
}
