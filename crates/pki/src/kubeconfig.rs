//! The file that tells kubectl where a cluster is and who is asking.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as B64;

use crate::Identity;

/// A kubeconfig with one cluster, one user and one context, all called `name`. `server` is a URL.
pub fn kubeconfig(name: &str, server: &str, ca_pem: &str, identity: &Identity) -> String {
    let (ca, cert, key) = (B64.encode(ca_pem), B64.encode(&identity.cert_pem), B64.encode(&identity.key_pem));
    format!(
        "apiVersion: v1
kind: Config
clusters:
- name: {name}
  cluster:
    server: {server}
    certificate-authority-data: {ca}
users:
- name: {name}
  user:
    client-certificate-data: {cert}
    client-key-data: {key}
contexts:
- name: {name}
  context:
    cluster: {name}
    user: {name}
current-context: {name}
"
    )
}
