"""The contract of a model, through the engine that drives it. Shapes: `B` rows, `L` tokens.

A head's contract is checked with features of random ids. Where a model has several heads, each is tried, and the first
that breaks the contract is named.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from llmbench.conformance.subject import Failed, NotHere, Subject, check
from llmbench.contract.engines import EngineRequest, StepGraphs
from llmbench.contract.errors import LlmbenchError, Unsupported
from llmbench.contract.specs import (
    HEADS,
    Batch,
    BuildRequest,
    CollateContext,
    Feature,
    ModelSpec,
    PrecisionSpec,
    SpecialTokens,
)
from llmbench.layouts import IGNORE

if TYPE_CHECKING:
    import numpy as np

V = 61  # tokens of the vocabulary
SEQ = 20  # tokens of an input
TARGET = 8  # tokens of an output
LABELS = 3  # classes
SPECIAL = SpecialTokens()
LENGTHS = (9, 5, 12, 7)
PLAIN = PrecisionSpec("fp32")
STEPS = 60
FALLS_TO = 0.8  # share of the first loss; a batch that is seen sixty times is learned far below that
CLOSE = 1e-3  # losses that should be equal
FLOPS_CLOSE = 0.05
OPTIONS = ("labelled_logits", "kv_cache", "lora")


def features_of(head: str, lengths: Sequence[int] = LENGTHS, seed: int = 0) -> list[Feature]:
    """Return features of a head (see `llmbench.contract.specs`) of random ids."""
    import numpy as np

    rng = np.random.default_rng(seed)
    rows: list[Feature] = []
    for number, length in enumerate(lengths):
        ids = rng.integers(SPECIAL.mask + 1, V, length).tolist()
        rows.append(
            {
                "classify": {"ids": ids, "label": number % LABELS},
                "span": {"question": ids[2:4], "context": ids, "start": 2, "end": 3},
                "generate": {"source": ids, "target": ids[:3]},
                "pretrain": {"ids": [SPECIAL.bos, *ids]},
            }[head]
        )
    return rows


def request_of(subject: Subject, head: str, **changes: Any) -> BuildRequest:
    """Return the request to build the smallest size of the model."""
    size = next(iter(subject.spec.sizes))
    weights = subject.name.partition(":")[2] or None
    request = BuildRequest(
        head, size, subject.spec.sizes[size], V, SPECIAL, SEQ, TARGET, num_labels=LABELS, weights=weights
    )
    return dataclasses.replace(request, **changes)


def engine_of(subject: Subject, head: str, *, precision: PrecisionSpec = PLAIN, seed: int = 0, **changes: Any) -> Any:
    """Return an engine with the model in it, on the CPU."""
    engine = open_engine(subject, subject.spec.engine, precision)
    engine.build(subject.spec, request_of(subject, head, **changes), seed=seed)
    return engine


def open_engine(subject: Subject, name: str, precision: PrecisionSpec, **options: Any) -> Any:
    """Return the engine called `name`, on the CPU."""
    return subject.registry.get("engine", name).open(EngineRequest(device="cpu", precision=precision, **options))


def batch_of(spec: ModelSpec, head: str, features: Sequence[Feature], *, train: bool = True) -> Batch:
    """Return the batch that the model's layout makes of features."""
    return spec.layouts[head].collate(features, CollateContext(SPECIAL, SEQ, TARGET, V, train))


def heads(subject: Subject) -> Iterator[str]:
    """Yield the model's heads. Raises NotHere where it has none of its own."""
    if not subject.spec.layouts:
        raise NotHere(f"it is a kind of models: check one of them, {subject.name}:FOLDER")
    yield from subject.spec.layouts


def training_engine(subject: Subject, head: str) -> Any:
    """Return an engine that is ready to train."""
    engine = engine_of(subject, head)
    stage = "pretrain" if head == "pretrain" else "finetune"
    rate = subject.spec.learning_rate.get(stage, 1e-3)
    engine.prepare_training(learning_rate=rate, steps=2 * STEPS, optimizer="adamw")
    return engine


def train_steps(engine: Any, batch: Batch, count: int) -> list[float]:
    """Train on one batch again and again; return the losses."""
    losses = []
    for _ in range(count):
        if engine.graphs is not None:
            losses.append(engine.loss_value(StepGraphs(*engine.graphs).update(engine.copy(batch))))
            continue
        loss = engine.forward(engine.copy(batch))
        losses.append(engine.loss_value(loss))
        engine.backward(loss)
        engine.update()
    return losses


