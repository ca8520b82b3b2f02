"""Pictures: pure functions that take numbers and return a matplotlib `Figure`. None touches pyplot or a screen.

Each takes a `figure` to draw into again; None makes a new one.
"""

from infmem.plots.ablation import draw_ablation
from infmem.plots.attention import (
    draw_gaussian_reads,
    draw_heads,
    draw_list_and_line,
    draw_reading_map,
    draw_regularizer,
)
from infmem.plots.compression import (
    draw_compressed_view,
    draw_compression_learning,
    draw_given_back,
    draw_two_memories,
)
from infmem.plots.contraction import (
    draw_forgetting,
    draw_powers,
    draw_read_back,
    draw_room,
    draw_token_map,
    draw_written,
)
from infmem.plots.cost import draw_crossover, draw_stream
from infmem.plots.exercises import draw_target
from infmem.plots.language import draw_perplexity_by_position, draw_places
from infmem.plots.learning_curves import LINE_NAMES, draw_learning_curves, moving_average
from infmem.plots.microscope import (
    draw_densities,
    draw_microscope,
    draw_retention,
    draw_symbols,
    draw_token_weights,
)
from infmem.plots.models import (
    draw_costs,
    draw_distance_scores,
    draw_layer,
    draw_memories,
    draw_reach,
    draw_relative_shift,
    draw_segment_reading,
    draw_sinusoids,
)
from infmem.plots.presets import draw_readings
from infmem.plots.recall import draw_recall
from infmem.plots.signals import draw_signal
from infmem.plots.sorting import draw_accuracy_by_length, draw_answers, draw_scores, draw_sequence
from infmem.plots.sticky import draw_histogram, draw_kept_events, draw_sampling_errors, draw_sticky_update

__all__ = [
    "LINE_NAMES",
    "draw_ablation",
    "draw_accuracy_by_length",
    "draw_answers",
    "draw_compressed_view",
    "draw_compression_learning",
    "draw_costs",
    "draw_crossover",
    "draw_densities",
    "draw_distance_scores",
    "draw_forgetting",
    "draw_gaussian_reads",
    "draw_given_back",
    "draw_heads",
    "draw_histogram",
    "draw_kept_events",
    "draw_layer",
    "draw_learning_curves",
    "draw_list_and_line",
    "draw_memories",
    "draw_microscope",
    "draw_perplexity_by_position",
    "draw_places",
    "draw_powers",
    "draw_reach",
    "draw_read_back",
    "draw_reading_map",
    "draw_readings",
    "draw_recall",
    "draw_regularizer",
    "draw_relative_shift",
    "draw_retention",
    "draw_room",
    "draw_sampling_errors",
    "draw_scores",
    "draw_segment_reading",
    "draw_sequence",
    "draw_signal",
    "draw_sinusoids",
    "draw_sticky_update",
    "draw_stream",
    "draw_symbols",
    "draw_target",
    "draw_token_map",
    "draw_token_weights",
    "draw_two_memories",
    "draw_written",
    "moving_average",
]
