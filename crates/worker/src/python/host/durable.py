"""What functions can use of durable-monty."""

import contextvars

# The call for which this thread or task works.
_call = contextvars.ContextVar("durable_call", default=None)
# Takes what a call says of itself. A process that a function has started has nobody to tell.
_tell = None


class NonRetryable(RuntimeError):
    """Raise it, or a subclass, when another attempt could not help."""


def function(fn=None, **options):
    """Marks a function and sets its options: retries or max_attempts, backoff, timeout."""

    def mark(fn):
        fn.__durable_options__ = options
        return fn

    return mark if fn is None else mark(fn)


def idempotency_key():
    """The same text for every attempt of the present call, and for no other call."""
    call = _call.get()
    if call is None:
        raise RuntimeError("idempotency_key() is known only while a function runs for a workflow")
    return call["key"]


def attempt():
    """The number of the present attempt, from 1."""
    call = _call.get()
    return 1 if call is None else call["attempt"]


def heartbeat(fraction=None, message=None):
    """Says how far the present call has come, from 0 to 1, and what it does; shown with the call."""
    call = _call.get()
    if call is not None and _tell is not None:
        _tell(call, None if fraction is None else float(fraction), message and str(message))


def cancelled():
    """Whether nobody wants the present call's result any more. An asynchronous function is cancelled instead; a
    synchronous one that goes on is killed five seconds later."""
    call = _call.get()
    return call is not None and call.get("cancelled", False)
