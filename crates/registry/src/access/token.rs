//! Bearer tokens of the Docker registry's token protocol: our own, or those of another service whose keys are given.

use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use ring::hmac;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ED25519, RSA_PKCS1_2048_8192_SHA256,
    RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, UnparsedPublicKey, VerificationAlgorithm,
};
use serde_json::{Value, json};

use super::Asked;
use super::rules::Action;
use crate::error::{Error, Result};

/// How long our own tokens hold, in seconds: long enough for one push, which asks again when it ends.
const LIFETIME: i64 = 900;
/// How far clocks may be apart, in seconds.
const LEEWAY: i64 = 60;
const ISSUER: &str = "tug registry";
/// A token longer than this is refused unread.
const MAX_TOKEN: usize = 64 * 1024;

/// What a token lets its bearer do to one repository.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// `repository`, or `registry` for the catalogue.
    pub kind: String,
    /// Which.
    pub repository: String,
    /// What.
    pub actions: Vec<Action>,
}

/// Where tokens come from and what makes them good.
pub struct Tokens(Source);

enum Source {
    Ours(hmac::Key),
    Foreign { realm: String, service: String, issuer: String, keys: Vec<PublicKey> },
}

/// A key that verifies tokens of another service.
pub struct PublicKey {
    /// PKCS #1 for RSA, the uncompressed point or the 32 bytes for elliptic curves.
    bytes: Vec<u8>,
}

impl PublicKey {
    /// The keys in a PEM file of certificates and public keys.
    pub fn read(path: &Path) -> Result<Vec<PublicKey>> {
        use x509_parser::prelude::FromDer;
        let bad = |e: &dyn std::fmt::Display| Error::Configuration(format!("{}: {e}", path.display()));
        let text = std::fs::read(path).map_err(|e| bad(&e))?;
        let mut keys = Vec::new();
        for pem in x509_parser::pem::Pem::iter_from_buffer(&text) {
            let pem = pem.map_err(|e| bad(&e))?;
            let key = match pem.label.as_str() {
                "CERTIFICATE" => {
                    let certificate = pem.parse_x509().map_err(|e| bad(&e))?;
                    certificate.public_key().subject_public_key.data.to_vec()
                }
                "PUBLIC KEY" => {
                    let (_, info) = x509_parser::x509::SubjectPublicKeyInfo::from_der(&pem.contents)
                        .map_err(|e| bad(&e))?;
                    info.subject_public_key.data.to_vec()
                }
                other => return Err(bad(&format!("{other} is neither a certificate nor a public key"))),
            };
            keys.push(PublicKey { bytes: key });
        }
        if keys.is_empty() {
            return Err(bad(&"there is no certificate or public key in it"));
        }
        Ok(keys)
    }
}

fn refused(why: &str) -> Error {
    Error::unauthorized(format!("invalid token: {why}"))
}

impl Tokens {
    /// Tokens that this registry itself hands out at `/token`; the key is kept in `data_dir`, so that they outlive it.
    pub fn ours(data_dir: &Path) -> Result<Tokens> {
        let path = data_dir.join("token.key");
        let failed = |e: std::io::Error| Error::Configuration(format!("{}: {e}", path.display()));
        let key = match std::fs::read(&path) {
            Ok(key) if key.len() == 32 => key,
            Ok(_) => {
                let why = "it does not hold 32 bytes: remove it, and a new key is made";
                return Err(failed(std::io::Error::other(why)));
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let mut key = vec![0u8; 32];
                ring::rand::SecureRandom::fill(&ring::rand::SystemRandom::new(), &mut key)
                    .map_err(|_| failed(std::io::Error::other("no randomness")))?;
                std::fs::create_dir_all(data_dir).map_err(failed)?;
                base::fsx::write_atomic(&path, &key, 0o600).map_err(failed)?;
                key
            }
            Err(e) => return Err(failed(e)),
        };
        Ok(Tokens(Source::Ours(hmac::Key::new(hmac::HMAC_SHA256, &key))))
    }

