"""Which rows go into the next batch: queries first, longest first, equal texts once. No MLX, no threads.

Requests wait in two lines. `urgent` ones (queries) go as soon as the device is free. The others are cut in
rounds: a round takes rows from every waiting request in turn, so that a big request never starves a small
one, sorts them by length and is cut into batches whose padded size stays under a budget of tokens. A batch
of queries and a batch of the round alternate while both wait.
"""

import math
from collections import deque
from collections.abc import Callable
from operator import attrgetter

from akidb_mlx.device.shapes import Shapes
from akidb_mlx.engine.query_clock import QueryClock
from akidb_mlx.engine.requests import BatchPlan, Request, Row
from akidb_mlx.engine.speed import SpeedMeter
from akidb_mlx.model.encoding import RowKey

__all__ = ["Scheduler"]

# Rows that one request may add to a round before the next request has its turn.
_TURN = 32
# A round's size in batches: large enough to sort by length, small enough that nobody waits long for the next.
_ROUND_BATCHES = 16
# Tokens under which a batch is not split among lanes: its fixed cost would weigh more.
_LEAST_SHARE = 128
# Padded tokens that are never worth a batch of their own.
_LEAST_PADDING = 64
# Padded tokens that queries may always share: joined they cost less than one after another.
_LEAST_QUERY_BATCH = 1024
# A batch that would be so many times as large by a shape that is planned for has another one planned.
_WORTH_PLANNING = 1.125
# For this many seconds after a query, batches of documents stay short.
_QUERY_MEMORY_S = 1.0

Rows = dict[RowKey, Row]
_LENGTH = attrgetter("length")


