//! Digests: sha256 and sha512, checked while bytes pass.

use sha2::{Digest as _, Sha256, Sha512};

use crate::error::{Error, Result};

/// A well-formed digest of an algorithm that we can verify.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Digest(String);

impl Digest {
    pub fn parse(text: &str) -> Result<Self> {
        let fits = |prefix: &str, n: usize| {
            text.strip_prefix(prefix).is_some_and(|h| {
                h.len() == n && h.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
            })
        };
        if fits("sha256:", 64) || fits("sha512:", 128) {
            return Ok(Self(text.into()));
        }
        Err(Error::digest_invalid(format!("{text:?} is no sha256 or sha512 digest")))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// `sha256/abc...`: where its blob lies below the blobs' folder.
    pub fn path(&self) -> String {
        self.0.replacen(':', "/", 1)
    }

    /// Whether these bytes have this digest.
    pub fn matches(&self, bytes: &[u8]) -> bool {
        let mut h = self.hasher();
        h.update(bytes);
        h.finish() == *self
    }

    pub fn hasher(&self) -> Hasher {
        if self.0.starts_with("sha512:") { Hasher::Sha512(Sha512::new()) } else { Hasher::sha256() }
    }

    pub fn of(bytes: &[u8]) -> Self {
        let mut h = Hasher::sha256();
        h.update(bytes);
        h.finish()
    }
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A digest in the making.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn sha256() -> Self {
        Hasher::Sha256(Sha256::new())
    }

    /// Of an algorithm by its name (`sha512`).
    pub fn named(algorithm: &str) -> Result<Self> {
        match algorithm {
            "sha256" => Ok(Self::sha256()),
            "sha512" => Ok(Hasher::Sha512(Sha512::new())),
            other => {
                Err(Error::digest_invalid(format!("the algorithm {other:?} is neither sha256 nor sha512")))
            }
        }
    }

    /// Whether it makes digests of the same algorithm as this one.
    pub fn makes(&self, digest: &Digest) -> bool {
        matches!(self, Hasher::Sha512(_)) == digest.0.starts_with("sha512:")
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(h) => h.update(bytes),
            Hasher::Sha512(h) => h.update(bytes),
        }
    }

    pub fn finish(self) -> Digest {
        Digest(match self {
            Hasher::Sha256(h) => format!("sha256:{}", hex::encode(h.finalize())),
            Hasher::Sha512(h) => format!("sha512:{}", hex::encode(h.finalize())),
        })
    }
}
