//! From tokens to what is evaluated.

use std::iter::Peekable;

use zeroize::Zeroizing;

use super::{
    MAX_TEMPLATE_ACTIONS, MAX_TEMPLATE_DEPTH, Place, TemplateError, TemplateFault,
    function::Function,
    lex::{Item, Lexer, Token},
};

/// A part of a template.
pub(super) enum Node<'t> {
    Text(&'t [u8]),
    Print(Pipeline<'t>),
    If {
        branches: Vec<Branch<'t>>,
        otherwise: Vec<Node<'t>>,
    },
}

/// What stands in the template if a condition holds.
pub(super) struct Branch<'t> {
    pub(super) condition: Pipeline<'t>,
    pub(super) body: Vec<Node<'t>>,
}

/// An expression: what each stage makes is the last argument of the next.
pub(super) struct Pipeline<'t> {
    pub(super) line: usize,
    pub(super) first: Stage<'t>,
    pub(super) calls: Vec<Call<'t>>,
}

/// How a pipeline begins.
pub(super) enum Stage<'t> {
    Operand(Operand<'t>),
    Call(Call<'t>),
}

/// A function with the arguments that stand behind it.
pub(super) struct Call<'t> {
    pub(super) function: Function,
    pub(super) arguments: Vec<Operand<'t>>,
}

pub(super) enum Operand<'t> {
    Field(Field<'t>),
    Text(Zeroizing<Vec<u8>>),
    Number(i64),
    Bool(bool),
    Nested(Box<Pipeline<'t>>),
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Field<'t> {
    ServiceId,
    ServiceName,
    ServiceLabels,
    ServiceLabel(&'t str),
    NodeId,
    NodeHostname,
    NodeArchitecture,
    NodeOs,
    TaskId,
    TaskName,
    TaskSlot,
}

/// Go's words that begin an action and are not offered.
const REFUSED_ACTIONS: [&str; 7] = [
    "range", "with", "define", "template", "block", "break", "continue",
];
/// Go's functions that are not offered.
const REFUSED_FUNCTIONS: [&str; 3] = ["call", "js", "slice"];

type Parsed<T> = Result<T, TemplateError>;
type Tokens<'t> = Peekable<std::vec::IntoIter<Token<'t>>>;

pub(super) fn parse(text: &[u8], place: Place) -> Parsed<Vec<Node<'_>>> {
    let mut parser = Parser {
        lexer: Lexer::new(text),
        place,
        actions: 0,
    };
    match parser.block(0)? {
        (nodes, End::Template) => Ok(nodes),
        (_, End::Block) => Err(parser.lexer.malformed("`end` without `if`")),
        (_, End::Else { .. }) => Err(parser.lexer.malformed("`else` without `if`")),
    }
}

struct Parser<'t> {
    lexer: Lexer<'t>,
    place: Place,
    actions: usize,
}

/// What ended a list of parts.
enum End<'t> {
    Template,
    Block,
    Else { line: usize, tokens: Tokens<'t> },
}

impl<'t> Parser<'t> {
    fn block(&mut self, depth: usize) -> Parsed<(Vec<Node<'t>>, End<'t>)> {
        let mut nodes = Vec::new();
        while let Some(item) = self.lexer.next()? {
            let (line, tokens) = match item {
                Item::Text(text) => {
                    nodes.push(Node::Text(text));
                    continue;
                }
                Item::Action { line, tokens } => (line, tokens),
            };
            self.actions += 1;
            if self.actions > MAX_TEMPLATE_ACTIONS {
                return Err(too_much(line, "too many actions", MAX_TEMPLATE_ACTIONS));
            }
            let mut tokens = tokens.into_iter().peekable();
            skip_blanks(&mut tokens);
            match tokens.peek() {
                Some(Token::Name("end")) => {
                    tokens.next();
                    self.nothing_more(&mut tokens, line)?;
                    return Ok((nodes, End::Block));
                }
                Some(Token::Name("else")) => {
                    tokens.next();
                    skip_blanks(&mut tokens);
                    return Ok((nodes, End::Else { line, tokens }));
                }
                Some(Token::Name("if")) => {
                    tokens.next();
                    nodes.push(self.conditional(tokens, line, depth + 1)?);
                }
                Some(Token::Name(name)) if let Some(construct) = among(&REFUSED_ACTIONS, name) => {
                    let fault = TemplateFault::NotOffered { construct };
                    return Err(TemplateError { line, fault });
                }
                _ => {
                    let pipeline = self.pipeline(&mut tokens, line, depth)?;
                    self.nothing_more(&mut tokens, line)?;
                    nodes.push(Node::Print(pipeline));
                }
            }
        }
        Ok((nodes, End::Template))
    }

