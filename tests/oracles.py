"""Slow float64 answers to check the library against, each found in another way than the library finds it.

Everything here is plain numpy, written from the equations by loops, numerical integration, bisection or `lstsq`;
nothing is imported from `infmem`. Words follow the library: t runs over [0, 1] from the oldest (0) to the newest (1),
sigma is a standard deviation, sigma_sq a variance, tau the share of [0, 1] that the past gets. Weight matrices follow
`torch.nn.Linear`: y = W x + b.
"""

from itertools import product

import numpy as np

REACH = 20  # standard deviations beyond which a Gaussian counts as zero: exp(-200) is about 1e-87


# --- small tools ------------------------------------------------------------------------------------------------------


def integrate(function, low, high, num_panels=40, num_nodes=16):
    """Integral of `function` over [low, high] by Gauss-Legendre quadrature on equal panels; 0 for an empty interval."""
    if high <= low:
        return 0.0
    nodes, node_weights = np.polynomial.legendre.leggauss(num_nodes)
    half_width = (high - low) / (2 * num_panels)
    middles = low + half_width * (2 * np.arange(num_panels) + 1)
    values = function(middles[:, None] + half_width * nodes)
    return float(half_width * (values @ node_weights).sum())


def gaussian_density(t, mean, sigma):
    """N(t; mean, sigma^2) at every t."""
    return np.exp(-0.5 * ((t - mean) / sigma) ** 2) / (sigma * np.sqrt(2 * np.pi))


def gaussian_mass(mean, sigma, low, high):
    """Integral of N(t; mean, sigma^2) over [low, high], numerically, where it is not negligible: no error function."""
    return integrate(
        lambda t: gaussian_density(t, mean, sigma), max(low, mean - REACH * sigma), min(high, mean + REACH * sigma)
    )


def gaussian_overlap(mean, sigma, center, width, low, high):
    """Integral of N(t; mean, sigma^2) N(t; center, width^2) over [low, high], numerically: no convolution formula."""
    return integrate(
        lambda t: gaussian_density(t, mean, sigma) * gaussian_density(t, center, width),
        max(low, mean - REACH * sigma, center - REACH * width),
        min(high, mean + REACH * sigma, center + REACH * width),
    )


def sigmoid(x):
    """1 / (1 + exp(-x)), through tanh so that no exponential overflows."""
    return 0.5 * (1 + np.tanh(0.5 * x))


def as_float64(weights):
    """The same dictionary with every entry a float64 array."""
    return {name: np.asarray(value, dtype=np.float64) for name, value in weights.items()}


# --- basis ------------------------------------------------------------------------------------------------------------


