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
            columns: &[Column::name(), Column::text("Secrets"), Column::text("Age")],
            cells: |o, now| vec![name_cell(o), json!(items(&o["secrets"]).len()), age_cell(o, now)],
        },
        ..PLAIN
    },
];

/// More than this much data in a ConfigMap or Secret is refused.
const MAX_SIZE: usize = 1 << 20;

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
                size += text(value).len();
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
            size += text(value).len() / 4 * 3;
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
            "kubernetes.io/dockercfg" => need(".dockercfg"),
            "kubernetes.io/dockerconfigjson" => need(".dockerconfigjson"),
            "kubernetes.io/ssh-auth" => need("ssh-privatekey"),
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

impl Strategy for ServiceAccount {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use crate::names::gvr;

    #[test]
    fn string_data_becomes_data() {
        let kind = kinds::by_gvr(&gvr::SECRETS).unwrap();
        let mut obj = json!({"metadata": {"name": "s", "namespace": "n"}, "stringData": {"a": "b"}});
        kind.default(&mut obj);
        assert_eq!((&obj["data"]["a"], &obj["type"]), (&json!("Yg=="), &json!("Opaque")));
        assert!(obj.get("stringData").is_none());
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
