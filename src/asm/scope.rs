//! Scopes: a part of a program with names of its own.
//!
//! Models: `.scope NAME` to `.endscope`. What is defined between them is kept under its full name, `NAME.x`; looking up `x` tries
//! the full name first, then `x` itself. Registers and macros, which leave nothing in the image, are forgotten at the end.
//! Leaves out: lookups ([`super::symbols`]). Invariants: what a scope costs is bounded by the lines in it, whatever stands around
//! it; a faulty `.scope` still opens one, so that its `.endscope` is no second error.

use super::assemble::{Assembler, KERNELS};
use super::expand::{Macro, Place};
use super::expr::{Cursor, Error};
use super::inst::Register;
use std::collections::BTreeMap;
use std::ops::Range;
use std::rc::Rc;

/// Longest name of a scope, in bytes: it stands before each name in it.
pub const MAX_NAME: usize = 128;

/// The scope that is being read.
pub struct OpenScope {
    /// Its name.
    pub name: Rc<str>,
    /// The line that opened it.
    place: Place,
    span: Range<usize>,
    /// What names of registers meant before, the latest last.
    aliases: Vec<(String, Option<Register>)>,
    /// What names of macros meant before.
    macros: BTreeMap<String, Option<Rc<Macro>>>,
    /// Faulty scopes inside that are still open.
    inner: u32,
}

impl Assembler<'_> {
    /// `.scope NAME`.
    pub fn open_scope(
        &mut self,
        span: Range<usize>,
        cursor: &mut Cursor<'_>,
        place: &Place,
    ) -> Result<(), Error> {
        let name = cursor
            .name("the scope's name")
            .and_then(|(name, at, _)| cursor.finish().map(|()| (name, at)));
        if let Some(open) = &mut self.open_scope {
            open.inner += 1;
            let message = format!(
                "scope inside scope `{}`, which is still open: scopes do not nest",
                open.name
            );
            return Err(Error::new(message, span));
        }
        self.leave_kernel();
        let checked = name.and_then(|(name, at)| self.check_scope(name, at));
        // The names of a faulty scope clash with no others.
        let own = || Rc::from(format!("{} scopes", self.scopes.len()));
        let name: Rc<str> = checked.as_ref().map_or_else(|_| own(), |n| Rc::from(*n));
        self.scopes.insert(Rc::clone(&name));
        self.open_scope = Some(OpenScope {
            name,
            place: place.clone(),
            span,
            aliases: Vec::new(),
            macros: BTreeMap::new(),
            inner: 0,
        });
        checked.map(|_| ())
    }

    fn check_scope<'n>(&self, name: &'n str, at: Range<usize>) -> Result<&'n str, Error> {
        if name.len() > MAX_NAME {
            let message = format!("scope name of {} bytes, more than {MAX_NAME}", name.len());
            return Err(Error::new(message, at));
        }
        match self.scopes.contains(name) {
            true => Err(Error::new(format!("scope `{name}` is already defined"), at)),
            false => Ok(name),
        }
    }

    /// `.endscope`.
    pub fn close_scope(&mut self, span: Range<usize>) -> Result<(), Error> {
        if let Some(open) = self.open_scope.as_mut().filter(|o| o.inner > 0) {
            open.inner -= 1;
            return Ok(());
        }
        let Some(open) = self.open_scope.take() else {
            return Err(Error::new("`.endscope` without `.scope`", span));
        };
        self.leave_kernel();
        for (name, before) in open.aliases.into_iter().rev() {
            match before {
                Some(register) => self.aliases.insert(name, register),
                None => self.aliases.remove(&name),
            };
        }
        for (name, before) in open.macros {
            match before {
                Some(definition) => self.expander.macros.insert(name, definition),
                None => self.expander.macros.remove(&name),
            };
        }
        Ok(())
    }

    /// Reports a scope that the program leaves open.
    pub fn unclosed_scope(&mut self) {
        if let Some(open) = self.open_scope.take() {
            let message = format!("scope `{}` without `.endscope`", open.name);
            self.error(&open.place, Error::new(message, open.span));
        }
    }

    /// A kernel lies on one side of a scope's border; control programs go on across it.
    fn leave_kernel(&mut self) {
        if self.scope.is_some_and(|s| s >= KERNELS) {
            self.close_kernel();
            self.scope = None;
        }
    }

    /// The name of the open scope.
    pub fn within(&self) -> Option<Rc<str>> {
        self.open_scope.as_ref().map(|o| Rc::clone(&o.name))
    }

    /// The same, borrowed.
    pub fn within_name(&self) -> Option<&str> {
        self.open_scope.as_ref().map(|o| &*o.name)
    }

    /// What a name that is defined here is called outside.
    pub fn full(&self, name: &str) -> String {
        match &self.open_scope {
            Some(open) => format!("{}.{name}", open.name),
            None => name.to_owned(),
        }
    }

    /// Names a register.
    pub fn name_register(&mut self, name: &str, register: Register) {
        let before = self.aliases.insert(name.to_owned(), register);
        if let Some(open) = &mut self.open_scope {
            open.aliases.push((name.to_owned(), before));
        }
    }

    /// Gives a macro its meaning; false if it already has one here.
    pub fn name_macro(&mut self, name: &str, definition: Macro) -> bool {
        let known = self.expander.macros.get(name);
        let taken = match &self.open_scope {
            Some(open) => open.macros.contains_key(name),
            None => known.is_some(),
        };
        if taken {
            return false;
        }
        let before = self
            .expander
            .macros
            .insert(name.to_owned(), Rc::new(definition));
        if let Some(open) = &mut self.open_scope {
            open.macros.insert(name.to_owned(), before);
        }
        true
    }
}
