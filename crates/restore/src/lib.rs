//! From a replica back to a database: plan, fetch, verify, lay out, recover.
