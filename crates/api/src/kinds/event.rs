//! Events. One kind, served as core/v1 and, in another shape, as events.k8s.io.

use std::borrow::Cow;
use std::sync::Arc;

use serde_json::{Value, json};

use super::common::*;
use super::registry::{Decl, PLAIN};
use super::{Conversion, Strategy};
use crate::field::{ErrorList, Path};
use crate::{Release, meta, validate};

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

/// What is asked of every event. One with an `eventTime` is told in the new way, whatever the version.
fn check_always(errors: &mut ErrorList, api_version: &str, obj: &Value) {
    let (own, other) = (meta::namespace(obj), text(&obj["involvedObject"]["namespace"]));
    let new = !obj["eventTime"].is_null();
    let fits = match (other.is_empty(), new) {
        (true, true) => own == "default" || own == "kube-system",
        (true, false) => own.is_empty() || own == "default",
        (false, true) => true,
        (false, false) => own == other,
    };
    if !fits {
        let at = Path::new("involvedObject").child("namespace");
        errors.invalid_str(&at, other, "does not match event.namespace");
    }
    if !new {
        return;
    }
    let controller = if api_version == "v1" { "reportingComponent" } else { "reportingController" };
    let reporter = &obj["reportingComponent"];
    if empty(reporter) {
        errors.required(&Path::new(controller), "");
    }
    for why in validate::qualified_name(text(reporter)) {
        errors.invalid_str(&Path::new(controller), text(reporter), why);
    }
    for (field, limit) in [("reportingInstance", 128), ("action", 128), ("reason", 128), ("message", 1024)] {
        let at = Path::new(field);
        if empty(&obj[field]) && field != "message" {
            errors.required(&at, "");
        }
        if text(&obj[field]).len() > limit {
            errors.invalid_str(&at, "", format!("can have at most {limit} characters"));
        }
    }
}

fn check_series(errors: &mut ErrorList, series: &Value) {
    if series.is_null() {
        return;
    }
    let at = Path::new("series");
    if int(&series["count"]) < 2 {
        errors.invalid_str(&at.child("count"), "", "should be at least 2");
    }
    if series["lastObservedTime"].is_null() {
        errors.required(&at.child("lastObservedTime"), "");
    }
}

fn check_new(errors: &mut ErrorList, obj: &Value) {
    check_series(errors, &obj["series"]);
    if obj["eventTime"].is_null() {
        errors.required(&Path::new("eventTime"), "");
    }
    let kind = text(&obj["type"]);
    if !matches!(kind, "Normal" | "Warning") {
        errors.invalid_str(&Path::new("type"), "", format!("has invalid value: {kind}"));
    }
    let source = ["component", "host"].iter().any(|f| !empty(&obj["source"][*f]));
    for (field, given) in [
        ("firstTimestamp", !obj["firstTimestamp"].is_null()),
        ("lastTimestamp", !obj["lastTimestamp"].is_null()),
        ("count", int(&obj["count"]) != 0),
        ("source", source),
    ] {
        if given {
            errors.invalid_str(&Path::new(field), "", "needs to be unset");
        }
    }
}

fn check_changed(errors: &mut ErrorList, new: &Value, old: &Value) {
    if new["series"] != old["series"] {
        check_series(errors, &new["series"]);
    }
    for field in [
        "involvedObject",
        "reason",
        "message",
        "source",
        "firstTimestamp",
        "lastTimestamp",
        "count",
        "type",
        "action",
        "related",
        "reportingInstance",
    ] {
        immutable(errors, &Path::new(field), &new[field], &old[field]);
    }
    let reporter = "reportingComponent";
    immutable(errors, &Path::new("reportingController"), &new[reporter], &old[reporter]);
    // Clients differ in how they round what is finer than a microsecond.
    let micros = |o: &Value| text(&o["eventTime"]).parse::<Timestamp>().ok().map(Timestamp::as_microsecond);
    if micros(new) != micros(old) {
        immutable(errors, &Path::new("eventTime"), &new["eventTime"], &old["eventTime"]);
    }
}

struct Event;

impl Strategy for Event {
    fn is_collected(&self) -> bool {
        false
    }

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

