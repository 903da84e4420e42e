"""The experiment of a config in PyTorch, as its users write it, to compare aejax with."""

from collections.abc import Callable, Sequence
from math import prod

import numpy as np
import torch
from ml_collections import ConfigDict
from torch import nn
from torch.nn import functional as F

from aejax import config as config_lib
from aejax.data import bags
from aejax.data.dataset import Dataset
from aejax.data.feed import Feed
from aejax.errors import FieldError, InputError
from aejax.storage import run_dir

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "identity": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "elu": nn.ELU,
    "silu": nn.SiLU,
}
# Fields that may differ from their default, with their allowed values; None: any value.
SUPPORTED: dict[str, tuple[str, ...] | None] = {
    "pair.name": ("reconstruct",),
    "pair.input": ("identity",),
    "method.name": ("autoencoder",),
    "data.binarize": ("none", "dynamic"),
    "data.missing": ("error", "mean", "median", "indicator"),
    "data.kind": None,
    "model.name": ("mlp", "conv", "recurrent"),
    "model.recurrent.cell": None,
    "model.recurrent.bidirectional": None,
    "model.recurrent.backwards": None,
    "model.conv.channels": None,
    "model.conv.kernel_size": None,
    "model.conv.factor": None,
    "model.conv.output_layer": None,
    "model.dtype": ("float32", "bfloat16"),
    "model.encoder.kernel_init": None,
    "model.decoder.kernel_init": None,
    "model.encoder.widths": None,
    "model.decoder.widths": None,
    "model.encoder.activation": tuple(ACTIVATIONS),
    "model.decoder.activation": tuple(ACTIVATIONS),
    "model.decoder.tied": None,
    "model.code_activation": tuple(ACTIVATIONS),
    "model.bottleneck.name": ("identity", "gaussian"),
    "model.bottleneck.size": None,
    "objective.likelihood": ("squared_error", "bernoulli"),
    "objective.contractive.weight": None,
    "optim.name": ("adam", "adamw", "sgd"),
    "optim.schedule": ("constant", "cosine"),
    "optim.learning_rate": None,
    "optim.weight_decay": None,
    "optim.momentum": None,
    "optim.nesterov": None,
    "optim.clip": None,
}
CELLS: dict[str, type[nn.RNNBase]] = {"rnn": nn.RNN, "lstm": nn.LSTM, "gru": nn.GRU}
# Sections that do not affect the time of a step, except for the fields above.
ELSEWHERE = ("name", "seed", "data", "train", "checkpoint", "figures", "evaluate", "uses", "mesh", "pair", "method")


class Training:
    """A model, its optimiser and its data on the device: `run` takes steps as `Trainer.run` does.

    With model.dtype = bfloat16 the loss is computed under torch.autocast; parameters stay float32, as in aejax.
    """

    def __init__(self, config: ConfigDict, data: Dataset, *, compiled: bool):
        torch.manual_seed(config.seed)
        torch.set_num_threads(run_dir.cores())
        self.platform = "cuda" if torch.cuda.is_available() else "cpu"
        self.device = torch.cuda.get_device_name() if self.platform == "cuda" else "cpu"  # its name
        self.bfloat16 = config.model.dtype == "bfloat16"
        torch.set_float32_matmul_precision("high")  # TF32 on CUDA, like XLA's default
        self.feed = Feed(config.seed, data.spec.train, config.train.batch_size)
        x = bags.dense(data.train["x"])
        x = np.moveaxis(x, -1, 1) if config.model.name == "conv" else x
        if x.dtype.kind == "f" and np.isnan(x).any():
            raise InputError("--vs=torch takes no missing values, nor series of several lengths")
        scaled = x / np.float32(255) if x.dtype == np.uint8 else x.astype(np.float32)
        self.x = torch.from_numpy(np.ascontiguousarray(scaled)).to(self.platform)
        self.model = Loss(config, data.spec.x.shape).to(self.platform)
        self.loss: Callable[..., torch.Tensor] = torch.compile(self.model) if compiled else self.model
        steps = config.train.steps or config.train.epochs * self.feed.steps_per_epoch
        self.optimizer, self.schedule = optimizer(self.model, config.optim, steps)
        self.clip = config.optim.clip

    def run(self, begin: int, end: int) -> float:
        """Steps begin..end-1; returns the mean loss, fetched once at the end, when the GPU is done."""
        rows = torch.from_numpy(self.feed.rows(begin, end)).to(self.platform)
        total = torch.zeros((), device=self.platform)
        for row in rows:
            self.optimizer.zero_grad(set_to_none=True)
            with torch.autocast(self.platform, torch.bfloat16, enabled=self.bfloat16):
                loss = self.loss(self.x.index_select(0, row))
            loss.backward()
            if self.clip:
                torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
            self.optimizer.step()
            if self.schedule:
                self.schedule.step()
            total += loss.detach()
        if self.platform == "cuda":
            torch.cuda.synchronize()
        return total.item() / len(rows)


