"""The whole default config, a unit beside each field, and the checks made before any device work."""

import difflib
import hashlib
import json
import runpy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, config_dict

from aejax.errors import FieldError, InputError

SHIPPED = Path(__file__).parent.parent / "configs"  # one file per variant
FORMAT = 1  # of config.json; raised when an older run directory cannot be read any more


def default(source: str = "digits") -> ConfigDict:
    """Every field of every experiment. A file in configs/ changes what differs and returns it."""
    config = ConfigDict()
    config.name = "ae"  # first part of the run directory's name
    config.seed = 0  # of the parameters, the order of the examples and every random draw

    config.data = data = ConfigDict()
    data.source = source  # digits | tinted_digits | idx:DIR | npz:FILE | npy:FILE | csv:FILE | parquet:FILE |
    # images:DIR | tfds:NAME[@DATA_DIR] | text:FILE
    # Whether the training examples lie on the devices: auto (by size) | true | false (read while training: npy, csv,
    # parquet, images, tfds)
    data.resident = "auto"
    data.test_fraction = 0.2  # of the examples, held out where the source has no test split
    data.validation_fraction = 0.0  # of the training split; > 0 also keeps the best checkpoint
    data.split_seed = 0  # of the held-out examples; apart from `seed`, so that seeds are comparable
    data.label_column = ""  # csv, parquet: name of the label's column; "" = no labels
    data.image_size = config_dict.placeholder(tuple)  # images, tfds: (height, width), pixels; null = as they are
    data.standardize = True  # tables: subtract the training mean, divide by its deviation; sparse ones stay as they are
    data.text = "counts"  # weight of a word in a document: counts | tfidf | binary (whether it is there)
    data.text_column = ""  # text: the column of a CSV or parquet file; "" = one document a line
    data.vocabulary = 2000  # text: words, the most frequent of the training split
    data.max_df = 1.0  # text: words in more than this share of the training documents are left out
    data.binarize = "none"  # none | dynamic (redrawn every step) | static (drawn once); images only
    data.labeled_examples = ()  # numbers of labels that a classifier is trained with, each in turn; () = all there are
    data.label_draws = 5  # draws of each number, as many of each class

    config.pair = pair = ConfigDict()
    pair.name = "reconstruct"  # what is given and what is asked for: reconstruct | denoise | inpaint | colorize | label
    pair.input = "identity"  # of tables, what the encoder is given: identity | log (log(1 + x)) | proportions (x / Σx)
    pair.reconstruct = ConfigDict()  # one section of fields for each pair
    pair.denoise = denoise = ConfigDict()
    denoise.corruption = "masking"  # gaussian | masking | salt_and_pepper
    denoise.level = 0.2  # gaussian: standard deviation, in units of the data; else probability of an entry
    denoise.clip = False  # bring the input back to [0, 1]
    denoise.alpha = 1.0  # weight of the corrupted entries in the reconstruction
    denoise.beta = 1.0  # weight of the others
    pair.inpaint = inpaint = ConfigDict()
    inpaint.mask = "square"  # what is hidden: square | pixels | half | quadrants
    inpaint.size = 0.5  # square: its side, as a fraction of the image's shorter side
    inpaint.level = 0.5  # pixels: probability that one is hidden
    inpaint.side = "right"  # half: the hidden one, top | bottom | left | right | random
    inpaint.visible = ("bottom_left",)  # quadrants: those that are not hidden
    inpaint.channel = True  # append the mask to what the model is given
    inpaint.conditional = False  # hidden part given the visible one, by a conditional VAE
    inpaint.alpha = 1.0  # weight of the hidden part in the reconstruction
    inpaint.beta = 1.0  # weight of the visible part
    pair.colorize = ConfigDict()
    pair.colorize.grey = "luma"  # of the input: luma | mean
    pair.label = ConfigDict()  # the class of an example: the decoder is a classifier's last layers

    config.model = model = ConfigDict()
    model.name = "mlp"  # mlp | conv
    model.mlp = ConfigDict()  # one section of fields for each family
    model.conv = conv = ConfigDict()  # images; the dense layers between convolutions and code are encoder.widths
    conv.channels = (32, 32)  # of the map that each block of the encoder makes; the decoder mirrors them
    conv.kernel_size = 3  # pixels along a side of a kernel
    conv.downsample = "max"  # max | average (pooling after the convolution) | stride (of the convolution)
    conv.factor = 2  # by which a block divides height and width, rounded up
    conv.upsample = "transpose"  # unpool (at the encoder's switches) | repeat | transpose (strided)
    conv.output_layer = False  # the decoder ends in one more convolution, from channels[0] to the image's
    model.encoder = encoder = ConfigDict()
    encoder.widths = (256, 128, 64)  # units of the hidden layers, from the input on
    encoder.activation = "relu"  # of the hidden layers: relu | tanh | sigmoid | gelu | ...
    encoder.norm = "none"  # before each activation: none | layer | batch
    encoder.dropout = 0.0  # probability that a hidden activation is dropped in training
    encoder.kernel_init = "lecun_normal"  # of the kernels: lecun_normal | glorot_uniform | he_normal | ...
    model.bottleneck = bottleneck = ConfigDict()
    bottleneck.name = "identity"  # identity | gaussian (reparameterised) | topk (k-sparse)
    bottleneck.size = 2  # units of the code; conv: 0 = the last map is the code
    bottleneck.identity = ConfigDict()  # one section of fields for each bottleneck
    bottleneck.gaussian = ConfigDict()
    bottleneck.gaussian.prior_widths = ()  # conditional: units of the prior network's layers; () = N(0, I)
    bottleneck.topk = topk = ConfigDict()
    topk.k = 25  # units kept, at the end of training
    topk.begin = 100  # units kept at step 0
    topk.steps = 0  # steps from begin to k, linearly
    topk.test = 25  # units kept at use
    model.decoder = decoder = ConfigDict()
    decoder.widths = config_dict.placeholder(tuple)  # null = the encoder's, reversed
    for field in ("activation", "norm", "dropout", "kernel_init"):  # the encoder's, unless set
        decoder[field] = encoder.get_oneway_ref(field)
    decoder.tied = False  # kernels are the encoder's, transposed; biases are its own
    model.code_activation = "identity"  # of the code layer
    model.dtype = "float32"  # of the computation: float32 | bfloat16; parameters stay float32

    config.objective = objective = ConfigDict()
    objective.likelihood = "bernoulli"  # squared_error | gaussian | bernoulli | categorical (counts, or pair label)
    objective.sigma = 1.0  # gaussian: standard deviation of the decoder, in units of the data
    objective.learn_sigma = False  # gaussian: sigma is trained, starting from `sigma`
    objective.reconstruction = _penalty(weight=1.0)  # −log p(t | r)
    # KL(q(z|x) ‖ p(z)), nats, with a gaussian bottleneck; free_bits: nats of each unit below which its mean over
    # the batch is not pushed, 0 = off
    objective.kl = _penalty(weight=1.0, free_bits=0.0)
    objective.l1 = _penalty(layers="code")  # Σ|h|; layers: code | encoder (all hidden layers and the code)
    objective.kl_sparse = _penalty(rho=0.05, layers="code")  # Σ_j KL(ρ ‖ mean |h_j|), nats; rho: mean activation
    objective.weight_l2 = _penalty()  # ½ Σ ‖W‖² over the kernels
    objective.code_l2 = _penalty()  # ‖z‖²
    objective.auxk = _penalty(k=256)  # topk: ‖e − ê‖², error and its output from at most k units the batch leaves out
    # ‖∂h/∂x‖²_F; method: auto | jacfwd | jacrev | closed_form; chunk: examples at a time, 0 = by memory
    objective.contractive = _penalty(method="auto", chunk=0)
    # E ‖J(x) − J(x + ε)‖²_F; sigma: deviation of ε, units of the input; samples: draws of ε for an example
    objective.contractive_hessian = _penalty(sigma=0.1, samples=1, method="auto", chunk=0)

    # F(v) − F(v_k), nats: a restricted Boltzmann machine, with reconstruction.weight = 0; gibbs: k, steps from v to v_k
    objective.contrastive_divergence = _penalty(gibbs=1)

    config.init_from = ""  # run directory whose encoder is the start of this one's; "" = random

    # Greedy layer-wise pretraining: units of each stage's code, from the input on, in place of model.encoder.widths
    # and model.bottleneck.size; () = none. `stages` adds a section for each stage.
    config.pretrain = ConfigDict()
    config.pretrain.widths = ()

    config.finetune = finetune = ConfigDict()  # what is trained last
    finetune.name = (
        "autoencoder"  # autoencoder | classifier (pair label, random last layer) | none (evaluated as it is)
    )
    finetune.freeze = False  # the encoder keeps its parameters: with classifier a linear probe
    finetune.layer_decay = 1.0  # learning rate of a layer of the encoder, as a fraction of that of the layer above
    finetune.patience = 0  # evaluations without a better validation, after which the best state is kept; 0 = off

    config.few_labels = few = ConfigDict()  # for data.labeled_examples: the settings tried, every combination
    few.learning_rates = (1e-3, 3e-4)
    few.dropouts = (0.0, 0.5)  # of the encoder's hidden layers
    few.freezes = (False,)  # whether the encoder keeps its parameters
    few.folds = 5  # parts of the labelled examples, each left out once to judge a setting

    config.evaluate = evaluate = ConfigDict()
    evaluate.probe = False  # test/probe_error: logistic regression on the codes; needs labels
    evaluate.retrieval = False  # test/precision_at_10, _100: a code's neighbours of its label, and LSA's; needs labels
    evaluate.units = False  # mean activation, active and dead units of the code, logged and at the end
    evaluate.jacobian = False  # test/jacobian_norm: mean of ‖∂h/∂x‖_F, and its figures

    config.optim = optim = ConfigDict()
    optim.name = "adam"  # adam | adamw | sgd | rmsprop | adagrad | nadam | lion | lamb
    optim.learning_rate = 1e-3  # the largest; reached after the warm-up
    optim.schedule = "constant"  # constant | cosine | linear (the last two end at final_fraction)
    optim.warmup_steps = 0  # steps from 0 to learning_rate
    optim.final_fraction = 0.0  # of learning_rate, left at the last step
    optim.momentum = 0.9  # sgd, rmsprop
    optim.nesterov = False  # sgd
    optim.weight_decay = 0.0  # adamw, lion, lamb: decoupled, on kernels only
    optim.clip = 0.0  # largest global norm of the gradient; 0 = off
    optim.accumulate = 1  # parts in which a batch is computed; gradients are averaged
    optim.ema = 0.0  # decay per step of the averaged parameters used for evaluation; 0 = off

    config.train = train = ConfigDict()
    train.epochs = 10  # passes over the training split
    train.batch_size = 128  # examples in a step, over all devices; an epoch leaves out what does not fill a step
    train.eval_batch_size = 1000  # examples in an evaluation step
    train.eval_epochs = 0  # epochs between evaluations; 0 = about 50 evaluations in the run
    train.log_steps = 100  # most steps in one line of metrics.jsonl and in one dispatch
    train.profile_steps = 0  # traced by jax.profiler into profile/ of the run directory, from the second dispatch on
    # and to the end of the dispatch with the last of them; 0 = off
    train.progress = True  # progress bar, where there is a terminal

    config.checkpoint = checkpoint = ConfigDict()
    checkpoint.every_steps = 1000  # steps between checkpoints
    checkpoint.max_to_keep = 2  # checkpoints kept

    config.figures = figures = ConfigDict()
    figures.enabled = True  # draw figures/*.png and write report.html at the end
    figures.examples = 10  # test examples in the figure of reconstructions
    figures.grid = 20  # decoded images along a side of the grid (2-d codes)
    figures.box = config_dict.placeholder(tuple)  # (x0, x1, y0, y1) of the grid, in units of the code;
    # null = 5 % to 95 % of the test codes

    config.mesh = mesh = ConfigDict()
    mesh.data = -1  # devices along which a batch is split; -1 = the rest
    mesh.model = 1  # devices along which a wide layer is split; -1 = the rest; data x model are used
    mesh.threads = 0  # of the CPU for each process, 0 = one a core; read when a command starts. Small steps like 1
    mesh.fsdp = False  # parameters and the optimiser's state are split along the data axis too, to save memory
    return config


