//! Users, capabilities, profiles and namespaces of pods and containers.

use std::collections::HashSet;

use serde_json::{Value, json};

use super::{Spec, among, every_container, relative_path};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::{meta, validate};

/// Of the pod.
pub(super) fn check_pod(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let (context, at) = (&spec["securityContext"], path.child("securityContext"));
    for field in ["fsGroup", "runAsUser", "runAsGroup"] {
        id(errors, &context[field], &at.child(field));
    }
    for (i, group) in items(&context["supplementalGroups"]).iter().enumerate() {
        id(errors, group, &at.child("supplementalGroups").index(i));
    }
    if spec["shareProcessNamespace"] == true && spec["hostPID"] == true {
        let why = "ShareProcessNamespace and HostPID cannot both be enabled";
        errors.invalid(&at.child("shareProcessNamespace"), &json!(true), why);
    }
    sysctls(errors, spec, &at.child("sysctls"));
    const CHOICES: [(&str, &[&str]); 3] = [
        ("fsGroupChangePolicy", &["Always", "OnRootMismatch"]),
        ("supplementalGroupsPolicy", &["Merge", "Strict"]),
        ("seLinuxChangePolicy", &["MountOption", "Recursive"]),
    ];
    for (field, supported) in CHOICES {
        among(errors, &context[field], &at.child(field), supported);
    }
    profiles(errors, context, &at);
}

/// Of a container.
pub(super) fn check(errors: &mut ErrorList, context: &Value, path: &Path, host_users: bool) {
    for field in ["runAsUser", "runAsGroup"] {
        id(errors, &context[field], &path.child(field));
    }
    let (mount, at) = (&context["procMount"], path.child("procMount"));
    among(errors, mount, &at, &["Default", "Unmasked"]);
    if host_users && *mount == "Unmasked" {
        errors.invalid(&at, mount, "`hostUsers` must be false to use `Unmasked`");
    }
    if context["allowPrivilegeEscalation"] == false {
        if context["privileged"] == true {
            let why = "cannot set `allowPrivilegeEscalation` to false and `privileged` to true";
            errors.invalid(path, context, why);
        }
        if items(&context["capabilities"]["add"]).iter().any(|c| c == "CAP_SYS_ADMIN") {
            let why = "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN";
            errors.invalid(path, context, why);
        }
    }
    profiles(errors, context, path);
}

/// A user or group by number.
fn id(errors: &mut ErrorList, id: &Value, path: &Path) {
    const MAX: i64 = i32::MAX as i64;
    if id.as_i64().is_some_and(|n| !(0..=MAX).contains(&n)) {
        errors.invalid(path, id, validate::between(0, MAX));
    }
}

const PROFILES: [&str; 3] = ["Localhost", "RuntimeDefault", "Unconfined"];
/// The longest path but one byte.
const MAX_PROFILE: usize = 4095;

fn profiles(errors: &mut ErrorList, context: &Value, path: &Path) {
    let (seccomp, at) = (&context["seccompProfile"], path.child("seccompProfile"));
    if !seccomp.is_null() {
        profile_type(errors, seccomp, &at, "type is required when seccompProfile is set");
        let (name, at) = (&seccomp["localhostProfile"], at.child("localhostProfile"));
        match (name.as_str(), seccomp["type"] == "Localhost") {
            (None, true) => errors.required(&at, "must be set when seccomp type is Localhost"),
            (Some(name), true) => relative_path(errors, name, &at),
            (Some(_), false) => {
                errors.invalid(&at, seccomp, "can only be set when seccomp type is Localhost");
            }
            (None, false) => {}
        }
    }
    let (armor, at) = (&context["appArmorProfile"], path.child("appArmorProfile"));
    if !armor.is_null() {
        profile_type(errors, armor, &at, "type is required when appArmorProfile is set");
        let (name, at) = (&armor["localhostProfile"], at.child("localhostProfile"));
        match (text(&armor["type"]), name.as_str()) {
            ("Localhost", None | Some("")) => {
                errors.required(&at, "must be set when AppArmor type is Localhost");
            }
            ("Localhost", Some(name)) => {
                if name.trim() != name {
                    errors.invalid_str(&at, name, "must not be padded with whitespace");
                }
                if name.len() > MAX_PROFILE {
                    errors.too_long(&at, MAX_PROFILE);
                }
            }
            ("RuntimeDefault" | "Unconfined", Some(name)) => {
                errors.invalid_str(&at, name, "can only be set when AppArmor type is Localhost");
            }
            _ => {}
        }
    }
    windows_options(errors, &context["windowsOptions"], &path.child("windowsOptions"));
}

