//! The JSON schema of what a type decodes.
//!
//! The type is decoded from nothing: every value it asks for is noted, and an empty one
//! of that kind is given.

use std::fmt;

use serde::{
    Deserializer,
    de::{
        DeserializeOwned, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer,
    },
};
use serde_json::{Map, Value, json};

/// The schema. A type that takes no empty value ends its part early: the names of a
/// struct's fields are all there, the schemas of those after it are not.
pub(crate) fn schema_of<T: DeserializeOwned>() -> Value {
    let mut schema = Value::Bool(true);
    // What was noted counts; the value is of no use.
    let _ = T::deserialize(Tracer {
        schema: &mut schema,
    });
    schema
}

/// The schema of that or `null`.
pub(crate) fn nullable(mut schema: Value) -> Value {
    match schema.get_mut("type") {
        Some(Value::String(kind)) => {
            schema["type"] = json!([std::mem::take(kind), "null"]);
            schema
        }
        _ => json!({"anyOf": [schema, {"type": "null"}]}),
    }
}

/// Nothing was decoded.
#[derive(Debug)]
struct Refused;

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an empty value is not taken")
    }
}

impl std::error::Error for Refused {}

impl serde::de::Error for Refused {
    fn custom<T: fmt::Display>(_: T) -> Refused {
        Refused
    }
}

struct Tracer<'s> {
    schema: &'s mut Value,
}

macro_rules! scalar {
    ($($method:ident $kind:literal $visit:ident $value:expr;)*) => {
        $(fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
            *self.schema = json!({"type": $kind});
            visitor.$visit($value)
        })*
    };
}

impl<'de> Deserializer<'de> for Tracer<'_> {
    type Error = Refused;

    scalar! {
        deserialize_bool "boolean" visit_bool false;
        deserialize_i8 "integer" visit_i64 0;
        deserialize_i16 "integer" visit_i64 0;
        deserialize_i32 "integer" visit_i64 0;
        deserialize_i64 "integer" visit_i64 0;
        deserialize_u8 "integer" visit_u64 0;
        deserialize_u16 "integer" visit_u64 0;
        deserialize_u32 "integer" visit_u64 0;
        deserialize_u64 "integer" visit_u64 0;
        deserialize_f32 "number" visit_f64 0.0;
        deserialize_f64 "number" visit_f64 0.0;
        deserialize_char "string" visit_char ' ';
        deserialize_str "string" visit_str "";
        deserialize_string "string" visit_str "";
        deserialize_bytes "string" visit_bytes &[];
        deserialize_byte_buf "string" visit_bytes &[];
        deserialize_identifier "string" visit_str "";
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_unit()
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        let schema = self.schema;
        let visited = visitor.visit_some(Tracer {
            schema: &mut *schema,
        });
        let described = std::mem::take(schema);
        *schema = nullable(described);
        visited
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.schema = json!({"type": "array", "items": true});
        visitor.visit_seq(Items {
            schema: &mut self.schema["items"],
            is_done: false,
        })
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Refused> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Refused> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Refused> {
        *self.schema = json!({"type": "object", "additionalProperties": true});
        visitor.visit_map(Items {
            schema: &mut self.schema["additionalProperties"],
            is_done: false,
        })
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Refused> {
        let properties: Map<_, _> = fields
            .iter()
            .map(|field| ((*field).to_owned(), Value::Bool(true)))
            .collect();
        *self.schema = json!({"title": name, "type": "object", "properties": properties});
        visitor.visit_map(Fields {
            properties: &mut self.schema["properties"],
            fields,
            next: "",
        })
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Refused> {
        *self.schema = json!({"type": "string", "enum": variants});
        Err(Refused)
    }
}

/// One entry of a list or a map.
struct Items<'s> {
    schema: &'s mut Value,
    is_done: bool,
}

impl<'de> SeqAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, Refused> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(None);
        }
        let schema = &mut *self.schema;
        seed.deserialize(Tracer { schema }).map(Some)
    }
}

impl<'de> MapAccess<'de> for Items<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        if std::mem::replace(&mut self.is_done, true) {
            return Ok(None);
        }
        seed.deserialize(StrDeserializer::new("")).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let schema = &mut *self.schema;
        seed.deserialize(Tracer { schema })
    }
}

/// The fields of a struct, one after the other.
struct Fields<'s> {
    properties: &'s mut Value,
    fields: &'static [&'static str],
    next: &'static str,
}

impl<'de> MapAccess<'de> for Fields<'_> {
    type Error = Refused;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Refused> {
        let Some((first, rest)) = self.fields.split_first() else {
            return Ok(None);
        };
        (self.next, self.fields) = (first, rest);
        seed.deserialize(StrDeserializer::new(first)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Refused> {
        let schema = &mut self.properties[self.next];
        seed.deserialize(Tracer { schema })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Deserialize)]
    #[serde(rename = "Outer", rename_all = "PascalCase")]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Outer {
        text: Option<String>,
        labels: BTreeMap<String, u64>,
        inner: Vec<Inner>,
        any: Value,
        kind: Kind,
        after: bool,
    }

    #[derive(Deserialize)]
    #[expect(dead_code, reason = "only its shape counts")]
    struct Inner {
        is: bool,
        ratio: f32,
    }

    #[derive(Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        One,
        Two,
    }

    #[test]
    fn a_type_is_described_by_what_it_asks_for() {
        let inner = json!({
            "title": "Inner", "type": "object",
            "properties": {"is": {"type": "boolean"}, "ratio": {"type": "number"}},
        });
        assert_eq!(
            schema_of::<Outer>(),
            json!({
                "title": "Outer", "type": "object",
                "properties": {
                    "Text": {"type": ["string", "null"]},
                    "Labels": {"type": "object", "additionalProperties": {"type": "integer"}},
                    "Inner": {"type": "array", "items": inner},
                    "Any": true,
                    "Kind": {"type": "string", "enum": ["one", "two"]},
                    // An enumeration has no empty value.
                    "After": true,
                },
            })
        );
    }
}
