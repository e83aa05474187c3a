//! Join tokens with limits: made, revoked; uses reserved, taken over, spent and given back.

use std::{net::IpAddr, sync::Arc};

use super::{Effect, records::name_of};
use crate::{
    certificates::Revoked,
    change::{Change, Refusal},
    cidr::Cidr,
    feature::{RECORDS_LEVEL, check_feature},
    join_tokens::{
        Admission, DEAD_TOKEN_SECS, MAX_LIMITED_TOKENS, MAX_TOKEN_CIDRS, MAX_TOKEN_TTL_SECS,
        MAX_TOKEN_USES, is_over,
    },
    meta::Stamp,
    objects::{
        Actor, Annotations, Certificate, CreateJoinToken, LimitedToken, Node, NodeRole,
        Reservation, RevokeJoinToken,
    },
    state::State,
    validate::validate_annotations,
};

/// Bytes of a SHA-256 digest.
const DIGEST_BYTES: usize = 32;
/// The cluster's own tokens, which have no limits.
const CLASSIC: [&str; 2] = ["worker", "manager"];

impl State {
    /// Keeps a new token.
    pub(super) fn create_join_token(
        &mut self,
        op: CreateJoinToken,
        actor: &Actor,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        check_feature(self, RECORDS_LEVEL, "a join token with limits")?;
        let mut token = op.token.ok_or(Refusal::missing("join token"))?;
        let now = stamp.time.seconds;
        check_token(&mut token, now)?;
        if self.join_tokens.contains_key(&token.id) || CLASSIC.contains(&token.id.as_str()) {
            return Err(Refusal::NameTaken {
                kind: "join token",
                name: token.id,
            });
        }
        let live = |token: &&Arc<LimitedToken>| token.dead_since(now).is_none();
        if self.join_tokens.values().filter(live).count() >= MAX_LIMITED_TOKENS {
            return Err(Refusal::precondition(format!(
                "the cluster has {MAX_LIMITED_TOKENS} limited join tokens; revoke some: `waxseal \
                 join-token ls`"
            )));
        }
        token.meta = stamp.created();
        token.created_by = name_of(actor);
        self.drop_dead_tokens(now, MAX_LIMITED_TOKENS - 1);
        self.set_join_token(token);
        Ok(Effect::default())
    }

    /// No join over it any more; what joined and had a session stays.
    pub(super) fn revoke_join_token(
        &mut self,
        op: &RevokeJoinToken,
        stamp: &Stamp,
    ) -> Result<Effect, Refusal> {
        let old = self.join_tokens.get(&op.token_id).cloned();
        let old = old.ok_or_else(|| Refusal::not_found("join token", &op.token_id))?;
        if old.revoked_at.is_some() {
            return Ok(Effect::default());
        }
        let mut new = LimitedToken::clone(&old);
        new.revoked_at = Some(stamp.time);
        new.meta = stamp.updated(old.meta.as_ref());
        let mut changes = Vec::new();
        for reservation in std::mem::take(&mut new.reservations) {
            changes.extend(self.undo_join(&reservation, "its join token was revoked", stamp));
        }
        self.set_join_token(new);
        Ok(changes.into())
    }

    /// Gives back what was reserved and not spent in time.
    pub(super) fn return_reservations(&mut self, stamp: &Stamp) -> Effect {
        let now = stamp.time.seconds;
        let tokens: Vec<_> = self.join_tokens.values().cloned().collect();
        let mut changes = Vec::new();
        for token in tokens {
            changes.extend(self.return_overdue(&token, stamp));
        }
        self.drop_dead_tokens(now, MAX_LIMITED_TOKENS);
        changes.into()
    }

