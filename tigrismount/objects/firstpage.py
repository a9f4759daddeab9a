"""The first page of a listing that has a row: some stores send empty ones before it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tigrismount.core.listing import STALLED_PAGES_MAX
from tigrismount.errors import ObjectProtocolError

if TYPE_CHECKING:
    from tigrismount.objects.client import ListPage, ObjectClient


async def first_page(
    client: ObjectClient, bucket: str, prefix: str, *, delimiter: str = "/", max_keys: int = 1000
) -> ListPage:
    """Return the first page that has a row, or the last page.

    Args:
        client: The store.
        bucket: Bucket name.
        prefix: Keys must start with this.
        delimiter: Rolls up keys beyond it; empty lists flat.
        max_keys: Most rows.

    Raises:
        ObjectProtocolError: There are empty pages without end.
        ObjectError: The store could not say.
    """
    token: str | None = None
    for _ in range(STALLED_PAGES_MAX):
        page = await client.list_page(bucket, prefix, delimiter=delimiter, token=token, max_keys=max_keys)
        if page.objects or page.prefixes or page.next_token is None:
            return page
        token = page.next_token
    raise ObjectProtocolError("the listing does not come forward", bucket=bucket, key=prefix)
