"""How KEDA and the Horizontal Pod Autoscaler decide, of one target.

After "Algorithm details", "Stabilization window" and "Default behavior" of
https://kubernetes.io/docs/tasks/run-application/horizontal-pod-autoscale/, and activation and cooldown of
https://keda.sh/docs/latest/concepts/scaling-deployments/.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping

from benchmarks.scaling.options import Target, Trigger

_TOLERANCE = 0.1
_PODS_AT_ONCE = 4  # or as many as there are: the default policy for scaling up
_DOWN_SHARE, _DOWN_SECONDS = 0.5, 60.0  # of the pods, at most, within so long: the chart's policy for scaling down


class Autoscaler:
    """Of one target.

    Args:
        target: Its rules.

    Attributes:
        replicas: Wanted now.
    """

    def __init__(self, target: Target) -> None:
        self._target = target
        self._active = -math.inf
        self._wanted: deque[tuple[float, int]] = deque()
        self._had: deque[tuple[float, int]] = deque()
        self.replicas = target.min_replicas

    def poll(self, now: float, answers: Mapping[str, float | None], ready: int) -> int:
        """Decide.

        Args:
            now: Seconds.
            answers: Of each trigger; none where nobody could tell.
            ready: Replicas that are.

        Returns:
            Replicas wanted from now on.
        """
        known = [(trigger, answers[trigger.name]) for trigger in self._target.triggers]
        if any(answer is not None and answer > trigger.activation for trigger, answer in known):
            self._active = now
        told = all(answer is not None for _, answer in known)
        if self._to_zero(now, told):
            self.replicas = 0
            self._wanted.clear()
        elif self.replicas == 0:
            self.replicas = min(1, self._target.max_replicas) if self._active == now else 0
        else:
            wanted = max(self._proposal(trigger, answer, ready) for trigger, answer in known)
            self.replicas = self._settled(now, wanted if told else max(wanted, self.replicas))
        self._had.append((now, self.replicas))
        return self.replicas

    def _to_zero(self, now: float, told: bool) -> bool:
        quiet = now - self._active >= self._target.cooldown
        return self._target.min_replicas == 0 and self.replicas > 0 and told and quiet

    def _proposal(self, trigger: Trigger, answer: float | None, ready: int) -> int:
        if answer is None:
            return self.replicas
        if trigger.metric_type == "Value":
            ratio, wanted = answer / trigger.threshold, ready * answer / trigger.threshold
        else:
            ratio, wanted = answer / (trigger.threshold * self.replicas), answer / trigger.threshold
        return self.replicas if abs(ratio - 1) <= _TOLERANCE else math.ceil(wanted)

    def _settled(self, now: float, wanted: int) -> int:
        """Up at once, though not by too many; down only where fewer have been enough for a while."""
        target = self._target
        wanted = min(max(wanted, target.min_replicas, 1), target.max_replicas)
        self._wanted.append((now, wanted))
        while self._wanted[0][0] <= now - target.scale_down_after and len(self._wanted) > 1:
            self._wanted.popleft()
        if wanted > self.replicas:
            return min(wanted, self.replicas + max(_PODS_AT_ONCE, self.replicas))
        while len(self._had) > 1 and self._had[1][0] <= now - _DOWN_SECONDS:
            self._had.popleft()
        most_lately = max((had for _, had in self._had), default=self.replicas)
        least = max(int(most_lately * (1 - _DOWN_SHARE)), max(asked for _, asked in self._wanted))
        return min(self.replicas, least)
