"""The software that the numbers depend on: versions, torch's build and settings, variables, git.

Nothing here runs a tensor operation. No host name, no user name, no folder.
"""

from __future__ import annotations

import getpass
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from llmbench.worker.machine.facts import GitState, PythonFacts, TorchFacts

#: Packages whose versions are recorded, whether they are there or not. Only scoring needs evaluate and datasets.
PACKAGES = ("llmbench", "torch", "transformers", "tokenizers", "evaluate", "datasets", "numpy", "pandas", "safetensors")
#: What changes speed when it is there, and is not missing when it is not.
OPTIONAL_PACKAGES = (
    *("triton", "nvidia-ml-py", "accelerate", "flash-attn", "intel-extension-for-pytorch"),
    *("keras", "tensorflow", "tensorflow-cpu", "jax"),
)
#: Variables that change speed or numbers; nothing else of the process's environment is recorded.
VARIABLES = re.compile(
    r"(?!TF_(VAR|CLI|DATA_DIR|INPUT|LOG|WORKSPACE|REGISTRY|PLUGIN)(_|$))"  # Terraform's, not TensorFlow's
    r"(OMP|MKL|KMP|GOMP|MALLOC|CUDA|CUBLAS|CUDNN|NCCL|NVIDIA|PYTORCH|TORCH\w*|DNNL|ONEDNN|OPENBLAS|GLOO|TF|XLA|KERAS)_\w+"
    r"|LD_PRELOAD|TOKENIZERS_PARALLELISM|RAYON_NUM_THREADS|HF_HUB_OFFLINE|TRANSFORMERS_OFFLINE"
)
#: Names, within that, whose values may be a secret, an address, or differ from run to run.
PRIVATE = re.compile(
    r"(^|_)(TOKEN|KEY|SECRET|PASS|PASSWORD|CREDENTIALS?|AUTH|URLS?|URI|ADDR|HOST|HOSTID|ENDPOINT|USER|ID)(_|$)"
)
#: torch sets it itself when CUDA starts, so that a second look would differ from the first.
SET_BY_TORCH = {"CUDA_MODULE_LOADING": "LAZY"}
GIT_TIMEOUT_S = 20.0  # ends a hang; a busy machine takes seconds


def packages() -> dict[str, str | None]:
    """Return the versions of the packages that a run needs; None: not installed."""
    return {name: version(name) for name in PACKAGES}


def optional_packages() -> dict[str, str]:
    """Return the versions of those optional packages that are installed."""
    versions = {name: version(name) for name in OPTIONAL_PACKAGES}
    return {name: text for name, text in versions.items() if text is not None}


