//! What is wrong with pods, in upstream's words: a table for each concern.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use api::kinds;
use api::patch::merge_patch as merge;
use api::{Kind, Value};
use serde_json::json;

fn kind(api_version: &str, kind: &str) -> &'static Kind {
    kinds::by_storage(api_version, kind).unwrap()
}

/// A pod that nothing is wrong with, and what is said beside it of its spec.
fn with(spec: Value) -> Value {
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p", "namespace": "d"},
        "spec": {"containers": [{"name": "c", "image": "i"}]}});
    merge(&mut pod, &json!({"spec": spec}));
    pod
}

/// The same, of its container.
fn container(more: Value) -> Value {
    let mut c = json!({"name": "c", "image": "i"});
    merge(&mut c, &more);
    with(json!({"containers": [c]}))
}

fn volume(source: Value) -> Value {
    let mut v = json!({"name": "v"});
    merge(&mut v, &source);
    with(json!({"volumes": [v]}))
}

fn texts(errors: api::field::ErrorList) -> Vec<String> {
    errors.into_iter().map(|e| e.to_string()).collect()
}

/// What is wrong with a new object.
fn wrong(kind: &Kind, object: &Value) -> Vec<String> {
    let mut object = object.clone();
    kind.default(&mut object);
    texts(kind.validate_create(&object))
}

/// Checks a table of pods, each with the errors that it has, below `prefix`.
fn refused(prefix: &str, table: &[(Value, &[&str])]) {
    let pods = kind("v1", "Pod");
    for (pod, want) in table {
        let want: Vec<String> = want.iter().map(|w| format!("{prefix}{w}")).collect();
        assert_eq!(wrong(pods, pod), want, "{pod}");
    }
}

fn accepted(pods: &[Value]) {
    for pod in pods {
        assert_eq!(wrong(kind("v1", "Pod"), pod), Vec::<String>::new(), "{pod}");
    }
}

