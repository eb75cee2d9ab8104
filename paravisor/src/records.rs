//! Records: small values by name that outlive the machine, kept by a host that can neither read nor change them unnoticed.
//!
//! [`Records`] is what a client has, cloned as often as there are clients: the newest state of a disk, a TPM's non-volatile
//! memory, firmware variables. All of them share the `vault` behind one lock, the [`SealedStore`] on a disk of the host. A client
//! reads with [`Records::read`], queues a change with [`Records::write`] and learns from [`Records::durability`] when no power
//! cut undoes it any more. Nobody waits: a vault in use elsewhere is [`RecordError::Busy`], to be asked again at the client's next
//! turn. Locks are taken in the order client, vault; the vault never calls up. Names begin with the client's: `disk/`, `tpm/`, `vars/`.

mod vault;

use alloc::sync::Arc;
use core::fmt;
use core::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use spin::Mutex;
use stockade_backend::HostBus;
use stockade_backend::block::Block;
use stockade_backend::shared::AnyShared;
use stockade_storage::{SealedStore, StoreError, StoreState, Ticket};

use crate::virtio::{Attention, Doubt, Turn};
use vault::Vault;

/// Why a record was not read or changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// Somebody else is at it: to be tried again.
    #[error("the sealed store is in use")]
    Busy,
    /// The store does not take it.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// What has become of a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// It is on its way to the host.
    Waiting,
    /// No power cut undoes it.
    Durable,
    /// The host failed: whether it will be there next time is not known.
    Lost,
}

/// The records, for one client.
#[derive(Clone)]
pub struct Records(Arc<Shared>);

struct Shared {
    vault: Mutex<Vault>,
    attention: Attention,
    doubt: Doubt,

    /// The latest durable change.
    durable: AtomicU64,
    /// Nothing more becomes durable.
    is_lost: AtomicBool,
    /// When the host is to be looked after, in nanoseconds; `u64::MAX` while it has nothing.
    due_ns: AtomicU64,
}

impl fmt::Debug for Records {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Records").field(&self.0.durable).finish()
    }
}

/// What a turn of the vault came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    /// Whether there is more to do.
    pub(crate) turn: Turn,
    /// Whether clients that wait should look.
    pub(crate) has_news: bool,
}

impl Records {
    /// Returns the records of a store on the host's `block`; `attention` is raised when there is work for them.
    #[must_use]
    pub fn new(store: SealedStore, block: Block<AnyShared>, attention: Attention) -> Self {
        Self(Arc::new(Shared {
            vault: Mutex::new(Vault::new(store, block)),
            attention,
            doubt: Doubt::default(),
            durable: AtomicU64::new(0),
            is_lost: AtomicBool::new(false),
            due_ns: AtomicU64::new(u64::MAX),
        }))
    }

    /// Returns the store's identity, once it is open.
    #[must_use]
    pub fn store(&self) -> Option<[u8; 16]> {
        self.0.vault.lock().store()
    }

    /// Returns what can be done with the store.
    #[must_use]
    pub fn state(&self) -> StoreState {
        self.0.vault.lock().state()
    }

    /// Copies a record, as of the latest change, as far as there is room, and returns its length; `None` if there is none.
    ///
    /// # Errors
    /// `Busy`.
    pub fn read(&self, name: &[u8], into: &mut [u8]) -> Result<Option<usize>, RecordError> {
        let vault = self.0.vault.try_lock().ok_or(RecordError::Busy)?;
        Ok(vault.read(name, into))
    }

    /// Queues a change of a record, or makes one. Changes become durable in the order they were queued in.
    ///
    /// # Errors
    /// `Busy`, or the store is not open, or full, or the name is none.
    pub fn write(&self, name: &[u8], value: &[u8]) -> Result<Ticket, RecordError> {
        self.change(|store| store.put(name, value))
    }

