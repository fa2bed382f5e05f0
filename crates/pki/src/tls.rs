//! TLS configurations made from the authority.

use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, OnceLock, RwLock};

use base::clock;
use jiff::{SignedDuration, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, WebPkiServerVerifier, verify_server_name};
use rustls::crypto::verify_tls13_signature_with_raw_key;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, DistinguishedName, RootCertStore, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use x509_parser::der_parser::oid;
use x509_parser::oid_registry::Oid;
use x509_parser::prelude::{FromDer, X509Certificate, X509Version};

use crate::{Error, Identity, LEAF_DAYS, Pki, Result, not_after};

/// Whether a server asks its clients for a certificate of the cluster's authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// A client may show one, of whatever authority: who asks must be told in the protocol's own words that it is no good. It is
    /// worth nothing before [`Clients`] has judged it; without one the client is anonymous at this layer.
    Optional,
    /// A client must show one.
    Required,
    /// None is asked for.
    None,
}

/// Whose certificates are believed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Trust {
    /// Those that one of these authorities (PEM) has signed. None of them, or none that can be read, is an error.
    Only(String),
    /// Those that the system trusts.
    System,
    /// Those that the system trusts, and these authorities' (PEM). Where the system has no list, these are all.
    SystemAnd(String),
}

impl Trust {
    /// The authorities that somebody named, if anything was: else those of the system.
    pub fn given(ca_pem: &str) -> Self {
        if ca_pem.is_empty() { Self::System } else { Self::Only(ca_pem.to_owned()) }
    }

    /// A configuration without what the client shows. `system` reads what the system trusts.
    fn config(
        &self,
        system: &dyn Fn() -> Result<Arc<RootCertStore>>,
    ) -> Result<rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert>> {
        let trusted = match self {
            Self::Only(pem) => Arc::new(roots(pem)?),
            Self::System => system()?,
            Self::SystemAnd(pem) => {
                let mut trusted = roots(pem)?;
                match system() {
                    Ok(system) => trusted.roots.extend(system.roots.iter().cloned()),
                    Err(error) => tracing::debug!(%error, "only the cluster's own authority is trusted"),
                }
                Arc::new(trusted)
            }
        };
        let signed = WebPkiServerVerifier::builder_with_provider(trusted, provider());
        let signed = signed.build().map_err(|e| Error::Certificate(e.to_string()))?;
        let themselves = match self {
            Self::Only(pem) | Self::SystemAnd(pem) => certificates(pem)?,
            Self::System => Vec::new(),
        };
        Ok(ClientConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Servers { signed, themselves })))
    }
}

