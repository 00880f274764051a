//! The tidegate command.

#[cfg(test)]
mod demo;

fn main() {}
