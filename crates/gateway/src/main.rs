//! `textgen-gateway`: the web door of textgen, a process of its own in front of Triton.
//!
//! - `settings` is what an operator says, `observe` what an operator sees.
//! - `triton` speaks to the server; `services` do the work; `doors` speak HTTP and WebSocket; `access` decides who may
//!   pass one.
//!
//! Imports go from `doors` to `services` to `triton`; everything may use `error`, `settings` and `observe`.

mod access;
mod doors;
mod error;
mod observe;
mod services;
mod settings;
mod triton;

use std::{
    net::{SocketAddr, TcpListener},
    process::ExitCode,
    time::Duration,
};

use axum_server::{
    Handle,
    accept::NoDelayAcceptor,
    tls_rustls::{RustlsAcceptor, RustlsConfig},
};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::{interval, timeout},
};

use crate::{
    doors::Gateway,
    observe::Metrics,
    settings::{Operation, Settings},
};

/// Time for an answer that is complete to leave.
const LAST_BYTES: Duration = Duration::from_secs(2);
/// Time for the head of a request to arrive.
const HEAD_PATIENCE: Duration = Duration::from_secs(30);

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), String> {
    let settings = Settings::read()?;
    let _log = observe::start_log(&settings.operation)?;
    let runtime =
        tokio::runtime::Runtime::new().map_err(|error| format!("no threads to work with: {error}"))?;
    runtime.block_on(serve(settings))
}

async fn serve(settings: Settings) -> Result<(), String> {
    let operation = settings.operation.clone();
    // Two providers may be compiled in; this one is meant.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let tls = tls(&operation).await?;
    let (gateway, triton) = Gateway::new(settings, Metrics::start()?)?;
    let listener = listen(&operation)?;
    let address = listener.local_addr().map_err(|error| error.to_string())?;
    tokio::spawn(triton.watch());
    tokio::spawn(tidy(gateway.clone()));
    let handle = Handle::new();
    let drain = Duration::from_secs(operation.drain_s);
    tokio::spawn(stop(gateway.clone(), handle.clone(), drain)?);
    let scheme = if tls.is_some() { "https" } else { "http" };
    tracing::info!(%address, url = format!("{scheme}://{address}/"), triton = operation.triton, "listening");
    let service = gateway.router().into_make_service_with_connect_info::<SocketAddr>();
    let wrong = |error: std::io::Error| format!("cannot serve on {address}: {error}");
    let mut server = axum_server::from_tcp(listener).map_err(wrong)?.handle(handle);
    server.http_builder().http1().header_read_timeout(HEAD_PATIENCE);
    // A piece of text leaves at once, rather than with the next one or when the client has confirmed the last.
    let eager = NoDelayAcceptor::new();
    let served = match tls {
        Some(tls) => server.acceptor(RustlsAcceptor::new(tls).acceptor(eager)).serve(service).await,
        None => server.acceptor(eager).serve(service).await,
    };
    served.map_err(wrong)?;
    tracing::info!("stopped");
    Ok(())
}

fn listen(operation: &Operation) -> Result<TcpListener, String> {
    let Operation { host, port, .. } = operation;
    let listener = TcpListener::bind((host.as_str(), *port));
    let listener = listener.and_then(|listener| listener.set_nonblocking(true).map(|()| listener));
    listener.map_err(|error| {
        format!("cannot listen on {host}:{port}: {error}; choose another with --port or WEB_PORT")
    })
}

async fn tls(operation: &Operation) -> Result<Option<RustlsConfig>, String> {
    let (Some(cert), Some(key)) = (&operation.tls_cert, &operation.tls_key) else { return Ok(None) };
    let config = RustlsConfig::from_pem_file(cert, key).await;
    let wrong = |error| format!("tls_cert {}, tls_key {}: {error}", cert.display(), key.display());
    config.map(Some).map_err(wrong)
}

async fn tidy(gateway: Gateway) {
    let mut minutes = interval(Duration::from_secs(60));
    loop {
        minutes.tick().await;
        gateway.access().tidy();
    }
}

/// Waits for a signal, then takes nothing new and gives what runs its time.
fn stop(
    gateway: Gateway,
    handle: Handle<SocketAddr>,
    drain: Duration,
) -> Result<impl Future<Output = ()> + Send, String> {
    let wrong = |error| format!("cannot listen to signals: {error}");
    let mut terminate = signal(SignalKind::terminate()).map_err(wrong)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(wrong)?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!(drain_s = drain.as_secs(), "shutting down");
        gateway.drain();
        // Meanwhile connections are taken: who asks is told so, and a balancer sees that it is not ready.
        let _ = timeout(drain, gateway.idle()).await;
        handle.graceful_shutdown(Some(LAST_BYTES));
    })
}
