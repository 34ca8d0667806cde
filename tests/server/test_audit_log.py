"""The audit log shows every change of its history, and survives a cut line."""

import json
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.trust import audit_log

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


def fill(path, lines=5):
    for number in range(lines):
        audit_log.append(path, "happened", {"number": number}, 1000.0 + number)


@given(fields=st.lists(st.dictionaries(st.text(max_size=8), JSON_VALUES, max_size=4), min_size=1, max_size=6))
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_was_appended_is_read_back_and_verifies(tmp_path, fields):
    path = tmp_path / "audit.log"
    path.unlink(missing_ok=True)
    for number, one in enumerate(fields):
        audit_log.append(path, "kind", one, float(number))
    head = audit_log.verify(path)
    assert head == audit_log.head(path)
    assert head.lines == len(fields)
    assert [line["fields"] for line in audit_log.read(path)] == fields


def test_an_empty_or_missing_log_has_the_genesis_head(tmp_path):
    assert audit_log.verify(tmp_path / "none").digest == audit_log.GENESIS
    (tmp_path / "empty").touch()
    assert audit_log.verify(tmp_path / "empty") == audit_log.head(tmp_path / "empty")


@pytest.mark.parametrize("line", range(4))
def test_a_changed_line_shows_at_the_line_after_it(tmp_path, line):
    path = tmp_path / "audit.log"
    fill(path)
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace(f'"number":{line}', '"number":99')
    path.write_text("".join(lines))
    with pytest.raises(TrustError, match=rf"audit.log:{line + 2}: .*altered"):
        audit_log.verify(path)


def test_dropped_and_swapped_lines_show(tmp_path):
    path = tmp_path / "audit.log"
    fill(path)
    lines = path.read_text().splitlines(keepends=True)
    for changed in (lines[:2] + lines[3:], [lines[0], lines[2], lines[1], *lines[3:]], lines[1:]):
        path.write_text("".join(changed))
        with pytest.raises(TrustError):
            audit_log.verify(path)


@given(position=st.integers(0, 10**6), bit=st.integers(0, 7))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_flipped_bit_before_the_last_line_is_refused(tmp_path, position, bit):
    path = tmp_path / "audit.log"
    path.unlink(missing_ok=True)
    fill(path, 4)
    data = bytearray(path.read_bytes())
    last = bytes(data).rstrip(b"\n").rindex(b"\n")
    data[position % last] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(TrustError):
        audit_log.verify(path)


def test_a_line_that_a_crash_cut_is_removed_and_the_next_line_says_so(tmp_path):
    path = tmp_path / "audit.log"
    fill(path, 3)
    whole = path.read_bytes()
    for cut in (whole[:-1], whole[:-10], whole + b'{"n":3,"ti'):
        path.write_bytes(cut)
        torn = audit_log.verify(path).torn_bytes
        assert torn > 0
        assert audit_log.append(path, "after", {}, 2000.0).last["torn_bytes_removed"] == torn
        assert audit_log.verify(path).torn_bytes == 0


def test_a_file_that_is_no_audit_log_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "audit.log"
    path.write_text("something else\n")
    with pytest.raises(TrustError, match="audit log"):
        audit_log.append(path, "kind", {}, 1.0)
    assert path.read_text() == "something else\n"


def test_several_processes_append_to_one_chain(tmp_path):
    path = tmp_path / "audit.log"
    code = (
        "import sys, pathlib; from fedhe.trust import audit_log\n"
        "for n in range(20): audit_log.append(pathlib.Path(sys.argv[1]), 'x', {'n': n}, 1.0)"
    )
    started = [subprocess.Popen([sys.executable, "-c", code, str(path)]) for _ in range(3)]
    assert [process.wait() for process in started] == [0, 0, 0]
    assert audit_log.verify(path).lines == 60


def test_a_line_over_the_limit_is_refused_before_anything_is_written(tmp_path):
    path = tmp_path / "audit.log"
    with pytest.raises(ValueError, match="at most"):
        audit_log.append(path, "kind", {"text": "x" * audit_log.MAX_LINE_BYTES}, 1.0)
    assert audit_log.head(path).lines == 0


def test_a_full_disk_leaves_the_log_as_it_was(tmp_path):
    path = tmp_path / "audit.log"
    fill(path, 2)
    before = path.read_bytes()
    code = (
        "import resource, sys, pathlib; from fedhe.trust import audit_log; from fedhe.errors import ResourceError\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({len(before) + 50}, {len(before) + 50}))\n"
        "try: audit_log.append(pathlib.Path(sys.argv[1]), 'x', {'n': 'y' * 100}, 1.0)\n"
        "except ResourceError as error: print(error.message)"
    )
    shown = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True).stdout
    assert "cannot write the audit log" in shown
    assert path.read_bytes() == before


def test_lines_are_canonical_json_with_private_mode(tmp_path):
    path = tmp_path / "audit.log"
    fill(path, 1)
    line = path.read_text().rstrip("\n")
    assert json.dumps(json.loads(line), sort_keys=True, separators=(",", ":")) == line
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_log_that_extends_noted_heads_verifies_with_them(tmp_path):
    path = tmp_path / "audit.log"
    heads = [(0, audit_log.GENESIS)]
    for _ in range(4):
        fill(path, 2)
        heads.append((audit_log.head(path).lines, audit_log.head(path).digest))
    assert audit_log.verify(path, heads) == audit_log.head(path)


def test_a_log_that_was_written_anew_shows_against_a_noted_head(tmp_path):
    path = tmp_path / "audit.log"
    fill(path, 5)
    noted = audit_log.head(path)
    path.unlink()
    fill(path, 4)
    audit_log.append(path, "happened", {"number": "another"}, 1004.0)
    fill(path, 3)
    audit_log.verify(path)  # in itself it is whole
    with pytest.raises(TrustError, match=r"expected line 5 with hash .*, found .*: the log was written anew"):
        audit_log.verify(path, [(noted.lines, noted.digest)])


@pytest.mark.parametrize("left", [None, 0, 3])
def test_a_log_that_was_cut_shows_against_a_noted_head(tmp_path, left):
    path = tmp_path / "audit.log"
    fill(path, 5)
    noted = audit_log.head(path)
    if left is None:
        path.unlink()
    else:
        path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:left]))
    audit_log.verify(path)
    with pytest.raises(TrustError, match=f"expected at least 5 lines, as was noted, found {left or 0}: lines were cut"):
        audit_log.verify(path, [(noted.lines, noted.digest)])
