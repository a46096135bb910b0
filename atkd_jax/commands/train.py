"""`launch.py train`: distil the teacher into the student, from the run's newest checkpoint if it has one."""

import jax
from rich.console import Console

from atkd_jax.commands.dry_run import print_dry_run
from atkd_jax.commands.dry_run_labelled import print_labelled_dry_run
from atkd_jax.commands.joining import join
from atkd_jax.commands.report import keep_report
from atkd_jax.commands.run_directory import write_run_facts
from atkd_jax.commands.verbs import TrainOptions
from atkd_jax.training.run import train


def run(options: TrainOptions) -> None:
    """Trains, or with `--dry-run` shows what would be trained.

    Raises:
        SystemExit: 128 and the signal's number, as a shell counts, where a signal ended the run early.
    """
    if options.dry_run:
        settings = options.settings
        is_labelled = settings.images.source is not None or settings.answers.source is not None
        (print_labelled_dry_run if is_labelled else print_dry_run)(settings, console=Console())
        return
    config = join(options.settings)
    console = Console(quiet=jax.process_index() != 0)

    def keep_facts() -> None:
        if jax.process_index() == 0:
            write_run_facts(config, devices=[str(device) for device in jax.devices()])

    outcome = train(config, console=console, before_start=keep_facts)
    if outcome.stopped_by is not None:
        console.print(
            f"Stopped by {outcome.stopped_by.name} after step {int(outcome.state.step)} of {config.training.steps}; "
            f"saved in {config.run_dir}/checkpoints. The same command goes on from there.",
            highlight=False,
            soft_wrap=True,
        )
        raise SystemExit(128 + outcome.stopped_by)
    if options.report and jax.process_index() == 0:
        keep_report([config.run_dir], config.run_dir / "report.html", console=console)
