//! Certificates, keys and signed tokens of one cluster.
//!
//! A folder holds the certificate authority and the key that signs service-account tokens; both are made at the
//! first start. Leaf certificates are issued from it on demand and live in memory, so nothing has to be rotated on
//! disk; a server's certificate renews itself while the server runs ([`Pki::server_config`]).
//!
//! Promises: keys are ECDSA P-256 and never leave the process but for the three files named in [`Pki::open`] (mode
//! 0600). Who may do what with an identity is left to the API server.

mod kubeconfig;
mod request;
mod tls;
mod token;

use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::{clock, fsx, rng};
use jiff::Timestamp;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use x509_parser::prelude::FromDer;

pub use kubeconfig::kubeconfig;
pub use request::{Name, Request, usages};
pub use rustls_pki_types::CertificateDer;
pub use tls::{
    ClientAuth, ClientIdentity, Clients, Shown, Trust, check_authorities, client_config, user_of_certificate,
};
pub use token::KeySet;

/// How long a certificate authority lives: ten years.
pub const CA_DAYS: i64 = 3650;
/// How long a leaf certificate lives: one year; a running server renews its own in the last third.
pub const LEAF_DAYS: i64 = 365;

/// What can go wrong with keys, certificates and tokens.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file could not be read or written.
    #[error("{path}: {source}")]
    File {
        /// The file.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file does not hold what it should.
    #[error(
        "{path}: {reason}; restore it from a backup, or remove the folder {dir} to start with a new authority (every kubeconfig and token then has to be issued anew)"
    )]
    Broken {
        /// The file.
        path: PathBuf,
        /// Its folder.
        dir: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A certificate could not be made or read.
    #[error("certificate: {0}")]
    Certificate(String),
    /// A token is malformed or its signature is wrong.
    #[error("token: {0}")]
    Token(&'static str),
    /// rustls refused a configuration.
    #[error("TLS: {0}")]
    Tls(#[from] rustls::Error),
}

impl From<rcgen::Error> for Error {
    fn from(e: rcgen::Error) -> Self {
        Error::Certificate(e.to_string())
    }
}

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// A leaf certificate and its key.
#[derive(Clone)]
pub struct Identity {
    /// The certificate, PEM.
    pub cert_pem: String,
    /// Its PKCS #8 key, PEM.
    pub key_pem: String,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity").field("cert_pem", &self.cert_pem).finish_non_exhaustive()
    }
}

/// The certificate authority and the token key of a cluster.
pub struct Pki {
    ca_pem: String,
    issuer: Issuer<'static, KeyPair>,
    tokens: token::Signer,
}

impl std::fmt::Debug for Pki {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pki").finish_non_exhaustive()
    }
}

/// Names `path` in a system error.
fn file(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

impl Pki {
    /// Loads `ca.crt`, `ca.key` and `sa.key` from `dir`, making those that are not there.
    pub fn open(dir: &Path) -> Result<Arc<Pki>> {
        fs::create_dir_all(dir).map_err(file(dir))?;
        fsx::remove_leftovers(dir).map_err(file(dir))?;
        let (ca_crt, ca_key, sa_key) = (dir.join("ca.crt"), dir.join("ca.key"), dir.join("sa.key"));

        let key = load_key(&ca_key)?;
        let ca_pem = match read(&ca_crt)? {
            Some(pem) => pem,
            None => {
                let pem = authority(&key)?;
                fsx::write_atomic(&ca_crt, pem.as_bytes(), 0o644).map_err(file(&ca_crt))?;
                pem
            }
        };
        if let Err(reason) = belongs(&ca_pem, &key) {
            return Err(Error::Broken { path: ca_crt, dir: dir.into(), reason });
        }
        let issuer = Issuer::from_ca_cert_pem(&ca_pem, key).map_err(|e| Error::Broken {
            path: ca_crt,
            dir: dir.into(),
            reason: e.to_string(),
        })?;
        let tokens = token::Signer::new(&load_key(&sa_key)?)?;
        Ok(Arc::new(Pki { ca_pem, issuer, tokens }))
    }

    /// The authority's certificate, PEM.
    pub fn ca_pem(&self) -> &str {
        &self.ca_pem
    }

    /// A certificate for a server that answers under these names and addresses.
    pub fn issue_server(&self, name: &str, dns_names: &[String], ips: &[IpAddr]) -> Result<Identity> {
        let mut params = leaf(name, &[])?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        for dns in dns_names {
            let dns = dns
                .as_str()
                .try_into()
                .map_err(|_| Error::Certificate(format!("{dns:?} is not a DNS name")))?;
            params.subject_alt_names.push(SanType::DnsName(dns));
        }
        params.subject_alt_names.extend(ips.iter().copied().map(SanType::IpAddress));
        self.sign(params)
    }

    /// A certificate for a client: `user` becomes the common name, `groups` (at most two) the organizations.
    pub fn issue_client(&self, user: &str, groups: &[String]) -> Result<Identity> {
        let mut params = leaf(user, groups)?;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Result<Identity> {
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Identity { cert_pem: cert.pem(), key_pem: key.serialize_pem() })
    }

    /// Signs a JSON Web Token (RFC 7519, ES256) with these claims.
    pub fn sign_token(&self, claims: &serde_json::Value) -> Result<String> {
        self.tokens.sign(claims)
    }

    /// The claims of a token that this cluster signed. Expiry and audience are the caller's to check.
    pub fn verify_token(&self, token: &str) -> Result<serde_json::Value> {
        self.tokens.keys().verify(token)
    }

    /// The keys that verify this cluster's tokens, as a JSON Web Key Set (RFC 7517).
    pub fn key_set(&self) -> &KeySet {
        self.tokens.keys()
    }
}

fn read(path: &Path) -> Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(file(path)(e)),
    }
}

