"""Every bound can be set from outside, and none to nonsense."""

from __future__ import annotations

import argparse
import math

import pytest

from samba_asr.commands import serve
from samba_asr.errors import UserError
from samba_asr.serve.settings import Settings, bounds, from_outside


def test_every_bound_is_an_option_and_a_variable():
    parser = argparse.ArgumentParser()
    serve.add_parser(parser.add_subparsers())
    for one in bounds():
        value = one.default * 2
        option = f"--{one.name.replace('_', '-')}"
        args = parser.parse_args(["serve", option, f"{value}"])
        assert from_outside(vars(args), {}) == {one.name: value}
        args = parser.parse_args(["serve"])
        assert from_outside(vars(args), {f"SAMBA_ASR_{one.name.upper()}": f"{value}"}) == {one.name: value}
        assert getattr(Settings(**{one.name: value}), one.name) == value
    assert {one.name for one in bounds()} >= {"max_sessions", "max_connections", "idle_seconds", "max_upload_bytes"}


def test_an_option_goes_before_the_environment():
    environment = {"SAMBA_ASR_MAX_SESSIONS": "3", "SAMBA_ASR_MAX_UPLOADS": "4"}
    assert from_outside({"max_sessions": 2, "max_uploads": None}, environment) == {"max_sessions": 2, "max_uploads": 4}


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_nonsense_is_refused(value):
    for one in bounds():
        with pytest.raises(UserError, match=f"{one.name}=.*a positive number"):
            Settings(**{one.name: value})


def test_a_variable_that_is_no_number():
    with pytest.raises(UserError, match="SAMBA_ASR_MAX_SESSIONS=many: not a number"):
        from_outside({}, {"SAMBA_ASR_MAX_SESSIONS": "many"})


def test_the_help_names_whole_defaults():
    parser = argparse.ArgumentParser()
    text = " ".join(serve.add_parser(parser.add_subparsers()).format_help().split())
    assert "(default: 268435456)" in text
    assert "(default: 14400)" in text
