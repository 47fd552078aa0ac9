//! The options of INIT_CLUSTER: the record with which a cluster begins on one safekeeper.

use crate::Error;
use consensus::Membership;
use lsn::ClusterId;

const COMMAND: &str = "INIT_CLUSTER";
/// Longest name of a cluster in bytes.
const MAX_NAME_BYTES: usize = 63;

/// A new cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InitCluster {
    /// The operator's name for it: 1 to 63 lower-case letters, digits, `-` and `_`, the first a letter or digit.
    pub name: String,
    /// Its ids on the wire.
    pub cluster: ClusterId,
    /// Its first membership record, generation 1.
    pub membership: Membership,
}

impl InitCluster {
    /// Checks a name as an operator may give it.
    pub fn check_name(name: &str) -> Result<(), Error> {
        let letter = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let begins = name.bytes().next().is_some_and(letter);
        if begins
            && name.len() <= MAX_NAME_BYTES
            && name.bytes().all(|byte| letter(byte) || matches!(byte, b'-' | b'_'))
        {
            return Ok(());
        }
        let shown: String = name.chars().take(80).collect();
        let rule = "1 to 63 lower-case letters, digits, '-' and '_', the first a letter or digit";
        Err(wrong("name", format!("{shown:?}: a name has {rule}")))
    }

    /// Reads name and value pairs: `name`, `tenant_id`, `timeline_id`, `membership`, each once and nothing else.
    pub fn parse(options: &[(String, String)]) -> Result<Self, Error> {
        let known = ["name", "tenant_id", "timeline_id", "membership"];
        if let Some((name, _)) = options.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            let shown: String = name.chars().take(40).collect();
            return Err(wrong("list", format!("not understood: there is no option {shown:?}")));
        }
        let one = |wanted: &'static str| {
            let mut values = options.iter().filter(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
            match (values.next(), values.next()) {
                (Some(value), None) => Ok(value),
                (None, _) => Err(wrong(wanted, "missing".to_owned())),
                (Some(_), Some(_)) => Err(wrong(wanted, "given twice".to_owned())),
            }
        };
        let name = one("name")?;
        InitCluster::check_name(name)?;
        let cluster = ClusterId::from_hex(one("tenant_id")?, one("timeline_id")?)?;
        let membership: Membership = one("membership")?.parse()?;
        if !membership.is_set() || membership.new_members.is_some() {
            return Err(wrong("membership", "not that of a new cluster".to_owned()));
        }
        Ok(InitCluster { name: name.to_owned(), cluster, membership })
    }

    /// The pairs to send, in this order.
    pub fn to_options(&self) -> Vec<(String, String)> {
        let pairs = [
            ("name", self.name.clone()),
            ("tenant_id", self.cluster.tenant_hex()),
            ("timeline_id", self.cluster.timeline_hex()),
            ("membership", self.membership.to_string()),
        ];
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn wrong(name: &'static str, problem: String) -> Error {
    Error::Option { command: COMMAND, name, problem }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example() -> InitCluster {
        InitCluster {
            name: "orders".to_owned(),
            cluster: ClusterId { tenant: [1; 16], timeline: [2; 16] },
            membership: format!("1/0/1:{}@127.0.0.1:5454;2:{}@sk2:5454", "0a".repeat(16), "0b".repeat(16))
                .parse()
                .unwrap(),
        }
    }

    #[test]
    fn what_is_sent_is_read() {
        assert_eq!(InitCluster::parse(&example().to_options()).unwrap(), example());
    }

    #[test]
    fn missing_doubled_and_unknown_options_are_refused() {
        let options = example().to_options();
        for index in 0..options.len() {
            let mut fewer = options.clone();
            fewer.remove(index);
            assert!(InitCluster::parse(&fewer).unwrap_err().to_string().contains("missing"));
            let mut twice = options.clone();
            twice.push(options[index].clone());
            assert!(InitCluster::parse(&twice).unwrap_err().to_string().contains("twice"));
        }
        let mut more = options;
        more.push(("colour".to_owned(), "red".to_owned()));
        assert!(InitCluster::parse(&more).is_err());
    }

    #[test]
    fn names_fit_into_options_and_addresses() {
        for good in ["a", "orders-2", "0x_y", &"n".repeat(63)] {
            InitCluster::check_name(good).unwrap();
        }
        for bad in ["", "-a", "A", "a.b", "a b", "a'b", "a/b", "é", &"n".repeat(64)] {
            assert!(InitCluster::check_name(bad).is_err(), "{bad:?}");
        }
    }
}