def forward_loss(engine: Any, batch: Batch) -> float:
    """Return the loss of a forward pass: a call of its own where a step is one graph."""
    run = engine.forward if engine.graphs is None else StepGraphs(*engine.graphs).loss
    return float(engine.loss_value(run(engine.copy(batch))))


def switch_to_eval(engine: Any) -> Any:
    """Switch off dropout and the like, where the engine shows its module."""
    module: Any = getattr(engine, "module", None)
    if hasattr(module, "eval"):
        module.eval()
    return engine


def loss_of(engine: Any, batch: Batch) -> float:
    """Return the loss of a batch without dropout and the like."""
    return forward_loss(switch_to_eval(engine), batch)


def with_arrays(batch: Batch, **arrays: Any) -> Batch:
    """Return the batch with other arrays."""
    return dataclasses.replace(batch, arrays={**batch.arrays, **arrays})


@check("model", says="its sizes, heads and options are what suites can name")
def spec(subject: Subject) -> None:
    """Look at what the fields say together."""
    one, require = subject.spec, subject.require
    require(bool(one.sizes), "it has no size; give sizes={'tiny': {...}}")
    strange = [head for head in one.layouts if head not in HEADS]
    require(not strange, f"layouts: {', '.join(strange)} is no head (heads: {', '.join(HEADS)})")
    require(bool(one.layouts) or one.of_weights is not None, "it has no layout, so that no task can use it")
    rates = [f"{k}: {v}" for k, v in one.learning_rate.items() if k not in ("pretrain", "finetune") or not v > 0]
    require(not rates, f"learning_rate {', '.join(rates)}: write stage -> positive number")
    options = [name for name in one.options if name not in OPTIONS]
    require(not options, f"options: {', '.join(options)} is none (options: {', '.join(OPTIONS)})")
    for layout in one.layouts.values():
        require(hasattr(layout, "length") and hasattr(layout, "collate"), f"{layout!r:.40} is no layout")


@check("model", says="its layouts make whole, deterministic batches within the limits, and pickle to loader processes")
def batches(subject: Subject) -> None:
    """Collate features of every head, for training and for prediction."""
    import pickle

    for head in heads(subject):
        layout, rows = subject.spec.layouts[head], features_of(head, (*LENGTHS, 3 * SEQ))
        for train in (True, False):
            _batch(subject, head, batch_of(subject.spec, head, rows, train=train), len(rows))
            again = batch_of(subject.spec, head, rows, train=train)
            _same(subject, batch_of(subject.spec, head, rows, train=train), again, f"{head}: the same features, twice")
        try:
            copied = pickle.loads(pickle.dumps(layout))
        except Exception as error:
            raise Failed(f"{head}: its layout does not pickle to loader processes: {error}") from None
        ctx = CollateContext(SPECIAL, SEQ, TARGET, V, True)
        _same(subject, copied.collate(rows, ctx), layout.collate(rows, ctx), f"{head}: a pickled layout")
        lengths = [layout.length(row) for row in rows]
        subject.require(lengths[1] < lengths[2], f"{head}: layout.length says {lengths} of texts of {LENGTHS} tokens")


def _batch(subject: Subject, head: str, batch: Batch, rows: int) -> None:
    import numpy as np

    require = subject.require
    require(batch.examples == rows, f"{head}: a batch of {rows} features says that it has {batch.examples} examples")
    for name, array in batch.arrays.items():
        require(isinstance(array, np.ndarray), f"{head}: {name} is a {type(array).__name__}; layouts make numpy arrays")
        require(array.dtype.kind in "iufb", f"{head}: {name} has dtype {array.dtype}")
        require(array.shape[:1] == (rows,), f"{head}: {name} has shape {array.shape}, and there are {rows} rows")
    masks = _masks(batch)
    texts = [a for name, a in batch.arrays.items() if a.ndim == 2 and _is_text(name, batch)]
    longest = max((a.shape[1] for a in texts), default=0)
    require(longest <= SEQ + TARGET + 3, f"{head}: {longest} tokens in a row, more than seq_len and target_len allow")
    require(
        batch.tokens > 0 and batch.padding_tokens >= 0, f"{head}: tokens {batch.tokens}, padding {batch.padding_tokens}"
    )
    if masks:
        counted = int(sum(mask.sum() for mask in masks.values()))
        require(batch.tokens == counted, f"{head}: a batch says {batch.tokens} tokens, and its masks {counted}")
        positions = sum(mask.size for mask in masks.values())
        said = batch.tokens + batch.padding_tokens
        require(said == positions, f"{head}: tokens and padding are {said}, and its masks have {positions} positions")