    /// What follows the word `if`, up to its `end`.
    fn conditional(&mut self, tokens: Tokens<'t>, line: usize, depth: usize) -> Parsed<Node<'t>> {
        let mut branches = Vec::new();
        let mut next = Some((tokens, line));
        while let Some((mut tokens, line)) = next.take() {
            let condition = self.pipeline(&mut tokens, line, depth)?;
            self.nothing_more(&mut tokens, line)?;
            let (body, end) = self.block(depth)?;
            branches.push(Branch { condition, body });
            let (line, mut tokens) = match end {
                End::Block => break,
                End::Template => return Err(self.lexer.malformed("`if` without `end`")),
                End::Else { line, tokens } => (line, tokens),
            };
            if let Some(Token::Name("if")) = tokens.peek() {
                tokens.next();
                next = Some((tokens, line));
                continue;
            }
            self.nothing_more(&mut tokens, line)?;
            let (otherwise, end) = self.block(depth)?;
            return match end {
                End::Block => Ok(Node::If {
                    branches,
                    otherwise,
                }),
                End::Template => Err(self.lexer.malformed("`if` without `end`")),
                End::Else { line, .. } => Err(malformed(line, "a second `else`")),
            };
        }
        Ok(Node::If {
            branches,
            otherwise: Vec::new(),
        })
    }

    fn nothing_more(&self, tokens: &mut Tokens<'t>, line: usize) -> Parsed<()> {
        skip_blanks(tokens);
        match tokens.next() {
            None => Ok(()),
            Some(_) => Err(malformed(line, "something behind the end of an expression")),
        }
    }

    /// An expression, up to the end of the action or a closing parenthesis, which stays.
    fn pipeline(
        &mut self,
        tokens: &mut Tokens<'t>,
        line: usize,
        depth: usize,
    ) -> Parsed<Pipeline<'t>> {
        if depth > MAX_TEMPLATE_DEPTH {
            return Err(too_much(line, "nested too deep", MAX_TEMPLATE_DEPTH));
        }
        let first = self.stage(tokens, line, depth, false)?;
        let mut calls = Vec::new();
        while let Some(Token::Pipe) = tokens.peek() {
            tokens.next();
            match self.stage(tokens, line, depth, true)? {
                Stage::Call(call) => calls.push(call),
                Stage::Operand(_) => {
                    return Err(malformed(
                        line,
                        "something other than a function behind `|`",
                    ));
                }
            }
        }
        Ok(Pipeline { line, first, calls })
    }

