"""Score a Parquet dataset with Ray. Needs `pip install 'ray[data]'`, jax and flatbuffers.

python docs/examples/ray_job.py --model=score.bin --input=s3://bucket/rows --output=s3://bucket/scores
"""

import argparse
import json

import jax
import numpy as np

SIZE = 4096  # rows in a batch: one size, one compilation


class Score:
    """Adds a column of scores to a batch of columns."""

    def __init__(self, model: str):
        with open(model, "rb") as file, open(model + ".json") as sidecar:
            self.call = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
            self.columns = json.load(sidecar)["input"]["columns"]

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        x = np.stack([batch[name] for name in self.columns], axis=1).astype(np.float32)
        padded = np.concatenate([x, np.zeros((SIZE - len(x), x.shape[1]), np.float32)])
        return {**batch, "score": np.asarray(self.call(padded))[: len(x)]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--workers", type=int, default=4)
    arguments = parser.parse_args()

    import ray

    rows = ray.data.read_parquet(arguments.input)
    scored = rows.map_batches(
        Score, fn_constructor_args=(arguments.model,), batch_size=SIZE, concurrency=arguments.workers
    )
    scored.write_parquet(arguments.output)
