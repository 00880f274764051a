//! Integration tests: call the deployed service as its customers do, at `TIDEGATE_ENDPOINT_BACKEND`.

use backend::http::call;
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

/// Read the stock, reserve a part of it, and compare.
fn workflow(endpoint: &str) -> bool {
    let stock = call(endpoint, "GET", "/stock/12", "").map(|answer| answer.body.trim().parse::<u64>());
    let Ok(Ok(stock)) = stock else {
        println!("FAILED  workflow: the stock of item 12 is not told");
        return false;
    };
    let left = format!(", {} left", stock - 3);
    check(
        "workflow: read, then reserve",
        endpoint,
        ("POST", "/reserve", "order=itest&item=12&quantity=3"),
        200,
        &left,
    )
}

fn main() -> ExitCode {
    let Ok(endpoint) = std::env::var("TIDEGATE_ENDPOINT_BACKEND") else {
        eprintln!("TIDEGATE_ENDPOINT_BACKEND is not set");
        return ExitCode::FAILURE;
    };
    let results = [
        check("version", &endpoint, ("GET", "/version", ""), 200, "backend "),
        check("stock", &endpoint, ("GET", "/stock/7", ""), 200, "59"),
        check("no such item", &endpoint, ("GET", "/stock/0", ""), 404, "no such item"),
        check(
            "too many",
            &endpoint,
            ("POST", "/reserve", "order=itest&item=7&quantity=1000"),
            409,
            "in stock",
        ),
        check("nothing named", &endpoint, ("POST", "/reserve", ""), 400, "needed"),
        workflow(&endpoint),
    ];
    if results.contains(&false) { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}
