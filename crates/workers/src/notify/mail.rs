//! A page as a mail, by SMTP (lettre). What is over comes in the same thread as what it ends.

use super::Failure;
use super::format::{cut, headline};
use lettre::message::header::{HeaderName, HeaderValue};
use lettre::message::{Mailbox as Address, Message};
use lettre::transport::smtp::authentication::Credentials;
use lettre::transport::smtp::client::{Tls, TlsParameters};
use lettre::{AsyncSmtpTransport, AsyncTransport, Tokio1Executor};
use sha2::{Digest, Sha256};
use std::time::Duration;
use tidegate_core::decision::{Page, PageKind, Severity};
use tidegate_core::definition::MailTls;
use tidegate_core::run_spec::hex;

/// Of the text, in characters.
const TEXT_MAX: usize = 12_000;
/// Of the subject, in characters: longer ones are folded into lines that nobody reads.
const SUBJECT_MAX: usize = 200;

/// Where a mail goes, and by which server.
#[derive(Clone)]
pub struct Mailbox {
    /// Who gets it.
    pub to: String,
    /// Who it comes from.
    pub from: String,
    /// The server, as `host:port`.
    pub server: String,
    /// How the connection is kept private.
    pub tls: MailTls,
    /// Name and password.
    pub login: Option<(String, String)>,
}

/// A mail that is ready to be sent.
pub(super) struct Mail {
    message: Message,
    mailbox: Mailbox,
}

impl Mail {
    pub(super) fn write(mailbox: &Mailbox, idempotency_key: &str, page: &Page) -> Result<Mail, String> {
        let unusable = |_| "a mail address is not usable".to_owned();
        let from: Address = mailbox.from.parse().map_err(unusable)?;
        let to: Address = mailbox.to.parse().map_err(unusable)?;
        let domain = from.email.domain().to_owned();
        let id = |text: &str| format!("<{}@{domain}>", hex(&Sha256::digest(text.as_bytes())));
        // All mails about one matter answer to a first one that nobody has sent, so that they stand together.
        let thread = id(&page.key);
        let urgent = page.severity == Severity::High && page.kind == PageKind::Opened;
        let mut builder = Message::builder()
            .from(from)
            .to(to)
            .subject(cut(&headline(page), SUBJECT_MAX))
            .message_id(Some(id(idempotency_key)))
            .in_reply_to(thread.clone())
            .references(thread);
        if urgent {
            let name = HeaderName::new_from_ascii_str("X-Priority");
            builder = builder.raw_header(HeaderValue::new(name, "1".to_owned()));
        }
        let text = format!("{}\n\n{}\n", headline(page), cut(&page.text, TEXT_MAX));
        let message = builder.body(text).map_err(|error| format!("the page is no mail: {error}"))?;
        Ok(Mail { message, mailbox: mailbox.clone() })
    }

    pub(super) async fn send(&self, limit: Duration) -> Result<(), Failure> {
        let transport = self.transport(limit).map_err(|why| Failure { why, retry: false })?;
        match tokio::time::timeout(limit, transport.send(self.message.clone())).await {
            Err(_) => Err(Failure { why: format!("no answer within {} ms", limit.as_millis()), retry: true }),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => {
                let retry = !error.is_permanent();
                Err(Failure { why: describe(&error), retry })
            }
        }
    }

    fn transport(&self, limit: Duration) -> Result<AsyncSmtpTransport<Tokio1Executor>, String> {
        let server = self.mailbox.server.rsplit_once(':');
        let (host, port) = server
            .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)))
            .ok_or_else(|| "the mail server is not host:port".to_owned())?;
        let private = || TlsParameters::new(host.to_owned()).map_err(|error| describe(&error));
        let tls = match self.mailbox.tls {
            MailTls::None => Tls::None,
            MailTls::Starttls => Tls::Required(private()?),
            MailTls::Tls => Tls::Wrapper(private()?),
        };
        let mut builder = AsyncSmtpTransport::<Tokio1Executor>::builder_dangerous(host)
            .port(port)
            .tls(tls)
            .timeout(Some(limit));
        if let Some((name, password)) = &self.mailbox.login {
            builder = builder.credentials(Credentials::new(name.clone(), password.clone()));
        }
        Ok(builder.build())
    }
}

/// What the server said, or what went wrong, on one line of bounded length.
fn describe(error: &lettre::transport::smtp::Error) -> String {
    let text = tidegate_core::causes(error);
    cut(&text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect::<String>(), 200)
}
