//! A real PostgreSQL server of a test.
//!
//! initdb runs once per version and segment size on a machine; its result is kept in the temporary folder and copied. Copies share
//! one system identifier: a test with two unrelated servers asks one of them to be [`fresh`](PostgresBuilder::fresh).
//! `fsync` stays on, because the programs under test check that it is.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use pg_server::{FindOptions, InitOptions, Installation, Mode, Server, StartOptions};
use tokio_postgres::{Client, NoTls};

use crate::bin::Bin;
use crate::folder::Folder;
use crate::wait::wait_for;

const RELOAD_WITHIN: Duration = Duration::from_secs(20);
const START_ATTEMPTS: u32 = 5;

/// How a test's server is made.
#[derive(Debug, Clone)]
pub struct PostgresBuilder {
    folder: Folder,
    name: String,
    settings: Vec<(String, String)>,
    env: Vec<(String, String)>,
    bin_dir: Option<PathBuf>,
    segment_size_mb: u32,
    origin: Origin,
    standby: bool,
}

#[derive(Debug, Clone)]
enum Origin {
    Template,
    Fresh,
    CopyOf(PathBuf),
    InPlace,
}

impl PostgresBuilder {
    /// A name other than `postgres` for folder and logs: needed from the second server on.
    pub fn name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// A setting; a later one of the same name counts.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Variables of its environment: what `restore_command` and `archive_command` need.
    pub fn envs(mut self, variables: impl IntoIterator<Item = (String, String)>) -> Self {
        self.env.extend(variables);
        self
    }

    /// The folder with its programs, for another version than the one that is found by itself.
    pub fn bin_dir(mut self, dir: &Path) -> Self {
        self.bin_dir = Some(dir.to_path_buf());
        self
    }

    /// The size of a WAL segment in MiB; PostgreSQL's default is 16.
    pub fn segment_size_mb(mut self, size: u32) -> Self {
        self.segment_size_mb = size;
        self
    }

    /// A system identifier of its own.
    pub fn fresh(mut self) -> Self {
        self.origin = Origin::Fresh;
        self
    }

    /// Starts on a copy of another data directory (of a server that is down): a clone.
    pub fn copy_of(mut self, data_dir: &Path) -> Self {
        self.origin = Origin::CopyOf(data_dir.to_path_buf());
        self
    }

    /// Starts on what already stands in the folder `<name>`, put there by [`Postgres::base_backup`].
    pub fn in_place(mut self) -> Self {
        self.origin = Origin::InPlace;
        self
    }

    /// Starts as a hot standby with this `primary_conninfo`.
    pub fn standby_of(mut self, primary_conninfo: &str) -> Self {
        self.standby = true;
        self.setting("primary_conninfo", primary_conninfo)
    }

    /// Where the data directory will be.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.path().join(&self.name)
    }

    /// Makes the data directory and starts the server.
    pub async fn start(self) -> Result<Postgres> {
        let postgres = blocking(move || self.create()).await?;
        postgres.start().await?;
        Ok(postgres)
    }

    fn create(self) -> Result<Postgres> {
        let named = self.bin_dir.clone().map(|dir| FindOptions { pg_bin: Some(dir), path: None });
        let installation = Installation::find(&named.unwrap_or_else(FindOptions::from_env))?;
        let data_dir = self.data_dir();
        let init =
            InitOptions { sync: false, wal_segment_size_mb: Some(self.segment_size_mb), ..InitOptions::default() };
        let server = match &self.origin {
            Origin::Fresh => Server::initdb(&installation, &data_dir, &init)?,
            Origin::Template => {
                copy(&template(&installation, &init)?, &data_dir)?;
                Server::open(&installation, &data_dir)?
            }
            Origin::CopyOf(other) => {
                copy(other, &data_dir)?;
                // It names a process of the other server.
                let _ = fs::remove_file(data_dir.join("postmaster.pid"));
                Server::open(&installation, &data_dir)?
            }
            Origin::InPlace => Server::open(&installation, &data_dir)?,
        };
        if self.standby {
            let signal = data_dir.join("standby.signal");
            fs::write(&signal, "")?;
            server.runs_as().own(&signal)?;
        }
        let mut options = StartOptions::on_port(free_port()?);
        options.socket_dir = Some(self.folder.path().join("s"));
        options.settings = self.settings;
        options.env = self.env;
        options.log = Some(self.folder.path().join(format!("{}.log", self.name)));
        options.own_process_group = false;
        Ok(Postgres {
            data_dir,
            inner: Arc::new(Mutex::new(Inner { server, options, ran: false })),
            folder: self.folder,
            installation,
        })
    }
}

