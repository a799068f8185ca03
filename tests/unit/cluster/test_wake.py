"""Wake-on-LAN: the packet byte for byte, addresses as people write them, what a node tells of its card."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.errors import InvalidRequestError, NodeUnreachableError, SettingsError
from common.host import network_cards
from master.cluster.wake import check_mac, check_settings, learned_mac, magic_packet, parse_settings, wake

MAC = "0A:1B:2C:3D:4E:5F"


@pytest.fixture
def sleeper() -> Iterator[socket.socket]:
    """A socket where packets for a sleeping PC arrive."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))
        listening.settimeout(5)
        yield listening


def test_the_packet_is_six_bytes_of_255_and_sixteen_times_the_address() -> None:
    assert magic_packet(MAC) == bytes.fromhex("ff" * 6 + "0a1b2c3d4e5f" * 16)


@pytest.mark.parametrize("text", ["0a:1b:2c:3d:4e:5f", "0A-1B-2C-3D-4E-5F", "0a1b2c3d4e5f", f" {MAC} "])
def test_an_address_may_be_written_in_every_usual_way(text: str) -> None:
    assert check_mac(text) == MAC


@pytest.mark.parametrize(
    "text",
    ["", "pc2", "0A:1B:2C:3D:4E", f"{MAC}:00", "0A:1B-2C:3D:4E:5F", "0G:1B:2C:3D:4E:5F",
     "FF:FF:FF:FF:FF:FF", "00:00:00:00:00:00", "192.168.1.20"],
)  # fmt: skip
def test_what_is_no_address_of_one_card_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="AA:BB:CC:DD:EE:FF"):
        check_mac(text)


@given(st.text(max_size=30))
def test_no_text_breaks_the_check(text: str) -> None:
    with contextlib.suppress(InvalidRequestError):
        assert len(magic_packet(text)) == 102


async def test_the_packet_goes_where_the_setting_says(sleeper: socket.socket) -> None:
    await wake(MAC, f"127.0.0.1:{sleeper.getsockname()[1]}")
    assert sleeper.recvfrom(2048)[0] == magic_packet(MAC)


async def test_a_packet_that_can_be_sent_nowhere_is_said() -> None:
    with pytest.raises(NodeUnreachableError, match=r"nowhere\.invalid"):
        await wake(MAC, "nowhere.invalid")


@pytest.mark.parametrize("address", ["", "host:nine", "host:0", "host:65536", ":9", "::1"])
def test_a_wrong_address_for_packets_is_told_at_the_start(address: str) -> None:
    with pytest.raises(SettingsError, match="HOST:PORT"):
        check_settings([], address)


def test_settings_name_cards_by_node() -> None:
    assert parse_settings(["pc2=0a1b2c3d4e5f", "pc3=0A-1B-2C-3D-4E-60"]) == {
        "pc2": MAC,
        "pc3": "0A:1B:2C:3D:4E:60",
    }


@pytest.mark.parametrize("entry", ["pc2", "=0a1b2c3d4e5f", "pc2=nothing"])
def test_a_wrong_setting_is_named(entry: str) -> None:
    with pytest.raises(SettingsError, match="COUNCIL_WAKE"):
        parse_settings([entry])


async def test_a_node_is_known_by_the_card_that_it_is_reached_by() -> None:
    system = {
        "network": [
            {"address": "10.0.0.5", "mac": "02:00:00:00:00:01"},
            {"address": "192.168.1.20", "mac": "0a:1b:2c:3d:4e:5f"},
            {"address": "127.0.0.1", "mac": "02:00:00:00:00:02"},
        ]
    }
    assert await learned_mac("http://192.168.1.20:8001", system) == MAC
    assert await learned_mac("http://localhost:8001", system) == "02:00:00:00:00:02"
    assert await learned_mac("http://192.168.1.21:8001", system) is None
    assert await learned_mac("http://192.168.1.20:8001", {}) is None
    assert (
        await learned_mac("http://1.2.3.4:8001", {"network": [{"address": "1.2.3.4", "mac": "x"}, 7]}) is None
    )


def test_this_machine_tells_cards_that_have_an_address() -> None:
    for card in network_cards():
        assert check_mac(card["mac"])
        assert card["address"]
