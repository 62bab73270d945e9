//! What to write instead of what the interpreter cannot do.

/// How a refusal begins.
pub(super) const CANNOT_HAVE: &str = "a workflow cannot have";

/// Advice for a message of the compiler, where there is some to give.
pub(super) fn for_syntax(message: &str) -> Option<&'static str> {
    const ADVICE: &[(&[&str], &str)] = &[
        (&["yield"], "build and return a list; a workflow has no generators"),
        (
            &["class bases", "inheritance", "base class", "class definitions with", "class argument", "metaclass"],
            "write a plain class or a dataclass without bases; raise a builtin exception such as \
             ValueError(\"…\") instead of a class of your own",
        ),
        (&["async with", "async for", "async comprehension"], "await the calls one by one, or with asyncio.gather"),
        (&["'del'"], "assign None to the name, or use dict.pop(key)"),
        (&["star import", "import *", "wildcard"], "import each name: from tasks import encode, publish"),
        (&["relative import"], "import by the module's full name: from tasks import encode"),
        (&["except*", "except *"], "catch the exception types with a plain except"),
        (&["decorator"], "call the function yourself; methods cannot be decorated in a workflow"),
    ];
    let lower = message.to_lowercase();
    ADVICE.iter().find(|(words, _)| words.iter().any(|word| lower.contains(word))).map(|(_, advice)| *advice)
}

/// Advice for a workflow that was ended by a limit or a missing feature, added to its message.
pub(super) fn for_failure(kind: &str, message: &str) -> Option<&'static str> {
    match kind {
        "TimeoutError" if message.contains("time limit") => {
            Some("a workflow only decides what happens next; move long computations into a function and await it")
        }
        "MemoryError" => Some("a workflow only decides what happens next; keep large data in files or an object store"),
        "RecursionError" => Some("move deep recursion into a function and await it, or write it as a loop"),
        "RuntimeError" if message.contains("zero or one string argument") => {
            Some("raise exceptions with one text: ValueError(f\"{code}: {detail}\")")
        }
        "RuntimeError" if message.contains("already awaited") => Some(
            "one task at a time awaits a call, and the loser of a race is still awaited: race a handle of durable.spawn(…)",
        ),
        "AttributeError" if message.contains("__cause__") || message.contains("__context__") => {
            Some("an exception of a workflow does not know its cause: keep it in a variable")
        }
        "NameError" => Some("give inputs with --input name=JSON; import functions: from tasks import name"),
        _ => None,
    }
}
