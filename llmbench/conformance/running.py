"""Running checks from outside: a process for them, a time limit for each, and after a crash another process."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmbench.contract.errors import PluginError, did_you_mean
from llmbench.plugins.discovery import discover
from llmbench.plugins.registry import Registry

PASSED, FAILED, NOT_HERE = STATUSES = ("passed", "failed", "does not apply")
LIMIT_S = 120.0  # for one check
Item = tuple[str, str, str]  # kind, name, check


@dataclass(frozen=True)
class Verdict:
    """The result of one check."""

    kind: str
    plugin: str
    check: str
    status: str  # PASSED, FAILED or NOT_HERE
    reason: str = ""  # why, unless it passed

    def __str__(self) -> str:
        because = f" because {self.reason}" if self.reason else ""
        return f"{self.kind} {self.plugin}: {self.check}: {self.status}{because}"


def targets(registry: Registry, target: str, kind: str | None = None) -> list[tuple[str, str]]:
    """Return (kind, name) of the plugins of `target`: a plugin, a plugin file, or a distribution with all its plugins.

    Raises PluginError where there is none.
    """
    path, base = Path(target), target.partition(":")[0]
    plugins = []
    for of_kind, by_name in registry.by_kind.items():
        for name, provided in sorted(by_name.items()):
            owned = provided.owner.name == target or (
                path.suffix == ".py" and provided.owner.origin == str(path.resolve())
            )
            if (owned or name == base) and kind in (None, of_kind):
                plugins.append((of_kind, name if owned or ":" not in target else target))
    if not plugins:
        known = [name for by_name in registry.by_kind.values() for name in by_name]
        of = f" of kind {kind}" if kind else ""
        raise PluginError(f"no plugin{of} is called {target!r}{did_you_mean(target, known)}")
    return plugins


def check(
    target: str,
    *,
    kind: str | None = None,
    only: Sequence[str] = (),
    files: Sequence[str | Path] = (),
    limit_s: float = LIMIT_S,
    on_verdict: Callable[[Verdict], None] | None = None,
) -> list[Verdict]:
    """Check the plugins of `target` (see `targets`); return a verdict for each check. A `FILE.py` is loaded, too.

    `only` are names of checks, `files` further plugin files, `limit_s` the seconds that one check may take.
    `on_verdict` is called with each verdict. Raises PluginError where there is no such plugin or check.
    """
    from llmbench.conformance.known_checks import names

    own = [target] if target.endswith(".py") else []
    plugin_files = tuple(dict.fromkeys(str(Path(file).resolve()) for file in (*files, *own)))
    registry = discover(plugin_files, Path.cwd())
    verdicts = _explain_missing(registry, target)
    for verdict in verdicts:
        if on_verdict:
            on_verdict(verdict)
    if verdicts:
        return verdicts
    items = [(k, n, c) for k, n in targets(registry, target, kind) for c in names(k) if not only or c in only]
    unknown = [name for name in only if name not in {c for _, _, c in items}]
    if unknown or not items:
        known = {c for k, _ in targets(registry, target, kind) for c in names(k)}
        raise PluginError(f"no check is called {unknown[0]!r}{did_you_mean(unknown[0], known)}")
    for verdict in _verdicts(items, plugin_files, limit_s):
        verdicts.append(verdict)
        if on_verdict:
            on_verdict(verdict)
    return verdicts


def _explain_missing(registry: Registry, target: str) -> list[Verdict]:
    """Return failures where a plugin of `target` does not load, or another one has its name."""
    places = (target, f"entry point {target}", f"module {target}", str(Path(target).resolve()))
    broken = [b for b in registry.failures if b.owner.name == target or b.owner.origin in places]
    failures = [Verdict("plugin", target, "loads", FAILED, b.error) for b in broken]
    for (kind, name), owners in registry.clashes.items():
        if any(owner.origin in places for owner in owners) or (name == target and name not in registry.by_kind[kind]):
            failures.append(Verdict("plugin", target, "names", FAILED, registry.clash_message(kind, name)))
    return failures


def _verdicts(items: Sequence[Item], files: Sequence[str], limit_s: float) -> Iterator[Verdict]:
    """Yield the verdicts in order. After a crash or a hang another process goes on with the next check."""
    left = list(enumerate(items))
    while left:
        done = 0
        for number, status, reason in _process(left, files, limit_s):
            yield Verdict(*items[number], status, reason)
            done += 1
        left = left[done:]


def _process(left: Sequence[tuple[int, Item]], files: Sequence[str], limit_s: float) -> Iterator[tuple[int, str, str]]:
    """Yield (number, status, reason) of the checks that one process runs, at least one."""
    reader, writer = os.pipe()
    asked = json.dumps({"items": left, "files": files, "cwd": str(Path.cwd())})
    command = [sys.executable, "-m", "llmbench.conformance.child", str(writer), asked]
    environment = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", **os.environ}
    with (
        tempfile.TemporaryFile("w+", errors="replace") as log,
        tempfile.TemporaryDirectory(prefix="llmbench-") as folder,
    ):
        process = subprocess.Popen(
            command,
            pass_fds=(writer,),
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            env=environment,
            cwd=folder,
        )
        os.close(writer)
        current = left[0][0]
        try:
            for event in _events(reader, limit_s):
                if event is None:
                    yield current, FAILED, f"it took longer than {limit_s:g} s"
                    return
                current = event.get("begin", current)
                if "end" in event:
                    yield event["end"], event["status"], event["reason"]
                    current = event["end"] + 1
            if current <= left[-1][0]:
                yield current, FAILED, _ending(process.wait(10), log)
        finally:
            os.close(reader)
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _events(reader: int, limit_s: float) -> Iterator[Mapping[str, Any] | None]:
    """Yield the events of a child until it ends; None when nothing has come for `limit_s`."""
    rest = b""
    while True:
        ready, _, _ = select.select([reader], [], [], limit_s)
        if not ready:
            yield None
            return
        data = os.read(reader, 1 << 16)
        if not data:
            return
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            yield json.loads(line)


def _ending(code: int, log: Any) -> str:
    how = f"it ended the process by signal {-code}" if code < 0 else f"it ended the process with exit code {code}"
    log.seek(0)
    lines = [line.strip() for line in log if line.strip()]
    return f"{how}: {lines[-1][:200]}" if lines else how
