//! What a node needs before it is a manager: addresses, the unlock key, keys for a log.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use tonic::Code;
use waxseal_autolock::{Dek, RaftKeys, UnlockKey};
use waxseal_ca::{Clock, LiveTls, NodeCredentials, TrustBundle};
use waxseal_wire::{
    Credentials, DialError, ManagerChannel, engine_text,
    waxseal::{MembersRequest, ReadIndexRequest, UnlockKeyRequest},
};
use zeroize::Zeroizing;

use crate::{
    address::{AddressError, LocalAddress, local_addresses, resolve_advertise, resolve_listen},
    daemon::Shared,
    join::local_address,
    node_file::NodeFile,
};

/// Rounds over the known managers for the unlock key: the leader may be changing.
const ROUNDS: u32 = 5;
const ROUND_PAUSE: Duration = Duration::from_secs(1);
/// Time for one call.
const CALL_DEADLINE: Duration = Duration::from_secs(5);

/// Why a node cannot become a manager now.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(crate) enum EnterError {
    /// The unlock key, without which a manager must not write its first file.
    #[error(
        "no manager gave the cluster's unlock key: {last}; see that the managers have a leader"
    )]
    UnlockKey {
        /// The last manager's answer.
        last: String,
    },
    /// What a manager gave is no unlock key.
    #[error(
        "the unlock key that the managers gave is malformed; rotate it on a manager with `docker swarm unlock-key --rotate`"
    )]
    MalformedKey,
    /// Where to listen, or to be reached.
    #[error(transparent)]
    Address(#[from] AddressError),
    /// Local addresses are not known.
    #[error("cannot list local addresses")]
    Interfaces(#[source] std::io::Error),
    /// No random bytes.
    #[error("the system gave no random bytes")]
    Random,
}

/// The cluster's unlock key, `None` while autolock is off, and its epoch.
pub(crate) struct ClusterKey {
    pub(crate) key: Option<UnlockKey>,
    pub(crate) epoch: u64,
}

/// Asks managers for the unlock key, with a manager's certificate that is not on disk yet.
pub(crate) async fn fetch_unlock_key(
    managers: &[String],
    trust: &Arc<TrustBundle>,
    credentials: &Arc<NodeCredentials>,
    clock: &Arc<dyn Clock>,
) -> Result<ClusterKey, EnterError> {
    // Not the node's own: it has this certificate once its keys are on disk.
    let tls = LiveTls::new(
        Arc::clone(trust),
        Some(Arc::clone(credentials)),
        Arc::clone(clock),
    );
    let mut last = "no manager is known".to_owned();
    for round in 0..ROUNDS {
        if round > 0 {
            tokio::time::sleep(ROUND_PAUSE).await;
        }
        for manager in managers {
            match ask(manager, &tls).await {
                Ok(record) => return parse(record),
                Err(error) => {
                    tracing::debug!(%manager, %error, "no unlock key");
                    last = error;
                }
            }
        }
    }
    Err(EnterError::UnlockKey { last })
}

async fn ask(
    manager: &str,
    tls: &Arc<LiveTls>,
) -> Result<Option<waxseal_cluster::objects::UnlockKeyRecord>, String> {
    let channel = ManagerChannel::dial(manager, Credentials::Member(tls))
        .await
        .map_err(|error: DialError| error.to_string())?;
    let mut control = channel.control();
    let asking = control.unlock_key(UnlockKeyRequest {});
    match tokio::time::timeout(CALL_DEADLINE, asking).await {
        Ok(Ok(answer)) => Ok(answer.into_inner().unlock_key),
        Ok(Err(status)) => Err(engine_text(&status)),
        Err(_) => Err(format!("the manager at {manager} did not answer in time")),
    }
}

fn parse(
    record: Option<waxseal_cluster::objects::UnlockKeyRecord>,
) -> Result<ClusterKey, EnterError> {
    let Some(mut record) = record else {
        return Ok(ClusterKey {
            key: None,
            epoch: 0,
        });
    };
    let bytes = Zeroizing::new(std::mem::take(&mut record.key));
    let key = match bytes.as_slice() {
        [] => None,
        bytes => Some(UnlockKey::from_slice(bytes).map_err(|_| EnterError::MalformedKey)?),
    };
    Ok(ClusterKey {
        key,
        epoch: record.epoch,
    })
}

/// How the managers that have a leader see one that has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// Nobody could tell.
    Unknown,
    /// As one of them.
    Member,
    /// As a manager that they took out of the Raft group and that is to come back.
    Removed,
    /// As one of the cluster before it was made anew from another manager's data.
    LeftBehind,
}

