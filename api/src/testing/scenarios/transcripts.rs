//! Every recording of a stock cluster, against ours.

use super::super::transcript::{Counts, play};

macro_rules! recordings {
    ($($name:ident $file:literal $alike:literal $differing:literal $elsewhere:literal;)*) => {
        $(
            #[tokio::test]
            async fn $name() {
                let recording = include_str!(concat!("../../../tests/data/transcripts/", $file, ".jsonl"));
                let expected = Counts {
                    alike: $alike,
                    differing: $differing,
                    elsewhere: $elsewhere,
                };
                assert_eq!(play(recording).await, expected);
            }
        )*
    };
}

recordings! {
    config_lifecycle "config-lifecycle" 33 0 1;
    secret_lifecycle "secret-lifecycle" 92 6 2;
    service_create_flags "service-create-flags" 84 3 2;
    service_lifecycle "service-lifecycle" 226 8 1;
    stack "stack" 89 6 0;
    autolock_restart "autolock-restart" 89 0 1;
    ca_rotate "ca-rotate" 66 4 4;
    error_state "error-state" 11 0 1;
    inactive_node "inactive-node" 49 3 2;
    join_timeout_pending "join-timeout-pending" 11 0 2;
    misc_raw "misc-raw" 65 1 3;
    node_admin "node-admin" 98 0 2;
    node_removed "node-removed" 20 0 3;
    quorum_loss "quorum-loss" 31 2 4;
    swarm_init "swarm-init" 53 0 8;
    swarm_join "swarm-join" 23 0 7;
    swarm_update "swarm-update" 39 0 0;
    worker_node "worker-node" 26 0 0;
}

#[tokio::test]
#[should_panic(expected = "exchange 1 of node 1: GET /info.Swarm.Nonesuch is missing")]
async fn a_field_that_ours_lacks_is_a_difference() {
    let answer = r#"{"Swarm": {"LocalNodeState": "inactive", "Nonesuch": 1}}"#;
    let line = r#"{"node": 1, "method": "GET", "path": "/info", "status": 200, "answer": "#;
    play(&format!("{line}{answer}}}")).await;
}
