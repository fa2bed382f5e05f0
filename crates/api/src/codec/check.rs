//! Fits a decoded value to a schema, as upstream's decoder fits it to Go types: unknown fields go (and are named), nulls go,
//! zero values that Go's encoder leaves out go, quantities and times take their canonical form, and a value of the wrong type is an error in Go's words.

use std::borrow::Cow;

use base64::Engine as _;
use serde_json::Value;

use super::json::MAX_PROBLEMS;
use crate::kinds::crd::Structural;
use crate::quantity::Quantity;
use crate::schema::{Base, Schema, Shape, Ty, Wrap};

/// How long the paths of unknown fields may get together, in bytes, before no more are told of: below a long name there may be
/// very many.
const MAX_TOLD: usize = 64 << 10;

/// Fits `value` to `schema`. Unknown fields are appended to `unknown` as paths, as many as are told of.
pub fn fit(value: &mut Value, schema: Schema<'_>, unknown: &mut Vec<String>) -> Result<(), String> {
    Walk::new(unknown).all(value, schema)
}

/// As [`fit`], of what comes from the store or a conversion: metadata of objects within custom resources that is of a wrong type
/// goes without a word.
pub fn fit_stored(value: &mut Value, schema: Schema<'_>, unknown: &mut Vec<String>) -> Result<(), String> {
    Walk { drops: true, ..Walk::new(unknown) }.all(value, schema)
}

/// As [`fit`], of what somebody wants to own: a field is theirs whatever its value, so zero values stay.
pub fn fit_applied(value: &mut Value, schema: Schema<'_>, unknown: &mut Vec<String>) -> Result<(), String> {
    Walk { zeros: true, ..Walk::new(unknown) }.all(value, schema)
}

/// As [`fit`], with the paths of all unknown fields.
pub fn unsaid(value: &mut Value, schema: Schema<'_>) -> Vec<String> {
    let mut unknown = Vec::new();
    // What is of a wrong type is for validation to refuse.
    let _ = Walk { most: usize::MAX, room: usize::MAX, drops: true, ..Walk::new(&mut unknown) }
        .all(value, schema);
    unknown
}

/// Is this what a Go client leaves out, and so nothing that can be told from the field's absence? Of two clients, one writes
/// such a value and the other does not: kept, it would be a change that neither of them has made.
fn says_nothing(value: &Value, schema: Schema<'_>) -> bool {
    let Schema::Builtin(ty, Some(field)) = schema else { return false };
    if field.zero {
        return false;
    }
    match (ty.wrap, ty.base, value) {
        (Wrap::List, _, Value::Array(items)) => items.is_empty(),
        (Wrap::Map | Wrap::MapOfLists, _, Value::Object(map)) => map.is_empty(),
        (Wrap::None, Base::String | Base::Bytes, Value::String(text)) => text.is_empty(),
        (Wrap::None, Base::Bool, Value::Bool(flag)) => !flag,
        (Wrap::None, Base::Int32 | Base::Int64 | Base::Double, Value::Number(n)) => n.as_f64() == Some(0.0),
        _ => false,
    }
}

enum Step {
    Field(String),
    Index(usize),
}

struct Walk<'a> {
    path: Vec<Step>,
    unknown: &'a mut Vec<String>,
    /// Name of the innermost struct.
    owner: String,
    /// Whether zero values stay that Go would leave out.
    zeros: bool,
    /// How many unknown fields are told of.
    most: usize,
    /// How many bytes their paths may still have.
    room: usize,
    /// In metadata of a custom resource, or of an object within one: how much of the path leads there. Upstream decodes it by
    /// itself, and its errors know nothing of what is around it.
    meta: usize,
    /// What is unknown in the metadata of objects within a custom resource.
    within: Vec<String>,
    /// Whether such metadata goes where it is of a wrong type.
    drops: bool,
}

impl<'a> Walk<'a> {
    fn new(unknown: &'a mut Vec<String>) -> Self {
        Walk {
            path: Vec::new(),
            unknown,
            owner: String::new(),
            zeros: false,
            most: MAX_PROBLEMS,
            room: MAX_TOLD,
            meta: 0,
            within: Vec::new(),
            drops: false,
        }
    }

