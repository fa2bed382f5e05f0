//! Volume drivers that are programs of their own, by version 1 of the plugin protocol: JSON over HTTP, on a socket in
//! `/run/docker/plugins` or where a file in `/etc/docker/plugins` or `/usr/lib/docker/plugins` says.

use std::collections::HashMap;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};

use crate::error::{Error, Result, not_found, system};
use crate::model::Map;

/// How long a plugin may take to make or mount a volume. Timers, because silence is the only sign of a plugin that hangs.
const LONG: Duration = Duration::from_secs(120);
/// How long it may take for anything else.
const SHORT: Duration = Duration::from_secs(60);
const KIND: &str = "application/vnd.docker.plugins.v1.2+json";
const CAPABILITY: &str = "VolumeDriver";

/// Where plugins are found.
#[derive(Debug)]
pub(super) struct Registry {
    sockets: PathBuf,
    specs: Vec<PathBuf>,
    /// Those that have answered, by name.
    active: Mutex<HashMap<String, Arc<Plugin>>>,
}

impl Default for Registry {
    fn default() -> Self {
        Self::at(
            "/run/docker/plugins".into(),
            ["/etc/docker/plugins", "/usr/lib/docker/plugins"].map(Into::into).into(),
        )
    }
}

/// One volume as a plugin tells of it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(super) struct Told {
    pub name: String,
    pub mountpoint: String,
    pub created_at: Option<String>,
    pub status: Option<Value>,
}

/// A driver that can be called.
#[derive(Debug)]
pub(super) struct Plugin {
    pub name: String,
    address: Address,
    /// `local` or `global`.
    pub scope: String,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    /// A host and a port.
    Tcp(String, u16),
    /// A host and a port where TLS is spoken, and what the specification says of it.
    Tls(String, u16, Box<TlsConfig>),
}

/// `TLSConfig` of a plugin's specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct TlsConfig {
    #[serde(rename = "InsecureSkipVerify")]
    insecure: bool,
    #[serde(rename = "CAFile")]
    authorities: PathBuf,
    #[serde(rename = "CertFile")]
    certificate: PathBuf,
    #[serde(rename = "KeyFile")]
    key: PathBuf,
}

impl TlsConfig {
    /// A client that is and trusts whom the files say; they are read anew each time, since certificates are renewed.
    fn client(&self) -> image::Result<image::http::Client> {
        let mut tls = image::http::Tls { insecure: self.insecure, ..Default::default() };
        if !self.authorities.as_os_str().is_empty() {
            tls.trust_file(&self.authorities)?;
        }
        if !self.certificate.as_os_str().is_empty() {
            tls.identity_files(&self.certificate, &self.key)?;
        }
        image::http::Client::direct(tls)
    }
}

impl Registry {
    pub(super) fn at(sockets: PathBuf, specs: Vec<PathBuf>) -> Self {
        Self { sockets, specs, active: Mutex::default() }
    }

    /// The plugin of that name, activated.
    pub(super) async fn get(&self, name: &str) -> Result<Arc<Plugin>> {
        let missing = |why: String| not_found(format!("error looking up volume plugin {name}: {why}"));
        // Asked every time: a plugin's socket may have moved since.
        let address = self.find(name).map_err(&missing)?;
        let address = address.ok_or_else(|| missing(format!("plugin \"{name}\" not found")))?;
        let known = self.active.lock().get(name).filter(|p| p.address == address).cloned();
        if let Some(plugin) = known {
            return Ok(plugin);
        }
        let mut plugin = Plugin { name: name.to_owned(), address, scope: "local".into() };
        let answer =
            plugin.post("Plugin.Activate", &Value::Null, SHORT).await.map_err(|e| missing(e.to_string()))?;
        let implements = answer["Implements"].as_array().cloned().unwrap_or_default();
        if !implements.iter().any(|i| i == CAPABILITY) {
            return Err(missing(format!(
                "plugin \"{name}\" does not implement the \"{CAPABILITY}\" interface"
            )));
        }
        // An optional call: without it a driver is of this machine only.
        if let Ok(answer) = plugin.call("Capabilities", &json!({}), SHORT).await
            && answer["Capabilities"]["Scope"].as_str().is_some_and(|s| s.eq_ignore_ascii_case("global"))
        {
            plugin.scope = "global".into();
        }
        let plugin = Arc::new(plugin);
        self.active.lock().insert(name.to_owned(), plugin.clone());
        Ok(plugin)
    }

