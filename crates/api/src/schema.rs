//! The types of the API: fields, list and map semantics, merge keys, protobuf numbers.
//!
//! Built-in types come from `tables/types.txt`, which `cargo xtask tables` derives; it is parsed once, on first use, into a few
//! flat vectors whose texts are slices of the embedded file. Custom resources bring [`crate::kinds::crd::Structural`] schemas.
//! [`Schema`] is one cheap handle over both, and is all that codecs, patches and documents need to know.

use std::sync::OnceLock;

use serde_json::Value;

use crate::kinds::crd::Structural;

const TYPES: &str = include_str!("../tables/types.txt");

/// What a type is at the bottom, once lists and maps are taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Base {
    /// Text.
    String,
    /// 32 bit integer.
    Int32,
    /// 64 bit integer.
    Int64,
    /// Floating point.
    Double,
    /// True or false.
    Bool,
    /// Bytes; base64 in JSON.
    Bytes,
    /// RFC 3339, seconds.
    Time,
    /// RFC 3339, microseconds.
    MicroTime,
    /// `resource.Quantity`.
    Quantity,
    /// An integer or text.
    IntOrString,
    /// An embedded object of any kind (`RawExtension`).
    Raw,
    /// The set of fields of a managed-fields entry.
    FieldsV1,
    /// Any JSON (`JSON` of CustomResourceDefinitions and its relatives).
    Json,
    /// An object type of the table.
    Type(TypeId),
}

/// Lists and maps around a [`Base`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wrap {
    /// The base itself.
    None,
    /// A list of it.
    List,
    /// A map from text to it.
    Map,
    /// A map from text to lists of it.
    MapOfLists,
}

/// A type: a base and what is around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ty {
    /// What is around the base.
    pub wrap: Wrap,
    /// The base.
    pub base: Base,
}

/// A type of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TypeId(u16);

/// How a list merges (`x-kubernetes-list-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    /// As a whole.
    Atomic,
    /// Each value is there or not.
    Set,
    /// Items are identified by their keys.
    Map,
}

/// How a map or an object merges (`x-kubernetes-map-type`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapType {
    /// As a whole.
    Atomic,
    /// Entry by entry, even where its type is atomic.
    Granular,
}

/// A field of a type.
#[derive(Clone, Copy, Debug)]
pub struct Field {
    /// JSON name.
    pub name: &'static str,
    /// Type.
    pub ty: Ty,
    /// Is it required by the schema?
    pub required: bool,
    /// Does its zero value (0, false, no text, an empty list or map) say something else than its absence?
    pub zero: bool,
    /// `x-kubernetes-list-type`.
    pub list: Option<ListType>,
    /// `x-kubernetes-list-map-keys`.
    pub keys: Words,
    /// `x-kubernetes-patch-merge-key`.
    pub merge_key: Option<&'static str>,
    /// `x-kubernetes-patch-strategy`: `merge`, `retainKeys`, both or `replace`.
    pub patch: Words,
    /// `x-kubernetes-map-type`.
    pub map: Option<MapType>,
    /// Protobuf field number; with several, the numbers of the embedded messages on the way. Empty: unknown.
    pub numbers: Numbers,
    /// Protobuf type, e.g. `int32`, `map<string, bytes>`.
    pub proto: &'static str,
}

/// Words separated by commas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Words(&'static str);

impl Words {
    /// Each word.
    pub fn iter(self) -> impl Iterator<Item = &'static str> {
        self.0.split(',').filter(|w| !w.is_empty())
    }

    /// Is there none?
    pub fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Is this one of them?
    pub fn has(self, word: &str) -> bool {
        self.iter().any(|w| w == word)
    }

    /// All of them, as they are written.
    pub fn as_str(self) -> &'static str {
        self.0
    }
}

/// Up to four protobuf numbers, outermost first; unused ones are 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, PartialOrd, Ord)]
pub struct Numbers(pub [u16; 4]);

impl Numbers {
    /// The numbers in use.
    pub fn path(&self) -> &[u16] {
        let n = self.0.iter().position(|n| *n == 0).unwrap_or(4);
        &self.0[..n]
    }
}

struct Type {
    name: &'static str,
    gvks: &'static str,
    no_proto: bool,
    unstructured: bool,
    atomic: bool,
    unions: &'static str,
    fields: std::ops::Range<u32>,
}

