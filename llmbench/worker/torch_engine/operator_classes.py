"""What an operator is: its class, its FLOPs, its bytes.

Shapes: `B` batch, `L` tokens, `I` inputs of a layer, `H` hidden, `G` gates of a cell (LSTM 4, GRU 3).

FLOPs are those of matrix products, 2 per multiply-add, as in torch.utils.flop_counter; elementwise work counts as
bytes only. A fused attention counts in full, also where a mask or causality would let a kernel skip half of it.
Its backward recomputes the scores, one of its five products (Dao et al. 2022, algorithm 4).

Bytes are those an operator must move when nothing is kept between operators: each distinct input tensor read once,
each output written once, an in-place operand read and written. Elements that a broadcast repeats count once. Not
counted: views, allocations, arguments of which only the shape is used, rows of a table that no index picks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

#: Operator class by name (no namespace); the first match wins. A batched product (`bmm`) is one of two activations,
#: which in a language model is attention.
PATTERNS: tuple[tuple[str, str], ...] = (
    ("copy", r"flatten_weight|_prepack|^mkldnn_reorder|^to_(dense|mkldnn)"),
    ("loss", r"log_softmax|cross_entropy|_loss(_|$)"),
    ("optimizer", r"^_foreach_|^_fused_(ada|sgd)|^_amp_"),
    ("attention", r"attention|^(_safe|_masked)?_?softmax|^(badd)?bmm_?$"),
    ("recurrent", r"lstm|gru_|rnn"),
    ("matmul", r"(^|_|pack|add|addb)mm(_|$)|(^|_)linear(_|$)|^(addmv|mv|dot|vdot)_?$|convolution"),
    ("embedding", r"embedding"),
    ("normalization", r"norm(_|$)|^var|^std"),
    (
        "copy",
        r"^(_to_copy|clone|copy|cat|stack|index|gather|scatter|take|fill|zeros?|ones|full|new_(zeros|ones|full)|arange"
        r"|scalar_tensor|constant_pad|slice_(backward|scatter)|select_(backward|scatter)|masked_(select|scatter)"
        r"|repeat|roll|flip|tril|triu|nonzero|_local_scalar_dense|_pin_memory|split_with_sizes_copy|lift)(_|$)",
    ),
    (
        "elementwise",
        r"^(add|sub|rsub|mul|div|pow|neg|reciprocal|exp|expm1|log|log1p|log2|sqrt|rsqrt|abs|sign|sin|cos|erf|floor"
        r"|ceil|round|clamp|clamp_min|clamp_max|maximum|minimum|max|min|amax|amin|argmax|argmin|sum|mean|prod|cumsum"
        r"|logsumexp|any|all|eq|ne|lt|le|gt|ge|where|masked_fill|bitwise_\w+|logical_\w+|isnan|isinf|isfinite"
        r"|addcmul|addcdiv|lerp|relu|gelu|silu|sigmoid|tanh|softplus|threshold|hardtanh|leaky_relu|glu|mish|elu"
        r"|native_dropout|bernoulli|remainder|fmod|sort|topk|square)(_|$)",
    ),
)
COUNTED = ("matmul", "attention", "recurrent")  # classes whose operators multiply matrices
OWN_CLASS_PHASES = ("optimizer", "copy")  # here all that multiplies no matrices belongs to the phase's own class

#: Operators of the counted classes that multiply nothing: softmax, and the cells whose products run as operators of
#: their own before them (`_thnn_fused_lstm_cell` gets gates that are already multiplied).
PRODUCT_FREE = re.compile(r"softmax|^_thnn_fused|^_thnn_differentiable")

ALLOCATIONS = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "resize_", "set_"})
WRITE_ONLY = frozenset(
    {"copy_", "fill_", "zero_", "normal_", "uniform_", "random_", "exponential_", "bernoulli_"}
    | {"_foreach_copy_", "_foreach_zero_"}
)
PICKED = frozenset({"embedding", "index", "gather", "index_select", "take", "nll_loss_forward"})  # from argument 0
SCATTERED = frozenset({"index_put_", "_index_put_impl_", "scatter_", "scatter_add_", "index_add_", "index_copy_"})
SHAPE_ONLY: Mapping[str, frozenset[int]] = {  # arguments of which no value is read
    "nll_loss_backward": frozenset({1}),
    "_cudnn_rnn": frozenset({3}),  # the buffer that the list of weights is in
    "_cudnn_rnn_backward": frozenset({3}),
    **{f"{kind}_like": frozenset({0}) for kind in ("zeros", "ones", "full", "rand", "randn", "randint")},
    **{f"new_{kind}": frozenset({0}) for kind in ("zeros", "ones", "full")},
}
GRADIENTS_READ = frozenset({"_fused_adamw_", "_fused_adam_", "_fused_sgd_", "_fused_adagrad_"})  # written when scaled

Formula = Callable[..., int]


def operator_class(name: str, phase: str) -> str:
    """Return the class of an operator (name without namespace) that runs in `phase`."""
    kind = next((kind for kind, pattern in PATTERNS if re.search(pattern, name)), "other")
    return phase if phase in OWN_CLASS_PHASES and kind not in COUNTED else kind


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yield the tensors of an argument or a result: a tensor, or lists of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for item in value:
            yield from tensors_in(item)


# --- FLOPs ----------------------------------------------------------------------------------------------


def _product(x: Tensor, *_: Any, out_val: Any = None, **__: Any) -> int:
    """(..., I) times a matrix (I, H), packed or not: 2 I per output element."""
    return 2 * x.numel() * out_val.shape[-1]


def _matrix_vector(matrix: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _batch_sum(_self: Tensor, a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    return 2 * a.numel() * b.shape[-1]


def _group_product(a: Tensor, b: Tensor, *_: Any, **__: Any) -> int:
    """Each row of `a` meets one group of `b`; where the groups are columns of `b`, each column one group of `a`."""
    groups = a.shape[0] if a.ndim == 3 and b.ndim == 2 else 1
    return 2 * a.numel() * b.shape[-1] // groups


def _layers(x: Tensor, weights: Iterable[Tensor]) -> int:
    """Recurrent layers over all tokens: each token meets every weight matrix (G H, I) and (G H, H) once."""
    tokens = x.numel() // x.shape[-1]
    return 2 * tokens * sum(w.numel() for w in weights if w.ndim >= 2)


def _mkldnn_rnn(x: Tensor, w0: Tensor, w1: Tensor, *_: Any, **__: Any) -> int:
    return _layers(x, (w0, w1))


def _rnn(x: Tensor, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    return _layers(x, weights)


def _lstm_mps(x: Tensor, _hx: Any, weights: Sequence[Tensor], *_: Any, **__: Any) -> int:
    return _layers(x, weights)


def _lstm_mps_backward(*args: Any, **__: Any) -> int:
    return 2 * _layers(args[5], args[8])


def _twice(formula: Formula) -> Formula:
    """The backward of a product: one for the gradient of each factor."""
    return lambda *args, **kwargs: 2 * formula(*args, **kwargs)


def flop_formulas() -> dict[str, Formula]:
    """Return FLOP formulas by operator name: torch's, and those that torch lacks. Called as `f(*args, out_val=out)`."""
    from torch.utils.flop_counter import baddbmm_flop, flop_registry, sdpa_backward_flop, sdpa_flop

    known = {
        key._qualified_op_name.split("::")[1]: formula
        for key, formula in flop_registry.items()
        if hasattr(key, "_qualified_op_name")
    }
    products = "_int_mm _weight_int8pack_mm _weight_int4pack_mm _weight_int4pack_mm_for_cpu mkldnn_linear linear"
    quantized = "linear_relu linear_dynamic linear_relu_dynamic linear_dynamic_fp16"
    return {
        **known,
        **dict.fromkeys(f"{products} {quantized}".split(), _product),
        **dict.fromkeys(("mv", "dot", "vdot"), _matrix_vector),
        "addmv": lambda _self, matrix, *_, **__: _matrix_vector(matrix),
        "addbmm": _batch_sum,
        "_addmm_activation": _batch_sum,
        "baddbmm": baddbmm_flop,
        **dict.fromkeys(("_grouped_mm", "_scaled_grouped_mm"), _group_product),
        "_scaled_dot_product_flash_attention_for_cpu": sdpa_flop,
        "_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop,
        "_scaled_dot_product_fused_attention_overrideable": sdpa_flop,
        "_scaled_dot_product_fused_attention_overrideable_backward": sdpa_backward_flop,
        "_scaled_dot_product_attention_math_for_mps": sdpa_flop,
        "mkldnn_rnn_layer": _mkldnn_rnn,
        "mkldnn_rnn_layer_backward": _twice(_mkldnn_rnn),
        **dict.fromkeys(("_cudnn_rnn", "miopen_rnn"), _rnn),
        **dict.fromkeys(("_cudnn_rnn_backward", "miopen_rnn_backward"), _twice(_rnn)),
        "_lstm_mps": _lstm_mps,
        "lstm_mps_backward": _lstm_mps_backward,
    }


