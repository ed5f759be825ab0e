"""Which rows go into the next batch: pure logic, no MLX, no threads."""

from concurrent.futures import Future

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from akidb_mlx.device.shapes import Shapes, padded_length
from akidb_mlx.engine.requests import Request
from akidb_mlx.engine.scheduler import Scheduler
from akidb_mlx.engine.speed import SpeedMeter
from akidb_mlx.model.encoding import Encoding

BUDGET = 64


def make_request(lengths, *, urgent=False, prompt_length=0, arrived=0.0, value=None):
    """A request whose texts are of these lengths; all different unless `value` is given."""
    rows = []
    for length in lengths:
        make_request.counter += 1
        rows.append(np.full(length, make_request.counter if value is None else value, np.int32))
    return Request([Encoding(ids, prompt_length) for ids in rows], urgent, arrived)


make_request.counter = 0


def run(scheduler, now=0.0):
    """All jobs until nothing waits."""
    jobs = []
    while scheduler:
        job = scheduler.next_plan(now)
        if job is not None:
            jobs.append(job)
    return jobs


def cancel(scheduler, request):
    """As the engine does."""
    request.future.cancel()
    scheduler.done(request)


def owners(jobs):
    return [(id(request), index) for job in jobs for row in job.rows for request, index in row.owners]


def texts_of(requests):
    return [(id(request), index) for request in requests for index in range(len(request.encodings))]


lengths = st.lists(st.integers(1, 80), min_size=1, max_size=60)
# (lengths, urgent, how many jobs are cut before it arrives, whether it is cancelled then)
arrivals = st.lists(st.tuples(lengths, st.booleans(), st.integers(0, 3), st.booleans()), max_size=8)


@pytest.mark.parametrize("gathers", [False, True])
@given(arrivals=arrivals, data=st.data())
def test_every_text_is_cut_once_and_batches_keep_the_budget(gathers, arrivals, data):
    scheduler = Scheduler(BUDGET, 0.02, gathers=gathers)
    requests, jobs, cancelled = [], [], set()
    for sizes, urgent, steps, cancels in arrivals:
        for _ in range(steps):
            if job := scheduler.next_plan(0.0, least=data.draw(st.sampled_from([0.0, 0.25, 0.75])) if gathers else 0.0):
                jobs.append(job)
        if cancels and requests:
            victim = data.draw(st.sampled_from(requests))
            cancel(scheduler, victim)
            cancelled.add(id(victim))
        requests.append(make_request(sizes, urgent=urgent))
        scheduler.add(requests[-1])
    jobs += run(scheduler)
    cut = owners(jobs)
    assert len(cut) == len(set(cut))
    wanted = {text for text in texts_of(requests) if text[0] not in cancelled}
    assert wanted <= set(cut) <= set(texts_of(requests))
    for job in jobs:
        assert job.length >= max(len(row.encoding.token_ids) for row in job.rows)
        assert job.padded_tokens == len(job.rows) * job.length
        assert job.padded_tokens <= BUDGET or len(job.rows) == 1


def test_nothing_waits_at_first():
    scheduler = Scheduler(BUDGET, 0.02)
    assert not scheduler
    assert scheduler.next_plan(0.0) is None
    assert scheduler.drain() == []


def test_the_longest_rows_of_a_round_come_first():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([3, 50, 9, 20, 1, 33]))
    cut = [[len(row.encoding.token_ids) for row in job.rows] for job in run(scheduler)]
    assert cut == [[50], [33], [3, 9, 20], [1]]  # padded to 52, 36, 20 and 1: the budget is 64


def test_a_text_beyond_the_budget_goes_alone():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([BUDGET * 3, 2, 2]))
    first, *rest = run(scheduler)
    assert len(first.rows) == 1 and first.padded_tokens >= BUDGET * 3
    assert sum(len(job.rows) for job in rest) == 2


def test_lengths_are_padded_to_a_few():
    scheduler = Scheduler(4096, 0.02, shapes=Shapes(8))
    scheduler.add(make_request([100]))
    assert run(scheduler)[0].length == 104


def test_padding_stops_at_the_models_limit():
    scheduler = Scheduler(4096, 0.02, max_seq_length=257, shapes=Shapes(8))
    scheduler.add(make_request([257]))
    assert run(scheduler)[0].length == 257 < padded_length(257)


