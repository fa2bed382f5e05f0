//! What a definition's status says.

use api::Value;
use api::kinds::Approval;
use api::kinds::crd::Structural;
use api::meta::{items, text};
use serde_json::json;

use super::names::{Names, accept};
use super::unreadable_bundle;

pub(super) fn condition<'a>(crd: &'a Value, kind: &str) -> Option<&'a Value> {
    items(crd, "/status/conditions").find(|c| text(c, "/type") == kind)
}

pub(super) fn is_true(crd: &Value, kind: &str) -> bool {
    condition(crd, kind).is_some_and(|c| text(c, "/status") == "True")
}

pub(super) fn set_condition(crd: &mut Value, kind: &str, status: &str, reason: &str, message: &str) {
    let now = api::meta::time(base::clock::now());
    let conditions = api::meta::child(crd, "status").entry("conditions").or_insert(Value::Null);
    if conditions.is_null() {
        *conditions = json!([]);
    }
    if let Some(list) = conditions.as_array_mut() {
        api::meta::set_condition(list, kind, status, reason, message, &now);
    }
}

fn remove_condition(crd: &mut Value, kind: &str) {
    if condition(crd, kind).is_some()
        && let Some(list) = crd.pointer_mut("/status/conditions").and_then(Value::as_array_mut)
    {
        list.retain(|c| text(c, "/type") != kind);
    }
}

/// Why the schemas of a definition are not structural: those of old definitions, which keep what they do not name, need not
/// be.
pub(super) fn structure(crd: &Value) -> Option<String> {
    let mut errors = api::ErrorList::new();
    if crd.pointer("/spec/preserveUnknownFields") == Some(&json!(true)) {
        let path = api::Path::new("spec").child("preserveUnknownFields");
        errors.invalid(&path, &json!(true), "must be false");
    }
    for (i, version) in items(crd, "/spec/versions").enumerate() {
        let path = api::Path::new("spec").child("versions").index(i).child("schema").child("openAPIV3Schema");
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            errors.append(Structural::violations(schema, &path));
        }
    }
    (!errors.is_empty()).then(|| errors.message())
}

/// Whether it has to be asked what [`structure`] says, which costs as much as compiling all schemas. Those that were taken as
/// structural are: what need not be, is told not to be, or may have been one of these when nobody had looked yet is asked.
pub(super) fn may_be_loose(crd: &Value) -> bool {
    crd.pointer("/spec/preserveUnknownFields") == Some(&json!(true))
        || condition(crd, "NonStructuralSchema").is_some()
        || api::meta::generation(crd) > 1 && !is_true(crd, "Established")
}

/// The definition as its status should be, or nothing if it is. `structure` is why its schemas are not structural.
pub(super) fn decide(crd: &Value, others: &Names, structure: Option<String>) -> Option<Value> {
    let mut new = crd.clone();
    let (names, conflict) = accept(crd, others);
    api::meta::child(&mut new, "status").insert("acceptedNames".into(), names);
    match conflict {
        None => {
            set_condition(&mut new, "NamesAccepted", "True", "NoConflicts", "no conflicts found");
            let unreadable = unreadable_bundle(crd).filter(|_| !is_true(crd, "Established"));
            let (status, reason, message) = match &unreadable {
                None => ("True", "InitialNamesAccepted", "the initial names have been accepted"),
                Some(why) => ("False", "InvalidCABundle", why.as_str()),
            };
            set_condition(&mut new, "Established", status, reason, message);
        }
        Some((reason, message)) => {
            set_condition(&mut new, "NamesAccepted", "False", reason, &message);
            if !is_true(crd, "Established") {
                set_condition(&mut new, "Established", "False", "NotAccepted", "not all names are accepted");
            }
        }
    }
    let policy = "KubernetesAPIApprovalPolicyConformant";
    match Approval::of(crd) {
        None => remove_condition(&mut new, policy),
        Some((approval, message)) => {
            let (status, reason) = match approval {
                Approval::Approved => ("True", "ApprovedAnnotation"),
                Approval::Bypassed => ("False", "UnapprovedAnnotation"),
                Approval::Missing => ("False", "MissingAnnotation"),
                Approval::Invalid => ("False", "InvalidAnnotation"),
            };
            set_condition(&mut new, policy, status, reason, &message);
        }
    }
    match structure {
        None => remove_condition(&mut new, "NonStructuralSchema"),
        Some(why) => set_condition(&mut new, "NonStructuralSchema", "True", "Violations", &why),
    }
    let storage: Vec<Value> = items(crd, "/spec/versions")
        .filter(|v| v.get("storage") == Some(&json!(true)))
        .map(|v| v["name"].clone())
        .collect();
    let stored = api::meta::child(&mut new, "status").entry("storedVersions").or_insert_with(|| json!([]));
    if let Some(stored) = stored.as_array_mut() {
        for v in storage {
            if !stored.contains(&v) {
                stored.push(v);
            }
        }
    }
    (&new != crd).then_some(new)
}

