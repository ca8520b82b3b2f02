"""Models with one interface: `forward(tokens, state) -> (logits, state)`."""

from infmem.models.compressive import CompressiveTransformer, CompressiveTransformerConfig
from infmem.models.infinite_former import InfiniteFormer, InfiniteFormerConfig
from infmem.models.parallel import memorize
from infmem.models.public_weights import from_public_weights
from infmem.models.transformer_xl import (
    ModelState,
    TransformerXL,
    TransformerXLConfig,
    WindowTransformer,
    WindowTransformerConfig,
)

__all__ = [
    "CompressiveTransformer",
    "CompressiveTransformerConfig",
    "InfiniteFormer",
    "InfiniteFormerConfig",
    "ModelState",
    "TransformerXL",
    "TransformerXLConfig",
    "WindowTransformer",
    "WindowTransformerConfig",
    "from_public_weights",
    "memorize",
]
