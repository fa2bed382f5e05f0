//! Devices, and claims of them.

use super::*;

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn claims() {
    let claims = kind("resource.k8s.io/v1", "ResourceClaim");
    let base = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}]}}});
    let request = |request: Value| of(json!({"devices": {"requests": [request]}}));
    let exactly = |more: Value| {
        request(json!({"name": "r", "exactly": merged(&json!({"deviceClassName": "k"}), &more)}))
    };
    creates(
        claims,
        &base,
        "spec.devices.",
        &[
            (
                request(json!({"name": "R"})),
                &[
                    "requests[0].name: Invalid value: \"R\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "requests[0]: Required value: exactly one of `exactly` or `firstAvailable` is required",
                ],
            ),
            (
                request(
                    json!({"name": "r", "exactly": {"deviceClassName": "k"}, "firstAvailable": [{"name": "s", "deviceClassName": "k"}]}),
                ),
                &[
                    "requests[0]: Invalid value: null: exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                ],
            ),
            (
                exactly(json!({"deviceClassName": ""})),
                &["requests[0].exactly.deviceClassName: Required value"],
            ),
            (
                exactly(json!({"deviceClassName": "K"})),
                &[
                    "requests[0].exactly.deviceClassName: Invalid value: \"K\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                exactly(json!({"allocationMode": "Some"})),
                &[
                    "requests[0].exactly.allocationMode: Unsupported value: \"Some\": supported values: \"All\", \"ExactCount\"",
                ],
            ),
            (
                exactly(json!({"allocationMode": "All", "count": 1})),
                &[
                    "requests[0].exactly.count: Invalid value: 1: must not be specified when allocationMode is 'All'",
                ],
            ),
            (
                exactly(json!({"allocationMode": "ExactCount", "count": -1})),
                &["requests[0].exactly.count: Invalid value: -1: must be greater than zero"],
            ),
            (
                exactly(json!({"selectors": [{}, {"cel": {"expression": "1 +"}}]})),
                &[
                    "requests[0].exactly.selectors[0].cel: Required value",
                    "requests[0].exactly.selectors[1].cel.expression: Invalid value: \"1 +\": compilation failed: ERROR: <input>:1:4: Syntax error: Syntax error: mismatched input '<EOF>' expecting expression",
                ],
            ),
            (
                exactly(
                    json!({"tolerations": [{"operator": "Equal"}, {"key": "a", "operator": "Exists", "value": "b"}, {"key": "a b", "operator": "x", "effect": "y"}]}),
                ),
                &[
                    "requests[0].exactly.tolerations[1].value: Invalid value: \"b\": must be empty for operator `Exists`",
                    "requests[0].exactly.tolerations[2].key: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "requests[0].exactly.tolerations[2].operator: Unsupported value: \"x\": supported values: \"Equal\", \"Exists\"",
                    "requests[0].exactly.tolerations[2].effect: Unsupported value: \"y\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                ],
            ),
            (
                of(
                    json!({"devices": {"requests": [{"name": "r", "exactly": {"deviceClassName": "k"}}, {"name": "r", "exactly": {"deviceClassName": "k"}}]}}),
                ),
                &["requests[1]: Duplicate value: \"r\""],
            ),
            (
                of(
                    json!({"devices": {"constraints": [{"requests": ["s"], "matchAttribute": "a"}, {"requests": ["r", "r"]}]}}),
                ),
                &[
                    "constraints[0].requests[0]: Invalid value: \"s\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                    "constraints[0].matchAttribute: Invalid value: \"a\": a fully qualified name must be a domain and a name separated by a slash",
                    "constraints[1].requests[1]: Duplicate value: \"r\"",
                    "constraints[1]: Required value: exactly one of \"matchAttribute\" or \"distinctAttribute\" is required, but multiple fields are set",
                ],
            ),
            (
                of(
                    json!({"devices": {"config": [{"requests": ["s"], "opaque": {"driver": "", "parameters": null}}, {}]}}),
                ),
                &[
                    "config[0].requests[0]: Invalid value: \"s\": must be the name of a request in the claim or the name of a request and a subrequest separated by '/'",
                    "config[0].opaque.driver: Required value",
                    "config[0].opaque.parameters: Required value",
                    "config[1].opaque: Required value",
                ],
            ),
        ],
    );
    let new = changed(claims, &made(claims, &base), &exactly(json!({"count": 2})), "");
    let message = claims.validate_update(&new, &made(claims, &base), "").message();
    assert!(
        message.starts_with("spec: Invalid value: ") && message.ends_with("field is immutable"),
        "{message}"
    );
}

#[test]
fn slices() {
    let slices = kind("resource.k8s.io/v1", "ResourceSlice");
    let base = json!({"metadata": {"name": "s"}, "spec": {"driver": "d.example.com", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1},
        "devices": [{"name": "g"}]}});
    let device = |more: Value| of(json!({"devices": [merged(&json!({"name": "g"}), &more)]}));
    creates(
        slices,
        &base,
        "spec.",
        &[
            (
                of(json!({"driver": "", "nodeName": null})),
                &[
                    "driver: Required value",
                    "spec: Required value: exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required",
                ],
            ),
            (
                of(json!({"allNodes": true})),
                &[
                    "spec: Invalid value: \"{`nodeName`, `allNodes`}\": exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set",
                ],
            ),
            (
                of(json!({"pool": {"name": "", "generation": -1, "resourceSliceCount": 0}})),
                &[
                    "pool.name: Required value",
                    "pool.resourceSliceCount: Invalid value: 0: must be greater than zero",
                    "pool.generation: Invalid value: -1: must be greater than or equal to zero",
                ],
            ),
            (
                of(json!({"pool": {"name": "a//B"}})),
                &[
                    "pool.name: Invalid value: \"\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "pool.name: Invalid value: \"B\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                device(json!({"name": "G"})),
                &[
                    "devices[0].name: Invalid value: \"G\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (of(json!({"devices": [{"name": "g"}, {"name": "g"}]})), &["devices[1]: Duplicate value: \"g\""]),
            (
                device(
                    json!({"attributes": {"a-b": {"int": 1}, "a": {}, "b": {"int": 1, "bool": true}, "v": {"version": "1"}}}),
                ),
                &[
                    "devices[0].attributes: Invalid value: \"a-b\": a valid C identifier must start with alphabetic character or '_', followed by a string of alphanumeric characters or '_' (e.g. 'my_name',  or 'MY_NAME',  or 'MyName', regex used for validation is '[A-Za-z_][A-Za-z0-9_]*')",
                    "devices[0].attributes[a]: Invalid value: \"\": exactly one value must be specified",
                    "devices[0].attributes[b]: Invalid value: {\"int\":1,\"bool\":true}: exactly one value must be specified",
                    "devices[0].attributes[v].version: Invalid value: \"1\": must be a string compatible with semver.org spec 2.0.0",
                ],
            ),
            (
                device(
                    json!({"taints": [{"key": "", "effect": "x"}, {"key": "a", "value": "b c", "effect": "NoExecute"}]}),
                ),
                &[
                    "devices[0].taints[0].key: Invalid value: \"\": name part must be non-empty",
                    "devices[0].taints[0].key: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "devices[0].taints[0].effect: Unsupported value: \"x\": supported values: \"NoExecute\", \"NoSchedule\", \"None\"",
                    "devices[0].taints[1].value: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                device(json!({"nodeName": "n"})),
                &[
                    "devices[0]: Invalid value: null: `nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec",
                ],
            ),
        ],
    );
    updates(
        slices,
        &base,
        "",
        "spec.",
        &[(
            of(json!({"nodeName": "m", "pool": {"name": "q"}})),
            &[
                "pool.name: Invalid value: \"q\": field is immutable",
                "nodeName: Invalid value: \"m\": field is immutable",
            ],
        )],
    );
    let rules = kind("resource.k8s.io/v1beta2", "DeviceTaintRule");
    let rule = json!({"metadata": {"name": "r"}, "spec": {"deviceSelector": {"driver": "d.example.com"}, "taint": {"key": "a", "effect": "NoSchedule"}}});
    creates(
        rules,
        &rule,
        "spec.",
        &[
            (
                of(json!({"deviceSelector": {"driver": "A B", "pool": "P", "device": "D"}})),
                &[
                    "deviceSelector.driver: Invalid value: \"A B\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "deviceSelector.pool: Invalid value: \"P\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "deviceSelector.device: Invalid value: \"D\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                of(json!({"taint": {"key": "", "effect": ""}})),
                &[
                    "taint.key: Invalid value: \"\": name part must be non-empty",
                    "taint.key: Invalid value: \"\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "taint.effect: Required value",
                ],
            ),
        ],
    );
    let classes = kind("resource.k8s.io/v1", "DeviceClass");
    creates(
        classes,
        &json!({"metadata": {"name": "k"}}),
        "spec.",
        &[(
            of(
                json!({"selectors": [{"cel": {"expression": ""}}], "config": [{"opaque": {"driver": "d", "parameters": {"a": 1}}}], "extendedResourceName": "cpu"}),
            ),
            &[
                "selectors[0].cel.expression: Invalid value: \"\": compilation failed: ERROR: <input>:1:1: Syntax error: Syntax error: mismatched input '<EOF>' expecting expression",
                "extendedResourceName: Invalid value: \"cpu\": must be a valid extended resource name",
            ],
        )],
    );
}
