//! `tug up`: starts `tug server` in the background and waits for the word that it is ready.
//!
//! The word comes over the protocol of sd_notify(3), so that the same server also suits `Type=notify` of systemd.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use base::Instance;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::options::Place;
use crate::{server, status};

/// How long a start may take before it is given up: far above any start that gets somewhere.
const PATIENCE: Duration = Duration::from_secs(120);

/// Runs `tug up`.
pub fn run(place: &Place) -> Result<ExitCode> {
    let (made, started) = ensure(place, &mut |_| {})?;
    if started {
        println!(
            "# tug is up: node {} is Ready (log: {})",
            made.node_name,
            log_path(&made.run_dir).display()
        );
    } else {
        println!("# tug is already up: nothing to do");
    }
    print!("{}", status::environment(&made));
    Ok(ExitCode::SUCCESS)
}

/// Makes sure the instance runs and is ready; says whether this call started it. `progress` gets the server's status lines.
pub fn ensure(place: &Place, progress: &mut dyn FnMut(&str)) -> Result<(Instance, bool)> {
    if server::is_running(&place.run_dir)? {
        let made = place
            .running()?
            .context("a server holds the run folder but has not said what it is yet; try again")?;
        return Ok((made, false));
    }
    let made = place.instance()?;
    fs::create_dir_all(&made.run_dir).with_context(|| format!("run folder {}", made.run_dir.display()))?;
    let notify = made.run_dir.join("notify.sock");
    let _ = fs::remove_file(&notify);
    let socket = UnixDatagram::bind(&notify).with_context(|| notify.display().to_string())?;
    let log = log_path(&made.run_dir);
    let mut child = spawn(place, &notify, &log)?;
    let outcome = wait(&socket, &mut child, progress);
    let _ = fs::remove_file(&notify);
    match outcome {
        Ok(()) => Ok((made, true)),
        Err(e) => {
            // A server that is still on its way would be ready behind the caller's back.
            let _ = child.kill();
            let _ = child.wait();
            Err(e).with_context(|| {
                format!("{}\nthe server did not become ready (log: {})", tail(&log), log.display())
            })
        }
    }
}

fn spawn(place: &Place, notify: &Path, log: &Path) -> Result<Child> {
    let out = OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o640)
        .open(log)
        .with_context(|| log.display().to_string())?;
    let executable = std::env::current_exe().context("this program's own path")?;
    Command::new(executable)
        .arg("server")
        .args(place.to_arguments())
        .env("NOTIFY_SOCKET", notify)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .current_dir("/")
        .process_group(0)
        .spawn()
        .context("starting tug server")
}

/// Reads notifications until READY=1; fails when the child ends first or the patience does.
fn wait(socket: &UnixDatagram, child: &mut Child, progress: &mut dyn FnMut(&str)) -> Result<()> {
    let pid = Pid::from_child(child);
    let ended = pidfd_open(pid, PidfdFlags::empty()).context("pidfd_open")?;
    let limit = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
    let mut buffer = [0u8; 4096];
    loop {
        let mut fds = [PollFd::new(socket, PollFlags::IN), PollFd::new(&ended, PollFlags::IN)];
        if poll(&mut fds, Some(&limit)).context("poll")? == 0 {
            bail!("nothing was heard of it for {} s", PATIENCE.as_secs());
        }
        if fds[0].revents().contains(PollFlags::IN) {
            let n = socket.recv(&mut buffer)?;
            for line in String::from_utf8_lossy(&buffer[..n]).lines() {
                match line.split_once('=') {
                    Some(("READY", "1")) => return Ok(()),
                    Some(("STATUS", text)) => progress(text),
                    _ => {}
                }
            }
        } else if !fds[1].revents().is_empty() {
            bail!("tug server ended: {}", child.wait()?);
        }
    }
}

/// Where a server in the background writes its log.
pub fn log_path(run_dir: &Path) -> PathBuf {
    run_dir.join("server.log")
}

/// The last lines of the log, for an error message.
fn tail(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(2000)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(8)..].join("\n")
}