/// Judges servers as Go's clients do: one that shows a certificate which is itself among the authorities that somebody named is
/// believed, though it is an authority's. Such are made where a webhook signs its own certificate.
#[derive(Debug)]
struct Servers {
    signed: Arc<WebPkiServerVerifier>,
    themselves: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Servers {
    fn verify_server_cert(
        &self,
        shown: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        if !self.themselves.contains(shown) {
            return self.signed.verify_server_cert(shown, between, name, ocsp, now);
        }
        let bad = |why: CertificateError| rustls::Error::InvalidCertificate(why);
        let cert = parsed(shown).map_err(|_| bad(CertificateError::BadEncoding))?;
        let (validity, now) = (cert.validity(), i64::try_from(now.as_secs()).unwrap_or(i64::MAX));
        if now < validity.not_before.timestamp() {
            return Err(bad(CertificateError::NotValidYet));
        }
        if now > validity.not_after.timestamp() {
            return Err(bad(CertificateError::Expired));
        }
        let usage = cert.extended_key_usage().map_err(|_| bad(CertificateError::BadEncoding))?;
        if usage.is_some_and(|usage| !usage.value.server_auth && !usage.value.any) {
            return Err(bad(CertificateError::InvalidPurpose));
        }
        verify_server_name(&ParsedCertificate::try_from(shown)?, name)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls12_signature(message, cert, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.signed.verify_tls13_signature(message, cert, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.signed.supported_verify_schemes()
    }
}

/// Fails if a list of authorities (PEM) holds none, or one that cannot be used.
pub fn check_authorities(pem: &str) -> Result<()> {
    roots(pem).map(|_| ())
}

/// A certificate that is issued anew in the last third of its life.
struct Renewing {
    /// Whose it is, for the log.
    name: String,
    issue: Box<dyn Fn() -> Result<Identity> + Send + Sync>,
    current: RwLock<(Arc<CertifiedKey>, Timestamp)>,
}

impl std::fmt::Debug for Renewing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Renewing").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Renewing {
    fn new(name: &str, issue: impl Fn() -> Result<Identity> + Send + Sync + 'static) -> Result<Self> {
        let current = RwLock::new(Self::fresh(&issue)?);
        Ok(Self { name: name.to_owned(), issue: Box::new(issue), current })
    }

    fn fresh(issue: &dyn Fn() -> Result<Identity>) -> Result<(Arc<CertifiedKey>, Timestamp)> {
        let identity = issue()?;
        let renew_at = not_after(&identity.cert_pem)? - SignedDuration::from_hours(LEAF_DAYS * 24 / 3);
        Ok((certified(&identity)?, renew_at))
    }

    /// The certificate to show now. The check rides on the handshake, so no timer is needed: who is in none needs no fresh
    /// certificate. If it cannot be renewed it is the one that there is.
    fn current(&self) -> Option<Arc<CertifiedKey>> {
        let (key, renew_at) = self.current.read().ok()?.clone();
        if clock::now() < renew_at {
            return Some(key);
        }
        match Self::fresh(&self.issue) {
            Ok(fresh) => {
                let key = fresh.0.clone();
                *self.current.write().ok()? = fresh;
                tracing::info!(name = %self.name, "certificate renewed");
                Some(key)
            }
            Err(e) => {
                tracing::error!(name = %self.name, error = %e, "certificate not renewed");
                Some(key)
            }
        }
    }
}

impl ResolvesServerCert for Renewing {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.current()
    }
}

/// Who a client is for as long as it runs: a certificate that is renewed in the last third of its life.
#[derive(Debug)]
pub struct ClientIdentity(Renewing);

impl ClientIdentity {
    /// A configuration that shows this identity. It may be kept as long as the client runs.
    pub fn client_config(self: &Arc<Self>, trust: &Trust) -> Result<ClientConfig> {
        Ok(trust.config(&system_roots)?.with_client_cert_resolver(self.clone()))
    }
}

impl ResolvesClientCert for ClientIdentity {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.current()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl Pki {
    /// An identity of a client of this authority's servers that lasts as long as it is used.
    pub fn client_identity(self: &Arc<Self>, name: &str, groups: &[String]) -> Result<Arc<ClientIdentity>> {
        let (pki, user, groups) = (self.clone(), name.to_owned(), groups.to_vec());
        let renewing = Renewing::new(name, move || pki.issue_client(&user, &groups))?;
        Ok(Arc::new(ClientIdentity(renewing)))
    }

    /// A server configuration whose certificate, for these names and addresses, is renewed in the last third of its life.
    /// Offers HTTP/2 and HTTP/1.1 by ALPN.
    pub fn server_config(
        self: &Arc<Self>,
        name: &str,
        dns_names: &[String],
        ips: &[IpAddr],
        clients: ClientAuth,
    ) -> Result<ServerConfig> {
        let (pki, server) = (self.clone(), name.to_owned());
        let (dns_names, ips) = (dns_names.to_vec(), ips.to_vec());
        let resolver = Renewing::new(name, move || pki.issue_server(&server, &dns_names, &ips))?;
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let verifier = || {
            Ok::<_, Error>(WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider()))
        };
        let builder = match clients {
            ClientAuth::None => builder.with_no_client_auth(),
            ClientAuth::Optional => {
                let inner = verifier()?.allow_unauthenticated().build();
                let inner = inner.map_err(|e| Error::Certificate(e.to_string()))?;
                builder.with_client_cert_verifier(Arc::new(Unjudged(inner)))
            }
            ClientAuth::Required => builder.with_client_cert_verifier(
                verifier()?.build().map_err(|e| Error::Certificate(e.to_string()))?,
            ),
        };
        let mut config = builder.with_cert_resolver(Arc::new(resolver));
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }

    /// A client configuration that trusts only this authority and shows `identity`, if any. No ALPN is set.
    pub fn client_config(&self, identity: Option<&Identity>) -> Result<ClientConfig> {
        client_config(&Trust::Only(self.ca_pem.clone()), identity)
    }

