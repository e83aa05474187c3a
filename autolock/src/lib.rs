//! Unlock key, key chain, key file, sealed record and snapshot format, lock states.
