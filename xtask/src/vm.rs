//! `cargo xtask vm-test`: the container tests in a virtual machine with Debian's cloud kernel, where cgroup v2 is the only
//! hierarchy. The machine is emulated by qemu (no KVM is needed), boots in seconds from one archive that is made here,
//! has a disk for temporary files and no network, and ends with the tests.

mod archive;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use serde_json::Value;

use archive::Archive;

/// The modules that the tests need beyond what the kernel has built in; their dependencies come along.
const MODULES: &[&str] = &[
    "virtio_pci",
    "virtio_blk",
    "crc32c_generic",
    "ext4",
    "overlay",
    "veth",
    "bridge",
    "dummy",
    "macvlan",
    "ipvlan",
    "vxlan",
    "nf_tables",
    "nft_chain_nat",
    "nft_ct",
    "nft_nat",
    "nft_masq",
    "nft_redir",
    "nft_reject_inet",
    "nft_fib_inet",
    "nft_numgen",
    "nft_limit",
    "nft_hash",
    "nft_connlimit",
    "nf_conntrack",
];
/// The line by which the machine says how the tests went.
const VERDICT: &str = "vm-test exit status ";

/// Programs of this machine that tests run, or compare with, where they are installed.
const PROGRAMS: &[&str] = &["/usr/sbin/runc", "/usr/bin/crun", "/usr/local/bin/docker", "/usr/bin/docker"];

/// The flags of `cargo xtask vm-test`.
#[derive(Debug, Args)]
pub struct Options {
    /// The packages whose tests run.
    #[arg(long, default_values_t = ["sys".to_owned(), "runtime".to_owned()])]
    package: Vec<String>,
    /// Only tests whose name contains one of these.
    #[arg(long)]
    filter: Vec<String>,
    /// The machine's memory, MiB.
    #[arg(long, default_value_t = 3072)]
    memory: u32,
    /// How much longer things may take than on a machine that is not emulated.
    #[arg(long, default_value_t = 10)]
    patience: u32,
    /// What `cargo test` is told to build instead of whole packages, such as `--workspace --test containers`.
    #[arg(last = true)]
    cargo: Vec<String>,
}

/// Builds the tests, boots the machine, runs them in it.
pub fn run(options: &Options, root: &Path) -> Result<()> {
    let cache = root.join("target/vm");
    fs::create_dir_all(&cache)?;
    let kernel = kernel(&cache)?;
    let built = build(options)?;
    let image = cache.join("initramfs");
    write_image(&image, &kernel, &built, &script(options))?;
    // A folder in memory has no mapped ids before Linux 6.3, and no disk that could be limited.
    let disk = cache.join("disk");
    fs::File::create(&disk)?.set_len(2 << 30)?;
    output(Command::new("/sbin/mkfs.ext4").args(["-q", "-F"]).arg(&disk))?;

    let mut machine = Command::new("qemu-system-x86_64")
        .args(["-nographic", "-no-reboot", "-nodefaults", "-serial", "stdio", "-cpu", "max", "-smp", "2"])
        .args(["-m", &options.memory.to_string(), "-kernel"])
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(&image)
        .arg("-drive")
        .arg(format!("file={},format=raw,if=virtio", disk.display()))
        // An emulated machine that has to wait for its turn fails the check of its timer.
        .args(["-append", "console=ttyS0 quiet panic=-1 no_timer_check cgroup_no_v1=all"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .context("qemu-system-x86_64 is needed: apt-get install qemu-system-x86")?;
    let mut verdict = None;
    let mut results = Vec::new();
    for line in BufReader::new(machine.stdout.take().context("the machine's console")?).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        println!("{line}");
        if let Some(status) = line.strip_prefix(VERDICT) {
            verdict = Some(status.to_owned());
        }
        if line.starts_with("== ") || line.starts_with("test result: ") {
            results.push(line);
        }
    }
    machine.wait()?;
    println!("\nin the virtual machine:\n{}", results.join("\n"));
    match verdict.as_deref() {
        Some("0") => Ok(()),
        Some(status) => bail!("tests failed in the virtual machine: status {status}"),
        None => bail!("the virtual machine ended without a verdict"),
    }
}

/// Debian's cloud kernel, unpacked.
struct Kernel {
    image: PathBuf,
    modules: PathBuf,
    version: String,
}

fn kernel(cache: &Path) -> Result<Kernel> {
    let unpacked = cache.join("kernel");
    if !unpacked.join("boot").is_dir() {
        let text = output(Command::new("apt-cache").args(["depends", "linux-image-cloud-amd64"]))?;
        let package = text
            .lines()
            .find_map(|l| l.trim().strip_prefix("Depends: "))
            .context("linux-image-cloud-amd64 is not known to apt")?;
        output(Command::new("apt-get").args(["download", "-qq", package]).current_dir(cache))?;
        let found = fs::read_dir(cache)?
            .flatten()
            .map(|e| e.path())
            .find(|p| p.extension() == Some(OsStr::new("deb")));
        let package = found.context("apt-get download left no package")?;
        output(Command::new("dpkg").arg("-x").arg(&package).arg(&unpacked))?;
    }
    let version =
        fs::read_dir(unpacked.join("lib/modules"))?.next().context("the package has no modules")??;
    let version = version.file_name().into_string().map_err(|v| anyhow::anyhow!("kernel version {v:?}"))?;
    let modules = unpacked.join("lib/modules").join(&version);
    Ok(Kernel { image: unpacked.join(format!("boot/vmlinuz-{version}")), modules, version })
}

/// What cargo has built.
struct Built {
    tests: Vec<PathBuf>,
    /// Programs that tests look for in a folder `examples` beside their own.
    examples: Vec<PathBuf>,
}

fn build(options: &Options) -> Result<Built> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["test", "--no-run", "--message-format=json"]).stderr(Stdio::inherit());
    command.args(&options.cargo);
    if options.cargo.is_empty() {
        command.args(options.package.iter().flat_map(|package| ["--package", package]));
    }
    let text = output(&mut command)?;
    let artifacts: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let programs = |wanted: &dyn Fn(&Value) -> bool| {
        let wanted = artifacts.iter().filter(|a| a["reason"] == "compiler-artifact" && wanted(a));
        let mut programs: Vec<PathBuf> =
            wanted.filter_map(|a| a["executable"].as_str().map(PathBuf::from)).collect();
        programs.sort();
        programs
    };
    let tests = programs(&|a| a["profile"]["test"] == true);
    let examples = programs(&|a| a["profile"]["test"] == false && a["target"]["kind"][0] == "example");
    if tests.is_empty() {
        bail!("{options:?}: there are no tests");
    }
    Ok(Built { tests, examples })
}