def test_equal_texts_are_computed_once():
    scheduler = Scheduler(BUDGET, 0.02)
    one, other = make_request([4] * 5, value=7), make_request([4] * 3, value=7)
    scheduler.add(one)
    scheduler.add(other)
    jobs = run(scheduler)
    assert [len(job.rows) for job in jobs] == [1]
    assert sorted(owners(jobs)) == sorted(texts_of([one, other]))


def test_equal_queries_are_computed_once():
    scheduler = Scheduler(BUDGET, 0.02)
    for _ in range(5):
        scheduler.add(make_request([4], urgent=True, value=7))
    jobs = run(scheduler)
    assert [len(job.rows) for job in jobs] == [1]
    assert len(owners(jobs)) == 5


def test_equal_ids_after_prompts_of_other_lengths_are_two_rows():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([4], value=7, prompt_length=2))
    scheduler.add(make_request([4], value=7, prompt_length=0))
    (job,) = run(scheduler)
    assert sorted(row.encoding.prompt_length for row in job.rows) == [0, 2]


def test_a_cancelled_request_costs_nothing():
    scheduler = Scheduler(BUDGET, 0.02)
    kept, gone = make_request([5, 6]), make_request([5, 6])
    for request in (kept, gone):
        scheduler.add(request)
    cancel(scheduler, gone)
    assert sorted(owners(run(scheduler))) == texts_of([kept])


def test_a_request_cancelled_in_the_midst_of_its_round_costs_no_more():
    scheduler = Scheduler(BUDGET, 0.02)
    request = make_request([30] * 10)
    scheduler.add(request)
    assert scheduler.next_plan(0.0) is not None
    cancel(scheduler, request)
    assert scheduler.next_plan(0.0) is None
    assert not scheduler


def test_cancelled_queries_cost_nothing():
    scheduler = Scheduler(BUDGET, 0.02)
    queries = [make_request([60], urgent=True) for _ in range(3)]
    for query in queries:
        scheduler.add(query)
    assert scheduler.next_plan(0.0) is not None
    for query in queries:
        cancel(scheduler, query)
    assert scheduler.next_plan(0.0) is None
    assert not scheduler


def test_a_row_that_one_of_two_still_wants_is_computed():
    scheduler = Scheduler(BUDGET, 0.02)
    gone, kept = make_request([5], value=9), make_request([5], value=9)
    scheduler.add(gone)
    scheduler.add(kept)
    cancel(scheduler, gone)
    (job,) = run(scheduler)
    assert (id(kept), 0) in owners([job])


def test_a_row_of_a_round_that_one_of_two_still_wants_is_computed():
    scheduler = Scheduler(BUDGET, 0.02)
    gone, kept = make_request([40, 5], value=9), make_request([5], value=9)
    scheduler.add(gone)
    scheduler.add(kept)
    assert scheduler.next_plan(0.0).length == 40  # the round is cut, the short row waits
    cancel(scheduler, gone)
    (job,) = run(scheduler)
    assert (id(kept), 0) in owners([job])


def test_a_query_is_in_the_very_next_batch():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([30] * 100))
    for _ in range(5):
        assert not scheduler.next_plan(0.0).urgent
        query = make_request([4], urgent=True)
        scheduler.add(query)
        job = scheduler.next_plan(0.0)
        assert job.urgent and owners([job]) == texts_of([query])


def test_bulk_progresses_under_a_steady_stream_of_queries():
    scheduler = Scheduler(BUDGET, 0.02)
    bulk = make_request([30] * 40)
    scheduler.add(bulk)
    jobs = []
    for _ in range(40):
        scheduler.add(make_request([4] * 3, urgent=True))
        jobs.append(scheduler.next_plan(0.0))
    assert [job.urgent for job in jobs] == [True, False] * 20
    assert set(texts_of([bulk])) <= set(owners(jobs))


def test_more_queries_than_a_batch_holds_alternate_with_bulk():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([30] * 20))
    scheduler.add(make_request([30] * 20, urgent=True))
    kinds = [scheduler.next_plan(0.0).urgent for _ in range(12)]
    assert kinds == [True, False] * 6


def test_without_bulk_queries_follow_on_queries():
    scheduler = Scheduler(BUDGET, 0.02)
    scheduler.add(make_request([60] * 5, urgent=True))
    assert [job.urgent for job in run(scheduler)] == [True] * 5


