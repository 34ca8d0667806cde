"""The training process: its own group, a bare environment, ended with the agent."""

import asyncio
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedhe.client.trainer import (
    Progress,
    TrainingFailedError,
    TrainingProcess,
    bare_environment,
    end_leftover,
    parse_progress,
    visible_gpus,
)
from fedhe.config.policy import SitePolicy
from fedhe.config.trainer import TrainRequest
from fedhe.errors import TrainingError


def alive(pid):
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False


def wait_until(condition):
    for _ in range(400):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("waited for 20 s in vain")


@pytest.fixture
def run(tmp_path, training_process):
    async def start(task="init", *, policy=None, process=None, told=None, model=None, **wish):
        request = TrainRequest(
            task=task, mmar=tmp_path / "mmar", output=tmp_path / "work" / "output",
            overrides=wish, round=1, model_in=model,
        )  # fmt: skip
        return await (process or training_process).run(
            request, work=tmp_path / "work", log=tmp_path / "log.txt", policy=policy or SitePolicy(),
            told=told or (lambda _progress: None),
        )  # fmt: skip

    return start


def script(tmp_path, text):
    path = tmp_path / "program.py"
    path.write_text(text)
    return TrainingProcess((sys.executable, str(path)))


async def test_a_process_tells_progress_and_leaves_a_result(run, tmp_path):
    told = []
    result = await run(told=told.append)
    assert [tensor.name for tensor in result.layout] == ["net.weight", "net.bias", "bn.running_mean", "scale"]
    assert (tmp_path / "work" / "output" / "model.safetensors").exists()
    assert told == [Progress("training", 0.5, 1, 2, 0.25)]
    assert not (tmp_path / "work" / "pid").exists()


async def test_results_of_an_earlier_task_are_never_taken_for_this_ones(run, tmp_path):
    await run()
    silent = script(tmp_path, "")
    with pytest.raises(TrainingError, match="no valid result"):
        await run(process=silent)


async def test_a_failing_process_tells_its_error_and_last_lines(run, tmp_path):
    (tmp_path / "m").write_bytes(b"")
    with pytest.raises(TrainingFailedError) as caught:
        await run("train", FAIL="/data", model=tmp_path / "m")
    assert caught.value.message == "train failed: data folder is empty: expected images below /data"
    assert caught.value.lines[0] == "reading patient 17"
    assert not caught.value.may_pass


async def test_the_traceback_of_a_failing_process_is_told_apart_from_what_it_printed_before(run, tmp_path):
    failing = script(
        tmp_path,
        "import sys, traceback\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    traceback.print_exc()\n"
        "sys.stderr.write('train_loss: 0.31\\n')\nraise LookupError('no such case')",
    )
    with pytest.raises(TrainingFailedError) as caught:
        await run(process=failing)
    assert "train_loss: 0.31" in caught.value.lines
    assert caught.value.traceback[0] == "Traceback (most recent call last):"
    assert caught.value.traceback[-1] == "LookupError: no such case"
    assert "0.31" not in " ".join((*caught.value.traceback, caught.value.message))
    talking = script(tmp_path, "import sys\nsys.stderr.write('val_mean_dice: 0.87\\n')\nsys.exit(1)")
    with pytest.raises(TrainingFailedError) as caught:
        await run(process=talking)
    assert caught.value.traceback == ()
    assert "0.87" not in caught.value.message


async def test_a_module_that_an_earlier_task_left_in_its_folder_is_never_imported(run, tmp_path):
    (tmp_path / "work").mkdir()
    for name in ("ctypes", "hashlib"):
        (tmp_path / "work" / f"{name}.py").write_text("raise SystemExit(77)")
    await run()
    strict = script(tmp_path, "import sys\nsys.exit(not (sys.flags.safe_path and sys.flags.no_user_site))")
    with pytest.raises(TrainingError, match="no valid result"):
        await run(process=strict)


async def test_a_killed_process_may_be_tried_again(run, tmp_path):
    with pytest.raises(TrainingFailedError, match="SIGKILL, perhaps out of memory") as caught:
        await run(KILLED_ONCE=str(tmp_path / "flag"))
    assert caught.value.may_pass
    await run(KILLED_ONCE=str(tmp_path / "flag"))


async def test_only_the_last_lines_of_this_process_are_told_and_long_ones_are_cut(run, tmp_path):
    (tmp_path / "log.txt").write_text("an earlier process\n")
    noisy = script(
        tmp_path, "import sys\nfor n in range(999): sys.stderr.write(f'{n} ' + 'x' * 9999 + '\\n')\nsys.exit(1)"
    )
    with pytest.raises(TrainingFailedError) as caught:
        await run(process=noisy)
    assert len(caught.value.lines) <= 40
    assert all(len(line) <= 500 for line in caught.value.lines)
    assert caught.value.lines[-1].startswith("998 ")
    quiet = script(tmp_path, "import sys\nsys.exit(1)")
    with pytest.raises(TrainingFailedError) as caught:
        await run(process=quiet)
    assert caught.value.lines == ()


