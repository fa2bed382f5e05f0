//! Control groups, version 1, 2 and hybrid: one [`Cgroup`] stands for the same path in every hierarchy that matters.
//!
//! On version 1 only the controllers that are always wanted (accounting, freezer, devices, pids) get a group at once;
//! the others (cpu, cpuset, …) when a limit asks for them, because each membership costs a container's start.
//! What the machine lacks is reported as a warning, as Docker does, not as an error.

mod device;
mod resources;
mod stats;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub use stats::{BlockStats, CpuStats, MemoryStats, Stats};

/// Where this machine's hierarchies are mounted. Found once by the daemon, handed to shims.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hierarchies {
    /// Version 1: controllers and mount point of each hierarchy.
    pub v1: Vec<(Vec<String>, PathBuf)>,
    /// Version 2, if it is mounted and has controllers (or is the only one).
    pub v2: Option<PathBuf>,
}

/// Version 1 controllers that every container is put under at once: what is limited or counted for most, and what programs
/// look for before they believe in any limit (the Java virtual machine wants memory, cpu, cpuacct and cpuset in sight).
const ALWAYS: [&str; 8] = ["memory", "pids", "cpuacct", "devices", "freezer", "blkio", "cpu", "cpuset"];
/// Version 1 controllers that are used when asked for.
const ON_DEMAND: [&str; 4] = ["hugetlb", "net_cls", "net_prio", "rdma"];

impl Hierarchies {
    /// Reads /proc/self/mountinfo.
    pub fn find() -> io::Result<Self> {
        Ok(Self::parse(&fs::read_to_string("/proc/self/mountinfo")?, |v2| {
            fs::read_to_string(v2.join("cgroup.controllers")).unwrap_or_default()
        }))
    }

    fn parse(mountinfo: &str, controllers_of: impl Fn(&Path) -> String) -> Self {
        let mut found = Self::default();
        for line in mountinfo.lines() {
            let Some((left, right)) = line.split_once(" - ") else { continue };
            let (Some(point), mut right) = (left.split(' ').nth(4), right.split(' ')) else { continue };
            let point = crate::mount::unescape(point);
            match (right.next(), right.nth(1)) {
                (Some("cgroup"), Some(options)) => {
                    let known: Vec<String> = options
                        .split(',')
                        .filter(|o| ALWAYS.contains(o) || ON_DEMAND.contains(o))
                        .map(String::from)
                        .collect();
                    if !known.is_empty() && !found.v1.iter().any(|(c, _)| *c == known) {
                        found.v1.push((known, point));
                    }
                }
                (Some("cgroup2"), _) if found.v2.is_none() => found.v2 = Some(point),
                _ => {}
            }
        }
        // Hybrid: version 2 is there for names only, all useful controllers are in version 1.
        if !found.v1.is_empty() {
            let useful = |c: &str| ["cpu", "memory", "pids", "io"].contains(&c);
            if found.v2.as_deref().is_some_and(|p| !controllers_of(p).split_whitespace().any(useful)) {
                found.v2 = None;
            }
        }
        found
    }

    /// Whether there is version 2 only.
    pub fn unified(&self) -> bool {
        self.v1.is_empty() && self.v2.is_some()
    }

    fn v1_mount(&self, controller: &str) -> Option<&Path> {
        self.v1.iter().find(|(c, _)| c.iter().any(|c| c == controller)).map(|(_, p)| p.as_path())
    }

    /// Whether a controller is there, in its version 1 name (`blkio` is `io` in version 2).
    pub fn has(&self, controller: &str) -> bool {
        if self.v1_mount(controller).is_some() {
            return true;
        }
        let Some(v2) = &self.v2 else { return false };
        let name = match controller {
            "blkio" => "io",
            "cpuacct" | "freezer" | "devices" => return true,
            other => other,
        };
        fs::read_to_string(v2.join("cgroup.controllers"))
            .is_ok_and(|c| c.split_whitespace().any(|c| c == name))
    }
}

/// One path in every hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cgroup {
    hierarchies: Hierarchies,
    path: String,
}

