//! [`Room`]: how much of the disk is left to others.
//!
//! Below the limit appends are refused with a sentence, as on a full disk, and votes go on: there must be room for control files. With
//! a little more than the limit free they are taken again, by themselves: the leader tries once a second.

use crate::data_dir::DataDir;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

const LOOK_EVERY: Duration = Duration::from_secs(1);

/// The limit of one disk, shared by its clusters.
#[derive(Debug)]
pub(crate) struct Room {
    min_free: u64,
    refusal: RefCell<Option<String>>,
}

impl Room {
    pub(crate) fn new(min_free: u64) -> Rc<Room> {
        Rc::new(Room { min_free, refusal: RefCell::new(None) })
    }

    /// Why nothing may be appended, if so.
    pub(crate) fn refusal(&self) -> Option<String> {
        self.refusal.borrow().clone()
    }

    /// Judges by the free bytes there are; `None` if the system does not say, which changes nothing.
    fn judge(&self, free: Option<u64>) {
        let Some(free) = free else { return };
        // A quarter more before it goes on, so that it does not flutter.
        let enough = self.min_free.saturating_add(self.min_free / 4);
        let mut refusal = self.refusal.borrow_mut();
        if refusal.is_none() && free < self.min_free {
            let text = format!("{free} bytes are free on the disk, fewer than the {} of --min-free", self.min_free);
            tracing::error!("appends are refused until there is room: {text}");
            *refusal = Some(text);
        } else if refusal.is_some() && free >= enough {
            tracing::info!("there is room on the disk again: {free} bytes are free");
            *refusal = None;
        }
    }

    /// Looks for ever.
    pub(crate) async fn watch(self: Rc<Self>, data_dir: Rc<DataDir>) {
        loop {
            self.judge(data_dir.disk.free_space(&data_dir.root).ok());
            metrics::gauge!("safekeeper_disk_low").set(if self.refusal.borrow().is_some() { 1.0 } else { 0.0 });
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_refuses_below_the_limit_and_goes_on_a_little_above() {
        let room = Room::new(1000);
        room.judge(Some(1000));
        assert_eq!(room.refusal(), None);
        room.judge(Some(999));
        assert!(room.refusal().unwrap().contains("--min-free"));
        room.judge(None);
        room.judge(Some(1249));
        assert!(room.refusal().is_some(), "not yet, and silence changes nothing");
        room.judge(Some(1250));
        assert_eq!(room.refusal(), None);
        let none = Room::new(0);
        none.judge(Some(0));
        assert_eq!(none.refusal(), None, "no limit");
    }
}
