"""Inference: the first token apart from the others. Pure functions of the records of eval cells that generate."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

Record = Mapping[str, Any]

FIELDS = ("ttft_ms", "tpot_ms", "generated_tokens_per_s")


def speeds(good: Sequence[Record], reasons: dict[str, str], why: str | None) -> dict[str, Any]:
    """Return time to first token, time per output token (ms, of a batch) and generated tokens per second.

    Time to first token is the median prefill, from the batch on the device to its first token. Time per output token
    is all decoding over the tokens after the first, of the longest row: the others wait for it. Throughput is what
    all rows of the clean pass generated, over its whole time, prefill and the wait for input included.
    """
    out: dict[str, Any] = dict.fromkeys(FIELDS)
    prefill = [s for r in good for s in (r["phases"].get("prefill_s") or ())]
    if prefill:
        out["ttft_ms"] = 1e3 * statistics.median(prefill)
        decode_s = sum(s for r in good for s in r["phases"]["decode_s"])
        tokens = sum(n for r in good for n in r["samples"].get("paired_decode_steps") or ())
        out["tpot_ms"] = 1e3 * decode_s / tokens if tokens else None
        made = sum(n for r in good for n in r["samples"].get("step_generated_tokens") or ())
        seconds = sum(s for r in good for s in r["samples"].get("step_s") or ())
        out["generated_tokens_per_s"] = made / seconds if made and seconds else None
    unknown = "no row had a second token" if prefill else why or "not a cell that generates"
    reasons |= {name: unknown for name in FIELDS if out[name] is None}
    return out
