"""What identifies a result: settings, data, weights; old results; variants; spellings of flags."""

import importlib
import json

import pytest

from common import flags, identity
from common.files import write_json
from tests.helpers import TASKS

STEPS = identity.STEPS


def parsed(task, step, *argv):
    return importlib.import_module(f"{task}.{step}").parse_args([str(flag) for flag in argv])


def test_every_flag_of_common_is_in_the_table_and_the_tasks_own_are_settings():
    for task in ("NER", "NLI"):
        for step in STEPS:
            given = vars(parsed(task, step))
            own = set(flags.of_task(given))
            assert own == ({"label_scheme"} if task == "NER" else set())
            assert {"max_length", "precision"} <= flags.settings(given).keys()
            assert not {"seed", "device", "overwrite", "layers"} & flags.settings(given).keys()


@pytest.mark.parametrize("task", TASKS)
def test_spellings(task):
    for flag in ("--controls", "--control", "--floor"):
        assert parsed(task, "probing", flag).controls and parsed(task, "attention", flag).controls
    for flag in ("--untrained", "--random_init"):
        assert parsed(task, "probing", flag).untrained
    assert parsed(task, "attention", "--training_size", "30").training_sizes == [30]
    for step in ("fine-tuning", "probing"):
        assert parsed(task, step, "--training_sizes", "30").training_size == 30


@pytest.mark.parametrize("step", ("fine-tuning", "probing"))
def test_several_sizes_where_one_is_meant_are_told_the_right_spelling(step, capsys):
    with pytest.raises(SystemExit) as stop:
        parsed("NER", step, "--training_sizes", "10,30")
    assert stop.value.code == 2 and "--training_size 10" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("task", "step", "argv", "variant"),
    (
        ("NER", "probing", (), ""),
        ("NER", "probing", ("--probe", "bilstm-crf"), ""),
        ("NER", "probing", ("--probe", "linear"), "linear"),
        ("NER", "probing", ("--probe", "linear", "--pooling", "first"), "linear-first"),
        ("NLI", "probing", ("--standardize", "--pooling", "cls"), "cls-standardize"),
        ("NLI", "attention", ("--drop_special", "--split", "dev"), "drop_special-dev"),
        ("NLI", "attention", ("--split", "test"), ""),
        ("NLI", "fine-tuning", ("--learning_rate", "1"), ""),
    ),
)
def test_variants_have_a_name(task, step, argv, variant):
    assert parsed(task, step, *argv).variant == variant
    folder = f"{step}-{variant}" if variant else step
    assert identity.split_step(folder) == (step, variant)


def config_of(task="NLI", step="fine-tuning", *argv, **more):
    """As a run writes it."""
    arguments = identity.arguments(parsed(task, step, *argv))
    config = {"task": task, "step": step, "model": "bert", "arguments": arguments,
              "settings": flags.settings(arguments), "data": {"full_sha256": "d"},
              "weights": "w", "checkpoint": None}  # fmt: skip
    return json.loads(json.dumps(config | more))


def old(config, *without):
    """As it was written before there were settings, and without some flags."""
    config = {k: v for k, v in config.items() if k not in ("settings", "weights", "variant")}
    config["arguments"] = {k: v for k, v in config["arguments"].items() if k not in without}
    config["data"] = {"sha256": config["data"]["full_sha256"]}
    return config


def test_a_flag_that_there_was_not_counts_as_its_default():
    before = old(config_of(), "layer_decay", "max_grad_norm")
    assert identity.other_settings(before, config_of()) == []
    found = identity.other_settings(before, config_of("NLI", "fine-tuning", "--layer_decay", "0.8"))
    assert found == ["--layer_decay 1.0 (now 0.8)"]
    same = config_of("NLI", "fine-tuning", "--layer_decay", "1")
    assert identity.other_settings(before, same) == []
    (found,) = identity.other_settings(before, config_of("NLI", "fine-tuning", "--batch_size", "8"))
    assert found == "--batch_size 16 (now 8)"
    demo = old(config_of("NLI", "fine-tuning", "--demo"), "learning_rate")
    assert identity.settings_of(demo)["learning_rate"] == 5e-4  # the demo's default


