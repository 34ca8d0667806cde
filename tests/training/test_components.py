"""What is wrong with a component, its data or its code is one line with the place in the file and the nearest name."""

import json

import pytest

from fedhe.errors import TrainingError

BAD = [
    ("train.model.name", "UNett", "unknown model 'UNett'", "did you mean 'UNet'?"),
    ("train.model.name", "DiceLoss", "unknown model 'DiceLoss'", "DiceLoss is a loss, not a model"),
    ("train.loss.name", "diceloss", "unknown loss 'diceloss'", "did you mean 'DiceLoss'?"),
    ("train.optimizer.name", "Adamm", "unknown optimizer 'Adamm'", "did you mean 'Adam'?"),
    ("train.pre_transforms.2.name", "RandFlpd", "unknown transform 'RandFlpd'", "did you mean 'RandFlipd'?"),
    ("train.dataset.name", "CachDataset", "unknown dataset 'CachDataset'", "did you mean 'CacheDataset'?"),
    ("train.dataloader.name", "Dataloader", "unknown dataloader 'Dataloader'", "did you mean 'DataLoader'?"),
    ("validate.metrics.0.name", "MeanDise", "unknown metric 'MeanDise'", "did you mean 'MeanDice'?"),
    ("validate.inferer", {"name": "SlidingInferer"}, "unknown inferer 'SlidingInferer'", "did you mean"),
    ("train.trainer", {"name": "SupervizedTrainer"}, "unknown engine", "did you mean 'SupervisedTrainer'?"),
    ("train.lr_scheduler", {"name": "StepLr"}, "unknown scheduler 'StepLr'", "did you mean 'StepLR'?"),
    ("train.handlers", [{"name": "StatHandler"}], "unknown handler 'StatHandler'", "did you mean 'StatsHandler'?"),
    ("train.loss.args", {"sofmax": True}, "DiceLoss takes no argument 'sofmax'", "did you mean 'softmax'?"),
    ("train.optimizer.args.parms", [], "Adam takes no argument 'parms'", "did you mean 'params'?"),
    ("train.optimizer.args.params", [], "Adam gets 'params' from fedhe", "leave it out"),
    ("train.model.args", {"spatial_dims": 3}, "UNet needs 'in_channels' and 'out_channels'", "it takes spatial_dims"),
    ("train.model.args.strides", [], "UNet: ValueError", None),
    ("learning_rate", -1.0, "Adam: ValueError: Invalid learning rate", None),
    ("train.loss.args.weight", "$torch.ones(2)", "got the expression '$torch.ones(2)'", "a configuration"),
    ("train.loss.args.weight", "lambda x: x", "got the expression", "a configuration holds no code"),
    ("train.loss.args.weight", "@optimizer", "there is no @optimizer yet", None),
    ("train.loss.args.weight", {"name": "Nothing", "args": {}}, "unknown nested 'Nothing'", None),
    ("train.loss.args.weight", {"args": {}}, "expected either 'name' (library) or 'path' (own code)", None),
    ("train.trainer", {"name": "SupervisedTrainer", "args": {"max_epochs": 9}}, "expected '{epochs}', got 9", None),
    ("train.trainer", {"name": "SupervisedTrainer", "args": {"network": "@model"}}, "gets 'network' from fedhe", None),
    ("train.lr_scheduler", {"name": "ReduceLROnPlateau"}, "needs a metric of all rounds", "use a schedule over epochs"),
    ("train.handlers", [{"name": "from_engine", "args": {"keys": "loss"}}], "with a method attach(engine)", None),
    ("validate.metrics", [{"name": "MeanDice"}] * 2, "there is a metric 'val_mean_dice' already", "give this one"),
    ("validate.metrics", [{"name": "MeanDice", "disabled": True}], "all metrics are disabled", None),
    ("train.dataloader.args", {"batch_size": 8, "drop_last": True}, "4 items make no whole batch", "lower batch_size"),
    ("train.model.weights", "resources/none.pt", "none.pt", None),
    ("train.pre_transforms.0.args.reader", "os.system", "expected the name of a MONAI class, got 'os.system'", "for a"),
    ("train.pre_transforms.0.args.reader", ["NibabelReader", "os.system"], "got 'os.system'", "for a class of your"),
    ("validate.inferer", {"name": "PatchInferer", "args": {"merger_cls": "os.system"}}, "got 'os.system'", "for a"),
]  # fmt: skip


