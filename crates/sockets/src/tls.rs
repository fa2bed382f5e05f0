//! The server's side of TLS from PEM files.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};

fn named(path: &Path, error: &dyn std::fmt::Display) -> io::Error {
    io::Error::other(format!("{}: {error}", path.display()))
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    let all = CertificateDer::pem_file_iter(path).map_err(|e| named(path, &e))?;
    let all: Vec<_> = all.collect::<Result<_, _>>().map_err(|e| named(path, &e))?;
    if all.is_empty() { Err(named(path, &"there is no certificate in it")) } else { Ok(all) }
}

/// A server with the certificate `cert` (with those between it and its authority) and its `key`, that speaks `protocols`.
/// With `clients`, an authority, only those have access whose certificate is of it. The error names the file.
pub fn server_config(
    cert: &Path,
    key: &Path,
    clients: Option<&Path>,
    protocols: &[&str],
) -> io::Result<Arc<ServerConfig>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    let builder = match clients {
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|e| named(path, &e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|e| named(path, &e))?)
        }
        None => builder.with_no_client_auth(),
    };
    let secret = PrivateKeyDer::from_pem_file(key).map_err(|e| named(key, &e))?;
    let mut config = builder.with_single_cert(certificates(cert)?, secret).map_err(|e| named(cert, &e))?;
    config.alpn_protocols = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
    Ok(Arc::new(config))
}
