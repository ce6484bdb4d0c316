//! Pages of other origins: refused unless they are allowed. A browser sends `Origin` with every request that could do
//! harm, so that no page elsewhere makes work here by its visitors' hands.

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, Uri, header, uri::Authority};
use tower_http::cors::{AllowOrigin, CorsLayer};

use crate::{
    error::{ApiError, Result},
    settings::List,
};

/// Whose pages may ask.
#[derive(Debug)]
pub struct Origins {
    allowed: Vec<String>,
    any: bool,
}

impl Origins {
    pub fn new(allowed: &List) -> Self {
        let allowed: Vec<String> =
            allowed.0.iter().map(|origin| origin.trim_end_matches('/').to_ascii_lowercase()).collect();
        Self { any: allowed.iter().any(|origin| origin == "*"), allowed }
    }

    /// None where no other origin is allowed.
    pub fn layer(&self) -> Option<CorsLayer> {
        if self.allowed.is_empty() {
            return None;
        }
        let origins = match self.any {
            true => AllowOrigin::any(),
            false => {
                AllowOrigin::list(self.allowed.iter().filter_map(|origin| HeaderValue::from_str(origin).ok()))
            }
        };
        Some(
            CorsLayer::new()
                .allow_origin(origins)
                .allow_methods([Method::GET, Method::POST])
                .allow_headers([
                    header::AUTHORIZATION,
                    header::CONTENT_TYPE,
                    HeaderName::from_static("x-request-id"),
                ])
                .expose_headers([HeaderName::from_static("x-request-id"), header::RETRY_AFTER]),
        )
    }

    /// Refuses the page of another origin than `uri`'s, the authority of which HTTP/2 sends in place of `Host`.
    pub fn check(&self, uri: &Uri, headers: &HeaderMap, proxies: u8) -> Result<()> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
        if self.any || self.allowed.contains(&origin) {
            return Ok(());
        }
        let forwarded = headers.get("x-forwarded-host").filter(|_| proxies > 0);
        let host = forwarded.or_else(|| headers.get(header::HOST)).and_then(|host| host.to_str().ok());
        let host = host.or_else(|| uri.authority().map(Authority::as_str));
        let asking = host_of(&origin);
        if !asking.is_empty() && host.is_some_and(|host| asking == without_default_port(host)) {
            return Ok(());
        }
        Err(ApiError::permission_denied(
            "a page of another origin may not ask here; `cors_origins` allows it",
        ))
    }
}

/// `host:port` of an origin, without the port where it is the scheme's own; empty for an origin that is no host.
fn host_of(origin: &str) -> String {
    let host = origin.split_once("://").map_or("", |(_, host)| host);
    without_default_port(host)
}

fn without_default_port(host: &str) -> String {
    let host = host.to_ascii_lowercase();
    [":80", ":443"].iter().find_map(|port| host.strip_suffix(port)).unwrap_or(&host).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_ask_where_it_came_from_and_where_it_is_allowed() {
        let check = |allowed: &[&str], origin: &str, host: &str| {
            let allowed = List(allowed.iter().map(|&origin| origin.to_owned()).collect());
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            headers.insert(header::HOST, host.parse().unwrap());
            Origins::new(&allowed).check(&Uri::from_static("/"), &headers, 0).is_ok()
        };
        assert!(check(&[], "http://here:7860", "here:7860"));
        assert!(check(&[], "https://Here", "here"));
        assert!(check(&[], "http://here", "here:80"));
        assert!(!check(&[], "http://here:7861", "here:7860"));
        assert!(!check(&[], "http://there", "here"));
        assert!(!check(&[], "null", "here"));
        assert!(!check(&[], "null", ""));
        assert!(!check(&["https://a.example"], "https://a.example.evil", "here"));
        assert!(check(&["https://a.example/"], "https://a.example", "here"));
        assert!(check(&["*"], "null", "here"));
    }
}
