//! What a proposer says: greeting, vote request, elected, append.
//!
//! A safekeeper ignores bytes behind the last field of a message, so that a later proposer may add some.

use crate::wire::{Fields, Writer};
use crate::{Error, ProtoVersion, membership};
use bytes::{BufMut, Bytes, BytesMut};
use consensus::{
    AppendRequest, MAX_APPEND_BYTES, Membership, ProposerElected, ProposerGreeting, ProposerMessage, VoteRequest,
};
use lsn::{ClusterId, SystemId};

const GREETING: u8 = b'g';
const VOTE: u8 = b'v';
const ELECTED: u8 = b'e';
const APPEND: u8 = b'a';

/// The number that protocol 2 gives PostgreSQL's timeline of a greeting; nobody reads it.
const V2_GREETING_TLI: u32 = 1;

/// Reads one message, the payload of one CopyData. The WAL of an append is a slice of `payload`, not a copy.
pub fn decode_proposer(version: ProtoVersion, payload: Bytes) -> Result<ProposerMessage, Error> {
    let mut fields = Fields::new(version, payload);
    let tag = fields.tag()?;
    match u8::try_from(tag) {
        Ok(GREETING) => greeting(version, &mut fields).map(ProposerMessage::Greeting),
        Ok(VOTE) => vote(version, &mut fields).map(ProposerMessage::Vote),
        Ok(ELECTED) => elected(version, &mut fields).map(ProposerMessage::Elected),
        Ok(APPEND) => append(version, &mut fields).map(ProposerMessage::Append),
        _ => Err(Error::Tag(tag)),
    }
}

fn greeting(version: ProtoVersion, fields: &mut Fields) -> Result<ProposerGreeting, Error> {
    fields.name("greeting");
    match version {
        ProtoVersion::V2 => {
            let spoken = fields.u32("protocol version")?;
            if spoken != version.number() {
                return Err(Error::Version(spoken.to_string()));
            }
            let pg_version = fields.u32("PostgreSQL version")?;
            let _proposer_id: [u8; 16] = fields.array("proposer id")?;
            let system_id = SystemId(fields.u64("system identifier")?);
            let timeline = fields.array("timeline id")?;
            let tenant = fields.array("tenant id")?;
            let _tli = fields.u32("TLI")?;
            let segment_size = fields.u32("segment size")?;
            let cluster = ClusterId { tenant, timeline };
            Ok(ProposerGreeting { cluster, membership: Membership::none(), pg_version, system_id, segment_size })
        }
        ProtoVersion::V3 => {
            let tenant = fields.text("tenant id", 32)?;
            let timeline = fields.text("timeline id", 32)?;
            let cluster = ClusterId::from_hex(&tenant, &timeline)?;
            let membership = membership::read(fields)?;
            let pg_version = fields.u32("PostgreSQL version")?;
            let system_id = SystemId(fields.u64("system identifier")?);
            let segment_size = fields.u32("segment size")?;
            Ok(ProposerGreeting { cluster, membership, pg_version, system_id, segment_size })
        }
    }
}

fn generation(version: ProtoVersion, fields: &mut Fields) -> Result<u32, Error> {
    match version {
        ProtoVersion::V2 => Ok(0),
        ProtoVersion::V3 => fields.u32("generation"),
    }
}

fn vote(version: ProtoVersion, fields: &mut Fields) -> Result<VoteRequest, Error> {
    fields.name("vote request");
    Ok(VoteRequest { generation: generation(version, fields)?, term: fields.term()? })
}

fn elected(version: ProtoVersion, fields: &mut Fields) -> Result<ProposerElected, Error> {
    fields.name("elected message");
    let generation = generation(version, fields)?;
    let term = fields.term()?;
    let start_streaming_at = fields.lsn("start of streaming")?;
    let history = fields.history()?;
    if history.is_empty() {
        return Err(fields.range("term history"));
    }
    if version == ProtoVersion::V2 {
        // Once the beginning of the log; the history says it better.
        fields.lsn("timeline start")?;
    }
    Ok(ProposerElected { generation, term, start_streaming_at, history })
}

