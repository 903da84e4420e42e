"""The sections of the config that belong to no choosable part."""

import dataclasses
import re
from typing import Annotated

from aejax.fields import WIDTHS, Allowed, Field, above, at_least, each, one_of, some_of, within
from aejax.models import ACTIVATIONS


@dataclasses.dataclass(frozen=True)
class Top:
    name: Annotated[
        str,
        Field(
            "first part of the run directory's name",
            Allowed(
                "be letters, digits, _, - and dots: it begins the run directory's name",
                lambda name: bool(re.fullmatch(r"[\w-][\w.-]*", name)),
            ),
        ),
    ] = "ae"
    seed: Annotated[
        int,
        Field("of the parameters, the order of the examples and every random draw", within(0, 2**32, brackets="[)")),
    ] = 0
    init_from: Annotated[str, Field('run directory whose parameters this run starts from; "" = random')] = ""
    init_from_parts: Annotated[
        tuple,
        Field("components taken from the run of init_from", some_of(("encoder", "bottleneck", "decoder", "head"))),
    ] = ("encoder",)


@dataclasses.dataclass(frozen=True)
class Finetune:
    name: Annotated[
        str,
        Field(
            "final training: autoencoder | classifier (pair label, random last layer) | none (evaluated as it is)",
            one_of(("autoencoder", "classifier", "none")),
        ),
    ] = "autoencoder"
    freeze: Annotated[bool, Field("the encoder keeps its parameters: with classifier a linear probe")] = False
    layer_decay: Annotated[
        float,
        Field(
            "learning rate of an encoder layer, as a fraction of that of the layer above", within(0, 1, brackets="(]")
        ),
    ] = 1.0
    patience: Annotated[
        int, Field("evaluations without a better validation, after which the best state is kept; 0 = off", at_least(0))
    ] = 0


@dataclasses.dataclass(frozen=True)
class FewLabels:
    learning_rates: Annotated[
        tuple, Field("settings tried, in every combination", each(above(0), float, "floats greater than 0"))
    ] = (1e-3, 3e-4)
    dropouts: Annotated[
        tuple, Field("of the encoder's hidden layers", each(within(0, 1, brackets="[)"), float, "floats in [0, 1)"))
    ] = (0.0, 0.5)
    freezes: Annotated[
        tuple, Field("whether the encoder keeps its parameters", each(within(0, 1), bool, "True or False"))
    ] = (False,)
    folds: Annotated[
        int, Field("parts of the labelled examples, each left out once to judge a setting", at_least(2))
    ] = 5


@dataclasses.dataclass(frozen=True)
class Train:
    epochs: Annotated[int, Field("passes over the training split", at_least(1))] = 10
    steps: Annotated[int, Field("steps of the training, in place of epochs; 0 = by epochs", at_least(0))] = 0
    batch_size: Annotated[
        int, Field("examples in a step, over all devices; an epoch leaves out an incomplete batch", at_least(1))
    ] = 128
    eval_batch_size: Annotated[int, Field("examples in an evaluation step", at_least(1))] = 1000
    eval_epochs: Annotated[
        int, Field("epochs between evaluations; 0 = about 50 evaluations in the run", at_least(0))
    ] = 0
    log_steps: Annotated[int, Field("most steps in one line of metrics.jsonl and in one dispatch", at_least(1))] = 100
    log_units: Annotated[bool, Field("log mean activation, active and dead units of the code")] = False
    profile_steps: Annotated[
        int,
        Field(
            "traced by jax.profiler into profile/ of the run directory, whole dispatches from the second on; 0 = off",
            at_least(0),
        ),
    ] = 0
    progress: Annotated[bool, Field("progress bar; without a terminal or notebook a line every 30 seconds")] = True


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: Annotated[int, Field("steps between checkpoints", at_least(1))] = 1000
    max_to_keep: Annotated[int, Field("checkpoints kept", at_least(1))] = 2


@dataclasses.dataclass(frozen=True)
class Figures:
    enabled: Annotated[bool, Field("draw figures/*.png and write report.html at the end")] = True
    examples: Annotated[int, Field("test examples in the figure of reconstructions", at_least(1))] = 10
    grid: Annotated[int, Field("decoded images along a side of the grid (2-d codes)", at_least(2))] = 20
    box: Annotated[
        tuple | None,
        Field(
            "(x0, x1, y0, y1) of the grid, in units of the code; null = 5 % to 95 % of the test codes",
            Allowed(
                "be (x0, x1, y0, y1) with x0 < x1 and y0 < y1",
                lambda box: box is None or (len(box) == 4 and box[0] < box[1] and box[2] < box[3]),
            ),
        ),
    ] = None


REST = Allowed("be -1 (the rest) or at least 1", lambda v: v == -1 or v >= 1)


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: Annotated[int, Field("devices along which a batch is split; -1 = the rest", REST)] = -1
    model: Annotated[
        int, Field("devices along which a wide layer is split; -1 = the rest; data x model are used", REST)
    ] = 1
    threads: Annotated[
        int,
        Field(
            "of the CPU for each process, 0 = one a core; read when a command starts. 1 suits small steps", at_least(0)
        ),
    ] = 0
    fsdp: Annotated[
        bool, Field("parameters and the optimiser's state are split along the data axis too, to save memory")
    ] = False


@dataclasses.dataclass(frozen=True)
class Pretrain:
    widths: Annotated[
        tuple,
        Field(
            "greedy layer-wise pretraining: units of each stage's code, from the input on, in place of "
            "model.encoder.widths and model.bottleneck.size; () = none. `stages` adds a section for each stage",
            WIDTHS,
        ),
    ] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A section of `pretrain`, besides its sections `pair`, `method`, `objective` and `optim`."""

    code_activation: Annotated[
        str, Field("of the stage's code, and of that layer of the whole encoder", one_of(ACTIVATIONS))
    ] = "sigmoid"
    tied: Annotated[bool, Field("the stage's decoder kernel is its encoder's, transposed")] = True
    epochs: Annotated[int, Field("passes over the training split", at_least(1))] = 10
    batch_size: Annotated[int, Field("examples in a step, over all devices", at_least(1))] = 128
