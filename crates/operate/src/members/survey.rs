//! Asking everybody: those who were named, and those whom the newest record names.

use super::{Error, text};
use config::{Address, MembersOptions};
use consensus::{Member, Membership};
use lsn::{ClusterId, DiskId, Lsn, NodeId};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use quorum_proto::{LogStatusRow, MembersCommand};
use std::time::Duration;

/// How long a safekeeper may take; making a record durable counts, and waiting for an election under way.
const ANSWER_WITHIN: Duration = Duration::from_secs(12);

/// One safekeeper that answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Seen {
    /// Where.
    pub address: Address,
    /// Its number.
    pub node: NodeId,
    /// Its disk.
    pub disk: DiskId,
    /// What it has of the cluster.
    pub row: Option<LogStatusRow>,
}

/// What everybody said.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Survey {
    /// The cluster's ids.
    pub cluster: ClusterId,
    /// Its name.
    pub name: String,
    /// The newest record anybody has.
    pub record: Membership,
    /// Those who answered.
    pub seen: Vec<Seen>,
    /// Those who did not, and why.
    pub silent: Vec<(Address, String)>,
}

impl Survey {
    /// Asks the safekeepers of the options, and those of the newest record they show.
    pub async fn make(options: &MembersOptions) -> Result<Survey, Error> {
        let wanted = options.cluster.as_ref().map(|name| name.as_str());
        let (mut seen, mut silent) = (Vec::new(), Vec::new());
        let mut cluster: Option<(ClusterId, String)> = None;
        for address in &options.safekeepers {
            match rows(address).await {
                Err(reason) => silent.push((address.clone(), reason)),
                Ok((node, disk, rows)) => {
                    let mut rows: Vec<LogStatusRow> =
                        rows.into_iter().filter(|row| wanted.is_none_or(|name| row.name == name)).collect();
                    // Of several eras of one name the one with the newest record counts.
                    rows.sort_by_key(|row| row.membership.precedence());
                    let mut names: Vec<&str> = rows.iter().map(|row| row.name.as_str()).collect();
                    names.dedup();
                    if names.len() > 1 {
                        return Err(Error::Several(names.join(", ")));
                    }
                    let row = rows.pop();
                    if let (None, Some(row)) = (&cluster, &row) {
                        cluster = Some((row.cluster, row.name.clone()));
                    }
                    seen.push(Seen { address: address.clone(), node, disk, row });
                }
            }
        }
        let what = || wanted.map_or_else(|| "a cluster".to_owned(), |name| format!("cluster {name:?}"));
        let (cluster, name) = cluster.ok_or_else(|| Error::NoCluster(what()))?;
        if let Some(other) = seen.iter().filter_map(|seen| seen.row.as_ref()).find(|row| row.cluster != cluster) {
            return Err(Error::Several(format!("{name}, {}", other.name)));
        }
        let mut survey = Survey { cluster, name, record: Membership::none(), seen, silent };
        // A record may name others, who may have a newer one.
        for _ in 0..3 {
            survey.record = survey.newest().ok_or_else(|| Error::NoCluster(what()))?;
            if !survey.ask_members().await {
                break;
            }
        }
        Ok(survey)
    }

    fn newest(&self) -> Option<Membership> {
        let records = self.seen.iter().filter_map(|seen| Some(&seen.row.as_ref()?.membership));
        records.filter(|record| record.is_set()).max_by_key(|record| record.precedence()).cloned()
    }

    /// Whether there were members that had not been asked.
    async fn ask_members(&mut self) -> bool {
        let members: Vec<Member> = self.record.all_members().cloned().collect();
        let mut asked = false;
        for member in members {
            let address = Address::new(&member.host, member.port);
            let known = self.seen.iter().any(|seen| seen.node == member.node || seen.address == address)
                || self.silent.iter().any(|(other, _)| *other == address);
            if known {
                continue;
            }
            asked = true;
            match ask(&address, Some(self.cluster)).await {
                Ok(seen) => self.seen.push(seen),
                Err(reason) => self.silent.push((address, reason)),
            }
        }
        asked
    }

