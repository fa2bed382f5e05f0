//! `tug down`: ends the server, then everything it started, then every trace outside the data folder.
//!
//! Works the same when the server is already gone: what is there to be undone is read from the system.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use std::time::Duration;

use anyhow::{Context, Result};
use base::Instance;
use clap::Args;
use futures::future::join_all;
use runtime::{Runtime, ShimRuntime, State, Status};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::options::Place;
use crate::server::{self, DOCKER_DEFAULT_SOCKET};

/// What to stop, and how patiently.
#[derive(Debug, Args)]
pub struct Options {
    #[command(flatten)]
    place: Place,
    /// How many seconds containers get to end after SIGTERM before they are killed.
    #[arg(long, short = 't', default_value_t = 10)]
    timeout: u64,
}

/// How long the server gets to end by itself before it is killed.
const GRACE: Timespec = Timespec { tv_sec: 20, tv_nsec: 0 };

/// Runs `tug down`.
pub fn run(options: &Options) -> Result<ExitCode> {
    let place = &options.place;
    let made = match place.running()? {
        Some(made) => made,
        None => place.instance()?,
    };
    let stopped = stop_server(&made.run_dir)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Held until all is gone, so that no server starts into the middle of it.
    let lock = server::lock(&made.run_dir)?;
    let containers = runtime.block_on(stop_all(&made, Duration::from_secs(options.timeout)))?;
    // The kernel names mounts by their real paths.
    let real = |dir: &Path| fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    let volumes = engine::mounted_volumes(&real(&made.data_dir)).context("volumes")?;
    unmount(&real(&made.run_dir), &volumes)?;
    let parent = made.cgroup_parent();
    sys::cgroup::remove_tree(&parent).with_context(|| format!("cgroup {parent}"))?;
    remove_default_link(&made.docker_socket);
    fs::remove_dir_all(&made.run_dir).with_context(|| made.run_dir.display().to_string())?;
    drop(lock);
    match (stopped, containers) {
        (false, 0) => println!("tug was not running; nothing of it was left"),
        (_, n) => println!(
            "tug is down: {n} containers and sandboxes stopped; data stays in {}",
            made.data_dir.display()
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the server that holds the run folder; false if there is none.
fn stop_server(run_dir: &Path) -> Result<bool> {
    let Some(pid) = server::running_pid(run_dir)?.and_then(Pid::from_raw) else {
        return Ok(false);
    };
    // The descriptor pins the process; the lock is asked again, so that a reused number is never signalled.
    let process = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    if server::running_pid(run_dir)?.and_then(Pid::from_raw) != Some(pid) {
        return Ok(false);
    }
    pidfd_send_signal(&process, Signal::TERM).context("sending SIGTERM to the server")?;
    if poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&GRACE))? == 0 {
        eprintln!("tug: the server did not end within {} s and is killed", GRACE.tv_sec);
        pidfd_send_signal(&process, Signal::KILL).context("sending SIGKILL to the server")?;
        poll(&mut [PollFd::new(&process, PollFlags::IN)], None)?;
    }
    Ok(true)
}

/// Ends every container, sandbox and link of the instance; says how many there were.
async fn stop_all(made: &Instance, grace: Duration) -> Result<usize> {
    let runtime = ShimRuntime::open(&made.run_dir, &made.data_dir.join("runtime"), Default::default())
        .context("runtime")?;
    let containers = runtime.list().await.context("listing containers")?;
    join_all(containers.iter().map(|container| end(&*runtime, container, grace))).await;
    for container in &containers {
        runtime.delete(&container.id, true).await.with_context(|| format!("container {}", container.id))?;
    }
    let sandboxes = runtime.sandboxes().await.context("listing sandboxes")?;
    for sandbox in &sandboxes {
        runtime.sandbox_delete(&sandbox.id).await.with_context(|| format!("sandbox {}", sandbox.id))?;
    }
    let network = network::Network::host(made).await.context("network")?;
    network.teardown().await.context("removing links and tables")?;
    Ok(containers.len() + sandboxes.len())
}

/// Asks a container to end and gives it time to. Whatever comes of it, the container is deleted by force afterwards.
async fn end(runtime: &dyn Runtime, container: &State, grace: Duration) {
    if container.status == Status::Running && !grace.is_zero() {
        let asked = runtime.signal(&container.id, Signal::TERM.as_raw(), false).await;
        if asked.is_ok() {
            let _ = tokio::time::timeout(grace, runtime.wait(&container.id)).await;
        }
    }
}

/// Unmounts what is mounted below the run folder, which goes, and what volumes had mounted, innermost first. What else is
/// mounted below the data folder is somebody else's: the disk that it is kept on, say.
fn unmount(run_dir: &Path, volumes: &[PathBuf]) -> Result<()> {
    let text = fs::read_to_string("/proc/self/mountinfo").context("/proc/self/mountinfo")?;
    for target in our_mounts(&text, run_dir, volumes).into_iter().rev() {
        rustix::mount::unmount(&target, rustix::mount::UnmountFlags::DETACH)
            .with_context(|| format!("unmounting {}", target.display()))?;
    }
    Ok(())
}

/// The mount points of a mountinfo file (proc(5)) below the run folder or at a volume, in the order in which they were
/// mounted.
fn our_mounts(mountinfo: &str, run_dir: &Path, volumes: &[PathBuf]) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(sys::mount::unescape)
        .filter(|target| (target.starts_with(run_dir) && target != run_dir) || volumes.contains(target))
        .collect()
}

/// Takes the link at docker's default place away if it is ours.
fn remove_default_link(socket: &Path) {
    if fs::read_link(DOCKER_DEFAULT_SOCKET).is_ok_and(|target| target == socket) {
        let _ = fs::remove_file(DOCKER_DEFAULT_SOCKET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_mounts() {
        let info = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                    2 1 0:5 / /run/tug/a\\040b rw - tmpfs t rw\n\
                    3 1 0:6 / /run/tugboat rw - tmpfs t rw\n\
                    4 1 0:7 / /run/tug rw - tmpfs t rw\n\
                    5 1 8:2 / /data/images rw - ext4 /dev/b rw\n\
                    6 1 8:3 / /data/volumes/disk/_data rw - ext4 /dev/c rw\n\
                    7 1 0:8 / /data/volumes/nfs/_data rw - nfs4 a:/b rw\n";
        let nfs = PathBuf::from("/data/volumes/nfs/_data");
        let found = our_mounts(info, Path::new("/run/tug"), std::slice::from_ref(&nfs));
        assert_eq!(found, [PathBuf::from("/run/tug/a b"), nfs]);
    }
}
