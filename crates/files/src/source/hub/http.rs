//! Requests to the hub.
//!
//! Redirects are followed here and not by the HTTP library, for two reasons: the answer that redirects
//! to the storage host carries the file's hash and length, and the token must never reach that host.

use std::io::Read;
use std::time::Duration;

use ureq::http::{HeaderMap, StatusCode};
use ureq::typestate::WithoutBody;
use ureq::{Agent, Body, RequestBuilder};

use super::{ResolveOptions, SourceError};

/// Redirects that are followed.
const HOPS_MAX: usize = 5;
/// Slowest storage that is waited for, bytes a second; below that a download counts as broken off.
const SLOWEST: u64 = 20_000;

/// Speaks to one endpoint about one repository.
pub(super) struct Client {
    agent: Agent,
    endpoint: String,
    token: Option<String>,
    repo: String,
}

/// An answer whose status has been looked at.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Body,
}

impl Client {
    pub(super) fn new(options: &ResolveOptions, repo: String) -> Client {
        let config = Agent::config_builder()
            .max_redirects(0)
            .max_redirects_will_error(false)
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(Duration::from_secs(30)))
            .user_agent(concat!("meden/", env!("CARGO_PKG_VERSION")))
            .build();
        Client { agent: config.new_agent(), endpoint: options.endpoint.clone(), token: options.token.clone(), repo }
    }

    pub(super) fn repo(&self) -> &str {
        &self.repo
    }

    /// A small body, whole.
    pub(super) fn get(&self, path: &str, limit: u64, what: &str) -> Result<Vec<u8>, SourceError> {
        let answer = self.request(path, None, limit, what)?;
        if answer.status != StatusCode::OK {
            return Err(self.refused(answer.status, what));
        }
        let mut body = Vec::new();
        let read = answer.body.into_reader().take(limit + 1).read_to_end(&mut body);
        read.map_err(|e| self.broken(&e))?;
        if body.len() as u64 > limit {
            return Err(self.nonsense(what, format!("it is longer than {limit} bytes")));
        }
        Ok(body)
    }

    /// Headers of a file. The hub's own answer, not the storage host's: it has hash, length and commit.
    pub(super) fn head(&self, path: &str, what: &str) -> Result<HeaderMap, SourceError> {
        let mut url = format!("{}{path}", self.endpoint);
        for _ in 0..=HOPS_MAX {
            let request = self.with_token(self.agent.head(&url), &url);
            let (parts, _) = request.call().map_err(|e| self.broken(&e))?.into_parts();
            let moved = parts.status.is_redirection();
            if parts.status == StatusCode::OK || (moved && parts.headers.contains_key("x-repo-commit")) {
                return Ok(parts.headers);
            }
            if !moved {
                return Err(self.refused(parts.status, what));
            }
            // A repository that was renamed.
            url = self.target(&url, &parts.headers, what)?;
        }
        Err(self.nonsense(what, format!("more than {HOPS_MAX} redirects")))
    }

    /// A request from byte `from` on, redirects followed; 200, 206 and 416 come back, other statuses are
    /// errors. `expect` bytes decide how long the body may take.
    pub(super) fn request(
        &self,
        path: &str,
        from: Option<u64>,
        expect: u64,
        what: &str,
    ) -> Result<Answer, SourceError> {
        let patience = Duration::from_secs(60 + expect / SLOWEST);
        let mut url = format!("{}{path}", self.endpoint);
        for _ in 0..=HOPS_MAX {
            let mut request = self.with_token(self.agent.get(&url), &url);
            if let Some(from) = from {
                request = request.header("range", format!("bytes={from}-"));
            }
            let answer = request.config().timeout_recv_body(Some(patience)).build().call();
            let (parts, body) = answer.map_err(|e| self.broken(&e))?.into_parts();
            if parts.status.is_redirection() {
                url = self.target(&url, &parts.headers, what)?;
                continue;
            }
            return match parts.status {
                StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                    Ok(Answer { status: parts.status, headers: parts.headers, body })
                }
                status => Err(self.refused(status, what)),
            };
        }
        Err(self.nonsense(what, format!("more than {HOPS_MAX} redirects")))
    }

    /// The token goes to the endpoint and to nobody else.
    fn with_token(&self, request: RequestBuilder<WithoutBody>, url: &str) -> RequestBuilder<WithoutBody> {
        // Compressed answers have another length than the file.
        let request = request.header("accept-encoding", "identity");
        match self.token.as_ref().filter(|_| same_host(url, &self.endpoint)) {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    /// Where a redirect leads.
    fn target(&self, url: &str, headers: &HeaderMap, what: &str) -> Result<String, SourceError> {
        let target = header(headers, "location").and_then(|to| join(url, to));
        target.ok_or_else(|| self.nonsense(what, "a redirect without a target".into()))
    }

    fn refused(&self, status: StatusCode, what: &str) -> SourceError {
        let (repo, what, status) = (self.repo.clone(), what.to_owned(), status.as_u16());
        match status {
            401 | 403 => SourceError::Denied { repo, status },
            404 => SourceError::NotFound { repo, what },
            _ => SourceError::Status { repo, what, status },
        }
    }

    fn broken(&self, e: &dyn std::error::Error) -> SourceError {
        SourceError::Connection { repo: self.repo.clone(), problem: e.to_string() }
    }

    pub(super) fn nonsense(&self, what: &str, problem: String) -> SourceError {
        SourceError::BadAnswer { repo: self.repo.clone(), what: what.to_owned(), problem }
    }
}

/// A header as text.
pub(super) fn header<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}

/// Scheme, host and port.
fn origin(url: &str) -> &str {
    let start = url.find("://").map_or(0, |i| i + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |i| start + i);
    &url[..end]
}

fn same_host(a: &str, b: &str) -> bool {
    origin(a).eq_ignore_ascii_case(origin(b))
}

/// Where a redirect leads: an address, or a path on the same host.
fn join(base: &str, to: &str) -> Option<String> {
    if to.starts_with("http://") || to.starts_with("https://") {
        Some(to.to_owned())
    } else if to.starts_with('/') && !to.starts_with("//") {
        Some(format!("{}{to}", origin(base)))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_token_s_host_is_told_from_others() {
        assert!(same_host("https://hub.example/a/b", "https://HUB.example"));
        for other in
            ["https://hub.example.evil/a", "http://hub.example/a", "https://hub.example:444/", "https://cdn.example"]
        {
            assert!(!same_host(other, "https://hub.example"), "{other}");
        }
    }

    #[test]
    fn redirects_lead_to_addresses_and_paths_only() {
        assert_eq!(join("https://a.b/c?d", "/e").as_deref(), Some("https://a.b/e"));
        assert_eq!(join("https://a.b/c", "https://d.e/f").as_deref(), Some("https://d.e/f"));
        assert!(join("https://a.b/c", "file:///etc/passwd").is_none());
        assert!(join("https://a.b/c", "//d.e/f").is_none());
    }
}
