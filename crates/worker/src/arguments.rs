//! How JSON arguments become a Rust function's parameters.

use std::collections::VecDeque;

use durable_core::{interpreter::value, model::Json};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::function::{FunctionError, Invocation};

/// The arguments of a call while its parameters are read, from left to right.
#[derive(Debug)]
pub struct Arguments {
    function: String,
    positional: std::vec::IntoIter<Value>,
    named: Map<String, Value>,
    names: VecDeque<String>,
    taken: usize,
}

/// A parameter that can be read from a call's arguments.
///
/// Every `T: DeserializeOwned` takes the next positional argument, or the keyword of its name where
/// the registration names its parameters; an `Option<T>` may be left out. [`Rest`] takes all other
/// positional arguments and [`Kwargs`] all other keywords.
pub trait FromArguments: Sized {
    /// Reads the parameter.
    fn take(arguments: &mut Arguments) -> Result<Self, FunctionError>;
}

/// All further positional arguments: `*args`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rest<T>(pub Vec<T>);

/// All further keyword arguments as one struct or map: `**kwargs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kwargs<T>(pub T);

fn type_error(message: String) -> FunctionError {
    FunctionError::new("TypeError", message).not_retryable()
}

impl Arguments {
    pub(crate) fn new(invocation: &Invocation, names: &[String]) -> Result<Self, FunctionError> {
        let function = invocation.function.clone();
        let read = |what: &str, json: &Json| {
            value::parse(&json.0).map_err(|refusal| type_error(format!("{function}: {}", refusal.of(what))))
        };
        let unreadable = |what: &str| type_error(format!("{function}: the {what}"));
        let Value::Array(positional) = read("arguments", &invocation.args)? else {
            return Err(unreadable("arguments are no list"));
        };
        let Value::Object(named) = read("keywords", &invocation.kwargs)? else {
            return Err(unreadable("keywords are no object"));
        };
        Ok(Self {
            function,
            positional: positional.into_iter(),
            named,
            names: VecDeque::from_iter(names.iter().cloned()),
            taken: 0,
        })
    }

    fn next(&mut self) -> Result<(String, Option<Value>), FunctionError> {
        self.taken += 1;
        let name = self.names.pop_front();
        let label = name.clone().unwrap_or_else(|| self.taken.to_string());
        let named = name.and_then(|name| self.named.shift_remove(&name));
        match (self.positional.next(), named) {
            (Some(_), Some(_)) => {
                Err(type_error(format!("{}() got multiple values for argument '{label}'", self.function)))
            }
            (value, named) => Ok((label, value.or(named))),
        }
    }

    fn read<T: DeserializeOwned>(&self, label: &str, value: Value) -> Result<T, FunctionError> {
        serde_json::from_value(value)
            .map_err(|error| type_error(format!("{}(): argument {label}: {error}", self.function)))
    }

    pub(crate) fn nothing_left(&self) -> Result<(), FunctionError> {
        if let Some(name) = self.named.keys().next() {
            return Err(type_error(format!("{}() got an unexpected keyword argument '{name}'", self.function)));
        }
        let given = self.taken + self.positional.len();
        if self.positional.len() > 0 {
            return Err(type_error(format!(
                "{}() takes {} positional arguments but {given} were given",
                self.function, self.taken
            )));
        }
        Ok(())
    }
}

impl<T: DeserializeOwned> FromArguments for T {
    fn take(arguments: &mut Arguments) -> Result<Self, FunctionError> {
        let (label, value) = arguments.next()?;
        match value {
            Some(value) => arguments.read(&label, value),
            // A parameter that is content with null is optional.
            None => serde_json::from_value(Value::Null)
                .map_err(|_| type_error(format!("{}() missing required argument: {label}", arguments.function))),
        }
    }
}

impl<T: DeserializeOwned> FromArguments for Rest<T> {
    fn take(arguments: &mut Arguments) -> Result<Self, FunctionError> {
        let values: Vec<Value> = arguments.positional.by_ref().collect();
        let mut rest = Vec::with_capacity(values.len());
        for value in values {
            arguments.taken += 1;
            rest.push(arguments.read(&arguments.taken.to_string(), value)?);
        }
        Ok(Self(rest))
    }
}

impl<T: DeserializeOwned> FromArguments for Kwargs<T> {
    fn take(arguments: &mut Arguments) -> Result<Self, FunctionError> {
        let named = std::mem::take(&mut arguments.named);
        arguments.read("keywords", Value::Object(named)).map(Self)
    }
}
