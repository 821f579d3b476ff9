"""Result folders in an object store.

Nothing is ever written: the only requests are ``ListObjectsV2`` and ``GetObject``.
"""

from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC
from importlib.metadata import version
from itertools import pairwise
from typing import Any, cast
from urllib.parse import urlsplit

from aind_etl.errors import ConfigurationError
from aind_etl.results.folders import (
    LARGEST_FILE_BYTES,
    SCHEME,
    Bounds,
    Files,
    StoredFile,
    TooLargeError,
    is_inside,
    path_of,
)

CONNECT_SECONDS = 10
_READ_SECONDS = 60
_RANGES: list[Bounds] = list(pairwise(("", *"123456789abcdef", None)))  # type: ignore[arg-type]
"""Names of result folders are hexadecimal digits as a rule: about equal parts of all."""


class S3Backend:
    """Folders in an object store, through s3fs."""

    ranges: Sequence[Bounds] = _RANGES

    def __init__(
        self,
        *,
        anonymous: bool,
        endpoint_url: str | None,
        concurrency: int,
        prefix: str = "",
        page_files: int = 1000,
    ) -> None:
        self._anonymous = anonymous
        self._endpoint_url = endpoint_url
        self._concurrency = concurrency
        self._prefix = prefix
        self._page_files = page_files
        host = urlsplit(endpoint_url).hostname if endpoint_url else "AWS S3"
        self.name = f"{prefix or 's3://'} at {host}"
        self._client: Any = None

    async def open(self) -> None:
        """Open the store; raise a :class:`ConfigurationError` where that is impossible."""
        # Imported here: the client takes a second to import, and a folder needs none.
        from s3fs import S3FileSystem  # noqa: PLC0415

        endpoint = self._endpoint_url
        store = S3FileSystem(
            anon=self._anonymous,
            asynchronous=True,
            skip_instance_cache=True,
            endpoint_url=endpoint,
            config_kwargs={
                "user_agent": f"aind-etl/{version('aind-etl')}",
                "max_pool_connections": self._concurrency,
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "tcp_keepalive": True,
                # Requests are retried by the caller, which also retries a body that breaks off.
                "retries": {"total_max_attempts": 1},
                "s3": {"addressing_style": "path" if endpoint else "virtual"},
            },
        )
        try:
            self._client = await store.set_session()
        except Exception as error:  # noqa: BLE001 - whatever a client raises
            raise ConfigurationError(
                f"The result store {self.name} cannot be opened ({error}). Check "
                "AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_S3_ANON."
            ) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files, and the token of the next page."""
        bucket, key = self._place(location)
        prefix = f"{key}/" if key else ""
        asked: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": self._page_files}
        if token:
            asked["ContinuationToken"] = token
        elif bounds[0]:
            asked["StartAfter"] = prefix + bounds[0]
        answer = await self._ask(self._client.list_objects_v2, asked)
        found = [
            StoredFile(
                entry["Key"][len(prefix) :],
                entry["Size"],
                entry.get("ETag", "").strip('"'),
                entry["LastModified"].astimezone(UTC),
            )
            for entry in answer.get("Contents", ())
            if not entry["Key"].endswith("/")
        ]
        # Some stores do not know where to start: what comes too early is left out here.
        inside = [file for file in found if is_inside(file, bounds)]
        is_passed = bounds[1] is not None and bool(found) and found[-1].name >= bounds[1]
        return inside, "" if is_passed else answer.get("NextContinuationToken", "")

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        bucket, key = self._place(location)
        asked = {"Bucket": bucket, "Key": f"{key}/{name}"}
        answer = await self._ask(self._client.get_object, asked)
        async with answer["Body"] as body:
            if answer["ContentLength"] > LARGEST_FILE_BYTES:
                raise TooLargeError(answer["ContentLength"])
            return await body.read(), answer.get("ETag", "").strip('"')

    @staticmethod
    async def _ask(
        request: Callable[..., Awaitable[dict[str, Any]]], asked: dict[str, Any]
    ) -> dict[str, Any]:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as in `open`
        from s3fs.errors import translate_boto_error  # noqa: PLC0415

        try:
            return await request(**asked)
        except ClientError as error:
            raise cast("Exception", translate_boto_error(error)) from error

    def _place(self, location: str) -> tuple[str, str]:
        place = path_of(location)
        if self._prefix:
            place = f"{self._prefix.removeprefix(SCHEME)}/{place}"
        bucket, _, key = place.partition("/")
        return bucket, key
