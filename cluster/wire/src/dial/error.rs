//! Why a manager could not be reached.

use std::{error::Error as StdError, io};

use rustls::{AlertDescription, CertificateError, OtherError};
use waxseal_ca::{ChainError, tls::describe_handshake_failure};

/// A manager could not be reached.
#[derive(Debug, thiserror::Error)]
#[error("cannot reach the manager at {address}: {cause}")]
pub struct DialError {
    /// `host:port` as dialled.
    pub address: String,
    /// What stood in the way.
    pub cause: Unreachable,
}

/// What stood in the way of a connection.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Unreachable {
    /// Nothing listens there.
    #[error("connection refused; {REFUSED_HINT}")]
    Refused,
    /// No answer within the connect deadline.
    #[error("no answer within 5 s; {TIMEOUT_HINT}")]
    Timeout,
    /// The network gave another error.
    #[error("{0}; check the address and the network between the hosts")]
    Network(io::Error),
    /// The manager's certificate is not valid yet, or no more, by this host's clock.
    #[error("{skew}")]
    Clock {
        /// Which way the clock is off, and by how much.
        skew: String,
    },
    /// The manager's certificate was not issued by a root that is trusted here, or by another CA
    /// below it.
    #[error(
        "its certificate was not issued by this cluster's CA; check that the address belongs to \
         this cluster"
    )]
    UnknownIssuer,
    /// The manager's certificate is not that of a manager.
    #[error(
        "its certificate is not a manager's; check that the address is that of a manager of this \
         cluster"
    )]
    NotAManager,
    /// The manager refused this node's certificate.
    #[error(
        "it refused this node's certificate ({alert}); the node was removed, its certificate \
         expired or the clocks disagree: see `docker node ls` on a manager and compare the clocks; \
         a removed node leaves and joins again"
    )]
    CertificateRefused {
        /// The TLS alert.
        alert: String,
    },
    /// The manager closed the connection in the handshake.
    #[error(
        "it closed the connection in the handshake; it may be busy, or what listens there is no \
         manager"
    )]
    Closed,
    /// Another failure of TLS.
    #[error("the TLS handshake failed: {0}; check that a manager listens there")]
    Tls(io::Error),
    /// TLS cannot be set up on this side.
    #[error("{0}; this is a fault of the program, not of the cluster")]
    Setup(waxseal_ca::TlsError),
    /// The manager does not speak HTTP/2.
    #[error("it does not answer as a manager does: {0}; check the address and port")]
    Protocol(Box<dyn StdError + Send + Sync>),
}

const REFUSED_HINT: &str = "check that a manager runs there and that the address and port are \
                            those that `docker swarm join-token worker` printed";
const TIMEOUT_HINT: &str = "check the address and that no firewall stands between the hosts";

impl DialError {
    pub(super) fn new(address: &str, cause: Unreachable) -> DialError {
        DialError {
            address: crate::text::peer_text(address),
            cause,
        }
    }

    /// Whether a handshake failed over certificates, so that trying again without
    /// a change on either side is in vain.
    pub fn is_certificate_failure(&self) -> bool {
        matches!(
            self.cause,
            Unreachable::Clock { .. }
                | Unreachable::UnknownIssuer
                | Unreachable::NotAManager
                | Unreachable::CertificateRefused { .. }
        )
    }
}

impl Unreachable {
    /// What to do about it, where that is told apart from what happened.
    pub fn hint(&self) -> &'static str {
        match self {
            Unreachable::Refused => REFUSED_HINT,
            Unreachable::Timeout => TIMEOUT_HINT,
            _ => "check the address and the network between the hosts",
        }
    }

    pub(super) fn tcp(error: io::Error) -> Unreachable {
        match error.kind() {
            io::ErrorKind::ConnectionRefused => Unreachable::Refused,
            io::ErrorKind::TimedOut => Unreachable::Timeout,
            _ => Unreachable::Network(error),
        }
    }

    pub(super) fn tls(error: io::Error) -> Unreachable {
        match tls_cause(&error) {
            Some(rustls::Error::InvalidCertificate(cause)) => Self::certificate(cause, &error),
            Some(rustls::Error::AlertReceived(alert)) if blames_certificate(*alert) => {
                Unreachable::CertificateRefused {
                    alert: format!("{alert:?}"),
                }
            }
            None if is_cut(&error) => Unreachable::Closed,
            _ => Unreachable::Tls(error),
        }
    }

    /// A manager's certificate that this side refused.
    fn certificate(cause: &CertificateError, error: &io::Error) -> Unreachable {
        let described = tls_cause(error).and_then(describe_handshake_failure);
        match (cause, described) {
            (CertificateError::NotValidYetContext { .. }, Some(skew))
            | (CertificateError::ExpiredContext { .. }, Some(skew)) => Unreachable::Clock { skew },
            (CertificateError::UnknownIssuer | CertificateError::BadSignature, _) => {
                Unreachable::UnknownIssuer
            }
            (
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                _,
            ) => Unreachable::NotAManager,
            (CertificateError::Other(OtherError(other)), described) => {
                match (other.downcast_ref::<ChainError>(), described) {
                    (Some(ChainError::NotAManager(_)), _) => Unreachable::NotAManager,
                    (
                        Some(
                            ChainError::OtherCluster { .. }
                            | ChainError::ForeignIssuer
                            | ChainError::FormerIssuer,
                        ),
                        _,
                    ) => Unreachable::UnknownIssuer,
                    (Some(ChainError::NoValidRoot { .. }), Some(skew)) => {
                        Unreachable::Clock { skew }
                    }
                    _ => Unreachable::Tls(same(error)),
                }
            }
            _ => Unreachable::Tls(same(error)),
        }
    }
}

fn same(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}

/// The TLS error behind an error of a connection, if there is one.
pub fn tls_cause<'e>(error: &'e (dyn StdError + 'static)) -> Option<&'e rustls::Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(tls) = error.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An `io::Error` hides the error it carries from its source chain.
        if let Some(inner) = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref)
            && let Some(tls) = inner.downcast_ref::<rustls::Error>()
        {
            return Some(tls);
        }
        next = error.source();
    }
    None
}

fn blames_certificate(alert: AlertDescription) -> bool {
    matches!(
        alert,
        AlertDescription::BadCertificate
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::CertificateRevoked
            | AlertDescription::CertificateExpired
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnknownCA
            // What a signature of another root with the same name looks like.
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied
            | AlertDescription::CertificateRequired
    )
}

fn is_cut(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::BrokenPipe
            | io::ErrorKind::ConnectionAborted
    )
}
