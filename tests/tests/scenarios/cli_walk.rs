//! The stock CLI from init to leave.