fn profile_type(errors: &mut ErrorList, profile: &Value, path: &Path, why: &str) {
    let at = path.child("type");
    if empty(&profile["type"]) {
        errors.required(&at, why);
    } else {
        among(errors, &profile["type"], &at, &PROFILES);
    }
}

const MAX_SYSCTL: usize = 253;
const SYSCTL: &str = "must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$";

fn is_sysctl(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let segment = |s: &str| {
        let b = s.as_bytes();
        b.first().is_some_and(|c| plain(*c))
            && b.last().is_some_and(|c| plain(*c))
            && b.iter().all(|c| plain(*c) || matches!(c, b'-' | b'_'))
    };
    name.len() <= MAX_SYSCTL && name.split(['.', '/']).all(segment)
}

/// The host's namespace in which a sysctl would be set, in a pod that has none of its own.
fn of_host(name: &str, spec: &Value) -> Option<&'static str> {
    let name = name.replace('/', ".");
    let ipc = name == "kernel.sem"
        || ["kernel.shm", "kernel.msg", "fs.mqueue."].iter().any(|prefix| name.starts_with(prefix));
    if spec["hostNetwork"] == true && name.starts_with("net.") {
        Some("hostNetwork")
    } else if spec["hostIPC"] == true && ipc {
        Some("hostIPC")
    } else {
        None
    }
}

fn sysctls(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let mut names = HashSet::new();
    for (i, sysctl) in items(&spec["securityContext"]["sysctls"]).iter().enumerate() {
        let (name, at) = (text(&sysctl["name"]), path.index(i).child("name"));
        if name.is_empty() {
            errors.required(&at, "");
        } else if !is_sysctl(name) {
            errors.invalid_str(&at, name, SYSCTL);
        } else if !names.insert(name) {
            errors.duplicate(&at, &json!(name));
        }
        if let Some(namespace) = of_host(name, spec) {
            errors.invalid_str(&at, name, format!("may not be specified when '{namespace}' is true"));
        }
    }
}

fn windows_options(errors: &mut ErrorList, options: &Value, path: &Path) {
    if let Some(name) = options["gmsaCredentialSpecName"].as_str() {
        for why in validate::dns_subdomain(name) {
            errors.invalid_str(&path.child("gmsaCredentialSpecName"), name, why);
        }
    }
    if let Some(spec) = options["gmsaCredentialSpec"].as_str() {
        let at = path.child("gmsaCredentialSpec");
        if spec.is_empty() {
            errors.invalid_str(&at, spec, "gmsaCredentialSpec cannot be an empty string");
        } else if spec.len() > 64 << 10 {
            errors.invalid_str(&at, spec, "gmsaCredentialSpec size must be under 64 KiB");
        }
    }
    if let Some(name) = options["runAsUserName"].as_str() {
        for why in user_name(name) {
            errors.invalid_str(&path.child("runAsUserName"), name, why);
        }
    }
}

/// Why this is not the name of a user of Windows, `USER` or `DOMAIN\USER`.
fn user_name(name: &str) -> Vec<&'static str> {
    let mut whys = Vec::new();
    if name.is_empty() {
        return vec!["runAsUserName cannot be an empty string"];
    }
    if name.chars().any(|c| c.is_ascii_control()) {
        return vec!["runAsUserName cannot contain control characters"];
    }
    let (domain, user) = match name.split_once('\\') {
        Some((_, user)) if user.contains('\\') => {
            return vec!["runAsUserName cannot contain more than one backslash"];
        }
        Some((domain, user)) => (Some(domain), user),
        None => (None, name),
    };
    if let Some(domain) = domain {
        if domain.len() >= 256 {
            whys.push("runAsUserName's Domain length must be under 256 characters");
        }
        let net_bios = !domain.starts_with('.')
            && (1..=15).contains(&domain.chars().count())
            && !domain.contains(['/', ':', '*', '?', '"', '<', '>', '|']);
        if !net_bios && !domain.to_lowercase().split('.').all(|l| validate::dns_label(l).is_empty()) {
            whys.push("runAsUserName's Domain doesn't match the NetBios nor the DNS format");
        }
    }
    if user.is_empty() {
        whys.push("runAsUserName's User cannot be empty");
    } else if user.len() > 104 {
        whys.push("runAsUserName's User length must not be longer than 104 characters");
    }
    if !user.is_empty() && user.chars().all(|c| c == '.' || c == ' ') {
        whys.push("runAsUserName's User cannot contain only periods or spaces");
    }
    if user.contains(['"', '/', '\\', ':', ';', '|', '=', ',', '+', '*', '?', '<', '>', '@', '[', ']']) {
        whys.push("runAsUserName's User cannot contain the following characters: \"/\\:;|=,+*?<>@[]");
    }
    whys
}

