//! `/ws/translate`: translations over one connection, in the text mode and in the JSON mode.
//!
//! One task owns a connection. It sends what its translations have to say as fast as the client reads it: a client that
//! does not read holds up its own translations and nobody else's, and is given up after a while.

use std::{
    collections::{HashMap, VecDeque},
    pin::Pin,
    time::Duration,
};

use axum::{
    Extension,
    extract::{
        State, WebSocketUpgrade,
        ws::{
            CloseFrame, Message as Frame, Utf8Bytes, WebSocket, close_code,
            rejection::WebSocketUpgradeRejection as Rejection,
        },
    },
    response::Response,
};
use futures_util::{Stream, StreamExt};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    sync::OwnedSemaphorePermit,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_stream::StreamMap;

use super::{
    Gateway, body,
    translate::Message,
    work::{self, Progress},
};
use crate::{
    access::{Client, SUBPROTOCOL},
    error::{ApiError, Result},
    observe::RequestId,
    services::{Translation, Usage},
};

/// Translations of one connection at once, those that wait in the gateway's queue included.
const MAX_AT_ONCE: usize = 16;
/// Text-mode translations of one connection that wait for the one before.
const MAX_WAITING: usize = 16;
/// Time for a client to read one frame.
const SEND_PATIENCE: Duration = Duration::from_secs(30);
/// Time for a client to hear that the connection is closed.
const CLOSE_PATIENCE: Duration = Duration::from_secs(1);

/// `GET /ws/translate`
pub async fn upgrade(
    State(gateway): State<Gateway>,
    Extension(request): Extension<RequestId>,
    Extension(client): Extension<Client>,
    upgrade: std::result::Result<WebSocketUpgrade, Rejection>,
) -> Result<Response> {
    let upgrade = upgrade.map_err(|rejection| {
        ApiError::invalid_argument(format!(
            "expected the handshake of a WebSocket: {}",
            rejection.body_text()
        ))
    })?;
    gateway.translator()?;
    let permit = gateway.0.sockets.clone().try_acquire_owned().map_err(|_| {
        let count = gateway.0.operation.max_sockets;
        ApiError::overloaded(format!("{count} WebSockets are open, more are not taken; try again later"))
            .retry_after(5)
    })?;
    let max_bytes = gateway.0.operation.max_body_bytes;
    let upgrade = upgrade.max_message_size(max_bytes).max_frame_size(max_bytes).protocols([SUBPROTOCOL]);
    Ok(upgrade.on_upgrade(move |socket| Connection::new(gateway, client, request, socket, permit).run()))
}

/// Who a message belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The one translation that the text mode has at work.
    Text,
    /// One of the JSON mode, by its id.
    Id(String),
}

/// A message of the JSON mode.
#[derive(Debug, Deserialize)]
struct Command {
    #[serde(rename = "type")]
    kind: Kind,
    id: Option<String>,
    /// What is to be translated; nothing for the others.
    #[serde(flatten)]
    translation: Map<String, Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Translate,
    Stop,
    Ping,
}

impl Command {
    /// Its parts, once it has an id where one is needed and no key too many.
    fn checked(self) -> Result<(Kind, String, Map<String, Value>)> {
        let Self { kind, id, translation } = self;
        if kind != Kind::Ping && id.is_none() {
            return Err(ApiError::invalid_argument("is missing").at("id"));
        }
        match translation.keys().next().filter(|_| kind != Kind::Translate) {
            Some(key) => Err(body::unknown(key)),
            None => Ok((kind, id.unwrap_or_default(), translation)),
        }
    }
}

type Running = Pin<Box<dyn Stream<Item = Result<Progress>> + Send>>;

/// Why a connection ends.
#[derive(Debug)]
enum End {
    /// The client has gone.
    Gone,
    /// The client closes it.
    Closed,
    /// We close it, with this code.
    Close(u16, &'static str),
}

struct Connection {
    gateway: Gateway,
    client: Client,
    request: RequestId,
    socket: WebSocket,
    running: StreamMap<Key, Running>,
    usage: HashMap<Key, Usage>,
    waiting: VecDeque<Map<String, Value>>,
    last_use: Instant,
    answered_ping: bool,
    _permit: OwnedSemaphorePermit,
}

impl Connection {
    fn new(
        gateway: Gateway,
        client: Client,
        request: RequestId,
        socket: WebSocket,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            gateway,
            client,
            request,
            socket,
            running: StreamMap::new(),
            usage: HashMap::new(),
            waiting: VecDeque::new(),
            last_use: Instant::now(),
            answered_ping: true,
            _permit: permit,
        }
    }

