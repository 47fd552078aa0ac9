//! The password file: lines of `host:port:database:user:password`, `*` for any, backslash before `:` and `\`. The first
//! line that fits counts, as in libpq.

use crate::Host;
use std::io::Read;
use std::path::Path;

/// Above any real file; the rest is not read.
const MAX_BYTES: u64 = 1 << 20;

/// Finds the password for a host in a file. `None` if there is no file, it cannot be read, it is open to others, or no
/// line fits.
pub(crate) fn lookup(file: &Path, host: &Host, dbname: &str, user: &str) -> Option<String> {
    use std::os::unix::fs::PermissionsExt;
    let opened = std::fs::File::open(file).ok()?;
    let metadata = opened.metadata().ok()?;
    if !metadata.is_file() {
        return None;
    }
    if metadata.permissions().mode() & 0o077 != 0 {
        tracing::warn!(file = %file.display(), "the password file is open to others and is ignored; chmod 0600 it");
        return None;
    }
    let mut text = String::new();
    opened.take(MAX_BYTES).read_to_string(&mut text).ok()?;
    find(&text, host, dbname, user)
}

fn find(text: &str, host: &Host, dbname: &str, user: &str) -> Option<String> {
    let name = match host {
        Host::Tcp { name, .. } => name.clone(),
        Host::Unix { directory, .. } if ["/var/run/postgresql", "/tmp"].iter().any(|d| directory == Path::new(d)) => {
            "localhost".to_owned()
        }
        Host::Unix { directory, .. } => directory.display().to_string(),
    };
    let wanted = [name.as_str(), &host.port().to_string(), dbname, user];
    text.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let fields = fields(line);
        let [rest @ .., password] = fields.as_slice() else { return None };
        let fits = rest.len() == 4 && rest.iter().zip(wanted).all(|(field, wanted)| field == "*" || field == wanted);
        (fits && !password.is_empty()).then(|| password.clone())
    })
}

fn fields(line: &str) -> Vec<String> {
    let mut fields = vec![String::new()];
    let mut chars = line.chars();
    while let Some(c) = chars.next() {
        if c == ':' && fields.len() < 5 {
            fields.push(String::new());
        } else if let Some(field) = fields.last_mut() {
            field.extend(if c == '\\' { chars.next() } else { Some(c) });
        }
    }
    fields
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_that_fits() {
        let text = "# note\nbad line\ndb:5432:x:me:one\ndb:*:*:me:two\\:\\\\\n*:*:*:*:th:ree\n";
        let host = Host::Tcp { name: "db".into(), address: None, port: 5432 };
        assert_eq!(find(text, &host, "x", "me").as_deref(), Some("one"));
        assert_eq!(find(text, &host, "y", "me").as_deref(), Some("two:\\"));
        assert_eq!(find(text, &host, "y", "you").as_deref(), Some("th:ree"));
        assert_eq!(find("db:5432:x:me:one", &host, "x", "you"), None);
        let socket = Host::Unix { directory: "/tmp".into(), port: 1 };
        assert_eq!(find("localhost:1:*:*:z", &socket, "x", "you").as_deref(), Some("z"));
    }
}
