//! The certificate of the leader's own node.
//!
//! Asked for within the process: a manager whose certificate has expired cannot call itself
//! over TLS, and the only one of a cluster has nobody else to ask.

use std::{net::SocketAddr, sync::Arc};

use tonic::Status;
use waxseal_ca::Csr;
use waxseal_cluster::objects::{
    Certificate, IssuanceState, RequestCertificate, RequestSource, command::Op,
};

use super::service::{Ca, new_serial, status};
use crate::error::propose_status;

/// What the leader certified for itself.
#[derive(Clone, Debug)]
pub struct OwnCertificate {
    /// The certificate and its intermediates, in PEM.
    pub chain_pem: Vec<u8>,
    /// The cluster's root as its state has it, in PEM.
    pub root_pem: Vec<u8>,
}

impl Ca {
    /// Where others reach this node, without port.
    fn own_address(&self) -> String {
        let advertised = self.core.advertise_addr.parse::<SocketAddr>();
        advertised.map_or_else(|_| String::new(), |address| address.ip().to_string())
    }

    /// Certifies a key of this manager's own node, in the role of its record.
    pub(crate) async fn certify_self(
        self: &Arc<Self>,
        csr_pem: &[u8],
    ) -> Result<OwnCertificate, Status> {
        let node_id = self.core.node_id.clone();
        let csr =
            Csr::parse(csr_pem).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let certificate = Certificate {
            csr: csr_pem.to_vec(),
            serial: new_serial()?.as_bytes().to_vec(),
            public_key_digest: csr.public_key_digest().as_bytes().to_vec(),
            status: status(IssuanceState::Renew),
            source: Some(RequestSource {
                address: self.own_address(),
                token: String::new(),
            }),
            ..Certificate::default()
        };
        let op = Op::RequestCertificate(RequestCertificate {
            node_id: node_id.clone(),
            certificate: Some(certificate),
        });
        let recorded = self.core.propose_as("ca", op).await;
        recorded.map_err(|error| propose_status(&error))?;
        let key = csr.public_key_digest();
        let this = Arc::clone(self);
        let signed_id = node_id.clone();
        self.tasks
            .spawn(async move { this.sign(&signed_id, Some(csr)).await });
        let chain_pem = self.issued_chain(&node_id, key).await?;
        let root_pem = self.core.read(|state| {
            let root = state.cluster()?.root_ca.as_ref()?;
            Some(root.ca_cert.clone())
        });
        Ok(OwnCertificate {
            chain_pem,
            root_pem: root_pem.unwrap_or_default(),
        })
    }
}
