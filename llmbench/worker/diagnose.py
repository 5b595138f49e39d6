"""The proof for a user's own model and loader: measure the step, try every cause, give it back as it was."""

from __future__ import annotations

import contextlib
import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.optim.optimizer import register_optimizer_step_pre_hook

from llmbench.engines import Engine
from llmbench.errors import UserError
from llmbench.plugins import Registry, discover
from llmbench.schema import Budget, Cell, Job, new_record
from llmbench.specs import Batch
from llmbench.worker import padding as paddings
from llmbench.worker.environment import capture
from llmbench.worker.measure import pairs_for, phase_pass, timed_pass
from llmbench.worker.memory import limit_used
from llmbench.worker.monitor import Monitor, warnings
from llmbench.worker.trial import TorchTrial
from llmbench.worker.trials import causes
from llmbench.worker.user import UserBatch, UserEngine, endless, load_target, pool_of, wrapped
from llmbench.worker.verify import verify

POOL, FEWEST_BATCHES, POOL_S = 16, 6, 0.35  # batches, and seconds that a round of them may take
CLEAN_SHARE, PHASE_SHARE = 0.12, 0.06  # of the budget; the rest is for the causes
TRIALS_SHARE = 0.85  # of the time that is left: the fewest pairs of a trial may take longer than its part
Emit = Callable[[dict[str, Any]], None]


def diagnose_target(target: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return `{"record", "environment"}` of the target's step; `options` are those of `diagnose_given`.

    Besides, `started_at` (of `time.time`) says when the command began, whose budget it is.
    """
    options = dict(options)
    since_s = max(0.0, time.time() - options.pop("started_at", time.time()))  # a process takes seconds to begin
    begin = time.perf_counter() - since_s
    given = load_target(target)
    record = diagnose_given(given, **{**options, "name": target, "begin": begin})
    return {"record": record, "environment": capture()}


def diagnose_given(
    given: Mapping[str, Any],
    *,
    name: str = "user",
    budget_s: float = 60.0,
    mode: str = "verdict",
    plugin_files: Sequence[str] = (),
    cwd_plugins: str | None = None,
    seed: int = 0,
    begin: float | None = None,
    emit: Emit = lambda event: None,
) -> dict[str, Any]:
    """Return the record of a user's step with its causes tried, in about `budget_s` seconds since `begin`.

    Model and optimizer are given back with the values that they had.
    """
    begin = time.perf_counter() if begin is None else begin
    registry = discover(plugin_files, Path(cwd_plugins) if cwd_plugins else None)
    precision = str(given.get("precision") or "fp32")
    engine = UserEngine(given, registry.get("precision", precision))
    with as_it_was(engine):
        pool = pool_of(given["data"], POOL)
        work = UserWork()
        trains, found = watched_step(engine, pool[0])
        if engine.optimizer is None:
            engine.optimizer = found  # type: ignore[assignment]
        work.trains = trains
        padding = paddings.find(engine.module, pool)
        cell = described(name, engine, pool[0], precision, seed, given["data"])
        budget = Budget(seconds=budget_s, verify_seconds=budget_s)
        job = Job(cell, 0, 0, 1, budget, "", {}, verify=mode)
        fields = measured(engine, work, wrapped(endless(given["data"]), padding), budget_s)
        trial = user_trial(engine, work, pool[: pool_size(fields)], given["data"])
        left = max(3.0, TRIALS_SHARE * (budget_s - (time.perf_counter() - begin)) - 1.0)
        fields["interventions"], fields["together"] = tried(trial, registry, fields, mode, left, seed, emit)
    return new_record(job, "ok", **fields, wall_s=time.perf_counter() - begin)


def measured(engine: UserEngine, work: UserWork, batches: Iterator[UserBatch], budget_s: float) -> dict[str, Any]:
    """Return the fields of the clean pass and the phase pass."""
    watch = Monitor(engine.device.type)
    clean = timed_pass(
        engine, batches, work.step, seconds=CLEAN_SHARE * budget_s, ci_pct=1.0, watches={"health": watch}
    )
    step_s = statistics.median(clean.samples["step_s"])
    pairs = pairs_for(step_s, PHASE_SHARE * budget_s)
    parts = phase_pass(engine, twice(batches), work, pairs)
    mean = {key: statistics.fmean(clean.samples[f"step_{key}"]) for key in ("tokens", "padding_tokens", "examples")}
    return {
        "samples": {**clean.samples, **parts.samples},
        "phases": parts.phases,
        "counts": {**mean, "parameters": engine.parameters(), "timing": clean.how},
        "memory": {"peak_mib": engine.peak_memory_mib(), "capacity_mib": engine.capacity_mib()},
        "health": clean.seen["health"],
        "warnings": warnings(clean.seen["health"]),
    }


def pool_size(fields: Mapping[str, Any]) -> int:
    """Return how many batches the trials take turns on: all, or fewer where steps are long."""
    step_s = statistics.median(fields["samples"]["step_s"])
    return max(FEWEST_BATCHES, min(POOL, math.ceil(POOL_S / step_s)))


def tried(
    trial: TorchTrial, registry: Registry, fields: Mapping[str, Any], mode: str, seconds: float, seed: int, emit: Emit
) -> tuple[dict[str, Any], dict[str, Any] | None]:
    """Return interventions and their interaction."""
    memory = fields["memory"]
    used = memory["peak_mib"] / memory["capacity_mib"]
    trial.facts["memory_used"] = max(used, limit_used() or 0.0) if trial.device == "cpu" else used
    return verify(trial, fields, causes(registry, trial.device), mode=mode, seconds=seconds, seed=seed, emit=emit)


def twice(batches: Iterator[UserBatch]) -> Iterator[UserBatch]:
    """Yield two batches to warm up on, then every batch. Both halves of a pair get a batch that is waited for."""
    yield from batches


class UserWork:
    """A user's step, whole and in its parts."""

    trains = True
    max_new_tokens = 0

    @property
    def phases(self) -> tuple[str, ...]:
        """Return the phases; of a step of the user's own only the wait for its batch is seen."""
        return ("input_s",) if self.own else ("input_s", "copy_s", "forward_s", "backward_s", "optimizer_s")

    own = False

    def step(self, engine: Engine, batch: Batch) -> None:
        """Take a step."""
        engine.step(batch)  # type: ignore[attr-defined]

    def marks(self, engine: Engine, batches: Iterator[Batch]) -> list[Any]:
        """Take a marked step."""
        user: UserEngine = engine  # type: ignore[assignment]
        self.own = user.own_step is not None
        marks = [user.mark()]
        batch = next(batches)
        marks.append(user.mark())
        if self.own:
            user.step(batch)
            return [*marks, user.mark()]
        arrays = user.copy(batch)
        marks.append(user.mark())
        loss = user.forward(arrays)
        marks.append(user.mark())
        user.backward(loss)
        marks.append(user.mark())
        user.update()
        return [*marks, user.mark()]

    def split(self, seconds: list[float]) -> list[float]:
        """Return the seconds of each phase."""
        return seconds[: len(self.phases)]

    def note(self, shapes: Any, result: Any) -> None:
        """Keep nothing."""

    def samples(self) -> dict[str, list[float]]:
        """Return nothing."""
        return {}

    def kept(self) -> dict[str, float | None]:
        """Return nothing."""
        return {}

    def counts(self, trace: Mapping[str, Any]) -> dict[str, Any]:
        """Return nothing."""
        return {}


def user_trial(engine: UserEngine, work: UserWork, pool: list[Any], data: Any) -> TorchTrial:
    """Return the trial of the user's step."""
    compiled = getattr(engine.module, "_compiled_call_impl", None) is not None or hasattr(engine.module, "_orig_mod")
    return TorchTrial(
        module=engine.module,
        optimizer=engine.optimizer,
        device=engine.device.type,
        trains=work.trains,
        generates=False,
        pool=pool,
        take_step=engine.step,
        make_fresh=lambda: endless(data),
        mark=engine.mark,
        between=engine.seconds_between,
        compiled=compiled,
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


def watched_step(engine: UserEngine, batch: Any) -> tuple[bool, Any]:
    """Take a step; return whether it has a backward pass, and the torch optimizer that it steps, if one."""
    seen: list[Any] = []
    backward: list[bool] = []
    before = torch.autograd.backward
    hook = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer))

    def noted(*args: Any, **kwargs: Any) -> None:
        backward.append(True)
        before(*args, **kwargs)

    torch.autograd.backward = noted
    try:
        engine.step(batch)
    except UserError:
        raise
    except Exception as error:
        line = " ".join(str(error).split())[:300]
        raise UserError(f"the first step failed: {type(error).__name__}: {line}") from error
    finally:
        torch.autograd.backward = before
        hook.remove()
    return bool(backward or seen), seen[0] if seen else None


