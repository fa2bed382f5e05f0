//! Tests of schemas.

use super::*;
use crate::codec::{FieldValidation, check};
use serde_json::json;

fn schema() -> Structural {
    let raw = json!({"type": "object", "required": ["spec"], "properties": {
    "spec": {"type": "object", "required": ["size"], "properties": {
        "size": {"type": "integer", "minimum": 1},
        "small": {"type": "integer", "format": "int32"},
        "big": {"type": "integer", "format": "uint64"},
        "color": {"type": "string", "enum": ["red", "blue"], "default": "red"},
        "name": {"type": "string", "pattern": "^[a-z]+$", "maxLength": 5},
        "port": {"x-kubernetes-int-or-string": true},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "labels": {"type": "object", "additionalProperties": {"type": "string"}},
        "items": {"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
            "items": {"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": {"type": "integer", "default": 7}}}}
    }}}});
    Structural::compile(&raw, &Path::root()).unwrap()
}

#[test]
fn prunes_and_defaults() {
    let s = schema();
    let value = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "labels": {"x": "y"}},
        "extra": 1, "spec": {"size": 1, "more": {}, "any": {"what": ["ever"]}, "items": [{"k": "a", "z": 1}]}});
    let out = check(value, "g/v1", "K", Schema::Custom(&s), FieldValidation::Warn).unwrap();
    assert_eq!(out.warnings.len(), 3, "{:?}", out.warnings);
    let mut value = out.value;
    s.fill_in(&mut value);
    assert_eq!(
        value["spec"],
        json!({"size": 1, "any": {"what": ["ever"]}, "items": [{"k": "a", "v": 7}], "color": "red"})
    );
    assert_eq!(value["metadata"]["labels"]["x"], "y");
    assert!(s.validate(&value).is_empty());
    let edges = json!({"spec": {"size": 3.0, "small": i32::MIN, "big": u64::MAX}});
    assert!(s.validate(&edges).is_empty(), "{:?}", s.validate(&edges));
}

#[test]
fn errors_are_in_upstream_s_words() {
    let s = schema();
    for (spec, want) in [
        (json!({}), "spec.size: Required value"),
        (
            json!({"size": 0}),
            "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1",
        ),
        (
            json!({"size": "x"}),
            "spec.size: Invalid value: \"string\": spec.size in body must be of type integer: \"string\"",
        ),
        (
            json!({"size": 1, "color": "green"}),
            "spec.color: Unsupported value: \"green\": supported values: \"blue\", \"red\"",
        ),
        (
            json!({"size": 1, "name": "A"}),
            "spec.name: Invalid value: \"A\": spec.name in body should match '^[a-z]+$'",
        ),
        (json!({"size": 1, "name": "abcdef"}), "spec.name: Too long: may not be more than 5 bytes"),
        (
            json!({"size": 1, "items": [{"k": "a"}, {"k": "a"}]}),
            "spec.items[1]: Duplicate value: {\"k\":\"a\"}",
        ),
        (
            json!({"size": 1, "small": 3_000_000_000u32}),
            "spec.small: Invalid value: 3000000000: Checked value must be of type integer with format int32 in spec.small",
        ),
        (
            json!({"size": 1, "big": -1}),
            "spec.big: Invalid value: -1: Checked value must be of type integer with format uint64 in spec.big",
        ),
        (
            json!({"size": u64::MAX}),
            "spec.size: Invalid value: 18446744073709551615: Checked value must be of type integer in spec.size",
        ),
        (json!({"size": 1, "port": true}), "spec.port: Invalid value: \"boolean\""),
    ] {
        let errors = s.validate(&json!({"spec": spec})).0;
        assert!(errors[0].to_string().starts_with(want), "{}", errors[0]);
    }
    assert_eq!(s.validate(&json!({})).0[0].to_string(), "spec: Required value");
}

