//! Plans: (view of the state, now, randomness) to the changes that bring the
//! cluster closer to what was asked. Idempotent; the leader runs them after
//! every change and when one says it wants to be woken.
