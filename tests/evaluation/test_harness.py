"""The harness's own Hugging Face model is the oracle."""

import json
import types

import numpy as np
import pytest
from family_checks import SHAPE, Case
from lm_eval import simple_evaluate
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from atkd_jax.evaluation.harness import HarnessModel
from atkd_jax.interop import load_model, load_tokenizer
from atkd_jax.sharding import make_mesh

# Packages of the harness leave files open and use what other packages deprecate.
pytestmark = pytest.mark.filterwarnings("ignore")

TASK = """
task: {name}
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{choices}}}}"
doc_to_target: gold
num_fewshot: 0
metric_list: [{{metric: acc}}, {{metric: acc_norm}}]
"""
QUESTIONS = [
    {"question": "The capital of France is", "choices": [" Paris", " a fish", " Rome, the old one"], "gold": 0},
    {"question": "def add(a, b):", "choices": [" return a + b", " pass", " x"], "gold": 0},
    {"question": "Two and two make", "choices": [" five", " four"], "gold": 1},
    {"question": "Water is", "choices": [" wet", " a kind of stone that burns"], "gold": 0},
]


@pytest.fixture
def tasks(tmp_path):
    """A folder with a task made from local files."""
    data = tmp_path / "questions.jsonl"
    data.write_text("".join(json.dumps(question) + "\n" for question in QUESTIONS))
    (tmp_path / "local.yaml").write_text(TASK.format(name="local_choices", data=data))
    return tmp_path


@pytest.fixture(scope="module")
def both(tiny_teacher_directory, tiny_tokenizer):
    oracle = HFLM(pretrained=str(tiny_teacher_directory), device="cpu", dtype="float32", batch_size=2, max_length=40)
    model = load_model(tiny_teacher_directory)
    own = HarnessModel(model, load_tokenizer(tiny_teacher_directory), batch_size=2, max_length=40, mesh=make_mesh())
    return own, oracle


def requests(*arguments):
    return [types.SimpleNamespace(args=own) for own in arguments]


def test_log_likelihoods_are_those_of_the_harness(both):
    asked = requests(
        ("if x is None:", "\n    x = []"), ("", "def add"), ("def add(a, b): ", "return"), ("x " * 30, "y " * 9)
    )
    own, oracle = (model.loglikelihood(asked, disable_tqdm=True) for model in both)
    np.testing.assert_allclose([score for score, _ in own], [score for score, _ in oracle], atol=2e-4)
    assert [greedy for _, greedy in own] == [greedy for _, greedy in oracle]


def test_whole_texts_longer_than_the_model_sees_are_too(both):
    asked = requests(("def add(a, b):\n    return a + b\n" * 9,), ("x",))
    own, oracle = (model.loglikelihood_rolling(asked, disable_tqdm=True) for model in both)
    np.testing.assert_allclose(own, oracle, rtol=1e-5)


def test_answers_are_those_of_the_harness(both):
    asked = requests(
        ("if x is", {"until": ["a", "\n"], "max_gen_toks": 8, "do_sample": False}),
        ("def add", {"until": ["a", "\n"], "max_gen_toks": 8, "do_sample": False}),
        ("Write a Python", {"until": [], "max_gen_toks": 5}),
    )
    own, oracle = (model.generate_until(asked, disable_tqdm=True) for model in both)
    assert own == oracle


@pytest.fixture(scope="module")
def both_of_learned_positions(tiny_tokenizer, tmp_path_factory):
    """40 of them, of which a row of 48 tokens would need more."""
    directory = tmp_path_factory.mktemp("opt")
    shape = {name: value for name, value in SHAPE.items() if name not in ("num_key_value_heads", "intermediate_size")}
    shape |= {"ffn_dim": 48, "word_embed_proj_dim": 32, "init_std": 0.15, "max_position_embeddings": 40}
    Case("OPTConfig", shape | {"vocab_size": len(tiny_tokenizer)}).model().save_pretrained(directory)
    tiny_tokenizer.save_pretrained(directory)
    oracle = HFLM(pretrained=str(directory), device="cpu", dtype="float32", batch_size=2)
    own = HarnessModel(load_model(directory), load_tokenizer(directory), batch_size=2, max_length=2048)
    assert own.max_length == oracle.max_length == 40
    return own, oracle


def test_texts_longer_than_learned_positions_are_scored_as_by_the_harness(both_of_learned_positions):
    pairs = requests(("x " * 30, "y " * 9), ("if x is None:", "\n    x = []"), ("x " * 30, "def add"))
    texts = requests(("def add(a, b):\n    return a + b\n" * 9,), ("x",))
    (own, own_texts), (oracle, oracle_texts) = (
        (model.loglikelihood(pairs, disable_tqdm=True), model.loglikelihood_rolling(texts, disable_tqdm=True))
        for model in both_of_learned_positions
    )
    np.testing.assert_allclose([score for score, _ in own], [score for score, _ in oracle], atol=2e-4)
    np.testing.assert_allclose(own_texts, oracle_texts, rtol=1e-5)


def test_questions_longer_than_learned_positions_are_answered_as_by_the_harness(both_of_learned_positions):
    asked = requests(("def add(a, b):\n    return a + b\n" * 5, {"until": [], "max_gen_toks": 8, "do_sample": False}))
    own, oracle = (model.generate_until(asked, disable_tqdm=True) for model in both_of_learned_positions)
    assert own == oracle


def test_a_task_of_local_files_comes_out_alike(both, tasks):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    found = [simple_evaluate(model, tasks=["local_choices"], task_manager=manager, bootstrap_iters=0) for model in both]
    own, oracle = (
        [score for sample in results["samples"]["local_choices"] for (score, _) in sample["filtered_resps"]]
        for results in found
    )
    assert len(own) == 10
    np.testing.assert_allclose(np.float64(own), np.float64(oracle), atol=2e-4)
    for measure in ("acc,none", "acc_norm,none"):
        assert len({results["results"]["local_choices"][measure] for results in found}) == 1


@pytest.mark.wheel
@pytest.mark.slow
def test_smollm2_scores_a_local_task_as_the_harness_does(smollm2_directory, tasks):
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    scores = []
    for model in (
        HarnessModel(load_model(smollm2_directory), load_tokenizer(smollm2_directory), batch_size=4),
        HFLM(pretrained=str(smollm2_directory), device="cpu", dtype="float32", batch_size=4),
    ):
        results = simple_evaluate(model, tasks=["local_choices"], task_manager=manager, bootstrap_iters=0)
        assert results["results"]["local_choices"]["acc,none"] >= 0.5
        samples = results["samples"]["local_choices"]
        scores.append([float(score) for sample in samples for (score, _) in sample["filtered_resps"]])
    np.testing.assert_allclose(*scores, atol=1e-3)