    async fn run(mut self) {
        let Err(end) = self.serve().await else { return };
        // From here on nothing is at work.
        self.running.clear();
        match end {
            End::Gone => return,
            End::Closed => {}
            End::Close(code, reason) => {
                let _ = self.tell(None, &Message::Closing { reason }).await;
                let frame = CloseFrame { code, reason: Utf8Bytes::from_static(reason) };
                let _ = self.send(Frame::Close(Some(frame))).await;
            }
        }
        // Both sides say that it ends, or the one that does not hear it takes the connection for broken.
        let closing = async { while let Some(Ok(_)) = self.socket.recv().await {} };
        let _ = timeout(CLOSE_PATIENCE, closing).await;
        if matches!(end, End::Close(close_code::SIZE, _)) {
            // What is left of the message is not read, and to close on it would take the code back on its way.
            tokio::time::sleep(CLOSE_PATIENCE).await;
        }
    }

    async fn serve(&mut self) -> std::result::Result<(), End> {
        let operation = &self.gateway.0.operation;
        let idle = Duration::from_secs(operation.socket_idle_s);
        let mut pings = interval(Duration::from_secs(operation.socket_ping_s));
        pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
        pings.reset();
        let mut draining = self.gateway.draining();
        loop {
            let at_work = !self.running.is_empty();
            if !at_work && *draining.borrow() {
                return Err(End::Close(close_code::AWAY, "the gateway is shutting down"));
            }
            tokio::select! {
                frame = self.socket.recv() => self.take(frame).await?,
                Some((key, progress)) = self.running.next(), if at_work => self.progress(&key, progress).await?,
                _ = pings.tick() => {
                    if !std::mem::replace(&mut self.answered_ping, false) {
                        return Err(End::Gone);
                    }
                    self.send(Frame::Ping(axum::body::Bytes::new())).await?;
                }
                () = tokio::time::sleep_until(self.last_use + idle), if !at_work => {
                    return Err(End::Close(close_code::NORMAL, "nothing was sent for too long"));
                }
                _ = draining.changed() => {}
            }
        }
    }

    async fn take(
        &mut self,
        frame: Option<std::result::Result<Frame, axum::Error>>,
    ) -> std::result::Result<(), End> {
        match frame {
            Some(Ok(Frame::Text(text))) => {
                self.last_use = Instant::now();
                if let Err(error) = self.gateway.access().message(&self.client) {
                    self.refuse(None, error).await?;
                    return Err(End::Close(close_code::POLICY, "too many messages"));
                }
                self.message(text.as_str()).await
            }
            Some(Ok(Frame::Binary(_))) => {
                Err(End::Close(close_code::UNSUPPORTED, "messages are JSON in text frames"))
            }
            Some(Ok(Frame::Pong(_))) => {
                self.answered_ping = true;
                Ok(())
            }
            Some(Ok(Frame::Ping(_))) => Ok(()),
            Some(Ok(Frame::Close(_))) => Err(End::Closed),
            None => Err(End::Gone),
            Some(Err(error)) => Err(why_broken(error)),
        }
    }

    async fn message(&mut self, text: &str) -> std::result::Result<(), End> {
        if text.trim() == "[STOP]" {
            self.waiting.clear();
            return self.stop(&Key::Text).await;
        }
        let object: Map<String, Value> = match body::parse(text.as_bytes()) {
            Ok(object) => object,
            Err(error) => return self.refuse_text(error).await,
        };
        if !object.contains_key("type") {
            if self.running.contains_key(&Key::Text) {
                if self.waiting.len() >= MAX_WAITING {
                    let error =
                        format!("{MAX_WAITING} translations wait on this connection, more are not taken");
                    return self.refuse_text(ApiError::overloaded(error)).await;
                }
                self.waiting.push_back(object);
                return Ok(());
            }
            return self.begin(Key::Text, object).await;
        }
        let id = object.get("id").and_then(Value::as_str).map(str::to_owned);
        match body::of_value(Value::Object(object)).and_then(Command::checked) {
            Ok((Kind::Ping, ..)) => self.tell(None, &Message::Pong).await,
            Ok((Kind::Stop, id, _)) => self.stop(&Key::Id(id)).await,
            Ok((Kind::Translate, id, translation)) => match self.check(&id) {
                Ok(()) => self.begin(Key::Id(id), translation).await,
                Err(error) => self.refuse(Some(&id), error).await,
            },
            Err(error) => self.refuse(id.as_deref(), error).await,
        }
    }

    fn check(&self, id: &str) -> Result<()> {
        if !(1..=64).contains(&id.chars().count()) {
            return Err(ApiError::invalid_argument("expected 1 to 64 characters").at("id"));
        }
        if self.running.contains_key(&Key::Id(id.to_owned())) {
            return Err(ApiError::invalid_argument("is in use on this connection").at("id"));
        }
        if self.running.len() >= MAX_AT_ONCE {
            let error =
                format!("{MAX_AT_ONCE} translations are at work on this connection, more are not taken");
            return Err(ApiError::overloaded(error).retry_after(1));
        }
        Ok(())
    }

