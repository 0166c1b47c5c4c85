# SPDX-License-Identifier: Apache-2.0
"""The Trainer's loop as siftd takes part in it: what it iterates, and what its events mean for the loader.

The Trainer fetches the batches of a whole optimizer step before it trains the first of them. Each is claimed when it is
handed out, and marked as trained by the optimizer step.
"""

from __future__ import annotations

import pickle
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import TrainerCallback

from siftd._loop.distributed import gather_state
from siftd.errors import StateError

STATE_FILE = "siftd_state.pt"  # beside the Trainer's own in a checkpoint folder
STATE_SCHEMA = 1


def length_of(loader: Any) -> int | None:
    try:
        return len(loader)
    except (TypeError, NotImplementedError):
        return None


class StepsInEpoch(int):
    """The Trainer's number of batches per epoch: an upper bound, equal to the true one once that is known.

    The Trainer compares its count with it to see that a short accumulation group is the epoch's last.
    """

    true: int | None = None

    def __eq__(self, other: object) -> bool:
        return int(self if self.true is None else self.true) == other

    __hash__ = int.__hash__


class TrainLoader:
    """What the Trainer iterates in one train() call: a sifting loader whose epochs are the Trainer's.

    Without a length an epoch is one pass over the data. Not a DataLoader, and without `dataset` or `set_epoch`: siftd
    numbers the passes itself, also over a resume.
    """

    def __init__(self, trainer: Any, plain: Any, make_loader: Callable[[Any], Any]) -> None:
        self._trainer, self.plain, self._make = trainer, plain, make_loader
        self.plain_batches = length_of(plain)
        self._make_loader()
        self.steps: StepsInEpoch | None = None
        self.epoch = -1  # the Trainer's, in progress
        self.finished = 0  # epochs
        self.before = 0  # batches of this epoch that were trained before a resume
        self.ordinal = 0  # of the newest batch in the Trainer's hands
        self._state: dict[str, Any] | None = None
        self._iterator: Iterator[Any] | None = None
        self._ahead: deque[Any] = deque(maxlen=1)  # a batch, or an exception, fetched early
        self._batches = 0  # of this epoch, since it was begun or resumed
        self._newest = -1  # candidate batch of the pass that rows came from
        self.ended = False

    def _make_loader(self) -> None:
        self._made_for = self._trainer.model
        self.loader = self._make(self.plain)
        self.loader.expect_claims()

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[Any]:
        if self._iterator is None and self._trainer.model is not self._made_for:
            self._make_loader()  # the Trainer wrapped the model (FSDP)
            if self._state is not None:
                self.loader.load_state_dict(self._state)
        if self.epoch >= 0:
            self.before = 0
        self.epoch = self.finished
        self._iterator = iter(self.loader)
        self._ahead.clear()
        self._batches, self._newest, self.ended = 0, -1, False
        if self.steps is not None:
            self.steps.true = None
        while True:
            item = self._next()
            if self.ended:
                return
            if isinstance(item, Exception):
                raise item
            info = self.loader.claim()
            self.ordinal = info.ordinal
            self._newest = max([self._newest, *(seq for _, seq, _ in info.keys)])
            self._batches += 1
            yield item

    def _next(self) -> Any:
        """A batch, or the exception that came instead, which may have to wait for its turn; sets `ended`."""
        if self._ahead:
            return self._ahead.popleft()
        assert self._iterator is not None
        try:
            return next(self._iterator)
        except StopIteration:
            self.ended = True
            if self.steps is not None:
                self.steps.true = self._batches
        except Exception as error:
            return error
        return None

    def look_ahead(self) -> bool:
        """Whether the pass is over: only the next fetch can tell. Its batch, unclaimed, is handed out later."""
        if self._iterator is not None and not self.ended and not self._ahead:
            item = self._next()
            if not self.ended:
                self._ahead.append(item)
        return self.ended

    def progress(self, of_trainer: float) -> float:
        """The Trainer's state.epoch, as it stands at the end of an optimizer step."""
        length = length_of(self.loader)
        if length is not None:
            return self.epoch + (self.before + self._batches) / length
        if self.plain_batches is None:
            return of_trainer
        return self.epoch + min(1.0, (self._newest + 1) / self.plain_batches)

    # ------------------------------------------------------------ checkpoints
    def save(self, folder: str, writes: bool) -> None:
        """A collective. `writes`: on this rank, beside the Trainer's files."""
        state = gather_state(self.loader)
        finished = self.finished
        if length_of(self.loader) is None and self.look_ahead():
            state, finished = gather_state(self.loader), self.epoch + 1
        if writes:
            Path(folder).mkdir(parents=True, exist_ok=True)
            torch.save({"schema": STATE_SCHEMA, "finished": finished, "loader": state}, Path(folder) / STATE_FILE)

    def restore(self, folder: str) -> bool:
        """False where the checkpoint holds no state of siftd's."""
        path = Path(folder) / STATE_FILE
        if not path.is_file():
            return False
        saved = read_state(path)
        self._state, self.finished = saved["loader"], saved["finished"]
        self.loader.load_state_dict(self._state)
        return True


def read_state(path: Path) -> dict[str, Any]:
    """What `save` wrote. No code of the file is run."""
    try:
        saved: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise StateError(
            f"{path} can't be read: {str(error).splitlines()[0]}. Resume from an older checkpoint, or remove the file "
            "to begin a whole pass"
        ) from error
    if saved.get("schema") != STATE_SCHEMA:
        raise StateError(f"{path}: schema is {saved.get('schema')!r}; allowed: {STATE_SCHEMA}")
    return saved


class SiftingCallback(TrainerCallback):  # type: ignore[misc]
    """Tells the loader of optimizer steps, and the Trainer of progress. First in line, so that others see both."""

    def __init__(self, sifting: Any) -> None:
        self._sifting = sifting

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run: TrainLoader | None = self._sifting.run
        if run is None:
            return
        run.loader.step(self._sifting.trainer.model, ordinal=run.ordinal)
        state.epoch = run.progress(state.epoch)
        if self._sifting.by_passes and state.epoch >= args.num_train_epochs != int(args.num_train_epochs):
            control.should_training_stop = True
            self._last_actions(args, state, control)

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        run: TrainLoader | None = self._sifting.run
        if run is None or control.should_training_stop:
            return
        if length_of(run.loader) is None:
            if not run.look_ahead():
                run.loader.cancel_pass()  # a callback ended the epoch early
            state.epoch = run.epoch + 1.0
        run.finished = run.epoch + 1
        if self._sifting.by_passes and run.finished >= args.num_train_epochs:
            self._last_actions(args, state, control)

    def _last_actions(self, args: Any, state: Any, control: Any) -> None:
        """What the Trainer does at max_steps, which a sifted run by passes never reaches."""
        if args.save_strategy == "steps" and self._sifting.saved_at != state.global_step:
            control.should_save = True
        late_enough = args.eval_delay <= state.global_step
        if args.eval_strategy == "steps" and late_enough and state.global_step % state.eval_steps != 0:
            control.should_evaluate = True
