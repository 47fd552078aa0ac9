//! Flags that several parts share.

use std::path::PathBuf;

use crate::error::Error;
use crate::section::Section;
use crate::values::LogFormat;

/// How a part decides whom to believe.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct AuthFlags {
    /// Keys that tokens are checked with: a file, or a directory of files; needed to listen beyond this machine
    #[arg(long, value_name = "FILE")]
    pub auth_keys: Option<PathBuf>,
    /// Certificate chain to speak TLS with; needs --tls-key, and is taken up when it changes
    #[arg(long, value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// Key of that certificate
    #[arg(long, value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificates of those we connect to: TLS is spoken to them, and their names are checked
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// File with the token we show to those we connect to; else the environment variable SEAWALL_TOKEN
    #[arg(long, value_name = "FILE")]
    pub auth_token_file: Option<PathBuf>,
    /// Listen beyond this machine without authentication: whoever reaches the port is believed
    #[arg(long)]
    pub insecure_no_auth: bool,
}

/// The outcome of [`AuthFlags`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthOptions {
    /// File or directory with the keys.
    pub keys: Option<PathBuf>,
    /// Our certificate chain.
    pub tls_cert: Option<PathBuf>,
    /// Its key.
    pub tls_key: Option<PathBuf>,
    /// Certificates of those we connect to.
    pub tls_ca: Option<PathBuf>,
    /// File with the token we show.
    pub token_file: Option<PathBuf>,
    /// Believe everybody, wherever we listen.
    pub insecure_no_auth: bool,
}

impl AuthFlags {
    /// The section `[auth]`, whose keys are shorter.
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<AuthFlags, Error> {
        Ok(AuthFlags {
            auth_keys: section.take("keys")?,
            tls_cert: section.take("tls_cert")?,
            tls_key: section.take("tls_key")?,
            tls_ca: section.take("tls_ca")?,
            auth_token_file: section.take("token_file")?,
            insecure_no_auth: section.take("insecure_no_auth")?.unwrap_or_default(),
        })
    }

    pub(crate) fn resolve(self, below: &AuthFlags) -> AuthOptions {
        let or = |above: Option<PathBuf>, below: &Option<PathBuf>| above.or_else(|| below.clone());
        AuthOptions {
            keys: or(self.auth_keys, &below.auth_keys),
            tls_cert: or(self.tls_cert, &below.tls_cert),
            tls_key: or(self.tls_key, &below.tls_key),
            tls_ca: or(self.tls_ca, &below.tls_ca),
            token_file: or(self.auth_token_file, &below.auth_token_file),
            insecure_no_auth: self.insecure_no_auth || below.insecure_no_auth,
        }
    }
}

/// What every long-running part takes.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
pub struct CommonFlags {
    /// Configuration file; flags win over it
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Log lines for people (human) or one JSON object a line (json) [default: human]
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// End when standard input ends, so that a part does not outlive who started it
    #[arg(long, hide = true)]
    pub exit_on_stdin_eof: bool,
}

/// The outcome of [`CommonFlags`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CommonOptions {
    /// How log lines look.
    pub log_format: LogFormat,
    /// End when standard input ends.
    pub exit_on_stdin_eof: bool,
}

impl CommonFlags {
    /// Of these, only the log's format can stand in a file.
    pub(crate) fn from_section(section: &mut Section<'_>) -> Result<CommonFlags, Error> {
        Ok(CommonFlags { log_format: section.take("log_format")?, ..CommonFlags::default() })
    }

    pub(crate) fn resolve(&self, below: &CommonFlags) -> CommonOptions {
        CommonOptions {
            log_format: self.log_format.or(below.log_format).unwrap_or_default(),
            exit_on_stdin_eof: self.exit_on_stdin_eof,
        }
    }
}
