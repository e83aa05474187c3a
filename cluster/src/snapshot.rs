//! The whole state as one message, and back.
//!
//! A snapshot is the only form in which payloads leave the vault in number. It
//! can be written in pieces, so that only one piece lies open at a time: a
//! `StateSnapshot` message cut between objects is itself such messages, and
//! decoding them one after the other, or joined, gives the same state.

use std::{iter, sync::Arc};

use prost::Message;
use prost_types::Timestamp;

use crate::{
    certificates::Record,
    change::Refusal,
    codec::CodecError,
    credentials::SealedCredentials,
    objects::{Ban, Cluster, Config, LimitedToken, Node, Secret, Service, StateSnapshot, Task},
    state::{State, StoredSecret},
    vault::Vault,
    wiped::{Wiped, wipe},
};

/// The newest snapshot format that this binary writes and reads.
pub const SNAPSHOT_FORMAT: u32 = 1;
/// A piece of a snapshot ends after the object that brings it to this size, in bytes.
const PIECE_BYTES: usize = 256 * 1024;

/// The objects of a state as they were at one moment, without the indexes: quick to make, as
/// objects and sealed payloads are shared. A snapshot is written from it while commands go on.
pub struct FrozenState {
    vault: Arc<dyn Vault>,
    version: u64,
    last_time: Option<Timestamp>,
    cluster: Option<Arc<Cluster>>,
    nodes: Vec<Arc<Node>>,
    secrets: Vec<StoredSecret>,
    configs: Vec<Arc<Config>>,
    services: Vec<Arc<Service>>,
    tasks: Vec<Arc<Task>>,
    bans: Vec<Ban>,
    certificates: Vec<Arc<Record>>,
    join_tokens: Vec<Arc<LimitedToken>>,
    credentials: SealedCredentials,
}

impl FrozenState {
    /// The whole state as bytes, piece by piece; joined they are the encoding
    /// of [`State::snapshot`]. Payloads of one piece at a time are open.
    pub fn pieces(&self) -> impl Iterator<Item = Wiped> {
        let one = |fill: &dyn Fn(&mut StateSnapshot)| {
            let mut piece = StateSnapshot::default();
            fill(&mut piece);
            encode(&piece)
        };
        let objects = iter::empty()
            .chain(iter::once_with(|| encode(&self.head())))
            .chain(
                self.nodes
                    .iter()
                    .map(move |node| one(&|p| p.nodes.push((**node).clone()))),
            )
            .chain(
                self.secrets
                    .iter()
                    .map(move |stored| one(&|p| p.secrets.push(self.opened(stored)))),
            )
            .chain(
                self.configs
                    .iter()
                    .map(move |config| one(&|p| p.configs.push((**config).clone()))),
            )
            .chain(
                self.services
                    .iter()
                    .map(move |service| one(&|p| p.services.push(self.opened_service(service)))),
            )
            .chain(
                self.tasks
                    .iter()
                    .map(move |task| one(&|p| p.tasks.push(self.opened_task(task)))),
            )
            .chain(
                self.bans
                    .iter()
                    .map(move |ban| one(&|p| p.bans.push(ban.clone()))),
            )
            .chain(iter::once_with(move || {
                one(&|p| p.last_time = self.last_time)
            }))
            .chain(
                self.certificates
                    .iter()
                    .map(move |record| one(&|p| p.certificates.push(record.to_object()))),
            )
            .chain(
                self.join_tokens
                    .iter()
                    .map(move |token| one(&|p| p.join_tokens.push((**token).clone()))),
            );
        gather(objects)
    }

    fn whole(&self) -> StateSnapshot {
        let mut whole = self.head();
        whole.nodes = self.nodes.iter().map(|node| (**node).clone()).collect();
        whole.secrets = self.secrets.iter().map(|s| self.opened(s)).collect();
        whole.configs = self.configs.iter().map(|c| (**c).clone()).collect();
        whole.services = self
            .services
            .iter()
            .map(|s| self.opened_service(s))
            .collect();
        whole.tasks = self
            .tasks
            .iter()
            .map(|task| self.opened_task(task))
            .collect();
        whole.bans.clone_from(&self.bans);
        whole.last_time = self.last_time;
        let certificates = self.certificates.iter();
        whole.certificates = certificates.map(|record| record.to_object()).collect();
        whole.join_tokens = self.join_tokens.iter().map(|t| (**t).clone()).collect();
        whole
    }

