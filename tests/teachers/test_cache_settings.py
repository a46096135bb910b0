import pytest

from atkd_jax.config import Config
from atkd_jax.data import Example, Template
from atkd_jax.data.cache_manifest import Manifest, finished_manifest
from atkd_jax.data.encoding import EncodedExamples
from atkd_jax.data.record_shards import Record, ShardWriter
from atkd_jax.data.signal_format import SignalFormat
from atkd_jax.errors import InputError
from atkd_jax.interop import config_sha256, load_tokenizer, weights_sha256
from atkd_jax.teachers.cache_settings import format_of, new_settings, require_wanted, source_settings


@pytest.fixture
def source(tiny_teacher_directory):
    """What the settings of a config say of its teacher and its data."""

    def of(config):
        tokenizer = load_tokenizer(tiny_teacher_directory)
        encoded = EncodedExamples(
            [Example("Add 1 to x.", "x + 1")] * 3,
            template=Template(config.data.template, tokenizer),
            sequence_length=config.data.sequence_length,
            overlong=config.data.overlong,
        )
        return source_settings(config, directory=tiny_teacher_directory, tokenizer=tokenizer, encoded=encoded)

    return of


def settings_of(source, **cache):
    config = Config.model_validate({"cache": cache})
    return new_settings(config, source=source(config), vocab_size=300, width=32)


@pytest.mark.parametrize(
    ("cache", "form"),
    [
        ({}, SignalFormat("top_k", 300, k=64, width=32)),
        ({"k": 8, "tail_draws": 5, "draws": 9}, SignalFormat("top_k", 300, k=8, tail_draws=5, width=32)),
        ({"kind": "rest_sample", "k": 8}, SignalFormat("rest_sample", 300, draws=64, width=32)),
        ({"kind": "hidden", "hidden_type": "int8"}, SignalFormat("hidden", 300, width=32, hidden_type="int8")),
    ],
)
def test_settings_hold_what_the_kind_needs_and_give_its_format(source, cache, form):
    settings = settings_of(source, **cache)
    assert format_of(Manifest(settings, {})) == form
    assert ("cache.k" in settings) == (form.kind == "top_k")
    assert ("cache.draws" in settings) == (form.kind == "rest_sample")
    assert settings["objective.temperature"] == (None if form.kind == "hidden" else 1.0)


def test_the_source_is_told_by_hashes(source, tiny_teacher_directory):
    found = source(Config())
    assert found["teacher.weights"] == weights_sha256(tiny_teacher_directory)
    assert found["teacher.config"] == config_sha256(tiny_teacher_directory)
    plain = source(Config.model_validate({"data": {"template": "plain"}}))
    assert {name for name in found if found[name] != plain[name]} == {"data.template", "data.fingerprint"}


def whole_cache(directory, settings):
    manifest = Manifest(settings, {})
    writer = ShardWriter(manifest.files(directory), 0)
    for number in range(3):
        writer.append(Record(number, 0, 0, b""))
    writer.finish()
    finished_manifest(directory, manifest).write(directory)
    return directory


def test_what_a_config_leaves_open_may_be_anything_in_the_cache(source, tmp_path):
    directory = whole_cache(tmp_path, settings_of(source, k=8, seed=4))
    for cache in ({}, {"k": 8}, {"kind": "top_k", "seed": 4}, {"examples_per_shard": 7}):
        config = Config.model_validate({"cache": cache})
        assert require_wanted(config, directory, source(config)).settings["cache.k"] == 8
    config = Config.model_validate({"cache": {"seed": 5}, "objective": {"temperature": 2}})
    message = (
        r"cache.seed was 4 when it was made and is 5 now; "
        r"objective.temperature was 1.0 when it was made and is 2.0 now"
    )
    with pytest.raises(InputError, match=message):
        require_wanted(config, directory, source(config))


def test_hidden_states_serve_any_temperature(source, tmp_path):
    directory = whole_cache(tmp_path, settings_of(source, kind="hidden"))
    config = Config.model_validate({"objective": {"temperature": 2}})
    assert require_wanted(config, directory, source(config)).settings["cache.kind"] == "hidden"


def test_other_weights_and_another_tokenizer_are_refused_with_both_hashes(source, tmp_path):
    directory = whole_cache(tmp_path, settings_of(source))
    for name in ("teacher.weights", "teacher.config", "teacher.tokenizer", "data.fingerprint"):
        with pytest.raises(InputError, match=rf'{name} was "[0-9a-f]{{64}}" when it was made and is "0000" now'):
            require_wanted(Config(), directory, source(Config()) | {name: "0000"})
