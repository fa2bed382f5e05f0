//! Volumes: every type by its own rules.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};

use super::{Spec, env, relative_path, secret_name, unreserved_path};
use crate::field::{ErrorList, Path};
use crate::kinds::common::*;
use crate::kinds::{self, rules};
use crate::podrefs;
use crate::quantity::Quantity;
use crate::validate;

/// The rules of a type of volume.
struct Type {
    field: &'static str,
    /// What may not be empty.
    required: &'static [&'static str],
    /// What else must hold of the source, in a volume of this name.
    more: fn(&mut ErrorList, source: &Value, path: &Path, of: &Volume<'_>),
}

struct Volume<'a> {
    name: &'a str,
    /// Name of the pod, if it is one's and has one.
    pod: Option<&'a str>,
}

const fn plain(field: &'static str, required: &'static [&'static str]) -> Type {
    Type { field, required, more: |_, _, _, _| {} }
}

/// In upstream's order: of several sources the first one counts, and the others are told.
const TYPES: [Type; 30] = [
    Type { field: "emptyDir", required: &[], more: empty_dir },
    Type { field: "hostPath", required: &["path"], more: host_path },
    Type {
        field: "gitRepo",
        required: &["repository"],
        more: |errors, git, path, _| {
            relative_path(errors, text(&git["directory"]), &path.child("directory"));
        },
    },
    Type { field: "gcePersistentDisk", required: &["pdName"], more: partition },
    Type { field: "awsElasticBlockStore", required: &["volumeID"], more: partition },
    Type { field: "secret", required: &["secretName"], more: files },
    Type { field: "nfs", required: &["server", "path"], more: nfs },
    Type { field: "iscsi", required: &["targetPortal", "iqn"], more: iscsi },
    plain("glusterfs", &["endpoints", "path"]),
    Type { field: "flocker", required: &[], more: flocker },
    plain("persistentVolumeClaim", &["claimName"]),
    plain("rbd", &["monitors", "image"]),
    Type { field: "cinder", required: &["volumeID"], more: secret_ref },
    plain("cephfs", &["monitors"]),
    Type { field: "quobyte", required: &["volume"], more: quobyte },
    Type { field: "downwardAPI", required: &[], more: downward },
    Type { field: "fc", required: &[], more: fibre_channel },
    Type { field: "flexVolume", required: &["driver"], more: flex },
    Type { field: "configMap", required: &["name"], more: files },
    plain("azureFile", &["secretName", "shareName"]),
    plain("vsphereVolume", &["volumePath"]),
    plain("photonPersistentDisk", &["pdID"]),
    plain("portworxVolume", &["volumeID"]),
    Type { field: "azureDisk", required: &["diskName", "diskURI"], more: azure_disk },
    Type { field: "storageos", required: &["volumeName"], more: storage_os },
    Type { field: "projected", required: &[], more: projected },
    plain("scaleIO", &["gateway", "system", "volumeName"]),
    Type { field: "csi", required: &[], more: csi },
    Type { field: "ephemeral", required: &["volumeClaimTemplate"], more: ephemeral },
    Type { field: "image", required: &["reference"], more: image },
];

/// Says what is wrong with the volumes, and tells those by name that can be mounted: nothing is wrong with them.
pub(super) fn check<'a>(errors: &mut ErrorList, spec: &Spec<'a>, path: &Path) -> HashMap<&'a str, &'a Value> {
    let volumes = items(&spec.spec["volumes"]);
    let pod = spec.pod_name();
    let made: HashSet<String> =
        pod.iter().flat_map(|pod| volumes.iter().filter_map(|v| made_claim(pod, v))).collect();
    let mut good = HashMap::new();
    for (i, volume) in volumes.iter().enumerate() {
        let at = path.index(i);
        let name = text(&volume["name"]);
        let mut wrong = ErrorList::new();
        source(&mut wrong, volume, &at, &Volume { name, pod });
        if name.is_empty() {
            wrong.required(&at.child("name"), "");
        } else {
            super::dns_label(&mut wrong, name, &at.child("name"));
        }
        if good.contains_key(name) {
            wrong.duplicate(&at.child("name"), &volume["name"]);
        }
        if wrong.is_empty() {
            good.insert(name, volume);
        }
        errors.append(wrong);
        let claim = text(&volume["persistentVolumeClaim"]["claimName"]);
        if made.contains(claim) {
            let why = "must not reference a PVC that gets created for an ephemeral volume";
            errors.invalid_str(&at.child("persistentVolumeClaim").child("claimName"), claim, why);
        }
    }
    good
}

