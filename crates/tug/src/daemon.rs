//! What dockerd's users know: a `daemon.json`, the flags that say the same under dockerd's names, and the listeners that
//! follow from both.
//!
//! An instance's file is DATA-DIR/daemon.json, or the one that `--config-file` names; /etc/docker/daemon.json belongs to
//! another engine, and is read only if it is named. SIGHUP makes a running server read it again.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use clap::Args;
use engine::Settings;
use engine_api::{Listener, TlsFiles};
use tokio::net::TcpListener;

/// The flags that daemon.json has keys for.
#[derive(Debug, Clone, Default, Args)]
pub struct Flags {
    /// The engine's settings, with dockerd's keys [default: DATA-DIR/daemon.json, if it is there].
    #[arg(long)]
    pub config_file: Option<PathBuf>,
    /// Where the engine listens beside its socket: tcp://ADDRESS:PORT, unix://PATH. TCP needs --tlsverify.
    #[arg(short = 'H', long)]
    pub host: Vec<String>,
    /// Use TLS; --tls=false serves tcp:// without any protection.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tls: Option<bool>,
    /// Use TLS and let in only clients whose certificate is signed by --tlscacert.
    #[arg(long, num_args = 0..=1, require_equals = true, default_missing_value = "true")]
    pub tlsverify: Option<bool>,
    /// The authority of clients' certificates [default: ~/.docker/ca.pem].
    #[arg(long)]
    pub tlscacert: Option<PathBuf>,
    /// The server's certificate [default: ~/.docker/cert.pem].
    #[arg(long)]
    pub tlscert: Option<PathBuf>,
    /// The key of the server's certificate [default: ~/.docker/key.pem].
    #[arg(long)]
    pub tlskey: Option<PathBuf>,
    /// Where measurements for Prometheus are served, ADDRESS:PORT.
    #[arg(long)]
    pub metrics_addr: Option<String>,
    /// dockerd's other flags.
    #[command(flatten)]
    pub dockerd: crate::dockerd::Dockerd,
}

impl Flags {
    /// The flags that make another process mean the same.
    pub fn to_arguments(&self) -> Vec<std::ffi::OsString> {
        let mut out: Vec<std::ffi::OsString> = Vec::new();
        let files = [
            ("--config-file", &self.config_file),
            ("--tlscacert", &self.tlscacert),
            ("--tlscert", &self.tlscert),
            ("--tlskey", &self.tlskey),
        ];
        for (flag, path) in files {
            // The other process runs in another folder.
            if let Some(path) = path.as_ref().map(|p| std::path::absolute(p).unwrap_or_else(|_| p.clone())) {
                out.extend([flag.into(), path.into()]);
            }
        }
        for host in &self.host {
            out.extend(["--host".into(), host.into()]);
        }
        for (flag, value) in [("--tls", self.tls), ("--tlsverify", self.tlsverify)] {
            out.extend(value.map(|v| format!("{flag}={v}").into()));
        }
        if let Some(address) = &self.metrics_addr {
            out.extend(["--metrics-addr".into(), address.into()]);
        }
        out.extend(self.dockerd.to_arguments());
        out
    }

    /// Where the settings are, whether or not there are any.
    pub fn file(&self, data_dir: &Path) -> PathBuf {
        self.config_file.clone().unwrap_or_else(|| data_dir.join("daemon.json"))
    }

