"""Sequences of tokens: the vocabulary, the model that writes them, the search, the sources, the use."""

import itertools
import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aejax
import common
from aejax import export, predict
from aejax import run as run_lib
from aejax.data import dataset, sources, tokens
from aejax.data.sources import dates, moving_digits
from aejax.errors import InputError
from aejax.losses.classification import wrong
from aejax.losses.likelihoods import categorical
from aejax.models import beam, seq2seq
from aejax.models.autoencoder import Context
from aejax.pairs.caption import Caption
from aejax.parallel.mesh import make
from aejax.training.trainer import Trainer
from aejax.uses.sequence import quality
from aejax.uses.sequence.writer import Writer
from common import UNSET, change, check, get_config, one_line, results, small, trained, trainer

TINY = {
    "train__epochs": 2,
    "train__batch_size": 8,
    "model__encoder__widths": (6,),
    "model__bottleneck__size": 5,
    "model__seq2seq__embedding": 4,
    "model__seq2seq__channels": (3, 4),
    "train__progress": False,
    "figures__enabled": False,
    "data__validation_fraction": 0.0,
}
WORDS = ("red", "green", "blue", "black")


def pairs(path, n=60, seed=0):
    """Colours -> the same in capitals, in reverse order; a tab between the two."""
    rng = np.random.default_rng(seed)
    rows = [list(rng.choice(WORDS, rng.integers(1, 4))) for _ in range(n)]
    path.write_text("".join(f"{' '.join(row)}\t{' '.join(row[::-1]).upper()}\n" for row in rows))
    return f"text_pairs:{path}"


def tiny(source, **fields):
    return get_config("dates", source, **(TINY | {"data__tokens": "words"} | fields))


# --- tokens ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", tokens.LEVELS)
def test_texts_become_numbers_and_texts_again(level):
    texts = ["one two", "two three two", "three"]
    known = tokens.vocabulary(texts, level, 100)
    length = tokens.longest(texts, level)
    rows = tokens.encode(texts, known, level, length, "x")
    assert known[:4] == tokens.SPECIAL
    assert list(known[4:]) == sorted(known[4:])
    assert tokens.decode(rows, known, level) == texts
    np.testing.assert_array_equal(tokens.lengths(rows), [len(tokens.LEVELS[level].split(text)) + 1 for text in texts])
    assert (rows[:, -1] == tokens.END).sum() == 1  # the longest one alone ends at the end


def test_the_most_frequent_tokens_are_kept_and_others_are_unknown():
    known = tokens.vocabulary(["a a b", "b c"], "words", 2)
    assert known == (*tokens.SPECIAL, "a", "b")
    np.testing.assert_array_equal(tokens.encode(["c b"], known, "words", 4, "x"), [[tokens.UNKNOWN, 5, tokens.END, 0]])


# --- losses ------------------------------------------------------------------------------------------


def test_the_likelihood_of_a_sequence_is_the_sum_over_its_tokens():
    rng = np.random.default_rng(0)
    r, numbers = rng.normal(size=(3, 4, 5)).astype(np.float32), np.array([[4, 2, 0, 0], [3, 4, 4, 2], [2, 0, 0, 0]])
    example = Caption("caption", 4, 5).make(None, {"x": jnp.zeros((3, 2)), "caption": jnp.asarray(numbers)})
    expected = []
    for logits, row in zip(r.astype(np.float64), numbers, strict=True):
        log_p = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        expected.append(-sum(log_p[i, token] for i, token in enumerate(row) if token != tokens.PAD))
    np.testing.assert_allclose(categorical(example.target, jnp.asarray(r), example.weight), expected, rtol=1e-5)
    np.testing.assert_array_equal(example.condition, [[1, 4, 2, 0], [1, 3, 4, 4], [1, 2, 0, 0]])
    value, weight = wrong(example, jnp.asarray(r), jnp.ones(3))
    mistaken = r.argmax(2) != numbers
    own = [mistaken[i, : n + 1] for i, n in enumerate((1, 3, 0))]
    np.testing.assert_allclose(value, [100 * part.mean() for part in own], rtol=1e-5)
    np.testing.assert_array_equal(weight, [2, 4, 1])


# --- the model ---------------------------------------------------------------------------------------


