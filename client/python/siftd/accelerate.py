# SPDX-License-Identifier: Apache-2.0
"""Sifting in loops written with Hugging Face's accelerate.

    loader = siftd.distributed_loader(loader)  # this rank's share: accelerate splits no siftd loader
    loader = siftd.SiftingDataLoader(loader, model=model, loss="cross_entropy", device=accelerator.device, ...)
    model, optimizer, loader = accelerator.prepare(model, optimizer, loader)    # the loader comes back as it is
    accelerator.register_for_checkpointing(siftd.accelerate.Checkpoint(loader))
    for batch in loader:
        with accelerator.accumulate(model):
            ...
            optimizer.step()
        siftd.accelerate.step(accelerator, loader, model)

accelerate does not see the end of a sifted epoch: with gradient_accumulation_steps > 1 an epoch's last, short group is
stepped together with the next epoch's first batches. steps_per_epoch in multiples of the accumulation avoids it.
"""

from __future__ import annotations

from typing import Any

from accelerate import DistributedType
from torch import nn

from siftd._loop.distributed import check_world, gather_state

__all__ = ["Checkpoint", "step"]


class Checkpoint:
    """The loader's state as an object that accelerator.save_state and load_state keep.

    accelerate calls state_dict on every rank and writes one rank's file, so the states of all ranks are gathered: a
    collective. Save when accelerator.sync_gradients: the batch in hand counts as trained. Call load_state before the
    loader is iterated.
    """

    def __init__(self, loader: Any) -> None:
        self.loader = loader

    def state_dict(self) -> dict[str, Any]:
        return gather_state(self.loader)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Raises StateError when the state is another loader's, or of another number of ranks."""
        self.loader.load_state_dict(state)


def step(accelerator: Any, loader: Any, model: nn.Module) -> None:
    """Call on every rank after each micro-batch: tells the loader of each optimizer step, and publishes the weights.

    Raises ConfigError where accelerate left each rank alone, as it does on hosts without accelerators unless cpu=True.
    """
    check_world(accelerator.num_processes, "Accelerator(cpu=True) on hosts without accelerators")
    if accelerator.sync_gradients:
        sharded = accelerator.distributed_type == DistributedType.FSDP  # gathered through its wrapper
        loader.step(model if sharded else accelerator.unwrap_model(model))
