"""Requests that are wrong before or beside their body, in the contract's order of refusals."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import httpx
import pytest
import redis

from sidecar.control import serve
from sidecar.errors import SchemaMismatch
from sidecar.kinds import Secret
from sidecar.settings import Settings
from tests.integration.control_client import control_listener, error_of, refused

GRANT = {"id": "g1", "amount": 5, "category": "paid"}
MIB = 1_048_576


@pytest.fixture
def stranger(control: httpx.Client) -> Iterator[httpx.Client]:
    """A client without the token."""
    with httpx.Client(base_url=control.base_url, trust_env=False) as client:
        yield client


@pytest.mark.usefixtures("nothing_changes")
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer wrong",
        "Basic admin-token-of-the-test",
        "admin-token-of-the-test",
        "Bearer admin-token-of-the-test2",
        "Bearer \xe4",
    ],
)
def test_without_the_token_nothing_is_answered(stranger: httpx.Client, header: str | None) -> None:
    headers = [] if header is None else [(b"Authorization", header.encode("latin-1"))]
    for method, path in (
        ("GET", "/v1/accounts"),
        ("PUT", "/v1/accounts/acme"),
        ("POST", "/v1/accounts/acme/grants"),
        ("GET", "/v1/stripe/events"),
        ("POST", "/v1/stripe/events/evt_1/replay"),
    ):
        response = stranger.request(method, path, headers=headers, content=b"{")
        refused(response, 401, "unauthorized")
        assert response.headers["WWW-Authenticate"] == "Bearer"


def test_probes_need_no_token(stranger: httpx.Client) -> None:
    for path in ("/healthz", "/readyz", "/metrics", "/metrics?x=1"):
        assert stranger.get(path).status_code == 200
        assert stranger.head(path).status_code == 200
    assert "credits_control_requests_total" in stranger.get("/metrics").text


@pytest.mark.usefixtures("nothing_changes")
def test_unknown_paths_come_before_the_token(control: httpx.Client) -> None:
    for path in (
        "/",
        "/v1",
        "/v1/accounts/",
        "/v1/accounts/acme/",
        "/v1/accounts/acme/limits",
        "/v1/accounts/acme/checkout",
        "/v1/prices",
        "/v1/accounts/a/b/c",
        "/v1/accounts/a%2Fb",
        "/%00",
        "/%ff",
    ):
        refused(control.get(path, headers={"Authorization": "no"}), 404, "not_found")


@pytest.mark.usefixtures("nothing_changes")
def test_other_methods_name_those_that_are_allowed(control: httpx.Client) -> None:
    for method, path, allowed in (
        ("DELETE", "/v1/accounts/acme", {"GET", "PUT", "HEAD"}),
        ("POST", "/v1/accounts", {"GET", "HEAD"}),
        ("PUT", "/v1/accounts/acme/grants", {"GET", "POST", "HEAD"}),
        ("GET", "/v1/accounts/acme/adjustments", {"POST"}),
        ("GET", "/stripe/webhook", {"POST"}),
        ("PURGE", "/v1/accounts", {"GET", "HEAD"}),
    ):
        response = control.request(method, path, headers={"Authorization": "no"})
        refused(response, 405, "method_not_allowed")
        assert set(response.headers["Allow"].split(", ")) == allowed


@pytest.mark.usefixtures("nothing_changes")
def test_wrong_names_in_the_path_are_refused(control: httpx.Client) -> None:
    for name in ("a%20b", "%C3%A4", "x" * 129, "a%0A", "a%00", "%FF", "a*b"):
        refused(control.get(f"/v1/accounts/{name}"), 422, "invalid_request", "account")
        refused(control.put(f"/v1/accounts/{name}", json={}), 422, "invalid_request", "account")
    for id in ("%20", "%C3%A4", "x" * 129):
        path = f"/v1/accounts/acme/explain/{id}"
        refused(control.get(path), 422, "invalid_request", "id")


@pytest.mark.usefixtures("nothing_changes")
def test_wrong_query_parameters_are_refused(control: httpx.Client) -> None:
    usage = "/v1/accounts/acme/usage"
    for query, param in (
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=-1", "limit"),
        ("limit=1.0", "limit"),
        ("limit=%C2%B2", "limit"),
        ("limit=", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=WzFd", "cursor"),
        ("since_ms=x", "since_ms"),
        ("until_ms=-1", "until_ms"),
        ("until_ms=9007199254740992", "until_ms"),
        ("scope=u1", "scope"),
        ("scope=pod:u1", "scope"),
        ("scope=user:", "scope"),
        ("scope=user:%00", "scope"),
        ("model=a%20b", "model"),
        ("page=2", "page"),
    ):
        refused(control.get(f"{usage}?{query}"), 422, "invalid_request", param)
    for path in ("/v1/accounts/acme?x=1", "/v1/accounts?since_ms=1"):
        refused(control.get(path), 422, "invalid_request")
    refused(control.put("/v1/accounts/acme?x=1", json={}), 422, "invalid_request", "x")
    refused(control.get("/v1/accounts/acme/transfers?model=x"), 422, "invalid_request", "model")


@pytest.mark.usefixtures("nothing_changes")
def test_the_first_refusal_that_applies_is_given(control: httpx.Client) -> None:
    nobody = "/v1/accounts/nobody/grants"
    wrong_type = {"Content-Type": "text/plain"}
    no_token = {"Authorization": "Bearer no"}
    big = b"x" * (MIB + 1)
    refused(control.post("/nope", content=big, headers=no_token), 404, "not_found")
    refused(control.delete(nobody, headers=no_token), 405, "method_not_allowed")
    refused(control.post(nobody, content=b"{", headers=no_token), 401, "unauthorized")
    refused(control.post(nobody, content=big, headers=wrong_type), 413, "body_too_large")
    refused(control.post(nobody, content=b"{", headers=wrong_type), 415, "unsupported_media_type")
    refused(control.post(f"{nobody}?x=1", content=b'{"id": 1} x'), 400, "invalid_json")
    refused(control.post(nobody, json={"id": "g"}), 422, "invalid_request")
    refused(control.post(nobody, json=GRANT), 404, "account_not_found")


def test_a_ledger_that_is_away_is_a_503_and_wrong_input_still_a_422(
    redis_client: redis.Redis, redis_url: str
) -> None:
    nowhere = "postgresql://nobody@127.0.0.1:9/none?connect_timeout=1"
    with control_listener(nowhere, redis_url) as control:
        assert control.get("/healthz").status_code == 200
        for response in (
            control.get("/v1/accounts"),
            control.get("/v1/accounts/acme"),
            control.put("/v1/accounts/acme", json={}),
            control.post("/v1/accounts/acme/grants", json=GRANT),
            control.get("/v1/stripe/events"),
        ):
            refused(response, 503, "store_unavailable")
            assert error_of(response)["type"] == "server_error"
            assert int(response.headers["Retry-After"]) >= 1
        refused(control.put("/v1/accounts/a b", json={}), 422, "invalid_request", "account")
        refused(control.get("/v1/accounts?cursor=x&limit=0"), 422, "invalid_request", "limit")
        ready = control.get("/readyz")
        assert ready.status_code == 503
        assert int(ready.headers["Retry-After"]) >= 1


def test_a_ledger_without_this_programs_schema_is_not_ready(
    empty_postgres_url: str, redis_url: str
) -> None:
    with control_listener(empty_postgres_url, redis_url) as control:
        ready = control.get("/readyz")
    assert ready.status_code == 503
    assert "schema" in ready.json()["reason"]
    settings = Settings(postgres_url=empty_postgres_url, admin_token=Secret("x"))
    with pytest.raises(SchemaMismatch, match="credit-sidecar migrate"):
        serve.run(settings)


def test_half_a_request_keeps_nobody_waiting(control: httpx.Client) -> None:
    address = (control.base_url.host, control.base_url.port or 0)
    stalled = [socket.create_connection(address) for _ in range(24)]
    try:
        for number, connection in enumerate(stalled):
            connection.sendall(b"PUT /v1/accounts/acme HTTP/1.1\r\nHost: x\r\n"[: 10 + number])
        head = "PUT /v1/accounts/acme HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n"
        token = f"Authorization: {control.headers['Authorization']}\r\n\r\n{{"
        for _ in range(24):
            connection = socket.create_connection(address)
            connection.sendall((head + token).encode())
            stalled.append(connection)
        assert control.get("/v1/accounts/acme").json()["name"] == "Acme"
    finally:
        for connection in stalled:
            connection.close()
    assert control.get("/v1/accounts/acme").status_code == 200
