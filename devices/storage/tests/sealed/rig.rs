//! A disk, a guest and a host to try it with: the host keeps writes in a cache until a flush, answers in any order, and loses power.

use std::collections::{BTreeMap, HashMap};

use stockade_storage::disk::check::ReadBlocks;
use stockade_storage::disk::format::Header;
use stockade_storage::disk::geometry::Geometry;
use stockade_storage::host::MemoryError;
use stockade_storage::{
    Anchor, BLOCK_BYTES, Completion, Config, DiskKey, Event, HostBlock, HostError, HostIo, HostOp,
    Kind, Memory, Request, RequestError, SealedDisk, Slot, State, Token, Trust, Work,
};

pub(crate) type Block = [u8; BLOCK_BYTES];

/// Numbers that are the same every time.
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    pub(crate) fn roll(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    pub(crate) fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }
}

/// The host's file: what is durable, and what is in its cache.
#[derive(Clone, Default)]
pub(crate) struct Host {
    pub(crate) blocks: BTreeMap<u64, Block>,
    /// Writes since, with whether they were completed.
    cached: Vec<(u64, Block, bool)>,
    pub(crate) writes: u64,
    pub(crate) flushes: u64,
    pub(crate) reads: u64,
}

impl Host {
    pub(crate) fn new(logical_blocks: u64) -> Self {
        let geometry = Geometry::try_new(logical_blocks).unwrap();
        let header = Header::new(&geometry, [7; 16]).to_block();
        Self {
            blocks: BTreeMap::from([(0, header)]),
            ..Self::default()
        }
    }

    pub(crate) fn read(&self, block: u64) -> Block {
        let cached = self.cached.iter().rev().find(|(at, ..)| *at == block);
        cached
            .map(|(_, data, _)| *data)
            .or_else(|| self.blocks.get(&block).copied())
            .unwrap_or([0; BLOCK_BYTES])
    }

    /// Makes everything durable.
    pub(crate) fn settle(&mut self) {
        for (block, data, _) in std::mem::take(&mut self.cached) {
            self.blocks.insert(block, data);
        }
    }

    /// Is given a transfer.
    pub(crate) fn begin(&mut self, io: &HostIo, ram: &Ram) {
        if io.op == HostOp::Write {
            for (block, slot) in (io.block.0..).zip(io.slots()) {
                self.writes += 1;
                let data = ram.slots[usize::from(slot.0)];
                self.cached.push((block, data, false));
            }
        }
    }

    /// Does a transfer.
    pub(crate) fn end(&mut self, io: &HostIo, ram: &mut Ram) {
        let blocks = io.block.0..io.block.0 + io.slots().len() as u64;
        match io.op {
            HostOp::Read => {
                self.reads += 1;
                for (block, slot) in blocks.zip(io.slots()) {
                    ram.slots[usize::from(slot.0)] = self.read(block);
                }
            }
            HostOp::Write => {
                for (at, _, done) in &mut self.cached {
                    *done |= blocks.contains(at);
                }
            }
            HostOp::Flush => self.flush(),
        }
    }

    fn flush(&mut self) {
        self.flushes += 1;
        let (done, rest): (Vec<_>, Vec<_>) = self.cached.drain(..).partition(|(.., done)| *done);
        for (block, data, _) in done {
            self.blocks.insert(block, data);
        }
        self.cached = rest;
    }

    /// Loses power: of each sector in the cache any version, or none, or a part, is on the disk.
    pub(crate) fn cut(&mut self, dice: &mut Dice) {
        for (block, data, _) in std::mem::take(&mut self.cached) {
            let kept = self.blocks.entry(block).or_insert([0; BLOCK_BYTES]);
            let all = dice.below(4);
            for (old, new) in kept.chunks_mut(512).zip(data.chunks(512)) {
                if all == 0 || (all > 1 && dice.below(2) == 0) {
                    old.copy_from_slice(new);
                } else if all == 2 && dice.below(4) == 0 {
                    // Not even a sector is whole.
                    let bytes = dice.below(512) as usize;
                    old[..bytes].copy_from_slice(&new[..bytes]);
                }
            }
        }
    }
}

