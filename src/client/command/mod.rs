//! The program `knock`: its command line, what it plans and does, how `-W` and COMMAND connect, and how profiles come in.

pub mod cli;
mod connect_stdio;
mod import;
mod pasted_line;
mod plan;
pub mod run;
mod target;
