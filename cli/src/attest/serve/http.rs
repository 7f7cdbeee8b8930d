//! HTTP/1.1 over TLS: two paths, each takes a document and gives one.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use metalstrap_release::attest::{EVIDENCE, INTRODUCTION};
use rustls::ServerConfig;
use serde::Serialize;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use super::endpoint::{Endpoint, Refusal};
use crate::output;

/// Connections at a time; more wait.
const MOST: usize = 64;
/// No connection lasts longer.
const LONGEST: Duration = Duration::from_secs(120);
/// No request's head takes longer.
const HEAD: Duration = Duration::from_secs(10);
/// After a failure to accept a connection: too many files are open, most likely.
const PAUSE: Duration = Duration::from_millis(100);

/// Answers, for ever.
pub async fn serve(listener: TcpListener, tls: Arc<ServerConfig>, endpoint: Arc<Endpoint>) {
    let (acceptor, places) = (TlsAcceptor::from(tls), Arc::new(Semaphore::new(MOST)));
    loop {
        // The semaphore is never closed.
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                output::complain(&format!("accepting a connection: {error}"));
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        let (acceptor, endpoint) = (acceptor.clone(), endpoint.clone());
        tokio::spawn(async move {
            // Who breaks off, or speaks no TLS, gets no answer, and needs none.
            let _ = tokio::time::timeout(LONGEST, connection(stream, acceptor, endpoint)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, endpoint: Arc<Endpoint>) {
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let service = service_fn(move |request| {
        let endpoint = endpoint.clone();
        async move { Ok::<_, Infallible>(answer(endpoint, request).await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(endpoint: Arc<Endpoint>, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (path, is_post) = (request.uri().path().to_owned(), request.method() == Method::POST);
    let limit = match path.as_str() {
        "/introduction" => INTRODUCTION.max_bytes,
        "/evidence" => EVIDENCE.max_bytes,
        _ => return refuse(StatusCode::NOT_FOUND, "there are /introduction and /evidence"),
    };
    if !is_post {
        return refuse(StatusCode::METHOD_NOT_ALLOWED, "it takes POST alone");
    }
    let Ok(body) = Limited::new(request.into_body(), limit).collect().await else {
        return refuse(StatusCode::PAYLOAD_TOO_LARGE, "the document is too long, or was broken off");
    };
    let (bytes, now) = (body.to_bytes(), Instant::now());
    let answer = move || {
        if path == "/introduction" {
            endpoint.introduce(&bytes, now).and_then(|challenge| json(&challenge))
        } else {
            endpoint.judge(&bytes, now).and_then(|verdict| json(&verdict))
        }
    };
    // Threads that serve connections are few, and an answer takes its time: whoever asks must not keep the others waiting.
    let answer = tokio::task::spawn_blocking(answer).await.context("a thread that answers ended without a result");
    match answer.unwrap_or_else(|error| Err(Refusal::Failed(error))) {
        Ok(bytes) => {
            let mut response = Response::new(Full::new(bytes));
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            response
        }
        Err(Refusal::Bad(text)) => refuse(StatusCode::BAD_REQUEST, &text),
        Err(Refusal::Gone) => {
            refuse(StatusCode::GONE, "there is no such challenge: it was answered before, or has expired")
        }
        Err(Refusal::Busy) => {
            refuse(StatusCode::SERVICE_UNAVAILABLE, "too many machines are being attested: try again")
        }
        Err(Refusal::Failed(error)) => {
            // What fails here is nothing for who asks to know.
            output::complain(&format!("{error:#}"));
            refuse(StatusCode::INTERNAL_SERVER_ERROR, "the endpoint has failed: its operator can see why")
        }
    }
}

fn json(document: &impl Serialize) -> Result<Bytes, Refusal> {
    serde_json::to_vec(document).map(Bytes::from).map_err(|error| Refusal::Failed(error.into()))
}

fn refuse(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(format!("{text}\n"))));
    *response.status_mut() = status;
    response
}