/// The claim that is made for a volume of this pod, if one is.
fn made_claim(pod: &str, volume: &Value) -> Option<String> {
    (!volume["ephemeral"].is_null()).then(|| podrefs::ephemeral_claim(pod, text(&volume["name"])))
}

fn source(errors: &mut ErrorList, volume: &Value, path: &Path, of: &Volume<'_>) {
    let mut given = TYPES.iter().filter(|t| !volume[t.field].is_null());
    let Some(first) = given.next() else {
        errors.required(path, "must specify a volume type");
        return;
    };
    let source = &volume[first.field];
    // So upstream calls it in its errors.
    let shown = if first.field == "gcePersistentDisk" { "persistentDisk" } else { first.field };
    let at = path.child(shown);
    for field in first.required.iter().filter(|f| empty(&source[**f])) {
        errors.required(&at.child(field), "");
    }
    (first.more)(errors, source, &at, of);
    for other in given {
        errors.forbidden(&path.child(other.field), "may not specify more than 1 volume type");
    }
}

fn empty_dir(errors: &mut ErrorList, dir: &Value, path: &Path, _: &Volume<'_>) {
    if Quantity::of_value(&dir["sizeLimit"]).is_ok_and(|q| q.signum() < 0) {
        errors.forbidden(&path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity");
    }
}

fn host_path(errors: &mut ErrorList, host: &Value, path: &Path, _: &Volume<'_>) {
    let given = text(&host["path"]);
    if given.is_empty() {
        return;
    }
    for why in validate::path_without_backsteps(given) {
        errors.invalid_str(&path.child("path"), given, why);
    }
    let types =
        ["", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"];
    super::among(errors, &host["type"], &path.child("type"), &types);
}

fn partition(errors: &mut ErrorList, disk: &Value, path: &Path, _: &Volume<'_>) {
    if !(0..=255).contains(&int(&disk["partition"])) {
        errors.invalid(&path.child("partition"), &disk["partition"], validate::between(1, 255));
    }
}

fn nfs(errors: &mut ErrorList, nfs: &Value, path: &Path, _: &Volume<'_>) {
    let given = text(&nfs["path"]);
    if !given.starts_with('/') {
        errors.invalid_str(&path.child("path"), given, "must be an absolute path");
    }
}

/// The rules of a source that is the same in a persistent volume.
pub(in crate::kinds) fn volume_source(errors: &mut ErrorList, field: &str, source: &Value, path: &Path) {
    let Some(of) = TYPES.iter().find(|t| t.field == field) else { return };
    for field in of.required.iter().filter(|f| empty(&source[**f])) {
        errors.required(&path.child(field), "");
    }
    (of.more)(errors, source, path, &Volume { name: "", pod: None });
}

/// Why this is not the name of an iSCSI node.
pub(in crate::kinds) fn iscsi_name(name: &str) -> Option<&'static str> {
    let form = |prefix: &str, length: usize| {
        let mut rest = name[prefix.len()..].chars();
        rest.next().is_some() && rest.clone().count() == length && rest.all(|c| c.is_ascii_alphanumeric())
    };
    let good = if let Some(rest) = name.strip_prefix("iqn") {
        let dated = |date: &str| {
            let b = date.as_bytes();
            let digits = |r: &[u8]| r.iter().all(u8::is_ascii_digit);
            b.len() == 7 && digits(&b[..4]) && b[4] == b'-' && digits(&b[5..])
        };
        let named = |authority: &str, unique: &str| {
            !authority.is_empty()
                && authority.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '.')
                && !unique.is_empty()
                && !unique.contains(|c: char| ",;*&$|".contains(c) || c.is_ascii_whitespace())
        };
        let parts = rest.strip_prefix('.').and_then(|r| r.split_once('.'));
        parts.is_some_and(|(date, rest)| {
            dated(date) && rest.split_once(':').is_some_and(|(authority, unique)| named(authority, unique))
        })
    } else if name.starts_with("eui") {
        form("eui", 16)
    } else if name.starts_with("naa") {
        form("naa", 32)
    } else {
        return Some("must be valid format starting with iqn, eui, or naa");
    };
    (!good).then_some("must be valid format")
}

