//! Authentication: what a registry asks for, answered with what the user gave.

use std::collections::HashMap;

use base64::Engine as _;
use http::{HeaderMap, Method, StatusCode, Uri, header};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Deserialize;

use super::client::{Payload, Remote, back_off, is_passing, read_limited, retry_after};
use crate::error::{Error, Result};

impl Remote {
    /// Answers a challenge: Basic with the credentials, Bearer with a token from the realm.
    pub(super) async fn authenticate(&self, headers: &HeaderMap, scope: &str) -> Result<()> {
        let shared = &self.shared;
        let basic = shared.auth.as_ref().filter(|a| !a.username.is_empty()).map(|a| {
            let pair = format!("{}:{}", a.username, a.password);
            format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair))
        });
        let challenges: Vec<&str> =
            headers.get_all(header::WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).collect();
        let bearer =
            challenges.iter().find(|c| c.get(..7).is_some_and(|s| s.eq_ignore_ascii_case("bearer ")));
        let Some(bearer) = bearer else {
            let header = basic.ok_or_else(|| self.no_credentials())?;
            shared.tokens.lock().insert(scope.to_string(), header);
            return Ok(());
        };
        if let Some(token) = shared.auth.as_ref().map(|a| &a.registry_token).filter(|t| !t.is_empty()) {
            shared.tokens.lock().insert(scope.to_string(), format!("Bearer {token}"));
            return Ok(());
        }
        let parameters = parameters(&bearer[7..]);
        let realm =
            parameters.get("realm").ok_or_else(|| Error::Registry("a challenge without a realm".into()))?;
        if !shared.host.insecure && !realm.starts_with("https://") {
            return Err(Error::Registry(format!(
                "the registry wants credentials sent to {realm}, which is not encrypted"
            )));
        }
        let encode = |s: &str| utf8_percent_encode(s, NON_ALPHANUMERIC).to_string();
        // What the registry asks for, and what else the request touches.
        let mut scopes: Vec<&str> = parameters.get("scope").map(String::as_str).into_iter().collect();
        scopes.extend(scope.split(' ').skip(scopes.len()).filter(|s| !s.is_empty()));
        let service = parameters.get("service").map(String::as_str).unwrap_or_default();
        let refresh = shared.auth.as_ref().map(|a| a.identity_token.as_str()).filter(|t| !t.is_empty());
        let (method, uri, body, authorization) = match refresh {
            Some(token) => {
                let form = format!(
                    "grant_type=refresh_token&service={}&client_id=tug&scope={}&refresh_token={}",
                    encode(service),
                    encode(&scopes.join(" ")),
                    encode(token)
                );
                (Method::POST, realm.clone(), Some(form), None)
            }
            None => {
                let mark = if realm.contains('?') { '&' } else { '?' };
                let mut uri = format!("{realm}{mark}service={}", encode(service));
                for scope in &scopes {
                    uri.push_str(&format!("&scope={}", encode(scope)));
                }
                if let Some(a) = shared.auth.as_ref().filter(|a| !a.username.is_empty()) {
                    uri.push_str(&format!("&account={}", encode(&a.username)));
                }
                (Method::GET, uri, None, basic.as_deref())
            }
        };
        let uri: Uri = uri.parse().map_err(|e| Error::Registry(format!("{uri}: {e}")))?;
        let mut failures = 0;
        let (status, bytes) = loop {
            let payload = match &body {
                Some(form) => Payload::Whole(form.clone().into(), "application/x-www-form-urlencoded".into()),
                None => Payload::Empty,
            };
            let request = self.request(method.clone(), &uri, &HeaderMap::new(), payload, authorization)?;
            let response = self.ask(request).await?;
            let status = response.status();
            if is_passing(status) && failures + 1 < shared.attempts {
                failures += 1;
                back_off(failures, retry_after(response.headers())).await;
                continue;
            }
            break (status, read_limited(response, shared.patience).await?);
        };
        if status == StatusCode::UNAUTHORIZED || status == StatusCode::FORBIDDEN {
            return Err(self.denied("incorrect username or password"));
        }
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let answer: Answer = serde_json::from_slice(&bytes)
            .map_err(|e| Error::Registry(format!("{uri}: unexpected answer ({status}): {e}")))?;
        let token = answer.token.or(answer.access_token).filter(|t| !t.is_empty());
        let token = token.ok_or_else(|| Error::Registry(format!("{uri}: an answer without a token")))?;
        shared.tokens.lock().insert(scope.to_string(), format!("Bearer {token}"));
        Ok(())
    }
}

/// `a="b",c=d` of a challenge, keys in lower case.
pub(crate) fn parameters(text: &str) -> HashMap<String, String> {
    let mut all = HashMap::new();
    let mut rest = text.trim();
    while let Some((key, after)) = rest.split_once('=') {
        let key = key.trim_matches([' ', ',']).to_ascii_lowercase();
        let (value, tail) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        all.insert(key, value.to_string());
        rest = tail.trim_start_matches([',', ' ']);
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges() {
        let p =
            parameters(r#"realm="https://a/t?x=1",service="r, s",scope="repository:a/b:pull,push",error=x"#);
        assert_eq!((p["realm"].as_str(), p["service"].as_str()), ("https://a/t?x=1", "r, s"));
        assert_eq!((p["scope"].as_str(), p["error"].as_str()), ("repository:a/b:pull,push", "x"));
    }
}
