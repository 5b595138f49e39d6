"""What recurrent models are made of: stacks of cells, two directions, attention, and what they cost.

Shapes: `B` batch, `L` tokens of the input, `T` of the target, `H` hidden, `V` vocabulary. Rows are padded on the right.
The backward direction reads each row reversed within its own length, so that both directions meet the padding last and
need neither packing nor sorting. torch is imported inside the functions only.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import llmbench
from llmbench_plugins.models.heads import linear_flops, linear_parameters

#: Blocks of H rows in a cell's weights: its gates and its candidate (Elman 1990, Cho et al. 2014, Hochreiter and
#: Schmidhuber 1997).
GATES: Mapping[str, int] = MappingProxyType({"rnn": 1, "gru": 3, "lstm": 4})


def stack(inputs: int, request: llmbench.BuildRequest, layers: int) -> Any:
    """Return `layers` layers of the cell that the size's configuration names, over (B, L, inputs)."""
    from torch import nn

    kinds = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
    dropout = request.config["dropout"] if layers > 1 else 0.0
    return kinds[request.config["cell"]](
        inputs, request.config["hidden"], num_layers=layers, batch_first=True, dropout=dropout
    )


def states_of(cell: str) -> int:
    """Return how many vectors of H a cell hands from step to step: two of an LSTM, else one."""
    return 2 if cell == "lstm" else 1


def reverse_rows(values: Any, mask_BL: Any) -> Any:
    """Return `values` (B, L) or (B, L, H) with each row's tokens in reverse order and its padding in place."""
    import torch

    lengths_B1, steps_L = mask_BL.sum(1, keepdim=True), torch.arange(mask_BL.shape[1], device=mask_BL.device)
    index = torch.where(steps_L < lengths_B1, lengths_B1 - 1 - steps_L, steps_L)
    return values.gather(1, index if values.dim() == 2 else index[:, :, None].expand_as(values))


def softmax_mean(scores_BTL: Any, values_BLH: Any, mask_BL: Any) -> Any:
    """Return, for each query, the mean of `values_BLH` weighted by the softmax, in float32, of its scores."""
    weights_BTL = scores_BTL.float().masked_fill(mask_BL[:, None] == 0, float("-inf")).softmax(-1)
    return weights_BTL.to(values_BLH.dtype) @ values_BLH


def attend(query_BTH: Any, keys_BLH: Any, values_BLH: Any, mask_BL: Any) -> Any:
    """Return, for each query, the mean of `values_BLH` weighted by dot products."""
    return softmax_mean(query_BTH @ keys_BLH.transpose(1, 2), values_BLH, mask_BL)


def directions(inputs: int, request: llmbench.BuildRequest, layers: int) -> Any:
    """Return a module that reads (B, L, inputs) both ways and returns the states of both, joined (B, L, 2H)."""
    import torch
    from torch import nn

    class Directions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ahead = stack(inputs, request, layers)
            self.back = stack(inputs, request, layers)

        def forward(self, inputs_BLE: Any, mask_BL: Any) -> Any:
            ahead_BLH, _ = self.ahead(inputs_BLE)
            back_BLH, _ = self.back(reverse_rows(inputs_BLE, mask_BL))
            return torch.cat([ahead_BLH, reverse_rows(back_BLH, mask_BL)], -1)

    return Directions()


def ends(states_BLH: Any, mask_BL: Any) -> tuple[Any, Any]:
    """Return the state (H) of each direction after its last token."""
    import torch

    hidden = states_BLH.shape[-1] // 2
    rows = torch.arange(len(mask_BL), device=mask_BL.device)
    return states_BLH[rows, mask_BL.sum(1) - 1, :hidden], states_BLH[:, 0, hidden:]


def body(request: llmbench.BuildRequest) -> Any:
    """Return the part that all heads share: the embedding and both stacks of layers."""
    from torch import nn

    hidden = request.config["hidden"]

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding = nn.Embedding(request.vocab_size, hidden)
            nn.init.normal_(self.embedding.weight, std=hidden**-0.5)
            self.dropout = nn.Dropout(request.config["dropout"])
            self.directions = directions(hidden, request, request.config["layers"])

        def embed(self, ids_BL: Any) -> Any:
            return self.dropout(self.embedding(ids_BL))

        def forward(self, ids_BL: Any, mask_BL: Any) -> Any:
            return self.dropout(self.directions(self.embed(ids_BL), mask_BL))

    return Body()


def make_tied_head(body: Any) -> Any:
    """Return the output projection (H -> V) that shares `body`'s embedding and has a bias of its own."""
    from torch import nn

    vocab_size, hidden = body.embedding.weight.shape
    head = nn.Linear(hidden, vocab_size)
    head.weight = body.embedding.weight
    nn.init.zeros_(head.bias)
    return head


def refuse_weights(name: str, request: llmbench.BuildRequest) -> None:
    """Raise UserError when `weights` are asked for: none are known for this model."""
    if request.weights is not None:
        raise llmbench.UserError(f"weights: {request.weights!r} cannot be loaded into {name}; leave `weights` out")


def stack_flops(tokens: float, inputs: int, config: Mapping[str, Any], layers: int) -> float:
    """Return the FLOPs of one direction: the gates of H cells, each from the inputs and H states."""
    hidden, gates = config["hidden"], GATES[config["cell"]]
    first = linear_flops(tokens, inputs + hidden, gates * hidden)
    return first + (layers - 1) * linear_flops(tokens, 2 * hidden, gates * hidden)


def stack_parameters(inputs: int, config: Mapping[str, Any], layers: int) -> int:
    """Return the parameters of one direction: each gate has weights and a bias for the inputs, and for the states."""
    hidden, gates = config["hidden"], GATES[config["cell"]]
    states = linear_parameters(hidden, gates * hidden)
    return linear_parameters(inputs, gates * hidden) + states + (layers - 1) * 2 * states
