//! What is asked of running containers, what is called when they start and end, and whether they are started again.

use std::collections::HashSet;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::among;
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::validate;

const PROBES: [&str; 3] = ["livenessProbe", "readinessProbe", "startupProbe"];

/// Lifecycle and probes of a container that goes on running.
pub(super) fn check(errors: &mut ErrorList, container: &Value, path: &Path, spec: &Value) {
    let grace = spec["terminationGracePeriodSeconds"].as_i64();
    let (lifecycle, at) = (&container["lifecycle"], path.child("lifecycle"));
    for hook in ["postStart", "preStop"] {
        if !lifecycle[hook].is_null() {
            let kinds = ["exec", "httpGet", "tcpSocket", "sleep"];
            handler(errors, &lifecycle[hook], &at.child(hook), &kinds, grace);
        }
    }
    if let Some(signal) = lifecycle["stopSignal"].as_str() {
        stop_signal(errors, signal, &at.child("stopSignal"), &spec["os"]);
    }
    for kind in PROBES {
        let (probe, at) = (&container[kind], path.child(kind));
        if probe.is_null() {
            continue;
        }
        handler(errors, probe, &at, &["exec", "httpGet", "tcpSocket", "grpc"], grace);
        for field in
            ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
        {
            non_negative(errors, &at.child(field), &probe[field]);
        }
        let (own, own_at) =
            (&probe["terminationGracePeriodSeconds"], at.child("terminationGracePeriodSeconds"));
        if own.as_i64().is_some_and(|n| n <= 0) {
            errors.invalid(&own_at, own, "must be greater than 0");
        }
        if kind == "readinessProbe" {
            if !own.is_null() {
                errors.invalid(&own_at, own, "must not be set for readinessProbes");
            }
        } else if probe["successThreshold"] != 1 {
            errors.invalid(&at.child("successThreshold"), &probe["successThreshold"], "must be 1");
        }
    }
}

/// What an init container that ends has none of.
pub(super) fn check_none(errors: &mut ErrorList, container: &Value, path: &Path) {
    for field in ["lifecycle"].into_iter().chain(PROBES) {
        if !container[field].is_null() {
            let why = "may not be set for init containers without restartPolicy=Always";
            errors.forbidden(&path.child(field), why);
        }
    }
}

fn handler(errors: &mut ErrorList, handler: &Value, path: &Path, kinds: &[&str], grace: Option<i64>) {
    let mut given = kinds.iter().copied().filter(|k| !handler[*k].is_null());
    let Some(kind) = given.next() else {
        errors.required(path, "must specify a handler type");
        return;
    };
    let (h, at) = (&handler[kind], path.child(kind));
    match kind {
        "exec" if empty(&h["command"]) => errors.required(&at.child("command"), ""),
        "httpGet" => {
            if empty(&h["path"]) {
                errors.required(&at.child("path"), "");
            }
            validate_port(errors, &h["port"], &at.child("port"));
            among(errors, &json!(text(&h["scheme"])), &at.child("scheme"), &["HTTP", "HTTPS"]);
            for header in items(&h["httpHeaders"]) {
                let name = text(&header["name"]);
                if name.is_empty() || !name.bytes().all(|c| c.is_ascii_alphanumeric() || c == b'-') {
                    errors.invalid_str(&at.child("httpHeaders"), name, HEADER);
                }
            }
        }
        "tcpSocket" | "grpc" => validate_port(errors, &h["port"], &at.child("port")),
        "sleep" => {
            if let Some(grace) = grace.filter(|g| !(0..=*g).contains(&int(&h["seconds"]))) {
                let why =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(&at, &json!(int(&h["seconds"])), why);
            }
        }
        _ => {}
    }
    for other in given {
        errors.forbidden(&path.child(other), "may not specify more than 1 handler type");
    }
}

const HEADER: &str = "a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')";