#[cfg(test)]
mod tests {
    use super::super::check_bundle;
    use super::super::kind::kind_of;
    use super::*;

    fn decided(crd: &Value, others: &[Value]) -> Option<Value> {
        let mut names = Names::default();
        for other in others {
            names.note(&api::meta::name(other).into(), other);
        }
        decide(crd, &names, structure(crd))
    }

    fn crd() -> Value {
        json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": "foos.example.com", "uid": "u", "generation": 1},
            "spec": {"group": "example.com", "scope": "Namespaced",
                "names": {"plural": "foos", "kind": "Foo", "shortNames": ["fo"]},
                "versions": [
                    {"name": "v1", "served": true, "storage": true, "subresources": {"status": {},
                        "scale": {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
                        "additionalPrinterColumns": [{"name": "Size", "type": "integer", "jsonPath": ".spec.size"}]},
                    {"name": "v1beta1", "served": false, "storage": false}]}})
    }

    #[test]
    fn names_are_accepted_once() {
        let accepted = decided(&crd(), &[]).unwrap();
        assert!(is_true(&accepted, "Established") && is_true(&accepted, "NamesAccepted"));
        assert_eq!(accepted["status"]["storedVersions"], json!(["v1"]));
        assert!(decided(&accepted, &[]).is_none(), "nothing more to do");
        let mut second = crd();
        second["metadata"]["name"] = json!("bars.example.com");
        second["spec"]["names"]["plural"] = json!("bars");
        let refused = decided(&second, std::slice::from_ref(&accepted)).unwrap();
        assert!(!is_true(&refused, "Established"));
        assert_eq!(text(condition(&refused, "NamesAccepted").unwrap(), "/reason"), "KindConflict");
        assert_eq!(refused["status"]["acceptedNames"], json!({"plural": "bars", "kind": ""}));
        // Each of its names has to be free, and what has been accepted stays.
        let first = [accepted.clone()];
        for (names, reason) in [
            (json!({"plural": "foos", "kind": "Bar"}), "PluralConflict"),
            (json!({"plural": "bars", "kind": "Bar", "singular": "fo"}), "SingularConflict"),
            (json!({"plural": "bars", "kind": "Bar", "shortNames": ["b", "foos"]}), "ShortNamesConflict"),
            (json!({"plural": "fo", "kind": "Bar"}), "PluralConflict"),
            (json!({"plural": "bars", "kind": "Bar", "listKind": "Foo"}), "ListKindConflict"),
        ] {
            second["spec"]["names"] = names.clone();
            let refused = decided(&second, &first).unwrap();
            let why = condition(&refused, "NamesAccepted").unwrap();
            assert_eq!((text(why, "/status"), text(why, "/reason")), ("False", reason), "{names}");
        }
        // Another name that is taken is told in its turn, and is no new refusal.
        second["spec"]["names"] = json!({"plural": "bars", "kind": "Bar", "shortNames": ["fo"]});
        let mut refused = decided(&second, &first).unwrap();
        let long_ago = json!("2020-01-01T00:00:00Z");
        for condition in refused["status"]["conditions"].as_array_mut().unwrap() {
            condition["lastTransitionTime"] = long_ago.clone();
        }
        refused["spec"]["names"]["shortNames"] = json!(["foos"]);
        let again = decided(&refused, &first).unwrap();
        let why = condition(&again, "NamesAccepted").unwrap();
        assert_eq!(text(why, "/message"), "\"foos\" is already in use");
        assert_eq!(why["lastTransitionTime"], long_ago);
        second["spec"]["names"] = json!({"plural": "bars", "kind": "Bar"});
        assert!(is_true(&decided(&second, &first).unwrap(), "Established"));
        let mut grown = accepted;
        grown["spec"]["names"]["shortNames"] = json!(["fo", "ba"]);
        second["status"] = json!({"acceptedNames": {"plural": "bars", "kind": "Bar", "shortNames": ["ba"]}});
        let refused = decided(&grown, &[second]).unwrap();
        assert!(is_true(&refused, "Established") && !is_true(&refused, "NamesAccepted"));
        assert_eq!(refused["status"]["acceptedNames"]["shortNames"], json!(["fo"]));
    }

