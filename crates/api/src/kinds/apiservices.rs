//! Groups of the API that other servers serve.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::registry::{Decl, PLAIN};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

pub(super) const DECLS: &[Decl] = &[Decl {
    group: "apiregistration.k8s.io",
    resource: "apiservices",
    categories: &["api-extensions"],
    strategy: || Arc::new(ApiService),
    columns: Columns::Coded {
        columns: &[Column::name(), Column::text("Service"), Column::text("Available"), Column::text("Age")],
        cells: |o, now| {
            let service = &o["spec"]["service"];
            let service = if service.is_null() {
                "Local".to_owned()
            } else {
                format!("{}/{}", text(&service["namespace"]), text(&service["name"]))
            };
            let available = items(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Available");
            let word = match available {
                Some(c) if c["status"] == "True" => "True".to_owned(),
                Some(c) => format!("{} ({})", text(&c["status"]), text(&c["reason"])),
                None => "Unknown".to_owned(),
            };
            vec![name_cell(o), json!(service), json!(word), age_cell(o, now)]
        },
    },
    ..PLAIN
}];

struct ApiService;

impl Strategy for ApiService {
    fn default(&self, obj: &mut Value) {
        if let Some(service) =
            obj.get_mut("spec").and_then(|s| s.get_mut("service")).and_then(Value::as_object_mut)
        {
            set(service, "port", 443);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (spec, path) = (&obj["spec"], Path::new("spec"));
        let (group, version) = (text(&spec["group"]), text(&spec["version"]));
        let want = format!("{version}.{group}");
        if meta::name(obj) != want {
            let at = Path::new("metadata").child("name");
            let why = format!("must be `spec.version+\".\"+spec.group`: \"{want}\"");
            errors.invalid_str(&at, meta::name(obj), why);
        }
        if group.is_empty() && version != "v1" {
            let why = "only v1 may have an empty group and it better be legacy kube";
            errors.required(&path.child("group"), why);
        }
        if !group.is_empty() {
            each_why(&mut errors, &path.child("group"), &spec["group"], validate::dns_subdomain);
        }
        each_why(&mut errors, &path.child("version"), &spec["version"], validate::dns_1035_label);
        for (field, most) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
            if !(1..=most).contains(&int(&spec[field])) {
                let why = format!("must be positive and less than {most}");
                errors.invalid(&path.child(field), &json!(int(&spec[field])), why);
            }
        }
        let trust_all = path.child("insecureSkipTLSVerify");
        let trusts_all = spec["insecureSkipTLSVerify"] == true;
        if spec["service"].is_null() {
            if !empty(&spec["caBundle"]) {
                let why = "local APIServices may not have a caBundle";
                let bytes = decoded_len(text(&spec["caBundle"]));
                errors.invalid_str(&path.child("caBundle"), &format!("{bytes} bytes"), why);
            }
            if trusts_all {
                let why = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid(&trust_all, &json!(true), why);
            }
            return errors;
        }
        let (service, at) = (&spec["service"], path.child("service"));
        for field in ["namespace", "name"].into_iter().filter(|field| empty(&service[*field])) {
            errors.required(&at.child(field), "");
        }
        let wrong = validate::port_number(service["port"].as_i64().unwrap_or(443));
        if !wrong.is_empty() {
            let why = format!("port is not valid: {}", wrong.join(", "));
            errors.invalid(&at.child("port"), &service["port"], why);
        }
        if trusts_all && !empty(&spec["caBundle"]) {
            errors.invalid(&trust_all, &json!(true), "may not be true if caBundle is present");
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        for (i, condition) in items(&new["status"]["conditions"]).iter().enumerate() {
            let words = ["True", "False", "Unknown"];
            if !words.contains(&text(&condition["status"])) {
                let at = Path::new("status").child("conditions").index(i).child("status");
                errors.not_supported(&at, &json!(text(&condition["status"])), &words);
            }
        }
        errors
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }
}
