//! What shares the server's time out.

use super::*;

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn schemas() {
    let schemas = kind("flowcontrol.apiserver.k8s.io/v1", "FlowSchema");
    let rule = json!({"subjects": [{"kind": "Group", "group": {"name": "g"}}], "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "clusterScope": true}]});
    let base = json!({"metadata": {"name": "f"}, "spec": {"priorityLevelConfiguration": {"name": "p"}, "rules": [rule]}});
    let rules = |more: Value| of(json!({"rules": [merged(&rule, &more)]}));
    let resources = |more: Value| rules(json!({"resourceRules": [merged(&rule["resourceRules"][0], &more)]}));
    creates(
        schemas,
        &base,
        "spec.",
        &[
            (
                of(json!({"matchingPrecedence": 10001, "priorityLevelConfiguration": {"name": ""}})),
                &[
                    "matchingPrecedence: Invalid value: 10001: must not be greater than 10000",
                    "priorityLevelConfiguration.name: Required value: must reference a priority level",
                ],
            ),
            (
                of(json!({"matchingPrecedence": 1})),
                &[
                    "matchingPrecedence: Invalid value: 1: only the schema named 'exempt' may have matchingPrecedence 1",
                ],
            ),
            (
                of(json!({"matchingPrecedence": -1})),
                &["matchingPrecedence: Invalid value: -1: must be a positive value"],
            ),
            (
                of(json!({"distinguisherMethod": {"type": "Odd"}})),
                &[
                    "distinguisherMethod.type: Unsupported value: {\"Type\":\"Odd\"}: supported values: \"ByNamespace\", \"ByUser\"",
                ],
            ),
            (
                rules(json!({"subjects": [], "resourceRules": []})),
                &[
                    "rules[0].subjects: Required value: subjects must contain at least one value",
                    "rules[0]: Required value: at least one of resourceRules and nonResourceRules has to be non-empty",
                ],
            ),
            (
                rules(
                    json!({"subjects": [{"kind": "User"}, {"kind": "Robot"}, {"kind": "Group", "group": {"name": ""}}, {"kind": "User", "user": {"name": "u"}, "group": {"name": "g"}}]}),
                ),
                &[
                    "rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                    "rules[0].subjects[1].kind: Unsupported value: \"Robot\": supported values: \"Group\", \"ServiceAccount\", \"User\"",
                    "rules[0].subjects[2].group.name: Required value",
                    "rules[0].subjects[3].group: Forbidden: group is forbidden when subject kind is not 'Group'",
                ],
            ),
            (
                rules(
                    json!({"subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "A", "namespace": ""}}]}),
                ),
                &[
                    "rules[0].subjects[0].serviceAccount.name: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "rules[0].subjects[0].serviceAccount.namespace: Required value: must specify namespace for service account",
                ],
            ),
            (
                resources(
                    json!({"verbs": ["*", "get"], "apiGroups": [], "resources": ["*", "x"], "clusterScope": false}),
                ),
                &[
                    "rules[0].resourceRules[0].verbs: Invalid value: [\"*\",\"get\"]: if '*' is present, must not specify other verbs",
                    "rules[0].resourceRules[0].apiGroups: Required value: resource rules must supply at least one api group",
                    "rules[0].resourceRules[0].resources: Invalid value: [\"*\",\"x\"]: if '*' is present, must not specify other resources",
                    "rules[0].resourceRules[0].namespaces: Required value: resource rules that are not cluster scoped must supply at least one namespace",
                ],
            ),
            (
                resources(json!({"verbs": ["look"], "namespaces": ["N", "*"]})),
                &[
                    "rules[0].resourceRules[0].verbs: Unsupported value: [\"look\"]: supported values: \"create\", \"delete\", \"deletecollection\", \"get\", \"list\", \"patch\", \"proxy\", \"update\", \"watch\"",
                    "rules[0].resourceRules[0].namespaces: Invalid value: [\"N\",\"*\"]: if '*' is present, must not specify other namespaces",
                ],
            ),
            (
                rules(
                    json!({"nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["a", "/a*", "*", "/a//b"]}]}),
                ),
                &[
                    "rules[0].nonResourceRules[0].nonResourceURLs: Invalid value: [\"a\",\"/a*\",\"*\",\"/a//b\"]: if '*' is present, must not specify other non-resource URLs",
                ],
            ),
        ],
    );
}

#[test]
fn levels() {
    let levels = kind("flowcontrol.apiserver.k8s.io/v1", "PriorityLevelConfiguration");
    let base = json!({"metadata": {"name": "p"}, "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    let queue =
        |queuing: Value| of(json!({"limited": {"limitResponse": {"type": "Queue", "queuing": queuing}}}));
    creates(
        levels,
        &base,
        "spec.",
        &[
            (
                of(json!({"type": "Odd"})),
                &["type: Unsupported value: \"Odd\": supported values: \"Exempt\", \"Limited\""],
            ),
            (
                of(json!({"type": "Limited", "limited": null})),
                &["limited: Required value: must not be empty when type is Limited"],
            ),
            (
                of(json!({"type": "Exempt"})),
                &[
                    "type: Invalid value: \"Exempt\": must be 'Exempt' if and only if `name` is 'exempt'",
                    "limited: Forbidden: must be nil if the type is not Limited",
                ],
            ),
            (of(json!({"exempt": {}})), &["exempt: Forbidden: must be nil if the type is Limited"]),
            (
                of(
                    json!({"limited": {"nominalConcurrencyShares": -1, "lendablePercent": 101, "borrowingLimitPercent": -1}}),
                ),
                &[
                    "limited.nominalConcurrencyShares: Invalid value: -1: must be a non-negative integer",
                    "limited.lendablePercent: Invalid value: 101: must be between 0 and 100, inclusive",
                    "limited.borrowingLimitPercent: Invalid value: -1: if specified, must be a non-negative integer",
                ],
            ),
            (
                of(json!({"limited": {"limitResponse": {"type": "Queue"}}})),
                &[
                    "limited.limitResponse.queuing: Required value: must not be empty if limited.limitResponse.type is Limited",
                ],
            ),
            (
                of(json!({"limited": {"limitResponse": {"type": "Reject", "queuing": {}}}})),
                &[
                    "limited.limitResponse.queuing: Forbidden: must be nil if limited.limitResponse.type is not Limited",
                ],
            ),
            (
                of(json!({"limited": {"limitResponse": {"type": ""}}})),
                &[
                    "limited.limitResponse.type: Unsupported value: \"\": supported values: \"Queue\", \"Reject\"",
                ],
            ),
            (
                queue(json!({"queues": 10000001, "handSize": 1, "queueLengthLimit": -1})),
                &[
                    "limited.limitResponse.queuing.queueLengthLimit: Invalid value: -1: must be positive",
                    "limited.limitResponse.queuing.queues: Invalid value: 10000001: must not be greater than 10000000",
                ],
            ),
            (
                queue(json!({"queues": 2, "handSize": 3})),
                &[
                    "limited.limitResponse.queuing.handSize: Invalid value: 3: should not be greater than queues (2)",
                ],
            ),
            (
                queue(json!({"queues": 10000000, "handSize": 8})),
                &[
                    "limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 10000000 and handSize 8 should not be greater than 60",
                ],
            ),
        ],
    );
}