/// Asks the other managers for this one's standing. Only a leader answers.
pub(crate) async fn standing(
    others: &[String],
    tls: &Arc<LiveTls>,
    raft_id: u64,
    incarnation: u64,
) -> Standing {
    for manager in others {
        let asking = ask_standing(manager, tls, raft_id, incarnation);
        match tokio::time::timeout(CALL_DEADLINE, asking).await {
            Ok(Ok(standing)) => return standing,
            Ok(Err(error)) => tracing::debug!(%manager, %error, "no word on this manager"),
            Err(_) => tracing::debug!(%manager, "no word on this manager in time"),
        }
    }
    Standing::Unknown
}

async fn ask_standing(
    manager: &str,
    tls: &Arc<LiveTls>,
    raft_id: u64,
    incarnation: u64,
) -> Result<Standing, String> {
    let channel = ManagerChannel::dial(manager, Credentials::Member(tls))
        .await
        .map_err(|error: DialError| error.to_string())?;
    let mut control = channel.control();
    let members = control.members(MembersRequest {}).await;
    let members = members.map_err(|status| engine_text(&status))?.into_inner();
    if members.members.iter().any(|member| member.raft_id == raft_id) {
        return Ok(Standing::Member);
    }
    match control.read_index(ReadIndexRequest { incarnation }).await {
        Ok(_) => Ok(Standing::Removed),
        Err(status) if status.code() == Code::FailedPrecondition => Ok(Standing::LeftBehind),
        Err(status) => Err(engine_text(&status)),
    }
}

/// New keys for a log: a Raft id serves one membership only.
pub(crate) fn new_raft_keys() -> Result<RaftKeys, EnterError> {
    let mut raft_id = [0u8; 8];
    getrandom::fill(&mut raft_id).map_err(|_| EnterError::Random)?;
    Ok(RaftKeys {
        raft_id: u64::from_be_bytes(raft_id),
        current: Dek::generate(|bytes| getrandom::fill(bytes)).map_err(|_| EnterError::Random)?,
        retired: Vec::new(),
    })
}

/// Where a manager listens and where the others reach it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ManagerAddresses {
    pub(crate) listen: SocketAddr,
    pub(crate) advertise: SocketAddr,
}

/// The addresses of a node that becomes a manager: as was asked, else where it
/// reaches `remotes` from, as those see it.
pub(crate) fn manager_addresses(
    shared: &Shared,
    listen_asked: &str,
    advertise_asked: &str,
    remotes: &[String],
) -> Result<ManagerAddresses, EnterError> {
    let local = local_addresses().map_err(EnterError::Interfaces)?;
    let default = shared.config.default_advertise_addr.as_deref();
    let from = local_address(remotes).parse().ok();
    Ok(addresses_among(
        &local,
        default,
        listen_asked,
        advertise_asked,
        from,
    )?)
}

fn addresses_among(
    local: &[LocalAddress],
    default: Option<&str>,
    listen_asked: &str,
    advertise_asked: &str,
    from: Option<std::net::IpAddr>,
) -> Result<ManagerAddresses, AddressError> {
    let listen = resolve_listen(listen_asked, local)?;
    let said = !advertise_asked.is_empty() || default.is_some() || !listen.ip().is_unspecified();
    let advertise = match from {
        Some(from) if !said => SocketAddr::new(from, listen.port()),
        _ => resolve_advertise(advertise_asked, default, listen, local)?,
    };
    Ok(ManagerAddresses { listen, advertise })
}

/// The addresses of a manager that starts again: the same, unless the one it
/// advertised is gone from this host and was not asked for by number.
pub(crate) fn addresses_now(shared: &Shared, file: &NodeFile) -> Option<ManagerAddresses> {
    let local = local_addresses().ok()?;
    let default = shared.config.default_advertise_addr.as_deref();
    moved_addresses(&local, default, file)
}