    /// The names of the plugins that have answered.
    pub(super) fn active(&self) -> Vec<String> {
        let mut names: Vec<String> = self.active.lock().keys().cloned().collect();
        names.sort();
        names
    }

    /// The scope of a plugin's volumes, as far as it has said.
    pub(super) fn scope(&self, name: &str) -> String {
        self.active.lock().get(name).map_or_else(|| "local".to_owned(), |p| p.scope.clone())
    }

    /// The names of all plugins that can be found, of whatever kind.
    pub(super) fn names(&self) -> Vec<String> {
        let stem = |path: &Path| path.file_stem().map(|n| n.to_string_lossy().into_owned());
        let mut names = Vec::new();
        for (folder, ends) in std::iter::once((&self.sockets, &["sock"][..]))
            .chain(self.specs.iter().map(|f| (f, &["spec", "json"][..])))
        {
            for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    let Some(name) = path.file_name().map(|n| n.to_string_lossy().into_owned()) else {
                        continue;
                    };
                    if ends.iter().any(|end| path.join(format!("{name}.{end}")).exists()) {
                        names.push(name);
                    }
                } else if path.extension().is_some_and(|e| ends.iter().any(|end| *end == e)) {
                    names.extend(stem(&path));
                }
            }
        }
        names.sort();
        names.dedup();
        names
    }

    fn find(&self, name: &str) -> std::result::Result<Option<Address>, String> {
        if name.contains('/') || name.starts_with('.') {
            return Ok(None);
        }
        let places = |folder: &Path, end: &str| {
            let file = format!("{name}.{end}");
            [folder.join(&file), folder.join(name).join(&file)]
        };
        for path in places(&self.sockets, "sock") {
            if path.metadata().is_ok_and(|m| m.file_type().is_socket()) {
                return Ok(Some(Address::Unix(path)));
            }
        }
        let ends = ["spec", "json"].into_iter();
        for path in ends.flat_map(|end| self.specs.iter().flat_map(move |f| places(f, end))) {
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            let address = if path.extension().is_some_and(|e| e == "json") {
                let spec: Value =
                    serde_json::from_str(&text).map_err(|e| format!("{}: {e}", path.display()))?;
                let config: Option<TlsConfig> = serde_json::from_value(spec["TLSConfig"].clone())
                    .map_err(|e| format!("{}: TLSConfig: {e}", path.display()))?;
                (spec["Addr"].as_str().unwrap_or_default().to_owned(), config)
            } else {
                (text.trim().to_owned(), None)
            };
            let (address, tls) = address;
            let unknown = || format!("{}: Unknown protocol: {address}", path.display());
            return parse(&address, tls).map(Some).ok_or_else(unknown);
        }
        Ok(None)
    }
}

/// `unix:///run/x.sock`, `tcp://host:port`, `http://host:port`, `https://host:port`; TLS is spoken where it is
/// configured or where the URL says so.
fn parse(text: &str, tls: Option<TlsConfig>) -> Option<Address> {
    if let Some(path) = text.strip_prefix("unix://") {
        return Some(Address::Unix(path.into()));
    }
    let (scheme, rest) = text.split_once("://").filter(|(s, _)| matches!(*s, "tcp" | "http" | "https"))?;
    let (host, port) = rest.trim_end_matches('/').rsplit_once(':')?;
    let (host, port) = (host.trim_matches(['[', ']']).to_owned(), port.parse().ok()?);
    Some(match tls.or((scheme == "https").then(TlsConfig::default)) {
        Some(tls) => Address::Tls(host, port, Box::new(tls)),
        None => Address::Tcp(host, port),
    })
}

