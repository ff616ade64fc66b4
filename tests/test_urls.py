"""URLs with secrets are refused before anything of them is opened, stored or logged, and no message repeats them."""

from __future__ import annotations

from pathlib import Path

import pytest

from dnafeat import storage
from dnafeat.embed.config import EmbedConfig
from dnafeat.errors import UsageError
from dnafeat.sources.reader import expand
from dnafeat.urls import refuse_secrets

SECRET = "hunter2XYZ"
SECRETS = [
    f"http://user:{SECRET}@host/x.fa",
    f"https://{SECRET}@host/x.fa",
    f"ftp://me:{SECRET}@host/x.fa",
    f"sftp://me:{SECRET}@host/x.fa",
    f"s3://AKIA:{SECRET}@bucket/x.fa",
    f"s3://AKIA:a/{SECRET}/b@bucket/x.fa",
    f"s3://AKIA:a@{SECRET}@bucket/x.fa",
    f"https://b.s3.amazonaws.com/x.fa?X-Amz-Algorithm=A&X-Amz-Credential={SECRET}&X-Amz-Signature={SECRET}",
    f"https://b.s3.amazonaws.com/x.fa?AWSAccessKeyId=A&Signature={SECRET}&Expires=1",
    f"https://h/x.fa?X%2DAmz%2DSignature={SECRET}",
    f"https://storage.googleapis.com/b/x.fa?X-Goog-Signature={SECRET}",
    f"https://a.blob.core.windows.net/c/x.fa?sv=2020-08-04&se=1&sig={SECRET}",
    f"https://d.cloudfront.net/x.fa?Policy={SECRET}&Key-Pair-Id=A",
    f"https://h/x.fa?token={SECRET}",
    f"https://h/x.fa?a=1;access_token={SECRET}",
    f"https://h/x.fa?apiKey={SECRET}",
    f"https://h/x.fa#token={SECRET}",
    f"simplecache::https://me:{SECRET}@h/x.fa",
]


@pytest.mark.parametrize("uri", SECRETS)
def test_a_secret_is_refused_wherever_it_stands_and_not_repeated(tmp_path: Path, uri: str) -> None:
    for call in (refuse_secrets, storage.filesystem, storage.open_input, storage.expand, lambda u: expand([u])):
        with pytest.raises(UsageError) as error:
            call(uri)
        assert SECRET not in str(error.value)
    place = {"sources": ("a.fa",), "store": str(tmp_path / "S")}
    for given in ({"sources": ("b.fa", uri)}, {"store": uri}, {"source_name": uri}):
        with pytest.raises(UsageError) as error:
            EmbedConfig.make(**{**place, **given})
        assert SECRET not in str(error.value)
    assert not (tmp_path / "S").exists()


@pytest.mark.parametrize(
    "uri",
    [
        "/data/a:b@c.fa",
        "a?token=b.fa",
        "s3://bucket/a@b.fa",
        "s3://bucket/a:b@c.fa",
        "s3://bucket/day=1/x.fa",
        "https://host/x.fa?download=true",
        "https://host/x.fa?keyword=dna&monkey=1",
        "sftp://me@host/x.fa",
        "abfs://container@account.dfs.core.windows.net/x.fa",
    ],
)
def test_other_names_are_not_taken_for_secrets(uri: str) -> None:
    refuse_secrets(uri)
