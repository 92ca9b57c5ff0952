//! Signatures as the other side checks them: a verifier of its own, which accepts the example of RFC 8463 and then ours.

use std::collections::BTreeMap;

use rustls::crypto::ring::default_provider;

use super::*;

/// Signs nothing but tests; its other half as it stands in `p=` of a TXT record.
pub(in crate::notify) const RSA: &str = include_str!("dkim_test_rsa.pem");
pub(in crate::notify) const RSA_P: &str = "MIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEAll+p0Y2IOAwHjJ0HilUx3QHvcvOmbHz7LejvDPSVmLip6dpC9/eB0eGa7akaqm53hksHRyILZO/9FagCLmMraHDTAuOycZxIVr88SqPNldiV0N+c4kr4258jAU74oQBFANLDQ7oc2nOTjhj01mSgfIE3xVtmXz/t7Iuw6t4qORgC7IXk1Ml0IvsRuMg5Mi0NEqY1PC88wJTk3o3SoPj4/Q7XHgj+VoiiBG7+VPoGSRMSZhLR9z8upHeHa5V4so7NuzH6q05CP8BR6GPGTHKTPFh15B9JlnzkNpra6jtw+SaWZwgVzxXrRQ26vzkBBeKMvjCXORry17G+5qDnQQ36YwIDAQAB";
/// RFC 8463, appendix A.
const ED25519_SEED: &str = "nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=";
const ED25519_P: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
const EXAMPLE: &str = "\
From: Joe SixPack <joe@football.example.com>\r\n\
To: Suzie Q <suzie@shopping.example.net>\r\n\
Subject: Is dinner ready?\r\n\
Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\
\r\n\
Hi.\r\n\
\r\n\
We lost the game.  Are you hungry yet?\r\n\
\r\n\
Joe.\r\n";
const EXAMPLE_SIGNATURE: &str = "\
DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n \
d=football.example.com; i=@football.example.com;\r\n \
q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n \
subject : date : message-id : from : subject : date;\r\n \
bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n \
b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n \
Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n";

fn dkim(pem: &str) -> Result<Dkim, DkimError> {
    Dkim::new(&DkimSettings {
        domain: "Football.example.com".into(),
        selector: "brisbane".into(),
        pem: pem.into(),
    })
}

fn ed25519() -> Dkim {
    let seed = STANDARD.decode(ED25519_SEED).unwrap();
    // PKCS#8 around a seed, as `openssl genpkey -algorithm ed25519` writes it.
    let prefix = [0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20];
    let der = STANDARD.encode([&prefix[..], &seed].concat());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
    dkim(&pem).unwrap()
}

/// What a verifier finds: the tags of the topmost signature, where it holds.
pub(in crate::notify) fn verified(mail: &str, p: &str) -> Result<BTreeMap<String, String>, String> {
    let (head, body) = mail.split_once("\r\n\r\n").ok_or("no header")?;
    let unfolded = head.replace("\r\n ", " ").replace("\r\n\t", " ");
    let headers: Vec<(String, String)> = unfolded
        .split("\r\n")
        .map(|line| {
            let (name, value) = line.split_once(':').ok_or(format!("no field: {line}"))?;
            Ok((name.trim().to_lowercase(), value.split_ascii_whitespace().collect::<Vec<_>>().join(" ")))
        })
        .collect::<Result<_, String>>()?;
    let at = headers.iter().position(|(name, _)| name == "dkim-signature").ok_or("no signature")?;
    let value = &headers[at].1;
    let mut tags = BTreeMap::new();
    for tag in value.split(';').map(str::trim).filter(|t| !t.is_empty()) {
        let (name, value) = tag.split_once('=').ok_or(format!("no tag: {tag}"))?;
        let value = value.split_whitespace().collect::<String>();
        if tags.insert(name.trim().to_owned(), value).is_some() {
            return Err(format!("two tags {name}"));
        }
    }
    let tag = |name: &str| tags.get(name).cloned().ok_or(format!("no tag {name}"));
    if (tag("v")?.as_str(), tag("c")?.as_str()) != ("1", "relaxed/relaxed") {
        return Err("another kind of signature".into());
    }
    let mut text = String::new();
    for line in body.trim_end_matches("\r\n").split("\r\n") {
        let blank = |c: char| c == ' ' || c == '\t';
        let words: Vec<&str> = line.trim_end_matches(blank).split(blank).collect();
        // Of several blanks in a row the empty words between them go; the one at the line's start stays.
        let kept = words.iter().enumerate().filter(|(at, w)| *at == 0 || !w.is_empty());
        text.push_str(&kept.map(|(_, w)| *w).collect::<Vec<_>>().join(" "));
        text.push_str("\r\n");
    }
    if STANDARD.encode(Sha256::digest(&text)) != tag("bh")? {
        return Err("the body was changed".into());
    }
    let mut data = String::new();
    let mut left: Vec<_> = headers.iter().filter(|(name, _)| name != "dkim-signature").collect();
    for name in tag("h")?.split(':') {
        if let Some(at) = left.iter().rposition(|(n, _)| *n == name) {
            let (name, value) = left.remove(at);
            data.push_str(&format!("{name}:{value}\r\n"));
        }
    }
    let b = value.rfind("b=").ok_or("no tag b")?;
    data.push_str(&format!("dkim-signature:{}", &value[..b + 2]));
    let public = STANDARD.decode(p).map_err(|e| e.to_string())?;
    let (scheme, public, data) = match tag("a")?.as_str() {
        "ed25519-sha256" => (SignatureScheme::ED25519, &public[..], Sha256::digest(&data).to_vec()),
        // Before the key itself stand 24 bytes that say what it is.
        "rsa-sha256" => (SignatureScheme::RSA_PKCS1_SHA256, &public[24..], data.into_bytes()),
        other => return Err(format!("a={other}")),
    };
    let known = default_provider().signature_verification_algorithms.mapping;
    let (_, algorithms) = known.iter().find(|(s, _)| *s == scheme).ok_or("no algorithm")?;
    let signature = STANDARD.decode(tag("b")?).map_err(|e| e.to_string())?;
    let held = algorithms[0].verify_signature(public, &data, &signature);
    held.map_err(|_| "the header was changed".to_owned())?;
    Ok(tags)
}

