"""Stand-ins for `llmbench.worker.job:run_job` that go wrong in every way a cell can."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from llmbench.contract.errors import Unsupported
from llmbench.contract.job import KEEP, new_record


def ok(job, emit):
    for step in range(3):
        emit({"event": "step", "step": step})
    return new_record(job, "ok", samples={"step_s": [0.1, float("nan")]})


def by_model(job, emit):
    """Do what the cell's model is called; leave the checkpoint that a descendant needs."""
    if job.cell.model == "fails" or (job.cell.model == "fails-later" and job.repeat > 0):
        raise ValueError("no good")
    if job.cell.model == "unsupported":
        raise Unsupported("it lacks a package")
    if job.cell.model == "hangs":
        emit({"event": "working"})
        time.sleep(60)
    if job.repeat == 0:
        Path(job.run_dir, "checkpoints", job.cell.cell_id).mkdir(parents=True, exist_ok=True)
    return new_record(job, "ok")


def jittery(job, emit):
    """Time a cell whose processes differ as its model's name says: `noisy` ones by 8 %, others by 0.1 %."""
    spread = 0.08 if job.cell.model.startswith("noisy") else 0.001
    level = 0.1 * (1 + spread * (0, 1, -0.5, 0.3, -0.8, 0.6, -0.2, 0.9)[job.repeat])
    if job.cell.model == "noisy-fails-later" and job.repeat > 2:
        raise ValueError("no good")
    return new_record(job, "ok", samples={"step_s": [level] * 12})


def keeps_then(end):
    """Return a job that hands its record over, with what it is about to try, and then ends badly."""

    def job_of(job, emit):
        emit({"event": KEEP, "record": new_record(job, "ok", samples={"step_s": [0.1]}, warnings=["was trying"])})
        emit({"event": "kept"})
        end()
        return new_record(job, "ok", warnings=["survived"])

    return job_of


keeps_then_segfaults = keeps_then(lambda: os.kill(os.getpid(), signal.SIGSEGV))
keeps_then_is_killed = keeps_then(lambda: os.kill(os.getpid(), signal.SIGKILL))
keeps_then_hangs = keeps_then(lambda: time.sleep(60))
keeps_then_survives = keeps_then(lambda: None)


def raises(job, emit):
    raise ValueError("no good")


def unsupported(job, emit):
    raise Unsupported("fp8 needs another device")


def segfault(job, emit):
    print("last words")
    os.kill(os.getpid(), signal.SIGSEGV)


def hangs_in_here(job, emit):
    emit({"event": "hangs"})
    time.sleep(60)


def hog(job, emit):
    kept = [bytearray(os.urandom(1) * (32 * 2**20)) for _ in range(64)]
    return new_record(job, "ok", samples={"kept": [len(kept)]})


def torch_hog(job, emit):
    import torch

    kept = [torch.ones(8, 2**20) for _ in range(64)]
    return new_record(job, "ok", samples={"kept": [len(kept)]})


def aborts_for_memory(job, emit):
    sys.stderr.write("terminate called after throwing an instance of 'std::bad_alloc'\n")
    os.abort()


def leaves(job, emit):
    os._exit(3)


def sleeps(job, emit):
    time.sleep(2)
    return new_record(job, "ok")


def leaves_a_helper(job, emit):
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    emit({"event": "helper", "pid": helper.pid})
    time.sleep(0.2)
    return new_record(job, "ok")


def forks_then_sleeps(job, emit):
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    emit({"event": "pids", "pids": [os.getpid(), pid]})
    time.sleep(60)


def forks_slowly_then_sleeps(job, emit):
    """Its child comes to its first lines only when the parent is gone."""
    from llmbench.execution import child

    ask, parent = child._set_death_signal, os.getpid()

    def late():
        while os.getppid() == parent:
            time.sleep(0.01)
        return ask()

    child._set_death_signal = late
    forks_then_sleeps(job, emit)


def unwritable(job, emit):
    return new_record(job, "ok", samples={"step_s": [object()]})


def tensor_job(job, emit):
    import torch

    torch.set_num_threads(2)
    emit({"event": "sum", "value": float((torch.ones(512, 512) @ torch.ones(512, 512)).sum())})
    return new_record(job, "ok")


def echo(*args):
    return {"args": list(args), "main": getattr(sys.modules["__main__"], "__file__", None)}


def user_mistake():
    from llmbench.contract.errors import DataError

    raise DataError("data.csv:3: no label")


def collector():
    """Say whether the garbage collector is on, and how many objects it leaves alone."""
    import gc

    return {"enabled": gc.isenabled(), "frozen": gc.get_freeze_count()}
