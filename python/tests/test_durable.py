"""The package: what workflows and functions import, and how tests run them."""

import asyncio
import pathlib
import subprocess
import sys
import tempfile
import textwrap
import time
import unittest

import durable
from durable.testing import Run, load

ROOT = pathlib.Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def main_of(source: str):
    return load(textwrap.dedent(source), "workflow.py")


# How a workflow stops waiting for the signal s, half a second after its beginning.
GIVEN_UP = {
    "a race": "await durable.race(durable.wait_signal('s'), asyncio.sleep(0.5))",
    "a race of coroutines that wait": "await durable.race(wait(), asyncio.sleep(0.5))",
    "a race of races": "await durable.race(durable.race(durable.wait_signal('s'), wait()), asyncio.sleep(0.5))",
    "a failed gather": """
        try:
            await asyncio.gather(durable.wait_signal('s'), fail())
        except ValueError:
            pass
    """,
    "a failed gather of coroutines": """
        try:
            await asyncio.gather(wait(), asyncio.gather(wait(), fail()))
        except ValueError:
            pass
    """,
    "a wait that is made and not awaited": "durable.wait_signal('s'); await asyncio.sleep(0.5)",
    "a gather that is never awaited": "asyncio.gather(durable.wait_signal('s')); await asyncio.sleep(0.5)",
    "a settle that lost a race": """
        await durable.race(durable.settle(durable.wait_signal('s'), asyncio.sleep(9)), asyncio.sleep(0.5))
    """,
    "a map that lost a race": """
        await durable.race(durable.map(durable.wait_signal, ['s', 's'], limit=1), asyncio.sleep(0.5))
    """,
    "a timeout of a settle": """
        try:
            await durable.timeout(durable.settle(durable.wait_signal('s'), wait()), 0.5)
        except durable.TaskTimeout:
            pass
    """,
}
WAITS = """
                import asyncio, durable
                async def wait():
                    return await durable.wait_signal('s')
                async def fail():
                    await asyncio.sleep(0.5)
                    raise ValueError('x')
                async def main():
                    HOW
                    await asyncio.sleep(1)
                    return await durable.wait_signal('s', timeout=1)
"""