fn iscsi(errors: &mut ErrorList, iscsi: &Value, path: &Path, of: &Volume<'_>) {
    let iqn = text(&iscsi["iqn"]);
    if let Some(why) = iscsi_name(iqn).filter(|_| !iqn.is_empty()) {
        errors.invalid_str(&path.child("iqn"), iqn, why);
    }
    lun(errors, &iscsi["lun"], path);
    let chap = iscsi["chapAuthDiscovery"] == true || iscsi["chapAuthSession"] == true;
    if chap && iscsi["secretRef"].is_null() {
        errors.required(&path.child("secretRef"), "");
    }
    let Some(initiator) = iscsi["initiatorName"].as_str() else { return };
    if let Some(why) = iscsi_name(initiator) {
        errors.invalid_str(&path.child("initiatorname"), initiator, why);
    }
    if of.name.len() + 1 + text(&iscsi["targetPortal"]).len() > 64 {
        let why = "Total length of <volume name>:<iscsi.targetPortal> must be under 64 characters if iscsi.initiatorName is specified.";
        let at = Path::new(path.to_string().trim_end_matches(".iscsi"));
        errors.invalid_str(&at.child("name"), of.name, why);
    }
}

fn lun(errors: &mut ErrorList, lun: &Value, path: &Path) {
    if !(0..=255).contains(&int(lun)) {
        errors.invalid(&path.child("lun"), lun, validate::between(0, 255));
    }
}

fn fibre_channel(errors: &mut ErrorList, fc: &Value, path: &Path, _: &Volume<'_>) {
    let at = path.child("targetWWNs");
    match (empty(&fc["targetWWNs"]), empty(&fc["wwids"])) {
        (true, true) => errors.required(&at, "must specify either targetWWNs or wwids, but not both"),
        (false, false) => {
            let why = "targetWWNs and wwids can not be specified simultaneously";
            errors.invalid(&at, &fc["targetWWNs"], why);
        }
        _ => {}
    }
    if !empty(&fc["targetWWNs"]) {
        if fc["lun"].is_null() {
            errors.required(&path.child("lun"), "lun is required if targetWWNs is specified");
        }
        lun(errors, &fc["lun"], path);
    }
}

fn flocker(errors: &mut ErrorList, flocker: &Value, path: &Path, _: &Volume<'_>) {
    let (name, uuid) = (text(&flocker["datasetName"]), text(&flocker["datasetUUID"]));
    if name.is_empty() && uuid.is_empty() {
        errors.required(path, "one of datasetName and datasetUUID is required");
    }
    if !name.is_empty() && !uuid.is_empty() {
        let why = "datasetName and datasetUUID can not be specified simultaneously";
        errors.invalid_str(path, "resource", why);
    }
    if name.contains('/') {
        errors.invalid_str(&path.child("datasetName"), name, "must not contain '/'");
    }
}

fn secret_ref(errors: &mut ErrorList, source: &Value, path: &Path, _: &Volume<'_>) {
    let secret = &source["secretRef"];
    if !secret.is_null() && empty(&secret["name"]) {
        errors.required(&path.child("secretRef").child("name"), "");
    }
}

fn quobyte(errors: &mut ErrorList, quobyte: &Value, path: &Path, _: &Volume<'_>) {
    let registry = text(&quobyte["registry"]);
    let why = "must be a host:port pair or multiple pairs separated by commas";
    if registry.is_empty() {
        errors.required(&path.child("registry"), why);
    } else if text(&quobyte["tenant"]).len() >= 65 {
        let why = "must be a UUID and may not exceed a length of 64 characters";
        errors.required(&path.child("tenant"), why);
    } else {
        let pair = |p: &str| match p.strip_prefix('[') {
            Some(rest) => rest.split_once("]:").is_some_and(|(_, port)| !port.contains(':')),
            None => p.split_once(':').is_some_and(|(_, port)| !port.contains(':')),
        };
        for _ in registry.split(',').filter(|p| !pair(p)) {
            errors.invalid_str(&path.child("registry"), registry, why);
        }
    }
}

fn flex(errors: &mut ErrorList, flex: &Value, path: &Path, _: &Volume<'_>) {
    for (key, _) in flex["options"].as_object().into_iter().flatten() {
        let namespace = format!(".{}", key.split_once('/').map_or(key.as_str(), |(n, _)| n).to_lowercase());
        if namespace.ends_with(".kubernetes.io") || namespace.ends_with(".k8s.io") {
            let why = "kubernetes.io and k8s.io namespaces are reserved";
            errors.invalid_str(&path.child("options").key(key), key, why);
        }
    }
}

