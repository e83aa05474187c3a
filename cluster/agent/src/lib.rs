//! The member: join, renew, session, task executor and shim.
