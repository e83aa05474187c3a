//! JSON as the engine's clients send it, decoded as the engine does.
//!
//! On top of `serde_json`: field names match without regard to case, `null`
//! leaves a field at its zero value, and a value of the wrong kind is refused
//! in the engine's words (`json: cannot unmarshal number into Go struct field
//! SecretSpec.Name of type string`). It streams: nothing is copied besides
//! what ends up in the target.
//!
//! A target derives `Deserialize` with `#[serde(default, rename_all =
//! "PascalCase")]`, its defaults being zero values, and takes enumerations as
//! strings. A field given twice is refused, where the engine takes the last.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, MapAccess, SeqAccess, Visitor, value::StrDeserializer},
};

/// Why a body is not what was expected; the texts are the engine's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    /// No JSON value at all.
    Empty,
    /// The value is not whole.
    UnexpectedEof,
    /// Bytes after the value.
    Trailing,
    /// Not JSON, or a value of the wrong kind.
    Text(String),
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            DecodeError::Empty => "EOF",
            DecodeError::UnexpectedEof => "unexpected EOF",
            DecodeError::Trailing => "unexpected content after JSON",
            DecodeError::Text(text) => text,
        })
    }
}

/// What may follow the value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rest {
    /// Anything: it is not looked at (20.10).
    Ignored,
    /// White space only (28.x).
    Refused,
}

/// Decodes the first JSON value in `body`.
///
/// # Errors
/// See [`DecodeError`].
pub(crate) fn decode<'de, T: Deserialize<'de>>(
    body: &'de [u8],
    rest: Rest,
) -> Result<T, DecodeError> {
    if body.iter().all(u8::is_ascii_whitespace) {
        return Err(DecodeError::Empty);
    }
    let mut json = serde_json::Deserializer::from_slice(body);
    let value = T::deserialize(Lenient {
        inner: &mut json,
        at: None,
    })
    .map_err(|error| decode_error(&error, body))?;
    match rest {
        Rest::Refused if json.end().is_err() => Err(DecodeError::Trailing),
        _ => Ok(value),
    }
}

/// The engine's words for what `serde_json` found.
fn decode_error(error: &serde_json::Error, body: &[u8]) -> DecodeError {
    if error.is_eof() {
        return DecodeError::UnexpectedEof;
    }
    let text = error.to_string();
    if error.is_data() {
        // Our own texts, with the position that serde_json appends cut off.
        let text = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(text, _)| text);
        return DecodeError::Text(text.to_owned());
    }
    let offending = body
        .split(|byte| *byte == b'\n')
        .nth(error.line().saturating_sub(1))
        .and_then(|line| line.get(error.column().saturating_sub(1)))
        .copied();
    DecodeError::Text(match offending {
        Some(byte) => format!(
            "invalid character '{}' looking for beginning of value",
            char::from(byte).escape_default()
        ),
        None => text,
    })
}

/// Where a value stands: fields from the outermost struct inwards.
#[derive(Clone, Copy)]
struct Place<'p> {
    outer: Option<&'p Place<'p>>,
    structure: &'static str,
    field: &'static str,
}

impl Place<'_> {
    fn path(&self, out: &mut String) {
        if let Some(outer) = self.outer {
            outer.path(out);
            out.push('.');
        }
        out.push_str(self.field);
    }
}

