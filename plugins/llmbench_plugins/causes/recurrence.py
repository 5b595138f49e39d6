"""`recurrence`: time steps that wait for each other. Removed by previous states that are known.

The states come from a pass that was recorded, so all time steps become one product with the same weights and gates; the
gradient of the previous states is computed as before, it only flows no further.
Shapes: `B` rows, `L` time steps, `I` inputs, `H` hidden, `G` gates (LSTM 4, GRU 3, RNN 1).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import llmbench
from llmbench_plugins.causes._cells import CellLoops
from llmbench_plugins.causes._pairs import measure_at_pace
from llmbench_plugins.causes._swap import Function, forwards, substitute


def _find(trial: llmbench.Trial) -> tuple[list[Any], list[Any]]:
    """Return the fused recurrent layers and the cells that a step calls."""
    from torch import nn

    if trial.generates:
        raise llmbench.Unisolated("tokens are made one by one: see the cause decoding")
    if trial.compiled:
        raise llmbench.Unisolated("compiled: its operators cannot be replaced")
    called: dict[int, Any] = {}

    def note(inner: Any) -> Function:  # a bound method
        def call(*args: Any, **kwargs: Any) -> Any:
            called[id(inner.__self__)] = inner.__self__
            return inner(*args, **kwargs)

        return call

    layers: list[Any] = [m for m in trial.module.modules() if isinstance(m, nn.RNNBase)]
    cells: list[Any] = [m for m in trial.module.modules() if isinstance(m, nn.RNNCellBase)]
    with substitute(forwards([*layers, *cells]), note):
        trial.step(trial.pool[0])
    layers, cells = ([m for m in some if id(m) in called] for some in (layers, cells))
    if not layers and not cells:
        raise llmbench.DoesNotApply("a step calls no recurrent layer of torch")
    if any(getattr(m, "proj_size", 0) for m in layers):
        raise llmbench.Unisolated("projected LSTMs have no version without the recurrence here")
    return layers, cells


# --- states that are known ------------------------------------------------------------------------------


def _cell(mode: str, x_gates: Any, h_gates: Any, before: Any) -> Any:
    """Return the new states (..., H) from both sides' gates (..., G H); `before`: (h, c) of an LSTM, else h."""
    import torch

    if mode == "LSTM":
        i, f, g, o = (x_gates + h_gates).chunk(4, -1)
        c = f.sigmoid() * before[1] + i.sigmoid() * g.tanh()
        return o.sigmoid() * c.tanh(), c
    if mode == "GRU":
        (xr, xz, xn), (hr, hz, hn) = x_gates.chunk(3, -1), h_gates.chunk(3, -1)
        z = (xz + hz).sigmoid()
        return (1 - z) * (xn + (xr + hr).sigmoid() * hn).tanh() + z * before[0], None
    return (torch.relu if mode == "RNN_RELU" else torch.tanh)(x_gates + h_gates), None


def _weights(layer: Any, number: int, back: bool) -> tuple[Any, ...]:
    end = f"l{number}{'_reverse' if back else ''}"
    biases = [getattr(layer, f"bias_{side}_{end}") if layer.bias else None for side in ("ih", "hh")]
    return getattr(layer, f"weight_ih_{end}"), getattr(layer, f"weight_hh_{end}"), *biases


def _record(layer: Any, x_LBI: Any, state: Any) -> list[list[Any]]:
    """Return per layer and direction the states before each time step: (L, B, H), of an LSTM also the cells'."""
    import torch
    from torch.nn.functional import linear

    directions = 2 if layer.bidirectional else 1
    known: list[list[Any]] = []
    with torch.no_grad():
        for number in range(layer.num_layers):
            outputs = []
            for back in range(directions):
                given: Any = [t if t is None else t.detach() for t in _weights(layer, number, bool(back))]
                w_ih, w_hh, b_ih, b_hh = given
                place = number * directions + back
                zero = x_LBI.new_zeros(x_LBI.shape[1], layer.hidden_size)
                h, c = (zero, zero) if state is None else (state[0][place], state[-1][place])
                x = x_LBI.flip(0) if back else x_LBI
                x_gates = linear(x, w_ih, b_ih)
                before_h, before_c, made = [], [], []
                for step in range(len(x)):
                    before_h.append(h)
                    before_c.append(c)
                    h, new_c = _cell(layer.mode, x_gates[step], linear(h, w_hh, b_hh), (h, c))
                    c = new_c if new_c is not None else c
                    made.append(h)
                known.append([torch.stack(before_h), torch.stack(before_c) if layer.mode == "LSTM" else None])
                out = torch.stack(made)
                outputs.append(out.flip(0) if back else out)
            x_LBI = torch.cat(outputs, -1)
    return known


