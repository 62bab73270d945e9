"""Threads work for the call that started them, and those of a pool for the call that gave them their work."""

import threading
from concurrent.futures import ThreadPoolExecutor

from durable import _call


def install(marks):
    start, submit = threading.Thread.start, ThreadPoolExecutor.submit

    def within(call, fn, args, kwargs):
        token = _call.set(call)
        marks.enter_thread(call["id"])
        try:
            return fn(*args, **kwargs)
        finally:
            marks.enter_thread(0)
            _call.reset(token)

    def start_within(self):
        call = _call.get()
        if call is not None:
            run = self.run

            def run_within():
                del self.run
                within(call, run, (), {})

            self.run = run_within
        return start(self)

    def submit_within(self, fn, /, *args, **kwargs):
        call = _call.get()
        if call is None:
            return submit(self, fn, *args, **kwargs)
        return submit(self, within, call, fn, args, kwargs)

    threading.Thread.start = start_within
    ThreadPoolExecutor.submit = submit_within
