"""The functions of the worker that others call, by name: the boundary to it is a string, and this is the list."""

from __future__ import annotations

RUN_JOB = "llmbench.worker.job:run_job"

CAPTURE_ENVIRONMENT = "llmbench.worker.machine.environment:capture"
LIST_DEVICES = "llmbench.worker.machine.environment:devices"

MEASURE_CEILINGS = "llmbench.worker.ceilings.calibrate:measure_ceilings"
RECHECK_CEILINGS = "llmbench.worker.ceilings.calibrate:recheck"

DIAGNOSE_TARGET = "llmbench.worker.diagnosis.diagnose:diagnose_target"
DIAGNOSE_GIVEN = "llmbench.worker.diagnosis.diagnose:diagnose_given"
FIND_PLUGINS = "llmbench.worker.diagnosis.diagnose:find_plugins"
DESCRIBE_CAUSES = "llmbench.worker.diagnosis.diagnose:describe_causes"
TIME_BUDGET = "llmbench.worker.diagnosis.time_budget:TimeBudget"

#: Of the conformance kit.
OPEN_STEP = "llmbench.worker.verification.kit:open_step"
TRAIN_TOKENIZER = "llmbench.worker.data.tokenizer:train"

#: Imported by the fork server, so that its children need not.
PRELOAD_MODULE = "llmbench.worker.preload"
