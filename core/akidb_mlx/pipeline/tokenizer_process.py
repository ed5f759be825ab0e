"""What runs in a process that cuts texts into tokens for another one; see `tokenizer_processes`. No MLX here."""

import pickle
import threading
import time
from multiprocessing.connection import Connection

import numpy as np

from akidb_mlx.errors import AkiDBMLXError
from akidb_mlx.pipeline.tokenizer import Tokenized, Tokenizer
from akidb_mlx.pipeline.tokenizer_processes import READY, Answer

__all__ = ["serve"]


def serve(lanes: list[Connection], idle_s: float) -> None:
    """Answer on these connections, on a thread for each, until the other side closes them.

    Or until none of them had anything to do for `idle_s` seconds. The first message has the tokenizer.
    """
    try:
        tokenizer: Tokenizer = pickle.loads(lanes[0].recv_bytes())
    except (EOFError, OSError):  # it was not wanted after all
        return
    used = [time.monotonic()]
    threads = [threading.Thread(target=_serve, args=(lane, tokenizer, idle_s, used), daemon=True) for lane in lanes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _serve(lane: Connection, tokenizer: Tokenizer, idle_s: float, used: list[float]) -> None:
    """`used` has when the last question came, on any connection: one must not end while another one goes on."""
    try:
        lane.send_bytes(READY)
        while time.monotonic() - used[0] < idle_s:
            if lane.poll(max(0.0, used[0] + idle_s - time.monotonic())):
                question, used[0] = lane.recv_bytes(), time.monotonic()
                lane.send_bytes(pickle.dumps(_answer(tokenizer, question), 5))
                used[0] = time.monotonic()
    except (EOFError, OSError):  # the other side closed it, or has ended
        return
    finally:
        lane.close()


def _answer(tokenizer: Tokenizer, question: bytes) -> Answer:
    try:
        method, items, options = pickle.loads(question)
        part: Tokenized = getattr(tokenizer, method)(items, **options)
        flat = np.concatenate(part.token_ids).tobytes() if part.token_ids else b""
        return flat, [len(ids) for ids in part.token_ids], part.truncated, part.second_starts
    except AkiDBMLXError as error:
        return error
    except Exception:  # the other side meets it again, in its own process
        return None
