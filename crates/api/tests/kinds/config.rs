//! Secrets, accounts, and what the server itself is configured by.

use super::*;

#[test]
fn secrets() {
    let secrets = kind("v1", "Secret");
    let base = json!({"metadata": {"name": "s", "namespace": "d"}});
    creates(
        secrets,
        &base,
        "",
        &[
            (
                json!({"data": {"a b": "", "..": ""}}),
                &[
                    "data[a b]: Invalid value: \"a b\": a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                    "data[..]: Invalid value: \"..\": must not be '..'",
                ],
            ),
            (
                json!({"type": "kubernetes.io/service-account-token"}),
                &["metadata.annotations[kubernetes.io/service-account.name]: Required value"],
            ),
            (json!({"type": "kubernetes.io/dockercfg"}), &["data[.dockercfg]: Required value"]),
            (
                json!({"type": "kubernetes.io/dockerconfigjson", "data": {".dockerconfigjson": "eA=="}}),
                &[
                    "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": expected value at line 1 column 1",
                ],
            ),
            (
                json!({"type": "kubernetes.io/basic-auth"}),
                &["data[username]: Required value", "data[password]: Required value"],
            ),
            (json!({"type": "kubernetes.io/basic-auth", "data": {"password": ""}}), &[]),
            (json!({"type": "kubernetes.io/ssh-auth"}), &["data[ssh-privatekey]: Required value"]),
            (
                json!({"type": "kubernetes.io/ssh-auth", "data": {"ssh-privatekey": ""}}),
                &["data[ssh-privatekey]: Required value"],
            ),
            (
                json!({"type": "kubernetes.io/tls"}),
                &["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
        ],
    );
    let fixed = merged(&base, &json!({"immutable": true, "data": {"a": "eA=="}}));
    updates(
        secrets,
        &fixed,
        "",
        "",
        &[
            (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
            (
                json!({"immutable": false, "data": {"a": "eQ=="}}),
                &[
                    "immutable: Forbidden: field is immutable when `immutable` is set",
                    "data: Forbidden: field is immutable when `immutable` is set",
                ],
            ),
            (json!({"type": "other"}), &["type: Invalid value: \"other\": field is immutable"]),
        ],
    );
}

#[test]
fn webhooks() {
    let hook = json!({"name": "a.b.c", "admissionReviewVersions": ["v1"], "sideEffects": "None", "clientConfig": {"url": "https://a"},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}]});
    let hooks = kind("admissionregistration.k8s.io/v1", "ValidatingWebhookConfiguration");
    let base = json!({"metadata": {"name": "w"}, "webhooks": [hook]});
    let with = |more: Value| json!({"webhooks": [merged(&hook, &more)]});
    let resources = |resources: Value| {
        with(
            json!({"rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": resources}]}),
        )
    };
    creates(
        hooks,
        &base,
        "webhooks[0].",
        &[
            (with(json!({"name": ""})), &["name: Required value"]),
            (
                with(json!({"name": "A.b.c"})),
                &[
                    "name: Invalid value: \"A.b.c\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                with(json!({"name": "a.b"})),
                &[
                    "name: Invalid value: \"a.b\": should be a domain with at least three segments separated by dots",
                ],
            ),
            (json!({"webhooks": [hook, hook]}), &["webhooks[1].name: Duplicate value: \"a.b.c\""]),
            (
                with(json!({"sideEffects": null})),
                &["sideEffects: Required value: must specify one of None, NoneOnDryRun"],
            ),
            (
                with(json!({"sideEffects": "Odd", "failurePolicy": "x", "timeoutSeconds": 31})),
                &[
                    "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\"",
                    "sideEffects: Unsupported value: \"Odd\": supported values: \"None\", \"NoneOnDryRun\"",
                    "timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
                ],
            ),
            (
                with(json!({"admissionReviewVersions": ["v1", "v1", "V"]})),
                &[
                    "admissionReviewVersions[1]: Invalid value: \"v1\": duplicate version",
                    "admissionReviewVersions[2]: Invalid value: \"V\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                resources(json!(["pods/*", "pods/status"])),
                &[
                    "rules[0].resources[1]: Invalid value: \"pods/status\": if 'pods/*' is present, must not specify pods/status",
                ],
            ),
            (
                resources(json!(["*/status", "pods/status"])),
                &[
                    "rules[0].resources[1]: Invalid value: \"pods/status\": if '*/status' is present, must not specify pods/status",
                ],
            ),
            (
                resources(json!(["*/*", "pods"])),
                &[
                    "rules[0].resources: Invalid value: [\"*/*\",\"pods\"]: if '*/*' is present, must not specify other resources",
                ],
            ),
            (
                resources(json!(["*", "pods"])),
                &[
                    "rules[0].resources: Invalid value: [\"*\",\"pods\"]: if '*' is present, must not specify other resources without subresources",
                ],
            ),
            (resources(json!(["pods", "*"])), &[]),
            (resources(json!(["", "pods"])), &["rules[0].resources[0]: Required value"]),
        ],
    );
    // What was wrong may stay.
    let odd = json!({"matchLabels": {"a": "b c"}});
    let old = merged(
        &base,
        &json!({"webhooks": [
            merged(&hook, &json!({"admissionReviewVersions": ["v7"], "namespaceSelector": odd, "matchConditions": [{"name": "a", "expression": "1 +"}]})),
            hook
        ]}),
    );
    let old = sent(hooks, &old);
    changes(hooks, &old, "", "", &[(json!({"metadata": {"labels": {"a": "b"}}}), &[])]);
    let mut fewer = old.clone();
    fewer["webhooks"] = json!([fewer["webhooks"][0]]);
    changes(
        hooks,
        &sent(hooks, &base),
        "",
        "webhooks[0].",
        &[(
            json!({"webhooks": fewer["webhooks"]}),
            &[
                "namespaceSelector.matchLabels: Invalid value: \"b c\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                "matchConditions[0].expression: Invalid value: \"1 +\": compilation failed: ERROR: <input>:1:4: Syntax error: Syntax error: mismatched input '<EOF>' expecting expression",
                "admissionReviewVersions: Invalid value: [\"v7\"]: must include at least one of v1, v1beta1",
            ],
        )],
    );
}

#[test]
fn policies_of_admission() {
    let policies = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicy");
    let rule =
        json!({"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]});
    let base = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]},
        "validations": [{"expression": "true"}]}});
    let of = |spec: Value| json!({"spec": spec});
    creates(
        policies,
        &base,
        "spec.",
        &[
            (
                of(json!({"matchConstraints": null, "validations": null})),
                &[
                    "matchConstraints: Required value",
                    "validations: Required value: validations or auditAnnotations must contain at least one item",
                    "auditAnnotations: Required value: validations or auditAnnotations must contain at least one item",
                ],
            ),
            (
                of(json!({"failurePolicy": "x", "matchConstraints": {"resourceRules": null}})),
                &[
                    "failurePolicy: Unsupported value: \"x\": supported values: \"Fail\", \"Ignore\"",
                    "matchConstraints.resourceRules: Required value",
                ],
            ),
            (
                of(json!({"paramKind": {"apiVersion": "a/b/c", "kind": ""}})),
                &[
                    "paramKind.apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c",
                    "paramKind.kind: Required value",
                ],
            ),
            (
                of(
                    json!({"paramKind": {"apiVersion": "v1", "kind": "ConfigMap"}, "matchConditions": [{"name": "a", "expression": "params != null && namespaceObject != null"}]}),
                ),
                &[],
            ),
            (
                of(json!({"matchConditions": [{"name": "a", "expression": "1"}]})),
                &["matchConditions[0].expression: Invalid value: \"1\": must evaluate to bool"],
            ),
            (
                of(
                    json!({"variables": [{"name": "a-b", "expression": "1"}, {"name": "", "expression": ""}]}),
                ),
                &[
                    "variables[0].name: Invalid value: \"a-b\": must be a valid CEL identifier",
                    "variables[1].name: Required value: name is not specified",
                    "variables[1].expression: Required value: expression is not specified",
                ],
            ),
            (
                of(
                    json!({"validations": [{"expression": " ", "message": "a\nb", "reason": "Odd", "messageExpression": " "}]}),
                ),
                &[
                    "validations[0].expression: Required value: expression is not specified",
                    "validations[0].messageExpression: Invalid value: \" \": must be non-empty if specified",
                    "validations[0].message: Invalid value: \"a\\nb\": must not contain line breaks",
                    "validations[0].reason: Unsupported value: \"Odd\": supported values: \"Forbidden\", \"Invalid\", \"RequestEntityTooLarge\", \"Unauthorized\"",
                ],
            ),
            (
                of(
                    json!({"auditAnnotations": [{"key": "a b", "valueExpression": "'x'"}, {"key": "c", "valueExpression": ""}, {"key": "c", "valueExpression": "'x'"}]}),
                ),
                &[
                    "auditAnnotations[0].key: Invalid value: \"p/a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "auditAnnotations[1].valueExpression: Required value: valueExpression is not specified",
                    "auditAnnotations[2].key: Duplicate value: \"c\"",
                ],
            ),
        ],
    );
    let bindings = kind("admissionregistration.k8s.io/v1", "ValidatingAdmissionPolicyBinding");
    let base = json!({"metadata": {"name": "b"}, "spec": {"policyName": "p", "validationActions": ["Deny"]}});
    creates(
        bindings,
        &base,
        "spec.",
        &[
            (
                of(json!({"policyName": "", "validationActions": []})),
                &[
                    "policyName: Required value",
                    "validationActions: Required value: at least one validation action is required",
                ],
            ),
            (
                of(json!({"validationActions": ["Deny", "Warn"]})),
                &[
                    "validationActions: Invalid value: [\"Deny\",\"Warn\"]: must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)",
                ],
            ),
            (
                of(json!({"validationActions": ["Audit", "Audit", "Odd"]})),
                &[
                    "validationActions[1]: Duplicate value: \"Audit\"",
                    "validationActions[2]: Unsupported value: \"Odd\": supported values: \"Audit\", \"Deny\", \"Warn\"",
                ],
            ),
            (
                of(json!({"paramRef": {"name": "a/b", "selector": {}}})),
                &[
                    "paramRef.name: Invalid value: \"a/b\": may not contain '/'",
                    "paramRef.name: Forbidden: name and selector are mutually exclusive",
                    "paramRef.selector: Forbidden: name and selector are mutually exclusive",
                    "paramRef.parameterNotFoundAction: Required value",
                ],
            ),
            (
                of(json!({"paramRef": {"parameterNotFoundAction": "Allow"}})),
                &["paramRef: Required value: one of name or selector must be specified"],
            ),
        ],
    );
    let mutating = kind("admissionregistration.k8s.io/v1", "MutatingAdmissionPolicy");
    let base = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never",
        "mutations": [{"patchType": "JSONPatch", "jsonPatch": {"expression": "[]"}}]}});
    creates(
        mutating,
        &base,
        "spec.",
        &[
            (
                of(json!({"mutations": [], "reinvocationPolicy": "Odd"})),
                &[
                    "mutations: Required value: mutations must contain at least one item",
                    "reinvocationPolicy: Unsupported value: \"Odd\": supported values: \"IfNeeded\", \"Never\"",
                ],
            ),
            (
                of(json!({"mutations": [{"patchType": "JSONPatch"}, {"patchType": "Odd"}, {}]})),
                &[
                    "mutations[0].jsonPatch: Required value: must be specified when patchType is JSONPatch",
                    "mutations[1].patchType: Unsupported value: \"Odd\": supported values: \"ApplyConfiguration\", \"JSONPatch\"",
                    "mutations[2].patchType: Required value",
                ],
            ),
            (
                of(
                    json!({"matchConstraints": {"resourceRules": [merged(&rule, &json!({"operations": ["DELETE"]}))]}}),
                ),
                &[
                    "matchConstraints.resourceRules.operations: Unsupported value: \"DELETE\": supported values: \"*\", \"CREATE\", \"UPDATE\"",
                ],
            ),
        ],
    );
}

