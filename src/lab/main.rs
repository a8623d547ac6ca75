//! The `guideway-lab` program.

fn main() -> std::process::ExitCode {
    guideway_lab::main()
}
