//! What a node needs before it is a manager: addresses, the unlock key, keys for a log.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tonic::Code;
use waxseal_autolock::{Dek, RaftKeys, UnlockKey};
use waxseal_ca::{Clock, LiveTls, NodeCredentials, TrustBundle};
use waxseal_cluster::objects::UnlockKeyRecord;
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

async fn ask(manager: &str, tls: &Arc<LiveTls>) -> Result<Option<UnlockKeyRecord>, String> {
    let channel = ManagerChannel::dial(manager, Credentials::Member(tls))
        .await
        .map_err(|error: DialError| error.to_string())?;
    let mut control = channel.control();
    let asking = control.unlock_key(UnlockKeyRequest {});
    match tokio::time::timeout(CALL_DEADLINE, asking).await {
        Ok(Ok(answer)) => opened(&channel, answer.into_inner().unlock_key),
        Ok(Err(status)) => Err(engine_text(&status)),
        Err(_) => Err(format!("the manager at {manager} did not answer in time")),
    }
}

/// The record as the manager has it.
fn opened(
    channel: &ManagerChannel,
    mut record: Option<UnlockKeyRecord>,
) -> Result<Option<UnlockKeyRecord>, String> {
    if let Some(record) = &mut record
        && !record.key.is_empty()
    {
        let sealed = std::mem::take(&mut record.key);
        let key = channel.sealing().open(sealed);
        record.key = key.map_err(|status| status.message().to_owned())?.to_vec();
    }
    Ok(record)
}

fn parse(record: Option<UnlockKeyRecord>) -> Result<ClusterKey, EnterError> {
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
    if members
        .members
        .iter()
        .any(|member| member.raft_id == raft_id)
    {
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
    from: Option<IpAddr>,
) -> Result<ManagerAddresses, AddressError> {
    let listen = resolve_listen(listen_asked, local)?;
    let said = !advertise_asked.is_empty() || default.is_some() || !listen.ip().is_unspecified();
    let advertise = match from {
        Some(from) if !said => SocketAddr::new(from, listen.port()),
        _ => resolve_advertise(advertise_asked, default, listen, local)?,
    };
    Ok(ManagerAddresses { listen, advertise })
}

/// Whether this host has an address; one that others translate it does not.
pub(crate) fn is_local(address: &SocketAddr) -> bool {
    let local = local_addresses().unwrap_or_default();
    local.iter().any(|entry| entry.address == address.ip())
}

/// The addresses of a manager that starts again: the same, unless the one it
/// advertised was this host's and is so no more.
pub(crate) fn addresses_now(shared: &Shared, file: &NodeFile) -> Option<ManagerAddresses> {
    let local = local_addresses().ok()?;
    let default = shared.config.default_advertise_addr.as_deref();
    let others = file
        .managers
        .iter()
        .filter(|other| other.node_id != file.node_id);
    let others: Vec<_> = others.map(|other| other.addr.clone()).collect();
    let from = local_address(&others).parse().ok();
    moved_addresses(&local, default, file, from)
}

fn moved_addresses(
    local: &[LocalAddress],
    default: Option<&str>,
    file: &NodeFile,
    from: Option<IpAddr>,
) -> Option<ManagerAddresses> {
    let former: SocketAddr = file.advertise_addr.parse().ok()?;
    let is_here = |address: IpAddr| local.iter().any(|entry| entry.address == address);
    if is_here(former.ip()) || !file.advertise_local {
        return None;
    }
    // What was asked for by number is gone; what it was asked to look up is looked up.
    let asked = match is_by_number(&file.advertise_asked) {
        true => "",
        false => file.advertise_asked.as_str(),
    };
    let mut listen: SocketAddr = file.listen_addr.parse().ok()?;
    let any = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), former.port());
    let mut advertise = match from {
        Some(from) if asked.is_empty() && default.is_none() => SocketAddr::new(from, 0),
        _ => resolve_advertise(asked, default, any, local).ok()?,
    };
    advertise.set_port(former.port());
    if !listen.ip().is_unspecified() && !is_here(listen.ip()) {
        listen.set_ip(advertise.ip());
    }
    (advertise != former).then_some(ManagerAddresses { listen, advertise })
}

/// Whether an address was asked for as such, rather than as an interface or not at all.
fn is_by_number(asked: &str) -> bool {
    let host = asked.rsplit_once(':').map_or(asked, |(host, _)| host);
    let host = host.trim_matches(['[', ']']);
    asked.parse::<IpAddr>().is_ok() || host.parse::<IpAddr>().is_ok()
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

    fn file(advertised: &str, listen: &str, asked: &str, was_local: bool) -> NodeFile {
        NodeFile {
            advertise_addr: advertised.to_owned(),
            listen_addr: listen.to_owned(),
            advertise_asked: asked.to_owned(),
            advertise_local: was_local,
            ..NodeFile::default()
        }
    }

    #[test]
    fn an_address_that_is_still_here_or_never_was_stays() {
        let here = local(&[("lo", "127.0.0.1"), ("eth0", "10.0.0.2")]);
        let any = "0.0.0.0:2377";
        for file in [
            file("10.0.0.2:2377", any, "", true),
            file("10.0.0.2:2377", any, "eth0", true),
            // Translated on the way, or written by the format before.
            file("192.0.2.1:2377", any, "192.0.2.1", false),
            file("[2001:db8::1]:7000", any, "[2001:db8::1]:7000", false),
            file("192.0.2.1:2377", any, "", false),
        ] {
            assert_eq!(moved_addresses(&here, None, &file, None), None, "{file:?}");
        }
    }

    #[test]
    fn an_address_that_is_gone_gives_way_to_the_one_that_is_here() {
        let here = local(&[("lo", "127.0.0.1"), ("eth0", "10.0.0.9")]);
        let moved = |file: &NodeFile, default, from: Option<&str>| {
            let from = from.map(|from| from.parse().unwrap());
            moved_addresses(&here, default, file, from)
                .map(|new| (new.listen.to_string(), new.advertise.to_string()))
        };
        let new = |listen: &str, advertise: &str| Some((listen.to_owned(), advertise.to_owned()));
        let any = "0.0.0.0:2377";
        for asked in ["eth0", "", "10.0.0.2", "10.0.0.2:7000"] {
            let file = file("10.0.0.2:7000", any, asked, true);
            assert_eq!(
                moved(&file, None, None),
                new(any, "10.0.0.9:7000"),
                "{asked}"
            );
        }
        let file = file("10.0.0.2:7000", "10.0.0.2:7000", "", true);
        assert_eq!(
            moved(&file, None, None),
            new("10.0.0.9:7000", "10.0.0.9:7000")
        );
        // Where the others see it, or where the daemon was told; which of two is not guessed.
        assert_eq!(
            moved(&file, None, Some("10.1.0.9")),
            new("10.1.0.9:7000", "10.1.0.9:7000")
        );
        assert_eq!(
            moved(&file, Some("eth0"), Some("10.1.0.9")),
            new("10.0.0.9:7000", "10.0.0.9:7000")
        );
        let two = local(&[("eth0", "10.0.0.9"), ("eth1", "10.1.0.9")]);
        assert_eq!(moved_addresses(&two, None, &file, None), None);
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
