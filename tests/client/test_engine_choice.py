"""Which engine a site gets: the project's, and on a GPU only where project, policy and torch agree on it."""

import sys
from dataclasses import replace

import pytest
import torch

from fedhe.client.agent import serve
from fedhe.client.log_book import LogBook
from fedhe.client.site import engine_maker
from fedhe.config.policy import SitePolicy
from fedhe.errors import ConfigError
from fedhe.he import gpu_engine
from fedhe.he.fast_engine import FastEngine
from fedhe.he.gpu_engine import GpuEngine
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS
from fedhe.he.seal_engine import SealEngine

ON_GPU = SitePolicy(encrypt_on="gpu", gpus=[1, 0])


@pytest.mark.parametrize(("name", "engine"), [("seal", SealEngine), ("fast", FastEngine)])
def test_on_the_cpu_it_is_the_projects_engine(name, engine):
    made = engine_maker(name, SitePolicy(), 1)(DEFAULT_PARAMS, SecretKey.generate(DEFAULT_PARAMS))
    assert isinstance(made, engine)


def test_on_a_gpu_it_is_the_first_that_may_be_used(monkeypatch):
    asked = []

    def find(number):
        asked.append(number)
        return torch.device("cpu")

    monkeypatch.setattr(gpu_engine, "find_gpu", find)
    engine = engine_maker("fast", ON_GPU, 1)(DEFAULT_PARAMS, SecretKey.generate(DEFAULT_PARAMS))
    assert isinstance(engine, GpuEngine)
    assert asked == [1]


def test_another_engine_of_the_project_is_not_replaced():
    with pytest.raises(ConfigError, match="encrypt_on: gpu: expected a project with engine: fast, got engine: seal"):
        engine_maker("seal", ON_GPU, 1)


def test_a_gpu_that_torch_does_not_see_is_an_error_and_not_the_cpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="encrypt_on: gpu: expected torch to see GPU 1, it sees none") as caught:
        engine_maker("fast", ON_GPU, 1)
    assert "encrypt_on: cpu" in caught.value.hint


def test_a_computer_without_torch_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "fedhe.he.gpu_engine")
    with pytest.raises(ConfigError, match="encrypt_on: gpu: expected torch to be installed"):
        engine_maker("fast", ON_GPU, 1)


@pytest.mark.parametrize(("engine", "told"), [("seal", "with engine: fast"), ("fast", "torch to see GPU 0")])
async def test_an_agent_that_cannot_encrypt_on_its_gpu_does_not_start(engine, told, project, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    installation = replace(project.installed_site(tmp_path, "A"), engine=engine)
    (installation.folder / "policy.yml").write_text("encrypt_on: gpu\n")
    with pytest.raises(ConfigError, match=told):
        await serve(installation, LogBook(installation.folder / "logs", as_json=False))


async def test_an_agent_tries_its_gpu_before_it_connects(project, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_engine, "find_gpu", lambda _: torch.device("cpu"))
    monkeypatch.setattr(gpu_engine, "encrypt_chunk", lambda coefficients, *_: coefficients.int().repeat(1, 2))
    installation = replace(project.installed_site(tmp_path, "A"), engine="fast")
    (installation.folder / "policy.yml").write_text("encrypt_on: gpu\n")
    with pytest.raises(ConfigError, match="GpuEngine failed its self-test"):
        await serve(installation, LogBook(installation.folder / "logs", as_json=False))
