"""Metrics for Prometheus."""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from fre.scoring.calibration import Calibration
from fre.serve.loaded import LoadedModel
from fre.serve.outcomes import Outcome

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
P_VALUES = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 0.8, 1.0)
BATCHES = (1, 2, 4, 8, 16, 32)
RECENT = 1000


def score_bounds(calibration: Calibration) -> list[float]:
    """Return rising bucket bounds for a model's score histogram: each model has its own scale.

    The bounds are quantiles of the calibration scores, the threshold, and steps beyond it: half,
    one, two, four and eight times the distance from the median to the threshold.
    """
    scores, threshold = calibration.scores, calibration.threshold
    quantiles: list[float] = []
    step = abs(threshold)
    if len(scores):
        quantiles = np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95]).tolist()
        step = threshold - float(np.median(scores))
    step = step if step > 0 else 1.0
    beyond = [threshold + factor * step for factor in (0, 0.5, 1, 2, 4, 8)]
    return sorted({float(f"{value:.6g}") for value in (*quantiles, *beyond)})


class _Scores:
    """Score histogram of one model."""

    def __init__(self, bounds: list[float]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0
        self.recent: deque[bool] = deque(maxlen=RECENT)

    def add(self, score: float, anomalous: bool) -> None:
        self.counts[bisect_left(self.bounds, score)] += 1
        self.total += score
        self.recent.append(anomalous)


class Metrics:
    """Counters and histograms of the service.

    Args:
        depths: returns the number of pending images of each model.
        entries: returns the models.
    """

    def __init__(
        self, depths: Callable[[], dict[str, int]], entries: Callable[[], list[LoadedModel]]
    ) -> None:
        from prometheus_client import CollectorRegistry, Counter, Histogram

        self._depths = depths
        self._entries = entries
        self._scores: dict[str, _Scores] = {}
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()

        def counter(name: str, help_text: str, *labels: str) -> Any:
            return Counter(name, help_text, labels, registry=self.registry)

        def histogram(name: str, help_text: str, label: str, buckets: Sequence[float]) -> Any:
            return Histogram(name, help_text, [label], buckets=buckets, registry=self.registry)

        self.requests = counter("fre_http_requests", "Requests.", "method", "route", "status")
        self.request_seconds = histogram(
            "fre_http_request_seconds",
            "Time from the first byte of a request to the last byte of its response.",
            "route",
            SECONDS,
        )
        self.predictions = counter("fre_predictions", "Scored images.", "model", "decision")
        self.unreadable = counter("fre_unreadable_images", "Unreadable images.", "model")
        self.unjudged = counter(
            "fre_unjudged_images",
            "Images without a result, because the model file or fre is at fault.",
            "model",
        )
        self.prediction_seconds = histogram(
            "fre_prediction_seconds",
            "Time from the admission of an image to its result on the disk.",
            "model",
            SECONDS,
        )
        self.batch_images = histogram(
            "fre_batch_images", "Images per run of the network.", "model", BATCHES
        )
        self.p_values = histogram(
            "fre_p_value", "Conformal p-values of scored images.", "model", P_VALUES
        )
        self.registry.register(self)

    def request(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count a request."""
        self.requests.labels(method, route, str(status)).inc()
        self.request_seconds.labels(route).observe(seconds)

    def scored(self, model: str, outcomes: list[Outcome]) -> None:
        """Count images of one batch."""
        self.batch_images.labels(model).observe(len(outcomes))
        with self._lock:
            scores = self._scores.get(model) or self._new_scores(model)
            for outcome in outcomes:
                scores.add(outcome.prediction.score, outcome.prediction.anomalous)
        for outcome in outcomes:
            prediction = outcome.prediction
            decision = "anomalous" if prediction.anomalous else "good"
            if prediction.decision == "review":
                decision = "review"
            self.predictions.labels(model, decision).inc()
            self.prediction_seconds.labels(model).observe(outcome.seconds)
            self.p_values.labels(model).observe(outcome.prediction.p_value)

    def _new_scores(self, model: str) -> _Scores:
        bounds = [0.0]
        for entry in self._entries():
            if entry.name == model:
                bounds = score_bounds(entry.model.calibration)
        self._scores[model] = _Scores(bounds)
        return self._scores[model]

    def text(self) -> bytes:
        """Return all metrics in Prometheus text format."""
        from prometheus_client import generate_latest

        text: bytes = generate_latest(self.registry)
        return text

    def collect(self) -> Iterator[Any]:
        """Yield the metrics that are computed at each request."""
        from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily

        depth = GaugeMetricFamily("fre_queue_depth", "Pending images.", labels=["model"])
        for model, images in sorted(self._depths().items()):
            depth.add_metric([model], images)
        yield depth
        loaded = GaugeMetricFamily("fre_model", "Loaded models.", labels=["model", "sha256"])
        for entry in self._entries():
            loaded.add_metric([entry.name, entry.model.sha256], 1)
        yield loaded
        histogram = HistogramMetricFamily(
            "fre_score", "Scores of images, on the scale of their model.", labels=["model"]
        )
        rate = GaugeMetricFamily(
            "fre_anomalous_rate",
            f"Share of anomalous images among the last {RECENT}.",
            labels=["model"],
        )
        with self._lock:
            for model, scores in sorted(self._scores.items()):
                running, buckets = 0, []
                for bound, count in zip(
                    [*map(repr, scores.bounds), "+Inf"], scores.counts, strict=True
                ):
                    running += count
                    buckets.append((bound, running))
                histogram.add_metric([model], buckets, scores.total)
                rate.add_metric([model], sum(scores.recent) / len(scores.recent))
        yield histogram
        yield rate
