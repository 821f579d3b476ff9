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
from aind_etl.results.folders import SCHEME, Backend, Bounds, Files, StoredFile, check_size, path_of
from aind_etl.settings import Settings

CONNECT_SECONDS = 10
_READ_SECONDS = 60


class S3Backend(Backend):
    """Folders in an object store, through the client of s3fs.

    ``prefix`` is an ``s3://`` address that replaces ``s3://``, or "".
    """

    # Most result folders have hexadecimal names: 16 ranges of about equal size.
    ranges: Sequence[Bounds] = tuple(pairwise(("", *"123456789abcdef", None)))  # type: ignore[arg-type]

    def __init__(self, settings: Settings, prefix: str) -> None:
        self._settings = settings
        self._prefix = prefix
        self._page_files = 1000
        endpoint = settings.s3_endpoint_url
        host = urlsplit(endpoint).hostname if endpoint else "AWS S3"
        self.name = f"{prefix or SCHEME} at {host}"
        self._client: Any = None

    async def open(self) -> None:
        """Connect; raise a :class:`ConfigurationError` if the settings are wrong."""
        # Imported here: it takes a second, and folders on a disk do not need it.
        from s3fs import S3FileSystem  # noqa: PLC0415

        endpoint = self._settings.s3_endpoint_url
        store = S3FileSystem(
            anon=self._settings.s3_anon,
            asynchronous=True,
            skip_instance_cache=True,
            endpoint_url=endpoint,
            config_kwargs={
                "user_agent": f"aind-etl/{version('aind-etl')}",
                "max_pool_connections": self._settings.s3_concurrency,
                "connect_timeout": CONNECT_SECONDS,
                "read_timeout": _READ_SECONDS,
                "tcp_keepalive": True,
                # The caller retries requests, also those whose body breaks off.
                "retries": {"total_max_attempts": 1},
                "s3": {"addressing_style": "path" if endpoint else "virtual"},
            },
        )
        try:
            self._client = await store.set_session()
        except Exception as error:  # noqa: BLE001 - clients raise anything
            raise ConfigurationError(
                f"The result store {self.name} cannot be opened ({error}). Check "
                "AIND_ETL_S3_ENDPOINT_URL and AIND_ETL_S3_ANON."
            ) from None

    async def close(self) -> None:
        """Close every connection."""
        await self._client.close()

    async def page(self, location: str, bounds: Bounds, token: str) -> tuple[Files, str]:
        """Return one page of a folder's files, and the token of the next page, or ""."""
        bucket, key = self._bucket_and_key(location)
        prefix = f"{key}/" if key else ""
        options: dict[str, Any] = {"Bucket": bucket, "Prefix": prefix, "MaxKeys": self._page_files}
        if token:
            options["ContinuationToken"] = token
        elif bounds[0]:
            options["StartAfter"] = prefix + bounds[0]
        response = await self._request(self._client.list_objects_v2, **options)
        found = [
            StoredFile(
                entry["Key"][len(prefix) :],
                entry["Size"],
                entry.get("ETag", "").strip('"'),
                entry["LastModified"].astimezone(UTC),
            )
            for entry in response.get("Contents", ())
            if not entry["Key"].endswith("/")
        ]
        is_past_end = bounds[1] is not None and bool(found) and found[-1].name >= bounds[1]
        return found, "" if is_past_end else response.get("NextContinuationToken", "")

    async def read(self, location: str, name: str) -> tuple[bytes, str]:
        """Return the content of a file and its etag."""
        bucket, key = self._bucket_and_key(location)
        response = await self._request(self._client.get_object, Bucket=bucket, Key=f"{key}/{name}")
        async with response["Body"] as body:
            check_size(response["ContentLength"])
            return await body.read(), response.get("ETag", "").strip('"')

    @staticmethod
    async def _request(
        send: Callable[..., Awaitable[dict[str, Any]]], **options: object
    ) -> dict[str, Any]:
        from botocore.exceptions import ClientError  # noqa: PLC0415 - as in `open`
        from s3fs.errors import translate_boto_error  # noqa: PLC0415

        try:
            return await send(**options)
        except ClientError as error:
            raise cast("Exception", translate_boto_error(error)) from error

    def _bucket_and_key(self, location: str) -> tuple[str, str]:
        above = f"{self._prefix.removeprefix(SCHEME)}/" if self._prefix else ""
        bucket, _, key = f"{above}{path_of(location)}".partition("/")
        return bucket, key