/// A port by number or name.
pub(in crate::kinds) fn validate_port(errors: &mut ErrorList, port: &Value, path: &Path) {
    match port {
        Value::String(name) => {
            for why in validate::port_name(name) {
                errors.invalid(path, port, why);
            }
        }
        // An absent one is 0.
        other => {
            for why in validate::port_number(int(other)) {
                errors.invalid(path, &json!(int(other)), why);
            }
        }
    }
}

static SIGNALS: LazyLock<Vec<String>> = LazyLock::new(|| {
    let named = "ABRT ALRM BUS CHLD CLD CONT FPE HUP ILL INT IO IOT KILL PIPE POLL PROF PWR QUIT SEGV STKFLT STOP \
                 SYS TERM TRAP TSTP TTIN TTOU URG USR1 USR2 VTALRM WINCH XCPU XFSZ RTMIN RTMAX";
    let plain = named.split_whitespace().map(|s| format!("SIG{s}"));
    let counted = (1..=15).map(|n| format!("SIGRTMIN+{n}")).chain((1..=14).map(|n| format!("SIGRTMAX-{n}")));
    plain.chain(counted).collect()
});

fn stop_signal(errors: &mut ErrorList, signal: &str, path: &Path, os: &Value) {
    let signals: Vec<&str> = match os["name"].as_str() {
        _ if os.is_null() => {
            errors.forbidden(path, "may not be set for containers with empty `spec.os.name`");
            return;
        }
        Some("windows") => vec!["SIGKILL", "SIGTERM"],
        Some("linux") => SIGNALS.iter().map(String::as_str).collect(),
        _ => return,
    };
    among(errors, &json!(signal), path, &signals);
}

const MOST_RULES: usize = 20;
const MOST_CODES: usize = 255;

/// A container's own restart policy, and its rules.
pub(super) fn check_restarts(errors: &mut ErrorList, container: &Value, path: &Path) {
    let rules = items(&container["restartPolicyRules"]);
    let (policy, at) = (&container["restartPolicy"], path.child("restartPolicy"));
    if !rules.is_empty() && policy.is_null() {
        errors.required(&at, "must specify restartPolicy when restart rules are used");
    }
    among(errors, policy, &at, &["Always", "Never", "OnFailure"]);
    let all = path.child("restartPolicyRules");
    too_many(errors, &all, rules.len(), MOST_RULES);
    for (i, rule) in rules.iter().enumerate() {
        let at = all.index(i);
        among(errors, &json!(text(&rule["action"])), &at.child("action"), &["Restart"]);
        let (codes, at) = (&rule["exitCodes"], at.child("exitCodes"));
        if codes.is_null() {
            errors.required(&at, "must be specified");
            continue;
        }
        among(errors, &json!(text(&codes["operator"])), &at.child("operator"), &["In", "NotIn"]);
        too_many(errors, &at.child("values"), items(&codes["values"]).len(), MOST_CODES);
    }
}

fn too_many(errors: &mut ErrorList, path: &Path, n: usize, max: usize) {
    if n > max {
        errors.too_many(path, n, max);
    }
}

/// What is done to a running container when its resources change.
pub(super) fn check_resize(errors: &mut ErrorList, container: &Value, path: &Path, spec: &Value) {
    let at = path.child("resizePolicy");
    let mut seen = HashSet::new();
    for (i, policy) in items(&container["resizePolicy"]).iter().enumerate() {
        let (resource, restart) = (text(&policy["resourceName"]), text(&policy["restartPolicy"]));
        if !seen.insert(resource) {
            errors.duplicate(&at.index(i), &json!(resource));
        }
        one_of(errors, &at, &policy["resourceName"], &["cpu", "memory"]);
        one_of(errors, &at, &policy["restartPolicy"], &["NotRequired", "RestartContainer"]);
        if spec["restartPolicy"] == "Never" && restart != "NotRequired" {
            let why = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid_str(&at, restart, why);
        }
    }
}
