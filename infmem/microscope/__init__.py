"""A trained infinite-former, opened up: where its heads look, what its memory holds, and what each token weighs."""

from infmem.microscope.ablation import answer_accuracy, settle
from infmem.microscope.errors import FactErrors, MemoryErrors, fact_errors, memory_errors
from infmem.microscope.symbols import decode_symbols, local_shares, segment_retention
from infmem.microscope.trace import LayerTrace, SegmentTrace, next_update, segment_edges, trace
from infmem.microscope.weights import token_operator, token_weights

__all__ = [
    "FactErrors",
    "LayerTrace",
    "MemoryErrors",
    "SegmentTrace",
    "answer_accuracy",
    "decode_symbols",
    "fact_errors",
    "local_shares",
    "memory_errors",
    "next_update",
    "segment_edges",
    "segment_retention",
    "settle",
    "token_operator",
    "token_weights",
    "trace",
]
