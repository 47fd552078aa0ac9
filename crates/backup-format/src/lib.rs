//! What a PostgreSQL base backup is made of: manifest, backup label, control file.
