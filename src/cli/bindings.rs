//! The inputs and outputs of a model's program by the names of the model.
//!
//! Models: which tensor a name of `--input` and `--output` means, and with which shape. A compiled model says so in its notes, so that
//! its object answers to the same names; in any other program a name is a tensor's symbol. Leaves out: files ([`super::tensors`]).
//! Invariant: a note that does not fit the program's tensors is no binding, so that no object makes a run fail here.

use super::CliError;
use crate::compiler::chain;
use crate::isa::image::{Class, Image, Tensor};
use serde::{Deserialize, Serialize};

/// Keys of the notes.
const INPUT: &str = "input";
const OUTPUT: &str = "output";

/// The text of a note.
#[derive(Serialize, Deserialize)]
struct Note {
    name: String,
    tensor: String,
    shape: Vec<u64>,
}

/// A tensor by a name of the command line.
#[derive(Clone, Debug, PartialEq)]
pub struct Named {
    /// As given on the command line.
    pub name: String,
    /// The program's tensor.
    pub symbol: String,
    /// It as files hold it: called by its name, in the model's shape.
    pub tensor: Tensor,
}

impl Named {
    fn new(image: &Image, name: &str, symbol: &str, shape: Option<&[u64]>) -> Option<Named> {
        let mut tensor = image.tensor(symbol)?.clone();
        let elements = tensor.elements();
        name.clone_into(&mut tensor.name);
        if let Some(shape) = shape {
            shape.clone_into(&mut tensor.shape);
            // Files hold no gaps.
            tensor.pitch = None;
        }
        (tensor.elements() == elements).then(|| Named {
            name: name.to_owned(),
            symbol: symbol.to_owned(),
            tensor,
        })
    }
}

impl std::fmt::Display for Named {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let t = &self.tensor;
        write!(f, "{}: {} {:?}", self.name, t.dtype, t.shape)
    }
}

/// What a model's program takes and gives; empty for other programs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Bindings {
    pub inputs: Vec<Named>,
    pub outputs: Vec<Named>,
}

impl Bindings {
    /// Those that the notes of a program name.
    pub fn of(image: &Image) -> Bindings {
        let of = |key: &str| -> Vec<Named> {
            let notes = image.notes.iter().filter(|(k, _)| k == key);
            notes
                .filter_map(|(_, text)| {
                    let note: Note = serde_json::from_str(text).ok()?;
                    Named::new(image, &note.name, &note.tensor, Some(&note.shape))
                })
                .collect()
        };
        Bindings {
            inputs: of(INPUT),
            outputs: of(OUTPUT),
        }
    }

    /// What `--input NAME` means.
    pub fn input(&self, image: &Image, name: &str) -> Result<Named, CliError> {
        find(&self.inputs, image, "input", name)
    }

    /// What `--output NAME` means.
    pub fn output(&self, image: &Image, name: &str) -> Result<Named, CliError> {
        find(&self.outputs, image, "output", name)
    }

    /// A model computes nothing from what was not given; without data only what steers it is needed.
    pub fn check_given(&self, given: &[&str], data: bool) -> Result<(), CliError> {
        let needed = |n: &&Named| data || n.tensor.class == Class::Control;
        let missing =
            |n: &&Named| !given.contains(&n.name.as_str()) && !given.contains(&&n.symbol[..]);
        let Some(first) = self.inputs.iter().filter(needed).find(missing) else {
            return Ok(());
        };
        Err(CliError::usage(format!(
            "no --input {name}=F.npy: the model needs {first}",
            name = first.name
        )))
    }
}

fn find(list: &[Named], image: &Image, what: &str, name: &str) -> Result<Named, CliError> {
    if let Some(named) = list.iter().find(|n| n.name == name) {
        return Ok(named.clone());
    }
    if let Some(named) = Named::new(image, name, name, None) {
        return Ok(named);
    }
    let refuse = |kind: &str, all: Vec<String>| {
        let known = match all.is_empty() {
            true => "it declares none".to_owned(),
            false => format!("it has {}", all.join(", ")),
        };
        CliError::usage(format!("--{what} {name}: {kind} `{name}`; {known}"))
    };
    Err(match list.is_empty() {
        true => {
            let all = image.tensors.iter().map(|t| t.name.clone());
            refuse("the program has no tensor", all.collect())
        }
        false => {
            let all = list.iter().map(Named::to_string);
            refuse(&format!("the model has no {what}"), all.collect())
        }
    })
}

/// The notes of a compiled model.
pub fn notes(program: &chain::Program) -> Vec<(String, String)> {
    let of = |key: &'static str, list: &[chain::Binding]| -> Vec<(String, String)> {
        list.iter()
            .map(|b| {
                let note = Note {
                    name: b.name.clone(),
                    tensor: b.symbol.clone(),
                    shape: b.shape.clone(),
                };
                // Strings and numbers always have a JSON form.
                (
                    key.to_owned(),
                    serde_json::to_string(&note).unwrap_or_default(),
                )
            })
            .collect()
    };
    [of(INPUT, &program.inputs), of(OUTPUT, &program.outputs)].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::asm::assemble_text;

    fn image(notes: &str) -> Image {
        let text = format!(
            ".tensor t0_x, hbm, bf16, [6], payload\n.tensor ids, hbm, i32, [1], control\n{notes}\n.tile\n halt\n"
        );
        let none = |_: &str| Err(std::io::Error::other("no includes"));
        assemble_text("t.s", &text, &none).unwrap()
    }

    #[test]
    fn names_of_the_model_come_before_symbols() {
        let image = image(
            r#".note input, "{\"name\":\"x\",\"tensor\":\"t0_x\",\"shape\":[2,3]}"
.note input, "{\"name\":\"n\",\"tensor\":\"ids\",\"shape\":[]}""#,
        );
        let all = Bindings::of(&image);
        assert_eq!(all.inputs.len(), 2);
        let x = all.input(&image, "x").unwrap();
        assert_eq!(
            (x.symbol.as_str(), x.to_string().as_str()),
            ("t0_x", "x: bf16 [2, 3]")
        );
        assert_eq!(all.input(&image, "t0_x").unwrap().tensor.shape, [6]);
        let error = all.input(&image, "y").unwrap_err();
        assert_eq!(
            error.to_string(),
            "--input y: the model has no input `y`; it has x: bf16 [2, 3], n: i32 []"
        );
        let error = all.check_given(&["n"], true).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no --input x=F.npy: the model needs x: bf16 [2, 3]"
        );
        assert_eq!(error.exit_code(), 2);
        assert!(all.check_given(&["n"], false).is_ok());
        assert!(all.check_given(&[], false).is_err());
        assert!(all.check_given(&["t0_x", "n"], true).is_ok());
    }

    #[test]
    fn notes_that_fit_no_tensor_bind_nothing() {
        let image = image(
            r#".note input, "any text"
.note input, "{\"name\":\"x\",\"tensor\":\"gone\",\"shape\":[6]}"
.note output, "{\"name\":\"x\",\"tensor\":\"t0_x\",\"shape\":[7]}"
.note output, "{\"name\":\"x\",\"tensor\":\"t0_x\",\"shape\":[4294967296,4294967296,4294967296]}""#,
        );
        assert_eq!(Bindings::of(&image), Bindings::default());
    }
}