    #[test]
    fn whether_the_community_approved_is_told() {
        let mut own = crd();
        own["spec"]["group"] = json!("x.k8s.io");
        own["metadata"]["annotations"] = json!({"api-approved.kubernetes.io": "unapproved, an experiment"});
        let told = decided(&own, &[]).unwrap();
        let policy = condition(&told, "KubernetesAPIApprovalPolicyConformant").unwrap();
        assert_eq!((text(policy, "/status"), text(policy, "/reason")), ("False", "UnapprovedAnnotation"));
        assert!(decided(&told, &[]).is_none(), "nothing more to do");
        assert!(condition(&decided(&crd(), &[]).unwrap(), "KubernetesAPIApprovalPolicyConformant").is_none());
    }

    #[test]
    fn who_could_not_convert_is_not_served() {
        let mut broken = crd();
        broken["spec"]["conversion"] = json!({"strategy": "Webhook", "webhook": {"clientConfig": {
            "url": "https://a", "caBundle": "Cg=="}, "conversionReviewVersions": ["v1"]}});
        let told = decided(&broken, &[]).unwrap();
        let established = condition(&told, "Established").unwrap();
        assert_eq!(
            (text(established, "/status"), text(established, "/reason")),
            ("False", "InvalidCABundle")
        );
        assert!(decided(&told, &[]).is_none(), "nothing more to do");
        assert!(!check_bundle(&broken, &crd()).is_empty());
        assert!(check_bundle(&broken, &broken).is_empty() && check_bundle(&crd(), &broken).is_empty());
        // What is served goes on being served.
        let mut served = decided(&crd(), &[]).unwrap();
        served["spec"] = broken["spec"].clone();
        assert!(decided(&served, &[]).is_none_or(|told| is_true(&told, "Established")));
        let mut mended = told;
        mended["spec"] = crd()["spec"].clone();
        assert!(is_true(&decided(&mended, &[]).unwrap(), "Established"));
    }

    #[test]
    fn schemas_that_are_not_structural_are_told() {
        let schema = |inner: Value| {
            let mut crd = crd();
            crd["spec"]["versions"][0]["schema"] = json!({"openAPIV3Schema": {"type": "object",
                "x-kubernetes-preserve-unknown-fields": true, "properties": {"spec": inner}}});
            decided(&crd, &[]).unwrap()
        };
        let loose = schema(json!({"properties": {"a": {"type": "string"}}}));
        let told = condition(&loose, "NonStructuralSchema").unwrap();
        assert_eq!((text(told, "/status"), text(told, "/reason")), ("True", "Violations"));
        assert_eq!(
            text(told, "/message"),
            "spec.versions[0].schema.openAPIV3Schema.properties[spec].type: Required value: must not be empty for specified object fields"
        );
        let mut old = crd();
        old["spec"]["preserveUnknownFields"] = json!(true);
        let told = decided(&old, &[]).unwrap();
        assert_eq!(
            text(condition(&told, "NonStructuralSchema").unwrap(), "/message"),
            "spec.preserveUnknownFields: Invalid value: true: must be false"
        );
        let strict = schema(json!({"type": "object"}));
        assert!(condition(&strict, "NonStructuralSchema").is_none());
        let mut mended = loose;
        mended["spec"] = strict["spec"].clone();
        assert!(condition(&decided(&mended, &[]).unwrap(), "NonStructuralSchema").is_none());
    }

    #[test]
    fn a_kind_is_made() {
        let mut value = crd();
        let definitions = api::kinds::by_gvr(&api::names::gvr::CUSTOM_RESOURCE_DEFINITIONS).unwrap();
        definitions.default(&mut value);
        definitions.prepare_create(&mut value);
        assert_eq!(value["spec"]["names"]["listKind"], "FooList");
        assert_eq!(value["status"]["storedVersions"], json!(["v1"]));
        assert!(api::meta::finalizers(&value).next().is_none(), "nothing holds it until it is deleted");
        let kind = kind_of(&value, &api::object::encode(&value).into()).unwrap();
        assert_eq!((kind.singular.as_str(), kind.version.as_str(), kind.versions.len()), ("foo", "v1", 2));
        assert!(kind.has_subresource("scale") && kind.has_subresource("status"));
        assert!(!kind.versions[1].served);
    }
}
