//! Events. One kind, served as core/v1 and, in another shape, as events.k8s.io.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::meta;

const CONVERSION: Conversion = Conversion::Functions { to_storage, from_storage };

pub(super) const DECLS: &[Decl] = &[Decl {
    resource: "events",
    short: &["ev"],
    also: &["events.k8s.io"],
    conversions: &[("events.k8s.io", "v1", CONVERSION), ("events.k8s.io", "v1beta1", CONVERSION)],
    strategy: || Arc::new(Event),
    columns: Columns::Coded {
        columns: &[
            Column::text("Last Seen"),
            Column::text("Type"),
            Column::text("Reason"),
            Column::text("Object"),
            Column::text("Subobject").wide(),
            Column::text("Source").wide(),
            Column::text("Message"),
            Column::text("First Seen").wide(),
            Column::text("Count").wide(),
            Column { name: "Name", kind: "string", format: "name", description: "", priority: 1 },
        ],
        cells,
    },
    ..PLAIN
}];

fn cells(o: &Value, now: Timestamp) -> Vec<Value> {
    let first = if o["firstTimestamp"].is_null() { &o["eventTime"] } else { &o["firstTimestamp"] };
    let series = &o["series"];
    let (last, count) = if !series.is_null() {
        (&series["lastObservedTime"], int(&series["count"]))
    } else if o["lastTimestamp"].is_null() {
        (first, int(&o["count"]).max(1))
    } else {
        (&o["lastTimestamp"], int(&o["count"]).max(1))
    };
    let object = &o["involvedObject"];
    let kind = text(&object["kind"]).to_lowercase();
    let name = text(&object["name"]);
    let target = if kind.is_empty() { name.to_owned() } else { format!("{kind}/{name}") };
    let source = if o["source"]["component"].is_null() {
        text(&o["reportingComponent"])
    } else {
        text(&o["source"]["component"])
    };
    let host = text(&o["source"]["host"]);
    let source = if host.is_empty() { source.to_owned() } else { format!("{source}, {host}") };
    vec![
        json!(since(last, now)),
        json!(text(&o["type"])),
        json!(text(&o["reason"])),
        json!(target),
        json!(text(&object["fieldPath"])),
        json!(source),
        json!(text(&o["message"]).trim()),
        json!(since(first, now)),
        json!(count),
        name_cell(o),
    ]
}

/// Fields that are called differently: core/v1, events.k8s.io.
const NAMES: [(&str, &str); 7] = [
    ("message", "note"),
    ("involvedObject", "regarding"),
    ("source", "deprecatedSource"),
    ("firstTimestamp", "deprecatedFirstTimestamp"),
    ("lastTimestamp", "deprecatedLastTimestamp"),
    ("count", "deprecatedCount"),
    ("reportingComponent", "reportingController"),
];

fn rename(obj: &mut Value, from: &str, to: &str) {
    let map = meta::as_map(obj);
    if let Some(v) = map.shift_remove(from) {
        map.insert(to.to_owned(), v);
    }
}

fn to_storage(obj: &mut Value) {
    for (core, other) in NAMES {
        rename(obj, other, core);
    }
}

fn from_storage(obj: &mut Value) {
    for (core, other) in NAMES {
        rename(obj, core, other);
    }
}

/// Selectable fields as events.k8s.io calls them, and as they are stored.
const ALIASES: &[(&str, &str)] = &[
    ("regarding.kind", "involvedObject.kind"),
    ("regarding.namespace", "involvedObject.namespace"),
    ("regarding.name", "involvedObject.name"),
    ("regarding.uid", "involvedObject.uid"),
    ("regarding.apiVersion", "involvedObject.apiVersion"),
    ("regarding.resourceVersion", "involvedObject.resourceVersion"),
    ("regarding.fieldPath", "involvedObject.fieldPath"),
    ("reportingController", "reportingComponent"),
];

const FIELDS: &[Cow<'static, str>] = &[
    Cow::Borrowed("involvedObject.kind"),
    Cow::Borrowed("involvedObject.namespace"),
    Cow::Borrowed("involvedObject.name"),
    Cow::Borrowed("involvedObject.uid"),
    Cow::Borrowed("involvedObject.apiVersion"),
    Cow::Borrowed("involvedObject.resourceVersion"),
    Cow::Borrowed("involvedObject.fieldPath"),
    Cow::Borrowed("reason"),
    Cow::Borrowed("reportingComponent"),
    Cow::Borrowed("source"),
    Cow::Borrowed("type"),
];

struct Event;

impl Strategy for Event {
    /// Fields that are never left out.
    fn default(&self, obj: &mut Value) {
        let map = meta::as_map(obj);
        set(map, "source", json!({}));
        for field in ["firstTimestamp", "lastTimestamp", "eventTime"] {
            set(map, field, Value::Null);
        }
        for field in ["reportingComponent", "reportingInstance"] {
            set(map, field, "");
        }
    }

    fn validate(&self, obj: &Value) -> ErrorList {
        let mut errors = ErrorList::new();
        let (own, other) = (meta::namespace(obj), text(&obj["involvedObject"]["namespace"]));
        let fits = if other.is_empty() {
            own.is_empty() || own == "default" || own == "kube-system"
        } else {
            own == other
        };
        if !fits {
            let at = Path::new("involvedObject").child("namespace");
            errors.invalid(&at, &obj["involvedObject"]["namespace"], "does not match event.namespace");
        }
        errors
    }

    fn allow_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self) -> &[Cow<'static, str>] {
        FIELDS
    }

    fn field_alias(&self, field: &str) -> Option<&'static str> {
        ALIASES.iter().find(|(alias, _)| *alias == field).map(|(_, stored)| *stored)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_hold_the_same() {
        let core = json!({"message": "m", "involvedObject": {"kind": "Pod"}, "count": 2, "reason": "R", "reportingComponent": "c"});
        let mut other = core.clone();
        from_storage(&mut other);
        assert_eq!(
            other,
            json!({"note": "m", "regarding": {"kind": "Pod"}, "deprecatedCount": 2, "reason": "R", "reportingController": "c"})
        );
        to_storage(&mut other);
        assert_eq!(other, core);
    }

    #[test]
    fn fields_are_selected_by_either_name() {
        let kind = crate::kinds::by_gvr(&crate::names::gvr::EVENTS).unwrap();
        let event = json!({"involvedObject": {"kind": "Pod", "name": "p"}, "reportingComponent": "c"});
        for (text, want) in [
            ("involvedObject.name=p", true),
            ("regarding.name=p,regarding.kind!=Node", true),
            ("regarding.name=q", false),
            ("source=c", true),
            ("reportingController=d", false),
        ] {
            assert_eq!(kind.field_selector(text).unwrap().matches(&event), want, "{text}");
        }
        assert!(kind.field_selector("involvedObject.nothing=x").is_err());
    }
}
