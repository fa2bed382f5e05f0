//! Services.

use super::*;

fn service() -> Value {
    json!({"metadata": {"name": "s", "namespace": "d"}, "spec": {"selector": {"a": "b"}, "ports": [{"port": 80}]}})
}

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn services_alone() {
    creates(
        kind("v1", "Service"),
        &service(),
        "spec.",
        &[
            (
                of(json!({"type": "Headless"})),
                &[
                    "type: Unsupported value: \"Headless\": supported values: \"ClusterIP\", \"ExternalName\", \"LoadBalancer\", \"NodePort\"",
                ],
            ),
            (of(json!({"ports": null})), &["ports: Required value"]),
            (of(json!({"ports": null, "clusterIP": "None"})), &["clusterIPs: Required value"]),
            (
                of(json!({"ports": [{"port": 80}, {"port": 81}]})),
                &["ports[0].name: Required value", "ports[1].name: Required value"],
            ),
            (
                of(json!({"ports": [{"name": "a", "port": 80}, {"name": "a", "port": 80, "protocol": "TCP"},
                    {"name": "B", "port": 0, "protocol": "ICMP"}]})),
                &[
                    "ports[1].name: Duplicate value: \"a\"",
                    "ports[2].name: Invalid value: \"B\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "ports[2].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "ports[2].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "ports[2].targetPort: Invalid value: 0: must be between 1 and 65535, inclusive",
                    "ports[1]: Duplicate value: {\"Name\":\"\",\"Protocol\":\"TCP\",\"AppProtocol\":null,\"Port\":80,\"TargetPort\":0,\"NodePort\":0}",
                ],
            ),
            (of(json!({"ports": [{"port": 80, "targetPort": 0}]})), &[]),
            (
                of(json!({"ports": [{"port": 80, "targetPort": "a--b"}]})),
                &["ports[0].targetPort: Invalid value: \"a--b\": must not contain consecutive hyphens"],
            ),
            (
                of(json!({"ports": [{"port": 80, "appProtocol": "a b"}]})),
                &[
                    "ports[0].appProtocol: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                of(json!({"ports": [{"port": 80, "nodePort": 30000}]})),
                &["ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"],
            ),
            (
                of(
                    json!({"type": "NodePort", "ports": [{"name": "a", "port": 80, "nodePort": 30000}, {"name": "b", "port": 81, "nodePort": 30000}]}),
                ),
                &["ports[1].nodePort: Duplicate value: 30000"],
            ),
            (
                of(json!({"sessionAffinity": "Cookie"})),
                &["sessionAffinity: Unsupported value: \"Cookie\": supported values: \"ClientIP\", \"None\""],
            ),
            (
                of(
                    json!({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}}),
                ),
                &[
                    "sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401: must be greater than 0 and less than 86400",
                ],
            ),
            (of(json!({"sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 1}}})), &[]),
            (
                of(json!({"selector": {"a b": "c d"}})),
                &[
                    "selector: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                    "selector: Invalid value: \"c d\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                of(json!({"externalIPs": ["127.0.0.1", "x"]})),
                &[
                    "externalIPs[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    "externalIPs[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                of(json!({"externalTrafficPolicy": "Local"})),
                &[
                    "externalTrafficPolicy: Invalid value: \"Local\": may only be set for externally-accessible services",
                ],
            ),
            (
                of(
                    json!({"type": "NodePort", "externalTrafficPolicy": "Here", "internalTrafficPolicy": "There"}),
                ),
                &[
                    "externalTrafficPolicy: Unsupported value: \"Here\": supported values: \"Cluster\", \"Local\"",
                    "internalTrafficPolicy: Unsupported value: \"There\": supported values: \"Cluster\", \"Local\"",
                ],
            ),
            (
                of(json!({"healthCheckNodePort": 30000})),
                &[
                    "healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'",
                ],
            ),
            (
                of(
                    json!({"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": -1}),
                ),
                &["healthCheckNodePort: Invalid value: -1: must be between 1 and 65535, inclusive"],
            ),
            (
                of(json!({"loadBalancerClass": "a/b"})),
                &["loadBalancerClass: Forbidden: may only be used when `type` is 'LoadBalancer'"],
            ),
            (
                of(json!({"type": "LoadBalancer", "loadBalancerClass": "a b"})),
                &[
                    "loadBalancerClass: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (
                of(json!({"allocateLoadBalancerNodePorts": true})),
                &["allocateLoadBalancerNodePorts: Forbidden: may only be used when `type` is 'LoadBalancer'"],
            ),
            (
                of(json!({"type": "LoadBalancer", "loadBalancerSourceRanges": ["1.2.3.4/24", "x"]})),
                &[
                    "LoadBalancerSourceRanges[0]: Invalid value: \"1.2.3.4/24\": must not have bits set beyond the prefix length",
                    "LoadBalancerSourceRanges[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                of(json!({"loadBalancerSourceRanges": ["1.2.3.0/24"]})),
                &["LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'"],
            ),
            (
                of(json!({"trafficDistribution": "Near"})),
                &[
                    "trafficDistribution: Unsupported value: \"Near\": supported values: \"PreferClose\", \"PreferSameNode\", \"PreferSameZone\"",
                ],
            ),
            (
                of(json!({"clusterIP": "x", "clusterIPs": ["x"]})),
                &[
                    "clusterIPs[0]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                of(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.2"]})),
                &["clusterIPs: Invalid value: [\"10.0.0.2\"]: first value must match `clusterIP`"],
            ),
            (
                of(json!({"clusterIPs": ["None", "10.0.0.2"], "clusterIP": "None"})),
                &[
                    "clusterIPs: Invalid value: [\"None\",\"10.0.0.2\"]: 'None' must be the first and only value",
                ],
            ),
            (
                of(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1", "10.0.0.2"]})),
                &[
                    "clusterIPs: Invalid value: [\"10.0.0.1\",\"10.0.0.2\"]: may specify no more than one IP for each IP family",
                ],
            ),
            (
                of(json!({"ipFamilies": ["IPv5"]})),
                &["ipFamilies[0]: Unsupported value: \"IPv5\": supported values: \"IPv4\", \"IPv6\""],
            ),
            (of(json!({"ipFamilies": ["IPv4", "IPv4"]})), &["ipFamilies[1]: Duplicate value: \"IPv4\""]),
            (
                of(json!({"ipFamilyPolicy": "Some"})),
                &[
                    "ipFamilyPolicy: Unsupported value: \"Some\": supported values: \"PreferDualStack\", \"RequireDualStack\", \"SingleStack\"",
                ],
            ),
            (
                of(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv6"]})),
                &[
                    "clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                ],
            ),
            (of(json!({"type": "ExternalName"})), &["externalName: Required value"]),
            (of(json!({"type": "ExternalName", "externalName": "a.b."})), &[]),
            (
                of(
                    json!({"type": "ExternalName", "externalName": "a", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilyPolicy": "SingleStack", "ipFamilies": ["IPv4"]}),
                ),
                &[
                    "clusterIPs: Forbidden: may not be set for ExternalName services",
                    "ipFamilies: Forbidden: may not be set for ExternalName services",
                    "ipFamilyPolicy: Forbidden: may not be set for ExternalName services",
                ],
            ),
            (json!({"metadata": {"name": "1a"}}), &[]),
        ],
    );
}

#[test]
fn changes_of_services() {
    let services = kind("v1", "Service");
    let base = merged(
        &service(),
        &of(json!({"clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"], "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack"})),
    );
    updates(
        services,
        &base,
        "",
        "spec.",
        &[
            (
                of(json!({"clusterIP": "10.0.0.2", "clusterIPs": ["10.0.0.2"]})),
                &["clusterIPs[0]: Invalid value: [\"10.0.0.2\"]: may not change once set"],
            ),
            (
                of(json!({"ipFamilies": ["IPv6"], "clusterIPs": ["10.0.0.1"]})),
                &[
                    "ipFamilies[0]: Invalid value: [\"IPv6\"]: may not change once set",
                    "clusterIPs[0]: Invalid value: \"10.0.0.1\": expected an IPv6 value as indicated by `ipFamilies[0]`",
                ],
            ),
            (
                of(
                    json!({"type": "ExternalName", "externalName": "a", "clusterIP": null, "clusterIPs": null, "ipFamilies": null, "ipFamilyPolicy": null}),
                ),
                &[],
            ),
        ],
    );
    let balanced = merged(&base, &of(json!({"type": "LoadBalancer", "loadBalancerClass": "a/b"})));
    updates(
        services,
        &balanced,
        "",
        "spec.",
        &[
            (
                of(json!({"loadBalancerClass": "a/c"})),
                &["loadBalancerClass: Invalid value: \"a/c\": may not change once set"],
            ),
            (of(json!({"type": "ClusterIP"})), &[]),
            (
                of(
                    json!({"type": "ClusterIP", "loadBalancerClass": null, "allocateLoadBalancerNodePorts": null}),
                ),
                &[],
            ),
        ],
    );
    updates(
        services,
        &balanced,
        "status",
        "status.loadBalancer.ingress[0].",
        &[
            (json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4"}]}}}), &[]),
            (
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "1.2.3.4", "ipMode": "Proxy", "ports": [{"port": 80, "protocol": "TCP"}]}]}}}),
                &[],
            ),
            (
                json!({"status": {"loadBalancer": {"ingress": [{"ip": "x", "ipMode": "Odd"}]}}}),
                &[
                    "ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    "ipMode: Unsupported value: \"Odd\": supported values: \"Proxy\", \"VIP\"",
                ],
            ),
            (
                json!({"status": {"loadBalancer": {"ingress": [{"hostname": "A", "ipMode": "VIP"}]}}}),
                &[
                    "hostname: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "ipMode: Forbidden: may not be specified when `ip` is not set",
                ],
            ),
            (
                json!({"status": {"loadBalancer": {"ingress": [{"hostname": "1.2.3.4"}]}}}),
                &["hostname: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address"],
            ),
        ],
    );
}
