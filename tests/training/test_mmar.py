"""A job's configuration is read without torch; what is wrong is told with file, line and the nearest right word."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.config.mmar import check_mmar, load_mmar
from fedhe.config.mmar_variables import change, split_settings
from fedhe.errors import ConfigError, FedheError


def test_a_good_job_is_read_with_its_variables_put_in(make_job, config, data_root):
    mmar = load_mmar(make_job(config))
    assert mmar.config.train.optimizer.args == {"lr": 0.02}
    assert mmar.config.train.dataset.cases.file == f"{data_root}/dataset.json"
    assert mmar.config.epochs == 2


def test_reading_a_job_needs_no_torch():
    code = "import sys, fedhe.config.mmar, fedhe.config.trainer, fedhe.cli.train; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("where", "value", "message", "hint"),
    [
        ("epoch", 3, "unknown key 'epoch'", "did you mean 'epochs'?"),
        ("vaildate", {}, "unknown key 'vaildate'", "did you mean 'validate'?"),
        ("train.optimiser", {"name": "Adam"}, "unknown key 'train.optimiser'", "did you mean 'optimizer'?"),
        ("train.loss.arg", {}, "unknown key 'train.loss.arg'", "did you mean 'args'?"),
        ("train.dataset.data_list.fil", "x", "unknown key 'train.dataset.data_list.fil'", "did you mean 'file'?"),
        ("train.loss", {"args": {}}, "expected either 'name' (library) or 'path' (own code), got neither", None),
        ("train.loss", {"name": "A", "path": "b.C"}, "got name 'A' and path 'b.C'", None),
        ("train.model.path", "1a.b", "train.model.path", None),
        ("train.dataset", {"name": "Dataset"}, "key 'data_list' is missing", None),
        (
            "train.optimizer.args.lr",
            "{learning_rat}",
            "unknown variable 'learning_rat'",
            "did you mean 'learning_rate'?",
        ),
        (
            "train.optimizer.args.lr",
            "@learning_rat",
            "unknown variable 'learning_rat'",
            "did you mean 'learning_rate'?",
        ),
        ("epochs", 0, "greater than or equal to 1", None),
        ("epochs", "many", "valid integer", None),
        (
            "validate.pre_transforms",
            [{"ref": "LoadImage"}],
            "train has no step 'LoadImage'",
            "did you mean 'LoadImaged'?",
        ),
        ("validate.metrics", [], "at least 1", None),
        ("train.dataset.data_list.split", {"folds": 5, "use": [5]}, "expected folds 0 to 4, got 5", None),
        ("train.dataset.data_list.part", {"index": 3, "of": 3}, "expected 0 to 2, got 3", None),
        ("cudnn_benchmark", True, "expected false with determinism", None),
    ],
)
def test_a_wrong_key_or_value_is_named_with_its_line(make_job, config, where, value, *, message, hint):
    *above, last = where.split(".")
    here = config
    for part in above:
        here = here[part]
    here[last] = value
    job = make_job(config)
    with pytest.raises(ConfigError) as caught:
        check_mmar(job)
    assert message in caught.value.message
    assert "config_train.json:" in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")


def test_a_missing_section_is_named(make_job, config):
    del config["train"]["model"]
    with pytest.raises(ConfigError, match=r"key 'train.model' is missing"):
        check_mmar(make_job(config))


def test_a_variable_that_is_not_used_is_a_typo(make_job, config):
    config["momentun"] = 0.9
    with pytest.raises(ConfigError, match="unknown key 'momentun'"):
        check_mmar(make_job(config))


def test_the_line_of_an_error_is_the_line_in_the_file(make_job, config):
    config["train"]["loss"]["nmae"] = "x"
    job = make_job(config)
    lines = (job / "config" / "config_train.json").read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "nmae" in line)
    with pytest.raises(ConfigError, match=rf"config_train.json:{number}:"):
        check_mmar(job)


def test_values_win_in_the_documented_order(make_job, config, data_root):
    job = make_job(config, environment={"DATA_ROOT": "/from/environment", "learning_rate": 0.1})
    assert load_mmar(job).config.train.optimizer.args["lr"] == 0.1
    assert load_mmar(job, settings=["learning_rate=0.2"]).config.train.optimizer.args["lr"] == 0.2
    site = load_mmar(job, settings=["learning_rate=0.2"], overrides={"learning_rate": 0.3, "DATA_ROOT": str(data_root)})
    assert site.config.train.optimizer.args["lr"] == 0.3
    assert site.config.train.dataset.cases.file == f"{data_root}/dataset.json"


def test_a_site_may_replace_a_top_level_key(make_job, config):
    assert load_mmar(make_job(config), overrides={"amp": True}).config.amp is True


def test_a_whole_variable_keeps_its_type_and_braces_can_be_written(make_job, config):
    config["roi"] = [8, 8, 8]
    config["train"]["inferer"] = {"name": "SlidingWindowInferer", "args": {"roi_size": "{roi}", "note": "{{x}} {roi}"}}
    args = load_mmar(make_job(config)).config.train.inferer.args
    assert args == {"roi_size": [8, 8, 8], "note": "{x} [8, 8, 8]"}


def test_variables_may_be_made_of_variables_but_not_in_a_circle(make_job, config):
    environment = {"BASE": "/data", "DATA_ROOT": "{BASE}/brain"}
    assert load_mmar(make_job(config, environment=environment)).variables["DATA_ROOT"] == "/data/brain"
    with pytest.raises(ConfigError, match="circle: BASE -> DATA_ROOT -> BASE"):
        load_mmar(make_job(config, environment={"BASE": "{DATA_ROOT}", "DATA_ROOT": "{BASE}/x"}, name="circle"))


def test_variables_cannot_be_blown_up(make_job, config):
    bomb = {f"A{n}": f"{{A{n + 1}}}" * 10 for n in range(12)} | {"A12": "x" * 10, "DATA_ROOT": "{A0}"}
    with pytest.raises(ConfigError, match="at most 32768 characters"):
        load_mmar(make_job(config, environment=bomb))


def test_claras_flat_data_list_is_read(make_job, config):
    config["train"]["dataset"] = {
        "name": "CacheDataset", "data_list_file_path": "{DATASET_JSON}", "data_file_base_dir": "{DATA_ROOT}",
        "data_list_key": "validation",
    }  # fmt: skip
    environment = {"DATA_ROOT": "/d", "DATASET_JSON": "{DATA_ROOT}/list.json"}
    cases = check_mmar(make_job(config, environment=environment)).train.dataset.cases
    assert (cases.file, cases.base_dir, cases.key) == ("/d/list.json", "/d", "validation")


@pytest.mark.parametrize(
    ("setting", "message", "hint"),
    [
        ("epochs", "expected key=value", "for example"),
        ("epoch=3", "no variable or top-level key of that name", "did you mean 'epochs'?"),
        ("train.optimiser.args.lr=1", "there is no 'optimiser' in train", "did you mean 'optimizer'?"),
        ("train.optimizer.nme=1", "there is no 'nme' in train.optimizer", "did you mean 'name'?"),
        ("train=1", "no variable or top-level key of that name", None),
        ("train.pre_transforms.9.args.keys=1", "there is no '9' in train.pre_transforms", "known keys: 0, 1, 2"),
    ],
)
def test_a_wrong_setting_is_named_with_the_nearest_key(make_job, config, setting, message, hint):
    with pytest.raises(ConfigError) as caught:
        load_mmar(make_job(config), settings=[setting])
    assert message in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")


def test_settings_reach_every_place(make_job, config):
    changes = [
        "epochs=7", "train.optimizer.args.lr=0.5", "train.optimizer.args.weight_decay=1e-3",
        "train.pre_transforms.2.disabled=True", "train.dataset.data_list.limit=null",
    ]  # fmt: skip
    config["train"]["pre_transforms"][2]["disabled"] = False
    config["train"]["dataset"]["data_list"]["limit"] = 3
    read = load_mmar(make_job(config), settings=changes).config
    assert read.epochs == 7
    assert read.train.optimizer.args == {"lr": 0.5, "weight_decay": 1e-3}
    assert read.train.pre_transforms[2].disabled
    assert read.train.dataset.cases.limit is None


@pytest.mark.parametrize(
    ("config_file", "environment_file", "message"),
    [("config_trian.json", "environment.json", "config_trian.json"), ("config_train.json", "env.json", "env.json")],
)
def test_a_missing_file_is_named(make_job, config, config_file, environment_file, message):
    with pytest.raises(ConfigError) as caught:
        load_mmar(make_job(config), config=config_file, environment=environment_file)
    assert message in caught.value.message
    assert "did you mean" in (caught.value.hint or "")


def test_a_missing_folder_bad_json_and_a_list_are_one_line_each(make_job, config, tmp_path):
    with pytest.raises(ConfigError, match="expected a folder"):
        check_mmar(tmp_path / "nowhere")
    job = make_job(config)
    file = job / "config" / "config_train.json"
    file.write_text('{"train": {\n "model": ]')
    with pytest.raises(ConfigError, match=r"config_train.json:2:"):
        check_mmar(job)
    file.write_text("[1]")
    with pytest.raises(ConfigError, match="expected keys with values, got a list"):
        check_mmar(job)


def test_an_environment_holds_flat_values_only(make_job, config):
    with pytest.raises(ConfigError, match=r"environment.json:2: expected a name with a text, number or list"):
        check_mmar(make_job(config, environment={"train": {}}))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["UNet", "a.b", "{x}", "@model", "{{"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
        st.sampled_from(["train", "validate", "name", "path", "args", "model", "loss", "optimizer", "dataset", "epochs",
                         "data_list", "file", "x", "ref", "metrics", "pre_transforms"]), inner, max_size=5),
    max_leaves=25,
)  # fmt: skip


@settings(deadline=None)
@given(data=JSON)
def test_any_json_is_a_configuration_or_one_documented_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("any")
    (folder / "config").mkdir()
    (folder / "config" / "config_train.json").write_text(json.dumps(data))
    said = []
    try:
        check_mmar(folder)
    except FedheError as error:
        said.append(error.message)
    assert all(message and "\n" not in message for message in said)


@settings(deadline=None)
@given(text=st.text(max_size=40), data=st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3))
def test_any_setting_is_taken_or_one_documented_error(text, data):
    said = []
    try:
        for key, value in split_settings([text]):
            change(data, key, value)
    except ConfigError as error:
        said.append(error.message)
    assert all(said)
