import io

from rich.console import Console

from atkd_jax.commands.progress_line import progress_line


def shown(*, terminal, seconds):
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=terminal, width=80)
    times = iter(seconds)
    with progress_line(console, "evaluating", total=4, seconds_between_lines=10, clock=lambda: next(times)) as tell:
        for done in range(1, 5):
            tell(done)
    return stream.getvalue()


def test_elsewhere_lines_are_plain_and_few():
    # Read at the start and at each count.
    text = shown(terminal=False, seconds=[0, 1, 12, 15, 16])
    assert text == "evaluating: 2 of 4, left 0:22\nevaluating: 4 of 4\n"


def test_on_a_terminal_the_line_is_live():
    text = shown(terminal=True, seconds=[])
    assert "evaluating" in text
    assert "\x1b[" in text
