//! Nodes, namespaces, and statuses of pods.

use super::*;

fn node() -> Value {
    json!({"metadata": {"name": "n"}})
}

#[test]
fn nodes_alone() {
    let of = |spec: Value| json!({"spec": spec});
    let node_kind = kind("v1", "Node");
    assert_eq!(
        made(node_kind, &merged(&node(), &of(json!({"podCIDR": "10.0.0.0/24"}))))["spec"]["podCIDRs"],
        json!(["10.0.0.0/24"])
    );
    creates(
        node_kind,
        &node(),
        "",
        &[
            (of(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.0.0/24", "fd00::/64"]})), &[]),
            (of(json!({"podCIDR": "10.0.0.0/24", "podCIDRs": ["10.0.1.0/24"]})), &[]),
            (
                of(json!({"podCIDRs": ["10.0.0.0/24", "10.0.1.0/24"]})),
                &[
                    "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"10.0.1.0/24\"]: may specify no more than one CIDR for each IP family",
                ],
            ),
            (
                of(json!({"podCIDRs": ["10.0.0.0/24", "fd00::/64", "fd01::/64"]})),
                &[
                    "spec.podCIDRs: Invalid value: [\"10.0.0.0/24\",\"fd00::/64\",\"fd01::/64\"]: may specify no more than one CIDR for each IP family",
                ],
            ),
            (
                of(json!({"podCIDRs": ["10.0.0.1"]})),
                &[
                    "spec.podCIDRs[0]: Invalid value: \"10.0.0.1\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                of(json!({"podCIDRs": ["10.0.0.1/24"]})),
                &[
                    "spec.podCIDRs[0]: Invalid value: \"10.0.0.1/24\": must not have bits set beyond the prefix length",
                ],
            ),
            (
                of(
                    json!({"taints": [{"key": "a", "effect": "NoSchedule"}, {"key": "a", "effect": "NoSchedule"},
                    {"key": "", "effect": "Never", "value": "a b"}, {"key": "b"}]}),
                ),
                &[
                    "metadata.taints[1]: Duplicate value: {\"key\":\"a\",\"effect\":\"NoSchedule\"}: taints must be unique by key and effect pair",
                    "metadata.taints[2].key: Invalid value: \"\": name part must be non-empty",
                    "metadata.taints[2].key: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "metadata.taints[2].value: Invalid value: \"a b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                    "metadata.taints[2].effect: Unsupported value: \"Never\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"",
                    "metadata.taints[3].effect: Required value",
                ],
            ),
        ],
    );
}

#[test]
fn changes_of_nodes() {
    let node_kind = kind("v1", "Node");
    let old = merged(
        &node(),
        &json!({"spec": {"podCIDR": "10.0.0.0/24", "providerID": "a"},
        "status": {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}], "capacity": {"cpu": "1"}}}),
    );
    let mut old = made(node_kind, &old);
    old["status"] = json!({"capacity": {"cpu": "1"}});
    changes(
        node_kind,
        &old,
        "",
        "",
        &[
            (
                json!({"spec": {"podCIDR": "10.0.1.0/24", "podCIDRs": ["10.0.1.0/24"]}}),
                &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
            ),
            (
                json!({"spec": {"podCIDR": null, "podCIDRs": null}}),
                &["spec.podCIDRs: Forbidden: node updates may not change podCIDR except from \"\" to valid"],
            ),
            (
                json!({"spec": {"providerID": "b"}}),
                &[
                    "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                ],
            ),
            (
                json!({"spec": {"providerID": ""}}),
                &[
                    "spec.providerID: Forbidden: node updates may not change providerID except from \"\" to valid",
                ],
            ),
            (
                json!({"spec": {"externalID": "x", "unschedulable": true}}),
                &["spec.externalID: Forbidden: may not be updated"],
            ),
        ],
    );
    changes(
        node_kind,
        &old,
        "status",
        "status.",
        &[
            (
                json!({"status": {"addresses": [{"type": "InternalIP", "address": "1.2.3.4"}, {"type": "InternalIP", "address": "1.2.3.4"}]}}),
                &["addresses[1]: Duplicate value: {\"type\":\"InternalIP\",\"address\":\"1.2.3.4\"}"],
            ),
            (
                json!({"status": {"capacity": {"cpu": "-1", "example.com/gpu": "1.5", "a b": "1"}}}),
                &[
                    "capacity.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                    "capacity.example.com/gpu: Invalid value: \"1500m\": must be an integer",
                    "allocatable.cpu: Invalid value: \"-1\": must be greater than or equal to 0",
                    "allocatable.example.com/gpu: Invalid value: \"1500m\": must be an integer",
                ],
            ),
            (json!({"status": {"config": {"active": {}}}}), &[]),
            (
                json!({"status": {"config": {"assigned": {"configMap": {"namespace": "d", "name": "c", "uid": "u", "resourceVersion": "1", "kubeletConfigKey": "../k"}}}}}),
                &[],
            ),
            (
                json!({"status": {"declaredFeatures": ["b", "a", "a"]}}),
                &[
                    "declaredFeatures[0]: Invalid value: \"b\": invalid feature name \"b\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                    "declaredFeatures[1]: Invalid value: \"a\": list must be sorted alphabetically",
                    "declaredFeatures[1]: Invalid value: \"a\": invalid feature name \"a\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                    "declaredFeatures[2]: Duplicate value: \"a\"",
                    "declaredFeatures[2]: Invalid value: \"a\": invalid feature name \"a\": must start with an UpperCamelCase segment, with subsequent segments separated by '/' (e.g., MyFeature or MyFeature/mySubFeature), and contain only alphanumeric characters and slashes",
                ],
            ),
        ],
    );
}

#[test]
fn statuses_of_pods() {
    let pods = kind("v1", "Pod");
    let pod = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"containers": [{"name": "c", "image": "i",
        "resources": {"requests": {"cpu": "1"}}}]}});
    let old = made(pods, &pod);
    let container = |more: Value| {
        let status = merged(&json!({"name": "c", "image": "i", "imageID": "x", "ready": true}), &more);
        json!({"status": {"containerStatuses": [status]}})
    };
    changes(
        pods,
        &old,
        "status",
        "status.",
        &[
            (
                json!({"status": {"podIP": "10.0.0.1", "hostIP": "10.0.0.2", "hostIPs": [{"ip": "10.0.0.2"}]}}),
                &[],
            ),
            (json!({"status": {"podIP": "10.0.0.1", "podIPs": [{"ip": "10.0.0.2"}]}}), &[]),
            (
                json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}}),
                &[
                    "podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
                ],
            ),
            (
                json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}, {"ip": "fd00::2"}]}}),
                &[
                    "podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"fd00::1\"},{\"ip\":\"fd00::2\"}]: may specify no more than one IP for each IP family",
                ],
            ),
            (
                json!({"status": {"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.1"}]}}),
                &[
                    "podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.1\"}]: may specify no more than one IP for each IP family",
                ],
            ),
            (
                json!({"status": {"podIPs": [{"ip": "010.0.0.1"}]}}),
                &["podIPs[0]: Invalid value: \"010.0.0.1\": must not have leading 0s"],
            ),
            (
                json!({"status": {"hostIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}}),
                &["hostIPs[0].ip: Invalid value: \"10.0.0.2\": must be equal to `hostIP`"],
            ),
            (
                json!({"status": {"qosClass": "Guaranteed"}}),
                &["qosClass: Invalid value: \"Guaranteed\": field is immutable"],
            ),
            (
                container(json!({"user": {"linux": {"uid": -1, "gid": 0, "supplementalGroups": [0, -2]}}})),
                &[
                    "containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "containerStatuses[0].user.linux.supplementalGroups[1]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
                ],
            ),
            (container(json!({"user": {"linux": {"uid": 1, "gid": 1}}})), &[]),
            (
                container(json!({"allocatedResourcesStatus": [{"name": "cpu"}, {"name": "example.com/gpu"},
                    {"name": "example.com/gpu"}]})),
                &[
                    "containerStatuses[0].allocatedResourcesStatus[1].name: Invalid value: \"example.com/gpu\": must match one of the container's resource requests",
                    "containerStatuses[0].allocatedResourcesStatus[2].name: Invalid value: \"example.com/gpu\": must match one of the container's resource requests",
                ],
            ),
        ],
    );
}

#[test]
fn namespaces() {
    let kind = kind("v1", "Namespace");
    let old = made(kind, &json!({"metadata": {"name": "n"}}));
    changes(
        kind,
        &old,
        "status",
        "",
        &[
            (
                json!({"status": {"phase": "Terminating"}}),
                &[
                    "status.Phase: Invalid value: \"Terminating\": may only be 'Active' if `deletionTimestamp` is empty",
                ],
            ),
            (json!({"status": {"phase": "Active"}}), &[]),
        ],
    );
    changes(
        kind,
        &old,
        "finalize",
        "",
        &[(
            json!({"spec": {"finalizers": ["x", "example.com/f", "a b/c"]}}),
            &[
                "spec.finalizers[0]: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
                "spec.finalizers[2]: Invalid value: \"a b/c\": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                "spec.finalizers: Invalid value: \"x\": name is neither a standard finalizer name nor is it fully qualified",
                "spec.finalizers: Invalid value: \"a b/c\": prefix part a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        )],
    );
}