fn write_image(path: &Path, kernel: &Kernel, built: &Built, script: &str) -> Result<()> {
    let busybox = ["/bin/busybox", "/usr/bin/busybox"].iter().find_map(|p| fs::read(p).ok());
    let busybox = busybox.context("/bin/busybox is needed: apt-get install busybox-static")?;
    let mut archive = Archive::create(path)?;
    for dir in ["bin", "dev", "proc", "sys", "tmp", "run", "root", "etc", "lib", "lib/modules", "new", "var"]
    {
        archive.dir(dir)?;
    }
    for dir in ["tests", "examples", "usr", "usr/bin", "usr/sbin", "usr/local", "usr/local/bin", "lib64"] {
        archive.dir(dir)?;
    }
    archive.file("bin/busybox", 0o755, &busybox)?;
    archive.file(
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    )?;
    archive.file("etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    let modules = Modules::read(&kernel.modules)?.with_dependencies(MODULES)?;
    for (at, (_, content)) in modules.iter().enumerate() {
        archive.file(&format!("lib/modules/{at:03}.ko"), 0o644, content)?;
    }
    for (at, test) in built.tests.iter().enumerate() {
        let name = test.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("tests/{at:02}-{name}"), 0o755, &small(test, path)?)?;
    }
    for example in &built.examples {
        let name = example.file_name().unwrap_or_default().to_string_lossy();
        archive.file(&format!("examples/{name}"), 0o755, &small(example, path)?)?;
    }
    for file in with_libraries(PROGRAMS.iter().map(Path::new).filter(|p| p.exists()))? {
        let name = file.to_string_lossy();
        let name = name.trim_start_matches('/');
        let folders: Vec<_> = Path::new(name).ancestors().skip(1).filter(|f| f.parent().is_some()).collect();
        for folder in folders.iter().rev() {
            archive.dir(&folder.to_string_lossy())?;
        }
        archive.file(name, 0o755, &fs::read(&file)?)?;
    }
    archive.file("init", 0o755, script.as_bytes())?;
    archive.finish()?;
    println!(
        "{}: kernel {}, {} modules, {} test programs",
        path.display(),
        kernel.version,
        modules.len(),
        built.tests.len()
    );
    Ok(())
}

/// A program without what only a debugger reads: the archive is unpacked into the machine's memory, which is not all for this.
fn small(program: &Path, beside: &Path) -> Result<Vec<u8>> {
    let stripped = beside.with_extension("stripped");
    let done = Command::new("strip").arg("--strip-debug").arg("-o").arg(&stripped).arg(program).status();
    let content = match done {
        Ok(status) if status.success() => fs::read(&stripped)?,
        _ => fs::read(program)?, // without binutils the machine needs more memory
    };
    let _ = fs::remove_file(stripped);
    Ok(content)
}

