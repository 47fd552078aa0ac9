//! Where a replica is: a URL and options, and what they mean. Opening makes a [`Store`] of it and requests nothing.
//!
//! | URL | store |
//! |---|---|
//! | `s3://bucket/path` | S3, or a server that speaks its protocol at the option `endpoint` |
//! | `s3://bucket.host/path` | the hosts Litestream knows by name: localhost, Backblaze, DigitalOcean, Filebase, Linode, Scaleway |
//! | `http://host:port/bucket/path`, `https://…` | a server that speaks S3's protocol, bucket in the path |
//! | `gs://bucket/path` | Google Cloud Storage |
//! | `az://container/path`, `abs://account@container/path` | Azure Blob Storage |
//! | `file:///directory`, a plain path | a directory |
//!
//! Options that are no secret may stand in the URL (`?endpoint=…&region=…`); each overrides the environment (`AWS_*`,
//! `LITESTREAM_*`, `GOOGLE_*`, `AZURE_*`). What is printed of a destination holds no secret.

mod open;
mod stores;

pub use stores::Stores;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use url::Url;

/// A URL or option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DestinationError {
    /// Not a URL, and not a path either.
    #[error("{0:?} is neither a URL nor a path: {1}")]
    Syntax(String, String),
    /// A scheme nobody knows here.
    #[error("replicas cannot be kept at {0}:// (known are s3, gs, az, abs, http, https, file, and a plain path)")]
    Scheme(String),
    /// The bucket or container is missing.
    #[error("{0} names no bucket")]
    Bucket(String),
    /// Something secret, or meaningless, in the URL.
    #[error("{0} cannot stand in a URL: set it as an option or in the environment")]
    InUrl(String),
    /// An option this kind of store does not have.
    #[error("a replica at {scheme}:// has no option {option:?}")]
    Option {
        /// The kind of store.
        scheme: &'static str,
        /// The option.
        option: String,
    },
    /// An option's value.
    #[error("option {option} cannot be {value:?}")]
    Value {
        /// The option.
        option: String,
        /// Its value; only those of options that are no secret are shown.
        value: String,
    },
}

/// Where a replica is.
#[derive(Clone, PartialEq, Eq)]
pub struct Destination {
    place: Place,
    /// The path below the bucket or directory, `/` between parts, none at the ends.
    path: String,
    options: BTreeMap<String, String>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Place {
    S3 { bucket: String },
    Gcs { bucket: String },
    Azure { container: String },
    Directory { path: PathBuf },
}

impl Place {
    fn scheme(&self) -> &'static str {
        match self {
            Place::S3 { .. } => "s3",
            Place::Gcs { .. } => "gs",
            Place::Azure { .. } => "az",
            Place::Directory { .. } => "file",
        }
    }
}

/// Options that may stand in a URL and be printed.
const OPEN_OPTIONS: &[&str] = &["endpoint", "region", "force-path-style", "skip-verify", "account-name"];

/// A host whose name holds bucket and region, as Litestream recognises them: `<bucket>.<before><region><after>`.
const HOSTS: &[(&str, &str)] =
    &[("s3.", ".backblazeb2.com"), ("", ".digitaloceanspaces.com"), ("s3.", ".scw.cloud"), ("", ".linodeobjects.com")];

impl Destination {
    /// Reads a URL or a path.
    pub fn parse(text: &str) -> Result<Destination, DestinationError> {
        if !text.contains("://") {
            return Destination::directory(text);
        }
        let url = Url::parse(text).map_err(|error| DestinationError::Syntax(redacted(text), error.to_string()))?;
        if url.password().is_some() {
            return Err(DestinationError::InUrl("a password".to_owned()));
        }
        let mut options = BTreeMap::new();
        for (key, value) in url.query_pairs() {
            if !OPEN_OPTIONS.contains(&&*key) {
                return Err(DestinationError::InUrl(format!("option {key}")));
            }
            options.insert(key.into_owned(), value.into_owned());
        }
        let no_bucket = || DestinationError::Bucket(format!("{}://{}", url.scheme(), url.host_str().unwrap_or("")));
        let host = url.host_str().unwrap_or_default().to_owned();
        let path = decode_path(url.path());
        if !url.username().is_empty() && !matches!(url.scheme(), "az" | "azure" | "abs") {
            return Err(DestinationError::InUrl("a user name".to_owned()));
        }
        let (place, path) = match url.scheme() {
            "file" => {
                return Destination::directory(&url.to_file_path().map_or(path, |path| path.display().to_string()));
            }
            "s3" | "s3a" if host.is_empty() => return Err(no_bucket()),
            "s3" | "s3a" => (Place::S3 { bucket: s3_host(&host, url.port(), &mut options)? }, path),
            "http" | "https" => {
                let port = url.port().map_or(String::new(), |port| format!(":{port}"));
                options.entry("endpoint".to_owned()).or_insert(format!("{}://{host}{port}", url.scheme()));
                let (bucket, path) = path.trim_start_matches('/').split_once('/').map_or_else(
                    || (path.trim_matches('/').to_owned(), String::new()),
                    |(bucket, path)| (bucket.to_owned(), path.to_owned()),
                );
                (Place::S3 { bucket: Some(bucket).filter(|bucket| !bucket.is_empty()).ok_or_else(no_bucket)? }, path)
            }
            "gs" | "gcs" if !host.is_empty() => (Place::Gcs { bucket: host }, path),
            "az" | "azure" | "abs" if !host.is_empty() => {
                if !url.username().is_empty() {
                    options.entry("account-name".to_owned()).or_insert(url.username().to_owned());
                }
                (Place::Azure { container: host }, path)
            }
            "gs" | "gcs" | "az" | "azure" | "abs" => return Err(no_bucket()),
            other => return Err(DestinationError::Scheme(other.to_owned())),
        };
        Ok(Destination { place, path: clean(&path), options })
    }

