//! Names for services that were given none.

use crate::error::ApiError;

const ADJECTIVES: [&str; 32] = [
    "able", "amber", "ample", "brisk", "calm", "candid", "civil", "clear", "deft", "eager", "fair",
    "firm", "frank", "gentle", "glad", "hale", "keen", "kind", "lively", "lucid", "merry", "neat",
    "patient", "plain", "prompt", "quiet", "sober", "steady", "sturdy", "swift", "tidy", "warm",
];
/// People of cryptography, engraving and locks.
const SURNAMES: [&str; 32] = [
    "alberti",
    "bellaso",
    "bellare",
    "bramah",
    "breguet",
    "chubb",
    "clarke",
    "daemen",
    "diffie",
    "driscoll",
    "elgamal",
    "feistel",
    "friedman",
    "goldwasser",
    "hobbs",
    "kahn",
    "kerckhoffs",
    "koblitz",
    "lamport",
    "merkle",
    "micali",
    "naor",
    "playfair",
    "rabin",
    "rejewski",
    "rijmen",
    "rogaway",
    "schnorr",
    "shamir",
    "trithemius",
    "vigenere",
    "yale",
];
/// Names tried before one is made unique by a number.
const ATTEMPTS: usize = 8;
/// Random bytes that [`choose`] takes.
pub(super) const RANDOM_BYTES: usize = 2 * ATTEMPTS + 4;

/// Random bytes for [`choose`].
///
/// # Errors
/// 500 if the system gives none.
pub(super) fn random() -> Result<[u8; RANDOM_BYTES], ApiError> {
    let mut random = [0; RANDOM_BYTES];
    getrandom::fill(&mut random)
        .map_err(|error| ApiError::internal(format!("no random bytes from the system: {error}")))?;
    Ok(random)
}

/// A name `adjective_surname` that is not taken, with a number behind it if
/// some chosen ones were.
pub(super) fn choose(random: [u8; RANDOM_BYTES], is_taken: impl Fn(&str) -> bool) -> String {
    let (pairs, rest) = random.split_at(2 * ATTEMPTS);
    let pick = |words: &'static [&'static str], byte: u8| words[usize::from(byte) % words.len()];
    let candidates = pairs.chunks_exact(2).map(|pair| {
        format!(
            "{}_{}",
            pick(&ADJECTIVES, pair[0]),
            pick(&SURNAMES, pair[1])
        )
    });
    let mut last = String::new();
    for candidate in candidates {
        if !is_taken(&candidate) {
            return candidate;
        }
        last = candidate;
    }
    let number = rest
        .iter()
        .fold(0u32, |number, byte| (number << 8) | u32::from(*byte));
    format!("{last}{number}")
}