fn append(version: ProtoVersion, fields: &mut Fields) -> Result<AppendRequest, Error> {
    fields.name("append request");
    let generation = generation(version, fields)?;
    let term = fields.term()?;
    if version == ProtoVersion::V2 {
        fields.lsn("epoch start")?;
    }
    let begin = fields.lsn("begin")?;
    let end = fields.lsn("end")?;
    let commit = fields.lsn("commit LSN")?;
    let truncate = fields.lsn("truncate LSN")?;
    if version == ProtoVersion::V2 {
        let _proposer_id: [u8; 16] = fields.array("proposer id")?;
    }
    let length = end.0.checked_sub(begin.0).filter(|length| *length <= MAX_APPEND_BYTES as u64);
    let length = length.ok_or_else(|| fields.range("length of WAL"))?;
    let wal = fields.slice("WAL", length as usize)?;
    Ok(AppendRequest { generation, term, begin, end, commit, truncate, wal })
}

/// Appends one message to `out`.
///
/// Errors only in protocol 2: it has no place for a membership record, so a generation other than 0 is refused rather than left
/// out, because it decides who counts.
pub fn encode_proposer(version: ProtoVersion, message: &ProposerMessage, out: &mut BytesMut) -> Result<(), Error> {
    match message {
        ProposerMessage::Greeting(greeting) => encode_greeting(version, greeting, out),
        ProposerMessage::Vote(vote) => {
            sayable(version, vote.generation)?;
            let mut writer = Writer::new(version, VOTE, out);
            match version {
                // The sixteen bytes are read by nobody.
                ProtoVersion::V2 => writer.term(vote.term).zeros(16),
                ProtoVersion::V3 => writer.u32(vote.generation).term(vote.term),
            };
            Ok(())
        }
        ProposerMessage::Elected(elected) => {
            sayable(version, elected.generation)?;
            let mut writer = Writer::new(version, ELECTED, out);
            if version == ProtoVersion::V3 {
                writer.u32(elected.generation);
            }
            writer.term(elected.term).lsn(elected.start_streaming_at).history(&elected.history);
            if version == ProtoVersion::V2 {
                writer.u64(elected.history.entries().first().map_or(0, |entry| entry.begin.0));
            }
            Ok(())
        }
        ProposerMessage::Append(append) => {
            encode_append_header(version, append, out)?;
            out.put_slice(&append.wal);
            Ok(())
        }
    }
}

/// Appends only the header of an append request to `out`; the message is this followed by `append.wal`, which can so be sent from
/// where it lies. `append.end - append.begin` must be the length of `append.wal`, at most [`MAX_APPEND_BYTES`].
pub fn encode_append_header(version: ProtoVersion, append: &AppendRequest, out: &mut BytesMut) -> Result<(), Error> {
    sayable(version, append.generation)?;
    let mut writer = Writer::new(version, APPEND, out);
    if version == ProtoVersion::V3 {
        writer.u32(append.generation);
    }
    writer.term(append.term);
    if version == ProtoVersion::V2 {
        writer.u64(0);
    }
    writer.lsn(append.begin).lsn(append.end).lsn(append.commit).lsn(append.truncate);
    if version == ProtoVersion::V2 {
        writer.zeros(16);
    }
    Ok(())
}

fn encode_greeting(version: ProtoVersion, greeting: &ProposerGreeting, out: &mut BytesMut) -> Result<(), Error> {
    sayable(version, greeting.membership.generation)?;
    let mut writer = Writer::new(version, GREETING, out);
    match version {
        ProtoVersion::V2 => {
            writer.u32(version.number()).u32(greeting.pg_version).zeros(16).u64(greeting.system_id.0);
            // The order of the ids is the other one than in version 3.
            writer.out.put_slice(&greeting.cluster.timeline);
            writer.out.put_slice(&greeting.cluster.tenant);
            writer.u32(V2_GREETING_TLI).u32(greeting.segment_size);
        }
        ProtoVersion::V3 => {
            for id in [greeting.cluster.tenant_hex(), greeting.cluster.timeline_hex()] {
                writer.out.put_slice(id.as_bytes());
                writer.out.put_u8(0);
            }
            membership::write(&mut writer, &greeting.membership);
            writer.u32(greeting.pg_version).u64(greeting.system_id.0).u32(greeting.segment_size);
        }
    }
    Ok(())
}

fn sayable(version: ProtoVersion, generation: u32) -> Result<(), Error> {
    match version {
        ProtoVersion::V2 if generation != 0 => Err(Error::NeedsVersion3(generation)),
        _ => Ok(()),
    }
}

#[cfg(test)]
#[path = "proposer_test.rs"]
mod tests;
