"""Weights of the public Transformer-XL implementation, renamed for this package's `TransformerXL`."""

from collections.abc import Mapping

import torch
from torch import Tensor

from infmem.validation import require


def from_public_weights(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of the public Transformer-XL implementation, without its adaptive softmax, for `TransformerXL`.

    Args:
        weights: its state dict; untied biases and adaptive embeddings are not supported.

    Returns:
        A state dict of everything but `output`; load it with `strict=False`.

    Raises:
        ValueError: if an expected name is missing.

    Source: names and layout of the public implementation of Dai et al. 2019.
    """
    names = {
        "word_emb.emb_layers.0.weight": "embedding.weight",
        "r_w_bias": "content_bias",
        "r_r_bias": "position_bias",
    }
    parts = {
        "dec_attn.r_net.weight": "attention.relative.weight",
        "dec_attn.o_net.weight": "attention.out.weight",
        "dec_attn.layer_norm.weight": "attention_norm.weight",
        "dec_attn.layer_norm.bias": "attention_norm.bias",
        "pos_ff.CoreNet.0.weight": "feed_forward.inner.weight",
        "pos_ff.CoreNet.0.bias": "feed_forward.inner.bias",
        "pos_ff.CoreNet.3.weight": "feed_forward.outer.weight",
        "pos_ff.CoreNet.3.bias": "feed_forward.outer.bias",
        "pos_ff.layer_norm.weight": "feed_forward_norm.weight",
        "pos_ff.layer_norm.bias": "feed_forward_norm.bias",
    }
    num_layers = sum(name.endswith("dec_attn.qkv_net.weight") for name in weights)
    for layer in range(num_layers):
        names |= {f"layers.{layer}.{theirs}": f"blocks.{layer}.{ours}" for theirs, ours in parts.items()}
    missing = sorted(set(names) - set(weights))
    require(num_layers > 0 and not missing, f"the weights lack {missing or ['layers.0.dec_attn.qkv_net.weight']}")
    renamed = {ours: weights[theirs] for theirs, ours in names.items()}
    for layer in range(num_layers):
        query, *key_value = weights[f"layers.{layer}.dec_attn.qkv_net.weight"].chunk(3)
        renamed[f"blocks.{layer}.attention.query.weight"] = query
        renamed[f"blocks.{layer}.attention.key_value.weight"] = torch.cat(key_value)
    return renamed
