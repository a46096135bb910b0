"""Run directories as the verbs leave them, with texts that would break a careless page; a pytest plugin."""

import json

import pytest

HOSTILE = "<script>alert(1)</script> & <b>bold</b>"


def scores(level):
    return {
        "perplexity": 10.0 * level,
        "cross_entropy": 1.0,
        "forward_kl": level / 7,
        "reverse_kl": level / 9,
        "top1_agreement": 1 / (1 + level),
        "top1_accuracy": 0.5,
        "expected_calibration_error": 0.01 * level,
    }


def write_run(run_dir, *, factor=1.0, easy_weight=0.2, everything=True):
    run_dir.mkdir(parents=True)
    (run_dir / "config.yaml").write_text(
        f"objective:\n  name: atkd\n  easy_weight: {easy_weight}\nteacher:\n  model: '{HOSTILE}'\n"
        "data:\n  source: python_stdlib\n"
    )
    lines = [
        {"step": n, "loss": factor * 9 / n, "gradient_norm": None if n == 2 else 3 / n, "skipped_steps": 0.0}
        for n in range(1, 40)
    ]
    (run_dir / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if not everything:
        return run_dir
    (run_dir / "environment.json").write_text(json.dumps({"platform": HOSTILE, "packages": {"jax": "0.10.2"}}))
    models = {"teacher": scores(1), "student after": scores(2 * factor)}
    greedy = {
        "rouge_l": 21.5, "distinct_1": 0.4, "distinct_2": 0.7, "distinct_4": 0.9, "mean_tokens": 70.0, "closed": 0.8
    }  # fmt: skip
    sampled = {name: {"mean": value, "std": 0.25} for name, value in greedy.items()}
    answer = f"{HOSTILE}\n" + "def add(a, b):\n    return a + b\n" * 3
    evaluation = {
        "source": "python_stdlib", "split": "test", "examples": 64, "checkpoint_step": 39, "counted_tokens": 7161,
        "models": models,
        "unc_deciles": [
            {"models": {name: scores((n + 1) * own["perplexity"] / 10) for name, own in models.items()}}
            for n in range(10)
        ],
        "instruction_sets": {"dolly": {"models": {"student after": {"greedy": greedy, "sampled": sampled}}}},
        "samples": [{"prompt": HOSTILE, "response": "x", "answers": {"teacher": answer, "student after": "…"}}],
    }  # fmt: skip
    (run_dir / "evaluation.json").write_text(json.dumps(evaluation))
    judged = {
        "set": "dolly", "model": "student_after", "decoding": "greedy", "answer_mean": 4.0, "reference_mean": 8.0,
        "ratio_percent": 50.0, "scored": 79, "unreadable": 1, "unanswered": 0,
    }  # fmt: skip
    (run_dir / "judge.json").write_text(json.dumps({"judge": "a judge", "results": [judged]}))
    (run_dir / "uncertainty.csv").write_text(f"teacher,tokens,mean\n{HOSTILE},120,0.123456\n")
    tasks = {"mmlu": {"acc": 0.2512, "acc_stderr": 0.01, "num_fewshot": 5}}
    (run_dir / "harness.json").write_text(json.dumps({"models": {"student after": tasks}}))
    return run_dir


@pytest.fixture
def run_dir(tmp_path):
    return write_run(tmp_path / "runs" / "atkd")


@pytest.fixture
def other_run_dir(tmp_path):
    return write_run(tmp_path / "runs" / "kd", factor=1.5, easy_weight=0.5)
