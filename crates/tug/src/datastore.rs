//! Where the cluster's objects are kept: the flags that say so, the store that follows from them, and `tug datastore check`.

use std::fs;
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use base::Instance;
use clap::{Args, Subcommand};
use store::{Store, etcd};

/// Which datastore.
#[derive(Debug, Clone, Default, Args)]
pub struct Datastore {
    /// Keep the cluster's objects in etcd, which several servers may share: https://etcd-1:2379,https://etcd-2:2379
    /// [default: in DATA-DIR].
    #[arg(long, env = "TUG_DATASTORE")]
    pub datastore: Option<String>,
    /// The certificate authority of etcd's certificates (PEM).
    #[arg(long, env = "TUG_DATASTORE_CAFILE", requires = "datastore")]
    pub datastore_cafile: Option<PathBuf>,
    /// The client certificate to show to etcd (PEM).
    #[arg(long, env = "TUG_DATASTORE_CERTFILE", requires = "datastore_keyfile")]
    pub datastore_certfile: Option<PathBuf>,
    /// The key of the client certificate (PEM).
    #[arg(long, env = "TUG_DATASTORE_KEYFILE", requires = "datastore_certfile")]
    pub datastore_keyfile: Option<PathBuf>,
}

/// `tug datastore ...`
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Ask each member of etcd how it is; fails if the cluster could not work with them.
    Check(Datastore),
}

/// Lets nobody but root read the database's file, which is made if it is not there. What SQLite makes beside it gets the same
/// mode; what an unclean end left there has the one of then.
fn keep_private(file: &Path) -> io::Result<()> {
    fs::OpenOptions::new().append(true).create(true).mode(0o600).open(file)?;
    for beside in ["", "-wal", "-shm"] {
        let mut path = file.as_os_str().to_owned();
        path.push(beside);
        match fs::set_permissions(&path, fs::Permissions::from_mode(0o600)) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            other => other?,
        }
    }
    Ok(())
}

impl Datastore {
    /// The store, and whether other servers may use it too.
    pub fn open(&self, made: &Instance) -> Result<(Arc<dyn Store>, bool)> {
        match self.etcd()? {
            Some(options) => Ok((etcd::open(options)?, true)),
            None => {
                let file = made.data_dir.join("store");
                keep_private(&file).with_context(|| file.display().to_string())?;
                Ok((store::embedded::open(&file)?, false))
            }
        }
    }

    /// The flags that mean the same.
    pub fn to_arguments(&self) -> Vec<std::ffi::OsString> {
        let given = [
            ("--datastore", self.datastore.clone().map(Into::into)),
            ("--datastore-cafile", self.datastore_cafile.clone().map(Into::into)),
            ("--datastore-certfile", self.datastore_certfile.clone().map(Into::into)),
            ("--datastore-keyfile", self.datastore_keyfile.clone().map(Into::into)),
        ];
        given.into_iter().filter_map(|(flag, value)| Some([flag.into(), value?])).flatten().collect()
    }

    fn etcd(&self) -> Result<Option<etcd::Options>> {
        let Some(endpoints) = self.datastore.clone() else { return Ok(None) };
        let read = |flag: &str, path: &Option<PathBuf>| match path {
            Some(path) => {
                fs::read_to_string(path).map(Some).with_context(|| format!("{flag} {}", path.display()))
            }
            None => Ok(None),
        };
        let cert = read("--datastore-certfile", &self.datastore_certfile)?;
        let key = read("--datastore-keyfile", &self.datastore_keyfile)?;
        let identity = cert.zip(key).map(|(cert_pem, key_pem)| pki::Identity { cert_pem, key_pem });
        let tls = match read("--datastore-cafile", &self.datastore_cafile)? {
            Some(ca) => Some(
                pki::client_config(&pki::Trust::Only(ca), identity.as_ref())
                    .context("--datastore-cafile, --datastore-certfile, --datastore-keyfile")?,
            ),
            None if endpoints.contains("https://") => {
                bail!("--datastore {endpoints}: https:// needs --datastore-cafile")
            }
            None => None,
        };
        Ok(Some(etcd::Options { endpoints, tls }))
    }
}

/// Runs `tug datastore ...`.
pub fn run(command: &Command) -> Result<ExitCode> {
    let Command::Check(datastore) = command;
    let Some(options) = datastore.etcd()? else {
        bail!(
            "--datastore names no etcd; the built-in store needs no check: it is checked when it is opened"
        );
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let members = runtime.block_on(etcd::status(options))?;
    let (mut good, total) = (0, members.len());
    for (endpoint, status) in members {
        match status {
            Ok(s) => {
                let mut faults = s.alarms.clone();
                if !s.has_leader {
                    faults.push("no leader".into());
                }
                if !is_new_enough(&s.version) {
                    faults.push("older than 3.4, which is needed".into());
                }
                good += usize::from(faults.is_empty());
                let verdict = if faults.is_empty() { "ok".into() } else { faults.join(", ") };
                let size = s.size / 1024;
                println!("{endpoint}: etcd {}, revision {}, {size} KiB: {verdict}", s.version, s.revision);
            }
            Err(e) => println!("{endpoint}: {e}"),
        }
    }
    if good * 2 <= total {
        bail!("{good} of {total} members are good; more than half must be");
    }
    Ok(ExitCode::SUCCESS)
}

fn is_new_enough(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|n| n.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(3), Some(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert!(is_new_enough("3.4.23") && is_new_enough("3.10.0") && is_new_enough("4.0.0"));
        assert!(!is_new_enough("3.3.27") && !is_new_enough("2.5") && !is_new_enough(""));
    }

    #[tokio::test]
    async fn the_objects_are_for_root_alone() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        let made = Instance::new(dir.path(), &at("run"), "n", [127, 0, 0, 1].into());
        // As they were made once.
        for name in ["store", "store-wal"] {
            fs::write(at(name), b"").unwrap();
            fs::set_permissions(at(name), fs::Permissions::from_mode(0o644)).unwrap();
        }
        let (_store, shared) = Datastore::default().open(&made).unwrap();
        assert!(!shared);
        for name in ["store", "store-wal", "store-shm"] {
            if let Ok(file) = fs::metadata(at(name)) {
                assert_eq!(file.permissions().mode() & 0o777, 0o600, "{name}");
            }
        }
        assert!(fs::metadata(at("store")).unwrap().len() > 0);
    }

    #[test]
    fn what_is_missing_is_named() {
        let datastore = Datastore { datastore: Some("https://a:2379".into()), ..Datastore::default() };
        assert!(datastore.etcd().unwrap_err().to_string().contains("--datastore-cafile"));
        let datastore = Datastore {
            datastore_cafile: Some("/none".into()),
            datastore: Some("http://a".into()),
            ..datastore
        };
        assert!(format!("{:#}", datastore.etcd().unwrap_err()).contains("--datastore-cafile /none"));
    }
}