class Scheduler:
    """The waiting requests of one model. The caller holds a lock around every method."""

    def __init__(
        self,
        max_batch_tokens: int,
        query_latency_target_s: float,
        max_seq_length: int | None = None,
        shapes: Shapes = Shapes(),  # noqa: B008  # frozen
        lanes: int = 1,
        full_batch_s: float = 0.06,
        first_batch_tokens: int | None = None,
        cost: Callable[[int, int], int] | None = None,
        max_rows: int | None = None,
        by_task: bool = False,
        gathers: bool = False,
    ) -> None:
        """Budgets in padded tokens and seconds; `shapes` are what the device has batches padded to.

        Batches longer than `full_batch_s` gain nothing: a query that comes meanwhile waits for them. Until the
        device's speed is known they have at most `first_batch_tokens`.

        `lanes` batches compute at the same time: what would fill fewer is shared out among them.

        `cost` gives the bytes that a batch of (rows, length) takes; see `room`. A batch has at most `max_rows`,
        and with `by_task` rows of one task.

        `gathers`: a round takes in what comes while it is computed, and gives its fullest batches first. It suits a
        device that is faster than its callers, for which starting many small batches would be most of the work.
        """
        self.max_batch_tokens = max_batch_tokens
        self.query_latency_target_s = query_latency_target_s
        self.speed = SpeedMeter()
        self.room = math.inf
        """Bytes that the next batch may take; one row may be beyond it."""
        self._waiting_tokens = {True: 0, False: 0}
        self._first_batch_tokens = first_batch_tokens or max_batch_tokens
        self._cost = cost
        self._max_rows = max_rows or max_batch_tokens
        self._limit = max_seq_length
        self._shapes = shapes
        self._lanes = lanes
        self._full_batch_s = full_batch_s
        self._urgent: deque[Request] = deque()
        self._bulk: deque[Request] = deque()
        self._queries: Rows = {}
        self._round: list[Row] = []  # sorted by length, longest last
        self.clock = QueryClock()
        """When queries came; the models of a process share one."""
        self._queries_had_their_turn = False
        self._by_task = by_task
        self._gathers = gathers
        self.planned: set[tuple[int, int]] = set()
        """Shapes, rows × length, that the device has planned its kernels for, where it does."""
        self._round_tokens = 0
        """Of all rows that came into the round."""

    def __bool__(self) -> bool:
        """Whether any row waits."""
        return bool(self._urgent or self._queries or self._bulk or self._round)

    def add(self, request: Request) -> None:
        """Let a request wait."""
        (self._urgent if request.urgent else self._bulk).append(request)
        self._waiting_tokens[request.query] += request.waiting_tokens
        if request.urgent and request.waiting_tokens <= self.max_batch_tokens:
            self.clock.note(id(self), request.arrived)

    @property
    def queued_tokens(self) -> int:
        """Tokens of all texts that are not answered yet."""
        return sum(self._waiting_tokens.values())

    def waiting_tokens(self, query: bool) -> int:
        """Tokens of the texts that are not answered yet: of queries, or of all others."""
        return self._waiting_tokens[query]

    def answered(self, request: Request, tokens: int) -> None:
        """Texts of a request have their rows: their tokens no longer count."""
        tokens = min(tokens, request.waiting_tokens)  # none where it was done in between
        self._waiting_tokens[request.query] -= tokens
        request.waiting_tokens -= tokens

    def done(self, request: Request) -> None:
        """A request is answered, failed or cancelled: its tokens no longer count, its rows are skipped."""
        self.answered(request, request.waiting_tokens)

    def forget(self) -> None:
        """In a forked child nothing waits."""
        self._waiting_tokens = {True: 0, False: 0}

    def put_back(self, plan: BatchPlan) -> None:
        """Its rows wait again, before all others."""
        if plan.urgent:
            self._queries |= {row.encoding.key: row for row in plan.rows}
        else:
            self._round = sorted([*self._round, *plan.rows], key=_LENGTH)

    def drain(self) -> list[Request]:
        """Take out every request that still waits for a row."""
        owners = [request for row in [*self._queries.values(), *self._round] for request, _ in row.owners]
        waiting = {id(request): request for request in [*self._urgent, *self._bulk, *owners]}
        self._urgent.clear()
        self._bulk.clear()
        self._queries = {}
        self._round = []
        return list(waiting.values())

    def next_plan(self, now: float, *, reserved: bool = False, least: float = 0.0) -> BatchPlan | None:
        """Cut the next batch; None where nothing waits (or all of it was cancelled).

        With `least` documents wait for more of their length until they fill this share of a batch.

        `reserved`: every other core is busy with documents, so this one is kept for queries. While queries are recent
        it takes only documents that end within the target, or None.
        """
        while self._urgent:
            _collect(self._urgent.popleft(), None, self._queries)
        bulk_waits = bool(self._bulk or self._round) and not reserved
        if self._queries and not (self._queries_had_their_turn and bulk_waits):
            self._queries_had_their_turn = True
            if plan := self._query_plan(now):
                return plan
        self._queries_had_their_turn = False
        return self._document_plan(now, reserved, least) or self._query_plan(now)

    def _document_plan(self, now: float, reserved: bool, least: float) -> BatchPlan | None:
        """The next batch of the round; None where none is to be taken now."""
        beside_queries = self.queries_are_about(now)
        budget = self._budget_within(self.query_latency_target_s if beside_queries else self._full_batch_s)
        while self._bulk or self._round:
            if not self._round or (self._gathers and self._bulk and self._round_tokens < self._full_round):
                self._fill_round()
            elif beside_queries and reserved:
                count = self._shortest_within(budget)
                if not count:
                    return None
                plan, left = self._cut(self._round[:count], budget, urgent=False)
                self._round = left + self._round[count:]
                if plan:
                    return plan
            else:
                end = self._fullest(budget, least * budget) if self._gathers else len(self._round)
                if not end:
                    return None
                behind = self._round[end:]
                plan, left = self._cut(self._round[:end], budget, urgent=False)
                self._round = left + behind
                if plan:
                    return plan
        return None

    def queries_are_about(self, now: float) -> bool:
        """Whether a query came lately, to any model of the process."""
        return now - self.clock.last() < _QUERY_MEMORY_S

    def _query_plan(self, now: float) -> BatchPlan | None:
        """A batch of queries; a long ranking is cut so that another model's queries wait no longer than the target."""
        rows = sorted(filter(_wanted, self._queries.values()), key=_LENGTH)
        plan = None
        beside_others = now - self.clock.last(but=id(self)) < _QUERY_MEMORY_S
        seconds = self.query_latency_target_s if beside_others else self._full_batch_s
        least = _LEAST_SHARE if beside_others else _LEAST_QUERY_BATCH
        budget = min(max(self._budget_within(seconds), least), self.max_batch_tokens)
        while rows and not plan:  # all of a batch may have been cancelled just now
            plan, rows = self._cut(rows, budget, urgent=True)
        self._queries = {row.encoding.key: row for row in rows}
        return plan

    def _budget_within(self, seconds: float) -> int:
        within = self.speed.tokens_within(seconds)
        return min(self._first_batch_tokens if within is None else within, self.max_batch_tokens)

    @property
    def _full_round(self) -> int:
        return _ROUND_BATCHES * self.max_batch_tokens

    def _fill_round(self) -> None:
        """Take rows of all that waits in turn, to those of the round that are left."""
        rows: Rows = {}
        size = self._round_tokens if self._round else 0
        while self._bulk and size < self._full_round:
            request = self._bulk.popleft()
            size += _collect(request, _TURN if self._bulk else 8 * _TURN, rows)
            if not request.future.done() and request.next_index < len(request.encodings):
                self._bulk.append(request)
        self._round_tokens = size
        self._round = sorted([*self._round, *rows.values()], key=_LENGTH)

    def _fullest(self, budget: int, least: float) -> int:
        """Where the round's rows end of which the longest make the fullest batch, or one of `least` tokens.

        0 where none has so many.
        """
        best, most = 0, -1
        end = len(self._round)
        while end:
            length = self._shapes.length(self._round[end - 1].length, self._limit)
            room = max(1, min(budget // length, self._rows_in_room(length), self._max_rows))
            count = self._worth_padding(
                self._round[max(0, end - room) : end], length, min(end, room), self._tokens_to_start()
            )
            if count * length > most:
                best, most = end, count * length
            if most >= budget / 2:
                break
            end -= count
        return best if most >= least else 0

    def _shortest_within(self, budget: int) -> int:
        """How many of the round's shortest rows the budget holds together."""
        for count, row in enumerate(self._round):
            if (count + 1) * self._shapes.length(row.length, self._limit) > budget:
                return count
        return len(self._round)

    def _cut(self, rows: list[Row], budget: int, *, urgent: bool) -> tuple[BatchPlan | None, list[Row]]:
        """Longest rows first, as many as the budget holds at their padded length; None where all were cancelled.

        Where rows have tasks it is that of the longest.
        """
        if self._by_task:
            task = rows[-1].encoding.task
            others = [row for row in rows if row.encoding.task != task]
            if others:
                plan, left = self._cut_one_task([row for row in rows if row.encoding.task == task], budget, urgent)
                return plan, sorted([*others, *left], key=_LENGTH)
        return self._cut_one_task(rows, budget, urgent)

    def _cut_one_task(self, rows: list[Row], budget: int, urgent: bool) -> tuple[BatchPlan | None, list[Row]]:
        length = self._shapes.length(rows[-1].length, self._limit)
        if self._lanes > 1:
            share = -(-sum(map(_LENGTH, rows)) // self._lanes)
            budget = min(budget, max(share, _LEAST_SHARE))
        most = max(1, min(budget // length, self._rows_in_room(length), self._max_rows))
        start = self._tokens_to_start()
        count = self._worth_padding(rows, length, min(len(rows), most), start)
        count, padded = self._shapes.rows(count, length, len(rows), most, start)
        chosen, left = [row for row in rows[-count:] if _wanted(row)], rows[:-count]
        if not chosen:
            return None, left
        if len(chosen) < count:  # others have been cancelled
            padded = self._shapes.rows(len(chosen), length, len(chosen), padded)[1]
        padded, length = self._planned(padded, self._shapes.small(padded, length, self._limit))
        return BatchPlan(chosen, length, urgent, padded), left

    def _planned(self, rows: int, length: int) -> tuple[int, int]:
        """A shape that is planned for and hardly larger, where there is one."""
        most = _WORTH_PLANNING * rows * length
        larger = (
            shape for shape in self.planned if shape[0] >= rows and shape[1] >= length and shape[0] * shape[1] <= most
        )
        return min(larger, key=lambda shape: shape[0] * shape[1], default=(rows, length))

    def _rows_in_room(self, length: int) -> int:
        """Rows of a length that the free memory holds; at least as many, for the first one takes the most."""
        if self._cost is None or self.room == math.inf:
            return self.max_batch_tokens
        return int(max(0.0, self.room) // max(1, self._cost(1, length)))

    def _tokens_to_start(self) -> float:
        """Tokens that take as long as starting a batch does."""
        line = self.speed.line()
        return max(_LEAST_PADDING, max(line[0], self.speed.start_s) / line[1] if line else 0.0)

    def _worth_padding(self, rows: list[Row], length: int, most: int, start: float) -> int:
        """How many of the longest rows to pad to `length`: shorter ones wait where a batch of their own costs less.

        Padding may take an eighth of the batch, or as long as starting another batch does.
        """
        padding = 0
        for count in range(1, most + 1):
            padding += length - rows[-count].length
            if padding > max(start, count * length / 8):
                return max(1, count - 1)
        return most


def _wanted(row: Row) -> bool:
    for request, _ in row.owners:  # noqa: SIM110  # `any` takes four times as long, for each row
        if not request.future.done():
            return True
    return False


def _collect(request: Request, most: int | None, rows: Rows) -> int:
    """Move up to `most` texts of a request into `rows`, equal ones into one row; the tokens added."""
    if request.future.done():
        return 0
    size = 0
    count = len(request.encodings)
    end = count if most is None else min(count, request.next_index + most)
    for index in range(request.next_index, end):
        if request.settled(index):
            continue
        encoding = request.encodings[index]
        key = encoding.key
        if key in rows:
            rows[key].owners.append((request, index))
        else:
            rows[key] = Row(encoding, [(request, index)])
            size += len(encoding)
    request.next_index = end
    return size
