//! `xtask tables FACTS...`: derives the tables that `crates/api` embeds from files of facts about the Kubernetes API.
//!
//! Which fields keep their zero value, those files do not say: `crates/api/tables/zeros.txt` does; nor which types are atomic
//! wherever they stand: `crates/api/tables/atomic.txt` names them; nor the protobuf numbers of versions that are gone:
//! `crates/api/tables/messages.txt` has them.
//!
//! Writes `crates/api/tables/types.txt` (see `api::schema` for its form) and `crates/api/tables/resources.txt`
//! (`GROUP/VERSION RESOURCE[/SUB] KIND SCOPE VERBS [KIND-GROUP/KIND-VERSION]`). Where two files of facts name the same
//! type or resource, the first one counts. The output is sorted, so that a change of the facts reads well as a diff.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::{Map, Value, json};

/// Reads `facts` and writes the tables below `root`, the workspace's folder.
pub fn run(facts: &[PathBuf], root: &Path) -> Result<()> {
    if facts.is_empty() {
        bail!("name the files of facts to derive the tables from, e.g. kubernetes-api.json");
    }
    let mut types: BTreeMap<String, Value> = BTreeMap::new();
    let mut resources: BTreeMap<String, Value> = BTreeMap::new();
    let mut messages: BTreeMap<String, Value> = BTreeMap::new();
    for path in facts {
        let text = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
        let facts: Value =
            serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
        for (into, key) in [(&mut types, "types"), (&mut resources, "resources"), (&mut messages, "protobuf")]
        {
            let part = facts[key].as_object().with_context(|| format!("{} has no {key}", path.display()))?;
            for (name, value) in part {
                into.entry(name.clone()).or_insert_with(|| value.clone());
            }
        }
    }
    let folder = root.join("crates/api/tables");
    let read = |name: &str| {
        let path = folder.join(name);
        std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    for line in read("messages.txt")?.lines().filter(|line| !line.starts_with('#')) {
        let (name, message) = message(line)?;
        messages.entry(name).or_insert(message);
    }
    for (name, text) in [
        ("types.txt", type_table(&types, &messages, &read("zeros.txt")?, &read("atomic.txt")?)?),
        ("resources.txt", resource_table(&resources)?),
    ] {
        let path = folder.join(name);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        println!("wrote {}", path.display());
    }
    Ok(())
}

/// A line of messages.txt, as the facts have a message: each field's number and type.
fn message(line: &str) -> Result<(String, Value)> {
    let mut words = line.split(' ');
    let name = words.next().unwrap_or_default();
    let field = |word: &str| {
        let (field, number) = word.split_once('=').with_context(|| format!("{name}: {word}"))?;
        let (number, proto) = number.split_once(':').unwrap_or((number, ""));
        let number: u64 = number.parse().with_context(|| format!("{name}: {word}"))?;
        anyhow::Ok((field.to_owned(), json!([number, proto])))
    };
    Ok((name.to_owned(), Value::Object(words.map(field).collect::<Result<_>>()?)))
}

/// Types that have a name of their own in the table's type column instead of a row.
fn builtin(name: &str) -> Option<&'static str> {
    Some(match name {
        "string" => "string",
        "string:byte" => "bytes",
        "integer:int32" => "int32",
        "integer:int64" | "integer" => "int64",
        "number:double" | "number" => "double",
        "boolean" => "bool",
        "object" | "any" => "any",
        "io.k8s.apimachinery.pkg.apis.meta.v1.Time" => "Time",
        "io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime" => "MicroTime",
        "io.k8s.apimachinery.pkg.api.resource.Quantity" => "Quantity",
        "io.k8s.apimachinery.pkg.util.intstr.IntOrString" => "IntOrString",
        "io.k8s.apimachinery.pkg.runtime.RawExtension" => "RawExtension",
        "io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1" => "FieldsV1",
        _ if name.starts_with("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.")
            && (name.ends_with(".JSON") || name.contains(".JSONSchemaPropsOr")) =>
        {
            "any"
        }
        _ => return None,
    })
}

