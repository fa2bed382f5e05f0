//! Roles, bindings, and the reviews of access.

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{meta, validate};

const ROLE: Decl = Decl { group: "rbac.authorization.k8s.io", strategy: || Arc::new(Role), ..PLAIN };
const BINDING: Decl = Decl {
    group: "rbac.authorization.k8s.io",
    strategy: || Arc::new(Binding),
    conversions: &[(
        "rbac.authorization.k8s.io",
        "v1alpha1",
        Conversion::Functions { to_storage: subjects_to_storage, from_storage: subjects_from_storage },
    )],
    columns: Columns::Coded {
        columns: &[
            Column::name(),
            Column::text("Role"),
            Column::text("Age"),
            Column::text("Users").wide(),
            Column::text("Groups").wide(),
            Column::text("ServiceAccounts").wide(),
        ],
        cells: |o, now| {
            let subjects = |kind: &str| {
                let of = items(&o["subjects"]).iter().filter(|s| s["kind"] == kind);
                let names: Vec<String> = of
                    .map(|s| match text(&s["namespace"]) {
                        "" => text(&s["name"]).to_owned(),
                        ns => format!("{ns}/{}", text(&s["name"])),
                    })
                    .collect();
                json!(names.join(", "))
            };
            let role = format!("{}/{}", text(&o["roleRef"]["kind"]), text(&o["roleRef"]["name"]));
            vec![
                name_cell(o),
                json!(role),
                age_cell(o, now),
                subjects("User"),
                subjects("Group"),
                subjects("ServiceAccount"),
            ]
        },
    },
    ..PLAIN
};

const RBAC: &str = "rbac.authorization.k8s.io";

/// Subjects of v1alpha1 have an apiVersion where later ones have a group.
fn subjects_to_storage(obj: &mut Value) {
    for subject in each(meta::as_map(obj), "subjects") {
        let version = subject.shift_remove("apiVersion").unwrap_or_default();
        let kind = subject.get("kind").map(text).unwrap_or_default();
        let group = match kind {
            "ServiceAccount" => "",
            "User" | "Group" => RBAC,
            _ => crate::names::split_api_version(text(&version)).0,
        };
        // Of old, a user of any name was all that are authenticated.
        if kind == "User" && subject.get("name").is_some_and(|n| n == "*") {
            subject.insert("kind".to_owned(), json!("Group"));
            subject.insert("name".to_owned(), json!("system:authenticated"));
        }
        if !group.is_empty() {
            subject.insert("apiGroup".to_owned(), json!(group));
        }
    }
}

fn subjects_from_storage(obj: &mut Value) {
    for subject in each(meta::as_map(obj), "subjects") {
        let group = subject.shift_remove("apiGroup").unwrap_or_default();
        let version = match (subject.get("kind").map(text).unwrap_or_default(), text(&group)) {
            ("ServiceAccount", "") => "v1".to_owned(),
            ("User" | "Group", RBAC) => format!("{RBAC}/v1alpha1"),
            (_, group) => format!("{group}/"),
        };
        subject.insert("apiVersion".to_owned(), json!(version));
    }
}

pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "authentication.k8s.io",
        resource: "selfsubjectreviews",
        // Asked for by `kubectl auth whoami` up to 1.27.
        older: &["v1beta1", "v1alpha1"],
        ..PLAIN
    },
    Decl { resource: "roles", ..ROLE },
    Decl { resource: "clusterroles", ..ROLE },
    Decl { resource: "rolebindings", ..BINDING },
    Decl { resource: "clusterrolebindings", ..BINDING },
    Decl {
        group: "authorization.k8s.io",
        resource: "subjectaccessreviews",
        conversions: &[("authorization.k8s.io", "v1beta1", REVIEW)],
        ..PLAIN
    },
    Decl {
        group: "authorization.k8s.io",
        resource: "localsubjectaccessreviews",
        conversions: &[("authorization.k8s.io", "v1beta1", REVIEW)],
        ..PLAIN
    },
];

/// v1beta1 calls `groups` `group`.
const REVIEW: Conversion = Conversion::Functions {
    to_storage: |o| rename(o, "group", "groups"),
    from_storage: |o| rename(o, "groups", "group"),
};

fn rename(obj: &mut Value, from: &str, to: &str) {
    let spec = meta::child(obj, "spec");
    if let Some(v) = spec.shift_remove(from) {
        spec.insert(to.to_owned(), v);
    }
}

struct Role;

