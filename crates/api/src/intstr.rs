//! `IntOrString`: a number, or a percentage of something.

use serde_json::Value;

use crate::{Error, Result};

/// The number that an IntOrString means of `total`: itself, or that percentage, rounded as told.
pub fn scaled(value: &Value, total: i64, round_up: bool) -> Result<i64> {
    if let Some(n) = value.as_i64() {
        return Ok(n);
    }
    let text = value.as_str().unwrap_or_default();
    let percent: i64 = text.strip_suffix('%').and_then(|n| n.parse().ok()).ok_or_else(|| {
        Error::Invalid(format!(
            "invalid value for IntOrString: \"{text}\" is neither a number nor a percentage"
        ))
    })?;
    let product = i128::from(percent) * i128::from(total);
    let scaled = if round_up { (product + 99).div_euclid(100) } else { product.div_euclid(100) };
    Ok(i64::try_from(scaled).unwrap_or(i64::MAX))
}

/// Is it text of the form `NN%`?
pub fn is_percent(value: &Value) -> bool {
    value
        .as_str()
        .and_then(|s| s.strip_suffix('%'))
        .is_some_and(|n| !n.is_empty() && n.bytes().all(|c| c.is_ascii_digit()))
}

/// Its text.
pub fn show(value: &Value) -> String {
    match value {
        Value::String(s) => s.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn percentages_round_as_told() {
        for (value, total, up, want) in [
            (json!(3), 10, false, 3),
            (json!("25%"), 3, true, 1),
            (json!("25%"), 3, false, 0),
            (json!("100%"), 7, false, 7),
            (json!("0%"), 7, true, 0),
        ] {
            assert_eq!(scaled(&value, total, up).unwrap(), want, "{value} of {total}");
        }
        assert!(scaled(&json!("25"), 3, true).is_err());
        assert!(scaled(&json!(null), 3, true).is_err());
    }
}