fn load_key(path: &Path) -> Result<KeyPair> {
    if let Some(pem) = read(path)? {
        return KeyPair::from_pem(&pem).map_err(|e| Error::Broken {
            path: path.into(),
            dir: path.parent().unwrap_or(Path::new("/")).into(),
            reason: format!("not a PKCS #8 key: {e}"),
        });
    }
    let key = KeyPair::generate()?;
    fsx::write_atomic(path, key.serialize_pem().as_bytes(), 0o600).map_err(file(path))?;
    Ok(key)
}

fn authority(key: &KeyPair) -> Result<String> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, format!("tug-ca-{}", rng::hex(4)));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages =
        vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    validity(&mut params, CA_DAYS);
    Ok(params.self_signed(key)?.pem())
}

fn leaf(name: &str, groups: &[String]) -> Result<CertificateParams> {
    if groups.len() > 2 {
        return Err(Error::Certificate(format!("{name}: a certificate carries at most two groups")));
    }
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    // rcgen keeps one value per attribute type; a second organization goes in under the bare object identifier.
    let organization = [DnType::OrganizationName, DnType::CustomDnType(vec![2, 5, 4, 10])];
    for (kind, group) in organization.into_iter().zip(groups) {
        params.distinguished_name.push(kind, group.as_str());
    }
    params.distinguished_name.push(DnType::CommonName, name);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
    params.use_authority_key_identifier_extension = true;
    validity(&mut params, LEAF_DAYS);
    Ok(params)
}

fn validity(params: &mut CertificateParams, days: i64) {
    // An hour back, for machines whose clocks differ a little.
    let start = clock::now().as_second() - 3600;
    let at = |second: i64| {
        time::OffsetDateTime::from_unix_timestamp(second).unwrap_or(time::OffsetDateTime::UNIX_EPOCH)
    };
    params.not_before = at(start);
    params.not_after = at(start + days * 86_400);
    let mut serial = [0u8; 16];
    rng::fill(&mut serial);
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
}

/// Whether the authority's certificate was made for this key and is still valid.
fn belongs(pem: &str, key: &KeyPair) -> std::result::Result<(), String> {
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())
        .map_err(|e| format!("not a PEM certificate: {e}"))?;
    let (_, cert) = x509_parser::certificate::X509Certificate::from_der(&block.contents)
        .map_err(|e| format!("not a certificate: {e}"))?;
    if cert.public_key().raw != rcgen::PublicKeyData::subject_public_key_info(key) {
        return Err("the certificate was made for another key than ca.key".into());
    }
    let now = clock::now().as_second();
    if now > cert.validity().not_after.timestamp() {
        return Err(format!("the certificate ended on {}", cert.validity().not_after));
    }
    Ok(())
}

/// When the certificate that comes first in a PEM document ends.
pub fn not_after(cert_pem: &str) -> Result<Timestamp> {
    let certificates = tls::certificates(cert_pem)?;
    let first = certificates.first().ok_or_else(|| Error::Certificate("there is no certificate".into()))?;
    tls::end_of_certificate(first)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn opens_twice_with_the_same_authority() {
        let dir = tempfile::tempdir().unwrap();
        let first = Pki::open(dir.path()).unwrap();
        let second = Pki::open(dir.path()).unwrap();
        assert_eq!(first.ca_pem(), second.ca_pem());
        let token = first.sign_token(&serde_json::json!({"sub": "a"})).unwrap();
        assert_eq!(second.verify_token(&token).unwrap()["sub"], "a");
    }

    #[test]
    fn a_foreign_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        Pki::open(dir.path()).unwrap();
        fs::write(dir.path().join("ca.key"), KeyPair::generate().unwrap().serialize_pem()).unwrap();
        let e = Pki::open(dir.path()).unwrap_err().to_string();
        assert!(e.contains("ca.crt") && e.contains("another key"), "{e}");
    }

    #[test]
    fn a_broken_key_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("sa.key"), "nonsense").unwrap();
        let e = Pki::open(dir.path()).unwrap_err().to_string();
        assert!(e.contains("sa.key"), "{e}");
    }

    #[test]
    fn client_certificates_carry_user_and_groups() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let id = pki.issue_client("system:node:a", &["system:nodes".into(), "extra".into()]).unwrap();
        let der = tls::certificates(&id.cert_pem).unwrap();
        let (user, mut groups) = user_of_certificate(&der[0]).unwrap();
        groups.sort();
        assert_eq!(
            (user.as_str(), groups),
            ("system:node:a", vec!["extra".to_string(), "system:nodes".to_string()])
        );
        assert!(pki.issue_client("x", &["a".into(), "b".into(), "c".into()]).is_err());
    }
}
