//! The heart's promises, each as a fact.

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
mod values;
mod waits;
mod wake;
mod writes;
