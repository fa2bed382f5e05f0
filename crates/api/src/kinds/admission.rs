//! Policies of admission, and what binds them to resources.

mod check;

use std::sync::Arc;

use serde_json::{Value, json};

use super::Strategy;
use super::common::*;
use super::registry::{Decl, PLAIN};
use crate::field::ErrorList;
use crate::meta;

const POLICY: Decl = Decl { group: "admissionregistration.k8s.io", categories: &["api-extensions"], ..PLAIN };
const POLICY_BINDING: Columns = Columns::Coded {
    columns: &[Column::name(), Column::text("PolicyName"), Column::text("ParamRef"), Column::text("Age")],
    cells: |o, now| {
        let param = &o["spec"]["paramRef"];
        let param = match (text(&param["namespace"]), text(&param["name"])) {
            (_, "") if param["selector"].is_null() => json!("<unset>"),
            (_, "") => selector_cell(&param["selector"]),
            // Whether it lives in a namespace at all cannot be told from here.
            ("", name) => json!(format!("*/{name}")),
            (namespace, name) => json!(format!("{namespace}/{name}")),
        };
        vec![name_cell(o), json!(text(&o["spec"]["policyName"])), param, age_cell(o, now)]
    },
};

fn policy_cells(o: &Value, rules: &str, now: Timestamp) -> Vec<Value> {
    let (spec, param) = (&o["spec"], &o["spec"]["paramKind"]);
    let param = if param.is_null() {
        "<unset>".to_owned()
    } else {
        format!("{}/{}", text(&param["apiVersion"]), text(&param["kind"]))
    };
    vec![name_cell(o), json!(items(&spec[rules]).len()), json!(param), age_cell(o, now)]
}

pub(super) const DECLS: &[Decl] = &[
    Decl {
        resource: "validatingadmissionpolicies",
        strategy: || Arc::new(AdmissionPolicy { binding: false, mutating: false }),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Validations"),
                Column::text("ParamKind"),
                Column::text("Age"),
            ],
            cells: |o, now| policy_cells(o, "validations", now),
        },
        ..POLICY
    },
    Decl {
        resource: "validatingadmissionpolicybindings",
        strategy: || Arc::new(AdmissionPolicy { binding: true, mutating: false }),
        columns: POLICY_BINDING,
        ..POLICY
    },
    Decl {
        resource: "mutatingadmissionpolicies",
        strategy: || Arc::new(AdmissionPolicy { binding: false, mutating: true }),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::int("Mutations"),
                Column::text("ParamKind"),
                Column::text("Age"),
            ],
            cells: |o, now| policy_cells(o, "mutations", now),
        },
        ..POLICY
    },
    Decl {
        resource: "mutatingadmissionpolicybindings",
        strategy: || Arc::new(AdmissionPolicy { binding: true, mutating: true }),
        columns: POLICY_BINDING,
        ..POLICY
    },
];

/// A policy, or what binds one.
struct AdmissionPolicy {
    binding: bool,
    mutating: bool,
}

impl Strategy for AdmissionPolicy {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        if !self.binding {
            set(spec, "failurePolicy", "Fail");
        }
        for field in ["matchConstraints", "matchResources"] {
            if let Some(matches) = sub(spec, field) {
                set(matches, "matchPolicy", "Equivalent");
                set(matches, "namespaceSelector", json!({}));
                set(matches, "objectSelector", json!({}));
                for list in ["resourceRules", "excludeResourceRules"] {
                    for rule in each(matches, list) {
                        set(rule, "scope", "*");
                    }
                }
            }
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if self.binding {
            check::binding(&mut errors, &obj["spec"], self.mutating);
        } else {
            check::policy(&mut errors, obj, &Value::Null, self.mutating);
        }
        errors
    }

    fn validate_changed(&self, new: &Value, old: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        if self.binding {
            check::binding(&mut errors, &new["spec"], self.mutating);
        } else {
            check::policy(&mut errors, new, old, self.mutating);
        }
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::status(&mut errors, &new["status"]);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }

    fn allow_unconditional_update(&self) -> bool {
        false
    }

    fn warnings(&self, _: &Value) -> Vec<String> {
        vec!["stored, but this server does not enforce it yet".to_owned()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_makes_an_admission_policy_is_told_that_nothing_enforces_it() {
        let mut seen = 0;
        for kind in crate::kinds::all().iter().filter(|k| k.plural.contains("admissionpolic")) {
            let told = kind.warnings(&json!({}), None);
            assert_eq!(told, ["stored, but this server does not enforce it yet"], "{kind:?}");
            seen += 1;
        }
        assert_eq!(seen, 4);
    }
}
