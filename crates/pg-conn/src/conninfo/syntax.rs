//! The two spellings of a conninfo: `key = 'value' …` and `postgres://…`. Gives pairs; what a key means is not known here.
//!
//! Errors never repeat a value: it may be a piece of a password.

use super::ConnInfoError;

/// Pairs in the order written.
pub(super) fn pairs(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    match text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://")) {
        Some(rest) => uri(rest),
        None => keyword_value(text),
    }
}

fn keyword_value(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (key, after) = rest.split_once('=').ok_or(ConnInfoError::Syntax("a key is not followed by ="))?;
        let key = key.trim_end();
        if key.is_empty() || key.contains(char::is_whitespace) {
            return Err(ConnInfoError::Syntax("a word stands where key=value is expected"));
        }
        let (value, after) = value(after.trim_start())?;
        pairs.push((key.to_owned(), value));
        rest = after.trim_start();
    }
    Ok(pairs)
}

/// One value, quoted or not; a backslash keeps the next character in both.
fn value(text: &str) -> Result<(String, &str), ConnInfoError> {
    let quoted = text.strip_prefix('\'');
    let body = quoted.unwrap_or(text);
    let mut value = String::new();
    let mut chars = body.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => value.extend(chars.next().map(|(_, c)| c)),
            '\'' if quoted.is_some() => return Ok((value, &body[at + 1..])),
            c if quoted.is_none() && c.is_whitespace() => return Ok((value, &body[at..])),
            c => value.push(c),
        }
    }
    if quoted.is_some() { Err(ConnInfoError::Syntax("a quoted value has no closing quote")) } else { Ok((value, "")) }
}

/// Writes a value so that [`keyword_value`] reads it back.
pub(super) fn quote(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._/,:-".contains(c);
    if !value.is_empty() && value.chars().all(plain) {
        return value.to_owned();
    }
    let mut quoted = String::from("'");
    for c in value.chars() {
        if c == '\'' || c == '\\' {
            quoted.push('\\');
        }
        quoted.push(c);
    }
    quoted.push('\'');
    quoted
}

/// `[user[:password]@][host[:port],…][/dbname][?key=value&…]`, without the scheme.
fn uri(text: &str) -> Result<Vec<(String, String)>, ConnInfoError> {
    let mut pairs = Vec::new();
    let mut add = |key: &str, value: &str| -> Result<(), ConnInfoError> {
        pairs.push((key.to_owned(), percent_decode(value)?));
        Ok(())
    };
    let (rest, query) = text.split_once('?').map_or((text, None), |(rest, query)| (rest, Some(query)));
    // An unescaped slash ends the authority; a socket directory must be written as %2F.
    let (authority, dbname) = rest.split_once('/').map_or((rest, ""), |(authority, dbname)| (authority, dbname));
    let (user, hosts) = authority.rsplit_once('@').map_or((None, authority), |(user, hosts)| (Some(user), hosts));
    if let Some(user) = user {
        let (user, password) = user.split_once(':').map_or((user, None), |(user, word)| (user, Some(word)));
        if !user.is_empty() {
            add("user", user)?;
        }
        if let Some(password) = password {
            add("password", password)?;
        }
    }
    if !hosts.is_empty() {
        let (mut names, mut ports) = (Vec::new(), Vec::new());
        for host in hosts.split(',') {
            let (name, port) = host_and_port(host)?;
            names.push(name);
            ports.push(port);
        }
        add("host", &names.join(","))?;
        if ports.iter().any(|port| !port.is_empty()) {
            add("port", &ports.join(","))?;
        }
    }
    if !dbname.is_empty() {
        add("dbname", dbname)?;
    }
    for parameter in query.unwrap_or_default().split('&').filter(|parameter| !parameter.is_empty()) {
        let (key, value) = parameter.split_once('=').ok_or(ConnInfoError::Syntax("a key after ? has no value"))?;
        let key = percent_decode(key)?;
        // JDBC's spelling, which libpq takes too.
        let (key, value) = if key == "ssl" && value == "true" { ("sslmode", "require") } else { (key.as_str(), value) };
        add(key, value)?;
    }
    Ok(pairs)
}

fn host_and_port(text: &str) -> Result<(&str, &str), ConnInfoError> {
    if let Some(rest) = text.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(ConnInfoError::Syntax("an IPv6 address has no closing ]"))?;
        return match after.strip_prefix(':') {
            Some(port) => Ok((address, port)),
            None if after.is_empty() => Ok((address, "")),
            None => Err(ConnInfoError::Syntax("an IPv6 address is followed by something that is not a port")),
        };
    }
    Ok(text.split_once(':').unwrap_or((text, "")))
}

fn percent_decode(text: &str) -> Result<String, ConnInfoError> {
    let wrong = ConnInfoError::Syntax("a % in a URI is not followed by two hexadecimal digits of UTF-8 text");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        rest = after;
        if first != b'%' {
            bytes.push(first);
            continue;
        }
        let digits = rest.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()));
        let byte = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()).filter(|byte| *byte != 0);
        let Some(byte) = byte else { return Err(wrong) };
        bytes.push(byte);
        rest = &rest[2..];
    }
    String::from_utf8(bytes).map_err(|_| wrong)
}