/// A real server in the test's folder, stopped when dropped.
#[derive(Debug)]
pub struct Postgres {
    data_dir: PathBuf,
    inner: Arc<Mutex<Inner>>,
    installation: Installation,
    // Last, so that the folder outlives the server.
    folder: Folder,
}

#[derive(Debug)]
struct Inner {
    server: Server,
    options: StartOptions,
    /// It was ready once; from then on its port is known to others.
    ran: bool,
}

impl Postgres {
    /// A server with a few small settings: little memory, no waiting for I/O that a test cannot see.
    pub fn builder(folder: &Folder) -> PostgresBuilder {
        let builder = PostgresBuilder {
            folder: folder.clone(),
            name: "postgres".to_owned(),
            settings: Vec::new(),
            env: Vec::new(),
            bin_dir: None,
            segment_size_mb: 16,
            origin: Origin::Template,
            standby: false,
        };
        builder.setting("shared_buffers", "16MB").setting("max_connections", "60").setting("max_wal_senders", "20")
    }

    /// The data directory.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The name it was made under.
    pub fn name(&self) -> String {
        self.data_dir.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
    }

    /// The TCP port on 127.0.0.1; it stays over restarts.
    pub fn port(&self) -> u16 {
        self.lock().options.port
    }

    /// How to connect over TCP as the superuser, to the database `postgres`.
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=postgres", self.port())
    }

    /// The postmaster's process id while it runs.
    pub fn pid(&self) -> Option<u32> {
        self.lock().server.pid()
    }

    /// What the server wrote to its log, over all starts.
    pub fn log(&self) -> Result<String> {
        let path = self.lock().server.log().to_path_buf();
        let bytes = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// A command for one of PostgreSQL's programs, run in the test's folder as the server's user.
    pub fn program(&self, name: &str) -> Command {
        let mut command = self.installation.command(name, self.lock().server.runs_as());
        command.current_dir(self.folder.path()).stdin(Stdio::null());
        command
    }

    /// One of PostgreSQL's programs as a program of its own, run as the test's user.
    pub fn bin(&self, name: &str) -> Bin {
        Bin::at(self.installation.bin_dir().join(name))
    }

    /// A file-system copy of the data directory in the folder `<name>`, for [`PostgresBuilder::in_place`]. The server must be down.
    pub async fn copy_data(&self, name: &str) -> Result<PathBuf> {
        ensure!(self.pid().is_none(), "the server runs; a copy of it would be torn");
        let (from, to) = (self.data_dir.clone(), self.folder.path().join(name));
        let target = to.clone();
        blocking(move || copy(&from, &target)).await?;
        Ok(to)
    }

    /// A base backup of this server, with the WAL it needs, in the folder `<name>`, for [`PostgresBuilder::in_place`].
    pub async fn base_backup(&self, name: &str) -> Result<PathBuf> {
        let target = self.folder.path().join(name);
        // The server's user may not write into the test's folder, so the target is made for it.
        fs::DirBuilder::new().mode(0o700).create(&target)?;
        self.lock().server.runs_as().own(&target)?;
        let mut command = self.program("pg_basebackup");
        command.args(["-X", "stream", "-c", "fast", "-d", &self.conninfo(), "-D"]).arg(&target);
        let output = blocking(move || Ok(command.output()?)).await?;
        ensure!(output.status.success(), "pg_basebackup: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(target)
    }

    /// A new connection. It ends with the client.
    pub async fn client(&self) -> Result<Client> {
        connect(&self.conninfo()).await
    }

    /// Starts the server, which must be down, and waits until it accepts connections.
    pub async fn start(&self) -> Result<()> {
        self.with(|inner| {
            let mut attempts = 1;
            loop {
                match inner.server.start(&inner.options) {
                    Ok(()) => {
                        inner.ran = true;
                        return Ok(());
                    }
                    // Between our look and its bind somebody took the port.
                    Err(pg_server::Error::Ended { tail, .. })
                        if !inner.ran && attempts < START_ATTEMPTS && tail.contains("Address already in use") =>
                    {
                        attempts += 1;
                        inner.options.port = free_port()?;
                    }
                    Err(err) => return Err(err.into()),
                }
            }
        })
        .await
    }

    /// Shuts down.
    pub async fn stop(&self, mode: Mode, within: Duration) -> Result<()> {
        self.with(move |inner| Ok(inner.server.stop(mode, within)?)).await
    }

    /// kill -9 of every process of the server together.
    pub async fn kill(&self) -> Result<()> {
        self.with(|inner| Ok(inner.server.crash()?)).await
    }

    /// SIGSTOP of every process of the server: a machine that hangs. [`Postgres::kill`] ends a frozen server too.
    pub async fn freeze(&self) -> Result<()> {
        self.with(|inner| Ok(inner.server.freeze(true)?)).await
    }

    /// SIGCONT: the machine wakes up.
    pub async fn thaw(&self) -> Result<()> {
        self.with(|inner| Ok(inner.server.freeze(false)?)).await
    }

    /// `pg_rewind` of this server, which must be down, to what a running one has.
    pub async fn rewind_to(&self, source: &Postgres) -> Result<()> {
        ensure!(self.pid().is_none(), "the server runs; pg_rewind would refuse");
        let mut command = self.program("pg_rewind");
        command.args(["--no-sync", "--source-server", &source.conninfo(), "--target-pgdata"]).arg(&self.data_dir);
        let output = blocking(move || Ok(command.output()?)).await?;
        let said = [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).trim().to_owned());
        ensure!(output.status.success(), "pg_rewind: {}", said.join(" "));
        Ok(())
    }

    /// A fast shutdown and a start.
    pub async fn restart(&self) -> Result<()> {
        self.stop(Mode::Fast, Duration::from_secs(60)).await?;
        self.start().await
    }

    /// Ends recovery of a standby.
    pub async fn promote(&self) -> Result<()> {
        self.with(|inner| Ok(inner.server.promote(Duration::from_secs(60))?)).await
    }

    /// Puts a file into the data directory, readable by the server's user alone: a key, or another `pg_hba.conf`, which a running
    /// server takes with the next [`Postgres::set`].
    pub fn put_file(&self, name: &str, content: &str) -> Result<()> {
        let (path, draft) = (self.data_dir.join(name), self.data_dir.join(format!("{name}.draft")));
        fs::write(&draft, content)?;
        fs::set_permissions(&draft, fs::Permissions::from_mode(0o600))?;
        self.lock().server.runs_as().own(&draft)?;
        fs::rename(&draft, &path).with_context(|| format!("put {}", path.display()))
    }

    /// Changes a setting. A running server has taken it when this returns, if it is one that a reload can change; sessions take it
    /// before their next command.
    pub async fn set(&self, name: &str, value: &str) -> Result<()> {
        let running = self.pid().is_some();
        let before = if running { Some(self.settings_loaded_at().await?) } else { None };
        let setting = (name.to_owned(), value.to_owned());
        self.with(move |inner| {
            inner.options.settings.push(setting);
            inner.server.configure(&inner.options.settings)?;
            if running {
                inner.server.reload()?;
            }
            Ok(())
        })
        .await?;
        let Some(before) = before else { return Ok(()) };
        wait_for("reload of the settings", RELOAD_WITHIN, async || {
            Ok((self.settings_loaded_at().await? != before).then_some(()))
        })
        .await
    }

    /// A new session inherits the postmaster's moment.
    async fn settings_loaded_at(&self) -> Result<String> {
        let client = self.client().await?;
        Ok(client.query_one("SELECT pg_conf_load_time()::text", &[]).await?.get(0))
    }

    async fn with<T: Send + 'static>(&self, act: impl FnOnce(&mut Inner) -> Result<T> + Send + 'static) -> Result<T> {
        let inner = Arc::clone(&self.inner);
        blocking(move || act(&mut inner.lock().unwrap_or_else(PoisonError::into_inner))).await
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where the programs of the PostgreSQL that tests use are.
pub fn postgres_bin_dir() -> Result<PathBuf> {
    Ok(Installation::find(&FindOptions::from_env())?.bin_dir().to_path_buf())
}

/// A connection whose other half runs on the current runtime until the client goes.
pub(crate) async fn connect(conninfo: &str) -> Result<Client> {
    let (client, connection) =
        tokio_postgres::connect(conninfo, NoTls).await.with_context(|| format!("connect to {conninfo}"))?;
    // Its error is also what the client's next call returns.
    tokio::spawn(async move { drop(connection.await) });
    Ok(client)
}

/// Server calls block; sessions of the same test must go on meanwhile.
async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(act).await.context("a blocking call panicked")?
}