/// Whether an error says that the group has been removed, before a file of it was opened or after.
fn gone(e: &io::Error) -> bool {
    e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV)
}

fn context(what: &str, path: &Path) -> impl FnOnce(io::Error) -> io::Error {
    let text = format!("{what} {}", path.display());
    move |e| match e.raw_os_error() {
        Some(_) => io::Error::new(e.kind(), format!("{text}: {e}")),
        None => e,
    }
}

fn write(path: &Path, value: &str) -> io::Result<()> {
    // One write, no truncation, no creation: these are not files.
    let fd = rustix::fs::open(path, rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC, 0.into())?;
    rustix::io::write(&fd, value.as_bytes())?;
    Ok(())
}

/// A version 1 cpuset is born empty and takes no process until it has CPUs and memory nodes: those of its parent, which may
/// have been made by somebody else just now, who has not come to that yet.
fn fill_cpuset(dir: &Path) -> io::Result<()> {
    for file in ["cpuset.cpus", "cpuset.mems"] {
        if !read(&dir.join(file))?.is_empty() {
            continue;
        }
        let parent = dir.parent().ok_or(Errno::NOENT)?;
        if read(&parent.join(file))?.is_empty() {
            fill_cpuset(parent)?;
        }
        write(&dir.join(file), &read(&parent.join(file))?).map_err(context("set", &dir.join(file)))?;
    }
    Ok(())
}

fn read(path: &Path) -> io::Result<String> {
    fs::read_to_string(path).map(|mut s| {
        s.truncate(s.trim_end().len());
        s
    })
}

