//! Services, tasks, networks and logs: conversions, and the routes as clients see them.

mod client;
mod conversions;
mod logs;
mod routes;
mod tasks;
