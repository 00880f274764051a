//! Mails to a real listener that speaks SMTP: that takes them, asks for a login, refuses, is busy, and never answers.

use std::sync::{Arc, Mutex};
use std::time::Duration;
use tidegate_core::decision::{Page, PageKind, Severity};
use tidegate_core::definition::MailTls;
use tidegate_core::units::Timestamp;
use tidegate_workers::notify::{Address, Delivery, Limits, Mailbox, Notifier};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::Instant;

/// What clients said, line by line.
type Said = Arc<Mutex<Vec<String>>>;

struct Server {
    address: String,
    said: Said,
    _tasks: JoinSet<()>,
}

impl Server {
    /// Answers the n-th `RCPT` (from 0) with this; `None` never answers again.
    async fn start(recipient: impl Fn(usize) -> Option<&'static str> + Send + Sync + 'static) -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let (said, recipient) = (Said::default(), Arc::new(recipient));
        let (seen, mut tasks) = (Arc::clone(&said), JoinSet::new());
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (seen, recipient) = (Arc::clone(&seen), Arc::clone(&recipient));
                connections.spawn(async move { serve(stream, &seen, &*recipient).await });
            }
        });
        Server { address, said, _tasks: tasks }
    }

    fn said(&self) -> Vec<String> {
        self.said.lock().unwrap().clone()
    }

    fn mailbox(&self) -> Mailbox {
        Mailbox {
            to: "oncall@shop.test".to_owned(),
            from: "tidegate@shop.test".to_owned(),
            server: self.address.clone(),
            tls: MailTls::None,
            login: None,
        }
    }
}