async def test_job_code_sees_nothing_of_the_agents_environment(run, tmp_path, monkeypatch):
    monkeypatch.setenv("FEDHE_PASSPHRASE", "secret")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    printing = script(tmp_path, "import os, sys\nsys.stderr.write(repr(dict(os.environ)))\nsys.exit(1)")
    with pytest.raises(TrainingFailedError) as caught:
        await run(process=printing)
    assert "secret" not in " ".join(caught.value.lines)
    assert str(tmp_path / "work") in " ".join(caught.value.lines)


async def test_cancelling_ends_the_whole_process_group(run, tmp_path):
    family = script(
        tmp_path,
        "import subprocess, sys, time, os\nfrom pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"Path({str(tmp_path / 'pids')!r}).write_text(f'{{os.getpid()}} {{child.pid}}')\ntime.sleep(600)",
    )
    task = asyncio.create_task(run(process=family))
    await asyncio.to_thread(
        wait_until, lambda: (tmp_path / "pids").exists() and len((tmp_path / "pids").read_text().split()) == 2
    )
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, pids))
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    await asyncio.to_thread(wait_until, lambda: not any(map(alive, pids)))


async def test_children_that_outlive_the_process_do_not_hold_the_agent(run, tmp_path):
    leaving = script(
        tmp_path,
        "import subprocess, sys, json\nfrom pathlib import Path\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "out = Path(json.loads(Path(sys.argv[1]).read_text())['output'])\n"
        f"Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        '(out / \'result.json\').write_text(\'{"samples": 0, "seconds": 1, "layout": []}\')',
    )
    assert (await run(process=leaving)).seconds == 1
    wait_until(lambda: not alive(int((tmp_path / "pid").read_text())))


async def test_a_process_that_runs_too_long_is_ended(run, tmp_path):
    with pytest.raises(TrainingError, match="max_training_hours"):
        await run("train", SLEEP=str(tmp_path / "pid"), model=tmp_path, policy=SitePolicy(max_training_hours=1 / 3600))
    assert not alive(int((tmp_path / "pid").read_text()))


def test_a_killed_agent_takes_its_training_process_along(tmp_path):
    trained = f"import os, time; open({str(tmp_path / 'pid')!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    program = (
        "import os, subprocess, sys, time\n"
        f"command = [sys.executable, '-m', 'fedhe.client.leash', str(os.getpid()), sys.executable, '-c', {trained!r}]\n"
        "subprocess.Popen(command, start_new_session=True)\n"
        "time.sleep(600)"
    )
    agent = subprocess.Popen([sys.executable, "-c", program])
    try:
        wait_until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text())
        pid = int((tmp_path / "pid").read_text())
        assert alive(pid)
        os.kill(agent.pid, signal.SIGKILL)
        wait_until(lambda: not alive(pid))
    finally:
        agent.kill()
        agent.wait()


def test_what_an_earlier_agent_left_running_is_ended_but_never_a_stranger(tmp_path):
    from fedhe.client.trainer import _start_time

    leftover = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        (tmp_path / "pid").write_text(f"{leftover.pid} {_start_time(leftover.pid)}")
        end_leftover(tmp_path)
        assert leftover.wait(20) == -signal.SIGKILL
        (tmp_path / "pid").write_text(f"{stranger.pid} 1")
        end_leftover(tmp_path)
        assert stranger.poll() is None
        end_leftover(tmp_path)  # nothing recorded
    finally:
        leftover.kill()
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize(
    ("gpus", "visible", "passed"), [("none", "", ()), ([2, 5], "2,5", (0, 1)), ("auto", "7", None)]
)
def test_the_policy_decides_which_gpus_are_seen(tmp_path, gpus, visible, passed):
    policy = SitePolicy(gpus=gpus)
    assert bare_environment({"CUDA_VISIBLE_DEVICES": "7"}, policy, tmp_path)["CUDA_VISIBLE_DEVICES"] == visible
    assert visible_gpus(policy) == passed


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_whatever_job_code_prints_is_progress_or_nothing(line):
    parse_progress(line)


@given(st.dictionaries(st.sampled_from(["fraction", "epoch", "epochs", "loss"]), st.floats() | st.text() | st.none()))
def test_numbers_of_progress_are_kept_in_range(fields):
    import json

    progress = parse_progress(json.dumps({"event": "progress", "activity": "training", **fields}).encode())
    assert progress is None or 0.0 <= progress.fraction <= 1.0