def basis_grid(num_basis, sigmas):
    """Centres and widths, each [basis]: centres on an even grid over [0, 1], each with every width in turn."""
    if num_basis % len(sigmas):
        raise ValueError(f"{num_basis} basis functions cannot share {len(sigmas)} widths evenly")
    pairs = [(center, sigma) for center in np.linspace(0, 1, num_basis // len(sigmas)) for sigma in sigmas]
    return np.array([center for center, _ in pairs]), np.array([sigma for _, sigma in pairs])


def basis_values(t, centers, sigmas):
    """psi_j(t) = N(t; centers_j, sigmas_j^2), shape [*t, basis]: one density after the other."""
    t = np.asarray(t, dtype=np.float64)
    return np.stack(
        [gaussian_density(t, center, sigma) for center, sigma in zip(centers, sigmas, strict=True)], axis=-1
    )


def expectation_by_quadrature(mu, sigma_sq, centers, sigmas, unit_interval=False):
    """E[psi_j(t)] for t ~ N(mu, sigma_sq), shape [*mu, basis]; `unit_interval` cuts N to [0, 1] and renormalises.

    Every entry is a numerical integral of a product of two densities, never N(mu; c_j, sigma_sq + sigma_j^2).
    """
    mu, sigma_sq = np.broadcast_arrays(np.asarray(mu, dtype=np.float64), np.asarray(sigma_sq, dtype=np.float64))
    low, high = (0.0, 1.0) if unit_interval else (-np.inf, np.inf)
    expectation = np.zeros((*mu.shape, len(centers)))
    for index in np.ndindex(mu.shape):
        mean, sigma = mu[index], np.sqrt(sigma_sq[index])
        mass = gaussian_mass(mean, sigma, low, high) if unit_interval else 1.0
        for j, (center, width) in enumerate(zip(centers, sigmas, strict=True)):
            expectation[*index, j] = gaussian_overlap(mean, sigma, center, width, low, high) / mass
    return expectation


# --- signal -----------------------------------------------------------------------------------------------------------


def ridge_operator_by_lstsq(design_pos, ridge, padding=None):
    """G [pos, basis] such that B = G^T X minimises |Psi B - X|^2 + |Psi_pad B|^2 + ridge |B|^2.

    `design_pos` is Psi [pos, basis], `padding` is Psi_pad [pad, basis] or None. The penalty becomes extra rows of an
    ordinary least-squares problem, [Psi; Psi_pad; sqrt(ridge) I] B = [X; 0; 0], solved for X = I: no normal equations.
    """
    num_pos, num_basis = design_pos.shape
    padding = np.zeros((0, num_basis)) if padding is None else padding
    rows = np.concatenate([design_pos, padding, np.sqrt(ridge) * np.eye(num_basis)])
    targets = np.eye(len(rows))[:, :num_pos]
    return np.linalg.lstsq(rows, targets, rcond=None)[0].T


def degrees_of_freedom(design_pos, ridge, padding=None):
    """Effective degrees of freedom: sum over positions of d fitted_i / d x_i, shape [].

    Each observation of a sine wave in turn is raised by one and the whole signal refitted; no trace is written down.
    """

    def fitted(x):
        return design_pos @ (ridge_operator_by_lstsq(design_pos, ridge, padding).T @ x)

    signal = np.sin(np.arange(len(design_pos)))
    before = fitted(signal)
    total = 0.0
    for i in range(len(signal)):
        raised = signal.copy()
        raised[i] += 1.0
        total += fitted(raised)[i] - before[i]
    return total


# --- attention --------------------------------------------------------------------------------------------------------


def gaussian_attention_by_loops(
    coefficients, query, weights, num_heads, centers, sigmas, sigma_sq_min=1e-6, sigma_0=0.05
):
    """Continuous attention the textbook way: z [batch, query_pos, d_model]; mu, sigma_sq, kl [batch, head, query_pos].

    K = B W_K^T and V = B W_V^T; scores s_j = k_j . q / sqrt(d_head); mu = sigmoid(w_mu . s + b_mu); sigma_sq =
    max(softplus(w_sigma . s + b_sigma), sigma_sq_min); head output = sum_j N(mu; c_j, sigma_sq + sigma_j^2) v_j; kl =
    KL(N(mu, sigma_sq) || N(mu, sigma_0^2)). The scores of all basis functions are formed, one head and query at a
    time. `coefficients` is [batch, basis, d_model]; `query` [batch, query_pos, d_model] is already projected.
    Weights: key, value, out, to_mu, to_sigma_sq (each ".weight"), the last two shared by the heads and with an
    optional ".bias"; and optionally head_scale, a factor of each head's output.
    """
    weights = as_float64(weights)
    batch, num_queries, d_query = query.shape
    d_head = d_query // num_heads
    mu, sigma_sq = np.zeros((2, batch, num_heads, num_queries))
    z = np.zeros((batch, num_queries, len(weights["out.weight"])))
    for b in range(batch):
        keys = coefficients[b] @ weights["key.weight"].T
        values = coefficients[b] @ weights["value.weight"].T
        for i in range(num_queries):
            head_outputs = []
            for h in range(num_heads):
                channels = slice(h * d_head, (h + 1) * d_head)
                scores = np.array([key[channels] @ query[b, i, channels] / np.sqrt(d_head) for key in keys])
                mu_logit, sigma_sq_logit = (
                    (weights[f"{name}.weight"].ravel() @ scores + weights.get(f"{name}.bias", np.zeros(1))).item()
                    for name in ("to_mu", "to_sigma_sq")
                )
                mu[b, h, i] = sigmoid(mu_logit)
                sigma_sq[b, h, i] = max(np.logaddexp(0, sigma_sq_logit), sigma_sq_min)
                scale = weights["head_scale"][h] if "head_scale" in weights else 1.0
                head_outputs.append(
                    scale
                    * sum(
                        gaussian_density(mu[b, h, i], center, np.sqrt(sigma_sq[b, h, i] + width**2)) * value[channels]
                        for center, width, value in zip(centers, sigmas, values, strict=True)
                    )
                )
            z[b, i] = weights["out.weight"] @ np.concatenate(head_outputs)
    ratio = sigma_sq / sigma_0**2
    return z, mu, sigma_sq, 0.5 * (ratio - np.log(ratio) - 1)


def kl_by_quadrature(sigma_sq, sigma_0):
    """KL(N(mu, sigma_sq) || N(mu, sigma_0^2)), shape of sigma_sq: the integral of p log(p / p_0), with mu = 0."""
    sigma_sq = np.asarray(sigma_sq, dtype=np.float64)
    divergence = np.zeros(sigma_sq.shape)
    for index in np.ndindex(sigma_sq.shape):
        sigma = np.sqrt(sigma_sq[index])

        def integrand(t, sigma=sigma):
            log_ratio = 0.5 * (t / sigma_0) ** 2 - 0.5 * (t / sigma) ** 2 + np.log(sigma_0 / sigma)
            return gaussian_density(t, 0.0, sigma) * log_ratio

        divergence[index] = integrate(integrand, -REACH * sigma, REACH * sigma)
    return divergence


# --- contraction ------------------------------------------------------------------------------------------------------


def update_by_refit(
    coefficients, new, centers, sigmas, tau, locations, past_positions, new_positions, ridge, padding_positions=None
):
    """One memory update: new coefficients [batch, basis, d_model].

    The old signal is evaluated at `locations` ([sample], or [batch, sample]), its values are placed at
    `past_positions` [sample] and `new` [batch, pos, d_model] at `new_positions` [pos]; zeros stand at
    `padding_positions`, if any; then everything is refitted. Positions are final, already contracted: past ones lie
    in [0, tau], new ones in [tau, 1]. Done point by point and with `lstsq`; the linear recurrence B <- A B + C X is
    not used.
    """
    if np.max(past_positions) > tau + 1e-9 or np.min(new_positions) < tau - 1e-9:
        raise ValueError("past positions belong in [0, tau] and new positions in [tau, 1]")
    locations = np.broadcast_to(locations, (len(new), len(past_positions)))
    design = basis_values(np.concatenate([past_positions, new_positions]), centers, sigmas)
    padding = None if padding_positions is None else basis_values(padding_positions, centers, sigmas)
    operator = ridge_operator_by_lstsq(design, ridge, padding)
    updated = []
    for old, points, chunk in zip(coefficients, locations, new, strict=True):
        samples = np.stack([basis_values(t, centers, sigmas) @ old for t in points])
        updated.append(operator.T @ np.concatenate([samples, chunk]))
    return np.stack(updated)


def age_of(t, taus, lengths):
    """Token number (a float: the i-th token read, from 1, has number i) that sits at the point t after all the updates.

    `taus` holds the share given to the past at updates 1..k, `lengths` the chunk lengths 0..k. The i-th of n new
    tokens is put at tau + (1 - tau) i / n and the past is sampled uniformly. One point is followed back through the
    updates: t <= tau was t / tau one update earlier.
    """
    chunk = len(taus)
    while chunk > 0 and t <= taus[chunk - 1]:
        t = t / taus[chunk - 1]
        chunk -= 1
    start = taus[chunk - 1] if chunk > 0 else 0.0
    return sum(lengths[:chunk]) + lengths[chunk] * (t - start) / (1 - start)


# --- sticky memories --------------------------------------------------------------------------------------------------


def histogram_by_quadrature(mu, sigma_sq, num_bins):
    """p(bin), [batch, bin]: attention mass of all heads and queries in equal bins of [0, 1], normalised over the bins.

    `mu` and `sigma_sq` are [batch, head, query_pos]. Each density is integrated numerically over each bin.
    """
    histogram = np.zeros((len(mu), num_bins))
    for b, h, i in np.ndindex(mu.shape):
        for k in range(num_bins):
            low, high = k / num_bins, (k + 1) / num_bins
            histogram[b, k] += gaussian_mass(mu[b, h, i], np.sqrt(sigma_sq[b, h, i]), low, high)
    return histogram / histogram.sum(axis=1, keepdims=True)


def inverse_cdf_by_bisection(probabilities, u):
    """Location t in [0, 1] with CDF(t) = u, for a density constant within each bin; leftmost t where the CDF is flat.

    The CDF is summed bin by bin and t is closed in on by halving an interval: no search, no interpolation.
    """

    def cdf(t):
        covered = [min(max(t * len(probabilities) - k, 0.0), 1.0) for k in range(len(probabilities))]
        return sum(share * probability for share, probability in zip(covered, probabilities, strict=True))

    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if cdf(middle) < u else (low, middle)
    return high


# --- the long-term memory with the conventions of the released code ---------------------------------------------------


class ReleasedMemory:
    """A stateful long-term memory with every convention of the released sorting code.

    Weights, all without bias but the gate: key.weight, value.weight and out.weight [d_model, d_model], to_mu.weight
    and to_sigma_sq.weight [1, basis], gate.weight [d_model, d_model, 3], gate.bias [d_model]. Each call stores the
    gated new states first, then reads with a query that is already projected.
    """

    def __init__(
        self, weights, num_heads, num_basis=512, num_samples=512, tau=0.75, ridge=1.0, sigmas=(0.01, 0.05), sigma_0=0.05
    ):
        self.weights = as_float64(weights)
        self.num_heads, self.num_samples = num_heads, num_samples
        self.tau, self.ridge, self.sigma_0 = tau, ridge, sigma_0
        self.centers, self.sigmas = basis_grid(num_basis, sigmas)
        self.coefficients = None

    def __call__(self, query, new):
        """z [batch, query_pos, d_model], kl [batch, head, query_pos], updated coefficients [batch, basis, d_model]."""
        gated = self.gate(np.asarray(new, dtype=np.float64))
        self.coefficients = self.first_fit(gated) if self.coefficients is None else self.update(gated)
        z, _, _, kl = gaussian_attention_by_loops(
            self.coefficients,
            np.asarray(query, dtype=np.float64),
            self.weights,
            self.num_heads,
            self.centers,
            self.sigmas,
            sigma_0=self.sigma_0,
        )
        return z, kl, self.coefficients

    def gate(self, x):
        """x * sigmoid(conv(x)): each position weighs itself and its two neighbours, zeros beyond the ends."""
        gated = np.zeros_like(x)
        for b, i in product(range(x.shape[0]), range(x.shape[1])):
            logit = self.weights["gate.bias"].copy()
            for offset in (-1, 0, 1):
                if 0 <= i + offset < x.shape[1]:
                    logit += self.weights["gate.weight"][:, :, offset + 1] @ x[b, i + offset]
            gated[b, i] = x[b, i] * sigmoid(logit)
        return gated

    def first_fit(self, x):
        """Tokens at the middle L of 2L (even L) or 2L - 1 (odd L) even points on [-.5, 1.5], zeros at the others."""
        length = x.shape[1]
        if length % 2 == 0:
            grid = np.linspace(-0.5 + 1 / (2 * length), 1.5 - 1 / (2 * length), 2 * length)
        else:
            grid = np.linspace(-0.5 + 1 / length, 1.5 - 1 / length, 2 * length - 1)
        num_before = (len(grid) - length) // 2
        inside = slice(num_before, num_before + length)
        operator = ridge_operator_by_lstsq(
            basis_values(grid[inside], self.centers, self.sigmas),
            self.ridge,
            basis_values(np.delete(grid, inside), self.centers, self.sigmas),
        )
        return np.stack([operator.T @ chunk for chunk in x])

    def update(self, x):
        """Past samples at i tau / M, new tokens at tau + (1 - tau) i / L, zeros at a grid's points outside [0, 1]."""
        length, num_samples = x.shape[1], self.num_samples
        shift = 1 / (2 * length + num_samples)
        grid = np.linspace(-0.5 + shift, 1.5 - shift, 2 * (length + num_samples))
        locations = np.arange(1, num_samples + 1) / num_samples
        return update_by_refit(
            self.coefficients,
            x,
            self.centers,
            self.sigmas,
            self.tau,
            locations,
            past_positions=self.tau * locations,
            new_positions=self.tau + (1 - self.tau) * np.arange(1, length + 1) / length,
            ridge=self.ridge,
            padding_positions=grid[(grid < 0) | (grid > 1)],
        )


# --- Transformer-XL ---------------------------------------------------------------------------------------------------


def sinusoid(distance, d_model):
    """Vector of a relative distance [d_model]: all sin(distance w_k), then all cos; w_k = 1 / 10000^(2 k / d_model)."""
    angles = [distance / 10000 ** (2 * k / d_model) for k in range(d_model // 2)]
    return np.array([np.sin(angle) for angle in angles] + [np.cos(angle) for angle in angles])


def relative_attention_by_loops(x, memory, query_weight, key_weight, value_weight, relative_weight, out_weight, u, v):
    """Output of Transformer-XL's attention before the residual, [batch, query_pos, d_model].

    score_ij = ((q_i + u) . k_j + (q_i + v) . W_R R_{i-j}) / sqrt(d_head), with a softmax over all of `memory` [batch,
    mem_pos, d_model] and the tokens of `x` [batch, query_pos, d_model] up to i; `u` and `v` are [head, d_head]. Every
    pair looks up its own distance: no shift trick and no mask.
    """
    num_heads, d_head = u.shape
    batch, num_queries, d_model = x.shape
    num_memory = memory.shape[1]
    relative = [relative_weight @ sinusoid(distance, d_model) for distance in range(num_memory + num_queries)]
    output = np.zeros((batch, num_queries, len(out_weight)))
    for b, i in product(range(batch), range(num_queries)):
        visible = np.concatenate([memory[b], x[b, : i + 1]])
        query = query_weight @ x[b, i]
        keys = [key_weight @ state for state in visible]
        values = [value_weight @ state for state in visible]
        head_outputs = []
        for h in range(num_heads):
            channels = slice(h * d_head, (h + 1) * d_head)
            scores = np.zeros(len(visible))
            for j, key in enumerate(keys):
                content = (query[channels] + u[h]) @ key[channels]
                position = (query[channels] + v[h]) @ relative[num_memory + i - j][channels]
                scores[j] = (content + position) / np.sqrt(d_head)
            odds = np.exp(scores - scores.max())
            head_outputs.append(
                sum(share * value[channels] for share, value in zip(odds / odds.sum(), values, strict=True))
            )
        output[b, i] = out_weight @ np.concatenate(head_outputs)
    return output


def layer_norm(x, weight, bias, epsilon=1e-5):
    """(x - mean) / sqrt(variance + epsilon) * weight + bias over the last axis."""
    centered = x - x.mean(axis=-1, keepdims=True)
    return centered / np.sqrt((centered**2).mean(axis=-1, keepdims=True) + epsilon) * weight + bias


def transformer_xl_by_loops(tokens, memories, weights):
    """Hidden states after the last layer [batch, pos, d_model], and the list of every layer's input (its next memory).

    Post-norm layers over embeddings times sqrt(d_model). `memories` is None or one [batch, mem_pos, d_model] (or
    None) per layer. Weights are named and laid out as in the public checkpoints: word_emb.emb_layers.0.weight [vocab,
    d_model]; r_w_bias (u) and r_r_bias (v) [head, d_head], shared by the layers; then for each layer i, under
    "layers.{i}.": dec_attn.qkv_net.weight [3 head d_head, d_model] (rows q, then k, then v), dec_attn.r_net.weight,
    dec_attn.o_net.weight, dec_attn.layer_norm.{weight,bias}, pos_ff.CoreNet.0.{weight,bias},
    pos_ff.CoreNet.3.{weight,bias} (a ReLU between them), pos_ff.layer_norm.{weight,bias}.
    """
    weights = as_float64(weights)
    embedding = weights["word_emb.emb_layers.0.weight"]
    hidden = embedding[np.asarray(tokens)] * np.sqrt(embedding.shape[1])
    num_layers = sum(name.endswith("dec_attn.qkv_net.weight") for name in weights)
    memories = [None] * num_layers if memories is None else memories
    inputs = []
    for i in range(num_layers):
        layer = {name.removeprefix(f"layers.{i}."): value for name, value in weights.items()}
        inputs.append(hidden)
        attended = relative_attention_by_loops(
            hidden,
            hidden[:, :0] if memories[i] is None else np.asarray(memories[i], dtype=np.float64),
            *np.split(layer["dec_attn.qkv_net.weight"], 3),
            layer["dec_attn.r_net.weight"],
            layer["dec_attn.o_net.weight"],
            weights["r_w_bias"],
            weights["r_r_bias"],
        )
        attended = layer_norm(hidden + attended, layer["dec_attn.layer_norm.weight"], layer["dec_attn.layer_norm.bias"])
        inner = np.maximum(attended @ layer["pos_ff.CoreNet.0.weight"].T + layer["pos_ff.CoreNet.0.bias"], 0)
        outer = inner @ layer["pos_ff.CoreNet.3.weight"].T + layer["pos_ff.CoreNet.3.bias"]
        hidden = layer_norm(attended + outer, layer["pos_ff.layer_norm.weight"], layer["pos_ff.layer_norm.bias"])
    return hidden, inputs


# --- the sorting task -------------------------------------------------------------------------------------------------


def sorting_target(sequence, num_symbols=20):
    """All symbols by decreasing count, ties by first occurrence, absent symbols last in numeric order: a list.

    Repeated selection of the best remaining symbol, with its tie rules spelled out; no sort.
    """
    sequence = [int(symbol) for symbol in sequence]
    counts = [sequence.count(symbol) for symbol in range(num_symbols)]
    remaining, order = list(range(num_symbols)), []
    while remaining:
        best = remaining[0]
        for symbol in remaining[1:]:
            tied = counts[symbol] == counts[best] > 0
            if counts[symbol] > counts[best] or (tied and sequence.index(symbol) < sequence.index(best)):
                best = symbol
        order.append(best)
        remaining.remove(best)
    return order


def reference_accuracy(sequences, window=None, num_symbols=20):
    """Expected teacher-forced accuracy of one who counts only the last `window` tokens (all, if None).

    At each step of the target the true symbols already revealed are out, and the guess is uniform among the remaining
    symbols whose count in the window is highest (zero counts included). A guess with m candidates is right with
    chance 1 / m if the truth is one of them, else 0: the exact expectation, averaged over steps and sequences.
    `window` is at least 1.
    """
    chances = []
    for sequence in sequences:
        seen = [int(symbol) for symbol in (sequence if window is None else sequence[-window:])]
        remaining = {symbol: seen.count(symbol) for symbol in range(num_symbols)}
        for truth in sorting_target(sequence, num_symbols):
            highest = max(remaining.values())
            num_candidates = sum(count == highest for count in remaining.values())
            chances.append(1 / num_candidates if remaining[truth] == highest else 0.0)
            del remaining[truth]
    return float(np.mean(chances))
