"""Swagger's page, without the internet: its files come from a package."""

from __future__ import annotations

import pytest

pytest.importorskip("fastapi")
pytest.importorskip("httpx")
pytest.importorskip("fastapi_offline", reason="the extra serve")

from samba_asr.serve import access, pages


def test_its_files_come_from_the_package(start):
    client = start(tokens=("secret",))
    page = client.get("/docs/try")
    assert page.headers["content-security-policy"] == access.POLICY
    for name in ("swagger-ui.css", "swagger-ui-bundle.js"):
        assert f'"{name}"' in page.text
        assert len(client.get(f"/docs/{name}").content) > 100_000
    assert "/docs/try" in client.get("/docs", headers={"Authorization": "Bearer secret"}).text


def test_without_the_package_there_is_no_such_page(monkeypatch):
    assert "/docs/try" in pages.swagger()
    monkeypatch.setattr(pages, "find_spec", lambda name: None)
    assert pages.swagger() == {}
