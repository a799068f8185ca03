"""What is said about the line that `council worker token` prints."""

from __future__ import annotations

from master.cli.tokens import warnings


def test_a_line_that_other_pcs_cannot_use_is_not_printed_without_a_word() -> None:
    (told,) = warnings({"url": "https://127.0.0.1:8000", "other_urls": [], "loopback_only": False})
    assert "works here alone" in told
    assert "council worker token --url https://ADDRESS:8000" in told
    (told,) = warnings({"url": "http://127.0.0.1:8000", "other_urls": [], "loopback_only": True})
    assert "--host 0.0.0.0" in told


def test_the_other_addresses_of_a_pc_in_several_networks_are_named() -> None:
    (told,) = warnings({"url": "https://192.168.1.10:9000", "other_urls": ["https://10.8.0.6:9000"]})
    assert "https://10.8.0.6:9000" in told
    assert "--url https://ADDRESS:9000" in told


def test_nothing_is_said_where_there_is_one_address() -> None:
    assert warnings({"url": "https://192.168.1.10:8000", "other_urls": [], "loopback_only": False}) == []