/// What the target asks for, with the name Go has for it.
#[derive(Clone, Copy)]
enum Want {
    Any,
    Bool,
    Text,
    Bytes,
    Signed(&'static str, i64, i64),
    Unsigned(&'static str, u64),
    Float(&'static str),
    Seq,
    Map,
    Struct(&'static str, &'static [&'static str]),
}

impl Want {
    fn go_name(self) -> String {
        match self {
            Want::Any => "interface {}".to_owned(),
            Want::Bool => "bool".to_owned(),
            Want::Text => "string".to_owned(),
            Want::Bytes => "[]uint8".to_owned(),
            Want::Signed(name, ..) | Want::Unsigned(name, _) | Want::Float(name) => name.to_owned(),
            Want::Seq => "[]interface {}".to_owned(),
            Want::Map => "map[string]string".to_owned(),
            Want::Struct(name, _) => format!("swarm.{name}"),
        }
    }
}

/// A deserializer that reads as the engine does.
struct Lenient<'p, D> {
    inner: D,
    at: Option<&'p Place<'p>>,
}

impl<'p, D> Lenient<'p, D> {
    fn read<'de, V: Visitor<'de>>(self, want: Want, visitor: V) -> Result<V::Value, D::Error>
    where
        D: Deserializer<'de>,
    {
        self.inner.deserialize_any(Checked {
            visitor,
            want,
            at: self.at,
        })
    }
}

macro_rules! signed {
    ($($method:ident $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.read(
                Want::Signed($go, i64::from(<$type>::MIN), i64::from(<$type>::MAX)),
                visitor,
            )
        }
    )*};
}

macro_rules! unsigned {
    ($($method:ident $type:ty, $go:literal;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.read(Want::Unsigned($go, u64::from(<$type>::MAX)), visitor)
        }
    )*};
}

macro_rules! wanted {
    ($($method:ident $want:expr;)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.read($want, visitor)
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Lenient<'_, D> {
    type Error = D::Error;

    signed! {
        deserialize_i8 i8, "int8";
        deserialize_i16 i16, "int16";
        deserialize_i32 i32, "int32";
        deserialize_i64 i64, "int64";
    }
    unsigned! {
        deserialize_u8 u8, "uint8";
        deserialize_u16 u16, "uint16";
        deserialize_u32 u32, "uint32";
        deserialize_u64 u64, "uint64";
    }
    wanted! {
        deserialize_any Want::Any;
        deserialize_bool Want::Bool;
        deserialize_f32 Want::Float("float32");
        deserialize_f64 Want::Float("float64");
        deserialize_char Want::Text;
        deserialize_str Want::Text;
        deserialize_string Want::Text;
        deserialize_identifier Want::Text;
        deserialize_bytes Want::Bytes;
        deserialize_byte_buf Want::Bytes;
        deserialize_unit Want::Any;
        deserialize_seq Want::Seq;
        deserialize_map Want::Map;
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_option(Optional {
            visitor,
            at: self.at,
        })
    }
    fn deserialize_unit_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.read(Want::Struct(name, &[]), visitor)
    }
    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        visitor.visit_newtype_struct(self)
    }
    fn deserialize_tuple<V: Visitor<'de>>(
        self,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.read(Want::Seq, visitor)
    }
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _name: &'static str,
        _len: usize,
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.read(Want::Seq, visitor)
    }
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.read(Want::Struct(name, fields), visitor)
    }
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, D::Error> {
        self.inner.deserialize_enum(name, variants, visitor)
    }
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.inner.deserialize_ignored_any(visitor)
    }
}

/// Passes on values of the wanted kind, `null` as zero, and refuses others.
struct Checked<'p, V> {
    visitor: V,
    want: Want,
    at: Option<&'p Place<'p>>,
}

