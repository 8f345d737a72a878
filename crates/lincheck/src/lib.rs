//! Is a recorded history linearizable? An answer that is a proof either way, and a picture.
//!
//! A history is what clients saw: for each operation when it was called, when it returned, what it
//! asked and what it was answered. It is linearizable if all operations can be put in one order
//! that never puts an operation before one that had returned when it was called, and in which a
//! plain sequential store would have given every one of the answers (Herlihy and Wing,
//! *Linearizability: a correctness condition for concurrent objects*, 1990).
//!
//! This crate knows nothing of any store. It reads histories ([`History::read`]; the format is
//! described at the head of `jsonl.rs`), checks them ([`check`]), and draws them ([`html`]).
//!
//! - **Linearizable** is said only of orders that were replayed, whoever proposed them:
//!   `witness.rs`.
//! - **Not linearizable** is said by the fast path (`unique.rs`) or the search (`wgl.rs`), which
//!   agree with each other and with a brute-force search on hundreds of thousands of small
//!   histories (`agreement_tests.rs`), and comes with the smallest part that fails.
//! - **Undecided** is said when the steps allowed are used up. It is no pass.
//!
//! ```
//! use sampan_lincheck::{History, Options, check};
//!
//! let lines = r#"
//!     {"client":1,"op":"put","key":"k","value":"old","call":1,"ret":2,"status":"ok"}
//!     {"client":1,"op":"put","key":"k","value":"new","call":3,"ret":4,"status":"ok"}
//!     {"client":2,"op":"get","key":"k","out":"old","call":5,"ret":6,"status":"ok"}
//! "#;
//! let history = History::read(lines.as_bytes())?;
//! assert!(!check(&history, &Options::default()).is_linearizable());
//! # Ok::<(), sampan_lincheck::ReadError>(())
//! ```

mod check;
mod decide;
mod entered;
mod history;
pub mod html;
mod intern;
mod jsonl;
mod line;
mod merge;
mod minimize;
mod model;
mod part;
mod pins;
mod report;
mod rope;
mod run;
mod seen;
mod unique;
mod wgl;
mod witness;

#[cfg(test)]
mod agreement_tests;
#[cfg(test)]
mod brute;
#[cfg(test)]
mod random;

pub use check::{Options, check};
pub use decide::Method;
pub use history::{
    Fault, History, KeyId, Leadership, Operation, OperationId, Status, Step, ValueId, Witness,
};
pub use jsonl::{LINE_BYTES_MAX, LineError, Problem, ReadError};
pub use model::Action;
pub use report::{
    Counterexample, Counts, FalseClaim, Needed, Report, Timings, UndecidedPart, Verdict,
};
pub use run::{RunError, run, run_file};
pub use witness::Refusal;
