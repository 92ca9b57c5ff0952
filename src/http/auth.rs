//! Who may do what: bearer tokens with a role (DESIGN §10, §11).
//!
//! Without tokens everybody who reaches the listener may do everything, so [`check_listen`] refuses any that is not
//! loopback. Even then a web page in somebody's browser must not act: a request that changes something and names an
//! `Origin` which is not ours is refused.

use std::net::SocketAddr;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use sha2::{Digest, Sha256};

use super::Shared;
use super::problem::Problem;

/// What a token allows; each role includes the one before.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Reads of the API.
    Viewer,
    /// Acknowledges and resolves.
    Operator,
    /// Reloads.
    Admin,
}

impl Role {
    /// `viewer`, `operator` or `admin`.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Role> {
        match name {
            "viewer" => Some(Role::Viewer),
            "operator" => Some(Role::Operator),
            "admin" => Some(Role::Admin),
            _ => None,
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Role::Viewer => "viewer",
            Role::Operator => "operator",
            Role::Admin => "admin",
        }
    }
}

/// A configured token. Its secret is kept as a hash and never printed.
#[derive(Clone)]
pub struct Token {
    name: String,
    role: Role,
    hash: [u8; 32],
}

impl Token {
    /// The token `name` of this secret.
    #[must_use]
    pub fn new(name: impl Into<String>, role: Role, secret: &str) -> Token {
        Token { name: name.into(), role, hash: Sha256::digest(secret.trim()).into() }
    }
}

/// Why a listener is refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "http.listen {0} is reachable from other machines, and without http.tokens everybody there could acknowledge and \
     resolve; add a token or listen on 127.0.0.1"
)]
pub struct OpenListener(pub SocketAddr);

/// Refuses a listener that is not loopback while no token is configured.
///
/// # Errors
/// [`OpenListener`].
pub fn check_listen(listen: SocketAddr, tokens: &[Token]) -> Result<(), OpenListener> {
    if tokens.is_empty() && !listen.ip().to_canonical().is_loopback() {
        Err(OpenListener(listen))
    } else {
        Ok(())
    }
}

/// Who a request is from, for those behind [`require`]; the token's name where one was asked for.
#[derive(Clone, Debug, Default)]
pub(super) struct Caller(pub Option<String>);

/// Lets a request pass that may do what it asks.
pub(super) async fn require(State(shared): State<Shared>, mut request: Request, next: Next) -> Response {
    let needed = match (request.uri().path(), request.method()) {
        ("/-/reload", _) => Role::Admin,
        (_, &Method::GET | &Method::HEAD) => Role::Viewer,
        _ => Role::Operator,
    };
    if needed > Role::Viewer && foreign_origin(request.headers()) {
        let detail = "a page of another origin must not act here";
        return Problem::new(StatusCode::FORBIDDEN, detail).into_response();
    }
    match admit(&shared.tokens, request.headers(), needed) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

fn admit(tokens: &[Token], headers: &HeaderMap, needed: Role) -> Result<Caller, Problem> {
    if tokens.is_empty() {
        return Ok(Caller(None));
    }
    let Some(presented) = bearer(headers) else {
        let detail = "this needs a token: Authorization: Bearer …";
        return Err(Problem::new(StatusCode::UNAUTHORIZED, detail));
    };
    let hash: [u8; 32] = Sha256::digest(presented).into();
    let mut found = None;
    for token in tokens {
        // All are compared, each in constant time: how long it takes says nothing about a secret.
        if same(&token.hash, &hash) {
            found = Some(token);
        }
    }
    match found {
        None => Err(Problem::new(StatusCode::UNAUTHORIZED, "the token is not known")),
        Some(token) if token.role < needed => {
            let detail = format!(
                "this needs the role {}; the token {} has {}",
                needed.name(),
                token.name,
                token.role.name()
            );
            Err(Problem::new(StatusCode::FORBIDDEN, detail))
        }
        Some(token) => Ok(Caller(Some(token.name.clone()))),
    }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    std::hint::black_box(a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y))) == 0
}

/// Whether a browser says that another origin's page made this request.
fn foreign_origin(headers: &HeaderMap) -> bool {
    let Some(origin) = headers.get(header::ORIGIN) else { return false };
    let host = headers.get(header::HOST).and_then(|h| h.to_str().ok());
    let named = origin.to_str().ok().and_then(|o| o.split_once("://")).map(|(_, authority)| authority);
    named.is_none() || named != host
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loopback_may_be_open() {
        let check = |a: &str, t: &[Token]| check_listen(a.parse().unwrap(), t).is_ok();
        let token = [Token::new("erp", Role::Viewer, "s")];
        for (listen, open) in [
            ("127.0.0.1:1", true),
            ("[::1]:1", true),
            ("0.0.0.0:1", false),
            ("[::]:1", false),
            ("10.0.0.1:1", false),
        ] {
            assert_eq!(check(listen, &[]), open, "{listen}");
            assert!(check(listen, &token), "{listen}");
        }
    }
}
