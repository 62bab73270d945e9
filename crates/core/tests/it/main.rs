//! The heart's promises, each as a fact.

mod claims;
mod differential;
mod docs;
mod durable;
mod interpreter;
mod life;
mod line;
mod mend;
mod orchestration;
mod properties;
mod scans;
mod states;
mod store;
mod values;
mod waits;
mod wake;
mod writes;
