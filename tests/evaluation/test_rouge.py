import builtins

import pytest

from atkd_jax.errors import InputError
from atkd_jax.evaluation import rouge_l


def f_measure(answer, reference):
    """By the definition: the longest common subsequence of words, over the lengths."""
    one, two = answer.split(), reference.split()
    table = [[0] * (len(two) + 1) for _ in range(len(one) + 1)]
    for i, a in enumerate(one):
        for j, b in enumerate(two):
            table[i + 1][j + 1] = table[i][j] + 1 if a == b else max(table[i][j + 1], table[i + 1][j])
    common = table[-1][-1]
    return 2 * common / (len(one) + len(two))


def test_it_is_the_mean_over_the_longest_common_subsequences():
    answers = ["a b c d", "x y", "one two three four five"]
    references = ["a c b d e", "z", "five four three two one"]
    expected = 100 * sum(map(f_measure, answers, references)) / 3
    assert rouge_l(answers, references) == pytest.approx(expected)


def test_words_are_stemmed_and_an_empty_answer_scores_nothing():
    assert rouge_l(["the cats sat"], ["the cat sat"]) == 100
    assert rouge_l([""], ["the cat sat"]) == 0


def test_what_is_missing_is_said(monkeypatch):
    real = builtins.__import__

    def without(name, *rest, **more):
        if name.startswith("rouge_score"):
            raise ModuleNotFoundError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        InputError, match=r"ROUGE-L needs the package rouge-score; `pip install 'atkd-jax\[evaluate\]'`"
    ):
        rouge_l(["a"], ["a"])


def test_answers_need_references():
    with pytest.raises(ValueError, match="got 1 and 0"):
        rouge_l(["a"], [])
