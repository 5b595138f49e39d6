"""Whether two runs differ at all: a permutation test over cells and processes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from llmbench.stats.intervals import (
    FEWEST_CELLS,
    Processes,
    log_medians,
    log_processes,
)
from llmbench.stats.ratios import DRAWS, EXACT
from llmbench.stats.student_t import t_tail


@dataclass(frozen=True)
class RunTest:
    """Whether two runs of the same cells can be told apart.

    Each `p` is at most x in at most a share x of pairs of equal runs.
    """

    p: float  # of both questions together
    p_common: float  # do the runs differ in what all cells share?
    p_cells: float | None  # do cells differ beyond that? None for fewer than 6 cells
    cells: int  # that were used
    rounds: tuple[int, int]  # of base and head that were used


def permutation_p(a: Processes, b: Processes) -> float:
    """Return the two-sided p value of "one cell, same step time in both runs", permuting process labels.

    The statistic is the difference of mean log medians. All relabellings are counted up to 10,000 of them, else 9,999
    are drawn, the observed one added (Phipson & Smyth 2010). The smallest value possible is 2 / C(2 P, P) for P
    processes a side: 0.1 for three, 0.03 for four. Raises ValueError as `process_interval` does.
    """
    sides = [log_medians(log_processes(side)) for side in (a, b)]
    values, n = np.concatenate(sides), len(sides[0])
    differences = np.abs(_differences(values[None, :] - values.mean(), n)[0])
    extreme = int(np.sum(differences >= differences[0] * (1 - 1e-9)))
    return extreme / len(differences)


def runs_differ(base: Sequence[Processes], head: Sequence[Processes]) -> RunTest:
    """Return whether two runs can be told apart over all their cells; base[c] and head[c] are of the same cell.

    Processes are in the order of rounds. With three a side no single cell reaches 5 % by permutation, so cells must
    be taken together, and how labels may be permuted depends on what is independent:

    - Cells of one round share the machine's state. Permuting each cell on its own would break that up and tell equal
      runs apart too often; permuting whole rounds keeps it, but has only the 20 relabellings of one cell.
    - So the two are split. What cells share is their mean log time per round, each cell in units of its own spread.
      It is one number per round and nearly normal: Student's t with rounds as units, which can reach any level.
    - What is left of a cell after its round's shared part has been taken out is independent between cells, so labels
      are permuted per cell. The statistic is the sum over cells of squared differences; drawn as in `permutation_p`.

    The two p values are joined by Bonferroni. Cells with fewer rounds than the others are left out. Two runs at
    different times can differ without any change of the code: let their rounds take turns, or the test finds that.
    Raises ValueError for runs that do not match, or with fewer than two rounds on a side.
    """
    if len(base) != len(head) or not base:
        raise ValueError("both runs need the same cells")
    medians = [[log_medians(log_processes(cell)) for cell in run] for run in (base, head)]
    rounds = (max(map(len, medians[0])), max(map(len, medians[1])))
    if min(rounds) < 2:
        raise ValueError("fewer than two rounds")
    whole = [np.concatenate(m) for m in zip(*medians, strict=True) if (len(m[0]), len(m[1])) == rounds]
    if not whole:
        raise ValueError("no cell has all rounds in both runs")
    values = np.array(whole)
    values = values - values.mean(axis=1, keepdims=True)
    values = values / np.maximum(values.std(axis=1, keepdims=True), 1e-12)
    shared = values.mean(axis=0)
    p_common = _student_p(shared[: rounds[0]], shared[rounds[0] :])
    if len(values) < FEWEST_CELLS:
        return RunTest(p_common, p_common, None, len(values), rounds)
    p_cells = _cells_p(values - shared, rounds[0])
    return RunTest(min(1.0, 2 * min(p_common, p_cells)), p_common, p_cells, len(values), rounds)


def _student_p(a: np.ndarray, b: np.ndarray) -> float:
    """Return the two-sided p value of Student's t test with a pooled variance (runs are equal, so variances are)."""
    dof = len(a) + len(b) - 2
    variance = (float(a.var()) * len(a) + float(b.var()) * len(b)) / dof
    error = math.sqrt(variance * (1 / len(a) + 1 / len(b)))
    distance = abs(float(a.mean() - b.mean()))
    return t_tail(distance / error, dof) if error > 0 else float(distance == 0)


def _cells_p(values: np.ndarray, n: int) -> float:
    """Return the p value of the cells' own differences: sum of squares around their mean, labels permuted per cell.

    Taking the shared part out has made the observed differences sum to 0 and smaller by (C - 1) / C in square;
    permuted ones are centred and enlarged to match.
    """
    differences = _differences(values, n)
    cells = len(values)
    observed = float(differences[:, 0] @ differences[:, 0])
    picked = np.random.default_rng(0).integers(0, differences.shape[1], size=(DRAWS, cells))
    sums = cells / (cells - 1) * cells * differences[np.arange(cells), picked].var(axis=1)
    return (1 + int(np.sum(sums >= observed * (1 - 1e-9)))) / (1 + DRAWS)


def _differences(values: np.ndarray, n: int) -> np.ndarray:
    """Return, per row, mean of the first group minus mean of the rest over relabellings, the observed one first."""
    total = values.shape[1]
    if math.comb(total, n) <= EXACT:
        groups = np.array(list(itertools.combinations(range(total), n)))
    else:
        rng = np.random.default_rng(0)
        groups = np.argsort(rng.random((1 + DRAWS, total)), axis=1)[:, :n]
        groups[0] = np.arange(n)
    first = values[:, groups].sum(axis=2)
    return first / n - (values.sum(axis=1, keepdims=True) - first) / (total - n)
