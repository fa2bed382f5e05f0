//! The built-in runtime behind the command line of OCI runtimes, for the suites that validate those (such as
//! opencontainers/runtime-tools, whose tests run the program that `RUNTIME` names). No part of Tug: it has no terminals,
//! and a container whose output nobody reads any more waits.
//!
//!     oci create [--bundle DIR] [--pid-file FILE] ID
//!     oci start ID · oci state ID · oci kill ID [SIGNAL] · oci delete [--force] ID
//!
//! What it knows is kept below `$TUG_OCI_ROOT` (/run/tug-oci).

use std::error::Error;
use std::ffi::OsString;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;

use nix::sys::signal::Signal;
use oci_spec::runtime::Spec;
use runtime::{
    ContainerSpec, IoSpec, Rootfs, Runtime, SeccompProfile, ShimCommand, ShimRuntime, Status, Stream,
};

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// The command by which [`create`] leaves a process behind that passes the container's output on.
const COPY: &str = "copy";

fn main() {
    let mut args: Vec<OsString> = std::env::args_os().skip(1).collect();
    if args.first().is_some_and(|a| a == "shim") {
        runtime::shim::main(args.split_off(1));
    }
    let args: Vec<String> = args.into_iter().map(|a| a.to_string_lossy().into_owned()).collect();
    if let Err(e) = run(&args) {
        eprintln!("oci: {e}");
        std::process::exit(1);
    }
}

fn run(args: &[String]) -> Result<()> {
    let mut bundle = PathBuf::from(".");
    let mut pid_file = None;
    let mut force = false;
    let mut rest = Vec::new();
    let mut words = args.iter();
    while let Some(word) = words.next() {
        let mut value = || words.next().cloned().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--bundle" | "-b" => bundle = value()?.into(),
            "--pid-file" => pid_file = Some(PathBuf::from(value()?)),
            "--force" | "-f" => force = true,
            flag if flag.starts_with('-') => return Err(format!("unknown flag {flag}").into()),
            _ => rest.push(word.as_str()),
        }
    }
    let (command, id) = match rest[..] {
        [command, id] | [command, id, _] => (command, id),
        _ => return Err("a command and the container's id are needed".into()),
    };
    let tokio = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    tokio.block_on(async {
        let root = PathBuf::from(std::env::var_os("TUG_OCI_ROOT").unwrap_or("/run/tug-oci".into()));
        let runtime = ShimRuntime::open(&root.join("run"), &root.join("state"), ShimCommand::default())?;
        match command {
            "create" => create(runtime, id, &bundle.canonicalize()?, pid_file.as_deref()).await,
            "start" => Ok(runtime.start(id).await?),
            "state" => state(&runtime, id).await,
            "kill" => {
                let signal = rest.get(2).copied().unwrap_or("TERM");
                let signal = match signal.parse::<i32>() {
                    Ok(number) => number,
                    Err(_) => Signal::from_str(&format!("SIG{}", signal.trim_start_matches("SIG")))? as i32,
                };
                Ok(runtime.signal(id, signal, false).await?)
            }
            "delete" => {
                runtime.state(id).await?; // deleting what is not there would be no error
                Ok(runtime.delete(id, force).await?)
            }
            COPY => copy(&runtime, id).await,
            other => Err(format!("unknown command {other}").into()),
        }
    })
}

async fn create(runtime: Arc<ShimRuntime>, id: &str, bundle: &Path, pid_file: Option<&Path>) -> Result<()> {
    let mut oci: Spec = serde_json::from_slice(&std::fs::read(bundle.join("config.json"))?)?;
    let root = oci.root().clone().ok_or("config.json: root is missing")?;
    if let Some(linux) = oci.linux_mut() {
        let group = match linux.cgroups_path() {
            Some(path) if path.is_absolute() => path.clone(),
            Some(path) => Path::new("/tug-oci").join(path),
            None => Path::new("/tug-oci").join(id),
        };
        linux.set_cgroups_path(Some(group));
    }
    let spec = ContainerSpec {
        id: id.into(),
        rootfs: Rootfs::Path {
            path: bundle.join(root.path()),
            readonly: root.readonly().unwrap_or_default(),
        },
        oci,
        io: IoSpec::default(),
        init: false,
        seccomp: SeccompProfile::Spec,
        runtime: None,
        runtime_args: Default::default(),
        annotations: Default::default(),
        labels: [("bundle".to_owned(), bundle.display().to_string())].into(),
    };
    let pid = runtime.create(&spec).await?.pid;
    let (mut ours, theirs) = UnixStream::pair()?;
    Command::new(std::env::current_exe()?)
        .args([COPY, id])
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    // Its word that it is attached: nothing that is written from the start on may be missed.
    ours.read_exact(&mut [0])?;
    if let Some(file) = pid_file {
        std::fs::write(file, pid.to_string())?;
    }
    Ok(())
}

async fn copy(runtime: &ShimRuntime, id: &str) -> Result<()> {
    let mut io = runtime.attach(id).await?;
    rustix::io::write(rustix::stdio::stdin(), &[0])?;
    while let Some(chunk) = io.output.recv().await {
        match chunk.stream {
            Stream::Stdout => std::io::stdout().write_all(&chunk.data)?,
            Stream::Stderr => std::io::stderr().write_all(&chunk.data)?,
        }
        std::io::stdout().flush()?;
    }
    Ok(())
}

async fn state(runtime: &ShimRuntime, id: &str) -> Result<()> {
    let state = runtime.state(id).await?;
    let status = match state.status {
        Status::Created => "created",
        Status::Running => "running",
        Status::Paused => "paused",
        Status::Stopped => "stopped",
    };
    let text = serde_json::json!({
        "ociVersion": state.spec.oci.version(),
        "id": id,
        "status": status,
        "pid": state.pid.unwrap_or(0),
        "bundle": state.spec.labels["bundle"],
        "annotations": state.spec.oci.annotations().clone().unwrap_or_default(),
    });
    println!("{text}");
    Ok(())
}
