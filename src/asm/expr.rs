//! Expressions: parsed once, evaluated when their symbols are known.
//!
//! Models: 64-bit signed arithmetic with overflow detected, C's precedence, symbols, functions over tensors, and fractional
//! numbers inside `float(..)` and `values(..)`. Leaves out: what a name means, which [`Lookup`] answers. Invariants: an
//! expression has at most [`MAX_NODES`] nodes and nests at most [`MAX_DEPTH`] deep, so recursion over it is bounded.

use super::diag::did_you_mean;
use super::lexer::{Kind, Token};
use crate::isa::image::Tensor;
use std::ops::Range;

/// Largest number of operands and operators of one expression.
pub const MAX_NODES: usize = 1000;
/// Deepest nesting of parentheses and unary operators.
pub const MAX_DEPTH: usize = 64;

/// The functions, with the number of their arguments.
pub const FUNCTIONS: [(&str, usize); 8] = [
    ("addr", 1),
    ("size", 1),
    ("dim", 2),
    ("elements", 1),
    ("float", 1),
    ("min", 2),
    ("max", 2),
    ("defined", 1),
];

/// A node with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Expr {
    /// Operation or operand.
    pub node: Node,
    /// Byte range in the line.
    pub span: Range<usize>,
}

/// What a node is.
#[derive(Clone, Debug, PartialEq)]
pub enum Node {
    /// An integer.
    Int(i64),
    /// A fractional number.
    Float(f64),
    /// A symbol.
    Name(String),
    /// `1b` or `1f`.
    Local {
        /// The label's number.
        number: u64,
        /// Whether it comes after.
        forward: bool,
    },
    /// Operator and operand.
    Unary(&'static str, Box<Expr>),
    /// Operator and operands.
    Binary(&'static str, Box<[Expr; 2]>),
    /// Function and arguments.
    Call(&'static str, Vec<Expr>),
}

/// A number, and the code it counts words in if it came from a label.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Value {
    /// The number.
    pub v: i64,
    /// The label's scope: a control program or a kernel.
    pub scope: Option<u32>,
}

impl From<i64> for Value {
    fn from(v: i64) -> Value {
        Value { v, scope: None }
    }
}

/// What went wrong in a line.
#[derive(Clone, Debug, PartialEq)]
pub struct Error {
    /// With value and limit.
    pub message: String,
    /// Byte range in the line.
    pub span: Range<usize>,
    /// How to repair it.
    pub suggestion: Option<String>,
}

impl Error {
    /// An error without a suggestion.
    pub fn new(message: impl Into<String>, span: Range<usize>) -> Error {
        Error {
            message: message.into(),
            span,
            suggestion: None,
        }
    }

    /// The error with a suggestion, if there is one.
    pub fn suggest(mut self, suggestion: impl Into<Option<String>>) -> Error {
        self.suggestion = suggestion.into();
        self
    }
}

/// What names stand for.
pub trait Lookup {
    /// The value of a symbol; `None` if there is none of that name.
    fn name(&self, name: &str) -> Option<Value>;
    /// The tensor of that name.
    fn tensor(&self, name: &str) -> Option<&Tensor>;
    /// The local label before or after this place.
    fn local(&self, number: u64, forward: bool) -> Option<Value>;
    /// Names that could have been meant.
    fn candidates(&self) -> Vec<&str>;
}

/// Reads tokens of one line.
pub struct Cursor<'t> {
    tokens: &'t [Token],
    at: usize,
    nodes: usize,
    /// Byte length of the line: where "expected .." points at the end.
    end: usize,
}

impl<'t> Cursor<'t> {
    /// Over the tokens of a line of `end` bytes.
    pub fn new(tokens: &'t [Token], end: usize) -> Cursor<'t> {
        Cursor {
            tokens,
            at: 0,
            nodes: 0,
            end: tokens.last().map_or(end, |t| t.span.end),
        }
    }

    /// The next token, not taken.
    pub fn peek(&self) -> Option<&'t Token> {
        self.tokens.get(self.at)
    }

    /// The next three tokens, not taken.
    pub fn ahead(&self) -> [Option<&'t Token>; 3] {
        [0, 1, 2].map(|i| self.tokens.get(self.at + i))
    }

