//! Joins over tokens with limits.

use std::net::IpAddr;

use tonic::Status;
use waxseal_ca::{IssuedNode, JoinToken, Role, find_limited};
use waxseal_cluster::objects::LimitedToken;
use waxseal_wire::refusal_status;

use super::service::{Ca, role_of};

/// A limited token whose secret was shown.
pub(super) struct ShownToken {
    pub(super) id: String,
    pub(super) role: Role,
}

impl Ca {
    /// The limited token that a join shows, if it shows one.
    ///
    /// What it is refused for is told only to who knows its secret; that it counts is decided
    /// again when the join is applied.
    pub(super) fn limited_token(
        &self,
        token: &[u8],
        address: IpAddr,
    ) -> Result<Option<ShownToken>, Status> {
        // What is no token is refused with the cluster's own.
        let text = std::str::from_utf8(token).unwrap_or_default();
        let Ok(presented) = JoinToken::parse(text) else {
            return Ok(None);
        };
        let now = self.core.clock.now().unix_timestamp();
        self.core.read(|state| {
            let candidate = |token: &LimitedToken| (token.id.clone(), token.role());
            let kept = state.join_tokens();
            let kept = kept.map(|token| (token, token.secret_digest.as_slice()));
            let Some(token) = find_limited(&presented, kept) else {
                return Ok(None);
            };
            let (id, role) = candidate(token);
            state
                .check_join(&id, address, now)
                .map_err(|refusal| refusal_status(&refusal))?;
            let role = role_of(role);
            Ok(Some(ShownToken { id, role }))
        })
    }
}

/// How a record names the cluster's own token that admitted a node.
pub(super) fn classic_name(node: &IssuedNode) -> &'static str {
    let (IssuedNode::New { role } | IssuedNode::Existing { role, .. }) = node;
    match role {
        Role::Worker => "worker",
        Role::Manager => "manager",
    }
}
