//! The guard on where webhooks may go (`reference/alerting.md` §4.4): policies are edited by many and name URLs, and none of
//! them may make this process call what lies inside.
//!
//! A name is checked when it is dialled: the resolver hands on only addresses that may be called, and the connection goes to
//! the very address that was checked, so that a name which answers differently the second time gains nothing. A resolver is
//! never asked about a literal address, so [`check_url`] looks at those before every request; the URL parser has by then made
//! `127.1`, `2130706433` and `①②⑦.0.0.1` plain. Redirects and proxies are off in `webhook`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use ipnet::IpNet;
use url::{Host, Url};

/// Networks that the guard lets through: `webhook.allow_private_networks`.
pub type AllowList = Arc<[IpNet]>;

/// Why a URL is not called.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// No URL at all.
    #[error("not a URL: {0}")]
    NoUrl(url::ParseError),
    /// Neither http nor https.
    #[error("the scheme is {0:?}; a webhook is called by https or http")]
    Scheme(String),
    /// A user or a password in it.
    #[error("the URL holds a user name or a password; put the credential into the receiver's secret")]
    UserInfo,
    /// No host.
    #[error("the URL names no host")]
    NoHost,
    /// An address that lies inside.
    #[error(
        "{host} leads to {address}, which is not a public address; if it is meant, add its network to \
         webhook.allow_private_networks"
    )]
    Inside {
        /// As the URL names it.
        host: String,
        /// The address (the first, where there are more).
        address: IpAddr,
    },
    /// A name without an address.
    #[error("{0} has no address")]
    NoAddress(String),
}

/// Whether an address may be dialled.
#[must_use]
pub fn allowed(address: IpAddr, allow: &[IpNet]) -> bool {
    let address = address.to_canonical();
    if allow.iter().any(|net| net.contains(&address)) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => public_v4(v4),
        IpAddr::V6(v6) => public_v6(v6),
    }
}

fn public_v4(a: Ipv4Addr) -> bool {
    let [x, y, z, _] = a.octets();
    !(a.is_loopback()
        || a.is_private()
        || a.is_link_local() // 169.254.169.254: metadata of clouds
        || a.is_documentation()
        || a.is_multicast()
        || x == 0
        || x >= 240 // reserved and broadcast
        || (x == 100 && (64..128).contains(&y)) // shared by carriers
        || (x == 192 && y == 0 && z == 0) // protocol assignments
        || (x == 192 && y == 88 && z == 99) // 6to4 relays
        || (x == 198 && (y == 18 || y == 19))) // benchmarks
}

/// Only global unicast, 2000::/3, without what is set aside in it or embeds an IPv4 address.
fn public_v6(a: Ipv6Addr) -> bool {
    let s = a.segments();
    let global = s[0] & 0xe000 == 0x2000;
    let teredo_and_protocols = s[0] == 0x2001 && s[1] < 0x0200;
    let documentation = (s[0] == 0x2001 && s[1] == 0x0db8) || (s[0] == 0x3fff && s[1] < 0x1000);
    let six_to_four = s[0] == 0x2002;
    // ::/96, ::ffff:0:0/96, 64:ff9b::/96, 100::/64, fc00::/7, fe80::/10, fec0::/10, ff00::/8 are no global unicast.
    global && !teredo_and_protocols && !documentation && !six_to_four
}

