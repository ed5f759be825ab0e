"""Waiting for what must come, however busy the machine is."""

import asyncio
import threading
import time

PATIENCE_S = 300.0  # only what hangs takes that long


def until(condition):
    """Wait until something holds; its value."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.002)
    return value


async def auntil(condition):
    """The same, and the event loop goes on meanwhile."""
    end = time.monotonic() + PATIENCE_S
    while not (value := condition()):
        assert time.monotonic() < end, "waited in vain"
        await asyncio.sleep(0.002)
    return value


def beside_a_turning_loop(work):
    """`work`, begun only after the running event loop has had another turn; who blocks the loop waits for ever."""
    loop = asyncio.get_running_loop()

    def call(*args, **kwargs):
        turned = threading.Event()
        loop.call_soon_threadsafe(turned.set)
        assert turned.wait(PATIENCE_S), "it blocks the event loop"
        return work(*args, **kwargs)

    return call
