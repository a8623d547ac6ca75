//! What an io lost before the packet path saw it: the other side of the balance, by reason.

macro_rules! losses {
    ($( $variant:ident $name:literal $doc:literal, )*) => {
        /// Why a frame was lost between the wire and the packet path. One list makes this type, the metric, the `--json` names and the documentation.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Loss { $( #[doc = $doc] $variant, )* }

        impl Loss {
            /// Every reason.
            pub const ALL: &'static [Loss] = &[ $( Loss::$variant, )* ];

            /// The name in metrics and JSON: snake_case.
            pub const fn name(self) -> &'static str {
                match self { $( Loss::$variant => $name, )* }
            }

            /// One human-readable sentence.
            pub const fn explain(self) -> &'static str {
                match self { $( Loss::$variant => $doc, )* }
            }
        }
    };
}

losses! {
    RingFull "ring_full" "The receive ring of a worker was full: the worker does not keep up, or was stopped.",
    NoBuffer "no_buffer" "The kernel had no empty buffer for the frame (af_xdp), or the frame was longer than one.",
    SuperFrame "super_frame" "Longer than the MTU allows: GRO or LRO put packets together; switch them off (`ethtool -K`). What was for the host itself it has got.",
    UnfinishedChecksum "unfinished_checksum" "Its sender left a checksum to the card that nobody can finish here; switch its transmit checksum offload off. What was for the host itself it has got.",
    Unreadable "unreadable" "In several buffers, or described wrongly by the kernel (netmap).",
}

/// Frames lost, by reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Losses([u64; Loss::ALL.len()]);

impl Losses {
    /// Counts more frames.
    #[inline]
    pub fn add(&mut self, loss: Loss, frames: u64) {
        self.0[loss as usize] = self.0[loss as usize].wrapping_add(frames);
    }

    /// Returns the number of one reason.
    pub fn get(&self, loss: Loss) -> u64 {
        self.0[loss as usize]
    }

    /// Adds those of another part of an io.
    pub fn merge(&mut self, other: &Losses) {
        Loss::ALL.iter().for_each(|loss| self.add(*loss, other.get(*loss)));
    }

    /// Returns the number of all reasons.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }
}
