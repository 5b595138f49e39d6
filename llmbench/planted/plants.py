"""The plants: each puts a bottleneck into a workload. With `planted` false it returns the workload without one.

A plant is a function of (host, strength, planted). All values that a model computes from the same batch are the same
with and without the plant, where the plant is not itself a change of the model (`vocabulary`, `cells`, ...).
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from llmbench.planted import hosts
from llmbench.planted.hosts import Workload

# --- data -----------------------------------------------------------------------------------------------


class Slow:
    """Batches that take `seconds` each to make."""

    def __init__(self, batches: Any, seconds: float) -> None:
        self.batches, self.seconds = batches, seconds

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            time.sleep(self.seconds)
            yield batch


class Items(Dataset[Any]):
    """Batches as the items of a data set, each `seconds` to make."""

    def __init__(self, batches: Any, seconds: float) -> None:
        self.batches, self.seconds = list(batches), seconds

    def __len__(self) -> int:
        return 64 * len(self.batches)  # epochs so long that starting loader processes does not count

    def __getitem__(self, index: int) -> Any:
        time.sleep(self.seconds)
        return self.batches[index % len(self.batches)]


def sleep(host: str, strength: float, planted: bool) -> Workload:
    """A loader that waits."""
    workload = hosts.HOSTS[host]()
    if planted:
        workload.data = Slow(workload.data, strength / 1e3)
    return workload


def items(host: str, strength: float, planted: bool, workers: int = 0) -> Workload:
    """A torch data set whose items are slow."""
    workload = hosts.HOSTS[host]()
    if planted:
        workload.data = DataLoader(Items(workload.data, strength / 1e3), batch_size=None, num_workers=workers)
    return workload


def workers(host: str, strength: float, planted: bool) -> Workload:
    """The same with one loader process, which is too slow."""
    return items(host, strength, planted, workers=1)


class Tokenized:
    """Texts (characters) that are tokenized batch by batch, and cut to the ids that the host takes."""

    def __init__(self, batches: Any, characters: int) -> None:
        self.batches = list(batches)
        self.tokenizer = _tokenizer()
        rows = len(hosts_rows(self.batches[0]))
        words = ["the", "quick", "brown", "foxes", "jumped", "over", "lazy", "dogs", "while", "nobody", "watched"]
        rng = hosts.generator()
        order = torch.randint(0, len(words), (rows, characters // 4), generator=rng).tolist()
        self.texts = [" ".join(words[i] for i in row)[:characters] for row in order]

    def __iter__(self) -> Iterator[Any]:
        for batch in self.batches:
            ids = [self.tokenizer.encode(text).ids for text in self.texts]
            torch.tensor([row[:8] for row in ids])
            yield batch


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = "abcdefghijklmnopqrstuvwxyz"
    tokenizer = Tokenizer(
        models.BPE({c: i for i, c in enumerate(letters)} | {"th": 26, "wh": 27}, [("t", "h"), ("w", "h")])
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def hosts_rows(batch: Any) -> Tensor:
    """Return the ids (B, L) of a batch of any host."""
    return batch["input_ids"] if isinstance(batch, dict) else batch[0]


def tokenize(host: str, strength: float, planted: bool) -> Workload:
    """Tokenization in the training loop."""
    workload = hosts.HOSTS[host]()
    if planted:
        workload.data = Tokenized(workload.data, int(strength))
    return workload


def mask(host: str, strength: float, planted: bool) -> Workload:
    """Rows padded to a fixed length, with a mask. `strength` % of the tokens are padding."""
    workload = hosts.HOSTS[host]()
    workload.data = [
        _pad(batch, _longer(i, strength) if planted else 0) for i, batch in enumerate(_shorten_rows(workload.data))
    ]
    return workload


def pad_without_mask(host: str, strength: float, planted: bool) -> Workload:
    """Rows padded with a word of their own, whose labels are ignored; there is no mask."""
    return mask(host, strength, planted)


def _real(index: int) -> int:
    return 16 + index % 9  # 16 to 24 tokens: rows of a batch are equally long, batches are not


def _longer(index: int, percent: float) -> int:
    return max(24, round(20 / (1 - percent / 100))) - _real(index)


def _shorten_rows(data: Any) -> Iterator[Any]:
    for index, batch in enumerate(data):
        n = _real(index)
        if isinstance(batch, dict):
            yield {k: t[:, :n].contiguous() if t.dim() == 2 else t for k, t in batch.items()}
        else:
            yield tuple(t[:, :n].contiguous() if t.dim() == 2 else t for t in batch)


def _pad(batch: Any, more: int) -> Any:
    def wide(tensor: Tensor, fill: int) -> Tensor:
        return nn.functional.pad(tensor, (0, more), value=fill) if tensor.dim() == 2 and more > 0 else tensor

    if isinstance(batch, dict):
        return {key: wide(tensor, 0) for key, tensor in batch.items()}
    return tuple(wide(tensor, (0, hosts.IGNORED)[place]) for place, tensor in enumerate(batch))


# --- components of the model ----------------------------------------------------------------------------


def vocabulary(host: str, strength: float, planted: bool) -> Workload:
    """Many words in the output projection and its loss."""
    words = int(strength) if planted else hosts.WORDS
    if host == "filler":
        return hosts.filler(words)
    workload = hosts.nano()
    workload.model.head = nn.Linear(128, words, bias=False)
    ids = [batch[0] for batch in workload.data]
    targets = [torch.randint(0, words, x.shape, generator=hosts.generator()) for x in ids]
    return hosts.train(workload.model, list(zip(ids, targets, strict=True)))


def _long(strength: float) -> tuple[int, int]:
    length = int(strength)
    return length, max(1, 512 // length)


def sdpa(host: str, strength: float, planted: bool) -> Workload:
    """Long rows through torch's own attention."""
    length, rows = _long(strength)
    return hosts.nano(length, rows, 2, hosts.torch_attention if planted else hosts.values_only)


