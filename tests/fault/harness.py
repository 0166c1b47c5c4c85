# SPDX-License-Identifier: Apache-2.0
"""A job of real processes: workers, loaders, trainer ranks, and the verdict on what they wrote down."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import checker
from archive import write_archive
from process import SIFTD, Process, program, wait_until
from proxy import Proxy

HEARTBEAT = 0.3  # seconds, of all workers here
LIVENESS = 0.9
SOAK = os.environ.get("SIFTD_FAULT_SOAK") == "1"
SEED = int(os.environ.get("SIFTD_FAULT_SEED", "1"))
STALL = 60.0 if SOAK else 3 * LIVENESS  # seconds that a stalled peer stalls
REPORT = os.environ.get("SIFTD_FAULT_REPORT")  # file for what a row found


def passage(usual: int, most: int) -> int:
    """Which passage of a fault point: in the soak any of 1 to `most`, by its seed."""
    return random.Random(SEED).randint(1, most) if SOAK else usual


class FaultJob:
    """Two loaders, one trainer rank, uniform(0.5), unless told otherwise. One thread makes all calls."""

    def __init__(self, folder: Path, **spec: Any) -> None:
        settings = {"rows": 640, "batch": 16, "epochs": 2, "loaders": 2, "seed": SEED} | spec
        self.floats = int(settings.pop("floats", 4))
        self.weight_floats = int(settings.pop("weight_floats", 64))
        upload = bool(settings.pop("upload", False))  # workers begin without a scorer, and take the publisher's
        self.spec = checker.Job(**settings)
        self.folder = folder
        self._scorer = ["--allow-artifact-upload"]
        if not upload:
            archive = write_archive(folder / "scorer.pt", self.floats, self.weight_floats)
            self._scorer = ["--artifact", str(archive)]
        self.figures: dict[str, float] = {}
        self.lives: dict[str, list[Process]] = {}  # by name, in the order of their starts
        self.proxies: list[Proxy] = []
        self._endpoints: dict[str, str] = {}  # of workers, by name
        self._supervised: threading.Thread | None = None
        self._closing = threading.Event()

    # Workers.

    def worker(
        self,
        name: str,
        *flags: str,
        fault: str | None = None,
        cost_us: int = 3000,
        endpoint: str = "tcp://127.0.0.1:0",
        files: int | None = None,
        real: bool = False,
    ) -> Process:
        """Starts one; returns when it is reachable. `real`: `siftd worker` itself, over LibTorch; writes no events."""
        port_file = self.folder / f"{name}.port"
        port_file.unlink(missing_ok=True)
        usual = ["--endpoint", endpoint, "--port-file", str(port_file), *(() if real else ("--cost-us", str(cost_us)))]
        process = self.start_unreachable(name, *usual, *flags, fault=fault, files=files, real=real)
        wait_until(f"port file of {name}", lambda: port_file.exists() or not process.alive())
        assert port_file.exists(), process.last_words()
        self._endpoints[name] = port_file.read_text().strip()
        return process

    def start_unreachable(
        self, name: str, *flags: str, fault: str | None = None, files: int | None = None, real: bool = False
    ) -> Process:
        """A worker that nobody waits for; `flags` in the place of the usual ones."""
        usual = {
            "--threads": "1",
            "--score-batch-rows": str(self.spec.batch),
            "--heartbeat-ms": f"{1000 * HEARTBEAT:.0f}",
            "--liveness-ms": f"{1000 * LIVENESS:.0f}",
            "--drain-ms": "5000",
            "--parent-pid": str(os.getpid()),
        }
        settings = [a for f, v in usual.items() if f not in flags for a in (f, v)]
        binary = [SIFTD, "worker"] if real else [program("siftd_fault_worker")]
        command = [*binary, *self._scorer, *settings, *flags]
        return self.start(name, command, fault=fault, files=files, writes_events=not real)

    def restart(self, name: str, *flags: str, same_port: bool = True, cost_us: int = 3000) -> Process:
        """A new life of a worker that ended, on its port or on another one."""
        assert not self.current(name).alive()
        endpoint = self._endpoints[name] if same_port else "tcp://127.0.0.1:0"
        return self.worker(name, *flags, endpoint=endpoint, cost_us=cost_us)

    def supervise(self, names: Sequence[str], *flags: str) -> None:
        """From now on a worker that dies is started again on its port, as an operator's service manager would."""

        def run() -> None:
            while not self._closing.wait(0.005):
                for name in names:
                    if not self.current(name).alive() and not self._closing.is_set():
                        self.restart(name, *flags)

        self._supervised = threading.Thread(target=run, name="supervisor", daemon=True)
        self._supervised.start()

    def current(self, name: str) -> Process:
        return self.lives[name][-1]

    def endpoint(self, name: str) -> str:
        return self._endpoints[name]

    def endpoints(self) -> list[str]:
        return list(self._endpoints.values())

    def proxy(self, name: str) -> Proxy:
        """A spoilable way to a worker; "": to nobody yet."""
        made = Proxy(self._endpoints[name] if name else "")
        self.proxies.append(made)
        return made

    # Clients.

    def loader(
        self, index: int = 0, *flags: str, endpoints: Sequence[str] | None = None, name: str | None = None
    ) -> Process:
        spec = self.spec
        return self.start(
            name or f"loader{index}",
            [program("siftd_fault_loader"), *_ways(endpoints or self.endpoints())]
            + ["--index", str(index), "--count", str(spec.loaders)]
            + ["--epochs", str(0 if spec.world > 1 else spec.epochs), "--rows", str(spec.rows)]
            + ["--batch", str(spec.batch), "--floats", str(self.floats), "--seed", str(spec.seed), *flags],
        )

    def loaders(self, endpoints: Sequence[str] | None = None) -> list[Process]:
        return [self.loader(i, endpoints=endpoints) for i in range(self.spec.loaders)]

    def trainer(
        self,
        *flags: str,
        rank: int = 0,
        endpoints: Sequence[str] | None = None,
        fault: str | None = None,
        gated: int = -1,
    ) -> Process:
        """`gated`: the steps that it may make; more by `allow`."""
        spec = self.spec
        if gated >= 0:
            flags += ("--gate", str(self.gate(gated)))
        return self.start(
            f"trainer{rank}",
            [program("siftd_fault_trainer"), *_ways(endpoints or self.endpoints()), "--batch", str(spec.batch)]
            + ["--loaders", str(spec.loaders), "--rank", str(rank), "--world", str(spec.world)]
            + ["--steps-per-epoch", str(spec.steps_per_epoch), "--epochs", str(spec.epochs)]
            + ["--seed", str(spec.seed), "--keep", str(spec.keep), "--step-us", "2000"]
            + ["--weight-floats", str(self.weight_floats), *flags],
            fault=fault,
        )

    def gate(self, steps: int) -> Path:
        """The file that a trainer's --gate reads; it allows this many steps."""
        self.allow(steps)
        return self.folder / "gate"

    def allow(self, steps: int) -> None:
        """A trainer that was started with `gated` makes this many steps, then waits."""
        partial = self.folder / "gate.partial"
        partial.write_text(f"{steps}\n")
        partial.rename(self.folder / "gate")

    def open_gate(self) -> None:
        self.allow(1 << 40)

    # What came of it.

    def logs(self) -> checker.Logs:
        logs = checker.Logs()
        for name, lives in self.lives.items():
            logs.loaders += [p.events.read() for p in lives]  # whoever offers
            if name.startswith("trainer"):
                logs.trainers[int(name.removeprefix("trainer"))] = [p.events.read() for p in lives]
            elif not name.startswith("loader"):
                logs.workers |= {p.name: p.events.read() for p in lives}
        return logs

    def wait_for_loaders(self, worker: str) -> None:
        """Until each loader has a session with credit there."""
        command = [SIFTD, "status", "--json", self.endpoint(worker)]

        def all_there() -> bool:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=30)
            peers = json.loads(answer.stdout)[0]["status"]["peer"] if answer.returncode == 0 else []
            ready = [p for p in peers if p["role"] == "ROLE_LOADER" and int(p["credit_batches"]) > 0]
            return len(ready) == self.spec.loaders

        wait_until(f"the loaders' sessions at {worker}", all_there)

    def finish(self, timeout: float = 60.0) -> checker.Verdict:
        """Waits for the trainer ranks and the loaders to end in order; what was trained must be exact."""
        for kind in ("trainer", "loader"):
            for name, lives in self.lives.items():
                if name.startswith(kind) and lives[-1].alive():
                    lives[-1].wait_end(timeout)
                if name.startswith(kind) and not name.endswith("-first"):
                    assert lives[-1].popen.returncode == 0, lives[-1].last_words()
        return self.verdict()

    def verdict(self, **spec: Any) -> checker.Verdict:
        """Of the logs as they are. `spec` changes what the job was told (finished=False)."""
        job = checker.Job(**(self.spec.__dict__ | spec))
        verdict = checker.check(job, self.logs())
        if REPORT:
            found = {"lost": len(verdict.lost), "repeated": len(verdict.repeated), "trained": verdict.trained}
            Path(REPORT).write_text(json.dumps(found | {"figures": self.figures, "violations": verdict.texts()}))
        assert not verdict.texts(), "\n".join([*verdict.texts(), f"seed {self.spec.seed}, logs in {self.folder}"])
        assert verdict.trained > 0
        return verdict

    def check_resent(self, dead: Process, endpoint: str) -> None:
        """Its batches went to other workers within 3 heartbeats of its end."""
        assert dead.ended is not None
        told = []  # each loader's first word of it
        for name, lives in self.lives.items():
            lost = [e["t"] - dead.ended for p in lives for e in p.events.of("log") if f"{endpoint} lost" in e["text"]]
            if name.startswith("loader") and lost:
                told.append(min(lost))
        assert told, f"no loader noticed that {dead.name} died"
        resent = [
            e["t"] - dead.ended
            for lives in self.lives.values()
            for p in lives
            for e in p.events.of("scoring")
            if p is not dead and e["attempt"] > 0 and e["t"] > dead.ended
        ]
        assert resent, f"no batch of {dead.name} was scored elsewhere"
        self.figures |= {"noticed_s": round(max(told), 3), "resent_s": round(min(resent), 3)}
        assert max(told) <= 3 * HEARTBEAT, f"noticed {max(told):.2f} s after its death"
        assert min(resent) <= 3 * HEARTBEAT, f"sent again {min(resent):.2f} s after its death"

    def start(
        self,
        name: str,
        command: list[str],
        *,
        fault: str | None = None,
        files: int | None = None,
        env: Mapping[str, str] | None = None,
        writes_events: bool = True,
    ) -> Process:
        """A process of this job; "loader...", "trainer..." are those that `finish` waits for."""
        lives = self.lives.setdefault(name, [])
        life = f"{name}.{len(lives)}" if lives else name
        lives.append(
            Process(life, command, self.folder, fault=fault, files=files, env=env, writes_events=writes_events)
        )
        return lives[-1]

    def last_words(self) -> str:
        return "\n\n".join(p.last_words() for lives in self.lives.values() for p in lives)

    def close(self) -> None:
        self._closing.set()
        if self._supervised is not None:
            self._supervised.join(40)
        for lives in self.lives.values():
            for process in lives:
                if process.alive():
                    process.signal(signal.SIGCONT)
                process.close()
        for proxy in self.proxies:
            proxy.close()


def _ways(endpoints: Sequence[str]) -> list[str]:
    return [a for e in endpoints for a in ("--endpoint", e)]
