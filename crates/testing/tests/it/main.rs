//! Killed processes, and the rules of the tree.

mod chaos;
mod compose;
mod culprit;
mod hostile;
mod killed;
mod operation;
mod rq;
mod scenarios;
mod tidy;