class Loss(nn.Module):
    """x [B, ...] -> the mean loss of a batch: reconstruction, KL of a gaussian bottleneck, contractive penalty.

    Under autocast the networks compute in bfloat16, the loss in float32.
    """

    def __init__(self, config: ConfigDict, shape: Sequence[int]):
        super().__init__()
        check(config, shape)
        model = config.model
        self.gaussian = model.bottleneck.name == "gaussian"
        self.binarize = config.data.binarize == "dynamic"
        self.bernoulli = config.objective.likelihood == "bernoulli"
        self.contractive = config.objective.contractive.weight
        self.encoder, self.decoder = NETWORKS[model.name](model, shape)

    def forward(self, x: torch.Tensor, noise: torch.Tensor | None = None) -> torch.Tensor:
        """`noise`: ε for sampling the code; drawn if it is not given."""
        if self.binarize:
            x = torch.bernoulli(x)
        z, penalty = self.encoder(x), 0.0
        if self.gaussian:
            mean, logvar = z.float().chunk(2, dim=-1)
            z = mean + torch.exp(logvar / 2) * (torch.randn_like(mean) if noise is None else noise)
            penalty = 0.5 * (mean**2 + torch.exp(logvar) - 1 - logvar).sum()
        if self.contractive:
            assert isinstance(self.encoder, nn.Sequential)
            layer = self.encoder[1]
            assert isinstance(layer, nn.Linear)
            penalty = self.contractive * contractive(z, layer.weight)
        r = self.decoder(z).float()
        x = x.reshape(r.shape)
        if self.bernoulli:
            reconstruction = F.binary_cross_entropy_with_logits(r, x, reduction="sum")
        else:
            reconstruction = F.mse_loss(r, x, reduction="sum")
        return (reconstruction + penalty) / len(x)


class Tied(nn.Module):
    """A linear layer with a bias of its own; its kernel is that of `layer`, transposed."""

    def __init__(self, layer: nn.Linear):
        super().__init__()
        self.layer = layer
        self.bias = nn.Parameter(torch.zeros(layer.in_features))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.layer.weight.t(), self.bias)


def contractive(h: torch.Tensor, kernel: torch.Tensor) -> torch.Tensor:
    """Sum over the batch of ‖∂h/∂x‖²_F = Σ_j s'(a_j)² Σ_i W_ij², exact, of the layer h = s(W x + b), s the sigmoid.

    s' = h (1 − h), so no product is computed again. aejax's penalty needs no extra product in float32, and one in
    bfloat16, where it computes a in float32.
    """
    h = h.float()
    slope = h * (1 - h)  # [B, H]
    return ((slope**2).sum(0) * (kernel**2).sum(1)).sum()


def dense(model: ConfigDict, shape: Sequence[int]) -> tuple[nn.Sequential, nn.Sequential]:
    widths = tuple(model.encoder.widths)
    mirror = widths[::-1] if model.decoder.widths is None else tuple(model.decoder.widths)
    size, pixels = model.bottleneck.size, prod(shape)
    code = 2 * size if model.bottleneck.name == "gaussian" else size

    def layers(sizes: Sequence[int], activation: str, last: str) -> list[nn.Module]:
        made: list[nn.Module] = []
        for i in range(1, len(sizes)):
            name = activation if i + 1 < len(sizes) else last
            made += [nn.Linear(sizes[i - 1], sizes[i]), ACTIVATIONS[name]()]
        return made

    encoder = layers((pixels, *widths, code), model.encoder.activation, model.code_activation)
    decoder = layers((size, *mirror, pixels), model.decoder.activation, "identity")
    if model.decoder.tied:
        decoder[::2] = [Tied(layer) for layer in reversed(encoder) if isinstance(layer, nn.Linear)]
    return nn.Sequential(nn.Flatten(), *encoder), nn.Sequential(*decoder)