def _at_once(layer: Any, x_NI: Any, weights: Sequence[Any], before: Sequence[Any]) -> Any:
    """Return the states (N, H) after one time step of N rows, by the kernel that the layer itself uses."""
    import torch

    kernels: dict[str, Any] = {"LSTM": torch._VF.lstm, "GRU": torch._VF.gru, "RNN_TANH": torch._VF.rnn_tanh}
    kernels["RNN_RELU"] = torch._VF.rnn_relu
    states = tuple(t[None] for t in before if t is not None)
    given = states if layer.mode == "LSTM" else states[0]
    flat = [t for t in weights if t is not None]
    result = kernels[layer.mode](x_NI[None], given, flat, bool(layer.bias), 1, 0.0, layer.training, False, False)
    return [part[0] for part in result]


def _parallel(layer: Any, x_LBI: Any, known: list[list[Any]]) -> tuple[Any, list[Any], list[Any]]:
    """Return outputs (L, B, H), and last states and cells per layer and direction, from states that are known.

    All time steps are rows of one time step, so the layer's own fused kernel does them all at once.
    """
    import torch
    from torch.nn.functional import dropout

    directions = 2 if layer.bidirectional else 1
    length, rows = x_LBI.shape[:2]
    last_h, last_c = [], []
    for number in range(layer.num_layers):
        outputs = []
        for back in range(directions):
            before = [
                t if t is None else t.flatten(0, 1).detach().requires_grad_(torch.is_grad_enabled())
                for t in known[number * directions + back]
            ]
            x = x_LBI.flip(0) if back else x_LBI
            made = _at_once(layer, x.reshape(length * rows, -1), _weights(layer, number, bool(back)), before)
            h = made[0].view(length, rows, -1)
            last_h.append(h[-1])
            last_c.append(made[-1].view(length, rows, -1)[-1])
            outputs.append(h.flip(0) if back else h)
        x_LBI = torch.cat(outputs, -1) if directions > 1 else outputs[0]
        if layer.dropout and number < layer.num_layers - 1:
            x_LBI = dropout(x_LBI, layer.dropout, layer.training)
    return x_LBI, last_h, last_c


class _Layers:
    """Recurrent layers without their recurrence. States are recorded once per layer, place in the step and shape."""

    def __init__(self, layers: list[Any]) -> None:
        self.layers = layers
        self.known: dict[Any, list[list[Any]]] = {}

    def without(self, inner: Function) -> Function:
        """Return the forward pass of a layer with known states."""
        layer = inner.__self__  # type: ignore[attr-defined]

        def call(x: Any, state: Any = None) -> Any:
            import torch

            if isinstance(x, torch.nn.utils.rnn.PackedSequence):
                return self._run_packed(layer, x)
            single = x.dim() == 2
            x_LBI = x[:, None] if single else x.transpose(0, 1) if layer.batch_first else x
            if torch.is_autocast_enabled(x.device.type):
                x_LBI = x_LBI.to(torch.get_autocast_dtype(x.device.type))
            pair = state if isinstance(state, tuple) or state is None else (state,)
            if single and pair is not None:
                pair = tuple(s[:, None] for s in pair)
            key = (id(layer), tuple(x_LBI.shape), x_LBI.dtype)
            if key not in self.known:
                self.known[key] = _record(layer, x_LBI.detach(), pair)
            out, last_h, last_c = _parallel(layer, x_LBI, self.known[key])
            h, c = torch.stack(last_h), torch.stack(last_c)
            if single:
                out, h, c = out[:, 0], h[:, 0], c[:, 0]
            elif layer.batch_first:
                out = out.transpose(0, 1)
            return out, ((h, c) if layer.mode == "LSTM" else h)

        return call

    def _run_packed(self, layer: Any, packed: Any) -> Any:
        """Return the outputs of a packed sequence (N, I); backwards its rows get states of the same size."""
        import torch

        sizes = packed.batch_sizes
        key = (id(layer), tuple(sizes.tolist()), packed.data.dtype)
        if key not in self.known:
            plain = torch.nn.utils.rnn.PackedSequence(packed.data.detach(), sizes)
            x_LBI = torch.nn.utils.rnn.pad_packed_sequence(plain)[0]
            real_LB = torch.arange(x_LBI.shape[1])[None] < sizes[:, None]
            states = _record(layer, x_LBI, None)
            self.known[key] = [[t if t is None else t[real_LB][:, None] for t in parts] for parts in states]
        out, last_h, last_c = _parallel(layer, packed.data[:, None], self.known[key])
        rows = int(sizes[0])
        h, c = (torch.cat([part.expand(1, rows, -1) for part in last]) for last in (last_h, last_c))
        return packed._replace(data=out[:, 0]), ((h, c) if layer.mode == "LSTM" else h)

    def use_known_states(self) -> Any:
        """Return the context in which the layers' steps do not wait for each other."""
        return substitute(forwards(self.layers), self.without)


