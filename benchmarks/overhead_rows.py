"""What `overhead.py` makes of its raw times: a row per setting, and a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

LIMIT = 1.02  # upper end of the interval of ours / bare
ARMS = ("ours", "bare")
DISTURBED_PCT = 3.0  # a process beside which others took more of its own cores' time than this is not counted


def undisturbed(processes: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the processes whose cores did little else."""
    return [one for one in processes if one["others_pct"] <= DISTURBED_PCT]


def summary(label: str, processes: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return ours / bare with its interval, and our printed tokens/s over those seen from outside."""
    from llmbench import stats

    processes, all_of_them = undisturbed(processes), processes
    outside, bare = ([process["step_s"][name] for process in processes] for name in ARMS)
    ours = [[block_s / p["block_steps"] for block_s in p["printed_s"]] for p in processes]
    ratio = stats.ratio_interval(ours, bare, paired=True)
    whole = stats.ratio_interval(outside, bare, paired=True)
    tokens = [sum(process["tokens"]) for process in processes]
    printed_s, outside_s = (sum(sum(process[name]) for process in processes) for name in ("printed_s", "outside_s"))
    return {
        "setting": label,
        "ours_ms": 1e3 * stats.process_interval(ours).value,
        "bare_ms": 1e3 * stats.process_interval(bare).value,
        "ratio": ratio.value,
        "ratio_ci": [ratio.low, ratio.high],
        "ratio_outside": whole.value,
        "ratio_outside_ci": [whole.low, whole.high],
        "method": ratio.method,
        "processes": len(processes),
        "disturbed": len(all_of_them) - len(processes),
        "pairs": sum(map(len, ours)),
        "holds": ratio.high is not None and ratio.high <= LIMIT,
        "printed_tokens_per_s": sum(tokens) / printed_s,
        "outside_tokens_per_s": sum(tokens) / outside_s,
    }


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Return the rows as Markdown."""
    head = "| setting | ours ms | bare ms | ours / bare | 95 % interval | at most 1.02 | whole blocks | 95 % interval |"
    lines = [f"{head} processes x pairs (disturbed) | printed / outside |", "|---|---|---|---|---|---|---|---|---|---|"]
    for row in rows:
        shape = f"{row['processes']} x {row['pairs'] // row['processes']} ({row['disturbed']})"
        share = row["printed_tokens_per_s"] / row["outside_tokens_per_s"]
        lines.append(
            f"| {row['setting']} | {row['ours_ms']:.2f} | {row['bare_ms']:.2f} | {row['ratio']:.4f} "
            f"| {interval(row['ratio_ci'])} | {'yes' if row['holds'] else 'no'} | {row['ratio_outside']:.4f} "
            f"| {interval(row['ratio_outside_ci'])} | {shape} | {share:.4f} |"
        )
    return "\n".join(lines)


def interval(ends: Sequence[float | None]) -> str:
    """Return an interval as text."""
    low, high = ends
    return "-" if low is None or high is None else f"{low:.4f} - {high:.4f}"


def rounded(value: Any) -> Any:
    """Return JSON data with its numbers to 6 digits, a tenth of the clock's noise."""
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return [rounded(part) for part in value] if isinstance(value, list | tuple) else value
