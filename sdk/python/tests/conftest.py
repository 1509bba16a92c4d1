"""What all tests have in common: tests that are coroutines run in an event loop of their own, with a deadline."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING

import grpc
import pytest
import trustme

if TYPE_CHECKING:
    from pathlib import Path

# The longest a test may take, seconds.
DEADLINE = 60.0


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Runs a test that is a coroutine."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in inspect.signature(pyfuncitem.obj).parameters}
    asyncio.run(asyncio.wait_for(pyfuncitem.obj(**arguments), DEADLINE))
    return True


@pytest.fixture(autouse=True)
def _surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hides the fleets and credentials of whoever runs the tests."""
    for variable in ("ENDPOINT", "TRUST", "CERTIFICATE", "PRIVATE_KEY", "TOKEN_FILE", "WORKER_ADDRESS", "SUBMITTER"):
        monkeypatch.delenv(f"ROBEING_{variable}", raising=False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)


class Authority:
    """A certificate authority of a fleet."""

    def __init__(self) -> None:
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)

    def server(self, *, needs_certificate: bool = True) -> grpc.ServerCredentials:
        """Returns the credentials of a coordinator."""
        issued = self._authority.issue_cert("localhost", key_type=trustme.KeyType.ECDSA)
        pair = (issued.private_key_pem.bytes(), b"".join(blob.bytes() for blob in issued.cert_chain_pems))
        trust = self._authority.cert_pem.bytes()
        return grpc.ssl_server_credentials([pair], root_certificates=trust, require_client_auth=needs_certificate)

    def client(self, folder: Path) -> tuple[Path, Path, Path]:
        """Writes the files of a client: whom it trusts, its certificate and its key."""
        issued = self._authority.issue_cert("client@fleet", key_type=trustme.KeyType.ECDSA)
        trust, certificate, key = folder / "trust.crt", folder / "me.crt", folder / "me.key"
        self._authority.cert_pem.write_to_path(str(trust))
        issued.cert_chain_pems[0].write_to_path(str(certificate))
        issued.private_key_pem.write_to_path(str(key))
        return trust, certificate, key

    def another(self, folder: Path) -> Path:
        """Writes the certificate of another fleet's authority."""
        file = folder / "other.crt"
        trustme.CA().cert_pem.write_to_path(str(file))
        return file


@pytest.fixture(scope="session")
def authority() -> Authority:
    """Returns the authority of the fleets in a test."""
    return Authority()
