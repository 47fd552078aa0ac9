//! The WAL downloader: whole local WAL files of one generation, index by index, in order, while later ones are fetched already.
//!
//! ```text
//! list once -> plan (cover of every index) -> workers -> <prefix>-<index>-wal.partial -> check -> <prefix>-<index>-wal -> next()
//! ```
//!
//! Invariants
//! - Files come out in order, each whole: an index with a hole is an error that names it, never a shorter file.
//! - A file appears under its name only when every object it is made of was verified to its end and overlapping ones agreed.
//! - At most `parallelism` objects are read at a time, over all indexes and inside one; at most `parallelism` files are finished
//!   or in the making ahead of the caller. Memory: one [`PlainReader`](crate::PlainReader) each, whatever the objects' sizes.
//! - Delivered files are the caller's. All others are gone once the downloader is closed, or dropped and its tasks have ended.
//! - An error nobody has seen yet is what [`WalDownloader::close`] returns.
//!
//! It knows indexes, offsets and bytes, not what WAL means: who does gives a [`Check`]. Broken reads are resumed by the store below.

mod downloader;
mod error;
mod fetch;
mod file;
mod plan;
mod progress;
mod source;

pub use downloader::{Check, DownloadOptions, WalDownloader, WalFile, WalRange};
pub use error::DownloadError;
pub use progress::DownloadProgress;
pub use source::{PlainChunks, WalSource};