impl Strategy for Role {
    fn default(&self, obj: &mut Value) {
        set(meta::as_map(obj), "rules", Value::Null);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let namespaced = !meta::namespace(obj).is_empty();
        for (i, rule) in items(&obj["rules"]).iter().enumerate() {
            check_rule(&mut errors, rule, &Path::new("rules").index(i), namespaced);
        }
        let aggregated = &obj["aggregationRule"];
        if aggregated.is_null() {
            return errors;
        }
        let (selectors, at) =
            (&aggregated["clusterRoleSelectors"], Path::new("aggregationRule").child("clusterRoleSelectors"));
        if empty(selectors) {
            let why = "at least one clusterRoleSelector required if aggregationRule is non-nil";
            errors.required(&at, why);
        }
        for (i, selector) in items(selectors).iter().enumerate() {
            check_selector(&mut errors, &at.index(i), selector);
        }
        errors
    }

    /// Values that no label can have may stay where some were.
    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        keeping_odd_values(self.validate(new), &self.validate(old))
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}

fn check_rule(errors: &mut ErrorList, rule: &Value, path: &Path, namespaced: bool) {
    if empty(&rule["verbs"]) {
        errors.required(&path.child("verbs"), "verbs must contain at least one value");
    }
    let (urls, at) = (&rule["nonResourceURLs"], path.child("nonResourceURLs"));
    if empty(urls) {
        for (field, what) in [("apiGroups", "api group"), ("resources", "resource")] {
            if empty(&rule[field]) {
                let why = format!("resource rules must supply at least one {what}");
                errors.required(&path.child(field), why);
            }
        }
        return;
    }
    if namespaced {
        errors.invalid(&at, urls, "namespaced rules cannot apply to non-resource URLs");
    }
    if ["apiGroups", "resources", "resourceNames"].iter().any(|field| !empty(&rule[*field])) {
        let why = "rules cannot apply to both regular resources and non-resource URLs";
        errors.invalid(&at, urls, why);
    }
}

struct Binding;

impl Strategy for Binding {
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        if let Some(role) = sub(map, "roleRef") {
            set_text(role, "apiGroup", RBAC);
        }
        for subject in each(map, "subjects") {
            if subject.get("kind").is_some_and(|k| k == "User" || k == "Group") {
                set_text(subject, "apiGroup", RBAC);
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (role, at) = (&obj["roleRef"], Path::new("roleRef"));
        if role["apiGroup"] != RBAC {
            errors.not_supported(&at.child("apiGroup"), &role["apiGroup"], &[RBAC]);
        }
        let namespaced = !meta::namespace(obj).is_empty();
        let kinds: &[&str] = if namespaced { &["Role", "ClusterRole"] } else { &["ClusterRole"] };
        if !kinds.contains(&text(&role["kind"])) {
            errors.not_supported(&at.child("kind"), &role["kind"], kinds);
        }
        if empty(&role["name"]) {
            errors.required(&at.child("name"), "");
        } else {
            each_why(&mut errors, &at.child("name"), &role["name"], segment);
        }
        for (i, subject) in items(&obj["subjects"]).iter().enumerate() {
            let at = Path::new("subjects").index(i);
            if text(&subject["name"]).is_empty() {
                errors.required(&at.child("name"), "");
            }
            match text(&subject["kind"]) {
                "ServiceAccount" => {
                    if !empty(&subject["name"]) {
                        let at = at.child("name");
                        each_why(&mut errors, &at, &subject["name"], validate::dns_subdomain);
                    }
                    if !text(&subject["apiGroup"]).is_empty() {
                        errors.not_supported(&at.child("apiGroup"), &subject["apiGroup"], &[""]);
                    }
                    // In a namespace it is that one.
                    if !namespaced && empty(&subject["namespace"]) {
                        errors.required(&at.child("namespace"), "");
                    }
                }
                "User" | "Group" => {
                    if subject["apiGroup"] != RBAC {
                        errors.not_supported(&at.child("apiGroup"), &subject["apiGroup"], &[RBAC]);
                    }
                }
                _ => errors.not_supported(
                    &at.child("kind"),
                    &subject["kind"],
                    &["ServiceAccount", "User", "Group"],
                ),
            }
        }
        errors
    }

    fn validate_update(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if new["roleRef"] != old["roleRef"] {
            errors.invalid(&Path::new("roleRef"), &new["roleRef"], "cannot change roleRef");
        }
        errors
    }

    fn check_name(&self, name: &str, prefix: bool) -> Vec<String> {
        validate::path_segment_name(name, prefix)
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }
}
