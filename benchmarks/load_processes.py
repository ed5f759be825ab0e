"""Forked and spawned children, first users at once, a process that ends while it embeds: seconds of each.

Each part runs in an interpreter of its own: `python benchmarks/load_processes.py PART MODEL` prints one JSON object.
"""

import argparse
import contextlib
import json
import logging
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from akidb_mlx import Embedder
from akidb_mlx.bench import WORDS
from akidb_mlx.errors import BackendError, ClosedError

TOLERANCE = 2e-6
FORKS, CHILDREN, USERS, ENDINGS = 50, 4, 16, 10
LIMIT_S = 60.0
TEXTS = ["Snow fell through the night.", "harbour", " ".join(WORDS)]
RIGHT, WRONG, REFUSED, FAILED = 0, 3, 4, 5


def right(rows: np.ndarray, expected: np.ndarray) -> bool:
    return rows.shape == expected.shape and bool(np.abs(rows - expected).max() <= TOLERANCE)


def keep_busy(embedder: Embedder, threads: int = 4) -> None:
    """Embed from threads of their own, until the process ends."""
    entered = threading.Semaphore(0)

    def work(number: int) -> None:
        with contextlib.suppress(ClosedError):
            for turn in range(2**31):
                entered.release()
                embedder.encode([f"{number} {turn} {place} {' '.join(WORDS)}" for place in range(32)])

    for number in range(threads):
        threading.Thread(target=work, args=(number,), daemon=True).start()
    for _ in range(threads):
        entered.acquire()


# ── each in its own interpreter ──────────────────────────────────────────────────────────────────────────


def fork(model: str) -> dict[str, Any]:
    """Fork again and again while threads embed; each child embeds and ends."""
    embedder = Embedder.load(model)
    expected = embedder.encode(TEXTS[:1])
    keep_busy(embedder)
    ends: list[int | None] = []
    taken, forking = [], []
    for number in range(FORKS):
        began = time.perf_counter()
        pid = os.fork()
        if pid == 0:
            _end_child(embedder, expected)
        forking.append(time.perf_counter() - began)
        while not (done := os.waitpid(pid, os.WNOHANG))[0] and time.perf_counter() - began < LIMIT_S:
            time.sleep(0.002)
        if not done[0]:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        ends.append(os.waitstatus_to_exitcode(done[1]) if done[0] else None)
        taken.append(time.perf_counter() - began)
        time.sleep(0.003 * (number % 7))
    return {
        "right": ends.count(RIGHT),
        "refused": ends.count(REFUSED),
        "hanging": ends.count(None),
        "seconds": taken,
        "forking": forking,
        "parent": right(embedder.encode(TEXTS[:1]), expected),
    }


def _end_child(embedder: Embedder, expected: np.ndarray) -> None:
    code = FAILED
    try:
        code = RIGHT if right(embedder.encode(TEXTS[:1]), expected) else WRONG
    except BackendError:  # a GPU cannot be shared with a forked child
        code = REFUSED
    finally:
        os._exit(code)


def spawn(model: str) -> dict[str, Any]:
    """Children that start at once, each with the pickled embedder."""
    with Embedder.load(model) as embedder:
        expected = embedder.encode(TEXTS)
        began = time.time()  # the one clock that processes share
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(CHILDREN, mp_context=context) as pool:
            answers = [pool.submit(_in_child, embedder) for _ in range(CHILDREN)]
            pids, ended, rows = zip(*(answer.result(LIMIT_S) for answer in answers), strict=True)
        good = sum(right(of_child, expected) for of_child in rows)
        return {"right": good, "processes": len(set(pids)), "seconds": max(ended) - began}


def _in_child(embedder: Embedder) -> tuple[int, float, np.ndarray]:
    logging.getLogger("akidb_mlx").setLevel(logging.ERROR)
    rows, ended = embedder.encode(TEXTS), time.time()
    time.sleep(1)  # so that no child takes another's work
    return os.getpid(), ended, rows


def first_users(model: str) -> dict[str, Any]:
    """Threads that load and embed at once, with the model's first load among it."""
    from akidb_mlx.model import loading

    loads = []
    load_model, barrier, loaded = loading.load_model, threading.Barrier(USERS + 1), threading.Barrier(USERS)

    def counted(*args: Any, **options: Any) -> Any:
        loads.append(args)
        return load_model(*args, **options)

    def use(_: int) -> tuple[np.ndarray, float]:
        barrier.wait(LIMIT_S)
        with Embedder.load(model) as embedder:
            rows = embedder.encode(TEXTS)
            ended = time.perf_counter()
            loaded.wait(LIMIT_S)
            return rows, ended

    loading.load_model = counted
    with ThreadPoolExecutor(USERS) as pool:
        users = [pool.submit(use, number) for number in range(USERS)]
        barrier.wait(LIMIT_S)
        began = time.perf_counter()
        answers = [user.result(LIMIT_S) for user in users]
    count = len(loads)
    with Embedder.load(model) as embedder:
        expected = embedder.encode(TEXTS)
    good = [right(rows, expected) for rows, _ in answers]
    return {"right": sum(good), "loads": count, "seconds": max(ended for _, ended in answers) - began}