#[test]
fn what_is_not_touched_stays_as_it_was() {
    let list = |kind: &str, more: Value| {
        let mut list = json!({"type": "array", "x-kubernetes-list-type": kind, "items": more});
        if kind == "map" {
            list["x-kubernetes-list-map-keys"] = json!(["k"]);
        }
        list
    };
    let short = json!({"type": "string", "maxLength": 2});
    let item = json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string"}, "v": short, "w": short}});
    let raw = json!({"type": "object", "properties": {"a": short, "b": short, "n": {"type": "integer"},
        "o": {"type": "object", "required": ["new"], "properties": {"new": {"type": "string"}, "old": {"type": "string"}}},
        "map": list("map", item), "atomic": list("atomic", short.clone()), "set": list("set", short.clone()),
        "rule": {"type": "object", "properties": {"x": {"type": "integer"}, "y": short},
            "x-kubernetes-validations": [{"rule": "self.x > 0"}]},
        "ruled": {"type": "array", "items": {"type": "integer", "x-kubernetes-validations": [{"rule": "self > 0"}]}}}});
    let s = Structural::compile(&raw, &Path::root()).unwrap();
    let old = json!({"a": "long", "b": "ok", "o": {"old": "x"}, "map": [{"k": "1", "v": "long"}, {"k": "2"}],
        "atomic": ["long"], "set": ["x", "x"], "rule": {"x": 0, "y": "long"}, "ruled": [0]});
    for (change, want) in [
        (json!({}), vec![]),
        (json!({"b": "no", "n": 1}), vec![]),
        (json!({"a": "longer"}), vec!["a"]),
        (json!({"b": "long"}), vec!["b"]),
        (json!({"o": {"old": "y"}}), vec!["o.new"]),
        (json!({"map": [{"k": "2"}, {"k": "1", "v": "long", "w": "ok"}]}), vec![]),
        (json!({"map": [{"k": "1", "v": "longer"}, {"k": "3", "v": "long"}]}), vec!["map[0].v", "map[1].v"]),
        (json!({"atomic": ["long", "ok"]}), vec!["atomic[0]"]),
        (json!({"set": ["x", "x", "y"]}), vec![]),
        (json!({"rule": {"x": 1}}), vec![]),
        (json!({"rule": {"x": -1}}), vec!["rule"]),
        (json!({"ruled": [0, 1]}), vec!["ruled[0]"]),
    ] {
        let mut new = old.clone();
        crate::patch::merge_patch(&mut new, &change);
        let mut errors = s.validate_change(&new, &old);
        let told = s.validate_rules(&new, Some(&old), &errors);
        errors.append(told);
        let fields: Vec<&str> = errors.0.iter().map(|e| e.field.as_str()).filter(|f| *f != "<nil>").collect();
        assert_eq!(fields, want, "{change}");
    }
    let twice = s.validate_change(&json!({"set": ["x", "x"]}), &json!({"set": ["x"]}));
    assert_eq!(twice.0.len(), 1);
    assert!(!s.validate(&old).is_empty(), "as a new object it is not taken");
}

#[test]
fn formats_and_steps_are_judged() {
    let raw = json!({"type": "object", "properties": {
        "when": {"type": "string", "format": "date-time"},
        "step": {"type": "number", "multipleOf": 0.1},
        "name": {"type": "string", "pattern": "^\\w{1,253}$"}}});
    let s = Structural::compile(&raw, &Path::root()).unwrap();
    for (good, value) in [
        (true, json!({"when": "2024-01-01T00:00:00Z", "step": 0.3, "name": "a_1"})),
        (true, json!({"step": 0})),
        (true, json!({"step": -1.7})),
        (false, json!({"when": "today"})),
        (false, json!({"step": 0.35})),
        (false, json!({"name": "é"})),
    ] {
        assert_eq!(s.validate(&value).is_empty(), good, "{value}");
    }
    let errors = s.validate(&json!({"name": "-"})).0;
    assert!(errors[0].to_string().ends_with("name in body should match '^\\w{1,253}$'"), "{}", errors[0]);
}

#[test]
fn what_was_taken_once_need_not_be_structural() {
    let old = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
        "properties": {"spec": {"properties": {"a": {"minimum": 1}}}}});
    let root = |lenient| Structural::check_all([(&old, Path::root(), false)], lenient);
    assert!(root(true).is_empty() && !root(false).is_empty());
    let (schema, errors) = Structural::compile_taken(&old, &Path::root());
    assert!(errors.is_empty(), "{errors:?}");
    assert!(schema.validate(&json!({"spec": {"a": 1, "b": {}}})).is_empty());
    assert!(!schema.validate(&json!({"spec": {"a": 0}})).is_empty());
    let broken = json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("},
        "b": {"type": "integer", "x-kubernetes-validations": [{"rule": "self."}]}}});
    let (schema, errors) = Structural::compile_taken(&broken, &Path::root());
    assert_eq!(errors.0.len(), 2, "{errors:?}");
    assert!(!schema.validate(&json!({"b": "text"})).is_empty(), "the rest of it holds");
}

