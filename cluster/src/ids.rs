//! Object ids.

/// Renders 17 random bytes as an object id: 25 characters of lower-case base 36.
///
/// The top bit of the first byte is set, the 136-bit number is rendered and its
/// first digit dropped, so that every id has the same length (swarmkit's form).
pub fn new_id(random: [u8; 17]) -> String {
    let mut number = random;
    number[0] |= 0x80;
    let mut digits = Vec::with_capacity(27);
    while number.iter().any(|byte| *byte != 0) {
        let mut remainder = 0u32;
        for byte in &mut number {
            let value = (remainder << 8) | u32::from(*byte);
            *byte = u8::try_from(value / 36).unwrap_or(0);
            remainder = value % 36;
        }
        digits.push(char::from_digit(remainder, 36).unwrap_or('0'));
    }
    digits.iter().rev().skip(1).take(25).collect()
}

#[cfg(test)]
mod tests {
    use super::new_id;

    #[test]
    fn ids_have_25_base36_characters() {
        for fill in [0u8, 1, 0x7f, 0x80, 0xff] {
            let id = new_id([fill; 17]);
            assert_eq!(id.len(), 25, "{id}");
            assert!(
                id.chars()
                    .all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()),
                "{id}"
            );
        }
    }

    #[test]
    fn the_number_is_rendered_big_endian() {
        // 2^135 in base 36 is 1 followed by what is kept.
        assert_eq!(new_id([0u8; 17]), {
            let mut value: Vec<u32> = vec![1];
            for _ in 0..135 {
                let mut carry = 0;
                for digit in value.iter_mut().rev() {
                    let doubled = *digit * 2 + carry;
                    *digit = doubled % 36;
                    carry = doubled / 36;
                }
                if carry > 0 {
                    value.insert(0, carry);
                }
            }
            value
                .iter()
                .skip(1)
                .take(25)
                .map(|d| char::from_digit(*d, 36).unwrap())
                .collect::<String>()
        });
    }
}
