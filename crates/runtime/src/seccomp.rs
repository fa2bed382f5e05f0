//! System call filters of containers: Docker's profile format, resolved for a process's capabilities and this machine,
//! compiled once per distinct result and kept as a file that the containers' children load.

use std::collections::HashMap;
use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use oci_spec::runtime::{
    Arch as OciArch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompFilterFlag, LinuxSeccompOperator, LinuxSyscallBuilder,
};
use parking_lot::Mutex;
use serde::Deserialize;
use sys::caps::Set;
use sys::seccomp::{Action, Arch, Condition, Filter, Op, Rule};

use crate::{ContainerSpec, Error, Result, SeccompProfile};

/// A profile in Docker's form.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Profile {
    pub default_action: String,
    pub default_errno_ret: Option<u16>,
    pub architectures: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub arch_map: Vec<ArchMap>,
    pub flags: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub syscalls: Vec<Call>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ArchMap {
    pub architecture: String,
    #[serde(deserialize_with = "nullable")]
    pub sub_architectures: Vec<String>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Call {
    pub name: String,
    #[serde(deserialize_with = "nullable")]
    pub names: Vec<String>,
    pub action: String,
    pub errno_ret: Option<u16>,
    #[serde(deserialize_with = "nullable")]
    pub args: Vec<Arg>,
    pub includes: Conditions,
    pub excludes: Conditions,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Arg {
    pub index: u8,
    pub value: u64,
    pub value_two: u64,
    pub op: String,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Conditions {
    #[serde(deserialize_with = "nullable")]
    pub caps: Vec<String>,
    #[serde(deserialize_with = "nullable")]
    pub arches: Vec<String>,
    pub min_kernel: Option<String>,
}

/// Go writes empty lists as null.
fn nullable<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(
    d: D,
) -> std::result::Result<Vec<T>, D::Error> {
    Ok(Option::<Vec<T>>::deserialize(d)?.unwrap_or_default())
}

fn invalid(message: impl Into<String>) -> Error {
    Error::Invalid { field: "seccomp profile", message: message.into() }
}

fn action(name: &str, errno: Option<u16>) -> Result<Action> {
    Ok(match name {
        "SCMP_ACT_ALLOW" => Action::Allow,
        "SCMP_ACT_ERRNO" => Action::Errno(errno.unwrap_or(1)),
        "SCMP_ACT_KILL" | "SCMP_ACT_KILL_THREAD" => Action::KillThread,
        "SCMP_ACT_KILL_PROCESS" => Action::KillProcess,
        "SCMP_ACT_TRAP" => Action::Trap,
        "SCMP_ACT_TRACE" => Action::Trace(errno.unwrap_or(1)),
        "SCMP_ACT_LOG" => Action::Log,
        other => return Err(invalid(format!("action {other:?} is not supported"))),
    })
}

fn op(name: &str) -> Result<Op> {
    Ok(match name {
        "SCMP_CMP_NE" => Op::Ne,
        "SCMP_CMP_LT" => Op::Lt,
        "SCMP_CMP_LE" => Op::Le,
        "SCMP_CMP_EQ" => Op::Eq,
        "SCMP_CMP_GE" => Op::Ge,
        "SCMP_CMP_GT" => Op::Gt,
        "SCMP_CMP_MASKED_EQ" => Op::MaskedEq,
        other => return Err(invalid(format!("operator {other:?} is not known"))),
    })
}

/// Go's name of this machine's architecture.
const GO_ARCH: &str = if cfg!(target_arch = "x86_64") { "amd64" } else { "arm64" };

impl Profile {
    /// The filter for a process with these capabilities on a kernel of this version.
    pub(crate) fn resolve(&self, caps: Set, kernel: (u32, u32)) -> Result<Filter> {
        let has = |name: &String| Set::by_name(name).is_some_and(|c| caps.has(c));
        let new_enough = |text: &Option<String>| match text {
            None => true,
            Some(text) => version(text).is_none_or(|wanted| kernel >= wanted),
        };
        let mut rules = Vec::new();
        for call in &self.syscalls {
            let included = call.includes.caps.iter().all(has)
                && (call.includes.arches.is_empty() || call.includes.arches.iter().any(|a| a == GO_ARCH))
                && new_enough(&call.includes.min_kernel);
            let excluded = call.excludes.caps.iter().any(has)
                || call.excludes.arches.iter().any(|a| a == GO_ARCH)
                || call.excludes.min_kernel.is_some() && new_enough(&call.excludes.min_kernel);
            if !included || excluded {
                continue;
            }
            let mut names = call.names.clone();
            if !call.name.is_empty() {
                names.push(call.name.clone());
            }
            let condition = |a: &Arg| {
                Ok(Condition {
                    argument: a.index.min(5),
                    op: op(&a.op)?,
                    value: a.value,
                    value_two: a.value_two,
                })
            };
            rules.push(Rule {
                names,
                action: action(&call.action, call.errno_ret.or(self.default_errno_ret))?,
                conditions: call.args.iter().map(condition).collect::<Result<_>>()?,
            });
        }
        let mut arches: Vec<Arch> = self.architectures.iter().filter_map(|a| arch(a)).collect();
        for map in &self.arch_map {
            if arch(&map.architecture) == Some(Arch::NATIVE) {
                arches.extend(map.sub_architectures.iter().filter_map(|a| arch(a)));
            }
        }
        Ok(Filter {
            default: action(&self.default_action, self.default_errno_ret)?,
            arches: with_native(arches),
            rules,
        })
    }
}

fn arch(name: &str) -> Option<Arch> {
    match name {
        "SCMP_ARCH_X86_64" => Some(Arch::X86_64),
        "SCMP_ARCH_X86" => Some(Arch::I386),
        "SCMP_ARCH_AARCH64" => Some(Arch::Aarch64),
        _ => None,
    }
}

fn with_native(mut arches: Vec<Arch>) -> Vec<Arch> {
    // Another family's calls cannot be made on this machine.
    arches.retain(|a| matches!((a, Arch::NATIVE), (Arch::Aarch64, Arch::Aarch64) | (_, Arch::X86_64)));
    arches.retain(|a| *a != Arch::NATIVE && (*a != Arch::Aarch64));
    arches.dedup();
    arches.insert(0, Arch::NATIVE);
    arches
}

fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

fn kernel() -> (u32, u32) {
    version(&rustix::system::uname().release().to_string_lossy()).unwrap_or((5, 12))
}

/// OCI's form, which is resolved already.
fn from_oci(s: &LinuxSeccomp) -> Result<Filter> {
    let small = |e: Option<u32>| e.and_then(|e| u16::try_from(e).ok());
    let act = |a: LinuxSeccompAction, errno: Option<u16>| {
        Ok(match a {
            LinuxSeccompAction::ScmpActAllow => Action::Allow,
            LinuxSeccompAction::ScmpActErrno => Action::Errno(errno.unwrap_or(1)),
            LinuxSeccompAction::ScmpActKill | LinuxSeccompAction::ScmpActKillThread => Action::KillThread,
            LinuxSeccompAction::ScmpActKillProcess => Action::KillProcess,
            LinuxSeccompAction::ScmpActTrap => Action::Trap,
            LinuxSeccompAction::ScmpActTrace => Action::Trace(errno.unwrap_or(1)),
            LinuxSeccompAction::ScmpActLog => Action::Log,
            LinuxSeccompAction::ScmpActNotify => return Err(invalid("SCMP_ACT_NOTIFY is not supported")),
        })
    };
    let cmp = |op: LinuxSeccompOperator| match op {
        LinuxSeccompOperator::ScmpCmpNe => Op::Ne,
        LinuxSeccompOperator::ScmpCmpLt => Op::Lt,
        LinuxSeccompOperator::ScmpCmpLe => Op::Le,
        LinuxSeccompOperator::ScmpCmpEq => Op::Eq,
        LinuxSeccompOperator::ScmpCmpGe => Op::Ge,
        LinuxSeccompOperator::ScmpCmpGt => Op::Gt,
        LinuxSeccompOperator::ScmpCmpMaskedEq => Op::MaskedEq,
    };
    let mut rules = Vec::new();
    for call in s.syscalls().iter().flatten() {
        let condition = |a: &oci_spec::runtime::LinuxSeccompArg| Condition {
            argument: a.index().min(5) as u8,
            op: cmp(a.op()),
            value: a.value(),
            value_two: a.value_two().unwrap_or(0),
        };
        rules.push(Rule {
            names: call.names().clone(),
            action: act(call.action(), small(call.errno_ret()))?,
            conditions: call.args().iter().flatten().map(condition).collect(),
        });
    }
    let arches = s.architectures().iter().flatten().filter_map(|a| match a {
        OciArch::ScmpArchX86 => Some(Arch::I386),
        OciArch::ScmpArchX86_64 => Some(Arch::X86_64),
        OciArch::ScmpArchAarch64 => Some(Arch::Aarch64),
        _ => None,
    });
    Ok(Filter {
        default: act(s.default_action(), small(s.default_errno_ret()))?,
        arches: with_native(arches.collect()),
        rules,
    })
}

/// OCI's form of a filter.
fn to_oci(filter: &Filter) -> Result<LinuxSeccomp> {
    let act = |action: Action| match action {
        Action::Allow => (LinuxSeccompAction::ScmpActAllow, None),
        Action::Errno(e) => (LinuxSeccompAction::ScmpActErrno, Some(u32::from(e))),
        Action::KillThread => (LinuxSeccompAction::ScmpActKillThread, None),
        Action::KillProcess => (LinuxSeccompAction::ScmpActKillProcess, None),
        Action::Trap => (LinuxSeccompAction::ScmpActTrap, None),
        Action::Trace(d) => (LinuxSeccompAction::ScmpActTrace, Some(u32::from(d))),
        Action::Log => (LinuxSeccompAction::ScmpActLog, None),
    };
    let cmp = |op: Op| match op {
        Op::Ne => LinuxSeccompOperator::ScmpCmpNe,
        Op::Lt => LinuxSeccompOperator::ScmpCmpLt,
        Op::Le => LinuxSeccompOperator::ScmpCmpLe,
        Op::Eq => LinuxSeccompOperator::ScmpCmpEq,
        Op::Ge => LinuxSeccompOperator::ScmpCmpGe,
        Op::Gt => LinuxSeccompOperator::ScmpCmpGt,
        Op::MaskedEq => LinuxSeccompOperator::ScmpCmpMaskedEq,
    };
    let wrong = |e: oci_spec::OciSpecError| invalid(e.to_string());
    let mut calls = Vec::new();
    for rule in &filter.rules {
        let mut args = Vec::new();
        for c in &rule.conditions {
            let arg = LinuxSeccompArgBuilder::default()
                .index(usize::from(c.argument))
                .value(c.value)
                .value_two(c.value_two)
                .op(cmp(c.op));
            args.push(arg.build().map_err(wrong)?);
        }
        let (action, errno) = act(rule.action);
        let mut call = LinuxSyscallBuilder::default().names(rule.names.clone()).action(action);
        if let Some(errno) = errno {
            call = call.errno_ret(errno);
        }
        if !args.is_empty() {
            call = call.args(args);
        }
        calls.push(call.build().map_err(wrong)?);
    }
    let arches: Vec<OciArch> = filter
        .arches
        .iter()
        .map(|a| match a {
            Arch::X86_64 => OciArch::ScmpArchX86_64,
            Arch::I386 => OciArch::ScmpArchX86,
            Arch::Aarch64 => OciArch::ScmpArchAarch64,
        })
        .collect();
    let (default, errno) = act(filter.default);
    let mut seccomp =
        LinuxSeccompBuilder::default().default_action(default).architectures(arches).syscalls(calls);
    if let Some(errno) = errno {
        seccomp = seccomp.default_errno_ret(errno);
    }
    seccomp.build().map_err(wrong)
}

fn parse(text: &str) -> Result<Profile> {
    serde_json::from_str(text).map_err(|e| invalid(format!("decoding seccomp profile failed: {e}")))
}

/// What the process may ever have, which is what the profile depends on.
fn capabilities(spec: &ContainerSpec) -> Set {
    let caps = spec.oci.process().as_ref().and_then(|p| p.capabilities().as_ref());
    let caps = caps.and_then(|c| c.bounding().as_ref()).into_iter().flatten();
    caps.filter_map(|c| Set::by_name(&c.to_string())).fold(Set::default(), Set::with)
}

const FLAG_LOG: u32 = 2;
const FLAG_SPEC_ALLOW: u32 = 4;

/// Compiled filters by what they were compiled from.
#[derive(Debug)]
pub(crate) struct Cache {
    dir: PathBuf,
    known: Mutex<HashMap<u64, PathBuf>>,
}

impl Cache {
    pub(crate) fn new(dir: PathBuf) -> Self {
        Self { dir, known: Mutex::default() }
    }

    /// A container's filter in OCI's form, for other runtimes; none if it has none.
    pub(crate) fn profile(&self, spec: &ContainerSpec) -> Result<Option<LinuxSeccomp>> {
        let caps = capabilities(spec);
        Ok(match &spec.seccomp {
            SeccompProfile::Unconfined => None,
            SeccompProfile::Spec => spec.oci.linux().as_ref().and_then(|l| l.seccomp().clone()),
            SeccompProfile::Default => {
                Some(to_oci(&crate::defaults::seccomp_profile().resolve(caps, kernel())?)?)
            }
            SeccompProfile::Docker(text) if text.trim() == "unconfined" => None,
            SeccompProfile::Docker(text) => Some(to_oci(&parse(text)?.resolve(caps, kernel())?)?),
        })
    }

    /// The file with a container's filter, and the flags to load it with; none if it has no filter.
    pub(crate) fn program(&self, spec: &ContainerSpec) -> Result<Option<(PathBuf, u32)>> {
        let caps = capabilities(spec);
        let mut hasher = DefaultHasher::new();
        let mut flags = 0;
        match &spec.seccomp {
            SeccompProfile::Unconfined => return Ok(None),
            SeccompProfile::Default => ("default", caps.0).hash(&mut hasher),
            SeccompProfile::Docker(text) => {
                if text.trim() == "unconfined" {
                    return Ok(None);
                }
                ("docker", text, caps.0).hash(&mut hasher);
            }
            SeccompProfile::Spec => {
                let Some(s) = spec.oci.linux().as_ref().and_then(|l| l.seccomp().as_ref()) else {
                    return Ok(None);
                };
                for flag in s.flags().iter().flatten() {
                    flags |= match flag {
                        LinuxSeccompFilterFlag::SeccompFilterFlagLog => FLAG_LOG,
                        LinuxSeccompFilterFlag::SeccompFilterFlagSpecAllow => FLAG_SPEC_ALLOW,
                        _ => 0,
                    };
                }
                ("oci", serde_json::to_string(s).map_err(|e| invalid(e.to_string()))?).hash(&mut hasher);
            }
        }
        let key = hasher.finish();
        if let Some(path) = self.known.lock().get(&key) {
            return Ok(Some((path.clone(), flags)));
        }
        let filter = match &spec.seccomp {
            SeccompProfile::Default => crate::defaults::seccomp_profile().resolve(caps, kernel())?,
            SeccompProfile::Docker(text) => parse(text)?.resolve(caps, kernel())?,
            _ => match spec.oci.linux().as_ref().and_then(|l| l.seccomp().as_ref()) {
                Some(s) => from_oci(s)?,
                None => return Ok(None),
            },
        };
        let program = sys::seccomp::compile(&filter).map_err(|e| invalid(e.to_string()))?;
        let path = self.dir.join(format!("{key:016x}.bpf"));
        base::fsx::write_volatile(&path, program.as_bytes(), 0o600)
            .map_err(Error::io(format!("write {}", path.display())))?;
        self.known.lock().insert(key, path.clone());
        Ok(Some((path, flags)))
    }
}

/// Compiles a profile of either form, for a process with some capabilities.
#[cfg(any(test, fuzzing))]
pub(crate) fn try_out(text: &str) {
    let caps = [0, 1 << 21 | 1 << 18, u64::MAX].map(Set);
    if let Ok(profile) = parse(text) {
        for caps in caps {
            if let Ok(filter) = profile.resolve(caps, (5, 10)) {
                let _ = sys::seccomp::compile(&filter);
                let _ = to_oci(&filter).and_then(|oci| from_oci(&oci));
            }
        }
    }
    if let Ok(filter) =
        serde_json::from_str::<LinuxSeccomp>(text).map_err(|_| ()).and_then(|s| from_oci(&s).map_err(|_| ()))
    {
        let _ = sys::seccomp::compile(&filter);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_profile_follows_capabilities() {
        let profile = crate::defaults::seccomp_profile();
        let named = |f: &Filter, name: &str| {
            f.rules.iter().any(|r| {
                r.action == Action::Allow && r.conditions.is_empty() && r.names.iter().any(|n| n == name)
            })
        };
        let plain = profile.resolve(Set::default(), (6, 1)).unwrap();
        assert!(named(&plain, "openat") && named(&plain, "ptrace") && !named(&plain, "mount"));
        let admin = profile.resolve(Set::by_name("SYS_ADMIN").unwrap(), (6, 1)).unwrap();
        assert!(named(&admin, "mount") && named(&admin, "clone3"));
        let old = profile.resolve(Set::default(), (4, 4)).unwrap();
        assert!(!named(&old, "ptrace"));
        let program = sys::seccomp::compile(&plain).unwrap();
        assert!(program.as_bytes().len() / 8 < 2000, "{}", program.as_bytes().len() / 8);
    }

    #[test]
    fn dockers_json() {
        let text = r#"{"defaultAction":"SCMP_ACT_ALLOW","archMap":null,
            "syscalls":[{"name":"chmod","action":"SCMP_ACT_ERRNO","args":null,"errnoRet":5}]}"#;
        let profile: Profile = serde_json::from_str(text).unwrap();
        let f = profile.resolve(Set::default(), (6, 1)).unwrap();
        assert_eq!(f.default, Action::Allow);
        assert_eq!(
            (f.rules[0].names.as_slice(), f.rules[0].action),
            (&["chmod".to_string()][..], Action::Errno(5))
        );
        let bad: Profile = serde_json::from_str(r#"{"defaultAction":"SCMP_ACT_NOPE"}"#).unwrap();
        assert!(bad.resolve(Set::default(), (6, 1)).is_err());
    }
}
