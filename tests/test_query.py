"""The encoder that travels in the page of a text model."""

import base64
from pathlib import Path

import numpy as np
import pytest

import aejax
from aejax.page import query
from aejax.storage import reference

TEXTS = ["red green blue", "green blue black white", "one two three", "two three four five"] * 8
FIELDS = {"train__steps": 5, "train__batch_size": 8, "model__bottleneck__size": 2}


@pytest.mark.slow
def test_the_page_holds_the_encoder():
    """The arrays of the page, run by the reference, give the codes of the model."""
    for fields in ({}, {"data__text": "tfidf", "pair__input": "identity", "model__encoder__norm": "layer"}):
        model = aejax.fit(TEXTS, **FIELDS, **fields)
        page = query.for_page(query.stored(model), model.spec)
        arrays = {
            name: np.frombuffer(base64.b64decode(a["values"]), "<i2").reshape(a["shape"]) * a["scale"]
            for name, a in page["arrays"].items()
        }
        counts = np.array([[text.split().count(word) for word in page["words"]] for text in TEXTS[:4]], float)
        codes = counts
        for step in page["steps"]:
            own = {k: arrays[v] if isinstance(v, str) else v for k, v in step.items() if k != "op"}
            codes = reference.OPERATIONS[step["op"]](codes, **own)
        np.testing.assert_allclose(codes, model.encode(TEXTS[:4]), rtol=2e-2, atol=2e-3)


def test_the_page_has_every_operation_that_it_names():
    text = Path(query.__file__).with_name("report.html").read_text()
    script = text[text.index("function encoder(") : text.index("// The map: codes")]
    for name in query.KNOWN | query.ACTIVATIONS:
        assert f"{name}:" in script or f"{name}," in script, name


@pytest.mark.slow
def test_other_models_have_no_encoder_in_the_page():
    model = aejax.fit(np.random.default_rng(0).random((40, 5)), train__steps=1, train__batch_size=8)
    assert query.stored(model) == {}
    assert query.for_page({}, model.spec) is None
