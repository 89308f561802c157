"""The keyring: the clients, Alipay's public keys by client and version, and where calls go, read once from a file."""

import base64
import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from urllib.parse import SplitResult, urlsplit

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes, PublicKeyTypes

from app.toml_file import TomlFileError, read_toml

DEFAULT_FLOW = "auto_debit"
FLOWS = (DEFAULT_FLOW, "direct")

#: The size of the keys that Alipay issues, and the smallest that NIST SP 800-131A still allows for signatures.
KEY_BITS_MIN = 2048

_CLIENT_SETTINGS = ("default_flow", "merchant_private_key", "alipay_public_keys", "gateway", "exchange", "refresh")
#: A client id travels in a header, where anything but visible ASCII arrives as something else.
_VISIBLE = re.compile(r"[!-~]+")
_KEY_VERSION = re.compile(r"0|[1-9][0-9]{0,8}")
#: A name in ASCII, or an IPv6 address, which urlsplit has checked and taken out of its brackets.
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL}){{0,126}}|[0-9a-f.]*:[0-9a-f:.]*")
_PEM = re.compile(r"-----BEGIN [A-Z0-9 ]+-----(?P<base64>[^-]*)-----END [A-Z0-9 ]+-----")
_FILE_PREFIX = "file:"
#: Every name of ours is shorter; a longer one may be a key pasted on the wrong side of the equals sign.
_SHOWN_NAME_CHARACTERS_MAX = 64

_COPY_ALIPAYS_KEY = "copy the Antom public key that Antom Dashboard shows under Developer > Key configuration"


class UnknownClientError(LookupError):
    """A client id that is not in the keyring."""

    def __init__(self, client_id: str) -> None:
        super().__init__(f"There is no client {client_id!r} in the keyring.")
        self.client_id = client_id


class KeyNotFoundError(LookupError):
    """A client has no Alipay public key of the version that was asked for."""

    def __init__(self, client_id: str, version: int) -> None:
        super().__init__(f"Client {client_id!r} has no Alipay public key of version {version} in the keyring.")
        self.client_id = client_id
        self.version = version


class KeyringError(Exception):
    """The keyring or a key cannot be used: one sentence with where it is, the problem and the remedy, never the key."""

    def __init__(self, where: str, problem: str, remedy: str) -> None:
        super().__init__(f"{where} {problem}; {remedy}.")
        self.where = where
        self.problem = problem
        self.remedy = remedy


@dataclass(frozen=True, slots=True)
class Gateway:
    """Where Alipay takes the calls of a client, and which of them the service makes by itself."""

    #: Scheme, host and port, without a slash at its end.
    url: str
    #: Whether a code is exchanged as soon as it is known.
    exchange: bool = True
    #: Whether a token is refreshed in time.
    refresh: bool = True


# Compared by identity: a client is one entry of one keyring, and the mapping of its keys has no hash.
@dataclass(frozen=True, slots=True, eq=False)
class Client:
    """A client id of the merchant's, the keys Alipay signs with for it, and the merchant's own key if it is known."""

    client_id: str
    default_flow: str
    #: By version. Where two keys were given out under one version, either may have signed.
    alipay_public_keys: Mapping[int, tuple[RSAPublicKey, ...]]
    merchant_private_key: RSAPrivateKey | None = None
    #: None where the merchant makes its calls itself. With a gateway there is a private key.
    gateway: Gateway | None = None

    def keys_of_version(self, version: int | None) -> tuple[RSAPublicKey, ...]:
        """Return the keys of a version, or of the newest for None: at least one, and nearly always just one.

        An old key stays valid until it is taken out of the file: when Alipay stops signing with it is not documented.
        Raises `KeyNotFoundError`.
        """
        if version is None:
            version = max(self.alipay_public_keys)
        try:
            return self.alipay_public_keys[version]
        except KeyError:
            raise KeyNotFoundError(self.client_id, version) from None