#[test]
fn security_contexts() {
    let of_pod = |context: Value| with(json!({"securityContext": context}));
    refused(
        "spec.securityContext.",
        &[
            (
                of_pod(json!({"runAsUser": -1, "fsGroup": 2147483648_i64, "supplementalGroups": [0, -2]})),
                &[
                    "fsGroup: Invalid value: 2147483648: must be between 0 and 2147483647, inclusive",
                    "runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    "supplementalGroups[1]: Invalid value: -2: must be between 0 and 2147483647, inclusive",
                ],
            ),
            (
                of_pod(json!({"sysctls": [{"name": "a.b"}, {"name": "a.b"}, {"name": "A"}, {}]})),
                &[
                    "sysctls[1].name: Duplicate value: \"a.b\"",
                    "sysctls[2].name: Invalid value: \"A\": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$",
                    "sysctls[3].name: Required value",
                ],
            ),
            (
                with(
                    json!({"hostNetwork": true, "securityContext": {"sysctls": [{"name": "net/ipv4.tcp_syncookies"}]}}),
                ),
                &[
                    "sysctls[0].name: Invalid value: \"net/ipv4.tcp_syncookies\": may not be specified when 'hostNetwork' is true",
                ],
            ),
            (
                of_pod(
                    json!({"fsGroupChangePolicy": "x", "supplementalGroupsPolicy": "x", "seLinuxChangePolicy": "x"}),
                ),
                &[
                    "fsGroupChangePolicy: Unsupported value: \"x\": supported values: \"Always\", \"OnRootMismatch\"",
                    "supplementalGroupsPolicy: Unsupported value: \"x\": supported values: \"Merge\", \"Strict\"",
                    "seLinuxChangePolicy: Unsupported value: \"x\": supported values: \"MountOption\", \"Recursive\"",
                ],
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Localhost"}})),
                &[
                    "seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
                ],
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "/a/../b"}})),
                &[
                    "seccompProfile.localhostProfile: Invalid value: \"/a/../b\": must be a relative path",
                    "seccompProfile.localhostProfile: Invalid value: \"/a/../b\": must not contain '..'",
                ],
            ),
            (
                of_pod(json!({"seccompProfile": {"type": "Unconfined", "localhostProfile": "a"}})),
                &[
                    "seccompProfile.localhostProfile: Invalid value: {\"type\":\"Unconfined\",\"localhostProfile\":\"a\"}: can only be set when seccomp type is Localhost",
                ],
            ),
            (
                of_pod(json!({"seccompProfile": {}, "appArmorProfile": {"type": "None"}})),
                &[
                    "seccompProfile.type: Required value: type is required when seccompProfile is set",
                    "appArmorProfile.type: Unsupported value: \"None\": supported values: \"Localhost\", \"RuntimeDefault\", \"Unconfined\"",
                ],
            ),
            (
                of_pod(json!({"appArmorProfile": {"type": "Localhost", "localhostProfile": " a"}})),
                &[
                    "appArmorProfile.localhostProfile: Invalid value: \" a\": must not be padded with whitespace",
                ],
            ),
            (
                of_pod(json!({"appArmorProfile": {"type": "RuntimeDefault", "localhostProfile": "a"}})),
                &[
                    "appArmorProfile.localhostProfile: Invalid value: \"a\": can only be set when AppArmor type is Localhost",
                ],
            ),
            (
                of_pod(json!({"windowsOptions": {"gmsaCredentialSpec": "", "runAsUserName": "a\\b\\c"}})),
                &[
                    "windowsOptions.gmsaCredentialSpec: Invalid value: \"\": gmsaCredentialSpec cannot be an empty string",
                    "windowsOptions.runAsUserName: Invalid value: \"a\\\\b\\\\c\": runAsUserName cannot contain more than one backslash",
                ],
            ),
            (
                with(json!({"hostPID": true, "shareProcessNamespace": true})),
                &[
                    "shareProcessNamespace: Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled",
                ],
            ),
        ],
    );
    refused(
        "spec.containers[0].securityContext",
        &[
            (
                container(json!({"securityContext": {"runAsGroup": -1, "procMount": "x"}})),
                &[
                    ".runAsGroup: Invalid value: -1: must be between 0 and 2147483647, inclusive",
                    ".procMount: Unsupported value: \"x\": supported values: \"Default\", \"Unmasked\"",
                ],
            ),
            (
                container(json!({"securityContext": {"procMount": "Unmasked"}})),
                &[".procMount: Invalid value: \"Unmasked\": `hostUsers` must be false to use `Unmasked`"],
            ),
            (
                container(
                    json!({"securityContext": {"allowPrivilegeEscalation": false, "privileged": true}}),
                ),
                &[
                    ": Invalid value: {\"allowPrivilegeEscalation\":false,\"privileged\":true}: cannot set `allowPrivilegeEscalation` to false and `privileged` to true",
                ],
            ),
            (
                container(
                    json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["CAP_SYS_ADMIN"]}}}),
                ),
                &[
                    ": Invalid value: {\"allowPrivilegeEscalation\":false,\"capabilities\":{\"add\":[\"CAP_SYS_ADMIN\"]}}: cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN",
                ],
            ),
        ],
    );
    accepted(&[
        of_pod(
            json!({"seccompProfile": {"type": "Localhost", "localhostProfile": "a/b.json"}, "runAsUser": 0,
            "appArmorProfile": {"type": "Localhost", "localhostProfile": "k8s-x"}, "sysctls": [{"name": "net.core/somaxconn"}],
            "windowsOptions": {"runAsUserName": "NT AUTHORITY\\NETWORK SERVICE"}}),
        ),
        container(
            json!({"securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"add": ["SYS_ADMIN"]}}}),
        ),
    ]);
}

#[test]
fn operating_systems_and_namespaces() {
    refused(
        "spec.",
        &[
            (
                with(json!({"os": {"name": "plan9"}})),
                &["os: Unsupported value: \"plan9\": supported values: \"linux\", \"windows\""],
            ),
            (
                with(json!({"os": {"name": "linux"}, "securityContext": {"windowsOptions": {}}})),
                &["securityContext.windowsOptions: Forbidden: windows options cannot be set for a linux pod"],
            ),
            (
                with(json!({"os": {"name": "windows"}, "hostPID": true, "securityContext": {"runAsUser": 1},
                    "containers": [{"name": "c", "image": "i", "securityContext": {"privileged": false}}]})),
                &[
                    "securityContext.runAsUser: Forbidden: cannot be set for a windows pod",
                    "hostPID: Forbidden: cannot be set for a windows pod",
                    "containers[0].securityContext.privileged: Forbidden: cannot be set for a windows pod",
                ],
            ),
            (
                with(json!({"hostUsers": false, "hostNetwork": true, "hostIPC": true})),
                &[
                    "hostNetwork: Forbidden: when `hostUsers` is false",
                    "HostIPC: Forbidden: when `hostUsers` is false",
                ],
            ),
            (
                with(json!({"securityContext": {"windowsOptions": {"hostProcess": true}}})),
                &[
                    "hostNetwork: Invalid value: false: hostNetwork must be true if pod contains any hostProcess containers",
                ],
            ),
        ],
    );
}

#[test]
fn annotations_of_profiles() {
    let annotated = |annotations: Value, more: Value| {
        let mut pod = container(more);
        pod["metadata"]["annotations"] = annotations;
        pod
    };
    let armor = "container.apparmor.security.beta.kubernetes.io/";
    let (of_c, of_d) = (format!("{armor}c"), format!("{armor}d"));
    let mut table = vec![
        (
            annotated(json!({of_d.clone(): "runtime/default"}), json!({})),
            format!("metadata.annotations[{of_d}]: Invalid value: \"d\": container not found"),
        ),
        (
            annotated(json!({of_c.clone(): "mine"}), json!({})),
            format!("metadata.annotations[{of_c}]: Invalid value: \"mine\": invalid AppArmor profile name: \"mine\""),
        ),
        (
            annotated(json!({of_c: "localhost/a"}), json!({"securityContext": {"appArmorProfile": {"type": "Localhost", "localhostProfile": "b"}}})),
            "spec.containers[0].securityContext.appArmorProfile.localhostProfile: Forbidden: apparmor profile in annotation and field must match".to_owned(),
        ),
        (
            annotated(json!({"container.seccomp.security.alpha.kubernetes.io/c": "docker/default"}),
                json!({"securityContext": {"seccompProfile": {"type": "Unconfined"}}})),
            "spec.containers[0].securityContext.seccompProfile.type: Forbidden: seccomp type in annotation and field must match".to_owned(),
        ),
        (
            annotated(json!({"seccomp.security.alpha.kubernetes.io/pod": "x"}), json!({})),
            "metadata.annotations.seccomp.security.alpha.kubernetes.io/pod: Invalid value: \"x\": must be a valid seccomp profile".to_owned(),
        ),
    ];
    for cost in ["1.5", "+1", "010", "99999999999"] {
        table.push((
            annotated(json!({"controller.kubernetes.io/pod-deletion-cost": cost}), json!({})),
            format!("metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: \"{cost}\": must be a 32bit integer"),
        ));
    }
    for (pod, want) in table {
        assert_eq!(wrong(kind("v1", "Pod"), &pod), [want], "{pod}");
    }
    accepted(&[annotated(json!({"controller.kubernetes.io/pod-deletion-cost": "-10"}), json!({}))]);
}

#[test]
fn volumes() {
    let mode = "must be a number between 0 and 0777 (octal), both inclusive";
    let mode = |at: &str| format!("spec.volumes[0].{at}: Invalid value: 512: {mode}");
    for (source, want) in [
        (json!({"secret": {"secretName": "s", "defaultMode": 512}}), mode("secret.defaultMode")),
        (
            json!({"configMap": {"name": "m", "items": [{"key": "k", "path": "p", "mode": 512}]}}),
            mode("configMap.items[0].mode"),
        ),
        (json!({"projected": {"defaultMode": 512}}), mode("projected.defaultMode")),
    ] {
        assert_eq!(wrong(kind("v1", "Pod"), &volume(source)), [want]);
    }
    let file = json!({"path": "p", "fieldRef": {"fieldPath": "metadata.name"}});
    refused(
        "spec.volumes[0]",
        &[
            (
                volume(json!({"hostPath": {"path": "/a"}, "emptyDir": {}})),
                &[".hostPath: Forbidden: may not specify more than 1 volume type"],
            ),
            (
                volume(json!({"emptyDir": {"sizeLimit": "-1"}})),
                &[".emptyDir.sizeLimit: Forbidden: SizeLimit field must be a valid resource quantity"],
            ),
            (
                volume(json!({"hostPath": {"path": "/a/..", "type": "x"}})),
                &[
                    ".hostPath.path: Invalid value: \"/a/..\": must not contain '..'",
                    ".hostPath.type: Unsupported value: \"x\": supported values: \"\", \"BlockDevice\", \"CharDevice\", \"Directory\", \"DirectoryOrCreate\", \"File\", \"FileOrCreate\", \"Socket\"",
                ],
            ),
            (
                volume(json!({"gitRepo": {"directory": "/d"}})),
                &[
                    ".gitRepo.repository: Required value",
                    ".gitRepo.directory: Invalid value: \"/d\": must be a relative path",
                ],
            ),
            (
                volume(json!({"nfs": {"server": "s", "path": "p"}})),
                &[".nfs.path: Invalid value: \"p\": must be an absolute path"],
            ),
            (
                volume(
                    json!({"iscsi": {"targetPortal": "t", "iqn": "x", "lun": 256, "chapAuthSession": true}}),
                ),
                &[
                    ".iscsi.iqn: Invalid value: \"x\": must be valid format starting with iqn, eui, or naa",
                    ".iscsi.lun: Invalid value: 256: must be between 0 and 255, inclusive",
                    ".iscsi.secretRef: Required value",
                ],
            ),
            (
                volume(json!({"fc": {"targetWWNs": ["a"]}})),
                &[".fc.lun: Required value: lun is required if targetWWNs is specified"],
            ),
            (volume(json!({"rbd": {}})), &[".rbd.monitors: Required value", ".rbd.image: Required value"]),
            (
                volume(json!({"flocker": {"datasetName": "a/b"}})),
                &[".flocker.datasetName: Invalid value: \"a/b\": must not contain '/'"],
            ),
            (
                volume(json!({"flexVolume": {"driver": "d", "options": {"K8S.io/x": "y"}}})),
                &[
                    ".flexVolume.options[K8S.io/x]: Invalid value: \"K8S.io/x\": kubernetes.io and k8s.io namespaces are reserved",
                ],
            ),
            (
                volume(json!({"azureDisk": {"diskName": "d", "diskURI": "x", "kind": "Managed"}})),
                &[
                    ".azureDisk.diskURI: Unsupported value: \"x\": supported values: \"/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}\"",
                ],
            ),
            (volume(json!({"gcePersistentDisk": {}})), &[".persistentDisk.pdName: Required value"]),
            (
                volume(json!({"csi": {"driver": "a b", "nodePublishSecretRef": {}}})),
                &[
                    ".csi.driver: Invalid value: \"a b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    ".csi.nodePublishSecretRef.name: Required value",
                ],
            ),
            (volume(json!({"image": {}})), &[".image.reference: Required value"]),
            (volume(json!({"ephemeral": {}})), &[".ephemeral.volumeClaimTemplate: Required value"]),
            (
                volume(json!({"ephemeral": {"volumeClaimTemplate": {"metadata": {"name": "n"},
                    "spec": {"accessModes": ["ReadWriteOnce"]}}}})),
                &[
                    ".ephemeral.volumeClaimTemplate.metadata.name: Forbidden: cannot be set",
                    ".ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value",
                ],
            ),
            (
                volume(json!({"downwardAPI": {"items": [{"path": "../p"}]}})),
                &[
                    ".downwardAPI.path: Invalid value: \"../p\": must not contain '..'",
                    ".downwardAPI: Required value: one of fieldRef and resourceFieldRef is required",
                ],
            ),
            (
                volume(
                    json!({"downwardAPI": {"items": [{"path": "..p", "resourceFieldRef": {"resource": "limits.cpu"}}]}}),
                ),
                &[
                    ".downwardAPI.path: Invalid value: \"..p\": must not start with '..'",
                    ".downwardAPI.resourceFieldRef.containerName: Required value",
                ],
            ),
            (
                volume(
                    json!({"downwardAPI": {"items": [{"path": "p", "fieldRef": {"fieldPath": "spec.nodeName"}}]}}),
                ),
                &[
                    ".downwardAPI.fieldRef.fieldPath: Unsupported value: \"spec.nodeName\": supported values: \"metadata.annotations\", \"metadata.labels\", \"metadata.name\", \"metadata.namespace\", \"metadata.uid\"",
                ],
            ),
            (
                volume(
                    json!({"projected": {"sources": [{"secret": {"name": "s"}, "configMap": {"name": "m"}}]}}),
                ),
                &[".projected.sources[0]: Forbidden: may not specify more than 1 volume type per source"],
            ),
            (
                volume(json!({"projected": {"sources": [{"downwardAPI": {"items": [file]}},
                    {"secret": {"name": "s", "items": [{"key": "k", "path": "p"}]}}]}})),
                &[".projected: Invalid value: \"s\": conflicting duplicate paths"],
            ),
            (
                volume(json!({"projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}})),
                &[
                    ".projected.sources[0].clusterTrustBundle: Required value: either name or signerName must be specified",
                ],
            ),
            (
                volume(
                    json!({"projected": {"sources": [{"podCertificate": {"signerName": "a.b/c", "keyType": "X", "maxExpirationSeconds": 1}}]}}),
                ),
                &[
                    ".projected.sources[0].podCertificate.keyType: Unsupported value: \"X\": supported values: \"ECDSAP256\", \"ECDSAP384\", \"ECDSAP521\", \"ED25519\", \"RSA3072\", \"RSA4096\"",
                    ".projected.sources[0].podCertificate.maxExpirationSeconds: Invalid value: 1: if provided, maxExpirationSeconds must be >= 3600",
                    ".projected.sources[0].podCertificate: Required value: specify at least one of credentialBundlePath, keyPath, and certificateChainPath",
                ],
            ),
        ],
    );
    let token = json!({"volumes": [{"name": "v", "projected": {"sources": [{"serviceAccountToken": {"path": "/t", "expirationSeconds": 5}}]}}]});
    refused(
        "spec.volumes[0].projected.",
        &[(
            with(token),
            &[
                "sources[0].serviceAccountToken.expirationSeconds: Invalid value: 5: may not specify a duration less than 10 minutes",
                "path: Invalid value: \"/t\": must be a relative path",
                "sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
            ],
        )],
    );
    refused(
        "spec.volumes[1].persistentVolumeClaim.claimName: ",
        &[(
            with(json!({"volumes": [
                {"name": "v", "ephemeral": {"volumeClaimTemplate": {"spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Gi"}}}}}},
                {"name": "w", "persistentVolumeClaim": {"claimName": "p-v"}}]})),
            &["Invalid value: \"p-v\": must not reference a PVC that gets created for an ephemeral volume"],
        )],
    );
    accepted(&[
        volume(json!({"emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}})),
        volume(json!({"projected": {"sources": [{"secret": {"name": "s"}}, {"downwardAPI": {"items": [
            {"path": "a/b", "fieldRef": {"fieldPath": "metadata.labels['x']"}}]}}]}})),
        volume(json!({"image": {"reference": "i"}})),
    ]);
}

#[test]
fn mounts_and_devices() {
    let mounted = |container: Value| {
        let mut pod = self::container(container);
        pod["spec"]["volumes"] = json!([{"name": "v", "emptyDir": {}}, {"name": "b", "persistentVolumeClaim": {"claimName": "c"}}]);
        pod
    };
    let mount = |more: Value| {
        let mut m = json!({"name": "v", "mountPath": "/m"});
        merge(&mut m, &more);
        mounted(json!({"volumeMounts": [m]}))
    };
    refused(
        "spec.containers[0].",
        &[
            (
                mount(json!({"name": "", "mountPath": ""})),
                &[
                    "volumeMounts[0].name: Required value",
                    "volumeMounts[0].name: Not found: \"\"",
                    "volumeMounts[0].mountPath: Required value",
                ],
            ),
            (
                mount(json!({"subPath": "/a", "subPathExpr": "b/.."})),
                &[
                    "volumeMounts.subPath: Invalid value: \"/a\": must be a relative path",
                    "volumeMounts[0].subPathExpr: Invalid value: \"b/..\": subPathExpr and subPath are mutually exclusive",
                    "volumeMounts.subPathExpr: Invalid value: \"b/..\": must not contain '..'",
                ],
            ),
            (
                mount(json!({"mountPropagation": "Bidirectional"})),
                &[
                    "volumeMounts.mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers",
                ],
            ),
            (
                mount(json!({"recursiveReadOnly": "Enabled", "mountPropagation": "HostToContainer"})),
                &[
                    "volumeMounts.recursiveReadOnly: Forbidden: may only be specified when readOnly is true",
                    "volumeMounts.recursiveReadOnly: Forbidden: may only be specified when mountPropagation is None or not specified",
                ],
            ),
            (
                mounted(
                    json!({"volumeMounts": [{"name": "b", "mountPath": "/x"}], "volumeDevices": [{"name": "b", "devicePath": "/x"}]}),
                ),
                &[
                    "volumeMounts[0].name: Invalid value: \"b\": must not already exist in volumeDevices",
                    "volumeMounts[0].mountPath: Invalid value: \"/x\": must not already exist as a path in volumeDevices",
                    "volumeDevices[0].name: Invalid value: \"b\": must not already exist in volumeMounts",
                    "volumeDevices[0].devicePath: Invalid value: \"/x\": must not already exist as a path in volumeMounts",
                ],
            ),
            (
                mounted(json!({"volumeDevices": [{"name": "v", "devicePath": "/dev/a/.."}, {"name": "n"}]})),
                &[
                    "volumeDevices[0].name: Invalid value: \"v\": can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode",
                    "volumeDevices[0].devicePath: Invalid value: \"/dev/a/..\": can not contain backsteps ('..')",
                    "volumeDevices[1].name: Not found: \"n\"",
                    "volumeDevices[1].devicePath: Required value",
                ],
            ),
        ],
    );
    accepted(&[
        mount(json!({"subPath": "a/b", "readOnly": true, "recursiveReadOnly": "IfPossible"})),
        mounted(json!({"volumeDevices": [{"name": "b", "devicePath": "/dev/xvda"}]})),
    ]);
}

#[test]
fn probes_and_hooks() {
    let probe = |probe: Value| container(json!({"livenessProbe": probe}));
    refused(
        "spec.containers[0].",
        &[
            (probe(json!({})), &["livenessProbe: Required value: must specify a handler type"]),
            (
                probe(json!({"exec": {"command": ["a"]}, "grpc": {"port": 1}})),
                &["livenessProbe.grpc: Forbidden: may not specify more than 1 handler type"],
            ),
            (
                probe(json!({"httpGet": {"port": 0, "scheme": "FTP", "httpHeaders": [{"name": "a b"}]}})),
                &[
                    "livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "livenessProbe.httpGet.scheme: Unsupported value: \"FTP\": supported values: \"HTTP\", \"HTTPS\"",
                    "livenessProbe.httpGet.httpHeaders: Invalid value: \"a b\": a valid HTTP header must consist of alphanumeric characters or '-' (e.g. 'X-Header-Name', regex used for validation is '[-A-Za-z0-9]+')",
                ],
            ),
            (
                probe(json!({"grpc": {"port": 65536}})),
                &["livenessProbe.grpc.port: Invalid value: 65536: must be between 1 and 65535, inclusive"],
            ),
            (
                probe(
                    json!({"tcpSocket": {"port": "HTTP"}, "successThreshold": 2, "terminationGracePeriodSeconds": 0}),
                ),
                &[
                    "livenessProbe.tcpSocket.port: Invalid value: \"HTTP\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                    "livenessProbe.tcpSocket.port: Invalid value: \"HTTP\": must contain at least one letter (a-z)",
                    "livenessProbe.terminationGracePeriodSeconds: Invalid value: 0: must be greater than 0",
                    "livenessProbe.successThreshold: Invalid value: 2: must be 1",
                ],
            ),
            (
                container(
                    json!({"readinessProbe": {"exec": {}, "terminationGracePeriodSeconds": 1, "periodSeconds": -1}}),
                ),
                &[
                    "readinessProbe.exec.command: Required value",
                    "readinessProbe.periodSeconds: Invalid value: -1: must be greater than or equal to 0",
                    "readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
                ],
            ),
            (
                container(
                    json!({"lifecycle": {"preStop": {"sleep": {"seconds": 31}}, "stopSignal": "SIGUSR1"}}),
                ),
                &[
                    "lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)",
                    "lifecycle.stopSignal: Forbidden: may not be set for containers with empty `spec.os.name`",
                ],
            ),
            (
                with(
                    json!({"os": {"name": "windows"}, "containers": [{"name": "c", "image": "i", "lifecycle": {"stopSignal": "SIGUSR1"}}]}),
                ),
                &[
                    "lifecycle.stopSignal: Unsupported value: \"SIGUSR1\": supported values: \"SIGKILL\", \"SIGTERM\"",
                ],
            ),
        ],
    );
    accepted(&[
        with(json!({"os": {"name": "linux"}, "containers": [{"name": "c", "image": "i",
            "lifecycle": {"stopSignal": "SIGRTMIN+15", "postStart": {"sleep": {"seconds": 0}}}}]})),
        probe(json!({"httpGet": {"port": "http", "httpHeaders": [{"name": "X-A", "value": ""}]}})),
    ]);
}

#[test]
fn variables() {
    let from = |source: Value| container(json!({"env": [{"name": "A", "valueFrom": source}]}));
    refused(
        "spec.containers[0].env[0].valueFrom",
        &[
            (
                from(json!({})),
                &[
                    ": Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
                ],
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "metadata.labels['a b']"}})),
                &[
                    ".fieldRef: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "spec['a']"}})),
                &[
                    ".fieldRef.fieldPath: Invalid value: \"spec['a']\": error converting fieldPath: field label does not support subscript: spec['a']",
                ],
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "metadata.x"}})),
                &[
                    ".fieldRef.fieldPath: Invalid value: \"metadata.x\": error converting fieldPath: field label not supported: metadata.x",
                ],
            ),
            (
                from(json!({"fieldRef": {"fieldPath": "status.phase"}})),
                &[
                    ".fieldRef.fieldPath: Unsupported value: \"status.phase\": supported values: \"metadata.name\", \"metadata.namespace\", \"metadata.uid\", \"spec.nodeName\", \"spec.serviceAccountName\", \"status.hostIP\", \"status.hostIPs\", \"status.podIP\", \"status.podIPs\"",
                ],
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.gpu", "divisor": "0"}})),
                &[
                    ".resourceFieldRef.resource: Unsupported value: \"limits.gpu\": supported values: \"limits.cpu\", \"limits.ephemeral-storage\", \"limits.memory\", \"requests.cpu\", \"requests.ephemeral-storage\", \"requests.memory\"",
                ],
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "2m"}})),
                &[
                    ".resourceFieldRef.divisor: Invalid value: \"limits.cpu\": only divisor's values 1m and 1 are supported with the cpu resource",
                ],
            ),
            (
                from(json!({"resourceFieldRef": {"resource": "limits.memory", "divisor": "2Mi"}})),
                &[
                    ".resourceFieldRef.divisor: Invalid value: \"limits.memory\": only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
                ],
            ),
            (
                from(json!({"secretKeyRef": {"name": "s", "key": "a/b"}})),
                &[
                    ".secretKeyRef.key: Invalid value: \"a/b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                ],
            ),
            (
                from(json!({"fileKeyRef": {"volumeName": "v", "path": "../a"}})),
                &[
                    ".fileKeyRef.key: Required value",
                    ".fileKeyRef.path: Invalid value: \"../a\": must not contain '..'",
                    ".fileKeyRef.volumeName: Not found: \"v\"",
                ],
            ),
        ],
    );
    refused(
        "spec.containers[0].envFrom",
        &[
            (
                container(json!({"envFrom": [{"prefix": "a=", "secretRef": {}}]})),
                &[
                    "[0].prefix: Invalid value: \"a=\": a valid environment variable name must consist only of printable ASCII characters other than '='",
                    "[0].secretRef.name: Required value",
                ],
            ),
            (
                container(json!({"envFrom": [{"prefix": "a"}]})),
                &[": Invalid value: \"\": must specify one of: `configMapRef` or `secretRef`"],
            ),
        ],
    );
    accepted(&[
        from(json!({"resourceFieldRef": {"resource": "requests.hugepages-2Mi", "divisor": "1Mi"}})),
        from(json!({"fieldRef": {"fieldPath": "metadata.annotations['Example.com/A']"}})),
        from(json!({"resourceFieldRef": {"resource": "limits.cpu", "divisor": "0.001"}})),
    ]);
}