fn azure_disk(errors: &mut ErrorList, disk: &Value, path: &Path, _: &Volume<'_>) {
    super::among(
        errors,
        &disk["cachingMode"],
        &path.child("cachingMode"),
        &["None", "ReadOnly", "ReadWrite"],
    );
    super::among(errors, &disk["kind"], &path.child("kind"), &["Dedicated", "Managed", "Shared"]);
    let (uri, at) = (text(&disk["diskURI"]), path.child("diskURI"));
    let managed = disk["kind"] == "Managed";
    let (prefix, form) = if managed {
        (
            "/subscriptions/",
            "/subscriptions/{sub-id}/resourcegroups/{group-name}/providers/microsoft.compute/disks/{disk-id}",
        )
    } else {
        ("https://", "https://{account-name}.blob.core.windows.net/{container-name}/{disk-name}.vhd")
    };
    if !disk["kind"].is_null() && !uri.starts_with(prefix) {
        errors.not_supported(&at, &json!(uri), &[form]);
    }
}

fn storage_os(errors: &mut ErrorList, source: &Value, path: &Path, of: &Volume<'_>) {
    for field in ["volumeName", "volumeNamespace"] {
        let name = text(&source[field]);
        if !name.is_empty() {
            super::dns_label(errors, name, &path.child(field));
        }
    }
    secret_ref(errors, source, path, of);
}

fn csi(errors: &mut ErrorList, csi: &Value, path: &Path, _: &Volume<'_>) {
    driver_name(errors, &path.child("driver"), text(&csi["driver"]));
    let secret = &csi["nodePublishSecretRef"];
    if !secret.is_null() {
        match text(&secret["name"]) {
            "" => errors.required(&path.child("nodePublishSecretRef").child("name"), ""),
            name => secret_name(errors, name, &path.child("name")),
        }
    }
}

/// What the metadata of a template of claims may say.
const TEMPLATE_METADATA: [&str; 2] = ["annotations", "labels"];

fn ephemeral(errors: &mut ErrorList, ephemeral: &Value, path: &Path, of: &Volume<'_>) {
    let template = &ephemeral["volumeClaimTemplate"];
    if template.is_null() {
        return;
    }
    let at = path.child("volumeClaimTemplate");
    let (metadata, meta_at) = (&template["metadata"], at.child("metadata"));
    errors.append(rules::annotations(&metadata["annotations"], &meta_at.child("annotations")));
    errors.append(rules::labels(&metadata["labels"], &meta_at.child("labels")));
    for (field, value) in metadata.as_object().into_iter().flatten() {
        if !empty(value) && !TEMPLATE_METADATA.contains(&field.as_str()) {
            errors.forbidden(&meta_at.child(field), "cannot be set");
        }
    }
    let claims = kinds::all().iter().find(|k| k.plural == "persistentvolumeclaims");
    let claim = json!({"spec": template["spec"]});
    for e in claims.map(|k| k.strategy.validate(&claim)).into_iter().flatten() {
        errors.push(e.kind, &at.child(&e.field), e.value, e.detail);
    }
    if let Some(pod) = of.pod.filter(|_| !of.name.is_empty()) {
        let claim = podrefs::ephemeral_claim(pod, of.name);
        let at = Path::new(path.to_string().trim_end_matches(".ephemeral"));
        for why in validate::dns_subdomain(&claim) {
            errors.invalid_str(&at.child("name"), of.name, format!("PVC name \"{claim}\": {why}"));
        }
    }
}

fn image(errors: &mut ErrorList, image: &Value, path: &Path, _: &Volume<'_>) {
    one_of(errors, &path.child("pullPolicy"), &image["pullPolicy"], &["Always", "IfNotPresent", "Never"]);
}

/// The bits that a file is given.
fn mode(errors: &mut ErrorList, mode: &Value, path: &Path) {
    if !(0..=0o777).contains(&int(mode)) {
        errors.invalid(path, mode, "must be a number between 0 and 0777 (octal), both inclusive");
    }
}

/// The items of a Secret or ConfigMap, and the mode of those that have none of their own.
fn files(errors: &mut ErrorList, source: &Value, path: &Path, _: &Volume<'_>) {
    mode(errors, &source["defaultMode"], &path.child("defaultMode"));
    for (i, item) in items(&source["items"]).iter().enumerate() {
        key_to_path(errors, item, &path.child("items").index(i));
    }
}

fn key_to_path(errors: &mut ErrorList, item: &Value, path: &Path) {
    for field in ["key", "path"].into_iter().filter(|f| empty(&item[*f])) {
        errors.required(&path.child(field), "");
    }
    unreserved_path(errors, text(&item["path"]), &path.child("path"));
    mode(errors, &item["mode"], &path.child("mode"));
}

