//! One data directory, and while it runs the postmaster as our child.
//!
//! Invariants: a [`Server`] holds at most one running postmaster, and it is our direct child, so its process id cannot be reused
//! before we have waited for it. Dropping a running server stops it at once, without a shutdown checkpoint. Ready means that the
//! postmaster itself says so in the eighth line of `postmaster.pid` (`ready` or `standby`), which is what `pg_ctl -w` waits for.
//! Settings stand in `seawall.conf`, so that [`Server::configure`] can change them while the server runs; port and sockets stand on
//! the command line.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::crash;
use crate::error::{Error, SOCKET_PATH_BYTES_MAX, io_error};
use crate::installation::Installation;
use crate::postmaster::PidFile;
use crate::run_as::RunAs;
use crate::settings;

const POLL: Duration = Duration::from_millis(10);
const LOG_TAIL_BYTES_MAX: u64 = 4096;

/// How clients prove who they are.
#[derive(Debug, Clone, Default)]
pub enum Auth {
    /// Everybody who reaches the server is believed.
    #[default]
    Trust,
    /// SCRAM-SHA-256, with this password for the superuser.
    Scram {
        /// One line.
        password: String,
    },
}

/// How to make a data directory. Encoding is UTF-8 and the locale C, which every system has.
#[derive(Debug, Clone)]
pub struct InitOptions {
    /// The superuser's name.
    pub superuser: String,
    /// Written into `pg_hba.conf` for local, host and replication connections alike.
    pub auth: Auth,
    /// The size of a WAL segment in MiB, a power of two in 1..=1024; `None` for PostgreSQL's default of 16.
    pub wal_segment_size_mb: Option<u32>,
    /// Pages carry checksums. From PostgreSQL 18 on they do anyway.
    pub page_checksums: bool,
    /// Whether initdb syncs the new directory. Only a directory that may be lost goes without.
    pub sync: bool,
}

impl Default for InitOptions {
    fn default() -> InitOptions {
        InitOptions {
            superuser: "postgres".to_owned(),
            auth: Auth::Trust,
            wal_segment_size_mb: None,
            page_checksums: false,
            sync: true,
        }
    }
}

/// How to start a server.
#[derive(Debug, Clone)]
pub struct StartOptions {
    /// The TCP port, also part of the socket's name.
    pub port: u16,
    /// The addresses to listen on, as `listen_addresses` takes them; empty for no TCP at all.
    pub listen_addresses: String,
    /// The folder of the Unix socket; made if missing. `None` for no Unix socket.
    pub socket_dir: Option<PathBuf>,
    /// Settings, see [`Server::configure`].
    pub settings: Vec<(String, String)>,
    /// Variables of its environment besides our own: keys of an object store, for `restore_command`.
    pub env: Vec<(String, String)>,
    /// Where standard output and error go, appended; `None` for the data directory's name with `.log`.
    pub log: Option<PathBuf>,
    /// Whether the postmaster gets a process group of its own, so that Ctrl-C on our terminal does not reach it.
    pub own_process_group: bool,
    /// How long to wait until it is ready. Crash recovery counts.
    pub timeout: Duration,
}

impl StartOptions {
    /// On 127.0.0.1 and `port`, no Unix socket, a process group of its own, a minute to get ready.
    pub fn on_port(port: u16) -> StartOptions {
        StartOptions {
            port,
            listen_addresses: "127.0.0.1".to_owned(),
            socket_dir: None,
            settings: Vec::new(),
            env: Vec::new(),
            log: None,
            own_process_group: true,
            timeout: Duration::from_secs(60),
        }
    }
}

/// How to shut down.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Wait until the clients have left.
    Smart,
    /// End the sessions, write a shutdown checkpoint, wait until the standbys have it.
    Fast,
    /// Stop at once; the next start recovers.
    Immediate,
}

/// A data directory and its server.
#[derive(Debug)]
pub struct Server {
    installation: Installation,
    data_dir: PathBuf,
    run_as: RunAs,
    child: Option<Child>,
    log: PathBuf,
    log_start: u64,
}

