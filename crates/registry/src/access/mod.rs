//! Who may do what: people from an htpasswd file, rights by repository, Basic credentials or bearer tokens.
//!
//! Without an `Access` everybody may everything, which is for loopback. With one, nobody may anything that no rule
//! grants; without rules, whoever has a password may everything.

mod htpasswd;
mod rules;
mod token;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, header};
use serde_json::{Value, json};

pub use htpasswd::Htpasswd;
pub use rules::{Action, Rules};
pub use token::{Grant, PublicKey, Tokens};

use crate::error::{Error, Result};

/// Who may do what in a registry.
pub struct Access {
    /// The people and their passwords.
    pub users: Option<Htpasswd>,
    /// What they may; `None` lets everyone with a password do everything.
    pub rules: Option<Rules>,
    /// Ask for bearer tokens instead of passwords.
    pub tokens: Option<Tokens>,
}

impl std::fmt::Debug for Access {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Access").finish_non_exhaustive()
    }
}

/// On whose behalf a request comes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Caller {
    /// There is no access control.
    Everybody,
    /// No credentials.
    Anonymous,
    /// Proved by a password.
    User(String),
    /// What a token grants.
    Bearer(Vec<Grant>),
}

/// How the request was addressed, for the challenge.
pub(crate) struct Asked<'a> {
    pub secure: bool,
    pub host: &'a str,
}

impl Access {
    /// Blocking: a password is checked at the cost that its hash was made with.
    pub(crate) fn caller(&self, headers: &HeaderMap) -> Result<Caller> {
        let Some(value) = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok()) else {
            return Ok(Caller::Anonymous);
        };
        let (scheme, rest) = value.split_once(' ').unwrap_or((value, ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return self.password(rest.trim()).map(Caller::User);
        }
        if scheme.eq_ignore_ascii_case("bearer")
            && let Some(tokens) = &self.tokens
        {
            return Ok(Caller::Bearer(tokens.verify(rest.trim())?));
        }
        Err(Error::unauthorized("this kind of credentials is not taken here"))
    }

    /// The user of base64-encoded `name:password`.
    fn password(&self, encoded: &str) -> Result<String> {
        let wrong = || Error::unauthorized("incorrect username or password");
        let pair = STANDARD.decode(encoded).ok().and_then(|b| String::from_utf8(b).ok()).ok_or_else(wrong)?;
        let (name, password) = pair.split_once(':').ok_or_else(wrong)?;
        let users = self.users.as_ref().ok_or_else(wrong)?;
        if users.check(name, password)? { Ok(name.into()) } else { Err(wrong()) }
    }

    /// Whether the caller may do this to a repository.
    pub(crate) fn allows(&self, caller: &Caller, repository: &str, action: Action) -> bool {
        let user = match caller {
            Caller::Everybody => return true,
            Caller::Bearer(grants) => {
                let of = |g: &&Grant| g.kind == "repository" && g.repository == repository;
                return grants.iter().filter(of).any(|g| g.actions.contains(&action));
            }
            // With tokens, a password is for the token endpoint alone: rights come from one place.
            Caller::User(_) if self.tokens.is_some() => return false,
            Caller::Anonymous => None,
            Caller::User(name) => Some(name.as_str()),
        };
        self.user_may(user, repository, action)
    }

    fn user_may(&self, user: Option<&str>, repository: &str, action: Action) -> bool {
        match &self.rules {
            Some(rules) => rules.allow(user, repository, action),
            None => user.is_some(),
        }
    }

    /// Whether the catalogue shows a repository to the caller.
    pub(crate) fn shows(&self, caller: &Caller, repository: &str) -> bool {
        match caller {
            // A token names repositories one by one; whoever got one for the catalogue may see all of it.
            Caller::Bearer(grants) => {
                grants.iter().any(|g| g.kind == "registry" && g.repository == "catalog")
                    || self.allows(caller, repository, Action::Pull)
            }
            other => self.allows(other, repository, Action::Pull),
        }
    }

    /// The challenge that tells a client how to come back.
    pub(crate) fn challenge(&self, asked: &Asked<'_>, scope: Option<&str>) -> (HeaderName, String) {
        let text = match &self.tokens {
            Some(tokens) => {
                let mut text = format!(
                    "Bearer realm=\"{}\",service=\"{}\"",
                    tokens.realm(asked),
                    tokens.service(asked.host)
                );
                if let Some(scope) = scope {
                    text.push_str(&format!(",scope=\"{scope}\""));
                }
                text
            }
            None => "Basic realm=\"tug registry\"".into(),
        };
        (header::WWW_AUTHENTICATE, text)
    }

    /// The answer of the built-in token endpoint; `None` if tokens come from elsewhere. Blocking.
    pub(crate) fn issue(&self, headers: &HeaderMap, service: &str, scopes: &[&str]) -> Option<Result<Value>> {
        let tokens = self.tokens.as_ref().filter(|t| t.is_ours())?;
        Some(self.caller(headers).and_then(|caller| {
            let user = match &caller {
                Caller::User(name) => Some(name.as_str()),
                Caller::Anonymous => None,
                _ => return Err(Error::unauthorized("a token is asked for with a password")),
            };
            let mut grants = Vec::new();
            for scope in scopes.iter().flat_map(|s| s.split(' ')).filter(|s| !s.is_empty()) {
                let Some((kind, rest)) = scope.split_once(':') else { continue };
                let Some((name, actions)) = rest.rsplit_once(':') else { continue };
                match kind {
                    "repository" => {
                        let wanted = actions.split(',').flat_map(Action::parse);
                        let actions = wanted.filter(|a| self.user_may(user, name, *a)).collect();
                        grants.push(Grant { kind: kind.into(), repository: name.into(), actions });
                    }
                    "registry" if name == "catalog" && self.user_may(user, "*", Action::Pull) => {
                        grants.push(Grant {
                            kind: kind.into(),
                            repository: name.into(),
                            actions: vec![Action::Pull],
                        });
                    }
                    _ => {}
                }
            }
            let (token, lifetime) = tokens.sign(user.unwrap_or_default(), service, &grants)?;
            Ok(json!({
                "token": token, "access_token": token, "expires_in": lifetime,
                "issued_at": base::clock::rfc3339(base::clock::now()),
            }))
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_to_the_catalogue_is_none_to_a_repository_of_that_name() {
        let access = Access { users: None, rules: None, tokens: None };
        let grant = |kind: &str| {
            let grant =
                Grant { kind: kind.into(), repository: "catalog".into(), actions: vec![Action::Pull] };
            Caller::Bearer(vec![grant])
        };
        assert!(!access.allows(&grant("registry"), "catalog", Action::Pull));
        assert!(access.allows(&grant("repository"), "catalog", Action::Pull));
        assert!(!access.allows(&grant("repository"), "catalog", Action::Push));
    }
}
