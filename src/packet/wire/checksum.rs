//! The Internet checksum (RFC 1071).

/// One's complement sum of `bytes` as 16-bit big-endian words, an odd last byte padded with zero; not complemented.
#[inline]
pub fn sum(bytes: &[u8]) -> u16 {
    // The sum of 32-bit words folds to the sum of their 16-bit halves (RFC 1071 section 2 (A) and (C)).
    let mut words = bytes.chunks_exact(4);
    let mut sum: u64 = words.by_ref().map(|w| u64::from(u32::from_be_bytes([w[0], w[1], w[2], w[3]]))).sum();
    let mut last = [0u8; 4];
    let rest = words.remainder();
    last[..rest.len()].copy_from_slice(rest);
    sum += u64::from(u32::from_be_bytes(last));
    fold(sum)
}

/// Folds a sum of words to 16 bits.
#[inline]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + ((sum >> 16) & 0xffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum to be written into a header whose checksum field is zero.
#[inline]
pub fn checksum(bytes: &[u8]) -> u16 {
    !sum(bytes)
}

/// Whether bytes that include their checksum are intact.
#[inline]
pub fn intact(bytes: &[u8]) -> bool {
    sum(bytes) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_example_of_rfc_1071_section_3() {
        assert_eq!(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]), 0xddf2);
    }

    proptest! {
        #[test]
        fn the_sum_is_that_of_the_plain_loop(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
            let mut plain = 0u32;
            for pair in bytes.chunks(2) {
                plain += u32::from(pair[0]) << 8 | u32::from(*pair.get(1).unwrap_or(&0));
                plain = (plain & 0xffff) + (plain >> 16);
            }
            prop_assert_eq!(sum(&bytes), plain as u16);
        }
    }
}
