//! ConfigMaps, Secrets, ServiceAccounts.

use std::borrow::Cow;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::registry::{Decl, PLAIN};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "configmaps",
        short: &["cm"],
        strategy: || Arc::new(ConfigMap),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Data"), Column::text("Age")],
            cells: |o, now| {
                let count = |f: &str| o[f].as_object().map_or(0, serde_json::Map::len);
                vec![name_cell(o), json!(count("data") + count("binaryData")), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        resource: "secrets",
        strategy: || Arc::new(Secret),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Type"), Column::text("Data"), Column::text("Age")],
            cells: |o, now| {
                let count = o["data"].as_object().map_or(0, serde_json::Map::len);
                vec![name_cell(o), json!(text(&o["type"])), json!(count), age_cell(o, now)]
            },
        },
        ..PLAIN
    },
    Decl {
        resource: "serviceaccounts",
        answers_deleted: true,
        short: &["sa"],
        strategy: || Arc::new(ServiceAccount),
        columns: Columns::Coded {
            columns: &[Column::name(), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), age_cell(o, now)],
        },
        ..PLAIN
    },
];

/// More than this much data in a ConfigMap or Secret is refused.
const MAX_SIZE: usize = 1 << 20;

/// The bytes of a base64 text must be a JSON object; what they are is not told.
fn check_json(errors: &mut ErrorList, path: &Path, base64: &str) {
    let why = match STANDARD.decode(base64).map(|bytes| serde_json::from_slice(&bytes)) {
        Ok(Ok(Value::Object(_) | Value::Null)) => return,
        Ok(Ok(_)) => "must be a JSON object".to_owned(),
        Ok(Err(why)) => why.to_string(),
        Err(why) => why.to_string(),
    };
    errors.invalid_str(path, "<secret contents redacted>", why);
}

fn check_immutable(new: &Value, old: &Value) -> ErrorList {
    let mut errors = ErrorList::new();
    if old["immutable"] == true {
        if new["immutable"] != true {
            errors.forbidden(&Path::new("immutable"), "field is immutable when `immutable` is set");
        }
        for field in ["data", "binaryData"] {
            if new[field] != old[field] {
                errors.forbidden(&Path::new(field), "field is immutable when `immutable` is set");
            }
        }
    }
    errors
}

struct ConfigMap;

impl Strategy for ConfigMap {
    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let mut size = 0;
        for field in ["data", "binaryData"] {
            for (key, value) in obj[field].as_object().into_iter().flatten() {
                let at = Path::new(field).key(key);
                for why in validate::config_key(key) {
                    errors.invalid_str(&at, key, why);
                }
                if field == "binaryData" && !obj["data"][key].is_null() {
                    errors.invalid_str(
                        &Path::new("data").key(key),
                        key,
                        "duplicate of key present in binaryData",
                    );
                }
                size += if field == "data" { text(value).len() } else { decoded_len(text(value)) };
            }
        }
        if size > MAX_SIZE {
            // The path of all of it, as upstream writes it and its clients show it.
            errors.too_long(&Path::new("[]"), MAX_SIZE);
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        check_immutable(new, old)
    }

    fn allow_create_on_update(&self) -> bool {
        false
    }
}

/// Whose token a secret of that type is to hold.
const ACCOUNT_NAME: &str = "kubernetes.io/service-account.name";

