"""A stand-in for a reranker: scores by shared words, without a model; and what a server or a command needs of one."""

import contextlib
import hashlib
import itertools
import math

import numpy as np

from akidb_mlx import RerankerConfig
from akidb_mlx.errors import BackendError, ClosedError, InputError, QueueFullError
from akidb_mlx.pipeline.call import Usage
from akidb_mlx.reranker import Ranked

ACTIVATIONS = {"identity": lambda x: x, "sigmoid": lambda x: 1 / (1 + np.exp(-x))}
_HISTOGRAM = {"bounds_s": [0.1, 1.0], "counts": [0, 0, 0], "sum_s": 0.0}


def logit(query, text):
    """How many of the query's words the text has, from -4 to 4, and less for what the query lacks."""
    asked, said = set(query.lower().split()), set(text.lower().split())
    shared = len(asked & said)
    return 8 * shared / max(len(asked), 1) - 4 - 0.125 * len(said - asked)


class StandIn:
    """The methods of `Reranker`; `full` makes it refuse as a full queue does, `rule` gives other logits."""

    max_seq_length = 48

    def __init__(self, config=None, *, labels=1, rule=logit, side="right"):
        self.config = config or RerankerConfig(model="stand-in")
        self.num_labels = labels
        self.activation = self.config.activation or "sigmoid"
        self.healthy, self.full, self.calls = True, False, []
        self.fingerprint = hashlib.sha256(repr((self.config.model, self.config.activation)).encode()).hexdigest()
        self._rule, self._side = rule, side
        self._counted = {"requests": 0, "texts": 0, "tokens": 0, "truncated_texts": 0}

    def count_tokens(self, pairs, prompt=""):
        lengths = (len(f"{prompt}{query} {text}".split()) + 3 for query, text in pairs)
        return [min(length, self.max_seq_length) for length in lengths]

    def _logits(self, pairs):
        rows = np.array([self._rule(*pair) for pair in pairs], np.float32)
        return rows if self.num_labels == 1 else np.stack([rows + i for i in range(self.num_labels)], axis=1)

    def predict(self, pairs, prompt_name=None, prompt=None, activation=None, show_progress=False):
        return self._answer(pairs, activation)[0]

    def predict_stream(self, pairs, chunk_size=1024, *, on_error=None):
        pairs, first = iter(pairs), 0
        while chunk := list(itertools.islice(pairs, chunk_size)):
            try:
                yield self.predict(chunk)
            except (InputError, BackendError):
                if on_error is None:
                    raise
                yield np.array([self._one(pair, first + i, on_error) for i, pair in enumerate(chunk)], np.float32)
            first += len(chunk)

    def _one(self, pair, place, on_error):
        try:
            return self.predict([pair])[0]
        except (InputError, BackendError) as error:
            on_error(place, error)
            return np.nan

    async def apredict(self, pairs, prompt_name=None, prompt=None, activation=None, show_progress=False):
        return self._answer(pairs, activation)[0]

    async def apredict_with_usage(
        self, pairs, prompt_name=None, prompt=None, activation=None, on_overlong=None, max_tokens=None
    ):
        return self._answer(pairs, activation, on_overlong, max_tokens)

    def _answer(self, pairs, activation=None, on_overlong=None, max_tokens=None):
        if not self.healthy:
            raise ClosedError("the reranker is closed; load it again")
        if self.full:
            raise QueueFullError("20 tokens wait already (max_queued_tokens=20)", 1.5)
        self.calls.append((list(pairs), activation))
        lengths = [len(f"{query} {text}".split()) + 3 for query, text in pairs]
        long = [index for index, length in enumerate(lengths) if length > self.max_seq_length]
        if long and (on_overlong or self.config.on_overlong) == "error":
            raise InputError(f"text {long[0]} has more than {self.max_seq_length} tokens")
        usage = Usage(sum(self.count_tokens(pairs)), len(long))
        if max_tokens is not None and usage.tokens > max_tokens:
            raise InputError(f"the texts have more than {max_tokens} tokens together; send fewer at a time")
        one = (1, len(pairs), usage.tokens, usage.truncated_texts)
        self._counted = {name: self._counted[name] + more for name, more in zip(self._counted, one, strict=True)}
        return ACTIVATIONS[activation or self.activation](self._logits(pairs)), usage

    def rank(self, query, documents, top_k=None, **options):
        scores = self.predict([(query, text) for text in documents], **options)
        order = sorted(range(len(scores)), key=lambda index: -scores[index])
        return [Ranked(index, float(scores[index])) for index in order[:top_k]]

    async def arank(self, query, documents, top_k=None, **options):
        return self.rank(query, documents, top_k, **options)

    def info(self):
        return {
            "kind": "reranker",
            "model_name": self.config.model,
            "revision": None,
            "activation": self.activation,
            "num_labels": self.num_labels,
            "max_seq_length": self.max_seq_length,
            "truncation_side": self._side,
            "prompts": {},
            "quantization": None,
            "dtype": "float32",
            "device": "none",
            "backend": "stand-in",
            "memory": {"peak_bytes": 2**20},
            "fingerprint": self.fingerprint,
            "sources": {"activation": "config.json"},
            "suggestions": [],
        }

    def stats(self):
        zeros = ("failed_requests", "cancelled_requests", "refused_requests", "batches", "rows", "row_tokens")
        more = dict.fromkeys(
            (
                *zeros,
                "padded_tokens",
                "queued_tokens",
                "max_queued_tokens",
                "loads",
                "unloads",
                "loaded",
                "weights_bytes",
            ),
            0,
        )
        return {**self._counted, **more, "query_latency": _HISTOGRAM, "document_latency": _HISTOGRAM}

    def close(self):
        self.healthy = False

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def sigmoid(logit):
    return 1 / (1 + math.exp(-logit))


@contextlib.contextmanager
def loaded_as(monkeypatch, make=StandIn):
    """What `Reranker.load` gives meanwhile: stand-ins, in the list that is yielded."""
    from akidb_mlx import Reranker

    made = []

    def load(model=None, **fields):
        config = model if isinstance(model, RerankerConfig) else RerankerConfig(model=model, **fields)
        made.append(make(config))
        return made[-1]

    with monkeypatch.context() as patch:
        patch.setattr(Reranker, "load", load)
        yield made
