//! placeholder
/// t
#[derive(Debug)]
pub struct Table;
