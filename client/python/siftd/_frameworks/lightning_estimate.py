# SPDX-License-Identifier: Apache-2.0
"""trainer.estimated_stepping_batches for data whose length is not known.

Lightning gives -1, and schedules that decay over it begin at a learning rate of 0. An upper bound is lent to the one
trainer by a subclass: max_steps would do too, but it can end an epoch short, and changes how Lightning resumes.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any


def lend_estimate(trainer: Any, batches_at_most: Callable[[], int | None], tell: Callable[[str], None]) -> None:
    """`batches_at_most`: of an epoch; asked after Lightning has set up the data."""
    plain = type(trainer)

    def estimated_stepping_batches(self: Any) -> Any:
        steps = plain.estimated_stepping_batches.__get__(self)
        if steps != -1 or (most := batches_at_most()) is None:
            return steps
        steps = max(1, self.max_epochs) * math.ceil(most / self.accumulate_grad_batches)
        tell(
            f"estimated_stepping_batches is {steps}, an upper bound: fewer rows are kept, and a schedule over it does "
            "not decay to its end. Give steps_per_epoch for an exact number"
        )
        return steps

    members = {
        "__module__": plain.__module__,
        "_siftd_plain": plain,
        "estimated_stepping_batches": property(estimated_stepping_batches),
    }
    trainer.__class__ = type(plain.__name__, (plain,), members)


def take_estimate_back(trainer: Any) -> None:
    plain = vars(type(trainer)).get("_siftd_plain")
    if plain is not None:
        trainer.__class__ = plain