    /// The judge of certificates that clients have shown.
    pub fn clients(&self) -> Result<Clients> {
        let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(self.roots()?), provider());
        let verifier = builder.build().map_err(|e| Error::Certificate(e.to_string()))?;
        Ok(Clients { verifier, authorities: certificates(&self.ca_pem)?.into() })
    }

    fn roots(&self) -> Result<RootCertStore> {
        roots(&self.ca_pem)
    }
}

/// Sees to it that a client holds the key of the certificate that it shows, and leaves the certificate to be judged later.
#[derive(Debug)]
struct Unjudged(Arc<dyn ClientCertVerifier>);

impl ClientCertVerifier for Unjudged {
    fn offer_client_auth(&self) -> bool {
        self.0.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.0.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.0.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> std::result::Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        self.0.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        match version_one(cert) {
            None => self.0.verify_tls13_signature(message, cert, dss),
            Some(key) => {
                let known = provider().signature_verification_algorithms;
                verify_tls13_signature_with_raw_key(message, &key.into(), dss, &known)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_verify_schemes()
    }
}

/// Judges the certificates of clients: signed by the cluster's authority, for clients, and of this time.
#[derive(Debug, Clone)]
pub struct Clients {
    verifier: Arc<dyn ClientCertVerifier>,
    authorities: Arc<[CertificateDer<'static>]>,
}

/// Who a client is by its certificate, and for how long.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// The user: the certificate's common name.
    pub user: String,
    /// The user's groups: its organizations.
    pub groups: Vec<String>,
    /// The user's unique id, empty if the certificate bears none.
    pub uid: String,
    /// When the certificate ends.
    pub until: Timestamp,
    /// The certificate's SHA-256 digest, in hexadecimal digits.
    pub digest: String,
}

impl Clients {
    /// Judges a chain as the client has shown it, its own certificate first. Fails if it is not to be believed now. One that
    /// names no user says nothing.
    pub fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<Option<Shown>> {
        let (own, others) =
            chain.split_first().ok_or_else(|| Error::Certificate("no certificate was shown".into()))?;
        let seconds = u64::try_from(clock::now().as_second()).unwrap_or(0);
        let now = UnixTime::since_unix_epoch(std::time::Duration::from_secs(seconds));
        match self.verifier.verify_client_cert(own, others, now) {
            Ok(_) => {}
            Err(_) if version_one(own).is_some() => self.judge_old(own)?,
            Err(e) => return Err(e.into()),
        }
        let cert = parsed(own)?;
        let Some((user, groups)) = user_of(&cert) else { return Ok(None) };
        let uid = uid_of(&cert)?;
        let until = end_of_certificate(own)?;
        let digest = ring::digest::digest(&ring::digest::SHA256, own.as_ref());
        let digest = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Some(Shown { user, groups, uid, until, digest }))
    }

    /// Judges a certificate of X.509's first version, which says nothing of what it is for: as upstream takes it, for anything,
    /// if the authority has signed it itself.
    fn judge_old(&self, own: &CertificateDer<'_>) -> Result<()> {
        let cert = parsed(own)?;
        let now = clock::now().as_second();
        let validity = cert.validity();
        if now < validity.not_before.timestamp() || now > validity.not_after.timestamp() {
            return Err(Error::Certificate("the certificate is not of this time".into()));
        }
        let signed = self.authorities.iter().filter_map(|a| parsed(a).ok()).any(|authority| {
            authority.subject().as_raw() == cert.issuer().as_raw()
                && cert.verify_signature(Some(authority.public_key())).is_ok()
        });
        if !signed {
            return Err(Error::Certificate(
                "the certificate is not signed by the cluster's authority".into(),
            ));
        }
        Ok(())
    }
}

fn parsed<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>> {
    let (_, cert) =
        X509Certificate::from_der(der).map_err(|e| Error::Certificate(format!("not a certificate: {e}")))?;
    Ok(cert)
}

/// The public key of a certificate of X.509's first version, which webpki does not read; nothing, if it is of another. Tools
/// make such certificates still where nobody asks them for extensions.
fn version_one(der: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let cert = parsed(der).ok().filter(|cert| cert.version() == X509Version::V1)?;
    Some(cert.public_key().raw.to_vec())
}

/// A client configuration that shows `identity`, if any.
pub fn client_config(trust: &Trust, identity: Option<&Identity>) -> Result<ClientConfig> {
    let builder = trust.config(&system_roots)?;
    Ok(match identity {
        None => builder.with_no_client_auth(),
        Some(id) => builder.with_client_auth_cert(certificates(&id.cert_pem)?, private_key(&id.key_pem)?)?,
    })
}

/// Where systems keep the authorities that they trust, each in its own way.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// The authorities that the system trusts, read once.
fn system_roots() -> Result<Arc<RootCertStore>> {
    static ROOTS: OnceLock<std::result::Result<Arc<RootCertStore>, String>> = OnceLock::new();
    let read = ROOTS.get_or_init(|| read_system_roots(&SYSTEM_ROOTS).map(Arc::new));
    read.clone().map_err(Error::Certificate)
}

fn read_system_roots(files: &[&str]) -> std::result::Result<RootCertStore, String> {
    let Some(path) = files.iter().find(|p| Path::new(p).exists()) else {
        return Err(format!(
            "no authority is named, and the system trusts none (none of {} is there): give the certificate of the authority, or install the system's (ca-certificates)",
            files.join(", ")
        ));
    };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| format!("{path}: {e}"))? {
        // A system's list may hold some that are of no use here; those that are count.
        roots.add_parsable_certificates([certificate.map_err(|e| format!("{path}: {e}"))?]);
    }
    if roots.is_empty() {
        return Err(format!(
            "{path} holds no authority that can be used: give the certificate of the one meant"
        ));
    }
    Ok(roots)
}

