"""Which call each thread is in the middle of, in memory that outlives this process.

When the process ends unexpectedly, or does not go on, its worker reads here who is to blame. Each mark is three
numbers: a thread, the call that it works for, and how often that thread has changed calls.
"""

import mmap
import struct
import threading

MARK = struct.Struct("<QQQ")
THREADS = 128


class Marks:
    def __init__(self, descriptor):
        self._memory = mmap.mmap(descriptor, MARK.size * THREADS)
        self._main = threading.get_ident()
        self._count = 0
        self._free = list(range(1, THREADS))
        self._places = {}

    def enter(self, call):
        """The main thread goes on with a call, or (0) with none."""
        self._count += 1
        MARK.pack_into(self._memory, 0, self._main, call, self._count)

    def enter_thread(self, call):
        """Another thread goes on with a call, or ends what it did for one (0)."""
        thread = threading.get_ident()
        if thread == self._main:
            return
        place = self._places.get(thread)
        if place is None:
            if not call or not self._free:
                return
            place = self._places[thread] = self._free.pop()
        MARK.pack_into(self._memory, MARK.size * place, thread, call, 0)
        if not call:
            self._free.append(self._places.pop(thread))

    def close(self):
        """In a process that was forked off: the marks are its parent's."""
        self.enter = self.enter_thread = lambda call: None


class NoMarks:
    """Where one call at a time runs."""

    def enter(self, call):
        pass

    enter_thread = enter

    def close(self):
        pass
