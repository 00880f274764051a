//! The shop's pages and its orders. An order's number says what was ordered, so that every box can show every order
//! without a database.

use crate::faults::Faults;
use crate::http::{Request, Response, call, field};
use crate::version::VERSION;
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

/// Items are numbered from 1 to this.
const ITEMS: u64 = 1000;

/// The service.
pub struct App {
    faults: Faults,
    backend: String,
}

impl App {
    /// `environment` is the one that it runs in, such as `beta`; `backend` is where the stock is kept.
    pub fn new(environment: &str, backend: &str) -> Self {
        Self { faults: Faults::new(environment), backend: backend.to_string() }
    }

    /// As told by the process's environment variables: `TIDEGATE_ENDPOINT_BACKEND` is the backend to call.
    pub fn from_environment() -> Self {
        let variable = |name| std::env::var(name).unwrap_or_default();
        Self::new(&variable("TIDEGATE_ENVIRONMENT"), &variable("TIDEGATE_ENDPOINT_BACKEND"))
    }

    /// Answers a request.
    pub fn handle(&self, request: &Request) -> Response {
        if request.path == "/health" {
            return Response::new(200, "ok\n");
        }
        thread::sleep(self.faults.delay());
        if self.faults.fails() {
            eprintln!("ERROR {} {}: the basket is upside down", request.method, request.path);
            return Response::new(500, "internal error\n");
        }
        match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => Response::new(200, "welcome\n"),
            ("GET", "/version") => Response::new(200, format!("frontend {VERSION}\n")),
            ("GET", path) if path.starts_with("/items/") => show_item(&path["/items/".len()..]),
            ("GET", path) if path.starts_with("/orders/") => show_order(&path["/orders/".len()..]),
            ("POST", "/orders") => self.order(&request.body),
            _ => Response::new(404, "not found\n"),
        }
    }

    fn order(&self, form: &str) -> Response {
        let number = |name| field(form, name).and_then(|value| value.parse::<u64>().ok());
        let (Some(item), Some(quantity)) = (number("item"), number("quantity")) else {
            return Response::new(400, "item and quantity are needed\n");
        };
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos());
        let order = format!("{item}-{quantity}-{now:x}");
        // Named by its order, the reservation is idempotent and may be sent again.
        let reservation = format!("order={order}&item={item}&quantity={quantity}");
        match call(&self.backend, "POST", "/reserve", &reservation) {
            Ok(answer) if answer.status == 200 => Response::new(201, format!("{order}\n")),
            Ok(answer) if answer.status < 500 => answer,
            Ok(answer) => {
                eprintln!("ERROR the backend answered {}", answer.status);
                Response::new(502, "the backend failed\n")
            }
            Err(error) => {
                eprintln!("ERROR failed to reach the backend: {error}");
                Response::new(502, "the backend cannot be reached\n")
            }
        }
    }
}

fn show_item(item: &str) -> Response {
    match item.parse::<u64>() {
        Ok(item) if (1..=ITEMS).contains(&item) => Response::new(200, format!("item {item}\n")),
        _ => Response::new(404, "no such item\n"),
    }
}

fn show_order(order: &str) -> Response {
    let mut parts = order.split('-');
    let mut number = || parts.next().and_then(|part| part.parse::<u64>().ok());
    match (number(), number()) {
        (Some(item), Some(quantity)) => Response::new(200, format!("{quantity} of item {item}\n")),
        _ => Response::new(404, "no such order\n"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http::serve;
    use std::net::TcpListener;
    use std::sync::Arc;

    /// A backend that answers every request with `status`.
    fn backend(status: u16) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || serve(&listener, Arc::new(move |_| Response::new(status, "answer\n"))));
        address
    }

    fn answer(backend: &str, method: &str, path: &str, body: &str) -> Response {
        let request = Request { method: method.to_string(), path: path.to_string(), body: body.to_string() };
        App::new("test", backend).handle(&request)
    }

    #[test]
    fn shows_pages() {
        assert_eq!(answer("", "GET", "/", ""), Response::new(200, "welcome\n"));
        assert_eq!(answer("", "GET", "/items/7", ""), Response::new(200, "item 7\n"));
        assert_eq!(answer("", "GET", "/items/1001", "").status, 404);
        assert_eq!(answer("", "GET", "/nowhere", "").status, 404);
    }

    #[test]
    fn an_order_can_be_read_again() {
        let backend = backend(200);
        let order = answer(&backend, "POST", "/orders", "item=7&quantity=2");
        assert_eq!(order.status, 201);
        let path = format!("/orders/{}", order.body.trim());
        assert_eq!(answer("", "GET", &path, ""), Response::new(200, "2 of item 7\n"));
        assert_eq!(answer("", "GET", "/orders/none", "").status, 404);
    }

    #[test]
    fn tells_a_refusal_from_a_failure() {
        assert_eq!(answer(&backend(409), "POST", "/orders", "item=7&quantity=99").status, 409);
        assert_eq!(answer(&backend(500), "POST", "/orders", "item=7&quantity=2").status, 502);
        assert_eq!(answer("", "POST", "/orders", "item=7&quantity=2").status, 502);
        assert_eq!(answer("", "POST", "/orders", "item=7").status, 400);
    }
}