def test_a_big_request_never_starves_a_small_one():
    scheduler = Scheduler(1024, 0.02)
    scheduler.add(make_request([16] * 10_000))  # 157 batches
    for _ in range(3):
        scheduler.next_plan(0.0)
    small = make_request([16])
    scheduler.add(small)
    jobs = [scheduler.next_plan(0.0) for _ in range(32)]  # the rest of this round, and its own
    assert (id(small), 0) in owners(jobs)


def test_waiting_requests_progress_side_by_side():
    scheduler = Scheduler(BUDGET, 0.02)
    big = [make_request([16] * 1000) for _ in range(4)]
    for request in big:
        scheduler.add(request)
    done = owners([scheduler.next_plan(0.0) for _ in range(100)])
    shares = [sum(owner == id(request) for owner, _ in done) for request in big]
    assert min(shares) > 0.5 * max(shares)


def slow_device(scheduler, overhead=0.002, per_token=0.0001):
    for tokens in (16, 32, 48, 64, 16, 64):
        scheduler.speed.add(tokens, overhead + per_token * tokens)


def test_bulk_batches_end_within_the_target_while_queries_are_about():
    scheduler = Scheduler(100_000, 0.02)
    slow_device(scheduler)
    scheduler.add(make_request([10] * 20_000))
    full = scheduler.next_plan(100.0)
    assert 0.05 < 0.002 + 0.0001 * full.padded_tokens <= 0.06 + 1e-9  # no longer, however much waits
    scheduler.add(make_request([5], urgent=True, arrived=100.0))
    assert scheduler.next_plan(100.0).urgent
    short = scheduler.next_plan(100.1)
    assert 0.5 * 0.02 < 0.002 + 0.0001 * short.padded_tokens <= 0.02 + 1e-9
    assert scheduler.next_plan(105.0).padded_tokens == full.padded_tokens  # the queries have gone


def two_models():
    """Schedulers of one process: an embedder's and a reranker's."""
    embedder, reranker = Scheduler(2_000, 0.02), Scheduler(2_000, 0.02)
    embedder.clock = reranker.clock
    slow_device(embedder)
    slow_device(reranker)
    return embedder, reranker


def test_a_long_ranking_is_cut_short_beside_queries_of_another_model():
    embedder, reranker = two_models()
    reranker.add(make_request([20] * 500, urgent=True, arrived=10.0))
    alone = reranker.next_plan(10.0)
    assert alone.urgent and 0.02 < 0.002 + 0.0001 * alone.padded_tokens <= 0.06 + 0.06  # as a query's own batch
    embedder.add(make_request([5], urgent=True, arrived=10.0))
    short = reranker.next_plan(10.1)
    assert short.urgent and 0.002 + 0.0001 * short.padded_tokens <= 0.02 + 1e-9
    assert reranker.next_plan(12.0).padded_tokens == alone.padded_tokens  # the queries have gone


def test_documents_are_cut_short_beside_queries_of_another_model():
    embedder, reranker = two_models()
    embedder.add(make_request([10] * 20_000))
    full = embedder.next_plan(100.0)
    reranker.add(make_request([5, 6, 7], urgent=True, arrived=100.0))
    assert embedder.next_plan(100.1).padded_tokens < full.padded_tokens / 2


def test_a_long_ranking_is_no_query_to_others():
    """It would keep all documents of the process in short batches."""
    embedder, reranker = two_models()
    reranker.add(make_request([20] * 500, urgent=True, arrived=10.0))
    assert not embedder.queries_are_about(10.1)
    reranker.add(make_request([20], urgent=True, arrived=10.0))
    assert embedder.queries_are_about(10.1)


def test_a_closed_models_queries_are_forgotten():
    embedder, reranker = two_models()
    reranker.add(make_request([20], urgent=True, arrived=10.0))
    reranker.clock.forget(id(reranker))
    assert not embedder.queries_are_about(10.1)


def test_an_overloaded_device_still_gets_bulk_rows():
    scheduler = Scheduler(100_000, 0.001)  # the target is less than a batch's overhead
    slow_device(scheduler, overhead=0.006, per_token=0.00001)
    scheduler.add(make_request([10] * 500))
    scheduler.add(make_request([5], urgent=True, arrived=10.0))
    assert scheduler.next_plan(10.0).urgent
    # At least half of its time is the rows' own: 600 tokens take as long as starting a batch does.
    assert 500 <= scheduler.next_plan(10.1).padded_tokens <= 600


