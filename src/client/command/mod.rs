//! The program `knock`: its command line, what it plans and does, and how `-W` and COMMAND connect.

pub mod cli;
mod connect_stdio;
mod plan;
pub mod run;
mod target;
