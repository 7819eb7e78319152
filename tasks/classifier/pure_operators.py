"""The ATen operators that an exported program may use: those that compute and do nothing else.

None of them reads or writes a file, draws a random number, returns uninitialised memory or keeps
state. An operator's name, the names and types of its arguments, and what it writes to are read from
its schema in the installed torch, never from the file.
"""

from __future__ import annotations

import re
from typing import Any

import torch
from torch._ops import OpOverload

NEW = frozenset(
    """
    abs acos acosh adaptive_avg_pool1d adaptive_avg_pool2d _adaptive_avg_pool2d addcmul addmm
    add all amax amin any arange argmax argmin asin asinh atan atan2 atanh avg_pool1d
    avg_pool2d baddbmm batch_norm bitwise_and bitwise_not bitwise_or bitwise_xor bmm bucketize
    cat ceil celu clamp clamp_max clamp_min clone constant_pad_nd conv1d conv2d conv3d
    convolution cos cosh cumsum div elu embedding eq erf exp expm1 eye flip floor floor_divide
    fmod full full_like gather ge gelu glu grid_sampler grid_sampler_2d group_norm gt
    hardsigmoid hardswish hardtanh index index_select instance_norm isinf isnan layer_norm le
    leaky_relu lerp lift_fresh_copy linalg_vector_norm linear linspace log log10 log1p log2
    log_sigmoid log_softmax _log_softmax logical_and logical_not logical_or logical_xor
    logsumexp lt masked_fill matmul max max_pool1d max_pool2d max_pool2d_with_indices maximum
    mean min minimum mish mm mul _native_batch_norm_legit_no_training native_group_norm
    native_layer_norm ne neg new_full new_ones new_zeros norm ones ones_like pow prelu prod
    reciprocal reflection_pad1d reflection_pad2d relu relu6 remainder repeat replication_pad1d
    replication_pad2d rms_norm roll round rsqrt rsub scalar_tensor
    scaled_dot_product_attention scatter selu sigmoid sign silu sin sinh softmax _softmax
    softplus sort sqrt square stack std std_mean sub sum sym_numel sym_size tan tanh _to_copy
    topk tril triu trunc upsample_bicubic2d upsample_bilinear2d upsample_nearest2d
    _upsample_bicubic2d_aa _upsample_bilinear2d_aa _upsample_nearest_exact2d var var_mean
    where zeros zeros_like
    """.split()  # noqa: SIM905
)
"""Operators whose results have memory of their own."""
SHARING = frozenset(
    """
    alias alpha_dropout as_strided broadcast_to channel_shuffle chunk contiguous detach
    dropout einsum expand expand_as feature_dropout flatten moveaxis movedim narrow pad
    permute pixel_shuffle pixel_unshuffle reshape reshape_as select slice split
    split_with_sizes squeeze swapaxes t to transpose type_as unbind unflatten unfold
    unsafe_chunk unsafe_split unsqueeze view view_as
    """.split()  # noqa: SIM905
)
"""Operators whose results may share memory with their arguments."""
IN_PLACE = frozenset(
    """
    add_ celu_ clamp_ clamp_max_ clamp_min_ copy_ detach_ div_ dropout_ elu_ exp_
    feature_dropout_ fill_ hardsigmoid_ hardswish_ hardtanh_ index_put_ leaky_relu_
    masked_fill_ mish_ mul_ neg_ pow_ relu6_ relu_ rsqrt_ selu_ sigmoid_ silu_ sqrt_ square_
    sub_ tanh_ zero_
    """.split()  # noqa: SIM905
)
"""Operators that write to their first argument, which must be a value of the program's own."""
WORDS = {
    "approximate": "none|tanh",
    "equation": "[A-Za-z., >-]{1,200}",
    "mode": "constant|reflect|replicate|circular",
    "padding": "same|valid",
    "rounding_mode": "trunc|floor",
}
"""Permitted values of string arguments, by their names in the schema."""
SWITCHES = frozenset({"train", "training"})
"""Arguments that would make an operator draw at random or update statistics."""


class Impure(ValueError):
    """The operator is not one of these, or does not take an argument."""


def operator(name: str) -> OpOverload:
    """Return the operator of a name such as `torch.ops.aten.relu.default`; else raise Impure."""
    match = re.fullmatch(r"torch\.ops\.aten\.(\w+)\.(\w+)", name, re.ASCII)
    if match is None or match[1] not in NEW | SHARING | IN_PLACE:
        raise Impure(f"uses {name}, which is not run here")
    found = getattr(getattr(torch.ops.aten, match[1], None), match[2], None)
    if not isinstance(found, OpOverload):
        raise Impure(f"uses {name}, which this version of torch does not have")
    arguments = schema(found).arguments
    written = [argument.name for argument in arguments if _is_written(argument)]
    if written != ([arguments[0].name] if match[1] in IN_PLACE else []):
        raise Impure(f"uses {name}, which writes to what it is given and is not run here")
    return found


def in_place(found: OpOverload) -> bool:
    """Return whether an operator writes to its first argument."""
    return _name(found) in IN_PLACE


def shares(found: OpOverload) -> bool:
    """Return whether an operator's results may share memory with its arguments."""
    return _name(found) not in NEW


def word_fits(argument: str, word: str) -> bool:
    """Return whether a string is permitted for the argument of this name."""
    return argument in WORDS and re.fullmatch(WORDS[argument], word, re.ASCII) is not None


def schema(found: OpOverload) -> Any:
    """Return torch's schema of an operator, with `name`, `arguments` and `returns`."""
    return found._schema  # noqa: SLF001  torch has no other way to ask


def _name(found: OpOverload) -> str:
    return str(schema(found).name).removeprefix("aten::")


def _is_written(argument: Any) -> bool:
    return argument.alias_info is not None and argument.alias_info.is_write
