"""What this process has at the moment, as figures: its view of the index, and its networks."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from worker import measures
from worker.index.follower import Follower
from worker.serving import Serving


class ViewFigures(Collector):
    """Of what this process answers lookups from."""

    def __init__(self, follower: Follower, recall_target: float) -> None:
        self._follower = follower
        self._recall_target = recall_target

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        view = self._follower.view
        yield GaugeMetricFamily(
            "lookalike_view_generation",
            "The generation that this process answers from; 0: none.",
            value=view.number or 0,
        )
        yield GaugeMetricFamily(
            "lookalike_view_revision",
            "The revision of the catalogue that this process has come to.",
            value=view.revision,
        )
        yield GaugeMetricFamily(
            "lookalike_view_pending_changes",
            "Pictures in this process's overlay: they are searched one by one.",
            value=view.pending,
        )
        yield GaugeMetricFamily(
            "lookalike_recall_target_ratio",
            "LOOKALIKE_RECALL_TARGET: what the index is tuned to.",
            value=self._recall_target,
        )
        drift = GaugeMetricFamily(
            "lookalike_nearest_distance_drift_ratio",
            "Mean distance of the nearest match in the last 200 lookups without conditions, over what it was when "
            "the generation became current: 1 is no drift.",
        )
        if (ratio := measures.DRIFT.ratio) is not None:
            drift.add_metric((), ratio)
        yield drift

    def describe(self) -> Iterator[Metric]:
        """Nothing: to register it must look at nothing."""
        return iter(())


class NetworkFigures(Collector):
    """Of the networks that this process has."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        """The figures of now."""
        loaded = GaugeMetricFamily(
            "lookalike_network_loaded",
            "1 for each model whose network this process has.",
            labels=("name", "digest"),
        )
        for model in self._serving.loaded:
            loaded.add_metric((model.name, model.digest[:12]), 1.0)
        yield loaded
        yield GaugeMetricFamily(
            "lookalike_network_busy_seconds",
            "How long a network has been at its batch; 0 when it waits for one.",
            value=self._serving.busy_for,
        )

    def describe(self) -> Iterator[Metric]:
        """Nothing, as above."""
        return iter(())