    fn head(&self) -> StateSnapshot {
        let mut head = StateSnapshot::default();
        head.format = SNAPSHOT_FORMAT;
        head.version = self.version;
        head.cluster = self.cluster.as_deref().cloned();
        head
    }

    /// A service with the credentials that its specs hold.
    fn opened_service(&self, service: &Service) -> Service {
        let mut service = service.clone();
        for spec in [&mut service.spec, &mut service.previous_spec] {
            let task = spec.as_mut().and_then(|spec| spec.task.as_mut());
            self.credentials.open_in(&*self.vault, task);
        }
        service
    }

    /// A task with the credentials that it holds.
    fn opened_task(&self, task: &Task) -> Task {
        let mut task = task.clone();
        self.credentials.open_in(&*self.vault, task.spec.as_mut());
        task
    }

    /// A secret with its payload.
    fn opened(&self, stored: &StoredSecret) -> Secret {
        let mut secret = (*stored.object).clone();
        let mut payload = self.vault.open(&stored.sealed);
        if let Some(spec) = &mut secret.spec {
            spec.data = std::mem::take(&mut *payload);
        }
        secret
    }
}

impl State {
    /// The objects as they are now.
    pub fn freeze(&self) -> FrozenState {
        FrozenState {
            vault: Arc::clone(&self.vault),
            version: self.version,
            last_time: self.last_time,
            cluster: self.cluster.clone(),
            nodes: self.nodes.values().cloned().collect(),
            secrets: self.secrets.values().cloned().collect(),
            configs: self.configs.values().cloned().collect(),
            services: self.services.values().cloned().collect(),
            tasks: self.tasks.values().cloned().collect(),
            bans: self.bans.iter().cloned().collect(),
            certificates: self.certificates.by_nodes().cloned().collect(),
            join_tokens: self.join_tokens.values().cloned().collect(),
            credentials: self.credentials.sealed.clone(),
        }
    }

    /// The whole state, payloads opened, for the sealed snapshot file only.
    /// Wiped when dropped. [`FrozenState::pieces`] needs less memory.
    pub fn snapshot(&self) -> StateSnapshot {
        self.freeze().whole()
    }

    /// The state that [`State::snapshot`] was taken of.
    ///
    /// # Errors
    /// [`Refusal::TooNew`] for a newer format; [`Refusal::Invalid`] if objects lack
    /// ids or specs, or share an id or name.
    pub fn restore(mut snapshot: StateSnapshot, vault: Arc<dyn Vault>) -> Result<State, Refusal> {
        let mut restorer = Restorer::new(vault);
        restorer.take(&mut snapshot)?;
        restorer.finish()
    }
}

/// Puts a state together from the pieces of a snapshot.
pub struct Restorer {
    state: State,
    format: u32,
}

impl Restorer {
    /// Nothing yet.
    pub fn new(vault: Arc<dyn Vault>) -> Restorer {
        Restorer {
            state: State::new(vault),
            format: 0,
        }
    }

    /// Adds the next piece, as [`FrozenState::pieces`] made it (or several, joined).
    ///
    /// # Errors
    /// [`Refusal`] as for [`State::restore`]; [`Refusal::Invalid`] also for bytes
    /// that are no snapshot. The restorer is of no use then.
    pub fn add(&mut self, piece: &[u8]) -> Result<(), Refusal> {
        let mut piece = StateSnapshot::decode(piece).map_err(|_| {
            Refusal::invalid(CodecError::Malformed { what: "snapshot" }.to_string())
        })?;
        self.take(&mut piece)
    }

    /// The whole state.
    ///
    /// # Errors
    /// [`Refusal::Invalid`] if the piece with the format never came.
    pub fn finish(self) -> Result<State, Refusal> {
        match self.format {
            0 => Err(malformed("format")),
            _ => Ok(self.state),
        }
    }

