//! The last steps of a container's process: from a child inside its namespaces to the program it was asked for.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use oci_spec::runtime::{Capabilities, PosixRlimit, PosixRlimitType, Process};
use rustix::io::Errno;
use sys::caps::{Set, Sets};
use sys::seccomp::Program;

use super::child::Stdio;
use super::users::{Database, Identity};
use crate::ExecErrorKind;
use crate::protocol::{Failure, FailureKind, Step, plain};

/// What is needed beside the OCI process.
pub(super) struct Extras<'a> {
    /// The system call filter and its flags.
    pub seccomp: Option<(Program, u32)>,
    /// The standard streams, to be given to the process's user.
    pub stdio: Option<&'a Stdio>,
    /// Whether this process lives in a user namespace of its own.
    pub user_namespace: bool,
}

/// Everything that must be done while the machine's /proc is still in sight and the process is still root.
pub(super) fn prepare(process: &Process) -> Result<(), Failure> {
    if let Some(score) = process.oom_score_adj() {
        set_oom_score(score)?;
    }
    for limit in process.rlimits().iter().flatten() {
        // What is more than there is can be had only now, what is less than is needed only at the end.
        let least = if comes_last(limit) { NEEDED } else { 0 };
        set_rlimit(limit.typ(), limit.soft().max(least), limit.hard().max(least))?;
    }
    Ok(())
}

/// Open files that making a container may take.
const NEEDED: u64 = 256;

/// Whether a limit would keep the container from being made.
fn comes_last(limit: &PosixRlimit) -> bool {
    limit.typ() == PosixRlimitType::RlimitNofile && limit.soft() < NEEDED
}

fn set_oom_score(score: i32) -> Result<(), Failure> {
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        Ok(()) => Ok(()),
        // Lowering it needs CAP_SYS_RESOURCE.
        Err(e) if e.kind() == std::io::ErrorKind::PermissionDenied => {
            eprintln!(
                "oom_score_adj {score} needs CAP_SYS_RESOURCE, which this machine lacks: left as it is"
            );
            Ok(())
        }
        Err(e) => Err(e).step(|| format!("set oom_score_adj to {score}")),
    }
}

fn set_rlimit(kind: PosixRlimitType, soft: u64, hard: u64) -> Result<(), Failure> {
    use PosixRlimitType as T;
    let resource = match kind {
        T::RlimitCpu => Resource::RLIMIT_CPU,
        T::RlimitFsize => Resource::RLIMIT_FSIZE,
        T::RlimitData => Resource::RLIMIT_DATA,
        T::RlimitStack => Resource::RLIMIT_STACK,
        T::RlimitCore => Resource::RLIMIT_CORE,
        T::RlimitRss => Resource::RLIMIT_RSS,
        T::RlimitNproc => Resource::RLIMIT_NPROC,
        T::RlimitNofile => Resource::RLIMIT_NOFILE,
        T::RlimitMemlock => Resource::RLIMIT_MEMLOCK,
        T::RlimitAs => Resource::RLIMIT_AS,
        T::RlimitLocks => Resource::RLIMIT_LOCKS,
        T::RlimitSigpending => Resource::RLIMIT_SIGPENDING,
        T::RlimitMsgqueue => Resource::RLIMIT_MSGQUEUE,
        T::RlimitNice => Resource::RLIMIT_NICE,
        T::RlimitRtprio => Resource::RLIMIT_RTPRIO,
        T::RlimitRttime => Resource::RLIMIT_RTTIME,
    };
    match setrlimit(resource, soft, hard) {
        Ok(()) => Ok(()),
        Err(nix::errno::Errno::EPERM) => {
            // Only CAP_SYS_RESOURCE may raise a hard limit: give what there is.
            let (_, most) = getrlimit(resource).step(|| format!("read {kind:?}"))?;
            eprintln!("{kind:?}: raising the hard limit to {hard} needs CAP_SYS_RESOURCE; it stays {most}");
            setrlimit(resource, soft.min(most), hard.min(most)).step(|| format!("set {kind:?}"))
        }
        Err(e) => Err(e).step(|| format!("set {kind:?} to {soft}:{hard}")),
    }
}

fn set_of(names: Option<&Capabilities>) -> Set {
    names.into_iter().flatten().filter_map(|c| Set::by_name(&c.to_string())).fold(Set::default(), Set::with)
}

