//! Features of block devices (Virtio 1.2, 5.2.3).

use super::Features;

/// `VIRTIO_BLK_F_SEG_MAX`: a request has at most so many segments.
pub const SEG_MAX: Features = Features::bit(2);
/// `VIRTIO_BLK_F_RO`: the disk cannot be written.
pub const READ_ONLY: Features = Features::bit(5);
/// `VIRTIO_BLK_F_BLK_SIZE`: the block size is told.
pub const BLK_SIZE: Features = Features::bit(6);
/// `VIRTIO_BLK_F_FLUSH`: the disk has a cache that can be flushed.
pub const FLUSH: Features = Features::bit(9);
/// `VIRTIO_BLK_F_TOPOLOGY`: what sizes and alignments are good is told.
pub const TOPOLOGY: Features = Features::bit(10);
/// `VIRTIO_BLK_F_CONFIG_WCE`: the driver switches the cache.
pub const CONFIG_WCE: Features = Features::bit(11);
/// `VIRTIO_BLK_F_MQ`: there are several queues.
pub const MQ: Features = Features::bit(12);
/// `VIRTIO_BLK_F_DISCARD`: ranges can be discarded.
pub const DISCARD: Features = Features::bit(13);
/// `VIRTIO_BLK_F_WRITE_ZEROES`: ranges can be zeroed.
pub const WRITE_ZEROES: Features = Features::bit(14);