def eager(host: str, strength: float, planted: bool) -> Workload:
    """Long rows through attention written by hand."""
    length, rows = _long(strength)
    return hosts.nano(length, rows, 2, hosts.attention_by_hand if planted else hosts.values_only)


def module(host: str, strength: float, planted: bool) -> Workload:
    """Long rows through torch's attention module."""
    length, rows = _long(strength)
    blocks: list[nn.Module] = [hosts.ModuleBlock(128, 4, attends=planted) for _ in range(2)]
    return hosts.train(hosts.Nano(blocks), hosts.next_words(rows, length))


def _recurrent(kind: str) -> Callable[[str, float, bool], Workload]:
    def plant(host: str, strength: float, planted: bool) -> Workload:
        model = hosts.Tagger(kind, recurrent=planted)
        return hosts.train(model, hosts.ids_and_classes(2, int(strength)))

    return plant


def _checkpoint_layers(host: str, strength: float, planted: bool, *, nested: bool) -> Workload:
    workload = hosts.HOSTS[host]()
    workload.model.checkpointed, workload.model.nested = (int(strength) if planted else 0), nested  # type: ignore[assignment]
    return workload


def checkpoint(host: str, strength: float, planted: bool) -> Workload:
    """Blocks whose activations are computed again."""
    return _checkpoint_layers(host, strength, planted, nested=False)


def checkpoint_twice(host: str, strength: float, planted: bool) -> Workload:
    """Blocks whose activations are computed again twice."""
    return _checkpoint_layers(host, strength, planted, nested=True)


def decode(host: str, strength: float, planted: bool) -> Workload:
    """Words that are written one after the other, each from all before it; or all of them read at once."""
    blocks: list[nn.Module] = [hosts.Block(128, 4, hosts.torch_attention) for _ in range(4)]
    model = hosts.Nano(blocks).eval()
    prompt, new = 32, int(strength)
    data = [(ids[:, :prompt].contiguous(),) for ids, _ in hosts.ids_and_classes(8, prompt)]

    @torch.no_grad()
    def step(batch: tuple[Tensor]) -> Tensor:
        ids = batch[0]
        if not planted:
            longer = (
                torch.cat([ids, ids[:, : new - 1]], 1) if new <= prompt else ids.repeat(1, 2)[:, : prompt + new - 1]
            )
            return model(longer)[:, -1].argmax(-1)
        for _ in range(new):
            ids = torch.cat([ids, model(ids)[:, -1].argmax(-1, keepdim=True)], 1)
        return ids

    return Workload(model, data, step=step)