    fn directory(path: &str) -> Result<Destination, DestinationError> {
        if path.is_empty() || path.contains('\0') {
            return Err(DestinationError::Syntax(path.to_owned(), "an empty path".to_owned()));
        }
        let place = Place::Directory { path: PathBuf::from(path) };
        Ok(Destination { place, path: String::new(), options: BTreeMap::new() })
    }

    /// The same place with options; an unknown one is an error now, not at the first request.
    pub fn with_options(
        mut self,
        options: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Destination, DestinationError> {
        for (option, value) in options {
            self.options.insert(option.replace('_', "-"), value);
        }
        self.check_options()?;
        Ok(self)
    }

    /// The same store, one or more folders deeper.
    pub fn below(&self, path: &str) -> Destination {
        Destination { path: clean(&format!("{}/{path}", self.path)), ..self.clone() }
    }

    /// Whether it is a directory of this machine.
    pub fn is_directory(&self) -> bool {
        matches!(self.place, Place::Directory { .. })
    }

    fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    fn flag(&self, name: &str) -> Result<Option<bool>, DestinationError> {
        match self.option(name) {
            None => Ok(None),
            Some("true" | "1" | "yes") => Ok(Some(true)),
            Some("false" | "0" | "no") => Ok(Some(false)),
            Some(other) => Err(DestinationError::Value { option: name.to_owned(), value: other.to_owned() }),
        }
    }
}

/// The bucket in an S3 URL's host; a host known by name also says endpoint and region.
fn s3_host(host: &str, port: Option<u16>, options: &mut BTreeMap<String, String>) -> Result<String, DestinationError> {
    let mut set = |name: &str, value: String| {
        options.entry(name.to_owned()).or_insert(value);
    };
    if let Some(bucket) = host.strip_suffix(".localhost") {
        let port = port.map_or(String::new(), |port| format!(":{port}"));
        set("endpoint", format!("http://localhost{port}"));
        return Ok(bucket.to_owned());
    }
    if let Some(bucket) = host.strip_suffix(".s3.filebase.com") {
        set("endpoint", "https://s3.filebase.com".to_owned());
        return Ok(bucket.to_owned());
    }
    for (before, after) in HOSTS {
        let Some((rest, region)) = host.strip_suffix(after).and_then(|rest| rest.rsplit_once('.')) else { continue };
        let bucket = match before.strip_suffix('.') {
            Some(word) => rest.strip_suffix(word).and_then(|rest| rest.strip_suffix('.')),
            None => Some(rest),
        };
        if let Some(bucket) = bucket {
            set("endpoint", format!("https://{before}{region}{after}"));
            set("region", region.to_owned());
            return Ok(bucket.to_owned());
        }
    }
    if port.is_some() {
        return Err(DestinationError::InUrl(
            "a port (write http://host:port/bucket/path for a server of your own)".to_owned(),
        ));
    }
    Ok(host.to_owned())
}

/// A URL's path with its escapes undone.
fn decode_path(path: &str) -> String {
    let pair = format!("p={}", path.replace('+', "%2B").replace('&', "%26").replace('=', "%3D"));
    url::form_urlencoded::parse(pair.as_bytes()).next().map_or_else(String::new, |(_, path)| path.into_owned())
}

fn clean(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/")
}

/// Text of a URL that could not be read, without what may be a secret in it.
fn redacted(text: &str) -> String {
    let text = text.split(['?', '#']).next().unwrap_or_default();
    match text.split_once("://") {
        Some((scheme, rest)) => {
            let after_user = rest.split('/').next().and_then(|authority| authority.rfind('@')).map_or(0, |at| at + 1);
            format!("{scheme}://{}", &rest[after_user..])
        }
        None => text.to_owned(),
    }
}

impl fmt::Display for Destination {
    /// As a URL, without secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = match &self.place {
            Place::S3 { bucket } | Place::Gcs { bucket } => format!("{}://{bucket}", self.place.scheme()),
            Place::Azure { container } => format!("az://{container}"),
            Place::Directory { path } => path.display().to_string(),
        };
        f.write_str(&place)?;
        if !self.path.is_empty() {
            write!(f, "/{}", self.path)?;
        }
        let shown = self.options.iter().filter(|(key, _)| OPEN_OPTIONS.contains(&key.as_str()));
        for (at, (key, value)) in shown.enumerate() {
            write!(f, "{}{key}={value}", if at == 0 { '?' } else { '&' })?;
        }
        Ok(())
    }
}

impl fmt::Debug for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Destination({self})")
    }
}

#[cfg(test)]
#[path = "destination_test.rs"]
mod tests;