impl Cgroup {
    /// The group of this absolute path; nothing is made yet.
    pub fn at(hierarchies: &Hierarchies, path: &str) -> io::Result<Self> {
        let plain = Path::new(path)
            .components()
            .all(|c| matches!(c, std::path::Component::RootDir | std::path::Component::Normal(_)));
        if !plain || !path.starts_with('/') || path.len() < 2 {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("cgroup path {path:?} must be absolute, without .., and not the root"),
            ));
        }
        Ok(Self { hierarchies: hierarchies.clone(), path: path.trim_end_matches('/').to_string() })
    }

    /// The path below each hierarchy's root.
    pub fn path(&self) -> &str {
        &self.path
    }

    fn below(&self, mount: &Path) -> PathBuf {
        mount.join(&self.path[1..])
    }

    /// The group's folder for a version 1 controller, whether it exists or not.
    fn v1_dir(&self, controller: &str) -> Option<PathBuf> {
        self.hierarchies.v1_mount(controller).map(|m| self.below(m))
    }

    fn v2_dir(&self) -> Option<PathBuf> {
        self.hierarchies.v2.as_deref().map(|m| self.below(m))
    }

    /// Where version 2 is mounted, if this machine uses it.
    pub fn v2_mount(&self) -> Option<&Path> {
        self.hierarchies.v2.as_deref()
    }

    /// The group's folders that exist, with the place each has below /sys/fs/cgroup in a version 1 container.
    pub fn folders(&self) -> Vec<(String, PathBuf)> {
        let mut out = Vec::new();
        for (controllers, mount) in &self.hierarchies.v1 {
            let dir = self.below(mount);
            if dir.is_dir() {
                out.push((controllers.join(","), dir));
            }
        }
        if let Some(dir) = self.v2_dir().filter(|d| d.is_dir()) {
            out.push((if self.hierarchies.v1.is_empty() { String::new() } else { "unified".into() }, dir));
        }
        out
    }

    /// Makes it (and its parents) where needed. Existing groups are kept.
    pub fn create(&self) -> io::Result<()> {
        let mut done = BTreeSet::new();
        for controller in ALWAYS {
            if let Some(dir) = self.v1_dir(controller)
                && done.insert(dir.clone())
            {
                self.make_v1(&dir)?;
            }
        }
        if let Some(mount) = &self.hierarchies.v2 {
            self.make_v2(mount)?;
        }
        Ok(())
    }

    /// The folder of a version 1 controller that is used on demand, made and populated if it is missing.
    fn demand(&self, controller: &str) -> io::Result<Option<PathBuf>> {
        let Some(dir) = self.v1_dir(controller) else { return Ok(None) };
        if !dir.is_dir() {
            let members = self.pids()?;
            self.make_v1(&dir)?;
            for pid in members {
                match write(&dir.join("cgroup.procs"), &pid.to_string()) {
                    Ok(()) => {}
                    Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
                    Err(e) => return Err(context("add to", &dir)(e)),
                }
            }
        }
        Ok(Some(dir))
    }

    fn make_v1(&self, dir: &Path) -> io::Result<()> {
        match rustix::fs::mkdir(dir, 0o755.into()) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(Errno::NOENT) => {
                let parent = dir.parent().ok_or(Errno::NOENT)?;
                self.make_v1(parent)?;
                match rustix::fs::mkdir(dir, 0o755.into()) {
                    Ok(()) | Err(Errno::EXIST) => {} // another container of the same parent was quicker
                    Err(e) => return Err(context("make cgroup", dir)(e.into())),
                }
            }
            Err(e) => return Err(context("make cgroup", dir)(e.into())),
        }
        if self.hierarchies.v1_mount("cpuset").is_some_and(|m| dir.starts_with(m)) {
            fill_cpuset(dir)?;
        }
        Ok(())
    }

    fn make_v2(&self, mount: &Path) -> io::Result<()> {
        let dir = self.below(mount);
        if dir.is_dir() {
            return Ok(());
        }
        let controllers = read(&mount.join("cgroup.controllers"))?;
        let mut at = mount.to_path_buf();
        for part in self.path[1..].split('/') {
            // What children may use is switched on in each parent; one that cannot be is left out.
            let on = read(&at.join("cgroup.subtree_control")).unwrap_or_default();
            for c in controllers.split_whitespace() {
                if ["cpu", "cpuset", "memory", "pids", "io", "hugetlb", "rdma", "misc"].contains(&c)
                    && !on.split_whitespace().any(|o| o == c)
                {
                    let _ = write(&at.join("cgroup.subtree_control"), &format!("+{c}"));
                }
            }
            at.push(part);
            match rustix::fs::mkdir(&at, 0o755.into()) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(e) => return Err(context("make cgroup", &at)(e.into())),
            }
        }
        Ok(())
    }

    /// Moves the calling process in, which must have one thread. Made for the child between clone and execve.
    ///
    /// On version 1 by `tasks`, which moves a thread: moving a process, even oneself with one thread, makes the kernel
    /// lock every fork and exit of the machine out first, for which it waits ten milliseconds and more.
    pub fn enter(&self) -> io::Result<()> {
        for (_, mount) in &self.hierarchies.v1 {
            let file = self.below(mount).join("tasks");
            match write(&file, "0") {
                Err(e) if e.kind() == io::ErrorKind::NotFound => {} // a controller that is used on demand
                other => other.map_err(context("add to", &file))?,
            }
        }
        if let Some(dir) = self.v2_dir().filter(|d| d.is_dir()) {
            let file = dir.join("cgroup.procs");
            write(&file, "0").map_err(context("add to", &file))?;
        }
        Ok(())
    }

    /// Moves another process in.
    pub fn add(&self, pid: u32) -> io::Result<()> {
        for (_, dir) in self.folders() {
            let file = dir.join("cgroup.procs");
            write(&file, &pid.to_string()).map_err(context("add to", &file))?;
        }
        Ok(())
    }

    /// On pure version 2, the folder to clone into.
    pub fn clone_into(&self) -> io::Result<Option<OwnedFd>> {
        if !self.hierarchies.unified() {
            return Ok(None);
        }
        let Some(dir) = self.v2_dir() else { return Ok(None) };
        use rustix::fs::OFlags;
        Ok(Some(rustix::fs::open(dir, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, 0.into())?))
    }

    /// A folder that knows every member, members of groups below included.
    fn any_dir(&self) -> Option<PathBuf> {
        self.v2_dir()
            .or_else(|| self.v1_dir("pids"))
            .or_else(|| self.v1_dir("memory"))
            .or_else(|| self.hierarchies.v1.first().map(|(_, m)| self.below(m)))
    }

    /// Whether it exists.
    pub fn exists(&self) -> bool {
        self.any_dir().is_some_and(|d| d.is_dir())
    }

    /// Every process in it and in groups below it.
    pub fn pids(&self) -> io::Result<Vec<u32>> {
        let mut out = Vec::new();
        if let Some(dir) = self.any_dir() {
            collect_pids(&dir, &mut out)?;
        }
        out.sort_unstable();
        out.dedup();
        Ok(out)
    }

    /// Sends a signal to every process in it. SIGKILL is sent again until none is left that was not sent one.
    pub fn signal_all(&self, signal: i32) -> io::Result<()> {
        if signal == libc::SIGKILL
            && let Some(dir) = self.v2_dir()
            && write(&dir.join("cgroup.kill"), "1").is_ok()
        {
            return Ok(());
        }
        let mut sent = BTreeSet::new();
        loop {
            let fresh: Vec<u32> = self.pids()?.into_iter().filter(|p| sent.insert(*p)).collect();
            if fresh.is_empty() {
                return Ok(());
            }
            for pid in fresh {
                match crate::process::kill(pid as i32, signal) {
                    Err(e) if e.raw_os_error() != Some(libc::ESRCH) => return Err(e),
                    _ => {}
                }
            }
            if signal != libc::SIGKILL {
                return Ok(());
            }
        }
    }

    /// Freezes or thaws every process in it; returns when the kernel has it done. What thaws may be killed and end at once,
    /// and the group with it: then nothing is frozen any more.
    pub fn freeze(&self, frozen: bool) -> io::Result<()> {
        match self.set_frozen(frozen) {
            Err(e) if !frozen && gone(&e) => Ok(()),
            Err(e) if gone(&e) => Err(io::Error::new(
                e.kind(),
                format!(
                    "{e}: the group that its processes were in is gone from the freezer: somebody else has removed it; \
                     stop and start the container"
                ),
            )),
            result => result,
        }
    }

    fn set_frozen(&self, frozen: bool) -> io::Result<()> {
        if let Some(dir) = self.v1_dir("freezer") {
            let file = dir.join("freezer.state");
            let want = if frozen { "FROZEN" } else { "THAWED" };
            // Version 1 has no event for this. FREEZING lasts while a process is in a system call, or waits for its turn
            // on a busy machine; writing again makes the kernel try again, and yielding lets that process come out.
            let (mut pause, mut waited) = (0, 0);
            while waited < 10_000_000_000 {
                for _ in 0..100 {
                    write(&file, want).map_err(context("write", &file))?;
                    if read(&file)? == want {
                        return Ok(());
                    }
                    rustix::thread::sched_yield();
                }
                let time = rustix::thread::Timespec { tv_sec: 0, tv_nsec: pause };
                let _ = rustix::thread::nanosleep(&time);
                waited += pause;
                pause = (2 * pause).clamp(100_000, 10_000_000);
            }
            write(&file, "THAWED")?;
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the freezer did not stop every process"));
        }
        let Some(dir) = self.v2_dir() else {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "this machine has no freezer: of cgroup version 1 the controller \"freezer\" is not mounted below \
                 /sys/fs/cgroup, nor is version 2: mount one of them (mount -t cgroup -o freezer freezer \
                 /sys/fs/cgroup/freezer) and restart the engine",
            ));
        };
        write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }).map_err(context("freeze", &dir))?;
        let events = fs::File::open(dir.join("cgroup.events"))?;
        let want = if frozen { "frozen 1" } else { "frozen 0" };
        for _ in 0..100 {
            let mut text = String::new();
            io::Read::read_to_string(&mut &events, &mut text)?;
            if text.lines().any(|l| l == want) {
                return Ok(());
            }
            io::Seek::rewind(&mut &events)?;
            // The kernel announces a change of cgroup.events as an exceptional condition.
            let mut fds = [rustix::event::PollFd::new(&events, rustix::event::PollFlags::PRI)];
            let second = rustix::event::Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            rustix::event::poll(&mut fds, Some(&second))?;
        }
        // Half frozen it would be taken for running.
        if frozen {
            write(&dir.join("cgroup.freeze"), "0").map_err(context("thaw", &dir))?;
        }
        Err(io::Error::new(io::ErrorKind::TimedOut, "the freezer did not stop every process"))
    }

    /// Whether it is frozen.
    pub fn frozen(&self) -> bool {
        if let Some(dir) = self.v1_dir("freezer") {
            return read(&dir.join("freezer.state")).is_ok_and(|s| s != "THAWED");
        }
        self.v2_dir().is_some_and(|d| read(&d.join("cgroup.freeze")).is_ok_and(|s| s == "1"))
    }

    /// A descriptor that becomes readable when the memory limit is hit. Read it to arm it again.
    pub fn oom_event(&self) -> io::Result<Option<OwnedFd>> {
        use rustix::event::EventfdFlags;
        if let Some(dir) = self.v1_dir("memory") {
            let control = fs::File::open(dir.join("memory.oom_control"))?;
            let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
            let line = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
            write(&dir.join("cgroup.event_control"), &line)?;
            return Ok(Some(event));
        }
        let Some(dir) = self.v2_dir() else { return Ok(None) };
        use rustix::fs::inotify;
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(&fd, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
        Ok(Some(fd))
    }

    /// How many of its processes the kernel has killed for lack of memory.
    pub fn oom_kills(&self) -> u64 {
        let (dir, file) = match (self.v1_dir("memory"), self.v2_dir()) {
            (Some(dir), _) => (dir, "memory.oom_control"),
            (None, Some(dir)) => (dir, "memory.events"),
            (None, None) => return 0,
        };
        let text = read(&dir.join(file)).unwrap_or_default();
        text.lines().find_map(|l| l.strip_prefix("oom_kill ")?.parse().ok()).unwrap_or(0)
    }

    /// Removes it and every group below it. `ErrorKind::ResourceBusy` if it still has processes (also for a moment
    /// after their end); nothing to do if it is not there.
    pub fn delete(&self) -> io::Result<()> {
        let mut result = Ok(());
        for (_, dir) in self.folders() {
            if let Err(e) = remove_folder(&dir) {
                result = Err(context("remove cgroup", &dir)(e));
            }
        }
        result
    }
}