/// The process's capability sets, as far as this machine can give them.
fn sets(process: &Process) -> Result<Sets, Failure> {
    let Some(caps) = process.capabilities() else { return Ok(Sets::default()) };
    let most = sys::caps::available().step(|| "read the capability bounding set".into())?;
    let wanted = set_of(caps.bounding().as_ref());
    let lacking = wanted.without(most);
    if !lacking.is_empty() {
        eprintln!("this machine lacks {}: not granted", lacking.names().join(", "));
    }
    let permitted = set_of(caps.permitted().as_ref()).within(most);
    Ok(Sets {
        bounding: wanted.within(most),
        effective: set_of(caps.effective().as_ref()).within(permitted),
        permitted,
        inheritable: set_of(caps.inheritable().as_ref()).within(most),
        ambient: set_of(caps.ambient().as_ref()),
    })
}

/// A process that has become who it shall be, and only has to execute its program.
pub(super) struct Ready {
    program: CString,
    args: Vec<CString>,
    env: Vec<CString>,
    late_filter: Option<(Program, u32)>,
    late_limits: Vec<PosixRlimit>,
}

fn other(message: String) -> Failure {
    Failure { kind: FailureKind::Exec(ExecErrorKind::Other), message }
}

/// Changes the working folder, the user, the capabilities; finds the program. The process is inside its root.
pub(super) fn become_user(process: &Process, extras: Extras<'_>) -> Result<Ready, Failure> {
    let id = identity(process)?;
    let env = environment(process, id.home.as_deref())?;
    let sets = sets(process)?;
    let cwd = process.cwd().clone();
    let cwd = if cwd.as_os_str().is_empty() { PathBuf::from("/") } else { cwd };

    // Before the user changes, since root can enter more folders; after it, if root (of a network file system, or
    // without CAP_DAC_OVERRIDE) could not.
    let entered = change_folder(&cwd);
    if let Some(stdio) = extras.stdio.filter(|_| id.uid != 0) {
        for fd in [&stdio.stdin, &stdio.stdout, &stdio.stderr] {
            // So that /dev/stdout can be opened by its new owner. A null device stays root's.
            let kind = rustix::fs::fstat(fd).map(|s| rustix::fs::FileType::from_raw_mode(s.st_mode));
            if kind == Ok(rustix::fs::FileType::Fifo) || rustix::termios::isatty(fd) {
                let uid = rustix::fs::Uid::from_raw(id.uid);
                match rustix::fs::fchown(fd, Some(uid), None) {
                    Ok(()) | Err(Errno::INVAL | Errno::PERM | Errno::ROFS) => {}
                    Err(e) => return Err(e).step(|| "give the standard streams to the user".into()),
                }
            }
        }
    }
    if let Err(e) = sys::process::new_session_keyring() {
        // Out of quota, or a kernel without keyrings: the container then shares the shim's, which holds nothing.
        eprintln!("no session keyring of its own: {e}");
    }
    // Before the filter, which may forbid it. Whatever is opened from here on closes by itself.
    sys::process::cloexec_from(3).step(|| "close descriptors".into())?;
    let no_new_privileges = process.no_new_privileges() == Some(true);
    let mut late_filter = None;
    match extras.seccomp {
        Some((program, flags)) if !no_new_privileges => {
            // Without no_new_privs only CAP_SYS_ADMIN may load it: now or never.
            program.load(flags).step(|| "load the seccomp filter".into())?;
        }
        other => late_filter = other,
    }
    sys::caps::drop_bounding(sets.bounding).step(|| "drop capabilities from the bounding set".into())?;
    rustix::thread::set_keep_capabilities(true)
        .step(|| "keep capabilities over the change of user".into())?;
    let groups: Vec<nix::unistd::Gid> = id.groups.iter().map(|g| nix::unistd::Gid::from_raw(*g)).collect();
    match nix::unistd::setgroups(&groups) {
        Ok(()) => {}
        // A user namespace may forbid it, where there is nothing to drop.
        Err(nix::errno::Errno::EPERM) if extras.user_namespace && groups.is_empty() => {}
        Err(e) => return Err(e).step(|| format!("set additional groups {:?}", id.groups)),
    }
    let gid = nix::unistd::Gid::from_raw(id.gid);
    nix::unistd::setresgid(gid, gid, gid).step(|| format!("set gid {}", id.gid))?;
    let uid = nix::unistd::Uid::from_raw(id.uid);
    nix::unistd::setresuid(uid, uid, uid).step(|| format!("set uid {}", id.uid))?;
    sys::caps::raise_effective().step(|| "raise capabilities".into())?;
    sys::caps::apply(sets).step(|| "set capabilities".into())?;
    rustix::thread::set_keep_capabilities(false).step(|| "clear keep-caps".into())?;
    if entered.is_err() {
        change_folder(&cwd)?;
    }
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).step(|| "set no_new_privs".into())?;
    }
    if let Some(mask) = process.user().umask() {
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(mask));
    }
    let args = process.args().as_deref().unwrap_or_default();
    let name = args
        .first()
        .filter(|a| !a.is_empty())
        .cloned()
        .ok_or_else(|| other("no command specified".into()))?;
    let program = find(&name, &env)?;
    let text = |s: &String| CString::new(s.as_str()).map_err(|_| other(format!("{s:?} holds a zero byte")));
    Ok(Ready {
        program,
        args: args.iter().map(text).collect::<Result<_, _>>()?,
        env: env.iter().map(text).collect::<Result<_, _>>()?,
        late_filter,
        late_limits: process.rlimits().iter().flatten().filter(|l| comes_last(l)).cloned().collect(),
    })
}