#[test]
fn services_of_the_api() {
    let services = kind("apiregistration.k8s.io/v1", "APIService");
    let base = json!({"metadata": {"name": "v1.example.com"}, "spec": {"group": "example.com", "version": "v1",
        "groupPriorityMinimum": 100, "versionPriority": 10, "service": {"name": "s", "namespace": "d"}}});
    let of = |spec: Value| json!({"spec": spec});
    creates(
        services,
        &base,
        "spec.",
        &[
            (
                json!({"metadata": {"name": "v2.example.com"}}),
                &[
                    "metadata.name: Invalid value: \"v2.example.com\": must be `spec.version+\".\"+spec.group`: \"v1.example.com\"",
                ],
            ),
            (
                of(
                    json!({"group": "Example", "version": "", "groupPriorityMinimum": 0, "versionPriority": 1001}),
                ),
                &[
                    "metadata.name: Invalid value: \"v1.example.com\": must be `spec.version+\".\"+spec.group`: \".Example\"",
                    "group: Invalid value: \"Example\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "version: Invalid value: \"\": a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is '[a-z]([-a-z0-9]*[a-z0-9])?')",
                    "groupPriorityMinimum: Invalid value: 0: must be positive and less than 20000",
                    "versionPriority: Invalid value: 1001: must be positive and less than 1000",
                ],
            ),
            (
                of(json!({"insecureSkipTLSVerify": true, "caBundle": "eA=="})),
                &["insecureSkipTLSVerify: Invalid value: true: may not be true if caBundle is present"],
            ),
            (
                of(json!({"service": {"name": "", "namespace": "", "port": 0}})),
                &[
                    "service.namespace: Required value",
                    "service.name: Required value",
                    "service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                of(json!({"service": null, "insecureSkipTLSVerify": true})),
                &[
                    "insecureSkipTLSVerify: Invalid value: true: local APIServices may not have insecureSkipTLSVerify",
                ],
            ),
        ],
    );
}
