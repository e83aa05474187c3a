//! The LogBroker service, the side that nodes see.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures::StreamExt;
use tokio_stream::{Stream, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};
use waxseal_wire::swarmkit::{
    ListenSubscriptionsRequest, PublishLogsMessage, PublishLogsResponse, SubscriptionMessage,
    log_broker_server,
};

use super::subscriptions::{Part, Subscriptions};
use crate::{authorize, core::Core};

/// After so long without a line the reader is told of those that were dropped.
const NOTE_PAUSE: Duration = Duration::from_secs(1);

/// Serves the node side.
pub(crate) struct LogBroker {
    core: Arc<Core>,
    subscriptions: Arc<Subscriptions>,
    stopped: CancellationToken,
}

impl LogBroker {
    pub(crate) fn new(
        core: Arc<Core>,
        subscriptions: Arc<Subscriptions>,
        stopped: CancellationToken,
    ) -> LogBroker {
        LogBroker {
            core,
            subscriptions,
            stopped,
        }
    }

    async fn publish(
        &self,
        node_id: &str,
        mut stream: Streaming<PublishLogsMessage>,
    ) -> Result<(), Status> {
        let mut part: Option<Part> = None;
        loop {
            let next = match &mut part {
                Some(part) if part.owes_note() => {
                    match tokio::time::timeout(NOTE_PAUSE, stream.next()).await {
                        Ok(next) => next,
                        Err(_) => {
                            part.send_note().await;
                            continue;
                        }
                    }
                }
                _ => stream.next().await,
            };
            let Some(message) = next else { break };
            let PublishLogsMessage {
                subscription_id: id,
                messages,
                close,
            } = message?;
            let part = match &mut part {
                Some(part) if part.id() == id => part,
                Some(_) => {
                    return Err(Status::invalid_argument(
                        "one stream publishes one subscription",
                    ));
                }
                None => {
                    let begun = Subscriptions::publish(&self.subscriptions, &id, node_id);
                    let begun =
                        begun.ok_or_else(|| Status::not_found("log subscription not found"))?;
                    part.insert(begun)
                }
            };
            if !part.send(messages).await || close {
                break;
            }
        }
        // An end without the closing message is one too.
        if let Some(part) = &mut part {
            part.send_note().await;
            part.complete();
        }
        Ok(())
    }
}

#[tonic::async_trait]
impl log_broker_server::LogBroker for LogBroker {
    type ListenSubscriptionsStream =
        Pin<Box<dyn Stream<Item = Result<SubscriptionMessage, Status>> + Send>>;

    async fn listen_subscriptions(
        &self,
        request: Request<ListenSubscriptionsRequest>,
    ) -> Result<Response<Self::ListenSubscriptionsStream>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let (messages, listener) = Subscriptions::listen(&self.subscriptions, &identity.node_id);
        let over = listener.over.clone().cancelled_owned();
        // The listener goes with the stream, whoever ends it.
        let messages = ReceiverStream::new(messages).map(move |message| {
            let _ = &listener;
            message.map(|message| *message)
        });
        Ok(Response::new(Box::pin(messages.take_until(over))))
    }

    async fn publish_logs(
        &self,
        request: Request<Streaming<PublishLogsMessage>>,
    ) -> Result<Response<PublishLogsResponse>, Status> {
        let identity = authorize::member(&self.core, &request)?;
        let publishing = self.publish(&identity.node_id, request.into_inner());
        match self.stopped.run_until_cancelled(publishing).await {
            Some(published) => published.map(|()| Response::new(PublishLogsResponse {})),
            None => Err(Status::unavailable("the manager stops")),
        }
    }
}