/// Removes a group and every group below it in every hierarchy of the machine, also in those that are of no use to us
/// but that another runtime has used, killing what is left in them: for taking a whole instance down.
pub fn remove_tree(path: &str) -> io::Result<()> {
    let group = Cgroup::at(&Hierarchies::find()?, path)?;
    let mounts = mount_points(&fs::read_to_string("/proc/self/mountinfo")?);
    let folders: Vec<PathBuf> =
        mounts.iter().map(|mount| group.below(mount)).filter(|f| f.is_dir()).collect();
    // Killed processes go soon; version 1 has no event for the last one, so a few tries have to do.
    let mut pause = 1_000_000;
    loop {
        group.signal_all(libc::SIGKILL)?;
        let removed = folders.iter().try_for_each(|f| remove_folder(f).map_err(context("remove cgroup", f)));
        match removed {
            Err(e) if e.kind() == io::ErrorKind::ResourceBusy && pause < 1_000_000_000 => {
                let time = rustix::thread::Timespec { tv_sec: 0, tv_nsec: pause };
                let _ = rustix::thread::nanosleep(&time);
                pause *= 2;
            }
            other => return other,
        }
    }
}

/// Where hierarchies of either version are mounted.
fn mount_points(mountinfo: &str) -> Vec<PathBuf> {
    let point = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let kind = right.split(' ').next()?;
        ["cgroup", "cgroup2"].contains(&kind).then(|| left.split(' ').nth(4).map(crate::mount::unescape))?
    };
    mountinfo.lines().filter_map(point).collect()
}

