//! Autoscalers.

use super::*;

#[test]
fn autoscalers() {
    let scalers = kind("autoscaling/v2", "HorizontalPodAutoscaler");
    let metric = json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}});
    let base = json!({"metadata": {"name": "h", "namespace": "d"}, "spec": {"maxReplicas": 3, "metrics": [metric],
        "scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "x"}}});
    let of = |spec: Value| json!({"spec": spec});
    let one = |metric: Value| of(json!({"metrics": [metric]}));
    creates(
        scalers,
        &base,
        "spec.",
        &[
            (
                of(json!({"minReplicas": 0, "maxReplicas": 0})),
                &[
                    "minReplicas: Invalid value: 0: must be greater than or equal to 1",
                    "maxReplicas: Required value: must be set and greater than 0",
                    "metrics: Forbidden: must specify at least one Object or External metric to support scaling to zero replicas",
                ],
            ),
            (
                of(json!({"minReplicas": 4})),
                &["maxReplicas: Invalid value: 3: must be greater than or equal to `minReplicas`"],
            ),
            (
                of(json!({"scaleTargetRef": {"kind": "", "name": "a/b"}})),
                &[
                    "scaleTargetRef.kind: Required value",
                    "scaleTargetRef.name: Invalid value: \"a/b\": may not contain '/'",
                ],
            ),
            (
                one(json!({"type": ""})),
                &[
                    "metrics[0].type: Required value: must specify a metric source type",
                    "metrics[0].type: Unsupported value: \"\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                ],
            ),
            (
                one(json!({"type": "Magic"})),
                &[
                    "metrics[0].type: Unsupported value: \"Magic\": supported values: \"ContainerResource\", \"External\", \"Object\", \"Pods\", \"Resource\"",
                ],
            ),
            (
                one(json!({"type": "Pods"})),
                &["metrics[0].pods: Required value: must populate information for the given metric source"],
            ),
            (
                one(
                    json!({"type": "Resource", "resource": {"name": "", "target": {"type": "Value", "value": "1"}}}),
                ),
                &[
                    "metrics[0].resource.name: Required value: must specify a resource name",
                    "metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                ],
            ),
            (
                one(
                    json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 0, "averageValue": "1"}}}),
                ),
                &[
                    "metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0",
                    "metrics[0].resource.target.averageValue: Forbidden: may not set both a target raw value and a target utilization",
                ],
            ),
            (
                one(json!({"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Odd"}}})),
                &[
                    "metrics[0].resource.target.type: Invalid value: \"Odd\": must be either Utilization, Value, or AverageValue",
                    "metrics[0].resource.target.averageUtilization: Required value: must set either a target raw value or a target utilization",
                ],
            ),
            (
                one(
                    json!({"type": "Pods", "pods": {"metric": {"name": "a/b"}, "target": {"type": "AverageValue", "averageValue": "-1"}}}),
                ),
                &[
                    "metrics[0].pods.metric.name: Invalid value: \"a/b\": may not contain '/'",
                    "metrics[0].pods.target.averageValue: Invalid value: \"-1\": must be positive",
                ],
            ),
            (
                one(
                    json!({"type": "Object", "object": {"describedObject": {"kind": "K"}, "metric": {"name": ""}, "target": {"type": "Value", "value": "1", "averageValue": "1"}}}),
                ),
                &[
                    "metrics[0].object.describedObject.name: Required value",
                    "metrics[0].object.metric.name: Required value: must specify a metric name",
                ],
            ),
            (
                one(
                    json!({"type": "External", "external": {"metric": {"name": "m", "selector": {"matchLabels": {"a b": "c"}}}, "target": {"type": "Value"}}}),
                ),
                &[
                    "metrics[0].external.target.averageValue: Required value: must set either a target value for metric or a per-pod target",
                ],
            ),
            (
                one(
                    json!({"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "", "target": {"type": "Utilization", "averageUtilization": 1}}}),
                ),
                &["metrics[0].containerResource.container: Required value: must specify a container"],
            ),
            (
                of(json!({"metrics": [merged(&metric, &json!({"pods": {}}))]})),
                &[
                    "metrics[0].pods.metric.name: Required value: must specify a metric name",
                    "metrics[0].pods.target.type: Required value: must specify a metric target type",
                    "metrics[0].pods.target.type: Invalid value: \"\": must be either Utilization, Value, or AverageValue",
                    "metrics[0].pods.target.averageValue: Required value: must specify a positive target averageValue",
                    "metrics[0].pods: Forbidden: must populate the given metric source only",
                ],
            ),
            (
                of(
                    json!({"behavior": {"scaleDown": {"stabilizationWindowSeconds": 3601, "selectPolicy": "Any", "policies": []},
                    "scaleUp": {"tolerance": "-1", "policies": [{"type": "Pods", "value": 0, "periodSeconds": 1801}, {"type": "x", "value": 1, "periodSeconds": 0}]}}}),
                ),
                &[
                    "behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
                    "behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
                    "behavior.scaleUp.policies[1].type: Unsupported value: \"x\": supported values: \"Percent\", \"Pods\"",
                    "behavior.scaleUp.policies[1].periodSeconds: Invalid value: 0: must be greater than zero",
                    "behavior.scaleUp.tolerance: Invalid value: \"-1\": must be greater than or equal to 0",
                    "behavior.scaleDown.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
                    "behavior.scaleDown.selectPolicy: Unsupported value: \"Any\": supported values: \"Disabled\", \"Max\", \"Min\"",
                ],
            ),
        ],
    );
    let mut old = made(scalers, &base);
    old["metadata"]["generation"] = json!(1);
    assert_eq!(changed(scalers, &old, &of(json!({"maxReplicas": 4})), "")["metadata"]["generation"], 1);
    changes(
        scalers,
        &old,
        "status",
        "status.",
        &[(
            json!({"status": {"currentReplicas": -1, "desiredReplicas": -1}}),
            &[
                "currentReplicas: Invalid value: -1: must be greater than or equal to 0",
                "desiredReplicas: Invalid value: -1: must be greater than or equal to 0",
            ],
        )],
    );
}
