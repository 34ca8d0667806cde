"""The kit: opens with its passphrase only, holds just what its role may have, and says what is wrong with it."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedhe.errors import NotFoundError, TrustError
from fedhe.provisioning import kit as kit_module
from fedhe.provisioning.kit import WrongPassphraseError, make_passphrase, open_kit, pack_kit, read_kit

PUBLIC = {name: name.encode() for name in ("kit.json", "ca.pem", "cert.pem", "key.pem", "roster.signed")}
PASSPHRASE = "open"
SECRET = {"he.key": b"he", "group.key": b"group"}


def pack(files=None, role="site", *, passphrase=PASSPHRASE):
    return pack_kit(files or PUBLIC | SECRET, passphrase, project="brain-mri", role=role, name="hospitalA")


@pytest.fixture(scope="module")
def packed():
    return pack()


@pytest.fixture
def written(tmp_path):
    def write(data):
        path = tmp_path / "hospitalA.kit"
        path.write_bytes(data)
        return path

    return write


def test_a_kit_opens_with_its_passphrase(packed, written):
    sealed = read_kit(written(packed))
    assert (sealed.label.project, sealed.label.role, sealed.label.name) == ("brain-mri", "site", "hospitalA")
    assert open_kit(sealed, " open\n") == PUBLIC | SECRET


def test_a_kit_shows_nothing_of_its_content(packed):
    for data in (b"group", b"key.pem", b"ca.pem"):
        assert data not in packed


def test_a_wrong_passphrase_is_said_so(packed, written):
    with pytest.raises(WrongPassphraseError, match="kit of hospitalA: does not open: wrong passphrase"):
        open_kit(read_kit(written(packed)), "opne")


def test_accents_open_the_kit_however_they_are_typed(written):
    composed, decomposed = "cl\u00e9", "cle\u0301"
    assert open_kit(read_kit(written(pack(passphrase=composed))), decomposed) == PUBLIC | SECRET


@pytest.mark.parametrize("length", [0, 5, 12, 15, 16, 60, 120, -1])
def test_a_truncated_kit_is_refused(packed, written, length):
    with pytest.raises(TrustError):
        open_kit(read_kit(written(packed[:length])), "open")


@settings(max_examples=25, deadline=None)
@given(position=st.integers(0, 2000), flip=st.integers(1, 255))
def test_a_kit_with_any_byte_changed_is_refused(packed, tmp_path_factory, position, flip):
    altered = bytearray(packed)
    altered[position % len(altered)] ^= flip
    path = tmp_path_factory.mktemp("altered") / "x.kit"
    path.write_bytes(altered)
    with pytest.raises(TrustError):
        open_kit(read_kit(path), "open")


@given(st.binary(max_size=200), st.booleans())
def test_any_other_file_is_refused_in_one_way(tmp_path_factory, data, magic):
    path = tmp_path_factory.mktemp("other") / "x.kit"
    path.write_bytes((b"FEDHE-KIT\0\0\x01" if magic else b"") + data)
    with pytest.raises(TrustError):
        read_kit(path)


def test_a_newer_kit_a_huge_file_and_no_file_are_told_apart(packed, written, tmp_path):
    with pytest.raises(TrustError, match="expected a kit of version 1") as caught:
        read_kit(written(packed[:11] + b"\x02" + packed[12:]))
    assert caught.value.hint == "update fedhe here"
    with pytest.raises(TrustError, match="expected at most"):
        read_kit(written(bytes(kit_module.MAX_KIT_BYTES + 1)))
    with pytest.raises(TrustError, match="another kind of file"):
        read_kit(written(b"PK\x03\x04"))
    with pytest.raises(NotFoundError, match="no such file"):
        read_kit(tmp_path / "nothing.kit")


@pytest.mark.parametrize(
    ("role", "files"),
    [
        ("server", PUBLIC | SECRET),
        ("server", PUBLIC | {"he.key": b""}),
        ("admin-observer", PUBLIC | SECRET),
        ("admin-lead", PUBLIC | {"group.key": b""}),
        ("site", PUBLIC),
        ("site", PUBLIC | SECRET | {"../policy.yml": b""}),
        ("site", {**SECRET, "cert.pem": b""}),
    ],
)
def test_no_kit_can_hold_what_its_role_may_not_have(role, files):
    with pytest.raises(ValueError, match=f"a kit of role {role} has the files"):
        pack(files, role)


def test_a_kit_that_says_too_much_is_refused_when_it_is_opened(written, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(kit_module, "_check_files", lambda *_: None)
        climbing = pack(PUBLIC | SECRET | {"../../.ssh/authorized_keys": b"x"})
        with_key = pack(PUBLIC | SECRET, role="server")
    for data in (climbing, with_key):
        with pytest.raises(TrustError, match="its content is not a kit's"):
            open_kit(read_kit(written(data)), "open")


def test_a_kit_of_very_many_files_is_refused_in_a_short_line(monkeypatch, written):
    with monkeypatch.context() as patch:
        patch.setattr(kit_module, "_check_files", lambda *_: None)
        data = pack({str(number): b"" for number in range(10_000)})
    with pytest.raises(TrustError, match="its content is not a kit's") as caught:
        open_kit(read_kit(written(data)), "open")
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("plaintext", [b'{"he.key": "c2VjcmV0", "x"}', b'{"he.key": 3}', b'{"he.key": "c2VjcmV0!"}'])
def test_a_kit_whose_content_cannot_be_read_does_not_show_it(monkeypatch, written, plaintext):
    with monkeypatch.context() as patch:
        patch.setattr(kit_module.json, "dumps", lambda _: plaintext.decode())
        data = pack()
    with pytest.raises(TrustError, match="its content is not file names and Base64") as caught:
        open_kit(read_kit(written(data)), "open")
    assert "he.key" not in caught.value.message
    assert "c2VjcmV0" not in caught.value.message


@pytest.mark.parametrize(
    "name", ["", "..", "../../etc", "a/b", "a\\u0000b", "a\\u001b[2Jb", "a\\nb", "a\\n", "x" * 101]
)
@pytest.mark.parametrize("field", ["project", "role", "name"])
def test_a_label_that_climbs_out_of_a_folder_or_steers_a_terminal_is_refused(written, field, name):
    said = {"project": "p", "role": "site", "name": "x", field: name}
    label = b'{"project":"%(project)s","role":"%(role)s","name":"%(name)s","scrypt_log2_cost":15}' % {
        key.encode(): value.encode() for key, value in said.items()
    }
    data = b"FEDHE-KIT\0\0\x01" + len(label).to_bytes(4, "big") + label + bytes(200)
    with pytest.raises(TrustError, match="cut or altered"):
        read_kit(written(data))


@pytest.mark.parametrize("cost", [1, 14, 18, 30])
def test_a_kit_cannot_ask_for_another_cost(written, monkeypatch, cost):
    monkeypatch.setattr(kit_module, "SCRYPT_LOG2_COST_RANGE", (0, 99))
    label = b'{"project":"p","role":"site","name":"x","scrypt_log2_cost":%d}' % cost
    data = b"FEDHE-KIT\0\0\x01" + len(label).to_bytes(4, "big") + label + bytes(200)
    with pytest.raises(TrustError, match="cut or altered"):
        read_kit(written(data))


def test_passphrases_are_long_legible_and_never_the_same():
    made = {make_passphrase() for _ in range(200)}
    assert len(made) == 200
    for passphrase in made:
        groups = passphrase.split("-")
        assert [len(group) for group in groups] == [4] * 5
        assert not set("".join(groups)) & set("il1o0")
