//! What the parts of an action come to.

use std::{borrow::Cow, collections::BTreeMap};

use zeroize::Zeroizing;

/// Bytes of somebody else, or made here and wiped.
#[derive(Clone)]
pub(super) enum Bytes<'v> {
    Lent(&'v [u8]),
    Made(Zeroizing<Vec<u8>>),
}

impl Bytes<'_> {
    pub(super) fn as_slice(&self) -> &[u8] {
        match self {
            Bytes::Lent(bytes) => bytes,
            Bytes::Made(bytes) => bytes,
        }
    }
}

/// The value of an operand, a function or a pipeline.
#[derive(Clone)]
pub(super) enum Value<'v> {
    Text(Bytes<'v>),
    Number(i64),
    Bool(bool),
    Labels(&'v BTreeMap<String, String>),
}

impl<'v> Value<'v> {
    pub(super) fn lent(text: &'v str) -> Value<'v> {
        Value::Text(Bytes::Lent(text.as_bytes()))
    }

    /// What `if` asks: everything but the empty value of its kind.
    pub(super) fn is_true(&self) -> bool {
        match self {
            Value::Text(text) => !text.as_slice().is_empty(),
            Value::Number(number) => *number != 0,
            Value::Bool(truth) => *truth,
            Value::Labels(labels) => !labels.is_empty(),
        }
    }

    /// As Go prints it with `%v`.
    pub(super) fn printed(&self) -> Cow<'_, [u8]> {
        match self {
            Value::Text(text) => Cow::Borrowed(text.as_slice()),
            Value::Number(number) => Cow::Owned(number.to_string().into_bytes()),
            Value::Bool(truth) => Cow::Owned(truth.to_string().into_bytes()),
            Value::Labels(labels) => {
                let pairs: Vec<_> = labels
                    .iter()
                    .map(|(key, value)| format!("{key}:{value}"))
                    .collect();
                Cow::Owned(format!("map[{}]", pairs.join(" ")).into_bytes())
            }
        }
    }

    /// How much there is to look at, in bytes.
    pub(super) fn weight(&self) -> usize {
        match self {
            Value::Text(text) => text.as_slice().len(),
            Value::Number(_) | Value::Bool(_) => 1,
            Value::Labels(labels) => labels
                .iter()
                .map(|(key, value)| key.len() + value.len() + 2)
                .sum(),
        }
    }
}
