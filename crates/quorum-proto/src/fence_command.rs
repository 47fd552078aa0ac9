//! The options of FENCE: `fence 'EPOCH LSN MILLISECONDS PATH', token 'HEX'` sets one, `lift 'EPOCH'` takes it away.

use crate::Error;
use consensus::Fence;
use lsn::Term;

const COMMAND: &str = "FENCE";

/// What is to become of a cluster's fence on one safekeeper.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FenceCommand {
    /// Set it, in place of any other. Only in the term that is its epoch.
    Set(Fence),
    /// Take away the one of this epoch, or of an earlier one.
    Lift(Term),
}

impl FenceCommand {
    /// Reads name and value pairs.
    pub fn parse(options: &[(String, String)]) -> Result<Self, Error> {
        let value = |wanted: &str| options.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
        let wrong =
            |name: &'static str, problem: &str| Error::Option { command: COMMAND, name, problem: problem.to_owned() };
        if let Some(epoch) = value("lift") {
            return epoch.parse().map(FenceCommand::Lift).map_err(|_| wrong("lift", "not an epoch"));
        }
        let line = value("fence").ok_or_else(|| wrong("fence", "missing"))?;
        let token = value("token").ok_or_else(|| wrong("token", "missing"))?;
        let line =
            line.parse().map_err(|error: consensus::FenceError| wrong("fence", &format!("not understood: {error}")))?;
        Ok(FenceCommand::Set(Fence { line, token: token.parse().map_err(|_| wrong("token", "not 32 hex digits"))? }))
    }

    /// The pairs to send.
    pub fn to_options(&self) -> Vec<(String, String)> {
        let pairs = match self {
            FenceCommand::Set(fence) => vec![("fence", fence.line.to_string()), ("token", fence.token.to_string())],
            FenceCommand::Lift(epoch) => vec![("lift", epoch.to_string())],
        };
        pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use consensus::FenceToken;

    #[test]
    fn what_is_sent_is_read() {
        let line = "7 0/5000028 120000 1:0/0:0;2:0/3063B90:8A0C44F1".parse().unwrap();
        for command in [FenceCommand::Set(Fence { line, token: FenceToken([7; 16]) }), FenceCommand::Lift(Term(9))] {
            assert_eq!(FenceCommand::parse(&command.to_options()).unwrap(), command);
        }
        for bad in [&[][..], &[("lift", "x")], &[("fence", "7 0/5 0 1:0/0:0")], &[("fence", "7"), ("token", "00")]] {
            let owned: Vec<_> = bad.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            assert!(FenceCommand::parse(&owned).is_err(), "{bad:?}");
        }
    }
}
