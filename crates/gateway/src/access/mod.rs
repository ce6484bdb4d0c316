//! Who may ask, and how often: the layer in front of every door that makes work.

mod client;
mod origin;
mod rate;
mod token;

use axum::{
    extract::{Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};

pub use client::Client;
use client::address;
use origin::Origins;
use rate::Rates;
pub use token::SUBPROTOCOL;
use token::Tokens;

use crate::{
    doors::Gateway,
    error::{ApiError, Result},
    settings::Operation,
};

/// The rules of one gateway.
#[derive(Debug)]
pub struct Access {
    origins: Origins,
    rates: Rates,
    tokens: Option<Tokens>,
    trusted_proxies: u8,
}

impl Access {
    /// Reads keys and limits; a key that cannot be used is an error.
    pub fn new(operation: &Operation) -> std::result::Result<Self, String> {
        Ok(Self {
            origins: Origins::new(&operation.cors_origins),
            rates: Rates::new(operation),
            tokens: Tokens::read(operation)?,
            trusted_proxies: operation.trusted_proxies,
        })
    }

    /// True when requests need a token.
    pub fn wants_tokens(&self) -> bool {
        self.tokens.is_some()
    }

    /// The answer to browsers that ask for another origin's page.
    pub fn cors(&self) -> Option<tower_http::cors::CorsLayer> {
        self.origins.layer()
    }

    /// Counts a WebSocket message of this client.
    pub fn message(&self, client: &Client) -> Result<()> {
        self.rates.message(client)
    }

    /// Forgets clients that have not been seen for a while.
    pub fn tidy(&self) {
        self.rates.tidy();
    }

    fn admit(&self, request: &Request) -> Result<Client> {
        self.origins.check(request.uri(), request.headers(), self.trusted_proxies)?;
        let address = address(request, self.trusted_proxies);
        self.rates.request(address)?;
        let subject = self.tokens.as_ref().map(|tokens| tokens.subject(request.headers())).transpose()?;
        let client = Client { address, subject };
        self.rates.token(&client)?;
        Ok(client)
    }
}

/// Lets a request through, or answers why not.
pub async fn admit(State(gateway): State<Gateway>, mut request: Request, next: Next) -> Response {
    if gateway.is_draining() {
        return ApiError::overloaded("the gateway is shutting down; send it again elsewhere or later")
            .retry_after(5)
            .into_response();
    }
    match gateway.access().admit(&request) {
        Ok(client) => {
            request.extensions_mut().insert(client);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}
