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
