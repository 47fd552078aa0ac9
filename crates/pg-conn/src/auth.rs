//! [`Authenticator`]: the client's side of authentication, fed with messages. Knows no socket.
//!
//! Invariant: after SCRAM began, AuthenticationOk counts only once the server's signature was verified.

use bytes::BytesMut;
use postgres_protocol::authentication::{md5_hash, sasl};
use pq_proto::backend::Authentication;
use pq_proto::frontend::{self, EncodeError};

/// Rounds of hashing a server may ask for: several times what anyone recommends, and about a second of our time.
const MAX_ITERATIONS: u32 = 2_000_000;

/// Why authentication failed on our side.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// The server wants a password, we have none.
    #[error("the server asks for a password and none is given; set PGPASSWORD, a password file or password=")]
    NoPassword,
    /// Kerberos, GSSAPI, SSPI, or SASL without SCRAM-SHA-256.
    #[error("the server asks for the authentication method {0}, which is not supported; use scram-sha-256")]
    Unsupported(String),
    /// The SCRAM exchange broke: damaged, out of order, or too expensive.
    #[error("the server's SCRAM exchange is broken: {0}")]
    Scram(String),
    /// The server does not know the password either: it is not the one it claims to be.
    #[error("the server could not prove that it knows the password; it may be an impostor")]
    Impostor,
    /// The password holds a NUL byte.
    #[error(transparent)]
    Encode(#[from] EncodeError),
}

enum Scram {
    NotUsed,
    Running(sasl::ScramSha256),
    Verified,
}

/// The exchange so far.
pub(crate) struct Authenticator<'a> {
    user: &'a str,
    password: Option<&'a str>,
    scram: Scram,
}

impl<'a> Authenticator<'a> {
    pub(crate) fn new(user: &'a str, password: Option<&'a str>) -> Authenticator<'a> {
        Authenticator { user, password, scram: Scram::NotUsed }
    }

    /// Takes what the server asks and appends the answer; `true` once the server is content.
    pub(crate) fn handle(&mut self, message: &Authentication, answer: &mut BytesMut) -> Result<bool, AuthError> {
        match message {
            Authentication::Ok if matches!(self.scram, Scram::Running(_)) => return Err(AuthError::Impostor),
            Authentication::Ok => return Ok(true),
            Authentication::CleartextPassword => frontend::encode_password(self.password()?.as_bytes(), answer)?,
            Authentication::Md5Password { salt } => {
                let hash = md5_hash(self.user.as_bytes(), self.password()?.as_bytes(), *salt);
                frontend::encode_password(hash.as_bytes(), answer)?;
            }
            Authentication::Sasl { mechanisms } => {
                if !mechanisms.iter().any(|name| name == sasl::SCRAM_SHA_256) {
                    return Err(AuthError::Unsupported(mechanisms.join(", ").chars().take(80).collect()));
                }
                let binding = sasl::ChannelBinding::unsupported();
                let scram = sasl::ScramSha256::new(self.password()?.as_bytes(), binding);
                frontend::encode_sasl_initial_response(sasl::SCRAM_SHA_256, scram.message(), answer)?;
                self.scram = Scram::Running(scram);
            }
            Authentication::SaslContinue(data) => {
                let Scram::Running(scram) = &mut self.scram else { return Err(out_of_order()) };
                check_cost(data)?;
                scram.update(data).map_err(|error| AuthError::Scram(error.to_string()))?;
                frontend::encode_sasl_response(scram.message(), answer)?;
            }
            Authentication::SaslFinal(data) => {
                let Scram::Running(scram) = &mut self.scram else { return Err(out_of_order()) };
                scram.finish(data).map_err(|_| AuthError::Impostor)?;
                self.scram = Scram::Verified;
            }
            Authentication::Unsupported(number) => {
                let name = match number {
                    2 => "Kerberos".to_owned(),
                    7 | 8 => "GSSAPI".to_owned(),
                    9 => "SSPI".to_owned(),
                    other => format!("number {other}"),
                };
                return Err(AuthError::Unsupported(name));
            }
        }
        Ok(false)
    }

    fn password(&self) -> Result<&'a str, AuthError> {
        self.password.ok_or(AuthError::NoPassword)
    }
}

