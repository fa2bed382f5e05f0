//! Containers by another OCI runtime (`--runtime runc`): the shim mounts the root in a mount namespace of its own, has
//! the binary create, start and exec, and is the parent of what that leaves behind, since it is a subreaper. Streams,
//! log, exits and everything else are as with the built-in runtime.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio as CommandStdio};

use oci_spec::runtime::{Mount, Process, RootBuilder, Spec, User};
use rustix::fs::{Mode, OFlags};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::child::Stdio;
use super::mapped;
use super::options::Options;
use super::rootfs;
use super::sync;
use super::users::Database;
use crate::protocol::{ContainerConfig, Failure, FailureKind, Step};
use crate::{ContainerSpec, ExecErrorKind, ExecSpec};

/// Another runtime's container.
pub(super) struct External {
    binary: PathBuf,
    /// What the configuration gives it before our arguments.
    args: Vec<String>,
    id: String,
}

/// A process that the runtime has made, and its terminal.
pub(super) struct Made {
    pub pid: i32,
    pub terminal: Option<OwnedFd>,
}

/// Other runtimes know a part of a source by its whole path only.
fn join_subpath(mount: &mut Mount) {
    let Some(part) = Options::parse(mount.options().as_deref().unwrap_or_default()).subpath else { return };
    let whole = mount.source().as_ref().map(|source| source.join(part));
    mount.set_source(whole);
    let others =
        mount.options().iter().flatten().filter(|o| !o.starts_with(crate::SUBPATH)).cloned().collect();
    mount.set_options(Some(others));
}

impl External {
    /// Creates the container in the working folder, which is its bundle.
    pub(super) fn create(
        binary: &Path,
        id: &str,
        config: &ContainerConfig,
        stdio: Option<Stdio>,
    ) -> Result<(Self, Made), Failure> {
        let read = |name: &str| std::fs::read(name).step(|| format!("read {name}"));
        let wrong = |e: serde_json::Error| Failure::setup(format!("container.json: {e}"));
        let spec: ContainerSpec = serde_json::from_slice(&read("container.json")?).map_err(wrong)?;
        let mut oci: Spec = serde_json::from_slice(&read("oci.json")?).map_err(wrong)?;
        let root = rootfs::mount_here(&spec.rootfs, mapped::Ids::of(config)?.as_ref())?;
        let database = Database::read_in(root.as_fd());
        let process = oci.process_mut().as_mut().ok_or_else(|| Failure::setup("process is missing"))?;
        resolve(process, &database)?;
        process.set_terminal(Some(stdio.is_none()));
        oci.mounts_mut().iter_mut().flatten().for_each(join_subpath);
        let here = std::env::current_dir().step(|| "the bundle".into())?;
        let root = RootBuilder::default().path(here.join("rootfs")).readonly(spec.rootfs.readonly()).build();
        oci.set_root(Some(root.map_err(|e| Failure::setup(e.to_string()))?));
        write("config.json", &oci)?;
        let this = Self { binary: binary.into(), args: spec.runtime_args, id: id.into() };
        let made = this.run(&["create", "--bundle", "."], "create", stdio)?;
        Ok((this, made))
    }

    /// Executes the container's first process.
    pub(super) fn start(&self) -> Result<(), Failure> {
        self.finish(self.command("start").arg(&self.id))
    }

    /// One more process in the container whose first process is `target`.
    pub(super) fn exec(&self, spec: &ExecSpec, target: i32, stdio: Option<Stdio>) -> Result<Made, Failure> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(format!("/proc/{target}/root"), flags, Mode::empty())
            .step(|| "open the container's root".into())?;
        let mut process = spec.process.clone();
        resolve(&mut process, &Database::read_in(root.as_fd()))?;
        process.set_terminal(Some(spec.tty));
        write("process.json", &process)?;
        self.run(&["exec", "--detach", "--process", "process.json"], "exec", stdio)
    }

    /// Removes what the runtime keeps of it.
    pub(super) fn delete(&self) {
        if let Err(failure) = self.finish(self.command("delete").args(["--force", &self.id])) {
            eprintln!("{}", failure.message);
        }
    }

    fn command(&self, action: &str) -> Command {
        let mut command = Command::new(&self.binary);
        let _ = std::fs::remove_file("oci.log");
        command.args(&self.args);
        command.args(["--root", "oci", "--log", "oci.log", "--log-format", "json", action]);
        // Without PATH runc would not find helpers such as newuidmap.
        command.env_clear().env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        command.stdin(CommandStdio::null()).stdout(CommandStdio::null()).stderr(CommandStdio::null());
        command
    }

    /// Runs the binary to its end; what it says instead of succeeding is in its log.
    fn finish(&self, command: &mut Command) -> Result<(), Failure> {
        let name = self.binary.display();
        let status = command.status().step(|| format!("run {name}"))?;
        if status.success() {
            return Ok(());
        }
        let log = std::fs::read_to_string("oci.log").unwrap_or_default();
        let last = log.lines().rev().find_map(|line| {
            let entry: serde_json::Value = serde_json::from_str(line).ok()?;
            (entry["level"] == "error").then(|| entry["msg"].as_str().map(String::from))?
        });
        Err(failure(last.unwrap_or_else(|| format!("{name}: {status}"))))
    }

    fn run(&self, args: &[&str], what: &str, stdio: Option<Stdio>) -> Result<Made, Failure> {
        let pid_file = format!("{what}.pid");
        let mut command = self.command(args[0]);
        command.args(&args[1..]).args(["--pid-file", &pid_file]);
        let console = match stdio {
            Some(stdio) => {
                command.stdin(stdio.stdin).stdout(stdio.stdout).stderr(stdio.stderr);
                None
            }
            None => {
                let name = format!("{what}.console");
                let socket = listen(&name)?;
                command.args(["--console-socket", &name]);
                Some(socket)
            }
        };
        command.arg(&self.id);
        self.finish(&mut command)?;
        drop(command); // the child's ends of the pipes
        let pid = std::fs::read_to_string(&pid_file).step(|| format!("read {pid_file}"))?;
        let pid = pid.trim().parse().map_err(|_| Failure::setup(format!("{pid_file} holds {pid:?}")))?;
        let terminal = match console {
            // It has been sent already; the runtime does not wait for an answer.
            Some(socket) => {
                let peer = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC);
                Some(sync::receive_descriptor(&peer.step(|| "take the terminal".into())?)?)
            }
            None => None,
        };
        Ok(Made { pid, terminal })
    }
}

