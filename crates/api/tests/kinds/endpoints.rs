//! Endpoints and slices of them.

use super::*;

#[test]
fn endpoints() {
    let base = json!({"metadata": {"name": "e", "namespace": "d"}});
    let of = |subset: Value| json!({"subsets": [subset]});
    creates(
        kind("v1", "Endpoints"),
        &base,
        "subsets[0]",
        &[
            (of(json!({"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]})), &[]),
            (
                of(json!({"ports": [{"port": 80}]})),
                &[": Required value: must specify `addresses` or `notReadyAddresses`"],
            ),
            (
                of(
                    json!({"addresses": [{"ip": "127.0.0.1"}, {"ip": "169.254.1.1"}, {"ip": "224.0.0.1"}, {"ip": "0.0.0.0"}, {"ip": "x"}]}),
                ),
                &[
                    ".addresses[0].ip: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                    ".addresses[1].ip: Invalid value: \"169.254.1.1\": may not be in the link-local range (169.254.0.0/16, fe80::/10)",
                    ".addresses[2].ip: Invalid value: \"224.0.0.1\": may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)",
                    ".addresses[3].ip: Invalid value: \"0.0.0.0\": may not be unspecified (0.0.0.0)",
                    ".addresses[4].ip: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                    ".addresses[4].ip: Invalid value: \"x\": must be a valid IP address",
                ],
            ),
            (
                of(json!({"addresses": [{"ip": "10.0.0.1", "hostname": "A.b", "nodeName": "N"}]})),
                &[
                    ".addresses[0].hostname: Invalid value: \"A.b\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    ".addresses[0].nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                of(
                    json!({"notReadyAddresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}, {"port": 0, "name": "B", "protocol": "x", "appProtocol": "a b"}]}),
                ),
                &[
                    ".ports[0].name: Required value",
                    ".ports[1].name: Invalid value: \"B\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    ".ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
                    ".ports[1].protocol: Unsupported value: \"x\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                    ".ports[1].appProtocol: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
                ],
            ),
        ],
    );
    let stored = merged(&base, &of(json!({"addresses": [{"ip": "010.0.0.1"}]})));
    changes(
        kind("v1", "Endpoints"),
        &stored,
        "",
        "",
        &[
            (json!({"metadata": {"labels": {"a": "b"}}}), &[]),
            (
                of(json!({"addresses": [{"ip": "010.0.0.1", "nodeName": "n"}]})),
                &["subsets[0].addresses[0].ip: Invalid value: \"010.0.0.1\": must not have leading 0s"],
            ),
        ],
    );
}

#[test]
fn slices() {
    let kind = kind("discovery.k8s.io/v1", "EndpointSlice");
    let base = json!({"metadata": {"name": "e", "namespace": "d"}, "addressType": "IPv4",
        "endpoints": [{"addresses": ["10.0.0.1"]}], "ports": [{"port": 80}]});
    let of = |endpoint: Value| json!({"endpoints": [endpoint]});
    creates(
        kind,
        &base,
        "",
        &[
            (json!({"addressType": ""}), &["addressType: Required value"]),
            (
                json!({"addressType": "Any"}),
                &["addressType: Unsupported value: \"Any\": supported values: \"FQDN\", \"IPv4\", \"IPv6\""],
            ),
            (
                of(json!({"addresses": []})),
                &["endpoints[0].addresses: Required value: must contain at least 1 address"],
            ),
            (
                of(json!({"addresses": ["fd00::1", "x"]})),
                &[
                    "endpoints[0].addresses: Invalid value: \"fd00::1\": must be an IPv4 address",
                    "endpoints[0].addresses[1]: Invalid value: \"x\": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
                ],
            ),
            (
                json!({"addressType": "IPv6", "endpoints": [{"addresses": ["10.0.0.1"]}]}),
                &["endpoints[0].addresses: Invalid value: \"10.0.0.1\": must be an IPv6 address"],
            ),
            (
                json!({"addressType": "FQDN", "endpoints": [{"addresses": ["A"]}]}),
                &[
                    "endpoints[0].addresses[0]: Invalid value: \"A\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                ],
            ),
            (
                of(json!({"addresses": ["127.0.0.1"]})),
                &[
                    "endpoints[0].addresses[0]: Invalid value: \"127.0.0.1\": may not be in the loopback range (127.0.0.0/8, ::1/128)",
                ],
            ),
            (
                of(
                    json!({"addresses": ["10.0.0.1"], "hostname": "A", "nodeName": "N", "deprecatedTopology": {"kubernetes.io/hostname": "x"}}),
                ),
                &[
                    "endpoints[0].nodeName: Invalid value: \"N\": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')",
                    "endpoints[0].hostname: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                ],
            ),
            (
                of(
                    json!({"addresses": ["10.0.0.1"], "hints": {"forZones": [{"name": "a"}, {"name": "a"}, {"name": "a b"}]}}),
                ),
                &[
                    "endpoints[0].hints.forZones[1].name: Duplicate value: \"a\"",
                    "endpoints[0].hints.forZones[2].name: Invalid value: \"a b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                json!({"ports": [{"port": 80, "name": "a"}, {"port": 81, "name": "a"}, {"port": 0, "name": "b--", "protocol": "x"}]}),
                &[
                    "ports[1].name: Duplicate value: \"a\"",
                    "ports[2].name: Invalid value: \"b--\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
                    "ports[2].protocol: Unsupported value: \"x\": supported values: \"SCTP\", \"TCP\", \"UDP\"",
                ],
            ),
        ],
    );
    updates(
        kind,
        &base,
        "",
        "",
        &[(
            json!({"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}]}),
            &["addressType: Invalid value: \"IPv6\": field is immutable"],
        )],
    );
    let old = merged(&made(kind, &base), &json!({"metadata": {"generation": 1}}));
    for (patch, generation) in [
        (json!({"metadata": {"labels": {"a": "b"}}}), 2),
        (json!({"metadata": {"annotations": {"a": "b"}}}), 1),
        (json!({"ports": [{"port": 81}]}), 2),
    ] {
        assert_eq!(changed(kind, &old, &patch, "")["metadata"]["generation"], generation, "{patch}");
    }
}