    fn take(&mut self, piece: &mut StateSnapshot) -> Result<(), Refusal> {
        if piece.format > SNAPSHOT_FORMAT {
            return Err(Refusal::TooNew {
                found: piece.format,
                supported: SNAPSHOT_FORMAT,
            });
        }
        if piece.format != 0 {
            self.format = piece.format;
        }
        // A cut between fields can part it from the format.
        if piece.version != 0 {
            self.state.version = piece.version;
        }
        if let Some(cluster) = piece.cluster.take() {
            self.state.set_cluster(cluster);
        }
        for secret in std::mem::take(&mut piece.secrets) {
            self.take_secret(secret)?;
        }
        self.take_open_objects(piece)?;
        for ban in std::mem::take(&mut piece.bans) {
            self.state.bans.insert(ban);
        }
        if piece.last_time.is_some() {
            self.state.last_time = piece.last_time;
        }
        for record in std::mem::take(&mut piece.certificates) {
            let record = Record::of_object(record).ok_or(malformed("certificate"))?;
            if self.state.certificates.get(&record.serial).is_some() {
                return Err(malformed("certificate"));
            }
            self.state.certificates.put(record);
        }
        for token in std::mem::take(&mut piece.join_tokens) {
            let taken = self.state.join_tokens.contains_key(&token.id);
            checked_id(&token.id, taken, "join token")?;
            self.state.set_join_token(token);
        }
        Ok(())
    }

    fn take_secret(&mut self, mut secret: Secret) -> Result<(), Refusal> {
        let spec = secret.spec.as_mut().ok_or(malformed("secret"))?;
        let payload = Wiped::new(std::mem::take(&mut spec.data));
        let name = crate::naming::secret_name(&secret);
        let taken = self.state.secrets.contains_key(&secret.id)
            || self.state.secret_names.id_of(name).is_some();
        if secret.id.is_empty() || taken {
            return Err(malformed("secret"));
        }
        self.state.set_secret(secret, Some(&payload));
        Ok(())
    }

    fn take_open_objects(&mut self, piece: &mut StateSnapshot) -> Result<(), Refusal> {
        let state = &mut self.state;
        for node in std::mem::take(&mut piece.nodes) {
            let id = checked_id(&node.id, state.nodes.contains_key(&node.id), "node")?;
            state.set_node(&id, Some(node));
        }
        for config in std::mem::take(&mut piece.configs) {
            let name = crate::naming::config_name(&config);
            let taken =
                state.configs.contains_key(&config.id) || state.config_names.id_of(name).is_some();
            let id = checked_id(&config.id, taken, "config")?;
            state.set_config(&id, Some(config));
        }
        for mut service in std::mem::take(&mut piece.services) {
            let name = crate::naming::service_name(&service);
            let taken = state.services.contains_key(&service.id)
                || state.service_names.id_of(name).is_some();
            let id = checked_id(&service.id, taken, "service")?;
            state.seal_in_service(&mut service);
            state.set_service(&id, Some(service));
        }
        for mut task in std::mem::take(&mut piece.tasks) {
            let id = checked_id(&task.id, state.tasks.contains_key(&task.id), "task")?;
            let service = state.service(&task.service_id).cloned();
            state.seal_in(task.spec.as_mut(), service.as_deref());
            state.set_task(&id, Some(task));
        }
        Ok(())
    }
}

fn checked_id(id: &str, taken: bool, kind: &'static str) -> Result<String, Refusal> {
    if id.is_empty() || taken {
        return Err(malformed(kind));
    }
    Ok(id.to_owned())
}

fn malformed(part: &'static str) -> Refusal {
    Refusal::invalid(format!("malformed snapshot: {part}"))
}

/// Sized once, so that no copy of a payload is left behind by growing.
fn encode(piece: &StateSnapshot) -> Wiped {
    Wiped::new(piece.encode_to_vec())
}

/// Joins small parts into pieces of about [`PIECE_BYTES`].
fn gather(parts: impl Iterator<Item = Wiped>) -> impl Iterator<Item = Wiped> {
    let mut parts = parts.filter(|part| !part.is_empty());
    iter::from_fn(move || {
        let mut held = vec![parts.next()?];
        let mut bytes = held[0].len();
        while bytes < PIECE_BYTES {
            let Some(part) = parts.next() else { break };
            bytes += part.len();
            held.push(part);
        }
        let mut piece = Wiped::new(Vec::with_capacity(bytes));
        for part in &held {
            piece.extend_from_slice(part);
        }
        Some(piece)
    })
}

