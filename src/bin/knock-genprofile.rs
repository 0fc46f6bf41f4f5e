//! Makes a profile on the server. Everything is in [`knockknock::genprofile`].

fn main() -> std::process::ExitCode {
    knockknock::genprofile::main()
}