fn collect_pids(dir: &Path, out: &mut Vec<u32>) -> io::Result<()> {
    let text = match fs::read_to_string(dir.join("cgroup.procs")) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound || e.raw_os_error() == Some(libc::ENODEV) => {
            return Ok(());
        }
        Err(e) => return Err(e),
    };
    out.extend(text.lines().filter_map(|l| l.parse::<u32>().ok()));
    for entry in subfolders(dir)? {
        collect_pids(&entry, out)?;
    }
    Ok(())
}

fn subfolders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    // A group's folder has two links and one more per group below: most have none, and need no listing.
    use std::os::unix::fs::MetadataExt;
    match fs::metadata(dir) {
        Ok(m) if m.nlink() == 2 => return Ok(Vec::new()),
        Ok(_) => {}
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(e),
    }
    let mut out = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            out.push(entry.path());
        }
    }
    Ok(out)
}

fn remove_folder(dir: &Path) -> io::Result<()> {
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::BUSY) => {}
        Err(e) => return Err(e.into()),
    }
    for below in subfolders(dir)? {
        remove_folder(&below)?;
    }
    match rustix::fs::rmdir(dir) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(e) => Err(e.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_hierarchies() {
        let hybrid = "\
30 25 0:26 / /sys/fs/cgroup/cpu,cpuacct rw shared:9 - cgroup cgroup rw,cpu,cpuacct
31 25 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
32 25 0:28 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
33 25 0:29 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";
        assert_eq!(mount_points(hybrid).len(), 4);
        let h = Hierarchies::parse(hybrid, |_| "hugetlb".into());
        assert_eq!(h.v1.len(), 2);
        assert_eq!(h.v1_mount("cpuacct"), Some(Path::new("/sys/fs/cgroup/cpu,cpuacct")));
        assert_eq!(h.v2, None);
        assert!(!h.unified());
        let v2 = Hierarchies::parse("33 25 0:29 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", |_| String::new());
        assert!(v2.unified());
    }

    #[test]
    fn refuses_paths_that_lead_elsewhere() {
        let h = Hierarchies::default();
        for bad in ["", "/", "x", "/a/../b", "a/b"] {
            assert!(Cgroup::at(&h, bad).is_err(), "{bad}");
        }
        assert!(Cgroup::at(&h, "/tug/x").is_ok());
    }

    #[test]
    fn a_group_lives_and_dies() {
        let h = Hierarchies::find().unwrap();
        let group = Cgroup::at(&h, &format!("/tug-test-{}/a", std::process::id())).unwrap();
        if !rustix::process::geteuid().is_root() || group.create().is_err() {
            eprintln!("skipped: needs root and writable cgroups");
            return;
        }
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        group.add(child.id()).unwrap();
        assert_eq!(group.pids().unwrap(), [child.id()]);
        assert_eq!(group.delete().unwrap_err().kind(), io::ErrorKind::ResourceBusy);
        group.freeze(true).unwrap();
        assert!(group.frozen());
        group.freeze(false).unwrap();
        assert!(!group.frozen());
        let mut resources = oci_spec::runtime::LinuxResources::default();
        let mut memory = oci_spec::runtime::LinuxMemory::default();
        memory.set_limit(Some(64 << 20));
        resources.set_memory(Some(memory));
        let mut pids = oci_spec::runtime::LinuxPids::default();
        pids.set_limit(17);
        resources.set_pids(Some(pids));
        assert_eq!(group.apply(&resources).unwrap(), Vec::<String>::new());
        let stats = group.stats().unwrap();
        assert_eq!(stats.memory.limit, 64 << 20);
        assert_eq!((stats.pids_current, stats.pids_limit), (1, Some(17)));
        group.signal_all(libc::SIGKILL).unwrap();
        child.wait().unwrap();
        group.delete().unwrap();
        assert!(!group.exists());
        Cgroup::at(&h, group.path().rsplit_once('/').unwrap().0).unwrap().delete().unwrap();
    }
}
