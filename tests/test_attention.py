"""Continuous attention against loops, quadrature and PyTorch's own attention."""

import math

import numpy as np
import oracles
import pytest
import torch
from einops import rearrange
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_allclose
from torch.autograd import gradcheck

from infmem.attention import (
    collapsed_keys,
    collapsed_logits,
    density,
    discrete_attention,
    expected_value,
    kl_regularizer,
    scores,
)
from infmem.signal import read

BATCH, HEAD, QUERY_POS, BASIS, D_HEAD, D_MODEL, KEY_POS = 2, 3, 5, 7, 11, 23, 29


def split_heads(x: torch.Tensor) -> torch.Tensor:
    return rearrange(x, "batch pos (head d_head) -> batch head pos d_head", head=HEAD)


# --- scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_scaled_products(normal):
    query, keys = normal(BATCH, HEAD, QUERY_POS, D_HEAD), normal(BATCH, HEAD, BASIS, D_HEAD)
    result = scores(query, keys)
    assert result.shape == (BATCH, HEAD, QUERY_POS, BASIS)
    for b, h, i, j in np.ndindex(*result.shape):
        assert result[b, h, i, j].item() == pytest.approx((query[b, h, i] @ keys[b, h, j]).item() / D_HEAD**0.5)


def test_the_score_collapses(normal):
    coefficients, query = normal(BATCH, BASIS, D_MODEL), normal(BATCH, HEAD, QUERY_POS, D_HEAD)
    key_weight, map_weight = normal(HEAD * D_HEAD, D_MODEL), normal(2, BASIS)
    collapsed = collapsed_keys(coefficients, key_weight, map_weight, HEAD)
    assert collapsed.shape == (BATCH, HEAD, 2, D_HEAD)
    all_scores = scores(query, split_heads(coefficients @ key_weight.T))
    for m in range(2):
        assert_allclose(collapsed_logits(query, collapsed)[m], all_scores @ map_weight[m], rtol=1e-10, atol=1e-11)


# --- the whole read ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_sq_min", [1e-6, 0.5])
@pytest.mark.parametrize("bias", [True, False])
def test_the_read_is_the_textbooks(uneven_basis, normal, bias, sigma_sq_min):
    coefficients, query = normal(BATCH, BASIS, D_MODEL), normal(BATCH, QUERY_POS, HEAD * D_HEAD)
    weights = {
        "key.weight": 0.3 * normal(HEAD * D_HEAD, D_MODEL),
        "value.weight": normal(HEAD * D_HEAD, D_MODEL),
        "out.weight": normal(D_MODEL, HEAD * D_HEAD),
        "to_mu.weight": 0.3 * normal(1, BASIS),
        "to_sigma_sq.weight": 0.3 * normal(1, BASIS),
    }
    biases = torch.zeros(2, dtype=torch.float64)
    if bias:
        biases = normal(2)
        weights |= {"to_mu.bias": biases[:1], "to_sigma_sq.bias": biases[1:]}
    expected = oracles.gaussian_attention_by_loops(
        coefficients.numpy(),
        query.numpy(),
        weights,
        HEAD,
        uneven_basis.centers.numpy(),
        uneven_basis.sigmas.numpy(),
        sigma_sq_min,
    )

    maps = torch.cat([weights["to_mu.weight"], weights["to_sigma_sq.weight"]])
    collapsed = collapsed_keys(coefficients, weights["key.weight"], maps, HEAD)
    logits = collapsed_logits(split_heads(query), collapsed) + biases.reshape(2, 1, 1, 1)
    mu, sigma_sq = density(*logits, sigma_sq_min=sigma_sq_min)
    values = split_heads(coefficients @ weights["value.weight"].T)
    z = expected_value(uneven_basis.expectation(mu, sigma_sq), values) @ weights["out.weight"].T
    for ours, theirs in zip((z, mu, sigma_sq, kl_regularizer(sigma_sq, 0.05)), expected, strict=True):
        assert_allclose(ours, theirs, rtol=1e-9, atol=1e-10)


def test_a_narrow_density_reads_the_signal_where_it_looks(uneven_basis, normal, uniform):
    coefficients, mu = normal(BATCH, BASIS, HEAD * D_HEAD), uniform(QUERY_POS)
    everywhere = mu.expand(BATCH, HEAD, QUERY_POS)
    weights = uneven_basis.expectation(everywhere, torch.full_like(everywhere, 1e-12))
    assert_allclose(
        expected_value(weights, split_heads(coefficients)), read(coefficients, uneven_basis, mu), rtol=0, atol=1e-6
    )


# --- density and regulariser ------------------------------------------------------------------------------------------


def test_density_is_sigmoid_and_floored_softplus(normal):
    mu_logit, sigma_sq_logit = normal(BATCH, HEAD, QUERY_POS), 9 * normal(BATCH, HEAD, QUERY_POS)
    mu, sigma_sq = density(mu_logit, sigma_sq_logit, sigma_sq_min=1e-2)
    assert_allclose(mu, oracles.sigmoid(mu_logit.numpy()), rtol=1e-12)
    assert_allclose(sigma_sq, np.maximum(np.logaddexp(0, sigma_sq_logit.numpy()), 1e-2), rtol=1e-9)
    assert sigma_sq.min() == 1e-2


