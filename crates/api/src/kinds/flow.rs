//! Flow schemas and priority levels, with their older shapes.

mod check;

use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::ErrorList;
use crate::meta;

const LEVEL: Conversion = Conversion::Functions {
    to_storage: |o| shares(o, "assuredConcurrencyShares", "nominalConcurrencyShares"),
    from_storage: |o| shares(o, "nominalConcurrencyShares", "assuredConcurrencyShares"),
};
pub(super) const DECLS: &[Decl] = &[
    Decl {
        group: "flowcontrol.apiserver.k8s.io",
        resource: "flowschemas",
        strategy: || Arc::new(FlowSchema),
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("PriorityLevel"),
                Column::int("MatchingPrecedence"),
                Column::text("DistinguisherMethod"),
                Column::text("Age"),
                Column::text("MissingPL"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                let dangling = items(&o["status"]["conditions"]).iter().find(|c| c["type"] == "Dangling");
                vec![
                    name_cell(o),
                    json!(text(&spec["priorityLevelConfiguration"]["name"])),
                    json!(int(&spec["matchingPrecedence"])),
                    or_none(text(&spec["distinguisherMethod"]["type"])),
                    age_cell(o, now),
                    json!(dangling.map(|c| text(&c["status"])).unwrap_or("?")),
                ]
            },
        },
        ..PLAIN
    },
    Decl {
        group: "flowcontrol.apiserver.k8s.io",
        resource: "prioritylevelconfigurations",
        strategy: || Arc::new(PriorityLevel),
        conversions: &[
            ("flowcontrol.apiserver.k8s.io", "v1alpha1", LEVEL),
            ("flowcontrol.apiserver.k8s.io", "v1beta1", LEVEL),
        ],
        columns: Columns::Coded {
            columns: &[
                Column::name(),
                Column::text("Type"),
                Column::text("NominalConcurrencyShares"),
                Column::text("Queues"),
                Column::text("HandSize"),
                Column::text("QueueLengthLimit"),
                Column::text("Age"),
            ],
            cells: |o, now| {
                let spec = &o["spec"];
                let limited = &spec["limited"];
                let queuing = &limited["limitResponse"]["queuing"];
                let show = |v: &Value| if v.is_null() { json!("<none>") } else { json!(v.to_string()) };
                vec![
                    name_cell(o),
                    json!(text(&spec["type"])),
                    show(&limited["nominalConcurrencyShares"]),
                    show(&queuing["queues"]),
                    show(&queuing["handSize"]),
                    show(&queuing["queueLengthLimit"]),
                    age_cell(o, now),
                ]
            },
        },
        ..PLAIN
    },
];

/// Older priority levels call their shares otherwise.
fn shares(obj: &mut Value, from: &str, to: &str) {
    if let Some(limited) = sub(meta::child(obj, "spec"), "limited")
        && let Some(v) = limited.shift_remove(from)
    {
        limited.insert(to.to_owned(), v);
    }
}

/// As [`set`]; zero counts as absent.
fn set_number(map: &mut crate::Map, key: &str, value: i64) {
    if map.get(key).map_or(0, int) == 0 {
        map.insert(key.to_owned(), json!(value));
    }
}

struct FlowSchema;

impl Strategy for FlowSchema {
    fn default(&self, obj: &mut Value) {
        set_number(meta::child(obj, "spec"), "matchingPrecedence", 1000);
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::schema(&mut errors, obj);
        check::conditions(&mut errors, obj);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::conditions(&mut errors, new);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

struct PriorityLevel;

impl Strategy for PriorityLevel {
    fn default(&self, obj: &mut Value) {
        let spec = meta::child(obj, "spec");
        if let Some(limited) = sub(spec, "limited") {
            set(limited, "nominalConcurrencyShares", 30);
            set(limited, "lendablePercent", 0);
            if let Some(queuing) = sub(limited, "limitResponse").and_then(|r| sub(r, "queuing")) {
                for (key, value) in [("queues", 64), ("handSize", 8), ("queueLengthLimit", 50)] {
                    set_number(queuing, key, value);
                }
            }
        }
        if let Some(exempt) = sub(spec, "exempt") {
            set(exempt, "nominalConcurrencyShares", 0);
            set(exempt, "lendablePercent", 0);
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::level(&mut errors, obj);
        check::conditions(&mut errors, obj);
        errors
    }

    fn validate_status(&self, new: &Value, _: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        check::conditions(&mut errors, new);
        errors
    }

    fn has_generation(&self) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn older_shapes_hold_the_same() {
        let mut level = json!({"spec": {"limited": {"assuredConcurrencyShares": 5}}});
        shares(&mut level, "assuredConcurrencyShares", "nominalConcurrencyShares");
        assert_eq!(level["spec"]["limited"], json!({"nominalConcurrencyShares": 5}));
    }
}