    fn all(mut self, value: &mut Value, schema: Schema<'_>) -> Result<(), String> {
        let told = self.unknown.len();
        self.value(value, schema)?;
        if let (Schema::Custom(_), Some(own)) = (schema, self.unknown.get_mut(told..)) {
            // In upstream's order: of the metadata, of the object, of objects within it.
            own.sort_by(|a, b| (!a.starts_with("metadata."), a).cmp(&(!b.starts_with("metadata."), b)));
            self.within.sort();
            self.unknown.append(&mut self.within);
        }
        Ok(())
    }

    fn tell(&mut self, field: &str) {
        if self.unknown.len() + self.within.len() < self.most && self.room > 0 {
            let path = self.path_with(field);
            self.room = self.room.saturating_sub(path.len());
            if self.meta > 1 { self.within.push(path) } else { self.unknown.push(path) }
        }
    }

    /// Metadata of a custom resource, or of an object within one. Returns whether it stays.
    fn metadata(&mut self, value: &mut Value, schema: Schema<'_>, embedded: bool) -> Result<bool, String> {
        let outer = std::mem::replace(&mut self.meta, self.path.len());
        let depth = self.path.len();
        let shown = embedded.then(|| value.clone());
        let fitted = self.value(value, schema);
        self.path.truncate(depth);
        self.meta = outer;
        match (fitted, shown) {
            (Ok(()), _) => Ok(true),
            (Err(_), Some(_)) if self.drops => Ok(false),
            (Err(why), Some(shown)) => Err(self.invalid(&shown, &why)),
            (Err(why), None) => Err(why),
        }
    }

    /// What upstream says of a value in its place.
    fn invalid(&self, value: &Value, why: &str) -> String {
        let mut path = crate::Path::root();
        for step in &self.path {
            path = match step {
                Step::Field(name) => path.child(name),
                Step::Index(i) => path.index(*i),
            };
        }
        let mut errors = crate::ErrorList::new();
        errors.invalid(&path, value, why);
        errors.message()
    }

    /// `spec.containers[0].image`
    fn path_with(&self, field: &str) -> String {
        let mut out = String::new();
        for step in &self.path {
            match step {
                Step::Field(f) => {
                    if !out.is_empty() {
                        out.push('.');
                    }
                    out.push_str(f);
                }
                Step::Index(i) => out.push_str(&format!("[{i}]")),
            }
        }
        if !out.is_empty() {
            out.push('.');
        }
        out + field
    }

    fn wrong(&self, value: &Value, schema: Schema<'_>) -> String {
        let is = match value {
            Value::Null => "null".to_owned(),
            Value::Bool(_) => "bool".to_owned(),
            Value::Number(n)
                if n.is_f64()
                    || matches!(
                        schema,
                        Schema::Builtin(Ty { wrap: Wrap::None, base: Base::Int32 | Base::Int64 }, _)
                    ) =>
            {
                format!("number {n}")
            }
            Value::Number(_) => "number".to_owned(),
            Value::String(_) => "string".to_owned(),
            Value::Array(_) => "array".to_owned(),
            Value::Object(_) => "object".to_owned(),
        };
        let fields: Vec<&str> = self
            .path
            .iter()
            .skip(self.meta)
            .filter_map(|s| match s {
                Step::Field(f) => Some(f.as_str()),
                Step::Index(_) => None,
            })
            .collect();
        let go = go_type(schema);
        if fields.is_empty() {
            return format!("json: cannot unmarshal {is} into Go value of type {go}");
        }
        format!(
            "json: cannot unmarshal {is} into Go struct field {}.{} of type {go}",
            self.owner,
            fields.join(".")
        )
    }