impl Server {
    /// Makes a data directory. `data_dir` must not exist or be empty; a folder left by a failed initdb is emptied by initdb itself.
    pub fn initdb(installation: &Installation, data_dir: &Path, options: &InitOptions) -> Result<Server, Error> {
        let data_dir = std::path::absolute(data_dir).map_err(io_error("name the data directory"))?;
        let run_as = RunAs::choose().ok_or(Error::NoUser)?;
        check_reach(&run_as, &data_dir)?;
        // The folders above it keep the usual mode, so that PostgreSQL's user gets through.
        let parent = data_dir.parent().unwrap_or(&data_dir);
        fs::create_dir_all(parent)
            .and_then(|()| match data_dir.is_dir() {
                true => Ok(()),
                false => fs::DirBuilder::new().mode(0o700).create(&data_dir),
            })
            .map_err(io_error(format!("make {}", data_dir.display())))?;
        check_reach(&run_as, &data_dir)?;
        run_as.own(&data_dir).map_err(io_error(format!("give {} to PostgreSQL's user", data_dir.display())))?;

        let mut command = installation.command("initdb", &run_as);
        command.arg("-D").arg(&data_dir).args(["--encoding=UTF8", "--locale=C", "-U", &options.superuser]);
        if let Some(size) = options.wal_segment_size_mb {
            command.arg(format!("--wal-segsize={size}"));
        }
        if options.page_checksums {
            command.arg("--data-checksums");
        }
        if !options.sync {
            command.arg("--no-sync");
        }
        let _password_file = match &options.auth {
            Auth::Trust => {
                command.arg("--auth=trust");
                None
            }
            Auth::Scram { password } => {
                let file = PasswordFile::write(&data_dir, password, &run_as)?;
                command.arg("--auth=scram-sha-256").arg("--pwfile").arg(&file.0);
                Some(file)
            }
        };
        run(command, "initdb", &data_dir)?;
        let conf = data_dir.join("postgresql.conf");
        OpenOptions::new()
            .append(true)
            .open(&conf)
            .and_then(|mut file| writeln!(file, "\n{}", settings::INCLUDE))
            .map_err(io_error(format!("append to {}", conf.display())))?;
        Server::open(installation, &data_dir)
    }

    /// An existing data directory, made by initdb, a base backup or a copy. Gives it to PostgreSQL's user.
    pub fn open(installation: &Installation, data_dir: &Path) -> Result<Server, Error> {
        let data_dir = std::path::absolute(data_dir).map_err(io_error("name the data directory"))?;
        let run_as = RunAs::choose().ok_or(Error::NoUser)?;
        let found = fs::read_to_string(data_dir.join("PG_VERSION"))
            .map_err(|_| Error::NotADataDirectory { dir: data_dir.clone() })?
            .trim()
            .to_owned();
        if found != installation.version().major.to_string() {
            return Err(Error::OtherVersion { dir: data_dir, found, installed: installation.version().to_string() });
        }
        check_reach(&run_as, &data_dir)?;
        run_as.own(&data_dir).map_err(io_error(format!("give {} to PostgreSQL's user", data_dir.display())))?;
        let log = data_dir.with_extension("log");
        Ok(Server { installation: installation.clone(), data_dir, run_as, child: None, log, log_start: 0 })
    }

