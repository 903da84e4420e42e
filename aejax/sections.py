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
        Field(
            "seed of the initial parameters, the order of the examples and every random draw",
            within(0, 2**32, brackets="[)"),
        ),
    ] = 0
    init_from: Annotated[str, Field('run directory whose parameters this run starts from; "" = random parameters')] = ""
    init_from_parts: Annotated[
        tuple,
        Field(
            "components that are taken from the run of init_from", some_of(("encoder", "bottleneck", "decoder", "head"))
        ),
    ] = ("encoder",)


@dataclasses.dataclass(frozen=True)
class Finetune:
    name: Annotated[
        str,
        Field(
            "final training: autoencoder | classifier (pair label, random last layer) | none (evaluate the stages)",
            one_of(("autoencoder", "classifier", "none")),
        ),
    ] = "autoencoder"
    freeze: Annotated[bool, Field("the encoder is not trained: a classifier is then a linear probe")] = False
    layer_decay: Annotated[
        float,
        Field(
            "learning rate of an encoder layer as a fraction of that of the layer above it", within(0, 1, brackets="(]")
        ),
    ] = 1.0
    patience: Annotated[
        int,
        Field(
            "stop after so many evaluations without a better validation loss, and keep the best state; 0 = off",
            at_least(0),
        ),
    ] = 0


@dataclasses.dataclass(frozen=True)
class FewLabels:
    learning_rates: Annotated[
        tuple,
        Field(
            "learning rates that are tried, in every combination with the other settings",
            each(above(0), float, "floats greater than 0"),
        ),
    ] = (1e-3, 3e-4)
    dropouts: Annotated[
        tuple,
        Field(
            "dropouts of the encoder's hidden layers that are tried",
            each(within(0, 1, brackets="[)"), float, "floats in [0, 1)"),
        ),
    ] = (0.0, 0.5)
    freezes: Annotated[
        tuple, Field("whether the encoder is frozen; each is tried", each(within(0, 1), bool, "True or False"))
    ] = (False,)
    folds: Annotated[
        int, Field("folds of the cross-validation on the labelled examples that chooses a setting", at_least(2))
    ] = 5


@dataclasses.dataclass(frozen=True)
class Population:
    seeds: Annotated[
        tuple,
        Field(
            "train a model for each seed, all in one program: these seeds, or one number for so many from `seed` on; "
            "() = one run",
            each(within(0, 2**32, brackets="[)"), int, "integers"),
        ),
    ] = ()
    sweep: Annotated[
        tuple, Field('settings that are trained too, such as ("objective.kl.weight=0.5,1,2",); --sweep sets it')
    ] = ()
    classes: Annotated[
        bool, Field("train a model for each class of the data on the examples of that class alone (data.train_labels)")
    ] = False
    zip: Annotated[bool, Field("pair the values of several sweeps, instead of every combination")] = False
    search: Annotated[
        int,
        Field(
            "settings that are drawn from `ranges` and trained, the best one chosen by validation; 0 = no search; "
            "--search sets it",
            Allowed("be 0 or at least 2", lambda v: v == 0 or v >= 2),
        ),
    ] = 0
    ranges: Annotated[
        tuple,
        Field(
            'what a search draws from, such as ("optim.learning_rate=1e-4..1e-2:log", "objective.kl.weight=0.1..4"); '
            "--range sets it",
        ),
    ] = ()
    halving: Annotated[
        int,
        Field(
            "successive halving in a search: of the settings the best 1 in so many go on at each rung; "
            "1 = all are trained to the end",
            at_least(1),
        ),
    ] = 3
    chunk: Annotated[int, Field("most models in one program; 0 = as many as the memory holds", at_least(0))] = 0


@dataclasses.dataclass(frozen=True)
class Train:
    epochs: Annotated[int, Field("passes over the training split", at_least(1))] = 10
    steps: Annotated[int, Field("steps of the training, instead of epochs; 0 = epochs decide", at_least(0))] = 0
    batch_size: Annotated[
        int,
        Field(
            "examples per step, over all devices; an incomplete batch at the end of an epoch is left out", at_least(1)
        ),
    ] = 128
    eval_batch_size: Annotated[int, Field("examples per evaluation step", at_least(1))] = 1000
    eval_epochs: Annotated[
        int, Field("epochs between evaluations; 0 = about 50 evaluations in the run", at_least(0))
    ] = 0
    log_steps: Annotated[
        int, Field("largest number of steps per line of metrics.jsonl, and per dispatch", at_least(1))
    ] = 100
    log_units: Annotated[bool, Field("log the mean activation and the active and dead units of the code")] = False
    profile_steps: Annotated[
        int,
        Field(
            "steps traced by jax.profiler into profile/ of the run directory, from the second dispatch on; 0 = off",
            at_least(0),
        ),
    ] = 0
    progress: Annotated[bool, Field("show a progress bar; without a terminal or notebook a line every 30 seconds")] = (
        True
    )


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    every_steps: Annotated[int, Field("steps between checkpoints", at_least(1))] = 1000
    max_to_keep: Annotated[int, Field("number of checkpoints kept", at_least(1))] = 2


@dataclasses.dataclass(frozen=True)
class Figures:
    enabled: Annotated[bool, Field("draw figures/*.png and write report.html at the end")] = True
    examples: Annotated[int, Field("test examples in the figure of reconstructions", at_least(1))] = 10
    grid: Annotated[int, Field("two-dimensional codes: decoded images along a side of the grid", at_least(2))] = 20
    box: Annotated[
        tuple | None,
        Field(
            "(x0, x1, y0, y1) of the grid in units of the code; null = 5th to 95th percentile of the test codes",
            Allowed(
                "be (x0, x1, y0, y1) with x0 < x1 and y0 < y1",
                lambda box: box is None or (len(box) == 4 and box[0] < box[1] and box[2] < box[3]),
            ),
        ),
    ] = None


REST = Allowed("be -1 (the rest) or at least 1", lambda v: v == -1 or v >= 1)


@dataclasses.dataclass(frozen=True)
class Mesh:
    data: Annotated[int, Field("devices along which a batch is split; -1 = the remaining ones", REST)] = -1
    model: Annotated[
        int,
        Field(
            "devices along which a wide layer is split; -1 = the remaining ones; data x model devices are used", REST
        ),
    ] = 1
    threads: Annotated[
        int,
        Field("CPU threads per process, set when a command starts; 0 = one per core; 1 suits small steps", at_least(0)),
    ] = 0
    fsdp: Annotated[bool, Field("split parameters and optimiser state along the data axis as well, to save memory")] = (
        False
    )


@dataclasses.dataclass(frozen=True)
class Pretrain:
    widths: Annotated[
        tuple,
        Field(
            "greedy layer-wise pretraining: units of each stage's code, starting at the input; replaces "
            "model.encoder.widths and model.bottleneck.size; () = none. `stages` adds a section for each stage",
            WIDTHS,
        ),
    ] = ()


@dataclasses.dataclass(frozen=True)
class Stage:
    """A section of `pretrain`, besides its sections `pair`, `method`, `objective` and `optim`."""

    code_activation: Annotated[
        str, Field("activation of the stage's code, and of that layer of the whole encoder", one_of(ACTIVATIONS))
    ] = "sigmoid"
    tied: Annotated[bool, Field("the kernel of the stage's decoder is the transposed kernel of its encoder")] = True
    epochs: Annotated[int, Field("passes over the training split", at_least(1))] = 10
    batch_size: Annotated[int, Field("examples per step, over all devices", at_least(1))] = 128
