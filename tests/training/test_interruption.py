import os
import signal
from functools import partial

import pytest

from atkd_jax.training.interruption import Interruption


@pytest.mark.parametrize("number", Interruption.SIGNALS)
def test_the_first_signal_asks_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with Interruption() as interruption:
        assert interruption.requested is None
        os.kill(os.getpid(), number)
        assert interruption.requested == number
    assert signal.getsignal(number) is before


def test_the_second_ctrl_c_interrupts_at_once(request):
    # A shell that starts the tests in the background has SIGINT ignored.
    request.addfinalizer(partial(signal.signal, signal.SIGINT, signal.getsignal(signal.SIGINT)))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    with Interruption() as interruption:
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.requested == signal.SIGINT
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
