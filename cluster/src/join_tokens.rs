//! Join tokens with limits: whether one admits a join now.
//!
//! A use is reserved when a certificate is issued over the token and spent by the node's first
//! session: joiners whose answer was lost ask again with a new key. All of it is decided where
//! commands are applied, so that of racing joins as many win as there are uses.

use std::net::IpAddr;

use crate::{cidr::Cidr, objects::LimitedToken};

/// For how long a use is reserved for a join that has had no session yet.
pub const RESERVATION_SECS: i64 = 10 * 60;
/// Limited tokens of a cluster: each join that shows one is compared with all of them.
pub const MAX_LIMITED_TOKENS: usize = 1000;
/// Uses of one token.
pub const MAX_TOKEN_USES: u32 = 10_000;
/// Longest life of a limited token: a year.
pub const MAX_TOKEN_TTL_SECS: i64 = 366 * 24 * 60 * 60;
/// Networks that one token may name.
pub const MAX_TOKEN_CIDRS: usize = 32;
/// How long one that admits nobody any more is still listed.
pub(crate) const DEAD_TOKEN_SECS: i64 = 7 * 24 * 60 * 60;

/// Why a limited token, whose secret is right, does not admit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TokenRefusal {
    /// An operator revoked it.
    #[error("the join token {id} was revoked; {MAKE_ANOTHER}")]
    Revoked {
        /// Its id.
        id: String,
    },
    /// Its time is over.
    #[error("the join token {id} has expired; {MAKE_ANOTHER}")]
    Expired {
        /// Its id.
        id: String,
    },
    /// The address is in none of its networks.
    #[error(
        "the join token {id} does not admit joins from {address}; join from one of its networks \
         ({networks}), or {MAKE_ANOTHER}"
    )]
    Address {
        /// Its id.
        id: String,
        /// Where the join came from.
        address: String,
        /// What it admits.
        networks: String,
    },
    /// It is for a root that was replaced.
    #[error(
        "the join token {id} is for a root certificate that was replaced since it was made; \
         {MAKE_ANOTHER}"
    )]
    ReplacedRoot {
        /// Its id.
        id: String,
    },
    /// All its uses are spent.
    #[error("the join token {id} is spent: {uses} of {uses} nodes joined over it; {MAKE_ANOTHER}")]
    Spent {
        /// Its id.
        id: String,
        /// How many it had.
        uses: u32,
    },
    /// Its uses are reserved for joins that are under way.
    #[error(
        "the join token {id} is taken by a join that is under way from another address; if that \
         one fails, the token is free again in {wait_secs} s"
    )]
    Reserved {
        /// Its id.
        id: String,
        /// Until the first of them lapses, in seconds.
        wait_secs: i64,
    },
}

/// How to get one that admits.
const MAKE_ANOTHER: &str = "make another with `waxseal join-token create` on a manager";

/// How a join is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admission {
    /// A use is free.
    Free,
    /// The use is taken over from the reservation at this place: its address asks again.
    TakeOver(usize),
}

/// What a token counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenStanding {
    /// It admits.
    Open,
    /// Each use that is left is reserved.
    Reserved,
    /// All uses are spent.
    Spent,
    /// Its time is over.
    Expired,
    /// It was revoked.
    Revoked,
}

impl TokenStanding {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            TokenStanding::Open => "open",
            TokenStanding::Reserved => "reserved",
            TokenStanding::Spent => "spent",
            TokenStanding::Expired => "expired",
            TokenStanding::Revoked => "revoked",
        }
    }

    /// Whether it may admit, now or later.
    pub fn is_live(self) -> bool {
        matches!(self, TokenStanding::Open | TokenStanding::Reserved)
    }
}

impl LimitedToken {
    /// What it counts for at `now`, in seconds since the Unix epoch.
    pub fn standing(&self, now: i64) -> TokenStanding {
        if self.revoked_at.is_some() {
            TokenStanding::Revoked
        } else if self.spent >= self.uses {
            TokenStanding::Spent
        } else if self.has_expired(now) {
            TokenStanding::Expired
        } else if self.free_uses(now) == 0 {
            TokenStanding::Reserved
        } else {
            TokenStanding::Open
        }
    }

