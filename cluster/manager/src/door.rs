//! The port of a manager: its services, and whose connections it takes.

use std::{net::IpAddr, sync::Arc};

use tokio::{net::TcpListener, sync::watch};
use tokio_util::task::TaskTracker;
use tonic::service::Routes;
use waxseal_ca::{ClientCertificates, TlsOptions, server_tls};
use waxseal_cluster::{State, objects::Node};
use waxseal_wire::{
    Acceptor, Connections, Course, Listening, Relay, limits,
    swarmkit::{
        ca_server::CaServer, dispatcher_server::DispatcherServer,
        log_broker_server::LogBrokerServer, node_ca_server::NodeCaServer,
    },
    waxseal::{
        control_server::ControlServer, hello_server::HelloServer, raft_server::RaftServer,
        reclaim_server::ReclaimServer, root_path_server::RootPathServer,
    },
};

use crate::{
    authorize,
    ca::{CaService, NodeCaService, ReclaimService, RootPathService},
    control::{ControlService, Logs, Voucher},
    core::Core,
    dispatcher::Dispatcher,
    engine::Engine,
    error::StartError,
    hello::HelloService,
    leading::{Lead, OnStage, Stage},
    log_broker::LogBroker,
    manager::ManagerConfig,
    raft::service::RaftService,
};

/// Opens the one port of a manager: all its services, for whoever may call them.
pub(crate) fn open_door(
    config: &ManagerConfig,
    lead: &Lead,
    way: watch::Receiver<Course>,
    tasks: &TaskTracker,
    listener: TcpListener,
) -> Result<Listening, StartError> {
    let Lead {
        core,
        engine,
        connections,
        stage,
        ..
    } = lead;
    let raft = RaftService::new(Arc::clone(core), engine.clone(), tasks.clone());
    let ca = CaServer::new(CaService(Arc::clone(core)))
        .max_decoding_message_size(limits::JOIN_MESSAGE_LIMIT);
    let hello = HelloServer::new(HelloService(Arc::clone(core)))
        .max_decoding_message_size(limits::JOIN_MESSAGE_LIMIT);
    let root_path = RootPathServer::new(RootPathService(Arc::clone(core)))
        .max_decoding_message_size(limits::JOIN_MESSAGE_LIMIT);
    let routes = Routes::new(ca)
        .add_service(hello)
        .add_service(root_path)
        .add_service(
            ControlServer::new(control_service(core, stage, engine))
                .max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT),
        )
        .add_service(RaftServer::new(raft).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT))
        .add_service(OnStage::<NodeCaServer<NodeCaService>>::new(stage))
        .add_service(OnStage::<ReclaimServer<ReclaimService>>::new(stage))
        .add_service(OnStage::<DispatcherServer<Dispatcher>>::new(stage))
        .add_service(OnStage::<LogBrokerServer<LogBroker>>::new(stage));
    let options = TlsOptions {
        allow_tls12: config.allow_tls12,
        client_certificates: ClientCertificates::Optional,
    };
    let tls = server_tls(&config.tls, options)?;
    if config.allow_tls12 {
        tracing::warn!(address = %config.listen, "TLS 1.2 is accepted on this port");
    }
    let acceptor = Acceptor {
        routes,
        tls,
        clock: Arc::clone(&config.clock),
        connections: connections.clone(),
        relay: Relay {
            course: way,
            vouch: Arc::new(Voucher {
                core: Arc::clone(core),
                tls: Arc::clone(&config.tls),
            }),
        },
    };
    acceptor
        .serve(listener)
        .map_err(|source| StartError::Listen {
            address: config.listen,
            source,
        })
}

fn control_service(core: &Arc<Core>, stage: &Stage, engine: &Engine) -> ControlService {
    let stage = stage.clone();
    let logs: Box<Logs> = Box::new(move |selector, options| {
        let leading = stage.leading()?;
        Some(leading.subscriptions.subscribe(selector, options))
    });
    ControlService {
        core: Arc::clone(core),
        engine: engine.clone(),
        logs,
    }
}

/// The connections, without those of removed nodes whose certificates are still valid.
/// Known nodes may come back from where they were, whoever else calls.
pub(crate) fn members_connections(core: &Arc<Core>) -> Connections {
    let known = core.read(|state| {
        let address = |node: &Node| node.status.as_ref()?.addr.parse::<IpAddr>().ok();
        let known = state.nodes().map(|node| (node.id.clone(), address(node)));
        known.collect::<Vec<_>>()
    });
    let asked = Arc::clone(core);
    let connections = Connections::admitting(Arc::new(move |identity| {
        let node_id = &identity.node_id;
        // One that is new may be on record with the leader and not yet here. What it asks
        // for is decided there; a removal that comes after it closes its connections.
        let may_be_new = !asked.group.leads();
        let is_known = |state: &State| may_be_new || state.node(node_id).is_some();
        let now = asked.clock.now();
        asked.read(|state| {
            let counts = authorize::check_certificate(state, now, identity).is_ok();
            !state.is_banned(node_id) && is_known(state) && counts
        })
    }));
    for (node_id, address) in known {
        if let Some(address) = address {
            connections.expect(&node_id, address);
        }
    }
    connections
}