impl Ready {
    /// Executes the program; comes back only with what went wrong.
    pub(super) fn exec(self, stdio: &Stdio) -> Failure {
        let connected = rustix::stdio::dup2_stdin(&stdio.stdin)
            .and_then(|()| rustix::stdio::dup2_stdout(&stdio.stdout))
            .and_then(|()| rustix::stdio::dup2_stderr(&stdio.stderr));
        if let Err(e) = connected.step(|| "connect the standard streams".into()) {
            return e;
        }
        // SIGPIPE is ignored in Rust programs and signals are blocked in the shim; neither is the program's business.
        sys::process::default_signals();
        for limit in &self.late_limits {
            if let Err(e) = set_rlimit(limit.typ(), limit.soft(), limit.hard()) {
                return e;
            }
        }
        if let Some((program, flags)) = self.late_filter
            && let Err(e) = program.load(flags).step(|| "load the seccomp filter".into())
        {
            return e;
        }
        let Err(e) = nix::unistd::execve(&self.program, &self.args, &self.env);
        let kind = match e {
            nix::errno::Errno::ENOENT => ExecErrorKind::NotFound,
            _ => ExecErrorKind::NotExecutable,
        };
        let path = self.program.to_string_lossy();
        Failure { kind: FailureKind::Exec(kind), message: format!("exec {path}: {}", plain(&e.into())) }
    }
}

fn identity(process: &Process) -> Result<Identity, Failure> {
    let user = process.user();
    let mut id = match user.username().as_deref() {
        Some(expression) if !expression.is_empty() => Database::read().resolve(expression).map_err(other)?,
        _ => {
            let has_home = process.env().iter().flatten().any(|e| e.starts_with("HOME="));
            let home = if has_home { None } else { Database::read().home_of(user.uid()) };
            Identity { uid: user.uid(), gid: user.gid(), groups: Vec::new(), home }
        }
    };
    for gid in user.additional_gids().iter().flatten() {
        if !id.groups.contains(gid) {
            id.groups.push(*gid);
        }
    }
    Ok(id)
}

/// The environment: a later entry of a name wins, HOME is there.
fn environment(process: &Process, home: Option<&str>) -> Result<Vec<String>, Failure> {
    let mut out: Vec<String> = Vec::new();
    for entry in process.env().iter().flatten() {
        let Some((name, _)) = entry.split_once('=') else { continue };
        let same = |e: &String| e.strip_prefix(name).is_some_and(|r| r.starts_with('='));
        match out.iter_mut().find(|e| same(e)) {
            Some(old) => old.clone_from(entry),
            None => out.push(entry.clone()),
        }
    }
    if !out.iter().any(|e| e.starts_with("HOME=") && e.len() > 5) {
        out.retain(|e| e != "HOME=");
        out.push(format!("HOME={}", home.unwrap_or("/")));
    }
    Ok(out)
}