def test_a_stall_is_no_measure_of_the_device():
    scheduler = Scheduler(100_000, 0.02)
    slow_device(scheduler)
    before = scheduler.speed.seconds(64)
    scheduler.speed.add(64, 1000 * before)
    assert scheduler.speed.seconds(64) < 2 * before


def test_queued_tokens_count_from_arrival_to_answer():
    scheduler = Scheduler(BUDGET, 0.02)
    one, other = make_request([5, 6]), make_request([7], urgent=True)
    scheduler.add(one)
    scheduler.add(other)
    assert (one.waiting_tokens, scheduler.queued_tokens) == (11, 18)
    run(scheduler)
    assert scheduler.queued_tokens == 18  # cut, not answered
    scheduler.done(one)
    scheduler.done(one)
    assert scheduler.queued_tokens == 7
    scheduler.done(other)
    assert scheduler.queued_tokens == 0


def test_draining_gives_each_request_that_waits_for_a_row():
    scheduler = Scheduler(BUDGET, 0.02)
    finished = make_request([4], urgent=True)
    scheduler.add(finished)
    scheduler.next_plan(0.0)
    partly = make_request([30] * 8)
    scheduler.add(partly)
    scheduler.next_plan(0.0)
    waiting = [partly, make_request([4], urgent=True), make_request([9, 9])]
    for request in waiting[1:]:
        scheduler.add(request)
    drained = scheduler.drain()
    assert {id(request) for request in drained} == {id(request) for request in waiting}
    assert len(drained) == 3
    assert not scheduler


# ── SpeedMeter ───────────────────────────────────────────────────────────────────────────────────────


def test_nothing_is_known_at_first():
    assert SpeedMeter().line() is None
    assert SpeedMeter().tokens_within(1.0) is None


@given(
    st.floats(0, 0.1),
    st.floats(1e-6, 1e-2),
    st.lists(st.integers(1, 20_000), min_size=2, max_size=30).filter(lambda sizes: max(sizes) > 2 * min(sizes)),
)
def test_a_line_is_found_again(overhead, per_token, sizes):
    meter = SpeedMeter()
    for tokens in sizes:
        meter.add(tokens, overhead + per_token * tokens)
    weights = 0.9 ** np.arange(len(sizes))[::-1]
    mean = np.average(sizes, weights=weights)
    spread = np.average((np.array(sizes) - mean) ** 2, weights=weights)
    if spread < 0.02 * mean**2:  # as good as one size
        return
    found = meter.line()
    assert found == pytest.approx((overhead, per_token), rel=1e-4, abs=1e-6)


def test_one_size_of_batches_counts_wholly_as_the_tokens_cost():
    meter = SpeedMeter()
    for _ in range(5):
        meter.add(100, 0.5)
    assert meter.line() == pytest.approx((0.0, 0.005))
    assert meter.tokens_within(0.1) == pytest.approx(20, abs=1)


def test_tokens_within_by_hand():
    meter = SpeedMeter()
    for tokens in (100, 200, 300):
        meter.add(tokens, 0.010 + 0.0001 * tokens)
    assert meter.seconds(500) == pytest.approx(0.06)
    assert meter.tokens_within(0.0301) == pytest.approx(201, abs=1)
    # less than the overhead: then as much as takes its time again
    assert meter.tokens_within(0.005) == pytest.approx(100, abs=1)


@given(st.lists(st.tuples(st.integers(1, 10_000), st.floats(1e-6, 10)), min_size=1, max_size=20))
def test_whatever_was_measured_the_line_is_usable(batches):
    meter = SpeedMeter()
    for tokens, seconds in batches:
        meter.add(tokens, seconds)
    overhead, slope = meter.line()
    assert overhead >= 0 or overhead == pytest.approx(0, abs=1e-6)
    assert slope > 0
    assert meter.tokens_within(0.02) >= 1


def test_a_device_that_slows_down_is_followed():
    meter = SpeedMeter()
    for tokens in [100, 200] * 20:
        meter.add(tokens, 0.0001 * tokens)
    for tokens in [100, 200] * 20:
        meter.add(tokens, 0.001 * tokens)
    assert meter.line()[1] == pytest.approx(0.001, rel=0.1)