struct Table {
    /// Sorted by name.
    types: Vec<Type>,
    /// Each type's fields are together and sorted by name.
    fields: Vec<Field>,
}

fn table() -> &'static Table {
    static TABLE: OnceLock<Table> = OnceLock::new();
    TABLE.get_or_init(|| parse(TYPES))
}

/// Reads the table. Lines: `TYPE-NAME [key=value]...`, and below each, after a tab, `FIELD TYPE [key=value]...`.
/// The file is a committed artefact with tests of its own; a line that does not parse is left out.
fn parse(text: &'static str) -> Table {
    let mut names: Vec<&'static str> = Vec::new();
    for line in text.lines().filter(|l| !l.starts_with(['\t', '#']) && !l.is_empty()) {
        names.push(line.split(' ').next().unwrap_or_default());
    }
    let mut table = Table { types: Vec::with_capacity(names.len()), fields: Vec::with_capacity(4500) };
    for line in text.lines() {
        if line.starts_with('#') || line.is_empty() {
            continue;
        }
        let at = table.fields.len() as u32;
        if let Some(line) = line.strip_prefix('\t') {
            let Some(ty) = table.types.last_mut() else { continue };
            let Some(field) = parse_field(line, ty.name, &names) else { continue };
            table.fields.push(field);
            ty.fields.end = at + 1;
            continue;
        }
        let mut ty = Type {
            name: "",
            gvks: "",
            no_proto: false,
            unstructured: false,
            atomic: false,
            unions: "",
            fields: at..at,
        };
        for (i, word) in line.split(' ').enumerate() {
            match word.split_once('=') {
                _ if i == 0 => ty.name = word,
                Some(("gvk", v)) => ty.gvks = v,
                Some(("union", v)) => ty.unions = v,
                None if word == "atomic" => ty.atomic = true,
                None if word == "noproto" => ty.no_proto = true,
                None if word == "any" => ty.unstructured = true,
                _ => {}
            }
        }
        table.types.push(ty);
    }
    table
}

fn parse_field(line: &'static str, owner: &str, names: &[&'static str]) -> Option<Field> {
    let mut words = line.split(' ');
    let name = words.next()?;
    let ty = parse_type(words.next()?, owner, names)?;
    let mut field = Field {
        name,
        ty,
        required: false,
        zero: false,
        list: None,
        keys: Words(""),
        merge_key: None,
        patch: Words(""),
        map: None,
        numbers: Numbers::default(),
        proto: "",
    };
    for word in words {
        match word.split_once('=') {
            None if word == "required" => (field.required, field.zero) = (true, true),
            None if word == "zero" => field.zero = true,
            Some(("map", "atomic")) => field.map = Some(MapType::Atomic),
            Some(("map", "granular")) => field.map = Some(MapType::Granular),
            Some(("list", "atomic")) => field.list = Some(ListType::Atomic),
            Some(("list", "set")) => field.list = Some(ListType::Set),
            Some(("list", "map")) => field.list = Some(ListType::Map),
            Some(("keys", v)) => field.keys = Words(v),
            Some(("merge", v)) => field.merge_key = Some(v),
            Some(("patch", v)) => field.patch = Words(v),
            Some(("pb", v)) => {
                for (slot, n) in field.numbers.0.iter_mut().zip(v.split('.')) {
                    *slot = n.parse().ok()?;
                }
            }
            Some(("pt", v)) => field.proto = v,
            _ => {}
        }
    }
    Some(field)
}

