//! A replica in object storage: layout, snapshots, pieces, compression, encryption, downloads.
