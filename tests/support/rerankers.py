"""Rerankers of the tests' own: fixed scores, listening, waiting; no model."""

import asyncio

import numpy as np

from akidb_mlx.testing import FakeReranker


class Scripted(FakeReranker):
    """The score of a text, or of what follows its metadata, is what a dictionary says; it notes what it is asked."""

    def __init__(self, scores):
        self.scores = scores
        self.asked = []

    def _scores(self, pairs):
        self.asked += pairs
        keys = [text if text in self.scores else text.rpartition("\n\n")[2] for _, text in pairs]
        return np.array([self.scores[key] for key in keys], np.float32)


class NumPyNumbers(FakeReranker):
    """Gives NumPy's numbers, as many a program does."""

    def rank(self, query, documents, top_k=None):
        ranking = super().rank(query, documents, top_k)
        return [type(one)(np.int64(one.corpus_id), np.float32(one.score)) for one in ranking]


class SeveralLabels(FakeReranker):
    """Three scores per pair."""

    def predict(self, pairs, *, show_progress=False):
        return np.stack([super().predict(pairs)] * 3, axis=1)


class OnlyAsync(FakeReranker):
    """Its async side waits until it is opened; its sync side is not to be called."""

    def __init__(self):
        self.entered, self.opened = asyncio.Event(), asyncio.Event()

    async def entered_by(self, *calls):
        """Wait until it is asked; an error where a call ends before."""
        entered = asyncio.ensure_future(self.entered.wait())
        await asyncio.wait({entered, *calls}, return_when=asyncio.FIRST_COMPLETED)
        for call in calls:
            assert not call.done(), call
        assert entered.done()

    def rank(self, *_):
        raise AssertionError("the sync side was called")

    predict = rank

    async def arank(self, query, documents, top_k=None):
        self.entered.set()
        await self.opened.wait()
        return FakeReranker().rank(query, documents, top_k)


class NoExecutor:
    """In place of an event loop's threads: there are none."""

    def __enter__(self):
        self.loop = asyncio.get_running_loop()
        self.own, self.loop.run_in_executor = self.loop.run_in_executor, self._refuse
        return self

    def __exit__(self, *exc):
        self.loop.run_in_executor = self.own

    @staticmethod
    def _refuse(*_):
        raise AssertionError("the loop's threads were used")