def test_short_rows_are_not_padded_to_a_long_one():
    scheduler = Scheduler(4096, 0.02)
    scheduler.add(make_request([256] + [4] * 63))
    jobs = run(scheduler)
    assert [(len(job.rows), job.length) for job in jobs] == [(1, 256), (63, 4)]


def test_short_rows_are_padded_where_starting_a_batch_costs_more():
    scheduler = Scheduler(4096, 0.02)
    slow_device(scheduler, overhead=0.006, per_token=0.000001)  # as long as 6,000 tokens
    scheduler.add(make_request([256] + [4] * 10))
    assert [len(job.rows) for job in run(scheduler)] == [11]


class CancelledWhileCut(Future):
    """Cancelled after some looks."""

    def __init__(self, looks):
        super().__init__()
        self.looks = looks

    def done(self):
        self.looks -= 1
        return self.looks < 0


def test_a_query_is_not_forgotten_where_others_are_cancelled_while_they_are_cut():
    scheduler = Scheduler(64, 0.02)
    requests = [make_request([length], urgent=True) for length in (60, 50, 9)]
    for request, looks in zip(requests, (2, 3), strict=False):
        request.future = CancelledWhileCut(looks)
    for request in requests:
        scheduler.add(request)
    first = scheduler.next_plan(0.0)
    assert first is not None
    jobs = [first, *run(scheduler)]
    assert any(row.owners[0][0] is requests[2] for job in jobs for row in job.rows)
    assert not scheduler


# ── several lanes ────────────────────────────────────────────────────────────────────────────────────


def test_beside_queries_the_last_core_takes_only_what_is_done_in_time():
    scheduler = Scheduler(1024, 0.02, lanes=2)
    slow_device(scheduler)  # 20 ms: 180 tokens
    scheduler.add(make_request([8], urgent=True))
    bulk = make_request([400, 150, 100, 60, 60, 20, 20])
    scheduler.add(bulk)
    assert scheduler.next_plan(0.0).urgent
    assert [len(row.encoding.token_ids) for row in scheduler.next_plan(0.0).rows] == [400]  # another lane's
    lengths = []
    while job := scheduler.next_plan(0.0, reserved=True):
        assert scheduler.speed.seconds(job.padded_tokens) <= 0.02
        lengths += [len(row.encoding.token_ids) for row in job.rows]
    assert sorted(lengths) == [20, 20, 60, 60, 100, 150]
    scheduler.add(make_request([400]))
    assert scheduler.next_plan(0.5, reserved=True) is None  # kept free for a query
    query = make_request([9], urgent=True, arrived=0.6)
    scheduler.add(query)
    scheduler.add(make_request([9], urgent=True, arrived=0.6))
    assert scheduler.next_plan(0.6, reserved=True).urgent
    assert scheduler.next_plan(0.6, reserved=True) is None
    assert [len(row.encoding.token_ids) for row in scheduler.next_plan(9.0, reserved=True).rows] == [
        400
    ]  # none is about


def test_queries_on_the_last_core_do_not_wait_for_documents_turn():
    scheduler = Scheduler(1024, 0.02, lanes=2)
    slow_device(scheduler)
    scheduler.add(make_request([60] * 9))
    for _ in range(5):
        scheduler.add(make_request([8], urgent=True))
        assert scheduler.next_plan(0.0, reserved=True).urgent


# ── a device of few shapes ───────────────────────────────────────────────────────────────────────────

FEW = Shapes(8, length_multiple=8, full_tokens=2048, small_tokens=64)


def test_full_batches_have_few_numbers_of_rows():
    scheduler = Scheduler(2048, 0.02, shapes=FEW)
    scheduler.add(make_request([100] * 53))
    jobs = run(scheduler)
    assert [(len(job.rows), job.padded_rows, job.length) for job in jobs] == [(16, 16, 104)] * 3 + [
        (4, 4, 104),
        (1, 1, 104),
    ]


def test_what_is_small_has_very_few_shapes():
    scheduler = Scheduler(4096, 0.02, 60, FEW)
    shapes = set()
    for length in range(1, 61):
        for count in range(1, 9):
            scheduler.add(make_request([length] * count, urgent=True))
            jobs = run(scheduler)
            assert sum(len(job.rows) for job in jobs) == count
            for job in jobs:
                assert len(job.rows) <= job.padded_rows
                assert length <= job.length <= 60
                if job.padded_tokens <= 64:
                    shapes.add((job.padded_rows, job.length))
    assert shapes <= {(1, 16), (2, 16), (4, 16), (1, 32), (2, 32), (1, 60)}


