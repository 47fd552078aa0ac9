//! Calling consumers that sleep.
//!
//! An address is an http(s) URL, which is asked for, or a conninfo, to which a connection is made and closed: either is enough
//! to wake whatever listens there. Only hosts the operator named are called: a reader must not make a safekeeper knock at
//! other doors of its network. Whatever answers, and be it an error, was woken.

use pg_conn::{ConnInfo, Host, StartupExtra};
use pq_proto::SqlState;
use pq_proto::backend::Report;
use pq_proto::command::Options;
use std::time::Duration;

/// The option of START_REPLICATION.
const OPTION: &str = "call_back";
const ADDRESS_BYTES_MAX: usize = 1024;
const WITHIN: Duration = Duration::from_secs(10);

enum Address {
    Http { is_encrypted: bool, place: String, path: String },
    Conninfo(Box<ConnInfo>),
}

/// The address a reader leaves, if it may: an empty one takes an earlier one back.
pub(crate) fn left(options: &Options, allowed: &[String]) -> Result<Option<String>, Report> {
    let Some(text) = options.get(OPTION) else { return Ok(None) };
    let invalid = |text: String| Report::error(SqlState::INVALID_PARAMETER_VALUE, text);
    if text.is_empty() {
        return Ok(Some(String::new()));
    }
    let address = parse(text).map_err(invalid)?;
    let may_call = |place: &str| {
        let host = place.rsplit_once(':').map_or(place, |(host, _)| host);
        allowed.iter().any(|allowed| allowed.eq_ignore_ascii_case(place) || allowed.eq_ignore_ascii_case(host))
    };
    match places(&address).iter().find(|place| !may_call(place)) {
        None => Ok(Some(text.to_owned())),
        Some(place) => {
            let text = format!("{place} may not be called from here: --call-back-hosts names those that may");
            Err(Report::error(SqlState::INSUFFICIENT_PRIVILEGE, text))
        }
    }
}

fn parse(text: &str) -> Result<Address, String> {
    if text.len() > ADDRESS_BYTES_MAX {
        return Err(format!("an address to call has at most {ADDRESS_BYTES_MAX} bytes"));
    }
    let url = [("http://", false), ("https://", true)];
    let Some((rest, is_encrypted)) = url.iter().find_map(|(scheme, tls)| Some((text.strip_prefix(scheme)?, *tls)))
    else {
        // The password in it is not for our answer.
        return text
            .parse()
            .map(Box::new)
            .map(Address::Conninfo)
            .map_err(|_| "call_back is neither an http(s) URL nor a conninfo".to_owned());
    };
    let (place, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-._:[]".contains(c);
    if place.is_empty() || !place.chars().all(is_plain) || path.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Err("call_back needs a host behind the scheme, and no name or password".to_owned());
    }
    let has_port = place.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok());
    let place = match (has_port, is_encrypted) {
        (true, _) => place.to_owned(),
        (false, false) => format!("{place}:80"),
        (false, true) => format!("{place}:443"),
    };
    Ok(Address::Http { is_encrypted, place, path: path.to_owned() })
}

/// Where it leads: `host:port` each.
fn places(address: &Address) -> Vec<String> {
    match address {
        Address::Http { place, .. } => vec![place.clone()],
        Address::Conninfo(info) => info
            .hosts()
            .iter()
            .map(|host| match host {
                // The address is what is connected to, whatever the name says.
                Host::Tcp { name, address, port } => format!("{}:{port}", address.as_deref().unwrap_or(name)),
                Host::Unix { directory, .. } => directory.display().to_string(),
            })
            .collect(),
    }
}

/// Calls once. The error is for the log, and holds no secret.
pub(crate) async fn call(text: &str, outgoing: &auth::Outgoing) -> Result<(), String> {
    match parse(text)? {
        Address::Http { is_encrypted, place, path } => {
            let tls = if is_encrypted { outgoing.client_tls().map_err(|error| error.to_string())? } else { None };
            if is_encrypted && tls.is_none() {
                return Err("https needs --tls-ca".to_owned());
            }
            let access = http_api::Access { tls, bearer: None };
            match http_api::get_json_with(&place, &path, WITHIN, &access).await {
                Ok(_) | Err(http_api::ClientError::NotJson { .. }) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }
        Address::Conninfo(info) => {
            let extra =
                StartupExtra { application_name: Some("seawall call-back".to_owned()), ..StartupExtra::default() };
            match tokio::time::timeout(WITHIN, pg_conn::connect(&info, &extra)).await {
                Ok(Ok(connection)) => {
                    connection.close().await;
                    Ok(())
                }
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err(format!("no answer within {} s", WITHIN.as_secs())),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(address: &str, allowed: &[&str]) -> Option<SqlState> {
        let allowed: Vec<String> = allowed.iter().map(|host| (*host).to_owned()).collect();
        left(&Options::new().with(OPTION, address), &allowed).err().map(|report| report.code)
    }

    #[test]
    fn only_named_hosts_are_called() {
        let denied = Some(SqlState::INSUFFICIENT_PRIVILEGE);
        for address in ["http://wake/now", "https://WAKE:443", "host=wake port=5432", "postgres://u:p@wake/db"] {
            assert_eq!(code(address, &["wake"]), None, "{address}");
            assert_eq!(code(address, &[]), denied, "{address}");
            assert_eq!(code(address, &["wake.example", "awake", "wak"]), denied, "{address}");
        }
        assert_eq!(code("http://wake:81/", &["wake:80"]), denied);
        assert_eq!(code("host=wake,other", &["wake"]), denied, "every host of a list");
        assert_eq!(code("host=wake hostaddr=10.0.0.1", &["wake"]), denied, "the address is what counts");
        assert_eq!(code("host=/var/run/postgresql", &["wake"]), denied);
    }

    #[test]
    fn what_is_no_address_is_refused() {
        let invalid = Some(SqlState::INVALID_PARAMETER_VALUE);
        for address in ["http://", "http:///x", "http://u:p@wake/", "http://wake/a b", "ftp:", &"x".repeat(2000)] {
            assert_eq!(code(address, &["wake", "u"]), invalid, "{address:.20}");
        }
        assert_eq!(code("", &[]), None);
        assert_eq!(left(&Options::new(), &[]), Ok(None));
    }
}