fn signed(dkim: &Dkim, mail: &str) -> String {
    String::from_utf8(dkim.sign(mail.as_bytes(), 1_528_637_909).unwrap()).unwrap()
}

#[test]
fn the_verifier_accepts_the_example_of_the_rfc() {
    let mail = format!("{EXAMPLE_SIGNATURE}{EXAMPLE}");
    assert_eq!(verified(&mail, ED25519_P).unwrap()["s"], "brisbane");
    let body = mail.replace("hungry", "angry");
    assert_eq!(verified(&body, ED25519_P), Err("the body was changed".into()));
    let head = mail.replace("dinner", "supper");
    assert_eq!(verified(&head, ED25519_P), Err("the header was changed".into()));
}

#[test]
fn a_mail_is_signed_with_either_kind_of_key() {
    let mail = signed(&ed25519(), EXAMPLE);
    let tags = verified(&mail, ED25519_P).unwrap();
    assert_eq!(tags["bh"], "2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=", "as in the RFC");
    assert_eq!((tags["d"].as_str(), tags["t"].as_str()), ("football.example.com", "1528637909"));
    assert!(mail.ends_with(EXAMPLE), "nothing else of the mail is touched");
    let rsa = dkim(RSA).unwrap();
    let mail = signed(&rsa, EXAMPLE);
    assert_eq!(verified(&mail, RSA_P).unwrap()["a"], "rsa-sha256");
    assert!(mail.lines().all(|l| l.len() <= 78), "{mail}");
    assert_eq!(mail, signed(&rsa, EXAMPLE), "a second try sends other bytes");
}

#[test]
fn what_is_signed_cannot_be_changed_or_added() {
    let mail = signed(&ed25519(), EXAMPLE);
    let fails = |changed: String| {
        assert_ne!(changed, mail);
        assert_eq!(verified(&changed, ED25519_P), Err("the header was changed".into()), "{changed}");
    };
    for (from, to) in [("joe@", "eve@"), ("suzie@", "all@"), ("dinner", "supper"), ("21:00:37", "21:00:38")] {
        fails(mail.replacen(from, to, 1));
    }
    fails(mail.replace("46341", "46342"));
    // Another field of a sealed name, above or below those that are signed.
    for field in ["From: eve@example.org", "Subject: pay", "Reply-To: eve@example.org", "Cc: eve@example.org"]
    {
        fails(format!("{field}\r\n{mail}"));
        fails(mail.replacen("\r\n\r\n", &format!("\r\n{field}\r\n\r\n"), 1));
    }
    // What a relay adds and how it folds breaks nothing.
    let relayed = format!("Received: from a by b\r\n{mail}").replacen("Is dinner", "Is\r\n\tdinner", 1);
    assert!(verified(&relayed, ED25519_P).is_ok(), "{relayed}");
}

#[test]
fn a_body_is_canonical_whatever_blanks_it_has() {
    let body = |text: &str| String::from_utf8(relaxed_body(text.as_bytes())).unwrap();
    // RFC 6376 §3.4.5.
    assert_eq!(body(" C \r\nD \t E\r\n\r\n\r\n"), " C\r\nD E\r\n");
    for (text, canonical) in [
        ("", ""),
        ("\r\n", ""),
        ("\r\n\r\n", ""),
        (" \t\r\n", ""),
        ("a", "a\r\n"),
        ("a\r\n", "a\r\n"),
        ("a\r\n\r\n  b\t\r\n", "a\r\n\r\n b\r\n"),
        ("\r\na\r\n \r\n", "\r\na\r\n"),
    ] {
        assert_eq!(body(text), canonical, "{text:?}");
    }
    assert_eq!(relaxed_field("A: X\r\n"), "a:X");
    assert_eq!(relaxed_field("B : Y\t\r\n\tZ  "), "b:Y Z");
}

#[test]
fn keys_that_cannot_be_used_are_refused_and_not_shown() {
    let refused = |pem: &str| dkim(pem).err().map(|e| e.to_string()).unwrap();
    let cut = RSA.replacen("MII", "XII", 1);
    let elliptic = rcgen::KeyPair::generate().unwrap().serialize_pem();
    for (pem, says) in [
        ("", "it holds no private key"),
        ("hunter2", "it holds no private key"),
        (&cut, "it cannot be used"),
        (&elliptic, "of a kind that DKIM does not know"),
    ] {
        let text = refused(pem);
        assert!(text.contains(says) && text.contains("openssl genpkey"), "{text}");
        assert!(!text.contains("hunter2") && !text.contains("XII"), "{text}");
    }
}