    /// The file and the flags together; what both say is refused.
    pub fn settings(
        &self,
        data_dir: &Path,
        bip: Option<ipnet::Ipv4Net>,
        mirrors: &[String],
        insecure: &[String],
    ) -> Result<Settings> {
        let file = self.file(data_dir);
        let there = self.config_file.is_some() || file.exists();
        let flags = self.dockerd.keys().map_err(anyhow::Error::msg)?;
        let mut settings =
            Settings::load_with(there.then_some(&*file), &flags).map_err(anyhow::Error::msg)?;
        let list = |values: &[String]| (!values.is_empty()).then(|| format!("{values:?}"));
        let path = |p: &Option<PathBuf>| p.as_ref().map(|p| p.display().to_string());
        let flags = [
            ("bip", bip.map(|b| b.to_string()), settings.bip.map(|b| b.to_string()).unwrap_or_default()),
            ("hosts", list(&self.host), format!("{:?}", settings.hosts)),
            ("registry-mirrors", list(mirrors), format!("{:?}", settings.registry_mirrors)),
            ("insecure-registries", list(insecure), format!("{:?}", settings.insecure_registries)),
            ("tls", self.tls.map(|t| t.to_string()), settings.tls.unwrap_or_default().to_string()),
            (
                "tlsverify",
                self.tlsverify.map(|t| t.to_string()),
                settings.tlsverify.unwrap_or_default().to_string(),
            ),
            ("tlscacert", path(&self.tlscacert), settings.tlscacert.clone()),
            ("tlscert", path(&self.tlscert), settings.tlscert.clone()),
            ("tlskey", path(&self.tlskey), settings.tlskey.clone()),
            ("metrics-addr", self.metrics_addr.clone(), settings.metrics_addr.clone()),
        ];
        let both: Vec<(&str, String, String)> = flags
            .into_iter()
            .filter(|(key, ..)| settings.given.iter().any(|g| g == key))
            .filter_map(|(key, flag, file)| Some((key, flag?, file)))
            .collect();
        if !both.is_empty() {
            bail!(
                "unable to configure the Docker daemon with file {}: {}",
                file.display(),
                Settings::conflict(&both)
            );
        }
        if let Some(root) = &settings.data_root
            && root != data_dir
        {
            bail!(
                "data-root is {}, the data folder {}: start with --data-dir {0}",
                root.display(),
                data_dir.display()
            );
        }
        settings.hosts.extend(self.host.iter().cloned());
        settings.registry_mirrors.extend(mirrors.iter().cloned());
        settings.insecure_registries.extend(insecure.iter().cloned());
        settings.tls = self.tls.or(settings.tls);
        settings.tlsverify = self.tlsverify.or(settings.tlsverify);
        let given = |own: &mut String, flag: &Option<PathBuf>| {
            if let Some(path) = flag {
                *own = path.display().to_string();
            }
        };
        given(&mut settings.tlscacert, &self.tlscacert);
        given(&mut settings.tlscert, &self.tlscert);
        given(&mut settings.tlskey, &self.tlskey);
        if let Some(address) = &self.metrics_addr {
            settings.metrics_addr.clone_from(address);
        }
        Ok(settings)
    }
}

/// What the settings say of this process itself.
pub fn prepare(settings: &Settings) -> Result<()> {
    let proxies = settings.proxies();
    image::http::set_proxies(&proxies.http_proxy, &proxies.https_proxy, &proxies.no_proxy);
    if settings.oom_score_adjust != 0 {
        std::fs::write("/proc/self/oom_score_adj", settings.oom_score_adjust.to_string())
            .with_context(|| format!("oom-score-adjust {}", settings.oom_score_adjust))?;
    }
    if let Some(path) = &settings.pidfile {
        base::fsx::write_volatile(path, std::process::id().to_string().as_bytes(), 0o644)
            .with_context(|| format!("pidfile {}", path.display()))?;
    }
    Ok(())
}

/// Where the settings say that the engine listens, beside its own socket.
pub async fn listeners(settings: &Settings) -> Result<Vec<Listener>> {
    let mut out = Vec::new();
    for host in &settings.hosts {
        match host.split_once("://") {
            Some(("unix", path)) => {
                let path = Path::new(if path.is_empty() { "/var/run/docker.sock" } else { path });
                out.push(Listener::Unix(crate::server::engine_socket(path, &settings.group)?));
            }
            Some(("tcp", address)) => out.push(tcp(host, address, settings).await?),
            Some(("fd", _)) => bail!("-H {host}: sockets are not taken over from systemd: name them"),
            _ => bail!("unable to parse docker host `{host}`: tcp://ADDRESS:PORT or unix://PATH"),
        }
    }
    Ok(out)
}