fn refusals(schema: &Value) -> Vec<String> {
    let errors = Structural::compile(schema, &Path::root()).err().unwrap_or_default();
    let mut texts: Vec<String> = errors.0.iter().map(ToString::to_string).collect();
    texts.sort();
    texts
}

#[test]
fn schemas_are_structural() {
    let of = |property: Value| json!({"type": "object", "properties": {"a": property}});
    let either = json!([{"type": "integer"}, {"type": "string"}]);
    let map = |items: Value| json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"], "items": items});
    for good in [
        of(json!({"x-kubernetes-int-or-string": true, "anyOf": either})),
        of(json!({"x-kubernetes-int-or-string": true, "type": "string"})),
        of(json!({"x-kubernetes-int-or-string": true, "allOf": [{"anyOf": either}, {"pattern": "^a"}]})),
        of(json!({"type": "object", "additionalProperties": true, "properties": {"b": {"type": "string"}}})),
        of(json!({"type": "object", "additionalProperties": false})),
        json!({"type": "object", "properties": {"metadata": {"type": "object",
            "properties": {"name": {"type": "string", "maxLength": 5}}}}}),
        of(
            json!({"type": "object", "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}),
        ),
        of(
            json!({"type": "object", "default": {"b": null}, "properties": {"b": {"type": "string", "nullable": true}}}),
        ),
    ] {
        assert_eq!(refusals(&good), Vec::<String>::new(), "{good}");
    }
    for (bad, want) in [
        (json!({}), "type: Required value: must not be empty at the root"),
        (
            json!({"type": "object", "additionalProperties": {"type": "string"}}),
            "additionalProperties: Forbidden: must not be used at the root",
        ),
        (of(json!({})), "properties[a].type: Required value: must not be empty for specified object fields"),
        (
            of(json!({"type": "array", "items": {}})),
            "properties[a].items.type: Required value: must not be empty for specified array items",
        ),
        (
            of(
                json!({"type": "object", "additionalProperties": {"type": "string"}, "properties": {"b": {"type": "string"}}}),
            ),
            "properties[a].additionalProperties: Forbidden: additionalProperties and properties are mutual exclusive",
        ),
        (
            of(json!({"type": "object", "x-kubernetes-preserve-unknown-fields": false})),
            "properties[a].x-kubernetes-preserve-unknown-fields: Invalid value: false: must be true or undefined",
        ),
        (
            of(json!({"type": "object", "x-kubernetes-map-type": "set"})),
            "properties[a].x-kubernetes-map-type: Unsupported value: \"set\": supported values: \"atomic\", \"granular\"",
        ),
        (
            of(json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "object"}})),
            "properties[a].items.x-kubernetes-map-type: Invalid value: null: must be atomic as item of a list with x-kubernetes-list-type=set",
        ),
        (
            of(map(json!({"type": "string"}))),
            "properties[a].items.type: Invalid value: \"string\": must be object if parent array's x-kubernetes-list-type is map",
        ),
        (
            of(map(
                json!({"type": "object", "required": ["k"], "properties": {"k": {"type": "string", "nullable": true}}}),
            )),
            "properties[a].items.properties[k].nullable: Forbidden: this property is in x-kubernetes-list-map-keys, so it cannot be nullable",
        ),
        (
            of(json!({"type": "string", "anyOf": [{"type": "string"}]})),
            "properties[a].anyOf[0].type: Forbidden: must be empty to be structural",
        ),
        (
            of(json!({"type": "object", "x-kubernetes-embedded-resource": true})),
            "properties[a].properties: Required value: must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "properties": {"labels": {"type": "object"}}}}}),
            "properties[metadata]: Forbidden: must not specify anything other than name and generateName, but metadata is implicitly specified",
        ),
        (
            json!({"type": "object", "properties": {"metadata": {"type": "object", "default": {}}}}),
            "properties[metadata].default: Forbidden: must not be set in top-level metadata",
        ),
        (
            json!({"type": "object", "anyOf": [{"properties": {"b": {"minimum": 1}}}]}),
            "properties[b]: Required value: because it is defined in anyOf[0].properties[b]",
        ),
        (
            of(json!({"type": "object", "properties": {"b": {"type": "string"}}, "default": {"b": 1}})),
            "properties[a].default.b: Invalid value: \"integer\": properties[a].default.b in body must be of type string: \"integer\"",
        ),
        (
            of(
                json!({"type": "object", "default": {}, "required": ["b"], "properties": {"b": {"type": "string", "default": "x"}}}),
            ),
            "properties[a].default.b: Required value",
        ),
        (
            of(json!({"type": "integer", "default": 0, "x-kubernetes-validations": [{"rule": "self > 0"}]})),
            "properties[a].default: Invalid value: 0: failed rule: self > 0",
        ),
    ] {
        assert_eq!(refusals(&bad), [want], "{bad}");
    }
    let status = json!({"type": "object", "minProperties": 1, "nullable": true});
    let errors = Structural::check_all([(&status, Path::new("s"), true)], false).message();
    assert!(
        errors.contains("fields are allowed at the root of the schema if the status subresource is enabled")
    );
    assert!(errors.contains("s.nullable: Forbidden: nullable cannot be true at the root"), "{errors}");
}

