//! From a destination to a store: builders of `object_store`, environment, options, time-outs.
//!
//! The crate below retries a single request shortly; the patience of an operation is [`RetryPolicy`](crate::RetryPolicy)'s.
//! There is no limit on how long a request may take as long as bytes move: large objects over slow lines are fine.

use std::sync::Arc;
use std::time::Duration;

use object_store::aws::{AmazonS3Builder, AmazonS3ConfigKey};
use object_store::azure::{AzureConfigKey, MicrosoftAzureBuilder};
use object_store::gcp::{GoogleCloudStorageBuilder, GoogleConfigKey};
use object_store::local::LocalFileSystem;
use object_store::{BackoffConfig, ClientOptions, ObjectStore, RetryConfig};

use super::{Destination, DestinationError, Place};
use crate::error::Error;
use crate::store::{Store, StoreKind};

/// A connection on which nothing moves for this long is given up.
const SILENCE: Duration = Duration::from_secs(60);
const CONNECT: Duration = Duration::from_secs(5);

impl Destination {
    /// Makes a store of it. Nothing is requested; a directory is created if it is missing.
    pub fn open(&self) -> Result<Store, Error> {
        let refuse = |error: DestinationError| Error::Usage(error.to_string());
        let fail = |error: object_store::Error| Error::Usage(format!("{self} cannot be used: {error}"));
        let (inner, kind): (Arc<dyn ObjectStore>, StoreKind) = match &self.place {
            Place::Directory { path } => {
                let fail = |error: std::io::Error| {
                    Error::Usage(format!("the directory {} cannot be used: {error}", path.display()))
                };
                std::fs::create_dir_all(path).map_err(fail)?;
                let store = LocalFileSystem::new_with_prefix(path)
                    .map_err(|error| Error::Usage(format!("{} cannot be used: {error}", path.display())))?;
                (Arc::new(store.with_automatic_cleanup(true).with_fsync(true)), StoreKind::Directory)
            }
            Place::S3 { bucket } => (Arc::new(self.s3(bucket).map_err(refuse)?.build().map_err(fail)?), StoreKind::S3),
            Place::Gcs { bucket } => {
                let builder = GoogleCloudStorageBuilder::from_env()
                    .with_bucket_name(bucket)
                    .with_retry(retry())
                    .with_client_options(self.client(None).map_err(refuse)?);
                let builder =
                    self.foreign(&[], builder, |builder, key: GoogleConfigKey, value| builder.with_config(key, value));
                (Arc::new(builder.map_err(refuse)?.build().map_err(fail)?), StoreKind::Gcs)
            }
            Place::Azure { container } => {
                let mut builder = MicrosoftAzureBuilder::from_env()
                    .with_container_name(container)
                    .with_retry(retry())
                    .with_client_options(self.client(self.option("endpoint")).map_err(refuse)?);
                if let Some(account) = self.option("account-name") {
                    builder = builder.with_account(account);
                }
                let key = self.option("account-key").map(str::to_owned);
                if let Some(key) = key.or_else(|| std::env::var("LITESTREAM_AZURE_ACCOUNT_KEY").ok()) {
                    builder = builder.with_access_key(key);
                }
                if let Some(endpoint) = self.option("endpoint") {
                    builder =
                        builder.with_endpoint(endpoint.to_owned()).with_allow_http(endpoint.starts_with("http://"));
                }
                let builder = self.foreign(AZURE_OPTIONS, builder, |builder, key: AzureConfigKey, value| {
                    builder.with_config(key, value)
                });
                (Arc::new(builder.map_err(refuse)?.build().map_err(fail)?), StoreKind::Azure)
            }
        };
        Ok(Store::rooted(inner, kind, self.path.clone()))
    }

