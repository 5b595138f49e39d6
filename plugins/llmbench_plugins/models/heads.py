"""What the built-in models' heads have in common: losses in float32, span scores, greedy decoding, transfer.

Shapes: `B` batch, `L` tokens, `H` hidden, `V` vocabulary. torch is imported inside the functions only.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import llmbench
from llmbench.layouts import IGNORE

ADAPTED = ".base_layer."  # what peft puts into the names of weights that have an adapter


def token_losses(logits_BLV: Any, labels_BL: Any) -> tuple[Any, Any, Any]:
    """Return the mean loss per predicted token (scalar), nats per row (B,), and predicted tokens per row (B,).

    The softmax runs in float32 whatever the logits are; positions labelled IGNORE count for nothing, and a batch
    without any label has loss 0 rather than nan.
    """
    from torch.nn.functional import cross_entropy

    losses = cross_entropy(
        logits_BLV.flatten(0, 1).float(), labels_BL.flatten(), reduction="none", ignore_index=IGNORE
    ).view(labels_BL.shape)
    nll_B, tokens_B = losses.sum(1), (labels_BL != IGNORE).sum(1)
    return nll_B.sum() / tokens_B.sum().clamp(min=1), nll_B, tokens_B


def losses_and_logits(head: Any, hidden_BLH: Any, labels_BL: Any, labelled: bool) -> tuple[Any, Any, Any, Any]:
    """Return the losses of `token_losses`, and the logits of `head` (B, L, V), None where only labels are projected.

    With `labelled` the head sees the N positions that have a label, and no others: the same loss and gradients up to
    rounding, since what has no label has no gradient.
    """
    import torch
    from torch.nn.functional import cross_entropy

    if not labelled:
        logits_BLV = head(hidden_BLH)
        return *token_losses(logits_BLV, labels_BL), logits_BLV
    rows_N, places_N = torch.nonzero(labels_BL != IGNORE, as_tuple=True)
    logits_NV = head(hidden_BLH[rows_N, places_N])
    losses_N = cross_entropy(logits_NV.float(), labels_BL[rows_N, places_N], reduction="none")
    nll_B = losses_N.new_zeros(len(labels_BL)).index_add(0, rows_N, losses_N)
    tokens_B = (labels_BL != IGNORE).sum(1)
    return losses_N.sum() / max(1, len(losses_N)), nll_B, tokens_B, None


def next_token_labels(labels_BL: Any) -> Any:
    """Return `labels_BL` moved one place to the left: position i is to predict token i + 1, the last one nothing."""
    from torch.nn.functional import pad

    return pad(labels_BL[:, 1:], (0, 1), value=IGNORE)


def class_output(logits_BC: Any, labels_B: Any | None) -> dict[str, Any]:
    """Return `logits` and, with labels, the mean `loss` in float32."""
    from torch.nn.functional import cross_entropy

    if labels_B is None:
        return {"logits": logits_BC}
    return {"logits": logits_BC, "loss": cross_entropy(logits_BC.float(), labels_B)}


def span_output(scores_BL2: Any, answer_mask: Any, starts_B: Any | None, ends_B: Any | None) -> dict[str, Any]:
    """Return float32 `start_logits` and `end_logits` (B, L), -inf outside of `answer_mask`, and the `loss`.

    The loss is the mean of both cross-entropies over the rows that have an answer (others hold IGNORE).
    """
    start, end = scores_BL2.float().masked_fill(answer_mask[:, :, None] == 0, float("-inf")).unbind(2)
    output = {"start_logits": start, "end_logits": end}
    if starts_B is not None and ends_B is not None:
        first, _, _ = token_losses(start[:, None], starts_B[:, None])
        last, _, _ = token_losses(end[:, None], ends_B[:, None])
        output["loss"] = (first + last) / 2
    return output


def greedy(logits_BV: Any, step: Callable[[Any], Any], max_new_tokens: int, special: llmbench.SpecialTokens) -> Any:
    """Return the most likely continuation, token by token: ids (B, T), `eos` and then `pad` after the end.

    `logits_BV` predict the first token; `step(token_B)` returns the logits after one more. Stops when every row
    has ended or after `max_new_tokens` (at least 1).
    """
    import torch

    ended_B = torch.zeros(len(logits_BV), dtype=torch.bool, device=logits_BV.device)
    tokens = []
    while True:
        token_B = logits_BV.argmax(-1).masked_fill(ended_B, special.pad)
        tokens.append(token_B)
        ended_B = ended_B | (token_B == special.eos)
        if len(tokens) >= max_new_tokens or bool(ended_B.all()):
            return torch.stack(tokens, 1)
        logits_BV = step(token_B)


def take_pretrained(module: Any, state: Mapping[str, Any], copies: Mapping[str, Sequence[str]]) -> list[str]:
    """Copy tensors of equal shape from a checkpoint into `module`; return the checkpoint's names that were used.

    `copies` maps a prefix of the checkpoint to the further prefixes of the module that start from it too; every
    name is first tried as it is.
    """
    import torch

    own = {name.replace(ADAPTED, "."): tensor for name, tensor in module.state_dict().items()}
    taken = []
    for name, tensor in state.items():
        targets = [name]
        for prefix, others in copies.items():
            if name.startswith(prefix):
                targets += [other + name[len(prefix) :] for other in others]
        fitting = [own[t] for t in targets if t in own and own[t].shape == tensor.shape]
        with torch.no_grad():
            for target in fitting:
                target.copy_(tensor)
        if fitting:
            taken.append(name)
    return taken


def with_lora(module: Any, request: llmbench.BuildRequest) -> Any:
    """Return `module` with low-rank adapters (Hu et al. 2021, arXiv 2106.09685) on the transformer's linear layers.

    Where `request.lora` asks for none it is unchanged. Else only adapters and the layers of the head outside of the
    transformer are trained; alpha is twice the rank.
    """
    if request.lora is None:
        return module
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError:
        raise llmbench.Unsupported("low-rank adapters need the package peft: pip install 'llmbench[lora]'") from None
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    inside = ("body.", "encoder.")
    heads = [p for name, p in module.named_parameters() if not name.startswith(inside)]
    tied = {id(p) for name, p in module.named_parameters(remove_duplicate=False) if name.startswith(inside)}
    linear = [
        name
        for name, layer in module.named_modules()
        if isinstance(layer, nn.Linear | Conv1D) and name.startswith(inside) and "lm_head" not in name
    ]
    inject_adapter_in_model(LoraConfig(r=request.lora, lora_alpha=2 * request.lora, target_modules=linear), module)
    for parameter in heads:
        if id(parameter) not in tied:
            parameter.requires_grad_(True)
    if not hasattr(module, "load_pretrained"):
        module.load_pretrained = functools.partial(take_pretrained, module, copies={})
    return module


def plain_linear(inputs: int, outputs: int) -> Any:
    """Return a linear layer drawn from N(0, 0.02), its bias at zero, as BERT and GPT-2 initialise theirs."""
    from torch import nn

    layer = nn.Linear(inputs, outputs)
    nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(layer.bias)
    return layer


def check_positions(request: llmbench.BuildRequest, positions: int, needed: int) -> None:
    """Raise Unsupported when a model with `positions` position embeddings is asked to read `needed` tokens."""
    if needed > positions:
        raise llmbench.Unsupported(
            f"size {request.size!r} has {positions} positions, but {request.head} needs {needed} "
            f"(seq_len {request.seq_len}, target_len {request.target_len}); choose a smaller seq_len or target_len"
        )


def resize_vocabulary(model: Any, vocab_size: int) -> Any:
    """Return a transformers `model` whose embedding has `vocab_size` rows (downloaded weights may have others)."""
    if model.config.vocab_size != vocab_size:
        model.resize_token_embeddings(vocab_size, mean_resizing=False)
    return model


def layer_parameters(hidden: int, inner: int) -> int:
    """Return the parameters of a transformer layer: attention, two linear layers, two normalizations, all biases."""
    return 4 * (hidden + 1) * hidden + linear_parameters(hidden, inner) + linear_parameters(inner, hidden) + 4 * hidden


def linear_parameters(inputs: int, outputs: int) -> int:
    """Return the parameters of a linear layer with bias."""
    return (inputs + 1) * outputs


def layer_flops(tokens: float, keys: float, hidden: int, inner: int) -> float:
    """Return the matmul FLOPs, 2 per multiply-add, of a transformer layer over `tokens` that see `keys` tokens each.

    Per token 8 H^2 for query, key, value and output, 4 H I for the two layers of width I (Kaplan et al. 2020, table 1),
    and 4 H per key for scores and mixing (Chowdhery et al. 2022, appendix B: 12 L H Q T with the backward pass).
    """
    return tokens * (8 * hidden**2 + 4 * hidden * inner + 4 * hidden * keys)


def attention_cache_elements(tokens: float, layers: int, hidden: int) -> float:
    """Return the elements of the keys and values of `tokens` tokens in all layers, for one row."""
    return 2 * tokens * layers * hidden


def wider(config: Mapping[str, Any], x: float, per_head: int = 1) -> dict[str, Any]:
    """Return the configuration with widths (`hidden`, and `inner` and `embedded` where it has them) times `x`.

    The elements of a head are a multiple of `per_head`; a width that is too small for all heads has one.
    """
    heads = config.get("heads", 1)
    out = dict(config)
    if x * config["hidden"] < heads * per_head:
        out |= {name: 1 for name in ("heads", "kv_heads") if name in config}
        heads = 1
    step = heads * per_head
    out["hidden"] = step * max(1, round(x * config["hidden"] / step))
    for name in ("inner", "embedded"):
        if name in config:
            out[name] = max(1, round(config[name] * out["hidden"] / config["hidden"]))
    return out


def linear_flops(rows: float, inputs: int, outputs: int) -> float:
    """Return the FLOPs of a linear layer on `rows` rows."""
    return 2 * rows * inputs * outputs
