//! The `guideway` program.

fn main() -> std::process::ExitCode {
    guideway::main()
}
