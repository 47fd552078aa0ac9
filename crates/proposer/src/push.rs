//! One push session with one safekeeper: what the leader has for it goes out, what it answers goes in.
//!
//! Reading and writing are two halves of one task, so a safekeeper whose socket is full is still heard. Nothing is queued here
//! but the batch being written: what the socket cannot take stays with the leader, which may make larger appends of it.

use crate::driver::Driver;
use crate::safekeeper::Safekeeper;
use bytes::{BufMut, Bytes, BytesMut};
use consensus::Introduction;
use leader::{Peer, Transmit};
use pg_conn::{Connection, ReadHalf, WriteHalf};
use pq_proto::backend::BackendMessage;
use pq_proto::command::{Command, Options};
use pq_proto::frontend;
use quorum_proto::{ProtoVersion, PushOptions, decode_acceptor, encode_append_header, encode_proposer};
use std::rc::Rc;

/// Bytes taken from the leader for one round of writing: enough for full speed, little enough that what is said next is new.
const BATCH_BYTES: usize = 1 << 20;
/// Type byte of CopyData.
const COPY_DATA: u8 = b'd';

/// Runs a session until it ends, and tells the leader why it did.
pub(crate) async fn run(driver: Rc<Driver>, peer: Peer, id: u64, introduction: Introduction) {
    let reason = match session(&driver, peer, id, introduction).await {
        Ok(()) => return,
        Err(reason) => reason,
    };
    driver.push_event(peer, id, |leader, now| leader.handle_push_closed(now, peer, reason));
}

/// `Ok` if the leader ended it.
async fn session(driver: &Rc<Driver>, peer: Peer, id: u64, introduction: Introduction) -> Result<(), String> {
    let mut connection = driver.safekeeper(peer).connect(Some(driver.cluster())).await?;
    let identity = Safekeeper::identity(&connection)?;
    if introduction.path.entries().len() > 1 {
        // One that does not keep paths would mix two lineages under one name.
        Safekeeper::keeps_paths(&connection)?;
    }
    start(&mut connection, introduction).await?;
    let (mut reader, mut writer) = connection.split();
    let goes_on = driver.push_event(peer, id, |leader, now| {
        leader.handle_push_opened(now, peer, identity.node, identity.disk);
    });
    if !goes_on {
        return Ok(());
    }
    tokio::select! {
        // What is heard first may change what is said.
        biased;
        result = read(driver, peer, id, &mut reader) => result,
        result = write(driver, peer, id, &mut writer) => result,
    }
}

async fn start(connection: &mut Connection, introduction: Introduction) -> Result<(), String> {
    let options = PushOptions {
        version: ProtoVersion::V3,
        allow_creation: false,
        path: Some(introduction.path),
        tli_history: introduction.tli_history,
        fence_token: introduction.fence_token,
        completes: introduction.completes,
    };
    let options: Options = options.to_options().into_iter().collect();
    let text = Command::StartWalPush(options).to_string();
    frontend::encode_query(&text, connection.writer().buffer()).map_err(|error| error.to_string())?;
    connection.writer().flush().await.map_err(|error| error.to_string())?;
    loop {
        match connection.recv().await.map_err(|error| error.to_string())? {
            BackendMessage::CopyBothResponse => return Ok(()),
            BackendMessage::ErrorResponse(report) => return Err(report.message),
            BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. } => {}
            other => return Err(format!("it answered START_WAL_PUSH with {}", other.name())),
        }
    }
}