#[test]
fn amounts() {
    let of = |resources: Value| container(json!({"resources": resources}));
    refused(
        "spec.containers[0].resources",
        &[
            (
                of(json!({"limits": {"gpu": "1", "pods": "1"}})),
                &[
                    ".limits[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    ".limits[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                    ".limits[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                    ".requests[gpu]: Invalid value: \"gpu\": must be a standard resource type or fully qualified",
                    ".requests[gpu]: Invalid value: \"gpu\": must be a standard resource for containers",
                    ".requests[pods]: Invalid value: \"pods\": must be a standard resource for containers",
                ],
            ),
            (
                of(json!({"requests": {"cpu": "2"}, "limits": {"cpu": "1000m"}})),
                &[".requests: Invalid value: \"2\": must be less than or equal to cpu limit of 1"],
            ),
            (
                of(json!({"requests": {"example.com/gpu": "1"}, "limits": {"example.com/gpu": "2"}})),
                &[".requests: Invalid value: \"1\": must be equal to example.com/gpu limit of 2"],
            ),
            (
                of(json!({"requests": {"example.com/gpu": "500m"}})),
                &[
                    ".requests[example.com/gpu]: Invalid value: \"500m\": must be an integer",
                    ".limits: Required value: Limit must be set for non overcommitable resources",
                ],
            ),
            (
                of(json!({"requests": {"memory": "-1"}})),
                &[".requests[memory]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                of(json!({"limits": {"hugepages-2Mi": "3Mi"}})),
                &[
                    ".limits[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                    ".requests[hugepages-2Mi]: Invalid value: \"3Mi\": 3Mi is not positive integer multiple of hugepages-2Mi",
                    ": Forbidden: HugePages require cpu or memory",
                ],
            ),
            (
                of(json!({"claims": [{"name": "a"}, {"name": "a"}]})),
                &[
                    ".claims[0]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty",
                    ".claims[1]: Duplicate value: \"a\"",
                    ".claims[1]: Not found: \"a\": must be one of the names in pod.spec.resourceClaims which is empty",
                ],
            ),
        ],
    );
    refused(
        "spec.",
        &[
            (
                with(json!({"resourceClaims": [{"name": "a"}, {"name": "a", "resourceClaimName": "A"}]})),
                &[
                    "resourceClaims[0]: Invalid value: {\"name\":\"a\"}: must specify one of: `resourceClaimName`, `resourceClaimTemplateName`",
                    "resourceClaims[1].name: Duplicate value: \"a\"",
                    "resourceClaims[1].resourceClaimName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                with(json!({"resources": {"requests": {"cpu": "1", "ephemeral-storage": "1"}},
                    "containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "2"}}}]})),
                &[
                    "resources.requests[ephemeral-storage]: Unsupported value: \"ephemeral-storage\": supported values: \"cpu\", \"hugepages-\", \"memory\"",
                    "resources.requests[cpu]: Invalid value: \"1\": must be greater than or equal to aggregate container requests of 2",
                ],
            ),
            (
                with(json!({"resources": {"limits": {"memory": "1Gi"}},
                    "containers": [{"name": "c", "image": "i", "resources": {"requests": {"memory": "1Gi"}, "limits": {"memory": "2Gi"}}}]})),
                &[
                    "resources.containers[0][memory].limits: Invalid value: \"2Gi\": must be less than or equal to pod limits of 1Gi",
                ],
            ),
            (
                with(json!({"overhead": {"cpu": "-1"}})),
                &["overhead.limits[cpu]: Invalid value: \"-1\": must be greater than or equal to 0"],
            ),
            (
                with(
                    json!({"restartPolicy": "Never", "containers": [{"name": "c", "image": "i", "resizePolicy": [
                    {"resourceName": "cpu", "restartPolicy": "RestartContainer"}, {"resourceName": "gpu", "restartPolicy": "NotRequired"}]}]}),
                ),
                &[
                    "containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod `restartPolicy` is 'Never'",
                    "containers[0].resizePolicy: Unsupported value: \"gpu\": supported values: \"cpu\", \"memory\"",
                ],
            ),
        ],
    );
    accepted(&[
        of(json!({"limits": {"cpu": "1", "hugepages-2Mi": "4Mi", "example.com/gpu": "1"}})),
        with(json!({"resources": {"limits": {"cpu": "1"}}})),
    ]);
}

#[test]
fn lists_of_containers() {
    let c = json!({"name": "c", "image": "i"});
    let init = |more: Value| {
        let mut init = json!({"name": "n", "image": "i"});
        merge(&mut init, &more);
        with(json!({"initContainers": [init]}))
    };
    refused(
        "spec.",
        &[
            (with(json!({"containers": []})), &["containers: Required value"]),
            (
                with(json!({"containers": [c, c], "initContainers": [c]})),
                &[
                    "containers[1].name: Duplicate value: \"c\"",
                    "initContainers[0].name: Duplicate value: \"c\"",
                ],
            ),
            (
                init(json!({"livenessProbe": {"exec": {"command": ["x"]}}, "lifecycle": {}})),
                &[
                    "initContainers[0].lifecycle: Forbidden: may not be set for init containers without restartPolicy=Always",
                    "initContainers[0].livenessProbe: Forbidden: may not be set for init containers without restartPolicy=Always",
                ],
            ),
            (
                init(json!({"restartPolicy": "Always", "livenessProbe": {}})),
                &["initContainers[0].livenessProbe: Required value: must specify a handler type"],
            ),
            (
                init(
                    json!({"restartPolicyRules": [{"action": "Stop", "exitCodes": {"operator": "Is"}}, {"action": "Restart"}]}),
                ),
                &[
                    "initContainers[0].restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                    "initContainers[0].restartPolicyRules[0].action: Unsupported value: \"Stop\": supported values: \"Restart\"",
                    "initContainers[0].restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
                    "initContainers[0].restartPolicyRules[1].exitCodes: Required value: must be specified",
                ],
            ),
            (
                with(
                    json!({"hostNetwork": true, "containers": [{"name": "c", "image": " i", "ports": [{"containerPort": 80, "hostPort": 81}]}]}),
                ),
                &[
                    "containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true",
                    "containers[0].image: Invalid value: \" i\": must not have leading or trailing whitespace",
                ],
            ),
            (
                with(json!({"containers": [{"name": "c", "image": "i", "ports": [
                    {"containerPort": 80, "hostPort": 1, "hostIP": "10.0.0.1"}, {"containerPort": 81, "hostPort": 1, "hostIP": "10.0.0.1"}, {}]}]})),
                &[
                    "containers[0].ports[2].containerPort: Required value",
                    "containers[0].ports[1].hostPort: Duplicate value: \"TCP/10.0.0.1/1\"",
                ],
            ),
            (
                with(
                    json!({"ephemeralContainers": [{"name": "c", "image": "i", "targetContainerName": "d", "ports": [{"containerPort": 1}],
                    "resources": {"limits": {"cpu": "1"}}}]}),
                ),
                &[
                    "ephemeralContainers[0].name: Duplicate value: \"c\"",
                    "ephemeralContainers[0].targetContainerName: Not found: \"d\"",
                    "ephemeralContainers[0].ports: Forbidden: cannot be set for an Ephemeral Container",
                    "ephemeralContainers[0].resources: Forbidden: cannot be set for an Ephemeral Container",
                    "ephemeralContainers: Forbidden: cannot be set on create",
                ],
            ),
        ],
    );
}

#[test]
fn names_and_dns() {
    refused(
        "spec.",
        &[
            (
                with(json!({"dnsPolicy": "None"})),
                &["dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"],
            ),
            (
                with(json!({"dnsPolicy": "None", "dnsConfig": {}})),
                &[
                    "dnsConfig.nameservers: Required value: must provide at least one DNS nameserver when `dnsPolicy` is None",
                ],
            ),
            (
                with(
                    json!({"dnsConfig": {"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "x"], "searches": ["a b"], "options": [{}]}}),
                ),
                &[
                    "dnsConfig.nameservers: Invalid value: [\"1.1.1.1\",\"1.1.1.2\",\"1.1.1.3\",\"x\"]: must not have more than 3 nameservers",
                    "dnsConfig.nameservers[3]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "dnsConfig.searches[0]: Invalid value: \"a b\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')",
                    "dnsConfig.options[0]: Required value: must not be empty",
                ],
            ),
            (
                with(json!({"hostnameOverride": "a.b", "setHostnameAsFQDN": true, "hostNetwork": true})),
                &[
                    "hostnameOverride: Forbidden: may not be specified when setHostnameAsFQDN is true",
                    "hostnameOverride: Forbidden: may not be specified when hostNetwork is true",
                ],
            ),
            (
                with(json!({"preemptionPolicy": "x", "activeDeadlineSeconds": 0})),
                &[
                    "activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
                    "preemptionPolicy: Unsupported value: \"x\": supported values: \"Never\", \"PreemptLowerPriority\"",
                ],
            ),
            (
                with(json!({"schedulingGates": [{"name": "g"}, {"name": "g"}], "nodeName": "n"})),
                &[
                    "schedulingGates[1]: Duplicate value: \"g\"",
                    "nodeName: Forbidden: cannot be set until all schedulingGates have been cleared",
                ],
            ),
            (
                with(json!({"schedulingGroup": {}})),
                &["schedulingGroup.podGroupName: Invalid value: null: must specify one of: `podGroupName`"],
            ),
        ],
    );
    let label = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')";
    for (pod, want) in [
        (
            with(json!({"hostAliases": [{"ip": "10.0.0.1", "hostnames": ["A"]}]})),
            "hostAliases[0].hostnames[0]: Invalid value: \"A\"",
        ),
        (with(json!({"runtimeClassName": ""})), "runtimeClassName: Invalid value: \"\""),
    ] {
        assert_eq!(wrong(kind("v1", "Pod"), &pod), [format!("spec.{want}: {label}")]);
    }
    accepted(&[with(
        json!({"dnsConfig": {"searches": [".", "_sip._tcp.a_b.example.com."]}, "readinessGates": [{"conditionType": "example.com/x"}],
        "hostnameOverride": "a.example.com"}),
    )]);
}

#[test]
fn scheduling() {
    let node = |term: Value| {
        with(
            json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}}),
        )
    };
    let expression = |e: Value| node(json!({"matchExpressions": [e]}));
    refused(
        "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].",
        &[
            (
                expression(json!({"key": "k", "operator": "In"})),
                &[
                    "matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
                ],
            ),
            (
                expression(json!({"key": "k", "operator": "Exists", "values": ["a"]})),
                &[
                    "matchExpressions[0].values: Forbidden: may not be specified when `operator` is 'Exists' or 'DoesNotExist'",
                ],
            ),
            (
                expression(json!({"key": "k", "operator": "Gt", "values": ["1", "2"]})),
                &[
                    "matchExpressions[0].values: Required value: must be specified single value when `operator` is 'Lt' or 'Gt'",
                ],
            ),
            (
                expression(json!({"key": "k", "operator": "Near"})),
                &["matchExpressions[0].operator: Invalid value: \"Near\": not a valid selector operator"],
            ),
            (
                node(json!({"matchFields": [{"key": "spec.x", "operator": "In", "values": []}]})),
                &[
                    "matchFields[0].values: Required value: must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
                    "matchFields[0].key: Invalid value: \"spec.x\": not a valid field selector key",
                ],
            ),
        ],
    );
    refused(
        "spec.",
        &[
            (
                with(
                    json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {},
                    "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 0, "preference": {}}]}}}),
                ),
                &[
                    "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
                    "affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 0: must be in the range 1-100",
                ],
            ),
            (
                with(json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": "k", "matchLabelKeys": ["a"]},
                    {"topologyKey": "k", "labelSelector": {"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "a", "operator": "Exists"}]},
                        "matchLabelKeys": ["a"], "mismatchLabelKeys": ["a"]}]}}})),
                &[
                    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
                    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[1][0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector",
                    "affinity.podAffinity.requiredDuringSchedulingIgnoredDuringExecution[1].matchLabelKeys[0]: Invalid value: \"a\": exists in both matchLabelKeys and mismatchLabelKeys",
                ],
            ),
            (
                with(
                    json!({"affinity": {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [
                    {"weight": 101, "podAffinityTerm": {"topologyKey": "k", "namespaces": ["A"]}}]}}}),
                ),
                &[
                    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
                    "affinity.podAntiAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].podAffinityTerm.namespace: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                with(json!({"topologySpreadConstraints": [
                    {"maxSkew": 0, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway", "minDomains": 1, "nodeTaintsPolicy": "x"},
                    {"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "ScheduleAnyway", "matchLabelKeys": ["a"]}, {"maxSkew": 1}]})),
                &[
                    "topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
                    "topologySpreadConstraints[0].{topologyKey, whenUnsatisfiable}: Duplicate value: \"{k, ScheduleAnyway}\"",
                    "topologySpreadConstraints[0].minDomains: Invalid value: 1: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
                    "topologySpreadConstraints[0].nodeTaintsPolicy: Unsupported value: \"x\": supported values: \"Honor\", \"Ignore\"",
                    "topologySpreadConstraints[1].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
                    "topologySpreadConstraints[2].topologyKey: Required value: can not be empty",
                    "topologySpreadConstraints[2].whenUnsatisfiable: Unsupported value: \"\": supported values: \"DoNotSchedule\", \"ScheduleAnyway\"",
                ],
            ),
            (
                with(
                    json!({"tolerations": [{"key": "k", "tolerationSeconds": 1, "effect": "NoSchedule"}, {"operator": "Equal"},
                    {"key": "k", "operator": "Exists", "value": "v"}, {"key": "k", "operator": "x", "effect": "y"}, {"key": "k", "value": "a b"}]}),
                ),
                &[
                    "tolerations[0].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
                    "tolerations[1].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
                    "tolerations[2].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
                    "tolerations[3].operator: Unsupported value: \"x\": supported values: \"Equal\", \"Exists\"",
                    "tolerations[3].effect: Unsupported value: \"y\": supported values: \"NoExecute\", \"NoSchedule\", \"PreferNoSchedule\"",
                    "tolerations[4].operator: Invalid value: \"a b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
        ],
    );
    // What the server adds to the selector of a pod must not be there already.
    let mut spread = with(
        json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": "k", "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": {"a": "b"}}, "matchLabelKeys": ["a"]}]}),
    );
    accepted(std::slice::from_ref(&spread));
    spread["metadata"]["labels"] = json!({"a": "b"});
    let want = "spec.topologySpreadConstraints[0][0]: Invalid value: \"a\": exists in both matchLabelKeys and labelSelector";
    assert_eq!(wrong(kind("v1", "Pod"), &spread), [want]);
    accepted(&[
        expression(json!({"key": "k", "operator": "Lt", "values": ["5"]})),
        node(json!({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["n"]}]})),
        with(
            json!({"tolerations": [{"operator": "Exists"}, {"key": "k", "effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 5}]}),
        ),
    ]);
}

/// A pod that waits for its gates, as it is stored, and a change of it.
fn changed(before: Value, change: Value, subresource: &str) -> Vec<String> {
    let pods = kind("v1", "Pod");
    let mut old = with(
        json!({"schedulingGates": [{"name": "g"}], "tolerations": [{"key": "k", "operator": "Exists", "effect": "NoExecute"}],
        "activeDeadlineSeconds": 10, "nodeSelector": {"a": "b"}}),
    );
    merge(&mut old, &before);
    pods.default(&mut old);
    pods.prepare_create(&mut old);
    merge(&mut old, &json!({"status": before["status"]}));
    let mut new = old.clone();
    merge(&mut new, &change);
    pods.default(&mut new);
    pods.prepare_update(&mut new, &old, subresource);
    texts(pods.validate_update(&new, &old, subresource))
}

#[test]
fn what_may_change() {
    let others = "spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";
    let affinity = |expressions: Value| json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": expressions}]}}}});
    let (a, b) = (json!({"key": "a", "operator": "Exists"}), json!({"key": "b", "operator": "Exists"}));
    let held = affinity(json!([a]));
    let ungated = json!({"schedulingGates": null});
    let bound = json!({"schedulingGates": null, "nodeName": "n"});
    let toleration = |seconds: Value| json!({"key": "k", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": seconds});
    let kept =
        "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds";
    for (before, change, want) in [
        (json!({}), json!({"containers": [{"name": "c", "image": "j"}]}), &[] as &[&str]),
        (json!({}), json!({"containers": [{"name": "c", "image": "i", "command": ["x"]}]}), &[others]),
        (
            json!({}),
            json!({"containers": [{"name": "c", "image": "i"}, {"name": "d", "image": "i"}]}),
            &["spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
        (json!({}), json!({"activeDeadlineSeconds": 5}), &[]),
        (
            json!({}),
            json!({"activeDeadlineSeconds": 11}),
            &["spec.activeDeadlineSeconds: Invalid value: 11: must be less than or equal to previous value"],
        ),
        (
            json!({}),
            json!({"activeDeadlineSeconds": null}),
            &[
                "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            ],
        ),
        (json!({}), json!({"tolerations": [toleration(json!(5)), {"operator": "Exists"}]}), &[]),
        (json!({}), json!({"tolerations": [{"operator": "Exists"}]}), &[kept]),
        (
            json!({}),
            json!({"schedulingGates": [{"name": "h"}]}),
            &[
                "spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'h'",
            ],
        ),
        (json!({}), ungated.clone(), &[]),
        (json!({}), json!({"nodeSelector": {"c": "d"}}), &[]),
        (
            json!({}),
            json!({"nodeSelector": {"a": "c"}}),
            &[
                "spec.nodeSelector: Invalid value: {\"a\":\"c\"}: only additions to spec.nodeSelector are allowed (no mutations or deletions)",
            ],
        ),
        (ungated.clone(), json!({"nodeSelector": {"c": "d"}}), &[others]),
        (json!({}), held.clone(), &[]),
        (held.clone(), affinity(json!([a, b])), &[]),
        (
            held.clone(),
            json!({"affinity": null}),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Invalid value: []: no additions/deletions to non-empty NodeSelectorTerms list are allowed",
            ],
        ),
        (
            held.clone(),
            affinity(json!([b])),
            &[
                "spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0]: Invalid value: {\"matchExpressions\":[{\"key\":\"b\",\"operator\":\"Exists\"}]}: only additions are allowed (no mutations or deletions)",
            ],
        ),
        (
            json!({}),
            json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [{"topologyKey": "k"}]}}}),
            &[others],
        ),
        (bound.clone(), json!({"nodeName": "m"}), &[others]),
        // Nothing and an empty list are the same.
        (json!({}), json!({"imagePullSecrets": [], "hostAliases": []}), &[]),
        (json!({"terminationGracePeriodSeconds": -5}), json!({"terminationGracePeriodSeconds": 1}), &[]),
    ] {
        let got = changed(json!({"spec": before}), json!({"spec": change}), "");
        assert_eq!(got, want, "{before} -> {change}");
    }
    let key = "container.apparmor.security.beta.kubernetes.io/c";
    let got = changed(json!({}), json!({"metadata": {"annotations": {key: "unconfined"}}}), "");
    assert_eq!(got, [format!("metadata.annotations[{key}]: Forbidden: may not add AppArmor annotations")]);
}

/// Rules that came after an object bind only what changes of it.
#[test]
fn what_was_wrong_before_may_stay() {
    let pods = kind("v1", "Pod");
    let mut old = with(json!({"securityContext": {"runAsUser": -1}, "terminationGracePeriodSeconds": 30}));
    pods.default(&mut old);
    let mut new = old.clone();
    new["metadata"]["labels"] = json!({"a": "b"});
    assert_eq!(texts(pods.validate_update(&new, &old, "")), Vec::<String>::new());
    new["spec"]["containers"][0]["image"] = json!("");
    assert_eq!(texts(pods.validate_update(&new, &old, "")), ["spec.containers[0].image: Required value"]);

    let deployments = kind("apps/v1", "Deployment");
    let template = |user: i64| {
        json!({"metadata": {"labels": {"a": "b"}},
            "spec": {"securityContext": {"runAsUser": user}, "containers": [{"name": "c", "image": "i"}]}})
    };
    let mut old = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template(-1)}});
    deployments.default(&mut old);
    let mut new = old.clone();
    new["spec"]["replicas"] = json!(3);
    assert_eq!(texts(deployments.validate_update(&new, &old, "")), Vec::<String>::new());
    new["spec"]["template"]["spec"]["securityContext"]["runAsUser"] = json!(-2);
    let want = "spec.template.spec.securityContext.runAsUser: Invalid value: -2: must be between 0 and 2147483647, inclusive";
    assert_eq!(texts(deployments.validate_update(&new, &old, "")), [want]);
}

#[test]
fn templates() {
    let deployments = kind("apps/v1", "Deployment");
    let with = |template: Value| {
        let mut deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "d"},
            "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": {"metadata": {"labels": {"a": "b"}},
                "spec": {"containers": [{"name": "c", "image": " i ", "ports": [{"containerPort": 80}]}], "hostNetwork": true}}}});
        merge(&mut deployment, &json!({"spec": {"template": template}}));
        wrong(deployments, &deployment)
    };
    // Pods that are made from it are held to more.
    assert_eq!(with(json!({})), Vec::<String>::new());
    assert_eq!(
        with(json!({"metadata": {"labels": {"a": "b", "x": "y z"}}})),
        [
            "spec.template.labels: Invalid value: \"y z\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
        ]
    );
    assert_eq!(
        with(json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}})),
        [
            "spec.template.spec.ephemeralContainers: Forbidden: ephemeral containers not allowed in pod template"
        ]
    );
}

