"""Statistics of step times: the one door to them. Everything is on the log scale, and the unit is the process.

A step time is positive, and what is compared is a ratio. Samples are seconds (any positive unit works). Pure
functions of lists; no clock, no global random state.

- `intervals`: a step time over processes, and the prior that the cells of a run are for each other
- `ratios`: the ratio of two step times, several at once, and whether two runs can be told apart
- `run_changes`: what changed between two runs of the same cells, beyond what all cells share
- `sample_size`: how many samples and processes, from a first stage
- `warmup`: where warm-up ends
- `crossed_effects`: a mean over runs and the examples that each is scored on
- `step_series`: outliers, autocorrelation, and why not to rely on a measurement
"""

from __future__ import annotations

from llmbench.stats.crossed_effects import Crossed, crossed_mean
from llmbench.stats.intervals import Estimate, Prior, enough_cells, fit_prior, pooled_interval
from llmbench.stats.permutation import RunTest, permutation_p, runs_differ
from llmbench.stats.ratios import (
    Bound,
    Paired,
    block_ratios,
    ratio_interval,
    simultaneous,
    simultaneous_paired,
    without_share,
)
from llmbench.stats.run_changes import Change, Changes, find_changes, repeats_to_decide
from llmbench.stats.sample_size import ProcessPlan, Reached, processes_for, samples_for, stein_interval
from llmbench.stats.step_series import (
    Description,
    autocorrelation,
    describe,
    describe_all,
    effective_samples,
    outliers,
    reliability,
)
from llmbench.stats.student_t import t_quantile
from llmbench.stats.warmup import changepoints, is_steady, steady_from

__all__ = [
    "Description",
    "describe",
    "describe_all",
    "Bound",
    "Change",
    "Changes",
    "Crossed",
    "Estimate",
    "Paired",
    "Prior",
    "ProcessPlan",
    "Reached",
    "RunTest",
    "autocorrelation",
    "block_ratios",
    "changepoints",
    "find_changes",
    "crossed_mean",
    "effective_samples",
    "enough_cells",
    "fit_prior",
    "is_steady",
    "outliers",
    "permutation_p",
    "pooled_interval",
    "processes_for",
    "ratio_interval",
    "reliability",
    "repeats_to_decide",
    "runs_differ",
    "samples_for",
    "simultaneous",
    "simultaneous_paired",
    "steady_from",
    "stein_interval",
    "t_quantile",
    "without_share",
]