    /// Whether the next token is this operator or bracket.
    pub fn peek_is(&self, punct: &str) -> bool {
        self.peek().is_some_and(|t| t.is(punct))
    }

    /// The next token.
    pub fn take(&mut self) -> Option<&'t Token> {
        let token = self.tokens.get(self.at);
        self.at += usize::from(token.is_some());
        token
    }

    /// Takes the next token if it is this operator or bracket.
    pub fn eat(&mut self, punct: &str) -> bool {
        let found = self.peek_is(punct);
        self.at += usize::from(found);
        found
    }

    /// Where the next token stands, or the end of the line.
    pub fn here(&self) -> Range<usize> {
        self.peek().map_or(self.end..self.end, |t| t.span.clone())
    }

    /// "expected WHAT, found ..".
    pub fn expected(&self, what: &str) -> Error {
        let found = self
            .peek()
            .map_or("the end of the line".into(), |t| match &t.kind {
                Kind::Name(n) => format!("`{n}`"),
                Kind::Text(_) => "a string".to_owned(),
                Kind::Int(v) => format!("`{v}`"),
                Kind::Float(v) => format!("`{v}`"),
                Kind::Local { number, forward } => {
                    format!("`{number}{}`", if *forward { 'f' } else { 'b' })
                }
                Kind::Punct(p) => format!("`{p}`"),
            });
        Error::new(format!("expected {what}, found {found}"), self.here())
    }

    /// Takes this operator or bracket.
    pub fn expect(&mut self, punct: &str) -> Result<(), Error> {
        match self.eat(punct) {
            true => Ok(()),
            false => Err(self.expected(&format!("`{punct}`"))),
        }
    }

    /// Takes a name, quoted or not; the flag tells quoted.
    pub fn name(&mut self, what: &str) -> Result<(&'t str, Range<usize>, bool), Error> {
        match self.peek() {
            Some(Token {
                kind: Kind::Name(n),
                span,
            }) => {
                self.at += 1;
                Ok((n, span.clone(), false))
            }
            Some(Token {
                kind: Kind::Text(n),
                span,
            }) if !n.is_empty() => {
                self.at += 1;
                Ok((n, span.clone(), true))
            }
            _ => Err(self.expected(what)),
        }
    }

    /// Nothing may follow.
    pub fn finish(&self) -> Result<(), Error> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.expected("the end of the line")),
        }
    }

    /// An expression.
    pub fn expr(&mut self) -> Result<Expr, Error> {
        self.nodes = 0;
        self.binary(0, 0)
    }

    fn node(&mut self, node: Node, span: Range<usize>) -> Result<Expr, Error> {
        self.nodes += 1;
        match self.nodes > MAX_NODES {
            true => Err(Error::new(
                format!("expression of more than {MAX_NODES} parts"),
                span,
            )),
            false => Ok(Expr { node, span }),
        }
    }

    fn binary(&mut self, level: usize, depth: usize) -> Result<Expr, Error> {
        /// Loosest first; all associate to the left.
        const LEVELS: [&[&str]; 10] = [
            &["||"],
            &["&&"],
            &["|"],
            &["^"],
            &["&"],
            &["==", "!="],
            &["<", "<=", ">", ">="],
            &["<<", ">>"],
            &["+", "-"],
            &["*", "/", "%"],
        ];
        let Some(operators) = LEVELS.get(level) else {
            return self.unary(depth);
        };
        let mut left = self.binary(level + 1, depth)?;
        while let Some(op) = operators.iter().find(|op| self.peek_is(op)) {
            self.at += 1;
            let right = self.binary(level + 1, depth)?;
            let span = left.span.start..right.span.end;
            left = self.node(Node::Binary(op, Box::new([left, right])), span)?;
        }
        Ok(left)
    }

    fn unary(&mut self, depth: usize) -> Result<Expr, Error> {
        if depth > MAX_DEPTH {
            return Err(Error::new(
                format!("expression nested deeper than {MAX_DEPTH}"),
                self.here(),
            ));
        }
        let start = self.here().start;
        for op in ["-", "+", "~", "!"] {
            if self.eat(op) {
                let operand = self.unary(depth + 1)?;
                let span = start..operand.span.end;
                return self.node(Node::Unary(op, Box::new(operand)), span);
            }
        }
        let Some(token) = self.take() else {
            return Err(self.expected("an expression"));
        };
        let span = token.span.clone();
        match &token.kind {
            Kind::Int(v) => self.node(Node::Int(*v), span),
            Kind::Float(v) => self.node(Node::Float(*v), span),
            Kind::Local { number, forward } => {
                let (number, forward) = (*number, *forward);
                self.node(Node::Local { number, forward }, span)
            }
            Kind::Text(name) => self.node(Node::Name(name.clone()), span),
            Kind::Name(name) => match FUNCTIONS.iter().find(|(f, _)| f == name) {
                Some((function, arity)) if self.peek_is("(") => {
                    self.call(function, *arity, depth, span)
                }
                _ => self.node(Node::Name(name.clone()), span),
            },
            Kind::Punct("(") => {
                let inner = self.binary(0, depth + 1)?;
                self.expect(")")?;
                Ok(inner)
            }
            Kind::Punct(_) => {
                self.at -= 1;
                Err(self.expected("an expression"))
            }
        }
    }

    fn call(
        &mut self,
        function: &'static str,
        arity: usize,
        depth: usize,
        name: Range<usize>,
    ) -> Result<Expr, Error> {
        self.expect("(")?;
        let mut arguments = vec![self.binary(0, depth + 1)?];
        while self.eat(",") {
            arguments.push(self.binary(0, depth + 1)?);
        }
        let span = name.start..self.here().end;
        self.expect(")")?;
        if arguments.len() != arity {
            let message = format!(
                "`{function}` takes {arity} argument{}, found {}",
                if arity == 1 { "" } else { "s" },
                arguments.len()
            );
            return Err(Error::new(message, span));
        }
        self.node(Node::Call(function, arguments), span)
    }
}

