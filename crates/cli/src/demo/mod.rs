//! The demo: what stands outside of tidegate in its story. The customers' requests come from `load`, and what tidegate
//! tells the on-call arrives at `hooks`. Neither knows anything of tidegate, so what they saw is evidence.

pub(crate) mod hooks;
pub(crate) mod load;