fn downward(errors: &mut ErrorList, source: &Value, path: &Path, _: &Volume<'_>) {
    mode(errors, &source["defaultMode"], &path.child("defaultMode"));
    for item in items(&source["items"]) {
        downward_file(errors, item, path);
    }
}

const DOWNWARD_FIELDS: [&str; 5] =
    ["metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"];

/// Upstream tells of the volume what is wrong with one of its files, without saying which one.
fn downward_file(errors: &mut ErrorList, item: &Value, path: &Path) {
    let file = text(&item["path"]);
    if file.is_empty() {
        errors.required(&path.child("path"), "");
    }
    unreserved_path(errors, file, &path.child("path"));
    let (field, resource) = (&item["fieldRef"], &item["resourceFieldRef"]);
    if !field.is_null() {
        env::field_ref(errors, field, &path.child("fieldRef"), &DOWNWARD_FIELDS);
        if !resource.is_null() {
            let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
            errors.invalid_str(path, "resource", why);
        }
    } else if !resource.is_null() {
        env::resource_ref(errors, resource, &path.child("resourceFieldRef"), true);
    } else {
        errors.required(path, "one of fieldRef and resourceFieldRef is required");
    }
    mode(errors, &item["mode"], &path.child("mode"));
}

fn projected(errors: &mut ErrorList, volume: &Value, path: &Path, _: &Volume<'_>) {
    mode(errors, &volume["defaultMode"], &path.child("defaultMode"));
    let mut paths = HashSet::new();
    for (i, source) in items(&volume["sources"]).iter().enumerate() {
        let at = path.child("sources").index(i);
        let mut taken = |errors: &mut ErrorList, file: &str, shown: &str| {
            if !file.is_empty() && !paths.insert(file.to_owned()) {
                errors.invalid_str(path, shown, "conflicting duplicate paths");
            }
        };
        for kind in ["secret", "configMap"] {
            let (from, at) = (&source[kind], at.child(kind));
            if from.is_null() {
                continue;
            }
            if empty(&from["name"]) {
                errors.required(&at.child("name"), "");
            }
            for (j, item) in items(&from["items"]).iter().enumerate() {
                key_to_path(errors, item, &at.child("items").index(j));
                taken(errors, text(&item["path"]), text(&from["name"]));
            }
        }
        for item in items(&source["downwardAPI"]["items"]) {
            downward_file(errors, item, &at.child("downwardAPI"));
            taken(errors, text(&item["path"]), text(&item["path"]));
        }
        if !source["serviceAccountToken"].is_null() {
            token(errors, &source["serviceAccountToken"], &at.child("serviceAccountToken"), path);
        }
        let bundle = &source["clusterTrustBundle"];
        if !bundle.is_null() {
            trust_bundle(errors, bundle, &at.child("clusterTrustBundle"));
            taken(errors, text(&bundle["path"]), text(&bundle["path"]));
        }
        let certificate = &source["podCertificate"];
        if !certificate.is_null() {
            let at = at.child("podCertificate");
            pod_certificate(errors, certificate, &at);
            let fields = ["credentialBundlePath", "keyPath", "certificateChainPath"];
            for field in fields.into_iter().filter(|f| !empty(&certificate[*f])) {
                unreserved_path(errors, text(&certificate[field]), &at.child(field));
                taken(errors, text(&certificate[field]), text(&certificate[field]));
            }
            if fields.iter().all(|f| empty(&certificate[*f])) {
                let why = "specify at least one of credentialBundlePath, keyPath, and certificateChainPath";
                errors.required(&at, why);
            }
        }
        if source.as_object().is_some_and(|s| s.values().filter(|v| !v.is_null()).count() > 1) {
            errors.forbidden(&at, "may not specify more than 1 volume type per source");
        }
    }
}

fn token(errors: &mut ErrorList, token: &Value, path: &Path, volume: &Path) {
    let (seconds, at) = (&token["expirationSeconds"], path.child("expirationSeconds"));
    if int(seconds) < 600 {
        errors.invalid(&at, seconds, "may not specify a duration less than 10 minutes");
    }
    if int(seconds) > 1 << 32 {
        errors.invalid(&at, seconds, "may not specify a duration larger than 2^32 seconds");
    }
    match text(&token["path"]) {
        "" => errors.required(&volume.child("path"), ""),
        file => unreserved_path(errors, file, &volume.child("path")),
    }
}

