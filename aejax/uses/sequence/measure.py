"""Sequences: whether what the model writes is the caption, or the translation, of the example."""

from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np

from aejax.data import tokens
from aejax.data.spec import Spec
from aejax.errors import FieldError
from aejax.fields import Field, above, at_least
from aejax.trained import Trained
from aejax.uses.base import Draw, Metric, Result, Skip
from aejax.uses.data import Data
from aejax.uses.neighbours import Points
from aejax.uses.sequence.quality import measures
from aejax.uses.sequence.writer import Writer

METRICS = {
    "exact_match": Metric("test sequences that are written without an error", "percent", "higher"),
    "token_error": Metric("insertions, deletions and replacements over the number of true tokens", "percent", "lower"),
    "bleu": Metric("BLEU-4 of the corpus", "0 to 100", "higher"),
}


def measure(
    trained: Trained,
    data: Data,
    *,
    beam: Annotated[int, Field("sequences that the search keeps; 1 = greedy", at_least(1))] = 1,
    alpha: Annotated[
        float, Field("a sequence of n tokens is ranked by log p / n^alpha; larger prefers long ones", at_least(0))
    ] = 1.0,
    examples: Annotated[int, Field("examples in the figures", above(0))] = 6,
) -> Result:
    """Sequences that the model writes for the test split: `sequence/{exact_match,token_error,bleu}`.

    The same under `sequence/frequent/` for the most frequent sequence of the training split, under `sequence/copy/` for
    the text that is read, and under `sequence/nearest/` for the sequence of the nearest training example (images,
    videos, series; Euclidean distance of the values). With labels, `sequence/CLASS/...` for the examples of each class.
    bleu needs the package sacrebleu (pip install 'aejax[sequence]'). Tables: `sequences`. Figures: `sequences`,
    `attention`.
    """
    if not trained.objective.pair.writes:
        raise Skip("the model writes no sequences")
    writer, name = Writer(trained, beam, alpha), trained.objective.model.output
    field, test = writer.field, data.arrays("test")
    true, written, log_p = _texts(data, "test", name, writer), *writer.write(test["x"])
    guesses = {"": written} | _baselines(data, name, writer, len(true))
    numbers = {
        f"sequence/{prefix}{metric}": value
        for prefix, texts in guesses.items()
        for metric, value in measures(texts, true, field.level).items()
    }
    labels = data.labels("test")
    for i, label in enumerate(data.spec.classes):
        rows = np.flatnonzero(labels == i)
        if len(rows):
            of_class = measures([written[j] for j in rows], [true[j] for j in rows], field.level)
            numbers |= {f"sequence/{label}/{metric}": value for metric, value in of_class.items()}
    table = {"row": range(len(true)), "true": true, "written": written, "log_probability": log_p.tolist()}
    notes = [] if "sequence/bleu" in numbers else ["bleu needs pip install 'aejax[sequence]'"]
    shown = test["x"][:examples]

    def sequences() -> Any:
        from aejax.uses.sequence import plots

        return plots.sequences(data.spec.x, shown, true[:examples], written[:examples])

    def attention() -> Any:
        from aejax.uses.sequence import plots

        return plots.attention(writer, shown[:4])

    figures: dict[str, Draw] = {"sequences": sequences}
    if trained.objective.model.needs_context:
        figures["attention"] = attention
    return Result(numbers, {"sequences": table}, figures, notes)


def _texts(data: Data, split: str, name: str, writer: Writer) -> list[str]:
    """The true sequences of a split."""
    return tokens.decode(data.arrays(split)[name], writer.field.classes, writer.field.level)


def _baselines(data: Data, name: str, writer: Writer, n: int) -> dict[str, list[str]]:
    train, test = data.arrays("train")["x"], data.arrays("test")["x"]
    known = _texts(data, "train", name, writer)
    found = {"frequent/": [Counter(known).most_common(1)[0][0]] * n}
    x = data.spec.x
    if x.kind == "tokens":
        return found | ({"copy/": tokens.decode(test, x.classes, x.level)} if name != "x" else {})
    database, queries = (np.nan_to_num(np.asarray(part, np.float32)) for part in (train, test))
    nearest = Points(database, "euclidean").search(queries, 1).rows[:, 0]
    return found | {"nearest/": [known[i] for i in nearest.tolist()]}


def check(config: Any, spec: Spec) -> Iterator[FieldError]:
    """Errors of a config whose use `sequence` runs at the end."""
    if config.model.name != "seq2seq" and "sequence" in config.uses.run:
        yield FieldError("uses.run", "sequence", "needs config.model.name = 'seq2seq', which writes sequences")
