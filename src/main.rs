//! The `guideway` program.

fn main() -> std::process::ExitCode {
    guideway::cli::main()
}
