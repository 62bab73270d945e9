//! Who may ask. With a token, whoever brings it. Without one the API serves this machine alone, where web pages are read,
//! too: they can send requests to any address, though not read the answers, nor say what these checks ask for.

use std::sync::Arc;

use axum::{
    extract::{Request, State},
    http::{HeaderMap, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{Api, answer::ApiError, body::is_json, connections::Connection};

/// Longest address of a request, in bytes.
const MAX_ADDRESS: usize = 4096;

/// What a client has to bring, or to call this process, if anything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Access {
    /// The token that is asked for.
    pub(crate) token: Option<Arc<str>>,
    /// Names of this machine beside those of its loopback.
    pub(crate) hosts: Arc<[String]>,
}

/// Lets a request in, or says why not. Its body has not been read.
pub(super) async fn guard(State(api): State<Api>, request: Request, next: Next) -> Response {
    match api.access.check(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    }
}

impl Access {
    fn check(&self, request: &Request) -> Result<(), ApiError> {
        if request.extensions().get::<Arc<Connection>>().is_some_and(|connection| connection.crowded) {
            return Err(ApiError::unavailable("there are too many connections: try again later"));
        }
        check_address(request.uri())?;
        // Callbacks carry their right in their address.
        if request.uri().path().starts_with("/callbacks/") {
            return Ok(());
        }
        match &self.token {
            Some(token) if brings(request.headers(), token) => Ok(()),
            Some(_) => Err(ApiError::unauthorized()),
            None => self.check_origin(request),
        }
    }

    /// Refuses what a web page could make a browser send: another site's name for this machine, and a change that is asked
    /// for by a plain form.
    fn check_origin(&self, request: &Request) -> Result<(), ApiError> {
        let host = request.headers().get(header::HOST).map(|host| host.to_str().unwrap_or("?"));
        let host = request.uri().authority().map(|authority| authority.as_str()).or(host);
        if let Some(host) = host.filter(|host| !self.is_here(host)) {
            return Err(ApiError::forbidden(format!(
                "Host: {host:?} is no name of this machine: use 127.0.0.1 or localhost, set a token, or name it with --host"
            )));
        }
        let headers = request.headers();
        let plain =
            !is_json(headers) && !headers.contains_key("authorization") && !headers.contains_key("x-requested-with");
        if plain && !request.method().is_safe() {
            return Err(ApiError::no_json());
        }
        Ok(())
    }

    fn is_here(&self, host: &str) -> bool {
        let name = match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
            _ => host,
        };
        let name = name.trim_start_matches('[').trim_end_matches(']').trim_end_matches('.');
        let loopback = name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback());
        let local = name.eq_ignore_ascii_case("localhost") || name.to_ascii_lowercase().ends_with(".localhost");
        loopback || local || self.hosts.iter().any(|known| known.eq_ignore_ascii_case(name))
    }
}

/// Refuses addresses that could name nothing, before a database is asked.
fn check_address(uri: &axum::http::Uri) -> Result<(), ApiError> {
    let address = uri.path_and_query().map_or("", |address| address.as_str());
    if address.len() > MAX_ADDRESS {
        let seen = address.len();
        return Err(ApiError::unprocessable(format!("an address of {seen} bytes: at most {MAX_ADDRESS} are taken")));
    }
    if address.contains("%00") {
        return Err(ApiError::unprocessable("the address holds a NUL (%00), which no name has"));
    }
    Ok(())
}

fn brings(headers: &HeaderMap, token: &str) -> bool {
    let brought = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let brought = brought.and_then(|value| value.split_once(' '));
    let brought = brought.filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer")).map(|(_, token)| token);
    brought.is_some_and(|brought| same(brought, token))
}

/// Takes as long wherever the first difference is.
fn same(a: &str, b: &str) -> bool {
    a.len() == b.len() && a.bytes().zip(b.bytes()).fold(0, |all, (a, b)| all | (a ^ b)) == 0
}

/// Refuses a text that cannot be a name: 1 to 200 bytes, none of them a control character.
pub(super) fn check_name(what: &str, name: &str) -> Result<(), ApiError> {
    if name.is_empty() || name.len() > 200 || name.chars().any(char::is_control) {
        return Err(ApiError::unprocessable(format!("{what} has 1 to 200 bytes, none of them a control character")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_here() {
        let access = Access { token: None, hosts: Arc::from(["queue.lan".to_owned()]) };
        for here in
            ["127.0.0.1", "127.0.0.1:8080", "localhost:80", "[::1]:8080", "LOCALHOST", "a.localhost", "Queue.LAN:1"]
        {
            assert!(access.is_here(here), "{here}");
        }
        for elsewhere in
            ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "localhost.evil", "10.0.0.1", ""]
        {
            assert!(!access.is_here(elsewhere), "{elsewhere}");
        }
    }
}
