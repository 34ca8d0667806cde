"""A key comes back from its file unchanged or not at all, and shows itself to nobody."""

import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import TrustError
from fedhe.he.keys import KEY_FILE_BYTES, KEY_MAGIC, SecretKey
from fedhe.he.params import CkksParams, CkksParamsLiteral
from fedhe.trust.installation import HE_KEY_MAGIC


def test_the_file_brings_back_the_key(key, params):
    data = key.to_bytes()
    assert len(data) == KEY_FILE_BYTES
    again = SecretKey.from_bytes(data)
    assert again.key_id == key.key_id
    assert again.ring_id == params.ring_id
    assert np.array_equal(again.residues(), key.residues())
    assert again.to_bytes() == data


def test_the_secret_is_ternary_in_no_two_keys_the_same_and_has_its_own_id(key, params):
    other = SecretKey.generate(params)
    assert len(key.key_id) == 16
    assert other.key_id != key.key_id
    assert not np.array_equal(other.residues(), key.residues())


def test_text_forms_show_the_id_only(key):
    for text in (repr(key), str(key), f"{key}"):
        assert text == f"SecretKey(key_id={key.key_id.hex()})"
    assert not hasattr(key, "__dict__")


def test_a_key_cannot_be_pickled_and_not_be_changed(key):
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(key)
    with pytest.raises(ValueError, match="read-only"):
        key.residues()[0, 0] = 1


@settings(max_examples=40, deadline=None)
@given(bit=st.integers(0, KEY_FILE_BYTES * 8 - 1))
def test_any_flipped_bit_is_noticed(key, bit):
    data = bytearray(key.to_bytes())
    data[bit // 8] ^= 1 << (bit % 8)
    with pytest.raises(TrustError, match="HE secret key"):
        SecretKey.from_bytes(bytes(data))


@pytest.mark.parametrize("length", [0, 5, 16, 17, 40, KEY_FILE_BYTES - 1])
def test_a_truncated_file_is_refused(key, length):
    with pytest.raises(TrustError, match="HE secret key: expected"):
        SecretKey.from_bytes(key.to_bytes()[:length])


def test_a_longer_file_is_refused(key):
    with pytest.raises(TrustError, match=f"expected {KEY_FILE_BYTES} bytes, got {KEY_FILE_BYTES + 1}"):
        SecretKey.from_bytes(key.to_bytes() + b"\0")


def test_the_id_covers_the_ring(key):
    other = CkksParams.from_literal(CkksParamsLiteral(coeff_modulus_bits=(29, 29)))
    assert SecretKey(other.ring_id, key.residues()).key_id != key.key_id


def test_field_widths_do_not_change_the_key(key, params):
    assert params.with_precision(12, 16).ring_id == key.ring_id


def test_the_server_looks_for_keys_by_the_magic_that_they_have():
    assert KEY_MAGIC == HE_KEY_MAGIC
