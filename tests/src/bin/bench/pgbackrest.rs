//! pgBackRest beside us: its configuration, and its commands as the server's user.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use pg_harness::{Folder, Postgres};

const PROGRAM: &str = "/usr/bin/pgbackrest";

/// One repository for one server.
#[derive(Debug)]
pub(crate) struct PgBackRest {
    config: PathBuf,
    dir: PathBuf,
    processes: u32,
}

impl PgBackRest {
    /// Makes the folders, which the server's user must be able to write.
    pub(crate) fn new(folder: &Folder, processes: u32) -> Result<PgBackRest> {
        ensure!(Path::new(PROGRAM).exists(), "{PROGRAM} is not installed (Debian: apt-get install pgbackrest)");
        let dir = folder.sub("pgbackrest")?;
        for name in ["repo", "spool", "log", "lock"] {
            fs::create_dir_all(dir.join(name))?;
            open_to_all(&dir.join(name))?;
        }
        open_to_all(&dir)?;
        Ok(PgBackRest { config: dir.join("pgbackrest.conf"), dir, processes })
    }

    /// `archive_command`.
    pub(crate) fn archive_command(&self) -> String {
        format!("{PROGRAM} --config={} --stanza=bench archive-push %p", self.config.display())
    }

    /// Knows the server from now on.
    pub(crate) async fn begin(&self, postgres: &Postgres) -> Result<()> {
        let dir = self.dir.display();
        let text = format!(
            "[global]\nrepo1-path={dir}/repo\nspool-path={dir}/spool\nlog-path={dir}/log\nlock-path={dir}/lock\n\
             log-level-console=warn\nlog-level-file=off\ncompress-type=lz4\nprocess-max={}\narchive-async=y\nstart-fast=y\n\
             repo1-retention-full=9\n\n[bench]\npg1-path={}\npg1-port={}\npg1-socket-path={}\npg1-user=postgres\n",
            self.processes,
            postgres.data_dir().display(),
            postgres.port(),
            socket_dir(postgres).await?,
        );
        fs::write(&self.config, text)?;
        self.run(postgres, &["stanza-create"]).await
    }

    /// Runs one of its commands.
    pub(crate) async fn run(&self, postgres: &Postgres, args: &[&str]) -> Result<()> {
        let mut command = postgres.program(PROGRAM);
        command.arg(format!("--config={}", self.config.display())).arg("--stanza=bench").args(args);
        let name = args.join(" ");
        let output = tokio::task::spawn_blocking(move || command.stdin(Stdio::null()).output()).await??;
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "pgbackrest {name}: {}", said.trim());
        Ok(())
    }

    /// Bytes of the archived WAL as it is stored.
    pub(crate) fn stored(&self) -> Result<u64> {
        size_of(&self.dir.join("repo/archive"))
    }
}

async fn socket_dir(postgres: &Postgres) -> Result<String> {
    let client = postgres.client().await?;
    Ok(client.query_one("SHOW unix_socket_directories", &[]).await?.get(0))
}

/// Bytes of all files below a folder.
pub(crate) fn size_of(folder: &Path) -> Result<u64> {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        bytes += if metadata.is_dir() { size_of(&entry.path())? } else { metadata.len() };
    }
    Ok(bytes)
}

/// Ours and the server's user's.
pub(crate) fn open_to_all(path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o777))?)
}
