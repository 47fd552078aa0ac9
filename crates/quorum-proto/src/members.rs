//! What is said about membership beside the messages: the options of MEMBERS, its answer, and a wish on its way to the leader.
//!
//! | options | does |
//! |---|---|
//! | `take 'RECORD'` | takes a record with a higher generation; answers a row |
//! | `join 'RECORD', name '…', tenant_id '…', timeline_id '…'` | makes the cluster on a safekeeper that is to become a member |
//! | `change 'RECORD'` | asks the leader for the members of this record, in place of those of this generation |
//! | `accept 'LSN'` | a damaged log is taken as it is, up to here |
//! | `rename 'NAME'` | gives an era that has ended another name, so that the next can have its own |
//! | `drop 'GENERATION'` | removes a cluster in which this safekeeper is no member any more |
//!
//! A wish travels to the leader as one more pair in the replica feedback of an append response, which nobody else reads.

use crate::{Error, InitCluster};
use bytes::{Buf, BufMut, Bytes, BytesMut};
use consensus::Membership;
use lsn::{ClusterId, Lsn, Term};

const COMMAND: &str = "MEMBERS";
/// Key of a wish among the pairs of replica feedback.
const WISH_KEY: &[u8] = b"seawall_members";

/// A MEMBERS command.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MembersCommand {
    /// Take this record.
    Take(Membership),
    /// Make this cluster as a learner, with this record.
    Join(InitCluster),
    /// Ask the leader for a change.
    Change(Wish),
    /// Take a damaged log as it is, if it ends here.
    Accept(Lsn),
    /// Give the cluster this name; it has ended.
    Rename(String),
    /// Remove the cluster, unless its record is newer than this generation.
    Drop(u32),
}

/// Members somebody wants, in place of those of one generation.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wish {
    /// Its generation is that of the record to be changed, its members are the wanted ones.
    pub wanted: Membership,
}

/// What a safekeeper answers to [`MembersCommand::Take`], durable by then.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordTaken {
    /// Generation of the record there.
    pub generation: u32,
    /// The term there.
    pub term: Term,
    /// The flush LSN there.
    pub flush: Lsn,
}

impl MembersCommand {
    /// Reads name and value pairs: exactly those of one row of the table.
    pub fn parse(options: &[(String, String)]) -> Result<Self, Error> {
        let (verb, value) = options
            .iter()
            .find(|(name, _)| ["take", "join", "change", "accept", "rename", "drop"].contains(&name.as_str()))
            .ok_or_else(|| wrong("list", "one of take, join, change, accept, rename and drop".to_owned()))?;
        let joins = verb == "join";
        if (options.len() != 1) != joins {
            return Err(wrong("list", format!("not what {verb} takes")));
        }
        Ok(match verb.as_str() {
            "take" => MembersCommand::Take(value.parse()?),
            "change" => MembersCommand::Change(Wish::new(value.parse()?)?),
            "accept" => MembersCommand::Accept(value.parse().map_err(|_| wrong("accept", "no LSN".to_owned()))?),
            "rename" => {
                InitCluster::check_name(value)?;
                MembersCommand::Rename(value.clone())
            }
            "drop" => MembersCommand::Drop(value.parse().map_err(|_| wrong("drop", "no generation".to_owned()))?),
            _ => {
                let one = |wanted: &'static str| {
                    let value = options.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
                    value.ok_or_else(|| wrong(wanted, "missing".to_owned()))
                };
                let name = one("name")?;
                InitCluster::check_name(name)?;
                let cluster = ClusterId::from_hex(one("tenant_id")?, one("timeline_id")?)?;
                let membership: Membership = value.parse()?;
                if options.len() != 4 || !membership.is_set() {
                    return Err(wrong("join", "not that of a cluster that exists".to_owned()));
                }
                MembersCommand::Join(InitCluster { name: name.to_owned(), cluster, membership })
            }
        })
    }

    /// The pairs to send.
    pub fn to_options(&self) -> Vec<(String, String)> {
        let one = |verb: &str, value: String| vec![(verb.to_owned(), value)];
        match self {
            MembersCommand::Take(record) => one("take", record.to_string()),
            MembersCommand::Change(wish) => one("change", wish.wanted.to_string()),
            MembersCommand::Accept(end) => one("accept", end.to_string()),
            MembersCommand::Rename(name) => one("rename", name.clone()),
            MembersCommand::Drop(generation) => one("drop", generation.to_string()),
            MembersCommand::Join(init) => {
                let rest = init.to_options().into_iter().filter(|(name, _)| name != "membership");
                one("join", init.membership.to_string()).into_iter().chain(rest).collect()
            }
        }
    }
}

impl Wish {
    /// Checks it.
    pub fn new(wanted: Membership) -> Result<Wish, Error> {
        if !wanted.is_set() || wanted.new_members.is_some() {
            return Err(wrong("change", "not a plain set of members".to_owned()));
        }
        Ok(Wish { wanted })
    }

