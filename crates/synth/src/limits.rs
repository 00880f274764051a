//! Every limit of a synthesis. Those that a program meets by itself are deterministic: the same program meets them on every
//! machine. Time and the process's own limits stand behind them.

use std::time::Duration;

/// Files of a folder.
pub const FILES_MAX: usize = 5_000;
/// Entries of all kinds that are looked at in a folder.
pub const ENTRIES_MAX: usize = 50_000;
/// Folders below the folder.
pub const DEPTH_MAX: usize = 16;
/// Bytes of one file.
pub const FILE_BYTES_MAX: u64 = 1 << 20;
/// Bytes of all files.
pub const SOURCE_BYTES_MAX: u64 = 16 << 20;
/// How deep brackets may be nested in a source.
pub const NESTING_MAX: usize = 500;
/// Calls of the engine's interrupt handler, each after some ten thousand branches and calls.
pub const TICKS_MAX: u64 = 10_000;
/// Bytes of the engine's heap.
pub const HEAP_BYTES_MAX: usize = 256 << 20;
/// Bytes of the engine's stack.
pub const STACK_BYTES_MAX: usize = 1 << 20;
/// Pipelines of a folder.
pub const PIPELINES_MAX: usize = 10_000;
/// How deep a value may be nested.
pub const VALUE_DEPTH_MAX: usize = 32;
/// Values in all pipelines together.
pub const VALUES_MAX: usize = 5_000_000;
/// Bytes of one text in a value.
pub const TEXT_BYTES_MAX: usize = 1 << 20;
/// Bytes of texts in all pipelines together.
pub const TEXTS_BYTES_MAX: usize = 32 << 20;
/// Lines that a program may print.
pub const NOTES_MAX: usize = 100;
/// Characters of a printed line, and of an exception's message.
pub const NOTE_CHARS_MAX: usize = 1_000;
/// Frames of a stack that are shown.
pub const FRAMES_MAX: usize = 10;
/// Problems that are told at once.
pub const PROBLEMS_MAX: usize = 20;
/// Bytes that the parent reads of the child's answer.
pub const ANSWER_BYTES_MAX: u64 = 256 << 20;
/// CPU seconds of the child: several times what the ticks take.
pub const CPU_SECONDS_MAX: u64 = 6;
/// Bytes of the child's address space: the heap, the sources with their syntax trees, and the answer.
pub const ADDRESS_SPACE_MAX: u64 = 2 << 30;
/// Bytes of the child's native stack, for the parser.
pub const NATIVE_STACK_MAX: u64 = 64 << 20;
/// How long the child may take.
pub const WALL_TIME_MAX: Duration = Duration::from_secs(20);
