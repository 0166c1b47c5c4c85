# SPDX-License-Identifier: Apache-2.0
"""One rank of a DDP job on siftd.compat.smart_sifting, for test_compat_dataloader.py; torchrun's environment.

usage: compat_ranks_job.py FOLDER
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from siftd.compat.smart_sifting.dataloader.sift_dataloader import SiftingDataloader
from siftd.compat.smart_sifting.loss.abstract_sift_loss_module import Loss
from siftd.compat.smart_sifting.sift_config.sift_configs import RelativeProbabilisticSiftConfig
from support import Rows, toy_model


class ToyLoss(Loss):
    def loss(self, model: Any, transformed_batch: Any, original_batch: Any = None) -> torch.Tensor:
        return nn.functional.cross_entropy(model(original_batch[0]), original_batch[1], reduction="none")


def main() -> None:
    torch.set_num_threads(1)
    logging.basicConfig(level=logging.INFO)
    model = toy_model(seed=1)
    config = RelativeProbabilisticSiftConfig(1, 100, {"sift_config": {"sift_delay": 0}})  # type: ignore[arg-type]
    loader = SiftingDataloader(config, DataLoader(Rows(401), 16, shuffle=True), ToyLoss(), model)
    dist.init_process_group("gloo")  # after the loader was made
    ddp = DistributedDataParallel(model)
    opt = torch.optim.SGD(ddp.parameters(), 0.01)
    ids, steps = [], []
    for _ in range(2):
        steps.append(0)
        for x, y in loader:
            opt.zero_grad()
            nn.functional.cross_entropy(ddp(x), y).backward()
            opt.step()
            steps[-1] += 1
            info = loader.last_batch_info
            ids += [[int(e), int(i)] for e, i in zip(info.epochs, info.ids, strict=True)]
    end = {"ids": ids, "steps": steps, "len": len(loader), "versions": loader.stats().model_versions}
    (Path(sys.argv[1]) / f"rank-{dist.get_rank()}.json").write_text(json.dumps(end))
    dist.barrier()
    loader.close()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
