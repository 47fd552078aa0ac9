//! [`Safekeeper`]: connecting to one safekeeper, and what it says of its logs.

use crate::error::Error;
use consensus::Membership;
use lsn::{ClusterId, DiskId, NodeId};
use pg_conn::{ConnInfo, Connection, StartupExtra};
use pq_proto::command::Command;
use quorum_proto::{FenceCommand, LogStatusRow, MembersCommand, RecordTaken};
use std::fmt;
use std::time::Duration;

/// How long LOG_STATUS may take, connecting included: it only reads memory.
const STATUS_DEADLINE: Duration = Duration::from_secs(2);
/// How long a connection may take to be made.
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Where one safekeeper is.
#[derive(Debug)]
pub(crate) struct Safekeeper {
    address: String,
    /// How to reach it, or why it cannot be reached.
    conninfo: Result<ConnInfo, String>,
    outgoing: auth::Outgoing,
}

/// Who a safekeeper is, as it says at the start of every connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) disk: DiskId,
}

/// Everything it knows.
#[derive(Debug)]
pub(crate) struct LogStatus {
    pub(crate) node: Option<NodeId>,
    pub(crate) rows: Vec<LogStatusRow>,
}

impl Safekeeper {
    pub(crate) fn new(address: &str, outgoing: &auth::Outgoing) -> Result<Safekeeper, Error> {
        let error = |problem: &str| Error::Address { address: address.to_owned(), problem: problem.to_owned() };
        let (host, port) = address.rsplit_once(':').ok_or_else(|| error("expected host:port"))?;
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        // What separates hosts or quotes values in a conninfo stands in no host name.
        if host.is_empty() || host.contains(|c: char| c.is_whitespace() || ",'\\/".contains(c)) {
            return Err(error("expected a name or an IP address before the port"));
        }
        let port: u16 = port.parse().map_err(|_| error("the port is not a number up to 65535"))?;
        let text = format!("host={host} port={port} user=seawall dbname=replication");
        let mut conninfo: ConnInfo =
            text.parse().map_err(|problem: pg_conn::ConnInfoError| error(&problem.to_string()))?;
        for (key, value) in outgoing.settings(host).map_err(|problem| error(&problem.to_string()))? {
            conninfo = conninfo.with(key, &value).map_err(|problem| error(&problem.to_string()))?;
        }
        Ok(Safekeeper { address: address.to_owned(), conninfo: Ok(conninfo), outgoing: outgoing.clone() })
    }

    /// Another one, reached in the same way; an address that is none is never reached.
    pub(crate) fn beside(&self, address: &str) -> Safekeeper {
        Safekeeper::new(address, &self.outgoing).unwrap_or_else(|error| Safekeeper {
            address: address.to_owned(),
            conninfo: Err(error.to_string()),
            outgoing: self.outgoing.clone(),
        })
    }

    pub(crate) fn address(&self) -> &str {
        &self.address
    }

