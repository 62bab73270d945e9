//! Real servers and killable processes for tests.

mod guard;
mod postgres;
mod redis;
mod rig;

pub use guard::{Guard, eventually, free_port};
pub use postgres::Postgres;
pub use redis::Redis;
pub use rig::{Rig, databases, sqlite};