fn write(name: &str, value: &impl serde::Serialize) -> Result<(), Failure> {
    let bytes = serde_json::to_vec(value).map_err(|e| Failure::setup(format!("{name}: {e}")))?;
    crate::protocol::write_private(Path::new(name), &bytes).step(|| format!("write {name}"))
}

fn listen(name: &str) -> Result<OwnedFd, Failure> {
    let what = || format!("make {name}");
    let _ = std::fs::remove_file(name);
    let socket =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None);
    let socket = socket.step(what)?;
    rustix::net::bind(&socket, &SocketAddrUnix::new(name).step(what)?).step(what)?;
    rustix::net::listen(&socket, 1).step(what)?;
    Ok(socket)
}

/// Other runtimes take numbers only.
fn resolve(process: &mut Process, database: &Database) -> Result<(), Failure> {
    let Some(expression) = process.user().username().clone().filter(|e| !e.is_empty()) else { return Ok(()) };
    let other = |message| Failure { kind: FailureKind::Exec(ExecErrorKind::Other), message };
    let id = database.resolve(&expression).map_err(other)?;
    let mut user = User::default();
    let mut groups = id.groups;
    groups.extend(process.user().additional_gids().iter().flatten());
    groups.sort_unstable();
    groups.dedup();
    user.set_uid(id.uid).set_gid(id.gid).set_umask(process.user().umask()).set_additional_gids(Some(groups));
    process.set_user(user);
    let mut env = process.env().clone().unwrap_or_default();
    if let (false, Some(home)) = (env.iter().any(|e| e.starts_with("HOME=")), id.home) {
        env.push(format!("HOME={home}"));
        process.set_env(Some(env));
    }
    Ok(())
}

/// What a runtime's message says about the command, in the built-in runtime's terms.
fn failure(message: String) -> Failure {
    const PREFIX: &str = "unable to start container process: ";
    let text = message.find(PREFIX).map_or(message.as_str(), |at| &message[at + PREFIX.len()..]);
    let lower = text.to_lowercase();
    // `open executable` is crun's, of a folder too, whose cause it does not tell.
    let opened = lower.starts_with("open executable");
    let about_command = lower.starts_with("exec") || lower.contains("executable file") || opened;
    let kind = if !about_command {
        FailureKind::Setup
    } else if lower.contains("not found") || lower.contains("no such file") {
        FailureKind::Exec(ExecErrorKind::NotFound)
    } else if opened
        || ["permission denied", "is a directory", "format error"].iter().any(|t| lower.contains(t))
    {
        FailureKind::Exec(ExecErrorKind::NotExecutable)
    } else {
        FailureKind::Exec(ExecErrorKind::Other)
    };
    Failure { kind, message: text.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_others() {
        use ExecErrorKind::{NotExecutable, NotFound};
        for (message, kind) in [
            (
                "runc create failed: unable to start container process: exec: \"nope\": executable file not found in $PATH",
                FailureKind::Exec(NotFound),
            ),
            (
                "executable file `nope` not found in $PATH: No such file or directory",
                FailureKind::Exec(NotFound),
            ),
            (
                "runc create failed: unable to start container process: exec: \"/etc\": is a directory",
                FailureKind::Exec(NotExecutable),
            ),
            ("open executable: Operation not permitted", FailureKind::Exec(NotExecutable)),
            ("mount `proc` to `proc`: Operation not permitted", FailureKind::Setup),
        ] {
            assert_eq!(failure(message.into()).kind, kind, "{message}");
        }
    }
}
