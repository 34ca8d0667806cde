"""The context of a roster: a fixed value for fixed bodies, and another one for anything else."""

import hashlib

from hypothesis import given
from hypothesis import strategies as st

from fedhe.rounds.context import CONTEXT_BYTES, context_of

bodies = st.lists(st.binary(max_size=8), max_size=4)


def test_the_context_is_what_the_wire_definition_says():
    expected = hashlib.sha256(b"fedhe/v1/context\0\0\0\0\x01a\0\0\0\x02bc").digest()
    assert context_of([b"a", b"bc"]) == expected
    assert expected.hex() == "435840d0270db7e6335732781191954b40e609820ac7465005a3b115911f67e3"


@given(bodies, bodies)
def test_other_bodies_or_another_cut_between_them_give_another_context(first, second):
    assert len(context_of(first)) == CONTEXT_BYTES
    assert (context_of(first) == context_of(second)) == (first == second)


def test_order_and_cuts_count():
    assert len({context_of(case) for case in ([b"a", b"b"], [b"b", b"a"], [b"ab"], [b"ab", b""], [])}) == 5