/// Each claim of a StatefulSet is a volume of its pods.
#[test]
fn claims_of_sets_are_volumes() {
    let sets = kind("apps/v1", "StatefulSet");
    let mut set = json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "s", "namespace": "d"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"volumes": [{"name": "data", "emptyDir": {}}, {"name": "v"}],
                "containers": [{"name": "c", "image": "i", "volumeDevices": [{"name": "data", "devicePath": "/dev/d"}]}]}}}});
    assert_eq!(wrong(sets, &set), Vec::<String>::new());
    set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"] = json!("other");
    let want = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
    let want =
        format!("spec.template.spec.containers[0].volumeDevices[0].name: Invalid value: \"data\": {want}");
    assert_eq!(wrong(sets, &set), [want]);
    set["spec"]["template"]["spec"]["containers"] =
        json!([{"name": "c", "image": "i", "volumeMounts": [{"name": "other", "mountPath": "/d"}]}]);
    assert_eq!(wrong(sets, &set), Vec::<String>::new());
}

#[test]
fn subresources() {
    let running = json!({"spec": {"schedulingGates": null, "nodeName": "n", "restartPolicy": "Never"}, "status": {
        "containerStatuses": [{"name": "c", "state": {"terminated": {"exitCode": 1}}}], "podIPs": [{"ip": "10.0.0.1"}]}});
    for (status, want) in [
        (
            json!({"qosClass": "Guaranteed"}),
            "status.qosClass: Invalid value: \"Guaranteed\": field is immutable",
        ),
        (
            json!({"nominatedNodeName": "m"}),
            "status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node",
        ),
        (
            json!({"observedGeneration": -1}),
            "status.observedGeneration: Invalid value: -1: must be a non-negative integer",
        ),
        (
            json!({"containerStatuses": [{"name": "c", "state": {"running": {}}}]}),
            "status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state",
        ),
        (
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}]}),
            "status.podIPs: Invalid value: [{\"ip\":\"10.0.0.1\"},{\"ip\":\"10.0.0.2\"}]: may specify no more than one IP for each IP family",
        ),
        (
            json!({"hostIPs": [{"ip": "10.0.0.1"}]}),
            "status.hostIPs[0].ip: Invalid value: \"10.0.0.1\": must be equal to `hostIP`",
        ),
        (
            json!({"resourceClaimStatuses": [{"name": "x"}]}),
            "status.resourceClaimStatuses[0].name: Invalid value: \"x\": must match the name of an entry in `spec.resourceClaims`",
        ),
        (
            json!({"podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}], "conditions": [{"type": "Ready"}, {"type": "example.com/x"}]}),
            "",
        ),
    ] {
        let got = changed(running.clone(), json!({"status": status}), "status");
        assert_eq!(got.concat(), want, "{status}");
    }
    // What is started again may run again.
    let mut again = running;
    again["spec"]["restartPolicy"] = json!("OnFailure");
    let run = json!({"status": {"containerStatuses": [{"name": "c", "state": {"running": {}}}]}});
    assert_eq!(changed(again, run, "status"), Vec::<String>::new());

    let debugged = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}]}});
    let bad = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "i"}, {"name": "f", "image": "i", "lifecycle": {}, "targetContainerName": "x"}]}});
    assert_eq!(
        changed(debugged.clone(), bad, "ephemeralcontainers"),
        [
            "spec.ephemeralContainers[1].targetContainerName: Not found: \"x\"",
            "spec.ephemeralContainers[1].lifecycle: Forbidden: cannot be set for an Ephemeral Container",
        ]
    );
    let other = json!({"spec": {"ephemeralContainers": [{"name": "e", "image": "j"}]}});
    assert_eq!(
        changed(debugged, other, "ephemeralcontainers"),
        ["spec.ephemeralContainers: Forbidden: existing ephemeral containers \"e\" may not be changed"]
    );
    let sized = |cpu: &str| json!({"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": cpu}}}]}});
    assert_eq!(changed(sized("1"), sized("2"), "resize"), Vec::<String>::new());
    assert_eq!(
        changed(sized("1"), sized("-2"), "resize"),
        [
            "spec.containers[0].resources.requests[cpu]: Invalid value: \"-2\": must be greater than or equal to 0"
        ]
    );
}
