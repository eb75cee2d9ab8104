//! Lies of the host about its virtio devices, one a file; [`Lie`](crate::tap::Lie) is what they can lie about.

pub(super) mod bar_moves;
pub(super) mod block_flipped;
pub(super) mod block_replayed;
pub(super) mod block_rolled_back;
pub(super) mod block_swapped;
pub(super) mod config_shrinks;
pub(super) mod descriptors_overwritten;
pub(super) mod device_id_changes;
pub(super) mod device_vanishes;
pub(super) mod double_fetch;
pub(super) mod early_completion;
pub(super) mod features_appear;
pub(super) mod features_unacked;
pub(super) mod interrupt_storm;
pub(super) mod length_long;
pub(super) mod length_short;
pub(super) mod mute_completions;
pub(super) mod net_frame_long;
pub(super) mod net_header_nonsense;
pub(super) mod queue_size_changes;
pub(super) mod silence;
pub(super) mod silent_interrupts;
pub(super) mod status_lies;
pub(super) mod used_index_jumps;
pub(super) mod used_never_posted;
pub(super) mod used_twice;