    fn has_expired(&self, now: i64) -> bool {
        let end = self.expires_at.as_ref().map(|end| end.seconds);
        end.is_none_or(|end| end <= now)
    }

    fn free_uses(&self, now: i64) -> u32 {
        let reserved = self.reservations.iter().filter(|one| !is_over(one, now));
        let reserved = u32::try_from(reserved.count()).unwrap_or(u32::MAX);
        self.uses
            .saturating_sub(self.spent)
            .saturating_sub(reserved)
    }

    /// When it stopped to admit, if it has.
    pub(crate) fn dead_since(&self, now: i64) -> Option<i64> {
        let updated = self.meta.as_ref().and_then(|meta| meta.updated_at);
        match self.standing(now) {
            TokenStanding::Open | TokenStanding::Reserved => None,
            TokenStanding::Expired => self.expires_at.as_ref().map(|end| end.seconds),
            TokenStanding::Spent | TokenStanding::Revoked => updated.map(|at| at.seconds),
        }
    }

    /// Whether it has uses to give back, or is to be forgotten.
    pub(crate) fn is_overdue(&self, now: i64) -> bool {
        let is_old = |since: i64| now.saturating_sub(since) >= DEAD_TOKEN_SECS;
        self.reservations.iter().any(|one| is_over(one, now))
            || self.dead_since(now).is_some_and(is_old)
    }

    /// Whether it admits a join from an address. `root_hash` is of the root that joiners
    /// see now.
    pub(crate) fn admits(
        &self,
        address: Option<IpAddr>,
        root_hash: &str,
        now: i64,
    ) -> Result<Admission, TokenRefusal> {
        let id = || self.id.clone();
        if self.revoked_at.is_some() {
            return Err(TokenRefusal::Revoked { id: id() });
        }
        if self.has_expired(now) {
            return Err(TokenRefusal::Expired { id: id() });
        }
        if !self.is_from_here(address) {
            return Err(TokenRefusal::Address {
                id: id(),
                address: address.map_or("an unknown address".to_owned(), |a| a.to_string()),
                networks: self.cidrs.join(", "),
            });
        }
        if self.root_hash != root_hash {
            return Err(TokenRefusal::ReplacedRoot { id: id() });
        }
        if self.spent >= self.uses {
            return Err(TokenRefusal::Spent {
                id: id(),
                uses: self.uses,
            });
        }
        if self.free_uses(now) > 0 {
            return Ok(Admission::Free);
        }
        let held = || {
            let all = self.reservations.iter().enumerate();
            all.filter(|(_, one)| !is_over(one, now))
        };
        let of_address =
            held().find(|(_, one)| address.is_some() && one.address.parse().ok() == address);
        if let Some((place, _)) = of_address {
            return Ok(Admission::TakeOver(place));
        }
        let ends = held().map(|(_, one)| reserved_at(one).saturating_add(RESERVATION_SECS));
        Err(TokenRefusal::Reserved {
            id: id(),
            wait_secs: ends.min().map_or(0, |end| end.saturating_sub(now)),
        })
    }

    fn is_from_here(&self, address: Option<IpAddr>) -> bool {
        let is_in = |cidr: &String| {
            let cidr = cidr.parse::<Cidr>();
            cidr.is_ok_and(|cidr| address.is_some_and(|address| cidr.contains(address)))
        };
        self.cidrs.is_empty() || self.cidrs.iter().any(is_in)
    }
}

fn reserved_at(reservation: &crate::objects::Reservation) -> i64 {
    let at = reservation.reserved_at.as_ref();
    at.map_or(0, |at| at.seconds)
}

/// Whether a reservation was not spent in time.
pub(crate) fn is_over(reservation: &crate::objects::Reservation, now: i64) -> bool {
    now.saturating_sub(reserved_at(reservation)) >= RESERVATION_SECS
}
