//! The evaluator's process alone, for this crate's tests. The product's binary is its own child.

fn main() -> std::process::ExitCode {
    tidegate_synth::child::main()
}