impl Plugin {
    /// Makes a volume.
    pub(super) async fn create(&self, name: &str, options: &Map) -> Result<()> {
        self.call("Create", &json!({"Name": name, "Opts": options}), LONG).await.map(drop)
    }

    /// Removes a volume.
    pub(super) async fn remove(&self, name: &str) -> Result<()> {
        self.call("Remove", &json!({"Name": name}), SHORT).await.map(drop)
    }

    /// Where a volume is.
    pub(super) async fn path(&self, name: &str) -> Result<PathBuf> {
        let answer = self.call("Path", &json!({"Name": name}), SHORT).await?;
        Ok(answer["Mountpoint"].as_str().unwrap_or_default().into())
    }

    /// Makes a volume ready for use by `id` and says where it is.
    pub(super) async fn mount(&self, name: &str, id: &str) -> Result<PathBuf> {
        let answer = self.call("Mount", &json!({"Name": name, "ID": id}), LONG).await?;
        match answer["Mountpoint"].as_str().filter(|m| m.starts_with('/')) {
            Some(path) => Ok(path.into()),
            None => Err(system(format!("volume plugin {} gave no mount point for volume {name}", self.name))),
        }
    }

    /// `id` does not use the volume any more.
    pub(super) async fn unmount(&self, name: &str, id: &str) -> Result<()> {
        self.call("Unmount", &json!({"Name": name, "ID": id}), SHORT).await.map(drop)
    }

    /// One volume; `None` if the plugin knows none of that name.
    pub(super) async fn get(&self, name: &str) -> Result<Option<Told>> {
        // What it says of an unknown volume differs from plugin to plugin.
        match self.call("Get", &json!({"Name": name}), SHORT).await {
            Ok(answer) => {
                let told: Option<Told> = serde_json::from_value(answer["Volume"].clone()).unwrap_or_default();
                Ok(told.filter(|t| !t.name.is_empty()))
            }
            Err(Error::Unavailable(text)) => Err(Error::Unavailable(text)),
            Err(_) => Ok(None),
        }
    }

    /// Every volume that it knows.
    pub(super) async fn list(&self) -> Result<Vec<Told>> {
        let answer = self.call("List", &json!({}), SHORT).await?;
        Ok(serde_json::from_value(answer["Volumes"].clone()).unwrap_or_default())
    }

    async fn call(&self, method: &str, body: &Value, patience: Duration) -> Result<Value> {
        let answer = self.post(&format!("{CAPABILITY}.{method}"), body, patience).await?;
        match answer["Err"].as_str().unwrap_or_default() {
            "" => Ok(answer),
            text => Err(system(text)),
        }
    }

    /// One exchange. A plugin that cannot be reached is [`Error::Unavailable`].
    async fn post(&self, method: &str, body: &Value, patience: Duration) -> Result<Value> {
        let unreachable = |why: String| Error::Unavailable(format!("plugin {}: {method}: {why}", self.name));
        let exchange = async {
            match &self.address {
                Address::Unix(path) => {
                    let stream = tokio::net::UnixStream::connect(path).await;
                    let stream = stream.map_err(|e| unreachable(format!("{}: {e}", path.display())))?;
                    exchange(stream, method, body).await.map_err(unreachable)
                }
                Address::Tcp(host, port) => {
                    let stream = sockets::connect(host, *port).await;
                    let stream = stream.map_err(|e| unreachable(format!("{host}:{port}: {e}")))?;
                    exchange(stream, method, body).await.map_err(unreachable)
                }
                Address::Tls(host, port, tls) => {
                    let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
                    let failed = |e: image::Error| unreachable(e.to_string());
                    let body = image::http::full(encode(body));
                    let request = hyper::Request::post(format!("https://{host}:{port}/{method}"))
                        .header("Accept", KIND)
                        .header("Content-Type", KIND)
                        .body(body)
                        .map_err(|e| unreachable(e.to_string()))?;
                    let answer = tls.client().map_err(failed)?.send(request).await.map_err(failed)?;
                    let status = answer.status().as_u16();
                    let content =
                        answer.into_body().collect().await.map_err(|e| unreachable(e.to_string()))?;
                    Ok((status, content.to_bytes()))
                }
            }
        };
        let (status, bytes) = tokio::time::timeout(patience, exchange)
            .await
            .map_err(|_| unreachable(format!("no answer within {} s", patience.as_secs())))??;
        let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if status == 200 {
            return Ok(value);
        }
        let text = String::from_utf8_lossy(&bytes);
        let why = value["Err"].as_str().unwrap_or_else(|| text.trim());
        Err(system(format!("{method}: {why}")))
    }
}

