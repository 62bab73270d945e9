//! Killed processes, and the rules of the tree.

mod killed;
mod operation;
mod rq;
mod tidy;
