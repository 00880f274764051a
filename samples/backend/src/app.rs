//! Says how many of an item are in stock, and reserves some. The stock is a function of the item's number, so that
//! every box gives the same answers without a database.

use crate::faults::Faults;
use crate::http::{Request, Response, field};
use crate::version::VERSION;
use std::thread;

/// Items are numbered from 1 to this.
const ITEMS: u64 = 1000;

/// The service.
pub struct App {
    faults: Faults,
}

impl App {
    /// `environment` is the one that it runs in, such as `beta`.
    pub fn new(environment: &str) -> Self {
        Self { faults: Faults::new(environment) }
    }

    /// As told by the process's environment variables.
    pub fn from_environment() -> Self {
        Self::new(&std::env::var("TIDEGATE_ENVIRONMENT").unwrap_or_default())
    }

    /// Answers a request.
    pub fn handle(&self, request: &Request) -> Response {
        if request.path == "/health" {
            return Response::new(200, "ok\n");
        }
        thread::sleep(self.faults.delay());
        if self.faults.fails() {
            eprintln!("ERROR {} {}: the stock ledger is inconsistent", request.method, request.path);
            return Response::new(500, "internal error\n");
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/version") => Response::new(200, format!("backend {VERSION}\n")),
            ("GET", path) if path.starts_with("/stock/") => stock_of(&path["/stock/".len()..]),
            ("POST", "/reserve") => reserve(&request.body),
            _ => Response::new(404, "not found\n"),
        }
    }
}

/// How many of an item are there: 10 to 59.
fn stock(item: u64) -> Option<u64> {
    (1..=ITEMS).contains(&item).then(|| 10 + item * 7 % 50)
}

fn stock_of(item: &str) -> Response {
    match item.parse().ok().and_then(stock) {
        Some(count) => Response::new(200, format!("{count}\n")),
        None => Response::new(404, "no such item\n"),
    }
}

/// Reserves; idempotent, because a reservation is named by its order.
fn reserve(form: &str) -> Response {
    let number = |name| field(form, name).and_then(|value| value.parse::<u64>().ok());
    let (Some(order), Some(item), Some(quantity)) =
        (field(form, "order"), number("item"), number("quantity"))
    else {
        return Response::new(400, "order, item and quantity are needed\n");
    };
    match stock(item) {
        None => Response::new(404, "no such item\n"),
        Some(count) if quantity == 0 || quantity > count => Response::new(409, format!("{count} in stock\n")),
        Some(count) => Response::new(200, format!("reserved for {order}, {} left\n", count - quantity)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(method: &str, path: &str, body: &str) -> (u16, String) {
        let request = Request { method: method.to_string(), path: path.to_string(), body: body.to_string() };
        let response = App::new("test").handle(&request);
        (response.status, response.body)
    }

    #[test]
    fn tells_the_stock() {
        assert_eq!(answer("GET", "/stock/7", ""), (200, "59\n".to_string()));
        assert_eq!(answer("GET", "/stock/0", "").0, 404);
        assert_eq!(answer("GET", "/stock/x", "").0, 404);
    }

    #[test]
    fn reserves_what_is_there() {
        let (status, body) = answer("POST", "/reserve", "order=a1&item=7&quantity=2");
        assert_eq!((status, body.as_str()), (200, "reserved for a1, 57 left\n"));
        assert_eq!(answer("POST", "/reserve", "order=a1&item=7&quantity=60").0, 409);
        assert_eq!(answer("POST", "/reserve", "order=a1&item=7&quantity=0").0, 409);
        assert_eq!(answer("POST", "/reserve", "item=7").0, 400);
    }

    #[test]
    fn knows_itself() {
        assert_eq!(answer("GET", "/health", "").0, 200);
        assert_eq!(answer("GET", "/version", ""), (200, format!("backend {VERSION}\n")));
        assert_eq!(answer("GET", "/nowhere", "").0, 404);
    }
}
