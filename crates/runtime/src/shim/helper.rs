//! Children that do for a shim what it must not do itself: send its log over a network, compress a rotated file. They
//! are the same binary (`tug shim --log-…`), run beside the shim, and outlive it only to finish what they were given.
//! `tug shim --init` runs inside a container, as its first process.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Command, Stdio};

/// What a sender says when it is ready.
pub(crate) const READY: &[u8] = b"ready\n";

/// Starts one; with `input` as its standard input. It is reaped with the shim's other children.
pub(super) fn start(args: &[&OsStr], input: Option<OwnedFd>) -> io::Result<i32> {
    // The shim's own arguments but the last one, which is the bundle: whatever makes this binary a shim.
    let own: Vec<OsString> = std::env::args_os().skip(1).collect();
    let own = own.split_last().map_or(&[][..], |(_, before)| before);
    let child = Command::new("/proc/self/exe")
        .args(own)
        .args(args)
        .env_clear()
        .stdin(input.map_or_else(Stdio::null, Stdio::from))
        .stdout(Stdio::null())
        .spawn()?;
    Ok(child.id() as i32)
}

/// Runs one, if the arguments ask for it; its exit status.
pub(super) fn main(args: &[OsString]) -> Option<i32> {
    let (what, args) = args.split_first()?;
    let result = match (what.to_str()?, args) {
        ("--log-sender", []) => crate::logs::sender::main(),
        ("--log-compress", [to]) => {
            // Behind everything else: a container that writes fast needs the processors itself.
            let _ = rustix::process::nice(19);
            super::log::compress(io::stdin(), Path::new(to))
        }
        ("--init", [dashes, program, args @ ..]) if dashes == "--" => super::reaper::main(program, args),
        _ => return None,
    };
    Some(match result {
        Ok(()) => 0,
        Err(e) => {
            eprintln!("{}: {e}", what.display());
            1
        }
    })
}
