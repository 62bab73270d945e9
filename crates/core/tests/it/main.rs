//! The heart's promises, each as a fact.

/// The memory limit of turns is one of them.
#[global_allocator]
static ALLOCATOR: durable_memory::TurnAllocator = durable_memory::TurnAllocator;

mod allow;
mod check;
mod children;
mod claims;
mod differential;
mod docs;
mod durable;
mod interpreter;
mod life;
mod limits;
mod line;
mod mend;
mod orchestration;
mod properties;
mod retention;
mod scans;
mod secrets;
mod states;
mod store;
mod tracebacks;
mod turns;
mod values;
mod waits;
mod wake;
mod writes;