def convolutional(model: ConfigDict, shape: Sequence[int]) -> tuple[nn.Sequential, nn.Sequential]:
    conv = model.conv
    channels, k, factor = tuple(conv.channels), conv.kernel_size, conv.factor
    encoder: list[nn.Module] = []
    for i, (before, after) in enumerate(zip((shape[-1], *channels), channels, strict=False)):
        name = model.encoder.activation if i + 1 < len(channels) else model.code_activation
        encoder += [nn.Conv2d(before, after, k, padding=k // 2), ACTIVATIONS[name](), nn.MaxPool2d(factor)]
    outputs = [*channels[-2::-1], channels[0] if conv.output_layer else shape[-1]]
    padding = -(-(k - factor) // 2)
    extra = 2 * padding - (k - factor)
    decoder: list[nn.Module] = []
    for before, after in zip((channels[-1], *outputs), outputs, strict=False):
        layer = nn.ConvTranspose2d(before, after, k, stride=factor, padding=padding, output_padding=extra)
        decoder += [layer, ACTIVATIONS[model.decoder.activation]()]
    # The last layer is linear.
    decoder[len(decoder) - (not conv.output_layer) :] = (
        [nn.Conv2d(channels[0], shape[-1], k, padding=k // 2)] if conv.output_layer else []
    )
    return nn.Sequential(*encoder), nn.Sequential(*decoder)


class Reader(nn.Module):
    """x [B, T, C] -> code: the layers of a recurrent encoder, whose last outputs a linear layer reads."""

    def __init__(self, model: ConfigDict, channels: int):
        super().__init__()
        own, widths = model.recurrent, tuple(model.encoder.widths)
        ways = 1 + own.bidirectional
        inputs = (channels, *(ways * n for n in widths))
        self.layers = nn.ModuleList(
            CELLS[own.cell](before, n, batch_first=True, bidirectional=own.bidirectional)
            for before, n in zip(inputs, widths, strict=False)
        )
        self.code = nn.Linear(inputs[-1], model.bottleneck.size * (1 + (model.bottleneck.name == "gaussian")))
        self.activation = ACTIVATIONS[model.code_activation]()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x, state = layer(x)
        last = state[0] if isinstance(state, tuple) else state  # [directions, B, n]
        return self.activation(self.code(torch.cat(tuple(last), -1)))


class Writer(nn.Module):
    """z [B, code] -> [B, T, C]: the layers of a recurrent decoder, whose first one reads z in every step."""

    def __init__(self, model: ConfigDict, shape: Sequence[int]):
        super().__init__()
        own, self.steps, self.backwards = model.recurrent, shape[0], model.recurrent.backwards
        widths = model.decoder.widths
        widths = tuple(model.encoder.widths)[::-1] if widths is None else tuple(widths)
        inputs, states = (model.bottleneck.size, *widths), 1 + (own.cell == "lstm")
        self.layers = nn.ModuleList(
            CELLS[own.cell](before, n, batch_first=True) for before, n in zip(inputs, widths, strict=False)
        )
        self.starts = nn.ModuleList(nn.Linear(model.bottleneck.size, states * n) for n in widths)
        self.output = nn.Linear(widths[-1], shape[1])

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        x = z[:, None].expand(-1, self.steps, -1)
        for layer, start in zip(self.layers, self.starts, strict=True):
            begin = torch.tanh(start(z))[None]
            lstm = isinstance(layer, nn.LSTM)
            x, _ = layer(x, tuple(part.contiguous() for part in begin.chunk(2, -1)) if lstm else begin)
        r = self.output(x)
        return r.flip(1) if self.backwards else r


def recurrent(model: ConfigDict, shape: Sequence[int]) -> tuple[nn.Module, nn.Module]:
    return Reader(model, shape[-1]), Writer(model, shape)


NETWORKS: dict[str, Callable[[ConfigDict, Sequence[int]], tuple[nn.Module, nn.Module]]] = {
    "mlp": dense,
    "conv": convolutional,
    "recurrent": recurrent,
}


def optimizer(
    model: nn.Module, config: ConfigDict, steps: int
) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler | None]:
    """The optimiser, with its update fused into one kernel, and its learning-rate schedule."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    made: torch.optim.Optimizer
    if config.name == "sgd":
        fields = {"momentum": config.momentum, "nesterov": config.nesterov}
        made = torch.optim.SGD(model.parameters(), config.learning_rate, fused=True, **fields)
    else:
        groups = [{"params": kernels, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        made = torch.optim.AdamW(groups, config.learning_rate, fused=True)
    constant = config.schedule == "constant"
    return made, None if constant else torch.optim.lr_scheduler.CosineAnnealingLR(made, steps)


def check(config: ConfigDict, shape: Sequence[int]) -> None:
    """Raise InputError for a config that uses more than this file implements."""
    default = config_lib.flatten(config_lib.default().to_dict())
    for path, value in config_lib.flatten(config.to_dict()).items():
        if path in SUPPORTED or path.partition(".")[0] not in ELSEWHERE:
            allowed = SUPPORTED.get(path, (default.get(path, value),))
            if allowed is not None and value not in allowed:
                raise FieldError(path, value, f"--vs=torch takes only {', '.join(map(str, allowed))}")
    model = config.model
    one = model.name == "mlp" and not model.encoder.widths and model.bottleneck.name == "identity"
    weight = config.objective.contractive.weight
    if weight and not (one and model.code_activation == "sigmoid"):
        raise FieldError("objective.contractive.weight", weight, "--vs=torch takes one layer of sigmoid units")
    if model.decoder.tied and (model.name != "mlp" or model.bottleneck.name != "identity"):
        raise FieldError("model.decoder.tied", True, "--vs=torch takes tied weights only with mlp and identity")
    if model.name == "conv":
        size = model.conv.factor ** len(model.conv.channels)
        if model.bottleneck.size or model.conv.kernel_size % 2 == 0 or any(n % size for n in shape[:2]):
            raise FieldError(
                "model.name", "conv", f"--vs=torch takes maps as codes, odd kernels, images of a multiple of {size}"
            )
