//! Real databases for tests.

mod postgres;
mod rig;

pub use postgres::Postgres;
pub use rig::{Rig, databases, sqlite};
