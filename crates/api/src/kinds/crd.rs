//! Custom resources: structural schemas, and the [`super::Kind`] that a CustomResourceDefinition makes.

use crate::schema::{ListType, Schema, Shape};

/// A structural schema, compiled from `openAPIV3Schema`.
#[derive(Debug, Default)]
pub struct Structural {}

impl Structural {
    /// What the value looks like.
    pub fn shape(&self) -> Shape<'_> {
        Shape::Any
    }

    /// The schema of a field.
    pub fn field(&self, _name: &str) -> Option<Schema<'_>> {
        Some(Schema::Any)
    }

    /// How a list merges.
    pub fn list_type(&self) -> ListType {
        ListType::Atomic
    }

    /// Keys of a list of type map.
    pub fn list_keys(&self) -> Vec<&str> {
        Vec::new()
    }

    /// Is the object replaced as a whole?
    pub fn is_atomic_map(&self) -> bool {
        false
    }
}
impl Structural {
    /// Its OpenAPI form.
    pub fn openapi(&self, _v3: bool) -> serde_json::Value {
        serde_json::json!({"type": "object"})
    }
}
