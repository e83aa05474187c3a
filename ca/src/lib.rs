//! Identities: root, profiles, issuance decision, join tokens, renewal time, TLS configuration.
