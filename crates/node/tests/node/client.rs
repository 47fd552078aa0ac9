//! The smallest client of PostgreSQL's protocol, over a blocking socket.

use std::collections::BTreeMap;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing here takes so long.
const PATIENCE: Duration = Duration::from_secs(30);

/// A message of the server.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Message {
    pub(crate) tag: u8,
    pub(crate) body: Vec<u8>,
}

/// An ErrorResponse.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Refused {
    pub(crate) code: String,
    pub(crate) text: String,
}

impl Message {
    /// What an ErrorResponse says; `None` for other messages.
    pub(crate) fn refused(&self) -> Option<Refused> {
        let fields = (self.tag == b'E').then(|| self.body.split(|byte| *byte == 0))?;
        let (mut code, mut text) = (String::new(), String::new());
        for field in fields {
            match field.split_first() {
                Some((b'C', value)) => code = String::from_utf8(value.to_vec()).unwrap(),
                Some((b'M', value)) => text = String::from_utf8(value.to_vec()).unwrap(),
                _ => {}
            }
        }
        Some(Refused { code, text })
    }
}

/// Rows by column name.
pub(crate) type Rows = Vec<BTreeMap<String, String>>;

/// A connection.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    pub(crate) parameters: BTreeMap<String, String>,
}

/// A start-up message with these options.
pub(crate) fn startup_packet(options: &str, application_name: &str) -> Vec<u8> {
    let mut body = 196_608_u32.to_be_bytes().to_vec();
    for text in ["user", "someone", "options", options, "application_name", application_name] {
        body.extend_from_slice(text.as_bytes());
        body.push(0);
    }
    body.push(0);
    let mut packet = (body.len() as u32 + 4).to_be_bytes().to_vec();
    packet.extend_from_slice(&body);
    packet
}

/// A message of a client: tag, length, body.
pub(crate) fn framed(tag: u8, body: &[u8]) -> Vec<u8> {
    let mut message = vec![tag];
    message.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    message.extend_from_slice(body);
    message
}

impl Client {
    /// A socket on which nothing was said.
    pub(crate) fn raw(address: SocketAddr) -> Client {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        Client { stream, parameters: BTreeMap::new() }
    }

    /// A connection after its start-up with `options`.
    pub(crate) fn connect(address: SocketAddr, options: &str) -> Client {
        Client::connect_as(address, options, "test").unwrap()
    }

    pub(crate) fn connect_as(address: SocketAddr, options: &str, application_name: &str) -> Result<Client, Refused> {
        let mut client = Client::raw(address);
        client.send_raw(&startup_packet(options, application_name));
        client.finish_startup().map(|()| client)
    }

    /// Reads up to ReadyForQuery.
    pub(crate) fn finish_startup(&mut self) -> Result<(), Refused> {
        loop {
            let message = self.recv();
            match message.tag {
                b'S' => {
                    let mut texts =
                        message.body.split(|byte| *byte == 0).map(|text| String::from_utf8(text.to_vec()).unwrap());
                    self.parameters.insert(texts.next().unwrap(), texts.next().unwrap());
                }
                b'Z' => return Ok(()),
                b'E' => return Err(message.refused().unwrap()),
                b'R' => assert_eq!(message.body, [0; 4], "AuthenticationOk"),
                b'K' => assert_eq!(message.body.len(), 8, "BackendKeyData"),
                other => unreachable!("{:?} during start-up", char::from(other)),
            }
        }
    }

    pub(crate) fn send_raw(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).unwrap();
    }

    pub(crate) fn send(&mut self, tag: u8, body: &[u8]) {
        self.send_raw(&framed(tag, body));
    }

    pub(crate) fn send_query(&mut self, text: &str) {
        self.send(b'Q', format!("{text}\0").as_bytes());
    }

    pub(crate) fn send_copy_data(&mut self, payload: &[u8]) {
        self.send(b'd', payload);
    }

    /// Says that nothing more comes, and goes on reading.
    pub(crate) fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next message; `None` once the server has closed the connection.
    pub(crate) fn try_recv(&mut self) -> Option<Message> {
        let mut header = [0; 5];
        if let Err(error) = self.stream.read_exact(&mut header) {
            let closed = [ErrorKind::UnexpectedEof, ErrorKind::ConnectionReset];
            assert!(closed.contains(&error.kind()), "neither a message nor the end: {error}");
            return None;
        }
        let [tag, length @ ..] = header;
        let mut body = vec![0; u32::from_be_bytes(length) as usize - 4];
        self.stream.read_exact(&mut body).unwrap();
        Some(Message { tag, body })
    }

    pub(crate) fn recv(&mut self) -> Message {
        self.try_recv().unwrap()
    }

    /// The payload of the next message, which must be CopyData.
    pub(crate) fn recv_copy_data(&mut self) -> Vec<u8> {
        let message = self.recv();
        assert_eq!(message.tag, b'd', "{:?}", message.refused());
        message.body
    }

    /// Reads to the end of the connection; the last error before it.
    pub(crate) fn last_words(&mut self) -> Option<Refused> {
        let mut last = None;
        while let Some(message) = self.try_recv() {
            last = message.refused().or(last);
        }
        last
    }

    /// The rest of an answer: its rows, and the tag of its CommandComplete.
    pub(crate) fn answer(&mut self) -> Result<(Rows, String), Refused> {
        let (mut columns, mut rows, mut tag, mut refused) = (Vec::new(), Vec::new(), String::new(), None);
        loop {
            let message = self.recv();
            match message.tag {
                b'T' => columns = column_names(&message.body),
                b'D' => rows.push(columns.iter().cloned().zip(values(&message.body)).collect()),
                b'C' => tag = String::from_utf8(message.body).unwrap().trim_end_matches('\0').to_owned(),
                b'I' => "empty".clone_into(&mut tag),
                b'E' => refused = message.refused(),
                b'Z' => return refused.map_or(Ok((rows, tag)), Err),
                other => unreachable!("{:?} in an answer", char::from(other)),
            }
        }
    }

    /// Runs a command and returns its rows.
    pub(crate) fn rows(&mut self, text: &str) -> Result<Rows, Refused> {
        self.send_query(text);
        self.answer().map(|(rows, _)| rows)
    }

    /// The only row of a command.
    pub(crate) fn row(&mut self, text: &str) -> BTreeMap<String, String> {
        let mut rows = self.rows(text).unwrap();
        assert_eq!(rows.len(), 1, "{rows:?}");
        rows.remove(0)
    }
}

fn column_names(body: &[u8]) -> Vec<String> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let mut names = Vec::new();
    for _ in 0..count {
        let end = rest.iter().position(|byte| *byte == 0).unwrap();
        names.push(String::from_utf8(rest[..end].to_vec()).unwrap());
        rest = &rest[end + 1 + 18..];
    }
    assert!(rest.is_empty());
    names
}

/// NULL is told as a text no value has.
fn values(body: &[u8]) -> Vec<String> {
    let count = u16::from_be_bytes([body[0], body[1]]);
    let mut rest = &body[2..];
    let mut values = Vec::new();
    for _ in 0..count {
        let (length, after) = rest.split_first_chunk::<4>().unwrap();
        let length = i32::from_be_bytes(*length);
        let (value, after) = after.split_at(length.max(0) as usize);
        values.push(if length < 0 { "<null>".to_owned() } else { String::from_utf8(value.to_vec()).unwrap() });
        rest = after;
    }
    assert!(rest.is_empty());
    values
}