/// The common name and the organizations of a certificate: user and groups, as Kubernetes reads them.
pub fn user_of_certificate(der: &CertificateDer<'_>) -> Result<(String, Vec<String>)> {
    user_of(&parsed(der)?).ok_or_else(|| Error::Certificate("the certificate has no common name".into()))
}

/// The user and groups that a certificate names; nothing if it names no user. Of several names the last counts.
fn user_of(cert: &X509Certificate<'_>) -> Option<(String, Vec<String>)> {
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let user = cert.subject().iter_common_name().last().and_then(text).filter(|name| !name.is_empty())?;
    Some((user, cert.subject().iter_organization().filter_map(text).collect()))
}

/// The attribute of a certificate's subject that is the user's unique id, as Kubernetes has it.
const UID: Oid<'static> = oid!(1.3.6.1.4.1.57683.2);

/// The user's unique id that a certificate bears, empty if it bears none.
fn uid_of(cert: &X509Certificate<'_>) -> Result<String> {
    let bad = |why: &str| Error::Certificate(why.to_owned());
    let mut uids = cert.subject().iter_attributes().filter(|a| *a.attr_type() == UID);
    let Some(uid) = uids.next() else { return Ok(String::new()) };
    if uids.next().is_some() {
        return Err(bad("expected 1 UID, but found multiple"));
    }
    match uid.as_str() {
        Err(_) => Err(bad("unable to parse UID into a string")),
        Ok("") => Err(bad("UID cannot be an empty string")),
        Ok(uid) => Ok(uid.to_owned()),
    }
}

/// When a certificate ends.
pub(crate) fn end_of_certificate(der: &CertificateDer<'_>) -> Result<Timestamp> {
    let cert = parsed(der)?;
    Timestamp::from_second(cert.validity().not_after.timestamp())
        .map_err(|e| Error::Certificate(e.to_string()))
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

fn roots(ca_pem: &str) -> Result<RootCertStore> {
    let mut roots = RootCertStore::empty();
    for cert in certificates(ca_pem)? {
        roots.add(cert)?;
    }
    if roots.is_empty() {
        return Err(Error::Certificate("no certificate of an authority is in what should hold them".into()));
    }
    Ok(roots)
}

pub(crate) fn certificates(pem: &str) -> Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::Certificate(format!("not a PEM certificate: {e}")))
}

fn private_key(pem: &str) -> Result<PrivateKeyDer<'static>> {
    PrivateKeyDer::from_pem_slice(pem.as_bytes())
        .map_err(|e| Error::Certificate(format!("not a PEM key: {e}")))
}

