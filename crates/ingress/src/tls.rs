//! Certificates by the name that the client asks for.

use std::collections::BTreeMap;
use std::sync::Arc;

use api::{Object, Value};
use base64::prelude::{BASE64_STANDARD, Engine};
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

/// The certificates of all Ingress objects, and one of our own for every other name.
#[derive(Debug)]
pub(crate) struct Certificates {
    by_host: RwLock<BTreeMap<String, Arc<CertifiedKey>>>,
    own: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// None but our own, self-signed.
    pub fn new() -> Arc<Self> {
        let own =
            self_signed().inspect_err(|e| tracing::warn!("no default certificate for ingress: {e}")).ok();
        Arc::new(Self { by_host: RwLock::default(), own })
    }

    /// Replaces all but our own.
    pub fn set(&self, by_host: BTreeMap<String, Arc<CertifiedKey>>) {
        *self.by_host.write() = by_host;
    }

    /// A server that uses them.
    pub fn config(self: &Arc<Self>) -> Result<Arc<ServerConfig>, rustls::Error> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()));
        let mut config = builder
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let by_host = self.by_host.read();
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let found = name.and_then(|name| {
            let wildcard = || name.find('.').and_then(|dot| by_host.get(&format!("*{}", &name[dot..])));
            by_host.get(&name).or_else(wildcard).cloned()
        });
        found.or_else(|| by_host.get("").cloned()).or_else(|| self.own.clone())
    }
}

/// The certificates that `spec.tls` of an Ingress names, by host (`""` for an entry without hosts).
pub(crate) fn of_ingress(
    ingress: &Object,
    secret: impl Fn(&str) -> Option<Arc<Object>>,
) -> Vec<(String, Arc<CertifiedKey>)> {
    let mut found = Vec::new();
    for entry in ingress.at(&["spec", "tls"]).as_array().into_iter().flatten() {
        let Some(name) = entry["secretName"].as_str() else { continue };
        let Some(secret) = secret(name) else { continue };
        match certified(&secret) {
            Ok(key) => {
                let hosts: Vec<&str> =
                    entry["hosts"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                let hosts = if hosts.is_empty() { vec![""] } else { hosts };
                found.extend(hosts.iter().map(|h| (h.to_ascii_lowercase(), key.clone())));
            }
            Err(e) => {
                tracing::warn!("secret {}: no certificate for ingress {}: {e}", secret.key(), ingress.key())
            }
        }
    }
    found
}

fn certified(secret: &Object) -> Result<Arc<CertifiedKey>, String> {
    let field = |name: &str| {
        let text = secret.at(&["data", name]).as_str().ok_or_else(|| format!("it has no data {name}"))?;
        BASE64_STANDARD.decode(text).map_err(|e| format!("{name}: {e}"))
    };
    let (chain, key) = (field("tls.crt")?, field("tls.key")?);
    let chain = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("tls.crt: {e}"))?;
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|e| format!("tls.key: {e}"))?;
    sign(chain, &key).map_err(|e| e.to_string())
}

fn sign(
    chain: Vec<CertificateDer<'static>>,
    key: &PrivateKeyDer<'_>,
) -> Result<Arc<CertifiedKey>, rustls::Error> {
    let key = ring::sign::any_supported_type(key)?;
    let certified = CertifiedKey::new(chain, key);
    certified.keys_match()?;
    Ok(Arc::new(certified))
}

fn self_signed() -> Result<Arc<CertifiedKey>, String> {
    let made = rcgen::generate_simple_self_signed(vec!["ingress.local".into()]).map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der())?;
    sign(vec![made.cert.der().clone()], &key).map_err(|e| e.to_string())
}
