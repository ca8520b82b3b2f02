def infinite_former(seen: int, segment: int, num_basis: int) -> int:
    """Operations of a segment, product by product: rows times columns times what is summed over, twice."""
    d, d_ff, layers, vocab = 384, 1536, 3, 22
    keys = min(seen, segment) + segment
    products = [(segment, d, d), (keys, 2 * d, d), (keys + 1, d, d), (segment, d, d)]  # query, key and value, distances
    products += [(segment, keys, d), (segment, keys + 1, d), (segment, d, keys)]  # by content, by distance, values
    products += [(segment, d_ff, d), (segment, d, d_ff)]
    if seen > segment:
        first = seen < 2 * segment + 1
        products += [(num_basis, d, segment)] + ([] if first else [(num_basis, d, num_basis)])  # write
        products += [(segment, d, d), (num_basis, d, d), (segment, d, d)]  # query, values, output
        products += [(2, d, num_basis), (2, d, d), (2, segment, d)]  # both maps
        products += [(segment, d, num_basis)]
    each = sum(2 * rows * columns * summed for rows, columns, summed in products)
    return layers * each + 2 * segment * d * vocab


def full_attention(seen: int, segment: int) -> int:
    d, d_ff, layers, vocab = 384, 1536, 3, 22
    products = [(segment, d, d)] * 4 + [(segment, seen + segment, d), (segment, d, seen + segment)]
    products += [(segment, d_ff, d), (segment, d, d_ff)]
    return layers * sum(2 * rows * columns * summed for rows, columns, summed in products) + 2 * segment * d * vocab


def cost(values: dict) -> list[str]:
    seen, segment, num_basis = values["seen"], values["segment"], values["num_basis"]
    ours, theirs = infinite_former(seen, segment, num_basis), full_attention(seen, segment)
    state = 3 * (4 * (num_basis * 384 + 128) + 8 + 2 * 4 * segment * 384)
    most = infinite_former(10**9, segment, num_basis)
    first = segment
    while full_attention(first, segment) <= most:
        first += segment
    return [
        f"After {seen:,} tokens the next {segment} cost the infinite-former {ours / 1e9:.1f} billion",
        f"full attention {theirs / 1e9:.1f} billion",
        f"it keeps {state / 1e6:.1f} MB, full attention {2 * 3 * 384 * 4 * seen / 1e6:.1f} MB",
        f"the dearer one from {first:,} tokens on",
    ]


EXPECTED = {"cost": cost}
