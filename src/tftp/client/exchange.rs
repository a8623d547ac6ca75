//! One transfer over a socket, on the calling thread.