const SECRET_FIELDS: &[Cow<'static, str>] = &[Cow::Borrowed("type")];

struct Secret;

impl Strategy for Secret {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        set_text(map, "type", "Opaque");
        if let Some(Value::Object(plain)) = map.shift_remove("stringData") {
            let data = meta::entry(map, "data");
            for (key, value) in plain {
                data.insert(key, json!(STANDARD.encode(text(&value))));
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let path = Path::new("data");
        let mut size = 0;
        for (key, value) in obj["data"].as_object().into_iter().flatten() {
            for why in validate::config_key(key) {
                errors.invalid_str(&path.key(key), key, why);
            }
            size += decoded_len(text(value));
        }
        if size > MAX_SIZE {
            errors.too_long(&path, MAX_SIZE);
        }
        let mut need = |key: &str| {
            if obj["data"][key].is_null() {
                errors.required(&path.key(key), "");
            }
        };
        match text(&obj["type"]) {
            "kubernetes.io/dockercfg" | "kubernetes.io/dockerconfigjson" => {
                let key = text(&obj["type"]).replace("kubernetes.io/", ".");
                match &obj["data"][&key] {
                    Value::Null => need(&key),
                    config => check_json(&mut errors, &path.key(&key), text(config)),
                }
            }
            "kubernetes.io/ssh-auth" if empty(&obj["data"]["ssh-privatekey"]) => {
                errors.required(&path.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => {
                need("tls.crt");
                need("tls.key");
            }
            "kubernetes.io/basic-auth"
                if obj["data"]["username"].is_null() && obj["data"]["password"].is_null() =>
            {
                errors.required(&path.key("username"), "");
                errors.required(&path.key("password"), "");
            }
            "kubernetes.io/service-account-token"
                if meta::annotation(obj, ACCOUNT_NAME).unwrap_or_default().is_empty() =>
            {
                errors.required(&Path::new("metadata").child("annotations").key(ACCOUNT_NAME), "");
            }
            _ => {}
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = check_immutable(new, old);
        immutable(&mut errors, &Path::new("type"), &new["type"], &old["type"]);
        errors
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        SECRET_FIELDS
    }
}

struct ServiceAccount;

/// Of the secrets of an account nothing counts but their names.
fn only_names(obj: &mut Value) {
    for secret in each(meta::as_map(obj), "secrets") {
        secret.retain(|field, _| field == "name");
    }
}

impl Strategy for ServiceAccount {
    fn prepare_create(&self, obj: &mut Value) {
        only_names(obj);
    }

    fn prepare_update(&self, new: &mut Value, _: &Value) {
        only_names(new);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn service_accounts_are_shown_without_their_secrets() {
        let kind = kinds::by_gvr(&gvr::SERVICE_ACCOUNTS).unwrap();
        let Columns::Coded { columns, .. } = &kind.columns else { panic!("they have columns") };
        assert_eq!(columns.iter().map(|c| c.name).collect::<Vec<_>>(), ["Name", "Age"]);
    }

    #[test]
    fn data_is_measured_as_it_is_and_not_as_it_is_written() {
        let metadata = json!({"name": "s", "namespace": "n"});
        for (size, good) in [(MAX_SIZE - 1, true), (MAX_SIZE, true), (MAX_SIZE + 1, false)] {
            let encoded = json!({"a": STANDARD.encode(vec![0; size])});
            for (gvr, object) in [
                (gvr::CONFIG_MAPS, json!({"metadata": metadata, "binaryData": encoded})),
                (gvr::CONFIG_MAPS, json!({"metadata": metadata, "data": {"a": "x".repeat(size)}})),
                (gvr::SECRETS, json!({"metadata": metadata, "type": "Opaque", "data": encoded})),
            ] {
                let message = kinds::by_gvr(&gvr).unwrap().validate_create(&object).message();
                assert_eq!(message == "[]", good, "{size} bytes: {message}");
                assert_eq!(message.contains("Too long: may not be more than 1048576 bytes"), !good);
            }
        }
    }

    #[test]
    fn string_data_becomes_data() {
        let kind = kinds::by_gvr(&gvr::SECRETS).unwrap();
        let mut obj = json!({"metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "b"}});
        kind.default(&mut obj);
        assert_eq!((&obj["data"]["a"], &obj["type"]), (&json!("Yg=="), &json!("Opaque")));
        assert!(obj.get("stringData").is_none());
        for (kind_of, data, why) in [
            ("dockercfg", json!({}), "data[.dockercfg]: Required value"),
            ("dockercfg", json!({".dockercfg": STANDARD.encode("{}")}), "[]"),
            ("dockerconfigjson", json!({".dockerconfigjson": STANDARD.encode("{\"auths\": {}}")}), "[]"),
            (
                "dockerconfigjson",
                json!({".dockerconfigjson": STANDARD.encode("hush")}),
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": expected value at line 1 column 1",
            ),
            (
                "dockerconfigjson",
                json!({".dockerconfigjson": STANDARD.encode("[1]")}),
                "data[.dockerconfigjson]: Invalid value: \"<secret contents redacted>\": must be a JSON object",
            ),
        ] {
            let mut secret = obj.clone();
            secret["type"] = json!(format!("kubernetes.io/{kind_of}"));
            secret["data"] = data;
            assert_eq!(kind.validate_create(&secret).message(), why);
        }
        let mut tls = obj.clone();
        tls["type"] = json!("kubernetes.io/tls");
        assert_eq!(
            kind.validate_create(&tls).message(),
            "[data[tls.crt]: Required value, data[tls.key]: Required value]"
        );
        assert!(
            kind.validate_update(&tls, &obj, "")
                .message()
                .contains("type: Invalid value: \"kubernetes.io/tls\": field is immutable")
        );
    }
}