fn parse_type(text: &str, owner: &str, names: &[&'static str]) -> Option<Ty> {
    let (wrap, base) = if let Some(inner) = text.strip_prefix("{[") {
        (Wrap::MapOfLists, inner.strip_suffix("]}")?)
    } else if let Some(inner) = text.strip_prefix('{') {
        (Wrap::Map, inner.strip_suffix('}')?)
    } else if let Some(inner) = text.strip_prefix('[') {
        (Wrap::List, inner.strip_suffix(']')?)
    } else {
        (Wrap::None, text)
    };
    let base = match base {
        "string" => Base::String,
        "int32" => Base::Int32,
        "int64" => Base::Int64,
        "double" => Base::Double,
        "bool" => Base::Bool,
        "bytes" => Base::Bytes,
        "Time" => Base::Time,
        "MicroTime" => Base::MicroTime,
        "Quantity" => Base::Quantity,
        "IntOrString" => Base::IntOrString,
        "RawExtension" => Base::Raw,
        "FieldsV1" => Base::FieldsV1,
        "any" => Base::Json,
        name => {
            let package = &owner[..=owner.rfind('.')?];
            let found = match name.strip_prefix('.') {
                Some(local) => {
                    let full = format!("{package}{local}");
                    names.binary_search(&full.as_str())
                }
                None => names.binary_search(&name),
            };
            Base::Type(TypeId(u16::try_from(found.ok()?).ok()?))
        }
    };
    Some(Ty { wrap, base })
}

impl TypeId {
    /// The type with this name, e.g. `io.k8s.api.core.v1.Pod`.
    pub fn named(name: &str) -> Option<TypeId> {
        let at = table().types.binary_search_by(|t| t.name.cmp(name)).ok()?;
        u16::try_from(at).ok().map(TypeId)
    }

    /// All types, by name.
    pub fn all() -> impl Iterator<Item = TypeId> {
        (0..table().types.len() as u16).map(TypeId)
    }

    fn row(self) -> &'static Type {
        &table().types[usize::from(self.0)]
    }

    /// Its name, e.g. `io.k8s.api.core.v1.Pod`.
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// The last part of its name, e.g. `Pod`.
    pub fn short_name(self) -> &'static str {
        let name = self.name();
        name.rsplit('.').next().unwrap_or(name)
    }

    /// Its fields, by name.
    pub fn fields(self) -> &'static [Field] {
        let range = &self.row().fields;
        table().fields.get(range.start as usize..range.end as usize).unwrap_or_default()
    }

    /// One field.
    pub fn field(self, name: &str) -> Option<&'static Field> {
        let fields = self.fields();
        fields.binary_search_by(|f| f.name.cmp(name)).ok().and_then(|at| fields.get(at))
    }

    /// Group, version, kind triples that it is the type of.
    pub fn gvks(self) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
        self.row().gvks.split(',').filter_map(|gvk| {
            let mut parts = gvk.split('/');
            Some((parts.next()?, parts.next()?, parts.next()?))
        })
    }

    /// Is there a protobuf form of it?
    pub fn has_proto(self) -> bool {
        !self.row().no_proto
    }

    /// Is it an object whose fields the table does not name?
    pub fn is_unstructured(self) -> bool {
        self.row().unstructured
    }

    /// Is it replaced as a whole under server-side apply, where a field does not say otherwise?
    pub fn is_atomic(self) -> bool {
        self.row().atomic
    }

    /// Its unions (`x-kubernetes-unions`): each one's discriminator, empty if it has none, and `field=Value` for each of its fields.
    pub fn unions(
        self,
    ) -> impl Iterator<Item = (&'static str, impl Iterator<Item = (&'static str, &'static str)>)> {
        self.row().unions.split(';').filter_map(|union| {
            let (discriminator, fields) = union.split_once(':')?;
            Some((discriminator, fields.split(',').filter_map(|f| f.split_once('='))))
        })
    }

    /// The type of a kind.
    pub fn of_gvk(group: &str, version: &str, kind: &str) -> Option<TypeId> {
        // Kinds that every group repeats (DeleteOptions, WatchEvent) are asked for by type name, so the first match is the one.
        TypeId::all().find(|t| t.gvks().any(|gvk| gvk == (group, version, kind)))
    }

    /// As a schema.
    pub fn schema(self) -> Schema<'static> {
        Schema::Builtin(Ty { wrap: Wrap::None, base: Base::Type(self) }, None)
    }
}