    /// Older ways to tell of an event are taken as they are; events.k8s.io/v1 asks for all of it, and lets only the series change.
    fn validate_sent(
        &self,
        api_version: &str,
        release: Release,
        new: &Value,
        old: Option<&Value>,
    ) -> ErrorList {
        let mut errors = ErrorList::new();
        check_always(&mut errors, api_version, new);
        match old {
            _ if api_version != "events.k8s.io/v1" => {}
            None => check_new(&mut errors, new),
            Some(old) if release >= Release::EVENTS_STAY => check_changed(&mut errors, new, old),
            Some(_) => {}
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

    fn problems(api_version: &str, new: &Value, old: Option<&Value>) -> String {
        let kind = crate::kinds::by_gvr(&crate::names::gvr::EVENTS).unwrap();
        let (group, version) = crate::names::split_api_version(api_version);
        let mut new = new.clone();
        kind.default(&mut new);
        kind.validate_sent(kind.served(group, version).unwrap(), Release::current(), &new, old).message()
    }

    #[test]
    fn what_is_told_stays_since_some_release() {
        let event = |note: &str| {
            json!({"metadata": {"name": "e", "namespace": "n"}, "eventTime": "2024-01-02T03:04:05Z", "type": "Normal",
                "involvedObject": {"namespace": "n"}, "reportingComponent": "c", "reportingInstance": "i", "action": "a",
                "reason": "R", "message": note})
        };
        let kind = crate::kinds::by_gvr(&crate::names::gvr::EVENTS).unwrap();
        let sent = kind.served("events.k8s.io", "v1").unwrap();
        let judge = |release| kind.validate_sent(sent, release, &event("new"), Some(&event("old"))).message();
        assert_eq!(judge(Release::OLDEST), "[]");
        assert_eq!(judge(Release::current()), "message: Invalid value: \"new\": field is immutable");
    }

    #[test]
    fn the_new_way_to_tell_of_an_event_is_strict() {
        let good = json!({"metadata": {"name": "e", "namespace": "n"}, "eventTime": "2024-01-02T03:04:05.000006Z",
            "involvedObject": {"kind": "Pod", "name": "p", "namespace": "n"}, "reportingComponent": "example.com/c",
            "reportingInstance": "c-1", "action": "Start", "reason": "Started", "message": "m", "type": "Normal"});
        for api_version in ["v1", "events.k8s.io/v1", "events.k8s.io/v1beta1"] {
            assert_eq!(problems(api_version, &good, None), "[]", "{api_version}");
        }
        let with = |edit: Value| {
            let mut event = good.clone();
            meta::as_map(&mut event).extend(edit.as_object().cloned().unwrap());
            event
        };
        let old_way = json!({"metadata": {"name": "e", "namespace": "n"}, "involvedObject": {"namespace": "n"},
            "source": {"component": "c"}, "firstTimestamp": "2024-01-02T03:04:05Z", "count": 1, "type": "Odd"});
        for api_version in ["v1", "events.k8s.io/v1beta1"] {
            assert_eq!(problems(api_version, &old_way, None), "[]", "{api_version}");
        }
        assert_eq!(
            problems("events.k8s.io/v1", &old_way, None),
            "[eventTime: Required value, type: Invalid value: \"\": has invalid value: Odd, firstTimestamp: Invalid value: \"\": needs to be unset, count: Invalid value: \"\": needs to be unset, source: Invalid value: \"\": needs to be unset]"
        );
        for (api_version, edit, why) in [
            ("v1", json!({"action": ""}), "action: Required value"),
            (
                "v1",
                json!({"reportingInstance": "x".repeat(129)}),
                "reportingInstance: Invalid value: \"\": can have at most 128 characters",
            ),
            (
                "events.k8s.io/v1",
                json!({"message": "x".repeat(1025)}),
                "message: Invalid value: \"\": can have at most 1024 characters",
            ),
            (
                "events.k8s.io/v1",
                json!({"series": {"count": 1}}),
                "[series.count: Invalid value: \"\": should be at least 2, series.lastObservedTime: Required value]",
            ),
            (
                "v1",
                json!({"involvedObject": {"kind": "Node"}}),
                "involvedObject.namespace: Invalid value: \"\": does not match event.namespace",
            ),
        ] {
            assert_eq!(problems(api_version, &with(edit), None), why);
        }
        for (api_version, name) in [("v1", "reportingComponent"), ("events.k8s.io/v1", "reportingController")]
        {
            let told = problems(api_version, &with(json!({"reportingComponent": ""})), None);
            assert!(told.starts_with(&format!("[{name}: Required value, {name}: Invalid value")), "{told}");
        }
    }

    #[test]
    fn only_the_series_of_an_event_changes() {
        let mut old = json!({"metadata": {"name": "e", "namespace": "default"}, "eventTime": "2024-01-02T03:04:05.000006Z",
            "reportingComponent": "c", "reportingInstance": "c-1", "action": "a", "reason": "r", "type": "Normal"});
        crate::kinds::by_gvr(&crate::names::gvr::EVENTS).unwrap().default(&mut old);
        for (edit, why) in [
            (json!({"series": {"count": 2, "lastObservedTime": "2024-01-02T03:05:05.000006Z"}}), "[]"),
            (json!({"eventTime": "2024-01-02T03:04:05.000006789Z"}), "[]"),
            (
                json!({"eventTime": "2024-01-02T03:04:06.000006Z"}),
                "eventTime: Invalid value: \"2024-01-02T03:04:06.000006Z\": field is immutable",
            ),
            (json!({"reason": "other"}), "reason: Invalid value: \"other\": field is immutable"),
            (
                json!({"reportingComponent": "d"}),
                "reportingController: Invalid value: \"d\": field is immutable",
            ),
        ] {
            let mut new = old.clone();
            meta::as_map(&mut new).extend(edit.as_object().cloned().unwrap());
            assert_eq!(problems("events.k8s.io/v1", &new, Some(&old)), why);
            assert_eq!(problems("v1", &new, Some(&old)), "[]");
        }
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
