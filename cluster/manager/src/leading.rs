//! What runs while this manager leads, and only then: the services that nodes call,
//! their sessions, the loops that run the plans.
//!
//! Made when the leadership begins, when everything that was acknowledged is applied;
//! ended with it. The services are reached through a [`Stage`], which is empty while
//! another manager leads.

use std::{
    convert::Infallible,
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, broadcast, watch};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};
use tonic::{
    Status,
    body::Body,
    codegen::{Service, http},
    server::NamedService,
    service::Routes,
};
use waxseal_ca::{CertificateExpiry, LiveTls};
use waxseal_cluster::ChangeRecord;
use waxseal_wire::{
    Connections, DispatcherService, limits,
    swarmkit::{log_broker_server::LogBrokerServer, node_ca_server::NodeCaServer},
    waxseal::reclaim_server::ReclaimServer,
};

use crate::{
    ca::{Ca, IssuerError, NodeCaService, ReclaimService, Rotation},
    core::Core,
    dispatcher::{Dispatcher, Sessions},
    engine::Engine,
    leadership::Leader,
    log_broker::{LogBroker, Subscriptions},
    loops::Loops,
    roles::Roles,
};

/// Pause before a leadership that could not begin is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// The parts of a leadership have so long to end.
const END: Duration = Duration::from_secs(2);

/// What leads.
pub(crate) struct Leading {
    pub(crate) subscriptions: Arc<Subscriptions>,
    pub(crate) ca: Arc<Ca>,
    routes: Routes,
    tasks: TaskTracker,
    stopped: CancellationToken,
    _stop: DropGuard,
}

/// Where the one that leads is found.
#[derive(Clone, Default)]
pub(crate) struct Stage(Arc<ArcSwapOption<Leading>>);

impl Stage {
    /// What leads, if this manager does.
    pub(crate) fn leading(&self) -> Option<Arc<Leading>> {
        self.0.load_full()
    }

    fn routes(&self) -> Option<Routes> {
        self.0.load().as_ref().map(|leading| leading.routes.clone())
    }
}

/// What a leadership is made of.
#[derive(Clone)]
pub(crate) struct Lead {
    pub(crate) core: Arc<Core>,
    pub(crate) engine: Engine,
    pub(crate) connections: Connections,
    pub(crate) changes: broadcast::Sender<ChangeRecord>,
    /// This manager's own identity, which an external CA asks for.
    pub(crate) tls: Arc<LiveTls>,
    pub(crate) certificate_expiry: Option<CertificateExpiry>,
    pub(crate) feature_level: u32,
    pub(crate) stage: Stage,
    /// Ends all leaderships.
    pub(crate) stopped: CancellationToken,
    /// Tells that one could not begin.
    pub(crate) trouble: watch::Sender<Option<Arc<IssuerError>>>,
}

impl Lead {
    /// Leads whenever it is this manager's turn, until it stops.
    pub(crate) async fn run(self) {
        let mut leader = self.engine.leader();
        let stopped = self.stopped.clone();
        loop {
            let leads = leader.wait_for(|leader| matches!(leader, Leader::Me { .. }));
            let term = match stopped.run_until_cancelled(leads).await {
                Some(Ok(leader)) => leader.clone(),
                Some(Err(_)) | None => return,
            };
            match self.begin() {
                Ok(leading) => self.serve(leading, &mut leader, &term).await,
                Err(error) => {
                    tracing::error!(%error, "this manager cannot lead; another is to");
                    self.trouble.send_replace(Some(Arc::new(error)));
                    // Nobody else may be there.
                    let _ = self.engine.transfer_leadership(None).await;
                    stopped.run_until_cancelled(tokio::time::sleep(RETRY)).await;
                }
            }
            if stopped.is_cancelled() {
                return;
            }
        }
    }

    async fn serve(&self, leading: Leading, leader: &mut watch::Receiver<Leader>, term: &Leader) {
        tracing::info!(node = %self.core.node_id, "leads");
        self.trouble.send_replace(None);
        let leading = Arc::new(leading);
        self.stage.0.store(Some(Arc::clone(&leading)));
        let settling = self.engine.clone();
        leading.tasks.spawn({
            let stopped = leading.stopped.clone();
            async move {
                stopped
                    .run_until_cancelled(settling.settle_membership())
                    .await;
            }
        });
        tokio::select! {
            _ = leader.wait_for(|leader| leader != term) => {}
            () = self.stopped.cancelled() => {}
        }
        // 1. No call finds it any more. 2. What it began ends.
        self.stage.0.store(None);
        leading.stopped.cancel();
        leading.tasks.close();
        if tokio::time::timeout(END, leading.tasks.wait())
            .await
            .is_err()
        {
            tracing::warn!("parts of a leadership did not end in time");
        }
        tracing::info!(node = %self.core.node_id, "leads no more");
    }