#[test]
fn what_is_nothing_goes() {
    let raw = json!({"type": "object", "properties": {
        "a": {"type": "string"}, "n": {"type": "string", "nullable": true}, "d": {"type": "string", "default": "x"},
        "map": {"type": "object", "additionalProperties": {"type": "string"}},
        "filled": {"type": "object", "additionalProperties": {"type": "string", "default": "y"}},
        "list": {"type": "array", "items": {"type": "string", "default": "z"}},
        "any": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
        "open": {"type": "object", "additionalProperties": true},
        "lists": {"type": "array", "x-kubernetes-preserve-unknown-fields": true,
            "items": {"type": "object", "properties": {"k": {"type": "object"}}}}}});
    let schema = Structural::compile(&raw, &Path::root()).unwrap();
    let mut value = json!({"metadata": {"name": "x"}, "a": null, "n": null, "d": null, "map": {"k": null, "l": "v"},
        "filled": {"k": null}, "list": [null], "any": {"b": null}, "open": {"s": 1, "m": {"gone": 1}, "l": [{"gone": 1}]},
        "lists": [{"k": {"gone": 1}, "kept": {"x": 1}}]});
    let mut unknown = crate::codec::prune(&mut value, Schema::Custom(&schema));
    schema.fill_in(&mut value);
    let want = json!({"metadata": {"name": "x"}, "n": null, "d": "x", "map": {"l": "v"}, "filled": {"k": "y"},
        "list": ["z"], "any": {"b": null}, "open": {"s": 1, "m": {}, "l": [{}]}, "lists": [{"k": {}, "kept": {"x": 1}}]});
    assert_eq!(value, want);
    unknown.sort();
    assert_eq!(unknown, ["lists[0].k.gone", "open.l[0].gone", "open.m.gone"]);
    assert!(schema.validate(&value).is_empty(), "{:?}", schema.validate(&value));
}

#[test]
fn objects_within_objects_say_what_they_are() {
    let raw = json!({"type": "object", "properties": {
        "metadata": {"type": "object", "properties": {"name": {"type": "string", "maxLength": 3}}},
        "list": {"type": "array", "items": {"type": "object", "x-kubernetes-embedded-resource": true,
            "x-kubernetes-preserve-unknown-fields": true}}}});
    let schema = Structural::compile(&raw, &Path::root()).unwrap();
    let said = |name: &str, inner: Value| {
        let value = json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": name}, "list": [inner]});
        schema.validate(&value).message()
    };
    let good = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {}});
    assert_eq!(said("abc", good.clone()), "[]");
    assert_eq!(said("abcd", good), "metadata.name: Too long: may not be more than 3 bytes");
    assert_eq!(
        said("a", json!({"metadata": {"labels": {"a b": "c"}}})),
        "[list[0].apiVersion: Required value, list[0].kind: Required value, list[0].metadata.labels: Invalid value: \"a b\": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')]"
    );
    assert_eq!(
        said("a", json!({"apiVersion": "a/b/c", "kind": ""})),
        "[list[0].apiVersion: Invalid value: \"a/b/c\": unexpected GroupVersion string: a/b/c, list[0].kind: Invalid value: \"\": must not be empty]"
    );
}