def repeat_share(name: str) -> float:
    """Return the share of FLOPs that repeats earlier work: the scores, in the backward of a fused attention."""
    return 1 / 5 if re.search(r"attention.*backward", name) else 0.0


# --- bytes ----------------------------------------------------------------------------------------------


def place_of(tensor: Tensor) -> tuple[Any, ...]:
    """Return a key that two tensors share exactly when they are the same elements of memory."""
    return (storage_of(tensor), tensor.storage_offset(), tuple(tensor.shape), tensor.stride(), tensor.dtype)


def storage_of(tensor: Tensor) -> int:
    """Return the identity of the memory that a tensor is in."""
    return tensor.untyped_storage()._cdata


def bytes_of(tensor: Tensor) -> int:
    """Return the bytes of a tensor's distinct elements."""
    count = 1
    for size, stride in zip(tensor.shape, tensor.stride(), strict=True):
        count *= size if stride != 0 else min(size, 1)
    return count * tensor.element_size()


def does_no_work(func: Any, inputs: Sequence[Tensor], outputs: Sequence[Tensor]) -> bool:
    """Return whether an operator only allocates, or only returns views of its arguments."""
    if func._schema.name.split("::")[1] in ALLOCATIONS or torch.Tag.inplace_view in func.tags:
        return True
    if not outputs or any(_writes(argument) for argument in func._schema.arguments):
        return not outputs and not inputs
    given = {storage_of(t) for t in inputs}
    return all(storage_of(t) in given for t in outputs)