def test_rows_cancelled_since_their_round_was_cut_are_not_padded_for():
    scheduler = Scheduler(800, 0.02, shapes=FEW)
    first, second = make_request([50] * 8), make_request([40] * 8)
    scheduler.add(first)
    scheduler.add(second)
    assert scheduler.next_plan(0).length == 56
    for request in (first, second):
        cancel(scheduler, request)
    scheduler.add(make_request([30]))
    assert [(len(job.rows), job.padded_rows) for job in run(scheduler)] == [(1, 1)]


# ── a device whose speed is unknown ──


def simulate(scheduler, lengths, overhead_s, token_s, learn=True):
    """Seconds of each batch on a device that takes `overhead_s + token_s × padded tokens`."""
    scheduler.add(make_request(lengths))
    seconds = []
    while plan := scheduler.next_plan(1e9):
        seconds.append(overhead_s + token_s * plan.padded_tokens)
        if learn:
            scheduler.speed.add(plan.padded_tokens, seconds[-1])
    return np.array(seconds)


@pytest.mark.parametrize("parameters", [2.2e7, 1.75e8, 4.5e8], ids=["MiniLM", "BERT base", "Qwen3-0.6B"])
def test_batches_are_short_from_the_start_on_a_slow_mac(parameters):
    """A base M1 at half of its 2.6 TFLOP/s and 3 ms for starting a batch, texts of 3 to 512 tokens."""
    lengths = np.clip(np.random.default_rng(0).lognormal(4.2, 0.8, 4000), 3, 512).astype(int)
    mac = {"overhead_s": 0.003, "token_s": 2 * parameters / 1.3e12}

    def scheduler(**options):
        return Scheduler(16_384, 0.02, 512, Shapes(16), full_batch_s=0.06, **options)

    learnt = simulate(scheduler(first_batch_tokens=1024), lengths, **mac)
    full = simulate(scheduler(), lengths, **mac, learn=False)
    assert learnt.max() <= 1.0
    assert learnt.sum() < 1.06 * full.sum()
    assert full.max() > 3 * learnt.max()


def test_queries_too_are_short_on_a_slow_device():
    scheduler = Scheduler(16_384, 0.02, first_batch_tokens=1024)
    scheduler.add(make_request([100] * 100, urgent=True))
    assert 900 <= scheduler.next_plan(0.0).padded_tokens <= 1024
    for tokens in (100, 1000):
        scheduler.speed.add(tokens, 0.001 * tokens)
    assert 900 <= scheduler.next_plan(0.0).padded_tokens <= 1024  # joined all the same
    for _ in range(50):
        for tokens in (1000, 2000):
            scheduler.speed.add(tokens, 0.00001 * tokens)
    assert scheduler.next_plan(0.0).padded_tokens > 5000


# ── memory ──


def test_a_batch_takes_no_more_rows_than_the_memory_holds():
    scheduler = Scheduler(1000, 0.02, cost=lambda rows, length: 100 * rows * length + 500)
    scheduler.add(make_request([2] * 50))
    scheduler.room = 100 * 2 * 20 + 500
    rows = len(scheduler.next_plan(0.0).rows)
    assert 1 <= rows <= 20
    scheduler.room = -5.0
    assert len(scheduler.next_plan(0.0).rows) == 1  # whoever starts it finds out that it does not fit
    scheduler.room = 1e9
    assert len(scheduler.next_plan(0.0).rows) == 50 - rows - 1


@pytest.mark.parametrize("urgent", [True, False])
def test_rows_that_are_put_back_come_first_again(urgent):
    scheduler = Scheduler(8, 0.02)
    requests = [make_request([2], urgent=urgent) for _ in range(12)]
    for request in requests:
        scheduler.add(request)
    plan = scheduler.next_plan(0.0)
    scheduler.put_back(plan)
    assert [row.encoding.token_ids.tolist() for row in scheduler.next_plan(0.0).rows] == [
        row.encoding.token_ids.tolist() for row in plan.rows
    ]
    seen = owners([plan, *run(scheduler)])
    assert sorted(seen) == sorted(texts_of(requests))


def test_a_batch_has_no_more_rows_than_the_models_output_allows():
    scheduler = Scheduler(1024, 0.02, max_rows=3)
    scheduler.add(make_request([1] * 8))
    assert [len(plan.rows) for plan in run(scheduler)] == [3, 3, 2]


