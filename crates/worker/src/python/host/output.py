"""sys.stdout and sys.stderr, and descriptors 1 and 2: what is written belongs to the call that writes it."""

import io
import os
import threading
import time

from durable import _call

# Text without the end of a line waits this long for it.
PATIENCE = 0.05
AT_MOST = 8192


class Pen:
    """One of a call's streams. A line goes out when it ends, so that a crash loses none."""

    def __init__(self, wire, call, kind):
        self._wire, self._call, self._kind = wire, call, kind
        self._held = ""
        # A signal handler may write while its thread does.
        self._lock = threading.RLock()
        self.over = False

    def write(self, text):
        with self._lock:
            if self._held:
                text, self._held = self._held + text, ""
            if "\n" in text or len(text) > AT_MOST:
                self._send(text.encode("utf-8", "replace"))
            else:
                self._held = text
                LATE.hold(self)

    def write_bytes(self, data):
        with self._lock:
            self.flush()
            self._send(data)

    def flush(self):
        with self._lock:
            if self._held:
                text, self._held = self._held, ""
                self._send(text.encode("utf-8", "replace"))

    def close(self):
        self.flush()
        self.over = True

    def _send(self, data):
        # What a thread writes after its call has ended is nobody's.
        if not self.over:
            self._wire.output(self._call, self._kind, data)


class Late:
    """Sends what waits for the end of its line for too long: its call may be killed in the middle of it."""

    def __init__(self):
        self._pens = set()
        self._some = threading.Event()

    def hold(self, pen):
        if pen not in self._pens:
            self._pens.add(pen)
            self._some.set()

    def start(self):
        threading.Thread(target=self._run, name="durable-output", daemon=True).start()

    def _run(self):
        while True:
            self._some.wait()
            self._some.clear()
            time.sleep(PATIENCE)
            pens, self._pens = self._pens, set()
            for pen in pens:
                pen.flush()


LATE = Late()


class Stream(io.TextIOBase):
    """sys.stdout or sys.stderr."""

    encoding = "utf-8"
    errors = "replace"
    mode = "w"
    line_buffering = True

    def __init__(self, which, descriptor, nowhere):
        self.name = ("<stdout>", "<stderr>")[which]
        self._which = which
        self._descriptor = descriptor
        # Where goes what no call writes.
        self._else = nowhere
        self._forked = False
        self.buffer = Bytes(self)

    def pen(self):
        call = _call.get()
        return None if call is None or self._forked else call["pens"][self._which]

    def forked(self):
        """In a process that was forked off: it writes as any other program does."""
        self._forked, self._else = True, self._descriptor

    def writable(self):
        return True

    def fileno(self):
        return self._descriptor

    def otherwise(self):
        return self._else

    def reconfigure(self, **_):
        """What could be changed has no effect here."""

    def write(self, text):
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        pen = self.pen()
        if pen:
            pen.write(text)
        else:
            write_all(self._else, text.encode("utf-8", "replace"))
        return len(text)

    def flush(self):
        pen = self.pen()
        if pen:
            pen.flush()


class Bytes(io.RawIOBase):
    """sys.stdout.buffer."""

    def __init__(self, stream):
        self._stream = stream

    def writable(self):
        return True

    def fileno(self):
        return self._stream.fileno()

    def flush(self):
        self._stream.flush()

    def write(self, data):
        data = bytes(data)
        pen = self._stream.pen()
        if pen:
            pen.write_bytes(data)
        else:
            write_all(self._stream.otherwise(), data)
        return len(data)


def write_all(descriptor, data):
    while data:
        data = data[os.write(descriptor, data) :]


class Descriptors:
    """Descriptors 1 and 2, where C code and child processes write: pipes of the call that runs, or nobody's."""

    def __init__(self):
        self.nowhere = [os.dup(1), os.dup(2)]
        self._present = self.nowhere

    def point(self, pipes):
        pipes = pipes or self.nowhere
        if pipes is not self._present:
            os.dup2(pipes[0], 1)
            os.dup2(pipes[1], 2)
            self._present = pipes

    def close(self, pipes):
        if self._present is pipes:
            self.point(None)
        for pipe in pipes or ():
            os.close(pipe)
