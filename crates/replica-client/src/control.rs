//! Small objects by which those who work on a replica talk to each other: tombstones, holds, validations. Names and bytes
//! only; what they say is their owners' business.

use bytes::Bytes;
use jiff::Timestamp;

use crate::error::Error;
use crate::replica::Replica;
use crate::store::Created;

/// The longest control object.
pub const MAX_CONTROL: u64 = 16 << 20;

/// A kind of control object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Control {
    /// What is to be deleted later.
    Tombstone,
    /// What a running restore needs.
    Hold,
    /// The result of a validation.
    Validation,
}

impl Control {
    fn folder(self) -> &'static str {
        match self {
            Control::Tombstone => "tombstones",
            Control::Hold => "holds",
            Control::Validation => "validations",
        }
    }
}

/// A control object as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlInfo {
    /// Its name.
    pub name: String,
    /// When it was stored last, by the store's clock.
    pub created: Timestamp,
    /// Its bytes.
    pub stored: u64,
}

impl Replica {
    fn control_key(&self, control: Control, name: &str) -> Result<String, Error> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if !(1..=100).contains(&name.len()) || name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(Error::Usage(format!("{name:?} cannot be the name of a control object")));
        }
        Ok(format!("{}/{name}", self.layout().control(control.folder())))
    }

    /// Stores one, replacing what has the name.
    pub async fn control_put(&self, control: Control, name: &str, bytes: Bytes) -> Result<(), Error> {
        self.store().put(&self.control_key(control, name)?, bytes).await
    }

    /// Stores one unless another is there, which is [`Error::Different`].
    pub async fn control_create(&self, control: Control, name: &str, bytes: Bytes) -> Result<Created, Error> {
        self.store().create(&self.control_key(control, name)?, bytes).await
    }

    /// Reads one.
    pub async fn control_get(&self, control: Control, name: &str) -> Result<Option<Bytes>, Error> {
        match self.store().get(&self.control_key(control, name)?, MAX_CONTROL).await {
            Ok(bytes) => Ok(Some(bytes)),
            Err(Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// All of a kind, by name. One listing.
    pub async fn control_list(&self, control: Control) -> Result<Vec<ControlInfo>, Error> {
        let folder = self.layout().control(control.folder());
        let objects = self.store().list(&folder).await?.into_iter().filter_map(|object| {
            let name = object.key.strip_prefix(&folder)?.strip_prefix('/')?;
            let ours = self.control_key(control, name).is_ok();
            ours.then(|| ControlInfo { name: name.to_owned(), created: object.created, stored: object.stored })
        });
        Ok(objects.collect())
    }

    /// Deletes some; absent ones are fine.
    pub async fn control_delete(&self, control: Control, names: &[String]) -> Result<u64, Error> {
        let keys = names.iter().map(|name| self.control_key(control, name)).collect::<Result<Vec<_>, _>>()?;
        self.store().delete(keys).await
    }
}
