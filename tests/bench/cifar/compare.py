# SPDX-License-Identifier: Apache-2.0
"""What the runs say: accuracy by arm, and the time of the unsifted loop to an arm's accuracy over that of the arm."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from measure import quartiles

from cifar.arms import Record


@dataclass
class Reference:
    """The unsifted loop at several budgets, each with a fully decayed learning rate: mean accuracy by steps."""

    steps: list[int]
    accuracy: list[float]

    @classmethod
    def of(cls, records: Sequence[Record]) -> Reference:
        steps = sorted({r.steps for r in records})
        reached, best = [], -math.inf
        for n in steps:
            best = max(best, statistics.fmean(r.accuracy for r in records if r.steps == n))
            reached.append(best)
        return cls(steps, reached)

    def steps_to(self, accuracy: float) -> float:
        """Steps that the unsifted loop needs, linear in accuracy over log steps; the ends where it lies outside."""
        if accuracy <= self.accuracy[0]:
            return self.steps[0]
        for i in range(1, len(self.steps)):
            low, high = self.accuracy[i - 1], self.accuracy[i]
            if low < accuracy <= high:
                part = (accuracy - low) / (high - low)
                return self.steps[i - 1] * math.exp(part * math.log(self.steps[i] / self.steps[i - 1]))
        return self.steps[-1]

    def outside(self, accuracy: float) -> str:
        """Which way a ratio errs because the accuracy lies outside of what was measured."""
        if accuracy < self.accuracy[0]:
            return "at most"
        return "at least" if accuracy > self.accuracy[-1] else ""


Seconds = Callable[[Record], float]


@dataclass
class Ratio:
    value: float
    low: float
    high: float


class Comparison:
    """One arm of one task against the unsifted loop. `runs`: one for each seed. `plain`: the unsifted ones."""

    def __init__(self, runs: Sequence[Record], plain: Sequence[Record]) -> None:
        self.runs = list(runs)
        self.reference = Reference.of(plain)
        self._plain = list(plain)

    def mean(self, of: Seconds) -> float:
        return sum(of(r) for r in self.runs) / len(self.runs)

    @property
    def accuracy(self) -> float:
        return self.mean(lambda r: r.accuracy)

    @property
    def sd(self) -> float:
        return statistics.stdev(r.accuracy for r in self.runs) if len(self.runs) > 1 else math.nan

    @property
    def outside(self) -> str:
        return self.reference.outside(self.accuracy)

    @property
    def g(self) -> float:
        """Samples that the unsifted loop trains to this arm's accuracy, over those that the arm trained."""
        return self.reference.steps_to(self.accuracy) / self.mean(lambda r: r.steps)

    def ratio(self, seconds: Seconds, unsifted: Seconds = lambda r: r.trainer_seconds) -> Ratio:
        """Seconds of the unsifted loop to this arm's accuracy over `seconds` of the arm, of the means; the quartiles
        are those of the seeds."""
        step = {r.seed: self._unsifted_step(unsifted, r.seed) for r in self.runs}
        singles = [self.reference.steps_to(r.accuracy) * step[r.seed] / seconds(r) for r in self.runs]
        all_steps = self.reference.steps_to(self.accuracy) * statistics.fmean(step.values())
        return Ratio(all_steps / self.mean(seconds), *quartiles(singles))

    def _unsifted_step(self, seconds: Seconds, seed: int) -> float:
        """Of that seed, whose runs are near in time; of all where it has none."""
        runs = [r for r in self._plain if r.seed == seed] or self._plain
        return sum(seconds(r) for r in runs) / sum(r.steps for r in runs)

    @property
    def same_trainer(self) -> Ratio:
        return self.ratio(lambda r: r.trainer_seconds)

    @property
    def never_waiting(self) -> Ratio:
        """The same where enough workers score: what either loop waited for batches is left out."""
        return self.ratio(_own, _own)

    @property
    def equal_hardware(self) -> Ratio:
        """The unsifted loop has all cores that the arm has, and scales ideally."""
        return self.ratio(lambda r: r.trainer_seconds * r.cores)

    @property
    def device_seconds(self) -> Ratio:
        """Seconds of computing, the trainer's and the workers' scoring; a worker without work counts nothing."""
        return self.ratio(lambda r: r.device_seconds)

    @property
    def f(self) -> float:
        """Cost of scoring a row over that of training one; NaN where nothing was scored."""
        scored = self.mean(lambda r: r.score_seconds) / self.mean(lambda r: r.candidates)
        inline = self.runs[0].cores == 1
        own = self.mean(lambda r: _own(r) - (r.score_seconds if inline else 0.0))
        return scored / (own / self.mean(lambda r: r.trained)) if scored else math.nan

    @property
    def kept(self) -> float:
        return self.mean(lambda r: r.trained) / self.mean(lambda r: r.candidates)

    def cause(self) -> str:
        """Of a ratio below what was hoped for, in figures."""
        waited = self.mean(lambda r: r.wait_seconds) / self.mean(lambda r: r.trainer_seconds)
        step = self.mean(lambda r: _own(r) / r.steps / self._unsifted_step(_own, r.seed))
        text = f"g {self.g:.2f} (samples saved at equal accuracy), step {step:.2f} of the unsifted one"
        if not math.isnan(self.f):
            text += (
                f", f {self.f:.2f}, kept {self.kept:.0%}: {self.f / self.kept:.1f} workers like this keep up, one is "
            )
            text += f"there: {waited:.0%} of the trainer's time is waiting"
        return text


def _own(r: Record) -> float:
    """Seconds that the loop did not wait for batches."""
    return r.trainer_seconds - r.wait_seconds
