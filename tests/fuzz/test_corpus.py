"""Every input that the fuzzer kept, and valid inputs damaged in every usual way, break no claim of any reader."""

import contextlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from targets import MODULES, SEEDS, TARGETS, hold

each_target = pytest.mark.parametrize("name", TARGETS)


@st.composite
def damaged(draw, seeds):
    """A valid input cut, with bits flipped, bytes put in another order, a part repeated, or a length made huge."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(0, len(data)))
        end = draw(st.integers(begin, len(data)))
        match draw(st.sampled_from(["cut", "flip", "reorder", "repeat", "length"])):
            case "cut":
                del data[begin:end]
            case "flip" if begin < len(data):
                data[begin] ^= 1 << draw(st.integers(0, 7))
            case "reorder":
                data[begin:end] = data[begin:end][::-1]
            case "repeat":
                data[end:end] = data[begin:end] * draw(st.integers(1, 20))
            case "length":
                form = draw(st.sampled_from(["<H", ">H", "<I", ">I"]))
                data[begin : begin + 4] = struct.pack(form, 2 ** (8 * struct.calcsize(form)) - 1)
    return bytes(data)


def test_every_target_has_seeds_and_a_corpus(corpus):
    assert set(SEEDS) == set(TARGETS) == {name for name, files in corpus.items() if files}


@each_target
def test_the_seeds_are_valid(monkeypatch, name):
    """So that the fuzzer begins behind every check, and the claims are not about refusals alone."""
    for module in MODULES:
        monkeypatch.setattr(module, "refusing", lambda *_: contextlib.nullcontext(), raising=False)
    for data in SEEDS[name]:
        TARGETS[name].read(data)


@each_target
def test_what_the_fuzzer_kept_breaks_no_claim(corpus, measured, name):
    for data in SEEDS[name]:  # what is made once and kept is not an input's to answer for
        TARGETS[name].read(data)
    for file in corpus[name]:
        hold(TARGETS[name], file.read_bytes())


@each_target
def test_damaged_input_breaks_no_claim(name):
    @settings(max_examples=40)
    @given(damaged(SEEDS[name]))
    def try_each(data):
        TARGETS[name].read(data)

    try_each()


@each_target
def test_oversized_input_breaks_no_claim(measured, name):
    for data in SEEDS[name]:
        TARGETS[name].read(data)
    for data in SEEDS[name]:
        for tail in (bytes(300_000), data * (50_000 // len(data))):
            hold(TARGETS[name], data + tail)
