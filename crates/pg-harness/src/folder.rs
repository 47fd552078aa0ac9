//! The folder of one test, and the frame in which a scenario runs.

use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};

const LOG_TAIL_BYTES: u64 = 4000;

/// Runs one scenario: a folder, a runtime with two worker threads, a deadline for the whole. If the scenario fails, panics or is late,
/// the test fails, the folder stays, and the end of every log in it is printed.
#[expect(clippy::panic, reason = "a scenario is the body of a test, and a test fails by panicking")]
pub fn scenario<F: Future<Output = Result<()>>>(name: &str, within: Duration, body: impl FnOnce(Folder) -> F) {
    let run = || -> Result<()> {
        let folder = Folder::new(name)?;
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let body = body(folder.clone());
        let result = runtime.block_on(async {
            match tokio::time::timeout(within, body).await {
                Ok(result) => result,
                Err(_) => bail!("the scenario did not end within {within:?}"),
            }
        });
        if result.is_err() {
            folder.keep();
        }
        result
    };
    if let Err(err) = run() {
        panic!("{name}: {err:#}");
    }
}

/// A folder of its own below the system's temporary folder, with a short name because sockets live in it. Clones are the same folder;
/// with the last one it is removed, unless the test fails or [`Folder::keep`] was called.
#[derive(Debug, Clone)]
pub struct Folder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    path: PathBuf,
    keep: AtomicBool,
}

impl Folder {
    /// Makes the folder, named after the test. PostgreSQL's user may enter it.
    pub fn new(name: &str) -> Result<Folder> {
        let short: String = name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '_').take(12).collect();
        let path = tempfile::Builder::new().prefix(&format!("sw-{short}-")).tempdir().context("make a folder")?.keep();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Folder(Arc::new(Inner { path, keep: AtomicBool::new(false) })))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// A folder inside, made if missing.
    pub fn sub(&self, name: &str) -> Result<PathBuf> {
        let path = self.path().join(name);
        fs::create_dir_all(&path).with_context(|| format!("make {}", path.display()))?;
        Ok(path)
    }

    /// The folder stays, whatever happens.
    pub fn keep(&self) {
        self.0.keep.store(true, Ordering::Relaxed);
    }
}

impl Drop for Inner {
    #[expect(clippy::print_stderr, reason = "who reads the output of a failed test needs the logs and the folder")]
    fn drop(&mut self) {
        if self.keep.load(Ordering::Relaxed) || std::thread::panicking() {
            eprint!("{}", logs_in(&self.path));
            eprintln!("the folder of this test is kept: {}", self.path.display());
        } else if let Err(err) = fs::remove_dir_all(&self.path) {
            eprintln!("cannot remove {}: {err}", self.path.display());
        }
    }
}

/// The end of every log directly in `dir`, by name.
fn logs_in(dir: &Path) -> String {
    let mut paths: Vec<PathBuf> = fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect();
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "log" || extension == "out"));
    paths.sort();
    let mut text = String::new();
    for path in paths {
        let tail = tail(&path).unwrap_or_else(|err| err.to_string());
        if !tail.is_empty() {
            text.push_str(&format!("---- {}\n{}\n", path.display(), tail.trim_end()));
        }
    }
    text
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = fs::File::open(path)?;
    let len = file.metadata()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(LOG_TAIL_BYTES)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL_BYTES).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_goes_with_its_last_clone_unless_kept() {
        let folder = Folder::new("a name/with: odd letters").unwrap();
        let path = folder.path().to_path_buf();
        let clone = folder.clone();
        drop(folder);
        assert!(path.is_dir());
        drop(clone);
        assert!(!path.exists());
    }

    #[test]
    fn a_failed_scenario_keeps_its_folder() {
        let kept = std::sync::Mutex::new(PathBuf::new());
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            scenario("fails", Duration::from_secs(5), async |folder| {
                fs::write(folder.path().join("x.log"), "the last words")?;
                *kept.lock().unwrap() = folder.path().to_path_buf();
                bail!("on purpose")
            });
        }));
        assert!(outcome.is_err());
        let kept = kept.lock().unwrap().clone();
        assert!(logs_in(&kept).contains("the last words"));
        fs::remove_dir_all(kept).unwrap();
    }
}