@pytest.mark.parametrize(("where", "value", "message", "hint"), BAD)
def test_a_wrong_component_is_named_with_its_place(make_job, config, perform, where, value, *, message, hint):
    put(config, where, value)
    with pytest.raises(TrainingError) as caught:
        perform("train", make_job(config))
    assert message in caught.value.message
    assert "\n" not in caught.value.message
    assert "config_train.json:" in caught.value.message or "none.pt" in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")


def test_the_line_is_that_of_the_argument(make_job, config, perform):
    config["train"]["loss"]["args"]["sofmax"] = True
    job = make_job(config)
    lines = (job / "config" / "config_train.json").read_text().splitlines()
    number = next(n for n, line in enumerate(lines, 1) if "sofmax" in line)
    with pytest.raises(TrainingError, match=rf"config_train.json:{number}: train.loss.args.sofmax: "):
        perform("train", job)


GOOD_NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=2):
        super().__init__()
        self.layer = nn.Conv3d(1, width, 3, padding=1)

    def forward(self, x):
        return self.layer(x)

thing = 3

def broken(width=2):
    raise LookupError("no such width")
"""


@pytest.mark.parametrize("file", ["BYOC/net.py", "custom/BYOC/net.py", "custom/BYOC/net/__init__.py"])
def test_own_code_is_found_where_clara_keeps_it_and_beside_the_config(make_job, config, perform, file):
    config["train"]["model"] = {"path": "BYOC.net.Net", "args": {"width": 2}}
    result, _, _ = perform("train", make_job(config, code={file: GOOD_NET}))
    assert [tensor.name for tensor in result.layout] == ["layer.weight", "layer.bias"]


@pytest.mark.parametrize(
    ("path", "code", "message", "hint"),
    [
        ("BYOC.nett.Net", GOOD_NET, "no module 'BYOC.nett' in the job's folder", "did you mean 'BYOC.net'?"),
        ("BYOC.net.Nett", GOOD_NET, "module 'BYOC.net' has no 'Nett'", "did you mean 'Net'?"),
        ("BYOC.net.thing", GOOD_NET, "expected a class or function, got a int", None),
        ("BYOC.net.broken", GOOD_NET, "BYOC.net.broken: LookupError: no such width", None),
        ("BYOC.net.Net", "import nowhere", "ModuleNotFoundError: No module named 'nowhere' (BYOC/net.py:1)", None),
        ("BYOC.net.Net", "x = 1\nclass Net(:\n", "SyntaxError", None),
        ("BYOC.net.Net", "\n\nraise ValueError('bad day')", "ValueError: bad day (BYOC/net.py:3)", None),
        ("BYOC.net.Net", "import sys\nsys.exit(0)", "SystemExit: 0 (BYOC/net.py:2)", None),
        ("BYOC.net.broken", GOOD_NET.replace("raise LookupError", "raise SystemExit"), "SystemExit: no such", None),
        ("torch.nn.Conv3d", GOOD_NET, "no module 'torch.nn' in the job's folder", "'path' is for the job's own code"),
        ("os.system", GOOD_NET, "no module 'os' in the job's folder", None),
    ],
)  # fmt: skip
def test_own_code_that_cannot_be_used_is_one_line(make_job, config, perform, path, code, *, message, hint):
    config["train"]["model"] = {"path": path}
    with pytest.raises(TrainingError) as caught:
        perform("init", make_job(config, code={"BYOC/net.py": code}))
    assert message in caught.value.message
    assert "config_train.json:" in caught.value.message
    assert "train.model" in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")


def test_own_code_cannot_take_the_name_of_an_installed_module(make_job, config, perform):
    config["train"]["model"] = {"path": "json.Net"}
    with pytest.raises(TrainingError, match="module 'json' of the job is hidden by the installed module"):
        perform("init", make_job(config, code={"json.py": GOOD_NET}))


def test_a_second_job_in_the_process_gets_its_own_code(make_job, config, perform):
    config["train"]["model"] = {"path": "BYOC.net.Net"}
    first, _, _ = perform("init", make_job(config, code={"BYOC/net.py": GOOD_NET}, name="one"))
    other = GOOD_NET.replace("self.layer", "self.other")
    second, _, _ = perform("init", make_job(config, code={"BYOC/net.py": other}, name="two"))
    assert (first.layout[0].name, second.layout[0].name) == ("layer.weight", "other.weight")


@pytest.mark.parametrize("error", ["ZeroDivisionError", "SystemExit"])
def test_own_code_that_fails_in_training_is_named_with_its_line(make_job, config, perform, error):
    code = GOOD_NET.replace("return self.layer(x)", f"raise {error}('oh')")
    config["train"]["model"] = {"path": "BYOC.net.Net"}
    with pytest.raises(TrainingError, match=rf"train: {error}: oh \(BYOC/net.py:10\)"):
        perform("train", make_job(config, code={"BYOC/net.py": code}), round=1, validate_first=False)


def test_every_kind_of_component_can_be_brought(make_job, config, perform):
    code = """
