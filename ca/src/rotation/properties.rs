//! Random events against a model of a cluster: what must hold whatever happens.
//!
//! Roots are numbers, a chain is the root that signed the leaf and the cross-signed roots that go
//! with it. The leader of the model follows the plan, and may end between any two actions.

use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};
use time::macros::datetime;

use super::*;

const START: OffsetDateTime = datetime!(2026-11-20 13:00 UTC);
/// Names of past roots that go with a leaf.
const TAIL: usize = 2;

#[derive(Clone, Debug)]
enum Event {
    Join(bool),
    Remove(usize),
    Fail(usize),
    Return(usize),
    Rotate(Laggards, Option<u16>),
    Abort,
    /// The leader looks whose time is over.
    Close,
    /// The leader plans, and carries out so many of the actions before another takes over.
    Lead(usize),
    /// A member does the next thing that it has to do.
    Act(usize),
    /// The leader signs what a member asked for, and stores it.
    Sign(usize),
    /// The leader signed under the root of that moment, and stores it only now.
    StoreLate(usize),
    Wait(i16),
}

fn events() -> impl Strategy<Value = Vec<Event>> {
    let laggards = prop_oneof![
        Just(Laggards::Wait),
        Just(Laggards::Quarantine),
        Just(Laggards::Evict)
    ];
    let who = || 0..8usize;
    vec(
        prop_oneof![
            2 => any::<bool>().prop_map(Event::Join),
            1 => who().prop_map(Event::Remove),
            1 => who().prop_map(Event::Fail),
            2 => who().prop_map(Event::Return),
            2 => (laggards, proptest::option::of(0..120u16))
                .prop_map(|(laggards, deadline)| Event::Rotate(laggards, deadline)),
            1 => Just(Event::Abort),
            4 => Just(Event::Close),
            12 => (0..4usize).prop_map(Event::Lead),
            24 => who().prop_map(Event::Act),
            12 => who().prop_map(Event::Sign),
            4 => who().prop_map(Event::StoreLate),
            3 => (-30..90i16).prop_map(Event::Wait),
        ],
        0..400,
    )
}

type Root = u8;

#[derive(Clone, Debug, PartialEq)]
struct Chain {
    issuer: Root,
    /// (subject, issuer) of each.
    crosses: Vec<(Root, Root)>,
}

impl Chain {
    fn is_accepted_by(&self, trust: Root) -> bool {
        let mut at = self.issuer;
        for (subject, issuer) in &self.crosses {
            if at == trust {
                return true;
            }
            if *subject != at {
                return false;
            }
            at = *issuer;
        }
        at == trust
    }
}

#[derive(Clone, Debug)]
struct Node {
    manager: bool,
    alive: bool,
    /// What it has.
    chain: Chain,
    trust: Root,
    /// What the record says.
    says: Option<Root>,
    on_record: OnRecord,
    stored: Option<Chain>,
    asked_at: Option<OffsetDateTime>,
    quarantined_at: Option<OffsetDateTime>,
    /// Signed, and not stored.
    in_hand: Option<Chain>,
}

#[derive(Debug)]
struct World {
    now: OffsetDateTime,
    root: Root,
    rotation: Option<(Root, Options)>,
    newest: Root,
    past: Vec<(Root, Root)>,
    /// Roots to be that came to nothing, and whether what they signed counts no more.
    given_up: BTreeMap<Root, bool>,
    nodes: BTreeMap<String, Node>,
    joined: usize,
}

fn info(root: Root) -> IssuerInfo {
    IssuerInfo {
        subject_der: b"swarm-ca".to_vec(),
        public_key_der: vec![root],
    }
}

impl World {
    fn new() -> World {
        let mut world = World {
            now: START,
            root: 1,
            rotation: None,
            newest: 1,
            past: Vec::new(),
            given_up: BTreeMap::new(),
            nodes: BTreeMap::new(),
            joined: 0,
        };
        for manager in [true, true, true, false, false] {
            world.join(manager);
        }
        world
    }

    fn signing_root(&self) -> Root {
        self.rotation.as_ref().map_or(self.root, |(root, _)| *root)
    }

    fn sign(&self) -> Chain {
        let rotation = self.rotation.as_ref().map(|(root, _)| (*root, self.root));
        let past = self.past.iter().rev().take(TAIL).copied();
        Chain {
            issuer: self.signing_root(),
            crosses: rotation.into_iter().chain(past).collect(),
        }
    }

    fn join(&mut self, manager: bool) {
        let chain = self.sign();
        self.joined += 1;
        let node = Node {
            manager,
            alive: true,
            trust: self.root,
            says: Some(chain.issuer),
            on_record: OnRecord::Issued,
            stored: Some(chain.clone()),
            chain,
            asked_at: None,
            quarantined_at: None,
            in_hand: None,
        };
        self.nodes.insert(format!("n{}", self.joined), node);
    }

    fn id(&self, nth: usize) -> String {
        let ids = self.nodes.keys();
        ids.cycle().nth(nth).cloned().unwrap_or_default()
    }

