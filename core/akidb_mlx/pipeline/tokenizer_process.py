"""What runs in a process that cuts texts into tokens for another one; see `tokenizer_processes`. No MLX here."""

import pickle
import signal
import threading
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.pipeline.tokenizer import Tokenized, Tokenizer
from akidb_mlx.pipeline.tokenizer_processes import READY, Answer

__all__ = ["serve"]


def serve(lanes: list[Connection], idle_s: float) -> None:
    """Answer on these connections, on a thread for each, until the other side closes them.

    Or until none of them had anything to do for `idle_s` seconds. The first message has the tokenizer.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the other side too, which closes them
    tokenizer: Tokenizer = pickle.loads(lanes[0].recv_bytes())
    threads = [threading.Thread(target=_serve, args=(lane, tokenizer, idle_s), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(lane: Connection, tokenizer: Tokenizer, idle_s: float) -> None:
    try:
        lane.send_bytes(READY)
        while lane.poll(idle_s):
            lane.send_bytes(pickle.dumps(_answer(tokenizer, *pickle.loads(lane.recv_bytes())), 5))
    except (EOFError, OSError):  # the other side closed it, or has ended
        return


def _answer(tokenizer: Tokenizer, method: str, items: Any, options: dict[str, Any]) -> Answer:
    try:
        part: Tokenized = getattr(tokenizer, method)(items, **options)
        flat = np.concatenate(part.token_ids).tobytes() if part.token_ids else b""
        return flat, [len(ids) for ids in part.token_ids], part.truncated, part.second_starts
    except AkiDBMLXError as error:
        return error
    except Exception:  # the other side meets it again, in its own process
        return None
