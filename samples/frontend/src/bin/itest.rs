//! Integration tests: call the deployed service as its customers do, at `TIDEGATE_ENDPOINT_FRONTEND`.

use frontend::http::call;
use std::process::ExitCode;

fn check(
    what: &str,
    endpoint: &str,
    (method, path, body): (&str, &str, &str),
    status: u16,
    text: &str,
) -> bool {
    match call(endpoint, method, path, body) {
        Ok(answer) if answer.status == status && answer.body.contains(text) => {
            println!("ok      {what}");
            true
        }
        Ok(answer) => {
            println!("FAILED  {what}: {method} {path} gave {} {}", answer.status, answer.body.trim());
            false
        }
        Err(error) => {
            println!("FAILED  {what}: {method} {path}: {error}");
            false
        }
    }
}

/// Order something, then read the order.
fn workflow(endpoint: &str) -> bool {
    let order = match call(endpoint, "POST", "/orders", "item=12&quantity=3") {
        Ok(answer) if answer.status == 201 => answer.body.trim().to_string(),
        other => {
            println!("FAILED  workflow: POST /orders gave {other:?}");
            return false;
        }
    };
    check(
        "workflow: order, then read",
        endpoint,
        ("GET", &format!("/orders/{order}"), ""),
        200,
        "3 of item 12",
    )
}

fn main() -> ExitCode {
    let Ok(endpoint) = std::env::var("TIDEGATE_ENDPOINT_FRONTEND") else {
        eprintln!("TIDEGATE_ENDPOINT_FRONTEND is not set");
        return ExitCode::FAILURE;
    };
    let results = [
        check("welcome", &endpoint, ("GET", "/", ""), 200, "welcome"),
        check("version", &endpoint, ("GET", "/version", ""), 200, "frontend "),
        check("item", &endpoint, ("GET", "/items/7", ""), 200, "item 7"),
        check("no such item", &endpoint, ("GET", "/items/0", ""), 404, "no such item"),
        check("too many", &endpoint, ("POST", "/orders", "item=7&quantity=1000"), 409, "in stock"),
        check("nothing named", &endpoint, ("POST", "/orders", ""), 400, "needed"),
        workflow(&endpoint),
    ];
    if results.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
