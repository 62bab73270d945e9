# The module `durable`, as a workflow sees it. Runs once, before the workflow's first line, in its globals: hence the
# names. What only the host can do is asked of it by functions that begin with `__durable_`.
#
# Every state carries this text along, so only what a workflow uses is put into it: a part begins with `#:`, the names
# that it makes, and what it needs.

import asyncio as __durable_asyncio__


class __durable_Module__:
    pass


def __durable_module__():
    asyncio, module, run_main = __durable_asyncio__, __durable_Module__(), None
    #: first
    # Tasks end a gather early by raising: the awaiter goes on, and the others keep running.
    DONE = "durable: one of them has ended"

    async def first(coroutines):
        try:
            await asyncio.gather(*coroutines)
        except LookupError as error:
            if str(error) != DONE:
                raise

    #: race < first
    # Only one task may await a pending awaitable of the host's. So a race awaits something in its place that ends with it, and
    # whoever holds what lost can still await it.
    def in_place_of(awaitable):
        mirror = __durable_mirror__(awaitable)
        return awaitable if mirror is None else mirror

    async def race(*awaitables):
        if not awaitables:
            raise ValueError("race() needs at least one awaitable")
        ended = []

        async def run(index, place, awaitable):
            try:
                if place is not awaitable:
                    await place
                outcome = index, await awaitable, None
            except Exception as error:
                outcome = index, None, error
            ended.append(outcome)
            raise LookupError(DONE)

        places = [in_place_of(awaitable) for awaitable in awaitables]
        try:
            await first([run(index, places[index], awaitable) for index, awaitable in enumerate(awaitables)])
        finally:
            __durable_leave__(*places)
        index, value, error = ended[0]
        if error is not None:
            raise error
        return index, value

    module.race = race

    #: timeout < first
    async def timeout(awaitable, seconds):
        if seconds is None or seconds == float("inf"):
            return await awaitable
        ended = []

        async def run():
            try:
                ended.append((await awaitable, None))
            except Exception as error:
                ended.append((None, error))
            raise LookupError(DONE)

        async def clock():
            await asyncio.sleep(seconds)
            raise LookupError(DONE)

        work, alarm = run(), clock()
        await first([work, alarm])
        if not ended:
            __durable_cancel__(id(work))
            raise TimeoutError(f"not done within {seconds} s")
        __durable_cancel__(id(alarm))
        value, error = ended[0]
        if error is not None:
            raise error
        return value

    module.timeout = timeout

    #: settle
    async def settle(*awaitables):
        async def run(awaitable):
            try:
                return await awaitable
            except Exception as error:
                return error

        return await asyncio.gather(*[run(awaitable) for awaitable in awaitables])

    module.settle = settle

    #: map
    async def map(fn, items, *, limit=None):
        items = list(items)
        if limit is None:
            return await asyncio.gather(*[fn(item) for item in items])
        if limit < 1:
            raise ValueError(f"map(limit={limit}): at least 1 is wanted")
        results, todo = [None] * len(items), list(enumerate(items))
        todo.reverse()

        async def run():
            while todo:
                index, item = todo.pop()
                results[index] = await fn(item)

        await asyncio.gather(*[run() for _ in range(min(limit, len(items)))])
        return results

    module.map = map

    #: spawn < first
    promise, fulfil = __durable_promise__, __durable_fulfil__
    # A value that was handed over lives in nobody's hands until whoever waits for it goes on.
    kept = []

    def hand_over(handle, value):
        if fulfil(handle, True, value):
            kept.clear()
        kept.append(value)

    # The coroutines that run beside, by number: what nobody holds waits for nothing any more.
    running, count = {}, [0]

    # Coroutines that were spawned and have not begun, and the promise that the nursery waits for meanwhile.
    spawned, waiting = [], []

    def spawn(coroutine):
        handle = promise()
        spawned.append((handle, coroutine))
        if waiting:
            hand_over(waiting.pop(), None)
        return handle

    async def nursery():
        async def run(handle, coroutine, number):
            try:
                value = await coroutine
            except BaseException as error:
                fulfil(handle, False, error)
            else:
                hand_over(handle, value)
            running.pop(number)

        def begin(handle, coroutine):
            count[0] += 1
            running[count[0]] = run(handle, coroutine, count[0])
            return running[count[0]]

        async def leave():
            raise LookupError(DONE)

        while True:
            if not spawned:
                waiting.append(promise())
                await waiting[0]
            new = [begin(handle, coroutine) for handle, coroutine in spawned]
            spawned.clear()
            await first(new + [leave()])

    async def run_main(main):
        outcome = []

        async def body():
            outcome.append(await main)
            raise LookupError(DONE)

        await first([body(), nursery()])
        return outcome[0]

    module.spawn = spawn

    #: now
    def now():
        import datetime

        return datetime.datetime.now(datetime.timezone.utc)

    module.now = now

    #: sleep_until
    def sleep_until(when):
        import datetime

        return asyncio.sleep(max(0.0, (when - datetime.datetime.now(when.tzinfo)).total_seconds()))

    module.sleep_until = sleep_until

    #: callback
    def callback(*, timeout=None):
        answer = __durable_callback__(timeout)
        return __durable_token__(answer), answer

    module.callback = callback

    #: log
    def log(*values, **fields):
        words = [str(value) for value in values] + [f"{name}={value!r}" for name, value in fields.items()]
        print(" ".join(words))

    module.log = log

    #: call
    module.call = __durable_call__
    #: wait_signal
    module.wait_signal = __durable_wait_signal__
    #: signal
    module.signal = __durable_signal__
    #: cancelled_ended
    module.cancelled_ended = __durable_cancelled_ended__
    #: start_child
    module.start_child = __durable_start_child__
    #: run_child
    module.run_child = __durable_start_child__
    #: continue_as_new
    module.continue_as_new = __durable_continue_as_new__
    #: set_status
    module.set_status = __durable_set_status__
    #: execution_id
    module.execution_id = __durable_execution_id__
    #: uuid4
    module.uuid4 = __durable_uuid4__
    # An exception type of one's own is not to be had in the sandbox: each of these is the builtin that it is caught as.
    #: TaskError
    module.TaskError = RuntimeError
    #: Cancelled
    module.Cancelled = KeyboardInterrupt
    #: TaskTimeout
    module.TaskTimeout = TimeoutError
    #: SignalTimeout
    module.SignalTimeout = TimeoutError
    #: end
    return module, run_main


__durable_made__ = __durable_module__()
__durable_run__ = __durable_made__[1]
__durable_register__("durable", __durable_made__[0])
