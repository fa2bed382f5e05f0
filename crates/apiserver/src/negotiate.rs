//! What the client wants to read: media type, and whether the object itself, a table, or its metadata alone.

use api::Status;
use api::codec::MediaType;

/// The form of an answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Form {
    /// The object or list itself.
    Object,
    /// A meta.k8s.io Table of this version.
    Table(String),
    /// PartialObjectMetadata or its list, of this version.
    Metadata(String),
    /// Aggregated discovery of this version.
    Discovery(String),
}

/// What was agreed on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Accept {
    /// The media type.
    pub media: MediaType,
    /// The form.
    pub form: Form,
}

impl Default for Accept {
    fn default() -> Self {
        Self { media: MediaType::Json, form: Form::Object }
    }
}

const ALL: [&str; 3] = ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"];

/// The alternatives of the header, those that the client prefers first (RFC 9110, section 12.5.1).
fn by_preference(header: &str) -> Vec<&str> {
    let mut all: Vec<&str> = header.split(',').collect();
    if header.contains("q=") || header.contains('*') {
        all.sort_by_cached_key(|alternative| {
            let mut parts = alternative.split(';').map(str::trim);
            let wild = parts.next().map_or(0, |name| name.matches('*').count());
            let quality = parts.find_map(|p| p.strip_prefix("q=")?.parse::<f64>().ok()).unwrap_or(1.0);
            // In thousandths, as many as it may have; the highest first.
            (-(quality.clamp(0.0, 1.0) * 1000.0) as i32, wild)
        });
    }
    all
}

/// The first of the header's alternatives that can be served. `discovery`: whether aggregated discovery is to be had here.
pub fn accept(header: &str, discovery: bool) -> Result<Accept, Status> {
    if header.trim().is_empty() {
        return Ok(Accept::default());
    }
    for alternative in by_preference(header) {
        let mut parts = alternative.split(';').map(str::trim);
        let media = match parts.next().unwrap_or("") {
            "*/*" | "application/*" => MediaType::Json,
            "" => continue,
            name => match MediaType::of(name) {
                Some(m) => m,
                None => continue,
            },
        };
        let (mut form, mut version, mut group) = ("", "", "");
        for p in parts {
            match p.split_once('=') {
                Some(("as", v)) => form = v,
                Some(("v", v)) => version = v,
                Some(("g", v)) => group = v,
                _ => {}
            }
        }
        let known = matches!(version, "v1" | "v1beta1");
        let form = match form {
            "" => Form::Object,
            "Table" if group == "meta.k8s.io" && known && !discovery => Form::Table(version.to_owned()),
            "PartialObjectMetadata" | "PartialObjectMetadataList"
                if group == "meta.k8s.io" && known && !discovery =>
            {
                Form::Metadata(version.to_owned())
            }
            "APIGroupDiscoveryList"
                if discovery && group == "apidiscovery.k8s.io" && matches!(version, "v2" | "v2beta1") =>
            {
                Form::Discovery(version.to_owned())
            }
            _ => continue,
        };
        // Tables have no protobuf form.
        if matches!(form, Form::Table(_)) && media == MediaType::Protobuf {
            continue;
        }
        return Ok(Accept { media, form });
    }
    Err(Status::not_acceptable(&ALL))
}

/// The same where only the object itself is to be had.
pub fn accept_plain(header: &str) -> Result<Accept, Status> {
    let plain: Vec<&str> = header.split(',').filter(|a| !a.contains("as=")).collect();
    if plain.is_empty() && !header.trim().is_empty() {
        return Err(Status::not_acceptable(&ALL));
    }
    accept(&plain.join(","), false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_what_can_be_served() {
        let kubectl = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json;as=Table;v=v1beta1;g=meta.k8s.io,application/json";
        assert_eq!(accept(kubectl, false).unwrap().form, Form::Table("v1".into()));
        let go = "application/vnd.kubernetes.protobuf,application/json";
        assert_eq!(accept(go, false).unwrap().media, MediaType::Protobuf);
        let aggregated =
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList,application/json";
        assert_eq!(accept(aggregated, true).unwrap().form, Form::Discovery("v2".into()));
        assert_eq!(accept(aggregated, false).unwrap(), Accept::default());
        assert_eq!(accept("*/*", false).unwrap(), Accept::default());
        assert_eq!(accept("text/html", false).unwrap_err().code, 406);
        let media = |header: &str| accept(header, false).unwrap().media;
        assert_eq!(media("application/json;q=0.5, application/yaml"), MediaType::Yaml);
        assert_eq!(media("application/yaml;q=0.8,application/json;q=0.9"), MediaType::Json);
        assert_eq!(media("*/*, application/yaml"), MediaType::Yaml);
    }
}