def _masks(batch: Batch) -> dict[str, np.ndarray]:
    """Return the arrays that say where there are tokens: masks, and for a decoder without one, where it has labels."""
    masks = {name: a for name, a in batch.arrays.items() if name.endswith("mask") and name != "answer_mask"}
    if "decoder_input_ids" in batch.arrays and "decoder_attention_mask" not in masks and "labels" in batch.arrays:
        masks["labels"] = batch.arrays["labels"] != IGNORE
    return masks


def _is_text(name: str, batch: Batch) -> bool:
    """Return whether an array holds rows of text: `input_ids`, or an array with a mask (drawn negatives have none)."""
    if name == "input_ids":
        return True
    stem = name.removesuffix("ids").removesuffix("mask").removesuffix("input_")
    return any(mask in batch.arrays for mask in (f"{stem}attention_mask", f"{stem}mask"))


def _same(subject: Subject, one: Batch, other: Batch, what: str) -> None:
    import numpy as np

    same = one.arrays.keys() == other.arrays.keys() and all(
        np.array_equal(one.arrays[name], other.arrays[name]) for name in one.arrays
    )
    subject.require(same, f"{what} make another batch; draw from the features and the seed (layouts.content_rng)")


@check("model", says="its outputs have the shapes and dtypes of each head")
def outputs(subject: Subject) -> None:
    """Look at the outputs of the module (torch), and at the predictions of the engine."""
    for head in heads(subject):
        engine = engine_of(subject, head)
        batch = batch_of(subject.spec, head, features_of(head))
        value = forward_loss(engine, batch)
        subject.require(math.isfinite(value), f"{head}: the loss of the initial weights is {value}")
        if subject.spec.engine == "torch":
            _torch_outputs(subject, head, engine, batch)
        _predictions(subject, head, switch_to_eval(engine))


def _torch_outputs(subject: Subject, head: str, engine: Any, batch: Batch) -> None:
    require = subject.require
    arrays = engine.copy(batch)
    out = engine.module(**arrays)
    require(isinstance(out, dict) and "loss" in out, f"{head}: forward returns no dict with a loss")
    require(out["loss"].ndim == 0, f"{head}: the loss has shape {tuple(out['loss'].shape)}; return a scalar")
    require(
        str(out["loss"].dtype) == "torch.float32", f"{head}: the loss is {out['loss'].dtype}; compute it in float32"
    )
    rows = batch.examples
    width = next(iter(a.shape[1] for a in batch.arrays.values() if a.ndim == 2))
    labels = batch.arrays.get("labels")
    shapes: dict[str, dict[str, tuple[int, ...]]] = {
        "classify": {"logits": (rows, LABELS)},
        "span": dict.fromkeys(("start_logits", "end_logits"), batch.arrays["answer_mask"].shape)
        if "answer_mask" in batch.arrays
        else {"start_logits": (rows, width)},
        "generate": {"logits": (*labels.shape, V)} if labels is not None else {},
        "pretrain": {},  # `nll` is looked at where it is scored
    }
    wanted = shapes[head]
    for name, shape in wanted.items():
        require(name in out, f"{head}: forward returns no {name!r} (it returns {', '.join(out)})")
        actual = tuple(out[name].shape)
        require(actual == tuple(shape), f"{head}: {name} has shape {actual}, and {tuple(shape)} is the head's")
        require(out[name].device == arrays[next(iter(arrays))].device, f"{head}: {name} is on {out[name].device}")
    if head == "span" and "answer_mask" in batch.arrays:
        inside = arrays["answer_mask"] == 1
        for name in wanted:
            require(
                not out[name][~inside].isfinite().any(), f"span: {name} is finite where no answer may be; write -inf"
            )