    /// The pair in replica feedback.
    pub fn to_feedback(&self) -> Bytes {
        let text = self.wanted.to_string();
        let mut out = BytesMut::with_capacity(WISH_KEY.len() + text.len() + 6);
        out.put_u8(1);
        out.put_slice(WISH_KEY);
        out.put_u8(0);
        out.put_u32(text.len() as u32);
        out.put_slice(text.as_bytes());
        out.freeze()
    }

    /// The wish in replica feedback, if it is nothing else.
    pub fn from_feedback(feedback: &Bytes) -> Option<Wish> {
        let mut rest = feedback.strip_prefix(&[1])?.strip_prefix(WISH_KEY)?.strip_prefix(&[0])?;
        let length = rest.try_get_u32().ok()? as usize;
        let text = std::str::from_utf8(rest).ok().filter(|text| text.len() == length)?;
        Wish::new(text.parse().ok()?).ok()
    }

    /// Whether feedback that came from a reader poses as a wish: readers may not have any.
    pub fn is_claimed_by(feedback: &[u8]) -> bool {
        feedback.windows(WISH_KEY.len()).any(|window| window == WISH_KEY)
    }
}

impl RecordTaken {
    /// The columns of the answer.
    pub const COLUMNS: [&'static str; 3] = ["generation", "term", "flush_lsn"];

    /// The values, all text.
    pub fn to_values(&self) -> [String; 3] {
        [self.generation.to_string(), self.term.to_string(), self.flush.to_string()]
    }

    /// Reads the row of an answer.
    pub fn from_row<'a>(value: impl Fn(&str) -> Option<&'a str>) -> Result<Self, Error> {
        fn read<T: std::str::FromStr>(column: &'static str, text: Option<&str>) -> Result<T, Error> {
            let problem = || Error::Column { column, problem: "missing or not understood".to_owned() };
            text.and_then(|text| text.parse().ok()).ok_or_else(problem)
        }
        Ok(RecordTaken {
            generation: read("generation", value("generation"))?,
            term: read("term", value("term"))?,
            flush: read("flush_lsn", value("flush_lsn"))?,
        })
    }
}

fn wrong(name: &'static str, problem: String) -> Error {
    Error::Option { command: COMMAND, name, problem }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ReplicaFeedback;

    fn record(text: &str) -> Membership {
        let (one, two) = ("0a".repeat(16), "0b".repeat(16));
        text.replace("ONE", &format!("1:{one}@sk1:5454")).replace("TWO", &format!("2:{two}@::1:5455")).parse().unwrap()
    }

    fn examples() -> Vec<MembersCommand> {
        let cluster = ClusterId { tenant: [1; 16], timeline: [2; 16] };
        vec![
            MembersCommand::Take(record("5/4/ONE|ONE;TWO")),
            MembersCommand::Join(InitCluster { name: "orders".into(), cluster, membership: record("5/4/ONE|ONE;TWO") }),
            MembersCommand::Change(Wish::new(record("5/4/ONE;TWO")).unwrap()),
            MembersCommand::Accept(Lsn(0x1_0000_0028)),
            MembersCommand::Drop(7),
        ]
    }

    #[test]
    fn what_is_sent_is_read() {
        for command in examples() {
            assert_eq!(MembersCommand::parse(&command.to_options()).unwrap(), command);
        }
        let taken = RecordTaken { generation: 5, term: Term(4), flush: Lsn(0x2_0000_0010) };
        let values = taken.to_values();
        let read = RecordTaken::from_row(|name| {
            let index = RecordTaken::COLUMNS.iter().position(|column| *column == name)?;
            Some(values[index].as_str())
        });
        assert_eq!(read.unwrap(), taken);
        assert!(RecordTaken::from_row(|_| None).is_err());
    }

    #[test]
    fn more_less_or_other_options_are_refused() {
        for command in examples() {
            let options = command.to_options();
            let with = |name: &str| {
                let mut more = options.clone();
                more.push((name.to_owned(), "1".to_owned()));
                MembersCommand::parse(&more)
            };
            assert!(with("colour").is_err() && with("name").is_err() && with("drop").is_err());
            for index in 0..options.len() {
                let mut fewer = options.clone();
                fewer.remove(index);
                assert!(MembersCommand::parse(&fewer).is_err());
            }
        }
        assert!(Wish::new(record("5/4/ONE|TWO")).is_err() && Wish::new(Membership::none()).is_err());
    }

    #[test]
    fn a_wish_travels_as_feedback() {
        let wish = Wish::new(record("5/4/ONE;TWO")).unwrap();
        let bytes = wish.to_feedback();
        assert!(ReplicaFeedback::parse(&bytes).is_ok(), "foreign proposers skip it");
        assert_eq!(Wish::from_feedback(&bytes), Some(wish));
        assert!(Wish::is_claimed_by(&bytes));
        for length in 0..bytes.len() {
            assert_eq!(Wish::from_feedback(&bytes.slice(..length)), None);
        }
        assert!(!Wish::is_claimed_by(b"\x01shard_number\0"));
    }
}
