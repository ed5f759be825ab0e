"""Prometheus figures: requests as HTTP sees them, and each engine's own counters read at every scrape."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from akidb_mlx.server.models import Models

__all__ = ["Metrics", "joined"]

_PREFIX = "akidb_mlx_"
_COUNTERS = {
    "requests": "Requests queued; one of many texts is queued in several.",
    "texts": "Texts queued, or pairs of texts.",
    "tokens": "Tokens queued, after truncation.",
    "truncated_texts": "Texts cut at the model's limit.",
    "failed_requests": "Requests that ended with an error.",
    "cancelled_requests": "Requests taken out of the queue, because the client left or the time was up.",
    "refused_requests": "Requests refused because the queue was full.",
    "batches": "Batches computed.",
    "rows": "Rows computed; equal texts that wait together are one.",
    "row_tokens": "Tokens computed.",
    "padded_tokens": "Tokens computed, with padding.",
    "loads": "How often the model's weights were loaded.",
    "unloads": "How often they were freed.",
}
_GAUGES = {
    "loaded": "Whether the model's weights are in memory.",
    "weights_bytes": "What they take; names that share a model say the same.",
    "queued_tokens": "Tokens of the requests that are not answered yet.",
    "max_queued_tokens": "Tokens that may wait before requests are refused.",
}
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class Metrics:
    """A registry of one server's own, so that several live in one process."""

    def __init__(self) -> None:
        """Count from zero."""
        self.registry = CollectorRegistry()
        labels = ("route", "method", "status")
        self._requests = Counter(
            f"{_PREFIX}http_requests", "Answers by route and status.", labels, registry=self.registry
        )
        self._seconds = Histogram(
            f"{_PREFIX}http_request_seconds",
            "Time to answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.in_flight = Gauge(f"{_PREFIX}http_requests_in_flight", "Requests now.", registry=self.registry)
        self._reranks = Counter(
            f"{_PREFIX}rerank_requests", "Requests whose pairs were scored.", ("model",), registry=self.registry
        )
        self._pairs = Counter(f"{_PREFIX}rerank_pairs", "Pairs scored for them.", ("model",), registry=self.registry)
        ProcessCollector(registry=self.registry)

    def watch(self, models: "Models") -> None:
        """Show these models' counters."""
        self.registry.register(_Engines(models))

    def answered(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(route, method, str(status)).inc()
        self._seconds.labels(route).observe(seconds)

    def reranked(self, model: str, pairs: int) -> None:
        """Count a request whose pairs were scored."""
        self._reranks.labels(model).inc()
        self._pairs.labels(model).inc(pairs)

    def text(self) -> bytes:
        """The exposition format."""
        return generate_latest(self.registry)


def joined(texts: Mapping[int, bytes]) -> bytes:
    """The figures of several workers, each with the label `worker`, which says whose it is."""
    families: dict[str, Metric] = {}
    for worker, text in sorted(texts.items()):
        for family in text_string_to_metric_families(text.decode()):
            whole = families.setdefault(family.name, Metric(family.name, family.documentation, family.type))
            for sample in family.samples:
                whole.add_sample(sample.name, {**sample.labels, "worker": str(worker)}, sample.value)
    registry = CollectorRegistry()
    registry.register(_Given(families.values()))
    return generate_latest(registry)


class _Given:
    """Families that are there already."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = families

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        return self._families


class _Engines:
    """Reads the engines' counters; keeps none of its own."""

    def __init__(self, models: "Models") -> None:
        self._models = models

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        models = list(self._models.loaded)
        stats = {model.name: model.model.stats() for model in models}
        for field, help_ in _COUNTERS.items():
            counter = CounterMetricFamily(_PREFIX + field, help_, labels=["model"])
            for name, counted in stats.items():
                counter.add_metric([name], counted[field])
            yield counter
        for field, help_ in _GAUGES.items():
            gauge = GaugeMetricFamily(_PREFIX + field, help_, labels=["model"])
            for name, counted in stats.items():
                gauge.add_metric([name], counted[field])
            yield gauge
        yield _latency(stats)
        alive = all(model.model.healthy for model in models)
        yield GaugeMetricFamily(f"{_PREFIX}worker_alive", "Whether the thread that computes is.", value=int(alive))


def _latency(stats: Mapping[str, Mapping[str, Any]]) -> Metric:
    family = HistogramMetricFamily(
        f"{_PREFIX}engine_seconds", "From a request's arrival in the queue to its rows.", labels=["model", "kind"]
    )
    for name, counted in stats.items():
        for kind in ("query", "document"):
            histogram = counted[f"{kind}_latency"]
            total, buckets = 0, []
            for bound, count in zip((*histogram["bounds_s"], "+Inf"), histogram["counts"], strict=True):
                total += count
                buckets.append((str(bound), total))
            family.add_metric([name, kind], buckets, histogram["sum_s"])
    return family