class Workflows(unittest.TestCase):
    def test_sleeping_takes_no_time_and_the_clock_shows_it(self):
        began = time.monotonic()
        run = Run(main_of("""
            import asyncio, durable
            async def main():
                before = durable.now()
                await asyncio.sleep(90 * 86400)
                return (durable.now() - before).days
        """))
        self.assertEqual(run.result(), 90)
        self.assertLess(time.monotonic() - began, 2)

    def test_signals_come_when_the_script_says_and_are_kept_until_then(self):
        source = """
            from durable import SignalTimeout, wait_signal
            async def main():
                first = await wait_signal("go", timeout=60)
                try:
                    await wait_signal("go", timeout=60)
                except SignalTimeout as error:
                    return first, str(error)
        """
        run = Run(main_of(source)).signal("go", 1, after=30).signal("go", 2, after=500)
        self.assertEqual(run.result(), (1, "no signal go within 1m"))

    def test_a_signal_goes_to_who_waits_and_not_to_who_has_given_up(self):
        for what, how in GIVEN_UP.items():
            with self.subTest(what):
                main = main_of(WAITS.replace("HOW", textwrap.indent(textwrap.dedent(how).strip(), " " * 20).strip()))
                run = Run(main).signal("s", "here", after=1)
                self.assertEqual(run.result(), "here")

    def test_what_the_program_still_holds_keeps_waiting(self):
        holders = {
            "a name": ("w = durable.wait_signal('s'); await durable.race(w, asyncio.sleep(0.5))", "await w"),
            "a spawned coroutine": ("w = durable.spawn(wait()); await durable.race(w, asyncio.sleep(0.5))", "await w"),
            "a list": ("w = [durable.wait_signal('s')]; await durable.race(*w, asyncio.sleep(0.5))", "await w[0]"),
            "a dict in a global": ("HELD['w'] = durable.wait_signal('s'); await asyncio.sleep(0.5)", "await HELD['w']"),
            "a coroutine": ("c = give(durable.wait_signal('s')); await asyncio.sleep(0.5)", "await c"),
        }
        for what, (holds, uses) in holders.items():
            with self.subTest(what):
                main = main_of(f"""
                    import asyncio, durable
                    HELD = {{}}
                    async def wait():
                        return await durable.wait_signal('s')
                    async def give(w):
                        return await w
                    async def main():
                        {holds}
                        await asyncio.sleep(1)
                        other = durable.wait_signal('s')
                        return [{uses}, await other]
                """)
                self.assertEqual(Run(main).signal("s", 1, after=1).signal("s", 2, after=2).result(), [1, 2])

    def test_a_signal_that_nobody_has_read_goes_to_who_waits_next(self):
        lets_go = {
            "a name": "held = durable.wait_signal('s'); await asyncio.sleep(2); held = None",
            "a helper's local": "await helper()",
            "a lost race": "held = durable.wait_signal('s'); await durable.race(held, asyncio.sleep(0.5)); await asyncio.sleep(2); held = None",
            "a list": "held = [durable.wait_signal('s')]; await asyncio.sleep(2); held.clear()",
        }
        for what, how in lets_go.items():
            with self.subTest(what):
                main = main_of(f"""
                    import asyncio, durable
                    async def helper():
                        held = durable.wait_signal('s')
                        await asyncio.sleep(2)
                    async def main():
                        {how}
                        return [await durable.wait_signal('s', timeout=1) for _ in range(2)]
                """)
                run = Run(main).signal("s", 1, after=1).signal("s", 2, after=1.5)
                self.assertEqual(run.result(), [1, 2])

    def test_a_callback_that_nobody_can_await_is_not_completed(self):
        run = Run(main_of("""
            import asyncio, durable
            async def main():
                token, answer = durable.callback()
                await durable.race(answer, asyncio.sleep(1))
                answer = None
                await asyncio.sleep(5)
                return token
        """))
        completed = []
        run._script.append((3, lambda _: completed.append(run._run.complete(next(iter(run._run._callbacks)), 1))))
        run.result()
        self.assertEqual(completed, [False])

    def test_a_remaining_time_that_has_run_out_is_no_mistake(self):
        run = Run(main_of("""
            import asyncio, durable
            from datetime import timedelta
            async def main():
                seen = []
                for left in (-0.004, 0, -5, timedelta(seconds=-1), float("-inf")):
                    try:
                        await durable.wait_signal("s", timeout=left)
                    except durable.SignalTimeout as error:
                        seen.append(str(error))
                forever = [durable.wait_signal("s", timeout=float("inf")), durable.callback(timeout=float("inf"))[1]]
                index, _ = await durable.race(asyncio.sleep(86400 * 10), *forever)
                return seen, index
        """))
        self.assertEqual(run.result(), (["no signal s within 0s"] * 5, 0))

    def test_signals_reach_other_executions_once(self):
        child = "import durable\nasync def main():\n    return await durable.wait_signal('go')"
        run = Run(main_of(f"""
            import asyncio, durable
            async def main():
                child = durable.start_child("c.py", id="child", source={child!r})
                await asyncio.sleep(1)
                await durable.signal("child", "go", 7)
                await durable.signal("elsewhere", "go", 8)
                got = await child
                try:
                    await durable.signal("child", "go", 9)
                except RuntimeError as error:
                    return got, str(error)
        """))
        self.assertEqual(run.result(), (7, "execution child has ended and cannot take a signal"))
        self.assertEqual(run.sent, [("elsewhere", "go", 8)])

    def test_the_end_of_cancelled_functions_can_be_waited_for(self):
        order = []

        async def write():
            try:
                await asyncio.sleep(100)
            finally:
                await asyncio.sleep(3)
                order.append("written")

        run = Run(main_of("""
            import asyncio, durable
            from somewhere import order, write
            async def main():
                handle = durable.call(write)
                try:
                    await durable.timeout(handle, 1)
                except durable.TaskTimeout:
                    try:
                        await durable.cancelled_ended(timeout=1)
                    except TimeoutError:
                        order.append("still")
                    await durable.cancelled_ended(handle)
                    order.append("undone")
        """.replace("from somewhere import order, write", "")))
        run._main.__globals__.update(order=order, write=write)
        run.result()
        self.assertEqual(order, ["still", "written", "undone"])

    def test_callbacks_are_completed_or_failed(self):
        source = """
            from durable import callback
            async def main():
                _, one = callback()
                _, two = callback()
                try:
                    return await one, await two
                except ValueError as error:
                    return str(error)
        """
        self.assertEqual(Run(main_of(source)).callback(1).callback(2, after=9).result(), (1, 2))
        self.assertEqual(Run(main_of(source)).callback(1).callback(ValueError("no")).result(), "no")

    def test_cancellation_runs_clean_up(self):
        seen = []
        source = """
            import asyncio, durable
            async def main(seen):
                try:
                    await asyncio.sleep(1000)
                except durable.Cancelled:
                    await asyncio.sleep(1)
                    seen.append("cleaned up")
                    raise
        """
        with self.assertRaises(durable.Cancelled):
            Run(main_of(source), seen=seen).cancel(after=5).result()
        self.assertEqual(seen, ["cleaned up"])

    def test_children_are_named(self):
        child = main_of("async def main(n): return n + 1")
        source = "from durable import run_child\nasync def main():\n    return await run_child('inc', {'n': 1})"
        self.assertEqual(Run(main_of(source)).workflow("inc", child).result(), 2)

    def test_status_log_and_calls_can_be_asked_for(self):
        run = Run(EXAMPLES / "saga/workflow.py", budget=800)
        run.result()
        self.assertEqual(run.status, {"booked": 2, "left": 30})
        self.assertEqual([call.function for call in run.calls][:3], ["tasks.book_flight", "tasks.book_hotel", "tasks.book_car"])


