//! Ingresses, policies and addresses.

use super::*;

fn of(spec: Value) -> Value {
    json!({"spec": spec})
}

#[test]
fn ingresses() {
    let ingress = kind("networking.k8s.io/v1", "Ingress");
    let backend = json!({"service": {"name": "s", "port": {"number": 80}}});
    let base = json!({"metadata": {"name": "i", "namespace": "d"}, "spec": {"defaultBackend": backend}});
    let path = |more: Value| {
        let path = merged(&json!({"path": "/", "pathType": "Prefix", "backend": backend}), &more);
        of(json!({"rules": [{"http": {"paths": [path]}}]}))
    };
    creates(
        ingress,
        &base,
        "spec.",
        &[
            (
                of(json!({"defaultBackend": null})),
                &["spec: Invalid value: null: either `defaultBackend` or `rules` must be specified"],
            ),
            (
                of(json!({"defaultBackend": {"service": null}})),
                &["defaultBackend: Invalid value: \"\": resource or service backend is required"],
            ),
            (
                of(json!({"defaultBackend": {"resource": {"kind": "", "name": ""}}})),
                &["defaultBackend: Invalid value: \"\": cannot set both resource and service backends"],
            ),
            (
                of(json!({"defaultBackend": {"service": {"name": "", "port": {"name": "a", "number": 1}}}})),
                &[
                    "defaultBackend.service.name: Required value",
                    "defaultBackend: Invalid value: \"\": cannot set both port name & port number",
                ],
            ),
            (
                of(
                    json!({"defaultBackend": {"service": {"name": "S", "port": {"name": null, "number": null}}}}),
                ),
                &[
                    "defaultBackend.service.name: Invalid value: \"S\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "defaultBackend: Required value: port name or number is required",
                ],
            ),
            (
                of(json!({"defaultBackend": {"service": {"port": {"number": 65536}}}})),
                &[
                    "defaultBackend.service.port.number: Invalid value: 65536: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                of(json!({"rules": [{"host": "*.a.b"}, {"host": "*"}, {"host": "1.2.3.4"}, {"host": "A"}]})),
                &[
                    "rules[1].host: Invalid value: \"*\": a wildcard DNS-1123 subdomain must start with '*.', followed by a valid DNS subdomain, which must consist of lower case alphanumeric characters, '-' or '.' and end with an alphanumeric character (e.g. '*.example.com', regex used for validation is '\\*\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "rules[2].host: Invalid value: \"1.2.3.4\": must be a DNS name, not an IP address",
                    "rules[3].host: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (of(json!({"rules": [{"http": {"paths": []}}]})), &["rules[0].http.paths: Required value"]),
            (
                path(json!({"pathType": null})),
                &["rules[0].http.paths[0].pathType: Required value: pathType must be specified"],
            ),
            (
                path(json!({"pathType": "Regex"})),
                &[
                    "rules[0].http.paths[0].pathType: Unsupported value: \"Regex\": supported values: \"Exact\", \"ImplementationSpecific\", \"Prefix\"",
                ],
            ),
            (
                path(json!({"path": "a//b"})),
                &[
                    "rules[0].http.paths[0].path: Invalid value: \"a//b\": must be an absolute path",
                    "rules[0].http.paths[0].path: Invalid value: \"a//b\": must not contain '//'",
                ],
            ),
            (
                path(json!({"path": "/a//b/../%2f"})),
                &[
                    "rules[0].http.paths[0].path: Invalid value: \"/a//b/../%2f\": must not contain '//'",
                    "rules[0].http.paths[0].path: Invalid value: \"/a//b/../%2f\": must not contain '/../'",
                    "rules[0].http.paths[0].path: Invalid value: \"/a//b/../%2f\": must not contain '%2f'",
                ],
            ),
            (path(json!({"path": "", "pathType": "ImplementationSpecific"})), &[]),
            (
                path(json!({"path": "x", "pathType": "ImplementationSpecific"})),
                &["rules[0].http.paths[0].path: Invalid value: \"x\": must be an absolute path"],
            ),
            (
                of(json!({"tls": [{"hosts": ["*.a.b", "A"], "secretName": "S"}]})),
                &[
                    "tls[0].hosts[1]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "tls[0].secretName: Invalid value: \"S\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                of(json!({"ingressClassName": "A"})),
                &[
                    "ingressClassName: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                json!({"metadata": {"annotations": {"kubernetes.io/ingress.class": "a"}}, "spec": {"ingressClassName": "b"}}),
                &[
                    "annotations.kubernetes.io/ingress.class: Invalid value: \"a\": must match `ingressClassName` when both are specified",
                ],
            ),
        ],
    );
    updates(
        ingress,
        &base,
        "status",
        "status.loadBalancer.ingress[0].",
        &[(
            json!({"status": {"loadBalancer": {"ingress": [{"ip": "x", "hostname": "A", "ports": [{"port": 1, "protocol": "TCP", "error": "a b"}]}]}}}),
            &[
                "ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                "hostname: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
            ],
        )],
    );
    let class = kind("networking.k8s.io/v1", "IngressClass");
    let base = json!({"metadata": {"name": "c"}, "spec": {"controller": "example.com/c"}});
    let parameters =
        |more: Value| of(json!({"parameters": merged(&json!({"kind": "K", "name": "n"}), &more)}));
    creates(
        class,
        &base,
        "spec.",
        &[
            (
                of(json!({"controller": "c"})),
                &[
                    "controller: Invalid value: \"c\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                ],
            ),
            (parameters(json!({})), &[]),
            (
                parameters(json!({"scope": "Namespace"})),
                &["parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'"],
            ),
            (
                parameters(json!({"namespace": "d"})),
                &["parameters.namespace: Forbidden: `parameters.scope` is set to 'Cluster'"],
            ),
            (
                parameters(json!({"scope": "World", "kind": "", "name": ""})),
                &[
                    "parameters.kind: Required value",
                    "parameters.name: Required value",
                    "parameters.scope: Unsupported value: \"World\": supported values: \"Cluster\", \"Namespace\"",
                ],
            ),
        ],
    );
    updates(
        class,
        &base,
        "",
        "spec.",
        &[
            (
                of(json!({"controller": "example.com/d"})),
                &["controller: Invalid value: \"example.com/d\": field is immutable"],
            ),
            (parameters(json!({})), &[]),
        ],
    );
}

#[test]
fn policies() {
    let policy = kind("networking.k8s.io/v1", "NetworkPolicy");
    let base = json!({"metadata": {"name": "p", "namespace": "d"}, "spec": {"podSelector": {}}});
    let from = |peer: Value| of(json!({"ingress": [{"from": [peer]}]}));
    let port = |port: Value| of(json!({"egress": [{"ports": [port]}]}));
    creates(
        policy,
        &base,
        "spec.",
        &[
            (
                of(json!({"podSelector": {"matchLabels": {"a b": "c"}}})),
                &[
                    "podSelector.matchLabels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
            (from(json!({})), &["ingress[0].from[0]: Required value: must specify a peer"]),
            (from(json!({"podSelector": {}, "namespaceSelector": {}})), &[]),
            (
                from(json!({"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}})),
                &["ingress[0].from[0]: Forbidden: may not specify both ipBlock and another peer"],
            ),
            (
                from(json!({"ipBlock": {"cidr": "", "except": ["10.0.0.0/8"]}})),
                &["ingress[0].from[0].ipBlock.cidr: Required value"],
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.1/8", "except": ["10.1.0.0/16"]}})),
                &[
                    "ingress[0].from[0].ipBlock.cidr: Invalid value: \"10.0.0.1/8\": must not have bits set beyond the prefix length",
                ],
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8", "x"]}})),
                &[
                    "ingress[0].from[0].ipBlock.except[0]: Invalid value: \"11.0.0.0/8\": must be a strict subset of `cidr`",
                    "ingress[0].from[0].ipBlock.except[1]: Invalid value: \"x\": must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)",
                ],
            ),
            (
                from(json!({"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.0.0.0/8"]}})),
                &[
                    "ingress[0].from[0].ipBlock.except[0]: Invalid value: \"10.0.0.0/8\": must be a strict subset of `cidr`",
                ],
            ),
            (
                port(json!({"protocol": "ICMP", "port": 0})),
                &[
                    "egress[0].ports[0].protocol: Unsupported value: \"ICMP\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    "egress[0].ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                ],
            ),
            (
                port(json!({"port": "A--"})),
                &[
                    "egress[0].ports[0].port: Invalid value: \"A--\": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)",
                    "egress[0].ports[0].port: Invalid value: \"A--\": must contain at least one letter (a-z)",
                    "egress[0].ports[0].port: Invalid value: \"A--\": must not contain consecutive hyphens",
                    "egress[0].ports[0].port: Invalid value: \"A--\": must not begin or end with a hyphen",
                ],
            ),
            (
                port(json!({"port": 80, "endPort": 79})),
                &["egress[0].ports[0].endPort: Invalid value: 80: must be greater than or equal to `port`"],
            ),
            (port(json!({"port": 80, "endPort": 90})), &[]),
            (
                port(json!({"endPort": 90})),
                &[
                    "egress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is not specified",
                ],
            ),
            (
                port(json!({"port": "http", "endPort": 90})),
                &[
                    "egress[0].ports[0].endPort: Invalid value: 90: may not be specified when `port` is non-numeric",
                ],
            ),
            (
                of(json!({"policyTypes": ["Ingress", "Egress", "Both"]})),
                &[
                    "policyTypes: Invalid value: [\"Ingress\",\"Egress\",\"Both\"]: may not specify more than two policyTypes",
                ],
            ),
            (
                of(json!({"policyTypes": ["Any"]})),
                &["policyTypes[0]: Unsupported value: \"Any\": supported values: \"Egress\", \"Ingress\""],
            ),
        ],
    );
}

#[test]
fn addresses() {
    let ranges = kind("networking.k8s.io/v1", "ServiceCIDR");
    let range = json!({"metadata": {"name": "r"}, "spec": {"cidrs": ["10.0.0.0/16"]}});
    creates(
        ranges,
        &range,
        "spec.",
        &[
            (of(json!({"cidrs": []})), &["cidrs: Required value: at least one CIDR required"]),
            (of(json!({"cidrs": ["10.0.0.0/16", "fd00::/112"]})), &[]),
            (
                of(json!({"cidrs": ["10.0.0.0/16", "10.1.0.0/16"]})),
                &[
                    "cidrs: Invalid value: [\"10.0.0.0/16\",\"10.1.0.0/16\"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64",
                ],
            ),
            (
                of(json!({"cidrs": ["10.0.0.1/16"]})),
                &[
                    "cidrs[0]: Invalid value: \"10.0.0.1/16\": must not have bits set beyond the prefix length",
                ],
            ),
            (
                of(json!({"cidrs": ["10.0.0.0/16", "fd00::/112", "fd01::/112"]})),
                &[
                    "cidrs: Invalid value: {\"cidrs\":[\"10.0.0.0/16\",\"fd00::/112\",\"fd01::/112\"]}: may only hold up to 2 values",
                ],
            ),
        ],
    );
    updates(
        ranges,
        &range,
        "",
        "spec.",
        &[
            (
                of(json!({"cidrs": ["10.1.0.0/16"]})),
                &["cidrs[0]: Invalid value: \"10.1.0.0/16\": field is immutable"],
            ),
            (of(json!({"cidrs": ["10.0.0.0/16", "fd00::/112"]})), &[]),
        ],
    );
    let addresses = kind("networking.k8s.io/v1", "IPAddress");
    let address = json!({"metadata": {"name": "10.0.0.1"}, "spec": {"parentRef": {"resource": "services", "name": "s", "namespace": "d"}}});
    creates(
        addresses,
        &address,
        "",
        &[
            (
                json!({"metadata": {"name": "010.0.0.1"}}),
                &["metadata.name: Invalid value: \"010.0.0.1\": must not have leading 0s"],
            ),
            (
                json!({"metadata": {"name": "FD00::1"}}),
                &["metadata.name: Invalid value: \"FD00::1\": must be in canonical form (\"fd00::1\")"],
            ),
            (of(json!({"parentRef": null})), &["spec.parentRef: Required value"]),
            (
                of(json!({"parentRef": {"resource": "", "name": "", "namespace": "N S", "group": "A"}})),
                &[
                    "spec.parentRef.group: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "spec.parentRef.resource: Required value",
                    "spec.parentRef.name: Required value",
                ],
            ),
        ],
    );
    updates(
        addresses,
        &address,
        "",
        "spec.",
        &[(
            of(json!({"parentRef": {"name": "t"}})),
            &[
                "parentRef: Invalid value: {\"resource\":\"services\",\"name\":\"t\",\"namespace\":\"d\"}: field is immutable",
            ],
        )],
    );
}
