//! JSON with duplicate fields noticed, and values checked against a schema.
