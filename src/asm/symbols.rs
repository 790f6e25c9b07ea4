//! Symbols: what names mean, where.
//!
//! Models: global names (tensors, tables, `.equ`, `.set`), labels that are local to a control program or a kernel, and
//! numbered local labels. Leaves out: register aliases and macros, which never stand in expressions. Invariant: maps are
//! ordered, so suggestions never depend on hashing.

use super::expr::{FUNCTIONS, Lookup, Value};
use crate::isa::image::Tensor;
use std::collections::{BTreeMap, HashMap};

/// A global name's meaning.
#[derive(Clone, Debug, PartialEq)]
pub enum Global {
    /// `.equ`: fixed.
    Equ(i64),
    /// `.set`: the value since the last one.
    Set(i64),
    /// Index into the tensors.
    Tensor(usize),
    /// Index of the first word in the constant table.
    Table(i64),
}

/// All symbols of a program.
#[derive(Default)]
pub struct Symbols {
    /// Global names.
    pub globals: BTreeMap<String, Global>,
    /// The tensors, in order.
    pub tensors: Vec<Tensor>,
    /// Labels by scope and name: the word's index.
    pub labels: BTreeMap<(u32, String), u32>,
    /// Numbered labels by scope and number: ascending word indices.
    pub locals: HashMap<(u32, u64), Vec<u32>>,
    /// Kernel numbers by name.
    pub kernels: BTreeMap<String, usize>,
}

/// The symbols as seen from a place in the code.
pub struct View<'s> {
    /// All symbols.
    pub symbols: &'s Symbols,
    /// Control program or kernel.
    pub scope: Option<u32>,
    /// Index of the word, if an instruction asks.
    pub word: Option<u32>,
}

impl Lookup for View<'_> {
    fn name(&self, name: &str) -> Option<Value> {
        if let Some(scope) = self.scope
            && let Some(index) = self.symbols.labels.get(&(scope, name.to_owned()))
        {
            return Some(Value {
                v: i64::from(*index),
                scope: Some(scope),
            });
        }
        match self.symbols.globals.get(name)? {
            Global::Equ(v) | Global::Set(v) | Global::Table(v) => Some((*v).into()),
            Global::Tensor(i) => {
                // Addresses have 43 bits.
                let tensor = self.symbols.tensors.get(*i)?;
                Some((tensor.address() as i64).into())
            }
        }
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.symbols.globals.get(name)? {
            Global::Tensor(i) => self.symbols.tensors.get(*i),
            _ => None,
        }
    }

    fn local(&self, number: u64, forward: bool) -> Option<Value> {
        let (scope, word) = (self.scope?, self.word?);
        let all = self.symbols.locals.get(&(scope, number))?;
        let after = all.partition_point(|index| *index <= word);
        let index = match forward {
            true => all.get(after)?,
            false => all.get(after.checked_sub(1)?)?,
        };
        Some(Value {
            v: i64::from(*index),
            scope: Some(scope),
        })
    }

    fn candidates(&self) -> Vec<&str> {
        let scope = self.scope.unwrap_or(u32::MAX);
        let labels = self
            .symbols
            .labels
            .range((scope, String::new())..)
            .take_while(|((s, _), _)| *s == scope)
            .map(|((_, name), _)| name.as_str());
        let globals = self.symbols.globals.keys().map(String::as_str);
        let kernels = self.symbols.kernels.keys().map(String::as_str);
        // More candidates than are compared would only cost memory.
        labels
            .take(1000)
            .chain(globals.take(1000))
            .chain(kernels.take(1000))
            .chain(FUNCTIONS.iter().map(|f| f.0))
            .collect()
    }
}
