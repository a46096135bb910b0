import pytest
from rouge_score import rouge_scorer

from atkd_jax.evaluation.rouge import best_rouge_l
from atkd_jax.evaluation.text_scores import Answer, distinct, score_answers, spread_over_seeds

TEXTS = ["The cats were running.", "A dog, and a cat!", ""]
REFERENCES = [["the cat runs", "cats were run over"], ["two dogs and cats"], ["nothing"]]


def test_rouge_l_is_that_of_the_package_with_its_stemmer_and_the_best_reference():
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    for text, references in zip(TEXTS, REFERENCES, strict=True):
        scores = [scorer.score(target=reference, prediction=text)["rougeL"].fmeasure for reference in references]
        assert best_rouge_l(text, references) == 100 * max(scores)
    assert best_rouge_l("cats", ["cat"]) == 100  # by the stem


@pytest.mark.parametrize(("size", "expected"), [(1, 3 / 6), (2, 3 / 4), (3, 1.0), (4, 0.0)])
def test_distinct_counts_the_n_grams_of_all_texts_together(size, expected):
    assert distinct(["a b c", "a B a"], size) == expected  # ab bc, ab ba; abc, aba


def test_a_set_has_means():
    answers = [Answer(text, tokens, closed) for text, tokens, closed in zip(TEXTS, (5, 8, 1), (1, 0, 1), strict=True)]
    scores = score_answers(answers, REFERENCES)
    expected = sum(best_rouge_l(text, own) for text, own in zip(TEXTS, REFERENCES, strict=True)) / 3
    assert scores["rouge_l"] == pytest.approx(expected)
    assert (scores["mean_tokens"], scores["mean_words"]) == (14 / 3, 3)
    assert scores["closed"] == 2 / 3
    assert scores["distinct_2"] == distinct(TEXTS, 2)


def test_seeds_are_spread():
    assert spread_over_seeds([{"a": 1.0}, {"a": 3.0}]) == {"a": {"mean": 2.0, "std": pytest.approx(2**0.5)}}
    assert spread_over_seeds([{"a": 1.0}]) == {"a": {"mean": 1.0, "std": None}}