def decoder(attention, batch=3, length=5, size=7, steps=4):
    """A decoder, its parameters, codes and context."""
    rng = np.random.default_rng(1)
    module = seq2seq.Decoder(shape=(length, size), widths=(6, 4), attention=attention, embedding=3)
    z = jnp.asarray(rng.normal(size=(batch, 5)).astype(np.float32))
    memory = jnp.asarray(rng.normal(size=(batch, steps, 3)).astype(np.float32))
    present = jnp.arange(steps)[None] < jnp.array([4, 2, 1])[:, None]
    context = Context(memory=(memory, present) if attention else None)
    before = jnp.asarray(rng.integers(1, size, (batch, length)))
    variables = module.init(jax.random.key(0), z, context._replace(condition=before))
    params = jax.tree.map(lambda leaf: leaf + 0.3 * rng.normal(size=leaf.shape).astype(np.float32), variables["params"])
    return module, {"params": params}, z, context, before


@pytest.mark.parametrize("attention", [False, True])
def test_steps_one_by_one_give_the_logits_of_teacher_forcing(attention):
    module, variables, z, context, before = decoder(attention)
    at_once = module.apply(variables, z, context._replace(condition=before))
    states, cache = module.apply(variables, z, context, method="start")
    for i in range(before.shape[1]):
        logits, states = module.apply(variables, before[:, i], states, cache, method="step")
        np.testing.assert_allclose(logits, at_once[:, i], rtol=1e-5, atol=1e-5)


def test_attention_reads_the_steps_that_are_there():
    module, variables, z, context, before = decoder(True)
    states, cache = module.apply(variables, z, context, method="start")
    _, _, weights = module.apply(variables, before, states, cache, method="write")
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    assert not np.asarray(weights)[~np.asarray(context.memory[1])[:, None].repeat(5, 1)].any()
    memory, present = context.memory
    changed = context._replace(memory=(jnp.where(present[..., None], memory, 9.0), present), condition=before)
    np.testing.assert_array_equal(
        module.apply(variables, z, changed), module.apply(variables, z, context._replace(condition=before))
    )


def test_the_context_of_attention_is_the_weighted_mean():
    module, variables, z, context, before = decoder(True)
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    states, cache = module.apply(variables, z, context, method="start")
    _, last, weights = module.apply(variables, before[:, :1], states, cache, method="write")
    h, memory = np.asarray(last[-1][0], np.float64), np.asarray(context.memory[0], np.float64)
    scores = np.einsum("bn,bsn->bs", h, memory @ p["key"]["kernel"])
    scores[~np.asarray(context.memory[1])] = -np.inf
    a = np.exp(scores) / np.exp(scores).sum(1, keepdims=True)
    np.testing.assert_allclose(weights[:, 0], a, rtol=1e-4, atol=1e-6)
    mixed = np.concatenate([h, np.einsum("bs,bsn->bn", a, memory)], 1)
    output = np.tanh(mixed @ p["mix"]["kernel"] + p["mix"]["bias"]) @ p["logits"]["kernel"] + p["logits"]["bias"]
    found = module.apply(variables, z, context._replace(condition=before))
    np.testing.assert_allclose(found[:, 0], output, rtol=1e-4, atol=1e-5)


def searched(attention, width, alpha=0.0, **shape):
    """Rows and log p of a beam of `size`, and the log p of any row."""
    module, variables, z, context, before = decoder(attention, **shape)
    states, cache = module.apply(variables, z, context, method="start")

    def step(token, states, cache):
        return module.apply(variables, token, states, cache, method="step")

    length = before.shape[1]
    found = beam.search(step, states, cache, batch=len(z), length=length, beam=width, alpha=alpha)

    def log_p(rows):
        shifted = jnp.concatenate([jnp.full_like(rows[:, :1], tokens.BEGIN), rows[:, :-1]], 1)
        logits = module.apply(variables, z, context._replace(condition=shifted))
        terms = jnp.take_along_axis(jax.nn.log_softmax(logits), rows[..., None], -1)[..., 0]
        return np.asarray((terms * (rows != tokens.PAD)).sum(1))

    return *found, log_p