/// A request's body; none for a call without parameters.
fn encode(body: &Value) -> String {
    if body.is_null() { String::new() } else { body.to_string() }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    method: &str,
    body: &Value,
) -> std::result::Result<(u16, Bytes), String> {
    let say = |e: hyper::Error| e.to_string();
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(say)?;
    let body = encode(body);
    let request = hyper::Request::post(format!("/{method}"))
        .header("Host", "plugin.moby.localhost")
        .header("Accept", KIND)
        .header("Content-Type", KIND)
        .header("Connection", "close")
        .body(Full::new(Bytes::from(body)))
        .map_err(|e| e.to_string())?;
    let talk = async {
        let answer = sender.send_request(request).await.map_err(say)?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await.map_err(say)?.to_bytes()))
    };
    // The connection is driven by whoever waits for its answer; it ends with it.
    tokio::pin!(talk);
    tokio::pin!(connection);
    tokio::select! {
        answer = &mut talk => answer,
        ended = &mut connection => match ended {
            // Closed behind the answer, which is there already.
            Ok(()) => talk.await,
            Err(e) => Err(e.to_string()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plugins_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let (sockets, specs) = (dir.path().join("run"), dir.path().join("etc"));
        std::fs::create_dir_all(sockets.join("deep")).unwrap();
        std::fs::create_dir_all(&specs).unwrap();
        let _a = std::os::unix::net::UnixListener::bind(sockets.join("flat.sock")).unwrap();
        let _b = std::os::unix::net::UnixListener::bind(sockets.join("deep/deep.sock")).unwrap();
        std::fs::write(specs.join("far.spec"), "tcp://10.0.0.1:8080\n").unwrap();
        std::fs::write(specs.join("file.json"), r#"{"Name":"file","Addr":"unix:///run/x.sock"}"#).unwrap();
        std::fs::write(specs.join("bad.spec"), "gopher://x").unwrap();
        let safe = r#"{"Addr":"https://x:1","TLSConfig":{"CAFile":"/ca.pem","InsecureSkipVerify":true}}"#;
        std::fs::write(specs.join("safe.json"), safe).unwrap();
        let registry = Registry::at(sockets.clone(), vec![specs]);
        assert_eq!(registry.names(), ["bad", "deep", "far", "file", "flat", "safe"]);
        let find = |name: &str| registry.find(name).unwrap();
        assert_eq!(find("flat"), Some(Address::Unix(sockets.join("flat.sock"))));
        assert_eq!(find("deep"), Some(Address::Unix(sockets.join("deep/deep.sock"))));
        assert_eq!(find("far"), Some(Address::Tcp("10.0.0.1".into(), 8080)));
        assert_eq!(find("file"), Some(Address::Unix("/run/x.sock".into())));
        assert_eq!(find("none"), None);
        assert_eq!(find("../etc/far"), None);
        assert!(registry.find("bad").unwrap_err().contains("Unknown protocol"));
        let tls = TlsConfig { insecure: true, authorities: "/ca.pem".into(), ..TlsConfig::default() };
        assert_eq!(find("safe"), Some(Address::Tls("x".into(), 1, Box::new(tls.clone()))));
        assert!(tls.client().err().unwrap().to_string().contains("/ca.pem"));
    }
}