fn certified(identity: &Identity) -> Result<Arc<CertifiedKey>> {
    let key = rustls::crypto::ring::sign::any_supported_type(&private_key(&identity.key_pem)?)?;
    Ok(Arc::new(CertifiedKey::new(certificates(&identity.cert_pem)?, key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a handshake in memory and returns the client's certificate as the server saw it.
    fn handshake(
        server: ServerConfig,
        client: ClientConfig,
    ) -> std::result::Result<Option<String>, rustls::Error> {
        let mut s = rustls::ServerConnection::new(Arc::new(server))?;
        let mut c = rustls::ClientConnection::new(Arc::new(client), "localhost".try_into().unwrap())?;
        while s.is_handshaking() || c.is_handshaking() {
            let mut wire = Vec::new();
            while c.wants_write() {
                c.write_tls(&mut wire).unwrap();
            }
            s.read_tls(&mut wire.as_slice()).unwrap();
            s.process_new_packets()?;
            wire.clear();
            while s.wants_write() {
                s.write_tls(&mut wire).unwrap();
            }
            c.read_tls(&mut wire.as_slice()).unwrap();
            c.process_new_packets()?;
        }
        Ok(s.peer_certificates().map(|certs| user_of_certificate(&certs[0]).unwrap().0))
    }

    #[test]
    fn the_list_of_the_system_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(&dir.path().join("pki")).unwrap();
        let missing = dir.path().join("missing").display().to_string();
        let why = read_system_roots(&[&missing]).unwrap_err();
        assert!(why.contains(&missing) && why.contains("give the certificate"), "{why}");
        let list = dir.path().join("list").display().to_string();
        std::fs::write(&list, "nothing").unwrap();
        assert!(read_system_roots(&[&missing, &list]).unwrap_err().contains("holds no authority"));
        std::fs::write(&list, pki.ca_pem().repeat(2)).unwrap();
        assert_eq!(read_system_roots(&[&missing, &list]).unwrap().len(), 2);
    }

    /// The elements in a sequence, each whole.
    fn elements(mut content: &[u8]) -> Vec<&[u8]> {
        let mut all = Vec::new();
        while let [_, length, ..] = *content {
            let (header, length) = match length {
                n @ 0..0x80 => (2, usize::from(n)),
                n => {
                    let bytes = &content[2..2 + usize::from(n & 0x7f)];
                    (2 + bytes.len(), bytes.iter().fold(0, |sum, b| sum << 8 | usize::from(*b)))
                }
            };
            let (one, rest) = content.split_at(header + length);
            all.push(one);
            content = rest;
        }
        all
    }

    fn element(tag: u8, content: &[u8]) -> Vec<u8> {
        let length = u16::try_from(content.len()).unwrap().to_be_bytes();
        [&[tag, 0x82], &length[..], content].concat()
    }

    /// A client's certificate without version and extensions, signed by the key of an authority.
    fn old_client(pki: &Arc<Pki>, key_pem: &str) -> Identity {
        let mut client = pki.issue_client("old", &["a".to_owned()]).unwrap();
        let new = certificates(&client.cert_pem).unwrap().remove(0);
        let [_, algorithm, _] = elements(&elements(&new)[0][4..])[..] else { panic!() };
        let body = parsed(&new).unwrap().tbs_certificate.as_ref().to_vec();
        let kept: Vec<&[u8]> =
            elements(&body[4..]).into_iter().filter(|e| !matches!(e[0], 0xa0 | 0xa3)).collect();
        let body = element(0x30, &kept.concat());
        let key = rcgen::KeyPair::from_pem(key_pem).unwrap();
        let signature = rcgen::SigningKey::sign(&key, &body).unwrap();
        let signature = element(0x03, &[&[0], &signature[..]].concat());
        let old = element(0x30, &[&body[..], algorithm, &signature].concat());
        client.cert_pem = pem_of(&old);
        client
    }

    fn pem_of(der: &[u8]) -> String {
        use base64::Engine;
        let text = base64::engine::general_purpose::STANDARD.encode(der);
        format!("-----BEGIN CERTIFICATE-----\n{text}\n-----END CERTIFICATE-----\n")
    }

    /// Shows a certificate without looking into it: what other programs do.
    #[derive(Debug)]
    struct Shows(Arc<CertifiedKey>);

    impl ResolvesClientCert for Shows {
        fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
            Some(self.0.clone())
        }

        fn has_certs(&self) -> bool {
            true
        }
    }

    #[test]
    fn certificates_of_the_first_version_are_believed() {
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [own, stranger] = dirs.each_ref().map(|dir| Pki::open(dir.path()).unwrap());
        let [key, strange] =
            dirs.each_ref().map(|d| std::fs::read_to_string(d.path().join("ca.key")).unwrap());
        let clients = own.clients().unwrap();
        let old = old_client(&own, &key);
        let chain = certificates(&old.cert_pem).unwrap();
        assert!(version_one(&chain[0]).is_some());
        let shown = clients.judge(&chain).unwrap().unwrap();
        assert_eq!((shown.user.as_str(), &shown.groups[..]), ("old", &["a".to_owned()][..]));
        let server = own.server_config("s", &["localhost".into()], &[], ClientAuth::Optional).unwrap();
        let mut client = own.client_config(None).unwrap();
        let key_of_old =
            provider().key_provider.load_private_key(private_key(&old.key_pem).unwrap()).unwrap();
        client.client_auth_cert_resolver = Arc::new(Shows(Arc::new(CertifiedKey::new(chain, key_of_old))));
        let seen = handshake(server, client);
        assert_eq!(seen.unwrap().as_deref(), Some("old"));
        // Neither by the name of the authority alone, nor by another one.
        let forged = certificates(&old_client(&own, &strange).cert_pem).unwrap();
        assert!(clients.judge(&forged).unwrap_err().to_string().contains("not signed"));
        let others = certificates(&old_client(&stranger, &strange).cert_pem).unwrap();
        assert!(clients.judge(&others).unwrap_err().to_string().contains("not signed"));
    }

    #[test]
    fn whose_certificates_are_believed() {
        let pki = |dir: &tempfile::TempDir| Pki::open(dir.path()).unwrap();
        let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [own, of_the_system, stranger] = dirs.each_ref().map(pki);
        let listed = dirs[1].path().join("ca.crt").display().to_string();
        let system = || read_system_roots(&[&listed]).map(Arc::new).map_err(Error::Certificate);
        let none = || Err(Error::Certificate("the system trusts none".into()));
        let with = |trust: &Trust, system: &dyn Fn() -> Result<Arc<RootCertStore>>| {
            [&own, &of_the_system, &stranger].map(|pki| {
                let config = trust.config(system).ok()?.with_no_client_auth();
                let names = ["localhost".to_owned()];
                let server = pki.server_config("s", &names, &[], ClientAuth::None).unwrap();
                Some(handshake(server, config).is_ok())
            })
        };
        let only = Trust::Only(own.ca_pem().into());
        let and = Trust::SystemAnd(own.ca_pem().into());
        assert_eq!(with(&only, &system), [Some(true), Some(false), Some(false)]);
        assert_eq!(with(&Trust::System, &system), [Some(false), Some(true), Some(false)]);
        assert_eq!(with(&and, &system), [Some(true), Some(true), Some(false)]);
        assert_eq!(with(&Trust::System, &none), [None; 3]);
        assert_eq!(with(&and, &none), [Some(true), Some(false), Some(false)]);
        // What holds no authority is not a wish to trust others.
        let garbled = own.ca_pem().replace("MII", "?");
        for nobody in ["", " \n", "nonsense", &garbled] {
            assert_eq!(with(&Trust::Only(nobody.into()), &system), [None; 3], "{nobody}");
            assert!(check_authorities(nobody).is_err(), "{nobody}");
        }
        assert_eq!((Trust::given(""), Trust::given(own.ca_pem())), (Trust::System, only));
    }

    #[test]
    fn a_server_that_is_its_own_authority() {
        use rcgen::{BasicConstraints, CertificateParams, ExtendedKeyUsagePurpose as Usage, IsCa, KeyPair};
        let year = rcgen::date_time_ymd;
        let judged = |name: &str, usages: &[Usage], years: (i32, i32), named: bool| {
            let mut params = CertificateParams::new([name.to_owned()]).unwrap();
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            params.extended_key_usages = usages.to_vec();
            (params.not_before, params.not_after) = (year(years.0, 1, 1), year(years.1, 1, 1));
            let [shown, other] = [(); 2].map(|()| {
                let key = KeyPair::generate().unwrap();
                (params.self_signed(&key).unwrap().pem(), key)
            });
            let identity = Identity { cert_pem: shown.0.clone(), key_pem: shown.1.serialize_pem() };
            let server = ServerConfig::builder_with_provider(provider())
                .with_safe_default_protocol_versions()
                .unwrap()
                .with_no_client_auth()
                .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(
                    (*certified(&identity).unwrap()).clone(),
                )));
            let trust = Trust::Only(if named { shown.0 } else { other.0 });
            match handshake(server, client_config(&trust, None).unwrap()) {
                Ok(_) => "believed".to_owned(),
                Err(rustls::Error::InvalidCertificate(why)) => {
                    format!("{why:?}").split([' ', '(']).next().unwrap().to_owned()
                }
                Err(other) => panic!("{other}"),
            }
        };
        let now = (2020, 2999);
        assert_eq!(judged("localhost", &[], now, true), "believed");
        assert_eq!(judged("localhost", &[Usage::ServerAuth], now, true), "believed");
        assert_eq!(judged("localhost", &[Usage::Any], now, true), "believed");
        assert_eq!(judged("localhost", &[Usage::ClientAuth], now, true), "InvalidPurpose");
        assert_eq!(judged("elsewhere", &[], now, true), "NotValidForNameContext");
        assert_eq!(judged("localhost", &[], (2020, 2021), true), "Expired");
        assert_eq!(judged("localhost", &[], (2998, 2999), true), "NotValidYet");
        assert_ne!(judged("localhost", &[], now, false), "believed");
    }

    #[test]
    fn mutual_tls() {
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let server = |auth| pki.server_config("s", &["localhost".into()], &[], auth).unwrap();
        let admin = pki.issue_client("admin", &["system:masters".into()]).unwrap();
        let with = || pki.client_config(Some(&admin)).unwrap();
        let without = || pki.client_config(None).unwrap();
        assert_eq!(handshake(server(ClientAuth::Required), with()).unwrap().as_deref(), Some("admin"));
        assert_eq!(handshake(server(ClientAuth::Optional), without()).unwrap(), None);
        assert!(handshake(server(ClientAuth::Required), without()).is_err());
        let other = tempfile::tempdir().unwrap();
        let stranger = Pki::open(other.path()).unwrap();
        assert!(handshake(server(ClientAuth::None), stranger.client_config(None).unwrap()).is_err());
        // A stranger's certificate is let through where it is optional, and believed nowhere.
        let other = stranger.issue_client("admin", &["system:masters".into()]).unwrap();
        let shows = || client_config(&Trust::Only(pki.ca_pem().into()), Some(&other)).unwrap();
        assert!(handshake(server(ClientAuth::Required), shows()).is_err());
        assert_eq!(handshake(server(ClientAuth::Optional), shows()).unwrap().as_deref(), Some("admin"));
        let clients = pki.clients().unwrap();
        assert!(clients.judge(&certificates(&other.cert_pem).unwrap()).is_err());
        let shown = clients.judge(&certificates(&admin.cert_pem).unwrap()).unwrap().unwrap();
        assert_eq!((shown.user.as_str(), shown.groups), ("admin", vec!["system:masters".to_owned()]));
        assert_eq!(shown.until, not_after(&admin.cert_pem).unwrap());
        let serving = pki.issue_server("admin", &["localhost".into()], &[]).unwrap();
        assert!(clients.judge(&certificates(&serving.cert_pem).unwrap()).is_err(), "it is for servers");
        assert!(clients.judge(&[]).is_err());
    }

    #[test]
    fn what_a_certificate_says_of_its_user() {
        use rcgen::{CertificateParams, DnType, ExtendedKeyUsagePurpose, KeyPair};
        let dir = tempfile::tempdir().unwrap();
        let pki = Pki::open(dir.path()).unwrap();
        let clients = pki.clients().unwrap();
        let uid = || DnType::CustomDnType(vec![1, 3, 6, 1, 4, 1, 57683, 2]);
        let judged = |subject: Vec<(DnType, &str)>| {
            let mut params = CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            for (kind, value) in subject {
                params.distinguished_name.push(kind, value);
            }
            params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
            let cert = params.signed_by(&KeyPair::generate().unwrap(), &pki.issuer).unwrap();
            clients.judge(&[cert.der().clone()])
        };
        let named = judged(vec![(DnType::CommonName, "ann"), (uid(), "7")]).unwrap().unwrap();
        assert_eq!((named.user.as_str(), named.uid.as_str()), ("ann", "7"));
        assert_eq!(judged(vec![(DnType::CommonName, "ann")]).unwrap().unwrap().uid, "");
        let empty = judged(vec![(DnType::CommonName, "ann"), (uid(), "")]).unwrap_err();
        assert!(empty.to_string().contains("UID cannot be an empty string"), "{empty}");
        assert!(judged(vec![(DnType::OrganizationName, "devs"), (uid(), "7")]).unwrap().is_none());
    }
}