@dataclass(frozen=True, slots=True)
class Keyring:
    """All clients, by client id."""

    clients: Mapping[str, Client]

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read keyring.toml and every key file it names, now and never again.

        A mistake must show when the service starts, not in the answer to a delivery. Raises `KeyringError`.
        """
        document = _read_toml(path)
        _refuse_unknown_settings(f"{path}", document, ("clients",))
        tables = document.get("clients")
        if not isinstance(tables, dict) or not tables:
            raise KeyringError(
                str(path), "names no client", "add a table [clients.ID] for the client ID that Antom Dashboard shows"
            )
        return cls(
            MappingProxyType({client_id: _client(path, client_id, table) for client_id, table in tables.items()})
        )

    def client(self, client_id: str) -> Client:
        """Return the client of this id. Raises `UnknownClientError`."""
        try:
            return self.clients[client_id]
        except KeyError:
            raise UnknownClientError(client_id) from None


def load_public_key(text: str | bytes, *, where: str = "The public key") -> RSAPublicKey:
    """Read an RSA public key from base64 DER or PEM, SubjectPublicKeyInfo or PKCS#1.

    `where` begins the sentence of the `KeyringError` this raises.
    """
    key = _rsa_key(text, where)
    if isinstance(key, RSAPrivateKey):
        raise KeyringError(where, "is a private key where a public one belongs", _COPY_ALIPAYS_KEY)
    return key


def load_private_key(text: str | bytes, *, where: str = "The private key") -> RSAPrivateKey:
    """Read an unencrypted RSA private key from base64 DER or PEM, PKCS#8 or PKCS#1.

    `where` begins the sentence of the `KeyringError` this raises.
    """
    key = _rsa_key(text, where)
    if isinstance(key, RSAPublicKey):
        raise KeyringError(
            where,
            "is a public key where a private one belongs",
            "paste the merchant's private key, which Antom Dashboard shows once, when it generates the keys",
        )
    return key


def fingerprint(public_key: RSAPublicKey) -> str:
    """Return "SHA256:" and the unpadded base64 SHA-256 of the SubjectPublicKeyInfo, to compare keys by eye.

    `openssl rsa -pubin -outform der | openssl sha256 -binary | base64` prints the same, padded.
    """
    spki = public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return "SHA256:" + base64.b64encode(hashlib.sha256(spki).digest()).decode("ascii").rstrip("=")


def _read_toml(path: Path) -> dict[str, Any]:
    if_missing = "create it, point FLASK_KEYRING at the one you have, or make a sandbox's with: flask simulator keys"
    if_no_toml = "mend that place; a key stands in quotes, and PEM in triple quotes"
    try:
        return read_toml(path, if_missing=if_missing, if_no_toml=if_no_toml)
    except TomlFileError as error:
        raise KeyringError(str(path), error.problem, error.remedy) from None


def _refuse_unknown_settings(where: str, table: Mapping[str, object], known: tuple[str, ...]) -> None:
    for name in table:
        if name not in known:
            problem = f"has an unknown setting {_shown(name)}"
            raise KeyringError(where, problem, f"correct its name or take it out (known here: {', '.join(known)})")


def _client(path: Path, client_id: str, table: object) -> Client:
    where = f"{path}: client {_shown(client_id)}"
    if not _VISIBLE.fullmatch(client_id):
        raise KeyringError(where, "has an id that no header can carry", "write it as Antom Dashboard shows it")
    if not isinstance(table, dict):
        raise KeyringError(where, "is not a table", f"write [clients.{_shown(client_id)}] and its settings below")
    _refuse_unknown_settings(where, table, _CLIENT_SETTINGS)
    default_flow = table.get("default_flow", DEFAULT_FLOW)
    if default_flow not in FLOWS:
        raise KeyringError(where, "has a default_flow that does not exist", f"write {' or '.join(FLOWS)}")
    private_key = None
    if "merchant_private_key" in table:
        key_where = f"{path}: merchant_private_key of client {_shown(client_id)}"
        private_key = load_private_key(_key_text(path, table["merchant_private_key"], key_where), where=key_where)
    public_keys = {}
    for version, value in _versions(table, where):
        key_where = f"{path}: Alipay public key {version} of client {_shown(client_id)}"
        public_keys[version] = _public_keys(path, value, key_where, private_key)
    gateway = _gateway(path, client_id, table, private_key)
    return Client(client_id, default_flow, MappingProxyType(public_keys), private_key, gateway)


def _gateway(path: Path, client_id: str, table: Mapping[str, Any], private_key: RSAPrivateKey | None) -> Gateway | None:
    switches = {}
    for name in ("exchange", "refresh"):
        where = f"{path}: {name} of client {_shown(client_id)}"
        if name in table and "gateway" not in table:
            raise KeyringError(
                where, "is set without a gateway, so no call is made", f"add gateway, or take {name} out"
            )
        switches[name] = table.get(name, True)
        if not isinstance(switches[name], bool):
            raise KeyringError(where, "is neither true nor false", "write one of them, without quotes")
    if "gateway" not in table:
        return None
    where = f"{path}: gateway of client {_shown(client_id)}"
    url = _gateway_url(table["gateway"], where)
    if private_key is None:
        remedy = "add the merchant's private key, or take gateway out"
        raise KeyringError(where, "is set without merchant_private_key, with which calls are signed", remedy)
    return Gateway(url, **switches)


def _gateway_url(value: object, where: str) -> str:
    """Check the URL, and return it in one form. It is never quoted: a password may be in it."""
    form = 'write it as gateway = "https://open-sea-global.alipay.com", with the host of your contract'
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value.strip()):
        raise KeyringError(where, "is no text, or one with a blank or a character that is not ASCII", form)
    try:
        url = urlsplit(value.strip())
        port = url.port
    except ValueError:
        raise KeyringError(where, "cannot be read", form) from None
    host = url.hostname or ""
    if url.scheme not in {"https", "http"}:
        raise KeyringError(where, "does not begin with https://", form)
    if "@" in url.netloc:
        remedy = "take it out: Alipay knows by the signature who calls"
        raise KeyringError(where, "has a user name or a password before its @", remedy)
    if not _HOST.fullmatch(host):
        raise KeyringError(where, "names no host", form)
    if port == 0 or url.netloc.endswith(":"):
        raise KeyringError(where, "has a port that does not exist", "write one from 1 to 65535, or none")
    if url.path not in {"", "/"} or set("?#") & set(value):
        remedy = "write scheme and host only: the paths of the calls are Alipay's"
        raise KeyringError(where, "goes on behind its host", remedy)
    if url.scheme == "http" and not _is_loopback(host):
        remedy = "write https://; http:// is for a pretend gateway on this machine"
        raise KeyringError(where, "is not encrypted, and codes and tokens would be read on the way", remedy)
    return _in_one_form(url, host, port)


def _in_one_form(url: SplitResult, host: str, port: int | None) -> str:
    host = f"[{host}]" if ":" in host else host
    return f"{url.scheme}://{host}" if port is None else f"{url.scheme}://{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def _public_keys(path: Path, value: object, where: str, private_key: RSAPrivateKey | None) -> tuple[RSAPublicKey, ...]:
    """Read the key of one version, or each of a list."""
    if not isinstance(value, list):
        return (_public_key(path, value, where, private_key),)
    if not value:
        raise KeyringError(where, "is an empty list", f"{_COPY_ALIPAYS_KEY}, or take the version out")
    count = len(value)
    return tuple(
        _public_key(path, each, f"{where} ({number} of {count})", private_key)
        for number, each in enumerate(value, start=1)
    )


def _public_key(path: Path, value: object, where: str, private_key: RSAPrivateKey | None) -> RSAPublicKey:
    key = load_public_key(_key_text(path, value, where), where=where)
    if private_key is not None and key == private_key.public_key():
        # The most reported mistake of all: every genuine notification would be refused.
        problem = "is the merchant's own public key, the other half of merchant_private_key, not Alipay's"
        raise KeyringError(where, problem, _COPY_ALIPAYS_KEY)
    return key


def _versions(table: Mapping[str, Any], where: str) -> list[tuple[int, object]]:
    keys = table.get("alipay_public_keys")
    if not isinstance(keys, dict) or not keys:
        problem = "has no table alipay_public_keys, so nothing sent to it could be verified"
        raise KeyringError(where, problem, f'{_COPY_ALIPAYS_KEY} into a table alipay_public_keys, as 1 = "…"')
    for version in keys:
        if not _KEY_VERSION.fullmatch(version):
            problem = f"has an Alipay public key under {_shown(version)}, which is no version"
            raise KeyringError(where, problem, "number the keys 1, 2, 3 as keyVersion does")
    return [(int(version), value) for version, value in keys.items()]


def _key_text(path: Path, value: object, where: str) -> str | bytes:
    """Return the text of a key, or of the file that "file:NAME" names, beside the keyring."""
    if not isinstance(value, str) or not value.strip():
        raise KeyringError(where, "is not a text", f'write the key in quotes, or "{_FILE_PREFIX}NAME.pem"')
    value = value.strip()
    if not value.startswith(_FILE_PREFIX):
        return value
    key_path = path.parent / value.removeprefix(_FILE_PREFIX)
    try:
        return key_path.read_bytes()
    except FileNotFoundError:
        problem, remedy = f"is in a file that does not exist, {key_path}", "put it there, or name the file it is in"
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "no file has such a name"
        problem, remedy = (
            f"is in {key_path}, which cannot be read ({reason})",
            "name a file the service's user may read",
        )
    raise KeyringError(where, problem, remedy)


def _rsa_key(text: str | bytes, where: str) -> RSAPublicKey | RSAPrivateKey:
    key = _key_in(_der(text, where), where)
    if not isinstance(key, RSAPublicKey | RSAPrivateKey):
        raise KeyringError(where, "is not an RSA key", "use an RSA key: Alipay's algorithm is RSA256")
    if key.key_size < KEY_BITS_MIN:
        problem = f"has {key.key_size} bits, fewer than {KEY_BITS_MIN}, and could be forged"
        raise KeyringError(where, problem, f"generate keys of {KEY_BITS_MIN} bits in Antom Dashboard and use those")
    return key


def _der(text: str | bytes, where: str) -> bytes:
    try:
        text = text.decode() if isinstance(text, bytes) else text
        if "\\n" in text:
            # As JSON, an environment variable or 'quotes' of TOML hand a PEM over.
            problem = r"has \n written out in the place of its line ends"
            remedy = r'put a line end for each \n, between """ and """, or take "file:NAME.pem"'
            raise KeyringError(where, problem, remedy)
        pem = _PEM.search(text)
        # A byte order mark here too, and base64 is often wrapped.
        wrapped = pem["base64"] if pem else text.removeprefix("\ufeff")
        return base64.b64decode("".join(wrapped.split()), validate=True)
    except ValueError:
        problem = "is neither base64 of DER nor PEM"
        raise KeyringError(where, problem, "paste it whole, as Antom Dashboard shows it, and unencrypted") from None


def _key_in(der: bytes, where: str) -> PublicKeyTypes | PrivateKeyTypes:
    try:
        return serialization.load_der_public_key(der)
    except (ValueError, UnsupportedAlgorithm):
        pass
    try:
        return serialization.load_der_private_key(der, password=None)
    except TypeError:
        problem, remedy = "is encrypted with a passphrase", "decrypt it with openssl pkey, and guard the file instead"
    except (ValueError, UnsupportedAlgorithm):
        problem, remedy = "holds no key, or not the whole of it", "paste it whole, as Antom Dashboard shows it"
        if _is_certificate(der):
            problem, remedy = "is a certificate", "take its key out with openssl x509 -pubkey -noout"
    raise KeyringError(where, problem, remedy)


def _is_certificate(der: bytes) -> bool:
    try:
        x509.load_der_x509_certificate(der)
    except ValueError:
        return False
    return True


def _shown(name: str) -> str:
    """Return a name fit for a sentence: a key pasted where a name belongs is not shown."""
    if len(name) > _SHOWN_NAME_CHARACTERS_MAX:
        return f"({len(name)} characters)"
    return name if _VISIBLE.fullmatch(name) else ascii(name)
