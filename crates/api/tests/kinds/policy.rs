//! Budgets, priorities, quotas, limits, and classes of runtimes.

use super::*;

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn budgets() {
    let budgets = kind("policy/v1", "PodDisruptionBudget");
    let base = json!({"metadata": {"name": "b", "namespace": "d"}, "spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}});
    creates(
        budgets,
        &base,
        "spec.",
        &[
            (
                of(json!({"maxUnavailable": 1})),
                &[
                    "spec: Invalid value: {\"minAvailable\":1,\"selector\":{\"matchLabels\":{\"a\":\"b\"}},\"maxUnavailable\":1}: minAvailable and maxUnavailable cannot be both set",
                ],
            ),
            (
                of(json!({"minAvailable": "x%"})),
                &[
                    "minAvailable: Invalid value: \"x%\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                ],
            ),
            (
                of(json!({"minAvailable": "101%"})),
                &["minAvailable: Invalid value: \"101%\": must not be greater than 100%"],
            ),
            (
                of(json!({"minAvailable": -1})),
                &["minAvailable: Invalid value: -1: must be greater than or equal to 0"],
            ),
            (
                of(json!({"selector": {"matchExpressions": [{"key": "a", "operator": "Odd"}]}})),
                &[
                    "selector.matchExpressions[0].operator: Invalid value: \"Odd\": not a valid selector operator",
                ],
            ),
            (
                of(json!({"unhealthyPodEvictionPolicy": "Never"})),
                &[
                    "unhealthyPodEvictionPolicy: Unsupported value: \"Never\": supported values: \"AlwaysAllow\", \"IfHealthyBudget\"",
                ],
            ),
        ],
    );
    updates(
        budgets,
        &base,
        "status",
        "status.",
        &[
            (
                json!({"status": {"disruptionsAllowed": -1, "currentHealthy": -1, "desiredHealthy": -1, "expectedPods": -1}}),
                &[
                    "disruptionsAllowed: Invalid value: -1: must be greater than or equal to 0",
                    "currentHealthy: Invalid value: -1: must be greater than or equal to 0",
                    "desiredHealthy: Invalid value: -1: must be greater than or equal to 0",
                    "expectedPods: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                json!({"status": {"conditions": [{"type": "", "status": "x", "reason": "a b", "lastTransitionTime": null}]}}),
                &[
                    "conditions[0].type: Invalid value: \"\": name part must be non-empty",
                    "conditions[0].type: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "conditions[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\"",
                    "conditions[0].lastTransitionTime: Required value",
                    "conditions[0].reason: Invalid value: \"a b\": a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName',  or 'ReasonA,ReasonB',  or 'ReasonA:ReasonB', regex used for validation is '[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?')",
                ],
            ),
        ],
    );
}

#[test]
fn priorities() {
    let classes = kind("scheduling.k8s.io/v1", "PriorityClass");
    let base = json!({"metadata": {"name": "c"}, "value": 1});
    assert_eq!(made(classes, &base)["metadata"]["generation"], 1);
    creates(
        classes,
        &base,
        "",
        &[
            (
                json!({"value": 1000000001}),
                &["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"],
            ),
            (
                json!({"metadata": {"name": "system-x"}}),
                &[
                    "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: system-x is not a known system priority class",
                ],
            ),
            (
                json!({"preemptionPolicy": "Maybe"}),
                &[
                    "preemptionPolicy: Unsupported value: \"Maybe\": supported values: \"Never\", \"PreemptLowerPriority\"",
                ],
            ),
        ],
    );
    updates(
        classes,
        &base,
        "",
        "",
        &[
            (
                json!({"value": 2, "preemptionPolicy": "Never"}),
                &[
                    "value: Forbidden: may not be changed in an update.",
                    "preemptionPolicy: Invalid value: \"Never\": field is immutable",
                ],
            ),
            (json!({"description": "x"}), &[]),
        ],
    );
}

#[test]
fn quotas() {
    let quotas = kind("v1", "ResourceQuota");
    let base = json!({"metadata": {"name": "q", "namespace": "d"}});
    creates(
        quotas,
        &base,
        "spec.",
        &[
            (
                of(
                    json!({"hard": {"pods": "-1", "requests.example.com/gpu": "1.5", "a b": "1", "cpu": "1.5"}}),
                ),
                &[
                    "hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "hard[a b]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "hard[a b]: Invalid value: \"a b\": must be a standard resource for quota",
                ],
            ),
            (
                of(json!({"hard": {"services": "1"}, "scopes": ["BestEffort", "NotBestEffort", "Odd"]})),
                &[
                    "scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope applied to resource",
                    "scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope applied to resource",
                    "scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: unsupported scope",
                    "scopes: Invalid value: [\"BestEffort\",\"NotBestEffort\",\"Odd\"]: conflicting scopes",
                ],
            ),
            (
                of(
                    json!({"scopeSelector": {"matchExpressions": [{"scopeName": "PriorityClass", "operator": "In"}, {"scopeName": "BestEffort", "operator": "In", "values": ["a"]}, {"scopeName": "Odd", "operator": "x"}]}}),
                ),
                &[
                    "scopeSelector.matchExpressions.values: Required value: must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
                    "scopeSelector.matchExpressions.operator: Invalid value: \"In\": must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity",
                    "scopeSelector.matchExpressions.scopeName: Invalid value: \"Odd\": unsupported scope",
                    "scopeSelector.matchExpressions.operator: Invalid value: \"x\": not a valid selector operator",
                ],
            ),
        ],
    );
    updates(
        quotas,
        &base,
        "",
        "spec.",
        &[
            (of(json!({"hard": {"pods": "1"}})), &[]),
            (
                of(json!({"scopes": ["BestEffort"]})),
                &["scopes: Invalid value: [\"BestEffort\"]: field is immutable"],
            ),
        ],
    );
    updates(
        quotas,
        &base,
        "status",
        "status.",
        &[(
            json!({"status": {"hard": {"pods": "-1"}, "used": {"a b": "1"}}}),
            &[
                "hard[pods]: Invalid value: \"-1\": must be greater than or equal to 0",
                "used[a b]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "used[a b]: Invalid value: \"a b\": must be a standard resource for quota",
            ],
        )],
    );
}

#[test]
fn limits() {
    let limits = |limits: Value| of(json!({"limits": limits}));
    creates(
        kind("v1", "LimitRange"),
        &json!({"metadata": {"name": "l", "namespace": "d"}}),
        "spec.limits[0]",
        &[
            (
                limits(json!([{"type": "Pod", "default": {"cpu": "1"}, "defaultRequest": {"cpu": "1"}}])),
                &[
                    ".default: Forbidden: may not be specified when `type` is 'Pod'",
                    ".defaultRequest: Forbidden: may not be specified when `type` is 'Pod'",
                ],
            ),
            (
                limits(json!([{"type": "Container", "max": {"cpu": "1"}, "min": {"cpu": "2"}}])),
                &[
                    ".min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
                    ".defaultRequest[cpu]: Invalid value: \"1\": min value 2 is greater than default request value 1",
                    ".default[cpu]: Invalid value: \"2\": min value 2 is greater than default value 1",
                ],
            ),
            (
                limits(
                    json!([{"type": "Container", "max": {"cpu": "1"}, "default": {"cpu": "2"}, "defaultRequest": {"cpu": "3"}}]),
                ),
                &[
                    ".defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than max value 1",
                    ".defaultRequest[cpu]: Invalid value: \"3\": default request value 3 is greater than default limit value 2",
                    ".default[cpu]: Invalid value: \"1\": default value 2 is greater than max value 1",
                ],
            ),
            (
                limits(json!([{"type": "Container", "maxLimitRequestRatio": {"cpu": "500m"}}])),
                &[".maxLimitRequestRatio[cpu]: Invalid value: \"500m\": ratio 500m is less than 1"],
            ),
            (
                limits(
                    json!([{"type": "Container", "max": {"cpu": "2"}, "min": {"cpu": "1"}, "maxLimitRequestRatio": {"cpu": "3"}}]),
                ),
                &[
                    ".maxLimitRequestRatio[cpu]: Invalid value: \"3\": ratio 3 is greater than max/min = 2.000000",
                ],
            ),
            (
                limits(json!([{"type": "PersistentVolumeClaim"}])),
                &[
                    ".limits: Required value: either minimum or maximum storage value is required, but neither was provided",
                ],
            ),
            (
                limits(json!([{"type": "Pod"}, {"type": "Pod"}])),
                &["spec.limits[1].type: Duplicate value: \"Pod\""],
            ),
            (
                limits(json!([{"type": "Disk"}])),
                &[".type: Invalid value: \"Disk\": must be a standard limit type or fully qualified"],
            ),
        ],
    );
}

#[test]
fn runtimes() {
    let classes = kind("node.k8s.io/v1", "RuntimeClass");
    let base = json!({"metadata": {"name": "r"}, "handler": "h"});
    creates(
        classes,
        &base,
        "",
        &[
            (
                json!({"handler": "A"}),
                &[
                    "handler: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                json!({"overhead": {"podFixed": {"cpu": "-1", "a b": "1"}}}),
                &[
                    "overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0",
                    "overhead.limits[a b]: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "overhead.limits[a b]: Invalid value: \"a b\": must be a standard resource for containers",
                ],
            ),
            (
                json!({"scheduling": {"nodeSelector": {"a b": "c"}, "tolerations": [{"key": "a", "operator": "Exists", "value": "x"}]}}),
                &[
                    "scheduling.nodeSelector: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "scheduling.tolerations[0].operator: Invalid value: \"x\": value must be empty when `operator` is 'Exists'",
                ],
            ),
            (
                json!({"scheduling": {"tolerations": [{"key": "a"}, {"key": "a"}]}}),
                &["scheduling.tolerations[1]: Duplicate value: {\"key\":\"a\"}"],
            ),
        ],
    );
    updates(
        classes,
        &base,
        "",
        "",
        &[(json!({"handler": "i"}), &["handler: Invalid value: \"i\": field is immutable"])],
    );
    let leases = kind("coordination.k8s.io/v1", "Lease");
    let base = json!({"metadata": {"name": "l", "namespace": "d"}});
    creates(
        leases,
        &base,
        "spec.",
        &[
            (
                of(json!({"leaseDurationSeconds": 0, "leaseTransitions": -1})),
                &[
                    "leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                    "leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (of(json!({"holderIdentity": ""})), &[]),
        ],
    );
    let made = made(
        leases,
        &merged(&base, &of(json!({"strategy": "x", "preferredHolder": "y", "holderIdentity": "z"}))),
    );
    assert_eq!(made["spec"], json!({"holderIdentity": "z"}), "candidates are no default feature");
}
