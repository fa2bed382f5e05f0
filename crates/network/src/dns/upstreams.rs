//! Which upstream servers there are: given, or those of this machine's resolv.conf as it is now.

use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use parking_lot::RwLock;
use tokio::io::unix::AsyncFd;
use tokio::task::JoinHandle;

const SYSTEM: &str = "/etc/resolv.conf";

/// A list of servers. Cheap to clone; clones share what they know.
#[derive(Clone)]
pub struct Upstreams {
    known: Arc<RwLock<Vec<SocketAddr>>>,
    _watch: Option<Arc<Watch>>,
}

struct Watch(JoinHandle<()>);

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Upstreams {
    /// These servers.
    pub fn fixed(servers: Vec<SocketAddr>) -> Self {
        Self { known: Arc::new(RwLock::new(servers)), _watch: None }
    }

    /// The servers of /etc/resolv.conf without those in `exclude`, which would lead back to ourselves. The kernel tells
    /// when the file changes. Needs a tokio runtime.
    pub fn system(exclude: Vec<IpAddr>) -> Self {
        Self::file(SYSTEM.into(), exclude)
    }

    fn file(file: PathBuf, exclude: Vec<IpAddr>) -> Self {
        let known = Arc::new(RwLock::new(read(&file, &exclude)));
        let task = tokio::spawn(watch(file, exclude, known.clone()));
        Self { known, _watch: Some(Arc::new(Watch(task))) }
    }

    /// The servers as they are now.
    pub fn servers(&self) -> Vec<SocketAddr> {
        self.known.read().clone()
    }
}

fn read(file: &Path, exclude: &[IpAddr]) -> Vec<SocketAddr> {
    let text = std::fs::read_to_string(file).unwrap_or_default();
    parse(&text).filter(|a| !exclude.contains(&a.ip())).collect()
}

async fn watch(file: PathBuf, exclude: Vec<IpAddr>, known: Arc<RwLock<Vec<SocketAddr>>>) {
    if let Err(e) = follow(&file, &exclude, &known).await {
        tracing::error!("{} is not watched, changes of it go unnoticed: {e}", file.display());
    }
}

/// Reads the file again whenever something happens in its folder, or in that of the file that it is a link to.
async fn follow(file: &Path, exclude: &[IpAddr], known: &RwLock<Vec<SocketAddr>>) -> std::io::Result<()> {
    let notify = Inotify::init(InitFlags::IN_CLOEXEC | InitFlags::IN_NONBLOCK)?;
    // Deprecated because its argument could be something that changes its descriptor; an OwnedFd does not. Its successor
    // is an unsafe function, which this crate may not call.
    #[allow(deprecated)]
    let news = AsyncFd::new(notify.as_fd().try_clone_to_owned()?)?;
    let flags = AddWatchFlags::IN_CREATE
        | AddWatchFlags::IN_MOVED_TO
        | AddWatchFlags::IN_CLOSE_WRITE
        | AddWatchFlags::IN_DELETE;
    loop {
        // A folder that is watched already stays so; the target of a link may be another one each time.
        let target = std::fs::canonicalize(file).ok();
        for path in [Some(file), target.as_deref()].into_iter().flatten() {
            if let Some(folder) = path.parent() {
                notify.add_watch(folder, flags)?;
            }
        }
        // Read after watching, so that no change falls between.
        *known.write() = read(file, exclude);
        let mut ready = news.readable().await?;
        match notify.read_events() {
            Ok(_) => {}
            Err(Errno::EAGAIN) => ready.clear_ready(),
            Err(e) => return Err(e.into()),
        }
    }
}

fn parse(text: &str) -> impl Iterator<Item = SocketAddr> {
    text.lines().filter_map(|line| {
        let mut words = line.split_whitespace();
        (words.next() == Some("nameserver"))
            .then(|| words.next())
            .flatten()?
            .parse::<IpAddr>()
            .ok()
            .map(|ip| (ip, 53).into())
    })
}

/// Reads a text.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(text: &str) {
    let _ = parse(text).count();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resolv_conf() {
        let text = "# x\nsearch a b\nnameserver 10.0.0.1\n nameserver\t10.0.0.2 # two\nnameserver nonsense\nnameserver ::1\n";
        let got: Vec<_> = parse(text).map(|a| a.to_string()).collect();
        assert_eq!(got, ["10.0.0.1:53", "10.0.0.2:53", "[::1]:53"]);
    }

    #[tokio::test]
    async fn changes_are_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (file, target) = (dir.path().join("resolv.conf"), tempfile::tempdir().unwrap());
        let all = Upstreams::file(file.clone(), vec![[10, 96, 0, 10].into()]);
        assert!(all.servers().is_empty());
        let until = async |wanted: &str| {
            while all.servers() != [SocketAddr::new(wanted.parse().unwrap(), 53)] {
                tokio::task::yield_now().await;
            }
        };
        std::fs::write(&file, "nameserver 10.96.0.10\nnameserver 1.1.1.1\n").unwrap();
        until("1.1.1.1").await;
        let real = target.path().join("real");
        std::fs::write(&real, "nameserver 2.2.2.2\n").unwrap();
        std::fs::write(target.path().join("new"), "").unwrap();
        std::os::unix::fs::symlink(&real, dir.path().join("link")).unwrap();
        std::fs::rename(dir.path().join("link"), &file).unwrap();
        until("2.2.2.2").await;
        std::fs::write(target.path().join("new"), "nameserver 3.3.3.3\n").unwrap();
        std::fs::rename(target.path().join("new"), &real).unwrap();
        until("3.3.3.3").await;
    }
}