    /// Reserves a use for a node that joins over a limited token.
    ///
    /// # Errors
    /// [`Refusal::Precondition`] and [`Refusal::Exhausted`] if the token does not admit.
    pub(super) fn reserve_use(
        &mut self,
        node: &Node,
        stamp: &Stamp,
    ) -> Result<Vec<Change>, Refusal> {
        let Some(asked) = &node.certificate else {
            return Ok(Vec::new());
        };
        let Some((token_id, address)) = limited(asked) else {
            return Ok(Vec::new());
        };
        let now = stamp.time.seconds;
        let admission = self.admit_join(token_id, address, now)?;
        let token = self.join_tokens.get(token_id).cloned();
        let token = token.ok_or(Refusal::Stale)?;
        if token.role != node.role {
            return Err(Refusal::Stale);
        }
        // Places do not change before the one that is taken over is taken out.
        let mut changes = Vec::new();
        let mut new = LimitedToken::clone(&token);
        if let Admission::TakeOver(place) = admission {
            let taken = new.reservations.remove(place);
            changes.extend(self.undo_join(&taken, "the join was made again", stamp));
        }
        new.reservations.push(Reservation {
            node_id: node.id.clone(),
            address: address.map_or_else(String::new, |address| address.to_string()),
            serial: asked.serial.clone(),
            reserved_at: Some(stamp.time),
        });
        new.meta = stamp.updated(token.meta.as_ref());
        let new = self.set_join_token(new);
        changes.extend(self.return_overdue(&new, stamp));
        Ok(changes)
    }

    /// Whether a limited token admits a join now.
    pub(crate) fn admit_join(
        &self,
        token_id: &str,
        address: Option<IpAddr>,
        now: i64,
    ) -> Result<Admission, Refusal> {
        let token = self.join_tokens.get(token_id);
        let token = token.ok_or_else(|| Refusal::not_found("join token", token_id))?;
        token
            .admits(address, self.root_hash(), now)
            .map_err(Refusal::from)
    }

    /// A join over a limited token that is made again with the same key: its use must still be
    /// reserved.
    pub(super) fn admit_join_again(
        &mut self,
        node: &Node,
        asked: &Certificate,
        stamp: &Stamp,
    ) -> Result<Vec<Change>, Refusal> {
        let Some((token_id, address)) = limited(asked) else {
            return Ok(Vec::new());
        };
        let token = self.join_tokens.get(token_id).cloned();
        let token = token.ok_or_else(|| Refusal::not_found("join token", token_id))?;
        let now = stamp.time.seconds;
        let is_own = |one: &Reservation| one.node_id == node.id && !is_over(one, now);
        let Some(place) = token.reservations.iter().position(is_own) else {
            // The same as for one that is new, which this node is not.
            self.admit_join(token_id, address, now)?;
            return Err(Refusal::Stale);
        };
        let mut new = LimitedToken::clone(&token);
        new.reservations[place].serial.clone_from(&asked.serial);
        self.set_join_token(new);
        Ok(Vec::new())
    }

    /// A node that joined is there: its use is spent.
    pub(super) fn spend_use(&mut self, node_id: &str, stamp: &Stamp) {
        let Some(token) = self.token_reserved_for(node_id) else {
            return;
        };
        let mut new = LimitedToken::clone(token);
        new.reservations.retain(|one| one.node_id != node_id);
        new.spent = new.spent.saturating_add(1);
        new.meta = stamp.updated(token.meta.as_ref());
        self.set_join_token(new);
    }

    /// What was asked for over a use that is reserved was signed under another serial.
    pub(super) fn rename_reservation(&mut self, node_id: &str, old: &[u8], serial: &[u8]) {
        let Some(token) = self.token_reserved_for(node_id) else {
            return;
        };
        let mut new = LimitedToken::clone(token);
        for one in &mut new.reservations {
            if one.node_id == node_id && one.serial == old {
                one.serial = serial.to_vec();
            }
        }
        self.set_join_token(new);
    }

    /// A node is removed: a use that is reserved for it is free.
    pub(super) fn free_use(&mut self, node_id: &str) {
        let Some(token) = self.token_reserved_for(node_id) else {
            return;
        };
        let mut new = LimitedToken::clone(token);
        new.reservations.retain(|one| one.node_id != node_id);
        self.set_join_token(new);
    }

    fn token_reserved_for(&self, node_id: &str) -> Option<&Arc<LimitedToken>> {
        self.join_tokens.get(self.reserving.get(node_id)?)
    }