async fn serve(stream: TcpStream, said: &Said, recipient: &(dyn Fn(usize) -> Option<&'static str> + Sync)) {
    let mut stream = BufReader::new(stream);
    let mut answer = "220 mail.shop.test ESMTP".to_owned();
    let mut in_text = false;
    loop {
        if !answer.is_empty() && stream.write_all(format!("{answer}\r\n").as_bytes()).await.is_err() {
            return;
        }
        let mut line = String::new();
        if stream.read_line(&mut line).await.is_ok_and(|n| n == 0) {
            return;
        }
        let line = line.trim_end().to_owned();
        let count = {
            let mut said = said.lock().unwrap();
            said.push(line.clone());
            said.iter().filter(|line| line.starts_with("RCPT")).count()
        };
        answer = match line.split(' ').next().unwrap_or_default() {
            "." if in_text => {
                in_text = false;
                "250 2.0.0 taken".to_owned()
            }
            _ if in_text => String::new(),
            "EHLO" => "250-mail.shop.test\r\n250 AUTH PLAIN".to_owned(),
            "AUTH" => "235 2.7.0 welcome".to_owned(),
            "RCPT" => match recipient(count - 1) {
                Some(answer) => answer.to_owned(),
                None => std::future::pending().await,
            },
            "DATA" => {
                in_text = true;
                "354 go on".to_owned()
            }
            "QUIT" => "221 bye".to_owned(),
            _ => "250 2.0.0 ok".to_owned(),
        };
    }
}

fn page(kind: PageKind) -> Page {
    Page {
        key: "app/rollback/r7".to_owned(),
        severity: Severity::High,
        title: "app: r7 is rolled back".to_owned(),
        text: "What: r7 \"größer\r\n.\r\nQUIT\"\nNext: tidegate status app".to_owned(),
        at: Timestamp(1_700_000_000_000),
        to: Vec::new(),
        kind,
        about: None,
    }
}

fn notifier(attempts_max: u32) -> Notifier {
    Notifier::new(Limits {
        attempt_timeout: Duration::from_secs(10),
        attempts_max,
        retry_first: Duration::from_millis(20),
        retry_max: Duration::from_millis(40),
    })
    .unwrap()
}

fn why(delivery: Delivery) -> String {
    match delivery {
        Delivery::GaveUp { why } => why,
        Delivery::Delivered => panic!("it was delivered"),
    }
}

#[tokio::test]
async fn a_page_and_its_end_are_mails_of_one_thread() {
    let server = Server::start(|_| Some("250 2.1.5 ok")).await;
    let login = Some(("tidegate".to_owned(), "hunter22".to_owned()));
    let address = Address::Mail(Mailbox { login, ..server.mailbox() });
    for (key, kind) in [("p-1", PageKind::Opened), ("p-2", PageKind::Resolved)] {
        assert_eq!(notifier(1).deliver(&address, key, &page(kind)).await, Delivery::Delivered);
    }
    let said = server.said();
    let all = |begin: &str| said.iter().filter(|line| line.starts_with(begin)).cloned().collect::<Vec<_>>();
    let from = all("MAIL FROM");
    assert!(
        from.len() == 2 && from.iter().all(|l| l.starts_with("MAIL FROM:<tidegate@shop.test>")),
        "{from:?}"
    );
    assert_eq!(all("RCPT TO"), ["RCPT TO:<oncall@shop.test>"; 2]);
    assert_eq!(all("AUTH PLAIN").len(), 2);
    assert_eq!(
        all("Subject: "),
        ["Subject: app: r7 is rolled back", "Subject: Over: app: r7 is rolled back"]
    );
    let (ids, threads) = (all("Message-ID: "), all("In-Reply-To: "));
    assert!(ids[0] != ids[1] && threads[0] == threads[1], "{ids:?} {threads:?}");
    assert_eq!(all("X-Priority: "), ["X-Priority: 1"], "nobody is woken for an end");
    // What a stranger wrote ends no mail and begins no other.
    assert_eq!(said.iter().filter(|line| *line == "DATA").count(), 2);
}

#[tokio::test]
async fn a_busy_server_is_tried_again_and_a_refusing_one_is_not() {
    let busy = Server::start(|n| Some(if n < 2 { "451 4.3.0 later" } else { "250 2.1.5 ok" })).await;
    let delivery = notifier(3).deliver(&Address::Mail(busy.mailbox()), "p-1", &page(PageKind::Opened)).await;
    assert_eq!(delivery, Delivery::Delivered);
    let ids = busy.said().iter().filter(|line| line.starts_with("Message-ID: ")).count();
    assert_eq!(ids, 1, "it was taken once");

    let refusing = Server::start(|_| Some("550 5.1.1 nobody of that name")).await;
    let why =
        why(notifier(3).deliver(&Address::Mail(refusing.mailbox()), "p-1", &page(PageKind::Opened)).await);
    assert!(why.contains("5.1.1 nobody of that name") && why.ends_with("(try 1)"), "{why}");
}

#[tokio::test]
async fn a_server_that_hangs_or_is_not_private_is_given_up_in_bounded_time() {
    let hanging = Server::start(|_| None).await;
    let limits = Limits { attempt_timeout: Duration::from_millis(300), attempts_max: 2, ..Limits::default() };
    let started = Instant::now();
    let notifier = Notifier::new(Limits { retry_first: Duration::from_millis(10), ..limits }).unwrap();
    let given_up =
        why(notifier.deliver(&Address::Mail(hanging.mailbox()), "p-1", &page(PageKind::Opened)).await);
    assert!(given_up.ends_with("(try 2)"), "{given_up}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    // The server offers no STARTTLS: then nothing is sent in the clear.
    let open = Server::start(|_| Some("250 ok")).await;
    let login = Some(("tidegate".to_owned(), "hunter22".to_owned()));
    let mailbox = Mailbox { tls: MailTls::Starttls, login, ..open.mailbox() };
    why(notifier.deliver(&Address::Mail(mailbox), "p-1", &page(PageKind::Opened)).await);
    let said = open.said();
    assert!(!said.iter().any(|line| line.starts_with("AUTH") || line.starts_with("MAIL")), "{said:?}");
}