def described(name: str, engine: UserEngine, batch: Any, precision: str, seed: int, data: Any) -> Cell:
    """Return a cell that says what was diagnosed."""
    shapes = [t.shape for t in batch_tensors(batch) if t.dim() == 2]
    rows, length = max(shapes, key=lambda s: s[1]) if shapes else (len(next(iter(batch_tensors(batch)))), 1)
    return Cell(
        model=type(engine.module).__name__,
        size="own",
        task="own",
        dataset=name,
        stage="finetune",
        device=str(engine.device),
        precision=precision,
        batch_size=int(rows),
        seq_len=int(length),
        steps=0,
        seed=seed,
        optimizer=type(engine.optimizer).__name__.lower() if engine.optimizer is not None else "none",
        workers=int(getattr(data, "num_workers", 0) or 0),
    )


def batch_tensors(batch: Any) -> list[torch.Tensor]:
    """Return the tensors of a batch that have rows."""
    from llmbench.worker.batches import tensors

    return [t for t in tensors(batch).values() if t.dim()]


@contextlib.contextmanager
def as_it_was(engine: UserEngine) -> Iterator[None]:
    """Put back the values of model and optimizer, gradients, and torch's random state."""
    random_state = torch.get_rng_state()
    training = engine.module.training
    values = {name: t.detach().clone() for name, t in engine.module.state_dict().items()}
    state = copy.deepcopy(engine.optimizer.state_dict()) if hasattr(engine.optimizer, "state_dict") else None
    try:
        yield
    finally:
        engine.module.load_state_dict(values)
        engine.module.train(training)
        engine.module.zero_grad(set_to_none=True)
        if state is not None:
            engine.optimizer.load_state_dict(state)
        torch.set_rng_state(random_state)


__all__ = ["diagnose_given", "diagnose_target"]