impl<V> Checked<'_, V> {
    fn wrong<E: de::Error, T>(&self, found: impl fmt::Display) -> Result<T, E> {
        let wanted = self.want.go_name();
        Err(E::custom(match self.at {
            Some(place) => {
                let mut path = String::new();
                place.path(&mut path);
                format!(
                    "json: cannot unmarshal {found} into Go struct field {}.{path} of type {wanted}",
                    place.structure
                )
            }
            None => format!("json: cannot unmarshal {found} into Go value of type {wanted}"),
        }))
    }
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Checked<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }
    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        match self.want {
            Want::Any => self.visitor.visit_unit(),
            Want::Bool => self.visitor.visit_bool(false),
            Want::Text | Want::Bytes => self.visitor.visit_str(""),
            Want::Signed(..) => self.visitor.visit_i64(0),
            Want::Unsigned(..) => self.visitor.visit_u64(0),
            Want::Float(_) => self.visitor.visit_f64(0.0),
            Want::Seq => self.visitor.visit_seq(Nothing(std::marker::PhantomData)),
            Want::Map | Want::Struct(..) => {
                self.visitor.visit_map(Nothing(std::marker::PhantomData))
            }
        }
    }
    fn visit_bool<E: de::Error>(self, value: bool) -> Result<V::Value, E> {
        match self.want {
            Want::Any | Want::Bool => self.visitor.visit_bool(value),
            _ => self.wrong("bool"),
        }
    }
    fn visit_u64<E: de::Error>(self, value: u64) -> Result<V::Value, E> {
        match self.want {
            Want::Any => self.visitor.visit_u64(value),
            Want::Unsigned(_, max) if value <= max => self.visitor.visit_u64(value),
            Want::Signed(_, _, max) if i64::try_from(value).is_ok_and(|v| v <= max) => {
                self.visitor.visit_u64(value)
            }
            Want::Float(_) => self.visitor.visit_u64(value),
            Want::Unsigned(..) | Want::Signed(..) => self.wrong(format_args!("number {value}")),
            _ => self.wrong("number"),
        }
    }
    fn visit_i64<E: de::Error>(self, value: i64) -> Result<V::Value, E> {
        match self.want {
            Want::Any | Want::Float(_) => self.visitor.visit_i64(value),
            Want::Signed(_, min, max) if (min..=max).contains(&value) => {
                self.visitor.visit_i64(value)
            }
            Want::Unsigned(..) | Want::Signed(..) => self.wrong(format_args!("number {value}")),
            _ => self.wrong("number"),
        }
    }
    fn visit_f64<E: de::Error>(self, value: f64) -> Result<V::Value, E> {
        match self.want {
            Want::Any | Want::Float(_) => self.visitor.visit_f64(value),
            Want::Unsigned(..) | Want::Signed(..) => self.wrong(format_args!("number {value}")),
            _ => self.wrong("number"),
        }
    }
    fn visit_str<E: de::Error>(self, value: &str) -> Result<V::Value, E> {
        match self.want {
            Want::Any | Want::Text | Want::Bytes => self.visitor.visit_str(value),
            _ => self.wrong("string"),
        }
    }
    fn visit_borrowed_str<E: de::Error>(self, value: &'de str) -> Result<V::Value, E> {
        match self.want {
            Want::Any | Want::Text | Want::Bytes => self.visitor.visit_borrowed_str(value),
            _ => self.wrong("string"),
        }
    }
    fn visit_seq<A: SeqAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        match self.want {
            Want::Any | Want::Seq => self.visitor.visit_seq(Items { inner, at: self.at }),
            _ => self.wrong("array"),
        }
    }
    fn visit_map<A: MapAccess<'de>>(self, inner: A) -> Result<V::Value, A::Error> {
        let (structure, fields) = match self.want {
            Want::Struct(name, fields) => (name, fields),
            Want::Any | Want::Map => ("", &[][..]),
            _ => return self.wrong("object"),
        };
        self.visitor.visit_map(Entries {
            inner,
            outer: self.at,
            structure,
            fields,
            is_struct: matches!(self.want, Want::Struct(..)),
            field: None,
        })
    }
}

/// `null` is no value; anything else is read leniently.
struct Optional<'p, V> {
    visitor: V,
    at: Option<&'p Place<'p>>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Optional<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }
    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }
    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }
    fn visit_some<D: Deserializer<'de>>(self, inner: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Lenient { inner, at: self.at })
    }
}

/// The items of an array.
struct Items<'p, A> {
    inner: A,
    at: Option<&'p Place<'p>>,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for Items<'_, A> {
    type Error = A::Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        seed: T,
    ) -> Result<Option<T::Value>, A::Error> {
        self.inner.next_element_seed(Seed { seed, at: self.at })
    }
}

