//! Parts that several objects have: version, times, labels, drivers, bytes.

use std::{collections::BTreeMap, fmt};

use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
use prost_types::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use time::OffsetDateTime;
use waxseal_cluster::objects;
use zeroize::Zeroizing;

/// `{"Index":n}`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Version {
    /// From the cluster-wide counter.
    #[serde(rename = "Index")]
    pub(crate) index: u64,
}

/// `Version`, `CreatedAt`, `UpdatedAt`, to be flattened into an object.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(crate) struct Meta {
    /// The object's version.
    pub(crate) version: Version,
    /// RFC 3339.
    pub(crate) created_at: Time,
    /// RFC 3339.
    pub(crate) updated_at: Time,
}

impl Meta {
    /// From an object's meta, absent parts as zero.
    pub(crate) fn of(meta: Option<&objects::Meta>) -> Meta {
        let Some(meta) = meta else {
            return Meta::default();
        };
        Meta {
            version: Version {
                index: meta.version.as_ref().map_or(0, |version| version.index),
            },
            created_at: Time::of(meta.created_at.as_ref()),
            updated_at: Time::of(meta.updated_at.as_ref()),
        }
    }
}

/// A time, rendered as RFC 3339 in UTC with up to 9 fractional digits and
/// trailing zeros cut; never set: `0001-01-01T00:00:00Z`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Time(pub(crate) Option<OffsetDateTime>);

impl Time {
    /// From a timestamp; one that is absent or not of the years 1 to 9999 is never set.
    pub(crate) fn of(timestamp: Option<&Timestamp>) -> Time {
        Time(timestamp.and_then(|timestamp| {
            let nanos = i128::from(timestamp.seconds) * 1_000_000_000 + i128::from(timestamp.nanos);
            let time = OffsetDateTime::from_unix_timestamp_nanos(nanos).ok()?;
            (time.year() > 0).then_some(time)
        }))
    }
}

impl From<OffsetDateTime> for Time {
    fn from(time: OffsetDateTime) -> Time {
        Time(Some(time))
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(time) = self.0 else {
            return f.write_str("0001-01-01T00:00:00Z");
        };
        let time = time.to_offset(time::UtcOffset::UTC);
        let (hour, minute, second, nanos) = time.to_hms_nano();
        let mut text = *b"0000-00-00T00:00:00.000000000";
        // Of a list of ten thousand objects a tenth of the work was the machinery of formats.
        put(&mut text[..4], time.year().unsigned_abs());
        put(&mut text[5..7], u8::from(time.month()).into());
        put(&mut text[8..10], time.day().into());
        put(&mut text[11..13], hour.into());
        put(&mut text[14..16], minute.into());
        put(&mut text[17..19], second.into());
        put(&mut text[20..], nanos);
        let text = str::from_utf8(&text).map_err(|_| fmt::Error)?;
        f.write_str(text.trim_end_matches('0').trim_end_matches('.'))?;
        f.write_str("Z")
    }
}

/// Writes the last digits of `number`, as many as there is room for.
fn put(digits: &mut [u8], mut number: u32) {
    for digit in digits.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Labels: `{}` when there are none, `null` is taken as none.
pub(crate) type Labels = BTreeMap<String, String>;

/// The labels of an object that has none.
pub(crate) fn no_labels<'a>() -> &'a Labels {
    static NONE: Labels = Labels::new();
    &NONE
}

/// `{"Name","Options"}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub(crate) struct Driver {
    /// Driver name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) name: String,
    /// Its options.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub(crate) options: BTreeMap<String, String>,
}

impl From<Driver> for objects::Driver {
    fn from(driver: Driver) -> objects::Driver {
        objects::Driver {
            name: driver.name,
            options: driver.options,
        }
    }
}

impl From<&objects::Driver> for Driver {
    fn from(driver: &objects::Driver) -> Driver {
        Driver {
            name: driver.name.clone(),
            options: driver.options.clone(),
        }
    }
}

