//! A membership record inside a message of protocol 3.
//!
//! On the wire a member has neither a disk nor its record a term; they travel in LOG_STATUS. A decoded record therefore has
//! [`DiskId::NONE`] and term 0, and must never replace one that was learned with them.

use crate::Error;
use crate::wire::{Fields, Writer};
use bytes::{BufMut, Bytes};
use consensus::{Member, Membership};
use lsn::{DiskId, NodeId, Term};

/// Most members of one set.
const MAX_MEMBERS: u32 = 31;
/// Longest host name, in bytes.
const MAX_HOST_BYTES: usize = 255;

pub(crate) fn read(fields: &mut Fields) -> Result<Membership, Error> {
    let generation = fields.u32("membership generation")?;
    let members = read_set(fields)?;
    let new_members = read_set(fields)?;
    Ok(Membership::new(generation, Term(0), members, (!new_members.is_empty()).then_some(new_members))?)
}

fn read_set(fields: &mut Fields) -> Result<Vec<Member>, Error> {
    let count = fields.u32("members")?;
    if count > MAX_MEMBERS {
        return Err(fields.range("members"));
    }
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member {
            node: NodeId(fields.u64("member's node id")?),
            host: fields.text("member's host", MAX_HOST_BYTES)?,
            port: fields.u16("member's port")?,
            disk: DiskId::NONE,
        });
    }
    Ok(members)
}

pub(crate) fn write(writer: &mut Writer<'_>, record: &Membership) {
    writer.u32(record.generation);
    write_set(writer, &record.members);
    write_set(writer, record.new_members.as_deref().unwrap_or_default());
}

fn write_set(writer: &mut Writer<'_>, members: &[Member]) {
    writer.u32(members.len() as u32);
    for member in members {
        writer.u64(member.node.0);
        // The other implementation has hosts in ASCII; hosts are hints, so a question mark loses nothing that counts.
        let host: Bytes =
            member.host.bytes().map(|byte| if byte.is_ascii() && byte != 0 { byte } else { b'?' }).collect();
        writer.out.put(host);
        writer.out.put_u8(0);
        writer.out.put_u16(member.port);
    }
}
