"""`drover webhook`: secrets are shown once, and what is shown tells an operator where messages may go."""

import pytest

from drover.settings import settings
from tests import factories
from tests.cli.support import document, drover


@pytest.fixture(autouse=True)
def key(database: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a control node."""
    monkeypatch.setenv("DROVER_WEBHOOK_KEY", factories.WEBHOOK_KEY)
    settings.cache_clear()


def test_a_receiver_is_listed_and_its_secret_is_shown_only_then() -> None:
    made = document("webhook", "allow", "hooks.invalid", "--within", "10.0.0.0/8", "--within", "fd00::/8")
    secret = made.pop("secret")
    assert secret.startswith("whsec_")
    assert made == {"name": "hooks.invalid", "within": ["10.0.0.0/8", "fd00::/8"], "addresses": []}
    again = drover("webhook", "allow", "hooks.invalid")
    assert (again.exit_code, again.stdout) == (
        0,
        "hooks.invalid was listed before and keeps its secret; it may be at public addresses\n",
    )
    assert "hooks.invalid has no address here now" in again.stderr
    shown = drover("webhook", "list").output + drover("webhook", "list", "--json").output
    assert "hooks.invalid" in shown
    assert secret not in shown + again.output
    assert "whsec" not in shown + again.output


def test_a_network_is_listed_in_words_that_say_what_that_means() -> None:
    said = drover("webhook", "allow", "10.0.0.0/8").stdout
    assert "messages may go to 10.0.0.0/8; that is, to every host there\n" in said
    assert "its secret, shown only now: whsec_" in said
    [row] = document("webhook", "list")["receivers"]
    assert (row["name"], row["within"], row["former_until"]) == ("10.0.0.0/8", ["10.0.0.0/8"], None)
    assert row["allowed_at"] <= row["secret_since"]


def test_a_rotation_shows_new_secrets_and_until_when_the_old_ones_are_in_use() -> None:
    old = [document("webhook", "allow", network)["secret"] for network in ("10.0.0.0/8", "192.168.1.1")]
    made = document("webhook", "rotate", "10.0.0.0/8", "192.168.1.1", "--overlap", "2h")["receivers"]
    assert [row["name"] for row in made] == ["10.0.0.0/8", "192.168.1.1/32"]
    assert not {row["secret"] for row in made} & set(old)
    assert all(row["former_until"] > row["secret_since"] for row in document("webhook", "list")["receivers"])
    said = drover("webhook", "rotate", "192.168.1.1").stdout
    assert "the new secret of 192.168.1.1/32, shown only now: whsec_" in said
    assert "messages are signed with the former secret as well for 24h\n" in said


def test_one_that_is_not_listed_is_neither_rotated_nor_removed_and_nothing_changes() -> None:
    drover("webhook", "allow", "10.0.0.0/8")
    before = document("webhook", "list")
    for words in (("rotate", "10.0.0.0/8", "hooks.invalid"), ("remove", "hooks.invalid")):
        refused = drover("webhook", *words)
        assert refused.exit_code == 2
        assert refused.stderr == "error: the receiver hooks.invalid is not listed: see `drover webhook list`\n"
    assert document("webhook", "list") == before
    assert drover("webhook", "remove", "10.0.0.0/8").stdout == "no message goes to 10.0.0.0/8 any more\n"
    assert document("webhook", "list") == {"receivers": []}
    assert "no webhook is sent anywhere" in drover("webhook", "list").stderr


def test_a_submission_to_a_receiver_that_is_not_listed_is_refused_with_what_to_do() -> None:
    refused = drover("drain", "hv1", "--webhook", "https://user:hunter2@hooks.invalid/token")
    assert refused.exit_code == 2
    assert refused.stderr == (
        "error: no message may be sent to hooks.invalid: an operator allows it with "
        "`drover webhook allow hooks.invalid`\n"
    )


def test_without_a_key_here_it_says_where_to_run_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DROVER_WEBHOOK_KEY")
    settings.cache_clear()
    refused = drover("webhook", "allow", "10.0.0.0/8")
    assert refused.exit_code == 2
    assert "DROVER_WEBHOOK_KEY is not set here: run this on a control node with its environment" in refused.stderr