#[test]
fn of_several_schemas_the_nearest_says_why() {
    let raw = json!({"type": "object", "properties": {"s": {"type": "object",
        "properties": {"a": {"type": "string"}, "b": {"type": "integer"}},
        "oneOf": [{"required": ["a"]}, {"required": ["b"]}],
        "not": {"required": ["a"], "properties": {"a": {"enum": ["no"]}}}},
        "t": {"type": "string", "anyOf": [{"maxLength": 1}, {"pattern": "^x"}], "allOf": [{"minLength": 1}]}}});
    let schema = Structural::compile(&raw, &Path::root()).unwrap();
    for (value, want) in [
        (json!({"s": {"a": "x"}, "t": "xyz"}), vec![]),
        (
            json!({"s": {}}),
            vec![
                "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found none valid",
                "s.a: Required value",
            ],
        ),
        (
            json!({"s": {"a": "x", "b": 1}}),
            vec![
                "<nil>: Invalid value: \"\": \"s\" must validate one and only one schema (oneOf). Found 2 valid alternatives",
            ],
        ),
        (
            json!({"s": {"a": "no"}}),
            vec!["<nil>: Invalid value: \"\": \"s\" must not validate the schema (not)"],
        ),
        (
            json!({"t": "yy"}),
            vec![
                "<nil>: Invalid value: \"\": \"t\" must validate at least one schema (anyOf)",
                "t: Too long: may not be more than 1 bytes",
            ],
        ),
        (
            json!({"t": ""}),
            vec![
                "t: Invalid value: \"\": t in body should be at least 1 chars long",
                "<nil>: Invalid value: \"\": \"t\" must validate all the schemas (allOf). None validated",
            ],
        ),
    ] {
        let texts: Vec<String> = schema.validate(&value).0.iter().map(ToString::to_string).collect();
        assert_eq!(texts, want, "{value}");
    }
}