@given(st.lists(st.tuples(st.integers(1, 40), st.sampled_from("abc") | st.none()), max_size=60), st.booleans())
def test_a_batch_has_rows_of_one_task(texts, urgent):
    """Each row once, equal texts of two tasks as two rows, and none forgotten."""
    scheduler = Scheduler(BUDGET, 0.02, by_task=True)
    requests = [
        Request([Encoding(np.full(length, 7, np.int32), task=task) for length, task in texts[start::3]], urgent, 0.0)
        for start in range(3)
        if texts[start::3]
    ]
    for request in requests:
        scheduler.add(request)
    jobs = run(scheduler)
    assert all(len({row.encoding.task for row in job.rows}) == 1 for job in jobs)
    rows = [row.encoding.key for job in jobs for row in job.rows]
    assert sorted(owners(jobs)) == sorted(texts_of(requests))
    assert len(set(rows)) == len({(length, task) for length, task in texts})


# ── gathering ────────────────────────────────────────────────────────────────────────────────────────


def lengths_of(plan):
    return [len(row.encoding) for row in plan.rows]


def test_a_round_takes_in_what_comes_meanwhile():
    scheduler = Scheduler(4096, 0.02, gathers=True)
    scheduler.add(make_request([512, 512, 16]))
    assert lengths_of(scheduler.next_plan(0.0)) == [512, 512]
    scheduler.add(make_request([16] * 15))
    assert lengths_of(scheduler.next_plan(0.0)) == [16] * 16  # one batch, where rounds apart would give two


def test_documents_wait_until_they_fill_their_share_of_a_batch():
    scheduler = Scheduler(BUDGET, 0.02, gathers=True)
    scheduler.add(make_request([16, 16]))
    assert scheduler.next_plan(0.0, least=0.75) is None
    assert scheduler
    scheduler.add(make_request([16]))
    assert lengths_of(scheduler.next_plan(0.0, least=0.75)) == [16] * 3


def test_the_fullest_batch_comes_first():
    scheduler = Scheduler(4096, 0.02, gathers=True)
    scheduler.add(make_request([512] + [64] * 16))
    assert [lengths_of(plan) for plan in run(scheduler)] == [[64] * 16, [512]]


def test_a_round_ends_though_more_comes():
    """Whoever waits has a row before `_ROUND_BATCHES` full batches of others."""
    scheduler = Scheduler(BUDGET, 0.02, gathers=True)
    alone = make_request([40])
    scheduler.add(alone)
    plans = []
    while not any(request is alone for plan in plans for row in plan.rows for request, _ in row.owners):
        scheduler.add(make_request([8] * 8))
        plans.append(scheduler.next_plan(0.0))
    assert len(plans) <= 17


def test_queries_do_not_wait_to_fill_a_batch():
    scheduler = Scheduler(BUDGET, 0.02, gathers=True)
    scheduler.add(make_request([4], urgent=True))
    assert lengths_of(scheduler.next_plan(0.0, least=0.75)) == [4]


def test_starting_a_batch_counts_as_padding():
    """What takes a GPU's process as long as many tokens take the GPU is worth so much padding."""
    scheduler = Scheduler(4096, 0.02, gathers=True)
    scheduler.speed.add(1000, 0.01)
    scheduler.add(make_request([100] * 10 + [60] * 10))
    assert len(scheduler.next_plan(0.0).rows) < 14  # padding under an eighth
    scheduler.drain()
    scheduler.speed.started(0.005)  # 500 tokens
    scheduler.add(make_request([100] * 10 + [60] * 10))
    assert len(scheduler.next_plan(0.0).rows) == 20


def test_a_planned_shape_that_is_hardly_larger_is_taken_again():
    scheduler = Scheduler(4096, 0.02, shapes=Shapes(16, length_multiple=8, full_tokens=4096), gathers=True)
    scheduler.planned = {(8, 256), (16, 512), (4, 240)}
    scheduler.add(make_request([240] * 8))
    plan = scheduler.next_plan(0.0)
    assert (plan.padded_rows, plan.length, len(plan.rows)) == (8, 256, 8)
    scheduler.add(make_request([200] * 8))
    plan = scheduler.next_plan(0.0)
    assert (plan.padded_rows, plan.length) == (8, 200)  # 256 would be too much
