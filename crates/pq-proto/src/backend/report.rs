//! [`Report`]: what ErrorResponse and NoticeResponse say.

use crate::SqlState;
use crate::cursor::{BodyError, Cursor};
use crate::frame;
use bytes::{BufMut, Bytes, BytesMut};
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Severity {
    /// `ERROR`: the command failed, the connection goes on.
    Error,
    /// `FATAL`: the connection ends.
    Fatal,
    /// `PANIC`: the server ends.
    Panic,
    /// `WARNING`.
    Warning,
    /// `NOTICE`.
    Notice,
    /// `INFO`, `LOG`, `DEBUG` and anything newer.
    Other,
}

impl Severity {
    /// As the field carries it.
    pub fn as_str(self) -> &'static str {
        match self {
            Severity::Error => "ERROR",
            Severity::Fatal => "FATAL",
            Severity::Panic => "PANIC",
            Severity::Warning => "WARNING",
            Severity::Notice => "NOTICE",
            Severity::Other => "LOG",
        }
    }

    fn parse(text: &str) -> Severity {
        let known = [Severity::Error, Severity::Fatal, Severity::Panic, Severity::Warning, Severity::Notice];
        known.into_iter().find(|severity| severity.as_str() == text).unwrap_or(Severity::Other)
    }
}

/// An error, warning or note from a server. Texts that were not UTF-8 have the damaged characters replaced.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Report {
    /// Field `V` (or `S`, from servers without it).
    pub severity: Severity,
    /// Field `C`.
    pub code: SqlState,
    /// Field `M`.
    pub message: String,
    /// Field `D`.
    pub detail: Option<String>,
    /// Field `H`.
    pub hint: Option<String>,
}

impl Report {
    /// A report without detail and hint.
    pub fn new(severity: Severity, code: SqlState, message: impl Into<String>) -> Report {
        Report { severity, code, message: message.into(), detail: None, hint: None }
    }

    /// An `ERROR`.
    pub fn error(code: SqlState, message: impl Into<String>) -> Report {
        Report::new(Severity::Error, code, message)
    }

    /// A `FATAL`: close the connection after sending it.
    pub fn fatal(code: SqlState, message: impl Into<String>) -> Report {
        Report::new(Severity::Fatal, code, message)
    }

    /// The same with a hint.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<String>) -> Report {
        self.hint = Some(hint.into());
        self
    }

    /// Whether the connection ends after it.
    pub fn ends_connection(&self) -> bool {
        matches!(self.severity, Severity::Fatal | Severity::Panic)
    }

    pub(super) fn decode(body: Bytes) -> Result<Report, BodyError> {
        let mut body = Cursor::new("ErrorResponse", body);
        let mut report = Report::new(Severity::Other, SqlState::INTERNAL_ERROR, "");
        let mut severity_is_final = false;
        loop {
            let field = body.u8()?;
            if field == 0 {
                body.finish()?;
                return Ok(report);
            }
            let text = body.cstr_lossy()?;
            match field {
                b'V' => {
                    report.severity = Severity::parse(&text);
                    severity_is_final = true;
                }
                b'S' if !severity_is_final => report.severity = Severity::parse(&text),
                b'C' => report.code = SqlState::new(&text).unwrap_or(SqlState::INTERNAL_ERROR),
                b'M' => report.message = text,
                b'D' => report.detail = Some(text),
                b'H' => report.hint = Some(text),
                _ => {}
            }
        }
    }

    pub(super) fn encode(&self, tag: u8, buffer: &mut BytesMut) {
        frame::put(buffer, tag, |body| {
            let severity = self.severity.as_str();
            let mut field = |kind: u8, text: &str| {
                body.put_u8(kind);
                frame::put_cstr(body, text);
            };
            field(b'S', severity);
            field(b'V', severity);
            field(b'C', self.code.as_str());
            field(b'M', &self.message);
            if let Some(detail) = &self.detail {
                field(b'D', detail);
            }
            if let Some(hint) = &self.hint {
                field(b'H', hint);
            }
            body.put_u8(0);
        });
    }
}

impl fmt::Display for Report {
    /// `message (detail; SQLSTATE 58P01)`, and the hint.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (", self.message)?;
        if let Some(detail) = &self.detail {
            write!(f, "{detail}; ")?;
        }
        write!(f, "SQLSTATE {})", self.code)?;
        if let Some(hint) = &self.hint {
            write!(f, "; hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}
