"""What each process does that torchrun starts for test_distributed.py; the first one writes what it has learnt."""

import os
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file
from tiny import tiny_config

from infmem.distributed import Workers, joined_workers
from infmem.presets import MODEL_NAMES, build_model
from infmem.training import BatchReader, train_batch

BATCH = 6


def trained_weights(model_name: str, workers: Workers) -> dict[str, torch.Tensor]:
    """A model after some steps of plain gradient descent in float64, where nothing hides or amplifies a difference."""
    config = tiny_config(model_name, batch_size=BATCH)
    model = build_model(config.model).double().eval()  # without dropout, which differs between workers
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    data, sticky = torch.Generator(), torch.Generator()
    reader = workers.wrap(BatchReader(model, config))
    for step in range(5):
        data.manual_seed(step)
        result = train_batch(reader, optimizer, config, data, sticky, workers)
    weights = {f"{model_name}.{name}": weight for name, weight in model.state_dict().items()}
    return weights | {f"{model_name} {name}": value.clone() for name, value in result._asdict().items()}


def main(folder: Path) -> None:
    """Train all models together, and check what the workers agree on."""
    with joined_workers(torch.device("cpu")) as workers:
        assert workers.size == 2 and workers.rank == int(os.environ["RANK"])
        assert workers.any(workers.rank == 1) and not workers.any(False)
        assert workers.mean(torch.tensor([1.0 + workers.rank, 4.0])).tolist() == [1.5, 4.0]
        assert workers.from_first(lambda: workers.rank) == 0
        try:
            workers.from_first(lambda: int("the first one alone fails"))
        except ValueError as error:
            assert "the first one" in str(error)
        else:
            raise AssertionError("an error of the first worker is an error of all")
        weights = {}
        for name in MODEL_NAMES.values():
            weights |= trained_weights(name, workers)
        if workers.is_first:
            save_file(weights, folder / "weights.safetensors")
        else:
            (folder / "second").touch()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
