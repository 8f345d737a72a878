//! Do the oracles see what they should? Bugs are planted one by one (`sampan_base::plant`), and
//! each is searched for until something sees it (`docs/plants.md`).
//!
//! A bug that is not found is a fault of the simulator. What is found counts only if the same run
//! without the bug ends well.

mod aims;
mod ledger;
mod scenarios;
mod search;

pub use ledger::{Area, Hunt, Row, row};
pub use search::{Found, HEADING, Ledger, Searches, hush_panics, search};