    fn value(&mut self, value: &mut Value, schema: Schema<'_>) -> Result<(), String> {
        if let Schema::Custom(structural) = schema {
            return self.custom(value, structural, structural.preserves());
        }
        match schema.shape() {
            Shape::Any => Ok(()),
            Shape::Struct => {
                if !value.is_object() {
                    return Err(self.wrong(value, schema));
                }
                let before = std::mem::replace(
                    &mut self.owner,
                    schema.type_id().map(|t| t.short_name().to_owned()).unwrap_or_default(),
                );
                let Value::Object(map) = value else { return Ok(()) };
                // Which fields stay, in their order: any number may go.
                let mut stays = Vec::with_capacity(map.len());
                for (name, item) in map.iter_mut() {
                    let inner = schema.field(name);
                    stays.push(inner.is_some() && !item.is_null());
                    match inner {
                        None => self.tell(name),
                        Some(inner) if stays.last() == Some(&true) => {
                            self.path.push(Step::Field(name.clone()));
                            let depth = self.path.len();
                            match self.value(item, inner) {
                                // A field of metadata goes as a whole.
                                Err(_) if self.drops && self.meta > 1 && self.meta + 1 == depth => {
                                    self.path.truncate(depth - 1);
                                    if let Some(last) = stays.last_mut() {
                                        *last = false;
                                    }
                                    continue;
                                }
                                fitted => fitted?,
                            }
                            self.path.pop();
                            if let Some(last) = stays.last_mut().filter(|_| !self.zeros) {
                                *last = !says_nothing(item, inner);
                            }
                        }
                        Some(_) => {}
                    }
                }
                let mut stays = stays.into_iter();
                map.retain(|_, _| stays.next().unwrap_or(true));
                self.owner = before;
                Ok(())
            }
            Shape::Map(values) => {
                let Value::Object(map) = value else { return Err(self.wrong(value, schema)) };
                for (name, item) in map.iter_mut() {
                    if item.is_null() {
                        *item = zero(values);
                        continue;
                    }
                    self.path.push(Step::Field(name.clone()));
                    self.value(item, values)?;
                    self.path.pop();
                }
                Ok(())
            }
            Shape::List(items) => {
                let Value::Array(list) = value else { return Err(self.wrong(value, schema)) };
                for (i, item) in list.iter_mut().enumerate() {
                    if item.is_null() {
                        *item = zero(items);
                        continue;
                    }
                    self.path.push(Step::Index(i));
                    self.value(item, items)?;
                    self.path.pop();
                }
                Ok(())
            }
            Shape::Scalar(base) => self.scalar(value, base, schema),
        }
    }

