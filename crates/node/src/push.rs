//! START_WAL_PUSH: a proposer's session.
//!
//! All messages that arrived together are handed to the keeper before it moves on, so that one sync covers them. Reading
//! stops while the keeper has no room for this session; TCP tells the proposer.

use crate::cluster::Cluster;
use crate::wire::{Inlet, Outlet};
use bytes::BytesMut;
use consensus::SessionId;
use pq_proto::backend::{Report, encode};
use pq_proto::frontend::{self, FrontendMessage};
use pq_proto::{Limits, SqlState};
use quorum_proto::PushOptions;
use std::rc::Rc;

/// How a session ended, as far as its connection has to do something about it.
enum End {
    /// The peer is gone, or everything was said already.
    Silent,
    /// Answer CopyDone with CopyDone.
    CopyDone,
    /// Say this and close.
    Error(SqlState, String),
}

/// Serves a proposer until its session ends. CopyBothResponse has not been sent yet.
pub(crate) async fn serve(
    cluster: Rc<Cluster>,
    options: PushOptions,
    peer: String,
    inlet: &mut Inlet,
    outlet: &Rc<Outlet>,
) {
    let mut hello = BytesMut::new();
    encode::copy_both_response(&mut hello);
    outlet.send([hello.freeze()]);
    let session = cluster.connect_receiver(&options, peer, Rc::clone(outlet));
    let end = receive(&cluster, session, inlet, outlet).await;
    cluster.disconnect_receiver(session);
    let mut goodbye = BytesMut::new();
    match end {
        End::Silent => {}
        End::CopyDone => encode::copy_done(&mut goodbye),
        End::Error(code, text) => encode::error_response(&Report::fatal(code, text), &mut goodbye),
    }
    outlet.send([goodbye.freeze()]);
}

async fn receive(cluster: &Rc<Cluster>, session: SessionId, inlet: &mut Inlet, outlet: &Rc<Outlet>) -> End {
    loop {
        let (mut handed_in, mut has_more) = (false, true);
        while cluster.wants_push(session) {
            match frontend::decode(&mut inlet.buffer, Limits::SERVER) {
                Ok(Some(FrontendMessage::CopyData(payload))) => {
                    cluster.hand_in(session, payload);
                    handed_in = true;
                }
                Ok(Some(FrontendMessage::CopyDone)) => return End::CopyDone,
                Ok(Some(FrontendMessage::CopyFail(_))) => {
                    return End::Error(SqlState::SUCCESSFUL_COMPLETION, "the proposer ended the stream".to_owned());
                }
                Ok(Some(FrontendMessage::Terminate)) => return End::Silent,
                Ok(Some(_)) => {
                    let text =
                        "only CopyData, CopyDone, CopyFail and Terminate make sense while WAL is pushed".to_owned();
                    return End::Error(SqlState::PROTOCOL_VIOLATION, text);
                }
                Ok(None) => {
                    has_more = false;
                    break;
                }
                Err(error) => return End::Error(SqlState::PROTOCOL_VIOLATION, error.to_string()),
            }
        }
        if handed_in {
            cluster.drive();
        }
        if outlet.has_failed() || outlet.is_finishing() {
            return End::Silent;
        }
        if has_more && cluster.wants_push(session) {
            // The queue was full for a moment; whole messages may still lie in the buffer, and no byte need follow them.
            tokio::task::yield_now().await;
        } else if cluster.wants_push(session) {
            tokio::select! {
                read = inlet.read_more() => match read {
                    Ok(true) => {}
                    Ok(false) | Err(_) => return End::Silent,
                },
                () = outlet.resumed.notified() => {}
            }
        } else {
            outlet.paused().await;
        }
    }
}
