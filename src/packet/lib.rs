//! Packets: time, bytes, headers, and what becomes of a packet. No operating system.
//!
//! | module | is |
//! |---|---|
//! | [`verdict`] | what becomes of a packet, and the one list of drop reasons |
//! | [`loss`] | what an io lost before the path saw it |
//! | [`time`] | time that is passed in |
//! | [`frame`] | bytes with headroom |
//! | [`io`] | the trait of everything that receives and sends frames |
//! | [`wire`] | checked views of headers, and a builder of packets for tests |

pub mod frame;
pub mod io;
pub mod loss;
pub mod time;
pub mod verdict;
pub mod wire;
