//! Roles, and requests for certificates.

use super::*;

#[test]
fn roles() {
    let base = json!({"metadata": {"name": "r", "namespace": "d"}});
    let rules = |rule: Value| json!({"rules": [rule]});
    let role = kind("rbac.authorization.k8s.io/v1", "Role");
    creates(
        role,
        &base,
        "rules[0].",
        &[
            (
                rules(json!({"apiGroups": [""], "resources": ["pods"]})),
                &["verbs: Required value: verbs must contain at least one value"],
            ),
            (
                rules(json!({"verbs": ["get"]})),
                &[
                    "apiGroups: Required value: resource rules must supply at least one api group",
                    "resources: Required value: resource rules must supply at least one resource",
                ],
            ),
            (
                rules(json!({"verbs": ["get"], "resources": ["pods"]})),
                &["apiGroups: Required value: resource rules must supply at least one api group"],
            ),
            (
                rules(json!({"verbs": ["get"], "nonResourceURLs": ["/a"]})),
                &[
                    "nonResourceURLs: Invalid value: [\"/a\"]: namespaced rules cannot apply to non-resource URLs",
                ],
            ),
        ],
    );
    let cluster = json!({"metadata": {"name": "r"}});
    creates(
        kind("rbac.authorization.k8s.io/v1", "ClusterRole"),
        &cluster,
        "",
        &[
            (
                rules(
                    json!({"verbs": ["get"], "nonResourceURLs": ["/a"], "resources": ["pods"], "apiGroups": [""]}),
                ),
                &[
                    "rules[0].nonResourceURLs: Invalid value: [\"/a\"]: rules cannot apply to both regular resources and non-resource URLs",
                ],
            ),
            (rules(json!({"verbs": ["get"], "nonResourceURLs": ["/a"]})), &[]),
            (
                json!({"aggregationRule": {}}),
                &[
                    "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if aggregationRule is non-nil",
                ],
            ),
            (
                json!({"aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a b": "c"}}]}}),
                &[
                    "aggregationRule.clusterRoleSelectors[0].matchLabels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
        ],
    );
    let bindings = kind("rbac.authorization.k8s.io/v1", "RoleBinding");
    let binding = merged(
        &base,
        &json!({"roleRef": {"kind": "Role", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}),
    );
    let subject = |subject: Value| json!({"subjects": [subject]});
    creates(
        bindings,
        &binding,
        "",
        &[
            (subject(json!({"kind": "ServiceAccount", "name": "a"})), &[]),
            (
                subject(json!({"kind": "ServiceAccount", "name": "A", "namespace": "d", "apiGroup": "x"})),
                &[
                    "subjects[0].name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"\"",
                ],
            ),
            (
                subject(json!({"kind": "User", "name": "", "apiGroup": "x"})),
                &[
                    "subjects[0].name: Required value",
                    "subjects[0].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                ],
            ),
            (
                subject(json!({"kind": "Robot", "name": "x"})),
                &[
                    "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                ],
            ),
            (
                json!({"roleRef": {"kind": "Rule", "name": "", "apiGroup": "x"}}),
                &[
                    "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                    "roleRef.kind: Unsupported value: \"Rule\": supported values: \"ClusterRole\", \"Role\"",
                    "roleRef.name: Required value",
                ],
            ),
        ],
    );
    updates(
        bindings,
        &binding,
        "",
        "",
        &[(
            json!({"roleRef": {"name": "s"}}),
            &[
                "roleRef: Invalid value: {\"kind\":\"Role\",\"name\":\"s\",\"apiGroup\":\"rbac.authorization.k8s.io\"}: cannot change roleRef",
            ],
        )],
    );
    creates(
        kind("rbac.authorization.k8s.io/v1", "ClusterRoleBinding"),
        &json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "r", "apiGroup": "rbac.authorization.k8s.io"}}),
        "",
        &[
            (
                subject(json!({"kind": "ServiceAccount", "name": "a"})),
                &["subjects[0].namespace: Required value"],
            ),
            (
                json!({"roleRef": {"kind": "Role"}}),
                &["roleRef.kind: Unsupported value: \"Role\": supported values: \"ClusterRole\""],
            ),
        ],
    );
}

#[test]
fn bundles() {
    let bundles = kind("certificates.k8s.io/v1beta1", "ClusterTrustBundle");
    let base = json!({"metadata": {"name": "example.com:s:b"}, "spec": {"signerName": "example.com/s", "trustBundle": "x"}});
    let of = |spec: Value| json!({"spec": spec});
    creates(
        bundles,
        &base,
        "",
        &[
            (
                json!({"metadata": {"name": "b"}}),
                &[
                    "metadata.name: Invalid value: \"b\": ClusterTrustBundle for signerName example.com/s must be named with prefix example.com:s:",
                    "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
                ],
            ),
            (
                of(json!({"signerName": null})),
                &[
                    "metadata.name: Invalid value: \"example.com:s:b\": ClusterTrustBundle without signer name must not have \":\" in its name",
                    "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
                ],
            ),
            (
                of(json!({"signerName": "a"})),
                &[
                    "spec.signerName: Invalid value: \"a\": must be a fully qualified domain and path of the form 'example.com/signer-name'",
                    "metadata.name: Invalid value: \"example.com:s:b\": ClusterTrustBundle for signerName a must be named with prefix a:",
                    "spec.trustBundle: Invalid value: \"<value omitted>\": at least one trust anchor must be provided",
                ],
            ),
        ],
    );
}
