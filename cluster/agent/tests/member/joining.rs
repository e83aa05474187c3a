//! Joins that succeed and joins that do not.

use std::sync::Arc;

use waxseal_agent::{JoinError, JoinRequest, Joined, join};
use waxseal_ca::{Role, RootAuthority};
use waxseal_cluster::objects::Availability;
use zeroize::Zeroizing;

use crate::manager::{CLUSTER, Manager};

async fn join_with(manager: &Manager, token: &str) -> Result<Joined, JoinError> {
    let request = JoinRequest {
        token: Zeroizing::new(token.to_owned()),
        remotes: vec![manager.address.clone()],
        availability: Availability::Active,
        version: "0.1.0".to_owned(),
    };
    join(request, manager.clock.clone()).await
}

async fn refusal(manager: &Manager, token: &str) -> String {
    join_with(manager, token)
        .await
        .err()
        .expect("a refusal")
        .to_string()
}

/// The token with one digit of its last part changed.
fn other_secret(token: &str) -> String {
    let last = token.chars().last().unwrap();
    let other = if last == '1' { '2' } else { '1' };
    format!("{}{other}", &token[..token.len() - 1])
}

#[tokio::test]
async fn a_malformed_token_goes_nowhere() {
    let manager = Manager::start().await;
    let text = refusal(&manager, "SWMTKN-1-short").await;
    assert!(text.starts_with("invalid join token"), "{text}");
    assert!(manager.with(|behaviour| behaviour.issued.is_empty()));
}

#[tokio::test]
async fn a_wrong_secret_is_refused_in_the_engines_words() {
    let manager = Manager::start().await;
    let text = refusal(&manager, &other_secret(&manager.token)).await;
    let words = "rpc error: code = InvalidArgument desc = A valid join token is necessary to \
                 join this cluster";
    assert!(text.starts_with(words), "{text}");
}

#[tokio::test]
async fn the_token_does_not_go_to_a_manager_of_another_root() {
    let (manager, other) = (Manager::start().await, Manager::start().await);
    let text = refusal(&manager, &other.token).await;
    assert!(
        text.starts_with("remote CA does not match fingerprint. Expected: "),
        "{text}"
    );
    // A man in the middle that shows the right root cannot speak under it.
    let root_ca = other.root.trust().pem().to_vec();
    manager.with(|behaviour| behaviour.root_ca = Some(root_ca));
    let error = join_with(&manager, &other.token).await.err().unwrap();
    assert!(matches!(error, JoinError::Unreachable(_)), "{error:?}");
    assert!(manager.with(|behaviour| behaviour.issued.is_empty()));
}

#[tokio::test(start_paused = true)]
async fn nobody_there_is_told_in_the_engines_words() {
    let manager = Manager::start().await;
    let request = JoinRequest {
        token: Zeroizing::new(manager.token.clone()),
        remotes: vec!["127.0.0.1:1".to_owned()],
        availability: Availability::Active,
        version: String::new(),
    };
    let error = join(request, manager.clock.clone())
        .await
        .err()
        .unwrap()
        .to_string();
    let words = "rpc error: code = Unavailable desc = connection error: desc = \"transport: Error \
                 while dialing dial tcp 127.0.0.1:1: connect: connection refused\"";
    assert!(error.starts_with(words), "{error}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_measured() {
    let manager = Manager::start().await;
    manager.with(|behaviour| behaviour.clock_offset = time::Duration::hours(3));
    let text = refusal(&manager, &manager.token).await;
    assert!(text.contains("3 h 0 min behind the manager's"), "{text}");
    manager.with(|behaviour| behaviour.clock_offset = -time::Duration::hours(3));
    let text = refusal(&manager, &manager.token).await;
    assert!(text.contains("3 h 0 min ahead of the manager's"), "{text}");
    assert!(manager.with(|behaviour| behaviour.issued.is_empty()));
}

#[tokio::test]
async fn a_managers_certificate_of_a_stock_cluster_is_not_taken() {
    let manager = Manager::start().await;
    manager.with(|behaviour| behaviour.role = Role::Manager);
    let joined = join_with(&manager, &manager.token).await.unwrap();
    assert_eq!(joined.credentials.identity().role, Role::Manager);

    let manager = Manager::start_as(false).await;
    manager.with(|behaviour| behaviour.role = Role::Manager);
    let error = join_with(&manager, &manager.token).await.err().unwrap();
    assert!(matches!(error, JoinError::ManagerToken { .. }), "{error:?}");
}

#[tokio::test]
async fn a_certificate_of_another_root_is_not_taken() {
    use waxseal_ca::Clock;
    let manager = Manager::start().await;
    let other = RootAuthority::generate(manager.clock.now()).unwrap();
    manager.with(|behaviour| behaviour.signer = Some(other));
    let text = refusal(&manager, &manager.token).await;
    assert!(
        text.starts_with("the certificate that the manager issued cannot be used"),
        "{text}"
    );
}

#[tokio::test]
async fn an_answer_for_another_request_is_not_taken() {
    let manager = Manager::start().await;
    manager.with(|behaviour| behaviour.foreign_answers = 1);
    let joined = join_with(&manager, &manager.token).await.unwrap();
    assert_eq!(manager.with(|behaviour| behaviour.foreign_answers), 0);
    assert_eq!(joined.credentials.identity().node_id, "node");
}

#[tokio::test]
async fn a_good_token_gives_an_identity() {
    let manager = Manager::start().await;
    manager.with(|behaviour| behaviour.pending_answers = 1);
    let joined = join_with(&manager, &manager.token).await.unwrap();
    let identity = joined.credentials.identity();
    assert_eq!(
        (identity.cluster_id.as_str(), identity.role),
        (CLUSTER, Role::Worker)
    );
    assert_eq!(joined.trust.pem(), manager.root.trust().pem());
    assert!(!joined.stock_manager);
    assert!(manager.with(|behaviour| behaviour.joiners_features.is_some()));
    // Each join has a key of its own.
    let again = join_with(&manager, &manager.token).await.unwrap();
    let keys = [&joined, &again].map(|joined| joined.credentials.key().public_key_digest());
    assert_ne!(keys[0], keys[1]);
}

#[tokio::test]
async fn a_try_after_a_lost_answer_is_the_same_request() {
    let manager = Manager::start().await;
    manager.with(|behaviour| {
        behaviour.lost_answers = 1;
        behaviour.full_answers = 2;
    });
    join_with(&manager, &manager.token).await.unwrap();
    let requests = manager.with(|behaviour| behaviour.requests.clone());
    // The status that was not told at first was asked again, without a new request.
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0], requests[1]);
}

#[tokio::test]
async fn a_stock_manager_is_known_by_what_it_does_not_offer() {
    let manager = Manager::start_as(false).await;
    let joined = join_with(&manager, &manager.token).await.unwrap();
    assert!(joined.stock_manager);
    let _: Arc<_> = joined.credentials;
}
