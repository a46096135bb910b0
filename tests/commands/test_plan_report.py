import io

from rich.console import Console

from atkd_jax.commands.plan_report import gibibytes, mesh_words, print_plan

GIB = 2.0**30
HELD = {"teacher": GIB, "student": GIB, "optimizer": 2 * GIB, "batch": 0.0}
REFUSED = {
    "topology": "v5e:4x4",
    "chips": 16,
    "mesh": {"data": 4, "fsdp": 4, "tensor": 1},
    "batch_tokens": 65536,
    "fits": False,
    "hbm_bytes": 15.75 * GIB,
    "needed_bytes": 20 * GIB,
    "held": HELD,
    "advice": ["mesh.fsdp=8: which this halves"],
    "compile_seconds": 60.0,
    "libtpu": "0.0.42.1",
    "jax": "0.10.2",
}
SPEED = {
    "fits": True,
    "advice": [],
    "memory": {
        "arguments": 4.5 * GIB,
        "temporaries": 8 * GIB,
        "activations": 3 * GIB,
        "code": GIB,
        "total": 13.5 * GIB,
    },
    "flops": 1.234e14,
    "hbm_traffic_bytes": 100 * GIB,
    "cycle_seconds": 1.5,
    "blocking_collective_seconds": 0.5,
    "step_seconds": 2.0,
    "best_seconds": 1.0,
    "tokens_per_second": 32768.0,
    "mfu": 0.321,
    "best_mfu": 0.642,
    "collectives": [
        {
            "kind": "all-gather",
            "axes": "fsdp",
            "count": 32,
            "num_bytes": 7 * GIB,
            "seconds": 0.25,
            "is_async": True,
            "largest": (4096, 50265),
        }
    ],
}


def printed(plan):
    stream = io.StringIO()
    print_plan(plan, console=Console(file=stream, width=160))
    return stream.getvalue()


def test_every_number_is_there():
    text = printed(REFUSED | SPEED)
    for words in (
        "data 4, fsdp 4",
        "123.4 TFLOP",
        "32,768",
        "32.1%",
        "64.2% at best",
        "4096 x 50265",
        "beside other work",
    ):
        assert words in text
    # Of 8 GiB of temporaries 3 are activations; of 4.5 of arguments 4 have a name.
    assert "5.00 GiB" in text
    assert "0.50 GiB" in text
    assert "does not fit" not in text


def test_what_does_not_fit_says_what_to_change():
    text = printed(REFUSED)
    assert "NO" in text
    assert "  - mesh.fsdp=8: which this halves" in text
    assert "MFU" not in text


def test_words_for_a_mesh_and_for_bytes():
    assert mesh_words({"data": 1, "fsdp": 1}) == "one chip"
    assert gibibytes(None) == "unknown"
    assert gibibytes(1.5 * GIB) == "1.50 GiB"