# --- optimizers -----------------------------------------------------------------------------------------


class AdamByHand(torch.optim.Optimizer):
    """Adam as tutorials write it; its arithmetic is done `rounds` times."""

    def __init__(self, parameters: Any, lr: float = 1e-3, rounds: int = 1) -> None:
        super().__init__(parameters, {"lr": lr, "rounds": rounds})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Update."""
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if not state:
                    state["n"], state["mean"], state["square"] = 0, torch.zeros_like(p), torch.zeros_like(p)
                state["n"] += 1
                for _ in range(group["rounds"]):
                    mean = 0.9 * state["mean"] + 0.1 * p.grad
                    square = 0.999 * state["square"] + 0.001 * p.grad * p.grad
                    update = mean / (1 - 0.9 ** state["n"]) / ((square / (1 - 0.999 ** state["n"])).sqrt() + 1e-8)
                state["mean"], state["square"] = mean, square
                p.add_(update, alpha=-group["lr"])


def adam(host: str, strength: float, planted: bool) -> Workload:
    """An optimizer written by hand, tensor by tensor."""
    workload = hosts.HOSTS[host]()
    if planted:
        workload.optimizer = AdamByHand(workload.model.parameters(), rounds=int(strength))
    return workload


def tensors(host: str, strength: float, planted: bool) -> Workload:
    """Many small parameters, which torch's Adam updates one by one."""
    workload = hosts.HOSTS[host]()
    if not planted:
        return workload
    scales = [nn.Parameter(torch.ones(8)) for _ in range(int(strength))]
    workload.model.scales = nn.ParameterList(scales)
    workload.optimizer = torch.optim.Adam(workload.model.parameters(), lr=1e-3, foreach=False)

    def give_gradients(*_: Any) -> None:
        for scale in scales:
            scale.grad = scale.detach()

    workload.optimizer.register_step_pre_hook(give_gradients)
    return workload


# --- resources ------------------------------------------------------------------------------------------


class Wrapped(nn.Module):
    """A host with something more in its forward pass; its loss stays what it was."""

    def __init__(self, inner: nn.Module, extra: Callable[[Tensor], Tensor | None]) -> None:
        super().__init__()
        self.inner, self.extra = inner, extra
        self.small = nn.Parameter(torch.zeros(8))

    def forward(self, ids: Tensor, classes: Tensor) -> Tensor:
        """Return the loss."""
        more = self.extra(self.small.expand(len(ids), -1))
        loss = self.inner(ids, classes)
        return loss if more is None else loss + 0.0 * more.sum()


def _wrap(host: str, extra: Callable[[Tensor], Tensor | None], planted: bool) -> Workload:
    workload = hosts.HOSTS[host]()
    return hosts.train(Wrapped(workload.model, extra if planted else lambda small: None), workload.data)