def stages(config: ConfigDict, count: int) -> None:
    """Add the sections `pretrain.default` and `pretrain.stage_0`, ...: what a stage is trained with.

    Every field of a stage follows `pretrain.default` until it is set itself.
    """
    pretrain = config.pretrain
    pretrain.default = own = ConfigDict()
    for section in ("pair", "objective", "optim"):
        own[section] = ConfigDict(config[section].to_dict())
    own.code_activation = "sigmoid"  # of the stage's code, and of that layer of the whole encoder
    own.tied = True  # the stage's decoder kernel is its encoder's, transposed
    own.epochs = 10  # passes over the training split
    own.batch_size = 128  # examples in a step, over all devices
    for k in range(count):
        pretrain[f"stage_{k}"] = _following(own)


def stage_sections(pretrain: Mapping[str, Any]) -> int:
    """Stages that the section `pretrain` has room for."""
    return sum(name.startswith("stage_") for name in pretrain)


def _following(section: ConfigDict) -> ConfigDict:
    """A section of the same fields, each of which follows the one of `section`."""
    copy = ConfigDict()
    for name, value in section.items():
        copy[name] = _following(value) if isinstance(value, ConfigDict) else section.get_oneway_ref(name)
    return copy


def _penalty(weight: float = 0.0, **fields: Any) -> ConfigDict:
    """The weight of a term of the objective may follow a schedule over the steps."""
    return ConfigDict(
        {
            "weight": weight,  # multiplies the term; 0 = off
            "schedule": "constant",  # constant | linear (0 to weight) | cyclic (linear, repeated)
            "begin": 0,  # step at which the weight leaves 0
            "steps": 0,  # linear: steps of the rise; cyclic: steps of a cycle, half of it rising
            **fields,
        }
    )