/// A handle on the schema of a value: built in, custom, or none.
#[derive(Clone, Copy, Debug)]
pub enum Schema<'a> {
    /// A type of the table, and the field it is the type of (which holds list and merge rules).
    Builtin(Ty, Option<&'static Field>),
    /// A custom resource's.
    Custom(&'a Structural),
    /// Anything goes.
    Any,
}

/// What a value of a [`Schema`] looks like.
#[derive(Clone, Copy, Debug)]
pub enum Shape<'a> {
    /// An object with named fields.
    Struct,
    /// An object with any keys, and the schema of the values.
    Map(Schema<'a>),
    /// A list and the schema of its items.
    List(Schema<'a>),
    /// Neither object nor list.
    Scalar(Base),
    /// Anything.
    Any,
}

impl<'a> Schema<'a> {
    /// What the value looks like.
    pub fn shape(self) -> Shape<'a> {
        match self {
            Schema::Any => Shape::Any,
            Schema::Custom(s) => s.shape(),
            Schema::Builtin(ty, field) => {
                let item = |wrap| Schema::Builtin(Ty { wrap, base: ty.base }, None);
                match (ty.wrap, ty.base) {
                    (Wrap::List, _) => Shape::List(item(Wrap::None)),
                    (Wrap::Map, _) => Shape::Map(item(Wrap::None)),
                    (Wrap::MapOfLists, _) => Shape::Map(item(Wrap::List)),
                    (Wrap::None, Base::Type(t)) if t.is_unstructured() => Shape::Any,
                    (Wrap::None, Base::Type(_)) => {
                        let _ = field;
                        Shape::Struct
                    }
                    (Wrap::None, Base::Raw | Base::Json | Base::FieldsV1) => Shape::Any,
                    (Wrap::None, base) => Shape::Scalar(base),
                }
            }
        }
    }

    /// The schema of a field of a struct, or of a value of a map. `None`: there is no such field.
    pub fn field(self, name: &str) -> Option<Schema<'a>> {
        match self {
            Schema::Any => Some(Schema::Any),
            Schema::Custom(s) => s.field(name),
            Schema::Builtin(Ty { wrap: Wrap::None, base: Base::Type(t) }, _) if !t.is_unstructured() => {
                t.field(name).map(|f| Schema::Builtin(f.ty, Some(f)))
            }
            other => match other.shape() {
                Shape::Map(values) => Some(values),
                Shape::Any => Some(Schema::Any),
                _ => None,
            },
        }
    }

    /// The schema of a list's items ([`Schema::Any`] where it is no list).
    pub fn items(self) -> Schema<'a> {
        match self.shape() {
            Shape::List(items) => items,
            _ => Schema::Any,
        }
    }

    /// How a list merges under server-side apply. Lists without a rule are atomic.
    pub fn list_type(self) -> ListType {
        match self {
            Schema::Builtin(_, Some(f)) => f.list.unwrap_or(ListType::Atomic),
            Schema::Custom(s) => s.list_type(),
            _ => ListType::Atomic,
        }
    }

    /// Keys of a [`ListType::Map`] list.
    pub fn list_keys(self) -> Vec<&'a str> {
        match self {
            Schema::Builtin(_, Some(f)) => f.keys.iter().collect(),
            Schema::Custom(s) => s.list_keys(),
            _ => Vec::new(),
        }
    }

    /// What a key of a list's items is where it is left out, if that is said. Of the built-in types' keys, whose defaults the
    /// table does not have, it is of one alone.
    pub fn key_default(self) -> Option<Value> {
        match self {
            Schema::Builtin(_, Some(f)) => (f.name == "protocol").then(|| Value::from("TCP")),
            Schema::Custom(s) => s.default_value().cloned(),
            _ => None,
        }
    }

    /// Is an object replaced as a whole under server-side apply?
    pub fn is_atomic_map(self) -> bool {
        match self {
            Schema::Builtin(ty, f) => match (f.and_then(|f| f.map), ty) {
                (Some(map), _) => map == MapType::Atomic,
                (None, Ty { wrap: Wrap::None, base: Base::Type(t) }) => t.is_atomic(),
                _ => false,
            },
            Schema::Custom(s) => s.is_atomic_map(),
            _ => false,
        }
    }

    /// The table's type, if it is one.
    pub fn type_id(self) -> Option<TypeId> {
        match self {
            Schema::Builtin(Ty { wrap: Wrap::None, base: Base::Type(t) }, _) => Some(t),
            _ => None,
        }
    }

    /// The field of the table that it is the schema of.
    pub fn table_field(self) -> Option<&'static Field> {
        match self {
            Schema::Builtin(_, f) => f,
            _ => None,
        }
    }
}
