"""URLs that cannot be used as they are: with a secret, which would be stored or logged, or read as another place by Delta."""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, quote, unquote

from dnafeat.errors import UsageError

# Names of parameters that grant access: of presigned URLs (S3, Google, Azure, CloudFront) and of services with keys of their own.
_SECRET = re.compile(
    r"(^|[^a-z])(sig|signature|token|secret|password|passwd|pass|pwd|passphrase|key|apikey|auth|authorization|credentials?|"
    r"accesskey|accesskeyid|secretkey|securitytoken|sessiontoken|accesstoken|jwt|sas|session|sessionid|policy)$"
)
_ENDS = re.compile(r"(signature|token|secret|password|apikey|accesskey|accesskeyid|credential)$")
# Where a name before the host is part of the address and no secret: Azure's container, and accounts of machines.
_NAMED = {"abfs", "abfss", "az", "adl", "sftp", "ssh", "ftp", "smb", "hdfs", "webhdfs"}


def refuse_secrets(uri: str) -> None:
    """Raise UsageError, which does not repeat it, where a URL holds a password or a signature."""
    if "://" not in uri:
        return
    for part in uri.split("::"):
        if (what := _secret(part)) is not None:
            raise UsageError(
                f"{without_secrets(uri)} holds {what}, which would be stored and logged: give credentials in the environment "
                f"(AWS_ACCESS_KEY_ID and the like), or download the file, or pipe it into the command with - as its name"
            )


def without_secrets(uri: str) -> str:
    """A URL for a message: without names and passwords before the host, and without parameters."""
    return "::".join(_bare(part) for part in uri.split("::"))


def _bare(part: str) -> str:
    scheme, mark, rest = part.partition("://")
    rest = rest.partition("?")[0].partition("#")[0]
    if not mark:
        return part.partition("?")[0].partition("#")[0]
    return f"{scheme}://{rest.rpartition('@')[2] if _user(part) else rest}"


def _user(part: str) -> tuple[str, str] | None:
    """Name and password before the host of a URL; None where there is neither."""
    # By hand: with a slash or a bracket in the password, `urlsplit` takes another part of it for the host.
    before, at, _ = part.partition("://")[2].partition("?")[0].partition("#")[0].partition("@")
    user, _, password = before.partition(":")
    return (user, password) if at and user and "/" not in user and (password or "/" not in before) else None


def _secret(part: str) -> str | None:
    """What secret a URL holds, in words; None where there is none."""
    scheme, mark, _ = part.partition("://")
    if not mark:
        return None
    if (user := _user(part)) is not None and (user[1] or scheme.lower() not in _NAMED):
        return "a password" if user[1] else "a name or token before its host"
    _, _, query = part.partition("?")
    _, _, fragment = part.partition("#")
    for name, value in parse_qsl(f"{query}&{fragment}".replace(";", "&").replace("#", "&")):
        plain = name.lower()
        if value and (_SECRET.search(plain) or _ENDS.search(re.sub("[^a-z]", "", plain))):
            return f"a signature or key ({name}=…)"
    return None


def delta_uri(uri: str) -> str:
    """The URI of a Delta table as deltalake takes it.

    Raises
    ------
    UsageError
        deltalake would look in another place: it decodes `%20` to a blank twice, takes a backslash for a slash, and on object storage
        follows `.`, `..` and empty parts.
    """
    local = "://" not in uri or uri.startswith("file://")
    path = uri.removeprefix("file://") if local else uri.partition("://")[2].rstrip("/")
    odd = re.findall(r"[\\\x00-\x1f]", path)
    if unquote(path) != path:
        odd += re.findall("%[0-9A-Fa-f]{2}", path)
    if not local:
        odd += [part or "//" for part in path.split("/") if part in ("", ".", "..")]
    if odd:
        raise UsageError(
            f"{uri!r} cannot name a store or table: Delta readers take {odd[0]!r} for something else; choose another name"
        )
    return uri if local else f"{uri.partition('://')[0]}://{quote(path, safe='/:@')}"
