//! `cargo xtask tidy`: the rules of the house, read from the tree. It never writes.

mod arrows;
mod floors;
mod proofs;
mod prose;
mod source;

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cargo_metadata::DependencyKind;

use crate::args::Args;
use crate::shell::Workspace;
use arrows::Arrow;
use floors::TABLE;

pub(crate) const HELP: &str = "\
cargo xtask tidy

Checks what no compiler does: arrows between crates go down the floors of xtask/src/tidy/floors.rs; a folder is named as its
crate and has a README.md; every source file says what it is for, is not too long, does not allow, ignore, sync, or ask the clock where
it must not; links in documents lead somewhere; words mean what the glossary says; every test that docs/durability.md names exists;
faults can be injected into disks in tests only.";

/// Where the table of what is asserted where stands.
const PROOFS: &str = "docs/durability.md";

pub(crate) fn run(workspace: &Workspace, args: &mut Args) -> Result<()> {
    args.finish()?;
    check(workspace)
}

/// Prints every problem; fails if there is one.
pub(crate) fn check(workspace: &Workspace) -> Result<()> {
    let mut problems = crates(workspace);
    let root = &workspace.root;
    let mut tests = Vec::new();
    for path in files(root, &["crates", "tests", "xtask"], "rs")? {
        let text = read(root, &path)?;
        tests.extend(proofs::tests(&path, &text));
        let pure = path
            .split('/')
            .nth(1)
            .and_then(|name| TABLE.iter().find(|row| row.name == name))
            .is_some_and(|row| row.pure);
        let found = source::check(&path, &text, pure && path.starts_with("crates/"), source::LONG_FILES);
        problems.extend(found.into_iter().map(|(line, problem)| format!("{path}:{line}: {problem}")));
    }
    let mut documents = files(root, &["docs", "crates", "tests", "xtask"], "md")?;
    documents.extend(fs::exists(root.join("README.md"))?.then(|| "README.md".to_owned()));
    for path in documents {
        let text = read(root, &path)?;
        let dir = root.join(&path).parent().map(Path::to_path_buf).unwrap_or_default();
        let dead = prose::links(&text).into_iter().filter(|(_, target)| !dir.join(target).exists());
        let dead = dead.map(|(line, target)| (line, format!("the link to {target} leads nowhere")));
        let found: Vec<_> = prose::check_words(&text).into_iter().chain(dead).collect();
        problems.extend(found.into_iter().map(|(line, problem)| format!("{path}:{line}: {problem}")));
    }
    let proven = proofs::check(&read(root, PROOFS)?, &tests);
    problems.extend(proven.into_iter().map(|(line, problem)| format!("{PROOFS}:{line}: {problem}")));
    for problem in &problems {
        println!("{problem}");
    }
    match problems.len() {
        0 => Ok(()),
        count => bail!("{count} rules of the house are broken"),
    }
}

/// Names, folders, readmes and arrows of the crates.
fn crates(workspace: &Workspace) -> Vec<String> {
    let mut problems = Vec::new();
    let (mut names, mut found) = (Vec::new(), Vec::new());
    for package in &workspace.metadata.packages {
        let name = package.name.to_string();
        let folder = package.manifest_path.parent().map(|dir| dir.as_std_path()).unwrap_or(Path::new(""));
        let in_crates = folder.parent() == Some(&workspace.root.join("crates"));
        if in_crates && folder.file_name().and_then(|folder| folder.to_str()) != Some(&name) {
            problems.push(format!("{}: the folder of crate {name} has another name", folder.display()));
        }
        if !folder.join("README.md").is_file() {
            problems.push(format!("{name}: no README.md"));
        }
        if arrows::passes_faults_on(&package.features) {
            problems.push(format!("{name}: no feature of a crate turns on the faults of another"));
        }
        for dependency in &package.dependencies {
            found.push(Arrow {
                from: name.clone(),
                to: dependency.name.clone(),
                dev: dependency.kind == DependencyKind::Development,
                ours: dependency.path.is_some(),
                features: dependency.features.clone(),
            });
        }
        names.push(name);
    }
    problems.extend(arrows::check(TABLE, &names, &found));
    problems
}

/// The files below these folders with this extension, relative to the root and in order. Build output and hidden folders are passed.
fn files(root: &Path, folders: &[&str], extension: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let mut open: Vec<PathBuf> =
        folders.iter().map(|folder| root.join(folder)).filter(|folder| folder.is_dir()).collect();
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).with_context(|| format!("list {}", folder.display()))? {
            let (path, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let name = name.to_string_lossy();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                open.push(path);
            } else if path.is_file() && path.extension().is_some_and(|found| found == extension) {
                found.extend(path.strip_prefix(root).ok().map(|path| path.to_string_lossy().into_owned()));
            }
        }
    }
    found.sort();
    Ok(found)
}

fn read(root: &Path, path: &str) -> Result<String> {
    fs::read_to_string(root.join(path)).with_context(|| format!("read {path}"))
}
