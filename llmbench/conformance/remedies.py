"""The contract of a remedy: a pure change of how a cell runs, never of its work; and a forecast."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.cell import STAGES, Cell
from llmbench.contract.errors import DoesNotApply
from llmbench.contract.job import Job, new_record
from llmbench.contract.specs import Forecast

if TYPE_CHECKING:
    from llmbench.contract.record import Record

#: Fields that say what a cell's work is: a remedy that changes one compares two different things.
SAME = (
    "model",
    "size",
    "task",
    "dataset",
    "stage",
    "device",
    "seed",
    "seq_len",
    "target_len",
    "train_examples",
    "test_examples",
    "vocab_size",
    "tokenizer",
    "pretrain_dataset",
    "weights",
    "parent",
    "remedy_of",
    "role",
)
#: Options that most remedies can improve.
_EASY: Mapping[str, Any] = {
    "attention": "eager",
    "optimizer": "adamw-loop",
    "bucketing": False,
    "pin_memory": False,
    "pretokenized": False,
}


def cells(subject: Subject) -> Iterator[Cell]:
    """Yield cells for which there is much, and little, to do."""
    for device in subject.spec.devices:
        for stage in STAGES:
            plain = Cell("made", "tiny", "made", "made@1", stage, device=device, learning_rate=1e-3, steps=400)
            yield plain
            yield dataclasses.replace(plain, **_EASY, checkpointing=True, accumulation=2, kv_cache=stage != "eval")
            yield dataclasses.replace(plain, precision="bf16", compile=True, workers=2, batch_size=64)


def changes(subject: Subject) -> list[tuple[Cell, Cell]]:
    """Return (cell, changed cell) of those that it changes. Raises Failed where it raises anything but DoesNotApply."""
    pairs, reasons = [], []
    for cell in cells(subject):
        try:
            pairs.append((cell, subject.spec.change(cell)))
        except DoesNotApply as reason:
            subject.require(bool(str(reason).strip()), "it does not apply to a cell, and does not say why")
            reasons.append(str(reason))
    if not pairs:
        raise Failed(f"it applies to no cell: {'; '.join(list(dict.fromkeys(reasons))[:2])}")
    return pairs


@check("remedy", says="it answers causes that are known")
def spec(subject: Subject) -> None:
    """Look at the fields."""
    one, require = subject.spec, subject.require
    missing = [name for name in one.answers if name not in subject.registry.names("cause")]
    require(not missing, f"answers: no plugin brings the cause {', '.join(missing)}")
    require(bool(one.answers) or one.general, "it answers no cause and is not general: it would never be tried")


@check("remedy", says="its change is pure: the same cell gives the same change")
def pure(subject: Subject) -> None:
    """Change cells twice, and look whether they are as they were."""
    for cell, changed in changes(subject):
        before = cell.to_json()
        again = subject.spec.change(cell)
        subject.require(
            isinstance(changed, Cell),
            f"change returns a {type(changed).__name__}; return dataclasses.replace(cell, ...)",
        )
        subject.require(cell.to_json() == before, "change changes the cell that it is given; return another one")
        subject.require(again == changed, "change gives another cell the second time")


@check("remedy", says="it changes how a cell runs, and not what it is")
def scope(subject: Subject) -> None:
    """Compare the cells field by field."""
    for cell, changed in changes(subject):
        subject.require(isinstance(changed, Cell), f"change returns a {type(changed).__name__}")
        before, after = vars(cell), vars(changed)
        different = [name for name in before if before[name] != after[name]]
        subject.require(
            bool(different), "change returns the cell as it is; raise DoesNotApply where there is nothing to change"
        )
        forbidden = [name for name in different if name in SAME]
        subject.require(
            not forbidden, f"it changes {', '.join(forbidden)}: what is compared is then no longer the same work"
        )
        if changed.stage != "eval":
            seen, was = changed.batch_size * changed.steps, cell.batch_size * cell.steps
            subject.require(
                seen == was, f"it trains on {seen} examples instead of {was}; divide the steps by what the batch grows"
            )
        if "precision" in different:
            known = subject.registry.names("precision")
            subject.require(changed.precision in known, f"no plugin brings the precision {changed.precision!r}")


@check("remedy", says="it forecasts a gain from a record, without changing it")
def forecasts(subject: Subject) -> None:
    """Predict for measured cells, with ceilings and without."""
    for cell, _ in changes(subject)[:4]:
        record = _record(cell)
        before = copy.deepcopy(record)
        first, again = subject.spec.predict(record, {}), subject.spec.predict(record, {})
        subject.require(isinstance(first, Forecast), f"predict returns a {type(first).__name__}; return a Forecast")
        subject.require(record == before, "predict changes the record that it is given")
        subject.require(first == again, f"predict says {first.gain_x} and then {again.gain_x}")
        gain = first.gain_x
        good = gain is None or (isinstance(gain, int | float) and math.isfinite(gain) and gain > 0)
        subject.require(good, f"it forecasts {gain!r}; a positive ratio, or None where it is not known")


def _record(cell: Cell) -> Record:
    """Return a record as a worker writes it."""
    job = Job.single(cell)
    times = [0.1, 0.11, 0.1, 0.1]
    return new_record(
        job,
        "ok",
        samples={"step_s": times, "step_tokens": [500] * 4, "step_examples": [16] * 4},
        phases={
            "input_s": [0.02] * 4,
            "copy_s": [0.001] * 4,
            "forward_s": [0.03] * 4,
            "backward_s": [0.04] * 4,
            "optimizer_s": [0.01] * 4,
        },
        counts={
            "tokens": 500.0,
            "padding_tokens": 300.0,
            "examples": 16.0,
            "parameters": 1e5,
            "flops": 1e9,
            "labelled_share": 0.3,
        },
        memory={"peak_mib": 300.0, "capacity_mib": 8000.0},
        interventions={},
    )


@check("remedy", says="done once, it is done")
def once(subject: Subject) -> None:
    """Apply it to what it has changed."""
    grown = False
    for _, changed in changes(subject):
        try:
            again = subject.spec.change(changed)
        except DoesNotApply:
            continue
        grown |= again.batch_size != changed.batch_size
        same = [name for name in ("batch_size",) if getattr(again, name) != getattr(changed, name)]
        subject.require(
            bool(same), "it applies again to what it has changed; raise DoesNotApply where a cell has that already"
        )
    if grown:
        raise NotHere("it makes the batch larger each time")
