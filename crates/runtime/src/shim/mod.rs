//! The process that is the parent of one container, or that holds one pod's namespaces.
//!
//! It has one thread and one poll loop, no asynchronous runtime, and keeps almost nothing in memory: the container's
//! specification is read by the child that it clones. It holds the standard streams, writes the log, reaps, records the
//! exit, and outlives the daemon, which finds it again by its socket `BUNDLE/sock`. What needs more than that (a network,
//! compression) it gives to a child ([`helper`]). It leaves to the daemon whatever
//! can be done from outside: pausing, limits, statistics, deletion.

mod child;
mod connection;
mod external;
pub(crate) mod helper;
mod hooks;
mod log;
mod make;
mod mapped;
mod options;
mod process;
mod reaper;
mod rootfs;
mod sandbox;
mod server;
mod stdio;
mod sync;
pub mod users;

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::path::Path;

pub use options::lowerdir;
use rustix::fs::{Mode, OFlags};

use crate::protocol::{self, Event, Failure, ShimConfig, ShimKind, Step};

/// What `tug shim …` runs, with the arguments after `shim`: the bundle's folder. Standard input is a socket connected
/// to the daemon. Never returns; must be called before any thread exists.
pub fn main(args: Vec<OsString>) -> ! {
    if let Some(code) = helper::main(&args) {
        std::process::exit(code);
    }
    let code = match args.first() {
        Some(bundle) => run(Path::new(bundle)),
        None => {
            eprintln!("usage: tug shim BUNDLE (started by the daemon, with its socket as standard input)");
            2
        }
    };
    std::process::exit(code)
}

fn run(bundle: &Path) -> i32 {
    sys::memory::frugal_heap();
    let daemon = match detach(bundle) {
        Ok(daemon) => daemon,
        Err(failure) => {
            eprintln!("{}", failure.message);
            return 1;
        }
    };
    let result = std::fs::read("shim.json")
        .step(|| "read shim.json".into())
        .and_then(|b| serde_json::from_slice(&b).map_err(|e| Failure::setup(format!("shim.json: {e}"))));
    let result = result.and_then(|config: ShimConfig| match config.kind {
        ShimKind::Container(_) => server::Server::create(config, &daemon).map(Box::new).map(Made::Container),
        ShimKind::Sandbox(_) => sandbox::Sandbox::create(config).map(Made::Sandbox),
    });
    match result {
        Ok(Made::Container(server)) => server.run(daemon),
        Ok(Made::Sandbox(sandbox)) => sandbox.run(daemon),
        Err(failure) => {
            let mut out = Vec::new();
            protocol::json_frame(&mut out, protocol::EVENT, &Event::Failed(failure));
            let _ = rustix::io::write(&daemon, &out);
            1
        }
    }
}

enum Made {
    Container(Box<server::Server>),
    Sandbox(sandbox::Sandbox),
}

/// Leaves the daemon's session; returns the connection to it, which was standard input.
fn detach(bundle: &Path) -> Result<OwnedFd, Failure> {
    rustix::process::chdir(bundle).step(|| format!("enter {}", bundle.display()))?;
    let daemon =
        rustix::io::fcntl_dupfd_cloexec(rustix::stdio::stdin(), 3).step(|| "take the connection".into())?;
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .step(|| "open /dev/null".into())?;
    rustix::stdio::dup2_stdin(&null).step(|| "close standard input".into())?;
    rustix::stdio::dup2_stdout(&null).step(|| "close standard output".into())?;
    // Fails only if it leads a process group already, in which case it is detached enough.
    let _ = rustix::process::setsid();
    rustix::process::umask(Mode::from_raw_mode(0o022));
    // Whatever outlives its parent in a pid namespace that is not the container's own comes to the shim.
    nix::sys::prctl::set_child_subreaper(true).step(|| "become a subreaper".into())?;
    let _ = nix::sys::prctl::set_name(c"tug-shim");
    // What the daemon does without is not taken from the container. A kernel without huge pages refuses both.
    let _ = nix::sys::prctl::set_thp_disable(false);
    Ok(daemon)
}
