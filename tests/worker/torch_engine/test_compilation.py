"""What torch.compile did, from Dynamo's own counts, with tiny modules that really are compiled."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile

import pytest
import torch
from support.limits import HANG_S

from llmbench.worker.torch_engine.compilation import CompileWatch, compile_seconds, recompilations, short, why


class Tiny(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)

    def forward(self, x):
        return self.linear(x).relu()


class Breaks(Tiny):
    def forward(self, x):
        x = super().forward(x)
        if x.sum().item() > 1e9:
            x = x + 1
        print(end="")
        return x * 2


@pytest.fixture(autouse=True)
def fresh_dynamo():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def watched(module, rows, backend="eager", **options):
    """Compile `module`, call it with as many rows as `rows` says, and return what was seen."""
    module.compile(backend=backend, **options)
    watch = CompileWatch()
    watch.start()
    for count in rows:
        module(torch.randn(count, 4)).sum().backward()
    found = watch.stop()
    assert json.loads(json.dumps(found)) == found
    return found


def test_one_graph_without_breaks():
    found = watched(Tiny(), [2, 2, 2])
    assert (found["graphs"], found["frames"], found["frames_compiled"], found["recompilations"]) == (1, 1, 1, 0)
    assert found["graph_breaks"] == [] and found["recompile_reasons"] == [] and found["fell_back"] == []
    assert found["dynamo_s"] > 0 and found["compile_s"] is None


def test_another_length_recompiles_once_and_then_is_dynamic():
    found = watched(Tiny(), [2, 3, 4, 5])
    assert (found["graphs"], found["recompilations"]) == (2, 1)
    assert len(found["recompile_reasons"]) == 1 and "size mismatch" in found["recompile_reasons"][0]
    torch._dynamo.reset()
    assert watched(Tiny(), [2, 3, 4], dynamic=True)["recompilations"] == 0


def test_a_length_that_is_fixed_recompiles_each_time():
    assert watched(Tiny(), [2, 3, 4], dynamic=False)["recompilations"] == 2


def test_graph_breaks_have_reason_and_place():
    found = watched(Breaks(), [2, 2])
    assert found["graphs"] == 3
    assert (
        found["recompilations"] == 1
    )  # for another value of item(): torch 2.13 guards the branch, 2.7 and 2.8 the value
    assert "> 1e9" in found["recompile_reasons"][0] or "___stack0 == " in found["recompile_reasons"][0]
    assert "/test_compilation.py" not in found["recompile_reasons"][0]
    item, printed = found["graph_breaks"]
    assert "item" in item["reason"] and item["times"] == 1
    assert "print" in printed["reason"] and printed["times"] == 2  # it stands in the part that was compiled twice
    assert all(entry["where"].startswith("test_compilation.py:") for entry in (item, printed))
    assert "http" not in item["reason"] and "\n" not in item["reason"] + printed["reason"]


def test_only_what_happened_since_the_start_counts():
    watched(Breaks(), [2, 3])
    idle = CompileWatch()
    idle.start()
    nothing = idle.stop()
    torch._dynamo.reset()  # forgets the frames, and not the counts
    again = watched(Tiny(), [2])
    assert (again["graphs"], again["graph_breaks"], again["recompilations"]) == (1, [], 0)
    assert nothing["graphs"] == nothing["frames"] == 0 and nothing["dynamo_s"] == 0.0 and nothing["graph_breaks"] == []


def test_a_frame_that_gave_up_says_so():
    with torch._dynamo.config.patch(recompile_limit=1):
        found = watched(Tiny(), [2, 3, 4], dynamic=False)
    assert any("limit" in reason for reason in found["fell_back"])


def test_nothing_is_imported_for_an_eager_cell():
    code = (
        "import sys\nfrom llmbench.worker.torch_engine.compilation import CompileWatch\nw = CompileWatch()\nw.start()\n"
        "found = w.stop(0.5, 0.1)\nassert 'torch' not in sys.modules\n"
        "assert found['graphs'] == 0 and found['compile_s'] == 0.4, found"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)


@pytest.mark.timed
def test_inductor_caches_and_compiles_both_passes(tmp_path, monkeypatch):
    """A second compilation of the same module finds its graphs in the cache."""
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", tempfile.mkdtemp(dir=tmp_path))  # another one for each try
    torch._dynamo.reset()
    torch.manual_seed(0)
    first = watched(Tiny(), [8, 8], backend="inductor")
    torch._dynamo.reset()
    second = watched(Tiny(), [8, 8], backend="inductor")
    assert first["phase_s"]["inductor_compile"] > 0 and first["phase_s"]["inductor_compile"] <= first["dynamo_s"]
    assert first["cache"]["fx_graph"]["miss"] + first["cache"]["autograd"]["miss"] > 0
    assert second["cache"]["fx_graph"]["hit"] + second["cache"]["autograd"]["hit"] > 0
    assert second["dynamo_s"] < first["dynamo_s"]


def test_wall_time_of_compiling():
    assert compile_seconds(3.0, 0.5) == 2.5 and compile_seconds(0.4, 0.5) == 0.0
    assert compile_seconds(None, 0.5) is None and compile_seconds(3.0, None) is None


def test_a_recompilation_is_a_frame_that_was_compiled_before():
    assert recompilations({}, {0: 1, 1: 3}) == 2
    assert recompilations({0: 1}, {0: 2}) == 1
    assert recompilations({0: 3}, {0: 1}) == 0  # forgotten by a reset in between


def test_reasons_are_short_and_name_no_folder():
    reason = "Heading\n  Explanation: it broke in /home/me/a b/model.py and /x/y.py\n  Hint: none\n"
    assert why(reason).startswith("Heading: it broke in ") and "/home" not in why(reason) and "y.py" in why(reason)
    assert short("1/0: a/2 # mp/cw/c.py:10 in '/a/b.py'") == "1/0: a/2 # c.py:10 in 'b.py'"
    assert "Hint" not in why(reason) and len(short("x" * 1000)) == 300
