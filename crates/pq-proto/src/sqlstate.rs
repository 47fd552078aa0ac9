//! [`SqlState`]: the five-character code of an error. Knows no message texts.

use std::fmt;

/// A five-character error code, as field `C` of ErrorResponse carries it. Always printable ASCII.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct SqlState([u8; 5]);

impl SqlState {
    /// `00000`: not an error; what a stream ends with when nothing went wrong.
    pub const SUCCESSFUL_COMPLETION: SqlState = SqlState(*b"00000");
    /// `01000`: a plain warning.
    pub const WARNING: SqlState = SqlState(*b"01000");
    /// `08006`: the connection broke.
    pub const CONNECTION_FAILURE: SqlState = SqlState(*b"08006");
    /// `08P01`: the other side does not keep to the protocol.
    pub const PROTOCOL_VIOLATION: SqlState = SqlState(*b"08P01");
    /// `0A000`: this server cannot do that.
    pub const FEATURE_NOT_SUPPORTED: SqlState = SqlState(*b"0A000");
    /// `22023`: a value that the setting or option does not take.
    pub const INVALID_PARAMETER_VALUE: SqlState = SqlState(*b"22023");
    /// `28000`: this user may not connect (often `pg_hba.conf`).
    pub const INVALID_AUTHORIZATION: SqlState = SqlState(*b"28000");
    /// `28P01`: wrong password.
    pub const INVALID_PASSWORD: SqlState = SqlState(*b"28P01");
    /// `3D000`: no such database.
    pub const INVALID_CATALOG_NAME: SqlState = SqlState(*b"3D000");
    /// `42501`: not allowed.
    pub const INSUFFICIENT_PRIVILEGE: SqlState = SqlState(*b"42501");
    /// `42601`: the command cannot be parsed.
    pub const SYNTAX_ERROR: SqlState = SqlState(*b"42601");
    /// `42602`: a name that breaks the rules for names.
    pub const INVALID_NAME: SqlState = SqlState(*b"42602");
    /// `42704`: no such slot, setting, cluster.
    pub const UNDEFINED_OBJECT: SqlState = SqlState(*b"42704");
    /// `42710`: it exists already.
    pub const DUPLICATE_OBJECT: SqlState = SqlState(*b"42710");
    /// `53300`: no connection is left.
    pub const TOO_MANY_CONNECTIONS: SqlState = SqlState(*b"53300");
    /// `53400`: a configured limit is reached.
    pub const CONFIGURATION_LIMIT_EXCEEDED: SqlState = SqlState(*b"53400");
    /// `55000`: not in the state this needs.
    pub const OBJECT_NOT_IN_PREREQUISITE_STATE: SqlState = SqlState(*b"55000");
    /// `55006`: somebody else uses it.
    pub const OBJECT_IN_USE: SqlState = SqlState(*b"55006");
    /// `57014`: cancelled by the client.
    pub const QUERY_CANCELED: SqlState = SqlState(*b"57014");
    /// `57P01`: the server shuts down.
    pub const ADMIN_SHUTDOWN: SqlState = SqlState(*b"57P01");
    /// `57P03`: the server is starting up or shutting down; try again.
    pub const CANNOT_CONNECT_NOW: SqlState = SqlState(*b"57P03");
    /// `58P01`: a file (segment, history) is not there.
    pub const UNDEFINED_FILE: SqlState = SqlState(*b"58P01");
    /// `XX000`: anything else.
    pub const INTERNAL_ERROR: SqlState = SqlState(*b"XX000");

    /// From five printable ASCII characters; `None` for anything else.
    pub fn new(code: &str) -> Option<SqlState> {
        let bytes: [u8; 5] = code.as_bytes().try_into().ok()?;
        bytes.iter().all(u8::is_ascii_graphic).then_some(SqlState(bytes))
    }

    /// The five characters.
    pub fn as_str(&self) -> &str {
        // Only printable ASCII gets in, so the fallback is never taken.
        std::str::from_utf8(&self.0).unwrap_or("XX000")
    }
}

impl fmt::Display for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for SqlState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_printable_characters() {
        assert_eq!(SqlState::new("08P01"), Some(SqlState::PROTOCOL_VIOLATION));
        for bad in ["", "08P0", "08P011", "08 01", "08P0\n", "8P0ß"] {
            assert_eq!(SqlState::new(bad), None, "{bad:?}");
        }
    }
}
