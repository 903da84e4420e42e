"""How close written sequences are to the true ones."""

from collections.abc import Sequence

import numpy as np

from aejax.data.tokens import LEVELS


def edits(a: Sequence[str], b: Sequence[str]) -> int:
    """The fewest tokens to insert, delete or replace that turn a into b; Levenshtein (1966)."""
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        above, row = row, [i]
        for j, y in enumerate(b, 1):
            row.append(min(above[j] + 1, row[j - 1] + 1, above[j - 1] + (x != y)))
    return row[-1]


def measures(written: Sequence[str], true: Sequence[str], level: str) -> dict[str, float]:
    """exact_match and token_error in percent; bleu from 0 to 100 if sacrebleu is installed.

    token_error is the number of edits over the number of true tokens, both summed over the sequences: the word error
    rate for words. BLEU (Papineni et al. 2002) is that of the whole corpus, with up to 4 tokens, as sacrebleu computes
    it without a tokeniser of its own (Post 2018).
    """
    split = LEVELS[level].split
    pairs = [(split(ours), split(theirs)) for ours, theirs in zip(written, true, strict=True)]
    numbers = {
        "exact_match": 100 * float(np.mean([ours == theirs for ours, theirs in zip(written, true, strict=True)])),
        "token_error": 100 * sum(edits(*pair) for pair in pairs) / sum(len(theirs) for _, theirs in pairs),
    }
    try:
        import sacrebleu
    except ImportError:
        return numbers
    ours, theirs = ([" ".join(tokens) for tokens in side] for side in zip(*pairs, strict=True))
    found = sacrebleu.corpus_bleu(ours, [theirs], tokenize="none", force=True)
    return numbers | {"bleu": float(found.score)}