impl Expr {
    /// The expression's integer, with the label scope it carries.
    pub fn eval(&self, names: &dyn Lookup) -> Result<Value, Error> {
        match &self.node {
            Node::Int(v) => Ok((*v).into()),
            Node::Float(v) => Err(Error::new(
                format!("fractional number {v} where an integer is needed"),
                self.span.clone(),
            )
            .suggest("`float(x)` gives the FP32 bits of a number".to_owned())),
            Node::Name(name) => names.name(name).ok_or_else(|| self.undefined(name, names)),
            Node::Local { number, forward } => names.local(*number, *forward).ok_or_else(|| {
                let side = if *forward { "after" } else { "before" };
                Error::new(
                    format!("no local label `{number}:` {side} this line in the section"),
                    self.span.clone(),
                )
            }),
            Node::Unary(op, operand) => {
                let v = operand.eval(names)?.v;
                let result = match *op {
                    "-" => v.checked_neg(),
                    "~" => Some(!v),
                    "!" => Some(i64::from(v == 0)),
                    _ => Some(v),
                };
                result
                    .map(Value::from)
                    .ok_or_else(|| self.overflow(&format!("{op}({v})")))
            }
            Node::Binary(op, operands) => self.eval_binary(op, operands, names),
            Node::Call(function, arguments) => self.eval_call(function, arguments, names),
        }
    }

    fn undefined(&self, name: &str, names: &dyn Lookup) -> Error {
        Error::new(format!("undefined symbol `{name}`"), self.span.clone())
            .suggest(did_you_mean(name, names.candidates()))
    }

    fn overflow(&self, what: &str) -> Error {
        Error::new(format!("{what} does not fit in 64 bits"), self.span.clone())
    }