/// The entries of an object; of a struct, keys are matched to its fields.
struct Entries<'p, A> {
    inner: A,
    outer: Option<&'p Place<'p>>,
    structure: &'static str,
    fields: &'static [&'static str],
    is_struct: bool,
    field: Option<&'static str>,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Entries<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        if !self.is_struct {
            return self.inner.next_key_seed(seed);
        }
        let Some(field) = self.inner.next_key_seed(FieldName(self.fields))? else {
            return Ok(None);
        };
        self.field = field;
        // No field has the empty name, so an unknown key is ignored.
        seed.deserialize(StrDeserializer::new(field.unwrap_or("")))
            .map(Some)
    }

    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<T::Value, A::Error> {
        match self.field {
            Some(field) => {
                let place = Place {
                    outer: self.outer,
                    structure: self.structure,
                    field,
                };
                self.inner.next_value_seed(Seed {
                    seed,
                    at: Some(&place),
                })
            }
            None => self.inner.next_value_seed(Seed {
                seed,
                at: self.outer,
            }),
        }
    }
}

/// Reads a key as one of the fields, exact first, then in any case.
struct FieldName(&'static [&'static str]);

impl<'de> DeserializeSeed<'de> for FieldName {
    type Value = Option<&'static str>;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<Self::Value, D::Error> {
        inner.deserialize_str(self)
    }
}

impl Visitor<'_> for FieldName {
    type Value = Option<&'static str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field name")
    }
    fn visit_str<E: de::Error>(self, key: &str) -> Result<Self::Value, E> {
        let mut fields = self.0.iter();
        Ok(fields
            .clone()
            .find(|field| **field == key)
            .or_else(|| fields.find(|field| field.eq_ignore_ascii_case(key)))
            .copied())
    }
}

/// Reads a value leniently.
struct Seed<'p, S> {
    seed: S,
    at: Option<&'p Place<'p>>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Seed<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, inner: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Lenient { inner, at: self.at })
    }
}

/// An array or object without content: what `null` stands for.
struct Nothing<E>(std::marker::PhantomData<E>);

impl<'de, E: de::Error> SeqAccess<'de> for Nothing<E> {
    type Error = E;

    fn next_element_seed<T: DeserializeSeed<'de>>(
        &mut self,
        _seed: T,
    ) -> Result<Option<T::Value>, E> {
        Ok(None)
    }
}