def _predictions(subject: Subject, head: str, engine: Any) -> None:
    rows = features_of(head)
    batch = batch_of(subject.spec, head, rows, train=False)
    predictions = engine.predict(engine.copy(batch), max_new_tokens=TARGET)
    require = subject.require
    width = max(a.shape[1] for name, a in batch.arrays.items() if a.ndim == 2 and _is_text(name, batch))
    most = width if any(name.endswith("mask") for name in batch.arrays) else width**2  # tokens, or pairs of them
    require(len(predictions) == len(rows), f"{head}: {len(predictions)} predictions of {len(rows)} rows")
    for one, row in zip(predictions, rows, strict=True):
        if head == "classify":
            require(isinstance(one, int) and 0 <= one < LABELS, f"classify: it predicts class {one!r} of {LABELS}")
        elif head == "span":
            good = len(one) == 2 and 0 <= one[0] <= one[1] < len(row["context"])
            require(good, f"span: it predicts {one!r}, and the context has {len(row['context'])} tokens")
        elif head == "generate":
            good = len(one) <= TARGET and all(isinstance(i, int) and 0 <= i < V for i in one)
            require(good, f"generate: it makes {one!r}; at most {TARGET} ids below {V}")
            require(SPECIAL.eos not in one, "generate: it goes on after the end")
        else:
            good = math.isfinite(one["nll"]) and one["nll"] >= 0 and 0 <= one["tokens"] <= most
            require(good, f"pretrain: it scores {one!r}; nll is in nats, summed over at most {most} predicted tokens")


@check("model", says="the same seed gives the same weights, losses and predictions")
def seed(subject: Subject) -> None:
    """Build and train twice."""
    for head in heads(subject):
        batch = batch_of(subject.spec, head, features_of(head))
        first, second = (train_steps(training_engine(subject, head), batch, 3) for _ in range(2))
        close = all(math.isclose(a, b, rel_tol=1e-6) for a, b in zip(first, second, strict=True))
        subject.require(close, f"{head}: the losses of two trainings from one seed are {first} and {second}")
        shown = batch_of(subject.spec, head, features_of(head), train=False)
        engine = switch_to_eval(engine_of(subject, head))
        one, other = (engine.predict(engine.copy(shown), max_new_tokens=TARGET) for _ in range(2))
        subject.require(one == other, f"{head}: it predicts {one!r:.60} and then {other!r:.60} of the same batch")


@check("model", says="the loss falls on a batch that can be learned")
def learns(subject: Subject) -> None:
    """Show one batch again and again at the model's own learning rate."""
    for head in heads(subject):
        losses = train_steps(
            training_engine(subject, head),
            batch_of(subject.spec, head, features_of(head, (*LENGTHS, 8, 10, 6, 11))),
            STEPS,
        )
        subject.require(all(map(math.isfinite, losses)), f"{head}: the loss becomes {losses[-1]}")
        why = f"{head}: after {STEPS} steps on one batch the loss is {losses[-1]:.3g}, and it began at {losses[0]:.3g}"
        subject.require(
            losses[-1] < FALLS_TO * losses[0], f"{why}; see learning_rate, and whether all layers get gradients"
        )


@check("model", says="its loss depends on what it reads")
def reads(subject: Subject) -> None:
    """Change the tokens and nothing else."""
    import numpy as np

    for head in heads(subject):
        engine = engine_of(subject, head)
        batch = batch_of(subject.spec, head, features_of(head))
        names = [
            n
            for n, a in batch.arrays.items()
            if a.ndim == 2 and a.dtype.kind == "i" and n.endswith("ids") and "type" not in n
        ]
        if not names:
            raise NotHere("its layout has no array of token ids")
        other = {
            n: np.where(batch.arrays[n] > SPECIAL.mask, V - 1 - (batch.arrays[n] - SPECIAL.mask - 1), batch.arrays[n])
            for n in names
        }
        engine_changes = loss_of(engine, batch) != loss_of(engine, with_arrays(batch, **other))
        learner = training_engine(subject, head)
        train_steps(learner, batch, 5)
        changes = engine_changes or loss_of(learner, batch) != loss_of(learner, with_arrays(batch, **other))
        subject.require(changes, f"{head}: other tokens give the same loss: it does not read its input")


@check("model", says="padding changes nothing")
def padding(subject: Subject) -> None:
    """Add padding to a batch, and predict rows alone."""
    masked = False
    for head in heads(subject):
        engine = engine_of(subject, head)
        batch = batch_of(subject.spec, head, features_of(head))
        wide = _widen(batch)
        if wide is not None:
            masked = True
            narrow, padded = loss_of(engine, batch), loss_of(engine, wide)
            close = math.isclose(narrow, padded, rel_tol=CLOSE)
            subject.require(
                close, f"{head}: with five columns of padding more the loss is {padded:.6g} instead of {narrow:.6g}"
            )
        if wide is not None and head in ("classify", "generate", "span"):
            _alone(subject, head, engine)
    if not masked:
        raise NotHere("its layouts have no mask")