/// Enters the working folder and proves that it is inside the root: a descriptor of the machine that leaked here
/// would otherwise be a way out.
fn change_folder(cwd: &Path) -> Result<(), Failure> {
    rustix::process::chdir(cwd).map_err(|e| {
        other(format!("chdir to cwd ({:?}) set in config.json failed: {}", cwd.display(), plain(&e.into())))
    })?;
    let here = rustix::process::getcwd(Vec::new());
    match here {
        Ok(path) if path.as_bytes().starts_with(b"/") => Ok(()),
        Ok(_) | Err(Errno::NOENT) => {
            let _ = rustix::process::chdir("/");
            Err(other(format!("working directory {} is outside the container's root", cwd.display())))
        }
        Err(e) => Err(e).step(|| "read the working directory".into()),
    }
}

/// Finds the program as Go's exec.LookPath does, whose messages Docker's users know.
fn find(name: &str, env: &[String]) -> Result<CString, Failure> {
    let fail = |kind, text: String| Failure {
        kind: FailureKind::Exec(kind),
        message: format!("exec: {name:?}: {text}"),
    };
    if name.contains('/') {
        return match executable(Path::new(name)) {
            Ok(()) => CString::new(name).map_err(|_| fail(ExecErrorKind::Other, "holds a zero byte".into())),
            Err(e @ (Errno::NOENT | Errno::NOTDIR)) => {
                Err(fail(ExecErrorKind::NotFound, format!("stat {name}: {}", plain(&e.into()))))
            }
            Err(e) => Err(fail(ExecErrorKind::NotExecutable, plain(&e.into()))),
        };
    }
    let path = env.iter().find_map(|e| e.strip_prefix("PATH=")).unwrap_or("");
    for folder in path.split(':').filter(|f| f.starts_with('/')) {
        let candidate = Path::new(folder).join(name);
        if executable(&candidate).is_ok() {
            return CString::new(candidate.into_os_string().as_bytes())
                .map_err(|_| fail(ExecErrorKind::Other, "holds a zero byte".into()));
        }
    }
    Err(fail(ExecErrorKind::NotFound, "executable file not found in $PATH".into()))
}

fn executable(path: &Path) -> Result<(), Errno> {
    let stat = rustix::fs::stat(path)?;
    if rustix::fs::FileType::from_raw_mode(stat.st_mode) == rustix::fs::FileType::Directory {
        return Err(Errno::ISDIR);
    }
    if stat.st_mode & 0o111 == 0 {
        return Err(Errno::ACCESS);
    }
    rustix::fs::accessat(rustix::fs::CWD, path, rustix::fs::Access::EXEC_OK, rustix::fs::AtFlags::EACCESS)
        .or_else(|e| if e == Errno::NOSYS || e == Errno::PERM { Ok(()) } else { Err(e) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_like_go() {
        let env = ["PATH=/nowhere:/bin:/usr/bin".to_string()];
        assert!(find("sh", &env).unwrap().to_str().unwrap().ends_with("/sh"));
        let e = find("nope", &env).unwrap_err();
        assert_eq!(e.message, "exec: \"nope\": executable file not found in $PATH");
        assert_eq!(e.kind, FailureKind::Exec(ExecErrorKind::NotFound));
        let e = find("/nope", &env).unwrap_err();
        assert_eq!(e.message, "exec: \"/nope\": stat /nope: no such file or directory");
        let e = find("/etc", &env).unwrap_err();
        assert_eq!(
            (e.kind, e.message.as_str()),
            (FailureKind::Exec(ExecErrorKind::NotExecutable), "exec: \"/etc\": is a directory")
        );
        let e = find("/etc/passwd", &env).unwrap_err();
        assert_eq!(e.message, "exec: \"/etc/passwd\": permission denied");
        assert!(find("sh", &[]).is_err());
    }

    #[test]
    fn the_last_value_wins_and_home_is_there() {
        let mut p = Process::default();
        p.set_env(Some(vec!["A=1".into(), "B=2".into(), "A=3".into(), "junk".into()]));
        assert_eq!(environment(&p, Some("/h")).unwrap(), ["A=3", "B=2", "HOME=/h"]);
        p.set_env(Some(vec!["HOME=/x".into()]));
        assert_eq!(environment(&p, None).unwrap(), ["HOME=/x"]);
    }
}
