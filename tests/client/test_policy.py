"""The site's policy file."""

import pytest

from fedhe.config.document import parse_document, validate
from fedhe.config.policy import SitePolicy, example_policy, load_policy, warnings_about
from fedhe.errors import ConfigError


def policy_of(tmp_path, text):
    path = tmp_path / "policy.yml"
    path.write_text(text)
    return load_policy(path)


def test_a_site_without_a_policy_file_gets_the_careful_defaults(tmp_path):
    policy = load_policy(tmp_path / "policy.yml")
    assert (policy.job_code, policy.min_sites, policy.share_metrics, policy.record_updates) == (
        "approve", 3, False, False,
    )  # fmt: skip


def test_an_empty_file_is_the_defaults_too(tmp_path):
    assert policy_of(tmp_path, "# nothing\n") == SitePolicy()


@pytest.mark.parametrize("min_sites", [2, 3])
def test_the_example_that_install_writes_is_well_formed_and_means_the_defaults(tmp_path, min_sites):
    assert policy_of(tmp_path, example_policy(min_sites)) == SitePolicy(min_sites=min_sites)


def test_every_commented_key_of_the_example_is_a_real_one(tmp_path):
    text = "\n".join(
        line.removeprefix("# ")
        if line.startswith(("# data_root", "# environment:", "#   DATASET", "# max_training"))
        else line
        for line in example_policy().splitlines()
    )
    policy = policy_of(tmp_path, text)
    assert str(policy.data_root) == "/data/images"
    assert policy.environment == {"DATASET_JSON": "/data/images/dataset.json"}
    assert policy.max_training_hours == 48


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("min_site: 3\n", "policy.yml:1: unknown key 'min_site'"),
        ("gpus: auto\njob_code: aprove\n", "policy.yml:2: job_code"),
        ("min_sites: 1\n", "policy.yml:1: min_sites"),
        ("data_root: images\n", "expected an absolute path"),
        ("gpus: [0, 0]\n", "expected each GPU once"),
        ("gpus: some\n", "policy.yml:1: gpus"),
        ("gpus: none\nencrypt_on: gpu\n", "policy.yml:2: encrypt_on: expected cpu where gpus allows none, got gpu"),
        ("encrypt_on: gpu\ngpus: []\n", "policy.yml:1: encrypt_on: expected cpu where gpus allows none"),
        ("encrypt_on: cuda\n", "policy.yml:1: encrypt_on"),
        ("- a\n- b\n", "expected keys with values"),
        ("min_sites: 3\nmin_sites: 4\n", "already given on line 1"),
        ("max_training_hours: 0\n", "max_training_hours"),
    ],
)
def test_a_wrong_policy_is_one_clear_line(tmp_path, text, said):
    with pytest.raises(ConfigError) as caught:
        policy_of(tmp_path, text)
    assert said in caught.value.message
    assert "\n" not in caught.value.message


def test_a_mistyped_key_names_the_nearest_right_one(tmp_path):
    with pytest.raises(ConfigError) as caught:
        policy_of(tmp_path, "share_metric: true\n")
    assert caught.value.hint == "did you mean 'share_metrics'?"


def test_the_data_root_wins_over_environment(tmp_path):
    policy = SitePolicy(data_root=tmp_path, environment={"DATA_ROOT": "/elsewhere", "A": 1})
    assert policy.overrides() == {"DATA_ROOT": str(tmp_path), "A": 1}


@pytest.mark.parametrize(
    ("text", "gpu"),
    [("", None), ("gpus: [2]\n", None), ("encrypt_on: gpu\n", 0), ("gpus: [2, 1]\nencrypt_on: gpu\n", 2)],
)
def test_encryption_is_on_the_cpu_or_on_the_first_gpu_that_may_be_used(tmp_path, text, gpu):
    assert policy_of(tmp_path, text).encryption_gpu == gpu


def test_what_may_surprise_is_said(tmp_path):
    policy = SitePolicy(
        job_code="allow", min_sites=2, data_root=tmp_path / "missing", record_updates=True, encrypt_on="gpu"
    )
    said = " ".join(warnings_about(policy))
    assert "not a folder" in said
    assert "job_code: allow" in said
    assert "min_sites: 2" in said
    assert "plaintext" in said
    assert "encrypt_on: gpu keeps the HE key in the memory of a GPU" in said
    assert warnings_about(SitePolicy(data_root=tmp_path)) == []


def test_a_policy_written_as_json_values_reads_back(tmp_path):
    values = {"N": 3, "F": 0.5, "B": True, "S": "x", "L": [96, 96, 0.5]}
    policy = SitePolicy(data_root=tmp_path, gpus=[0, 1], environment=values)
    document = parse_document(policy.model_dump_json(), tmp_path / "policy.json")
    assert validate(SitePolicy, document) == policy