    /// The highest commit LSN anybody has.
    pub fn commit(&self) -> Lsn {
        self.seen.iter().filter_map(|seen| Some(seen.row.as_ref()?.commit)).max().unwrap_or_default()
    }

    /// What a member said.
    pub fn member(&self, member: &Member) -> Option<&Seen> {
        self.seen.iter().find(|seen| (seen.node, seen.disk) == (member.node, member.disk))
    }

    /// Members that did not answer, for a sentence; empty if all did.
    pub(super) fn unanswered(&self) -> String {
        let silent = self.record.all_members().filter(|member| self.member(member).is_none());
        silent.map(|member| format!("safekeeper {}", member.node)).collect::<Vec<_>>().join(", ")
    }
}

/// Who is at an address, as a member would be named.
pub(super) async fn identify(address: &Address) -> Result<Member, Error> {
    let error = |reason| Error::Unreachable { address: address.to_string(), reason };
    let seen = ask(address, None).await.map_err(error)?;
    Ok(Member { node: seen.node, disk: seen.disk, host: address.host.clone(), port: address.port })
}

/// What one safekeeper says of one cluster.
pub(super) async fn ask(address: &Address, cluster: Option<ClusterId>) -> Result<Seen, String> {
    let (node, disk, rows) = rows(address).await?;
    let row = rows.into_iter().find(|row| Some(row.cluster) == cluster);
    Ok(Seen { address: address.clone(), node, disk, row })
}

pub(crate) async fn rows(address: &Address) -> Result<(NodeId, DiskId, Vec<LogStatusRow>), String> {
    let ask = async {
        let mut connection = connect(address, None).await?;
        let parameter = |name: &str| connection.parameters().get(name);
        let node = parameter("seawall_node_id").and_then(|id| id.parse().ok());
        let disk = parameter("seawall_disk_id").and_then(|id| id.parse().ok());
        let (node, disk) = node.zip(disk).ok_or("it is not a Seawall safekeeper: it does not say its node and disk")?;
        let rows = connection.simple_query("LOG_STATUS").await.map_err(|error| error.to_string())?;
        let rows = rows.iter().map(|row| LogStatusRow::from_row(|column| row.get(column)));
        Ok((node, disk, rows.collect::<Result<_, _>>().map_err(|error| error.to_string())?))
    };
    in_time(ask).await
}

/// Tells a safekeeper to do something to a cluster; it is done when this returns.
pub(crate) async fn tell(address: &Address, cluster: ClusterId, command: &MembersCommand) -> Result<(), String> {
    let tell = async {
        let joins = matches!(command, MembersCommand::Join(_));
        let mut connection = connect(address, (!joins).then_some(cluster)).await?;
        connection.simple_query(&text(command)).await.map(|_| ()).map_err(|error| error.to_string())
    };
    in_time(tell).await
}

async fn in_time<T>(work: impl Future<Output = Result<T, String>>) -> Result<T, String> {
    let late = |_| Err(format!("no answer within {} s", ANSWER_WITHIN.as_secs()));
    tokio::time::timeout(ANSWER_WITHIN, work).await.unwrap_or_else(late)
}

async fn connect(address: &Address, cluster: Option<ClusterId>) -> Result<Connection, String> {
    let outgoing = crate::process::outgoing_from_env().map_err(|error| error.to_string())?;
    let settings = outgoing.settings(&address.host).map_err(|error| error.to_string())?;
    let place = [("host", address.host.clone()), ("port", address.port.to_string())];
    let info = place
        .into_iter()
        .chain(settings)
        .try_fold("user=seawall connect_timeout=5".parse::<ConnInfo>(), |info, (key, value)| {
            info.map(|info| info.with(key, &value))
        });
    let info = info.and_then(|info| info).map_err(|error| error.to_string())?;
    let options = cluster.map(|id| format!("-c tenant_id={} -c timeline_id={}", id.tenant_hex(), id.timeline_hex()));
    let extra = StartupExtra { application_name: Some("seawall".to_owned()), options, ..StartupExtra::default() };
    pg_conn::connect(&info, &extra).await.map_err(|error| error.to_string())
}
