"""`fedhe-admin jobs`: from a folder to a signed archive on the server, and what happens to it there."""

import pytest

from fedhe.config.job_archive import pack_job


def test_a_job_is_packed_signed_and_sent(fedhe_admin, script, job_folder):
    code, out, err = fedhe_admin("jobs", "submit", job_folder)
    assert (code, err) == (0, "")
    (job,) = script.jobs.values()
    assert job.submitted_by == "lead"
    assert job.phase == "submitted"
    assert job.job_id in out
    assert script.archives[job.job_id].digest.hex() in out
    assert f"fedhe-admin jobs start {job.job_id}" in out


def test_submit_may_start_the_job_at_once(as_json, script, job_folder):
    reply = as_json("jobs", "submit", job_folder, "--start")
    job = script.jobs[reply["job_id"]]
    assert job.phase == "seeding"
    assert reply["started"] is True
    assert reply["archive_digest"] == script.archives[job.job_id].digest.hex()


def test_check_shows_what_would_be_sent_without_a_server_or_kit(as_json, job_folder, tmp_path):
    reply = as_json("jobs", "check", job_folder, name=None, home=tmp_path / "nothing")
    assert reply["rounds"] == 2
    assert reply["archive_bytes"] == len(pack_job(job_folder))
    assert "config/config_fed.yml" in reply["files"]


def test_check_for_people_lists_files_and_the_hash(fedhe_admin, as_json, job_folder):
    code, out, _ = fedhe_admin("jobs", "check", job_folder)
    assert code == 0
    assert "config/config_train.json" in out
    assert as_json("jobs", "check", job_folder)["archive_digest"] in out


@pytest.mark.parametrize("command", ["submit", "check"])
def test_a_mistake_in_the_job_is_found_before_it_is_sent(fedhe_admin, script, job_folder, command):
    (job_folder / "config" / "config_fed.yml").write_text("rounds: 2\nmin_site: 2\n")
    code, _, err = fedhe_admin("jobs", command, job_folder)
    assert code == 2
    assert err.count("\n") == 1
    assert "config_fed.yml:2" in err
    assert "did you mean 'min_sites'?" in err
    assert script.calls == []


@pytest.mark.parametrize("command", ["submit", "check"])
def test_a_mistake_in_the_training_configuration_is_found_before_three_sites_approve_it(
    fedhe_admin, script, job_folder, command
):
    path = job_folder / "config" / "config_train.json"
    path.write_text(path.read_text().replace('"optimizer"', '"optimzer"'))
    code, _, err = fedhe_admin("jobs", command, job_folder)
    assert code == 2
    assert err.count("\n") == 1
    assert "config_train.json:" in err
    assert "unknown key 'train.optimzer'; did you mean 'optimizer'?" in err
    path.unlink()
    code, _, err = fedhe_admin("jobs", command, job_folder)
    assert code == 2
    assert err.count("\n") == 1
    assert "config_train.json: No such file" in err
    assert script.calls == []


def test_a_folder_that_is_not_there_is_one_line(fedhe_admin, script, tmp_path):
    code, _, err = fedhe_admin("jobs", "submit", tmp_path / "nowhere")
    assert code == 2
    assert err.count("\n") == 1
    assert "nowhere" in err


def test_an_observer_cannot_submit(fedhe_admin, script, job_folder):
    code, _, err = fedhe_admin("jobs", "submit", job_folder, name="watcher")
    assert code == 3
    assert err.count("\n") == 1
    assert script.jobs == {}


def test_the_list_for_people_and_programs(fedhe_admin, as_json, trained):
    code, out, _ = fedhe_admin("jobs", "list")
    assert code == 0
    assert trained.job_id in out
    assert "2/2" in out
    (job,) = as_json("jobs", "list")
    assert (job["name"], job["phase"], job["model_version"]) == ("tiny", "finished", 2)
    assert job["ended_at"] is None


def test_an_empty_list_is_json_too(as_json, fedhe_admin, script):
    assert as_json("jobs", "list") == []
    assert fedhe_admin("jobs", "list")[1] == "jobs: none\n"


def test_show_has_sites_and_checkpoints(fedhe_admin, as_json, trained):
    code, out, _ = fedhe_admin("jobs", "show", "tiny")
    assert code == 0
    for words in ["epoch 1 of 2", "50 %", "0, 2", "hospitalB", "ab" * 32]:
        assert words in out
    detail = as_json("jobs", "show", "tiny")
    assert detail["checkpoints"] == [0, 2]
    assert detail["sites"][0]["detail"] == "epoch 1 of 2"


@pytest.mark.parametrize("text", ["a1b2c3d4", "a1b2", "tiny"])
def test_a_job_is_found_by_id_by_its_beginning_and_by_name(as_json, trained, text):
    assert as_json("jobs", "show", text)["job_id"] == trained.job_id


def test_a_job_that_does_not_exist_gives_the_nearest(fedhe_admin, trained):
    code, _, err = fedhe_admin("jobs", "show", "tniy")
    assert code == 6
    assert err.count("\n") == 1
    assert "did you mean 'tiny'?" in err


def test_without_any_job_the_error_says_how_to_submit_one(fedhe_admin, script):
    code, _, err = fedhe_admin("jobs", "start", "tiny")
    assert code == 6
    assert "jobs submit" in err


def test_a_name_that_two_jobs_have_is_not_guessed(fedhe_admin, script, job_folder):
    for _ in range(2):
        assert fedhe_admin("jobs", "submit", job_folder)[0] == 0
    code, _, err = fedhe_admin("jobs", "delete", "tiny", "--yes")
    assert code == 2
    assert err.count("\n") == 1
    assert all(job_id in err for job_id in script.jobs)
    assert len(script.jobs) == 2


def test_a_job_is_started_once(fedhe_admin, script, job_folder):
    fedhe_admin("jobs", "submit", job_folder)
    code, out, _ = fedhe_admin("jobs", "start", "tiny")
    assert code == 0
    assert "rounds watch" in out
    code, _, err = fedhe_admin("jobs", "start", "tiny")
    assert code == 6
    assert "expected phase submitted, got seeding" in err


def test_abort_hands_on_the_reason(fedhe_admin, script, trained):
    code, out, _ = fedhe_admin("jobs", "abort", "tiny", "--reason", "wrong rate", "--yes")
    assert (code, out) == (0, f"job {trained.job_id} is aborted\n")
    assert script.jobs[trained.job_id].message == "wrong rate"


@pytest.mark.parametrize("command", ["abort", "delete"])
def test_what_cannot_be_undone_asks_first(fedhe_admin, script, trained, command):
    code, _, err = fedhe_admin("jobs", command, "tiny")
    assert code == 2
    assert "--yes" in err
    assert script.jobs[trained.job_id].phase == "finished"


@pytest.mark.parametrize("answer", ["n", ""])
def test_no_is_no_and_so_is_no_answer(fedhe_admin, script, trained, types, answer):
    types(answer)
    code, _, err = fedhe_admin("jobs", "abort", "tiny")
    assert code == 130
    assert "Traceback" not in err
    assert script.jobs[trained.job_id].phase == "finished"


def test_yes_is_yes(fedhe_admin, script, trained, types):
    types("y")
    assert fedhe_admin("jobs", "abort", "tiny")[0] == 0
    assert script.jobs[trained.job_id].phase == "aborted"


def test_delete_removes_the_job(fedhe_admin, script, trained):
    assert fedhe_admin("jobs", "delete", "tiny", "-y")[0] == 0
    assert script.jobs == {}
