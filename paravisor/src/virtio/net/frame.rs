//! A frame on its way, and the piece of it that is next.

use alloc::boxed::Box;
use alloc::vec;

use stockade_devices::virtio::net::{Header, Pieces};

/// Room for one frame, and for a piece of it.
pub(super) struct Frame {
    bytes: Box<[u8]>,
    piece: Box<[u8]>,
    way: Way,
}

/// How far the frame is.
enum Way {
    /// There is none.
    Empty,
    /// All of its `len` bytes are next, with what their header leaves undone.
    Whole { header: Header, len: usize },
    /// The first `ready` bytes of the piece are next, then what else is to be made of the frame.
    Split {
        len: usize,
        pieces: Pieces,
        ready: usize,
    },
}

/// What is next.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    /// What is left undone to it.
    pub(super) header: Header,
    pub(super) bytes: &'a [u8],
}

impl Frame {
    /// Returns room for frames of so many bytes, and pieces.
    pub(super) fn new(frame_bytes: usize, piece_bytes: usize) -> Self {
        let buffer = |len| vec![0; len].into_boxed_slice();
        Self {
            bytes: buffer(frame_bytes),
            piece: buffer(piece_bytes),
            way: Way::Empty,
        }
    }

    /// Returns where the next frame is to be copied to.
    pub(super) fn place(&mut self) -> &mut [u8] {
        &mut self.bytes
    }

    /// Returns what was copied there.
    pub(super) fn bytes(&self, len: usize) -> &[u8] {
        self.bytes.get(..len).unwrap_or_default()
    }

    /// Begins with a frame that was copied: whole, or in pieces to which nothing is left to be done. Returns `false` if that cannot be: it
    /// is not what its header says, or more than `longest` bytes, or its pieces are longer than there is room for.
    pub(super) fn begin(
        &mut self,
        header: Header,
        len: usize,
        is_whole: bool,
        longest: usize,
    ) -> bool {
        self.way = Way::Empty;
        if is_whole && len > longest {
            return false;
        }
        if is_whole {
            self.way = Way::Whole { header, len };
            return true;
        }
        let Some(pieces) = Pieces::try_new(header, self.bytes(len)) else {
            return false;
        };
        if pieces.longest(self.bytes(len)) > self.piece.len() {
            return false;
        }
        self.make(len, pieces);
        true
    }

    /// Makes the next piece, if there is one.
    fn make(&mut self, len: usize, mut pieces: Pieces) {
        let frame = self.bytes.get(..len).unwrap_or_default();
        self.way = match pieces.next(frame, &mut self.piece) {
            Some(ready) => Way::Split { len, pieces, ready },
            None => Way::Empty,
        };
    }

    /// Returns what is next.
    pub(super) fn piece(&self) -> Option<Piece<'_>> {
        let (header, bytes) = match self.way {
            Way::Empty => return None,
            Way::Whole { header, len } => (header, self.bytes(len)),
            Way::Split { ready, .. } => (
                Header::default(),
                self.piece.get(..ready).unwrap_or_default(),
            ),
        };
        Some(Piece { header, bytes })
    }

    /// Goes on to what is next.
    pub(super) fn advance(&mut self) {
        match self.way {
            Way::Split { len, pieces, .. } => self.make(len, pieces),
            Way::Empty | Way::Whole { .. } => self.way = Way::Empty,
        }
    }

    /// Forgets the rest of the frame.
    pub(super) fn drop_rest(&mut self) {
        self.way = Way::Empty;
    }
}
