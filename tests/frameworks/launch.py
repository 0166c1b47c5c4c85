# SPDX-License-Identifier: Apache-2.0
"""Scripts of these tests as processes of their own, alone or as ranks under torchrun."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from support import ROOT

HERE = Path(__file__).parent
PATHS = [ROOT / "client" / "python", ROOT / "tests" / "python", HERE]


def launch(script: str, out: Path, ranks: int = 1, dies: bool = False, **settings: Any) -> list[dict[str, Any]]:
    """Runs `script` with its settings as JSON; what each rank wrote to `out`.RANK. `dies`: it must end by itself."""
    command = [sys.executable]
    if ranks > 1:
        command += ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    done = subprocess.run(
        [*command, str(HERE / script), json.dumps({"out": str(out), **settings})],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, PATHS)), "OMP_NUM_THREADS": "1"},
        capture_output=True, text=True, timeout=150,
    )  # fmt: skip
    assert (done.returncode != 0) == dies, done.stderr[-6000:]
    return [json.loads(Path(f"{out}.{rank}").read_text()) for rank in range(ranks)]