    /// Starts the postmaster as our child and waits until it accepts connections. If it does not in time it is stopped again.
    pub fn start(&mut self, options: &StartOptions) -> Result<(), Error> {
        if self.is_running() {
            return Err(Error::Running { dir: self.data_dir.clone() });
        }
        if let Some(dir) = &options.socket_dir {
            let path = dir.join(format!(".s.PGSQL.{}", options.port));
            let bytes = path.as_os_str().len();
            if bytes > SOCKET_PATH_BYTES_MAX {
                return Err(Error::SocketPathTooLong { path, bytes });
            }
            // A folder that was there may be /tmp: it is not ours to give away.
            if !dir.is_dir() {
                fs::create_dir_all(dir)
                    .and_then(|()| self.run_as.own_alone(dir))
                    .map_err(io_error(format!("make {}", dir.display())))?;
            }
        }
        self.ensure_included()?;
        self.configure(&options.settings)?;
        if let Some(log) = &options.log {
            self.log.clone_from(log);
        }
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .map_err(io_error(format!("open the log {}", self.log.display())))?;
        self.log_start = log.metadata().map_or(0, |metadata| metadata.len());
        let log_again = log.try_clone().map_err(io_error("open the log twice"))?;

        let mut command = self.installation.command("postgres", &self.run_as);
        command.arg("-D").arg(&self.data_dir).arg("-p").arg(options.port.to_string());
        command.arg("-h").arg(&options.listen_addresses);
        // -k "" would mean the compiled-in folder, so that no socket has to be said as a setting.
        match &options.socket_dir {
            Some(dir) => command.arg("-k").arg(dir),
            None => command.args(["-c", "unix_socket_directories="]),
        };
        command.envs(options.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(log).stderr(log_again).current_dir(&self.data_dir);
        if options.own_process_group {
            std::os::unix::process::CommandExt::process_group(&mut command, 0);
        }
        let child = command.spawn().map_err(io_error("run postgres"))?;
        tracing::debug!(pid = child.id(), data_dir = %self.data_dir.display(), "started PostgreSQL");
        self.child = Some(child);
        self.wait_ready(options.timeout).inspect_err(|_| self.abandon())
    }

    fn wait_ready(&mut self, timeout: Duration) -> Result<(), Error> {
        let pid = self.pid();
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(outcome) = self.exited()? {
                return Err(Error::Ended { outcome, log: self.log.clone(), tail: self.log_tail() });
            }
            if PidFile::read(&self.data_dir).is_some_and(|file| Some(file.pid) == pid && file.ready) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.timed_out("ready", timeout));
            }
            thread::sleep(POLL);
        }
    }

    /// The program folder and version.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The data directory, absolute.
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// The log of the postmaster.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// The user it runs as.
    pub fn runs_as(&self) -> &RunAs {
        &self.run_as
    }

    /// The postmaster's process id while it runs, and until its end was noticed.
    pub fn pid(&self) -> Option<u32> {
        self.child.as_ref().map(Child::id)
    }

    /// Whether the postmaster runs. Notices its end.
    pub fn is_running(&mut self) -> bool {
        matches!(self.exited(), Ok(None)) && self.child.is_some()
    }

    /// The exit status if the postmaster has ended since the last call; after that it counts as not running.
    pub fn exited(&mut self) -> Result<Option<ExitStatus>, Error> {
        let Some(child) = &mut self.child else { return Ok(None) };
        let outcome = child.try_wait().map_err(io_error("wait for postgres"))?;
        if outcome.is_some() {
            self.child = None;
        }
        Ok(outcome)
    }

    /// Replaces the settings in `seawall.conf`, in order, the later of two of one name counting. A running server takes them with
    /// [`Server::reload`], those that need it with a restart.
    pub fn configure(&self, settings: &[(String, String)]) -> Result<(), Error> {
        let text = settings::render(settings)?;
        self.write_owned(&self.data_dir.join(settings::FILE), &text)
    }

    /// A file PostgreSQL reads appears whole or not at all: a reload may come at any moment.
    fn write_owned(&self, path: &Path, text: &str) -> Result<(), Error> {
        let temporary = path.with_extension("tmp");
        fs::write(&temporary, text)
            .and_then(|()| self.run_as.own(&temporary))
            .and_then(|()| fs::rename(&temporary, path))
            .map_err(io_error(format!("write {}", path.display())))
    }

    /// A data directory that came from elsewhere may lack the include.
    fn ensure_included(&self) -> Result<(), Error> {
        let conf = self.data_dir.join("postgresql.conf");
        let text = fs::read_to_string(&conf).map_err(io_error(format!("read {}", conf.display())))?;
        if text.lines().any(|line| line.trim() == settings::INCLUDE) {
            return Ok(());
        }
        self.write_owned(&conf, &format!("{text}\n{}\n", settings::INCLUDE))
    }

    /// Makes the server read its configuration files again (SIGHUP). It does so soon, not before this returns.
    pub fn reload(&self) -> Result<(), Error> {
        self.kill(Signal::HUP)
    }

    /// Sends a signal to the postmaster.
    pub fn kill(&self, signal: Signal) -> Result<(), Error> {
        let pid = self.unix_pid().ok_or_else(|| Error::NotRunning { dir: self.data_dir.clone() })?;
        kill_process(pid, signal).map_err(|err| io_error("signal postgres")(err.into()))
    }

    /// Ends a standby's recovery and waits until it takes writes (`pg_ctl promote`).
    pub fn promote(&mut self, timeout: Duration) -> Result<(), Error> {
        if !self.is_running() {
            return Err(Error::NotRunning { dir: self.data_dir.clone() });
        }
        let mut command = self.installation.command("pg_ctl", &self.run_as);
        command.args(["promote", "-w", "-t", &timeout.as_secs().max(1).to_string(), "-D"]).arg(&self.data_dir);
        run(command, "pg_ctl promote", &self.data_dir)
    }

    /// Shuts down and waits. A server that does not run is success. After [`Error::TimedOut`] it still runs and may be asked again,
    /// less kindly.
    pub fn stop(&mut self, mode: Mode, timeout: Duration) -> Result<(), Error> {
        if !self.is_running() {
            return Ok(());
        }
        self.kill(match mode {
            Mode::Smart => Signal::TERM,
            Mode::Fast => Signal::INT,
            Mode::Immediate => Signal::QUIT,
        })?;
        let deadline = Instant::now() + timeout;
        while self.is_running() {
            if Instant::now() >= deadline {
                return Err(self.timed_out("stopped", timeout));
            }
            thread::sleep(POLL);
        }
        Ok(())
    }

    /// Lets a running postmaster go on without us, and says its process id. Nobody waits for it any more; `pg_ctl` stops it.
    pub fn leave(mut self) -> Option<u32> {
        self.child.take().map(|child| child.id())
    }

    /// What a power cut does to the processes: kill -9 of the postmaster and all its children together, so that none can still write,
    /// and returns when all are gone. A server that does not run is success.
    pub fn crash(&mut self) -> Result<(), Error> {
        if let Some(pid) = self.unix_pid() {
            crash::kill_tree(pid).map_err(io_error("kill the server's processes"))?;
        }
        if let Some(mut child) = self.child.take() {
            child.wait().map_err(io_error("wait for postgres"))?;
        }
        Ok(())
    }

    /// Stops all processes of the server where they are, as a machine that hangs does; with `false` they go on.
    pub fn freeze(&self, frozen: bool) -> Result<(), Error> {
        let Some(pid) = self.unix_pid() else { return Ok(()) };
        crash::freeze_tree(pid, frozen).map_err(io_error("stop the server's processes"))
    }

    fn unix_pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.pid()?).ok()?)
    }

    fn timed_out(&self, what: &'static str, timeout: Duration) -> Error {
        Error::TimedOut { what, seconds: timeout.as_secs(), log: self.log.clone(), tail: self.log_tail() }
    }

    /// The end of what this run wrote into the log, on one line.
    fn log_tail(&self) -> String {
        read_tail(&self.log, self.log_start).unwrap_or_default().trim().replace('\n', " | ")
    }

    /// Ends what could not be started, as kindly as there is time for.
    fn abandon(&mut self) {
        if self.stop(Mode::Immediate, Duration::from_secs(5)).is_err() {
            let crashed = self.crash();
            if let Err(err) = crashed {
                tracing::warn!(%err, "a PostgreSQL server could not be stopped");
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.is_running() {
            self.abandon();
        }
    }
}

fn run(mut command: Command, program: &'static str, dir: &Path) -> Result<(), Error> {
    let output = command.current_dir(dir).stdin(Stdio::null()).output().map_err(io_error(format!("run {program}")))?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().replace('\n', " | ");
    Err(Error::Program { program, outcome: output.status, output: said })
}

/// Every folder above the data directory, as far as it exists, must let PostgreSQL's user through.
fn check_reach(run_as: &RunAs, data_dir: &Path) -> Result<(), Error> {
    let parent = data_dir.ancestors().skip(1).find(|dir| dir.is_dir()).unwrap_or(data_dir);
    if run_as.can_enter(parent).map_err(io_error("run /bin/sh"))? {
        return Ok(());
    }
    let suggestion =
        Path::new("/var/lib/seawall").join(format!("{:016x}", fnv1a(data_dir.as_os_str().as_encoded_bytes())));
    let user = run_as.user().unwrap_or_default().to_owned();
    Err(Error::CannotTraverse { user, dir: parent.to_path_buf(), suggestion })
}

/// FNV-1a, 64 bits: a hash that is the same in every release, so that the second start finds what the first made.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

fn read_tail(path: &Path, from: u64) -> io::Result<String> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(from.max(len.saturating_sub(LOG_TAIL_BYTES_MAX))))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The superuser's password for the time of initdb, beside the data directory, readable by PostgreSQL's user alone.
struct PasswordFile(PathBuf);

impl PasswordFile {
    fn write(data_dir: &Path, password: &str, run_as: &RunAs) -> Result<PasswordFile, Error> {
        let path = data_dir.with_extension("password");
        let refuse = || io_error(format!("write {}", path.display()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(refuse())?;
        let guard = PasswordFile(path.clone());
        writeln!(file, "{password}").and_then(|()| run_as.own(&path)).map_err(refuse())?;
        Ok(guard)
    }
}

impl Drop for PasswordFile {
    fn drop(&mut self) {
        if let Err(err) = fs::remove_file(&self.0) {
            tracing::warn!(path = %self.0.display(), %err, "a password file could not be removed");
        }
    }
}

#[cfg(test)]
#[path = "server_test.rs"]
mod tests;
