//! One openraft node on the store: writes, snapshot, purge, restart.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use openraft::error::{RPCError, RaftError, Unreachable};
use openraft::network::{RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
};
use openraft::{Config, OptionalSend, Raft, Snapshot, SnapshotPolicy as RaftPolicy, Vote};
use waxseal_raft_store::{Member, Opened, SnapshotPolicy, open};

use crate::support::{Log, Note, StateMachine, TypeConfig, options};

/// There is nobody to talk to.
struct Nobody;

impl RaftNetworkFactory<TypeConfig> for Nobody {
    type Network = Self;

    async fn new_client(&mut self, _target: u64, _node: &Member) -> Self {
        Self
    }
}

type RpcResult<T, E = RaftError<u64>> = Result<T, RPCError<u64, Member, E>>;

fn nobody<E: std::error::Error>() -> RPCError<u64, Member, E> {
    RPCError::Unreachable(Unreachable::new(&std::io::Error::other("nobody")))
}

impl RaftNetwork<TypeConfig> for Nobody {
    async fn append_entries(
        &mut self,
        _rpc: AppendEntriesRequest<TypeConfig>,
        _option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<u64>> {
        Err(nobody())
    }

    async fn vote(
        &mut self,
        _rpc: VoteRequest<u64>,
        _option: RPCOption,
    ) -> RpcResult<VoteResponse<u64>> {
        Err(nobody())
    }

    async fn full_snapshot(
        &mut self,
        _vote: Vote<u64>,
        _snapshot: Snapshot<TypeConfig>,
        _cancel: impl Future<Output = openraft::error::ReplicationClosed> + OptionalSend + 'static,
        _option: RPCOption,
    ) -> Result<
        SnapshotResponse<u64>,
        openraft::error::StreamingError<TypeConfig, openraft::error::Fatal<u64>>,
    > {
        Err(Unreachable::new(&std::io::Error::other("nobody")).into())
    }
}

async fn start(dir: &Path) -> (Raft<TypeConfig>, Log, StateMachine) {
    let Opened { log, snapshots, .. } = open(options(dir, 1, &[])).unwrap();
    let machine = StateMachine::new(snapshots);
    machine.restore().unwrap();
    let config = Config {
        heartbeat_interval: 20,
        election_timeout_min: 60,
        election_timeout_max: 120,
        snapshot_policy: RaftPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        ..Config::default()
    };
    let config = Arc::new(config.validate().unwrap());
    let raft = Raft::new(7, config, Nobody, log.clone(), machine.clone())
        .await
        .unwrap();
    (raft, log, machine)
}

async fn wait_leader(raft: &Raft<TypeConfig>) {
    raft.wait(Some(Duration::from_secs(10)))
        .current_leader(7, "elected")
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_restarts_with_what_it_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut expected = BTreeMap::new();
    let member = Member {
        node_id: "node".into(),
        addr: "127.0.0.1:2377".into(),
    };
    for round in 0..4_u8 {
        let (raft, log, machine) = start(dir.path()).await;
        if round == 0 {
            raft.initialize(BTreeMap::from([(7, member.clone())]))
                .await
                .unwrap();
        }
        wait_leader(&raft).await;
        assert_eq!(
            raft.metrics().borrow().membership_config.nodes().next(),
            Some((&7, &member))
        );
        for number in 0..40_u8 {
            let note = vec![round, number, 1, 2, 3];
            log.can_accept(note.len()).unwrap();
            let written = raft.client_write(Note(note.clone())).await.unwrap();
            expected.insert(written.log_id.index, note);
        }
        assert_eq!(machine.notes(), expected, "round {round}");
        if round == 1 {
            let policy = SnapshotPolicy {
                keep_entries: 5,
                ..SnapshotPolicy::default()
            };
            raft.trigger().snapshot().await.unwrap();
            let last = *expected.keys().next_back().unwrap();
            raft.wait(Some(Duration::from_secs(10)))
                .metrics(|m| m.snapshot.map(|id| id.index) >= Some(last), "taken")
                .await
                .unwrap();
            let target = log.purge_target(last, &policy).unwrap();
            assert_eq!(target, last - 5);
            raft.trigger().purge_log(target).await.unwrap();
            raft.wait(Some(Duration::from_secs(10)))
                .metrics(|m| m.purged.map(|id| id.index) == Some(target), "purged")
                .await
                .unwrap();
            assert_eq!(log.usage_since(None).entries, 5);
        }
        raft.shutdown().await.unwrap();
        if round % 2 == 0 {
            log.close().await.unwrap();
        }
    }
}