# Fields that may differ between the start of a run and its resumption: they do not change its numbers.
RESUMABLE = ("data.resident", "mesh", "checkpoint", "figures", "train.profile_steps", "train.progress")


def get(config: ConfigDict, path: str) -> Any:
    """The value at a dotted path."""
    for part in path.split("."):
        config = config[part]
    return config


def fail(field: str, value: Any, allowed: str) -> FieldError:
    """The error of a field that cannot be used."""
    return FieldError(field, value, allowed)


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dict -> {dotted path: value}."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat


def shipped(name: str | Path, *source: str) -> ConfigDict:
    """The config of configs/NAME.py, or of the file at a path NAME.py; raises InputError."""
    path = Path(name) if Path(name).suffix == ".py" else SHIPPED / f"{name}.py"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in SHIPPED.glob("*.py")))
        raise InputError(f"config {str(name)!r}: no such file; give the path of one, or one of {known}")
    config: ConfigDict = runpy.run_path(str(path))["get_config"](*source)
    return config


def identity(config: ConfigDict) -> dict[str, Any]:
    """{dotted path: value} of what determines a run's numbers."""
    return {
        path: value
        for path, value in flatten(config.to_dict()).items()
        if not any(path == field or path.startswith(field + ".") for field in RESUMABLE)
    }