/// Programs and the libraries that they load.
fn with_libraries<'a>(programs: impl Iterator<Item = &'a Path>) -> Result<Vec<PathBuf>> {
    let mut files = std::collections::BTreeSet::new();
    for program in programs {
        files.insert(program.to_owned());
        // It fails for a program that needs none.
        let Ok(output) = Command::new("ldd").arg(program).output() else { continue };
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let path = line.split_whitespace().find(|word| word.starts_with('/'));
            files.extend(path.map(PathBuf::from));
        }
    }
    Ok(files.into_iter().collect())
}

/// The kernel's loadable modules, by name.
struct Modules(BTreeMap<String, PathBuf>);

impl Modules {
    fn read(folder: &Path) -> Result<Self> {
        let mut found = BTreeMap::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                if path.is_dir() && !path.is_symlink() {
                    folders.push(path);
                } else if path.extension() == Some(OsStr::new("ko")) {
                    found.insert(name(&path), path);
                }
            }
        }
        Ok(Self(found))
    }

    /// The wanted modules and what they need, in an order in which they can be loaded. A module that this kernel has
    /// built in, or has not, is left out; the tests say what they lack.
    fn with_dependencies(&self, wanted: &[&str]) -> Result<Vec<(String, Vec<u8>)>> {
        let mut order: Vec<(String, Vec<u8>)> = Vec::new();
        // Each is put after what it needs: its own turn comes again once those are in.
        let mut stack: Vec<String> = wanted.iter().rev().map(|w| (*w).to_owned()).collect();
        while let Some(module) = stack.last().cloned() {
            let Some(path) = self.0.get(&module).filter(|_| !order.iter().any(|(done, _)| *done == module))
            else {
                stack.pop();
                continue;
            };
            let content = fs::read(path).with_context(|| path.display().to_string())?;
            let missing: Vec<String> = depends(&content)
                .into_iter()
                .filter(|d| self.0.contains_key(d) && !order.iter().any(|(done, _)| done == d))
                .collect();
            if missing.is_empty() {
                order.push((module, content));
                stack.pop();
            } else {
                stack.extend(missing);
            }
        }
        Ok(order)
    }
}

/// A module's name, in which dashes and underscores mean the same.
fn name(path: &Path) -> String {
    path.file_stem().unwrap_or_default().to_string_lossy().replace('-', "_")
}

/// What a module says that it needs, in its `.modinfo` section.
fn depends(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(begin) = module.windows(key.len()).position(|w| w == key) else { return Vec::new() };
    let value = &module[begin + key.len()..];
    let value = &value[..value.iter().position(|b| *b == 0).unwrap_or(0)];
    let names = String::from_utf8_lossy(value).replace('-', "_");
    names.split(',').filter(|n| !n.is_empty()).map(str::to_owned).collect()
}

/// The machine's first program. The root of an initramfs cannot be pivoted away from, so it moves to a tmpfs first.
fn script(options: &Options) -> String {
    let (filter, patience) = (options.filter.join(" "), options.patience);
    format!(
        r#"#!/bin/busybox sh
export PATH=/bin:/usr/bin:/usr/sbin:/usr/local/bin
/bin/busybox --install -s /bin
if [ "$1" != moved ]; then
    mount -t tmpfs -o size=90% root /new
    for f in *; do [ $f = new ] || cp -a $f /new/; done
    exec switch_root /new /init moved
fi
mount -t proc proc /proc; mount -t sysfs sys /sys; mount -t devtmpfs dev /dev
mkdir -p /dev/pts /dev/shm; mount -t devpts -o newinstance,ptmxmode=0666 devpts /dev/pts; mount -t tmpfs shm /dev/shm
mount -t tmpfs run /run; mount -t cgroup2 cgroup /sys/fs/cgroup
for c in cpu cpuset memory pids io; do echo +$c > /sys/fs/cgroup/cgroup.subtree_control; done
for m in /lib/modules/*.ko; do insmod $m || echo "not loaded: $m"; done
ip link set lo up; mount -t ext4 /dev/vda /tmp
cd /root; export HOME=/root TMPDIR=/tmp RUST_BACKTRACE=1 RUST_TEST_THREADS=2
export TUG_TEST_PATIENCE={patience}
status=0
for t in /tests/*; do echo "== $t"; $t {filter} || status=1; done
echo "{VERDICT}$status"
poweroff -f
"#
    )
}

fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_load_after_what_they_need() {
        let dir = tempfile::tempdir().unwrap();
        let module = |name: &str, depends: &str| {
            let content = format!("ELF\0license=GPL\0depends={depends}\0name={name}\0");
            fs::write(dir.path().join(format!("{name}.ko")), content).unwrap();
        };
        module("bridge", "stp,llc");
        module("stp", "llc");
        module("llc", "");
        module("nf-tables", "nfnetlink");
        let modules = Modules::read(dir.path()).unwrap();
        let order = modules.with_dependencies(&["bridge", "nf_tables", "none"]).unwrap();
        let order: Vec<&str> = order.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(order, ["llc", "stp", "bridge", "nf_tables"]);
    }
}