fn moved_addresses(
    local: &[LocalAddress],
    default: Option<&str>,
    file: &NodeFile,
) -> Option<ManagerAddresses> {
    let former: SocketAddr = file.advertise_addr.parse().ok()?;
    let is_local = local.iter().any(|entry| entry.address == former.ip());
    if is_local || file.listen_asked.is_empty() || is_by_number(&file.advertise_asked) {
        return None;
    }
    let listen = resolve_listen(&file.listen_asked, local).ok()?;
    let advertise = resolve_advertise(&file.advertise_asked, default, listen, local).ok()?;
    (advertise != former).then_some(ManagerAddresses { listen, advertise })
}

/// Whether an address was asked for as such, rather than as an interface or not at all.
fn is_by_number(asked: &str) -> bool {
    let host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    asked.parse::<std::net::IpAddr>().is_ok() || host.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn local(addresses: &[(&str, &str)]) -> Vec<LocalAddress> {
        let entry = |&(interface, address): &(&str, &str)| LocalAddress {
            interface: interface.to_owned(),
            address: address.parse().unwrap(),
        };
        addresses.iter().map(entry).collect()
    }

    fn file(advertised: &str, listen: &str, asked: &str) -> NodeFile {
        NodeFile {
            advertise_addr: advertised.to_owned(),
            listen_asked: listen.to_owned(),
            advertise_asked: asked.to_owned(),
            ..NodeFile::default()
        }
    }

    #[test]
    fn an_address_that_is_still_here_or_was_asked_for_by_number_stays() {
        let here = local(&[("lo", "127.0.0.1"), ("eth0", "10.0.0.2")]);
        let any = "0.0.0.0:2377";
        for file in [
            file("10.0.0.2:2377", any, ""),
            file("10.0.0.2:2377", any, "eth0"),
            file("192.0.2.1:2377", any, "192.0.2.1"),
            file("192.0.2.1:7000", any, "192.0.2.1:7000"),
            file("[2001:db8::1]:7000", any, "[2001:db8::1]:7000"),
            // A file of the format before.
            file("192.0.2.1:2377", "", ""),
        ] {
            assert_eq!(moved_addresses(&here, None, &file), None, "{file:?}");
        }
    }

    #[test]
    fn an_interface_and_the_hosts_only_address_are_looked_up_anew() {
        let here = local(&[("lo", "127.0.0.1"), ("eth0", "10.0.0.9")]);
        let expected = ManagerAddresses {
            listen: "0.0.0.0:2377".parse().unwrap(),
            advertise: "10.0.0.9:2377".parse().unwrap(),
        };
        for asked in ["eth0", ""] {
            let file = file("10.0.0.2:2377", "0.0.0.0:2377", asked);
            assert_eq!(
                moved_addresses(&here, None, &file),
                Some(expected),
                "{asked}"
            );
        }
        // Which of two is not guessed.
        let two = local(&[("eth0", "10.0.0.9"), ("eth1", "10.1.0.9")]);
        let file = file("10.0.0.2:2377", "0.0.0.0:2377", "");
        assert_eq!(moved_addresses(&two, None, &file), None);
    }

    #[test]
    fn a_new_manager_is_reached_where_it_was_asked_to_or_where_it_comes_from() {
        let here = local(&[("eth0", "10.0.0.9"), ("eth1", "10.1.0.9")]);
        let from = Some("10.1.0.9".parse().unwrap());
        let addresses = |default, listen, advertise, from| {
            addresses_among(&here, default, listen, advertise, from)
                .map(|addresses| addresses.advertise.to_string())
        };
        let any = "0.0.0.0:2377";
        assert_eq!(addresses(None, any, "", from).unwrap(), "10.1.0.9:2377");
        assert_eq!(addresses(None, any, "eth0", from).unwrap(), "10.0.0.9:2377");
        assert_eq!(
            addresses(Some("eth0"), any, "", from).unwrap(),
            "10.0.0.9:2377"
        );
        assert_eq!(
            addresses(None, "10.0.0.9:7000", "", from).unwrap(),
            "10.0.0.9:7000"
        );
        assert!(addresses(None, any, "", None).is_err(), "which of two");
        assert!(addresses(None, "", "", from).is_err());
    }
}