async fn read(driver: &Rc<Driver>, peer: Peer, id: u64, reader: &mut ReadHalf) -> Result<(), String> {
    loop {
        let mut message = Some(reader.recv().await.map_err(|error| error.to_string())?);
        // All that one read brought is handed in before anybody else runs.
        while let Some(next) = message {
            match next {
                BackendMessage::CopyData(payload) => {
                    let decoded = decode_acceptor(ProtoVersion::V3, payload).map_err(|error| error.to_string())?;
                    if !driver.push_event(peer, id, |leader, now| leader.handle_push_message(now, peer, decoded)) {
                        return Ok(());
                    }
                }
                BackendMessage::ErrorResponse(report) => return Err(report.message),
                BackendMessage::NoticeResponse(_) | BackendMessage::ParameterStatus { .. } => {}
                BackendMessage::CopyDone | BackendMessage::CommandComplete(_) => {
                    return Err("it ended the session".to_owned());
                }
                other => return Err(format!("it sent {} in a push session", other.name())),
            }
            message = reader.try_recv().map_err(|error| error.to_string())?;
        }
    }
}

async fn write(driver: &Rc<Driver>, peer: Peer, id: u64, writer: &mut WriteHalf) -> Result<(), String> {
    loop {
        while writer.queued() < BATCH_BYTES {
            let Some(transmit) = driver.poll_transmit(peer, id) else { break };
            encode(transmit, writer).map_err(|error| error.to_string())?;
        }
        if writer.queued() == 0 {
            driver.wait_for_transmit(peer).await;
        } else {
            writer.flush().await.map_err(|error| error.to_string())?;
        }
    }
}

/// Queues a message as CopyData; WAL is queued as it lies in memory.
fn encode(transmit: Transmit, writer: &mut WriteHalf) -> Result<(), quorum_proto::Error> {
    match transmit {
        Transmit::Message(message) => frame(writer.buffer(), 0, |out| encode_proposer(ProtoVersion::V3, &message, out)),
        Transmit::Append { request, wal } => {
            let length = wal.iter().map(Bytes::len).sum();
            frame(writer.buffer(), length, |out| encode_append_header(ProtoVersion::V3, &request, out))?;
            wal.into_iter().for_each(|piece| writer.feed(piece));
            Ok(())
        }
    }
}

/// Appends the head of a CopyData whose payload is what `fill` writes, followed by `rest` bytes sent from elsewhere.
fn frame<E>(buffer: &mut BytesMut, rest: usize, fill: impl FnOnce(&mut BytesMut) -> Result<(), E>) -> Result<(), E> {
    let begin = buffer.len();
    buffer.put_u8(COPY_DATA);
    buffer.put_u32(0);
    fill(buffer)?;
    // The length counts itself but not the type byte; an append has at most 128 KiB, so it always fits.
    let length = (buffer.len() - begin - 1 + rest) as u32;
    if let Some(place) = buffer.get_mut(begin + 1..begin + 5) {
        place.copy_from_slice(&length.to_be_bytes());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::{AppendRequest, ProposerMessage, VoteRequest};
    use lsn::{Lsn, Term};
    use pq_proto::frontend::FrontendMessage;

    #[test]
    fn a_head_and_its_pieces_are_one_copy_data() {
        let wal = Bytes::from_static(b"0123456789");
        let append = AppendRequest {
            generation: 1,
            term: Term(2),
            begin: Lsn(100),
            end: Lsn(110),
            commit: Lsn(90),
            truncate: Lsn(0),
            wal: Bytes::new(),
        };
        let mut bytes = BytesMut::new();
        frame(&mut bytes, wal.len(), |out| encode_append_header(ProtoVersion::V3, &append, out)).unwrap();
        bytes.extend_from_slice(&wal);
        let vote = ProposerMessage::Vote(VoteRequest { generation: 1, term: Term(3) });
        frame(&mut bytes, 0, |out| encode_proposer(ProtoVersion::V3, &vote, out)).unwrap();
        let mut messages = Vec::new();
        while let Some(message) = frontend::decode(&mut bytes, pq_proto::Limits::CLIENT).unwrap() {
            let FrontendMessage::CopyData(payload) = message else { panic!("{message:?}") };
            messages.push(quorum_proto::decode_proposer(ProtoVersion::V3, payload).unwrap());
        }
        assert_eq!(messages, [ProposerMessage::Append(AppendRequest { wal, ..append }), vote]);
    }
}
