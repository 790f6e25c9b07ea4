//! `completions` and `man`: generated from the same definition of the flags that parses them.

use super::{CliError, Context, definition};
use clap_complete::Shell;
use std::path::{Path, PathBuf};

/// Print a completion script for a shell
#[derive(clap::Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

/// Print the manual page, or write one per subcommand into a directory
#[derive(clap::Args)]
pub struct ManArgs {
    /// Directory for one page per subcommand
    #[arg(short, long, value_name = "DIR")]
    output: Option<PathBuf>,
}

pub fn completions(args: &CompletionsArgs, context: &Context) -> Result<(), CliError> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut definition(), "tilewright", &mut script);
    context.print_bytes(&script)
}

pub fn man(args: &ManArgs, context: &Context) -> Result<(), CliError> {
    let mut command = definition();
    command.build();
    match &args.output {
        None => context.print_bytes(&page(&command)?),
        Some(dir) => {
            std::fs::create_dir_all(dir).map_err(|e| CliError::io("create", dir, &e))?;
            pages(&command, "tilewright", dir)
        }
    }
}

fn page(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone())
        .render(&mut page)
        .map_err(|e| CliError::usage(format!("cannot render the manual page: {e}")))?;
    Ok(page)
}

fn pages(command: &clap::Command, name: &str, dir: &Path) -> Result<(), CliError> {
    let path = dir.join(format!("{name}.1"));
    std::fs::write(&path, page(command)?).map_err(|e| CliError::io("write", &path, &e))?;
    command
        .get_subcommands()
        .filter(|c| c.get_name() != "help")
        .try_for_each(|c| pages(c, &format!("{name}-{}", c.get_name()), dir))
}
