"""The labelled documents that come with the package."""

import collections
import hashlib
import json
import re

import numpy as np
import pytest

from aejax.data import dataset, sources, stream
from aejax.data.bags import is_documents
from aejax.data.sources import docstrings
from common import small

LABELS = """numpy numpy.linalg numpy.ma numpy.polynomial numpy.random numpy.strings scipy.cluster scipy.fft
scipy.integrate scipy.interpolate scipy.linalg scipy.ndimage scipy.optimize scipy.signal scipy.sparse scipy.spatial
scipy.special scipy.stats"""


def read():
    return docstrings.read("", small())


@pytest.fixture(scope="module")
def raw():
    return read()


def some(raw):
    return {name: values[::5] for name, values in raw.items()}


def both(raw):
    """Texts and labels of both splits."""
    return raw["x_train"] + raw["x_test"], np.concatenate([raw["y_train"], raw["y_test"]])


def test_counts_of_documents_and_classes(raw):
    assert all(is_documents(raw[f"x_{split}"]) for split in ("train", "test"))
    assert {name: len(values) for name, values in raw.items()} == {
        "x_train": 1630,
        "y_train": 1630,
        "x_test": 407,
        "y_test": 407,
    }
    counts = collections.Counter(both(raw)[1].tolist())
    assert sorted(counts) == LABELS.split()
    assert min(counts.values()) >= 30


def test_both_splits_hold_every_label_and_no_document_twice(raw):
    assert set(raw["y_train"]) == set(raw["y_test"])
    assert min(collections.Counter(raw["y_test"].tolist()).values()) >= 3
    texts = both(raw)[0]
    assert len(set(texts)) == len(texts)


def test_a_document_has_words_and_does_not_name_its_label(raw):
    texts = both(raw)[0]
    assert min(len(re.findall(r"\w\w+", text)) for text in texts) >= 30
    subpackages = "|".join(label.partition(".")[2] for label in LABELS.split() if "." in label)
    named = re.compile(rf"(?i:numpy|scipy)|\b(?:np|sp)\.\w|\b(?:{subpackages})\.[a-z_]|>>>")
    assert [found[0] for text in texts if (found := named.search(text))] == []


def test_the_split_is_the_same_at_every_reading(raw):
    def digest(raw):
        lists = {name: list(map(str, values)) for name, values in raw.items()}
        return hashlib.sha256(json.dumps(lists).encode()).hexdigest()

    assert digest(read()) == digest(raw)
    assert digest(raw)[:16] == "5983e5d1f86f9ddb"


def test_they_build_a_data_set(raw):
    data = dataset.build(some(raw), small(data__vocabulary=500))
    assert data.train["x"].shape == (326, 500)
    assert data.test["x"].shape == (82, 500)
    assert list(data.spec.classes) == LABELS.split()
    assert data.spec.x.text == "counts"


def test_a_run_is_applied_to_them_as_a_source():
    config = small("docstrings", data__vocabulary=100)
    data = sources.load(config)
    for split, expected in (("all", 2037), ("test", 407)):
        rows = list(stream.read("docstrings", config, data.spec, data.spec.x.apply, split).batches)
        assert sum(part.x.shape[0] for part in rows) == expected
    np.testing.assert_array_equal(rows[0].x.toarray(), data.test["x"][: len(rows[0].ids)].toarray())