/// Memory of the guest and the pool.
#[derive(Default)]
pub(crate) struct Ram {
    pub(crate) buffers: HashMap<Token, Vec<u8>>,
    pub(crate) slots: Vec<Block>,
}

impl Memory for Ram {
    fn read_guest(
        &mut self,
        token: Token,
        offset: usize,
        into: &mut [u8],
    ) -> Result<(), MemoryError> {
        let buffer = self.buffers.get(&token).ok_or(MemoryError)?;
        into.copy_from_slice(buffer.get(offset..offset + into.len()).ok_or(MemoryError)?);
        Ok(())
    }

    fn write_guest(&mut self, token: Token, offset: usize, from: &[u8]) -> Result<(), MemoryError> {
        let buffer = self.buffers.get_mut(&token).ok_or(MemoryError)?;
        let part = buffer.get_mut(offset..offset + from.len());
        part.ok_or(MemoryError)?.copy_from_slice(from);
        Ok(())
    }

    fn read_slot(&mut self, slot: Slot, into: &mut Block) {
        *into = self.slots[usize::from(slot.0)];
    }

    fn write_slot(&mut self, slot: Slot, from: &Block) {
        self.slots[usize::from(slot.0)] = *from;
    }
}

/// Everything together.
pub(crate) struct Rig {
    pub(crate) disk: SealedDisk,
    pub(crate) host: Host,
    pub(crate) ram: Ram,
    pub(crate) dice: Dice,
    /// What the sealed store has.
    pub(crate) anchor: Option<Anchor>,
    /// Whether anchors are stored.
    pub(crate) stores_anchors: bool,
    /// Writes after which the power goes.
    pub(crate) power: Option<u64>,
    /// Transfers the host fails.
    pub(crate) fails: fn(&HostIo) -> bool,
    pub(crate) events: Vec<Event>,
    pub(crate) in_flight: Vec<HostIo>,
    next_token: u64,
    done: HashMap<Token, Result<(), RequestError>>,
}

pub(crate) fn key() -> DiskKey {
    DiskKey::new([0x42; 32])
}

impl Rig {
    /// Opens the disk of a host, with what the store says of it.
    pub(crate) fn open(host: Host, anchor: Option<Anchor>, config: Config, seed: u64) -> Self {
        Self::made(host, anchor, config, seed).opened()
    }

    fn made(host: Host, anchor: Option<Anchor>, config: Config, seed: u64) -> Self {
        let host_blocks = Geometry::try_new(Self::logical(&host)).map_or(3, |g| g.total_blocks());
        let mut entropy = [0; 32];
        entropy[..8].copy_from_slice(&seed.to_le_bytes());
        let trust = anchor.map_or(Trust::FirstUse, Trust::Anchored);
        let disk = SealedDisk::new(key(), entropy, trust, host_blocks, config).unwrap();
        Self::around(disk, host, anchor, config, seed)
    }

    /// Opens the disk for a caller who stores anchors himself.
    pub(crate) fn open_unstored(
        host: Host,
        anchor: Option<Anchor>,
        config: Config,
        seed: u64,
    ) -> Self {
        let mut rig = Self::made(host, anchor, config, seed);
        rig.stores_anchors = false;
        rig.opened()
    }

    pub(crate) fn with(
        disk: SealedDisk,
        host: Host,
        anchor: Option<Anchor>,
        config: Config,
        seed: u64,
    ) -> Self {
        Self::around(disk, host, anchor, config, seed).opened()
    }

    fn around(
        disk: SealedDisk,
        host: Host,
        anchor: Option<Anchor>,
        config: Config,
        seed: u64,
    ) -> Self {
        Self {
            disk,
            host,
            ram: Ram {
                slots: vec![[0xEE; BLOCK_BYTES]; usize::from(config.slots)],
                ..Ram::default()
            },
            dice: Dice::new(seed),
            anchor,
            stores_anchors: true,
            power: None,
            fails: |_| false,
            events: Vec::new(),
            in_flight: Vec::new(),
            next_token: 0,
            done: HashMap::new(),
        }
    }

