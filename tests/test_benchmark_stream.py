import json

import pytest
import torch
from tiny import TINY
from torch.nn import functional
from torch.nn.attention.bias import causal_lower_right
from torch.testing import assert_close

from infmem import cli
from infmem.benchmark import benchmark_stream, stream
from infmem.benchmark.stream import CachedTransformer
from infmem.models.transformer_xl import WindowTransformer
from infmem.presets import PRESETS, build_model, model_config

CPU = torch.device("cpu")
TOKENS = torch.randint(0, 20, (2, 21), generator=torch.Generator().manual_seed(0))


def rows_of(**options) -> list[dict]:
    return list(benchmark_stream(CPU, TINY, (14, 700, 7000), batch=2, calls=2, **options))


def test_every_model_at_every_count_and_what_was_really_read():
    rows = rows_of(streamed=705)
    names = ["infinite-former", "transformer-xl", "compressive-transformer", "full attention"]
    assert [(row["model"], row["tokens_seen"]) for row in rows] == [
        (n, seen) for n in names for seen in (14, 700, 7000)
    ]
    assert [row["streamed"] for row in rows] == [True, True, False] * 3 + [False] * 3
    for row in rows[:9]:
        model = build_model(model_config(row["model"], TINY))
        extra = {} if row["model"] == "transformer-xl" else {"segment_length": 7}
        scalar = 4  # the auxiliary loss, which the models do not count
        assert row["state_bytes"] <= model.state_bytes(2, **extra) + scalar and row["milliseconds"] > 0
    for seen in range(3, 9, 3):
        assert len({row["state_bytes"] for row in rows[seen + 1 : seen + 3]}) == 1
    assert [row["state_bytes"] for row in rows[9:]] == [2 * 2 * 2 * 4 * 12 * seen for seen in (14, 700, 7000)]


def test_a_cache_that_does_not_fit_is_said_so():
    rows = [row for row in rows_of(streamed=70, cache_bytes=300_000) if row["model"] == "full attention"]
    assert [row["milliseconds"] is None for row in rows] == [False, False, True]
    assert rows[-1]["state_bytes"] == 2 * 2 * 2 * 4 * 12 * 7000


def test_running_out_of_memory_is_no_more_than_a_row(monkeypatch):
    def too_large(self, batch, capacity, dtype):
        if capacity > 1000:
            raise torch.OutOfMemoryError("too much")
        return right(self, batch, capacity, dtype)

    right = CachedTransformer.cache
    monkeypatch.setattr(CachedTransformer, "cache", too_large)
    rows = [row for row in rows_of(streamed=70) if row["model"] == "full attention"]
    assert [row["milliseconds"] is None for row in rows] == [False, False, True]


def test_what_is_set_is_the_count_of_tokens_alone():
    model = build_model(model_config("infinite-former", TINY))
    state = stream._stream(model, TOKENS[:, :7], None, 0, 70, False)
    there = stream._as_if(state, 924)
    for before, after in zip(state.long_term, there.long_term, strict=True):
        assert (after.num_tokens - before.num_tokens).tolist() == [924, 924]
        assert after.coefficients is before.coefficients
    read_on = stream._stream(model, TOKENS[:, :7], state, 70, 994, False)
    assert read_on.long_term[0].num_tokens.tolist() == there.long_term[0].num_tokens.tolist() == [982, 982]
    assert there.short_term is state.short_term


def test_the_cached_transformer_reads_segments_as_if_they_were_one():
    model = CachedTransformer(TINY.sizes).eval()
    with torch.no_grad():
        whole = model.read(TOKENS, model.cache(2, 21), 0)
        cache, pieces = model.cache(2, 25), []
        for start in range(0, 21, 7):
            pieces.append(model.read(TOKENS[:, start : start + 7], cache, start))
        assert_close(torch.cat(pieces, dim=1), whole)
        changed = TOKENS.clone()
        changed[:, 0] = (changed[:, 0] + 1) % 20
        assert ((model.read(changed, model.cache(2, 21), 0) - whole).abs().amax(-1) > 1e-6).all()


def test_the_form_of_the_mask_for_gpus_hides_the_same(normal):
    query, keys, values = normal(2, 3, 5, 8), normal(2, 3, 17, 8), normal(2, 3, 17, 8)
    hidden = [stream.causal_bias(5, 17, CPU), causal_lower_right(5, 17)]
    assert_close(*(functional.scaled_dot_product_attention(query, keys, values, attn_mask=mask) for mask in hidden))


def test_without_the_term_of_positions_it_is_the_window_transformer():
    cached, window = CachedTransformer(TINY.sizes).eval(), WindowTransformer(TINY.sizes).eval()
    window.load_state_dict(cached.state_dict())
    for block in window.blocks:
        torch.nn.init.zeros_(block.attention.relative.weight)
    with torch.no_grad():
        assert_close(cached.read(TOKENS, cached.cache(2, 21), 0), window(TOKENS)[0])


def test_the_command_prints_a_table_and_writes_it(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(PRESETS, "small", TINY)
    output = tmp_path / "stream.json"
    options = ["--tokens-seen", "14", "7000", "--streamed", "70", "--cache-gib", "0.0001", "--calls", "2"]
    assert cli.main(["bench", "stream", *options, "--device", "cpu", "--output", str(output)]) == 0
    printed, written = capsys.readouterr().out, json.loads(output.read_text())
    assert (written["preset"], written["streamed"], written["mixed_precision"]) == ("small", 70, False)
    assert printed.count("were read") == 3 and printed.count("as if read") == 5
    assert printed.count("does not fit") == 1


def test_memories_that_are_not_full_stand_for_nothing():
    with pytest.raises(ValueError, match="streamed must be at least 43, got 42"):
        rows_of(streamed=42)


@pytest.mark.parametrize("counts", [(), (3,)])
def test_counts_below_a_segment_are_refused(counts):
    with pytest.raises(ValueError, match="tokens_seen must be whole segments of 7 at least"):
        list(benchmark_stream(CPU, TINY, counts))
