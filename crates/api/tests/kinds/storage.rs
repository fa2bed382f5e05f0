//! Classes of storage, drivers and attachments.

use super::*;

#[test]
fn classes() {
    let base = json!({"metadata": {"name": "c"}, "provisioner": "p.example.com", "parameters": {"a": "b"}});
    let storage_class = kind("storage.k8s.io/v1", "StorageClass");
    creates(
        storage_class,
        &base,
        "",
        &[
            (json!({"provisioner": ""}), &["provisioner: Required value"]),
            (
                json!({"provisioner": "A B"}),
                &[
                    "provisioner: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                json!({"reclaimPolicy": "Recycle", "volumeBindingMode": "Late"}),
                &[
                    "reclaimPolicy: Unsupported value: \"Recycle\": supported values: \"Delete\", \"Retain\"",
                    "volumeBindingMode: Unsupported value: \"Late\": supported values: \"Immediate\", \"WaitForFirstConsumer\"",
                ],
            ),
            (json!({"parameters": {"": "x"}}), &["parameters: Invalid value: \"\": field can not be empty."]),
            (
                json!({"allowedTopologies": [{"matchLabelExpressions": [{"key": "a"}, {"key": "a", "values": ["b", "b"]}]}]}),
                &[
                    "allowedTopologies[0].matchLabelExpressions[0].values: Required value",
                    "allowedTopologies[0].matchLabelExpressions[1].values[1]: Duplicate value: \"b\"",
                    "allowedTopologies[0].matchLabelExpressions[1].key: Duplicate value: \"a\"",
                ],
            ),
        ],
    );
    updates(
        storage_class,
        &base,
        "",
        "",
        &[
            (
                json!({"parameters": {"a": "c"}}),
                &["parameters: Invalid value: {\"a\":\"c\"}: field is immutable"],
            ),
            (
                json!({"provisioner": "q.example.com", "reclaimPolicy": "Retain", "volumeBindingMode": "WaitForFirstConsumer"}),
                &[
                    "provisioner: Invalid value: \"q.example.com\": field is immutable",
                    "reclaimPolicy: Invalid value: \"Retain\": field is immutable",
                    "volumeBindingMode: Invalid value: \"WaitForFirstConsumer\": field is immutable",
                ],
            ),
            (json!({"allowVolumeExpansion": true, "mountOptions": ["a"]}), &[]),
        ],
    );
    let attributes =
        json!({"metadata": {"name": "a"}, "driverName": "d.example.com", "parameters": {"a": "b"}});
    let kind = kind("storage.k8s.io/v1", "VolumeAttributesClass");
    creates(
        kind,
        &attributes,
        "",
        &[(
            json!({"driverName": "", "parameters": null}),
            &[
                "driverName: Required value",
                "parameters: Required value: must contain at least one key/value pair",
            ],
        )],
    );
    updates(
        kind,
        &attributes,
        "",
        "",
        &[(
            json!({"driverName": "e.example.com", "parameters": {"a": "c"}}),
            &[
                "driverName: Forbidden: updates to driverName are forbidden.",
                "parameters: Forbidden: updates to parameters are forbidden.",
            ],
        )],
    );
}

#[test]
fn drivers() {
    let driver = json!({"metadata": {"name": "d.example.com"}});
    let kind_of = kind("storage.k8s.io/v1", "CSIDriver");
    let of = |spec: Value| json!({"spec": spec});
    creates(
        kind_of,
        &driver,
        "spec.",
        &[
            (
                of(json!({"fsGroupPolicy": "x", "volumeLifecycleModes": ["Persistent", "x"]})),
                &[
                    "fsGroupPolicy: Unsupported value: \"x\": supported values: \"File\", \"None\", \"ReadWriteOnceWithFSType\"",
                    "volumeLifecycleModes: Unsupported value: \"x\": supported values: \"Ephemeral\", \"Persistent\"",
                ],
            ),
            (
                of(
                    json!({"tokenRequests": [{"audience": "a"}, {"audience": "a"}, {"audience": "b", "expirationSeconds": 1}]}),
                ),
                &[
                    "tokenRequests[1].audience: Duplicate value: \"a\"",
                    "tokenRequests[2].expirationSeconds: Invalid value: 1: may not specify a duration less than 10 minutes",
                ],
            ),
            (
                of(json!({"nodeAllocatableUpdatePeriodSeconds": 9})),
                &[
                    "nodeAllocatableUpdatePeriodSeconds: Invalid value: 9: must be greater than or equal to 10 seconds",
                ],
            ),
        ],
    );
    updates(
        kind_of,
        &driver,
        "",
        "spec.",
        &[
            (
                of(json!({"attachRequired": false, "volumeLifecycleModes": ["Ephemeral"]})),
                &[
                    "attachedRequired: Invalid value: false: field is immutable",
                    "volumeLifecycleModes: Invalid value: [\"Ephemeral\"]: field is immutable",
                ],
            ),
            (
                of(
                    json!({"podInfoOnMount": true, "fsGroupPolicy": "File", "storageCapacity": true, "requiresRepublish": true}),
                ),
                &[],
            ),
        ],
    );
    let node = json!({"metadata": {"name": "n"}, "spec": {"drivers": [{"name": "a.b", "nodeID": "n"}]}});
    let node_kind = kind("storage.k8s.io/v1", "CSINode");
    let drivers = |drivers: Value| of(json!({"drivers": drivers}));
    creates(
        node_kind,
        &node,
        "spec.drivers",
        &[(
            drivers(
                json!([{"name": "a", "nodeID": "n"}, {"name": "a", "nodeID": ""}, {"name": "b", "nodeID": "n", "allocatable": {"count": -1}, "topologyKeys": ["", "x", "x"]}]),
            ),
            &[
                "[1].nodeID: Required value",
                "[1].name: Duplicate value: \"a\"",
                "[2].allocatable.count: Invalid value: -1: must be greater than or equal to 0",
                "[2]: Required value",
                "[2]: Invalid value: \"\": name part must be non-empty",
                "[2]: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                "[2]: Duplicate value: \"x\"",
            ],
        )],
    );
    updates(
        node_kind,
        &node,
        "",
        "spec.drivers",
        &[
            (
                drivers(json!([{"name": "a.b", "nodeID": "m"}])),
                &[": Invalid value: {\"name\":\"a.b\",\"nodeID\":\"m\"}: field is immutable"],
            ),
            (drivers(json!([{"name": "a.b", "nodeID": "n"}, {"name": "c", "nodeID": "n"}])), &[]),
        ],
    );
}

#[test]
fn attachments() {
    let of = |spec: Value| json!({"spec": spec});
    let base = json!({"metadata": {"name": "a"}, "spec": {"attacher": "d.example.com", "nodeName": "n", "source": {"persistentVolumeName": "v"}}});
    let attachment = kind("storage.k8s.io/v1", "VolumeAttachment");
    creates(
        attachment,
        &base,
        "spec.",
        &[
            (
                of(json!({"attacher": "", "nodeName": "", "source": {"persistentVolumeName": ""}})),
                &[
                    "attacher: Required value",
                    "source.persistentVolumeName: Required value: must specify non empty persistentVolumeName",
                    "nodeName: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "source.persistentVolumeName: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                of(json!({"source": {"persistentVolumeName": null}})),
                &[
                    "source: Required value: must specify exactly one of inlineVolumeSpec and persistentVolumeName",
                ],
            ),
            (
                of(json!({"source": {"inlineVolumeSpec": {"accessModes": ["ReadWriteOnce"]}}})),
                &["source: Forbidden: must specify exactly one of inlineVolumeSpec and persistentVolumeName"],
            ),
        ],
    );
    let new = changed(attachment, &made(attachment, &base), &of(json!({"nodeName": "m"})), "");
    assert!(attachment.validate_update(&new, &base, "").message().ends_with("field is immutable"));
    updates(
        attachment,
        &base,
        "status",
        "status.",
        &[(
            json!({"status": {"attached": true, "attachmentMetadata": {"": "x"}, "attachError": {"message": "m", "errorCode": 1}}}),
            &[],
        )],
    );
    let capacity = json!({"metadata": {"name": "c", "namespace": "d"}, "storageClassName": "s"});
    let kind = kind("storage.k8s.io/v1", "CSIStorageCapacity");
    creates(
        kind,
        &capacity,
        "",
        &[
            (
                json!({"storageClassName": "A", "capacity": "-1", "maximumVolumeSize": "-2"}),
                &[
                    "storageClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "capacity: Invalid value: \"-1\": must be greater than or equal to 0",
                ],
            ),
            (
                json!({"nodeTopology": {"matchLabels": {"a b": "c"}}}),
                &[
                    "nodeTopology.matchLabels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
        ],
    );
    updates(
        kind,
        &capacity,
        "",
        "",
        &[(
            json!({"storageClassName": "t", "nodeTopology": {}, "capacity": "1"}),
            &[
                "nodeTopology: Invalid value: {}: field is immutable",
                "storageClassName: Invalid value: \"t\": field is immutable",
            ],
        )],
    );
}