def end_while_busy(model: str) -> None:
    """Say that threads embed, and end."""
    embedder = Embedder.load(model)
    embedder.encode(TEXTS)
    keep_busy(embedder)
    time.sleep(0.05)
    print(json.dumps({"busy": True}), flush=True)


# ── the rows ─────────────────────────────────────────────────────────────────────────────────────────────


def _start(part: str, model: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-W", "ignore", str(Path(__file__).resolve()), part, model]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def _answer(part: str, model: str) -> dict[str, Any]:
    process = _start(part, model)
    try:
        out, err = process.communicate(timeout=LIMIT_S * 5)
    except subprocess.TimeoutExpired:
        process.kill()
        raise SystemExit(f"{part} hangs") from None
    if process.returncode or not out:
        raise SystemExit(f"{part} ended with {process.returncode}: {err}")
    return json.loads(out)


def _endings(model: str) -> tuple[list[int | None], list[float], list[str]]:
    """Exit codes (None: it hung), seconds from the end of its program to the end of the process, errors said."""
    codes, seconds, errors = [], [], []
    for _ in range(ENDINGS):
        process = _start("end_while_busy", model)
        assert process.stdout
        process.stdout.readline()
        began = time.perf_counter()
        try:
            _, err = process.communicate(timeout=LIMIT_S)
            codes.append(process.returncode)
        except subprocess.TimeoutExpired:
            process.kill()
            _, err = process.communicate()
            codes.append(None)
        seconds.append(time.perf_counter() - began)
        errors += [err] if err else []
    return codes, seconds, errors


def _spread(seconds: list[float]) -> str:
    return f"{statistics.median(seconds):.2f} s, longest {max(seconds):.2f} s"


def processes(model: str) -> Iterator[tuple[str, str, str]]:
    """Rows of the table; raises SystemExit where one of them is not as it should be."""
    bad = []
    if hasattr(os, "fork"):
        forked = _answer("fork", model)
        answered = f"{forked['right']} of {FORKS}"
        if forked["refused"]:
            answered += f", refused {forked['refused']} (BackendError)"
        yield f"{FORKS} forks under load, children that embed rightly", answered, "all; on a GPU all are refused"
        yield "… fork to the child's end", _spread(forked["seconds"]), ""
        yield "… of it until fork returned", _spread(forked["forking"]), ""
        if FORKS not in (forked["right"], forked["refused"]) or not forked["parent"]:
            bad.append("fork")
    spawned = _answer("spawn", model)
    yield f"{CHILDREN} spawned children at once, right", f"{spawned['right']} of {CHILDREN}", "all"
    yield "… seconds until the last one answered", f"{spawned['seconds']:.2f} s", ""
    users = _answer("first_users", model)
    yield f"{USERS} first users at once, right", f"{users['right']} of {USERS}", "all"
    yield "… times that the model was loaded", str(users["loads"]), "1"
    yield "… seconds until the last one had its rows", f"{users['seconds']:.2f} s", ""
    codes, seconds, errors = _endings(model)
    shown = ", ".join(sorted({"hung" if code is None else str(code) for code in codes}))
    yield f"end while busy, {ENDINGS} times: exit codes", shown, "0"
    yield "… end of the program to the end of the process", _spread(seconds), ""
    yield "… that wrote an error", f"{len(errors)} of {ENDINGS}", "0"
    for error in errors[:1]:
        print(error, file=sys.stderr)
    bad += ["spawn"] * (spawned["right"] < CHILDREN or spawned["processes"] < CHILDREN)
    bad += ["first users"] * (users["right"] < USERS or users["loads"] != 1)
    bad += ["end while busy"] * (set(codes) != {0} or bool(errors))
    if bad:
        raise SystemExit(f"not as it should be: {', '.join(bad)}")


PARTS = {"fork": fork, "spawn": spawn, "first_users": first_users, "end_while_busy": end_while_busy}


def main() -> None:
    """Run one part."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("model")
    args = parser.parse_args()
    logging.getLogger("akidb_mlx").setLevel(logging.ERROR)  # texts that are cut are no error
    answer = PARTS[args.part](args.model)
    if answer is not None:
        print(json.dumps(answer))


if __name__ == "__main__":
    main()
