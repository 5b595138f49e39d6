"""Inference: the first token apart from the others. Pure functions of the records of eval cells that generate."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmbench.report.cells.part import Part, explain

if TYPE_CHECKING:
    from llmbench.contract.record import Record

FIELDS = ("ttft_ms", "tpot_ms", "generated_tokens_per_s", "kv_cache_mib")


def summarise_inference(good: Sequence[Record], why: str | None) -> Part:
    """Return time to first token, time per output token (ms, of a batch), generated tokens per second and cache (MiB).

    Time to first token is the median prefill: from the batch on the device to its first token. Time per output token
    is all decoding over the tokens after the first, of the longest row; the other rows wait for it. Throughput counts
    the tokens of all rows of the clean pass, over its whole time, prefill and the wait for input included. The cache
    is the memory that generating the mean batch of the clean pass keeps from token to token.
    """
    out: dict[str, float | None] = dict.fromkeys(FIELDS)
    prefill = [s for r in good for s in (r["phases"].get("prefill_s") or ())]
    if prefill:
        out["ttft_ms"] = 1e3 * statistics.median(prefill)
        decode_s = sum(s for r in good for s in r["phases"]["decode_s"])
        tokens = sum(n for r in good for n in r["samples"].get("paired_decode_steps") or ())
        out["tpot_ms"] = 1e3 * decode_s / tokens if tokens else None
        generated = sum(n for r in good for n in r["samples"].get("step_generated_tokens") or ())
        seconds = sum(s for r in good for s in r["samples"].get("step_s") or ())
        out["generated_tokens_per_s"] = generated / seconds if generated and seconds else None
        sizes = [size for r in good if (size := r["memory"].get("kv_cache_mib")) is not None]
        out["kv_cache_mib"] = statistics.fmean(sizes) if sizes else None
    reasons = dict.fromkeys(FIELDS, "no row had a second token" if prefill else why or "not a cell that generates")
    if prefill:
        reasons["kv_cache_mib"] = "the model's plugin does not say what it keeps"
    return explain(out, reasons)