fn type_table(
    types: &BTreeMap<String, Value>,
    messages: &BTreeMap<String, Value>,
    zeros: &str,
    atomic: &str,
) -> Result<String> {
    let mut atomic: BTreeSet<&str> = atomic.lines().filter(|line| !line.starts_with('#')).collect();
    let mut zeros: BTreeSet<(&str, &str)> = zeros
        .lines()
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(' '))
        .flat_map(|(name, fields)| fields.split(' ').map(move |field| (name, field)))
        .collect();
    let empty = Map::new();
    let mut out =
        String::from("# Derived by `cargo xtask tables`; see api::schema for the form. Do not edit.\n");
    for (name, ty) in types {
        if builtin(name).is_some() {
            continue;
        }
        out.push_str(name);
        if let Some(gvk) = ty["gvk"].as_array() {
            let flat: Vec<&str> = gvk.iter().filter_map(Value::as_str).collect();
            if flat.len() == 3 {
                write!(out, " gvk={}", flat.join("/"))?;
            }
        }
        if ty["nopb"].as_i64() == Some(1) && name != ALIAS.0 && !known_message(name, messages) {
            out.push_str(" noproto");
        }
        if atomic.remove(name.as_str()) {
            out.push_str(" atomic");
        }
        if let Some(unions) = ty["unions"].as_array() {
            let unions: Vec<String> = unions.iter().map(union_text).collect();
            write!(out, " union={}", unions.join(";"))?;
        }
        let fields = ty["fields"].as_object().unwrap_or(&empty);
        if fields.is_empty() {
            out.push_str(" any");
        }
        out.push('\n');
        let mut sorted: Vec<_> = fields.iter().collect();
        sorted.sort_by_key(|(name, _)| name.as_str());
        for (field, facts) in sorted {
            write!(out, "\t{field} {}", type_text(&facts["t"], name)?)?;
            if facts["req"].as_i64() == Some(1) {
                out.push_str(" required");
            }
            if zeros.remove(&(name.as_str(), field.as_str())) {
                out.push_str(" zero");
            }
            if let Some(list) = facts["list"].as_str() {
                write!(out, " list={list}")?;
            }
            if let Some(keys) = facts["keys"].as_array() {
                let keys: Vec<&str> = keys.iter().filter_map(Value::as_str).collect();
                write!(out, " keys={}", keys.join(","))?;
            }
            for key in ["merge", "patch", "map"] {
                if let Some(text) = facts[key].as_str() {
                    write!(out, " {key}={text}")?;
                }
            }
            if let Some((numbers, proto)) = (Facts { types, messages }).numbers(name, field, facts, 0) {
                let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
                write!(out, " pb={}", numbers.join("."))?;
                if !proto.is_empty() {
                    write!(out, " pt={}", proto.replace(' ', ""))?;
                }
            }
            out.push('\n');
        }
    }
    if let Some((name, field)) = zeros.first() {
        bail!("zeros.txt names {field} of {name}, which the facts do not have");
    }
    if let Some(name) = atomic.first() {
        bail!("atomic.txt names {name}, which the facts do not have");
    }
    Ok(out)
}

/// A union as the table has it: `discriminator:field=Value,field=Value`.
fn union_text(union: &Value) -> String {
    let fields = union["fields-to-discriminateBy"].as_object().into_iter().flatten();
    let fields: Vec<String> =
        fields.map(|(field, value)| format!("{field}={}", value.as_str().unwrap_or_default())).collect();
    format!("{}:{}", union["discriminator"].as_str().unwrap_or_default(), fields.join(","))
}

/// A type of an old version whose message is another's: Go has it as an alias. Facts of it know no numbers.
const ALIAS: (&str, &str) = (
    "io.k8s.api.admissionregistration.v1beta1.RuleWithOperations",
    "io.k8s.api.admissionregistration.v1.RuleWithOperations",
);

/// The protobuf message of a type: `io.k8s.api.core.v1.Pod` is `k8s.io.api.core.v1.Pod`.
fn message_name(type_name: &str) -> String {
    format!("k8s.io.{}", type_name.strip_prefix("io.k8s.").unwrap_or(type_name).replace('-', "_"))
}

/// The type of a protobuf message.
fn type_name(message: &str) -> String {
    format!("io.k8s.{}", message.strip_prefix("k8s.io.").unwrap_or(message))
}

fn known_message(type_name: &str, messages: &BTreeMap<String, Value>) -> bool {
    messages.contains_key(&message_name(type_name))
}

/// Types and messages, by name.
struct Facts<'a> {
    types: &'a BTreeMap<String, Value>,
    messages: &'a BTreeMap<String, Value>,
}

