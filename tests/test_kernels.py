"""The kernels against a float64 reference written another way: on a GPU, or without one in Triton's interpreter."""

import importlib.util

import pytest
import torch
from torch.testing import assert_close

if importlib.util.find_spec("triton") is None:
    pytest.skip("the kernels are written in Triton: `pip install triton` runs these tests", allow_module_level=True)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
pytestmark = [
    *([pytest.mark.gpu] if DEVICE.type == "cuda" else []),
    # Of older versions of Triton's interpreter, and of PyTorch when it is asked for a precision.
    pytest.mark.filterwarnings("ignore:Conversion of an array with ndim > 0 to a scalar:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:Please use the new API settings to control TF32:UserWarning"),
]

import infmem.attention  # noqa: E402
import infmem.benchmark.read  # noqa: E402
from infmem import MemoryConfig  # noqa: E402
from infmem.basis import GaussianBasis  # noqa: E402
from infmem.benchmark.timing import tensor_float_32  # noqa: E402
from infmem.cost import ReadSizes  # noqa: E402
from infmem.fast import read_with_kernel  # noqa: E402
from infmem.kernels.gaussian_read import gaussian_read  # noqa: E402
from infmem.kernels.relative_attention import relative_attention  # noqa: E402
from infmem.models.layers import RelativeAttention  # noqa: E402

# batch, head, query_pos, key_pos, distance, d_head
SIZES = [
    pytest.param((2, 3, 5, 5, 6, 7), id="no memory"),
    pytest.param((2, 3, 5, 11, 17, 7), id="more distances than keys"),
    pytest.param((1, 2, 67, 131, 137, 13), id="several blocks, none of them whole"),
    pytest.param((1, 1, 128, 128, 136, 16), id="whole blocks"),
]


def reference(query, keys, values, by_distance):
    """Attention with every score gathered at its distance, in a loop over queries."""
    num_queries, num_keys = query.shape[2], keys.shape[2]
    read = []
    for i in range(num_queries):
        newest = num_keys - num_queries + i
        distances = newest - torch.arange(newest + 1, device=query.device)
        positions = by_distance[:, :, i].flip(-1)[..., distances]  # the last column is distance 0
        content = (keys[:, :, : newest + 1] @ query[:, :, i, :, None])[..., 0] / query.shape[-1] ** 0.5
        weights = torch.softmax(content + positions, -1)
        read.append((weights[..., None] * values[:, :, : newest + 1]).sum(2))
    return torch.stack(read, 2)


