//! What happens to an execution, one file per word:
//!
//! [`start`] → [`claim`] → [`advance`] → [`pause`] → [`dispatch`] → *a worker runs the function* →
//! [`settle`] → [`claim`] → [`advance`] → … → [`finish`]. [`drive`] strings them together;
//! [`foresee`] lets a step run ahead of its claim; [`timers`] and [`rescue`] act beside the line, when
//! time passes.

pub mod advance;
pub mod claim;
pub mod dispatch;
pub mod drive;
mod engine;
mod event;
pub mod finish;
pub mod foresee;
pub mod pause;
pub mod rescue;
pub mod settle;
pub mod start;
pub mod timers;

pub use engine::{CLOCK_IDLE, Engine, OrchestrationError, Settings};
pub use event::{Event, Observer};
