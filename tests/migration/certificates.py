# SPDX-License-Identifier: MIT
"""Certificates of an authority that lives for one test run."""

from pathlib import Path

import trustme

from vfioemu.migration.tls import TlsFiles


class Authority:
    """An authority, and the files of those whom it has given a certificate.

    Args:
        base: where the files are written.
    """

    def __init__(self, base: Path) -> None:
        self._base = base
        self._authority = trustme.CA(key_type=trustme.KeyType.ECDSA)
        self.path = base / "ca.pem"
        self._authority.cert_pem.write_to_path(self.path)

    def files(self, *names: str, name: str | None = None) -> TlsFiles:
        """Give out a certificate for `names`; `name`: whom its holder expects."""
        made = self._authority.issue_cert(*names, key_type=trustme.KeyType.ECDSA)
        cert, key = (self._base / f"{names[0]}.{end}".replace(":", "_") for end in ("pem", "key"))
        made.cert_chain_pems[0].write_to_path(cert)
        made.private_key_pem.write_to_path(key)
        return TlsFiles(str(cert), str(key), str(self.path), name)
