//! The functions that a worker offers, by name.

use std::{collections::BTreeMap, marker::PhantomData, sync::Arc};

use durable_core::offers::Offers;

use crate::{
    function::{Function, Handler, RustFunction},
    options::FunctionOptions,
};

/// Functions by name. A name may carry a module (`tasks.encode`); one without is found from any.
#[derive(Default, Clone)]
pub struct Registry {
    functions: BTreeMap<String, Registered>,
    duplicates: Vec<String>,
}

#[derive(Clone)]
pub(crate) struct Registered {
    pub(crate) function: Arc<dyn Function>,
    pub(crate) options: FunctionOptions,
}

/// A name that was registered twice.
#[derive(Debug, thiserror::Error)]
#[error("the function {0} is registered twice: give one of them another name")]
pub struct DuplicateFunction(String);

impl Registry {
    /// An empty registry.
    pub fn new() -> Self {
        Self::default()
    }

    /// Offers a Rust function with positional parameters and default options.
    #[must_use]
    pub fn function<P: 'static>(self, name: &str, handler: impl Handler<P>) -> Self {
        self.function_with(name, &[], FunctionOptions::default(), handler)
    }

    /// Offers a Rust function whose parameters have these names, so that they can be given as
    /// keywords too, and with options of its own.
    #[must_use]
    pub fn function_with<P: 'static>(
        mut self,
        name: &str,
        parameters: &[&str],
        options: FunctionOptions,
        handler: impl Handler<P>,
    ) -> Self {
        let parameters = parameters.iter().map(|name| (*name).to_owned()).collect();
        self.add(name, options, Arc::new(RustFunction { handler, parameters, _marker: PhantomData::<fn(P)> }));
        self
    }

    /// Offers any kind of function.
    pub fn add(&mut self, name: &str, options: FunctionOptions, function: Arc<dyn Function>) {
        if self.functions.insert(name.to_owned(), Registered { function, options }).is_some() {
            self.duplicates.push(name.to_owned());
        }
    }

    /// Refuses a registry in which two functions have one name.
    pub fn check(&self) -> Result<(), DuplicateFunction> {
        self.duplicates.first().map_or(Ok(()), |name| Err(DuplicateFunction(name.clone())))
    }

    /// The names, for resolving what workflows call.
    pub fn offers(&self) -> Offers {
        Offers::only(self.functions.keys().cloned())
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Registered> {
        self.functions.get(name)
    }
}
