//! What is malformed is refused with a Status that says why: bodies, patches, selectors, options, definitions.

#![allow(clippy::unwrap_used)] // a test fails by panicking

mod common;

use common::{Cluster, call};
use http::Method;
use serde_json::{Value, json};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const CRDS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A request that must be refused, and a part of why.
struct Bad<'a> {
    method: Method,
    path: String,
    media: &'a str,
    body: Vec<u8>,
    code: u16,
    why: &'a str,
}

fn bad<'a>(
    method: Method,
    path: &str,
    media: &'a str,
    body: impl AsRef<[u8]>,
    code: u16,
    why: &'a str,
) -> Bad<'a> {
    Bad { method, path: path.to_owned(), media, body: body.as_ref().to_vec(), code, why }
}

async fn refused(c: &Cluster, requests: Vec<Bad<'_>>) {
    for r in requests {
        let headers = [("content-type", r.media)];
        let shown = String::from_utf8_lossy(&r.body[..r.body.len().min(80)]).into_owned();
        let answer = call(c.admin.transport(), r.method.clone(), &r.path, &headers, r.body).await;
        let what = format!("{} {} {shown}: {}", r.method, r.path, answer.value);
        assert_eq!(answer.code, r.code, "{what}");
        assert_eq!(
            (&answer.value["kind"], &answer.value["status"]),
            (&json!("Status"), &json!("Failure")),
            "{what}"
        );
        assert!(!answer.value["reason"].as_str().unwrap_or("").is_empty(), "{what}");
        assert!(answer.message().contains(r.why), "{} not in {what}", r.why);
    }
    assert_eq!(c.get("/healthz").await.code, 200);
}

fn map(more: Value) -> String {
    let mut map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    api::patch::merge_patch(&mut map, &more);
    map.to_string()
}

#[tokio::test]
async fn bodies() {
    let c = Cluster::start().await;
    let post = |media, body: &[u8], code, why| bad(Method::POST, MAPS, media, body, code, why);
    let (js, yaml, proto) = ("application/json", "application/yaml", "application/vnd.kubernetes.protobuf");
    let mut bomb =
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: a}\ndata:\n  a: &a [x,x,x,x,x,x,x,x,x]\n"
            .to_owned();
    for i in 0..9u8 {
        let (this, last) = (char::from(b'b' + i), char::from(b'a' + i));
        let nine = vec![format!("*{last}"); 9].join(",");
        bomb.push_str(&format!("  {this}: &{this} [{nine}]\n"));
    }
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(10_000), "]".repeat(10_000));
    let long = "a".repeat(300);
    refused(
        &c,
        vec![
            post(js, b"", 400, ""),
            post(js, b"null", 400, ""),
            post(js, b"[]", 400, ""),
            post(js, b"5", 400, ""),
            post(js, b"{\"a\":", 400, ""),
            post(js, b"\x00\x01", 400, ""),
            post(
                js,
                b"{\"kind\":\"ConfigMap\",\"apiVersion\":\"v1\",\"metadata\":{\"name\":\"\xff\"}}",
                400,
                "",
            ),
            post(js, deep.as_bytes(), 400, ""),
            post(js, map(json!({"kind": "Secret"})).as_bytes(), 400, ""),
            post(js, map(json!({"apiVersion": "apps/v1"})).as_bytes(), 400, ""),
            post(
                js,
                map(json!({"metadata": {"name": null}})).as_bytes(),
                422,
                "name or generateName is required",
            ),
            post(js, map(json!({"metadata": {"name": "A_B"}})).as_bytes(), 422, "metadata.name"),
            post(js, map(json!({"metadata": {"name": long}})).as_bytes(), 422, "metadata.name"),
            post(js, map(json!({"metadata": {"labels": {"a b": "c"}}})).as_bytes(), 422, "metadata.labels"),
            post(
                js,
                map(json!({"metadata": {"finalizers": ["x y"]}})).as_bytes(),
                422,
                "metadata.finalizers",
            ),
            post(
                js,
                map(json!({"metadata": {"namespace": "other"}})).as_bytes(),
                400,
                "does not match the namespace",
            ),
            post(
                js,
                map(json!({"metadata": {"resourceVersion": "5"}})).as_bytes(),
                400,
                "resourceVersion should not be set",
            ),
            post(js, map(json!({"data": {"x": 1}})).as_bytes(), 400, ""),
            post(js, map(json!({"data": []})).as_bytes(), 400, ""),
            post(
                js,
                map(json!({"data": {"x": "y".repeat(1_100_000)}})).as_bytes(),
                422,
                "[]: Too long: may not be more than 1048576 bytes",
            ),
            post(yaml, bomb.as_bytes(), 400, ""),
            post(yaml, b"a: [1, 2\nb: {", 400, ""),
            post(yaml, deep.as_bytes(), 400, ""),
            post(proto, b"k8s\x00\xff\xff\xff\xff\xff", 400, ""),
            post(proto, b"\x0a\x03abc", 400, ""),
            post(proto, &[b"k8s\x00".as_slice(), &b"\x0a\x7f".repeat(5000)].concat(), 400, ""),
            post("text/plain", map(json!({})).as_bytes(), 415, "application/json"),
            post("application/cbor", b"\xa0", 415, "application/json"),
        ],
    )
    .await;
}

