"""nn.MultiheadAttention written out, so that its projections are linear layers of the graph."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.nn import functional


def self_attention(
    attention: nn.MultiheadAttention,
    query: Any,
    key: Any,
    value: Any,
    key_padding_mask: Any = None,
    need_weights: bool = True,
    attn_mask: Any = None,
    average_attn_weights: bool = True,
    is_causal: bool = False,
) -> tuple[Any, Any]:
    """What `attention` computes in evaluation mode: [N, T, E] and None in place of the weights.

    query, key, value: [N, T, E] (or [T, N, E] where `batch_first` is off).
    Raises TypeError for the forms that image classifiers do not use.
    """
    _refuse(attention, key_padding_mask, attn_mask, is_causal)
    if not attention.batch_first:
        query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    projected = _projected(attention, query, key, value)
    heads = [_split(item, attention.num_heads) for item in projected]
    mixed = functional.scaled_dot_product_attention(*heads)
    size = mixed.shape
    joined = mixed.transpose(1, 2).reshape(size[0], size[2], attention.embed_dim)
    out = functional.linear(joined, attention.out_proj.weight, attention.out_proj.bias)
    if not attention.batch_first:
        out = out.transpose(0, 1)
    return out, None


def _refuse(attention: nn.MultiheadAttention, padding: Any, mask: Any, causal: bool) -> None:
    used = {
        "key_padding_mask": padding is not None,
        "attn_mask": mask is not None,
        "is_causal": causal,
        "bias_k": attention.bias_k is not None,
        "add_zero_attn": attention.add_zero_attn,
        "kdim or vdim": not attention._qkv_same_embed_dim,
    }
    names = [name for name, is_used in used.items() if is_used]
    if names:
        raise TypeError(f"nn.MultiheadAttention with {', '.join(names)} is not supported")


def _projected(attention: nn.MultiheadAttention, query: Any, key: Any, value: Any) -> Any:
    weight, bias = attention.in_proj_weight, attention.in_proj_bias
    if query is key and key is value:
        return functional.linear(query, weight, bias).chunk(3, dim=-1)
    weights = weight.chunk(3, dim=0)
    biases = (None, None, None) if bias is None else bias.chunk(3, dim=0)
    inputs = (query, key, value)
    return [functional.linear(x, w, b) for x, w, b in zip(inputs, weights, biases, strict=True)]


def _split(x: Any, heads: int) -> Any:
    """[N, T, E] -> [N, heads, T, E / heads]."""
    size = x.shape
    return x.reshape(size[0], size[1], heads, size[2] // heads).transpose(1, 2)