    /// Whether the managers that live are a majority: else nothing at all happens.
    fn has_leader(&self) -> bool {
        let managers = || self.nodes.values().filter(|node| node.manager);
        managers().filter(|node| node.alive).count() > managers().count() / 2
    }

    fn plan(&self) -> Plan {
        let target = info(self.signing_root());
        let says: BTreeMap<&String, IssuerInfo> = self
            .nodes
            .iter()
            .filter_map(|(id, node)| Some((id, info(node.says?))))
            .collect();
        let members = self.nodes.iter().map(|(id, node)| Member {
            node_id: id,
            role: if node.manager {
                Role::Manager
            } else {
                Role::Worker
            },
            votes: node.manager,
            kind: Kind::Ours,
            contact: if node.alive {
                Contact::Here
            } else {
                Contact::Away(None)
            },
            holds: says
                .get(id)
                .map(|info| (info.subject_der.as_slice(), info.public_key_der.as_slice())),
            on_record: node.on_record,
            issued_by_target: node
                .stored
                .as_ref()
                .map(|chain| chain.issuer == self.signing_root()),
            asked_at: node.asked_at,
            quarantined_at: node.quarantined_at,
            clock_ahead: None,
        });
        plan(&View {
            target: &target,
            rotation: self.rotation.as_ref().map(|(_, options)| *options),
            members: members.collect(),
            window: 3,
            now: self.now,
        })
    }

    fn lead(&mut self, actions: usize) {
        if !self.has_leader() {
            return;
        }
        for action in self.plan().actions.into_iter().take(actions) {
            match action {
                Action::Mark(ids) => ids.iter().for_each(|id| {
                    let now = self.now;
                    let node = self.nodes.get_mut(id).unwrap();
                    assert!(node.alive, "asked while away");
                    node.on_record = OnRecord::Marked;
                    node.asked_at = Some(now);
                }),
                Action::Quarantine(ids) => ids.iter().for_each(|id| {
                    let now = self.now;
                    self.nodes.get_mut(id).unwrap().quarantined_at = Some(now);
                }),
                Action::Evict(ids) => ids.iter().for_each(|id| {
                    let gone = self.nodes.remove(id).unwrap();
                    assert!(!gone.manager, "a manager was removed");
                }),
                Action::Finish => self.finish(),
            }
        }
    }

    /// Whether members take a leaf of this chain who trust that root.
    fn is_taken(&self, chain: &Chain, trust: Root) -> bool {
        let is_closed = self.given_up.get(&chain.issuer) == Some(&true);
        chain.is_accepted_by(trust) && !is_closed
    }

    /// Ends a rotation that comes to nothing.
    fn give_up(&mut self) {
        if let Some((target, _)) = self.rotation.take() {
            self.given_up.insert(target, false);
        }
    }

    /// What roots that were given up have signed counts until all hold something else.
    fn close_issuers(&mut self) {
        let progress = self.plan().progress;
        if progress.iter().all(|is| *is == Progress::Done) {
            self.given_up.values_mut().for_each(|closed| *closed = true);
        }
    }

    fn finish(&mut self) {
        let (new, options) = self.rotation.take().unwrap();
        for (id, node) in &self.nodes {
            let counted =
                options.laggards == Laggards::Wait || (node.quarantined_at.is_none() && node.alive);
            assert!(
                !counted || node.chain.issuer == new,
                "trust shrank before {id} had moved"
            );
        }
        self.past.push((new, self.root));
        self.root = new;
        // They were below the root that goes.
        self.given_up.values_mut().for_each(|closed| *closed = true);
    }

    fn rotate(&mut self, laggards: Laggards, deadline: Option<u16>) {
        self.give_up();
        self.newest += 1;
        let options = Options {
            started_at: self.now,
            deadline: deadline.map(|secs| self.now + Duration::seconds(secs.into())),
            laggards,
        };
        self.rotation = Some((self.newest, options));
    }

    /// Follows a mark, takes what was issued, says what it has, takes what the session tells.
    fn act(&mut self, id: &str) {
        let (root, led) = (self.root, self.has_leader());
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        // A chain that leads nowhere gets no session.
        if !node.alive || !led || !node.chain.is_accepted_by(root) {
            return;
        }
        match node.on_record {
            OnRecord::Marked => node.on_record = OnRecord::Requested,
            OnRecord::Issued => {
                if let Some(chain) = &node.stored {
                    node.chain = chain.clone();
                }
                node.says = Some(node.chain.issuer);
                if node.chain.is_accepted_by(root) {
                    node.trust = root;
                }
            }
            OnRecord::Requested | OnRecord::Nothing | OnRecord::Failed => {}
        }
    }

