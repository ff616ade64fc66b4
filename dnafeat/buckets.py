"""What S3 keeps beside the objects that a listing shows: unfinished uploads, and old versions of objects."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from dnafeat import storage


@dataclass(frozen=True)
class Upload:
    """A multipart upload that was begun on S3 and not finished: its parts take room and no listing of files shows them."""

    bucket: str
    key: str
    id: str
    began: datetime


def unfinished_uploads(uri: str) -> Iterator[Upload]:
    """Unfinished uploads below a prefix; none on a local disk."""
    if not uri.startswith("s3://"):
        return
    fs, path = storage.filesystem(uri)
    bucket, _, prefix = path.partition("/")
    after: dict[str, str] = {}
    while True:
        page = fs.call_s3("list_multipart_uploads", Bucket=bucket, Prefix=f"{prefix}/" if prefix else "", **after)
        for one in page.get("Uploads", ()):
            yield Upload(bucket, one["Key"], one["UploadId"], one["Initiated"].astimezone(UTC))
        if not page.get("IsTruncated"):
            return
        after = {"KeyMarker": page["NextKeyMarker"], "UploadIdMarker": page["NextUploadIdMarker"]}


def abort(upload: Upload) -> None:
    """End an unfinished upload and free its parts; nothing happens when it has ended meanwhile."""
    fs, _ = storage.filesystem(f"s3://{upload.bucket}")
    with contextlib.suppress(FileNotFoundError):
        fs.call_s3("abort_multipart_upload", Bucket=upload.bucket, Key=upload.key, UploadId=upload.id)


def keeps_old_versions(uri: str) -> bool | None:
    """Return whether the bucket keeps the bytes of deleted or replaced objects; None where it does not say. A local disk does not."""
    if not uri.startswith("s3://"):
        return False if storage.is_local(uri) else None
    fs, path = storage.filesystem(uri)
    try:
        # Suspended still keeps what was kept while it was enabled.
        return "Status" in fs.call_s3("get_bucket_versioning", Bucket=path.partition("/")[0])
    except storage.STORAGE_ERRORS:
        return None