def inputs(sizes, generator, dtype=torch.float32):
    batch, head, query_pos, key_pos, distance, d_head = sizes
    shapes = [(query_pos, d_head), (key_pos, d_head), (key_pos, d_head), (query_pos, distance)]
    tensors = [torch.randn(batch, head, *shape, generator=generator).to(DEVICE, dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in tensors]


@pytest.mark.parametrize("sizes", SIZES)
def test_result_and_gradients_are_those_of_plain_attention(sizes, generator):
    tensors = inputs(sizes, generator)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    read, expected = relative_attention(*tensors), reference(*exact)
    assert_close(read.double(), expected, rtol=1e-5, atol=1e-5)
    upstream = torch.randn(read.shape, generator=generator).to(DEVICE)
    gradients = torch.autograd.grad(read, tensors, upstream)
    for gradient, wanted in zip(gradients, torch.autograd.grad(expected, exact, upstream.double()), strict=True):
        assert_close(gradient.double(), wanted, rtol=1e-5, atol=1e-5)


def test_heads_may_lie_in_any_order(generator):
    """As projections give them: heads side by side in each row, and batch and head of the positions swapped."""
    tensors = inputs((2, 3, 5, 11, 17, 7), generator)
    strided = [tensor.detach().transpose(1, 2).contiguous().transpose(1, 2) for tensor in tensors[:3]]
    strided.append(tensors[3].detach().transpose(0, 1).contiguous().transpose(0, 1))
    strided = [tensor.requires_grad_() for tensor in strided]
    results = [relative_attention(*arguments) for arguments in (tensors, strided)]
    assert_close(*results)
    gradients = [
        torch.autograd.grad(result.square().sum(), each)
        for result, each in zip(results, (tensors, strided), strict=True)
    ]
    for mine, theirs in zip(*gradients, strict=True):
        assert_close(mine, theirs)


def test_nothing_later_than_the_query_is_read(generator):
    query, keys, values, by_distance = (tensor.detach() for tensor in inputs((2, 3, 5, 11, 17, 7), generator))
    before = relative_attention(query, keys, values, by_distance)
    keys[:, :, -2:], values[:, :, -2:] = 1e4, 1e4
    after = relative_attention(query, keys, values, by_distance)
    assert_close(after[:, :, :3], before[:, :, :3], rtol=0, atol=0)
    assert not torch.equal(after[:, :, 3:], before[:, :, 3:])


@pytest.mark.parametrize("mem_pos", [0, 4, 11])
def test_a_layer_that_reads_with_the_kernel_gives_the_same(mem_pos, generator):
    attention = RelativeAttention(12, 3)
    shapes = ((2, 5, 12), (2, mem_pos, 12), (3, 4), (3, 4))
    tensors = [torch.randn(shape, generator=generator).to(DEVICE).requires_grad_() for shape in shapes]
    attention.to(DEVICE)
    results, gradients = [], []
    for _ in range(2):
        results.append(attention(*tensors).output)
        gradients.append(torch.autograd.grad(results[-1].square().sum(), [*tensors, *attention.parameters()]))
        read_with_kernel(attention)
    assert_close(results[1], results[0], rtol=1e-5, atol=1e-5)
    for mine, expected in zip(gradients[1], gradients[0], strict=True):
        assert_close(mine, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_operator_is_one_that_pytorch_can_compile(generator):
    torch.library.opcheck(torch.ops.infmem.relative_attention, tuple(inputs((2, 3, 5, 11, 17, 7), generator)))


# num_basis, sigmas, whether on the unit interval
BASES = [
    pytest.param(1, (0.3,), False, id="one function"),
    pytest.param(1, (0.3,), True, id="one function, unit interval"),
    pytest.param(138, (0.01, 0.05), False, id="two widths, several blocks"),
    pytest.param(138, (0.01, 0.05), True, id="two widths, unit interval"),
    pytest.param(331, (2 / 3 / 331,), True, id="blocks with and without an end"),
]


def densities(generator):
    """From far narrower than a basis function to far wider than the memory, anywhere on it and at its ends."""
    mu = torch.rand(2, 3, 149, generator=generator)
    mu[..., :5], mu[..., 5:11] = 0.0, 1.0
    sigma_sq = torch.logspace(-6, 2, 149)[torch.randperm(149, generator=generator)].expand(2, 3, 149)
    return mu.to(DEVICE).requires_grad_(), sigma_sq.contiguous().to(DEVICE).requires_grad_()


def gaussian_reference(mu, sigma_sq, values, basis, unit_interval):
    """Every weight in float64, written out."""
    weights = basis.to(torch.float64).expectation(mu, sigma_sq, unit_interval=unit_interval)
    return torch.einsum("bhqn,bhnd->bqhd", weights, values).flatten(2)


@pytest.mark.parametrize(("num_basis", "sigmas", "unit_interval"), BASES)
def test_the_gaussian_read_and_its_gradients(num_basis, sigmas, unit_interval, generator):
    basis = GaussianBasis.grid(num_basis, sigmas, device=DEVICE)
    values = torch.randn(2, 3, num_basis, 7, generator=generator).to(DEVICE).requires_grad_()
    tensors = [*densities(generator), values]
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    read, expected = (
        function(*arguments, basis, unit_interval=unit_interval)
        for function, arguments in ((gaussian_read, tensors), (gaussian_reference, exact))
    )
    assert_close(read.double(), expected, rtol=1e-4, atol=1e-4)
    upstream = torch.randn(read.shape, generator=generator).to(DEVICE)
    found = torch.autograd.grad(read, tensors, upstream)
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    # Per standard deviation of what is seen through a basis function: the narrower, the steeper.
    steepness = (exact[1].detach() + min(sigmas) ** 2).sqrt()
    for mine, theirs, unit in zip(found, wanted, (steepness, steepness**2, 1.0), strict=True):
        assert_close(mine.double() * unit, theirs * unit, rtol=1e-3, atol=1e-3)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter can't multiply bfloat16")
def test_the_gaussian_read_takes_strided_bfloat16(generator):
    """Values as projections give them in mixed precision: heads side by side in each row."""
    basis = GaussianBasis.grid(138, (2 / 3 / 138,), device=DEVICE)
    rows = torch.randn(2, 138, 3, 7, generator=generator).to(DEVICE, torch.bfloat16)
    mu, sigma_sq = (tensor.detach() for tensor in densities(generator))
    read = gaussian_read(mu, sigma_sq, rows.transpose(1, 2), basis, unit_interval=True)
    expected = gaussian_reference(mu.double(), sigma_sq.double(), rows.transpose(1, 2).double(), basis, True)
    assert read.dtype == torch.bfloat16
    assert ((read - expected).norm() / expected.norm()).item() < 5e-3


@pytest.mark.skipif(DEVICE.type == "cpu", reason="Triton's interpreter does not round")
def test_products_are_as_exact_as_pytorch_is_asked_to_make_them(generator):
    basis = GaussianBasis.grid(138, (2 / 3 / 138,), device=DEVICE)
    mu, sigma_sq = (tensor.detach() for tensor in densities(generator))
    values = torch.randn(2, 3, 138, 7, generator=generator).to(DEVICE)
    expected = gaussian_reference(mu.double(), sigma_sq.double(), values.double(), basis, True)
    exact = gaussian_read(mu, sigma_sq, values, basis, unit_interval=True)
    with tensor_float_32():
        rounded = gaussian_read(mu, sigma_sq, values, basis, unit_interval=True)
    errors = [((read - expected).norm() / expected.norm()).item() for read in (exact, rounded)]
    assert errors[0] < 1e-5 and 1e-5 < errors[1] < 2e-3


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_the_gaussian_read_is_an_operator_that_pytorch_can_compile(generator):
    basis = GaussianBasis.grid(5, (0.1,), device=DEVICE)
    values = torch.randn(2, 3, 5, 7, generator=generator).to(DEVICE).requires_grad_()
    arguments = (*densities(generator), values, basis.centers, basis.sigmas, 2, 2, True)
    torch.library.opcheck(torch.ops.infmem.gaussian_read, arguments)


@pytest.mark.parametrize("interval", ["line", "unit"])
def test_the_benchmark_times_the_kernel_beside_the_other_forms_and_it_agrees(interval, monkeypatch):
    for module in (infmem.attention, infmem.benchmark.read):
        monkeypatch.setattr(module, "fits", lambda values: True)  # as on a GPU
    sizes = ReadSizes(batch=1, query_pos=20, num_heads=2, d_head=10, num_basis=40)
    memory = MemoryConfig.best(num_basis=40, own_query=False, interval=interval)
    rows = list(infmem.benchmark.benchmark_read(DEVICE, sizes, memory, calls=2, compiled=False))
    kernels = [row for row in rows if "kernel" in row["form"]]
    assert [row["form"] for row in kernels] == ["collapsed, kernel"] * 2 + ["kernel", "kernel, TF32"] * 2
    for row in kernels:  # Triton's interpreter does not round
        assert 0 < row["difference"] < (3e-3 if DEVICE.type == "cuda" and "TF32" in row["form"] else 1e-4), row