/// Reads a webhook's URL and checks what can be checked without the network: scheme, user info, a literal address.
///
/// # Errors
/// [`Refused`].
pub fn check_url(text: &str, allow: &[IpNet]) -> Result<Url, Refused> {
    let url = Url::parse(text).map_err(Refused::NoUrl)?;
    if !matches!(url.scheme(), "https" | "http") {
        return Err(Refused::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(Refused::UserInfo);
    }
    let literal = match url.host().ok_or(Refused::NoHost)? {
        Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
        Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
        Host::Domain(_) => None,
    };
    match literal {
        Some(address) if !allowed(address, allow) => {
            Err(Refused::Inside { host: url.host_str().unwrap_or_default().to_owned(), address })
        }
        _ => Ok(url),
    }
}

/// Resolves `host` and keeps the addresses that may be dialled; the port is 0.
///
/// # Errors
/// The resolver's, or [`Refused`] inside an [`std::io::Error`] where no address is left.
pub async fn resolve(host: &str, allow: &[IpNet]) -> std::io::Result<Vec<SocketAddr>> {
    let all: Vec<SocketAddr> = tokio::net::lookup_host((host, 0)).await?.collect();
    filter(host, all, allow).map_err(std::io::Error::other)
}

fn filter(host: &str, all: Vec<SocketAddr>, allow: &[IpNet]) -> Result<Vec<SocketAddr>, Refused> {
    let first = all.first().copied().ok_or_else(|| Refused::NoAddress(host.to_owned()))?;
    let dialled: Vec<SocketAddr> = all.into_iter().filter(|a| allowed(a.ip(), allow)).collect();
    if dialled.is_empty() {
        return Err(Refused::Inside { host: host.to_owned(), address: first.ip() });
    }
    Ok(dialled)
}

/// Where a URL points, fit for a log: scheme, host and port, without path or query.
#[must_use]
pub fn origin(url: &Url) -> String {
    url.origin().ascii_serialization()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn nets(list: &[&str]) -> Vec<IpNet> {
        list.iter().map(|n| n.parse().unwrap()).collect()
    }

    #[test]
    fn literals_that_lie_inside_are_refused_in_every_spelling() {
        for host in [
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "0x7f000001",
            "0177.0.0.1",
            "017700000001",
            "127.0.0.1.",
            "①②⑦.0.0.1",
            "127。0。0。1",
            "%31%32%37.0.0.1",
            "0.0.0.0",
            "0",
            "10.1.2.3",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "169.254.169.254",
            "2852039166",
            "0xa9fea9fe",
            "0xA9.0xFE.0xA9.0xFE",
            "100.64.0.1",
            "100.127.255.255",
            "192.0.0.8",
            "192.0.2.1",
            "198.18.0.1",
            "198.19.255.255",
            "198.51.100.7",
            "203.0.113.9",
            "192.88.99.1",
            "224.0.0.1",
            "240.0.0.1",
            "255.255.255.255",
            "[::1]",
            "[::]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:ffff:a9fe:a9fe]",
            "[::127.0.0.1]",
            "[64:ff9b::a9fe:a9fe]",
            "[64:ff9b:1::7f00:1]",
            "[2002:7f00:1::]",
            "[2001::1]",
            "[2001:db8::1]",
            "[fe80::1]",
            "[fec0::1]",
            "[fc00::1]",
            "[fd12:3456::1]",
            "[ff02::1]",
            "[100::1]",
            "[3fff::1]",
        ] {
            let url = format!("http://{host}/hook?token=s3cret");
            let refused = check_url(&url, &[]).expect_err(&url);
            assert!(matches!(refused, Refused::Inside { .. }), "{url}: {refused:?}");
            assert!(!refused.to_string().contains("s3cret"), "{refused}");
        }
    }

    #[test]
    fn public_addresses_and_names_pass() {
        for url in [
            "https://erp.example.org/hooks?x=1",
            "http://8.8.8.8/",
            "https://[2606:4700:4700::1111]/",
            "https://100.63.255.255/",
            "https://172.32.0.1/",
            "https://198.20.0.1/",
            "https://[2001:4860:4860::8888]/",
        ] {
            check_url(url, &[]).unwrap_or_else(|e| panic!("{url}: {e}"));
        }
    }

    #[test]
    fn what_is_no_webhook_is_refused() {
        assert!(matches!(check_url("ftp://example.org/", &[]), Err(Refused::Scheme(s)) if s == "ftp"));
        assert!(matches!(check_url("file:///etc/passwd", &[]), Err(Refused::Scheme(_))));
        assert_eq!(check_url("http://user@example.org/", &[]), Err(Refused::UserInfo));
        assert_eq!(check_url("http://:pw@example.org/", &[]), Err(Refused::UserInfo));
        assert!(matches!(check_url("example.org/hook", &[]), Err(Refused::NoUrl(_))));
        assert!(matches!(check_url("http://", &[]), Err(Refused::NoUrl(_))));
        assert!(matches!(check_url("http://127.0.0.1@169.254.169.254/", &[]), Err(Refused::UserInfo)));
    }

    #[test]
    fn the_allow_list_opens_its_networks_only() {
        let allow = nets(&["127.0.0.0/8", "fd00::/8"]);
        check_url("http://127.0.0.1:8080/", &allow).unwrap();
        check_url("http://[::ffff:127.0.0.1]/", &allow).unwrap();
        check_url("http://[fd00::7]/", &allow).unwrap();
        for url in ["http://10.0.0.1/", "http://[::1]/", "http://169.254.169.254/"] {
            assert!(check_url(url, &allow).is_err(), "{url}");
        }
    }

    #[test]
    fn of_a_names_addresses_only_public_ones_are_dialled() {
        let addresses =
            |list: &[&str]| list.iter().map(|a| SocketAddr::new(a.parse().unwrap(), 0)).collect::<Vec<_>>();
        let mixed = addresses(&["169.254.169.254", "8.8.8.8", "::1"]);
        assert_eq!(filter("x", mixed, &[]), Ok(addresses(&["8.8.8.8"])));
        let inside = addresses(&["169.254.169.254"]);
        let text = filter("metadata.example", inside, &[]).unwrap_err().to_string();
        assert!(text.contains("metadata.example leads to 169.254.169.254"), "{text}");
        assert_eq!(filter("x", vec![], &[]), Err(Refused::NoAddress("x".into())));
    }

    #[tokio::test]
    async fn a_name_of_this_machine_is_refused_unless_allowed() {
        let refused = resolve("localhost", &[]).await.unwrap_err();
        assert!(refused.to_string().contains("allow_private_networks"), "{refused}");
        let dialled = resolve("localhost", &nets(&["127.0.0.0/8", "::1/128"])).await.unwrap();
        assert!(dialled.iter().all(|a| a.ip().is_loopback()), "{dialled:?}");
    }

    #[test]
    fn a_log_shows_no_path_and_no_query() {
        let url = Url::parse("https://hooks.example.org:8443/services/T0/SECRET?token=x").unwrap();
        assert_eq!(origin(&url), "https://hooks.example.org:8443");
    }
}