#[tokio::test]
async fn patches() {
    let c = Cluster::start().await;
    let object =
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"a": "b"}});
    assert_eq!(c.post(MAPS, object).await.code, 201);
    let one = format!("{MAPS}/a");
    let patch = |media, query: &str, body: &str, code, why| {
        bad(Method::PATCH, &format!("{one}{query}"), media, body, code, why)
    };
    let (ops, merge) = ("application/json-patch+json", "application/merge-patch+json");
    let (strategic, applied) = ("application/strategic-merge-patch+json", "application/apply-patch+yaml");
    let many =
        format!("[{}]", vec!["{\"op\":\"add\",\"path\":\"/data/x\",\"value\":\"y\"}"; 10_001].join(","));
    let by = "?fieldManager=x";
    refused(
        &c,
        vec![
            patch(ops, "", "{}", 400, ""),
            patch(ops, "", "[{\"op\"", 400, ""),
            patch(ops, "", r#"[{"op":"nope","path":"/a"}]"#, 422, ""),
            patch(ops, "", r#"[{"op":"add","path":"a","value":1}]"#, 422, ""),
            patch(ops, "", r#"[{"op":"remove","path":"/data/zz"}]"#, 422, ""),
            patch(ops, "", r#"[{"op":"test","path":"/data/a","value":"c"}]"#, 422, ""),
            patch(
                ops,
                "",
                r#"[{"op":"replace","path":"/metadata/namespace","value":"other"}]"#,
                400,
                "does not match the namespace sent on the request",
            ),
            patch(ops, "", &many, 413, "The allowed maximum operations in a JSON patch is 10000, got 10001"),
            patch(merge, "", "[]", 400, ""),
            patch(merge, "", "{", 400, ""),
            patch(merge, "", r#"{"metadata":{"name":"other"}}"#, 400, "does not match the name on the URL"),
            patch(
                merge,
                "",
                r#"{"data":{"a":5}}"#,
                422,
                r#" "" is invalid: patch: Invalid value: "{\"data\":{\"a\":5}}": json: cannot unmarshal number"#,
            ),
            patch(
                strategic,
                "",
                r#"{"data":{"a":5}}"#,
                422,
                r#" "" is invalid: patch: Invalid value: "map[data:map[a:5]]": json: cannot unmarshal number"#,
            ),
            patch(
                merge,
                "?fieldValidation=Strict",
                r#"{"datum":{},"datum":{}}"#,
                422,
                r#"strict decoding error: duplicate field "datum", unknown field "datum""#,
            ),
            patch(
                applied,
                "?fieldManager=x&fieldValidation=Strict",
                "apiVersion: v1\nkind: ConfigMap\ndata: {}\ndata: {}\n",
                400,
                r#"error strict decoding patch: strict decoding error: duplicate field "data""#,
            ),
            patch(merge, "", r#"{"metadata":{"resourceVersion":"1"}}"#, 409, "the object has been modified"),
            patch(merge, "", r#"{"metadata":{"uid":"x"}}"#, 422, "metadata.uid: Invalid value: \"x\": field is immutable"),
            patch(merge, "?force=false", "{}", 422, "may not be specified for non-apply patch"),
            patch(strategic, "", "[]", 400, ""),
            patch(strategic, "", r#"{"$patch":"nope"}"#, 400, ""),
            patch(applied, "", &map(json!({})), 422, "fieldManager: Required value"),
            patch(applied, by, "a: [", 400, ""),
            patch(applied, by, "{}", 400, "invalid object type: /, Kind="),
            patch(applied, by, r#"{"apiVersion":"v1"}"#, 400, "invalid object type: /v1, Kind="),
            patch(applied, by, &map(json!({"kind": "Secret"})), 400, "invalid object type: /v1, Kind=Secret"),
            patch(applied, by, &map(json!({"metadata": {"uid": "x"}})), 422, "metadata.uid: Invalid value"),
            bad(
                Method::PATCH,
                &format!("{MAPS}/none{by}"),
                applied,
                map(json!({"metadata": {"name": "none", "uid": "x"}})),
                409,
                "uid mismatch: the provided object specified uid x, and no existing object was found",
            ),
            patch(
                applied,
                by,
                &map(json!({"metadata": {"name": "b"}})),
                400,
                "does not match the name on the URL",
            ),
            patch(
                applied,
                by,
                &map(json!({"metadata": {"managedFields": [{}]}})),
                400,
                "metadata.managedFields must be nil",
            ),
            patch("application/foo", "", "{}", 415, "application/apply-patch+yaml"),
        ],
    )
    .await;
    assert_eq!(c.get(&one).await.value["data"], json!({"a": "b"}), "nothing of it has been done");
}

#[tokio::test]
async fn selectors_and_options() {
    let c = Cluster::start().await;
    let one = format!("{MAPS}/a");
    assert_eq!(c.post(MAPS, serde_json::from_str(&map(json!({}))).unwrap()).await.code, 201);
    let js = "application/json";
    let list = |query: &str, code, why| bad(Method::GET, &format!("{MAPS}?{query}"), js, "", code, why);
    let mut requests = vec![
        list("labelSelector=a%20in%20(b", 400, "unable to parse"),
        list("labelSelector=a%3Db%3Dc", 400, "unable to parse"),
        list("labelSelector=%21", 400, "unable to parse"),
        list("labelSelector=a%3Eb", 400, ""),
        list("fieldSelector=x", 400, ""),
        list("fieldSelector=metadata.name%3Da%3Db", 400, "unescaped character in value: 61"),
        list("fieldSelector=metadata.name%3D%5Cx", 400, "invalid escape sequence: \\x"),
        list(
            "fieldSelector=spec.foo%3D1",
            400,
            "\"spec.foo\" is not a known field selector: only \"metadata.name\", \"metadata.namespace\"",
        ),
        list("limit=x", 400, ""),
        list("continue=xx", 400, "continue key is not valid"),
        list("resourceVersion=x", 400, "resourceVersion"),
        list(
            "resourceVersionMatch=Exact",
            422,
            "resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        list("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        list(
            "watch=1&sendInitialEvents=true",
            422,
            "sendInitialEvents requires setting resourceVersionMatch",
        ),
        bad(
            Method::POST,
            &format!("{MAPS}?dryRun=Some"),
            js,
            map(json!({})),
            422,
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        bad(Method::POST, &format!("{MAPS}?fieldValidation=No"), js, map(json!({})), 422, "fieldValidation"),
        bad(Method::POST, &one, js, map(json!({})), 405, "create is not supported on resources of kind"),
        bad(Method::PUT, MAPS, js, map(json!({})), 405, ""),
        bad(
            Method::PUT,
            &one,
            js,
            r#"{"apiVersion": "v1", "kind": "ConfigMap"}"#,
            400,
            "based on URL) was undeterminable: name must be provided",
        ),
        bad(Method::OPTIONS, MAPS, js, "", 405, ""),
        bad(Method::GET, "/api/v1/namespaces/default/configmaps/%zz", js, "", 400, "invalid URL escape"),
        bad(
            Method::POST,
            "/api/v1/namespaces/default/pods/p/binding",
            js,
            json!({"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "q"}, "target": {"name": "n"}}).to_string(),
            400,
            "name in URL does not match name in Binding object",
        ),
    ];
    for (query, body, code, why) in [
        ("?gracePeriodSeconds=x", "", 400, ""),
        ("?propagationPolicy=No", "", 422, "propagationPolicy: Unsupported value: \"No\""),
        ("?orphanDependents=true&propagationPolicy=Orphan", "", 422, "cannot be both set"),
        ("", "{", 400, ""),
        ("", r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":"x"}"#, 400, ""),
        (
            "",
            r#"{"kind":"DeleteOptions","apiVersion":"v1","dryRun":["Some"]}"#,
            422,
            "dryRun: Unsupported value: [\"Some\"]: supported values: \"All\"",
        ),
        (
            "",
            r#"{"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"z"}}"#,
            409,
            "the UID in the precondition (z) does not match the UID in record",
        ),
    ] {
        requests.push(bad(Method::DELETE, &format!("{one}{query}"), js, body, code, why));
    }
    requests.push(bad(Method::DELETE, &one, js, map(json!({})), 400, "expected kind (DeleteOptions)"));
    refused(&c, requests).await;
    assert_eq!(c.get(&one).await.code, 200, "it is still there");
}

#[tokio::test]
async fn definitions() {
    let c = Cluster::start().await;
    let text = json!({"type": "string"});
    let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
    let rule = |rule: &str| json!({"type": "object", "x-kubernetes-validations": [{"rule": rule}]});
    let nested = json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "array", "items": text}}},
        "x-kubernetes-validations": [{"rule": "self.a.all(x, self.a.all(y, x.all(z, y.all(w, z == w))))"}]});
    let mut requests = Vec::new();
    for (schema, why) in [
        (json!({}), "type: Required value: must not be empty at the root"),
        (json!({"type": "nope"}), "Unsupported value: \"nope\""),
        (of(json!({"properties": {}})), "type: Required value"),
        (of(json!({"type": "object", "$ref": "#/x"})), "$ref is not supported"),
        (
            of(json!({"type": "array", "uniqueItems": true, "items": text})),
            "uniqueItems cannot be set to true",
        ),
        (
            of(json!({"type": "object", "additionalProperties": false, "properties": {"b": text}})),
            "additionalProperties and properties are mutual exclusive",
        ),
        (of(json!({"type": "string", "pattern": "("})), "must be a valid regular expression"),
        (of(json!({"type": "string", "pattern": "(a{1000}){1000}"})), "must be a valid regular expression"),
        (of(json!({"type": "integer", "default": "x"})), "default"),
        (
            of(json!({"type": "array", "x-kubernetes-list-type": "map", "items": {"type": "object"}})),
            "x-kubernetes-list-map-keys",
        ),
        (rule("self."), "compilation failed"),
        (rule("1"), "must evaluate to a bool"),
        (rule(&format!("{}true{}", "(".repeat(5000), ")".repeat(5000))), "compilation failed"),
        (rule("authorizer.path('/').check('get').allowed()"), "undeclared reference to 'authorizer'"),
        (nested, "estimated rule cost exceeds budget"),
    ] {
        let crd = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "bads.example.com"},
            "spec": {"group": "example.com", "scope": "Namespaced", "names": {"plural": "bads", "kind": "Bad"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}]}});
        requests.push(bad(Method::POST, CRDS, "application/json", crd.to_string(), 422, why));
    }
    let keep = json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition", "metadata": {"name": "bads.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced", "preserveUnknownFields": true, "names": {"plural": "bads", "kind": "Bad"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
    requests.push(bad(
        Method::POST,
        CRDS,
        "application/json",
        keep.to_string(),
        422,
        "spec.preserveUnknownFields: Invalid value: true: cannot set to true, set x-kubernetes-preserve-unknown-fields to true",
    ));
    refused(&c, requests).await;
    assert_eq!(c.get(&format!("{CRDS}/bads.example.com")).await.code, 404);
}
