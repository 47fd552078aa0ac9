//! The options of `seawall token`.

use std::path::PathBuf;

/// What a token shall say; flags only, because a token is made by hand.
#[derive(Debug, Clone, PartialEq, Eq, clap::Args)]
pub struct TokenFlags {
    /// Private key that signs it: Ed25519 in PEM form
    #[arg(long, value_name = "FILE")]
    pub key: PathBuf,
    /// What it allows: read (standbys, receivers, status), write (proposers, safekeepers) or admin (init, members)
    #[arg(long, value_name = "SCOPE")]
    pub scope: String,
    /// The only cluster it is good for
    #[arg(long, value_name = "NAME")]
    pub cluster: Option<String>,
    /// Days until it ends; without it, it does not
    #[arg(long, value_name = "DAYS")]
    pub days: Option<u32>,
    /// Whose it is, for logs
    #[arg(long, value_name = "NAME")]
    pub subject: Option<String>,
    /// One JSON object instead of the bare token
    #[arg(long)]
    pub json: bool,
}