def _widen(batch: Batch, extra: int = 5) -> Batch | None:
    """Return the batch with more padding, None without a mask."""
    import numpy as np

    shapes = {
        array.shape
        for name, array in batch.arrays.items()
        if name.endswith("attention_mask") or name == "question_mask"
    }
    if not shapes:
        return None
    wide = {}
    for name, array in batch.arrays.items():
        if array.ndim == 2 and array.shape in shapes:
            fill = IGNORE if name == "labels" else 0 if "ids" not in name else SPECIAL.pad
            wide[name] = np.pad(array, ((0, 0), (0, extra)), constant_values=fill)
    return with_arrays(batch, **wide)


def _alone(subject: Subject, head: str, engine: Any) -> None:
    rows = features_of(head)
    batch = batch_of(subject.spec, head, rows, train=False)
    together = engine.predict(engine.copy(batch), max_new_tokens=TARGET)
    for number, row in enumerate(rows):
        single = batch_of(subject.spec, head, [row], train=False)
        alone = engine.predict(engine.copy(single), max_new_tokens=TARGET)[0]
        why = f"{head}: of a row alone it predicts {alone!r:.60}, and among longer ones {together[number]!r:.60}"
        subject.require(alone == together[number], why)


@check("model", says="it does not see the tokens that it is to predict")
def causality(subject: Subject) -> None:
    """Change later tokens, and ask for the loss of earlier ones only."""
    import numpy as np

    tried = False
    for head in heads(subject):
        batch = batch_of(subject.spec, head, features_of(head))
        labels = batch.arrays.get("labels")
        read = "decoder_input_ids" if "decoder_input_ids" in batch.arrays else "input_ids"
        ids = batch.arrays.get(read)
        if head not in ("generate", "pretrain") or (head == "pretrain" and subject.spec.masked):
            continue
        if labels is None or ids is None or labels.shape != ids.shape:
            continue
        tried = True
        asked = [int(np.flatnonzero(row != IGNORE)[1]) for row in labels]  # the second token that is predicted
        place = np.arange(labels.shape[1])[None, :]
        at = np.array(asked)[:, None]
        only = np.where(place == at, labels, IGNORE)
        first = at + (1 if read == "decoder_input_ids" else 0)  # the first token that may not be seen
        hidden = (place >= first) & (ids > SPECIAL.mask)
        changed = np.where(hidden, SPECIAL.mask + 1 + (ids - SPECIAL.mask) % (V - SPECIAL.mask - 1), ids)
        engine = engine_of(subject, head)
        before = _loss_of_asked(engine, head, with_arrays(batch, labels=only))
        after = _loss_of_asked(engine, head, with_arrays(batch, labels=only, **{read: changed}))
        why = f"{head}: other tokens after it change the loss of a token from {before:.6g} to {after:.6g}"
        subject.require(math.isclose(before, after, rel_tol=1e-5), why)
    if not tried:
        raise NotHere("it predicts no token from those before it, one by one")


def _loss_of_asked(engine: Any, head: str, batch: Batch) -> float:
    """Return the loss; of pretraining, forward in time only: a model may have another direction."""
    if head == "generate":
        return loss_of(engine, batch)
    return float(sum(one["nll"] for one in switch_to_eval(engine).predict(engine.copy(batch), max_new_tokens=TARGET)))


@check("model", says="its formula for FLOPs agrees with what is counted")
def flops(subject: Subject) -> None:
    """Hold `flops` against the operators that run."""
    if subject.spec.flops is None:
        raise NotHere("it gives no formula (ModelSpec.flops)")
    known = False
    for head in heads(subject):
        for train in (True, False):
            engine = training_engine(subject, head) if train else engine_of(subject, head)
            batch = batch_of(subject.spec, head, features_of(head), train=train)
            seen = engine.trace(batch, train=train, max_new_tokens=TARGET)
            shapes = {name: tuple(shape) for name, shape in seen["shapes"].items()}
            said = subject.spec.flops(request_of(subject, head), shapes)
            if said is None:
                continue
            known = True
            said *= 3 if train else 1
            totals = seen["totals"]
            if totals["flops"] is None:
                raise NotHere("its engine counts no operators")
            counted = totals["flops"] - totals.get("recomputed_flops", 0)
            close = math.isclose(said, counted, rel_tol=FLOPS_CLOSE)
            what = "a training step" if train else "a prediction"
            subject.require(
                close, f"{head}: its formula says {said:.6g} FLOPs of {what}, and {counted:.6g} are counted"
            )
    if not known:
        raise NotHere("its formula does not know this model")


