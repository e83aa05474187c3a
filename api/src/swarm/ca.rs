//! Changes of the root, as both the settings and our own routes ask for them.

use waxseal_ca::rotation::{Change, ChangeRefusal, Present, Wanted, decide_change};
use waxseal_cluster::{
    ROTATION_LEVEL, RotationOptions, described_level, node_name,
    objects::{Cluster as ClusterObject, NodeRole, RootCa},
    start_rotation, timestamp,
};

use super::signer::check_has_no_way;
use crate::{
    cluster::Cluster,
    error::{ApiError, Code},
    server::Shared,
};

/// What is asked for: a root with its key, or a counter that differs from the last one.
pub(crate) struct Asked<'a> {
    pub(crate) cert_pem: &'a [u8],
    pub(crate) key_pem: &'a [u8],
    pub(crate) forced: u64,
}

/// Carries what is asked for into the cluster object; nothing of it is proposed yet.
pub(crate) async fn change_root<C: Cluster>(
    api: &Shared<C>,
    cluster: &mut ClusterObject,
    asked: &Asked<'_>,
    options: RotationOptions,
) -> Result<(), ApiError> {
    let now = api.cluster.now();
    let last = cluster
        .root_ca
        .as_ref()
        .map(|root| root.last_forced_rotation);
    if !asked.cert_pem.is_empty() || last.is_some_and(|last| last != asked.forced) {
        check_has_no_way(cluster)?;
    }
    let Some(root) = &mut cluster.root_ca else {
        return Ok(());
    };
    let target = root.root_rotation.as_ref();
    let present = Present {
        cert_pem: &root.ca_cert,
        key_pem: &root.ca_key,
        target_pem: target.map(|target| target.ca_cert.as_slice()),
        forced: root.last_forced_rotation,
    };
    let wanted = Wanted {
        cert_pem: asked.cert_pem,
        key_pem: asked.key_pem,
        forced: asked.forced,
    };
    let change = decide_change(&present, &wanted, now).map_err(|refusal| refused(&refusal))?;
    if matches!(change, Change::Nothing) {
        return Ok(());
    }
    apply(root, change, options, timestamp(now));
    root.last_forced_rotation = asked.forced;
    if cluster.feature_level < ROTATION_LEVEL {
        return Err(too_old(api, cluster.feature_level).await);
    }
    Ok(())
}

fn apply(root: &mut RootCa, change: Change, options: RotationOptions, now: prost_types::Timestamp) {
    match change {
        Change::Nothing => {}
        Change::Stay { key_pem } => {
            root.ca_key = key_pem.as_bytes().to_vec();
            root.root_rotation = None;
        }
        Change::Continue { key_pem } => {
            if let Some(rotation) = &mut root.root_rotation {
                rotation.ca_key = key_pem.as_bytes().to_vec();
            }
        }
        Change::Rotate(new) => start_rotation(root, &new, options, now),
    }
}

fn refused(refusal: &ChangeRefusal) -> ApiError {
    match refusal {
        ChangeRefusal::CrossSign(_) => ApiError::rpc(Code::Internal, refusal),
        _ => ApiError::invalid_argument(refusal),
    }
}

/// Which managers do not know yet what a rotation writes.
pub(super) async fn too_old<C: Cluster>(api: &Shared<C>, level: u32) -> ApiError {
    let behind = api.read(|state| {
        let managers = state
            .nodes()
            .filter(|node| node.role() == NodeRole::Manager);
        let behind = managers.filter(|node| described_level(node) < Some(ROTATION_LEVEL));
        let named: Vec<String> = behind
            .map(|node| format!("{} ({})", node.id, node_name(node)))
            .collect();
        named.join(", ")
    });
    let behind = match behind.await {
        Ok(behind) if !behind.is_empty() => behind,
        _ => "one of them".to_owned(),
    };
    ApiError::rpc(
        Code::FailedPrecondition,
        format_args!(
            "the managers of this cluster are at feature level {level} and a rotation of the root \
             needs {ROTATION_LEVEL}; update waxseal on {behind}"
        ),
    )
}