    /// Tokens of the service at `realm` (a URL), signed with one of `keys`, for the audience `service`.
    pub fn foreign(realm: String, service: String, issuer: String, keys: Vec<PublicKey>) -> Tokens {
        Tokens(Source::Foreign { realm, service, issuer, keys })
    }

    pub(super) fn is_ours(&self) -> bool {
        matches!(self.0, Source::Ours(_))
    }

    pub(super) fn realm(&self, asked: &Asked<'_>) -> String {
        match &self.0 {
            Source::Ours(_) => {
                format!("http{}://{}/token", if asked.secure { "s" } else { "" }, asked.host)
            }
            Source::Foreign { realm, .. } => realm.clone(),
        }
    }

    pub(super) fn service(&self, host: &str) -> String {
        match &self.0 {
            Source::Ours(_) => host.into(),
            Source::Foreign { service, .. } => service.clone(),
        }
    }

    /// A token of ours and its lifetime in seconds.
    pub(super) fn sign(&self, user: &str, service: &str, grants: &[Grant]) -> Result<(String, i64)> {
        let Source::Ours(key) = &self.0 else { return Err(refused("tokens are made elsewhere")) };
        let now = base::clock::now().as_second();
        let access: Vec<Value> = grants
            .iter()
            .map(|g| {
                let actions: Vec<&str> = g.actions.iter().map(|a| a.name()).collect();
                json!({"type": g.kind, "name": g.repository, "actions": actions})
            })
            .collect();
        let claims = json!({
            "iss": ISSUER, "sub": user, "aud": service, "iat": now, "nbf": now, "exp": now + LIFETIME,
            "access": access,
        });
        let header = json!({"alg": "HS256", "typ": "JWT"});
        let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let tag = hmac::sign(key, signed.as_bytes());
        Ok((format!("{signed}.{}", B64.encode(tag)), LIFETIME))
    }

