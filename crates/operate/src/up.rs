//! A whole quorum beside one PostgreSQL, from one command: three safekeepers, a proposer, and, if there is none to protect, a throw-away
//! primary.
//!
//! Every part is a child process of the same executable ([`part`]), so that it can be killed and is started again. Order matters: the
//! quorum is there before the primary needs it, and outlives it when everything stops, because a primary that shuts down waits until
//! its last record is acknowledged. Nothing survives a killed `up` but the primary, which the next start stops; ports and places are
//! kept, so that a second start resumes.

mod folder;
mod own_primary;
mod part;
mod postgres;

pub use folder::{FolderError, UpFile, UpSafekeeper};
pub use own_primary::OwnPrimaryError;
pub use postgres::PostgresError;

use crate::init::{self, Done};
use crate::status;
use config::{Address, ClusterName, InitOptions, LogFormat, UpOptions};
use folder::{Folder, Kept, SAFEKEEPERS};
use part::{Part, Spec};
use pg_conn::ConnInfo;
use postgres::ThrowAway;
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How long one try to bring the WAL of a server before its start may take; then it is tried again.
const PRE_START_SECONDS: u32 = 20;
const STARTING_TICK: Duration = Duration::from_millis(50);
const STEADY_TICK: Duration = Duration::from_secs(1);
/// When everything runs but nothing is protected yet, people are told how to look after this long.
const PATIENCE: Duration = Duration::from_secs(15);
/// A primary that cannot be reached is tried again after this.
const RETRY_PRIMARY: Duration = Duration::from_secs(2);