    /// The hash of the root that joiners see.
    fn root_hash(&self) -> &str {
        let root = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.root_ca.as_ref());
        root.map_or("", |root| root.ca_cert_hash.as_str())
    }

    fn return_overdue(&mut self, token: &Arc<LimitedToken>, stamp: &Stamp) -> Vec<Change> {
        let now = stamp.time.seconds;
        if !token.reservations.iter().any(|one| is_over(one, now)) {
            return Vec::new();
        }
        let mut new = LimitedToken::clone(token);
        let all = std::mem::take(&mut new.reservations);
        let (over, held) = all.into_iter().partition(|one| is_over(one, now));
        new.reservations = held;
        new.meta = stamp.updated(token.meta.as_ref());
        self.set_join_token(new);
        let over: Vec<Reservation> = over;
        let undo = |one: &Reservation| self.undo_join(one, "the node never came", stamp);
        over.iter().flat_map(undo).collect()
    }

    /// Takes back a join that has had no session.
    fn undo_join(&mut self, reservation: &Reservation, reason: &str, stamp: &Stamp) -> Vec<Change> {
        let node_id = reservation.node_id.as_str();
        let is_there = self
            .nodes
            .get(node_id)
            .is_some_and(|node| node.first_session_at.is_some() || node.manager_status.is_some());
        if is_there || !self.nodes.contains_key(node_id) {
            return Vec::new();
        }
        let revoked = Revoked {
            at: stamp.time.seconds,
            by: "join token".to_owned(),
            reason: reason.to_owned(),
        };
        self.forget_requests(node_id);
        let mut changes = self.revoke_all_of(node_id, &revoked);
        changes.push(self.set_node(node_id, None));
        changes.extend(self.orphan_tasks(node_id, stamp));
        changes
    }

    fn drop_dead_tokens(&mut self, now: i64, room: usize) {
        let mut dead: Vec<(i64, String)> = self
            .join_tokens
            .values()
            .filter(|token| token.reservations.is_empty())
            .filter_map(|token| Some((token.dead_since(now)?, token.id.clone())))
            .collect();
        dead.sort_unstable();
        for (since, id) in dead {
            let is_old = now.saturating_sub(since) >= DEAD_TOKEN_SECS;
            if is_old || self.join_tokens.len() > room {
                self.join_tokens.remove(&id);
            }
        }
    }
}

/// The limited token that a request came over, and from where.
fn limited(asked: &Certificate) -> Option<(&str, Option<IpAddr>)> {
    let source = asked.source.as_ref()?;
    let token = source.token.as_str();
    let is_limited = !token.is_empty() && !CLASSIC.contains(&token);
    is_limited.then(|| (token, source.address.parse().ok()))
}

fn check_token(token: &mut LimitedToken, now: i64) -> Result<(), Refusal> {
    if token.id.is_empty() {
        return Err(Refusal::missing("join token id"));
    }
    if NodeRole::try_from(token.role).is_err() {
        return Err(Refusal::invalid("the join token's role is unknown"));
    }
    if token.secret_digest.len() != DIGEST_BYTES {
        return Err(Refusal::missing("digest of the join token's secret"));
    }
    let life = token.expires_at.as_ref().map(|end| end.seconds - now);
    if life.is_none_or(|life| !(1..=MAX_TOKEN_TTL_SECS).contains(&life)) {
        return Err(Refusal::invalid(
            "a limited join token lives at least a second and at most a year",
        ));
    }
    if !(1..=MAX_TOKEN_USES).contains(&token.uses) {
        return Err(Refusal::invalid(format!(
            "a limited join token has 1 to {MAX_TOKEN_USES} uses"
        )));
    }
    if token.cidrs.len() > MAX_TOKEN_CIDRS {
        return Err(Refusal::invalid(format!(
            "a limited join token names at most {MAX_TOKEN_CIDRS} networks"
        )));
    }
    for cidr in &mut token.cidrs {
        let network: Cidr = cidr
            .parse()
            .map_err(|error| Refusal::invalid(format!("{error}")))?;
        *cidr = network.to_string();
    }
    validate_annotations(Some(&Annotations {
        name: "token".to_owned(),
        labels: token.labels.clone(),
    }))?;
    token.spent = 0;
    token.revoked_at = None;
    token.reservations.clear();
    Ok(())
}

#[cfg(test)]
#[path = "join_token_tests.rs"]
mod tests;
