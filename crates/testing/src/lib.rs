//! Real servers and killable processes for tests.

mod cluster;
mod guard;
mod postgres;
mod proxy;
mod redis;
mod rig;

pub use cluster::{Cluster, ClusterSettings, program};
pub use guard::{Guard, eventually, free_port};
pub use postgres::Postgres;
pub use proxy::Proxy;
pub use redis::Redis;
pub use rig::{Rig, databases, sqlite};
