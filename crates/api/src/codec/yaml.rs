//! YAML in and out, through the same value as JSON.

use serde_json::Value;

use crate::Status;

/// Decodes one YAML document.
pub fn decode(bytes: &[u8]) -> Result<Value, Status> {
    let text = std::str::from_utf8(bytes)
        .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: {e}")))?;
    serde_saphyr::from_str(text)
        .map_err(|e| Status::bad_request(format!("error converting YAML to JSON: yaml: {e}")))
}

/// Encodes a value.
pub fn encode(value: &Value) -> Result<Vec<u8>, Status> {
    serde_saphyr::to_string(value).map(String::into_bytes).map_err(Status::internal)
}
