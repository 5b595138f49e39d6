"""What is captured of a machine: the same twice, quick, and nothing that says whose it is."""

from __future__ import annotations

import getpass
import json
import os
import platform
import re
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest
from support.limits import HANG_S

from llmbench.analysis.machine_differences import different_facts
from llmbench.contract.cell import content_id
from llmbench.records.read import Run
from llmbench.report.tables.overview import HEADER_FACTS, header_table
from llmbench.worker.machine import environment, hardware, nvml, software

CAPTURE = "import json; from llmbench.worker.machine.environment import capture; print(json.dumps(capture()))"


@pytest.fixture(scope="module")
def captured():
    return environment.capture()


def strings(value):
    if isinstance(value, dict):
        return [s for k, v in value.items() for s in [k, *strings(v)]]
    if isinstance(value, list | tuple):
        return [s for v in value for s in strings(v)]
    return [value] if isinstance(value, str) else []


def test_twice_the_same(captured):
    again = environment.capture()
    assert different_facts(captured, again) == []
    assert again["environment_id"] == captured["environment_id"]


def test_what_changes_by_itself_is_not_in_the_hash(captured):
    rest = {k: v for k, v in captured.items() if k not in ("environment_id", "now")}
    assert captured["environment_id"] == content_id(rest)
    assert captured["now"].keys() == {"load_1min", "available_memory_mib"}
    assert not [name for name in strings(rest) if re.search("load|available|free|cur_freq|mhz_now", name)]


def test_a_setting_changes_the_id(captured, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "17")
    other = environment.capture()
    assert other["environment_id"] != captured["environment_id"]
    before = captured["variables"].get("OMP_NUM_THREADS")
    assert different_facts(captured, other) == [("variables.OMP_NUM_THREADS", before, "17")]


def test_the_names_that_others_read_are_there(captured):
    read = {"cpu", "cores", "usable_cores", "memory_mib", "os", "kernel", "machine", "python", "packages", "devices"}
    assert read | {"torch_threads", "torch_cpu_capability", "variables", "environment_id"} <= captured.keys()
    assert captured["devices"][0].keys() == {"device", "name", "memory_mib"}
    assert all(captured["packages"].values()) and json.loads(json.dumps(captured)) == captured


def test_nobody_is_named(captured):
    found = strings(captured)
    assert [s for s in found if re.search(r"(^|[\s:=,])(/|~/|[A-Z]:\\)", s)] == []  # no absolute path
    names = [platform.node(), Path.home().name, getpass.getuser(), str(Path.cwd())]
    names = [name for name in names if len(name) > 2]
    assert [(s, n) for s in found for n in names if re.search(rf"\b{re.escape(n)}\b", s)] == []


@pytest.mark.timed
def test_it_is_quick():
    times = []
    for _ in range(5):
        begin = time.process_time()
        environment.capture()
        times.append(time.process_time() - begin)
    assert min(times) < 0.25


