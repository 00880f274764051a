//! Tells the service manager that started this process how far it is (sd_notify): a few bytes to a socket that it named. Where
//! none did, nothing is told.

use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// It ends.
pub(crate) const STOPPING: &str = "STOPPING=1";

/// It does what it is to do, with a line on what that is. To be told again when that changes.
pub(crate) fn ready(status: &str) -> String {
    format!("READY=1\nSTATUS={}", status.replace('\n', " "))
}

/// Tells it; whether it was heard is the service manager's affair.
pub(crate) fn tell(state: &str) {
    let Some(name) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let name = name.as_encoded_bytes();
    let send = || -> io::Result<()> {
        let address = match name.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(std::ffi::OsStr::new(
                std::str::from_utf8(name).map_err(io::Error::other)?,
            ))?,
        };
        UnixDatagram::unbound()?.send_to_addr(state.as_bytes(), &address).map(|_| ())
    };
    if let Err(error) = send() {
        tracing::warn!("the service manager cannot be told '{state}': {error}");
    }
}
