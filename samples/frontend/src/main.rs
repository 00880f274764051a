//! The server. Its environment: `TIDEGATE_ADDRESS`, where it listens; `TIDEGATE_ENVIRONMENT`, where it runs.

use frontend::app::App;
use frontend::{http, version::VERSION};
use std::net::TcpListener;
use std::process::ExitCode;
use std::sync::Arc;

fn main() -> ExitCode {
    let address = std::env::var("TIDEGATE_ADDRESS").unwrap_or_else(|_| "127.0.0.1:0".to_string());
    let app = App::from_environment();
    let listener = match TcpListener::bind(&address) {
        Ok(listener) => listener,
        Err(error) => {
            eprintln!("ERROR failed to listen on {address}: {error}");
            return ExitCode::FAILURE;
        }
    };
    println!(
        "frontend {VERSION} listens on {}",
        listener.local_addr().map_or(address, |address| address.to_string())
    );
    if let Err(error) = http::serve(&listener, Arc::new(move |request| app.handle(request))) {
        eprintln!("ERROR failed to accept a connection: {error}");
    }
    ExitCode::FAILURE
}