/// Containers that are processes of a Windows host: all or none.
pub(super) fn host_processes(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let of = |context: &Value| context["windowsOptions"]["hostProcess"].as_bool();
    let of_pod = of(&spec["securityContext"]);
    let (mut all, mut on_host) = (0, 0);
    for (container, at) in every_container(spec, path) {
        let own = of(&container["securityContext"]);
        if let (Some(pod), Some(own)) = (of_pod, own)
            && pod != own
        {
            let at = at.child("securityContext").child("windowsOptions").child("hostProcess");
            let why = format!("pod hostProcess value must be identical if both are specified, was {pod}");
            errors.invalid(&at, &json!(own), why);
        }
        all += 1;
        on_host += usize::from(own.or(of_pod) == Some(true));
    }
    if on_host == 0 {
        return;
    }
    if on_host != all {
        let why =
            "If pod contains any hostProcess containers then all containers must be HostProcess containers";
        errors.invalid_str(path, "", why);
    }
    if spec["hostNetwork"] != true {
        let why = "hostNetwork must be true if pod contains any hostProcess containers";
        errors.invalid(&path.child("hostNetwork"), &json!(false), why);
    }
}

/// Users of its own a pod has only where it has other namespaces of its own, too. The last two are called so by upstream.
pub(super) fn host_users(errors: &mut ErrorList, spec: &Value, path: &Path) {
    if spec["hostUsers"] != false {
        return;
    }
    let why = "when `hostUsers` is false";
    for (field, shown) in [("hostNetwork", "hostNetwork"), ("hostPID", "HostPID"), ("hostIPC", "HostIPC")] {
        if spec[field] == true {
            errors.forbidden(&path.child(shown), why);
        }
    }
    for (container, at) in every_container(spec, path) {
        if !empty(&container["volumeDevices"]) {
            errors.forbidden(&at.child("volumeDevices"), why);
        }
    }
}

/// What pods for Windows have none of: fields of the spec, of the pod's security context, and of containers'.
const NOT_WINDOWS: [&[&str]; 3] = [
    &["hostUsers", "hostPID", "hostIPC", "shareProcessNamespace"],
    &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "fsGroup",
        "fsGroupChangePolicy",
        "sysctls",
        "runAsUser",
        "runAsGroup",
        "supplementalGroups",
        "supplementalGroupsPolicy",
        "seLinuxChangePolicy",
    ],
    &[
        "appArmorProfile",
        "seLinuxOptions",
        "seccompProfile",
        "capabilities",
        "readOnlyRootFilesystem",
        "privileged",
        "allowPrivilegeEscalation",
        "procMount",
        "runAsUser",
        "runAsGroup",
    ],
];

/// What only pods of the other operating system have.
pub(super) fn operating_system(errors: &mut ErrorList, spec: &Value, path: &Path) {
    let os = &spec["os"];
    if os.is_null() {
        return;
    }
    let at = path.child("os");
    let context = path.child("securityContext");
    let forbid = |errors: &mut ErrorList, of: &Value, at: &Path, fields: &[&str], why: &str| {
        // The namespaces of the host are off unless they are on.
        let given = |field: &str| match field {
            "hostPID" | "hostIPC" => of[field] == true,
            "sysctls" => !empty(&of[field]),
            _ => !of[field].is_null(),
        };
        for field in fields.iter().filter(|f| given(f)) {
            errors.forbidden(&at.child(field), why);
        }
    };
    match text(&os["name"]) {
        "" => errors.required(&at.child("name"), ""),
        "linux" => {
            let (fields, why) = (["windowsOptions"], "windows options cannot be set for a linux pod");
            forbid(errors, &spec["securityContext"], &context, &fields, why);
            for (c, at) in every_container(spec, path) {
                forbid(errors, &c["securityContext"], &at.child("securityContext"), &fields, why);
            }
        }
        "windows" => {
            let ([of_spec, of_pod, of_containers], why) = (NOT_WINDOWS, "cannot be set for a windows pod");
            forbid(errors, &spec["securityContext"], &context, of_pod, why);
            forbid(errors, spec, path, of_spec, why);
            for (c, at) in every_container(spec, path) {
                forbid(errors, &c["securityContext"], &at.child("securityContext"), of_containers, why);
            }
        }
        _ => errors.not_supported(&at, &os["name"], &["linux", "windows"]),
    }
}

