//! What is told of a field that is left out: what upstream's types are marked with, and what Go makes of nothing.
//!
//! The tables do not say which fields are pointers in Go, where nothing stays nothing. Fields that are required are mostly none,
//! nor are an object's metadata, spec and status; `tables/defaults.txt` has what differs from that.

use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::schema::{Base, Field, TypeId, Wrap};

const TABLE: &str = include_str!("../../tables/defaults.txt");

/// A line of the table.
struct Row {
    field: &'static str,
    /// JSON, or `-` for nothing.
    value: &'static str,
    types: &'static str,
}

/// By field.
fn rows() -> &'static [Row] {
    static ROWS: OnceLock<Vec<Row>> = OnceLock::new();
    ROWS.get_or_init(|| {
        let row = |line: &'static str| {
            let (field, rest) = line.split_once(' ')?;
            let (value, types) = rest.split_once(' ')?;
            Some(Row { field, value, types })
        };
        TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(row).collect()
    })
}

/// Is this the end of a type's name?
fn names(end: &str, name: &str) -> bool {
    name.strip_suffix(end).is_some_and(|rest| rest.ends_with('.'))
}

/// What Go makes of nothing, where it is no pointer, list or map and has no form of its own in JSON.
fn zero(base: Base) -> Option<Value> {
    match base {
        Base::String => Some(json!("")),
        Base::Int32 | Base::Int64 | Base::Double => Some(json!(0)),
        Base::Bool => Some(json!(false)),
        Base::Type(_) => Some(json!({})),
        _ => None,
    }
}

/// What a field of a type is if it is left out.
pub(super) fn of(owner: TypeId, field: &Field) -> Option<Value> {
    let rows = rows();
    let first = rows.partition_point(|row| row.field < field.name);
    let of_field = rows.iter().skip(first).take_while(|row| row.field == field.name);
    if let Some(row) = { of_field }.find(|row| row.types.split(' ').any(|end| names(end, owner.name()))) {
        return serde_json::from_str(row.value).ok();
    }
    // Every object has its metadata, spec and status in itself.
    let part = matches!(field.name, "metadata" | "spec" | "status") && owner.gvks().next().is_some();
    let there = field.required || part && matches!(field.ty.base, Base::Type(_));
    if there && field.ty.wrap == Wrap::None { zero(field.ty.base) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A row that names nothing would say nothing, and one out of its place would not be found.
    #[test]
    fn each_row_is_of_a_field_that_there_is() {
        assert!(rows().is_sorted_by_key(|row| row.field));
        for Row { field, value, types } in rows() {
            assert!(*value == "-" || serde_json::from_str::<Value>(value).is_ok(), "{field} {value}");
            for end in types.split(' ') {
                let found = TypeId::all().any(|t| names(end, t.name()) && t.field(field).is_some());
                assert!(found, "{end}.{field}");
            }
        }
    }
}
