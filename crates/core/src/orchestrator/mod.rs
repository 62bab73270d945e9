//! What happens to an execution, one file per word:
//!
//! [`start`] → [`claim`] → [`advance`] → [`pause`] → [`dispatch`] → *a worker runs the function* →
//! [`settle`] → [`claim`] → [`advance`] → … → [`finish`]. [`drive`] strings them together;
//! [`foresee`] lets a step run ahead of its claim; `watch` keeps the claim and stops the turn, in one of the process' `lanes`. Beside the line: [`timers`] and [`rescue`] when time passes; [`signal`],
//! [`cancel`], [`hold`], [`revive`] and [`mend`] when somebody wishes; `children` when an execution starts another, `send`
//! when it sends one a signal; [`drain`] when it waits for the end of what was cancelled.

pub mod advance;
mod aside;
mod cache;
pub mod cancel;
mod children;
pub mod claim;
pub mod dispatch;
pub mod drain;
pub mod drive;
mod engine;
mod event;
pub mod finish;
pub mod foresee;
pub mod forget;
pub mod hold;
mod lanes;
mod limits;
pub mod mend;
pub mod pause;
mod rebuild;
pub mod rescue;
pub mod revive;
mod send;
pub mod settle;
pub mod signal;
pub mod start;
pub mod timers;
mod watch;

pub use engine::{CLOCK_IDLE, Engine, History, OrchestrationError, Settings};
pub use event::{Event, Observer};
