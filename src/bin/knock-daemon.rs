//! Opens ports for those who knock. Everything is in [`knockknock::daemon`]; what `--try` tries in
//! [`knockknock::trial`].

fn main() -> std::process::ExitCode {
    knockknock::daemon::main(knockknock::trial::run)
}