    fn store(&mut self, id: &str, chain: Chain) {
        let (signs, now) = (self.signing_root(), self.now);
        let Some(node) = self.nodes.get_mut(id) else {
            return;
        };
        if node.on_record != OnRecord::Requested || chain.issuer != signs {
            return;
        }
        node.on_record = OnRecord::Issued;
        node.stored = Some(chain);
        (node.asked_at, node.quarantined_at) = (Some(now), None);
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Join(manager) if self.nodes.len() < 12 && self.has_leader() => {
                self.join(manager);
            }
            Event::Remove(nth) => {
                let id = self.id(nth);
                if self.nodes.get(&id).is_some_and(|node| !node.manager) {
                    self.nodes.remove(&id);
                }
            }
            Event::Fail(nth) | Event::Return(nth) => {
                let (id, root) = (self.id(nth), self.root);
                if let Some(node) = self.nodes.get_mut(&id) {
                    // Who returns after it was left out has another way in.
                    node.alive =
                        matches!(event, Event::Return(_)) && node.chain.is_accepted_by(root);
                }
            }
            Event::Rotate(laggards, deadline) if self.has_leader() => {
                self.rotate(laggards, deadline);
            }
            Event::Abort if self.has_leader() => self.give_up(),
            Event::Close if self.has_leader() => self.close_issuers(),
            Event::Lead(actions) => self.lead(actions),
            Event::Act(nth) => self.act(&self.id(nth)),
            Event::Sign(nth) if self.has_leader() => {
                let (id, chain) = (self.id(nth), self.sign());
                let node = self.nodes.get_mut(&id).unwrap();
                if node.on_record == OnRecord::Requested {
                    node.in_hand = Some(chain.clone());
                    self.store(&id, chain);
                }
            }
            Event::StoreLate(nth) if self.has_leader() => {
                let id = self.id(nth);
                let in_hand = self.nodes.get_mut(&id).unwrap().in_hand.take();
                if let Some(chain) = in_hand {
                    self.store(&id, chain);
                }
            }
            Event::Wait(seconds) => self.now += Duration::seconds(seconds.into()),
            _ => {}
        }
    }

    /// A healthy member is never left without a chain that its peers accept: members with a
    /// session talk to managers, and managers to them. Nothing more is signed by a root that was
    /// given up.
    fn check(&self) {
        assert!(
            !self.given_up.contains_key(&self.signing_root()),
            "it signs"
        );
        let healthy = || {
            self.nodes.iter().filter(|(_, node)| {
                node.alive && node.quarantined_at.is_none() && node.chain.is_accepted_by(self.root)
            })
        };
        for (id, node) in healthy() {
            for (peer, other) in healthy().filter(|(_, other)| other.manager) {
                assert!(
                    self.is_taken(&node.chain, other.trust),
                    "{peer} refuses {id}: {node:?} {other:?}"
                );
                assert!(
                    self.is_taken(&other.chain, node.trust),
                    "{id} refuses {peer}: {other:?} {node:?}"
                );
            }
        }
        for (id, node) in &self.nodes {
            // Quarantine is the only way to be left behind, for one that was there throughout.
            let left_behind = !node.chain.is_accepted_by(self.root);
            let excused = node.quarantined_at.is_some() || !node.alive;
            assert!(!left_behind || excused, "{id} is left behind: {node:?}");
        }
    }

    /// Everybody who lives does what is to be done, until nothing is.
    fn settle(&mut self) {
        for _ in 0..200 {
            self.lead(usize::MAX);
            if self.has_leader() {
                self.close_issuers();
            }
            for id in self.nodes.keys().cloned().collect::<Vec<_>>() {
                self.act(&id);
                let chain = self.sign();
                self.store(&id, chain);
                self.act(&id);
            }
            self.now += Duration::seconds(5);
            self.check();
        }
    }
}

fn returns(world: &mut World) {
    let root = world.root;
    for node in world.nodes.values_mut() {
        node.alive |= node.chain.is_accepted_by(root);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn members_stay_in_touch_and_rotations_end(events in events()) {
        let mut world = World::new();
        for event in &events {
            world.happen(event);
            world.check();
        }
        // With all who can be there, it ends under every rule …
        let mut whole = world;
        let left_out = whole.nodes.values().filter(|node| !node.chain.is_accepted_by(whole.root));
        let blocked = left_out.count() > 0;
        returns(&mut whole);
        let rule = whole.rotation.as_ref().map(|(_, options)| *options);
        whole.settle();
        let ends_anyway = rule.is_some_and(|options| {
            options.laggards != Laggards::Wait && options.deadline.is_some()
        });
        if whole.has_leader() && (!blocked || ends_anyway) {
            prop_assert!(whole.rotation.is_none(), "{:?} {whole:#?}", whole.plan());
        }
        // … and all of them hold what the present root signed.
        if whole.rotation.is_none() && whole.has_leader() {
            for (id, node) in &whole.nodes {
                let out = !node.alive || node.quarantined_at.is_some();
                prop_assert!(out || node.chain.issuer == whole.root, "{id} {node:?}");
            }
            // Whoever has a root's key that was given up makes no members any more.
            let all_there = whole.nodes.values().all(|node| node.chain.issuer == whole.root);
            let open = whole.given_up.values().any(|closed| !closed);
            prop_assert!(!(all_there && open), "{:?}", whole.given_up);
        }
    }
}
