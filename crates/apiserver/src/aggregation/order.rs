//! The order of discovery: what clients take first where several groups have a resource of one name, or a group several
//! versions of it. APIServices say it by their priorities.

use std::cmp::Reverse;
use std::collections::HashMap;

use api::Value;
use api::discovery::priority;
use api::kinds::version_rank;
use api::meta::text;

use super::{GROUP, PLURAL};
use crate::ApiServer;

/// What APIServices say of groups and versions: the group's priority and the version's, where these are not what they are
/// without.
#[derive(Default, Debug, PartialEq, Eq)]
pub(crate) struct Priorities(HashMap<(String, String), (i64, i64)>);

impl Priorities {
    fn note(&mut self, service: &Value) {
        let number = |field: &str| service.pointer(field).and_then(Value::as_i64).unwrap_or(0);
        let of = (text(service, "/spec/group").to_owned(), text(service, "/spec/version").to_owned());
        let said = (number("/spec/groupPriorityMinimum"), number("/spec/versionPriority"));
        if said != priority(&of.0, &of.1) {
            self.0.insert(of, said);
        }
    }

    fn of(&self, group: &str, version: &str) -> (i64, i64) {
        let said = self.0.get(&(group.to_owned(), version.to_owned()));
        said.copied().unwrap_or_else(|| priority(group, version))
    }

    /// Puts groups in their order, each once with all its versions in theirs; of a version that is there twice the later one is
    /// kept. `aggregated`: of the aggregated form, in which groups of one priority stand by their names, and else by the names
    /// of their APIServices.
    pub(crate) fn arrange(&self, groups: Vec<Value>, aggregated: bool) -> Vec<Value> {
        let at = if aggregated { "/metadata/name" } else { "/name" };
        let mut all: Vec<Value> = Vec::new();
        for mut group in groups {
            let Some(known) = all.iter_mut().find(|g| text(g, at) == text(&group, at)) else {
                all.push(group);
                continue;
            };
            let more = group["versions"].take();
            let Some(versions) = known["versions"].as_array_mut() else { continue };
            for version in more.as_array().into_iter().flatten() {
                versions.retain(|v| v["version"] != version["version"]);
                versions.push(version.clone());
            }
        }
        for group in &mut all {
            let name = text(group, at).to_owned();
            let Some(versions) = group["versions"].as_array_mut() else { continue };
            versions.sort_by_cached_key(|v| {
                let version = text(v, "/version");
                Reverse((self.of(&name, version).1, version_rank(version)))
            });
            if !aggregated {
                group["preferredVersion"] = group["versions"][0].clone();
            }
        }
        all.sort_by_cached_key(|group| {
            let name = text(group, at);
            let versions = group["versions"].as_array().into_iter().flatten().map(|v| text(v, "/version"));
            let places = versions.map(|v| (Reverse(self.of(name, v).0), format!("{v}.{name}")));
            let (place, service) = places.min().unwrap_or_default();
            (place, if aggregated { name.to_owned() } else { service })
        });
        all
    }
}

impl ApiServer {
    /// What APIServices say of groups and versions.
    pub(crate) fn priorities(&self) -> Priorities {
        let mut all = Priorities::default();
        for service in self.cache.kind(GROUP, PLURAL).all("") {
            all.note(service.value());
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn groups_and_versions_stand_by_their_priorities() {
        let group = |name: &str, versions: &[&str]| {
            let versions: Vec<Value> = versions.iter().map(|v| json!({"version": v})).collect();
            json!({"name": name, "metadata": {"name": name}, "versions": versions})
        };
        let groups = || {
            vec![
                group("apps", &["v1"]),
                group("autoscaling", &["v1", "v2beta1", "v2beta2", "v2"]),
                group("a.example", &["v1alpha1", "v10", "v1beta1", "v2", "foo", "v11beta2"]),
                group("b.example", &["v1"]),
                group("c.example", &["v1alpha1"]),
                group("apiregistration.k8s.io", &["v1"]),
                group("first.example", &["v1", "v2"]),
                group("a.example", &["v1", "v2"]),
            ]
        };
        let mut said = Priorities::default();
        for (group, version, of_group, of_version) in
            [("first.example", "v1", 17900, 200), ("first.example", "v2", 100, 100)]
        {
            said.note(&json!({"spec": {"group": group, "version": version,
                "groupPriorityMinimum": of_group, "versionPriority": of_version}}));
        }
        let mut usual = Priorities::default();
        usual.note(&json!({"spec": {"group": "apps", "version": "v1", "groupPriorityMinimum": 17800,
            "versionPriority": 15}}));
        assert_eq!(usual, Priorities::default(), "this changes nothing");
        assert_ne!(said, usual);
        let names = |groups: &[Value]| groups.iter().map(|g| text(g, "/name").to_owned()).collect::<Vec<_>>();
        let arranged = said.arrange(groups(), false);
        assert_eq!(
            names(&arranged),
            [
                "apiregistration.k8s.io",
                "first.example",
                "apps",
                "autoscaling",
                "a.example",
                "b.example",
                "c.example"
            ]
        );
        let versions = |group: &Value| {
            let all = group["versions"].as_array().unwrap();
            all.iter().map(|v| text(v, "/version").to_owned()).collect::<Vec<_>>()
        };
        assert_eq!(versions(&arranged[1]), ["v1", "v2"]);
        assert_eq!(versions(&arranged[3]), ["v2", "v1", "v2beta1", "v2beta2"]);
        assert_eq!(versions(&arranged[4]), ["v10", "v2", "v1", "v11beta2", "v1beta1", "v1alpha1", "foo"]);
        assert_eq!(arranged[4]["preferredVersion"]["version"], "v10");
        // Of one priority: by the names of APIServices, or of groups.
        let two = || vec![group("y.example", &["v1alpha1"]), group("z.example", &["v1"])];
        assert_eq!(names(&said.arrange(two(), false)), ["z.example", "y.example"]);
        assert_eq!(names(&said.arrange(two(), true)), ["y.example", "z.example"]);
    }
}