    fn s3(&self, bucket: &str) -> Result<AmazonS3Builder, DestinationError> {
        let mut builder = AmazonS3Builder::from_env();
        // What Litestream's users have set counts where AWS's own variables are missing.
        for (variable, own, key) in [
            ("LITESTREAM_ACCESS_KEY_ID", "AWS_ACCESS_KEY_ID", AmazonS3ConfigKey::AccessKeyId),
            ("LITESTREAM_SECRET_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY", AmazonS3ConfigKey::SecretAccessKey),
        ] {
            if let (Ok(value), Err(_)) = (std::env::var(variable), std::env::var(own)) {
                builder = builder.with_config(key, value);
            }
        }
        let from_environment = builder
            .get_config_value(&AmazonS3ConfigKey::S3Endpoint)
            .or_else(|| builder.get_config_value(&AmazonS3ConfigKey::Endpoint));
        let endpoint = self.option("endpoint").map(str::to_owned).or(from_environment);
        builder =
            builder.with_bucket_name(bucket).with_retry(retry()).with_client_options(self.client(endpoint.as_deref())?);
        for (option, key) in [
            ("region", AmazonS3ConfigKey::Region),
            ("access-key-id", AmazonS3ConfigKey::AccessKeyId),
            ("secret-access-key", AmazonS3ConfigKey::SecretAccessKey),
            ("session-token", AmazonS3ConfigKey::Token),
        ] {
            if let Some(value) = self.option(option) {
                builder = builder.with_config(key, value);
            }
        }
        let virtual_host = self.flag("force-path-style")? == Some(false);
        builder = builder.with_virtual_hosted_style_request(virtual_host);
        if let Some(endpoint) = endpoint {
            builder = builder.with_allow_http(endpoint.starts_with("http://"));
            if self.option("endpoint").is_some() {
                let endpoint = match endpoint.split_once("://") {
                    Some((scheme, host)) if virtual_host => format!("{scheme}://{bucket}.{host}"),
                    _ => endpoint,
                };
                builder = builder.with_config(AmazonS3ConfigKey::S3Endpoint, endpoint);
            }
        }
        self.foreign(S3_OPTIONS, builder, |builder, key: AmazonS3ConfigKey, value| builder.with_config(key, value))
    }

    /// Options of ours are left out, others are the builder's own by its names.
    fn foreign<B, K: std::str::FromStr>(
        &self,
        ours: &[&str],
        mut builder: B,
        set: impl Fn(B, K, &str) -> B,
    ) -> Result<B, DestinationError> {
        for (option, value) in &self.options {
            if ours.contains(&option.as_str()) || option == "skip-verify" {
                continue;
            }
            let key = option.replace('-', "_").parse::<K>().map_err(|_| self.unknown(option))?;
            builder = set(builder, key, value);
        }
        Ok(builder)
    }

    fn unknown(&self, option: &str) -> DestinationError {
        DestinationError::Option { scheme: self.place.scheme(), option: option.to_owned() }
    }

    pub(super) fn check_options(&self) -> Result<(), DestinationError> {
        self.flag("skip-verify")?;
        self.flag("force-path-style")?;
        match &self.place {
            Place::Directory { .. } => self.options.keys().next().map_or(Ok(()), |option| Err(self.unknown(option))),
            Place::S3 { bucket } => self.s3(bucket).map(drop),
            Place::Gcs { .. } => self.foreign(&[], (), |(), _: GoogleConfigKey, _| ()),
            Place::Azure { .. } => self.foreign(AZURE_OPTIONS, (), |(), _: AzureConfigKey, _| ()),
        }
    }

    fn client(&self, endpoint: Option<&str>) -> Result<ClientOptions, DestinationError> {
        // The process may have chosen a provider already; either is fine.
        drop(rustls::crypto::ring::default_provider().install_default());
        let plain_http = endpoint.is_some_and(|endpoint| endpoint.starts_with("http://"));
        let mut options = ClientOptions::new()
            .with_timeout_disabled()
            .with_read_timeout(SILENCE)
            .with_connect_timeout(CONNECT)
            .with_allow_http(plain_http)
            // A machine without certificates may still talk to a server without TLS.
            .with_no_system_certificates(plain_http);
        if self.flag("skip-verify")? == Some(true) {
            options = options.with_allow_invalid_certificates(true);
        }
        Ok(options)
    }
}

const S3_OPTIONS: &[&str] =
    &["endpoint", "region", "force-path-style", "access-key-id", "secret-access-key", "session-token"];
const AZURE_OPTIONS: &[&str] = &["account-name", "account-key", "endpoint"];

fn retry() -> RetryConfig {
    RetryConfig {
        backoff: BackoffConfig {
            init_backoff: Duration::from_millis(100),
            max_backoff: Duration::from_secs(2),
            base: 2.0,
        },
        max_retries: 3,
        retry_timeout: Duration::from_secs(30),
    }
}