class Functions(unittest.TestCase):
    def setUp(self):
        self.attempts = []

    def run_one(self, **options):
        attempts = self.attempts

        @durable.function(**options)
        def flaky(fails, error=ValueError):
            attempts.append((durable.attempt(), durable.idempotency_key()))
            if len(attempts) <= fails:
                raise error("again")
            return "done"

        return flaky

    def result(self, make):
        async def main():
            return await make()

        return Run(main).result()

    def test_failures_are_tried_again_with_the_same_key(self):
        flaky = self.run_one(retries=3, backoff="1s..1m")
        self.assertEqual(self.result(lambda: flaky(2)), "done")
        self.assertEqual([attempt for attempt, _ in self.attempts], [1, 2, 3])
        self.assertEqual(len({key for _, key in self.attempts}), 1)

    def test_the_last_failure_reaches_the_workflow(self):
        flaky = self.run_one(retries=1)
        with self.assertRaisesRegex(ValueError, "again"):
            self.result(lambda: flaky(9))
        self.assertEqual(len(self.attempts), 2)

    def test_what_is_not_to_be_retried_is_not(self):
        flaky = self.run_one(retries=5)
        with self.assertRaises(durable.NonRetryable):
            self.result(lambda: flaky(9, durable.NonRetryable))
        with self.assertRaises(KeyError):
            self.result(lambda: durable.call(flaky, 9, KeyError, non_retryable=["KeyError"]))
        self.assertEqual(len(self.attempts), 2)

    def test_one_call_has_options_of_its_own(self):
        flaky = self.run_one(retries=0)
        self.assertEqual(self.result(lambda: durable.call(flaky, 1, retries=2, idempotency_key="mine")), "done")
        self.assertEqual([key for _, key in self.attempts], ["mine", "mine"])

    def test_an_attempt_has_its_time(self):
        @durable.function(retries=0, timeout="2s")
        async def slow():
            await asyncio.sleep(60)

        with self.assertRaises(TimeoutError):
            self.result(lambda: slow())

    def test_elsewhere_it_is_the_function_itself(self):
        @durable.function(retries=1)
        def add(a, b):
            return a + b

        self.assertEqual(add(1, 2), 3)

        @durable.function
        def twice(n):
            return add(n, n)

        self.assertEqual(self.result(lambda: twice(4)), 8)

    def test_functions_are_replaced_by_name(self):
        run = Run(EXAMPLES / "human_approval/workflow.py", amount=5.0)
        run.replace("tasks.pay", lambda to, amount: f"{amount} for {to}")
        run.signal("decision", "yes", after=4000)
        result = run.result()
        self.assertEqual(result, {"status": "paid", "by": "director", "receipt": "5.0 for ada"})


class Examples(unittest.TestCase):
    def test_each_example_runs_as_a_script(self):
        for folder, inputs, part in [
            ("human_approval", [], '"expired"'),
            ("saga", ["--input", "budget=800"], '"undone": ["hotel", "flight"]'),
            ("fan_out_limited", [], '"failed": [7, 17]'),
            ("agent_loop", [], "It was built in 1894: 264 half-years."),
            ("order_pipeline", ["--input", 'items=["piano"]'], '"out of stock"'),
            ("simple_parallel", [], '{"sum": 5, "product": 6}'),
        ]:
            with self.subTest(folder), tempfile.TemporaryDirectory() as work:
                command = [sys.executable, "-m", "durable", str(EXAMPLES / folder / "workflow.py"), *inputs]
                environment = {"PYTHONPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin"}
                said = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment, timeout=60)
                self.assertEqual(said.returncode, 0, said.stderr)
                self.assertIn(part, said.stdout)

    def test_a_workflow_of_decorated_functions_runs_under_plain_python(self):
        with tempfile.TemporaryDirectory() as work:
            folder = pathlib.Path(work)
            (folder / "tasks.py").write_text("import durable\n\n@durable.function(retries=1)\ndef add(a, b): return a + b\n")
            (folder / "workflow.py").write_text(textwrap.dedent("""
                import asyncio
                from tasks import add

                async def main():
                    return await asyncio.gather(add(1, 2), add(3, 4))

                if __name__ == "__main__":
                    print(asyncio.run(main()))
            """))
            environment = {"PYTHONPATH": str(ROOT / "python"), "PATH": "/usr/bin:/bin"}
            command = [sys.executable, "workflow.py"]
            said = subprocess.run(command, capture_output=True, text=True, cwd=work, env=environment, timeout=60)
            self.assertEqual(said.stdout, "[3, 7]\n", said.stderr)


if __name__ == "__main__":
    unittest.main()
