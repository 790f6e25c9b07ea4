//! Symbols: what names mean, where.
//!
//! Models: global names (tensors, tables, `.equ`, `.set`), labels that are local to a control program or a kernel, and
//! numbered local labels; names in a scope are kept as `SCOPE.name` and tried first from inside it. Leaves out: register aliases
//! and macros, which never stand in expressions. Invariant: maps are ordered, so suggestions never depend on hashing.

use super::expr::{FUNCTIONS, Lookup, Value};
use crate::isa::image::Tensor;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;

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

/// A numbered label: its code, its `.scope` and its number.
pub type LocalLabel = (u32, Option<Rc<str>>, u64);

/// All symbols of a program.
#[derive(Default)]
pub struct Symbols {
    /// Global names.
    pub globals: BTreeMap<String, Global>,
    /// The tensors, in order.
    pub tensors: Vec<Tensor>,
    /// Labels by code (a control program or a kernel) and name: the word's index.
    pub labels: BTreeMap<(u32, String), u32>,
    /// Numbered labels: ascending word indices.
    pub locals: HashMap<LocalLabel, Vec<u32>>,
    /// Kernel numbers by name.
    pub kernels: BTreeMap<String, usize>,
}

/// The symbols as seen from a place in the code.
pub struct View<'s> {
    /// All symbols.
    pub symbols: &'s Symbols,
    /// Control program or kernel.
    pub scope: Option<u32>,
    /// The `.scope` that the place is in.
    pub within: Option<Rc<str>>,
    /// Index of the word, if an instruction asks.
    pub word: Option<u32>,
    /// Whether an error would be shown: looking for what was meant costs more than the rest of a line.
    pub shown: bool,
}

impl Symbols {
    /// What `get` knows of a name: of the one in the scope `within`, else of the one outside.
    pub fn find<T>(
        &self,
        within: Option<&str>,
        name: &str,
        get: impl Fn(&Symbols, &str) -> Option<T>,
    ) -> Option<T> {
        let inner = within.and_then(|scope| get(self, &format!("{scope}.{name}")));
        inner.or_else(|| get(self, name))
    }

    /// The meaning of a global name as seen from the scope `within`.
    pub fn global(&self, within: Option<&str>, name: &str) -> Option<Global> {
        self.find(within, name, |s, name| s.globals.get(name).cloned())
    }

    /// The number of a kernel as seen from the scope `within`.
    pub fn kernel(&self, within: Option<&str>, name: &str) -> Option<usize> {
        self.find(within, name, |s, name| s.kernels.get(name).copied())
    }
}

impl View<'_> {
    /// The value of exactly this name.
    fn exact(&self, name: &str) -> Option<Value> {
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
}

impl Lookup for View<'_> {
    fn name(&self, name: &str) -> Option<Value> {
        self.symbols
            .find(self.within.as_deref(), name, |_, name| self.exact(name))
    }

    fn tensor(&self, name: &str) -> Option<&Tensor> {
        match self.symbols.global(self.within.as_deref(), name)? {
            Global::Tensor(i) => self.symbols.tensors.get(i),
            _ => None,
        }
    }

    fn local(&self, number: u64, forward: bool) -> Option<Value> {
        let (scope, word) = (self.scope?, self.word?);
        let all = self
            .symbols
            .locals
            .get(&(scope, self.within.clone(), number))?;
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
        // More candidates than are compared would only cost memory.
        const EACH: usize = 1000;
        if !self.shown {
            return Vec::new();
        }
        let scope = self.scope.unwrap_or(u32::MAX);
        let mut prefixes = vec![String::new()];
        // Names of the scope that is being read are written without it.
        prefixes.extend(self.within.iter().map(|w| format!("{w}.")));
        let mut all = Vec::new();
        for prefix in prefixes.iter().rev() {
            let own = |name: &&String| name.starts_with(prefix.as_str());
            let labels = self.symbols.labels.range((scope, prefix.clone())..);
            let labels = labels.take_while(|((s, name), _)| *s == scope && own(&name));
            let globals = self.symbols.globals.range(prefix.clone()..);
            let kernels = self.symbols.kernels.range(prefix.clone()..);
            let names = labels
                .map(|((_, name), _)| name)
                .take(EACH)
                .chain(globals.map(|g| g.0).take_while(own).take(EACH))
                .chain(kernels.map(|k| k.0).take_while(own).take(EACH));
            all.extend(names.map(|name| &name[prefix.len()..]));
        }
        all.extend(FUNCTIONS.iter().map(|f| f.0));
        all
    }
}
