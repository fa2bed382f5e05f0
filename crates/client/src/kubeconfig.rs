//! Kubeconfig files: where a cluster is, and who is asking.

use std::path::{Path, PathBuf};

use base64::Engine as _;
use serde::Deserialize;

use crate::{Auth, Error, Result};

/// Where a server is and how to prove who one is.
#[derive(Debug, Clone, Default)]
pub struct Endpoint {
    /// `https://HOST:PORT`, with a path below which the API lies if there is one.
    pub server: String,
    /// The authorities that the server's certificate may come from, PEM; empty: those that the web trusts.
    pub ca_pem: String,
    /// The certificate to show.
    pub identity: Option<pki::Identity>,
    /// What else proves who one is.
    pub auth: Auth,
    /// The namespace that the context names; empty: none.
    pub namespace: String,
    /// The name that the server's certificate must have, if it is not the host's.
    pub server_name: Option<String>,
}

/// A kubeconfig file.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
pub struct Kubeconfig {
    clusters: Vec<Named>,
    users: Vec<Named>,
    contexts: Vec<Named>,
    current_context: String,
    #[serde(skip)]
    path: PathBuf,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
    cluster: Option<Cluster>,
    user: Option<User>,
    context: Option<Context>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct Cluster {
    server: String,
    certificate_authority: Option<PathBuf>,
    certificate_authority_data: Option<String>,
    insecure_skip_tls_verify: bool,
    tls_server_name: Option<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", default)]
struct User {
    client_certificate: Option<PathBuf>,
    client_certificate_data: Option<String>,
    client_key: Option<PathBuf>,
    client_key_data: Option<String>,
    token: Option<String>,
    #[serde(alias = "tokenFile")]
    token_file: Option<PathBuf>,
    exec: Option<serde_json::Value>,
    #[serde(alias = "auth-provider")]
    auth_provider: Option<serde_json::Value>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Context {
    cluster: String,
    user: String,
    namespace: String,
}

impl Kubeconfig {
    /// Reads the file `path`.
    pub fn load(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        let mut config = Self::parse(&text).map_err(|e| Error::Config(format!("{}: {e}", path.display())))?;
        config.path = path.into();
        Ok(config)
    }

    /// Reads a kubeconfig's text; files that it names are looked for from the working folder.
    pub fn parse(text: &str) -> Result<Self> {
        serde_saphyr::from_str(text).map_err(|e| Error::Config(format!("not a kubeconfig: {e}")))
    }

    /// What the current context names.
    pub fn current(&self) -> Result<Endpoint> {
        self.context(&self.current_context)
    }

    /// What the context `name` names.
    pub fn context(&self, name: &str) -> Result<Endpoint> {
        let wrong = |what: String| Error::Config(format!("{}: {what}", self.path.display()));
        let named = |list: &[Named], name: &str| list.iter().find(|n| n.name == name).cloned();
        let context = named(&self.contexts, name)
            .and_then(|n| n.context)
            .ok_or_else(|| wrong(format!("there is no context {name:?}")))?;
        let cluster = named(&self.clusters, &context.cluster).and_then(|n| n.cluster).ok_or_else(|| {
            wrong(format!("context {name:?} names the cluster {:?}, which is not there", context.cluster))
        })?;
        let user = named(&self.users, &context.user).and_then(|n| n.user).unwrap_or_default();
        if user.exec.is_some() || user.auth_provider.is_some() {
            return Err(wrong(format!(
                "user {:?} signs in through a plug-in, which is not supported",
                context.user
            )));
        }
        if cluster.insecure_skip_tls_verify {
            return Err(wrong(format!(
                "cluster {:?} has insecure-skip-tls-verify, which is not supported: give its certificate-authority",
                context.cluster
            )));
        }
        let ca_pem = self.pem(
            "certificate-authority",
            &cluster.certificate_authority,
            &cluster.certificate_authority_data,
        )?;
        let cert = self.pem("client-certificate", &user.client_certificate, &user.client_certificate_data)?;
        let key = self.pem("client-key", &user.client_key, &user.client_key_data)?;
        let identity = match (cert, key) {
            (Some(cert_pem), Some(key_pem)) => Some(pki::Identity { cert_pem, key_pem }),
            (None, None) => None,
            _ => {
                return Err(wrong(format!(
                    "user {:?} has only one of client certificate and key",
                    context.user
                )));
            }
        };
        let auth = match (user.token, user.token_file) {
            (Some(token), _) => Auth::Token(token),
            (None, Some(file)) => Auth::TokenFile(self.resolve(&file)),
            (None, None) => Auth::None,
        };
        Ok(Endpoint {
            server: cluster.server,
            ca_pem: ca_pem.unwrap_or_default(),
            identity,
            auth,
            namespace: context.namespace,
            server_name: cluster.tls_server_name,
        })
    }

    fn resolve(&self, file: &Path) -> PathBuf {
        match self.path.parent() {
            Some(folder) => folder.join(file),
            None => file.into(),
        }
    }

    fn pem(&self, what: &str, file: &Option<PathBuf>, data: &Option<String>) -> Result<Option<String>> {
        let wrong = |e: String| Error::Config(format!("{}: {what}: {e}", self.path.display()));
        if let Some(data) = data {
            let bytes = base64::engine::general_purpose::STANDARD
                .decode(data.trim())
                .map_err(|e| wrong(format!("not base64: {e}")))?;
            return String::from_utf8(bytes).map(Some).map_err(|e| wrong(format!("not PEM: {e}")));
        }
        let Some(file) = file else { return Ok(None) };
        let path = self.resolve(file);
        std::fs::read_to_string(&path).map(Some).map_err(|e| wrong(format!("{}: {e}", path.display())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "
apiVersion: v1
kind: Config
current-context: a
clusters:
- {name: c, cluster: {server: 'https://h:1', certificate-authority-data: Q0E=}}
contexts:
- {name: a, context: {cluster: c, user: u, namespace: n}}
- {name: b, context: {cluster: c, user: half}}
- {name: d, context: {cluster: none, user: u}}
users:
- {name: u, user: {token: t}}
- {name: half, user: {client-certificate-data: Q0E=}}
";

    #[test]
    fn contexts() {
        let k = Kubeconfig::parse(TEXT).unwrap();
        let e = k.current().unwrap();
        assert_eq!((e.server.as_str(), e.ca_pem.as_str(), e.namespace.as_str()), ("https://h:1", "CA", "n"));
        assert!(matches!(e.auth, Auth::Token(t) if t == "t"));
        assert!(k.context("b").unwrap_err().to_string().contains("only one of"));
        assert!(k.context("d").unwrap_err().to_string().contains("\"none\""));
        assert!(k.context("e").unwrap_err().to_string().contains("no context \"e\""));
        assert!(Kubeconfig::parse("[1").is_err());
    }
}
