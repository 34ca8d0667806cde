"""Many sites against one real server, with and without a flood of bad requests: all end with the same model."""

import asyncio

import load
import pytest


def test_many_sites_in_one_process_finish_with_connections_of_their_own(tmp_path):
    done = asyncio.run(load.run(tmp_path, 12, 2))
    assert (done.sites, done.connections, len(done.rounds_seconds), done.errors) == (12, 12, 2, [])
    assert done.peak_rss_bytes > 50_000_000


def test_a_flood_of_bad_requests_leaves_honest_rounds_unharmed(tmp_path):
    done = asyncio.run(load.run(tmp_path, 4, 2, flood=True))
    assert (len(done.rounds_seconds), done.errors) == (2, [])
    assert done.peak_rss_bytes < 600_000_000


def test_the_report_has_the_figures_of_both_runs():
    few = load.Run(20, 300_000_000, 20, [1.0, 2.0, 9.0], [])
    many = load.Run(200, 318_000_000, 200, [3.0, 5.0, 4.0], ["12:00:00 error   x"])
    made = load.report(few, many)
    assert made["rss_per_site_bytes"] == 100_000
    assert (made["sites"], made["rounds"], made["round_seconds_median"], made["errors"]) == (200, 3, 4.0, 1)
    assert made["server_peak_rss_bytes"] == 318_000_000


@pytest.mark.parametrize("arguments", [["--sites", "5", "--few", "5"], ["--few", "1"]])
def test_fewer_sites_to_compare_with_are_asked_for(arguments, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["load.py", *arguments])
    with pytest.raises(SystemExit):
        load.main()
    assert "expected 2 <= few < sites" in capsys.readouterr().err
