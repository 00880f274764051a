//! docs/operating.md, followed word for word on a machine of its own: every command of that page, in its order, as the user that
//! it names, while customers call the service.

use crate::world::machine::{Machine, Who};
use crate::world::{Told, wait_for};
use std::collections::BTreeSet;
use std::process::{Child, Stdio};

const PAGE: &str = include_str!("../../../../docs/operating.md");
/// The customers of the service; each failure is a line.
const CUSTOMERS: &str = "while :; do curl --silent --fail --max-time 10 --output /dev/null $URL || echo failed; \
                         echo called; done";

/// What a command of the page must tell, by a part of the command; each is met.
const TOLD: [(&str, &str); 23] = [
    ("apply /srv/practice/organisation.json", "practice  applied"),
    ("\"hand over\" --dry-run", "would be r0"),
    ("adopt web-app --folder /opt/web --box", "r0"),
    ("systemctl disable old-web", "Removed"),
    ("adopt assets", "nothing was deployed"),
    ("status web-app", "web-app"),
    ("tidegate why", "version 2"),
    ("tidegate endpoints", "web"),
    ("--by bob", "bob"),
    ("log web-app --data /var/lib/tidegate --release r2", "r2"),
    ("--region north", "north"),
    ("log verify", "the log is in order"),
    ("tidegate backup", "monday"),
    ("tidegate restore", "and stays"),
    ("fleet status", "web/production/north/a/main"),
    ("fleet rollback", "1 of 1 boxes are healthy"),
    ("retry web-app r2", "r2"),
    ("promtool", "SUCCESS"),
    ("jq -cR", r#""release":"r2""#),
    ("gc --dry-run", "can go"),
    ("grep \"waits to take over\"", "standby"),
    ("fleet upgrade", "took over from"),
    ("fleet stop --boxes", "with its boxes"),
];

/// A command of the page.
#[derive(Debug)]
struct Line {
    number: usize,
    who: Who,
    text: String,
}

/// Every command: what stands in a console block behind `$` or `#`. There is nothing else in such a block, and no command outside.
fn commands() -> Vec<Line> {
    let (mut found, mut inside) = (Vec::new(), false);
    for (n, line) in PAGE.lines().enumerate() {
        let (number, line) = (n + 1, line.trim_start());
        match line.strip_prefix("```") {
            Some("console") => inside = true,
            Some(_) => inside = false,
            None if inside => {
                let (who, text) = match line.split_once(' ') {
                    Some(("$", text)) => (Who::Service, text),
                    Some(("#", text)) => (Who::Root, text),
                    _ => panic!("line {number} is no command: {line}"),
                };
                found.push(Line { number, who, text: text.to_owned() });
            }
            None => assert!(!line.starts_with("$ "), "line {number}: a command outside of a console block"),
        }
    }
    found
}

/// The reader of the page.
struct Reader {
    machine: Machine,
    met: BTreeSet<&'static str>,
    url: String,
    customers: Option<Child>,
    /// The pipelines do more than observe.
    acts: bool,
    /// A command that goes on in a terminal of its own.
    terminal: Option<Child>,
}

impl Reader {
    #[track_caller]
    fn says(&self, who: Who, text: &str) -> String {
        let told = self.machine.run(who, text);
        assert_eq!(told.code, 0, "{text}: {told:?}\n{}", self.machine.journal("tidegate"));
        told.out
    }

    #[track_caller]
    fn until(&self, what: &str, text: &str) {
        let seen = wait_for(|| (self.machine.run(Who::Service, text).code == 0).then_some(()));
        if seen.is_none() {
            let status = self.machine.run(Who::Root, "tidegate status --data /var/lib/tidegate");
            let last = self.machine.run(Who::Service, text);
            panic!("never: {what}\n{last:?}\n{status:?}\n{}", self.machine.journal("tidegate"));
        }
    }

    /// Where customers call, whether the server runs or not.
    fn url(&mut self) -> String {
        if self.url.is_empty() {
            self.url = self.endpoint();
        }
        self.url.clone()
    }

    fn endpoint(&self) -> String {
        let find = ".endpoints[] | select(.service == \"web\" and .environment == \"production\") | .url";
        let told = self.says(
            Who::Service,
            &format!("tidegate endpoints --json --data /var/lib/tidegate | jq -r '{find}'"),
        );
        told.trim().to_owned()
    }

    /// The boxes of the service all run this version.
    fn until_answers(&mut self, version: &str) {
        let url = self.url();
        // A box in ten is the one-box; forty calls reach both.
        let all = format!("for n in $(seq 40); do curl -sf {url}; done | sort -u");
        self.until(&format!("{version} everywhere"), &format!("[ \"$({all})\" = '{version}' ]"));
    }

    fn customers_come(&mut self) {
        let text = CUSTOMERS.replace("$URL", &self.url());
        let mut customers = self.machine.command(Who::Service, &text);
        self.customers = Some(customers.stdout(Stdio::piped()).spawn().unwrap());
    }

    /// None of their requests failed.
    fn customers_go(&mut self) {
        let Some(mut customers) = self.customers.take() else { return };
        self.says(Who::Root, "pkill --full '^bash -c while' || true");
        customers.kill().unwrap();
        let told = String::from_utf8(customers.wait_with_output().unwrap().stdout).unwrap();
        let count = |of: &str| told.lines().filter(|line| *line == of).count();
        assert!(count("called") > 10, "{told}");
        assert_eq!(count("failed"), 0, "of {} requests", count("called"));
    }

    /// tidegate starts the box of a process that was handed over and ends, and nobody else does.
    fn one_process_ends(&self) {
        let pid = self.says(Who::Service, "sed -n 1p /srv/practice/pids");
        self.says(Who::Root, &format!("kill -9 {pid}"));
        // Its first process was the one that was handed over.
        let again = "[.slots[].boxes[] | select(.incarnation == 2 and .health.healthy)] | length == 1";
        let fleet = "tidegate fleet status --json --data /var/lib/tidegate";
        self.until("its box runs again", &format!("{fleet} | jq -e '{again}'"));
        let unit = self.says(Who::Root, "systemctl show --property ActiveState,NRestarts old-web@8080");
        assert!(unit.contains("ActiveState=failed") && unit.contains("NRestarts=0"), "{unit}");
        let other = self.says(Who::Root, "systemctl is-active old-web@8081");
        assert_eq!(other.trim(), "active", "nothing of this has ended the other one");
    }

    /// Of the pipeline with commands as well the next merge goes by itself: nobody has yet to approve what was there.
    fn the_page_s_text_changes(&self) {
        self.says(Who::Service, "sed -i 's/page 1/page 2/' /srv/practice/assets/page.html");
        let merge = "TIDEGATE_TOKEN=\"$(cat /srv/practice/bob.token)\" tidegate approve \
                     \"$(/srv/practice/commit.sh /srv/practice/assets 'page 2')\" --data /var/lib/tidegate";
        self.says(Who::Service, merge);
        self.until("page 2 is live", "grep --quiet 'page 2' /srv/practice/live/main/page.html");
    }

    /// What the page lets happen before a command, or the reader waits for.
    fn before(&mut self, text: &str) {
        match text {
            _ if text.starts_with("tidegate fleet stop") => self.customers_go(),
            _ if text.starts_with("tidegate log --data /var/lib/tidegate --by bob") => {
                self.until_answers("version 2");
                self.until("r2 is everywhere", &everywhere(2));
            }
            _ if text.starts_with("tidegate fleet rollback web/production/north/a/main") => {
                self.until_answers("version 2");
            }
            _ if text.starts_with("tidegate why") => {
                self.until("the commit is seen", &format!("{text} --json"));
            }
            _ => {}
        }
    }

    fn perform(&mut self, line: &Line) -> Told {
        if line.text.starts_with("tidegate serve") || line.text.starts_with("tidegate fleet run") {
            return self.in_a_terminal(line);
        }
        self.machine.run(line.who, &line.text)
    }

    /// A command that does not end by itself: until it works; the server is ended again.
    fn in_a_terminal(&mut self, line: &Line) -> Told {
        let child = self.machine.command(line.who, &format!("exec {}", line.text)).spawn().unwrap();
        if line.text.starts_with("tidegate fleet run") {
            self.terminal = Some(child);
            self.until("the fleet runs", "tidegate fleet status --data /var/lib/tidegate");
            return Told::default();
        }
        match line.text.contains("--standby") {
            true => self.until("it waits", "curl -s http://127.0.0.1:7421/v1/health | grep --quiet TG014"),
            false => self.until("the server serves", "curl -sf http://127.0.0.1:7420/v1/health"),
        }
        self.says(Who::Root, "pkill --signal INT --full '^tidegate serve'");
        let status = child.wait_with_output().unwrap().status;
        Told { code: status.code().unwrap_or(-1), ..Told::default() }
    }

    /// What the page says that is so after a command.
    fn after(&mut self, text: &str) {
        match text {
            _ if text.starts_with("systemctl enable --now old-web") => {
                for port in [8080, 8081] {
                    self.until(
                        "it serves",
                        &format!("[ \"$(curl -sf http://127.0.0.1:{port})\" = 'version 1' ]"),
                    );
                }
            }
            _ if text.starts_with("systemctl disable old-web") => self.one_process_ends(),
            _ if text.starts_with("tidegate endpoints") => self.the_page_s_text_changes(),
            _ if text.starts_with("sed -i 's/observe-only/act/'") => self.acts = true,
            _ if text.starts_with("tidegate apply /srv/practice/web.json /srv") && self.acts => {
                self.until_answers("version 1");
                self.customers_come();
            }
            _ if text.starts_with("kill -9 $(cat /var/lib/tidegate/store/lock)") => {
                // The other one works, and the one that was killed waits when systemd has started it again.
                self.until(
                    "the standby has taken over",
                    "tidegate status --data /var/lib/tidegate | grep --quiet 'waits to take over'",
                );
            }
            _ if text.starts_with("tidegate fleet rollback web/production/north/a/one-box") => {
                self.until_answers("version 1");
            }
            _ if text.contains("tidegate retry web-app r2") => self.until_answers("version 2"),
            _ if text.starts_with("systemctl start tidegate") && self.terminal.is_some() => {
                self.customers_come();
            }
            _ => {}
        }
    }
}

/// Whether a release runs everywhere, in words that a shell can ask.
fn everywhere(release: u64) -> String {
    let find = format!("[.pipelines[0].stages[].steps[].targets[].current == {release}] | all");
    format!("tidegate status web-app --json --data /var/lib/tidegate | jq -e '{find}'")
}

impl Drop for Reader {
    fn drop(&mut self) {
        for mut child in [self.customers.take(), self.terminal.take()].into_iter().flatten() {
            // What it started on the machine ends with that.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

#[test]
fn every_command_of_the_page_works_in_its_order() {
    if !Machine::is_possible() {
        return;
    }
    let machine = Machine::start();
    let mut reader = Reader {
        machine,
        met: BTreeSet::new(),
        url: String::new(),
        customers: None,
        acts: false,
        terminal: None,
    };
    let commands = commands();
    assert!(commands.len() > 50, "{commands:?}");
    for line in &commands {
        reader.before(&line.text);
        let told = reader.perform(line);
        let words = format!("line {}: {}", line.number, line.text);
        assert_eq!(told.code, 0, "{words}\n{told:?}\n{}", reader.machine.journal("tidegate"));
        for (of, expected) in TOLD.iter().filter(|(of, _)| line.text.contains(of)) {
            let all = format!("{}{}", told.out, told.talk);
            assert!(all.contains(expected), "{words}\nshould tell '{expected}': {told:?}");
            reader.met.insert(of);
        }
        reader.after(&line.text);
    }
    reader.customers_go();
    let missing: Vec<_> = TOLD.iter().filter(|(of, _)| !reader.met.contains(of)).collect();
    assert!(missing.is_empty(), "{missing:?} are on the page no more");
    // What has ended is there until the machine's first process has looked.
    let left = || reader.machine.run(Who::Root, "pgrep --uid tidegate --list-full").out;
    let none = wait_for(|| left().is_empty().then_some(()));
    assert!(none.is_some(), "something is left: {}", left());
}
