//! Slows down who keeps asking with what is refused.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Refused joins of one address: so many at once …
const BURST: u32 = 50;
/// … and so many per second after that (requirements.md, join floods).
const PER_SECOND: u32 = 10;
/// Addresses that are remembered; when full, those that have recovered go, and
/// if none has, the one that recovers first: an attacker with many addresses
/// gets no memory.
const MAX_ADDRESSES: usize = 4096;

/// Counts refusals by address. An address is known by the time at which all its
/// refusals will have been forgiven.
#[derive(Debug, Default)]
pub(crate) struct Refusals {
    forgiven_at: Mutex<BTreeMap<IpAddr, Instant>>,
}

impl Refusals {
    /// How long the address has to wait before it is heard.
    pub(crate) fn wait(&self, address: IpAddr, now: Instant) -> Option<Duration> {
        let table = self
            .forgiven_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let debt = table.get(&host_of(address))?.checked_duration_since(now)?;
        debt.checked_sub(cost() * (BURST - 1))
            .filter(|wait| !wait.is_zero())
    }

    /// Notes a refusal.
    pub(crate) fn note(&self, address: IpAddr, now: Instant) {
        let address = host_of(address);
        let mut table = self
            .forgiven_at
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if table.len() >= MAX_ADDRESSES && !table.contains_key(&address) {
            table.retain(|_, forgiven| *forgiven > now);
            if table.len() >= MAX_ADDRESSES {
                let first = table
                    .iter()
                    .min_by_key(|(_, at)| **at)
                    .map(|(address, _)| *address);
                first.map(|address| table.remove(&address));
            }
        }
        let forgiven = table.entry(address).or_insert(now);
        *forgiven = (*forgiven).max(now) + cost();
    }
}

/// What stands for a host: it has a /64 of IPv6 to itself.
fn host_of(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let network = address.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(network))
        }
        IpAddr::V4(address) => IpAddr::V4(address),
    }
}

fn cost() -> Duration {
    Duration::from_secs(1) / PER_SECOND
}

#[cfg(test)]
mod tests {
    use super::*;

    const ADDRESS: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);

    #[test]
    fn after_the_burst_an_address_waits_and_is_forgiven_with_time() {
        let refusals = Refusals::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(refusals.wait(ADDRESS, now), None);
            refusals.note(ADDRESS, now);
        }
        assert_eq!(refusals.wait(ADDRESS, now), Some(cost()));
        assert_eq!(refusals.wait(ADDRESS, now + cost()), None);
        let other = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(refusals.wait(other, now), None);
    }

    #[test]
    fn a_host_cannot_step_aside_to_another_of_its_addresses() {
        let refusals = Refusals::default();
        let now = Instant::now();
        let address = |text: &str| text.parse::<IpAddr>().unwrap();
        for n in 0..BURST {
            refusals.note(address(&format!("2001:db8::{n:x}")), now);
        }
        assert!(refusals.wait(address("2001:db8::ffff"), now).is_some());
        assert_eq!(refusals.wait(address("2001:db8:0:1::1"), now), None);
        for _ in 0..BURST {
            refusals.note(address("::ffff:192.0.2.1"), now);
        }
        assert!(refusals.wait(address("192.0.2.1"), now).is_some());
    }

    #[test]
    fn the_table_does_not_grow_without_bound() {
        let refusals = Refusals::default();
        let now = Instant::now();
        for n in 0..u32::try_from(2 * MAX_ADDRESSES).unwrap() {
            refusals.note(IpAddr::V4(n.into()), now);
        }
        assert_eq!(refusals.forgiven_at.lock().unwrap().len(), MAX_ADDRESSES);
    }
}
