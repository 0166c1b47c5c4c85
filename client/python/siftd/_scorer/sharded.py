# SPDX-License-Identifier: Apache-2.0
"""Models whose parameters are spread over ranks: fully_shard (FSDP2), tensor parallelism and other DTensors."""

from __future__ import annotations

import sys
from typing import cast

import torch
from torch import nn

from siftd.errors import ConfigError

_WRAPPERS = frozenset({"_orig_mod", "_checkpoint_wrapped_module"})  # torch.compile's, activation checkpointing's


def plain_name(name: str) -> str:
    """A parameter's or buffer's name in the module as its author wrote it, which is its name in a full state, too."""
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def is_sharded(model: nn.Module) -> bool:
    """Whether a rank holds only a part of the model. Raises ConfigError for FSDP1."""
    # Who made such a model has imported these.
    fsdp, tensor = sys.modules.get("torch.distributed.fsdp"), sys.modules.get("torch.distributed.tensor")
    if fsdp is not None:
        for module in model.modules():
            if isinstance(module, fsdp.FullyShardedDataParallel):
                raise ConfigError(
                    "model", "FullyShardedDataParallel (FSDP1)",
                    "a plain module, DistributedDataParallel, torch.distributed.fsdp.fully_shard (FSDP2) or DTensors",
                )  # fmt: skip
            if isinstance(module, getattr(fsdp, "FSDPModule", ())):
                return True
    return tensor is not None and any(isinstance(p, tensor.DTensor) for p in model.parameters())


def full_tensors(model: nn.Module, *, frozen: bool, everywhere: bool, wanted: bool) -> dict[str, torch.Tensor]:
    """A sharded model's tensors, whole, by plain name: a collective of all ranks, on the training loop's thread.

    Args:
      frozen: also the parameters that do not require grad. The same on all ranks.
      everywhere: every rank gets all of them, on the model's device; else rank 0 alone, on the CPU. The same on all
        ranks. Memory: a whole copy of what is gathered, there.
      wanted: this rank uses them.
    """
    import torch.distributed as dist
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict
    from torch.distributed.tensor import DTensor

    if wanted and not everywhere and dist.get_rank() != 0:
        raise ConfigError("everywhere", False, f"True where rank {dist.get_rank()} publishes a sharded model")
    options = StateDictOptions(full_state_dict=True, cpu_offload=not everywhere, ignore_frozen_params=not frozen)
    tensors = cast(dict[str, torch.Tensor], get_model_state_dict(model, options=options))
    # A state_dict leaves out the buffers that are not persistent.
    for name, buffer in model.named_buffers():
        whole = buffer.full_tensor() if isinstance(buffer, DTensor) else buffer
        tensors.setdefault(plain_name(name), whole)
    return tensors