@check("model", says="its number of parameters is the one that it says")
def parameters(subject: Subject) -> None:
    """Count them."""
    if subject.spec.parameters is None:
        raise NotHere("it does not say (ModelSpec.parameters)")
    known = [
        (h, subject.spec.parameters(request_of(subject, h)), engine_of(subject, h).parameters()) for h in heads(subject)
    ]
    for head, said, counted in known:
        subject.require(said in (None, counted), f"{head}: it says {said} parameters and has {counted}")
    if all(said is None for _, said, _ in known):
        raise NotHere("its formula does not know this model")


@check("model", says="half precision has a finite loss near that of full precision")
def half(subject: Subject) -> None:
    """Build it in bfloat16 and under autocast."""
    reasons = []
    for head in heads(subject):
        batch = batch_of(subject.spec, head, features_of(head))
        full = loss_of(engine_of(subject, head), batch)
        for precision in (PrecisionSpec("half", autocast="bfloat16"), PrecisionSpec("half", parameters="bfloat16")):
            try:
                loss = loss_of(engine_of(subject, head, precision=precision), batch)
            except Unsupported as reason:
                reasons.append(str(reason))
                continue
            except RuntimeError as error:
                if "not implemented" not in str(error) and "primitive" not in str(error):
                    raise
                reasons.append(str(error).splitlines()[0])
                continue
            how = "under autocast" if precision.autocast else "in bfloat16"
            subject.require(
                math.isclose(loss, full, rel_tol=0.05),
                f"{head}: the loss {how} is {loss:.4g}, and {full:.4g} in float32",
            )
    if len(reasons) == 2 * len(subject.spec.layouts):
        raise NotHere(reasons[0])


@check("model", says="a checkpoint brings it back, and pretraining carries over")
def checkpoint(subject: Subject) -> None:
    """Save and load it; load the pretrained model into every other head."""
    path = subject.folder / "model.safetensors"
    for head in heads(subject):
        batch = batch_of(subject.spec, head, features_of(head))
        engine = training_engine(subject, head)
        train_steps(engine, batch, 3)
        engine.save(path)
        other = engine_of(subject, head, seed=1)
        other.load(path, strict=True)
        one, two = loss_of(engine, batch), loss_of(other, batch)
        subject.require(
            math.isclose(one, two, rel_tol=1e-5), f"{head}: loaded again its loss is {two:.6g} instead of {one:.6g}"
        )
    if "pretrain" in subject.spec.layouts:
        engine_of(subject, "pretrain").save(path)
        for head in (h for h in heads(subject) if h != "pretrain"):
            taken = engine_of(subject, head, seed=1).load(path, strict=False)
            subject.require(bool(taken), f"{head}: it takes no tensor from its pretraining; see `load_pretrained`")


@check("model", says="what it cannot do it refuses in one line")
def unsupported(subject: Subject) -> None:
    """Ask for texts that are too long, and for weights that do not exist."""
    tried = []
    for head in heads(subject):
        longest = subject.spec.max_len(next(iter(subject.spec.sizes)))
        if longest is not None:
            tried.append(head)
            _refuses(subject, head, f"seq_len {longest + 1}, longer than max_len", seq_len=longest + 1)
        if request_of(subject, head).weights is None and subject.spec.engine == "torch":
            tried.append(head)
            _refuses(subject, head, "weights that are none", weights=str(subject.folder / "nothing"))
    if not tried:
        raise NotHere("there is nothing that it must refuse")


def _refuses(subject: Subject, head: str, what: str, **changes: Any) -> None:
    try:
        engine_of(subject, head, **changes)
    except (LlmbenchError, OSError):  # it looked for the weights, and there are none
        return
    except Exception as error:
        raise Failed(
            f"{head}: asked for {what} it raises {type(error).__name__}; raise Unsupported or UserError"
        ) from None
    raise Failed(f"{head}: asked for {what} it builds a model as if nothing were wrong; raise Unsupported or UserError")