@pytest.mark.parametrize("attention", [False, True])
def test_a_beam_of_one_is_greedy(attention):
    rows, total, log_p = searched(attention, 1)
    module, variables, z, context, _ = decoder(attention)
    greedy = np.asarray(module.apply(variables, z, context).argmax(-1))
    for ours, theirs in zip(np.asarray(rows), greedy, strict=True):
        n = int(tokens.lengths(ours))
        if not np.isin(theirs[:n], (tokens.PAD, tokens.BEGIN)).any():  # which the search never writes
            np.testing.assert_array_equal(ours[:n], theirs[:n])
    np.testing.assert_allclose(total, log_p(rows), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_wide_beam_finds_the_best_of_all_sequences(alpha):
    length, size = 3, 6
    rows, total, log_p = searched(True, 64, alpha, length=length, size=size)
    everything = []
    for row in itertools.product(range(2, size), repeat=length):
        end = row.index(tokens.END) if tokens.END in row else length
        everything.append(row[: end + 1] + (tokens.PAD,) * (length - end - 1))
    best = np.full(3, -np.inf)
    for row in set(everything):
        n = sum(token != tokens.PAD for token in row)
        best = np.maximum(best, log_p(jnp.tile(jnp.array(row)[None], (3, 1))) / n**alpha)
    np.testing.assert_allclose(total, log_p(rows), rtol=1e-5)
    np.testing.assert_allclose(np.asarray(total) / np.asarray(tokens.lengths(rows)) ** alpha, best, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("attention", [False, True])
def test_padding_changes_no_code_and_no_loss(tmp_path, attention):
    config = tiny(pairs(tmp_path / "pairs.txt"), model__seq2seq__attention=attention)
    run = trainer(config)
    model = trained(run)
    x = run.data.test["x"]
    longer = np.pad(x, ((0, 0), (0, 3)))
    code, padded = model.code(jnp.asarray(x)), model.code(jnp.asarray(longer))
    np.testing.assert_allclose(padded.z, code.z, rtol=1e-5, atol=1e-6)
    example = model.objective.examples(None, {"x": jnp.asarray(x), "caption": jnp.asarray(run.data.test["caption"])})
    outputs = [model.apply(given, condition=example.condition, method="__call__")[0] for given in (x, longer)]
    ours, theirs = (model.objective.reconstruction(model.params, example, each) for each in outputs)
    np.testing.assert_allclose(ours, theirs, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["series", "image", "video"])
def test_every_kind_of_input_is_read(kind):
    shapes = {"series": (7, 2), "image": (9, 7, 3), "video": (4, 9, 7, 1)}
    rng = np.random.default_rng(0)
    x = rng.random((40, *shapes[kind])).astype(np.float32)
    fields = TINY | {"data__kind": kind, "model__decoder__widths": (6,)}
    config = get_config("captions", "array", **fields)
    raw = {"x": x, "caption": [WORDS[i % 4] for i in range(40)]}
    data = dataset.build(raw, config)
    check(config, data.spec)
    run = Trainer(common.experiment.build(config, data.spec), data, make(1))
    state, values = run.run(run.init(), 0, 1)
    assert np.isfinite(values["loss"])
    texts, log_p = Writer(trained(run, state)).write(data.test["x"])
    assert len(texts) == len(log_p) == 8


# --- measures ----------------------------------------------------------------------------------------


def test_edits():
    for a, b, n in (
        ("kitten", "sitting", 3),
        ("", "abc", 3),
        ("abc", "abc", 0),
        ("abc", "acb", 2),
        ("flaw", "lawn", 2),
    ):
        assert quality.edits(a, b) == quality.edits(b, a) == n


def test_measures_of_sequences():
    found = quality.measures(["a b c d", "a b"], ["a b c d", "a c b"], "words")
    assert found["exact_match"] == 50
    assert found["token_error"] == pytest.approx(100 / 7)
    perfect = quality.measures(["a b c d e"], ["a b c d e"], "words")
    assert perfect["bleu"] == pytest.approx(100)
    # Precisions 4/4, 3/3, 2/2, 1/1 of 4 tokens against 6: the brevity penalty alone.
    assert quality.measures(["a b c d"], ["a b c d e f"], "words")["bleu"] == pytest.approx(100 * np.exp(1 - 6 / 4))


# --- sources -----------------------------------------------------------------------------------------


def test_dates_are_unseen_and_can_be_read_back():
    raw = dates.read("", small())
    assert not {*raw["caption_train"]} & {*raw["caption_test"]}
    assert (len(raw["x_train"]), len(raw["x_test"])) == (12_000, 2_000)
    for text, iso in zip(raw["x_train"][:2000], raw["caption_train"], strict=False):
        year, month, day = iso.split("-")
        assert year in text
        assert str(int(day)) in text.replace(year, "")
        named = dates.MONTHS[int(month) - 1][:3].lower() in text.lower()
        assert named or str(int(month)) in text.replace(year, ""), text


def test_moving_digits_move_as_the_caption_says():
    raw = moving_digits.read("", small(data__moving_digits_train=2, data__moving_digits_test=40))
    for video, caption, y in zip(raw["x_test"], raw["caption_test"], raw["y_test"], strict=True):
        assert caption.count("moves") == {"one": 1, "two": 2}[y]
        if y == "one":
            rows, columns = video.any((2, 3)), video.any((1, 3))
            still, moves = (rows, columns) if "left and right" in caption else (columns, rows)
            assert (still == still[0]).all(), caption
            assert (moves[1:] != moves[:-1]).any(1).all(), caption
        else:
            digits = [int(word) for word in caption.split() if word.isdigit()]
            assert digits == sorted(digits)


def test_the_same_videos_in_every_run():
    config = small(data__moving_digits_train=5, data__moving_digits_test=5)
    first, again = (moving_digits.read("", config) for _ in range(2))
    np.testing.assert_array_equal(first["x_test"], again["x_test"])
    assert first["caption_train"] == again["caption_train"]


BAD_PAIRS = {
    "a tab is missing": ("one two\n", "line 1: must hold two texts with one tab between them, found 1"),
    "an empty caption": ("one\tONE\ntwo\t \n", "pair 1: the text to write is empty"),
    "an empty text": ("\tONE\n", "pair 0: the text to read is empty"),
    "nothing": ("", "holds no pairs"),
}


@pytest.mark.parametrize("name", BAD_PAIRS)
def test_bad_pairs(tmp_path, name):
    text, expected = BAD_PAIRS[name]
    (tmp_path / "pairs.txt").write_text(text)
    with pytest.raises(InputError) as error:
        sources.load(tiny(f"text_pairs:{tmp_path / 'pairs.txt'}"))
    one_line(error, str(tmp_path / "pairs.txt"), expected)


def test_pairs_of_a_table(tmp_path):
    (tmp_path / "pairs.csv").write_text("from,to\n" + "".join(f"red {WORDS[i % 4]},x{i % 3}\n" for i in range(20)))
    source = f"text_pairs:{tmp_path / 'pairs.csv'}"
    data = sources.load(tiny(source, data__text_column="from", data__target_column="to"))
    assert data.spec.fields["caption"].classes[4:] == ("x0", "x1", "x2")
    with pytest.raises(InputError) as error:
        sources.load(tiny(source, data__text_column="from"))
    one_line(error, "config.data.target_column", "must name a column of")


def test_captions_of_an_npz_file(tmp_path):
    x = np.zeros((20, 3, 4, 4, 1), np.uint8)
    np.savez(tmp_path / "x.npz", x=x, caption=np.array(["a b", "c"] * 10))
    spec = sources.load(get_config("captions", f"npz:{tmp_path / 'x.npz'}", **TINY)).spec
    assert (spec.x.kind, spec.x.shape, spec.fields["caption"].shape) == ("video", (3, 4, 4, 1), (3,))
    np.savez(tmp_path / "x.npz", x=x, caption=np.array(["a b", ""] * 10))
    with pytest.raises(InputError) as error:
        sources.load(get_config("captions", f"npz:{tmp_path / 'x.npz'}", **TINY))
    one_line(error, "caption", "is empty")
    np.savez(tmp_path / "x.npz", x=x, caption=np.array(["a b"] * 9))
    with pytest.raises(InputError) as error:
        sources.load(get_config("captions", f"npz:{tmp_path / 'x.npz'}", **TINY))
    one_line(error, "caption: must be 20 texts, found 9")


BAD = [
    ({"pair__name": "reconstruct", "data__kind": "image"}, "digits", "writes tokens"),
    ({}, "digits", "needs captions"),
    ({"objective__likelihood": "bernoulli"}, "dates", "must be categorical"),
    ({"model__name": "mlp"}, "dates", "must be seq2seq for tokens"),
    ({"pair__name": "denoise"}, "dates", "must be reconstruct, caption or label for tokens"),
    ({"model__encoder__widths": ()}, "dates", "must name at least one recurrent layer"),
    ({"model__decoder__bias_init": "data_mean"}, "dates", "must be zeros"),
    ({"uses__run": ("sequence",), "model__name": "mlp", "pair__name": "label"}, "digits", "which writes sequences"),
]


@pytest.mark.parametrize(("fields", "source", "expected"), BAD)
def test_bad_configs(fields, source, expected):
    with pytest.raises(InputError) as error:
        run_lib.run(get_config("dates", source, **(TINY | fields)))
    one_line(error, expected)


# --- end to end --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """A run on pairs of words that are in reverse order."""
    folder = tmp_path_factory.mktemp("sequences")
    config = tiny(pairs(folder / "pairs.txt", 400), train__epochs=30, optim__learning_rate=1e-2)
    run_lib.run(change(config, model__encoder__widths=(24,), figures__enabled=True), folder / "run")
    return folder


@pytest.mark.slow
def test_pairs_are_learned(work):
    found = results(work / "run")
    assert found["sequence/exact_match"] > 90 > found["sequence/copy/exact_match"]
    assert found["sequence/frequent/exact_match"] < 30
    assert (work / "run/uses/sequence/figures/attention.png").is_file()
    assert (work / "run/uses/sequence/sequences.csv").read_text().startswith("row,true,written,log_probability\n")
    assert not (work / "run/figures/reconstructions.png").exists()


@pytest.mark.slow
def test_a_model_writes(work):
    model = aejax.load(work / "run")
    assert model.write(["red blue", "green"]) == ["BLUE RED", "GREEN"]
    assert model.write(["red blue"], beam=3) == ["BLUE RED"]
    assert model.write(["red purple"])[0].split()[-1] == "RED"  # an unknown word is read
    with pytest.raises(InputError) as error:
        model.write(["red " * 9])
    one_line(error, "has 9 words; the model takes at most 3")
    for call in (model.reconstruct, model.score):
        with pytest.raises(InputError) as error:
            call(["red"])
        one_line(error, "writes captions")
    with pytest.raises(InputError) as error:
        aejax.fit(np.zeros((20, 3)) + np.arange(20)[:, None], train__epochs=1).write(np.zeros((1, 3)))
    one_line(error, "writes no sequences")


@pytest.mark.slow
def test_predict_writes_sequences_and_counts_unknown_words(work, capsys, monkeypatch):
    (work / "new.txt").write_text("red blue\npurple red\n")
    given = {"workdir": str(work / "run"), "input": f"text:{work / 'new.txt'}", "output": str(work / "new.csv")}
    given |= {"what": "sequences", "split": "all", "checkpoint": "last", "n": None}
    monkeypatch.setattr(predict.flags, "FLAGS", types.SimpleNamespace(**UNSET | given))
    predict.main()
    lines = (work / "new.csv").read_text().splitlines()
    assert lines[0] == '"id","sequence","log_probability"'
    assert lines[1].startswith('0,"BLUE RED",')
    assert "words that the training texts do not hold, read as unknown: 1" in capsys.readouterr().out


@pytest.mark.slow
def test_the_exported_function_writes_the_same(work):
    model = aejax.load(work / "run")
    field, x = model.spec.x, model.take(["red blue", "green red"])
    function = jax.jit(jax.export.deserialize(export.export(model, "write")).call)
    written = tokens.decode(function(x), model.spec.fields["caption"].classes, "words")
    assert written == model.write(["red blue", "green red"])
    about = export.describe(model, "write")
    assert about["input"]["vocabulary"] == list(field.classes)
    assert about["output"]["vocabulary"] == list(model.spec.fields["caption"].classes)
    json.dumps(about)


@pytest.mark.slow
def test_a_stopped_run_resumes_bit_for_bit(tmp_path):
    config = tiny(pairs(tmp_path / "pairs.txt"), train__epochs=4)
    whole = run_lib.run(config, tmp_path / "whole")
    run = trainer(config)
    state, _ = run.run(run.init(), 0, 12)
    again, _ = run.run(jax.tree.map(jnp.asarray, run.gather(state)), 12, 24)
    straight, _ = run.run(run.run(run.init(), 0, 12)[0], 12, 24)
    common.assert_equal(again.params, straight.params)
    assert whole["test/loss"] == pytest.approx(run.evaluate(again, "test")["loss"])


@pytest.mark.slow
def test_texts_are_autoencoded(tmp_path):
    (tmp_path / "texts.txt").write_text("".join(f"{WORDS[i % 4]} {WORDS[i % 3]}\n" for i in range(60)))
    fields = {"pair__name": "reconstruct", "data__kind": "tokens", "model__seq2seq__attention": False, "uses__run": ()}
    config = tiny(f"text:{tmp_path / 'texts.txt'}", **fields, train__epochs=60, optim__learning_rate=1e-2)
    run_lib.run(config, tmp_path / "run")
    model = aejax.load(tmp_path / "run")
    assert model.write(["red green", "blue blue"]) == ["red green", "blue blue"]
    assert model.score(["red green", "green red"]).shape == (2,)
    assert model.encode(["red green"]).shape == (1, 5)
