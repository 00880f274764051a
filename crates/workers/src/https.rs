//! The one place where HTTP clients are made, so that all of them speak TLS the same way: rustls with ring, and the
//! certificates that the system trusts (the file in `SSL_CERT_FILE` instead of them, where it is set).

/// A client's beginning: it goes straight to its server, whatever proxies the environment names.
pub fn client() -> reqwest::ClientBuilder {
    // The first call of the process installs it; that it is there already is no error.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().no_proxy()
}
