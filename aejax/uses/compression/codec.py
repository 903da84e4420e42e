"""Examples to the bytes of a compressed file and back: without loss by bits-back coding, or by quantised codes."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from aejax.data.bags import dense
from aejax.errors import InputError
from aejax.trained import Trained
from aejax.uses.compression.bits_back import BitsBack, refuse
from aejax.uses.compression.container import digest, pack, unpack
from aejax.uses.compression.quantizer import Quantizer, known_step
from aejax.uses.spaces import codes

LOSSLESS, LOSSY = "bits_back", "quantised"
BATCH = 1024


class Form(NamedTuple):
    """How raw examples were stored: the shape of one, its type, and the names of the rows (None: 0, 1, ...)."""

    shape: tuple[int, ...]
    dtype: str
    ids: Sequence[Any] | None = None
    id_name: str = "row"


def is_lossless(trained: Trained) -> bool:
    """Whether the model compresses binary examples without loss."""
    try:
        refuse(trained)
    except InputError:
        return False
    return True


def compress(
    trained: Trained, x: Any, form: Form, quantizer: Quantizer | None, step: float = 0.0, batch: int = BATCH
) -> bytes:
    """The file of examples [N, ...] as the model takes them.

    Without loss if the model can and no step is given, else with a step of the quantiser (0: its first one); raises
    InputError.
    """
    about = header(trained, x.shape[0], form)
    if is_lossless(trained) and not step:
        bits = binary(x)
        with threadpool_limits(1):  # the products of a block are small: threads would wait for each other
            words, seed = BitsBack(trained, batch).compress(bits)
        about |= {"kind": LOSSLESS, "seed": seed, "content": digest(bits.tobytes()).hex()}
        return pack(about, words.astype("<u4").tobytes())
    fitted = needed(quantizer)
    step = known_step(fitted, step)
    z = codes(trained, x)
    return lossy_file(fitted.quantize(z, step), fitted, step, about)


def header(trained: Trained, count: int, form: Form) -> dict[str, Any]:
    """Model, number and form of the examples."""
    about = {"model": trained.fingerprint[:16], "count": count, "shape": form.shape, "dtype": form.dtype}
    return about | ({} if form.ids is None else {"ids": list(form.ids), "id_name": form.id_name})


def lossy_file(q: np.ndarray, quantizer: Quantizer, step: float, header: Mapping[str, Any]) -> bytes:
    """The file of quantised codes [N, units]."""
    own = {"kind": LOSSY, "step": step, "units": q.shape[1], "quantizer": quantizer.fingerprint[:16]}
    return pack({**header, **own}, quantizer.encode(q, step))


def decompress(
    trained: Trained, content: bytes, name: str, quantizer: Quantizer | None, batch: int = BATCH
) -> tuple[np.ndarray, Form, str]:
    """Raw examples of a file that `compress` made, their form, and the kind of the file.

    Without loss the examples are as they were given; else they are the decoder's means, in the units of the examples:
    uint8 if the images were, else float32, for a table in the columns of the model.
    Raises InputError, which begins with `name`.
    """
    header, payload = unpack(content, name)
    if header["model"] != trained.fingerprint[:16]:
        raise InputError(f"{name}: was compressed by another model; name its run, with the same --checkpoint")
    form = Form(tuple(header["shape"]), header["dtype"], header.get("ids"), header.get("id_name", "row"))
    n = header["count"]
    if header["kind"] == LOSSLESS:
        try:
            with threadpool_limits(1):
                bits = BitsBack(trained, batch).decompress(
                    np.frombuffer(payload, "<u4").astype(np.uint32), n, header["seed"]
                )
        except ValueError as error:
            raise InputError(f"{name}: cannot be decoded: {error}") from error
        if digest(bits.tobytes()).hex() != header["content"]:
            raise InputError(f"{name}: decodes to other values than were compressed, so nothing is written")
        one = 255 if form.dtype == "uint8" else 1
        return (bits * one).reshape(n, *form.shape).astype(form.dtype), form, LOSSLESS
    fitted = needed(quantizer)
    if header["quantizer"] != fitted.fingerprint[:16]:
        raise InputError(f"{name}: was compressed with another quantiser of this run; the use compression ran again")
    q = fitted.decode(payload, n, header["units"], header["step"])
    made = trained.decode(fitted.dequantize(q, header["step"]).reshape(n, *trained.code_shape))
    if trained.spec.x.kind == "image":
        made = made.reshape(n, *form.shape)
        if form.dtype == "uint8":
            return np.rint(np.clip(made, 0, 1) * 255).astype(np.uint8), form, LOSSY
    return made.astype(np.float32), form, LOSSY


def needed(quantizer: Quantizer | None) -> Quantizer:
    """The quantiser; raises InputError if there is none."""
    if quantizer is None:
        raise InputError(
            "compression with loss needs the quantiser of the use compression; run it by "
            "python -m aejax.evaluate --workdir=DIR --use=compression"
        )
    return quantizer


def binary(x: Any) -> np.ndarray:
    """Examples [N, ...] of 0 and 1 (uint8: 0 and 255) as uint8 [N, D]; raises InputError."""
    x = dense(x).reshape(x.shape[0], -1)
    one = 255 if x.dtype == np.uint8 else 1
    wrong = (x != 0) & (x != one)
    if wrong.any():
        row, column = np.unravel_index(int(wrong.argmax()), wrong.shape)
        raise InputError(
            f"row {row}, value {column} is {x[row, column]:g}: this model codes 0 and {one} without loss, and no other "
            "value; binarise the data first, or take --step to code with loss"
        )
    return (x == one).astype(np.uint8)