/// Bytes as standard base64 with padding. Wiped on drop, decoded in one piece.
#[derive(Clone, Default, PartialEq, Eq)]
pub(crate) struct Base64(pub(crate) Zeroizing<Vec<u8>>);

impl Base64 {
    /// Takes the bytes out.
    pub(crate) fn into_vec(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0)
    }
}

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Base64({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Base64, D::Error> {
        struct Decode;
        impl de::Visitor<'_> for Decode {
            type Value = Base64;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("base64")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Base64, E> {
                let mut bytes = Zeroizing::new(Vec::with_capacity(text.len() / 4 * 3 + 3));
                STANDARD
                    .decode_vec(text, &mut bytes)
                    .map(|()| Base64(bytes))
                    .map_err(|error| {
                        let at = match error {
                            DecodeError::InvalidByte(at, _) => at,
                            DecodeError::InvalidLastSymbol(at, _) => at / 4 * 4,
                            DecodeError::InvalidLength(_) | DecodeError::InvalidPadding => {
                                text.len() / 4 * 4
                            }
                        };
                        E::custom(format_args!("illegal base64 data at input byte {at}"))
                    })
            }
        }
        deserializer.deserialize_bytes(Decode)
    }
}

/// Bytes rendered as standard base64 with padding, without a copy held.
#[derive(Clone, Copy, Debug)]
pub(crate) struct AsBase64<'a>(pub(crate) &'a [u8]);

impl Serialize for AsBase64<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&base64::display::Base64Display::new(self.0, &STANDARD))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a string cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Nanoseconds of a duration object; absent is 0.
pub(crate) fn nanos(duration: Option<&prost_types::Duration>) -> i64 {
    duration.map_or(0, |duration| {
        duration
            .seconds
            .saturating_mul(1_000_000_000)
            .saturating_add(i64::from(duration.nanos))
    })
}

/// The duration object of so many nanoseconds.
pub(crate) fn duration(nanos: i64) -> prost_types::Duration {
    prost_types::Duration {
        seconds: nanos / 1_000_000_000,
        nanos: i32::try_from(nanos % 1_000_000_000).unwrap_or(0),
    }
}

/// The annotations of a name and labels.
pub(crate) fn annotations(name: String, labels: Labels) -> objects::Annotations {
    objects::Annotations { name, labels }
}

/// 17 random bytes as a new object id.
///
/// # Errors
/// If the system gives no random bytes.
pub(crate) fn new_id() -> Result<String, crate::error::ApiError> {
    let mut random = [0u8; 17];
    getrandom::fill(&mut random).map_err(|error| {
        crate::error::ApiError::internal(format!("no random bytes from the system: {error}"))
    })?;
    Ok(waxseal_cluster::new_id(random))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time(seconds: i64, nanos: i32) -> String {
        Time::of(Some(&Timestamp { seconds, nanos })).to_string()
    }

    #[test]
    fn times_have_no_trailing_zeros() {
        let second = 1_795_149_341;
        assert_eq!(time(second, 143_203_612), "2026-11-20T04:35:41.143203612Z");
        assert_eq!(time(second, 143_203_600), "2026-11-20T04:35:41.1432036Z");
        assert_eq!(time(second, 40), "2026-11-20T04:35:41.00000004Z");
        assert_eq!(time(second, 0), "2026-11-20T04:35:41Z");
    }

    #[test]
    fn times_that_are_none_are_gos_zero() {
        assert_eq!(Time::default().to_string(), "0001-01-01T00:00:00Z");
        assert_eq!(time(i64::MAX, 0), "0001-01-01T00:00:00Z");
        // The year before the first.
        assert_eq!(time(-62_135_596_801, 0), "0001-01-01T00:00:00Z");
        assert_eq!(time(-62_135_596_800, 1), "0001-01-01T00:00:00.000000001Z");
        assert_eq!(time(253_402_300_799, 0), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn durations_are_nanoseconds_in_both_directions() {
        for value in [0, 1, -1, 5_000_000_000, -1_000_000_001, i64::MAX] {
            assert_eq!(nanos(Some(&duration(value))), value);
        }
        assert_eq!(nanos(None), 0);
    }
}
