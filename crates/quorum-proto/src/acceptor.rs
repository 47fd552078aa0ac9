//! What a safekeeper answers: greeting, vote response, append response.
//!
//! A proposer treats bytes behind the last field as an error; feedback of a replica is the one thing that may stand there.

use crate::wire::{Fields, Writer};
use crate::{Error, ProtoVersion, ReplicaFeedback, membership};
use bytes::{BufMut, Bytes, BytesMut};
use consensus::{AcceptorGreeting, AcceptorMessage, AppendResponse, HotStandbyFeedback, Membership, VoteResponse};
use lsn::NodeId;

const GREETING: u8 = b'g';
const VOTE: u8 = b'v';
const APPEND: u8 = b'a';

/// Reads one message, the payload of one CopyData. Replica feedback is checked and passed on as a slice of `payload`.
pub fn decode_acceptor(version: ProtoVersion, payload: Bytes) -> Result<AcceptorMessage, Error> {
    let mut fields = Fields::new(version, payload);
    let tag = fields.tag()?;
    let message = match u8::try_from(tag) {
        Ok(GREETING) => greeting(version, &mut fields).map(AcceptorMessage::Greeting)?,
        Ok(VOTE) => vote(version, &mut fields).map(AcceptorMessage::Vote)?,
        Ok(APPEND) => append(version, &mut fields).map(AcceptorMessage::Append)?,
        _ => return Err(Error::Tag(tag)),
    };
    fields.end()?;
    Ok(message)
}

fn greeting(version: ProtoVersion, fields: &mut Fields) -> Result<AcceptorGreeting, Error> {
    fields.name("safekeeper's greeting");
    match version {
        ProtoVersion::V2 => {
            let term = fields.term()?;
            let node = NodeId(fields.u64("node id")?);
            Ok(AcceptorGreeting { node, membership: Membership::none(), term })
        }
        ProtoVersion::V3 => {
            let node = NodeId(fields.u64("node id")?);
            let membership = membership::read(fields)?;
            Ok(AcceptorGreeting { node, membership, term: fields.term()? })
        }
    }
}

fn vote(version: ProtoVersion, fields: &mut Fields) -> Result<VoteResponse, Error> {
    fields.name("vote response");
    let generation = match version {
        ProtoVersion::V2 => 0,
        ProtoVersion::V3 => fields.u32("generation")?,
    };
    let term = fields.term()?;
    let granted = match version {
        ProtoVersion::V2 => fields.u64("vote")?,
        ProtoVersion::V3 => u64::from(fields.u8("vote")?),
    };
    let granted = fields.flag("vote", granted)?;
    let flush = fields.lsn("flush LSN")?;
    let truncate = fields.lsn("truncate LSN")?;
    let history = fields.history()?;
    if version == ProtoVersion::V2 {
        fields.lsn("timeline start")?;
    }
    Ok(VoteResponse { generation, term, granted, flush, truncate, history })
}

fn append(version: ProtoVersion, fields: &mut Fields) -> Result<AppendResponse, Error> {
    fields.name("append response");
    let generation = match version {
        ProtoVersion::V2 => 0,
        ProtoVersion::V3 => fields.u32("generation")?,
    };
    let term = fields.term()?;
    let flush = fields.lsn("flush LSN")?;
    let commit = fields.lsn("commit LSN")?;
    let standby = HotStandbyFeedback {
        time: fields.i64("time of standby feedback")?,
        xmin: fields.u64("xmin")?,
        catalog_xmin: fields.u64("catalog xmin")?,
    };
    let feedback = fields.rest();
    if !feedback.is_empty() {
        ReplicaFeedback::parse(&feedback)?;
    }
    let feedback = (!feedback.is_empty()).then_some(feedback);
    Ok(AppendResponse { generation, term, flush, commit, standby, feedback })
}

/// Appends one message to `out`. Protocol 2 has no place for the membership record and the generation: they are left out, since
/// a proposer that counts by generations does not speak it.
pub fn encode_acceptor(version: ProtoVersion, message: &AcceptorMessage, out: &mut BytesMut) {
    match message {
        AcceptorMessage::Greeting(greeting) => {
            let mut writer = Writer::new(version, GREETING, out);
            match version {
                ProtoVersion::V2 => {
                    writer.term(greeting.term).u64(greeting.node.0);
                }
                ProtoVersion::V3 => {
                    writer.u64(greeting.node.0);
                    membership::write(&mut writer, &greeting.membership);
                    writer.term(greeting.term);
                }
            }
        }
        AcceptorMessage::Vote(vote) => {
            let mut writer = Writer::new(version, VOTE, out);
            match version {
                ProtoVersion::V2 => {
                    writer.term(vote.term).u64(u64::from(vote.granted));
                }
                ProtoVersion::V3 => {
                    writer.u32(vote.generation).term(vote.term);
                    writer.out.put_u8(u8::from(vote.granted));
                }
            }
            writer.lsn(vote.flush).lsn(vote.truncate).history(&vote.history);
            if version == ProtoVersion::V2 {
                writer.u64(0);
            }
        }
        AcceptorMessage::Append(append) => {
            let mut writer = Writer::new(version, APPEND, out);
            if version == ProtoVersion::V3 {
                writer.u32(append.generation);
            }
            writer.term(append.term).lsn(append.flush).lsn(append.commit);
            // Two's complement: the bits of the time are the same either way.
            writer.u64(append.standby.time.cast_unsigned()).u64(append.standby.xmin).u64(append.standby.catalog_xmin);
            writer.out.put_slice(append.feedback.as_deref().unwrap_or_default());
        }
    }
}

#[cfg(test)]
#[path = "acceptor_test.rs"]
pub(crate) mod tests;