async fn tcp(host: &str, address: &str, settings: &Settings) -> Result<Listener> {
    let verify = settings.tlsverify == Some(true);
    let tls = verify || settings.tls == Some(true);
    if !tls && (settings.tls, settings.tlsverify) == (None, None) {
        bail!(
            "-H {host}: whoever can connect to the engine is root on this machine: give --tlsverify with --tlscacert, --tlscert and --tlskey, or say --tls=false if you want it without protection"
        );
    }
    if tls && !verify && settings.tlsverify.is_none() {
        bail!(
            "-H {host}: without --tlsverify any client is let in: give it with --tlscacert, or say --tlsverify=false if you want that"
        );
    }
    let address = address.trim_end_matches('/');
    let whole = match address.rsplit_once(':') {
        Some((ip, port)) if !port.is_empty() && !port.ends_with(']') => {
            format!("{}:{port}", if ip.is_empty() { "127.0.0.1" } else { ip })
        }
        _ => format!(
            "{}:{}",
            if address.is_empty() { "127.0.0.1" } else { address },
            if tls { 2376 } else { 2375 }
        ),
    };
    let whole = whole.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr =
        whole.parse().with_context(|| format!("-H {host}: {whole} is not an address with a port"))?;
    let listener =
        TcpListener::bind(address).await.with_context(|| format!("-H {host}: listen at {address}"))?;
    if !tls {
        tracing::warn!(
            "[DEPRECATION NOTICE]: API is accessible on {host} without encryption: whoever can connect is root"
        );
        return Ok(Listener::Plain(listener));
    }
    let file = |given: &str, name: &str| -> Result<PathBuf> {
        if !given.is_empty() {
            return Ok(given.into());
        }
        let folder = match std::env::var_os("DOCKER_CERT_PATH") {
            Some(folder) => PathBuf::from(folder),
            None => Path::new(&std::env::var_os("HOME").context("no HOME: name the files of TLS")?)
                .join(".docker"),
        };
        Ok(folder.join(name))
    };
    let files = TlsFiles {
        ca: if verify { Some(file(&settings.tlscacert, "ca.pem")?) } else { None },
        cert: file(&settings.tlscert, "cert.pem")?,
        key: file(&settings.tlskey, "key.pem")?,
    };
    let config = files.config().with_context(|| format!("-H {host}: TLS"))?;
    Ok(Listener::Tls(listener, config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_both_say_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("daemon.json"),
            r#"{"bip": "10.9.0.1/24", "metrics-addr": "127.0.0.1:1"}"#,
        )
        .unwrap();
        let flags = Flags::default();
        let settings = flags.settings(dir.path(), None, &[], &[]).unwrap();
        assert_eq!(settings.bip.unwrap().to_string(), "10.9.0.1/24");
        let error = flags
            .settings(dir.path(), Some("10.8.0.1/24".parse().unwrap()), &[], &[])
            .unwrap_err()
            .to_string();
        assert!(
            error.ends_with("the following directives are specified both as a flag and in the configuration file: bip: (from flag: 10.8.0.1/24, from file: 10.9.0.1/24)"),
            "{error}"
        );
        let other = Flags { config_file: Some("/nowhere.json".into()), ..Flags::default() };
        assert!(
            other.settings(dir.path(), None, &[], &[]).unwrap_err().to_string().contains("/nowhere.json")
        );
        std::fs::write(dir.path().join("daemon.json"), r#"{"data-root": "/elsewhere"}"#).unwrap();
        assert!(
            flags
                .settings(dir.path(), None, &[], &[])
                .unwrap_err()
                .to_string()
                .contains("--data-dir /elsewhere")
        );
    }

    #[tokio::test]
    async fn no_plain_tcp_by_accident() {
        let listen = |tls, tlsverify| async move {
            let settings =
                Settings { hosts: vec!["tcp://127.0.0.1:0".into()], tls, tlsverify, ..Settings::default() };
            listeners(&settings).await.map(|l| l.len()).map_err(|e| format!("{e:#}"))
        };
        assert!(listen(None, None).await.unwrap_err().contains("--tlsverify"));
        assert!(listen(Some(true), None).await.unwrap_err().contains("--tlsverify=false"));
        assert_eq!(listen(Some(false), None).await, Ok(1));
        let missing = Settings {
            hosts: vec!["tcp://127.0.0.1:0".into()],
            tlsverify: Some(true),
            tlscacert: "/nowhere/ca.pem".into(),
            tlscert: "/nowhere/cert.pem".into(),
            tlskey: "/nowhere/key.pem".into(),
            ..Settings::default()
        };
        assert!(format!("{:#}", listeners(&missing).await.unwrap_err()).contains("/nowhere/ca.pem"));
        let odd = Settings { hosts: vec!["http://x".into()], ..Settings::default() };
        assert!(listeners(&odd).await.is_err());
    }
}