    /// Connects; with a cluster the connection is for that cluster. Errors are sentences without the address.
    pub(crate) async fn connect(&self, cluster: Option<ClusterId>) -> Result<Connection, String> {
        let extra = StartupExtra {
            replication: true,
            application_name: Some("seawall proposer".to_owned()),
            options: cluster.map(|id| format!("-c tenant_id={} -c timeline_id={}", id.tenant_hex(), id.timeline_hex())),
            dbname: None,
        };
        let conninfo = self.conninfo.as_ref().map_err(Clone::clone)?;
        match tokio::time::timeout(CONNECT_DEADLINE, pg_conn::connect(conninfo, &extra)).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(last_failure(error)),
            Err(_) => Err(format!("it does not answer within {} s", CONNECT_DEADLINE.as_secs())),
        }
    }

    /// Who is at the other end; only Seawall's own safekeepers say so.
    pub(crate) fn identity(connection: &Connection) -> Result<Identity, String> {
        let text = |name| connection.parameters().get(name);
        let identity = || {
            let (node, disk) = (text("seawall_node_id")?.parse().ok()?, text("seawall_disk_id")?.parse().ok()?);
            Some(Identity { node, disk })
        };
        identity().ok_or_else(|| "it does not say which safekeeper it is; is this a Seawall safekeeper?".to_owned())
    }

    /// Whether it keeps paths, fences and histories; what does not is no safekeeper of ours, or an old one.
    pub(crate) fn keeps_paths(connection: &Connection) -> Result<(), String> {
        match connection.parameters().get("seawall_log") {
            Some("1") => Ok(()),
            _ => Err("it does not follow a primary to another TLI (no seawall_log=1); upgrade it".to_owned()),
        }
    }

    /// Brings it a membership record; it is durable there when this returns.
    pub(crate) async fn take_record(&self, cluster: ClusterId, record: Membership) -> Result<RecordTaken, String> {
        let ask = async {
            let mut connection = self.connect(Some(cluster)).await?;
            let options = MembersCommand::Take(record).to_options().into_iter().collect();
            let answer = connection.simple_query(&Command::Members(options).to_string()).await;
            let rows = answer.map_err(|error| error.to_string())?;
            let row = rows.first().ok_or("it answered without a row")?;
            RecordTaken::from_row(|column| row.get(column)).map_err(|error| error.to_string())
        };
        let late = Err(format!("it does not answer within {} s", CONNECT_DEADLINE.as_secs()));
        tokio::time::timeout(CONNECT_DEADLINE, ask).await.unwrap_or(late)
    }

    /// Sets or lifts a cluster's fence; durable when this returns.
    pub(crate) async fn fence(&self, cluster: ClusterId, command: &FenceCommand) -> Result<(), String> {
        let ask = async {
            let mut connection = self.connect(Some(cluster)).await?;
            Safekeeper::keeps_paths(&connection)?;
            let command = Command::Fence(command.to_options().into_iter().collect());
            connection.simple_query(&command.to_string()).await.map(drop).map_err(|error| error.to_string())
        };
        let late = Err(format!("it does not answer within {} s", CONNECT_DEADLINE.as_secs()));
        tokio::time::timeout(CONNECT_DEADLINE, ask).await.unwrap_or(late)
    }

    /// LOG_STATUS of all its clusters.
    pub(crate) async fn log_status(&self) -> Result<LogStatus, String> {
        let ask = async {
            let mut connection = self.connect(None).await?;
            let node = Safekeeper::identity(&connection).ok().map(|identity| identity.node);
            let answer = connection.simple_query(&Command::LogStatus { since: None }.to_string()).await;
            let rows = answer.map_err(|error| error.to_string())?;
            let read = |row: &pg_conn::Row| LogStatusRow::from_row(|column| row.get(column));
            let rows = rows.iter().map(read).collect::<Result<_, _>>().map_err(|error| error.to_string())?;
            Ok(LogStatus { node, rows })
        };
        let late = Err(format!("it does not answer within {} s", STATUS_DEADLINE.as_secs()));
        tokio::time::timeout(STATUS_DEADLINE, ask).await.unwrap_or(late)
    }
}

impl fmt::Display for Safekeeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.address)
    }
}

/// The address is shown elsewhere; what happened at its last resolution is enough.
fn last_failure(error: pg_conn::ConnectError) -> String {
    match error {
        pg_conn::ConnectError::Hosts(mut hosts) => match hosts.pop() {
            Some(last) => last.failure.to_string(),
            None => "it cannot be reached".to_owned(),
        },
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_hosts_and_ports() {
        for good in ["sk1:5454", "127.0.0.1:1", "[::1]:65535", "a.b-c.example:5454"] {
            assert_eq!(Safekeeper::new(good, &auth::Outgoing::default()).unwrap().address(), good);
        }
        for bad in ["", "sk1", ":5454", "sk1:", "sk1:65536", "a,b:1", "a b:1", "a'b:1", "/run:1", "sk1:x"] {
            assert!(matches!(Safekeeper::new(bad, &auth::Outgoing::default()), Err(Error::Address { .. })), "{bad}");
        }
    }
}
