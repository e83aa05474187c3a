//! Certificate serial numbers.

use std::fmt;

/// Length of a serial in bytes, the most that RFC 5280 §4.1.2.2 allows.
pub const SERIAL_BYTES: usize = 20;

/// A certificate's serial number: a positive integer below 2^159, big-endian, left-padded with
/// zeros.
///
/// It is recorded before the certificate is signed, so it is made by whoever records it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Serial([u8; SERIAL_BYTES]);

/// Why bytes are not a serial.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SerialError {
    /// More than 20 significant bytes.
    #[error("a certificate serial has {bytes} bytes; at most 20 are allowed")]
    TooLong {
        /// Its length without leading zeros.
        bytes: usize,
    },
    /// Zero is not positive.
    #[error("a certificate serial is zero; it must be positive")]
    Zero,
    /// The top bit is set.
    #[error("a certificate serial is negative; it must be positive")]
    Negative,
}

impl Serial {
    /// A serial from 20 random bytes; the top bit is cleared so that it is positive.
    ///
    /// # Errors
    /// [`SerialError::Zero`] if nothing but the top bit was set, which a working random source
    /// does not produce.
    pub fn from_random(mut random: [u8; SERIAL_BYTES]) -> Result<Self, SerialError> {
        random[0] &= 0x7f;
        Self::from_bytes(&random)
    }

    /// A serial from its big-endian bytes, with or without leading zeros.
    ///
    /// # Errors
    /// [`SerialError`] when it is zero, negative or longer than 20 bytes.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, SerialError> {
        let significant = match bytes.iter().position(|byte| *byte != 0) {
            Some(first) => &bytes[first..],
            None => return Err(SerialError::Zero),
        };
        let Some(padding) = SERIAL_BYTES.checked_sub(significant.len()) else {
            return Err(SerialError::TooLong {
                bytes: significant.len(),
            });
        };
        let mut serial = [0; SERIAL_BYTES];
        serial[padding..].copy_from_slice(significant);
        if serial[0] & 0x80 != 0 {
            return Err(SerialError::Negative);
        }
        Ok(Self(serial))
    }

    /// The 20 bytes, big-endian.
    pub fn as_bytes(&self) -> &[u8; SERIAL_BYTES] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Serial({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_not_positive_or_too_long() {
        assert_eq!(Serial::from_bytes(&[]), Err(SerialError::Zero));
        assert_eq!(Serial::from_bytes(&[0; 30]), Err(SerialError::Zero));
        assert_eq!(
            Serial::from_bytes(&[1; 21]),
            Err(SerialError::TooLong { bytes: 21 })
        );
        assert_eq!(Serial::from_bytes(&[0x80; 20]), Err(SerialError::Negative));
    }

    #[test]
    fn padding_does_not_matter() {
        let short = Serial::from_bytes(&[7, 9]).unwrap();
        let mut long = [0; 25];
        long[23..].copy_from_slice(&[7, 9]);
        assert_eq!(short, Serial::from_bytes(&long).unwrap());
        assert_eq!(short.to_string(), format!("{}0709", "00".repeat(18)));
    }

    #[test]
    fn random_bytes_become_positive() {
        let serial = Serial::from_random([0xff; 20]).unwrap();
        assert_eq!(serial.as_bytes()[0], 0x7f);
    }
}
