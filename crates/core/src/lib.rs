//! The heart of durable-monty: what there is ([`model`], [`state`]), where it is kept ([`store`]),
//! how a workflow runs ([`interpreter`]), and what happens to an execution, step by step
//! ([`orchestrator`]).
//!
//! Nothing here knows Redis, HTTP, command lines or the environment.

pub mod allow;
pub mod id;
pub mod interpreter;
pub mod model;
pub mod offers;
pub mod options;
pub mod orchestrator;
pub mod quota;
pub mod retry;
pub mod shown;
pub mod state;
pub mod store;
pub mod time;
