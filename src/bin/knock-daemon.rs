//! Opens ports for those who knock. Everything is in [`knockknock::daemon`].

fn main() -> std::process::ExitCode {
    knockknock::knock_daemon()
}
