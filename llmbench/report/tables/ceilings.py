"""Tables of a machine's ceilings: the measured values, their intervals, and the vendor's datasheet."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from llmbench.contract.ceilings import MODES, OPERATIONS
from llmbench.report.table import Column, Table

if TYPE_CHECKING:
    from llmbench.contract.record import CeilingEstimate, Ceilings, Row

MIB = 2**20
#: Ceilings that have one value: path in the document -> (name, unit, factor from the document's unit)
OTHERS = {
    "host_to_device.pinned": ("host to device, pinned", "GB/s", 1e-9),
    "host_to_device.pageable": ("host to device, pageable", "GB/s", 1e-9),
    "device_to_host.pinned": ("device to host, pinned", "GB/s", 1e-9),
    "device_to_host.pageable": ("device to host, pageable", "GB/s", 1e-9),
    "launch_latency_s": ("start of an operator", "us", 1e6),
    "round_trip_s": ("start of an operator until it is seen done", "us", 1e6),
    "storage_read_bytes_per_s": ("storage read", "GB/s", 1e-9),
    "allreduce_bytes_per_s": ("all-reduce", "GB/s", 1e-9),
}
TERA = 1e13  # FLOP/s from which tables are in TFLOP/s


def _number(name: str, unit: str = "", digits: int = 1) -> Column:
    return Column(name, unit, "right", digits)


def ceilings_tables(doc: Ceilings) -> list[Table]:
    """Return the tables of one document: the machine, matmuls, memory, and the rest."""
    return [header_table(doc), matmul_table(doc), memory_table(doc), other_table(doc)]


def header_table(doc: Ceilings) -> Table:
    """Return the device, the time of the measurement, and warnings about it."""
    sheet = doc.get("datasheet")
    rows: list[tuple[object, ...]] = [
        ("device", f"{doc['device']} ({doc['name'] or 'no name'})"),
        ("ceilings", doc["ceilings_id"]),
        ("measured", doc["measured_at"]),
        ("threads", doc["threads"]),
        ("datasheet", f"{sheet['name']}: {sheet['source']}" if sheet else f"none: {doc['reasons'].get('datasheet')}"),
    ]
    if doc.get("checked_at"):
        rows.insert(3, ("confirmed", doc["checked_at"]))
    rows += [("warning", warning) for warning in doc["warnings"]]
    return Table("Ceilings", (Column("what"), Column("value")), tuple(rows))


def matmul_table(doc: Ceilings) -> Table:
    """Return the matmul ceilings per mode, dense, next to the datasheet."""
    datasheet = doc.get("datasheet")
    sheet = datasheet["flops_per_s"] if datasheet else {}
    peak = max((e["value"] for e in doc["matmul"].values() if e), default=0.0)
    unit, factor = ("TFLOP/s", 1e-12) if peak >= TERA else ("GFLOP/s", 1e-9)
    columns = (
        *(Column("mode"), Column("precisions"), *(_number(name, unit) for name in ("measured", "low", "high"))),
        *(_number("datasheet, dense", unit), _number("of datasheet", "%"), _number("samples"), Column("how")),
    )
    rows = []
    for mode in MODES:
        names = ", ".join(name for name, of in doc["precisions"].items() if of == mode)
        estimate, printed = doc["matmul"].get(mode), sheet.get(mode)
        share = None if not printed or not estimate else 100 * estimate["value"] / printed
        how = _how(doc, f"matmul.{mode}", estimate)
        shown = None if printed is None else printed * factor
        rows.append((mode, names, *_values(estimate, factor), shown, share, _samples(estimate), how))
    notes = (f"2 m n k FLOP per matmul (int8: operations); {doc['estimator']}",)
    return Table("Matmul", columns, tuple(rows), notes)


def memory_table(doc: Ceilings) -> Table:
    """Return the bandwidth of each memory level and operation."""
    columns = (
        *(Column("level"), _number("capacity", "MiB", 2), _number("working set", "MiB", 2), Column("operation")),
        *(_number(name, "GB/s") for name in ("measured", "low", "high", "datasheet")),
        *(_number("samples"), Column("how")),
    )
    datasheet = doc.get("datasheet")
    printed = datasheet["memory_bytes_per_s"] if datasheet else None
    rows = []
    for level in doc["memory_levels"]:
        by_operation: Row = level
        capacity_bytes = cast("int", level["capacity_bytes"])
        sizes = (capacity_bytes / MIB, level["working_set_bytes"] / MIB)
        vendor = printed * 1e-9 if printed and level is doc["memory_levels"][-1] else None
        for operation in OPERATIONS:
            estimate = cast("CeilingEstimate", by_operation[f"{operation}_bytes_per_s"])
            how = _how(doc, f"{level['level']}.{operation}", estimate)
            row = (level["level"], *sizes, operation, *_values(estimate, 1e-9), vendor, _samples(estimate), how)
            rows.append(row)
    notes: tuple[str, ...] = (
        "bytes as STREAM counts them: read and written by the operation, without the line that a store reads first",
        "triad: a = b + s*c; copy: a = b; read: sum of a; float32; capacity: the caches of all threads together",
    )
    if why := doc["reasons"].get("memory_levels"):
        notes += (why,)
    return Table("Memory bandwidth", columns, tuple(rows), notes)


def other_table(doc: Ceilings) -> Table:
    """Return the ceilings of copies, the start of operators, storage and all-reduce."""
    columns = (
        *(Column("what"), Column("unit"), *(_number(name, digits=2) for name in ("measured", "low", "high"))),
        *(_number("samples"), Column("how")),
    )
    rows = []
    for path, (name, unit, factor) in OTHERS.items():
        outer, _, inner = path.partition(".")
        entry = cast("CeilingEstimate | dict[str, CeilingEstimate] | None", doc.get(outer))
        estimate = cast("CeilingEstimate | None", cast("Row", entry or {}).get(inner) if inner else entry)
        rows.append((name, unit, *_values(estimate, factor), _samples(estimate), _how(doc, path, estimate)))
    return Table("Copies, operators, storage", columns, tuple(rows))


def _values(estimate: CeilingEstimate | None, factor: float) -> tuple[float | None, float | None, float | None]:
    if estimate is None:
        return None, None, None
    low, high = cast("tuple[float | None, float | None]", (estimate["low"], estimate["high"]))
    return estimate["value"] * factor, low and low * factor, high and high * factor


def _samples(estimate: CeilingEstimate | None) -> int | None:
    return None if estimate is None else int(estimate["samples"])


def _how(doc: Ceilings, path: str, estimate: CeilingEstimate | None) -> str:
    """Return how a number was measured, or why there is none."""
    if estimate is None:
        return str(doc["reasons"].get(path) or "not measured")
    parts = []
    if "shape" in estimate:
        parts.append("m n k = " + " ".join(str(edge) for edge in estimate["shape"]))
    if "threads" in estimate:
        parts.append(f"{estimate['threads']} thread{'s' if estimate['threads'] != 1 else ''}")
    if estimate.get("sweep_ended") == "budget":
        parts.append("larger shapes were not tried: no time left")
    if estimate.get("sweep_ended") == "largest":
        parts.append("still growing at the largest shape tried")
    if estimate.get("bytes"):
        parts.append(f"{estimate['bytes'] / MIB:.0f} MiB")
    if estimate.get("note"):
        parts.append(str(estimate["note"]))
    return "; ".join(parts)