def test_no_tensor_operation_runs_and_no_thread_starts():
    code = f"""
import os, torch, llmbench.worker.machine.environment
from torch.utils._python_dispatch import TorchDispatchMode
class Forbid(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None): raise SystemExit(f"ran {{func}}")
count = lambda: len(os.listdir("/proc/self/task")) if os.path.exists("/proc/self/task") else 0
before = count()
with Forbid(): {CAPTURE.replace("print(json.dumps(capture()))", "capture()")}
assert count() == before, (before, count())
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)


@pytest.mark.slow
def test_two_processes_agree():
    run = [json.loads(subprocess.check_output([sys.executable, "-c", CAPTURE], timeout=HANG_S)) for _ in range(2)]
    assert different_facts(*run) == [] and run[0]["environment_id"] == run[1]["environment_id"]


# --- variables ------------------------------------------------------------------------------------------


def test_variables_that_change_speed_are_recorded_without_paths_or_secrets(monkeypatch):
    monkeypatch.setattr(software, "user_name", lambda: "ann")
    monkeypatch.setattr(software.platform, "node", lambda: "box7")
    found = software.variables(
        {
            "OMP_NUM_THREADS": "4",
            "TF_ENABLE_ONEDNN_OPTS": "0",
            "TF_VAR_database": "ann",
            "TF_CLI_CONFIG_FILE": "rc",
            "KMP_AFFINITY": "granularity=fine,compact,1,0",
            "GOMP_CPU_AFFINITY": "0-3 8",
            "MALLOC_CONF": "oversize_threshold:1,background_thread:true",
            "LD_PRELOAD": "/opt/ann/libjemalloc.so.2:/usr/lib/libiomp5.so",
            "CUDA_VISIBLE_DEVICES": "1",
            "CUDA_HOME": "/usr/local/cuda-12.4/",
            "CUDA_MODULE_LOADING": "LAZY",
            "NCCL_SOCKET_IFNAME": "eth0",
            "NCCL_COMM_ID": "10.0.0.1:99",
            "NCCL_DEBUG_FILE": "~/logs/nccl.%h",
            "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
            "TORCHINDUCTOR_CACHE_DIR": "/tmp/torchinductor_ann",
            "TORCH_LOGS": "+dynamo",
            "TORCH_API_TOKEN": "s3cret",
            "TORCH_TRACE": "https://ann:pw@box7/x",
            "TORCH_HOME": "data/box7/models",
            "TOKENIZERS_PARALLELISM": "false",
            "HF_HUB_OFFLINE": "1",
            "HF_TOKEN": "hf_x",
            "HOME": "/home/ann",
            "PATH": "/bin",
        }
    )
    assert found == {
        "OMP_NUM_THREADS": "4",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "KMP_AFFINITY": "granularity=fine,compact,1,0",
        "GOMP_CPU_AFFINITY": "0-3 8",
        "MALLOC_CONF": "oversize_threshold:1,background_thread:true",
        "LD_PRELOAD": "libjemalloc.so.2:libiomp5.so",
        "CUDA_VISIBLE_DEVICES": "1",
        "CUDA_HOME": "cuda-12.4",
        "NCCL_SOCKET_IFNAME": "eth0",
        "NCCL_DEBUG_FILE": "nccl.%h",
        "PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True",
        "TORCHINDUCTOR_CACHE_DIR": "torchinductor_*",
        "TORCH_LOGS": "+dynamo",
        "TORCH_TRACE": "",
        "TORCH_HOME": "models",
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
    }


# --- hardware, from sample files ------------------------------------------------------------------------


def write(root, files):
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def test_a_sample_machine(tmp_path):
    cpu = "sys/devices/system/cpu"
    files = {
        "proc/cpuinfo": "model name\t: Fast CPU\nmicrocode\t: 0x2b\nflags\t\t: fpu amx_bf16 avx2 hypervisor\n",
        f"{cpu}/smt/active": "1\n",
        f"{cpu}/intel_pstate/no_turbo": "0\n",
        "sys/devices/system/node/node0/x": "",
        "sys/devices/system/node/node1/x": "",
        "sys/class/dmi/id/sys_vendor": "ACME\n",
        "sys/class/dmi/id/product_name": "m5.large\n",
        "sys/kernel/mm/transparent_hugepage/enabled": "always [madvise] never\n",
        "proc/sys/kernel/numa_balancing": "1\n",
        "proc/1/cgroup": "0::/kubepods/x\n",
        "etc/os-release": 'NAME="X"\nPRETTY_NAME="Distro 12"\n',
    }
    for n in range(8):  # 2 sockets x 2 cores x 2 threads
        files[f"{cpu}/cpu{n}/topology/core_id"] = str(n // 2 % 2)
        files[f"{cpu}/cpu{n}/topology/physical_package_id"] = str(n // 4)
        files[f"{cpu}/cpu{n}/cpufreq/scaling_governor"] = "performance\n" if n else "powersave\n"
        files[f"{cpu}/cpu{n}/cpufreq/cpuinfo_max_freq"] = "3900000\n"
        files[f"{cpu}/cpu{n}/cpufreq/scaling_max_freq"] = "2500000\n" if n == 3 else "3900000\n"
        files[f"{cpu}/cpu{n}/cpufreq/base_frequency"] = "2100000\n"
    for index, (level, kind, size, shared) in enumerate([(1, "Data", "32K", "0-1"), (3, "Unified", "36864K", "0-3,6")]):
        names = {"level": level, "type": kind, "size": size, "shared_cpu_list": shared}
        files |= {f"{cpu}/cpu0/cache/index{index}/{name}": f"{value}\n" for name, value in names.items()}
    write(tmp_path, files)
    found = hardware.cpu_facts(tmp_path)
    assert hardware.cpu_model(tmp_path) == "Fast CPU"
    assert (found["sockets"], found["physical_cores"], found["threads"], found["smt"]) == (2, 4, 8, True)
    assert (found["numa_nodes"], found["microcode"], found["instructions"]) == (2, "0x2b", ["amx_bf16", "avx2"])
    assert found["caches"] == [
        {"level": 1, "kind": "data", "kib": 32, "threads": 2},
        {"level": 3, "kind": "unified", "kib": 36864, "threads": 5},
    ]
    assert (found["governor"], found["turbo"]) == ("performance, powersave", True)
    assert (found["mhz_max"], found["mhz_limit"], found["mhz_base"]) == (3900.0, 2500.0, 2100.0)
    assert hardware.virtualisation(tmp_path) == {
        "hypervisor": True,
        "container": "kubernetes",
        "product": "ACME m5.large",
    }
    memory = hardware.memory_facts(tmp_path)
    assert (memory["transparent_hugepages"], memory["numa_balancing"]) == ("madvise", 1)
    assert hardware.os_release(tmp_path) == "Distro 12"


def test_a_system_that_tells_nothing(tmp_path):
    facts = hardware.cpu_facts(tmp_path)
    assert {name for name, value in facts.items() if value is not None} <= {"affinity"}
    assert hardware.virtualisation(tmp_path) == {"hypervisor": None, "container": None, "product": None}
    assert hardware.limits(tmp_path) == {"cpu_quota_cores": None, "memory_limit_mib": None}


@pytest.mark.parametrize("text", ["0", "0-3", "0-1,4,6-7", ""])
def test_lists_of_cores(text):
    assert hardware.ranges(hardware.expand(text)) == text


def test_torch_build_lines():
    text = (
        "ATen/Parallel:\n\tat::get_num_threads() : 2\nOpenMP 201511 (a.k.a. OpenMP 4.5)\n"
        "Intel(R) oneAPI Math Kernel Library Version 2024.2-Product Build 20240605 for Intel(R) 64\n"
        "Intel(R) MKL-DNN v3.12.0 (Git Hash 80af)\nATen parallel backend: OpenMP\n"
    )
    want = {"parallel_backend": "OpenMP", "openmp": "201511", "mkl": "2024.2-Product", "onednn": "3.12.0"}
    assert software.parse_parallel_info(text) == want
    assert software.parse_parallel_info("nothing") == dict.fromkeys(want)


# --- git ------------------------------------------------------------------------------------------------


def git(folder, *args):
    identity = ("-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false")
    return subprocess.check_output(["git", "-C", str(folder), *identity, *args], text=True).strip()


def test_git_state(tmp_path):
    assert software.git_state(tmp_path / "absent") is None
    git(tmp_path, "init", "-q")
    assert software.git_state(tmp_path) is None  # no commit yet
    (tmp_path / "a").write_text("1")
    git(tmp_path, "add", "a")
    git(tmp_path, "commit", "-qm", "a")
    git(tmp_path, "tag", "-a", "v1-dirty", "-m", "x")
    commit = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "results").write_text("not tracked")
    assert software.git_state(tmp_path) == {"commit": commit, "dirty": False}
    (tmp_path / "a").write_text("2")
    assert software.git_state(tmp_path) == {"commit": commit, "dirty": True}


def test_outside_of_git(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert software.git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))  # no git at all
    assert software.git_state(tmp_path) is None


# --- devices and reports --------------------------------------------------------------------------------


class FakeNvml(types.ModuleType):
    NVMLError = type("NVMLError", (Exception,), {})
    nvmlDeviceGetEnforcedPowerLimit = staticmethod(lambda handle: 700_000)
    nvmlDeviceGetEccMode = staticmethod(lambda handle: [1, 1])
    nvmlDeviceGetPersistenceMode = staticmethod(lambda handle: 0)
    nvmlDeviceGetMaxClockInfo = staticmethod(lambda handle, kind: {1: 1980, 2: 2619}[kind])
    nvmlSystemGetDriverVersion = staticmethod(lambda: b"550.54")

    @staticmethod
    def nvmlDeviceGetMigMode(handle):
        raise FakeNvml.NVMLError("Not Supported")


def test_nvml_facts():
    found = nvml.facts(nvml.Gpu(FakeNvml("pynvml"), "handle"))
    assert (found["driver"], found["power_limit_w"], found["ecc"], found["mig"]) == ("550.54", 700.0, True, None)
    assert (found["persistence_mode"], found["sm_mhz_max"], found["memory_mhz_max"]) == (False, 1980, 2619)


def test_the_report_begins_with_a_dozen_facts(captured):
    table = header_table(Run("r", [], {captured["environment_id"]: captured}), [])
    assert 9 <= len(table.rows) - 3 <= len(HEADER_FACTS) <= 14
    assert dict(table.rows)["cpu"] == captured["cpu"] and dict(table.rows)["torch"]
    assert "doctor --json" in table.notes[0]
    assert header_table(Run("r", []), []).notes == ()


def test_the_affinity_is_the_process_s():
    if hasattr(os, "sched_getaffinity"):
        assert set(hardware.expand(hardware.affinity())) == os.sched_getaffinity(0)
