import dataclasses

import pytest
from llama_oracle import GROUPED

from atkd_jax.models.flops import distillation_flops
from atkd_jax.training.throughput import StepCosts, Throughput, step_costs


class Clock:
    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_steps_without_a_line_go_into_the_next_line():
    clock = Clock()
    throughput = Throughput(StepCosts(0.5, 10.0, 100.0, 1000.0), clock=clock)
    with throughput.waiting_for_data():
        clock.now += 1.0
    clock.now += 1.0
    throughput.step_ended(tokens=8, counted_tokens=2)
    with throughput.writing_checkpoint():
        clock.now += 3.0
    clock.now += 3.0
    found = throughput.step_ended(tokens=16, counted_tokens=2)
    assert found == {
        "step_seconds": 4.0,
        "tokens_per_second": 3.0,
        "teacher_share": 0.125,
        "data_wait_seconds": 0.5,
        "checkpoint_stall_seconds": 3.0,
        "mfu": pytest.approx((24 * 10 + 4 * 100) / 8 / 1000),
    }
    throughput.line_written()
    clock.now += 2.0
    found = throughput.step_ended(tokens=8, counted_tokens=0)
    assert (found["step_seconds"], found["data_wait_seconds"], found["checkpoint_stall_seconds"]) == (2.0, 0.0, 0.0)


def test_without_a_peak_there_is_no_mfu():
    assert "mfu" not in Throughput(StepCosts()).step_ended(tokens=1, counted_tokens=1)


def test_a_clock_that_stands_still_is_no_division_by_zero():
    found = Throughput(StepCosts(1.0, 1.0, 1.0, 1.0), clock=Clock()).step_ended(tokens=1, counted_tokens=1)
    assert found["tokens_per_second"] > 0


def test_costs_are_those_of_the_formula():
    models = {"student": dataclasses.replace(GROUPED, num_layers=1), "teacher": GROUPED, "length": 8}
    for runs_layers in (True, False):
        costs = step_costs(**models, teacher_seconds=1.0, peak_flops_per_second=None, runs_teacher_layers=runs_layers)
        found = 100 * costs.flops_per_token + 30 * costs.flops_per_counted_token
        expected = distillation_flops(**models, tokens=100, counted_tokens=30, runs_teacher_layers=runs_layers)
        assert found == pytest.approx(expected)
