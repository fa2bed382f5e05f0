//! Pods, and the templates that hold them.

use std::borrow::Cow;
use std::collections::HashSet;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Part, Strategy, podspec};
use crate::field::{ErrorList, Path};
use crate::{duration, meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "pods",
        answers_deleted: true,
        short: &["po"],
        categories: &["all"],
        strategy: || Arc::new(Pod),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Ready"),
                Column::text("Status"),
                Column::text("Restarts"),
                Column::text("Age"),
                Column::text("IP").wide(),
                Column::text("Node").wide(),
                Column::text("Nominated Node").wide(),
                Column::text("Readiness Gates").wide(),
            ],
            cells,
        },
        ..PLAIN
    },
    Decl {
        resource: "podtemplates",
        answers_deleted: true,
        template: Some("/template"),
        strategy: || Arc::new(PodTemplate),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Containers"),
                Column::text("Images"),
                Column::text("Pod Labels"),
            ],
            cells: |o, _| {
                let template = &o["template"];
                let [names, images] = containers_cells(&template["spec"]);
                let labels = crate::selector::Label::from_match_labels(&template["metadata"]["labels"]);
                vec![name_cell(o), names, images, or_none(&labels.to_string())]
            },
        },
        ..PLAIN
    },
];

struct PodTemplate;

impl Strategy for PodTemplate {
    fn default(&self, obj: &mut Value) {
        if let Some(spec) =
            obj.get_mut("template").and_then(|t| t.get_mut("spec")).and_then(Value::as_object_mut)
        {
            podspec::default(spec);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        podspec::validate_template(&mut errors, &obj["template"], &Path::new("template"));
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

struct Pod;

const SELECTABLE: &[Cow<'static, str>] = &[
    Cow::Borrowed("spec.nodeName"),
    Cow::Borrowed("spec.restartPolicy"),
    Cow::Borrowed("spec.schedulerName"),
    Cow::Borrowed("spec.serviceAccountName"),
    Cow::Borrowed("spec.hostNetwork"),
    Cow::Borrowed("status.phase"),
    Cow::Borrowed("status.podIP"),
    Cow::Borrowed("status.podIPs"),
    Cow::Borrowed("status.nominatedNodeName"),
];

impl Strategy for Pod {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        podspec::default(spec);
        podspec::default_pod_only(spec);
        if let Some(status) = obj.get_mut("status").and_then(Value::as_object_mut) {
            first_of_list(status, "podIP", "podIPs", |ip| json!({"ip": ip}));
        }
    }

    fn prepare_create(&self, obj: &mut Value) {
        let class = podspec::qos_class(&obj["spec"]);
        let mut status = json!({"phase": "Pending", "qosClass": class});
        if !empty(&obj["spec"]["schedulingGates"]) {
            status["conditions"] = json!([{
                "type": "PodScheduled",
                "status": "False",
                "reason": "SchedulingGated",
                "message": "Scheduling is blocked due to non-empty scheduling gates",
            }]);
        }
        meta::as_map(obj).insert("status".to_owned(), status);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        podspec::validate_pod(&mut errors, obj);
        errors
    }

    fn validate_create(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        podspec::validate_new_pod(&mut errors, obj);
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        podspec::validate_update(new, old)
    }

    fn validate_status(&self, new: &Value, old: &Value) -> ErrorList {
        podspec::validate_status(new, old)
    }

    /// Of pods that run somewhere; whoever has never begun, or has ended, needs no time for it.
    fn grace(&self, obj: &Value, asked: Option<i64>) -> i64 {
        let ended = matches!(text(&obj["status"]["phase"]), "Succeeded" | "Failed");
        if text(&obj["spec"]["nodeName"]).is_empty() || ended {
            return 0;
        }
        asked.unwrap_or_else(|| obj["spec"]["terminationGracePeriodSeconds"].as_i64().unwrap_or(30))
    }

    fn part(&self, subresource: &str) -> Option<Part> {
        match subresource {
            "ephemeralcontainers" => Some(Part { put: put_ephemeral, validate: podspec::validate_ephemeral }),
            "resize" => Some(Part { put: put_resources, validate: podspec::validate_resize }),
            _ => None,
        }
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::dns_subdomain_name(name, prefix)
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SELECTABLE
    }

    /// Kubelets that do not know of its class or of generations do not take them away.
    fn prepare_status(&self, new: &mut Value, old: &Value) {
        const SEEN: &str = "observedGeneration";
        let (n, o) = (meta::child(new, "status"), &old["status"]);
        if !empty(&o["qosClass"]) {
            set_text(n, "qosClass", text(&o["qosClass"]));
        }
        let keep = |to: &mut crate::Map, from: &Value| {
            if int(&from[SEEN]) != 0 && to.get(SEEN).is_none_or(|seen| int(seen) == 0) {
                to.insert(SEEN.to_owned(), from[SEEN].clone());
            }
        };
        keep(n, o);
        // There may be several of a type; they are told apart by their order.
        let mut before: Vec<&Value> = items(&o["conditions"]).iter().collect();
        for condition in each(n, "conditions") {
            if let Some(at) = before.iter().position(|c| Some(&c["type"]) == condition.get("type")) {
                keep(condition, before.remove(at));
            }
        }
    }

    /// What the field was called once.
    fn field_alias(&self, field: &str) -> Option<&'static str> {
        (field == "spec.host").then_some("spec.nodeName")
    }
}

fn put_ephemeral(sent: &Value, into: &mut Value) {
    let spec = meta::child(into, "spec");
    match sent["spec"].get("ephemeralContainers") {
        Some(list) => spec.insert("ephemeralContainers".to_owned(), list.clone()),
        None => spec.shift_remove("ephemeralContainers"),
    };
}

/// The lists whose containers can be resized: of the init containers only those that go on running.
const RESIZED: [&str; 2] = ["containers", "initContainers"];

fn put_resources(sent: &Value, into: &mut Value) {
    let spec = meta::child(into, "spec");
    for list in RESIZED {
        let wanted = podspec::by_name(&sent["spec"][list]);
        for c in each(spec, list) {
            let name = c.get("name").map_or("", text);
            let Some(other) = wanted.get(name) else { continue };
            for field in ["resources", "resizePolicy"] {
                match other.get(field) {
                    Some(v) => c.insert(field.to_owned(), v.clone()),
                    None => c.shift_remove(field),
                };
            }
        }
    }
}

fn condition<'a>(pod: &'a Value, kind: &str) -> Option<&'a Value> {
    items(&pod["status"]["conditions"]).iter().find(|c| c["type"] == kind)
}

