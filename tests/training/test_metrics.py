import json

import pytest
from tensorboardX.proto.event_pb2 import Event

from atkd_jax.errors import InputError
from atkd_jax.training.metrics import MetricsWriter, last_metrics, mean_shares, read_metrics


def tensorboard_values(run_dir):
    """The scalars of all event files, read by the record format's own definition."""
    import struct

    found = []
    for path in sorted((run_dir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            found += [(event.step, value.tag, value.simple_value) for value in event.summary.value]
            data = data[12 + length + 4 :]
    return found


def test_both_files_hold_the_same_numbers(tmp_path):
    writer = MetricsWriter(tmp_path)
    writer.write(1, {"loss": 2.5, "teacher_share": 0.25})
    writer.write(2, {"loss": float("nan")})
    writer.close()
    assert read_metrics(tmp_path) == [{"step": 1, "loss": 2.5, "teacher_share": 0.25}, {"step": 2, "loss": None}]
    board = tensorboard_values(tmp_path)
    assert board[:2] == [(1, "loss", 2.5), (1, "teacher_share", 0.25)]
    assert board[2][:2] == (2, "loss")


def test_resuming_drops_what_was_written_after_the_checkpoint(tmp_path):
    writer = MetricsWriter(tmp_path)
    for step in (1, 2, 3, 4):
        writer.write(step, {"loss": float(step)})
    writer.close()
    writer = MetricsWriter(tmp_path, resumed_step=2)
    writer.write(3, {"loss": 30.0})
    writer.close()
    assert [line["loss"] for line in read_metrics(tmp_path)] == [1.0, 2.0, 30.0]


def test_a_line_cut_short_by_a_kill_is_left_out_and_a_broken_one_is_named(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n" + '{"step": 2, "lo')
    assert [line["step"] for line in read_metrics(tmp_path)] == [1]
    path.write_text("{broken\n" + json.dumps({"step": 2}) + "\n")
    with pytest.raises(InputError, match="line 1 is no JSON"):
        read_metrics(tmp_path)


def test_the_last_whole_line_of_a_long_run_is_found(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text("")
    assert last_metrics(tmp_path) is None
    path.write_text("".join(json.dumps({"step": step, "loss": 1.5}) + "\n" for step in range(5000)) + '{"step": 50')
    assert path.stat().st_size > 2**16
    assert last_metrics(tmp_path) == {"step": 4999, "loss": 1.5}


def test_a_second_part_begun_in_the_same_second_has_an_event_file_of_its_own(tmp_path):
    for resumed_step in (0, 1):
        writer = MetricsWriter(tmp_path, resumed_step=resumed_step)
        writer.write(resumed_step + 1, {"loss": 1.0})
        writer.close()
    assert sorted(tensorboard_values(tmp_path)) == [(1, "loss", 1.0), (2, "loss", 1.0)]


def test_a_mean_share_is_over_what_was_measured_and_is_finite():
    lines = [{"loss": 1.0}, {"gradient_share/easy": 0.2, "gradient_norm/easy": 9.0}, {"gradient_share/easy": None}]
    assert mean_shares([*lines, {"gradient_share/easy": 0.6}]) == {"easy": pytest.approx(0.4)}