    /// Queues changes of several records that become durable together: a power cut leaves all of them or none. `None` removes a
    /// record. Each name is there once.
    ///
    /// # Errors
    /// `Busy`, or the store is not open, or has no room for all, or a name is none; then nothing is changed.
    pub fn write_all<'v, N: AsRef<[u8]>>(
        &self,
        changes: impl Iterator<Item = (N, Option<&'v [u8]>)> + Clone,
    ) -> Result<Ticket, RecordError> {
        self.change(|store| store.change_all(changes))
    }

    /// Queues a change like [`write`](Self::write), unless all records whose names begin with `prefix` would then have more than
    /// `most_bytes`, names and values together.
    ///
    /// # Errors
    /// `Busy`, or the store is not open, or full, that share of it too, or the name is none.
    pub fn write_within(
        &self,
        (prefix, most_bytes): (&[u8], usize),
        name: &[u8],
        value: &[u8],
    ) -> Result<Ticket, RecordError> {
        self.change(|store| {
            let others = store
                .iter()
                .filter(|(other, _)| other.starts_with(prefix) && *other != name)
                .map(|(other, value)| other.len() + value.len());
            let all = others.sum::<usize>() + name.len() + value.len();
            if all > most_bytes {
                return Err(StoreError::Full);
            }
            store.put(name, value)
        })
    }

    /// Queues the removal of a record.
    ///
    /// # Errors
    /// `Busy`, or the store is not open, or too many changes wait.
    pub fn remove(&self, name: &[u8]) -> Result<Ticket, RecordError> {
        self.change(|store| store.remove(name))
    }

    /// Returns what has become of a change. Takes no lock.
    #[must_use]
    pub fn durability(&self, ticket: Ticket) -> Durability {
        if ticket.0 <= self.0.durable.load(Ordering::Acquire) {
            Durability::Durable
        } else if self.0.is_lost.load(Ordering::Acquire) {
            Durability::Lost
        } else {
            Durability::Waiting
        }
    }

    /// Carries what there is between store and host; a vault in use elsewhere keeps its work. For the start, before there is a
    /// guest; later the bays do it.
    pub fn work(&self, bus: &mut dyn HostBus) -> Turn {
        self.turn(bus, None).turn
    }

    /// Carries what there is, and at a known time looks after requests the host has had for long.
    pub(crate) fn turn(&self, bus: &mut dyn HostBus, now_ns: Option<u64>) -> Progress {
        let Some(mut vault) = self.0.vault.try_lock() else {
            return Progress {
                turn: Turn::More,
                has_news: false,
            };
        };
        if self.0.doubt.is_due() {
            vault.check(bus);
        }
        let turn = vault.turn(bus);
        if let Some(now_ns) = now_ns {
            let due = vault.watch(bus, now_ns).unwrap_or(u64::MAX);
            self.0.due_ns.store(due, Ordering::SeqCst);
        }
        let Ticket(durable) = vault.durable();
        let is_lost = vault.is_lost();
        drop(vault);
        let advanced = self.0.durable.swap(durable, Ordering::AcqRel) != durable;
        let failed = self.0.is_lost.swap(is_lost, Ordering::AcqRel) != is_lost;
        Progress {
            turn,
            has_news: advanced || failed,
        }
    }

    /// Returns when the host is to be looked after; `u64::MAX` if it is not.
    pub(crate) fn due_ns(&self) -> u64 {
        self.0.due_ns.load(Ordering::SeqCst)
    }

    /// Notes that the host has something.
    pub(crate) fn accessed(&self) {
        self.0.attention.raise();
    }

    /// Notes that the host's device may have changed.
    pub(crate) fn doubted(&self) {
        self.0.doubt.raise();
        self.accessed();
    }

    fn change(
        &self,
        change: impl FnOnce(&mut SealedStore) -> Result<Ticket, StoreError>,
    ) -> Result<Ticket, RecordError> {
        let mut vault = self.0.vault.try_lock().ok_or(RecordError::Busy)?;
        let ticket = vault.change(change)?;
        drop(vault);
        self.accessed();
        Ok(ticket)
    }
}

#[cfg(test)]
pub(crate) mod tests;