def tiny(host: str, strength: float, planted: bool) -> Workload:
    """A chain of operators on 8 numbers per row."""

    def extra(x_B8: Tensor) -> Tensor:
        for _ in range(int(strength) // 2):
            x_B8 = torch.tanh(x_B8 + 1.0)
        return x_B8

    return _wrap(host, extra, planted)


def python(host: str, strength: float, planted: bool) -> Workload:
    """Python in the forward pass."""

    def extra(x_B8: Tensor) -> None:
        total = 0
        for i in range(int(strength * 1000)):
            total += i & 3

    return _wrap(host, extra, planted)


def asleep(host: str, strength: float, planted: bool) -> Workload:
    """A forward pass that waits."""
    return _wrap(host, lambda x_B8: time.sleep(strength / 1e3), planted)


def matmuls(host: str, strength: float, planted: bool) -> Workload:
    """Redundant products. The headroom of `compute` is that of products twice as fast, so half of them is without."""
    return hosts.mixer(int(strength) if planted else int(strength) // 2)


def weights(host: str, strength: float, planted: bool) -> Workload:
    """Weights far larger than the caches, for few rows."""
    return hosts.deep(int(strength), shared=not planted)


def stream(host: str, strength: float, planted: bool) -> Workload:
    """A buffer of `strength` MiB that every step goes through; without the plant as often a piece of 1/4 MiB."""
    buffer = torch.zeros(int(strength * 2**18))
    piece = torch.zeros(2**16)

    def extra(x_B8: Tensor) -> None:
        if planted:
            buffer.add_(1.0)
            return
        for _ in range(int(strength * 4)):
            piece.add_(1.0)

    workload = hosts.HOSTS[host]()
    return hosts.train(Wrapped(workload.model, extra), workload.data)


def small(host: str, strength: float, planted: bool) -> Workload:
    """Small batches because memory is nearly full. Without the plant the batch is twice as large.

    A step is of 16 batches' worth of rows in both: the same examples.
    """
    rows = int(strength)
    workload = hosts.bag(rows if planted else 2 * rows)
    if planted:
        _fill_memory()
    return workload


def _fill_memory(used: float = 0.8, least_mib: int = 128) -> None:
    """Let this process have little more memory than it uses: a limit, as batch systems and `ulimit -d` set it."""
    import resource
    from pathlib import Path

    status = Path("/proc/self/status").read_text()
    bytes_ = 1024 * next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData"))
    limit = max(bytes_ / used, bytes_ + least_mib * 2**20)
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (int(limit), hard))


def lockstep(host: str, strength: float, planted: bool) -> Workload:
    """A partner process that exchanges numbers with each step, and takes `strength` ms for its own."""
    import torch.distributed as dist

    store = _partner(strength / 1e3 if planted else 0.0)
    workload = hosts.HOSTS[host]()
    dist.init_process_group("gloo", init_method=store, rank=0, world_size=2)
    shared = torch.zeros(1024)
    optimizer, model = workload.optimizer, workload.model
    assert optimizer is not None

    def step(batch: Any) -> None:
        loss = model(*batch)
        (loss[1] if isinstance(loss, tuple) else loss).backward()
        dist.all_reduce(shared)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    workload.step = step
    return workload


def _partner(seconds: float) -> str:
    """Start the partner, a process that sleeps and exchanges, and return where the two find each other."""
    import torch.distributed as dist

    store = f"file://{tempfile.mkdtemp(prefix='llmbench-')}/store"
    parent = os.getpid()
    if os.fork():
        return store
    try:
        dist.init_process_group("gloo", init_method=store, rank=1, world_size=2)
        shared = torch.zeros(1024)
        while os.getppid() == parent:
            time.sleep(seconds)
            dist.all_reduce(shared)
    finally:
        os._exit(0)


def oversize(host: str, strength: float, planted: bool) -> Workload:
    """Batches with `strength` MiB that nobody needs, copied to the device."""
    workload = hosts.HOSTS[host]()
    if planted:
        more = torch.zeros(int(strength * 2**18))
        workload.data = [{"ids": batch[0], "classes": batch[1], "unused": more} for batch in workload.data]
    return workload


#: Name -> plant. The names are part of the names of cases.
PLANTS: dict[str, Callable[[str, float, bool], Workload]] = {
    "sleep": sleep,
    "items": items,
    "workers": workers,
    "tokenize": tokenize,
    "mask": mask,
    "ignored": pad_without_mask,
    "vocabulary": vocabulary,
    "sdpa": sdpa,
    "eager": eager,
    "module": module,
    "rnn_layer": _recurrent("RNN"),
    "gru_layer": _recurrent("GRU"),
    "cells": _recurrent("LSTMCell"),
    "adam": adam,
    "tensors": tensors,
    "checkpoint": checkpoint,
    "nested": checkpoint_twice,
    "decode": decode,
    "tiny": tiny,
    "python": python,
    "asleep": asleep,
    "matmuls": matmuls,
    "weights": weights,
    "stream": stream,
    "small": small,
    "lockstep": lockstep,
    "oversized": oversize,
}
