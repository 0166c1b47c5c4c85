# SPDX-License-Identifier: Apache-2.0
"""`./dev bench gpu`: the parts whose trainer and workers compute, with their devices."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from devices import Devices
from measure import Options

ABOUT = "step, worker, weights, inline on a CUDA device, with workers on the same one and on the CPU; only when named"
PARTS = ("step", "worker", "weights", "inline")


@dataclass(frozen=True)
class Job:
    """One run of a part. `label`: its name in the table. `skipped`: why it can't run."""

    label: str
    part: str
    options: Options
    skipped: str = ""


def jobs(options: Options, device: str) -> list[Job]:
    """`device`: the trainer's. "cpu" goes the same way through the code, where there is no GPU to measure."""
    if missing := _missing(device):
        return [Job("gpu", "", options, missing)]
    arms = [Devices(device, "cpu")] if device == "cpu" else [Devices(device, device), Devices(device, "cpu")]
    found = [_job(part, replace(options, devices=devices)) for part in PARTS for devices in arms]
    if device == "cpu":
        found.append(Job("gpu", "", options, "trainer and worker on one GPU: --device is cpu"))
    return found


def _job(part: str, options: Options) -> Job:
    devices = options.devices
    if part != "worker":
        return Job(f"gpu: {part}, {devices}", part, options)
    # It has no trainer that computes.
    other = devices.worker == "cpu" != devices.trainer
    why = "a worker on the CPU is what the part measures outside of gpu" if other else ""
    return Job(f"gpu: worker on {devices.worker}", part, options, why)


def _missing(device: str) -> str:
    """What keeps the benchmark from running on this device, and what to do; one line."""
    kind = torch.device(device)
    if kind.type == "cpu":
        return ""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if (kind.index or 0) < count:
        return ""
    return (
        f"torch {torch.__version__} finds {count} CUDA devices here, --device is {device}: run it on a host that has "
        "it, with a python3 whose torch (2.7 or newer) is of CUDA, or without SIFTD_TORCH_INDEX"
    )