    /// A value of a custom resource: by what it is, not by what it should be, which is for validation to judge. What is not
    /// named goes, unless it is kept, and so does a null where none may be. `keeps` is also said of what is in a list that
    /// keeps what it does not name.
    fn custom(&mut self, value: &mut Value, schema: &Structural, keeps: bool) -> Result<(), String> {
        match value {
            Value::Object(map) => {
                let mut stays = Vec::with_capacity(map.len());
                for (name, item) in map.iter_mut() {
                    let (inner, stay) = match schema.field(name) {
                        Some(Schema::Custom(s)) => (Schema::Custom(s), !(item.is_null() && s.drops_null())),
                        // Metadata that is none is as if it were not there.
                        Some(other) => (other, matches!(other, Schema::Any) || !item.is_null()),
                        None if keeps => (Schema::Any, true),
                        None => {
                            self.tell(name);
                            (Schema::Any, false)
                        }
                    };
                    stays.push(stay);
                    if !stay {
                        continue;
                    }
                    let embedded = schema.is_embedded();
                    self.path.push(Step::Field(name.clone()));
                    let fitted = match inner {
                        Schema::Any if embedded && matches!(name.as_str(), "apiVersion" | "kind") => {
                            match item.is_string() {
                                true => Ok(true),
                                false if self.drops => Ok(false),
                                false => Err(self.invalid(item, "must be a string")),
                            }
                        }
                        Schema::Any => Ok(true),
                        Schema::Custom(_) => self.value(item, inner).map(|()| true),
                        Schema::Builtin(..) => self.metadata(item, inner, embedded),
                    };
                    if let Some(last) = stays.last_mut() {
                        *last = fitted?;
                    }
                    self.path.pop();
                }
                let mut stays = stays.into_iter();
                map.retain(|_, _| stays.next().unwrap_or(true));
            }
            Value::Array(list) => {
                if keeps && schema.items_schema().is_none() {
                    return Ok(());
                }
                let items = schema.items_or_nothing();
                for (i, item) in list.iter_mut().enumerate() {
                    self.path.push(Step::Index(i));
                    self.custom(item, items, keeps || items.preserves())?;
                    self.path.pop();
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn scalar(&self, value: &mut Value, base: Base, schema: Schema<'_>) -> Result<(), String> {
        let good = match (base, &*value) {
            (Base::String, Value::String(_))
            | (Base::Bool, Value::Bool(_))
            | (Base::Double, Value::Number(_)) => true,
            (Base::Int32, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Base::Int64, Value::Number(n)) => n.as_i64().is_some(),
            (Base::IntOrString, Value::String(_)) => true,
            (Base::IntOrString, Value::Number(n)) => n.as_i64().is_some_and(|n| i32::try_from(n).is_ok()),
            (Base::Quantity, Value::String(_) | Value::Number(_)) => {
                let quantity = Quantity::of_value(value).map_err(|e| e.to_string())?;
                let text = quantity.to_string();
                if value.as_str() != Some(&text) {
                    *value = Value::String(text);
                }
                return Ok(());
            }
            (Base::Bytes, Value::String(s)) => {
                // Go's decoder passes over line breaks, which folded YAML is full of.
                let broken = s.contains(['\n', '\r']);
                let plain = if broken { s.replace(['\n', '\r'], "").into() } else { Cow::from(s) };
                if let Err(e) = base64::engine::general_purpose::STANDARD.decode(plain.as_bytes()) {
                    let at = match e {
                        base64::DecodeError::InvalidByte(at, _)
                        | base64::DecodeError::InvalidLastSymbol(at, _) => at,
                        _ => plain.len(),
                    };
                    return Err(format!("illegal base64 data at input byte {at}"));
                }
                if broken {
                    *value = Value::String(plain.into_owned());
                }
                return Ok(());
            }
            (Base::Time | Base::MicroTime, Value::String(s)) => {
                let Ok(at) = s.parse::<jiff::Timestamp>() else {
                    let form = "2006-01-02T15:04:05Z07:00";
                    return Err(format!(
                        "parsing time \"{s}\" as \"{form}\": cannot parse \"{s}\" as \"2006\""
                    ));
                };
                let text =
                    if base == Base::Time { crate::meta::time(at) } else { crate::meta::micro_time(at) };
                if *s != text {
                    *value = Value::String(text);
                }
                return Ok(());
            }
            _ => false,
        };
        if good { Ok(()) } else { Err(self.wrong(value, schema)) }
    }
}

/// Go's zero value, which a null in a list or map decodes to.
fn zero(schema: Schema<'_>) -> Value {
    match schema.shape() {
        Shape::Struct | Shape::Map(_) => Value::Object(crate::Map::new()),
        Shape::List(_) => Value::Array(Vec::new()),
        Shape::Scalar(Base::Bool) => Value::Bool(false),
        Shape::Scalar(Base::Int32 | Base::Int64 | Base::Double | Base::IntOrString) => 0.into(),
        Shape::Scalar(Base::Quantity) => Value::String("0".to_owned()),
        Shape::Scalar(_) => Value::String(String::new()),
        Shape::Any => Value::Null,
    }
}

/// How Go's error names the type: `[]v1.Container`, `map[string]string`, `int32`.
fn go_type(schema: Schema<'_>) -> String {
    let Schema::Builtin(ty, _) = schema else { return "map[string]interface {}".to_owned() };
    let base = match ty.base {
        Base::String => "string".to_owned(),
        Base::Int32 => "int32".to_owned(),
        Base::Int64 => "int64".to_owned(),
        Base::Double => "float64".to_owned(),
        Base::Bool => "bool".to_owned(),
        Base::Bytes => "[]uint8".to_owned(),
        Base::Time => "v1.Time".to_owned(),
        Base::MicroTime => "v1.MicroTime".to_owned(),
        Base::Quantity => "resource.Quantity".to_owned(),
        Base::IntOrString => "intstr.IntOrString".to_owned(),
        Base::Raw => "runtime.RawExtension".to_owned(),
        Base::FieldsV1 => "v1.FieldsV1".to_owned(),
        Base::Json => "interface {}".to_owned(),
        Base::Type(t) => {
            let mut parts = t.name().rsplit('.');
            let (name, package) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            format!("{package}.{name}")
        }
    };
    match ty.wrap {
        Wrap::None => base,
        Wrap::List => format!("[]{base}"),
        Wrap::Map => format!("map[string]{base}"),
        Wrap::MapOfLists => format!("map[string][]{base}"),
    }
}