def version(package: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def numpy_blas() -> str | None:
    """Return the BLAS that numpy was built with, and its version."""
    with suppress(ImportError, AttributeError, KeyError, TypeError):
        import numpy as np

        blas: Any = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
        return f"{blas['name']} {blas['version']}"
    return None


def torch_facts() -> TorchFacts:
    """Return how torch was built, and its settings."""
    import torch

    parallel = parse_parallel_info(torch.__config__.parallel_info())
    return {
        "parallel_backend": parallel["parallel_backend"],
        "openmp": parallel["openmp"],
        "mkl": parallel["mkl"],
        "onednn": parallel["onednn"],
        "interop_threads": torch.get_num_interop_threads(),
        "git": (torch.version.git_version or "")[:12] or None,
        "cuda": torch.version.cuda,
        "hip": torch.version.hip,
        "cudnn": ask_setting(torch.backends.cudnn.version),
        "nccl": nccl_version(),
        "float32_matmul_precision": ask_setting(torch.get_float32_matmul_precision),
        "default_dtype": str(torch.get_default_dtype()).removeprefix("torch."),
        "onednn_enabled": ask_setting(lambda: bool(torch.backends.mkldnn.enabled)),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "cudnn_benchmark": torch.backends.cudnn.benchmark,
        "cudnn_deterministic": torch.backends.cudnn.deterministic,
        "sdpa_backends": sdpa_backends(),
    }


def parse_parallel_info(text: str) -> dict[str, str | None]:
    """Return OpenMP, MKL, oneDNN and the thread pool from `torch.__config__.parallel_info()`."""
    patterns = {
        "parallel_backend": r"ATen parallel backend: (.+)",
        "openmp": r"^OpenMP (\d+)",
        "mkl": r"Math Kernel Library Version (\S+)",
        "onednn": r"(?:MKL-DNN|oneDNN) v(\S+)",
    }
    matches = {name: re.search(pattern, text, re.MULTILINE) for name, pattern in patterns.items()}
    return {name: match.group(1).strip() if match else None for name, match in matches.items()}


def sdpa_backends() -> dict[str, bool | None]:
    """Return which kinds of scaled-dot-product attention torch may choose from."""
    import torch

    kinds = {"flash": "flash_sdp", "memory_efficient": "mem_efficient_sdp", "math": "math_sdp", "cudnn": "cudnn_sdp"}
    questions = {name: getattr(torch.backends.cuda, f"{kind}_enabled", None) for name, kind in kinds.items()}
    return {name: None if ask is None else bool(ask()) for name, ask in questions.items()}


def nccl_version() -> str | None:
    """Return NCCL's version; None where torch was built without it."""
    import torch

    if torch.version.cuda is None:
        return None
    parts = ask_setting(torch.cuda.nccl.version)
    return None if parts is None else ".".join(map(str, parts))


def ask_setting(ask: Callable[[], Any]) -> Any:
    """Return a setting of torch; None where this build, or a mix of old and new settings, refuses to say."""
    with suppress(RuntimeError, AttributeError, ImportError):
        return ask()
    return None


def python_facts() -> PythonFacts:
    """Return the build of Python, and whether it has its lock (GIL)."""
    lock: Callable[[], bool] | None = getattr(sys, "_is_gil_enabled", None)
    return {
        "implementation": platform.python_implementation(),
        "compiler": platform.python_compiler(),
        "libc": " ".join(platform.libc_ver()).strip() or None,
        "gil": True if lock is None else lock(),
    }


# --- variables ------------------------------------------------------------------------------------------


def variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the variables that change speed, with paths reduced to file names and without what may be private."""
    private = [name for name in (user_name(), platform.node()) if name]
    return {
        name: without_names(file_names(value), private)
        for name, value in sorted(environ.items())
        if VARIABLES.fullmatch(name) and not PRIVATE.search(name) and SET_BY_TORCH.get(name) != value
    }


def file_names(value: str) -> str:
    """Return a value, a list perhaps, in which every path is reduced to its last part; an address to nothing."""
    if "://" in value:
        return ""
    parts = re.split(r"([:;, =])", value)
    return "".join(re.split(r"[/\\]", part.rstrip("/\\"))[-1] for part in parts)


def without_names(value: str, names: list[str]) -> str:
    """Return a value in which the names of user and machine are replaced by `*`."""
    for name in names:
        value = re.sub(rf"(?<![A-Za-z0-9]){re.escape(name)}(?![A-Za-z0-9])", "*", value)
    return value


def user_name() -> str | None:
    """Return the user's name, which must not be recorded."""
    with suppress(OSError, KeyError, ImportError):
        return getpass.getuser()
    return None


# --- git ------------------------------------------------------------------------------------------------


def git_state(folder: Path) -> GitState | None:
    """Return the state of the repository around `folder`; None outside of one, or without git.

    Only tracked files make it dirty: the results of a run must not.
    """
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0"},
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    commit, _, dirty = done.stdout.strip().partition("-")
    return {"commit": commit, "dirty": dirty == "dirty"} if done.returncode == 0 and commit else None


def own_git_state() -> GitState | None:
    """Return the state of llmbench's own repository; None where it was installed from a package."""
    source = Path(__file__).parents[2]
    return git_state(source) if (source / ".git").exists() else None