    async fn begin(&mut self, key: Key, translation: Map<String, Value>) -> std::result::Result<(), End> {
        match self.work(translation) {
            Ok(work) => {
                self.running.insert(key, work);
                Ok(())
            }
            Err(error) => match key {
                Key::Text => self.refuse_text(error).await,
                Key::Id(id) => self.refuse(Some(&id), error).await,
            },
        }
    }

    fn work(&self, translation: Map<String, Value>) -> Result<Running> {
        if self.gateway.is_draining() {
            return Err(
                ApiError::overloaded("the gateway is shutting down; connect again later").retry_after(5)
            );
        }
        let translation: Translation = body::of_value(Value::Object(translation))?;
        let prepared = self.gateway.translator()?.prepare(&translation)?;
        let waiting = self.gateway.gate().queue()?;
        Ok(Box::pin(work::translation(self.gateway.clone(), prepared, waiting, self.request.clone())))
    }

    async fn progress(&mut self, key: &Key, progress: Result<Progress>) -> std::result::Result<(), End> {
        self.last_use = Instant::now();
        let ended = match &progress {
            Ok(Progress::Delta(_, usage)) => {
                self.usage.insert(key.clone(), *usage);
                false
            }
            Ok(progress) => matches!(progress, Progress::Done(..)),
            Err(_) => true,
        };
        if ended {
            self.forget(key);
        }
        match key {
            Key::Text => match progress {
                Ok(Progress::Queued(position)) => self.write(format!("[QUEUED] {position}")).await?,
                Ok(Progress::Started(..)) => {}
                Ok(Progress::Delta(text, _)) => self.write(text).await?,
                Ok(Progress::Done(..)) => self.write("[END]".to_owned()).await?,
                Err(error) => self.refuse_text(error).await?,
            },
            Key::Id(id) => match progress {
                Ok(progress) => self.tell(Some(id), &progress.message()).await?,
                Err(error) => self.refuse(Some(id), error).await?,
            },
        }
        if ended && *key == Key::Text {
            self.next_text().await?;
        }
        Ok(())
    }

    /// Begins the text-mode translations that waited, up to the first that can.
    async fn next_text(&mut self) -> std::result::Result<(), End> {
        while !self.running.contains_key(&Key::Text)
            && let Some(translation) = self.waiting.pop_front()
        {
            self.begin(Key::Text, translation).await?;
        }
        Ok(())
    }

    async fn stop(&mut self, key: &Key) -> std::result::Result<(), End> {
        // Dropping the work ends it in the server.
        let was_running = self.running.remove(key).is_some();
        let usage = self.forget(key);
        match key {
            Key::Text => self.write("[STOPPED]".to_owned()).await,
            Key::Id(id) if was_running => self.tell(Some(id), &Message::Stopped { usage }).await,
            Key::Id(id) => {
                let error = ApiError::invalid_argument("no translation at work has it").at("id");
                self.refuse(Some(id), error).await
            }
        }
    }

    fn forget(&mut self, key: &Key) -> Usage {
        self.running.remove(key);
        self.usage.remove(key).unwrap_or_default()
    }

    async fn refuse(&mut self, id: Option<&str>, error: ApiError) -> std::result::Result<(), End> {
        let request = self.request.clone();
        self.tell(Some(id.unwrap_or_default()), &Message::Error { error: error.body(request.as_str()) }).await
    }

    async fn refuse_text(&mut self, error: ApiError) -> std::result::Result<(), End> {
        self.write(format!("[ERROR] {error}")).await
    }

    /// Sends a message of the JSON mode. An empty id is one that could not be told, and is sent as null.
    async fn tell(&mut self, id: Option<&str>, message: &Message<'_>) -> std::result::Result<(), End> {
        let mut value = json!(message);
        if let (Some(id), Some(object)) = (id, value.as_object_mut()) {
            object.insert("id".to_owned(), if id.is_empty() { Value::Null } else { json!(id) });
        }
        self.write(value.to_string()).await
    }

    async fn write(&mut self, text: String) -> std::result::Result<(), End> {
        self.send(Frame::text(text)).await
    }

    async fn send(&mut self, frame: Frame) -> std::result::Result<(), End> {
        match timeout(SEND_PATIENCE, self.socket.send(frame)).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(End::Gone),
        }
    }
}

fn why_broken(error: axum::Error) -> End {
    let reason = error.to_string();
    if reason.contains("too long") || reason.contains("Space limit exceeded") {
        return End::Close(close_code::SIZE, "the message is longer than is taken");
    }
    End::Gone
}
