//! Bounded places for callers that nobody knows yet.
//!
//! Whoever can reach the port can fill any fixed number of places, so a full crowd
//! does not turn newcomers away: the callers of the address that holds most give way.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{self, Instant},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::limits::{ANONYMOUS_IDLE, ANONYMOUS_PROMPT};

/// Pause between warnings that a crowd is full.
const WARNING_PAUSE: Duration = Duration::from_secs(60);

/// Callers that count as one: an IPv4 address, or the /64 that an IPv6 host commonly
/// has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Group(IpAddr);

impl Group {
    pub(super) fn of(address: IpAddr) -> Group {
        match address.to_canonical() {
            IpAddr::V6(address) => {
                let network = address.to_bits() & !u128::from(u64::MAX);
                Group(Ipv6Addr::from_bits(network).into())
            }
            address @ IpAddr::V4(_) => Group(address),
        }
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => address.fmt(f),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

/// How many callers a crowd takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    /// What they are, for the log.
    pub(super) what: &'static str,
    /// All together.
    pub(super) total: usize,
    /// Of one address, those without a call for longer than [`ANONYMOUS_PROMPT`].
    pub(super) idle_per_group: usize,
    /// Among those who hold as much as anybody, one without a call does not give way to
    /// another before this.
    pub(super) undisturbed: Duration,
}

/// The callers inside.
#[derive(Debug)]
pub(super) struct Crowd {
    bounds: Bounds,
    inside: Mutex<Inside>,
    /// Somebody has left.
    left: Notify,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    count: usize,
    /// Of each group in the order of their coming; no group is empty.
    groups: HashMap<Group, BTreeMap<u64, Entry>>,
    warned: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    calls: usize,
    /// Since when there is no call, if there is none.
    idle_since: Instant,
    closed: CancellationToken,
}

impl Entry {
    fn is_idle_for(&self, duration: Duration, now: Instant) -> bool {
        self.calls == 0 && now.saturating_duration_since(self.idle_since) >= duration
    }
}

/// A caller's place, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    group: Group,
    number: u64,
    /// Cancelled when the caller has to give way.
    pub(super) closed: CancellationToken,
}

/// A call of a caller: as long as one is under way, the caller is not idle.
#[derive(Debug)]
pub(super) struct Call {
    place: Arc<Place>,
}

impl Crowd {
    pub(super) fn new(bounds: Bounds) -> Arc<Crowd> {
        Arc::new(Crowd {
            bounds,
            inside: Mutex::default(),
            left: Notify::new(),
        })
    }

    /// A place for a caller from `address` when it is its turn: as [`Crowd::enter`], tried
    /// again as others leave. Whoever waits is to be bounded elsewhere.
    pub(super) async fn enter_in_turn(self: &Arc<Self>, address: IpAddr) -> Arc<Place> {
        loop {
            if let Some(place) = self.enter(address, Instant::now()) {
                return place;
            }
            // Those who stay without a call may have to go by then.
            let _ = time::timeout(ANONYMOUS_PROMPT, self.left.notified()).await;
        }
    }

