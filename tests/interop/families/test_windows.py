import dataclasses

import pytest

from atkd_jax.errors import InputError
from atkd_jax.interop.families.windows import (
    OPTIONAL_WINDOWS,
    alternating_fields,
    read_layer_types,
    write_layer_types,
)
from atkd_jax.models import DecoderConfig

CONFIG = DecoderConfig(vocab_size=8, width=8, num_layers=3, num_heads=2, num_kv_heads=1, head_dim=4, mlp_width=4)
WINDOWED = dataclasses.replace(CONFIG, window=7, windowed_layers=(False, True, True))
FULL, SLIDING = "full_attention", "sliding_attention"


def test_layer_types_win_over_the_rule():
    assert read_layer_types({}, [True, False]) == (True, False)
    assert read_layer_types({"layer_types": [FULL, SLIDING]}, [True, False]) == (False, True)
    for wrong in ("sliding_attention", [FULL, "chunked_attention"]):
        with pytest.raises(InputError, match="must have a list of full_attention and sliding_attention at layer_types"):
            read_layer_types({"layer_types": wrong}, [])


def test_layer_types_are_written_for_every_layer():
    assert write_layer_types(CONFIG) == [FULL] * 3
    assert write_layer_types(dataclasses.replace(CONFIG, window=7)) == [SLIDING] * 3
    assert write_layer_types(WINDOWED) == [FULL, SLIDING, SLIDING]


def test_gemma_alternates_by_its_own_rule():
    fields = alternating_fields(lambda raw, num_layers: [layer % 2 == 0 for layer in range(num_layers)])
    assert fields.read({}, {"num_layers": 3}) == {"windowed_layers": (True, False, True)}
    assert fields.write(WINDOWED) == {"layer_types": [FULL, SLIDING, SLIDING]}


@pytest.mark.parametrize(
    ("raw", "windowed"),
    [
        ({"sliding_window": 7}, None),
        ({"sliding_window": 7, "use_sliding_window": False}, None),
        ({"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 3}, None),
        ({"sliding_window": 7, "use_sliding_window": True, "max_window_layers": 1}, (False, True, True)),
        ({"sliding_window": 7, "use_sliding_window": True, "layer_types": [SLIDING, FULL, FULL]}, (True, False, False)),
    ],
)
def test_qwens_windows_are_off_unless_they_are_turned_on(raw, windowed):
    expected = {} if windowed is None else {"window": 7, "windowed_layers": windowed}
    assert OPTIONAL_WINDOWS.read(raw, {"num_layers": 3}) == expected


def test_what_qwen_writes_it_reads():
    for config in (CONFIG, WINDOWED):
        read = OPTIONAL_WINDOWS.read(OPTIONAL_WINDOWS.write(config), {"num_layers": 3})
        assert dataclasses.replace(CONFIG, **read) == config