    fn opened(mut self) -> Self {
        while self.disk.state() == State::Opening && self.step() {}
        self
    }

    fn logical(host: &Host) -> u64 {
        let bytes = host.read(0);
        u64::from_le_bytes(*bytes[24..].first_chunk().unwrap())
    }

    /// Returns whether there is power.
    pub(crate) fn has_power(&self) -> bool {
        self.power.is_none_or(|writes| self.host.writes < writes)
    }

    /// Does one thing, of the disk or of the host, in any order. Returns `false` if there is nothing to do, or no power.
    pub(crate) fn step(&mut self) -> bool {
        if !self.has_power() {
            return false;
        }
        let is_busy = self.disk.work(&mut self.ram) == Work::Again;
        while let Some(io) = self.disk.next_io() {
            self.begin(io);
        }
        while let Some(event) = self.disk.next_event() {
            self.events.push(event);
        }
        if self.stores_anchors
            && let Some(anchor) = self.disk.next_anchor()
        {
            self.anchor = Some(anchor);
            self.disk.anchored(anchor.generation);
            return true;
        }
        if !self.in_flight.is_empty() && (!is_busy || self.dice.below(4) == 0) {
            let index = self.dice.below(self.in_flight.len() as u64) as usize;
            let io = self.in_flight.swap_remove(index);
            self.end(&io);
            return true;
        }
        is_busy
    }

    fn begin(&mut self, io: HostIo) {
        self.host.begin(&io, &self.ram);
        self.in_flight.push(io);
    }

    fn end(&mut self, io: &HostIo) {
        let result = if (self.fails)(io) {
            Err(HostError)
        } else {
            Ok(())
        };
        self.host.end(io, &mut self.ram);
        assert!(self.disk.complete(io.id, result));
    }

    /// Submits a request with a buffer, when the disk has room for it.
    pub(crate) fn submit(&mut self, kind: Kind, sector: u64, sectors: u64, data: Vec<u8>) -> Token {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.ram.buffers.insert(token, data);
        let request = Request {
            token,
            kind,
            sector,
            sectors,
        };
        while self.disk.submit(request) == Err(RequestError::Busy) && self.step() {
            self.fetch();
        }
        token
    }

    /// Runs until this request is done. `None`: the power went first, or it never ends.
    pub(crate) fn wait(&mut self, token: Token) -> Option<Result<(), RequestError>> {
        loop {
            self.fetch();
            if let Some(result) = self.done.remove(&token) {
                return Some(result);
            }
            if !self.step() {
                return None;
            }
        }
    }

    fn fetch(&mut self) {
        while let Some(Completion { token, result }) = self.disk.next_completion() {
            self.done.insert(token, result);
        }
    }

    pub(crate) fn read(&mut self, sector: u64, sectors: u64) -> Result<Vec<u8>, RequestError> {
        let buffer = vec![0xDD; sectors as usize * 512];
        let token = self.submit(Kind::Read, sector, sectors, buffer);
        let result = self.wait(token).expect("reads end");
        let data = self.ram.buffers.remove(&token).unwrap();
        result.map(|()| data)
    }

    pub(crate) fn write(&mut self, sector: u64, data: &[u8]) -> Option<Result<(), RequestError>> {
        let sectors = data.len() as u64 / 512;
        let token = self.submit(Kind::Write, sector, sectors, data.to_vec());
        self.wait(token)
    }

    pub(crate) fn flush(&mut self) -> Option<Result<(), RequestError>> {
        let token = self.submit(Kind::Flush, 0, 0, Vec::new());
        self.wait(token)
    }

    /// Runs until nothing is left to do.
    pub(crate) fn rest(&mut self) {
        while self.step() {}
    }
}

/// A host's file, to be checked.
pub(crate) struct File<'a>(pub(crate) &'a Host);

impl ReadBlocks for File<'_> {
    type Error = ();

    fn read(&mut self, block: HostBlock, into: &mut [u8; BLOCK_BYTES]) -> Result<(), ()> {
        *into = self.0.read(block.0);
        Ok(())
    }
}
