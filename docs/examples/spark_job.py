"""Score a Parquet dataset with Spark. Needs `pip install pyspark pandas`, jax and flatbuffers on each worker.

spark-submit --files=score.bin,score.bin.json docs/examples/spark_job.py --model=score.bin --input=ROWS --output=SCORES
"""

import argparse
import json
from collections.abc import Iterator

import jax
import numpy as np
import pandas as pd

SIZE = 4096  # rows of which batches are made a multiple: few sizes, few compilations


def scores(model: str, batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
    """The batches of a partition with a column of scores; the model is loaded once for all of them."""
    with open(model, "rb") as file, open(model + ".json") as sidecar:
        call = jax.jit(jax.export.deserialize(bytearray(file.read())).call)
        columns = json.load(sidecar)["input"]["columns"]
    for batch in batches:
        x = batch[columns].to_numpy(np.float32)
        padded = np.concatenate([x, np.zeros((-len(x) % SIZE, x.shape[1]), np.float32)])
        yield batch.assign(score=np.asarray(call(padded))[: len(x)])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("model", "input", "output"):
        parser.add_argument(f"--{name}", required=True)
    arguments = parser.parse_args()

    from pyspark import SparkFiles
    from pyspark.sql import SparkSession
    from pyspark.sql.types import FloatType, StructField, StructType

    rows = SparkSession.builder.appName("scores").getOrCreate().read.parquet(arguments.input)
    schema = StructType([*rows.schema.fields, StructField("score", FloatType())])

    def partition(batches: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        return scores(SparkFiles.get(arguments.model), batches)

    rows.mapInPandas(partition, schema).write.parquet(arguments.output)
