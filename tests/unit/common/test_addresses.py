"""Which of its addresses a machine tells others, with the cards of real PCs."""

from __future__ import annotations

import pytest

from common.addresses import CardAddress, lan_addresses, likeliest_first, own_addresses

LAN = CardAddress("eth0", "192.168.1.10")
LOOPBACK = [CardAddress("lo", "127.0.0.1"), CardAddress("lo", "::1")]
DOCKER = CardAddress("docker0", "172.17.0.1")


@pytest.mark.parametrize(
    "vpn",
    [
        CardAddress("tun0", "10.8.0.6", tunnel=True),
        CardAddress("wg0", "10.8.0.6"),
        CardAddress("utun4", "10.8.0.6", tunnel=True),
        CardAddress("tailscale0", "100.100.1.2", tunnel=True),
        CardAddress("Ethernet 3", "100.100.1.2"),
    ],
)
def test_a_vpn_that_takes_the_route_does_not_hide_the_lan(vpn: CardAddress) -> None:
    assert likeliest_first([vpn, *LOOPBACK, LAN], routed=vpn.address) == [LAN.address, vpn.address]


def test_a_switch_without_a_router_is_a_network() -> None:
    assert likeliest_first([*LOOPBACK, DOCKER, LAN], routed=None) == [LAN.address, DOCKER.address]
    assert likeliest_first([CardAddress("eth0", "169.254.7.7"), *LOOPBACK], routed=None) == ["169.254.7.7"]
    self_given = CardAddress("Ethernet", "169.254.7.7")  # Windows keeps one on cards without a lease
    wifi = CardAddress("Wi-Fi", "10.0.0.4")
    assert likeliest_first([self_given, wifi], routed=None) == ["10.0.0.4", "169.254.7.7"]


def test_of_two_networks_the_one_with_the_route_comes_first() -> None:
    wifi = CardAddress("wlan0", "10.0.0.4")
    assert likeliest_first([LAN, wifi], routed=wifi.address) == [wifi.address, LAN.address]
    assert likeliest_first([wifi, LAN], routed=LAN.address) == [LAN.address, wifi.address]


def test_who_has_nothing_but_itself_has_no_address_for_others() -> None:
    assert likeliest_first([*LOOPBACK, CardAddress("eth0", "fe80::1")], routed=None) == []


def test_ipv6_is_for_who_has_nothing_else() -> None:
    both = [CardAddress("eth0", "fd00::7"), CardAddress("eth0", "2001:db8::7"), LAN]
    assert likeliest_first(both, routed="2001:db8::7") == [LAN.address]
    assert likeliest_first(both[:1], routed=None) == ["fd00::7"]


def test_this_machine_tells_only_addresses_that_it_has() -> None:
    assert set(lan_addresses()) <= set(own_addresses())