    fn eval_binary(
        &self,
        op: &str,
        [left, right]: &[Expr; 2],
        names: &dyn Lookup,
    ) -> Result<Value, Error> {
        let l = left.eval(names)?;
        match (op, l.v != 0) {
            ("&&", false) => return Ok(0.into()),
            ("||", true) => return Ok(1.into()),
            _ => {}
        }
        let r = right.eval(names)?;
        let (a, b) = (l.v, r.v);
        let result = match op {
            "+" => a.checked_add(b),
            "-" => a.checked_sub(b),
            "*" => a.checked_mul(b),
            "/" | "%" if b == 0 => {
                return Err(Error::new("division by zero", self.span.clone()));
            }
            "/" => a.checked_div(b),
            "%" => a.checked_rem(b),
            "<<" | ">>" if !(0..64).contains(&b) => {
                return Err(Error::new(
                    format!("shift by {b} outside 0 to 63"),
                    right.span.clone(),
                ));
            }
            "<<" => Some(a << b).filter(|v| v >> b == a),
            ">>" => Some(a >> b),
            "&" => Some(a & b),
            "^" => Some(a ^ b),
            "|" => Some(a | b),
            "<" => Some(i64::from(a < b)),
            "<=" => Some(i64::from(a <= b)),
            ">" => Some(i64::from(a > b)),
            ">=" => Some(i64::from(a >= b)),
            "==" => Some(i64::from(a == b)),
            "!=" => Some(i64::from(a != b)),
            // `&&` and `||`, whose left side did not decide.
            _ => Some(i64::from(b != 0)),
        };
        // A label plus or minus a number is still a place in code; the difference of two is a number.
        let scope = match op {
            "+" if l.scope.is_some() != r.scope.is_some() => l.scope.or(r.scope),
            "-" if r.scope.is_none() => l.scope,
            _ => None,
        };
        match result {
            Some(v) => Ok(Value { v, scope }),
            None => Err(self.overflow(&format!("{a} {op} {b}"))),
        }
    }

    fn eval_call(
        &self,
        function: &str,
        arguments: &[Expr],
        names: &dyn Lookup,
    ) -> Result<Value, Error> {
        let [first, ..] = arguments else {
            return Err(Error::new("no arguments", self.span.clone()));
        };
        let tensor = || match &first.node {
            Node::Name(name) => names.tensor(name).ok_or_else(|| {
                Error::new(format!("`{name}` is no tensor"), first.span.clone())
                    .suggest(did_you_mean(name, names.candidates()))
            }),
            _ => Err(Error::new(
                format!("`{function}` takes a tensor"),
                first.span.clone(),
            )),
        };
        let unsigned = |v: u64| {
            i64::try_from(v)
                .map(Value::from)
                .map_err(|_| self.overflow(&v.to_string()))
        };
        match function {
            "addr" => unsigned(tensor()?.address()),
            "size" => unsigned(tensor()?.bytes()),
            "elements" => unsigned(tensor()?.elements()),
            "dim" => {
                let (tensor, i) = (tensor()?, arguments[1].eval(names)?.v);
                let extent = usize::try_from(i).ok().and_then(|i| tensor.shape.get(i));
                unsigned(*extent.ok_or_else(|| {
                    let message = format!(
                        "dimension {i} of `{}`, which has {}",
                        tensor.name,
                        tensor.shape.len()
                    );
                    Error::new(message, arguments[1].span.clone())
                })?)
            }
            "float" => Ok(i64::from((first.eval_float(names)? as f32).to_bits()).into()),
            "defined" => match &first.node {
                Node::Name(name) => Ok(i64::from(names.name(name).is_some()).into()),
                _ => Err(Error::new("`defined` takes a name", first.span.clone())),
            },
            _ => {
                let (a, b) = (first.eval(names)?.v, arguments[1].eval(names)?.v);
                Ok(if function == "min" {
                    a.min(b)
                } else {
                    a.max(b)
                }
                .into())
            }
        }
    }

    /// The expression's number: `+ - * /` in f64 (so `1/8` is an eighth here), `inf`, `nan`, and any integer expression.
    pub fn eval_float(&self, names: &dyn Lookup) -> Result<f64, Error> {
        match &self.node {
            Node::Float(v) => Ok(*v),
            Node::Name(n) if n == "inf" => Ok(f64::INFINITY),
            Node::Name(n) if n == "nan" => Ok(f64::NAN),
            Node::Unary("-", operand) => Ok(-operand.eval_float(names)?),
            Node::Unary("+", operand) => operand.eval_float(names),
            Node::Binary(op @ ("+" | "-" | "*" | "/"), operands) => {
                let (a, b) = (
                    operands[0].eval_float(names)?,
                    operands[1].eval_float(names)?,
                );
                Ok(match *op {
                    "+" => a + b,
                    "-" => a - b,
                    "*" => a * b,
                    _ => a / b,
                })
            }
            _ => Ok(self.eval(names)?.v as f64),
        }
    }
}
