//! What acts when time passes, and the HTTP API. Any number of these may run against one database: each
//! step is claimed, so none needs a leader.

mod api;
mod clock_loop;
mod foreign;
mod forget;
mod program;

pub use clock_loop::run;
pub use program::main;
