//! Follows whether Triton and the models are ready, so that a request is refused at once instead of being tried.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError, RwLock},
    time::Duration,
};

use tokio::time::{sleep, timeout};

use super::{Client, ModelFacts, wire};

/// Time between two looks; after a failure it is the time until the services come back, at most.
const INTERVAL: Duration = Duration::from_secs(1);
/// Triton answers these at once unless it is overrun.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is ready, as it was last seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Health {
    /// The server.
    pub triton: bool,
    /// Each model that a service wants: what is known of it while it is ready.
    pub models: BTreeMap<String, Option<ModelFacts>>,
}

impl Health {
    /// True when the server and every model is.
    pub fn is_ready(&self) -> bool {
        self.triton && self.models.values().all(Option::is_some)
    }
}

#[derive(Debug)]
pub(super) struct Watched {
    names: Vec<String>,
    seen: RwLock<Arc<Health>>,
    epochs: Mutex<HashMap<String, u64>>,
}

impl Watched {
    pub fn new(names: Vec<String>) -> Self {
        let models = names.iter().map(|name| (name.clone(), None)).collect();
        let seen = RwLock::new(Arc::new(Health { triton: false, models }));
        Self { names, seen, epochs: Mutex::default() }
    }

    pub fn health(&self) -> Arc<Health> {
        self.seen.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub async fn run(&self, mut client: Client) {
        loop {
            let before = self.health();
            let now = timeout(PATIENCE, self.look(&mut client, &before)).await;
            let now = now.unwrap_or_else(|_| self.nothing());
            if now != *before {
                tell(&before, &now);
                *self.seen.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(now);
            }
            sleep(INTERVAL).await;
        }
    }

    fn nothing(&self) -> Health {
        Health { triton: false, models: self.names.iter().map(|name| (name.clone(), None)).collect() }
    }

    async fn look(&self, client: &mut Client, before: &Health) -> Health {
        let mut now = self.nothing();
        let ready = client.server_ready(wire::ServerReadyRequest {}).await;
        now.triton = ready.is_ok_and(|answer| answer.into_inner().ready);
        if now.triton {
            for name in &self.names {
                let known = before.models.get(name).and_then(Option::as_ref);
                now.models.insert(name.clone(), self.facts(client, name, known).await);
            }
        }
        now
    }

    async fn facts(&self, client: &mut Client, name: &str, known: Option<&ModelFacts>) -> Option<ModelFacts> {
        let asked = wire::ModelReadyRequest { name: name.to_owned(), version: String::new() };
        if !client.model_ready(asked).await.is_ok_and(|answer| answer.into_inner().ready) {
            return None;
        }
        if known.is_some() {
            return known.cloned();
        }
        let asked = wire::ModelConfigRequest { name: name.to_owned(), version: String::new() };
        let config = client.model_config(asked).await.ok()?.into_inner().config?;
        let mut epochs = self.epochs.lock().unwrap_or_else(PoisonError::into_inner);
        let epoch = epochs.entry(name.to_owned()).and_modify(|epoch| *epoch += 1).or_insert(1);
        Some(ModelFacts::of(&config, *epoch))
    }
}

fn tell(before: &Health, now: &Health) {
    match (before.triton, now.triton) {
        (false, true) => tracing::info!("Triton is ready"),
        (true, false) => tracing::warn!("Triton cannot be reached"),
        _ => {}
    }
    for (model, facts) in &now.models {
        let was = before.models.get(model).is_some_and(Option::is_some);
        match (was, facts) {
            (false, Some(_)) => tracing::info!(model, "model is ready"),
            (true, None) => tracing::warn!(model, "model is not ready"),
            _ => {}
        }
    }
}