def test_what_does_not_identify_a_result_makes_no_difference():
    more = ("--overwrite", "--save_minutes", "1", "--device", "cpu", "--training_size", "10")
    assert identity.differences(config_of(), config_of("NLI", "fine-tuning", *more)) == []
    rate = ("--learning_rate", "1e-3", "--num_train_epochs", "1", "--layer_decay", "0.8")
    untuned, other = (config_of("NLI", "fine-tuning", *more, training_size=0)
                      for more in ((), rate))  # fmt: skip
    assert identity.other_settings(untuned, other) == identity.differences(other, untuned) == []
    trained, usual = config_of("NLI", "fine-tuning", *rate), config_of()
    assert identity.differences(untuned, trained) == [] and identity.differences(trained, usual)
    measured = ("--layers", "last", "--controls", "--keep_features")
    here = config_of("NLI", "probing"), config_of("NLI", "probing", *measured)
    assert identity.differences(*here) == []


@pytest.mark.parametrize(
    ("change", "told"),
    (
        ({"data": {"full_sha256": "e"}}, "other data"),
        ({"weights": "x"}, "another base model"),
        ({"settings": {"optimizer": "SGD"}}, ""),  # what the other does not say is no difference
    ),
)
def test_data_and_weights_identify_a_result(change, told):
    assert identity.differences(config_of(), config_of(**change)) == ([told] if told else [])


def test_constants_of_the_method_are_settings():
    one, two = config_of(), config_of()
    one["settings"]["probe_C"], two["settings"]["probe_C"] = 1.0, 10.0
    assert identity.other_settings(one, two) == ["probe_C 1.0 (now 10.0)"]
    one["settings"]["probe_C"] = None
    assert identity.other_settings(one, two) == ["probe_C not given (now 10.0)"]


def test_precision_auto_is_whatever_was_there():
    fp32, auto = (config_of("NLI", "fine-tuning", *argv) for argv in (("--precision", "fp32"), ()))
    bf16 = config_of("NLI", "fine-tuning", "--precision", "bf16")
    assert identity.other_settings(fp32, auto) == []
    made = config_of(data={"full_sha256": "d", "precision": "bf16"})  # what auto came to there
    assert identity.other_settings(made, fp32) == ["--precision bf16 (now fp32)"]
    assert identity.other_settings(made, bf16) == [] == identity.other_settings(made, auto)
    assert identity.other_settings(fp32, bf16) == ["--precision fp32 (now bf16)"]


@pytest.mark.parametrize("key", ("weights", "checkpoint"))
def test_a_run_is_made_from_its_weights(key):
    here = config_of(**{key: "now"})
    assert identity.made_from(config_of(**{key: "then"}), here)
    assert not identity.made_from(config_of(**{key: "now"}), here)
    assert identity.made_from(old(config_of()), config_of(data={"full_sha256": "e"}))
    assert not identity.made_from(old(config_of()), config_of())


def test_a_probe_is_stale_when_its_model_was_made_anew(tmp_path):
    (tmp_path / "probing").mkdir()
    write_json(tmp_path / "probing" / "config.json", {"checkpoint": "a"})
    (tmp_path / "fine-tuning").mkdir()
    for sha, stale in (("a", False), ("b", True)):
        write_json(tmp_path / "fine-tuning" / "metrics.json", {"checkpoint_sha256": sha})
        assert identity.is_stale(tmp_path / "probing") is stale
    (tmp_path / "fine-tuning" / "metrics.json").unlink()  # it is being made anew
    assert identity.is_stale(tmp_path / "probing")


def test_what_other_code_made_is_used_with_one_line(tmp_path, caplog):
    identity.warn_of_other_code(tmp_path, {"git_commit": identity.commit()})
    assert not caplog.records
    identity.warn_of_other_code(tmp_path, {"git_commit": "0" * 40})
    assert len(caplog.records) == (1 if identity.commit() else 0)
