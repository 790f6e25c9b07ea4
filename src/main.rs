//! The `tilewright` binary: everything is in [`tilewright::cli`].

fn main() -> std::process::ExitCode {
    tilewright::cli::main()
}
