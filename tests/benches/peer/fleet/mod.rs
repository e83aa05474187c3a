//! A simulated fleet: real gRPC and TLS clients of one process, each with a key, a certificate and
//! an address of its own.
//!
//! It is one thread, as the other clients here are, so that what is left of the processors is the
//! server's. What a member would check of what it gets is checked after the clock has stopped.

mod fanout;
mod idle;
mod joining;
mod member;
mod quarantine;
mod rotation;

use std::{
    cell::{Cell, RefCell},
    net::Ipv4Addr,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Error, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use rustls::ClientConfig;
use tokio::{
    runtime::Runtime,
    task::{JoinHandle, LocalSet},
    time::sleep,
};
use waxseal_ca::{Clock, SystemClock, TrustBundle};
use waxseal_wire::swarmkit::{AssignmentsMessage, assignment, assignment_change};

use self::member::{Identity, Member};
use crate::{
    dialler::Dialler,
    h2::Connection,
    joins::{Cluster, Joiner},
    server::Server,
};

pub(crate) use self::{
    fanout::fanout, idle::idle, joining::joins, quarantine::quarantine, rotation::rotation,
};

/// Members come from addresses of their own, from here on: below those that servers listen at.
const FIRST_SOURCE: Ipv4Addr = Ipv4Addr::new(127, 16, 0, 1);
/// Between two looks at how far the fleet is.
const LOOK: Duration = Duration::from_millis(10);
/// Until some hundreds that join at once have their sessions.
const JOINING: Duration = Duration::from_secs(60);
/// Errors of members that are shown.
const SHOWN: usize = 5;

/// A root that members trust.
struct Root {
    pem: Vec<u8>,
    dialler: Dialler,
    /// Members with a session whose certificate is of this root, which they trust.
    settled: Cell<usize>,
}

fn add(count: &Cell<usize>) {
    count.set(count.get() + 1);
}

/// Random, below that.
fn below(bound: Duration) -> Duration {
    let mut random = [0; 2];
    // Without random bytes nobody waits, which is only less even.
    let _ = getrandom::fill(&mut random);
    bound.mul_f64(f64::from(u16::from_be_bytes(random)) / f64::from(u16::MAX))
}

/// Descriptors for so many members, here and in the servers that are started from now on.
fn raise_descriptors(members: usize) -> Result<()> {
    let maximum = getrlimit(Resource::Nofile).maximum;
    let raised = Rlimit {
        current: maximum,
        maximum,
    };
    setrlimit(Resource::Nofile, raised).context("raise the limit of open files")?;
    // A session each, and half of them another connection while they renew.
    let needed = members * 3 / 2;
    let is_enough = maximum.is_none_or(|maximum| maximum >= needed as u64);
    ensure!(
        is_enough,
        "a fleet of {members} needs {needed} open files; raise the hard limit (`ulimit -Hn`)"
    );
    Ok(())
}

/// What happened so far.
#[derive(Default)]
struct Tally {
    certified: Cell<usize>,
    refused_joins: Cell<usize>,
    /// Connections that ended before the server said a word of HTTP/2.
    failed_handshakes: Cell<usize>,
    /// Sessions that did not come about or ended, for another reason than a new certificate or root.
    broken: Cell<usize>,
    shown: Cell<usize>,
}

/// A member as the others see it.
#[derive(Default)]
struct Standing {
    /// Since when it has had its first session.
    first: Option<Instant>,
    is_here: bool,
    /// The root that it is settled at.
    settled: Option<Rc<Root>>,
    /// It was sent a task with its secret.
    is_supplied: bool,
    /// What it last showed.
    identity: Option<Rc<Identity>>,
}

/// What the members share.
struct Fleet {
    cluster: Cluster,
    roots: RefCell<Vec<Rc<Root>>>,
    standings: RefCell<Vec<Standing>>,
    tally: Tally,
    /// When the last of those who have one was sent a task with its secret.
    last_supplied: Cell<Option<Instant>>,
}

/// A fleet at one manager, and what it runs on.
struct Host {
    fleet: Rc<Fleet>,
    runtime: Runtime,
    local: LocalSet,
    members: Vec<JoinHandle<Result<()>>>,
}

impl Fleet {
    fn first_root(&self) -> Rc<Root> {
        Rc::clone(&self.roots.borrow()[0])
    }

    /// The root with this text.
    fn root(&self, pem: &[u8]) -> Result<Rc<Root>> {
        let mut roots = self.roots.borrow_mut();
        if let Some(known) = roots.iter().find(|root| root.pem == pem) {
            return Ok(Rc::clone(known));
        }
        let trust = Arc::new(TrustBundle::from_pem(pem, SystemClock.now())?);
        let root = Rc::new(Root {
            pem: pem.to_vec(),
            dialler: self.cluster.dialler_of(trust)?,
            settled: Cell::default(),
        });
        roots.push(Rc::clone(&root));
        Ok(root)
    }

    async fn dial(
        &self,
        dialler: &Dialler,
        source: Ipv4Addr,
        certified: &Arc<ClientConfig>,
    ) -> Result<Connection> {
        let dialled = dialler.dial(source, certified).await;
        dialled.inspect_err(|_| add(&self.tally.failed_handshakes))
    }

    fn registered(&self, number: usize, root: &Rc<Root>, identity: &Rc<Identity>) {
        let standing = &mut self.standings.borrow_mut()[number];
        let is_settled = identity.is_of(root.dialler.trust());
        standing.identity = Some(Rc::clone(identity));
        standing.first.get_or_insert_with(Instant::now);
        standing.is_here = true;
        if is_settled {
            add(&root.settled);
            standing.settled = Some(Rc::clone(root));
        }
    }

    fn left(&self, number: usize) {
        let standing = &mut self.standings.borrow_mut()[number];
        standing.is_here = false;
        if let Some(root) = standing.settled.take() {
            root.settled.set(root.settled.get() - 1);
        }
    }

    /// Takes note of why a connection ended.
    fn note_end(&self, connection: &Connection, error: &Error) {
        if !connection.is_heard() {
            add(&self.tally.failed_handshakes);
        }
        self.show(error);
    }

    fn show(&self, error: &Error) {
        if self.tally.shown.get() < SHOWN {
            add(&self.tally.shown);
            eprintln!("  a member: {error:#}");
        }
    }

    /// Takes note of a member that has a task and a secret now.
    fn assigned(&self, number: usize, message: &AssignmentsMessage) {
        let items = message.changes.iter().filter_map(|change| {
            let is_update = change.action() == assignment_change::Action::Update;
            let assignment = change.assignment.as_ref().filter(|_| is_update)?;
            assignment.item.as_ref()
        });
        let (mut task, mut secret) = (false, false);
        for item in items {
            match item {
                assignment::Item::Task(_) => task = true,
                assignment::Item::Secret(with) => {
                    secret |= with.spec.as_ref().is_some_and(|spec| !spec.data.is_empty());
                }
                assignment::Item::Config(_) => {}
            }
        }
        let standing = &mut self.standings.borrow_mut()[number];
        if task && secret && !standing.is_supplied {
            standing.is_supplied = true;
            self.last_supplied.set(Some(Instant::now()));
        }
    }

    fn supplied(&self) -> usize {
        let standings = self.standings.borrow();
        let supplied = standings.iter().filter(|standing| standing.is_supplied);
        supplied.count()
    }

    fn here(&self) -> usize {
        let standings = self.standings.borrow();
        standings.iter().filter(|standing| standing.is_here).count()
    }

    /// How many are settled at another root than the first.
    fn moved(&self) -> usize {
        let roots = self.roots.borrow();
        roots.iter().skip(1).map(|root| root.settled.get()).sum()
    }
}

impl Host {
    /// Ready for `size` members of this server's cluster, each with as many keys as it will need.
    fn new(server: &Server, size: usize, keys: usize) -> Result<(Host, Vec<Vec<Joiner>>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let cluster = Cluster::of(server, &runtime)?;
        let trust = Arc::clone(&cluster.trust);
        let fleet = Fleet {
            cluster,
            roots: RefCell::default(),
            standings: RefCell::new((0..size).map(|_| Standing::default()).collect()),
            tally: Tally::default(),
            last_supplied: Cell::default(),
        };
        fleet.root(trust.pem())?;
        let prepared: Result<_> = (0..size)
            .map(|_| (0..keys).map(|_| Joiner::new()).collect())
            .collect();
        let host = Host {
            fleet: Rc::new(fleet),
            runtime,
            local: LocalSet::new(),
            members: Vec::new(),
        };
        Ok((host, prepared?))
    }

    /// Has the next ones join, all at once, and waits until each has its session.
    fn join(&mut self, prepared: Vec<Vec<Joiner>>, patience: Duration) -> Result<()> {
        for keys in prepared {
            let number = self.members.len();
            let offset = u32::try_from(number)?;
            let source = Ipv4Addr::from_bits(FIRST_SOURCE.to_bits() + offset);
            let fleet = Rc::clone(&self.fleet);
            self.members.push(self.local.spawn_local(async move {
                let member = Member::join(fleet, number, source, keys).await?;
                match member.live().await? {}
            }));
        }
        let all = self.members.len();
        self.until("each has a session", patience, |fleet| {
            Ok(fleet.here() == all)
        })
    }

    /// A fleet that came in so many at once.
    fn gathered(server: &Server, size: usize, at_once: usize, keys: usize) -> Result<Host> {
        let (mut host, mut prepared) = Host::new(server, size, keys)?;
        while !prepared.is_empty() {
            let rest = prepared.split_off(at_once.min(prepared.len()));
            host.join(std::mem::replace(&mut prepared, rest), JOINING)?;
        }
        Ok(host)
    }

    /// Lets the fleet live until that holds.
    fn until(
        &mut self,
        what: &str,
        patience: Duration,
        mut holds: impl FnMut(&Fleet) -> Result<bool>,
    ) -> Result<()> {
        let fleet = Rc::clone(&self.fleet);
        let members = &mut self.members;
        let begin = Instant::now();
        let looking = async {
            while !holds(&fleet)? {
                if begin.elapsed() > patience {
                    let (here, moved) = (fleet.here(), fleet.moved());
                    // Whoever gave up says why.
                    for member in members.iter_mut().filter(|member| member.is_finished()) {
                        member.await??;
                    }
                    bail!("not in time: {what}; {here} have sessions, {moved} a new root");
                }
                sleep(LOOK).await;
            }
            Ok(())
        };
        self.local.block_on(&self.runtime, looking)
    }

    /// Lets the fleet live for a while.
    fn rest(&mut self, duration: Duration) {
        self.local
            .block_on(&self.runtime, async { sleep(duration).await });
    }

    /// Lets the fleet live while something else is done.
    fn during<T: Send + 'static>(
        &mut self,
        what: &str,
        patience: Duration,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let worker = std::thread::spawn(work);
        self.until(what, patience, |_| Ok(worker.is_finished()))?;
        let done = worker.join();
        done.map_err(|_| anyhow::anyhow!("it panicked: {what}"))?
    }

    /// Every member that is here has a certificate that leads to the newest root and is its own.
    fn check(&self) -> Result<()> {
        let trust = Arc::clone(
            self.fleet
                .roots
                .borrow()
                .last()
                .context("no root")?
                .dialler
                .trust(),
        );
        for standing in self.fleet.standings.borrow().iter() {
            if let Some(identity) = standing.identity.as_ref().filter(|_| standing.is_here) {
                identity.check(&trust)?;
            }
        }
        Ok(())
    }

    /// The last so many vanish without a word.
    fn lose(&mut self, count: usize) -> Result<()> {
        ensure!(count <= self.members.len(), "there are not so many");
        let lost = self.members.split_off(self.members.len() - count);
        for (index, member) in lost.into_iter().enumerate() {
            member.abort();
            self.fleet.left(self.members.len() + index);
        }
        self.rest(LOOK);
        Ok(())
    }
}