def count_bytes(func: Any, args: Sequence[Any], kwargs: Mapping[str, object], out: Any) -> int:
    """Return the bytes that one call reads and writes, as the head of this file says."""
    name = func._schema.name.split("::")[1]
    outputs = list(tensors_in(out))
    read: dict[Any, int] = {}
    written: dict[Any, int] = {}
    for index, argument in enumerate(func._schema.arguments):
        value = args[index] if index < len(args) else kwargs.get(argument.name)
        writes = _writes(argument) and not (name in GRADIENTS_READ and index == 1 and kwargs.get("grad_scale") is None)
        reads = index not in SHAPE_ONLY.get(name, ()) and not (writes and (argument.is_out or name in WRITE_ONLY))
        for tensor in tensors_in(value):
            size = bytes_of(tensor)
            if index == 0 and name in PICKED | SCATTERED:
                size = min(size, _elements_touched(name, args, outputs) * tensor.element_size())
            if reads:
                read[place_of(tensor)] = size
            if writes:
                written[place_of(tensor)] = size
    for tensor in outputs:
        written.setdefault(place_of(tensor), bytes_of(tensor))
    return sum(read.values()) + sum(written.values())


def _writes(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write


def _elements_touched(name: str, args: Sequence[Any], outputs: Sequence[Tensor]) -> int:
    """Return the number of elements of the table that an indexing operator touches."""
    others = [t.numel() for value in args[1:] for t in tensors_in(value)]
    results = [t.numel() for t in outputs] if name in PICKED else []
    return max([*others, *results], default=0)
