//! Exceptions in both directions.

use monty_types::{ExcType, MontyException};

use super::{Turn, advice};
use crate::model::{Failure, MAX_MESSAGE, bounded};

/// A function's failure, as the exception that is raised where the workflow awaits it.
///
/// A type that the interpreter has arrives as itself. Any other arrives as its nearest builtin base
/// that the interpreter has, below Exception, or else as RuntimeError, with the original name kept in the message.
pub(super) fn raise(failure: &Failure) -> MontyException {
    let (kind, message) = arrives_as(failure);
    MontyException::new(kind, Some(message))
}

/// What is raised where a cancelled call is awaited: it passes `except Exception`, runs `finally`.
pub(super) fn cancelled(why: &str) -> MontyException {
    MontyException::new(ExcType::KeyboardInterrupt, Some(why.to_owned()))
}

/// Type and message under which a failure reaches the workflow.
fn arrives_as(failure: &Failure) -> (ExcType, String) {
    // Its name says nothing to a workflow.
    if failure.kind == "durable.NonRetryable" {
        return (ExcType::RuntimeError, failure.message.clone());
    }
    match raisable(&failure.kind) {
        Some(kind) => (kind, failure.message.clone()),
        None => {
            // Every exception is an Exception: what is nothing more arrives as the type that is the module's TaskError.
            let bases = failure.bases.iter().filter(|base| *base != "Exception");
            let kind = bases.into_iter().find_map(|base| raisable(base)).unwrap_or(ExcType::RuntimeError);
            (kind, failure.to_string())
        }
    }
}

/// Type and text of an exception that arrives as a value: any type that the interpreter has, because nobody raises it.
pub(super) fn as_value(kind: &str, message: Option<String>, bases: Vec<String>) -> (ExcType, Option<String>) {
    if let Ok(kind) = kind.parse() {
        return (kind, message);
    }
    let message = message.unwrap_or_default();
    let (kind, message) = arrives_as(&Failure { bases, ..Failure::new(kind, message) });
    (kind, Some(message))
}

/// Whether an exception that ended the workflow is this failure of a function, passed on.
pub(super) fn is_same(error: &Failure, failure: &Failure) -> bool {
    let (kind, message) = arrives_as(failure);
    let message = bounded(message, MAX_MESSAGE);
    error.kind == kind.to_string() && (error.message == message || error.message.starts_with(&format!("{message}\n")))
}

/// The interpreter's exception of that name, unless raising it would end the workflow past its
/// `except` clauses.
fn raisable(name: &str) -> Option<ExcType> {
    let alias = match name {
        "IOError" | "EnvironmentError" => "OSError",
        "asyncio.exceptions.TimeoutError" | "concurrent.futures._base.TimeoutError" => "TimeoutError",
        "json.decoder.JSONDecodeError" => "json.JSONDecodeError",
        other => other,
    };
    let kind: ExcType = alias.parse().ok()?;
    kind.is_subclass_of(ExcType::Exception).then_some(kind)
}

/// An exception that ended the workflow.
pub(super) fn uncaught(turn: &Turn<'_>, error: &MontyException, traceback: &str) -> Failure {
    let kind = error.exc_type().to_string();
    let mut message = bounded(error.message().unwrap_or_default().to_owned(), MAX_MESSAGE);
    let undefined = message.strip_prefix("name '").and_then(|rest| rest.split_once('\'')).map(|(name, _)| name);
    let near = undefined.filter(|name| !turn.offers.near(name).is_empty()).map(|name| turn.offers.hint(name));
    if let Some(advice) = near.as_deref().or(advice::for_failure(&kind, &message)) {
        message.push_str(&format!("\nhint: {advice}"));
    }
    // The name under which workflows know it.
    let traceback = traceback.replace("KeyboardInterrupt", "durable.Cancelled");
    Failure { kind, message, traceback: Some(traceback), bases: Vec::new() }.bounded()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrives(kind: &str, bases: &[&str]) -> String {
        let bases = bases.iter().map(|base| (*base).to_owned()).collect();
        let failure = Failure { kind: kind.into(), message: "boom".into(), traceback: None, bases };
        raise(&failure).summary()
    }

    #[test]
    fn a_type_that_the_interpreter_lacks_arrives_as_its_nearest_base_with_its_name_kept() {
        assert_eq!(arrives("ValueError", &[]), "ValueError: boom");
        assert_eq!(arrives("KeyError", &[]), "KeyError: boom");
        assert_eq!(
            arrives("ConnectionRefusedError", &["ConnectionError", "OSError", "Exception"]),
            "OSError: ConnectionRefusedError: boom"
        );
        assert_eq!(arrives("tasks.Refused", &["ValueError", "Exception"]), "ValueError: tasks.Refused: boom");
        assert_eq!(arrives("weird.Thing", &[]), "RuntimeError: weird.Thing: boom");
        assert_eq!(arrives("tasks.Own", &["Exception", "BaseException"]), "RuntimeError: tasks.Own: boom");
    }

    #[test]
    fn what_would_pass_every_except_clause_arrives_as_a_runtime_error() {
        assert_eq!(arrives("SystemExit", &["BaseException"]), "RuntimeError: SystemExit: boom");
        assert_eq!(arrives("KeyboardInterrupt", &["BaseException"]), "RuntimeError: KeyboardInterrupt: boom");
    }
}