def test_the_smallest_variance_is_the_released_one():
    least = density(torch.zeros(1, 1, 1), torch.full((1, 1, 1), -100.0))
    assert least.sigma_sq.item() == pytest.approx(1e-6)


@given(sigma_sq=st.floats(1e-6, 5), sigma_0=st.floats(0.01, 2))
def test_regulariser_is_the_divergence(sigma_sq, sigma_0):
    result = kl_regularizer(torch.tensor(sigma_sq, dtype=torch.float64), sigma_0)
    assert_allclose(result, oracles.kl_by_quadrature(sigma_sq, sigma_0), rtol=1e-9, atol=1e-12)
    assert result >= -1e-15


def test_regulariser_vanishes_at_sigma_0_only(uniform):
    at = torch.tensor([0.05**2], dtype=torch.float64, requires_grad=True)
    kl = kl_regularizer(at, 0.05)
    kl.sum().backward()
    assert kl.item() == pytest.approx(0, abs=1e-15)
    assert at.grad.item() == pytest.approx(0, abs=1e-9)
    assert kl_regularizer(0.05**2 * (1.1 + uniform(2, 3, 5)), 0.05).min() > 1e-3


# --- the discrete twin ------------------------------------------------------------------------------------------------


def test_discrete_attention_is_softmax_attention(normal):
    query = normal(BATCH, HEAD, QUERY_POS, D_HEAD)
    keys, values = normal(BATCH, HEAD, KEY_POS, D_HEAD), normal(BATCH, HEAD, KEY_POS, D_HEAD)
    expected = torch.nn.functional.scaled_dot_product_attention(query, keys, values)
    expected = rearrange(expected, "batch head query_pos d_head -> batch query_pos (head d_head)")
    assert_allclose(discrete_attention(query, keys, values), expected, rtol=1e-10, atol=1e-12)


# --- gradients --------------------------------------------------------------------------------------------------------


def test_gradients(normal):
    def leaf(*shape):
        return normal(*shape).requires_grad_()

    query, keys, values = leaf(2, 3, 2, 2), leaf(2, 3, 5, 2), leaf(2, 3, 5, 2)
    assert gradcheck(scores, (query, keys))
    assert gradcheck(lambda *a: collapsed_logits(query, collapsed_keys(*a, 3)), (leaf(2, 5, 4), leaf(6, 4), leaf(2, 5)))
    assert gradcheck(lambda *a: density(*a), (leaf(2, 3, 5), leaf(2, 3, 5)))
    assert gradcheck(expected_value, (leaf(2, 3, 2, 5), values))
    assert gradcheck(lambda s: kl_regularizer(s.exp(), 0.3), (leaf(2, 3, 5),))
    assert gradcheck(discrete_attention, (query, keys, values))


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sigma_0", [0.0, -0.05, math.nan])
def test_a_deviation_that_is_none(sigma_0):
    with pytest.raises(ValueError, match=f"sigma_0 must be > 0, got {sigma_0}"):
        kl_regularizer(torch.ones(2), sigma_0)


def test_tensors_that_do_not_fit(normal):
    query, keys = normal(BATCH, HEAD, QUERY_POS, D_HEAD), normal(BATCH, HEAD, BASIS, D_HEAD)
    with pytest.raises(ValueError, match=r"scores: keys must have the axes .* d_head = 11, got d_head = 7"):
        scores(query, keys.mT)
    with pytest.raises(ValueError, match=r"scores: query must have the axes .*, got 3 axes"):
        scores(query[0], keys)
    with pytest.raises(ValueError, match=r"scores: keys must be a tensor of type float, got torch.int64"):
        scores(query, keys.long())
    with pytest.raises(ValueError, match=r"scores: all tensors must be on one device, got keys on meta"):
        scores(query, keys.to("meta"))
    with pytest.raises(ValueError, match=r"collapsed_keys: map_weight must have the axes .* basis = 7, got basis = 5"):
        collapsed_keys(normal(BATCH, BASIS, D_MODEL), normal(33, D_MODEL), normal(2, 5), HEAD)
    with pytest.raises(ValueError, match=r"collapsed_logits: keys must have the axes .* head = 3, got head = 2"):
        collapsed_logits(query, keys[:, :2])
    with pytest.raises(ValueError, match=r"density: sigma_sq_logit must have the axes .* query_pos = 5"):
        density(normal(BATCH, HEAD, QUERY_POS), normal(BATCH, HEAD, 2))
    with pytest.raises(ValueError, match=r"expected_value: values must have the axes .* basis = 5, got basis = 7"):
        expected_value(normal(BATCH, HEAD, QUERY_POS, 5), keys)
    with pytest.raises(
        ValueError, match=r"discrete_attention: values must have the axes .* key_pos = 7, got key_pos = 5"
    ):
        discrete_attention(query, keys, query)
    with pytest.raises(ValueError, match=r"kl_regularizer: sigma_sq must be a tensor, got float"):
        kl_regularizer(1.0, 0.05)