import torch
from torch import nn
from monai.data import Dataset
from monai.inferers import SimpleInferer
from monai.engines import SupervisedTrainer
from ignite.engine import Events

calls = []

class Loss(nn.Module):
    def forward(self, logits, labels):
        return nn.functional.cross_entropy(logits, labels[:, 0].long())

class Slow(torch.optim.SGD):
    pass

class Double:
    def __call__(self, case):
        return {**case, "image": case["image"] * 2}

class Cases(Dataset):
    pass

class Infer(SimpleInferer):
    pass

class Counter:
    def __init__(self, of):
        self.of = of
    def attach(self, engine):
        engine.add_event_handler(Events.EPOCH_COMPLETED, lambda _engine: calls.append(type(self.of).__name__))

class Trainer(SupervisedTrainer):
    pass

def my_cases(root, count):
    return [{"image": f"{root}/image{n}.nii.gz", "label": f"{root}/label{n}.nii.gz"} for n in range(count)]
"""
    train = config["train"]
    train["loss"] = {"path": "own.Loss"}
    train["optimizer"] = {"path": "own.Slow", "args": {"lr": "{learning_rate}"}}
    train["pre_transforms"].append({"path": "own.Double"})
    cases = {"path": "own.my_cases", "args": {"root": "{DATA_ROOT}", "count": 3}}
    train["dataset"] = {"path": "own.Cases", "data_list": cases}
    train["inferer"] = {"path": "own.Infer"}
    train["handlers"] = [{"path": "own.Counter", "args": {"of": "@model"}}]
    train["trainer"] = {"path": "own.Trainer"}
    result, _, _ = perform("train", make_job(config, code={"own.py": code}))
    import sys

    assert result.samples == 3
    assert sys.modules["own"].calls == ["UNet", "UNet"]


def test_nested_components_and_loss_functions_of_torch_are_built(make_job, config, perform):
    config["train"]["loss"] = {
        "name": "MaskedLoss",
        "args": {"loss": {"name": "DiceLoss", "args": {"to_onehot_y": False, "softmax": True}}},
    }
    with pytest.raises(TrainingError, match="train"):  # built; its loss gets labels of another shape
        perform("train", make_job(config))


def test_a_start_from_published_weights(make_job, config, perform):
    import torch
    from safetensors.torch import load_file

    job = make_job(config)
    _, weights, model = perform("init", job, seed=3)
    config["train"]["model"]["weights"] = "resources/start.pt"
    (job / "resources").mkdir()
    (job / "config" / "config_train.json").write_text(json.dumps(config))
    with pytest.raises(TrainingError, match=r"resources/start.pt: not a PyTorch file"):
        perform("init", job)
    state = {name: tensor + 1 for name, tensor in load_file(model).items()}
    state |= {
        name.replace("running_mean", "num_batches_tracked"): torch.tensor(4) for name in state if "running_mean" in name
    }
    torch.save({"state_dict": state}, job / "resources" / "start.pt")
    _, started, _ = perform("init", job, seed=4)
    assert all(torch.equal(started[name], weights[name] + 1) for name in weights)
    torch.save({"state_dict": {**state, "code": print}}, job / "resources" / "start.pt")
    with pytest.raises(TrainingError, match="holds more than tensors"):
        perform("init", job)


@pytest.mark.parametrize(
    ("environment", "change", "message", "hint"),
    [
        ({"DATA_ROOT": "{MMAR_ROOT}/nowhere"}, {}, "/nowhere does not exist", "set data_root in the site's policy.yml"),
        ({"DATA_ROOT": "{MMAR_ROOT}/empty"}, {}, "/empty is empty", "set data_root in the site's policy.yml"),
        (None, {"file": "{DATA_ROOT}/datset.json"}, "there is no datset.json in", "did you mean 'dataset.json'?"),
        (None, {"key": "trainin"}, "has no list 'trainin'", "did you mean 'training'?"),
        (None, {"base_dir": "{MMAR_ROOT}"}, "8 of the files of 4 cases are missing", "check DATA_ROOT"),
        (None, {"part": {"index": 7, "of": 8}}, "no case left of 4 after part and split", "use fewer parts"),
        (None, {"file": "config/environment.json"}, "has no list 'training'", None),
    ],
)
def test_data_that_is_not_there_is_one_line(make_job, config, perform, environment, change, *, message, hint):
    config["train"]["dataset"]["data_list"] |= change
    job = make_job(config, environment=environment)
    (job / "empty").mkdir()
    with pytest.raises(TrainingError) as caught:
        perform("train", job, round=1, validate_first=False)
    assert message in caught.value.message
    assert "config_train.json:" in caught.value.message
    assert "train.dataset.data_list" in caught.value.message
    assert (caught.value.hint or "").startswith(hint or "")


def test_own_code_that_finds_no_cases_is_told_apart_from_too_many_parts(make_job, config, perform):
    config["train"]["dataset"] = {"name": "Dataset", "data_list": {"path": "own.none"}}
    job = make_job(config, code={"own.py": "def none():\n    return []\n"})
    with pytest.raises(TrainingError, match=r"train.dataset.data_list: own.none found no cases at this site") as caught:
        perform("train", job, round=1, validate_first=False)
    assert "set data_root in the site's policy.yml" in caught.value.hint


def test_parts_and_folds_share_out_every_case_once(make_job, config, perform, data_root):
    from fedhe.config.mmar import load_mmar
    from fedhe.config.mmar_schema import DataList, Part, Split
    from fedhe.training.cases import find_cases
    from fedhe.training.components import Builder

    builder = Builder(load_mmar(make_job(config)), "train")
    file = str(data_root / "dataset.json")

    def cases(**fields):
        return [case["image"] for case in find_cases(builder, DataList(file=file, **fields), ("train",))]

    everything = cases()
    parts = [cases(part=Part(index=n, of=3)) for n in range(3)]
    assert sorted(case for part in parts for case in part) == sorted(everything)
    assert cases(part=Part(index=0, of=2, seed=1)) == cases(part=Part(index=0, of=2, seed=1))
    folds = cases(split=Split(folds=4, use=(1, 2, 3))) + cases(split=Split(folds=4, use=(0,)))
    assert sorted(folds) == sorted(everything)
    assert cases(limit=2) == everything[:2]


def put(config, where, value):
    """Sets the value at a dotted place."""
    *above, last = where.split(".")
    here = config
    for part in above:
        here = here[int(part)] if isinstance(here, list) else here[part]
    here[last] = value
