"""The demo's command and the programs that it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import run_demo
from demo_programs import DemoError, Programs

WAIT = ("python", "-c", "import time; print('up', flush=True); time.sleep(60)")


@pytest.fixture
def programs(tmp_path):
    with Programs(tmp_path, {"FEDHE_DEMO_TEST": "yes"}) as programs:
        yield programs


def test_a_background_program_runs_until_the_block_ends_and_then_is_gone(tmp_path):
    with Programs(tmp_path) as programs:
        program = programs.start("waiter", *WAIT)
        programs.wait_for("the waiter", lambda: b"up" in program.log.read_bytes(), 30)
        pid = program.process.pid
        assert psutil.pid_exists(pid)
    assert not psutil.pid_exists(pid)


def test_programs_end_when_the_demo_fails(tmp_path):
    started = []

    def failing():
        with Programs(tmp_path) as programs:
            started.append(programs.start("waiter", *WAIT).process.pid)
            raise DemoError("something")

    with pytest.raises(DemoError):
        failing()
    assert not psutil.pid_exists(started[0])


def test_a_program_that_ended_is_told_with_its_last_lines(programs, capsys):
    programs.start("broken", "python", "-c", "print('why it broke'); raise SystemExit(3)")
    with pytest.raises(DemoError, match="broken ended with exit code 3"):
        programs.wait_for("never", lambda: False, 30)
    assert "why it broke" in capsys.readouterr().err


def test_waiting_in_vain_ends(programs):
    with pytest.raises(DemoError, match="waited 0 s for the moon"):
        programs.wait_for("the moon", lambda: False, 0)


def test_a_failing_command_is_one_line(programs):
    with pytest.raises(DemoError, match="exit code 2: error: this went wrong"):
        programs.run("python", "-c", "import sys; print('error: this went wrong', file=sys.stderr); sys.exit(2)")
    assert programs.ask("python", "-c", "raise SystemExit(1)") is None


def test_commands_get_the_environment_and_give_their_output(programs, capsys):
    said = programs.run("python", "-c", "import os; print(os.environ['FEDHE_DEMO_TEST'])", environment={"A": "b"})
    assert said == "yes\n"
    assert capsys.readouterr().out.startswith("$ python -c ")


def test_a_command_that_is_not_installed_is_named(programs):
    with pytest.raises(DemoError, match="expected the command fedhe-nothing beside"):
        programs.run("fedhe-nothing")


def test_a_watch_that_takes_too_long_is_ended(programs):
    with pytest.raises(DemoError, match="has not ended after 0 s"):
        programs.watch(*WAIT, seconds=0)


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path, capsys, monkeypatch):
    (tmp_path / "thesis.tex").write_text("years of work")
    monkeypatch.setattr(sys, "argv", ["run_demo.py", "--out", str(tmp_path)])
    assert run_demo.main() == 1
    assert "choose another --out" in capsys.readouterr().err
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_data_in_another_layout_is_one_line(tmp_path, capsys, monkeypatch):
    arguments = ["run_demo.py", "--job", "hippocampus", "--data", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments)
    assert run_demo.main() == 1
    assert "expected a folder in the Decathlon's layout" in capsys.readouterr().err


def test_another_number_of_rounds_changes_a_copy_of_the_job(examples, tmp_path):
    from demo_jobs import DemoJob

    job = DemoJob(examples / "brain_tissue", {}, {}, 0, None, "")
    folder, federation = run_demo._job_folder(job, 2, tmp_path)
    assert federation.rounds == 2
    assert folder.name == "brain_tissue"
    assert run_demo._job_folder(job, None, tmp_path)[0] == examples / "brain_tissue"


@pytest.mark.slow
def test_the_whole_demo_on_real_mri(examples, tmp_path):
    """Three hospitals, a server and an admin as real processes over TLS; two rounds of brain tissue."""
    out = tmp_path / "demo"
    done = subprocess.run(
        [sys.executable, examples / "run_demo.py", "--rounds", "2", "--out", out],
        capture_output=True, text=True, check=False, timeout=280, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    report = json.loads((out / "report.json").read_text())
    assert report["exact"] is True
    assert len(set(report["fingerprints"].values())) == 1
    assert report["final_metric"] > report["baseline_metric"] + 0.1
    assert report["bytes_per_value"]["up"] <= 2.75
    assert report["bytes_per_value"]["down"] <= 5.5
    for picture in ("curves.png", "segmentation.png"):
        assert (out / picture).read_bytes().startswith(b"\x89PNG")
    homes = str(out)
    assert not [p.pid for p in psutil.process_iter(["cmdline"]) if homes in " ".join(p.info["cmdline"] or [])]
    assert not list(Path(out).rglob("passphrases.json"))
