//! MEMBERS: records, learners, wishes, and the end of a cluster on this safekeeper.

use crate::registry::{Choice, Registry};
use bytes::{Bytes, BytesMut};
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::backend::encode::{self, Column};
use pq_proto::command::Options;
use quorum_proto::{MembersCommand, RecordTaken};
use std::rc::Rc;

/// The whole answer, ReadyForQuery included.
pub(crate) async fn answer(registry: &Rc<Registry>, choice: &Choice, options: &Options) -> Result<Bytes, Report> {
    let options: Vec<_> = options.iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
    let command = MembersCommand::parse(&options)
        .map_err(|error| Report::error(SqlState::INVALID_PARAMETER_VALUE, error.to_string()))?;
    let refused = |text: String| Report::error(SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE, text);
    let mut out = BytesMut::new();
    match command {
        MembersCommand::Take(record) => {
            let cluster = registry.choose(choice)?;
            let taken = cluster.take_record(record).await.map_err(refused)?;
            registry.note_records();
            tracing::info!(cluster = cluster.name(), membership = %cluster.membership(), "membership record taken");
            row(&taken, &mut out);
        }
        MembersCommand::Accept(end) => {
            let taken = registry.choose(choice)?.accept(end).await.map_err(refused)?;
            row(&taken, &mut out);
        }
        MembersCommand::Change(wish) => {
            if !registry.choose(choice)?.forward_wish(&wish) {
                let text = format!("no leader is heard here that counts by generation {}", wish.wanted.generation);
                return Err(refused(text));
            }
        }
        MembersCommand::Rename(name) => registry.rename(choice, &name).await?,
        MembersCommand::Join(init) => registry.join(&init).await?,
        MembersCommand::Drop(generation) => registry.drop_cluster(choice, generation).await?,
    }
    encode::command_complete("MEMBERS", &mut out);
    encode::ready_for_query(&mut out);
    Ok(out.freeze())
}

fn row(taken: &RecordTaken, out: &mut BytesMut) {
    encode::row_description(&RecordTaken::COLUMNS.map(Column::text), out);
    let values = taken.to_values();
    let values: Vec<Option<&[u8]>> = values.iter().map(|value| Some(value.as_bytes())).collect();
    encode::data_row(&values, out);
}
