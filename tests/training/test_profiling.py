import jax
import jax.numpy as jnp

from atkd_jax.training.profiling import ProfileWindow


def record(directory, numbers, **window):
    with ProfileWindow(directory, **window) as profile:
        for number in numbers:
            with profile.step(number):
                result = jnp.sin(jnp.ones(3))
            profile.dispatched(number, result)


def steps_in(directory):
    (recording,) = (directory / "plugins" / "profile").glob("*/*.xplane.pb")
    planes = jax.profiler.ProfileData.from_file(str(recording)).planes
    events = [event for plane in planes for line in plane.lines for event in line.events if event.name == "train"]
    return [dict(event.stats)["step_num"] for event in events]


def test_only_the_window_is_recorded(tmp_path):
    record(tmp_path, range(1, 6), start_step=2, steps=2)
    assert steps_in(tmp_path) == [2, 3]


def test_what_was_recorded_before_an_early_end_is_written(tmp_path):
    record(tmp_path, range(1, 3), start_step=2, steps=9)
    assert steps_in(tmp_path) == [2]


def test_nothing_is_recorded_without_a_window_or_after_its_start(tmp_path):
    record(tmp_path, range(1, 4), start_step=None, steps=3)
    record(tmp_path, range(5, 8), start_step=4, steps=3)
    assert not list(tmp_path.iterdir())
