"""The contract of a cause: a pure prediction, and an intervention that leaves everything as it was."""

from __future__ import annotations

import contextlib
import copy
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from llmbench.conformance import models
from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.cell import Budget, Cell
from llmbench.contract.errors import LlmbenchError, NotMeasured
from llmbench.contract.job import Job
from llmbench.contract.specs import AXES, CAUSE_CLASSES, CollateContext
from llmbench.execution import worker_calls
from llmbench.execution.child import resolve
from llmbench.plugins.monkeypatches import Snapshot

ROWS = 32
BATCH = 4
#: Head of a step, and whether it trains.
STEPS = (("pretrain", True), ("classify", True), ("generate", False), ("generate", True))
MAX_HOSTS = 2
#: Removing (below 0: adding) less of a cause multiplies the noise by more than 20.
MIN_SHARE = 0.05
#: Adding more of a cause makes another step.
MAX_SHARE = 10


@dataclass
class Host:
    """A model whose steps a cause is tried on."""

    label: str
    subject: Subject
    head: str
    train: bool
    options: Mapping[str, bool]  # of the engine

    def step(self) -> Any:
        """Return a step of a new model on a new engine (`llmbench.worker.verification.kit.Step`)."""
        spec, head = self.subject.spec, self.head
        engine = models.open_engine(self.subject, spec.engine, models.PLAIN, **self.options)
        request = models.request_of(self.subject, head)
        if "dropout" in request.config:
            request = models.request_of(self.subject, head, config={**request.config, "dropout": 0.1})
        engine.build(spec, request, seed=0)
        if self.train:
            engine.prepare_training(learning_rate=1e-3, steps=1000, optimizer="adamw")
        features = models.features_of(head, [3 + 5 * n % 14 for n in range(ROWS)])
        ctx = CollateContext(models.SPECIAL, models.SEQ, models.TARGET, models.V, self.train)
        order = [list(range(at, at + BATCH)) for at in range(0, ROWS, BATCH)]
        return resolve(worker_calls.OPEN_STEP)(engine, spec, request, features, order, ctx, head=head)

    def cell(self) -> Cell:
        """Return the cell that the step would be measured as."""
        stage = "eval" if not self.train else "pretrain" if self.head == "pretrain" else "finetune"
        return Cell(self.subject.name, "tiny", "made", "made@1", stage, batch_size=BATCH, seq_len=models.SEQ)

    def trial(self) -> Any:
        """Return a trial of the step, settled: learning rates are 0 from here on."""
        return self.step().trial(self.cell(), self.subject.spec.engine)

    def record(self) -> dict[str, object]:
        """Measure the step; return its record."""
        cell = self.cell()
        job = Job.single(cell, Budget(seconds=0.2), str(self.subject.folder))
        return {"cell": cell.to_json(), "status": "ok", "interventions": {}, **self.step().measure(job)}


def find_hosts(subject: Subject) -> list[Host]:
    """Return models that a cause applies to, at most two. Raises NotHere with the reasons where there is none."""
    hosts, reasons = _search_hosts(subject)
    if not hosts:
        raise NotHere(f"no model here has what it is about: {'; '.join(list(dict.fromkeys(reasons))[:2])}")
    return hosts


State = dict[str, object]  # what must stay as it is, by name

#: Name of a cause -> its hosts, and why other models are none.
_KNOWN_HOSTS: dict[str, tuple[list[Host], list[str]]] = {}


def _search_hosts(subject: Subject) -> tuple[list[Host], list[str]]:
    if subject.name not in _KNOWN_HOSTS:
        hosts: list[Host] = []
        reasons: list[str] = []
        for host in _candidates(subject):
            if len(hosts) == MAX_HOSTS:
                break
            try:
                trial = host.trial()
            except LlmbenchError as reason:
                reasons.append(f"{host.label}: {reason}")
                continue
            try:
                subject.spec.probe(trial)
                subject.spec.intervene(trial)
                hosts.append(host)
            except NotMeasured as reason:
                reasons.append(str(reason))
        _KNOWN_HOSTS[subject.name] = hosts, reasons
    return _KNOWN_HOSTS[subject.name]


def _candidates(subject: Subject) -> Iterator[Host]:
    for options in ({}, {"checkpointing": True}):
        for head, train in STEPS:
            for name in subject.registry.names("model"):
                provided = subject.registry.by_kind["model"][name]
                anywhere = subject.spec.engines is None
                if head in provided.spec.layouts and (anywhere or provided.spec.engine in subject.spec.engines):
                    host = Subject(
                        "model", name, provided.spec, provided.owner, subject.registry, subject.files, subject.folder
                    )
                    yield Host(f"{name}/{head}", host, head, train, options)


def blocks(trial: Any, change: Any, *, changed: bool) -> None:
    """Take two steps, with the change or without it, as a measurement does."""
    run = change.treated if changed else change.clean
    with change.changed() if changed else contextlib.nullcontext():
        batches = list(trial.pool[: change.steps or 2])
        if run is not None:
            run(batches)
        else:
            for batch in batches:
                trial.step(batch)


@check("cause", says="its axis and class are known")
def spec(subject: Subject) -> None:
    """Look at the fields."""
    one, require = subject.spec, subject.require
    require(one.axis in AXES, f"axis {one.axis!r}: write {' or '.join(AXES)}")
    require(one.cause_class in CAUSE_CLASSES, f"class {one.cause_class!r}: write one of {', '.join(CAUSE_CLASSES)}")
    hardware = one.axis == "where" and one.cause_class == "hardware"
    require(not hardware, "a component (where) is of the data or the algorithm; hardware is a resource (why)")