    fn begin(&self) -> Result<Leading, IssuerError> {
        let tasks = TaskTracker::new();
        let stopped = self.stopped.child_token();
        let changes = self.changes.subscribe();
        let core = &self.core;
        let ca = Arc::new(Ca::new(
            Arc::clone(core),
            Arc::clone(&self.tls),
            self.certificate_expiry,
            tasks.clone(),
            stopped.clone(),
        )?);
        let loops = Arc::new(Loops {
            core: Arc::clone(core),
            sessions: Arc::new(Sessions::new(stopped.clone())),
            subscriptions: Subscriptions::new(Arc::clone(core), tasks.clone(), stopped.clone()),
            ca,
            connections: self.connections.clone(),
            plan_due: Notify::new(),
            roles_due: Arc::default(),
            rotation_due: Arc::default(),
            stopped: stopped.clone(),
        });
        let routes = routes(&loops, &tasks);
        tasks.spawn(Arc::clone(&loops).follow_changes(changes));
        tasks.spawn(Arc::clone(&loops).follow_managers());
        tasks.spawn(Arc::clone(&loops).run_plans());
        let ca = Arc::clone(&loops.ca);
        tasks.spawn(async move { ca.keep_asking().await });
        let roles = Roles {
            core: Arc::clone(core),
            engine: self.engine.clone(),
            feature_level: self.feature_level,
            due: Arc::clone(&loops.roles_due),
            stopped: stopped.clone(),
        };
        tasks.spawn(roles.run());
        let rotation = Rotation {
            core: Arc::clone(core),
            due: Arc::clone(&loops.rotation_due),
            stopped: stopped.clone(),
        };
        tasks.spawn(rotation.run());
        Ok(Leading {
            subscriptions: Arc::clone(&loops.subscriptions),
            ca: Arc::clone(&loops.ca),
            routes,
            tasks,
            _stop: stopped.clone().drop_guard(),
            stopped,
        })
    }
}

/// The services that nodes call.
fn routes(loops: &Loops, tasks: &TaskTracker) -> Routes {
    let Loops {
        core,
        sessions,
        subscriptions,
        ca,
        stopped,
        ..
    } = loops;
    let dispatcher = Dispatcher::new(Arc::clone(core), Arc::clone(sessions), tasks.clone());
    let log_broker = LogBroker::new(Arc::clone(core), Arc::clone(subscriptions), stopped.clone());
    let node_ca = NodeCaServer::new(NodeCaService(Arc::clone(ca)))
        .max_decoding_message_size(limits::JOIN_MESSAGE_LIMIT);
    let log_broker =
        LogBrokerServer::new(log_broker).max_decoding_message_size(limits::SERVER_MESSAGE_LIMIT);
    let reclaim = ReclaimServer::new(ReclaimService(Arc::clone(ca)))
        .max_decoding_message_size(limits::JOIN_MESSAGE_LIMIT);
    Routes::new(node_ca)
        .add_service(reclaim)
        .add_service(DispatcherService::new(dispatcher))
        .add_service(log_broker)
        .prepare()
}

/// Serves a service of what leads; without, answers that there is no leader here.
pub(crate) struct OnStage<S> {
    stage: Stage,
    service: PhantomData<fn() -> S>,
}

impl<S> OnStage<S> {
    pub(crate) fn new(stage: &Stage) -> OnStage<S> {
        OnStage {
            stage: stage.clone(),
            service: PhantomData,
        }
    }
}

impl<S> Clone for OnStage<S> {
    fn clone(&self) -> OnStage<S> {
        OnStage::new(&self.stage)
    }
}

impl<S: NamedService> NamedService for OnStage<S> {
    const NAME: &'static str = S::NAME;
}

type Answer = http::Response<Body>;

impl<S> Service<http::Request<Body>> for OnStage<S> {
    type Response = Answer;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Answer, Infallible>> + Send>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        match self.stage.routes() {
            Some(mut routes) => Box::pin(async move {
                match routes.call(request).await {
                    Ok(answer) => Ok(answer),
                    Err(never) => match never {},
                }
            }),
            None => {
                let status = Status::unavailable("the swarm does not have a leader; try again");
                Box::pin(std::future::ready(Ok(status.into_http())))
            }
        }
    }
}