/// Why `up` ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The data directory.
    #[error(transparent)]
    Folder(#[from] FolderError),
    /// The throw-away primary.
    #[error(transparent)]
    Postgres(#[from] PostgresError),
    /// The primary that was named.
    #[error(transparent)]
    OwnPrimary(#[from] OwnPrimaryError),
    /// Its conninfo.
    #[error("--primary: {0}")]
    ConnInfo(#[from] pg_conn::ConnInfoError),
    /// The cluster.
    #[error(transparent)]
    Init(#[from] init::Error),
    /// A part does not start, and never will.
    #[error("{name} does not start: {reason}; its log is {}", log.display())]
    Part {
        /// Which.
        name: String,
        /// What it said.
        reason: String,
        /// Its log.
        log: PathBuf,
    },
    /// The system gives no thread.
    #[error("cannot start a thread: {0}")]
    Thread(#[from] std::io::Error),
    /// Work in the background broke.
    #[error("preparing PostgreSQL broke off: {0}")]
    Broken(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether it was refused to protect data, rather than failed.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Error::Init(error) if error.is_refusal())
    }

    /// Whether it was started in a way that cannot work.
    pub fn is_usage(&self) -> bool {
        matches!(self, Error::ConnInfo(_))
    }
}

/// What `up` is told besides its options.
#[derive(Clone)]
pub struct Setup {
    /// Our executable, which is also each part's.
    pub program: PathBuf,
    /// Whether a primary that was named may be made to wait for us (`ALTER SYSTEM`).
    pub configure: bool,
    /// Where lines for people go.
    pub say: Arc<dyn Fn(&str) + Send + Sync>,
}

/// Runs everything until `stop` resolves, then stops it in order.
///
/// # Errors
/// What cannot be mended by trying again; everything is stopped then too.
pub async fn up(options: &UpOptions, setup: &Setup, stop: impl Future<Output = ()>) -> Result<(), Error> {
    let folder = Arc::new(Folder::open(&options.data_dir)?);
    let kept = folder.kept()?;
    let named = options.primary.as_ref().map(|conninfo| conninfo.as_str().parse::<ConnInfo>()).transpose()?;
    let shown = match &named {
        Some(info) => info.to_string(),
        None => format!("host=127.0.0.1 port={} user=postgres dbname=postgres", kept.postgres_port),
    };
    let primary = named.map(|info| info.with_env(|name| std::env::var(name).ok())).transpose()?;
    let mut house = House {
        options,
        setup,
        folder,
        kept,
        primary,
        conninfo: shown,
        safekeepers: Vec::new(),
        proposer: None,
        postgres: None,
        seen: Seen::default(),
    };
    let outcome = tokio::select! {
        biased;
        () = stop => Ok(()),
        outcome = house.run() => outcome.map(|never| match never {}),
    };
    house.close().await;
    outcome
}

/// What people have been told already.
#[derive(Default)]
struct Seen {
    /// By the name of the part.
    parts: BTreeMap<String, SeenPart>,
    verdict: Option<String>,
    up_file: Option<UpFile>,
    configured: bool,
    announced: bool,
}

#[derive(Clone, Default)]
struct SeenPart {
    trouble: Option<String>,
    pid: Option<u32>,
}

struct House<'a> {
    options: &'a UpOptions,
    setup: &'a Setup,
    folder: Arc<Folder>,
    kept: Kept,
    /// The primary that was named, with what the environment adds; `None` for a throw-away one.
    primary: Option<ConnInfo>,
    /// The conninfo of either as people see it: without a password.
    conninfo: String,
    safekeepers: Vec<Part>,
    proposer: Option<Part>,
    postgres: Option<ThrowAway>,
    seen: Seen,
}

impl House<'_> {
    async fn run(&mut self) -> Result<std::convert::Infallible, Error> {
        let server = match self.primary.clone() {
            Some(info) => {
                self.check_primary(&info).await?;
                None
            }
            None => Some(self.prepare_postgres().await?),
        };
        self.safekeepers = (1..=SAFEKEEPERS).map(|id| Part::start(self.safekeeper(id))).collect();
        self.wait_for(|house| house.safekeepers.iter().all(|part| part.ready().is_some())).await?;
        self.init().await?;
        if let Some(server) = server {
            // After a crash the server would show transactions that were never acknowledged, and a failover could lose them.
            let options = self.pre_start_options();
            let pre_start = move |data_dir: &std::path::Path| {
                let runtime = crate::process::runtime().map_err(|error| error.to_string())?;
                let brought = runtime.block_on(crate::failover::pre_start(&options, data_dir, false));
                brought.map(drop).map_err(|error| error.to_string())
            };
            let (port, log) = (self.kept.postgres_port, self.folder.log("postgres"));
            self.postgres = Some(ThrowAway::start(server, port, log, pre_start)?);
            self.wait_for(|house| house.postgres.as_ref().is_none_or(|postgres| postgres.pid().is_some())).await?;
        }
        self.proposer = Some(Part::start(self.walproposer()));
        self.wait_for(|house| house.proposer.as_ref().is_none_or(|part| part.ready().is_some())).await?;
        self.watch().await
    }

    fn say(&self, text: &str) {
        (self.setup.say)(text);
    }

    async fn check_primary(&self, info: &ConnInfo) -> Result<(), Error> {
        loop {
            match own_primary::check(info).await {
                Ok(settings) => {
                    if let Some(names) = own_primary::wanted(&settings).filter(|_| !self.setup.configure) {
                        let line = names.setting_line();
                        self.say(&format!("UNPROTECTED until the primary requires us: set {line} and reload it"));
                        self.say("(seawall up --configure does so, and takes it back when it is stopped)");
                    }
                    return Ok(());
                }
                Err(error) if error.needs_operator() => return Err(error.into()),
                Err(error) => self.say(&format!("{error}; trying again")),
            }
            tokio::time::sleep(RETRY_PRIMARY).await;
        }
    }

    async fn prepare_postgres(&mut self) -> Result<pg_server::Server, Error> {
        let (folder, mut kept, pg_bin) = (Arc::clone(&self.folder), self.kept.clone(), self.options.pg_bin.clone());
        let say = Arc::clone(&self.setup.say);
        let preparing = tokio::task::spawn_blocking(move || {
            let installation = postgres::installation(pg_bin, |text| say(text))?;
            if kept.postgres_dir.is_none() {
                say(&format!("making a throw-away PostgreSQL {}", installation.version()));
            }
            let server = postgres::open(&installation, &folder, &mut kept, |text| say(text))?;
            Ok::<_, PostgresError>((server, kept))
        });
        let (server, kept) = preparing.await??;
        self.kept = kept;
        Ok(server)
    }

    /// Begins the cluster. A safekeeper that lost its data does not stop the others: they are a majority.
    async fn init(&self) -> Result<(), Error> {
        let options = InitOptions {
            cluster: self.cluster().clone(),
            safekeepers: self.kept.safekeepers.iter().map(|kept| Address::new("127.0.0.1", kept.pg)).collect(),
            primary: None,
            json: false,
        };
        match init::init(&options).await {
            Ok(outcome) if outcome.done == Done::AlreadyThere => Ok(()),
            Ok(_) => {
                self.say(&format!("cluster {} begins on {SAFEKEEPERS} safekeepers", options.cluster));
                Ok(())
            }
            Err(error @ init::Error::Lost { .. }) => {
                self.say(&error.to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    fn pre_start_options(&self) -> config::FailoverOptions {
        config::FailoverOptions {
            safekeepers: self.kept.safekeepers.iter().map(|kept| Address::new("127.0.0.1", kept.pg)).collect(),
            cluster: Some(self.cluster().clone()),
            primary: None,
            within: PRE_START_SECONDS,
            auth: config::AuthOptions::default(),
            json: false,
        }
    }

    fn cluster(&self) -> &ClusterName {
        &self.options.cluster
    }

    fn safekeeper(&self, id: usize) -> Spec {
        let kept = self.kept.safekeepers[id - 1];
        let mut args: Vec<OsString> = vec!["safekeeper".into(), "--id".into(), id.to_string().into()];
        args.extend(["--data-dir".into(), self.folder.safekeeper(id).into()]);
        args.extend(["--listen-pg".into(), format!("127.0.0.1:{}", kept.pg).into()]);
        args.extend(["--listen-http".into(), format!("127.0.0.1:{}", kept.http).into()]);
        args.extend(["--max-wal".into(), self.options.max_wal.to_string().into()]);
        args.extend(["--archive".into(), self.archive().into()]);
        self.part(args, Vec::new(), &format!("safekeeper-{id}"))
    }

    /// A directory beside the parts' own: the first archive, until somebody wants it elsewhere.
    fn archive(&self) -> String {
        self.folder.root().join("archive").display().to_string()
    }

    fn walproposer(&self) -> Spec {
        let safekeepers: Vec<String> =
            self.kept.safekeepers.iter().map(|kept| format!("127.0.0.1:{}", kept.pg)).collect();
        let mut args: Vec<OsString> = vec!["walproposer".into(), "--primary".into(), (&self.conninfo).into()];
        args.extend(["--safekeepers".into(), safekeepers.join(",").into()]);
        args.extend(["--cluster".into(), self.cluster().to_string().into()]);
        args.extend(["--listen-http".into(), self.http().into()]);
        let password = self.primary.as_ref().and_then(ConnInfo::password);
        self.part(
            args,
            password.map(|password| ("PGPASSWORD", password.to_owned())).into_iter().collect(),
            "walproposer",
        )
    }

    fn part(&self, mut args: Vec<OsString>, secrets: Vec<(&'static str, String)>, name: &str) -> Spec {
        args.push("--exit-on-stdin-eof".into());
        if self.options.common.log_format == LogFormat::Json {
            args.extend(["--log-format".into(), "json".into()]);
        }
        Spec { program: self.setup.program.clone(), args, secrets, log: self.folder.log(name) }
    }

    fn http(&self) -> String {
        match &self.options.listen_http {
            Some(address) => address.to_string(),
            None => format!("127.0.0.1:{}", self.kept.proposer_http),
        }
    }

    /// Waits, telling what goes wrong meanwhile, and gives up when a part does.
    async fn wait_for(&mut self, reached: impl Fn(&Self) -> bool) -> Result<(), Error> {
        loop {
            self.look_at_parts()?;
            if reached(self) {
                return Ok(());
            }
            tokio::time::sleep(STARTING_TICK).await;
        }
    }

    /// Names of the parts, with what each is doing: `None` while it runs.
    fn troubles(&self) -> Vec<(String, Option<String>, Option<u32>)> {
        let parts =
            self.safekeepers.iter().enumerate().map(|(index, part)| (format!("safekeeper {}", index + 1), part));
        let mut troubles: Vec<_> = parts
            .chain(self.proposer.iter().map(|part| ("the proposer".to_owned(), part)))
            .map(|(name, part)| {
                let trouble = match part.state() {
                    part::State::Down(reason) | part::State::Failed(reason) => Some(reason),
                    part::State::Starting | part::State::Ready(_) => None,
                };
                (name, trouble, part.ready().map(|ready| ready.pid))
            })
            .collect();
        if let Some(postgres) = &self.postgres {
            let trouble = match postgres.state() {
                postgres::State::Down(reason) => Some(reason),
                postgres::State::Starting | postgres::State::Running(_) => None,
            };
            troubles.push(("PostgreSQL".to_owned(), trouble, postgres.pid()));
        }
        troubles
    }

    fn look_at_parts(&mut self) -> Result<(), Error> {
        let troubles = self.troubles();
        for (name, trouble, pid) in troubles {
            let before = self.seen.parts.get(&name).cloned().unwrap_or_default();
            if let Some(reason) = &trouble
                && before.trouble != trouble
            {
                self.say(&format!("{name} does not run: {reason}; starting it again"));
            }
            if let Some(pid) = pid.filter(|pid| before.pid.is_some_and(|before| before != *pid)) {
                self.say(&format!("{name} was started again (process {pid})"));
            }
            // A part that is starting keeps what is known of it until it runs or fails.
            if trouble.is_some() || pid.is_some() {
                self.seen.parts.insert(name, SeenPart { trouble, pid: pid.or(before.pid) });
            }
        }
        let named = (1..).map(|id| format!("safekeeper-{id}")).zip(&self.safekeepers);
        for (name, part) in named.chain(self.proposer.iter().map(|part| ("walproposer".to_owned(), part))) {
            if let part::State::Failed(reason) = part.state() {
                let log = self.folder.log(&name);
                return Err(Error::Part { name, reason, log });
            }
        }
        Ok(())
    }

    async fn watch(&mut self) -> Result<std::convert::Infallible, Error> {
        let since = Instant::now();
        loop {
            self.look_at_parts()?;
            let status = status::proposer(&self.http()).await;
            let is_leading = status.as_ref().is_ok_and(|status| status.state == "leading");
            // Until the quorum has committed something a COMMIT would wait for it to catch up.
            let is_committing = is_leading && status.as_ref().is_ok_and(|status| status.commit_lsn.is_some());
            let is_protected = is_committing && status.as_ref().is_ok_and(|status| status.protected);
            if is_committing && self.setup.configure && !self.seen.configured {
                self.configure().await;
            }
            let verdict = match status {
                Ok(status) if status.protected => {
                    "PROTECTED: a COMMIT returns when two of the three safekeepers have it on disk".to_owned()
                }
                Ok(status) => {
                    let texts: Vec<String> = status
                        .refusal
                        .into_iter()
                        .chain(status.reasons.into_iter().map(|reason| reason.text))
                        .collect();
                    format!(
                        "UNPROTECTED: {}",
                        if texts.is_empty() { format!("the proposer is {}", status.state) } else { texts.join("; ") }
                    )
                }
                Err(problem) => format!("UNPROTECTED: {problem}"),
            };
            let settled = is_protected || (is_committing && self.primary.is_some());
            if settled || self.seen.announced || since.elapsed() >= PATIENCE {
                if self.seen.verdict.as_ref() != Some(&verdict) {
                    self.say(&verdict);
                    self.seen.verdict = Some(verdict);
                }
                self.write_up_file()?;
                if !std::mem::replace(&mut self.seen.announced, true) {
                    self.announce();
                }
            }
            tokio::time::sleep(if self.seen.announced { STEADY_TICK } else { STARTING_TICK }).await;
        }
    }

    /// Makes the named primary wait for us, now that we can answer it.
    async fn configure(&mut self) {
        let Some(info) = &self.primary else { return };
        match own_primary::configure(info, &self.folder).await {
            Ok(Some(line)) => self.say(&format!("set {line} on the primary; a clean stop takes it back")),
            Ok(None) => {}
            Err(error) => self.say(&error.to_string()),
        }
        // Once: somebody who changes it back afterwards means it.
        self.seen.configured = true;
    }

    fn write_up_file(&mut self) -> Result<(), Error> {
        let safekeeper = |(index, part): (usize, &Part)| {
            let kept = self.kept.safekeepers[index];
            UpSafekeeper {
                id: index as u64 + 1,
                pg: format!("127.0.0.1:{}", kept.pg),
                http: format!("127.0.0.1:{}", kept.http),
                pid: part.ready().map(|ready| ready.pid),
            }
        };
        let file = UpFile {
            primary: self.conninfo.clone(),
            safekeepers: self.safekeepers.iter().enumerate().map(safekeeper).collect(),
            proposer_pid: self.proposer.as_ref().and_then(Part::ready).map(|ready| ready.pid),
            postgres_pid: self.postgres.as_ref().and_then(ThrowAway::pid),
            http: self.http(),
            archive: Some(self.archive()),
        };
        if self.seen.up_file.as_ref() != Some(&file) {
            self.folder.write("up.json", &file)?;
            self.seen.up_file = Some(file);
        }
        Ok(())
    }

    fn announce(&self) {
        let data_dir = self.folder.root().display();
        let reader = self.kept.safekeepers[0].pg;
        self.say(&format!(
            "\n  connect   psql \"{}\"\n  status    seawall status --data-dir {data_dir}   (http://{}/)\n  \
             follow    pg_receivewal -d \"host=127.0.0.1 port={reader} user=postgres\" -D DIR\n  \
             data      {data_dir}\n  stop      Ctrl-C; the next seawall up goes on from here\n",
            self.conninfo,
            self.http(),
        ));
    }

    /// Stops everything, the primary first, while the quorum can still take its last record.
    async fn close(mut self) {
        let has_begun = !self.safekeepers.is_empty();
        if let Err(error) = self.folder.remove("up.json") {
            self.say(&error.to_string());
        }
        if let Some(info) = &self.primary {
            self.leave(info).await;
        }
        if let Some(postgres) = self.postgres.take() {
            self.say("stopping PostgreSQL");
            postgres.stop().await;
        }
        if let Some(proposer) = self.proposer.take() {
            proposer.stop().await;
        }
        let stopping: Vec<_> = self.safekeepers.drain(..).map(|part| tokio::spawn(part.stop())).collect();
        for part in stopping {
            if let Err(error) = part.await {
                tracing::warn!(%error, "a part could not be stopped");
            }
        }
        if has_begun {
            self.say("stopped");
        }
    }

    /// A named primary goes on running; it must be told where that leaves its commits.
    async fn leave(&self, info: &ConnInfo) {
        match own_primary::take_back(info, &self.folder).await {
            Ok(true) => self.say("took back synchronous_standby_names on the primary; its commits no longer wait, and are not protected"),
            Ok(false) => {
                if own_primary::check(info).await.is_ok_and(|settings| own_primary::wanted(&settings).is_none()) {
                    self.say("the primary still requires us: its commits wait until seawall up runs again");
                }
            }
            Err(error) => self.say(&format!("synchronous_standby_names could not be taken back: {error}; commits on the primary wait until you reset it")),
        }
    }
}
