//! What keeps pods running.

use super::*;

fn template() -> Value {
    json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}})
}

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

fn base() -> Value {
    json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template()}})
}

#[test]
fn deployments() {
    let deployment = kind("apps/v1", "Deployment");
    creates(
        deployment,
        &base(),
        "spec.",
        &[
            (
                of(json!({"replicas": -1, "minReadySeconds": -1, "revisionHistoryLimit": -1})),
                &[
                    "replicas: Invalid value: -1: must be greater than or equal to 0",
                    "minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                    "revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                of(json!({"minReadySeconds": 600})),
                &["progressDeadlineSeconds: Invalid value: 600: must be greater than minReadySeconds"],
            ),
            (
                of(json!({"selector": null})),
                &[
                    "selector: Required value",
                    "template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                of(json!({"selector": {"matchLabels": {"a": "c"}}})),
                &[
                    "template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ],
            ),
            (
                of(json!({"strategy": {"type": "Recreate", "rollingUpdate": {}}})),
                &[
                    "strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
                ],
            ),
            (
                of(json!({"strategy": {"type": "Blue"}})),
                &[
                    "strategy: Unsupported value: {\"Type\":\"Blue\",\"RollingUpdate\":null}: supported values: \"Recreate\", \"RollingUpdate\"",
                ],
            ),
            (
                of(json!({"strategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}})),
                &[
                    "strategy.rollingUpdate.maxUnavailable: Invalid value: 0: may not be 0 when `maxSurge` is 0",
                ],
            ),
            (
                of(json!({"strategy": {"rollingUpdate": {"maxUnavailable": "101%", "maxSurge": "x"}}})),
                &[
                    "strategy.rollingUpdate.maxSurge: Invalid value: \"x\": a valid percent string must be a numeric string followed by an ending '%' (e.g. '1%',  or '93%', regex used for validation is '[0-9]+%')",
                    "strategy.rollingUpdate.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
                ],
            ),
            (
                of(json!({"template": {"spec": {"restartPolicy": "Never"}}})),
                &["template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\""],
            ),
            (
                of(json!({"template": {"spec": {"activeDeadlineSeconds": 5}}})),
                &[
                    "template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in ReplicaSet is not Supported",
                ],
            ),
        ],
    );
    updates(
        deployment,
        &base(),
        "",
        "spec.",
        &[(
            of(json!({"selector": {"matchLabels": {"a": "c"}}})),
            &[
                "selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable",
                "template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        )],
    );
    updates(
        deployment,
        &base(),
        "status",
        "status.",
        &[
            (
                json!({"status": {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1, "updatedReplicas": 1}}),
                &[],
            ),
            (
                json!({"status": {"replicas": 1, "readyReplicas": 2, "availableReplicas": 3, "updatedReplicas": 2}}),
                &[
                    "updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "availableReplicas: Invalid value: 3: cannot be greater than status.replicas",
                    "availableReplicas: Invalid value: 3: cannot be greater than readyReplicas",
                ],
            ),
            (
                json!({"status": {"replicas": -1, "observedGeneration": -1, "collisionCount": -1}}),
                &[
                    "observedGeneration: Invalid value: -1: must be greater than or equal to 0",
                    "replicas: Invalid value: -1: must be greater than or equal to 0",
                    "collisionCount: Invalid value: -1: must be greater than or equal to 0",
                    "updatedReplicas: Invalid value: 0: cannot be greater than status.replicas",
                    "readyReplicas: Invalid value: 0: cannot be greater than status.replicas",
                    "availableReplicas: Invalid value: 0: cannot be greater than status.replicas",
                ],
            ),
        ],
    );
}

#[test]
fn replica_sets() {
    let sets = kind("apps/v1", "ReplicaSet");
    creates(
        sets,
        &base(),
        "spec.",
        &[(
            of(json!({"replicas": -1, "minReadySeconds": -1, "selector": {"matchLabels": null}})),
            &[
                "replicas: Invalid value: -1: must be greater than or equal to 0",
                "minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                "selector: Invalid value: {}: empty selector is invalid for deployment",
            ],
        )],
    );
    updates(
        sets,
        &base(),
        "",
        "spec.",
        &[(
            of(json!({"selector": {"matchLabels": {"a": "b", "c": "d"}}})),
            &[
                "selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"c\":\"d\"}}: field is immutable",
                "template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
            ],
        )],
    );
    updates(
        sets,
        &base(),
        "status",
        "status.",
        &[(
            json!({"status": {"replicas": 1, "fullyLabeledReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}}),
            &[
                "fullyLabeledReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
            ],
        )],
    );
    let controller = json!({"metadata": {"name": "x", "namespace": "d"}, "spec": {"template": template()}});
    let controllers = kind("v1", "ReplicationController");
    assert_eq!(made(controllers, &controller)["spec"]["selector"], json!({"a": "b"}));
    creates(
        controllers,
        &controller,
        "spec.",
        &[
            (
                of(json!({"template": null, "replicas": -1})),
                &[
                    "selector: Required value",
                    "replicas: Invalid value: -1: must be greater than or equal to 0",
                    "template: Required value",
                ],
            ),
            (
                of(json!({"selector": {"a": "c"}})),
                &[
                    "template.metadata.labels: Invalid value: {\"a\":\"b\"}: `selector` does not match template `labels`",
                ],
            ),
        ],
    );
}

#[test]
fn daemon_sets() {
    let sets = kind("apps/v1", "DaemonSet");
    creates(
        sets,
        &base(),
        "spec.",
        &[
            (
                of(json!({"updateStrategy": {"type": "Blue"}})),
                &[
                    "updateStrategy: Unsupported value: {\"Type\":\"Blue\",\"RollingUpdate\":null}: supported values: \"OnDelete\", \"RollingUpdate\"",
                ],
            ),
            (
                of(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 1, "maxSurge": 1}}})),
                &[
                    "updateStrategy.rollingUpdate.maxSurge: Invalid value: 1: may not be set when maxUnavailable is non-zero",
                ],
            ),
            (
                of(json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 0}}})),
                &[
                    "updateStrategy.rollingUpdate.maxUnavailable: Required value: cannot be 0 when maxSurge is 0",
                ],
            ),
            (
                of(
                    json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": "0%", "maxSurge": "101%"}}}),
                ),
                &[
                    "updateStrategy.rollingUpdate.maxSurge: Invalid value: \"101%\": must not be greater than 100%",
                ],
            ),
            (
                of(json!({"minReadySeconds": -1, "revisionHistoryLimit": -1})),
                &[
                    "minReadySeconds: Invalid value: -1: must be greater than or equal to 0",
                    "revisionHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                of(json!({"template": {"spec": {"activeDeadlineSeconds": 5, "restartPolicy": "OnFailure"}}})),
                &[
                    "template.spec.restartPolicy: Unsupported value: \"OnFailure\": supported values: \"Always\"",
                    "template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in DaemonSet is not Supported",
                ],
            ),
        ],
    );
    updates(
        sets,
        &base(),
        "status",
        "status.",
        &[(
            json!({"status": {"currentNumberScheduled": -1, "numberMisscheduled": -1, "desiredNumberScheduled": -1, "numberReady": -1, "numberUnavailable": -1}}),
            &[
                "currentNumberScheduled: Invalid value: -1: must be greater than or equal to 0",
                "numberMisscheduled: Invalid value: -1: must be greater than or equal to 0",
                "desiredNumberScheduled: Invalid value: -1: must be greater than or equal to 0",
                "numberReady: Invalid value: -1: must be greater than or equal to 0",
                "numberUnavailable: Invalid value: -1: must be greater than or equal to 0",
            ],
        )],
    );
}

#[test]
fn stateful_sets() {
    let sets = kind("apps/v1", "StatefulSet");
    let claim = |name: &str| json!({"metadata": {"name": name}, "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}});
    creates(
        sets,
        &base(),
        "spec.",
        &[
            (
                of(json!({"podManagementPolicy": "Any", "replicas": -1, "ordinals": {"start": -1}})),
                &[
                    "podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
                    "replicas: Invalid value: -1: must be greater than or equal to 0",
                    "ordinals.start: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                of(json!({"updateStrategy": {"type": "Blue"}})),
                &[
                    "updateStrategy: Invalid value: {\"Type\":\"Blue\",\"RollingUpdate\":null}: must be 'RollingUpdate' or 'OnDelete'",
                ],
            ),
            (
                of(json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": {"partition": 1}}})),
                &[
                    "updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy 'RollingUpdate'",
                ],
            ),
            (
                of(
                    json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": -1, "maxUnavailable": 0}}}),
                ),
                &[
                    "updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
                    "updateStrategy.rollingUpdate.maxUnavailable: Invalid value: 0: cannot be 0",
                ],
            ),
            (
                of(json!({"persistentVolumeClaimRetentionPolicy": {"whenDeleted": "x"}})),
                &[
                    "persistentVolumeClaimRetentionPolicy.whenDeleted: Unsupported value: \"x\": supported values: \"Delete\", \"Retain\"",
                ],
            ),
            (
                of(json!({"serviceName": "A"})),
                &[
                    "serviceName: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (of(json!({"revisionHistoryLimit": -1})), &[]),
            (of(json!({"volumeClaimTemplates": [claim("v")]})), &[]),
            (
                of(json!({"volumeClaimTemplates": [claim("V")]})),
                &[
                    "template.spec.volumes[0].name: Invalid value: \"V\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                of(
                    json!({"selector": {"matchLabels": null}, "template": {"spec": {"restartPolicy": "Never", "activeDeadlineSeconds": 5}}}),
                ),
                &[
                    "selector: Invalid value: {}: empty selector is invalid for statefulset",
                    "template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
                    "template.spec.activeDeadlineSeconds: Forbidden: activeDeadlineSeconds in StatefulSet is not Supported",
                ],
            ),
        ],
    );
    let new = changed(sets, &made(sets, &base()), &of(json!({"serviceName": "s"})), "");
    assert_eq!(
        sets.validate_update(&new, &made(sets, &base()), "").message(),
        "spec: Forbidden: updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"
    );
    updates(
        sets,
        &base(),
        "status",
        "status.",
        &[
            (
                json!({"status": {"replicas": 1, "readyReplicas": 2, "currentReplicas": 2, "updatedReplicas": 2, "availableReplicas": 2}}),
                &[
                    "readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "currentReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "updatedReplicas: Invalid value: 2: cannot be greater than status.replicas",
                    "availableReplicas: Invalid value: 2: cannot be greater than status.replicas",
                ],
            ),
            (
                json!({"status": {"replicas": -1, "observedGeneration": -1, "collisionCount": -1}}),
                &[
                    "replicas: Invalid value: -1: must be greater than or equal to 0",
                    "observedGeneration: Invalid value: -1: must be greater than or equal to 0",
                    "collisionCount: Invalid value: -1: must be greater than or equal to 0",
                    "readyReplicas: Invalid value: 0: cannot be greater than status.replicas",
                    "currentReplicas: Invalid value: 0: cannot be greater than status.replicas",
                    "updatedReplicas: Invalid value: 0: cannot be greater than status.replicas",
                    "availableReplicas: Invalid value: 0: cannot be greater than status.replicas",
                ],
            ),
        ],
    );
    let revisions = kind("apps/v1", "ControllerRevision");
    let revision = json!({"metadata": {"name": "r", "namespace": "d"}, "data": {"a": 1}, "revision": 1});
    creates(
        revisions,
        &revision,
        "",
        &[(
            json!({"revision": -1, "data": null}),
            &[
                "revision: Invalid value: -1: must be greater than or equal to 0",
                "data: Required value: data is mandatory",
            ],
        )],
    );
    updates(
        revisions,
        &revision,
        "",
        "",
        &[
            (json!({"revision": 2}), &[]),
            (json!({"data": {"a": 2}}), &["data: Invalid value: {\"a\":2}: field is immutable"]),
        ],
    );
}
