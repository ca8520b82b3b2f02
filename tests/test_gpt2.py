"""GPT-2 with a long-term memory, on models of some thousand weights that are made here."""

import doctest
import logging

import pytest
import torch
from torch.testing import assert_close

from infmem import MemoryConfig
from infmem.config import to_dict
from infmem.trained import FOLDER

transformers = pytest.importorskip("transformers", reason="the tests of infmem.gpt2 need the extra hf")

VOCAB, SEGMENT = 31, 5
MEMORY = MemoryConfig.best(num_basis=7)
SHARED = MemoryConfig.best(num_basis=7, own_query=False, projections="shared")


@pytest.fixture(autouse=True)
def quiet(monkeypatch):
    """Neither bars nor advice: warnings of Python stay errors."""
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("transformers").setLevel(logging.ERROR)


@pytest.fixture
def base():
    config = transformers.GPT2Config(
        vocab_size=VOCAB, n_positions=11, n_embd=12, n_layer=2, n_head=3, bos_token_id=0, eos_token_id=0
    )
    torch.manual_seed(3)
    return transformers.GPT2LMHeadModel(config).eval()


@pytest.fixture(params=[MEMORY, SHARED], ids=["own", "shared"])
def silent(base, request):
    from infmem.gpt2 import InfiniteGPT2

    return InfiniteGPT2.from_gpt2(base, request.param, segment_length=SEGMENT)


@pytest.fixture
def speaking(silent):
    """Its memory says something."""
    for block in silent.transformer.h:
        torch.nn.init.normal_(first_to_learn(block.attn.long_term))
    return silent


def first_to_learn(memory) -> torch.Tensor:
    """What is zero in a memory that says nothing."""
    return memory.out.weight if memory.head_scale is None else memory.head_scale


def read(model, tokens, **options):
    memory, logits = None, []
    for segment in tokens.split(SEGMENT, dim=1):
        output = model(segment, memory=memory, **options)
        memory = output.memory
        logits.append(output.logits)
    return torch.cat(logits, dim=1), memory


def text(generator, length: int = 17, batch: int = 2) -> torch.Tensor:
    return torch.randint(1, VOCAB, (batch, length), generator=generator)


def test_untrained_it_is_the_gpt2_that_it_was_made_from(base, silent, generator):
    tokens = text(generator)
    logits, memory = read(silent, tokens)
    for segment, found in zip(tokens.split(SEGMENT, 1), logits.split(SEGMENT, 1), strict=True):
        assert torch.equal(found, base(segment).logits)
    assert [state.num_tokens.tolist() for state in memory] == [[17, 17]] * 2
    loss = silent(tokens[:, :SEGMENT], labels=tokens[:, :SEGMENT]).loss
    assert torch.equal(loss, base(tokens[:, :SEGMENT], labels=tokens[:, :SEGMENT]).loss)


def test_memory_is_read_from_the_second_segment_on_and_learned_from(base, speaking, generator):
    tokens = text(generator)
    logits, memory = read(speaking, tokens)
    assert torch.equal(logits[:, :SEGMENT], base(tokens[:, :SEGMENT]).logits)
    for segment, found in list(zip(tokens.split(SEGMENT, 1), logits.split(SEGMENT, 1), strict=True))[1:]:
        assert (found - base(segment).logits).abs().max() > 1e-3
    output = speaking(tokens[:, :SEGMENT], memory=memory, labels=tokens[:, :SEGMENT])
    output.loss.backward()
    for block in speaking.transformer.h:
        for name, parameter in block.attn.long_term.named_parameters():
            assert parameter.grad.abs().sum() > 0, name
    assert not any(state.coefficients.requires_grad for state in output.memory)
    plain = torch.nn.functional.cross_entropy(output.logits[:, :-1].flatten(0, 1), tokens[:, 1:SEGMENT].flatten())
    assert_close(output.loss, plain + output.regularizer)


def test_what_is_zero_at_first_gets_gradient_at_once(silent, generator):
    tokens = text(generator)
    _, memory = read(silent, tokens)
    silent(tokens[:, :SEGMENT], memory=memory, labels=tokens[:, :SEGMENT]).loss.backward()
    for block in silent.transformer.h:
        learned = first_to_learn(block.attn.long_term)
        assert learned.count_nonzero() == 0 and learned.grad.count_nonzero() == learned.numel()


