//! Changes of the root, as both the settings and our own routes ask for them.

use waxseal_ca::rotation::{Change, ChangeRefusal, Present, Wanted, decide_change};
use waxseal_cluster::{
    ISSUERS_LEVEL, ROTATION_LEVEL, RotationOptions, change_issuer, described_level, node_name,
    objects::{Cluster as ClusterObject, NodeRole, RootCa},
    start_rotation, timestamp,
};

use super::signer::{Signers, external_cas_of};
use crate::{
    cluster::Cluster,
    error::{ApiError, Code},
    server::Shared,
};

/// What is asked for: a root, or a counter that differs from the last one.
pub(crate) struct Asked<'a> {
    /// One root, or an operator's intermediate and what leads from it to the trusted root.
    pub(crate) cert_pem: &'a [u8],
    /// Its key; empty: an external CA has it.
    pub(crate) key_pem: &'a [u8],
    pub(crate) forced: u64,
}

/// Carries what is asked for into the cluster object, whose settings are the new ones; nothing of
/// it is proposed yet.
///
/// # Errors
/// The engine's texts; the object is of no use then.
pub(crate) async fn change_root<C: Cluster>(
    api: &Shared<C>,
    cluster: &mut ClusterObject,
    asked: &Asked<'_>,
    options: RotationOptions,
) -> Result<(), ApiError> {
    let now = api.cluster.now();
    let Some(root) = &cluster.root_ca else {
        return Ok(());
    };
    let signers = Signers {
        api,
        cas: external_cas_of(cluster),
        current: root.ca_cert.clone(),
    };
    // 1. Who has no key here must be able to ask for certificates, now and until it has one.
    if root.ca_key.is_empty() && !is_key_of_current(asked, root) {
        signers.reach(&root.ca_cert, "current").await?;
    }
    // 2. What it comes to.
    let target = root.root_rotation.as_ref();
    let present = Present {
        cert_pem: &root.ca_cert,
        key_pem: &root.ca_key,
        way_pem: &cluster.signing_way,
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
        return match target {
            Some(target) if target.ca_key.is_empty() => {
                signers.reach(&target.ca_cert, "next").await
            }
            _ => Ok(()),
        };
    }
    check_level(api, cluster, &change).await?;
    // 3. Somebody signs with what is asked for.
    if !asked.cert_pem.is_empty() && asked.key_pem.is_empty() {
        signers.reach(asked.cert_pem, "desired").await?;
    }
    let change = match change {
        Change::RotateOnceSigned(new) => Change::Rotate(Box::new(signers.cross_sign(*new).await?)),
        other => other,
    };
    apply(cluster, change, options, timestamp(now));
    // Of who signed until now.
    cluster.signer_trouble = None;
    if let Some(root) = &mut cluster.root_ca {
        root.last_forced_rotation = asked.forced;
    }
    Ok(())
}

/// Whether the key of the present root is brought, which makes an end of asking others.
fn is_key_of_current(asked: &Asked<'_>, root: &RootCa) -> bool {
    !asked.key_pem.is_empty() && asked.cert_pem.trim_ascii() == root.ca_cert.trim_ascii()
}

fn apply(
    cluster: &mut ClusterObject,
    change: Change,
    options: RotationOptions,
    now: prost_types::Timestamp,
) {
    match change {
        Change::Nothing | Change::RotateOnceSigned(_) => {}
        Change::Stay { key_pem, way_pem } => {
            change_issuer(cluster, &key_pem, &way_pem, options, now);
        }
        Change::Continue { key_pem } => {
            let root = cluster.root_ca.as_mut();
            if let Some(rotation) = root.and_then(|root| root.root_rotation.as_mut()) {
                rotation.ca_key = key_pem.as_bytes().to_vec();
            }
        }
        Change::Rotate(new) => {
            start_rotation(cluster, &new, options, now);
        }
    }
}

fn refused(refusal: &ChangeRefusal) -> ApiError {
    match refusal {
        ChangeRefusal::CrossSign(_) => ApiError::rpc(Code::Internal, refusal),
        _ => ApiError::invalid_argument(refusal),
    }
}

/// Whether all managers know what the change writes.
async fn check_level<C: Cluster>(
    api: &Shared<C>,
    cluster: &ClusterObject,
    change: &Change,
) -> Result<(), ApiError> {
    let (level, what) = match change {
        Change::Stay { way_pem, .. } if way_pem.as_bytes() != cluster.signing_way => {
            (ISSUERS_LEVEL, "another issuer below the root")
        }
        _ => (ROTATION_LEVEL, "a rotation of the root"),
    };
    if cluster.feature_level >= level {
        return Ok(());
    }
    let behind = api.read(move |state| {
        let managers = state
            .nodes()
            .filter(|node| node.role() == NodeRole::Manager);
        let behind = managers.filter(|node| described_level(node) < Some(level));
        let named: Vec<String> = behind
            .map(|node| format!("{} ({})", node.id, node_name(node)))
            .collect();
        named.join(", ")
    });
    let behind = match behind.await {
        Ok(behind) if !behind.is_empty() => behind,
        _ => "one of them".to_owned(),
    };
    let present = cluster.feature_level;
    Err(ApiError::rpc(
        Code::FailedPrecondition,
        format_args!(
            "the managers of this cluster are at feature level {present} and {what} needs \
             {level}; update waxseal on {behind}"
        ),
    ))
}
