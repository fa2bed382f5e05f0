//! JSON Web Tokens (RFC 7519) signed with ES256: what service accounts show.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
use rcgen::{KeyPair, PublicKeyData};
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, UnparsedPublicKey,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::{Error, Result};

/// A token longer than this is refused unread.
const MAX_TOKEN: usize = 64 * 1024;

/// The public keys that verify a cluster's tokens.
pub struct KeySet {
    kid: String,
    /// The uncompressed point: 0x04, x, y.
    point: Vec<u8>,
}

/// Signs tokens.
pub(crate) struct Signer {
    key: EcdsaKeyPair,
    random: SystemRandom,
    keys: KeySet,
}

impl Signer {
    pub(crate) fn new(key: &KeyPair) -> Result<Self> {
        let random = SystemRandom::new();
        let pair = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &key.serialize_der(), &random)
            .map_err(|e| Error::Certificate(format!("sa.key is not an ECDSA P-256 key: {e}")))?;
        let kid = B64.encode(Sha256::digest(key.subject_public_key_info()));
        Ok(Self { key: pair, random, keys: KeySet { kid, point: key.der_bytes().to_vec() } })
    }

    pub(crate) fn keys(&self) -> &KeySet {
        &self.keys
    }

    pub(crate) fn sign(&self, claims: &Value) -> Result<String> {
        let header = json!({"alg": "ES256", "kid": self.keys.kid, "typ": "JWT"});
        let signed = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = self
            .key
            .sign(&self.random, signed.as_bytes())
            .map_err(|_| Error::Token("signing failed for want of randomness"))?;
        Ok(format!("{signed}.{}", B64.encode(signature)))
    }
}

impl KeySet {
    /// The claims of `token` if one of these keys signed it.
    pub fn verify(&self, token: &str) -> Result<Value> {
        if token.len() > MAX_TOKEN {
            return Err(Error::Token("longer than 64 KiB"));
        }
        let (signed, signature) = token.rsplit_once('.').ok_or(Error::Token("not three parts"))?;
        let (header, claims) = signed.split_once('.').ok_or(Error::Token("not three parts"))?;
        let decode = |part: &str| B64.decode(part).map_err(|_| Error::Token("not base64url"));
        let parse = |part: &str| {
            serde_json::from_slice::<Value>(&decode(part)?).map_err(|_| Error::Token("not JSON"))
        };
        let header = parse(header)?;
        if header["alg"] != "ES256" {
            return Err(Error::Token("the algorithm is not ES256"));
        }
        if header.get("kid").is_some_and(|kid| *kid != self.kid.as_str()) {
            return Err(Error::Token("signed by an unknown key"));
        }
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, &self.point)
            .verify(signed.as_bytes(), &decode(signature)?)
            .map_err(|_| Error::Token("the signature is wrong"))?;
        parse(claims)
    }

    /// The keys as a JSON Web Key Set document (RFC 7517), for `/openid/v1/jwks`.
    pub fn document(&self) -> Value {
        let (x, y) = self.point[1..].split_at(32);
        json!({"keys": [{
            "use": "sig", "kty": "EC", "kid": self.kid, "crv": "P-256", "alg": "ES256",
            "x": B64.encode(x), "y": B64.encode(y),
        }]})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_and_verifies() {
        let signer = Signer::new(&KeyPair::generate().unwrap()).unwrap();
        let token = signer.sign(&json!({"sub": "system:serviceaccount:a:b"})).unwrap();
        assert_eq!(signer.keys().verify(&token).unwrap()["sub"], "system:serviceaccount:a:b");
        let stranger = Signer::new(&KeyPair::generate().unwrap()).unwrap();
        assert!(stranger.keys().verify(&token).is_err());
        assert_eq!(signer.keys().document()["keys"][0]["kty"], "EC");
    }

    #[test]
    fn refuses_what_was_tampered_with() {
        let signer = Signer::new(&KeyPair::generate().unwrap()).unwrap();
        let token = signer.sign(&json!({"sub": "a"})).unwrap();
        let parts: Vec<&str> = token.split('.').collect();
        let forged = format!("{}.{}.{}", parts[0], B64.encode(r#"{"sub":"root"}"#), parts[2]);
        let none = format!("{}.{}.", B64.encode(r#"{"alg":"none"}"#), parts[1]);
        for bad in ["", "a", "a.b", "a.b.c", "..", &forged, &none, &"x".repeat(MAX_TOKEN + 1)] {
            assert!(signer.keys().verify(bad).is_err(), "{bad:.40}");
        }
    }
}
