//! What acts when time passes. Any number of these loops may run against one database: each step
//! is claimed, so none needs a leader.

mod clock_loop;

pub use clock_loop::run;
