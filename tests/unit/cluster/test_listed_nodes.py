"""How settings spell nodes."""

from __future__ import annotations

import pytest

from common.errors import SettingsError
from master.cluster.listed_nodes import ListedNode, parse_node, parse_weights


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ("http://pc2:8001", ListedNode("http://pc2:8001")),
        ("pc2=http://pc2:8001", ListedNode("http://pc2:8001", "pc2")),
        ("pc2=http://pc2:8001#k=1@home", ListedNode("http://pc2:8001", "pc2", "k=1@home")),
        ("pc2=https://pc2:8001#k@sha256:ab", ListedNode("https://pc2:8001", "pc2", "k", "ab")),
        ("https://pc2:8001#@sha256:ab", ListedNode("https://pc2:8001", None, None, "ab")),
        ("http://pc2:8001/a=b", ListedNode("http://pc2:8001/a=b")),
    ],
    ids=["url", "named", "with key", "with fingerprint", "fingerprint alone", "an = in the path"],
)
def test_a_node_is_spelled_with_name_key_and_fingerprint(entry: str, expected: ListedNode) -> None:
    assert parse_node(entry) == expected


def test_a_weight_is_a_number_in_reason() -> None:
    assert parse_weights(["pc2=2", "pc3 = 0.5"]) == {"pc2": 2.0, "pc3": 0.5}
    for wrong in ("pc2", "pc2=0", "pc2=much"):
        with pytest.raises(SettingsError):
            parse_weights([wrong])