impl Facts<'_> {
    /// The protobuf numbers on the way to a field of a type, and its protobuf type where JSON's does not say it.
    fn numbers(&self, owner: &str, field: &str, facts: &Value, depth: u8) -> Option<(Vec<u64>, String)> {
        if owner == ALIAS.0 {
            return self.numbers(ALIAS.1, field, &self.types.get(ALIAS.1)?["fields"][field], depth);
        }
        if let Some(number) = facts["pb"].as_u64() {
            return Some((vec![number], odd(facts["pt"].as_str().unwrap_or_default())));
        }
        if let Some(found) = self.embedded(&facts["inl"], field, depth) {
            return Some(found);
        }
        if let Some(found) = self.in_message(&message_name(owner), field, depth) {
            return Some(found);
        }
        // A field embedded twice over: its siblings name the message it comes with.
        let siblings = self.types.get(owner)?["fields"].as_object()?;
        siblings.values().find_map(|sibling| self.embedded(&sibling["inl"], field, depth))
    }

    fn embedded(&self, inline: &Value, field: &str, depth: u8) -> Option<(Vec<u64>, String)> {
        let mut path = vec![inline.get(0)?.as_u64()?];
        let message = inline.get(1)?.as_str()?;
        let (mut rest, proto) = self.in_message(message, field, depth)?;
        path.append(&mut rest);
        Some((path, proto))
    }

    fn in_message(&self, message: &str, field: &str, depth: u8) -> Option<(Vec<u64>, String)> {
        let row = self.messages.get(message).and_then(|m| m.get(field).or_else(|| m.get(alias(field))));
        if let Some(row) = row.and_then(Value::as_array) {
            return Some((vec![row.first()?.as_u64()?], odd(row.get(1)?.as_str().unwrap_or_default())));
        }
        if depth > 3 {
            return None;
        }
        let owner = type_name(message);
        let facts = self.types.get(&owner)?["fields"].get(field)?;
        if facts["pb"].is_null() && facts["inl"].is_null() {
            return None;
        }
        self.numbers(&owner, field, facts, depth + 1)
    }
}

/// What protobuf calls a field whose JSON name is no identifier: `$ref`, `x-kubernetes-list-type`.
fn alias(field: &str) -> String {
    let mut parts = field.trim_start_matches('$').split('-');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |name, part| {
        let mut letters = part.chars();
        name + &letters.next().map(|c| c.to_ascii_uppercase()).into_iter().chain(letters).collect::<String>()
    })
}

/// Protobuf types that do not follow from the JSON type.
fn odd(proto: &str) -> String {
    match proto {
        // A list in a message of its own.
        "Verbs" => proto.to_owned(),
        "uint32" | "uint64" | "float" | "sint32" | "sint64" | "fixed64" => proto.to_owned(),
        _ => String::new(),
    }
}

fn type_text(ty: &Value, owner: &str) -> Result<String> {
    let text = ty.as_str().with_context(|| format!("{owner}: a field without a type"))?;
    for (open, close) in [("{[", "]}"), ("{", "}"), ("[", "]")] {
        if let Some(inner) = text.strip_prefix(open).and_then(|t| t.strip_suffix(close)) {
            return Ok(format!("{open}{}{close}", base_text(inner, owner)));
        }
    }
    Ok(base_text(text, owner))
}

fn base_text(name: &str, owner: &str) -> String {
    if let Some(short) = builtin(name) {
        return short.to_owned();
    }
    let package = owner.rsplit_once('.').map(|(p, _)| p).unwrap_or_default();
    match name.rsplit_once('.') {
        Some((p, local)) if p == package => format!(".{local}"),
        _ => name.to_owned(),
    }
}

fn resource_table(resources: &BTreeMap<String, Value>) -> Result<String> {
    let mut out = String::from(
        "# Derived by `cargo xtask tables`: GROUP/VERSION RESOURCE KIND SCOPE VERBS [GROUP/VERSION of the kind]. Do not edit.\n",
    );
    for (path, facts) in resources {
        let mut parts = path.trim_end_matches('/').splitn(3, '/');
        let (Some(group), Some(version), Some(resource)) = (parts.next(), parts.next(), parts.next()) else {
            bail!("{path}: not GROUP/VERSION/RESOURCE");
        };
        if path.ends_with('/') {
            continue; // `proxy/` is `proxy` with a path below
        }
        let kind = facts["kind"].as_str().with_context(|| format!("{path}: no kind"))?;
        let scope = if facts["namespaced"].as_bool() == Some(true) { "Namespaced" } else { "Cluster" };
        let actions: Vec<&str> =
            facts["actions"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut verbs: Vec<&str> = Vec::new();
        for action in &actions {
            match *action {
                "post" => verbs.push("create"),
                "put" => verbs.push("update"),
                "list" if actions.contains(&"post") => verbs.extend(["list", "watch"]),
                "connect" if resource.ends_with("/proxy") => {
                    verbs.extend(["create", "delete", "get", "patch", "update"]);
                }
                "connect" => verbs.extend(["create", "get"]),
                other => verbs.push(other),
            }
        }
        verbs.sort_unstable();
        write!(out, "{group}/{version} {resource} {kind} {scope} {}", verbs.join(","))?;
        let gv: Vec<&str> = facts["gv"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        if gv != [group, version] {
            write!(out, " {}", gv.join("/"))?;
        }
        out.push('\n');
    }
    Ok(out)
}