    /// A place for a caller from `address`, for which another may have to go.
    ///
    /// None if nobody can go: all of the address that holds most are busy, and it is the
    /// newcomer's own.
    pub(super) fn enter(self: &Arc<Self>, address: IpAddr, now: Instant) -> Option<Arc<Place>> {
        let group = Group::of(address);
        let mut inside = self.lock();
        // 1. Who stays without asking for anything leaves before others have to.
        inside.trim(group, self.bounds.idle_per_group, now);
        // 2. One more than there may be: somebody has to go.
        if inside.count >= self.bounds.total {
            let victim = inside.victim(group, self.bounds.undisturbed, now);
            inside.warn(&self.bounds, victim.map_or(group, |(group, _)| group), now);
            let (group, number) = victim?;
            inside.close(group, number);
        }
        let number = inside.next;
        inside.next += 1;
        inside.count += 1;
        let closed = CancellationToken::new();
        let entry = Entry {
            calls: 0,
            idle_since: now,
            closed: closed.clone(),
        };
        inside
            .groups
            .entry(group)
            .or_default()
            .insert(number, entry);
        Some(Arc::new(Place {
            crowd: Arc::clone(self),
            group,
            number,
            closed,
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        // No code that holds the lock leaves the maps half changed.
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inside {
    /// Closes the longest idle of a group beyond `idle_per_group`.
    fn trim(&mut self, group: Group, idle_per_group: usize, now: Instant) {
        let Some(open) = self.groups.get(&group) else {
            return;
        };
        let mut idle: Vec<_> = open
            .iter()
            .filter(|(_, entry)| entry.is_idle_for(ANONYMOUS_PROMPT, now))
            .map(|(number, entry)| (entry.idle_since, *number))
            .collect();
        idle.sort_unstable();
        let surplus = idle.len().saturating_sub(idle_per_group);
        for (_, number) in &idle[..surplus] {
            self.close(group, *number);
        }
    }

    /// Who gives way to one more of `newcomer`: of the groups that hold most, it
    /// counted, the longest idle, else the oldest, unless the newcomer's holds most.
    /// There those are left alone who have been idle for less than `undisturbed`.
    fn victim(&self, newcomer: Group, undisturbed: Duration, now: Instant) -> Option<(Group, u64)> {
        let size = |group: &Group, open: &BTreeMap<u64, Entry>| {
            open.len() + usize::from(*group == newcomer)
        };
        let own = self.groups.get(&newcomer).map_or(0, BTreeMap::len) + 1;
        let sizes = self.groups.iter().map(|(group, open)| size(group, open));
        let largest = sizes.max()?;
        let candidates = || {
            self.groups
                .iter()
                .filter(|(group, open)| size(group, open) == largest)
                .flat_map(|(group, open)| {
                    open.iter().map(|(number, entry)| (*group, *number, entry))
                })
        };
        let patience = match own == largest {
            true => undisturbed,
            false => Duration::ZERO,
        };
        let idle = candidates()
            .filter(|(_, _, entry)| entry.is_idle_for(patience, now))
            .min_by_key(|(_, number, entry)| (entry.idle_since, *number));
        let victim = match idle {
            Some(victim) => victim,
            None if own == largest => return None,
            None => candidates().min_by_key(|(_, number, _)| *number)?,
        };
        Some((victim.0, victim.1))
    }

    fn close(&mut self, group: Group, number: u64) {
        if let Some(entry) = self.remove(group, number) {
            entry.closed.cancel();
        }
    }

    fn remove(&mut self, group: Group, number: u64) -> Option<Entry> {
        let open = self.groups.get_mut(&group)?;
        let entry = open.remove(&number)?;
        self.count -= 1;
        if open.is_empty() {
            self.groups.remove(&group);
        }
        Some(entry)
    }

    fn entry(&mut self, group: Group, number: u64) -> Option<&mut Entry> {
        self.groups.get_mut(&group)?.get_mut(&number)
    }

    fn warn(&mut self, bounds: &Bounds, most: Group, now: Instant) {
        let is_due = self
            .warned
            .is_none_or(|last| now.saturating_duration_since(last) >= WARNING_PAUSE);
        if is_due {
            self.warned = Some(now);
            let Bounds { what, total, .. } = bounds;
            warn!(%most, "all {total} places for {what} are taken; the address that holds most gives way");
        }
    }
}

impl Place {
    /// Counts a call until it is dropped.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        if let Some(entry) = self.crowd.lock().entry(self.group, self.number) {
            entry.calls += 1;
        }
        Call {
            place: Arc::clone(self),
        }
    }

    /// Completes when the caller was without a call for [`ANONYMOUS_IDLE`].
    pub(super) async fn outstayed(&self) {
        while self.may_stay(Instant::now()) {
            time::sleep(ANONYMOUS_PROMPT).await;
        }
    }

    fn may_stay(&self, now: Instant) -> bool {
        let mut inside = self.crowd.lock();
        inside.trim(self.group, self.crowd.bounds.idle_per_group, now);
        inside
            .entry(self.group, self.number)
            .is_some_and(|entry| !entry.is_idle_for(ANONYMOUS_IDLE, now))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.lock().remove(self.group, self.number);
        self.crowd.left.notify_one();
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let Place {
            crowd,
            group,
            number,
            ..
        } = &*self.place;
        if let Some(entry) = crowd.lock().entry(*group, *number) {
            entry.calls -= 1;
            entry.idle_since = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const FEW: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn crowd(total: usize, idle_per_group: usize) -> Arc<Crowd> {
        Crowd::new(Bounds {
            what: "tests",
            total,
            idle_per_group,
            undisturbed: Duration::ZERO,
        })
    }

    fn enter(crowd: &Arc<Crowd>, address: IpAddr, count: usize) -> Vec<Arc<Place>> {
        let now = Instant::now();
        (0..count)
            .map(|_| crowd.enter(address, now).unwrap())
            .collect()
    }

    fn open(places: &[Arc<Place>]) -> usize {
        let is_open = |place: &&Arc<Place>| !place.closed.is_cancelled();
        places.iter().filter(is_open).count()
    }

    #[test]
    fn a_newcomer_without_an_idle_neighbour_is_refused() {
        let crowd = crowd(2, 2);
        let places = enter(&crowd, MANY, 2);
        let _calls: Vec<_> = places.iter().map(Place::call).collect();
        assert!(crowd.enter(MANY, Instant::now()).is_none());
        assert_eq!(open(&places), 2);
    }

    fn patient(total: usize) -> Arc<Crowd> {
        Crowd::new(Bounds {
            what: "tests",
            total,
            idle_per_group: total,
            undisturbed: ANONYMOUS_PROMPT,
        })
    }

    #[tokio::test(start_paused = true)]
    async fn among_equals_a_newcomer_waits_its_turn() {
        let crowd = patient(2);
        let address = |last| IpAddr::from([198, 51, 100, last]);
        let first = enter(&crowd, address(1), 1);
        let mut second = enter(&crowd, address(2), 1);
        assert!(crowd.enter(address(3), Instant::now()).is_none());
        // Whoever has had its time gives way; who has a call under way does not.
        let call = second[0].call();
        let begin = Instant::now();
        let third = crowd.enter_in_turn(address(3)).await;
        assert!(begin.elapsed() >= ANONYMOUS_PROMPT);
        assert_eq!((open(&first), open(&second)), (0, 1));
        // A place that is given back is taken at once.
        drop((call, second.pop()));
        let begin = Instant::now();
        let fourth = crowd.enter_in_turn(address(4)).await;
        assert!(begin.elapsed() < ANONYMOUS_PROMPT);
        assert_eq!(open(&[third, fourth]), 2);
    }

    #[test]
    fn who_holds_more_than_others_is_not_left_alone() {
        let crowd = patient(3);
        let few = enter(&crowd, FEW, 1);
        let many = enter(&crowd, MANY, 2);
        let other = enter(&crowd, IpAddr::from([198, 51, 100, 1]), 1);
        assert_eq!((open(&few), open(&many), open(&other)), (1, 1, 1));
    }

    #[test]
    fn who_holds_most_gives_way_the_oldest_first() {
        let crowd = crowd(8, 8);
        let few = enter(&crowd, FEW, 2);
        let many = enter(&crowd, MANY, 6);
        let late = enter(&crowd, FEW, 2);
        assert_eq!((open(&few), open(&late)), (2, 2));
        assert_eq!(open(&many), 4);
        assert_eq!(open(&many[..2]), 0);
        // Its own newcomers make only it give way.
        let more = enter(&crowd, MANY, 20);
        assert_eq!((open(&few), open(&late)), (2, 2));
        assert_eq!((open(&many), open(&more[..16]), open(&more)), (0, 0, 4));
    }

    #[test]
    fn calls_under_way_do_not_hold_all_places() {
        let crowd = crowd(4, 4);
        let many = enter(&crowd, MANY, 4);
        let _calls: Vec<_> = many.iter().map(Place::call).collect();
        let few = enter(&crowd, FEW, 1);
        assert_eq!((open(&many), open(&few)), (3, 1));
        assert!(many[0].closed.is_cancelled());
    }

    #[test]
    fn the_longest_idle_goes_before_the_oldest() {
        let crowd = crowd(3, 3);
        let places = enter(&crowd, MANY, 3);
        drop(places[0].call());
        let _call = places[1].call();
        let _late = enter(&crowd, MANY, 1);
        assert!(places[2].closed.is_cancelled());
        assert_eq!(open(&places), 2);
    }

    #[test]
    fn only_few_of_an_address_stay_idle() {
        let crowd = crowd(256, 16);
        let places = enter(&crowd, MANY, 200);
        let others = enter(&crowd, FEW, 16);
        let calls: Vec<_> = places[..128].iter().map(Place::call).collect();
        // Prompt callers are not hindered.
        assert_eq!(open(&places), 200);
        let later = Instant::now() + ANONYMOUS_PROMPT;
        assert!(places[0].may_stay(later));
        assert_eq!(open(&places), 128 + 16);
        assert_eq!(open(&places[..128]), 128);
        assert_eq!(open(&others), 16);
        drop(calls);
        let later = later + ANONYMOUS_PROMPT;
        let _place = crowd.enter(MANY, later).unwrap();
        assert_eq!(open(&places), 16);
    }

    #[test]
    fn a_caller_without_a_call_does_not_stay() {
        let crowd = crowd(4, 4);
        let place = enter(&crowd, MANY, 1).remove(0);
        let call = place.call();
        let later = Instant::now() + ANONYMOUS_IDLE + Duration::from_secs(1);
        assert!(place.may_stay(later));
        drop(call);
        assert!(place.may_stay(Instant::now()));
        assert!(!place.may_stay(later));
    }

    #[test]
    fn places_are_given_back() {
        let crowd = crowd(1, 1);
        for address in [MANY, FEW, MANY] {
            let place = crowd.enter(address, Instant::now()).unwrap();
            let call = place.call();
            drop(place);
            // A call keeps the place of its connection.
            assert_eq!(crowd.lock().count, 1);
            drop(call);
            assert_eq!(crowd.lock().count, 0);
            assert!(crowd.lock().groups.is_empty());
        }
    }

    #[test]
    fn a_full_crowd_is_told_once_a_minute() {
        let crowd = crowd(1, 1);
        let start = Instant::now();
        let warned_after = |seconds| {
            let now = start + Duration::from_secs(seconds);
            drop(crowd.enter(MANY, now));
            let _first = crowd.enter(MANY, now).unwrap();
            let _second = crowd.enter(MANY, now).unwrap();
            crowd.lock().warned.unwrap().duration_since(start).as_secs()
        };
        assert_eq!(warned_after(0), 0);
        assert_eq!(warned_after(59), 0);
        assert_eq!(warned_after(60), 60);
    }

    #[test]
    fn addresses_of_one_host_are_one_group() {
        let group = |text: &str| Group::of(text.parse().unwrap());
        assert_eq!(group("2001:db8::1"), group("2001:db8::ffff:0:0:2"));
        assert_ne!(group("2001:db8::1"), group("2001:db8:0:1::1"));
        assert_eq!(group("::ffff:192.0.2.1"), group("192.0.2.1"));
        assert_ne!(group("192.0.2.1"), group("192.0.2.2"));
        assert_eq!(group("2001:db8::1").to_string(), "2001:db8::/64");
    }
}