def _alone_s(trial: llmbench.Trial, layers: list[Any]) -> float:
    """Return the seconds per step of the layers alone, with states that are known, on inputs of the step's shapes."""
    import torch

    given: list[tuple[Any, Any]] = []

    def note(inner: Function) -> Function:
        def call(x: Any, *args: Any, **kwargs: Any) -> Any:
            given.append((inner.__self__, x))  # type: ignore[attr-defined]
            return inner(x, *args, **kwargs)

        return call

    with substitute(forwards(layers), note):
        trial.step(trial.pool[0])
    total = 0.0
    for layer, x in given:
        alone = _Layers([layer])
        packed = not isinstance(x, torch.Tensor)
        data = (x.data if packed else x).detach().requires_grad_(trial.trains)
        whole = x._replace(data=data) if packed else data

        def call(layer: Any = layer, whole: Any = whole, data: Any = data) -> None:
            with torch.set_grad_enabled(trial.trains):
                out = layer(whole)[0]
                out = out if isinstance(out, torch.Tensor) else out.data
                if trial.trains:
                    torch.autograd.grad(out, [data, *layer.parameters()], out.detach(), allow_unused=True)

        def once(call: Callable[[], None] = call, alone: _Layers = alone) -> float:
            with alone.use_known_states():
                return trial.once(call)

        once()  # warm up, and record
        total += measure_at_pace(trial, once)
    return total


def probe(trial: llmbench.Trial) -> dict[str, Any]:
    """Return the seconds per step in recurrent layers and cells, and of their products done at once.

    For another engine than torch nothing is timed; whether it applies shows when it is removed.
    """
    if trial.engine != "torch":
        with trial.without_recurrence():
            return {}
    layers, cells = _find(trial)
    facts: dict[str, Any] = {"layers": len(layers), "cells": len(cells)}
    facts["part_s"] = trial.timed(lambda timer: substitute(forwards([*layers, *cells]), timer))
    facts["known_s"] = _alone_s(trial, layers)
    if cells:
        loops = CellLoops(cells, trial.module)
        loops.record(trial)
        facts["known_s"] += loops.measure_s(trial)
    return facts


def predict(record: Mapping[str, Any], facts: Mapping[str, Any]) -> float | None:
    """T / (T - t_rec + t_known), t_known of the layers alone with all time steps at once."""
    return llmbench.without(record, facts["part_s"], facts["known_s"]) if facts else None


def intervene(trial: llmbench.Trial) -> llmbench.Intervention:
    """Give every time step the state before it."""
    if trial.engine != "torch":
        return llmbench.Intervention(trial.without_recurrence)
    layers, cells = _find(trial)
    fused, loops = _Layers(layers), CellLoops(cells, trial.module)
    if cells:
        loops.record(trial)

    @contextlib.contextmanager
    def change() -> Iterator[None]:
        with fused.use_known_states(), loops.join_calls():
            yield

    with change():  # records the states of all shapes that will come
        for batch in trial.pool:
            trial.step(batch)
    return llmbench.Intervention(change, check={"layers": len(layers), "cells": len(cells)})


@llmbench.hookimpl
def llmbench_causes() -> list[llmbench.CauseSpec]:
    """Return the cause."""
    return [
        llmbench.CauseSpec(
            name="recurrence",
            axis="where",
            cause_class="algorithm",
            probe=probe,
            predict=predict,
            intervene=intervene,
            description="time steps that wait for each other",
            advice="more rows per step, fused recurrent kernels, a model without recurrence (attention, convolution)",
            engines=None,
        )
    ]