def difference(config: ConfigDict, other: ConfigDict) -> dict[str, Any]:
    """{dotted path: value in `config`} where their identities differ."""
    theirs = identity(other)
    return {path: value for path, value in identity(config).items() if theirs.get(path) != value}


def digest(config: ConfigDict) -> str:
    """8 hexadecimal digits that name what determines a run's numbers."""
    return hashlib.sha256(json.dumps(identity(config), sort_keys=True).encode()).hexdigest()[:8]


def to_json(config: ConfigDict) -> str:
    """The text of config.json."""
    return json.dumps({"format": FORMAT, **config.to_dict()}, indent=2)


def from_json(text: str) -> ConfigDict:
    """The config of a run directory; a field that it lacks (an older run) takes its default."""
    stored = json.loads(text)
    if stored.pop("format", None) != FORMAT:
        raise InputError(f"config.json: format must be {FORMAT}")
    config = _default_like(stored)
    known = flatten(config.to_dict())
    for path, value in flatten(stored).items():
        if path not in known:
            raise InputError(f"config.json: unknown field {path}")
        try:
            set_field(config, path, value)
        except (TypeError, ValueError) as error:
            raise InputError(f"config.json: {path} = {value!r}: {' '.join(str(error).split())}") from error
    return config.lock()


def check_fields(config: ConfigDict) -> None:
    """Raise InputError where a config lacks a field, or has one that there is not."""
    found = config.to_dict()
    given, known = flatten(found), flatten(_default_like(found).to_dict())
    for path in given:
        if path not in known:
            near = difflib.get_close_matches(path, known, n=1)
            raise InputError(f"config.{path}: no such field" + (f"; did you mean config.{near[0]}?" if near else ""))
    for path in known:
        if path not in given:
            raise InputError(f"config.{path}: is missing; a config begins with aejax.config.default()")


def _default_like(tree: Mapping[str, Any]) -> ConfigDict:
    """The default, with a section for each stage that a nested dict has."""
    config, pretrain = default(), tree.get("pretrain", {})
    if "default" in pretrain:
        stages(config, stage_sections(pretrain))
    return config


def set_field(config: ConfigDict, path: str, value: Any) -> None:
    """Assign at a dotted path; a list becomes a tuple."""
    *parents, field = path.split(".")
    for parent in parents:
        config = config[parent]
    config[field] = tuple(value) if isinstance(value, list) else value
