"""How every number of a report was obtained, in a line each. Numbers that the report does not show are left out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from llmbench.analysis import attribution
from llmbench.report.table import Column, Table

if TYPE_CHECKING:
    from llmbench.contract.record import CellSummary


def _has(name: str) -> Callable[[CellSummary], bool]:
    return lambda cell: cell.get(name) is not None


#: (number, how it was obtained, whether a cell has it)
METHODS: tuple[tuple[str, str, Callable[[CellSummary], bool]], ...] = (
    (
        "step",
        "clean timed steps with nothing attached, after a warm-up that ends when the step time is steady; the median "
        "of each process, and the geometric mean over processes",
        _has("step_ms"),
    ),
    (
        "±, 95 % interval",
        "between fresh processes of the same cell, on the log scale (Student's t; with few processes, moderated by "
        "what all cells of the run show)",
        _has("step_ms_ci"),
    ),
    ("tokens/s", "tokens without padding over wall time, of all clean steps", _has("tokens_per_s")),
    (
        "input, copy, fwd, bwd, opt",
        "shares of a step, from separate steps with marks between the phases; each is paired with a clean step, and "
        "the residual is the part that the phases do not explain",
        _has("suspect"),
    ),
    ("padding", "positions that hold no token, of all positions of the batches", _has("padding_pct")),
    (
        "peak memory",
        "largest resident memory of the processes; on a device, the memory that its allocator held",
        _has("peak_memory_mib"),
    ),
    (
        "headroom, predicted",
        "from the timed parts of a step, before anything is changed: step time over step time without the cause",
        lambda cell: any(row["predicted_x"] is not None for row in cell["bottlenecks"]),
    ),
    (
        "headroom, measured",
        "the cause is removed and both versions run in turns (A B A B, same batches, random start); the ratio of the "
        "pairs with its 95 % interval, estimated on other pairs than those that chose the verdict",
        lambda cell: any(row["measured_x"] is not None for row in cell["bottlenecks"]),
    ),
    (
        "bound by",
        f"the cause with the largest measured headroom whose simultaneous lower bound is above "
        f"{attribution.THRESHOLD:.2f}x; balanced: there is none; undecided: longer measuring may decide",
        _has("verdict"),
    ),
    (
        "FLOP, bytes",
        "counted operator by operator while one step runs: 2 per multiply-add of matrix products; distinct bytes that "
        "operators read and write",
        _has("flops_per_step"),
    ),
    (
        "of peak, of bandwidth",
        "FLOP and bytes per second over the ceilings that `llmbench calibrate` measured on this machine",
        _has("ceiling_pct"),
    ),
    ("MFU", "the model's FLOP (by analysis) per second over the datasheet's dense peak", _has("mfu_pct")),
    ("energy", "the device's or the processor's own meter, over the clean steps", _has("energy_j_per_step")),
    (
        "quality",
        "the metrics of `evaluate` on the test split, by the process of repeat 0, which also trains",
        _has("quality"),
    ),
    (
        "oracle",
        "a model that knows how the data was made, on the same examples; exact: no model is better on average",
        _has("oracle"),
    ),
    ("best trivial", "the best of the baselines that use no model, on the same examples", _has("baseline")),
)


def method_table(cells: Sequence[CellSummary]) -> Table:
    """Return how each number of the cells was obtained."""
    rows = tuple((name, how) for name, how, shown in METHODS if any(map(shown, cells)))
    notes = ("n/a: not known; `report --format json` says why, in `reasons`",) if rows else ()
    return Table("How the numbers were obtained", (Column("number"), Column("how")), rows, notes)