const ARMOR: &str = "container.apparmor.security.beta.kubernetes.io/";
const SECCOMP_POD: &str = "seccomp.security.alpha.kubernetes.io/pod";
const SECCOMP: &str = "container.seccomp.security.alpha.kubernetes.io/";

/// Profiles that are given by annotations, as it was before there were fields for them.
pub(super) fn annotations(errors: &mut ErrorList, of: &Spec<'_>, metadata: &Value, path: &Path) {
    let profile = |errors: &mut ErrorList, given: &str, at: &Path| match given.strip_prefix("localhost/") {
        Some(file) => relative_path(errors, file, at),
        None if ["runtime/default", "docker/default", "unconfined"].contains(&given) => {}
        None => errors.invalid_str(at, given, "must be a valid seccomp profile"),
    };
    let containers: HashSet<&str> = every_container(of.spec, path).map(|(c, _)| text(&c["name"])).collect();
    let given = metadata["annotations"].as_object();
    for (key, value) in given.into_iter().flatten() {
        let value = text(value);
        if key == SECCOMP_POD || key.starts_with(SECCOMP) {
            profile(errors, value, &path.child(key));
        }
        let Some(name) = key.strip_prefix(ARMOR) else { continue };
        let at = path.key(key);
        if !containers.contains(name) {
            errors.invalid_str(&at, name, "container not found");
        }
        let known = ["", "runtime/default", "unconfined"].contains(&value);
        if !known && !value.starts_with("localhost/") {
            let why = format!("invalid AppArmor profile name: {}", crate::field::quote(value));
            errors.invalid_str(&at, value, why);
        }
    }
}

/// An annotation and a field that both name a profile must name the same one.
pub(super) fn matching_profiles(errors: &mut ErrorList, spec: &Value, metadata: &Value, path: &Path) {
    let compare =
        |errors: &mut ErrorList, what: &str, given: &Value, profile: &Value, at: &Path, defaults: &[&str]| {
            let Some(given) = given.as_str() else { return };
            let local = given.strip_prefix("localhost/");
            let same = match text(&profile["type"]) {
                "Unconfined" => given == "unconfined",
                "RuntimeDefault" => defaults.contains(&given),
                "Localhost" => local.is_some(),
                _ => true,
            };
            if !same {
                let why = format!("{what} type in annotation and field must match");
                errors.forbidden(&at.child("type"), why);
            } else if profile["type"] == "Localhost" && profile["localhostProfile"].as_str() != local {
                let why = format!("{what} profile in annotation and field must match");
                errors.forbidden(&at.child("localhostProfile"), why);
            }
        };
    let annotations = &metadata["annotations"];
    if empty(annotations) {
        return;
    }
    let of_pod = &spec["securityContext"];
    let docker = ["runtime/default", "docker/default"];
    let at = path.child("securityContext").child("seccompProfile");
    compare(errors, "seccomp", &annotations[SECCOMP_POD], &of_pod["seccompProfile"], &at, &docker);
    for (container, at) in every_container(spec, path) {
        let (name, context, at) =
            (text(&container["name"]), &container["securityContext"], at.child("securityContext"));
        let given = &annotations[format!("{SECCOMP}{name}")];
        compare(errors, "seccomp", given, &context["seccompProfile"], &at.child("seccompProfile"), &docker);
        if spec["os"]["name"] == "windows" {
            continue;
        }
        let own = &context["appArmorProfile"];
        let profile = if own.is_null() { &of_pod["appArmorProfile"] } else { own };
        let given = &annotations[format!("{ARMOR}{name}")];
        compare(errors, "apparmor", given, profile, &at.child("appArmorProfile"), &docker[..1]);
    }
}

/// What may not change of a pod's annotations.
pub(super) fn changed_annotations(errors: &mut ErrorList, new: &Value, old: &Value) {
    let path = Path::new("metadata").child("annotations");
    let (n, o) = (&meta::of(new)["annotations"], &meta::of(old)["annotations"]);
    let keys = |v: &Value| v.as_object().into_iter().flatten().map(|(k, _)| k.clone()).collect::<Vec<_>>();
    let what = |key: &str| {
        if key.starts_with(ARMOR) {
            Some("AppArmor annotations")
        } else {
            (key == super::MIRROR).then_some("mirror pod annotation")
        }
    };
    for key in keys(o).iter().filter(|k| n[k.as_str()] != o[k.as_str()]) {
        if let Some(what) = what(key) {
            errors.forbidden(&path.key(key), format!("may not remove or update {what}"));
        }
    }
    for key in keys(n).iter().filter(|k| o.get(k.as_str()).is_none()) {
        if let Some(what) = what(key) {
            errors.forbidden(&path.key(key), format!("may not add {what}"));
        }
    }
}
