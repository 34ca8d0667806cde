"""What `make bench` is going to run, how turns come together, and what the page says of them."""

import json
import re

import bench
import bench_charts
import bench_page
import bench_report
import engines
import nvflare_rounds
import pytest
import seal_parts

from fedhe.config.project import Project
from fedhe.he.keys import SecretKey
from fedhe.he.params import DEFAULT_PARAMS

MICRO = {
    "encrypt_ns": 80.0,
    "decrypt_ns": 40.0,
    "sum_ns_per_site": 30.0,
    "check_ns_per_site": 3.0,
    "expand_ns_per_seed": 1.5,
    "bytes_up": 2.5,
    "bytes_down": 5.0,
}


@pytest.fixture
def report(entry):
    made = bench_report.empty_report(1_790_000_000.0)
    made["micro"] = {"seal": MICRO}
    made["seal_parts"] = {
        "encrypt": {"total_ns": 80.0, "binding_ns": 20.0, "rest_ns": 60.0},
        "decrypt": {"total_ns": 40.0, "binding_ns": 30.0, "rest_ns": 10.0},
    }
    made["nvflare"] |= {
        name: 10 * value for name, value in MICRO.items() if name not in {"check_ns_per_site", "expand_ns_per_seed"}
    }
    for one in (
        entry("seal", 2.0),
        entry("plain", 1.0),
        entry("seal", 3.0, sites=10),
        entry("nvflare-he-mended", 6.5),
        entry("seal", 40.0, parameters=100_000_000, client_peak_rss=900_000_000),
        entry("plain", 20.0, parameters=100_000_000, client_peak_rss=700_000_000),
    ):
        bench_report.add_run(made, one)
    return made


def test_the_engines_are_those_that_a_project_file_may_name():
    names = engines.engine_names()
    assert "seal" in names
    key = SecretKey.generate(DEFAULT_PARAMS)
    for name in names:
        assert engines.make_engine(name, DEFAULT_PARAMS, key).key_id == key.key_id
    assert Project.model_fields["engine"].default in names


def test_contenders_take_turns_at_each_size():
    settings = bench.Settings(
        parameters=(1_200_000, 5_700_000), sites=(3, 10), contenders=("seal", "plain"), rounds=4, turns=2
    )
    runs = list(bench.plan(settings))
    assert [(run.contender, run.parameters, run.sites) for run in runs] == [
        (contender, parameters, sites)
        for parameters, sites in ((1_200_000, 3), (5_700_000, 3), (1_200_000, 10))
        for contender in ("seal", "plain", "seal", "plain")
    ]
    assert {run.rounds for run in runs} == {4}


def test_nvflare_has_no_turn_where_it_does_not_fit():
    settings = bench.Settings(contenders=bench.PEERS, turns=1)
    assert [(run.contender, run.parameters) for run in bench.plan(settings)] == [
        ("nvflare-he", 1_200_000),
        ("nvflare-he-mended", 1_200_000),
        ("nvflare-plain", 1_200_000),
        ("nvflare-he", 5_700_000),
        ("nvflare-he-mended", 5_700_000),
        ("nvflare-plain", 5_700_000),
        ("nvflare-plain", 25_000_000),
    ]


def test_turns_come_together_as_medians_and_largest_peaks(entry):
    report = bench_report.empty_report(0.0)
    bench_report.add_run(report, entry("seal", 3.0, rounds_seconds=[3.0, 5.0], server_peak_rss=7))
    bench_report.add_run(report, entry("seal", 1.0, rounds_seconds=[1.0], cpu_seconds=4.0, server_peak_rss=9))
    bench_report.add_run(report, entry("seal", 9.0, parameters=5))
    merged = bench_report.find(report, "seal", 1_200_000, 3)
    assert merged["seconds"] == 3.0
    assert merged["cpu_seconds"] == 3.0
    assert merged["server_peak_rss"] == 9
    assert len(merged["turns"]) == 2
    assert len(report["rounds"]) == 2


def test_the_report_has_the_documented_keys(report):
    assert set(report) >= {"machine", "micro", "nvflare", "rounds", "plain"}
    needed = {"engine", "parameters", "sites", "seconds", "bytes_up", "bytes_down"}
    needed |= {"server_peak_rss", "client_peak_rss", "cpu_seconds"}
    for section in (report["rounds"], report["plain"], report["nvflare"]["rounds"]):
        assert section
        assert all(needed <= set(one) for one in section)
    assert json.loads(json.dumps(report)) == report


def test_targets_say_what_was_reached_and_what_was_not(report):
    found = {target.what: target.value(report, "seal") for target in bench_report.TARGETS}
    assert found["bytes up + down per value"] == 7.5
    assert found["encrypt + serialise against NVFlare's way"] == 10.0
    assert found["client's peak memory above plain, 100 M"] == 200.0
    assert found["encrypted round / plain round, 25 M"] is None
    page = bench_page.page(report)
    assert "| encrypt + serialise against NVFlare's way | at least 8 x | 10.0 x |" in page
    assert "| server per value and site | at most 25 ns | 30.0 ns (missed) |" in page
    assert "| encrypted round / plain round, 25 M | at most 4 x | not measured |" in page


def test_the_page_has_a_row_for_each_contender_and_names_no_computer(report):
    page = bench_page.page(report)
    assert "| 1.2 M | seal | 2.00 | 2.00 x |" in page
    assert "| 1.2 M | NVFlare HE, mended | 6.50 | 6.50 x |" in page
    assert "## More sites, 1.2 M parameters" in page
    assert "on 2026-09-21" in page
    assert not re.search(r"/(home|tmp|work|root)/", page)


def test_the_page_says_what_binds(report, entry):
    page = bench_page.page(report)
    assert "25% of encrypting and 75% of decrypting is the way of bytes in and out" in page
    assert "Rounds of the fast engine" not in page
    report["micro"]["fast"] = MICRO
    for engine, client in (("fast", 1.5), ("plain", 1.25)):
        bench_report.add_run(report, entry(engine, 4.0, parameters=25_000_000, client_cpu_seconds=client))
    page = bench_page.page(report)
    assert "a client takes 1.5 s of CPU in a round, 3.00 s of it to encrypt and decrypt; the plain round's" in page
    assert "takes 1.2 s" in page


def test_the_parts_of_seals_steps_make_up_the_whole():
    for parts in seal_parts.measure(turns=1).values():
        assert 0 < parts["binding_ns"] < parts["total_ns"]
        assert parts["rest_ns"] == parts["total_ns"] - parts["binding_ns"]


def test_what_failed_is_told(report):
    report["failures"].append({"engine": "nvflare-he", "parameters": 25_000_000, "sites": 3, "message": "?"})
    assert "- NVFlare HE, 25 M parameters, 3 sites" in bench_page.page(report)


def test_the_charts_are_the_same_bytes_for_the_same_report(report, tmp_path):
    for folder in ("one", "two"):
        bench_charts.draw(report, tmp_path / folder)
    for name in bench_charts.CHARTS:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_nvflares_rounds_are_found_in_its_log():
    log = (
        "2026-01-02 10:00:00,000 - FedAvg - INFO - \n   Round 0 started.\n"
        "2026-01-02 10:00:02,500 - ScatterAndGather - INFO - Round 1 started.\n"
    )
    first, second = nvflare_rounds.round_starts(log)
    assert second - first == 2.5