    /// An operand, or a function with its arguments.
    fn stage(
        &mut self,
        tokens: &mut Tokens<'t>,
        line: usize,
        depth: usize,
        is_piped: bool,
    ) -> Parsed<Stage<'t>> {
        skip_blanks(tokens);
        let function = match tokens.peek() {
            Some(Token::Name(name)) if !matches!(*name, "true" | "false") => {
                let function = self.function(name, line)?;
                tokens.next();
                Some(function)
            }
            Some(_) => None,
            None => return Err(malformed(line, "an expression is missing")),
        };
        let mut operands = Vec::new();
        if function.is_none() {
            operands.push(self.operand(tokens, line, depth)?);
        }
        loop {
            let was_parted = skip_blanks(tokens);
            match tokens.peek() {
                None | Some(Token::Pipe | Token::Closing) => break,
                Some(_) if !was_parted => {
                    return Err(malformed(line, "arguments without a blank between them"));
                }
                Some(_) => operands.push(self.operand(tokens, line, depth)?),
            }
        }
        let Some(function) = function else {
            let first = operands.pop();
            return match (first, operands.is_empty()) {
                (Some(operand), true) => Ok(Stage::Operand(operand)),
                _ => Err(malformed(line, "arguments behind what is no function")),
            };
        };
        let call = Call {
            function,
            arguments: operands,
        };
        check_call(&call, is_piped).map_err(|fault| TemplateError { line, fault })?;
        Ok(Stage::Call(call))
    }

    fn function(&self, name: &str, line: usize) -> Parsed<Function> {
        let fault = match Function::of(name) {
            Some(function) if function.is_of_payloads() && self.place == Place::Field => {
                let function = function.name();
                TemplateFault::PayloadOnly { function }
            }
            Some(function) => return Ok(function),
            None => {
                let refused = among(&REFUSED_FUNCTIONS, name)
                    .or_else(|| among(&REFUSED_ACTIONS, name))
                    .or_else(|| among(&["nil"], name));
                match refused {
                    Some(construct) => TemplateFault::NotOffered { construct },
                    None if matches!(name, "if" | "else" | "end") => TemplateFault::Malformed {
                        what: "`if`, `else` or `end` within an expression",
                    },
                    None => TemplateFault::NoSuchFunction,
                }
            }
        };
        Err(TemplateError { line, fault })
    }

    fn operand(
        &mut self,
        tokens: &mut Tokens<'t>,
        line: usize,
        depth: usize,
    ) -> Parsed<Operand<'t>> {
        let operand = match tokens.next() {
            Some(Token::Field(first)) => {
                let mut path = vec![first];
                while let Some(Token::Field(next)) = tokens.peek() {
                    path.push(next);
                    tokens.next();
                }
                return field(&path)
                    .map(Operand::Field)
                    .map_err(|fault| TemplateError { line, fault });
            }
            Some(Token::Text(text)) => Operand::Text(text),
            Some(Token::Number(number)) => Operand::Number(number),
            Some(Token::Name("true")) => Operand::Bool(true),
            Some(Token::Name("false")) => Operand::Bool(false),
            Some(Token::Name(name)) => {
                self.function(name, line)?;
                let what = "a function among arguments; put it into parentheses";
                return Err(malformed(line, what));
            }
            Some(Token::Opening) => {
                let nested = self.pipeline(tokens, line, depth + 1)?;
                match tokens.next() {
                    Some(Token::Closing) => Operand::Nested(Box::new(nested)),
                    _ => return Err(malformed(line, "a parenthesis without its end")),
                }
            }
            Some(Token::Blank | Token::Closing | Token::Pipe) | None => {
                return Err(malformed(line, "an expression is missing"));
            }
        };
        match tokens.peek() {
            Some(Token::Field(_)) => {
                let construct = "fields of an expression";
                let fault = TemplateFault::NotOffered { construct };
                Err(TemplateError { line, fault })
            }
            _ => Ok(operand),
        }
    }
}

/// What can be said of a call before its values are known.
fn check_call(call: &Call<'_>, is_piped: bool) -> Result<(), TemplateFault> {
    let Call {
        function,
        arguments,
    } = call;
    let count = arguments.len() + usize::from(is_piped);
    let (least, most) = function.arity();
    if count < least {
        return Err(function.fault("has too few arguments"));
    }
    if count > most {
        return Err(function.fault("has too many arguments"));
    }
    match (function, arguments.first()) {
        (Function::Printf, Some(Operand::Text(format))) => function.check_format(format, count - 1),
        (Function::Printf, _) => Err(function.fault("wants its format as a string, first")),
        (Function::Index, Some(Operand::Field(Field::ServiceLabels))) => Ok(()),
        (Function::Index, _) => {
            Err(function.fault("takes .Service.Labels and the key of a label only"))
        }
        _ => Ok(()),
    }
}

fn field<'t>(path: &[&'t str]) -> Result<Field<'t>, TemplateFault> {
    Ok(match path {
        [".Service", ".ID"] => Field::ServiceId,
        [".Service", ".Name"] => Field::ServiceName,
        [".Service", ".Labels"] => Field::ServiceLabels,
        [".Service", ".Labels", key] => Field::ServiceLabel(key.trim_start_matches('.')),
        [".Node", ".ID"] => Field::NodeId,
        [".Node", ".Hostname"] => Field::NodeHostname,
        [".Node", ".Platform", ".Architecture"] => Field::NodeArchitecture,
        [".Node", ".Platform", ".OS"] => Field::NodeOs,
        [".Task", ".ID"] => Field::TaskId,
        [".Task", ".Name"] => Field::TaskName,
        [".Task", ".Slot"] => Field::TaskSlot,
        _ => return Err(TemplateFault::NoSuchField),
    })
}

/// The one of `names` that `name` is.
fn among(names: &[&'static str], name: &str) -> Option<&'static str> {
    names.iter().find(|known| **known == name).copied()
}

/// Tells whether there were any.
fn skip_blanks(tokens: &mut Tokens<'_>) -> bool {
    let mut some = false;
    while let Some(Token::Blank) = tokens.peek() {
        tokens.next();
        some = true;
    }
    some
}

fn malformed(line: usize, what: &'static str) -> TemplateError {
    let fault = TemplateFault::Malformed { what };
    TemplateError { line, fault }
}

fn too_much(line: usize, what: &'static str, most: usize) -> TemplateError {
    let fault = TemplateFault::TooMuch { what, most };
    TemplateError { line, fault }
}
