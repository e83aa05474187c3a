//! Evaluation. Each action is looked at once at most, so it ends; what all of them read and
//! write is counted.

use zeroize::Zeroizing;

use super::{
    MAX_TEMPLATE_WORK_BYTES, TaskFiles, TaskNames, TemplateError, TemplateFault,
    function::Function,
    parse::{Call, Field, Node, Operand, Pipeline, Stage},
    value::{Bytes, Value},
};

pub(super) fn expand<'v>(
    nodes: &'v [Node<'_>],
    names: &TaskNames<'v>,
    files: &'v dyn TaskFiles,
    limit: usize,
) -> Result<Zeroizing<Vec<u8>>, TemplateError> {
    let mut evaluator = Evaluator {
        names: *names,
        files,
        limit,
        parts: Vec::new(),
        bytes: 0,
        work: 0,
    };
    evaluator.nodes(nodes)?;
    // Put together at once: a buffer that grows leaves copies behind.
    let mut whole = Zeroizing::new(Vec::with_capacity(evaluator.bytes));
    for part in &evaluator.parts {
        whole.extend_from_slice(part.as_slice());
    }
    Ok(whole)
}

struct Evaluator<'v> {
    names: TaskNames<'v>,
    files: &'v dyn TaskFiles,
    limit: usize,
    parts: Vec<Bytes<'v>>,
    /// In the parts.
    bytes: usize,
    work: usize,
}

type Evaluated<T> = Result<T, TemplateError>;

impl<'v> Evaluator<'v> {
    fn nodes(&mut self, nodes: &'v [Node<'_>]) -> Evaluated<()> {
        for node in nodes {
            match node {
                Node::Text(text) => self.write(Bytes::Lent(text), 0)?,
                Node::Print(pipeline) => {
                    let printed = match self.pipeline(pipeline)? {
                        Value::Text(text) => text,
                        other => Bytes::Made(Zeroizing::new(other.printed().into_owned())),
                    };
                    self.write(printed, pipeline.line)?;
                }
                Node::If {
                    branches,
                    otherwise,
                } => {
                    let mut chosen = otherwise;
                    for branch in branches {
                        if self.pipeline(&branch.condition)?.is_true() {
                            chosen = &branch.body;
                            break;
                        }
                    }
                    self.nodes(chosen)?;
                }
            }
        }
        Ok(())
    }

    fn write(&mut self, part: Bytes<'v>, line: usize) -> Evaluated<()> {
        self.bytes = self.bytes.saturating_add(part.as_slice().len());
        if self.bytes > self.limit {
            let fault = TemplateFault::TooMuch {
                what: "too many bytes after expansion",
                most: self.limit,
            };
            return Err(TemplateError {
                line: line.max(1),
                fault,
            });
        }
        self.parts.push(part);
        Ok(())
    }

    fn pipeline(&mut self, pipeline: &'v Pipeline<'_>) -> Evaluated<Value<'v>> {
        let line = pipeline.line;
        let mut value = match &pipeline.first {
            Stage::Operand(operand) => self.operand(operand, line)?,
            Stage::Call(call) => self.call(call, None, line)?,
        };
        for call in &pipeline.calls {
            value = self.call(call, Some(value), line)?;
        }
        Ok(value)
    }

    fn operand(&mut self, operand: &'v Operand<'_>, line: usize) -> Evaluated<Value<'v>> {
        Ok(match operand {
            Operand::Field(field) => {
                return self
                    .field(*field)
                    .map_err(|fault| TemplateError { line, fault });
            }
            Operand::Text(text) => Value::Text(Bytes::Lent(text)),
            Operand::Number(number) => Value::Number(*number),
            Operand::Bool(truth) => Value::Bool(*truth),
            Operand::Nested(nested) => return self.pipeline(nested),
        })
    }

    fn field(&self, field: Field<'_>) -> Result<Value<'v>, TemplateFault> {
        let names = &self.names;
        Ok(Value::lent(match field {
            Field::ServiceId => names.service_id,
            Field::ServiceName => names.service_name,
            Field::ServiceLabels => return Ok(Value::Labels(names.service_labels)),
            Field::ServiceLabel(key) => {
                let label = names.service_labels.get(key);
                label.ok_or_else(|| TemplateFault::NoLabel {
                    key: Some(key.to_owned()),
                })?
            }
            Field::NodeId => names.node_id,
            Field::NodeHostname => names.node_hostname,
            Field::NodeArchitecture => names.node_architecture,
            Field::NodeOs => names.node_os,
            Field::TaskId => names.task_id,
            Field::TaskName => names.task_name,
            Field::TaskSlot => names.task_slot,
        }))
    }

    fn call(
        &mut self,
        call: &'v Call<'_>,
        piped: Option<Value<'v>>,
        line: usize,
    ) -> Evaluated<Value<'v>> {
        let function = call.function;
        if let Function::And | Function::Or = function {
            return self.first_that_decides(call, piped, line);
        }
        let mut arguments = Vec::with_capacity(call.arguments.len() + 1);
        for operand in &call.arguments {
            arguments.push(self.operand(operand, line)?);
        }
        arguments.extend(piped);
        let read = arguments.iter().map(Value::weight).sum();
        self.count(read, line)?;
        let value = match function {
            Function::Secret | Function::Config | Function::Env => {
                // Only what stands in the template itself is named in an error.
                let written = match call.arguments.first() {
                    Some(Operand::Text(text)) => str::from_utf8(text).ok(),
                    _ => None,
                };
                self.file(function, &arguments, written)
            }
            _ => function.call(&arguments),
        };
        let value = value.map_err(|fault| TemplateError { line, fault })?;
        if let Value::Text(Bytes::Made(made)) = &value {
            self.count(made.len(), line)?;
        }
        Ok(value)
    }

    /// `and` gives the first argument that is empty, `or` the first that is not, else the last.
    fn first_that_decides(
        &mut self,
        call: &'v Call<'_>,
        piped: Option<Value<'v>>,
        line: usize,
    ) -> Evaluated<Value<'v>> {
        let decides = call.function == Function::Or;
        let mut value = None;
        for operand in &call.arguments {
            let next = self.operand(operand, line)?;
            if next.is_true() == decides {
                return Ok(next);
            }
            value = Some(next);
        }
        piped.or(value).ok_or_else(|| {
            let fault = call.function.fault("has too few arguments");
            TemplateError { line, fault }
        })
    }

    fn file(
        &self,
        function: Function,
        arguments: &[Value<'_>],
        written: Option<&str>,
    ) -> Result<Value<'v>, TemplateFault> {
        let name = match arguments {
            [name] => function.text(name)?,
            _ => return Err(function.fault("has too many arguments")),
        };
        let content = match function {
            Function::Secret => self.files.secret(name),
            Function::Config => self.files.config(name),
            // As in the engine, one that is not there is empty.
            _ => Some(self.files.env(name).unwrap_or_default()),
        };
        let content = content.ok_or_else(|| TemplateFault::NoTarget {
            kind: function.name(),
            target: written.map(str::to_owned),
        })?;
        Ok(Value::Text(Bytes::Lent(content)))
    }

    fn count(&mut self, bytes: usize, line: usize) -> Evaluated<()> {
        self.work = self.work.saturating_add(bytes);
        if self.work > MAX_TEMPLATE_WORK_BYTES {
            let fault = TemplateFault::TooMuch {
                what: "too many bytes read and written by functions",
                most: MAX_TEMPLATE_WORK_BYTES,
            };
            return Err(TemplateError { line, fault });
        }
        Ok(())
    }
}