@check("cause", says="its prediction is a pure function of the record and of the facts that it found")
def predicts(subject: Subject) -> None:
    """Probe, and predict twice."""
    for host in find_hosts(subject):
        facts = subject.spec.probe(host.trial())
        subject.require(
            isinstance(facts, Mapping), f"{host.label}: probe returns {facts!r:.40}; return a dict of facts"
        )
        try:
            json.dumps(facts, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise Failed(f"{host.label}: the facts of probe are no JSON: {error}") from None
        record = host.record()
        before = copy.deepcopy((record, facts))
        one, two = subject.spec.predict(record, facts), subject.spec.predict(record, facts)
        subject.require((record, facts) == before, f"{host.label}: predict changes the record or the facts")
        subject.require(one == two, f"{host.label}: predict says {one} and then {two}")
        good = one is None or (isinstance(one, int | float) and math.isfinite(one) and one > 0)
        subject.require(
            good, f"{host.label}: it predicts a headroom of {one!r}; a positive number, or None where it is not known"
        )


@check("cause", says="its probe and its intervention put everything back")
def restores(subject: Subject) -> None:
    """Take steps with the change and without it; then look at torch, at the module and at the optimizer."""
    for host in find_hosts(subject):
        trial = host.trial()
        before, snapshot = _look(trial), Snapshot()  # before its probe, which must put back what it changes, too
        subject.spec.probe(trial)
        _require_as_before(subject, host.label, trial, before, snapshot)
        change = subject.spec.intervene(trial)
        for changed in (True, False, True):
            blocks(trial, change, changed=changed)
            _require_as_before(subject, host.label, trial, before, snapshot)


def _require_as_before(
    subject: Subject, label: str, trial: Any, before: Mapping[str, object], snapshot: Snapshot
) -> None:
    after = _look(trial)
    differs = [name for name in before if before[name] != after[name]]
    subject.require(not differs, f"{label}: after its work {differs[0] if differs else ''} is not what it was")
    replaced = snapshot.find_patches()
    subject.require(not replaced, f"{label}: after its work {replaced[0] if replaced else ''} is replaced")


def _look(trial: Any) -> State:
    """Return the state of a trial that must stay as it is, by name."""
    import torch

    torch_module = isinstance(trial.module, torch.nn.Module) and hasattr(trial.module, "training")
    seen = _look_at_module(trial.module) if torch_module else _look_at_weights(trial.module)
    for group in getattr(trial.optimizer, "param_groups", ()):
        seen[f"the optimizer's group of {len(group['params'])}"] = {k: v for k, v in group.items() if k != "params"}
    seen["the default dtype"] = str(torch.get_default_dtype())
    seen["grad mode"] = torch.is_grad_enabled()
    seen["the number of threads"] = torch.get_num_threads()
    return seen


def _look_at_module(module: Any) -> State:
    """Return mode, attributes, hooks and tensors of a torch module."""
    import torch

    seen: State = {f"the mode of {type(module).__name__}": module.training}
    for name, one in module.named_modules():
        hooks = [len(one._forward_hooks), len(one._forward_pre_hooks), len(one._backward_hooks or ())]
        own = sorted(k for k in vars(one) if not k.startswith("_"))
        seen[f"module {name or type(module).__name__}"] = (own, hooks, type(one).__name__)
    state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, tensor in state.items():
        content = torch.nan_to_num(tensor.detach().double()).sum().item() if tensor.is_floating_point() else 0
        seen[f"the tensor {name}"] = (tuple(tensor.shape), str(tensor.dtype), tensor.requires_grad, content)
    return seen


def _look_at_weights(model: Any) -> State:
    """Return shapes and sums of the weights of another framework's model, as far as it shows them (Keras does)."""
    weights: list[Any] = getattr(model, "get_weights", list)()
    return {f"weight {i}": (w.shape, str(w.dtype), float(w.sum())) for i, w in enumerate(weights)}


@check("cause", says="its facts and its intervention can be asked for again")
def repeats(subject: Subject) -> None:
    """Probe and intervene twice on one trial."""
    for host in find_hosts(subject):
        trial = host.trial()
        first, second = subject.spec.probe(trial), subject.spec.probe(trial)
        subject.require(
            set(first) == set(second), f"{host.label}: probe finds {sorted(first)} and then {sorted(second)}"
        )
        for _ in range(2):
            change = subject.spec.intervene(trial)
            subject.require(
                MIN_SHARE <= abs(change.share) <= MAX_SHARE and change.share <= 1,
                f"{host.label}: share {change.share}; the part of the cause that is removed (below 0: that is added)",
            )
            blocks(trial, change, changed=True)


@check("cause", says="where it does not apply it says so, and why")
def declines(subject: Subject) -> None:
    """Try it on other models: it raises DoesNotApply or Unisolated, with a reason, and nothing else."""
    tried = 0
    for host in _candidates(subject):
        if host.options or tried == 6:
            break
        try:
            trial = host.trial()
        except LlmbenchError:
            continue
        tried += 1
        for ask in (subject.spec.probe, subject.spec.intervene):
            try:
                ask(trial)
            except NotMeasured as reason:
                subject.require(bool(str(reason).strip()), f"{host.label}: it does not apply, and does not say why")
            except Exception as error:
                raise Failed(
                    f"{host.label}: it raises {type(error).__name__} ({error}); raise DoesNotApply or Unisolated"[:300]
                ) from None
    if not tried:
        raise NotHere("there is no model to try it on")
