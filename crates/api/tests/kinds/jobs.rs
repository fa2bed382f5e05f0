//! Jobs and cron jobs.

use super::*;

fn job() -> Value {
    json!({"metadata": {"name": "j", "namespace": "d", "uid": "u"}, "spec": {"template": {"spec": {
        "restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}})
}

fn indexed() -> Value {
    merged(&job(), &json!({"spec": {"completionMode": "Indexed", "completions": 3}}))
}

#[test]
fn failure_policies() {
    let rules = |rules: Value| json!({"spec": {"podFailurePolicy": {"rules": rules}}});
    let codes = |codes: Value| rules(json!([{"action": "FailJob", "onExitCodes": codes}]));
    creates(
        kind("batch/v1", "Job"),
        &job(),
        "spec.podFailurePolicy.rules[0]",
        &[
            (codes(json!({"operator": "In", "values": [1, 2], "containerName": "c"})), &[]),
            (
                codes(json!({"operator": "In", "values": [0]})),
                &[".onExitCodes.values[0]: Invalid value: 0: must not be 0 for the In operator"],
            ),
            (codes(json!({"operator": "NotIn", "values": [0]})), &[]),
            (
                codes(json!({"operator": "In", "values": [2, 1]})),
                &[".onExitCodes.values: Invalid value: [2,1]: must be ordered"],
            ),
            (
                codes(json!({"operator": "In", "values": [1, 1]})),
                &[".onExitCodes.values[1]: Duplicate value: 1"],
            ),
            (
                codes(json!({"operator": "In"})),
                &[".onExitCodes.values: Invalid value: null: at least one value is required"],
            ),
            (
                codes(json!({"operator": "Like", "values": [1]})),
                &[".onExitCodes.operator: Unsupported value: \"Like\": supported values: \"In\", \"NotIn\""],
            ),
            (
                codes(json!({"operator": "In", "values": [1], "containerName": "x"})),
                &[
                    ".onExitCodes.containerName: Invalid value: \"x\": must be one of the container or initContainer names in the pod template",
                ],
            ),
            (
                rules(json!([{"action": "FailJob"}])),
                &[": Invalid value: specifying one of OnExitCodes and OnPodConditions is required"],
            ),
            (
                rules(json!([{"onExitCodes": {"operator": "In", "values": [1]}}])),
                &[".action: Required value: valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]"],
            ),
            (
                rules(json!([{"action": "Look", "onExitCodes": {"operator": "In", "values": [1]}}])),
                &[
                    ".action: Unsupported value: \"Look\": supported values: \"Count\", \"FailIndex\", \"FailJob\", \"Ignore\"",
                ],
            ),
            (
                rules(json!([{"action": "FailIndex", "onExitCodes": {"operator": "In", "values": [1]}}])),
                &[".action: Invalid value: \"FailIndex\": requires the backoffLimitPerIndex to be set"],
            ),
            (
                rules(json!([{"action": "Count", "onExitCodes": {"operator": "In", "values": [1]},
                    "onPodConditions": [{"type": "a", "status": "True"}]}])),
                &[": Invalid value: specifying both OnExitCodes and OnPodConditions is not supported"],
            ),
            (rules(json!([{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}])), &[]),
            (
                rules(json!([{"action": "Ignore", "onPodConditions": [{"type": "a b", "status": "x"}]}])),
                &[
                    ".onPodConditions[0].type: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    ".onPodConditions[0].status: Unsupported value: \"x\": supported values: \"False\", \"True\", \"Unknown\"",
                ],
            ),
            (
                json!({"spec": {"podFailurePolicy": {"rules": []},
                    "template": {"spec": {"restartPolicy": "OnFailure"}}}}),
                &[
                    "spec.template.spec.restartPolicy: Invalid value: \"OnFailure\": only \"Never\" is supported when podFailurePolicy is specified",
                ],
            ),
        ],
    );
}

#[test]
fn indexes() {
    let of = |spec: Value| json!({"spec": spec});
    creates(
        kind("batch/v1", "Job"),
        &indexed(),
        "spec.",
        &[
            (of(json!({"completions": null})), &[]),
            (
                of(json!({"maxFailedIndexes": 1})),
                &["backoffLimitPerIndex: Required value: when maxFailedIndexes is specified"],
            ),
            (
                of(json!({"maxFailedIndexes": 4, "backoffLimitPerIndex": 1})),
                &["maxFailedIndexes: Invalid value: 4: must be less than or equal to completions"],
            ),
            (
                of(json!({"maxFailedIndexes": -1, "backoffLimitPerIndex": -1})),
                &[
                    "backoffLimitPerIndex: Invalid value: -1: must be greater than or equal to 0",
                    "maxFailedIndexes: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                of(json!({"completions": 100001, "backoffLimitPerIndex": 1})),
                &["maxFailedIndexes: Required value: must be specified when completions is above 100000"],
            ),
            (
                of(json!({"completions": 100001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 100001})),
                &[
                    "maxFailedIndexes: Invalid value: 100001: must be less than or equal to 100000",
                    "maxFailedIndexes: Invalid value: 100001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
                ],
            ),
            (
                of(json!({"completions": 100001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 10001})),
                &[
                    "maxFailedIndexes: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
                ],
            ),
            (
                of(
                    json!({"completions": 100001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 1, "parallelism": 10001}),
                ),
                &[
                    "parallelism: Invalid value: 10001: must be less than or equal to 10000 when completions are above 100000 and used with backoff limit per index",
                ],
            ),
            (
                of(
                    json!({"completionMode": "NonIndexed", "backoffLimitPerIndex": 1, "successPolicy": {"rules": [{"succeededCount": 1}]}}),
                ),
                &[
                    "backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
                    "successPolicy: Invalid value: {\"rules\":[{\"succeededCount\":1}]}: requires indexed completion mode",
                ],
            ),
            (
                of(json!({"completionMode": "Sorted"})),
                &[
                    "completionMode: Unsupported value: \"Sorted\": supported values: \"Indexed\", \"NonIndexed\"",
                ],
            ),
            (
                of(json!({"successPolicy": {}})),
                &[
                    "successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{}]}})),
                &[
                    "successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{"succeededCount": -1}, {"succeededCount": 4}]}})),
                &[
                    "successPolicy.rules[0].succeededCount: Invalid value: -1: must be greater than or equal to 0",
                    "successPolicy.rules[1].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{"succeededIndexes": "0,2", "succeededCount": 3}]}})),
                &[
                    "successPolicy.rules[0].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{"succeededIndexes": "1-3"}]}})),
                &[
                    "successPolicy.rules[0].succeededIndexes: Invalid value: \"1-3\": error parsing succeededIndexes: too large index: \"3\"",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{"succeededIndexes": "2,1"}]}})),
                &[
                    "successPolicy.rules[0].succeededIndexes: Invalid value: \"2,1\": error parsing succeededIndexes: non-increasing order, previous: 2, current: 1",
                ],
            ),
            (
                of(json!({"successPolicy": {"rules": [{"succeededIndexes": "a"}]}})),
                &[
                    "successPolicy.rules[0].succeededIndexes: Invalid value: \"a\": error parsing succeededIndexes: cannot convert string to integer for index: \"a\"",
                ],
            ),
            (
                of(json!({"managedBy": "me"})),
                &[
                    "managedBy: Invalid value: \"me\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ],
            ),
            (
                of(json!({"managedBy": "example.com/me", "podReplacementPolicy": "Never"})),
                &[
                    "podReplacementPolicy: Unsupported value: \"Never\": supported values: \"Failed\", \"TerminatingOrFailed\"",
                ],
            ),
        ],
    );
    let long = merged(&indexed(), &json!({"metadata": {"name": "a".repeat(62)}}));
    creates(
        kind("batch/v1", "Job"),
        &long,
        "",
        &[(
            json!({}),
            &[
                "metadata.name: Invalid value: \"aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\": will not able to create pod with invalid DNS label: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa-2",
            ],
        )],
    );
}

#[test]
fn changes_of_jobs() {
    let kind = kind("batch/v1", "Job");
    let of = |spec: Value| json!({"spec": spec});
    let limited = merged(&indexed(), &of(json!({"backoffLimitPerIndex": 1})));
    updates(
        kind,
        &limited,
        "",
        "spec.",
        &[
            (of(json!({"completions": 4, "parallelism": 4})), &[]),
            (
                of(json!({"completions": 4})),
                &["completions: Invalid value: 4: can only be modified in tandem with spec.parallelism"],
            ),
            (
                of(json!({"backoffLimitPerIndex": 2})),
                &["backoffLimitPerIndex: Invalid value: 2: field is immutable"],
            ),
            (
                of(json!({"managedBy": "example.com/me"})),
                &["managedBy: Invalid value: \"example.com/me\": field is immutable"],
            ),
            (
                of(json!({"completionMode": "NonIndexed", "backoffLimitPerIndex": null})),
                &[
                    "completionMode: Invalid value: \"NonIndexed\": field is immutable",
                    "backoffLimitPerIndex: Invalid value: null: field is immutable",
                ],
            ),
            (
                of(json!({"podFailurePolicy": {"rules": []}})),
                &[
                    "podFailurePolicy: Invalid value: {\"rules\":[]}: field is immutable",
                    "podReplacementPolicy: Unsupported value: \"TerminatingOrFailed\": supported values: \"Failed\"",
                ],
            ),
            (of(json!({"podReplacementPolicy": "Failed", "maxFailedIndexes": 1})), &[]),
            (of(json!({"suspend": true, "backoffLimit": 3, "activeDeadlineSeconds": 4})), &[]),
        ],
    );
    let node = json!({"template": {"spec": {"nodeSelector": {"a": "b"}}}});
    let running = made(kind, &job());
    let new = changed(kind, &running, &of(node.clone()), "");
    let message = kind.validate_update(&new, &running, "").message();
    assert!(
        message.starts_with("spec.template: Invalid value: ") && message.ends_with("field is immutable"),
        "{message}"
    );
    let suspended = made(kind, &merged(&job(), &of(json!({"suspend": true}))));
    let resources = json!({"template": {"spec": {"containers": [{"name": "c", "image": "i", "resources": {"requests": {"cpu": "1"}}}]}}});
    let image = json!({"template": {"spec": {"containers": [{"name": "c", "image": "other"}]}}});
    changes(kind, &suspended, "", "spec.", &[(of(node), &[]), (of(resources), &[])]);
    let new = changed(kind, &suspended, &of(image), "");
    assert!(kind.validate_update(&new, &suspended, "").message().ends_with("field is immutable"));
}

#[test]
fn statuses_of_jobs() {
    let kind = kind("batch/v1", "Job");
    let untracked =
        merged(&made(kind, &indexed()), &json!({"status": {"startTime": "2024-01-02T03:04:05Z"}}));
    let old = merged(&untracked, &json!({"status": {"uncountedTerminatedPods": {}}}));
    let of = |status: Value| json!({"status": status});
    let condition =
        |kinds: &[&str]| kinds.iter().map(|kind| json!({"type": kind, "status": "True"})).collect::<Vec<_>>();
    changes(
        kind,
        &old,
        "status",
        "status.",
        &[
            (of(json!({"active": 1, "ready": 1, "succeeded": 1, "completedIndexes": "1"})), &[]),
            (
                of(json!({"active": -1, "failed": -1})),
                &[
                    "active: Invalid value: -1: must be greater than or equal to 0",
                    "failed: Invalid value: -1: must be greater than or equal to 0",
                    "failed: Invalid value: -1: cannot decrease the failed counter",
                ],
            ),
            (
                of(json!({"active": 1, "ready": 2, "terminating": -1})),
                &[
                    "terminating: Invalid value: -1: must be greater than or equal to 0",
                    "ready: Invalid value: 2: cannot set more ready pods than active",
                ],
            ),
            (
                of(json!({"completedIndexes": "1-3"})),
                &[
                    "completedIndexes: Invalid value: \"1-3\": error parsing completedIndexes: too large index: \"3\"",
                ],
            ),
            (
                of(json!({"completedIndexes": "2,1", "failedIndexes": "0"})),
                &[
                    "completedIndexes: Invalid value: \"2,1\": error parsing completedIndexes: non-increasing order, previous: 2, current: 1",
                    "failedIndexes: Invalid value: \"0\": cannot set non-null failedIndexes when backoffLimitPerIndex is null",
                ],
            ),
            (
                of(json!({"completionTime": "2024-01-02T03:04:06Z"})),
                &[
                    "completionTime: Invalid value: \"2024-01-02T03:04:06Z\": cannot set completionTime when there is no Complete=True condition",
                ],
            ),
            (
                of(json!({"conditions": condition(&["Complete"])})),
                &[
                    "completionTime: Required value: completionTime is required for Complete jobs",
                    "conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                ],
            ),
            (
                of(json!({"conditions": condition(&["Complete", "Failed", "FailureTarget"]), "active": 1})),
                &[
                    "conditions: Invalid value: cannot set Complete=True and Failed=true conditions",
                    "conditions: Invalid value: cannot set Complete=True and FailureTarget=true conditions",
                    "completionTime: Required value: completionTime is required for Complete jobs",
                    "conditions: Invalid value: cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
                    "active: Invalid value: 1: active>0 is invalid for finished job",
                ],
            ),
            (
                of(json!({"startTime": null})),
                &["startTime: Invalid value: null: field is immutable for unsuspended job once set"],
            ),
            (
                of(json!({"startTime": "2024-01-02T03:04:06Z"})),
                &[
                    "startTime: Invalid value: \"2024-01-02T03:04:06Z\": field is immutable for unsuspended job once set",
                ],
            ),
            (
                of(json!({"uncountedTerminatedPods": {"succeeded": ["a", "a"], "failed": ["", "a"]}})),
                &[
                    "uncountedTerminatedPods.succeeded[1]: Duplicate value: \"a\"",
                    "uncountedTerminatedPods.failed[0]: Invalid value: \"\": must not be empty",
                    "uncountedTerminatedPods.failed[1]: Duplicate value: \"a\"",
                ],
            ),
        ],
    );
    // Of a controller that only counts the pods that there are.
    let counted = merged(&untracked, &of(json!({"failed": 2, "succeeded": 1})));
    let end = "2024-01-02T03:04:06Z";
    changes(
        kind,
        &counted,
        "status",
        "status.",
        &[
            (of(json!({"failed": 1, "conditions": condition(&["Complete"]), "completionTime": end})), &[]),
            (of(json!({"succeeded": 0, "conditions": condition(&["Failed"])})), &[]),
        ],
    );
}

#[test]
fn cron_jobs() {
    let kind = kind("batch/v1", "CronJob");
    let base = json!({"metadata": {"name": "c", "namespace": "d"}, "spec": {"schedule": "@hourly",
        "jobTemplate": {"spec": job()["spec"]}}});
    let of = |spec: Value| json!({"spec": spec});
    creates(
        kind,
        &base,
        "spec.",
        &[
            (
                of(json!({"schedule": "", "concurrencyPolicy": "Maybe", "startingDeadlineSeconds": -1})),
                &[
                    "schedule: Required value",
                    "startingDeadlineSeconds: Invalid value: -1: must be greater than or equal to 0",
                    "concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
                ],
            ),
            (
                of(json!({"schedule": "TZ=UTC @hourly"})),
                &[
                    "schedule: Invalid value: \"TZ=UTC @hourly\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ],
            ),
            (
                of(json!({"schedule": "TZ=UTC @hourly", "timeZone": "UTC"})),
                &[
                    "schedule: Invalid value: \"TZ=UTC @hourly\": cannot use TZ or CRON_TZ in schedule, use timeZone field instead",
                ],
            ),
            (
                of(json!({"successfulJobsHistoryLimit": -1, "failedJobsHistoryLimit": -1})),
                &[
                    "successfulJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                    "failedJobsHistoryLimit: Invalid value: -1: must be greater than or equal to 0",
                ],
            ),
            (
                of(
                    json!({"jobTemplate": {"spec": {"manualSelector": true, "selector": {"matchLabels": {"a": "b"}}}}}),
                ),
                &[
                    "jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be auto-generated",
                    "jobTemplate.spec.manualSelector: Unsupported value: true: supported values: \"false\", \"nil\"",
                ],
            ),
            (
                of(json!({"jobTemplate": {"spec": {"template": {"spec": {"restartPolicy": "Always"}}}}})),
                &[
                    "jobTemplate.spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
                ],
            ),
            (
                json!({"metadata": {"name": "c".repeat(53)}}),
                &[
                    "metadata.name: Invalid value: \"ccccccccccccccccccccccccccccccccccccccccccccccccccccc\": must be no more than 52 characters",
                ],
            ),
        ],
    );
}
