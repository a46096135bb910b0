import io

from rich.console import Console

from atkd_jax.training.progress import CountLines, ProgressLine, describe


def test_the_line_says_what_there_is():
    values = {"loss": 3.21449, "tokens_per_second": 1520.4, "teacher_share": 0.412, "skipped_steps": 2.0}
    assert describe(values, seconds_left=125) == "loss 3.214  1,520 tokens/s  teacher 41%  skipped 2  left 2:05"
    values |= {"mfu": 0.523, "step_seconds": 2.0, "data_wait_seconds": 0.019, "checkpoint_stall_seconds": 1.26}
    line = "loss 3.214  1,520 tokens/s  MFU 52%  teacher 41%  checkpoint 1.3 s  skipped 2  left 2:05"
    assert describe(values, seconds_left=125) == line
    assert "data wait 0.5 s" in describe(values | {"data_wait_seconds": 0.5}, seconds_left=1)
    assert describe({"loss": 1.0}, seconds_left=7322) == "loss 1  left 2:02:02"


def test_without_a_terminal_a_plain_line_comes_at_the_first_step_every_ten_seconds_and_at_the_last():
    now = [0.0]
    out = io.StringIO()
    line = ProgressLine(steps=6, start=0, console=Console(file=out, width=100), clock=lambda: now[0])
    for step in range(1, 7):
        now[0] += 4.0
        line.update(step, {"loss": 1.0})
    line.close()
    assert [text.split()[1] for text in out.getvalue().splitlines()] == ["1/6", "4/6", "6/6"]
    assert "left 0:08" in out.getvalue().splitlines()[1]


def test_a_terminal_gets_one_live_line():
    out = io.StringIO()
    console = Console(file=out, width=120, force_terminal=True)
    line = ProgressLine(steps=2, start=0, console=console)
    line.update(1, {"loss": 2.0, "tokens_per_second": 10.0, "teacher_share": 0.5})
    line.update(2, {"loss": 1.5, "tokens_per_second": 10.0, "teacher_share": 0.5})
    line.close()
    assert "step 2/2" in out.getvalue()
    assert "teacher 50%" in out.getvalue()


def test_a_count_is_told_every_ten_seconds_with_what_is_left_and_at_its_end():
    times, said = iter([0.0, 1.0, 12.0, 13.0, 24.0, 25.0, 26.0]), []
    tell = CountLines("prompts answered", total=1000, report=said.append, clock=lambda: next(times))
    for done in (20, 40, 45, 60, 999, 1000):
        tell(done)
    # The 20 were there, or took a compilation: 20 more took 11 s, and 40 more 23 s.
    assert said == [
        "prompts answered: 40 of 1,000, left 8:48",
        "prompts answered: 60 of 1,000, left 9:00",
        "prompts answered: 1,000 of 1,000",
    ]


def test_of_a_count_whose_pace_is_not_known_nothing_is_said_to_be_left():
    times, said = iter([0.0, 11.0]), []
    CountLines("answered", total=3, report=said.append, clock=lambda: next(times))(1)
    assert said == ["answered: 1 of 3"]
