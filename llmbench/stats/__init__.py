"""Statistics of step times: the one door to them. Everything is on the log scale, and the unit is the process.

A step time is positive, and what is compared is a ratio. Samples are seconds (any positive unit works). Pure
functions of lists; no clock, no global random state.

- `intervals`: a step time over processes, and the prior that the cells of a run are for each other
- `ratios`: the ratio of two step times, and of several pairs at once
- `permutation`: whether two runs can be told apart
- `run_changes`: what changed between two runs of the same cells, beyond what all cells share
- `sample_size`: how many samples and processes, from a first stage
- `warmup`: the step at which warm-up ends
- `crossed_effects`: a mean over runs and over the examples that each run is scored on
- `step_series`: outliers, autocorrelation, and reasons not to rely on a measurement
"""

from __future__ import annotations

from llmbench.stats.crossed_effects import TwoWayMean, two_way_mean
from llmbench.stats.intervals import Estimate, Prior, enough_cells, fit_prior, process_interval
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
from llmbench.stats.sample_size import ProcessPlan, TwoStageInterval, processes_for, samples_for, stein_interval
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
    "TwoWayMean",
    "Estimate",
    "Paired",
    "Prior",
    "ProcessPlan",
    "TwoStageInterval",
    "RunTest",
    "autocorrelation",
    "block_ratios",
    "changepoints",
    "find_changes",
    "two_way_mean",
    "effective_samples",
    "enough_cells",
    "fit_prior",
    "is_steady",
    "outliers",
    "permutation_p",
    "process_interval",
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