    /// What a token grants, if it is good now.
    pub(super) fn verify(&self, token: &str) -> Result<Vec<Grant>> {
        if token.len() > MAX_TOKEN {
            return Err(refused("it is longer than 64 KiB"));
        }
        let three = || refused("it has not three parts");
        let (signed, signature) = token.rsplit_once('.').ok_or_else(three)?;
        let (header, claims) = signed.split_once('.').ok_or_else(three)?;
        let decode = |part: &str| B64.decode(part).map_err(|_| refused("it is not base64url"));
        let parse = |part: &str| -> Result<Value> {
            serde_json::from_slice(&decode(part)?).map_err(|_| refused("it is not JSON"))
        };
        let header = parse(header)?;
        let algorithm = header["alg"].as_str().unwrap_or_default();
        let signature = decode(signature)?;
        let (genuine, issuer, audience) = match &self.0 {
            Source::Ours(key) => {
                let genuine =
                    algorithm == "HS256" && hmac::verify(key, signed.as_bytes(), &signature).is_ok();
                (genuine, ISSUER, None)
            }
            Source::Foreign { keys, issuer, service, .. } => {
                let verifier: &'static dyn VerificationAlgorithm = match algorithm {
                    "RS256" => &RSA_PKCS1_2048_8192_SHA256,
                    "RS384" => &RSA_PKCS1_2048_8192_SHA384,
                    "RS512" => &RSA_PKCS1_2048_8192_SHA512,
                    "ES256" => &ECDSA_P256_SHA256_FIXED,
                    "ES384" => &ECDSA_P384_SHA384_FIXED,
                    "EdDSA" => &ED25519,
                    other => return Err(refused(&format!("the algorithm {other:?} is not taken"))),
                };
                let genuine = keys.iter().any(|k| {
                    UnparsedPublicKey::new(verifier, &k.bytes).verify(signed.as_bytes(), &signature).is_ok()
                });
                (genuine, issuer.as_str(), Some(service.as_str()))
            }
        };
        if !genuine {
            return Err(refused("nobody known has signed it"));
        }
        let claims = parse(claims)?;
        if claims["iss"] != issuer {
            return Err(refused("another issuer made it"));
        }
        let for_us = |wanted: &str| match &claims["aud"] {
            Value::String(one) => one == wanted,
            Value::Array(all) => all.iter().any(|a| a == wanted),
            _ => false,
        };
        if audience.is_some_and(|a| !for_us(a)) {
            return Err(refused("it is for another service"));
        }
        let now = base::clock::now().as_second();
        if claims["exp"].as_i64().is_none_or(|t| t.saturating_add(LEEWAY) < now) {
            return Err(refused("it has expired"));
        }
        if claims["nbf"].as_i64().is_some_and(|t| t.saturating_sub(LEEWAY) > now) {
            return Err(refused("it is not valid yet"));
        }
        let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
        let grants = claims["access"].as_array().into_iter().flatten().map(|a| Grant {
            kind: text(&a["type"]),
            repository: text(&a["name"]),
            actions: a["actions"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(Value::as_str)
                .flat_map(Action::parse)
                .collect(),
        });
        Ok(grants.filter(|g| matches!(g.kind.as_str(), "repository" | "registry")).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ring::signature::{EcdsaKeyPair, KeyPair};

    fn grant() -> Grant {
        Grant { kind: "repository".into(), repository: "a/b".into(), actions: vec![Action::Pull] }
    }

    #[test]
    fn our_own() {
        let dir = tempfile::tempdir().unwrap();
        let tokens = Tokens::ours(dir.path()).unwrap();
        let (token, _) = tokens.sign("ann", "host:1", &[grant()]).unwrap();
        assert_eq!(tokens.verify(&token).unwrap(), [grant()]);
        // They hold after a restart, and elsewhere not at all.
        assert_eq!(Tokens::ours(dir.path()).unwrap().verify(&token).unwrap(), [grant()]);
        let other = tempfile::tempdir().unwrap();
        assert!(Tokens::ours(other.path()).unwrap().verify(&token).is_err());
        let parts: Vec<&str> = token.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], B64.encode(r#"{"iss":"tug registry"}"#), parts[2]);
        let none = format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), parts[1]);
        for bad in ["", "a.b.c", &forged, &none, &"x".repeat(MAX_TOKEN + 1)] {
            assert!(tokens.verify(bad).is_err(), "{bad:.30}");
        }
    }

    #[test]
    fn of_another_service() {
        let random = ring::rand::SystemRandom::new();
        let signing = &ring::signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let document = EcdsaKeyPair::generate_pkcs8(signing, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(signing, document.as_ref(), &random).unwrap();
        let key = PublicKey { bytes: pair.public_key().as_ref().to_vec() };
        let tokens = Tokens::foreign("https://t/x".into(), "reg".into(), "them".into(), vec![key]);
        let make = |claims: Value| {
            let signed = format!(
                "{}.{}",
                B64.encode(r#"{"alg":"ES256","typ":"JWT"}"#),
                B64.encode(claims.to_string())
            );
            let signature = pair.sign(&random, signed.as_bytes()).unwrap();
            format!("{signed}.{}", B64.encode(signature))
        };
        let now = base::clock::now().as_second();
        let access = json!([{"type": "repository", "name": "a/b", "actions": ["pull", "fly"]}]);
        let good = json!({"iss": "them", "aud": ["x", "reg"], "exp": now + 60, "access": access});
        assert_eq!(tokens.verify(&make(good.clone())).unwrap(), [grant()]);
        for (key, value) in
            [("iss", json!("us")), ("aud", json!("x")), ("exp", json!(now - 100)), ("nbf", json!(now + 100))]
        {
            let mut bad = good.clone();
            bad[key] = value;
            assert!(tokens.verify(&make(bad)).is_err(), "{key}");
        }
    }
}