def test_shared_projections_are_those_of_self_attention(base, generator, without_type_checker):
    """A memory with projections of its own reads the same once they are copied there, column by column."""
    from infmem.gpt2 import InfiniteGPT2

    for parameter in base.transformer.h.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    shared, own, silent = (
        InfiniteGPT2.from_gpt2(base, config, segment_length=SEGMENT).double()
        for config in (SHARED, MemoryConfig.best(num_basis=7, own_query=False), SHARED)
    )
    with torch.no_grad():
        for block, other in zip(shared.transformer.h, own.transformer.h, strict=True):
            memory, copied = block.attn.long_term, other.attn.long_term
            memory.head_scale.copy_(torch.randn(3, generator=generator))
            for channel in range(12):
                copied.key.weight[channel] = block.attn.c_attn.weight[:, 12 + channel]
                copied.value.weight[channel] = block.attn.c_attn.weight[:, 24 + channel]
                copied.out.weight[:, channel] = block.attn.c_proj.weight[channel] * memory.head_scale[channel // 4]
            copied.to_mu.load_state_dict(memory.to_mu.state_dict())
            copied.to_sigma_sq.load_state_dict(memory.to_sigma_sq.state_dict())
    tokens = text(generator)
    actual, expected, without = (read(model, tokens)[0] for model in (shared, own, silent))
    assert_close(actual, expected, rtol=1e-9, atol=1e-9)
    assert (actual - without)[:, SEGMENT:].abs().max() > 0.01


def test_a_row_after_its_reset_reads_as_a_fresh_one(speaking, generator):
    from infmem.gpt2 import reset

    tokens, segment = text(generator), text(generator, SEGMENT)
    _, memory = read(speaking, tokens)
    found = speaking(segment, memory=reset(memory, torch.tensor([False, True]))).logits
    assert_close(found[1], speaking(segment[1:]).logits[0])
    assert_close(found[0], speaking(segment, memory=memory).logits[0])


def test_it_is_saved_and_loaded_also_by_the_auto_classes(speaking, generator, tmp_path):
    from infmem.gpt2 import InfiniteGPT2

    speaking.save_pretrained(tmp_path)
    tokens = text(generator)
    expected, _ = read(speaking, tokens)
    for kind in (InfiniteGPT2, transformers.AutoModelForCausalLM):
        model = kind.from_pretrained(tmp_path).eval()
        assert type(model) is InfiniteGPT2 and model.config.memory_config == speaking.config.memory_config
        assert model.config.segment_length == SEGMENT
        for block, other in zip(model.transformer.h, speaking.transformer.h, strict=True):
            assert torch.equal(first_to_learn(block.attn.long_term), first_to_learn(other.attn.long_term))
        assert torch.equal(read(model, tokens)[0], expected)
    config = transformers.AutoConfig.from_pretrained(tmp_path)
    assert config.model_type == "infinite-gpt2"


@pytest.mark.parametrize("memory", [None, SHARED], ids=["own", "shared"])
def test_the_weights_of_a_plain_gpt2_can_be_loaded(memory, base, generator, tmp_path):
    """Also by `from_pretrained`, which draws what is missing: the memory says nothing then too."""
    from infmem.gpt2 import InfiniteGPT2

    base.save_pretrained(tmp_path)
    options = {} if memory is None else {"memory": to_dict(memory)}
    model = InfiniteGPT2.from_pretrained(tmp_path, segment_length=SEGMENT, **options).eval()
    tokens = text(generator)
    for segment, found in zip(tokens.split(SEGMENT, 1), read(model, tokens)[0].split(SEGMENT, 1), strict=True):
        assert torch.equal(found, base(segment).logits)
    assert all(block.attn.long_term.to_mu.weight.std() > 0.01 for block in model.transformer.h)
    assert memory or all(block.attn.long_term.key.weight.std() > 0.1 for block in model.transformer.h)


def test_the_shipped_gpt2_has_all_weights_and_reads_in_bfloat16_too(without_type_checker):
    from infmem.gpt2 import InfiniteGPT2

    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model, about = InfiniteGPT2.from_pretrained(
            FOLDER / "infinite-gpt2-small", dtype=dtype, output_loading_info=True
        )
        assert not any(about.values()), "no weight is missing, unknown or of another size"
        config = model.config.memory_config
        assert (config.projections, config.own_query) == ("shared", True)
        assert all(block.attn.long_term.head_scale.abs().min() > 0 for block in model.transformer.h)
        tokens = torch.arange(263).view(1, 263) % model.config.vocab_size
        memory, rest = model.eval().memorize(tokens)
        found.append(model(rest, memory=memory).logits)
        assert found[-1].dtype == dtype and memory[0].coefficients.dtype == torch.float32
        assert memory[0].num_tokens.tolist() == [256]
    assert_close(found[1].float(), found[0], rtol=0.1, atol=0.5)


@pytest.mark.parametrize("length", [1, SEGMENT, SEGMENT + 1, 17])
def test_it_generates_beyond_its_positions_with_the_memory_carried(speaking, generator, length):
    """Token by token it is what the model expects most after all whole segments before, read one by one."""
    tokens = text(generator, length)
    found = speaking.generate(tokens, max_new_tokens=13, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert found.shape == (2, length + 13) and torch.equal(found[:, :length], tokens)
    for place in range(length, length + 13):
        whole = (place - 1) // SEGMENT * SEGMENT
        memory = read(speaking, found[:, :whole])[1] if whole else None
        expected = speaking(found[:, whole:place], memory=memory).logits[:, -1].argmax(-1)
        assert torch.equal(found[:, place], expected), place


def test_what_was_read_before_the_text_may_be_given(speaking, generator):
    before, tokens = text(generator, 2 * SEGMENT), text(generator, 3)
    options = {"max_new_tokens": 7, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    memory = read(speaking, before)[1]
    found = speaking.generate(tokens, memory=memory, **options)
    assert torch.equal(found, speaking.generate(torch.cat([before, tokens], 1), **options)[:, 2 * SEGMENT :])


def test_it_stops_where_every_row_has_come_to_an_end(speaking, generator):
    tokens = text(generator, 3, batch=1)
    free = speaking.generate(tokens, max_new_tokens=9, do_sample=False, eos_token_id=None, pad_token_id=0)
    end = free[0, 5].item()
    found = speaking.generate(tokens, max_new_tokens=9, do_sample=False, eos_token_id=end, pad_token_id=0)
    assert found[0, -1] == end and found.shape[1] <= 6


def test_sticky_memories_draw_where_it_looked(base, generator):
    from infmem.gpt2 import InfiniteGPT2

    memory = MemoryConfig.paper(num_basis=8, num_samples=11, num_bins=7, sticky="stratified")
    model, tokens = InfiniteGPT2.from_gpt2(base, memory, segment_length=SEGMENT), text(generator)
    histograms = []
    for _ in range(2):
        _, states = read(model, tokens, generator=torch.Generator().manual_seed(5))
        histograms.append(states[1].histogram)
    assert torch.equal(*histograms) and (histograms[0] - 1 / 7).abs().max() > 1e-4


def test_the_layers_own_query_may_be_shared(base, generator):
    from infmem.gpt2 import InfiniteGPT2

    memory = MemoryConfig.released(num_basis=8, num_samples=11)
    model = InfiniteGPT2.from_gpt2(base, memory, segment_length=SEGMENT)
    logits, _ = read(model, text(generator))
    assert torch.isfinite(logits).all() and model.transformer.h[0].attn.long_term.query is None


def test_errors_say_what_to_do(silent, base, generator):
    from infmem.gpt2 import InfiniteGPT2

    tokens = text(generator, SEGMENT)
    with pytest.raises(ValueError, match="memory must hold 2 states, one a block, got 1"):
        silent(tokens, memory=silent.empty(2)[:1])
    with pytest.raises(ValueError, match="it comes from another configuration or batch"):
        silent(tokens, memory=tuple(state.reset(torch.tensor([True] * 3)) for state in silent.empty(3)))
    with pytest.raises(ValueError, match=r"segment_length must be from 1 to n_positions \(11\), got 12"):
        InfiniteGPT2.from_gpt2(base, MEMORY, segment_length=12)
    with pytest.raises(ValueError, match="num_beams must be 1, got 3: each row has one memory"):
        silent.generate(tokens, num_beams=3)
    with pytest.raises(ValueError, match="all rows must be of one length"):
        silent.generate(tokens, attention_mask=torch.zeros_like(tokens))
    with pytest.raises(ValueError, match="at least one token"):
        silent.generate(tokens[:, :0])


def test_the_examples_of_the_module_run():
    from infmem import gpt2

    assert doctest.testmod(gpt2).failed == 0