#[test]
fn bad_schemas_are_refused() {
    for bad in [
        json!({"type": "string"}),
        json!({"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}}),
        json!({"type": "object", "properties": {"a": {"type": "array"}}}),
        json!({"type": "object", "properties": {"a": {}}}),
        json!({"type": "object", "properties": {"a": {"type": "text"}}}),
        json!({"type": "object", "properties": {"a": {"type": "integer", "default": "x"}}}),
        json!({"type": "object", "properties": {"a": {"type": "object", "default": {"b": 1}}}}),
        json!({"type": "object", "properties": {"a": {"type": "object", "anyOf": [{"type": "object"}, {"default": 1}]}}}),
        json!({"type": "object", "properties": {"a": {"type": "array", "items": {"type": "object"},
            "x-kubernetes-list-type": "map"}}}),
    ] {
        assert!(Structural::compile(&bad, &Path::root()).is_err(), "{bad}");
    }
}

#[test]
fn a_long_list_of_wrong_items_is_refused_with_some_of_them() {
    let choices: Vec<String> = (0..50).map(|i| format!("choice-{i}")).collect();
    let schema = json!({"type": "object", "properties": {"l": {"type": "array",
        "items": {"type": "string", "enum": choices}}}});
    let schema = Structural::compile(&schema, &Path::root()).unwrap();
    let errors = schema.validate(&json!({"l": vec![""; 100_000]}));
    assert!(errors.is_full() && errors.0.len() <= 1001, "{}", errors.0.len());
}

#[test]
fn patterns_have_room_beside_each_other() {
    let schema = |all: &dyn Fn(usize) -> String| {
        let one = |i| (format!("p{i}"), json!({"type": "string", "pattern": all(i)}));
        json!({"type": "object", "properties": (0..1000).map(one).collect::<crate::Map>()})
    };
    let usual = schema(&|i| format!("^[a-z0-9]([-a-z0-9]*[a-z0-9])?(/{i})?$"));
    assert!(Structural::compile(&usual, &Path::root()).is_ok());
    let same = schema(&|_| r"^\pL{1,63}$".to_owned());
    assert!(Structural::compile(&same, &Path::root()).is_ok());
    let large = schema(&|i| format!(r"^\pL{{1,63}}{i}$"));
    let text = Structural::compile(&large, &Path::root()).unwrap_err().message();
    assert!(text.contains("there is no room for it beside the other regular expressions"), "{text}");
    // Nor is there more of it for being spread over versions.
    let versions = |schema: &'static str| {
        let schema: Value = serde_json::from_str(schema).unwrap();
        let schemas = vec![schema; 20];
        Structural::check_all(schemas.iter().map(|s| (s, Path::root(), false)), false)
    };
    let wide = r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^\\pL{1,63}$"}}}"#;
    assert!(!versions(wide).is_empty());
    let narrow = r#"{"type": "object", "properties": {"a": {"type": "string", "pattern": "^[a-z]+$"}}}"#;
    assert!(versions(narrow).is_empty());
}

#[test]
fn metadata_within_objects_is_metadata() {
    let raw = json!({"type": "object", "properties": {
        "tpl": {"type": "object", "x-kubernetes-embedded-resource": true,
            "properties": {"spec": {"type": "object", "properties": {"a": {"type": "string"}}}}},
        "map": {"type": "object", "additionalProperties": {"type": "object",
            "x-kubernetes-embedded-resource": true, "x-kubernetes-preserve-unknown-fields": true}}}});
    let schema = Structural::compile(&raw, &Path::root()).unwrap();
    let object = |tpl: &Value| {
        json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a", "what": 1}, "zz": 1,
            "tpl": tpl, "map": {"k": tpl}})
    };
    let read = |tpl: &Value, validation| check(object(tpl), "g/v1", "K", Schema::Custom(&schema), validation);
    // What is unknown is told in upstream's order and goes.
    let odd = json!({"apiVersion": "v1", "kind": "X", "other": 1, "spec": {"a": "b", "c": 1},
        "metadata": {"name": "n", "foo": 1, "creationTimestamp": null, "labels": {"a": "b"}}});
    let why = read(&odd, FieldValidation::Strict).unwrap_err().message;
    let want = ["metadata.what", "tpl.other", "tpl.spec.c", "zz", "map.k.metadata.foo", "tpl.metadata.foo"];
    let want = want.map(|f| format!("unknown field \"{f}\"")).join(", ");
    assert!(why.ends_with(&want), "{why}");
    let kept = read(&odd, FieldValidation::Ignore).unwrap().value;
    let metadata = json!({"name": "n", "labels": {"a": "b"}});
    assert_eq!(
        kept["tpl"],
        json!({"apiVersion": "v1", "kind": "X", "spec": {"a": "b"}, "metadata": metadata})
    );
    assert_eq!(kept["map"]["k"]["metadata"], metadata);
    assert_eq!(kept["map"]["k"]["other"], 1);
    // What is of a wrong type is refused where it comes from a client, and goes where it was stored.
    for (tpl, want, stored) in [
        (
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"labels": {"a": 1}, "name": "n"}}),
            "tpl.metadata: Invalid value: {\"labels\":{\"a\":1},\"name\":\"n\"}: json: cannot unmarshal number into Go struct field ObjectMeta.labels.a of type string",
            json!({"apiVersion": "v1", "kind": "X", "metadata": {"name": "n"}}),
        ),
        (
            json!({"apiVersion": "v1", "kind": "X", "metadata": "m"}),
            "tpl.metadata: Invalid value: \"m\": json: cannot unmarshal string into Go value of type v1.ObjectMeta",
            json!({"apiVersion": "v1", "kind": "X"}),
        ),
        (
            json!({"apiVersion": 1, "kind": "X"}),
            "tpl.apiVersion: Invalid value: 1: must be a string",
            json!({"kind": "X"}),
        ),
    ] {
        let why = read(&tpl, FieldValidation::Ignore).unwrap_err().message;
        assert!(why.contains(want), "{why}");
        let mut value = object(&tpl);
        let _ = crate::codec::prune(&mut value, Schema::Custom(&schema));
        assert_eq!(value["tpl"], stored);
    }
    // And it is as metadata has to be.
    let said = |metadata: Value| {
        let tpl = json!({"apiVersion": "v1", "kind": "X", "metadata": metadata});
        schema.validate(&json!({"tpl": tpl})).message()
    };
    assert_eq!(said(json!({})), "[]");
    for (metadata, want) in [
        (json!({"name": "a/b"}), "tpl.metadata.name: Invalid value: \"a/b\": may not contain '/'"),
        (json!({"generateName": ".."}), "[]"),
        (
            json!({"namespace": "A"}),
            "tpl.metadata.namespace: Invalid value: \"A\": a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')",
        ),
        (
            json!({"generation": -1}),
            "tpl.metadata.generation: Invalid value: -1: must be greater than or equal to 0",
        ),
        (
            json!({"ownerReferences": [{"apiVersion": "v1", "kind": "X", "name": "n"}]}),
            "tpl.metadata.ownerReferences[0].uid: Invalid value: \"\": must not be empty",
        ),
        (
            json!({"finalizers": ["orphan", "foregroundDeletion"]}),
            "tpl.metadata.finalizers: Invalid value: [\"orphan\",\"foregroundDeletion\"]: finalizer orphan and foregroundDeletion cannot be both set",
        ),
        (
            json!({"managedFields": [{"operation": "Do"}, {}]}),
            "[tpl.metadata.managedFields[0].operation: Unsupported value: \"Do\": supported values: \"Apply\", \"Update\", tpl.metadata.managedFields[1].operation: Required value: must not be empty]",
        ),
    ] {
        assert_eq!(said(metadata.clone()), want, "{metadata}");
    }
}
