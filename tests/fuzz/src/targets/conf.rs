//! What people write: conninfo strings and `seawall.toml`.

pub(super) fn conninfo(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(info) = text.parse::<pg_conn::ConnInfo>() {
        let _ = format!("{info:?}");
    }
}

pub(super) fn configuration(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let env = |name: &str| (name.len() < 8).then(|| format!("value of {name}"));
    if let Err(error) = config::Config::parse("seawall.toml", text, &env) {
        assert!(!error.to_string().is_empty());
    }
}
