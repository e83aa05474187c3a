//! Who is at the other end of a connection.

use std::{net::SocketAddr, sync::Arc};

use rustls::pki_types::CertificateDer;
use tonic::{Request, Status};
use waxseal_ca::{NodeIdentity, reclaim::ChannelBinding};

use crate::sealing::Sealing;

/// The caller of a request, found in the request's extensions.
///
/// Of a call that another manager relayed this is who made it there, not that manager.
///
/// `identity` is what the verified certificate says. Whether that node is still
/// a member, and in which role, is for the callee to look up in its node table.
#[derive(Clone, Debug)]
pub struct Peer {
    /// Remote address of the connection.
    pub address: SocketAddr,
    /// From the client certificate; absent when none was presented.
    pub identity: Option<NodeIdentity>,
    /// The certificates presented, leaf first; empty when there were none.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Node id of the manager that relayed the call, if one did.
    pub relayed_by: Option<String>,
    /// What its connection exports for the proof of a node that returns: of TLS 1.3 without a
    /// client certificate. Of a relayed call as the relaying manager, which is one on record,
    /// says it is.
    pub binding: Option<ChannelBinding>,
    /// Of a manager's own connection.
    pub sealing: Option<Arc<Sealing>>,
}

impl Peer {
    /// The caller of `request`.
    ///
    /// # Errors
    /// `Internal` if the request did not come through an [`Acceptor`](crate::Acceptor).
    pub fn of<T>(request: &Request<T>) -> Result<&Peer, Status> {
        request
            .extensions()
            .get::<Arc<Peer>>()
            .map(Arc::as_ref)
            .ok_or_else(|| Status::internal("the request bears no peer"))
    }

    /// What seals content for the caller, a manager.
    ///
    /// # Errors
    /// `PermissionDenied` if its connection is no manager's.
    pub fn sealing(&self) -> Result<&Sealing, Status> {
        self.sealing.as_deref().ok_or_else(|| {
            Status::permission_denied("Permission denied: this call is for managers")
        })
    }

    /// The caller's identity.
    ///
    /// # Errors
    /// `Unauthenticated` if the caller presented no certificate.
    pub fn member(&self) -> Result<&NodeIdentity, Status> {
        self.identity.as_ref().ok_or_else(|| {
            Status::unauthenticated("this call needs a node certificate; join the cluster first")
        })
    }
}