fn trust_bundle(errors: &mut ErrorList, bundle: &Value, path: &Path) {
    match (bundle["name"].as_str(), bundle["signerName"].as_str()) {
        (Some(_), Some(_)) => {
            errors.invalid(path, bundle, "only one of name and signerName may be used");
        }
        (Some(name), None) => {
            let at = path.child("name");
            if name.is_empty() {
                errors.required(&at, "must be a valid object name");
            }
            // Of a signer's bundle only what follows its prefix is a name of its own.
            let own = name.rsplit_once(':').map_or(name, |(_, own)| own);
            for why in validate::dns_subdomain(own) {
                errors.invalid_str(&at, name, format!("not a valid clustertrustbundlename: {why}"));
            }
            if !bundle["labelSelector"].is_null() {
                let why = "labelSelector must be unset if name is specified";
                errors.invalid(&path.child("labelSelector"), &bundle["labelSelector"], why);
            }
        }
        (None, Some(signer)) => {
            if signer.is_empty() {
                errors.required(&path.child("signerName"), "must be a valid signer name");
            }
            signer_name(errors, signer, &path.child("signerName"));
            check_selector(errors, &path.child("labelSelector"), &bundle["labelSelector"]);
        }
        (None, None) => errors.required(path, "either name or signerName must be specified"),
    }
    if empty(&bundle["path"]) {
        errors.required(&path.child("path"), "");
    }
    unreserved_path(errors, text(&bundle["path"]), &path.child("path"));
}

/// A signer is named by a domain of two segments or more, and a path.
pub(in crate::kinds) fn signer_name(errors: &mut ErrorList, signer: &str, path: &Path) {
    let Some((domain, own)) = signer.split_once('/').filter(|(_, own)| !own.contains('/')) else {
        if signer.is_empty() {
            errors.required(path, "");
        } else {
            let why = "must be a fully qualified domain and path of the form 'example.com/signer-name'";
            errors.invalid_str(path, signer, why);
        }
        return;
    };
    for label in domain.split('.') {
        for why in validate::dns_label(label) {
            errors.invalid_str(path, domain, format!("validating label \"{label}\": {why}"));
        }
    }
    if !domain.contains('.') {
        let why = "should be a domain with at least two segments separated by dots";
        errors.invalid_str(path, domain, why);
    }
    for label in own.split('.') {
        for why in validate::dns_subdomain(label) {
            errors.invalid_str(path, own, format!("validating label \"{label}\": {why}"));
        }
    }
}

const HOUR: i64 = 3600;
const KEY_TYPES: [&str; 6] = ["ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519", "RSA3072", "RSA4096"];

fn pod_certificate(errors: &mut ErrorList, certificate: &Value, path: &Path) {
    let signer = text(&certificate["signerName"]);
    signer_name(errors, signer, &path.child("signerName"));
    let key_type = json!(text(&certificate["keyType"]));
    super::among(errors, &key_type, &path.child("keyType"), &KEY_TYPES);
    let (seconds, at) = (&certificate["maxExpirationSeconds"], path.child("maxExpirationSeconds"));
    let most = if signer.starts_with("kubernetes.io/") { 24 * HOUR } else { 91 * 24 * HOUR };
    if let Some(n) = seconds.as_i64() {
        if n < HOUR {
            errors.invalid(&at, seconds, "if provided, maxExpirationSeconds must be >= 3600");
        }
        if n > most {
            let why = format!("if provided, maxExpirationSeconds must be <= {most}");
            errors.invalid(&at, seconds, why);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_has_rules() {
        let mut fields: Vec<&str> = TYPES.iter().map(|t| t.field).collect();
        fields.sort_unstable();
        assert_eq!(fields, podrefs::VOLUMES.each_ref().map(|v| v.field));
    }

    #[test]
    fn names_of_iscsi_nodes() {
        for (name, good) in [
            ("iqn.2001-04.com.example:storage.kube.sys1.xyz", true),
            ("eui.0123456789ABCDEF", true),
            ("naa.624a93704600ed6c624a93704600ed6c", true),
            ("iqn.2001-04.com.example", false),
            ("iqn.201-04.com.example:x", false),
            ("iqn.2001-04.com.example:x y", false),
            ("eui.0123", false),
            ("naa", false),
            ("naaé", false),
            ("x", false),
        ] {
            assert_eq!(iscsi_name(name).is_none(), good, "{name}");
        }
    }
}