fn ended(terminated: &Value) -> String {
    let signal = int(&terminated["signal"]);
    if !text(&terminated["reason"]).is_empty() {
        text(&terminated["reason"]).to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", int(&terminated["exitCode"]))
    }
}

/// What `kubectl get pods` says of a pod: how many containers are ready, the one word for its state, its restarts.
fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let (spec, status) = (&pod["spec"], &pod["status"]);
    let phase = text(&status["phase"]);
    let mut reason =
        if text(&status["reason"]).is_empty() { phase } else { text(&status["reason"]) }.to_owned();
    if condition(pod, "PodScheduled").is_some_and(|c| c["reason"] == "SchedulingGated") {
        "SchedulingGated".clone_into(&mut reason);
    }
    let inits = items(&spec["initContainers"]);
    let sidecars: HashSet<&str> =
        inits.iter().filter(|c| c["restartPolicy"] == "Always").map(|c| text(&c["name"])).collect();
    let sidecar = |name: &Value| sidecars.contains(text(name));
    let total =
        items(&spec["containers"]).len() + inits.iter().filter(|c| c["restartPolicy"] == "Always").count();
    let (mut ready, mut restarts, mut sidecar_restarts) = (0, 0, 0);
    let (mut last, mut sidecar_last): (Option<Timestamp>, Option<Timestamp>) = (None, None);
    let finished = |s: &Value| text(&s["lastState"]["terminated"]["finishedAt"]).parse::<Timestamp>().ok();
    let mut initializing = false;
    for (i, s) in items(&status["initContainerStatuses"]).iter().enumerate() {
        restarts += int(&s["restartCount"]);
        last = last.max(finished(s));
        let is_sidecar = sidecar(&s["name"]);
        if is_sidecar {
            sidecar_restarts += int(&s["restartCount"]);
            sidecar_last = sidecar_last.max(finished(s));
        }
        let state = &s["state"];
        let terminated = &state["terminated"];
        if !terminated.is_null() && int(&terminated["exitCode"]) == 0 {
            continue;
        }
        if is_sidecar && s["started"] == true {
            ready += usize::from(s["ready"] == true);
            continue;
        }
        let waiting = text(&state["waiting"]["reason"]);
        reason = if !terminated.is_null() {
            format!("Init:{}", ended(terminated))
        } else if !waiting.is_empty() && waiting != "PodInitializing" {
            format!("Init:{waiting}")
        } else {
            format!("Init:{i}/{}", inits.len())
        };
        initializing = true;
        break;
    }
    if !initializing || condition(pod, "Initialized").is_some_and(|c| c["status"] == "True") {
        restarts = sidecar_restarts;
        last = sidecar_last;
        let mut running = false;
        let mut failed = None;
        for s in items(&status["containerStatuses"]).iter().rev() {
            restarts += int(&s["restartCount"]);
            last = last.max(finished(s));
            let state = &s["state"];
            let waiting = text(&state["waiting"]["reason"]);
            if !waiting.is_empty() {
                waiting.clone_into(&mut reason);
            } else if !state["terminated"].is_null() {
                reason = ended(&state["terminated"]);
                if int(&state["terminated"]["exitCode"]) != 0 {
                    failed = Some(reason.clone());
                }
            } else if s["ready"] == true && !state["running"].is_null() {
                running = true;
                ready += 1;
            }
        }
        if reason == "Completed" {
            let is_ready = condition(pod, "Ready").is_some_and(|c| c["status"] == "True");
            reason = match failed {
                _ if running && is_ready => "Running".to_owned(),
                Some(failed) => failed,
                None if running => "NotReady".to_owned(),
                None => reason,
            };
        }
    }
    if meta::is_deleting(pod) {
        if status["reason"] == "NodeLost" {
            "Unknown".clone_into(&mut reason);
        } else if phase != "Failed" && phase != "Succeeded" {
            "Terminating".clone_into(&mut reason);
        }
    }
    let restarts = match last {
        Some(at) if restarts != 0 => format!("{restarts} ({} ago)", duration::age(Some(at), now)),
        _ => restarts.to_string(),
    };
    let ip =
        items(&status["podIPs"]).first().map(|p| text(&p["ip"])).unwrap_or_else(|| text(&status["podIP"]));
    let gates = items(&spec["readinessGates"]);
    let passed = gates
        .iter()
        .filter(|g| condition(pod, text(&g["conditionType"])).is_some_and(|c| c["status"] == "True"));
    let gates =
        if gates.is_empty() { "<none>".to_owned() } else { format!("{}/{}", passed.count(), gates.len()) };
    vec![
        name_cell(pod),
        json!(format!("{ready}/{total}")),
        json!(reason),
        json!(restarts),
        age_cell(pod, now),
        or_none(ip),
        or_none(text(&spec["nodeName"])),
        or_none(text(&status["nominatedNodeName"])),
        json!(gates),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    fn at(s: &str) -> Timestamp {
        s.parse().unwrap()
    }

    #[test]
    fn cells_say_what_the_pod_does() {
        let now = at("2024-01-01T00:10:00Z");
        let base = json!({"metadata": {"name": "p", "creationTimestamp": "2024-01-01T00:00:00Z"}, "spec": {"containers": [{}], "nodeName": "n"}});
        let completed = json!({"state": {"terminated": {"reason": "Completed", "exitCode": 0}}});
        let failed = json!({"state": {"terminated": {"reason": "Error", "exitCode": 1}}});
        let runs = json!({"ready": true, "state": {"running": {}}});
        for (status, ready, word, restarts) in [
            (json!({"phase": "Pending"}), "0/1", "Pending", "0"),
            (
                json!({"phase": "Pending", "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}]}),
                "0/1",
                "ContainerCreating",
                "0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 0, "state": {"running": {}}}]}),
                "1/1",
                "Running",
                "0",
            ),
            (
                json!({"phase": "Running", "containerStatuses": [{"ready": true, "restartCount": 2, "state": {"running": {}}, "lastState": {"terminated": {"finishedAt": "2024-01-01T00:09:00Z"}}}]}),
                "1/1",
                "Running",
                "2 (60s ago)",
            ),
            (
                json!({"phase": "Succeeded", "containerStatuses": [{"state": {"terminated": {"reason": "Completed", "exitCode": 0}}}]}),
                "0/1",
                "Completed",
                "0",
            ),
            (
                json!({"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 3}}}]}),
                "0/1",
                "ExitCode:3",
                "0",
            ),
            (json!({"phase": "Failed", "reason": "Evicted"}), "0/1", "Evicted", "0"),
            (json!({"phase": "Failed", "containerStatuses": [completed, failed]}), "0/1", "Error", "0"),
            (
                json!({"phase": "Running", "containerStatuses": [completed, failed, runs]}),
                "1/1",
                "Error",
                "0",
            ),
            (json!({"phase": "Running", "containerStatuses": [completed, runs]}), "1/1", "NotReady", "0"),
            (
                json!({"phase": "Running", "containerStatuses": [completed, failed, runs],
                    "conditions": [{"type": "Ready", "status": "True"}]}),
                "1/1",
                "Running",
                "0",
            ),
        ] {
            let mut pod = base.clone();
            pod["status"] = status;
            let cells = cells(&pod, now);
            assert_eq!(
                cells[1..5],
                [json!(ready), json!(word), json!(restarts), json!("10m")],
                "{}",
                pod["status"]
            );
        }
        let mut init = base.clone();
        init["spec"]["initContainers"] = json!([{"name": "a"}, {"name": "b"}]);
        init["status"] = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "a", "state": {"terminated": {"exitCode": 0}}}, {"name": "b", "state": {"running": {}}}]});
        assert_eq!(cells(&init, now)[2], "Init:1/2");
        init["metadata"]["deletionTimestamp"] = json!("2024-01-01T00:00:00Z");
        assert_eq!(cells(&init, now)[2], "Terminating");
    }

    #[test]
    fn a_pod_is_defaulted_and_valid() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "d"}, "status": {"phase": "Running"},
            "spec": {"containers": [{"name": "c", "image": "busybox", "ports": [{"containerPort": 80}],
                "livenessProbe": {"httpGet": {"port": 80}}}], "volumes": [{"name": "v"}]}});
        kind.default(&mut pod);
        kind.prepare_create(&mut pod);
        assert_eq!(kind.validate_create(&pod).message(), "[]");
        let spec = &pod["spec"];
        assert_eq!(spec["restartPolicy"], "Always");
        assert_eq!(spec["containers"][0]["imagePullPolicy"], "Always");
        assert_eq!(
            spec["containers"][0]["livenessProbe"],
            json!({"httpGet": {"port": 80, "path": "/", "scheme": "HTTP"},
            "timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3})
        );
        assert_eq!(spec["volumes"][0], json!({"name": "v", "emptyDir": {}}));
        assert_eq!(pod["status"], json!({"phase": "Pending", "qosClass": "BestEffort"}));
        assert_eq!(pod["metadata"]["generation"], 1);
        let before = pod.clone();
        kind.default(&mut pod);
        assert_eq!(pod, before, "defaulting twice changes nothing");
    }

    #[test]
    fn what_is_wrong_is_said_in_upstream_s_words() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        for (patch, want) in [
            (json!({"spec": {"containers": []}}), "spec.containers: Required value"),
            (
                json!({"metadata": {"name": "X_"}}),
                "metadata.name: Invalid value: \"X_\": a lowercase RFC 1123 subdomain must consist of",
            ),
            (
                json!({"spec": {"restartPolicy": "Maybe"}}),
                "spec.restartPolicy: Unsupported value: \"Maybe\": supported values: \"Always\", \"Never\", \"OnFailure\"",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b"}, {"name": "a", "image": "b"}]}}),
                "spec.containers[1].name: Duplicate value: \"a\"",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "volumeMounts": [{"name": "v", "mountPath": "/x"}]}]}}),
                "spec.containers[0].volumeMounts[0].name: Not found: \"v\"",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 70000}]}]}}),
                "spec.containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
            ),
            (
                json!({"spec": {"containers": [{"name": "a", "image": "b", "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}}]}}),
                "spec.containers[0].resources.requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1",
            ),
            (
                json!({"metadata": {"labels": {"a b": "c"}}}),
                "metadata.labels: Invalid value: \"a b\": name part must consist of",
            ),
        ] {
            let mut pod = json!({"metadata": {"name": "a", "namespace": "d"}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
            crate::patch::merge_patch(&mut pod, &patch);
            kind.default(&mut pod);
            let message = kind.validate_create(&pod).message();
            assert!(message.starts_with(want), "{message}");
        }
    }

    #[test]
    fn a_pod_s_spec_is_almost_immutable() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let mut old = json!({"metadata": {"name": "a", "namespace": "d", "generation": 1}, "spec": {"containers": [{"name": "a", "image": "b"}]}});
        kind.default(&mut old);
        for (patch, ok) in [
            (json!({"spec": {"containers": [{"name": "a", "image": "c"}]}}), true),
            (json!({"spec": {"activeDeadlineSeconds": 5}}), true),
            (json!({"spec": {"tolerations": [{"operator": "Exists"}]}}), true),
            (json!({"spec": {"hostname": "x"}}), false),
            (json!({"metadata": {"labels": {"a": "b"}}}), true),
            (json!({"metadata": {"name": "b"}}), false),
        ] {
            let mut new = old.clone();
            crate::patch::merge_patch(&mut new, &patch);
            kind.default(&mut new);
            kind.prepare_update(&mut new, &old, "");
            assert_eq!(kind.validate_update(&new, &old, "").is_empty(), ok, "{patch}");
            let raised = new["metadata"]["generation"] == 2;
            assert_eq!(raised, patch.get("spec").is_some());
        }
        let mut debugged = old.clone();
        debugged["spec"]["ephemeralContainers"] = json!([{"name": "e", "image": "b"}]);
        kind.default(&mut debugged);
        assert!(!kind.validate_update(&debugged, &old, "").is_empty());
        assert!(kind.validate_update(&debugged, &old, "ephemeralcontainers").is_empty());
    }

    #[test]
    fn a_status_without_generations_takes_none_away() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let pod = |status: Value| json!({"metadata": {"name": "p", "namespace": "n"}, "spec": {}, "status": status});
        let condition = |kind: &str, seen: Option<i64>| {
            let mut condition = json!({"type": kind, "status": "True"});
            if let Some(seen) = seen {
                condition["observedGeneration"] = json!(seen);
            }
            condition
        };
        let old = pod(json!({"qosClass": "Burstable", "observedGeneration": 3,
            "conditions": [condition("Ready", Some(2)), condition("a", Some(1)), condition("a", Some(2)), condition("b", None)]}));
        let mut new = pod(json!({"phase": "Running",
            "conditions": [condition("a", None), condition("b", None), condition("a", None), condition("Ready", Some(4))]}));
        kind.prepare_update(&mut new, &old, "status");
        assert_eq!(
            new["status"],
            json!({"phase": "Running", "qosClass": "Burstable", "observedGeneration": 3,
                "conditions": [condition("a", Some(1)), condition("b", None), condition("a", Some(2)), condition("Ready", Some(4))]})
        );
    }

    #[test]
    fn the_node_of_a_pod_is_selected_by_its_old_name_too() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let pod = json!({"spec": {"nodeName": "n1"}});
        for (text, want) in [("spec.nodeName=n1", true), ("spec.host=n1", true), ("spec.host!=n1", false)] {
            assert_eq!(kind.field_selector(text).unwrap().matches(&pod), want, "{text}");
        }
    }

    #[test]
    fn only_pods_that_run_have_grace() {
        let (pods, maps) = (kinds::by_gvr(&gvr::PODS).unwrap(), kinds::by_gvr(&gvr::CONFIG_MAPS).unwrap());
        let pod = |node: &str, phase: &str| json!({"spec": {"nodeName": node, "terminationGracePeriodSeconds": 7}, "status": {"phase": phase}});
        for (kind, object, asked, want) in [
            (pods, pod("n", "Running"), None, 7),
            (pods, pod("n", "Running"), Some(0), 0),
            (pods, pod("n", "Running"), Some(3), 3),
            (pods, pod("", "Pending"), None, 0),
            (pods, pod("n", "Failed"), None, 0),
            (maps, json!({}), Some(5), 0),
        ] {
            assert_eq!(kind.strategy.grace(&object, asked), want, "{object}");
        }
    }

    #[test]
    fn parts_of_a_pod_have_rules_of_their_own() {
        let kind = kinds::by_gvr(&gvr::PODS).unwrap();
        let mut old = json!({"metadata": {"name": "a", "namespace": "d", "generation": 1, "labels": {"l": "1"}},
            "spec": {"containers": [{"name": "a", "image": "b", "resources": {
                "requests": {"cpu": "1", "memory": "1Gi", "x.io/y": "1"}, "limits": {"memory": "2Gi", "x.io/y": "1"}}}],
                "initContainers": [{"name": "i", "image": "b"}],
                "ephemeralContainers": [{"name": "e", "image": "b"}]},
            "status": {"qosClass": "Burstable"}});
        kind.default(&mut old);
        let change = |subresource: &str, patch: &Value| {
            let mut new = old.clone();
            crate::patch::merge_patch(&mut new, patch);
            kind.default(&mut new);
            kind.prepare_update(&mut new, &old, subresource);
            let message = kind.validate_update(&new, &old, subresource).message();
            (new, message)
        };
        let sized = |resources: Value| json!({"spec": {"containers": [{"name": "a", "image": "z", "resources": resources}]}});
        let extra = |amounts: Value| {
            let mut all = json!({"requests": {"cpu": "1", "memory": "1Gi", "x.io/y": "1"},
                "limits": {"memory": "2Gi", "x.io/y": "1"}});
            crate::patch::merge_patch(&mut all, &amounts);
            sized(all)
        };
        let (grown, message) = change("resize", &extra(json!({"requests": {"cpu": "2"}})));
        assert_eq!(message, "[]");
        assert_eq!(grown["spec"]["containers"][0]["resources"]["requests"]["cpu"], "2");
        assert_eq!(grown["spec"]["containers"][0]["image"], "b", "only resources change");
        assert_eq!(
            (&grown["metadata"]["generation"], &grown["metadata"]["labels"]["l"]),
            (&json!(2), &json!("1"))
        );
        let three = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "b"}, {"name": "f", "image": "b"}]}});
        let (more, message) = change("ephemeralcontainers", &three);
        assert_eq!((message.as_str(), &more["metadata"]["generation"]), ("[]", &json!(2)));
        let mut running = old.clone();
        running["status"]["containerStatuses"] = json!([{"name": "a", "state": {"running": {}}}]);
        for (subresource, patch, want) in [
            ("resize", extra(json!({"requests": {"cpu": "-1"}})), "must be greater than or equal to 0"),
            (
                "resize",
                extra(json!({"requests": {"memory": "3Gi"}})),
                "must be less than or equal to memory limit of 2Gi",
            ),
            (
                "resize",
                extra(json!({"requests": {"cpu": null}})),
                "requests: Forbidden: resource requests cannot be removed",
            ),
            ("resize", sized(json!({})), "Pod QOS Class may not change as a result of resizing"),
            (
                "resize",
                extra(json!({"requests": {"x.io/y": "2"}, "limits": {"x.io/y": "2"}})),
                "spec: Forbidden: only cpu and memory resources are mutable",
            ),
            (
                "resize",
                json!({"spec": {"initContainers": [{"name": "i", "image": "b", "resources": {"requests": {"cpu": "1"}}}]}}),
                "resources for non-sidecar init containers are immutable",
            ),
            ("ephemeralcontainers", json!({"spec": {"ephemeralContainers": []}}), "\"e\" may not be removed"),
            (
                "ephemeralcontainers",
                json!({"spec": {"ephemeralContainers": null}}),
                "\"e\" may not be removed",
            ),
            (
                "ephemeralcontainers",
                json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "c"}]}}),
                "\"e\" may not be changed",
            ),
            (
                "ephemeralcontainers",
                json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "b"}, {"name": "a", "image": "b"}]}}),
                "spec.ephemeralContainers[1].name: Duplicate value: \"a\"",
            ),
        ] {
            let (_, message) = change(subresource, &patch);
            assert!(message.contains(want), "{patch}: {message}");
        }
        let message = kind.validate_update(&running, &running, "resize").message();
        assert!(message.contains("Pod running on node without support for resize"), "{message}");
        running["status"]["containerStatuses"][0]["resources"] = json!({});
        assert_eq!(kind.validate_update(&running, &running, "resize").message(), "[]");
    }
}