pub(crate) fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0").context("find a free port")?.local_addr()?.port())
}

/// The data directory all others are copied from, made if missing. Two tests that make it together both succeed, because it appears by
/// a rename.
fn template(installation: &Installation, init: &InitOptions) -> Result<PathBuf> {
    let uid = rustix::process::geteuid().as_raw();
    let size = init.wal_segment_size_mb.unwrap_or(16);
    let dir = std::env::temp_dir().join(format!("sw-initdb-{uid}-{}-{size}", installation.version()));
    if dir.join("PG_VERSION").is_file() {
        return Ok(dir);
    }
    let work = Folder::new("initdb")?;
    let made = work.path().join("data");
    Server::initdb(installation, &made, init)?;
    match fs::rename(&made, &dir) {
        Ok(()) => Ok(dir),
        Err(_) if dir.join("PG_VERSION").is_file() => Ok(dir),
        Err(err) => Err(err).with_context(|| format!("make {}", dir.display())),
    }
}

/// Owner and modes come along.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let status = Command::new("cp").arg("-a").arg("--").arg(from).arg(to).status().context("run cp")?;
    ensure!(status.success(), "cp of {} failed ({status})", from.display());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(60);

    #[test]
    fn a_server_lives_takes_settings_and_comes_back_from_a_crash() {
        crate::scenario("postgres", SOON, async |folder| {
            let postgres = Postgres::builder(&folder).setting("work_mem", "5MB").segment_size_mb(1).start().await?;
            let client = postgres.client().await?;
            client.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await?;
            postgres.set("work_mem", "7MB").await?;
            let shown: String = postgres.client().await?.query_one("SHOW work_mem", &[]).await?.get(0);
            assert_eq!(shown, "7MB");
            let port = postgres.port();
            postgres.kill().await?;
            assert!(client.batch_execute("SELECT 1").await.is_err());
            postgres.start().await?;
            assert_eq!(postgres.port(), port);
            let a: i32 = postgres.client().await?.query_one("SELECT a FROM t", &[]).await?.get(0);
            assert_eq!(a, 1);
            assert!(postgres.log()?.contains("database system was not properly shut down"));
            postgres.restart().await?;
            postgres.client().await?;
            Ok(())
        });
    }

    #[test]
    fn a_clone_is_a_second_server_and_a_fresh_one_has_its_own_identity() {
        crate::scenario("clone", SOON, async |folder| {
            let first = Postgres::builder(&folder).segment_size_mb(1).start().await?;
            first.stop(Mode::Fast, SOON).await?;
            let copy_of = Postgres::builder(&folder).segment_size_mb(1).name("clone").copy_of(first.data_dir());
            let clone = copy_of.start().await?;
            let fresh = Postgres::builder(&folder).segment_size_mb(1).name("fresh").fresh().start().await?;
            first.start().await?;
            let identity = async |postgres: &Postgres| -> Result<i64> {
                let text = "SELECT system_identifier FROM pg_control_system()";
                Ok(postgres.client().await?.query_one(text, &[]).await?.get(0))
            };
            assert_eq!(identity(&first).await?, identity(&clone).await?);
            assert_ne!(identity(&first).await?, identity(&fresh).await?);
            Ok(())
        });
    }

    #[test]
    fn a_standby_follows_and_is_promoted() {
        crate::scenario("standby", SOON, async |folder| {
            let primary = Postgres::builder(&folder).segment_size_mb(1).start().await?;
            primary.base_backup("standby").await?;
            let builder = Postgres::builder(&folder).name("standby").in_place().standby_of(&primary.conninfo());
            let standby = builder.start().await?;
            primary.client().await?.batch_execute("CREATE TABLE t AS SELECT 1 AS a").await?;
            wait_for("the table on the standby", SOON, async || {
                let row = standby.client().await?.query_one("SELECT to_regclass('t') IS NOT NULL", &[]).await?;
                Ok(row.get::<_, bool>(0).then_some(()))
            })
            .await?;
            standby.promote().await?;
            standby.client().await?.batch_execute("INSERT INTO t VALUES (2)").await?;
            Ok(())
        });
    }
}