impl Drop for StateSnapshot {
    fn drop(&mut self) {
        for spec in self.secrets.iter_mut().filter_map(|s| s.spec.as_mut()) {
            wipe(&mut spec.data);
        }
        if let Some(root) = self.cluster.as_mut().and_then(|c| c.root_ca.as_mut()) {
            wipe(&mut root.ca_key);
        }
        if let Some(key) = self.cluster.as_mut().and_then(|c| c.unlock_key.as_mut()) {
            wipe(&mut key.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        objects::Task,
        testing::{FlippingVault, bootstrapped, create_secret, run, with_running_service},
    };

    fn restore(change: impl FnOnce(&mut StateSnapshot)) -> Result<State, Refusal> {
        let mut snapshot = with_running_service().snapshot();
        change(&mut snapshot);
        State::restore(snapshot, Arc::new(FlippingVault))
    }

    #[test]
    fn snapshots_that_are_not_restored() {
        let newer = restore(|snapshot| snapshot.format = SNAPSHOT_FORMAT + 1);
        assert!(matches!(
            newer.err(),
            Some(Refusal::TooNew { found: 2, .. })
        ));
        let faults: [fn(&mut StateSnapshot); 7] = [
            |snapshot| snapshot.format = 0,
            |snapshot| snapshot.secrets.push(snapshot.secrets[0].clone()),
            |snapshot| snapshot.secrets[0].id.clear(),
            |snapshot| snapshot.secrets[0].spec = None,
            |snapshot| {
                let mut same_name = snapshot.services[0].clone();
                same_name.id = "other".into();
                snapshot.services.push(same_name);
            },
            |snapshot| snapshot.tasks.push(Task::default()),
            |snapshot| snapshot.nodes.push(snapshot.nodes[0].clone()),
        ];
        for (index, fault) in faults.into_iter().enumerate() {
            let refusal = restore(fault).err();
            assert!(
                matches!(refusal, Some(Refusal::Invalid { .. })),
                "fault {index}"
            );
        }
        let mut restorer = Restorer::new(Arc::new(FlippingVault));
        assert!(restorer.add(b"\xff\xff").is_err());
    }

    #[test]
    fn payloads_come_back_sealed() {
        let state = restore(|_| {}).unwrap();
        assert_eq!(state.secret_payload("s1").unwrap().as_slice(), b"payload");
        assert_ne!(&*state.secrets["s1"].sealed, b"payload");
        assert_eq!(state.secret_payload_bytes("s1"), Some(7));
        assert!(
            state
                .secret("s1")
                .unwrap()
                .spec
                .as_ref()
                .unwrap()
                .data
                .is_empty()
        );
    }

    /// As a reader meets them that cuts where a chunk of the file ends.
    #[test]
    fn pieces_may_be_cut_between_any_fields() {
        let state = with_running_service();
        let whole = state.snapshot().encode_to_vec();
        let mut restorer = Restorer::new(Arc::new(FlippingVault));
        let mut rest = whole.as_slice();
        let mut fields = 0;
        while !rest.is_empty() {
            let mut after = rest;
            let (tag, wire_type) = prost::encoding::decode_key(&mut after).unwrap();
            let context = prost::encoding::DecodeContext::default();
            prost::encoding::skip_field(wire_type, tag, &mut after, context).unwrap();
            let (field, later) = rest.split_at(rest.len() - after.len());
            restorer.add(field).unwrap();
            rest = later;
            fields += 1;
        }
        assert!(fields > 5, "{fields}");
        let restored = restorer.finish().unwrap();
        assert_eq!(restored.snapshot().encode_to_vec(), whole);
    }

    #[test]
    fn pieces_are_bounded_and_sized_once() {
        let mut state = bootstrapped();
        for index in 0..20 {
            let name = format!("name{index}");
            run(&mut state, create_secret(&name, &name, &vec![7; 100_000])).unwrap();
        }
        let pieces: Vec<_> = state.freeze().pieces().collect();
        assert!(pieces.len() >= 7);
        for piece in &pieces {
            assert!(piece.len() < PIECE_BYTES + 101_000);
            assert_eq!(piece.capacity(), piece.len());
        }
    }
}