fn out_of_order() -> AuthError {
    AuthError::Scram("a message came out of order".to_owned())
}

/// Reads the rounds out of `r=…,s=…,i=…` before they are worked off.
fn check_cost(data: &[u8]) -> Result<(), AuthError> {
    let text = std::str::from_utf8(data).map_err(|_| AuthError::Scram("it is not text".to_owned()))?;
    let rounds = text.split(',').find_map(|field| field.strip_prefix("i="));
    match rounds.map(str::parse::<u32>) {
        Some(Ok(1..=MAX_ITERATIONS)) => Ok(()),
        _ => Err(AuthError::Scram(format!("the number of iterations is not between 1 and {MAX_ITERATIONS}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;

    fn step(authenticator: &mut Authenticator<'_>, message: Authentication) -> Result<(bool, Vec<u8>), AuthError> {
        let mut answer = BytesMut::new();
        authenticator.handle(&message, &mut answer).map(|done| (done, answer.to_vec()))
    }

    #[test]
    fn passwords_in_clear_text_and_md5() {
        let mut authenticator = Authenticator::new("md5_user", Some("password"));
        let (done, answer) = step(&mut authenticator, Authentication::CleartextPassword).unwrap();
        assert_eq!((done, &answer[..]), (false, &b"p\0\0\0\x0dpassword\0"[..]));
        let salt = [0x2a, 0x3d, 0x8f, 0xe0];
        let (_, answer) = step(&mut authenticator, Authentication::Md5Password { salt }).unwrap();
        assert_eq!(&answer[5..], b"md562af4dd09bbb41884907a838a3233294\0");
        assert!(step(&mut authenticator, Authentication::Ok).unwrap().0);
    }

    #[test]
    fn no_password_and_unknown_methods() {
        let mut authenticator = Authenticator::new("u", None);
        assert_eq!(step(&mut authenticator, Authentication::CleartextPassword), Err(AuthError::NoPassword));
        let other = step(&mut authenticator, Authentication::Unsupported(7)).unwrap_err();
        assert_eq!(other, AuthError::Unsupported("GSSAPI".into()));
        let plus = Authentication::Sasl { mechanisms: vec!["SCRAM-SHA-256-PLUS".into()] };
        assert!(matches!(step(&mut authenticator, plus), Err(AuthError::Unsupported(_))));
    }

    #[test]
    fn a_server_that_skips_its_proof_is_refused() {
        let mut authenticator = Authenticator::new("u", Some("x"));
        let sasl = Authentication::Sasl { mechanisms: vec!["SCRAM-SHA-256".into()] };
        let (done, answer) = step(&mut authenticator, sasl).unwrap();
        assert!(!done && answer.starts_with(b"p") && answer.ends_with(&answer[answer.len() - 4..]));
        assert_eq!(step(&mut authenticator, Authentication::Ok), Err(AuthError::Impostor));
    }

    #[test]
    fn hostile_scram_messages() {
        for data in
            ["", "r=x,s=eA==,i=0", "r=x,s=eA==,i=4294967295", "r=x,s=eA==,i=99999999999", "r=x,s=eA==,i=4096", "\u{0}"]
        {
            let mut authenticator = Authenticator::new("u", Some("x"));
            let continued = Authentication::SaslContinue(Bytes::from(data.to_owned()));
            assert!(matches!(step(&mut authenticator, continued.clone()), Err(AuthError::Scram(_))));
            step(&mut authenticator, Authentication::Sasl { mechanisms: vec!["SCRAM-SHA-256".into()] }).unwrap();
            assert!(matches!(step(&mut authenticator, continued), Err(AuthError::Scram(_))), "{data}");
        }
    }
}