impl<'de, E: de::Error> MapAccess<'de> for Nothing<E> {
    type Error = E;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, _seed: K) -> Result<Option<K::Value>, E> {
        Ok(None)
    }
    fn next_value_seed<T: DeserializeSeed<'de>>(&mut self, _seed: T) -> Result<T::Value, E> {
        Err(E::custom("an object without content has no value"))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::json::common::Base64;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename = "Outer", rename_all = "PascalCase")]
    struct Target {
        name: String,
        #[serde(rename = "ID")]
        id: String,
        count: u64,
        small: i32,
        ratio: f32,
        flag: bool,
        list: Vec<String>,
        labels: BTreeMap<String, String>,
        inner: Inner,
        maybe: Option<Inner>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(default, rename_all = "PascalCase")]
    struct Inner {
        limit: Option<u64>,
        text: String,
    }

    fn read(text: &str) -> Result<Target, DecodeError> {
        decode(text.as_bytes(), Rest::Ignored)
    }

    fn refusal(text: &str) -> String {
        read(text).unwrap_err().to_string()
    }

    #[test]
    fn wrong_kinds_are_refused_in_gos_words() {
        let field = "json: cannot unmarshal";
        assert_eq!(
            refusal(r#"{"Name":5}"#),
            format!("{field} number into Go struct field Outer.Name of type string")
        );
        assert_eq!(
            refusal(r#"{"Count":-1}"#),
            format!("{field} number -1 into Go struct field Outer.Count of type uint64")
        );
        assert_eq!(
            refusal(r#"{"Small":2147483648}"#),
            format!("{field} number 2147483648 into Go struct field Outer.Small of type int32")
        );
        assert_eq!(
            refusal(r#"{"Count":1.5}"#),
            format!("{field} number 1.5 into Go struct field Outer.Count of type uint64")
        );
        assert_eq!(
            refusal(r#"{"Maybe":{"Limit":"x"}}"#),
            format!("{field} string into Go struct field Inner.Maybe.Limit of type uint64")
        );
        assert_eq!(
            refusal(r#"{"List":[true]}"#),
            format!("{field} bool into Go struct field Outer.List of type string")
        );
        assert_eq!(
            refusal(r#"{"Inner":[]}"#),
            format!("{field} array into Go struct field Outer.Inner of type swarm.Inner")
        );
        assert_eq!(
            refusal("5"),
            format!("{field} number into Go value of type swarm.Outer")
        );
    }

    #[test]
    fn what_is_not_json_is_refused() {
        assert_eq!(read("").unwrap_err(), DecodeError::Empty);
        assert_eq!(read(" \n").unwrap_err(), DecodeError::Empty);
        for cut in ["{", "{\"Name\"", "{\"Name\":\"a", "{\"List\":["] {
            assert_eq!(read(cut).unwrap_err(), DecodeError::UnexpectedEof, "{cut}");
        }
        assert!(refusal("g").starts_with("invalid character 'g'"));
        assert!(refusal(r#"{"Name":"a","name":"b"}"#).contains("duplicate field"));
        let deep = "[".repeat(100_000);
        assert!(decode::<serde_json::Value>(deep.as_bytes(), Rest::Ignored).is_err());
    }

    #[test]
    fn what_follows_is_refused_only_if_asked() {
        assert!(read("{} x").is_ok());
        let strict = decode::<Target>(b"{} x", Rest::Refused);
        assert_eq!(strict.unwrap_err(), DecodeError::Trailing);
        assert!(decode::<Target>(b"{} \n", Rest::Refused).is_ok());
    }

    #[test]
    fn names_match_in_any_case_and_unknown_ones_are_ignored() {
        let target = read(r#"{"NAME":"a","id":"b","bogus":{"x":[1]},"inner":{"TEXT":"c"}}"#);
        let target = target.unwrap();
        assert_eq!((target.name.as_str(), target.id.as_str()), ("a", "b"));
        assert_eq!(target.inner.text, "c");
    }

    #[test]
    fn null_is_zero_everywhere() {
        let text = r#"{"Name":null,"Count":null,"Small":null,"Ratio":null,"Flag":null,"List":null,
            "Labels":null,"Inner":null,"Maybe":null}"#;
        assert_eq!(read(text).unwrap(), Target::default());
        assert_eq!(read("null").unwrap(), Target::default());
        assert_eq!(read(r#"{"List":[null]}"#).unwrap().list, [""]);
        assert_eq!(read(r#"{"Labels":{"a":null}}"#).unwrap().labels["a"], "");
    }

    #[test]
    fn base64_is_standard_and_padded() {
        let bytes = |text: &str| {
            decode::<Base64>(format!("\"{text}\"").as_bytes(), Rest::Refused)
                .map(|bytes| bytes.0.to_vec())
                .map_err(|error| error.to_string())
        };
        assert_eq!(bytes("eA==").unwrap(), b"x");
        assert_eq!(bytes("e\\u0041==").unwrap(), b"x");
        assert_eq!(bytes("").unwrap(), b"");
        for wrong in ["!!!", "eA", "-_8="] {
            assert_eq!(
                bytes(wrong).unwrap_err(),
                "illegal base64 data at input byte 0"
            );
        }
        assert_eq!(
            bytes("eHh4!A==").unwrap_err(),
            "illegal base64 data at input byte 4"
        );
    }
}
