//! Volumes and claims.

use super::*;

fn volume() -> Value {
    json!({"metadata": {"name": "v"}, "spec": {"capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"],
        "csi": {"driver": "d.example.com", "volumeHandle": "h"}}})
}

fn claim() -> Value {
    json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}}}})
}

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn volumes_alone() {
    creates(
        kind("v1", "PersistentVolume"),
        &volume(),
        "spec.",
        &[
            (
                of(json!({"accessModes": null, "capacity": null})),
                &[
                    "accessModes: Required value",
                    "capacity: Required value",
                    "capacity: Unsupported value: null: supported values: \"storage\"",
                ],
            ),
            (
                of(json!({"accessModes": ["Any", "ReadWriteOncePod", "ReadWriteOnce"]})),
                &[
                    "accessModes: Unsupported value: \"Any\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                of(json!({"capacity": {"storage": "0", "cpu": "1"}})),
                &[
                    "capacity: Unsupported value: {\"storage\":\"0\",\"cpu\":\"1\"}: supported values: \"storage\"",
                    "capacity[storage]: Invalid value: \"0\": must be greater than zero",
                ],
            ),
            (
                of(json!({"persistentVolumeReclaimPolicy": "Burn", "volumeMode": "Tape"})),
                &[
                    "persistentVolumeReclaimPolicy: Unsupported value: \"Burn\": supported values: \"Delete\", \"Recycle\", \"Retain\"",
                    "volumeMode: Unsupported value: \"Tape\": supported values: \"Block\", \"Filesystem\"",
                ],
            ),
            (of(json!({"csi": null})), &["spec: Required value: must specify a volume type"]),
            (
                of(json!({"nfs": {"server": "s", "path": "/p"}})),
                &["csi: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                of(json!({"csi": null, "nfs": {"path": "p"}})),
                &["nfs.server: Required value", "nfs.path: Invalid value: \"p\": must be an absolute path"],
            ),
            (
                of(
                    json!({"csi": null, "hostPath": {"path": "/"}, "persistentVolumeReclaimPolicy": "Recycle"}),
                ),
                &[
                    "persistentVolumeReclaimPolicy: Forbidden: may not be 'recycle' for a hostPath mount of '/'",
                ],
            ),
            (
                of(json!({"csi": null, "hostPath": {"path": "/a/../b", "type": "Odd"}})),
                &[
                    "hostPath.path: Invalid value: \"/a/../b\": must not contain '..'",
                    "hostPath.type: Unsupported value: \"Odd\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                ],
            ),
            (
                of(json!({"csi": null, "local": {"path": "/a"}})),
                &["nodeAffinity: Required value: Local volume requires node affinity"],
            ),
            (
                of(
                    json!({"csi": null, "local": {"path": ""}, "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]}]}}}),
                ),
                &["local.path: Required value"],
            ),
            (
                of(json!({"nodeAffinity": {}})),
                &["nodeAffinity.required: Required value: must specify required node constraints"],
            ),
            (
                of(json!({"nodeAffinity": {"required": {"nodeSelectorTerms": []}}})),
                &[
                    "nodeAffinity.required.nodeSelectorTerms: Required value: must have at least one node selector term",
                ],
            ),
            (
                of(json!({"csi": {"driver": "", "volumeHandle": ""}})),
                &["csi.driver: Required value", "csi.volumeHandle: Required value"],
            ),
            (
                of(
                    json!({"csi": {"controllerPublishSecretRef": {"name": "a"}, "nodeStageSecretRef": {"name": "A B", "namespace": "N"}}}),
                ),
                &["csi.controllerPublishSecretRef.namespace: Required value"],
            ),
            (
                of(json!({"csi": null, "iscsi": {"targetPortal": "", "iqn": "x", "lun": 300}})),
                &[
                    "iscsi.targetPortal: Required value",
                    "iscsi.iqn: Invalid value: \"x\": must be valid format",
                    "iscsi.lun: Invalid value: 300: must be between 0 and 255, inclusive",
                ],
            ),
            (
                of(json!({"storageClassName": "A", "volumeAttributesClassName": ""})),
                &[
                    "storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "volumeAttributesClassName: Required value: an empty string is disallowed",
                ],
            ),
            (
                of(json!({"csi": null, "hostPath": {"path": "/a"}, "volumeAttributesClassName": "a"})),
                &["csi: Required value: has to be specified when using volumeAttributesClassName"],
            ),
            (
                of(json!({"csi": null, "awsElasticBlockStore": {"volumeID": "", "partition": -1}})),
                &[
                    "awsElasticBlockStore.volumeID: Required value",
                    "awsElasticBlockStore.partition: Invalid value: -1: must be between 1 and 255, inclusive",
                ],
            ),
            (
                of(json!({"csi": null, "azureDisk": {"diskName": "a", "diskURI": "b", "kind": "Managed"}})),
                &[
                    "azureDisk.diskURI: Unsupported value: \"b\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (
                of(json!({"csi": null, "flexVolume": {"options": {"kubernetes.io/fsType": "x"}}})),
                &[
                    "flexVolume.driver: Required value",
                    "flexVolume.options[kubernetes.io/fsType]: Invalid value: \"kubernetes.io/fsType\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
        ],
    );
}

#[test]
fn changes_of_volumes() {
    let kind = kind("v1", "PersistentVolume");
    updates(
        kind,
        &volume(),
        "",
        "",
        &[
            (
                of(
                    json!({"persistentVolumeReclaimPolicy": "Delete", "capacity": {"storage": "2Gi"}, "mountOptions": ["a"]}),
                ),
                &[],
            ),
            (
                of(json!({"csi": {"nodeStageSecretRef": {"name": "a", "namespace": "b"}}})),
                &[
                    "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation",
                ],
            ),
            (
                of(json!({"volumeMode": "Block"})),
                &["volumeMode: Invalid value: \"Block\": field is immutable"],
            ),
            (
                of(
                    json!({"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]}]}}}),
                ),
                &[],
            ),
            (of(json!({"volumeAttributesClassName": "a"})), &[]),
        ],
    );
    let new = changed(kind, &made(kind, &volume()), &of(json!({"csi": {"volumeHandle": "i"}})), "");
    let message = kind.validate_update(&new, &made(kind, &volume()), "").message();
    assert!(
        message.starts_with(
            "spec.persistentvolumesource: Forbidden: spec.persistentvolumesource is immutable after creation"
        ),
        "{message}"
    );
}

#[test]
fn claims_alone() {
    let snapshot = json!({"kind": "VolumeSnapshot", "name": "s", "apiGroup": "snapshot.storage.k8s.io"});
    let claims = kind("v1", "PersistentVolumeClaim");
    creates(
        claims,
        &claim(),
        "spec.",
        &[
            (
                of(json!({"accessModes": null, "resources": null})),
                &[
                    "accessModes: Required value: at least 1 access mode is required",
                    "resources[storage]: Required value",
                ],
            ),
            (
                of(json!({"accessModes": ["ReadWriteOncePod", "ReadOnlyMany", "x"]})),
                &[
                    "accessModes: Unsupported value: \"x\": supported values: \"ReadOnlyMany\", \"ReadWriteMany\", \"ReadWriteOnce\", \"ReadWriteOncePod\"",
                    "accessModes: Forbidden: may not use ReadWriteOncePod with other access modes",
                ],
            ),
            (
                of(json!({"resources": {"requests": {"storage": "0"}}})),
                &["resources[storage]: Invalid value: \"0\": must be greater than zero"],
            ),
            (
                of(json!({"resources": {"requests": {"storage": "-1", "cpu": "1"}}})),
                &["resources[storage]: Invalid value: \"-1\": must be greater than zero"],
            ),
            (
                of(json!({"storageClassName": "A", "volumeMode": "x"})),
                &[
                    "storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "volumeMode: Unsupported value: \"x\": supported values: \"Block\", \"Filesystem\"",
                ],
            ),
            (
                of(json!({"selector": {"matchLabels": {"a b": "c"}}})),
                &[
                    "selector.matchLabels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (of(json!({"dataSource": snapshot})), &[]),
            (of(json!({"dataSource": {"kind": "", "name": ""}})), &[]),
            (
                of(
                    json!({"dataSource": {"kind": "Pod", "name": "p"}, "dataSourceRef": {"kind": "Pod", "name": "p"}}),
                ),
                &[
                    "dataSource: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                    "dataSourceRef: Invalid value: \"Pod\": must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                ],
            ),
            (
                of(
                    json!({"dataSource": snapshot, "dataSourceRef": {"kind": "VolumeSnapshot", "name": "t", "apiGroup": "snapshot.storage.k8s.io"}}),
                ),
                &["spec: Invalid value: {}: must match dataSourceRef"],
            ),
            (
                of(json!({"volumeAttributesClassName": "A"})),
                &[
                    "volumeAttributesClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
        ],
    );
    let both = made(claims, &merged(&claim(), &of(json!({"dataSource": snapshot}))));
    assert_eq!(both["spec"]["dataSourceRef"], both["spec"]["dataSource"]);
    let dropped = made(
        claims,
        &merged(
            &claim(),
            &of(json!({"dataSource": {"kind": "Other", "name": "x", "apiGroup": "example.com"}})),
        ),
    );
    assert!(dropped["spec"].get("dataSource").is_none(), "{dropped}");
}

#[test]
fn changes_of_claims() {
    let kind = kind("v1", "PersistentVolumeClaim");
    let pending = made(kind, &claim());
    let bound = merged(
        &pending,
        &json!({"spec": {"volumeName": "v", "storageClassName": "s"},
        "status": {"phase": "Bound", "capacity": {"storage": "1Gi"}}}),
    );
    let bigger = merged(&bound, &json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
    let of_size = |size: &str| of(json!({"resources": {"requests": {"storage": size}}}));
    let immutable = "Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims";
    let starts = |old: &Value, patch: Value| {
        let new = changed(kind, old, &patch, "");
        let message = kind.validate_update(&new, old, "").message();
        assert!(message.starts_with(&format!("spec: {immutable}")), "{message}");
    };
    starts(&pending, of_size("2Gi"));
    starts(&bound, of(json!({"accessModes": ["ReadOnlyMany"]})));
    starts(&bound, of(json!({"storageClassName": "t"})));
    changes(kind, &pending, "", "spec.", &[(of(json!({"volumeName": "v"})), &[])]);
    changes(
        kind,
        &bound,
        "",
        "spec.",
        &[
            (of_size("2Gi"), &[]),
            (
                of_size("500Mi"),
                &["resources.requests.storage: Forbidden: field can not be less than status.capacity"],
            ),
            (of(json!({"volumeAttributesClassName": "a"})), &[]),
        ],
    );
    changes(
        kind,
        &bigger,
        "",
        "spec.",
        &[
            (of_size("2Gi"), &[]),
            (
                of_size("1Gi"),
                &["resources.requests.storage: Forbidden: field can not be less than status.capacity"],
            ),
            (
                of_size("500Mi"),
                &["resources.requests.storage: Forbidden: field can not be less than status.capacity"],
            ),
        ],
    );
    changes(
        kind,
        &bound,
        "status",
        "status.",
        &[
            (json!({"status": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "2Gi"}}}), &[]),
            (
                json!({"status": {"capacity": {"storage": "-1"}}}),
                &["capacity[storage]: Invalid value: -1: must be a valid resource quantity"],
            ),
            (
                json!({"status": {"allocatedResources": {"cpu": "1"}, "allocatedResourceStatuses": {"storage": "Odd"}}}),
                &[
                    "allocatedResourceStatuses: Unsupported value: \"storage\": supported values: \"ControllerResizeInProgress\", \"ControllerResizeInfeasible\", \"NodeResizeInProgress\", \"NodeResizeInfeasible\", \"NodeResizePending\"",
                    "allocatedResources: Unsupported value: \"cpu\": supported values: \"storage\"",
                ],
            ),
        ],
    );
}
