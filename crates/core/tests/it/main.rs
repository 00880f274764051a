//! The core's decisions, told as scenarios: a small organisation, virtual time and an engine that obeys. The rules that
//! always hold are checked after every decision, whatever a test is about.

#![expect(clippy::unwrap_used, reason = "a scenario that cannot be told is a failed test")]

mod adopting;
mod configuration;
mod deadlines;
mod definitions;
mod edits;
mod explore;
mod fleet;
mod following;
mod forges;
mod glass;
mod lint;
mod looking;
mod observing;
mod outside;
mod overrides;
mod pages;
mod peers;
mod profiles;
mod retiring;
mod returning;
mod reviews;
mod rules;
mod scenario;
mod skips;
mod suspects;
mod taint;
mod watching;
