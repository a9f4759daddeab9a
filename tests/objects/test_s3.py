from __future__ import annotations

import gzip
import socket
import threading
import time
from functools import partial

import pytest
import trio
from botocore.exceptions import CredentialRetrievalError

from tigrismount.core.types import ObjectId
from tigrismount.demo.faults import FaultRule
from tigrismount.errors import (
    ConfigError,
    ObjectAccessError,
    ObjectArchivedError,
    ObjectNotFoundError,
    ObjectProtocolError,
    ObjectUnavailableError,
    StaleObjectError,
)
from tigrismount.objects import s3
from tigrismount.objects.credentials import Credentials
from tigrismount.objects.options import S3Config
from tigrismount.objects.s3 import S3Client
from tigrismount.testing.object_contract import CollectingSink, pattern
from tigrismount.testing.waiting import no_threads

KEY = Credentials(source="the test", access_key_id="id", secret_access_key="secret")
DATA = pattern(200_000)
OBJ = ObjectId("b", "k", "abc", len(DATA))
SIZE = len(DATA)


@pytest.fixture
async def make_client():
    clients = []

    def make(url: str, credentials: Credentials | None = KEY, **settings) -> S3Client:
        defaults = {"connect_timeout_s": 2.0, "stall_timeout_s": 0.3, "request_timeout_s": 20.0, "region": "us-east-1"}
        config = S3Config(endpoint_url=url, **{**defaults, **settings})
        client = S3Client(config, credentials, draw=lambda: 0.0)
        clients.append(client)
        return client

    yield make
    for client in clients:
        await client.aclose()


@pytest.fixture
def client(server, make_client):
    return make_client(server.url)


async def fetch(client, start=0, stop=SIZE, obj=OBJ) -> bytes:
    sink = CollectingSink(stop - start)
    await client.fetch(obj, start, stop, sink)
    return sink.data


# -- what is sent ----------------------------------------------------------------------------------------------


async def test_a_fetch_asks_for_one_range_of_one_version(server, say, client):
    server.answer(say.part(DATA, 100, 200))
    assert await fetch(client, 100, 200) == DATA[100:200]
    (request,) = server.requests
    assert (request.method, request.path, request.range) == ("GET", "/b/k", "bytes=100-199")
    assert request.headers["if-match"] == '"abc"'
    assert "x-amz-checksum-mode" not in request.headers
    assert request.headers["authorization"].startswith("AWS4-HMAC-SHA256 Credential=id/")


async def test_a_weak_or_missing_etag_is_not_sent_as_a_condition(server, say, client):
    server.answer(say.part(DATA, 0, 9, ETag='W/"abc"'))
    for etag in ("W/abc", ""):
        await fetch(client, 0, 9, ObjectId("b", "k", etag, SIZE))
    assert all("if-match" not in request.headers for request in server.requests)


async def test_anonymous_and_requester_pays_requests(server, say, make_client):
    server.answer(say.part(DATA, 0, 9))
    client = make_client(server.url, Credentials(source="x"), no_sign_request=True, requester_pays=True)
    await fetch(client, 0, 9)
    (request,) = server.requests
    assert "authorization" not in request.headers
    assert request.headers["x-amz-request-payer"] == "requester"


@pytest.fixture
def proxies(monkeypatch):
    """Set the proxies of the environment; the machine's own do not count."""
    for name in ("http_proxy", "https_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    return monkeypatch.setenv


async def test_every_request_goes_through_the_proxy_of_the_environment(server, say, make_client, proxies):
    proxies("HTTP_PROXY", server.url)
    client = make_client("http://store.test:9000")
    server.answer(say.part(DATA, 0, 9))
    assert await fetch(client, 0, 9) == DATA[:9]
    server.answer(say.response(200, ETag='"e"', Content_Length=0))
    await client.head("b", "k")
    assert [request.path for request in server.requests] == ["http://store.test:9000/b/k"] * 2


async def test_the_proxy_is_asked_for_a_tunnel_to_a_store_with_tls(server, say, make_client, proxies):
    proxies("HTTPS_PROXY", server.url)
    server.answer(say.response(407))
    with pytest.raises(ObjectUnavailableError, match="HTTPS_PROXY"):
        await fetch(make_client("https://store.test", request_timeout_s=0.5), 0, 9)
    assert {(request.method, request.path) for request in server.requests} == {("CONNECT", "store.test:443")}


async def test_hosts_that_the_environment_excepts_are_asked_without_the_proxy(server, say, make_client, proxies):
    proxies("HTTP_PROXY", "http://127.0.0.1:1")
    proxies("NO_PROXY", "127.0.0.1")
    server.answer(say.part(DATA, 0, 9))
    assert await fetch(make_client(server.url), 0, 9) == DATA[:9]
    assert [request.path for request in server.requests] == ["/b/k"]


async def test_connections_are_used_again(server, say, client):
    server.answer(say.part(DATA, 0, SIZE))
    for _ in range(5):
        await fetch(client)
    assert server.connections == 1


async def test_bodies_are_read_no_faster_than_the_bandwidth_allows(server, say, make_client):
    server.answer(say.part(DATA, 0, SIZE))
    client = make_client(server.url, bandwidth_bytes_s=5 * SIZE)
    began_s = time.monotonic()
    for _ in range(3):
        await fetch(client)
    assert time.monotonic() - began_s > 0.45, "three fifths of a second, less what is made up for"


async def test_the_connection_of_an_unfinished_body_is_not_used_again(server, say, client):
    server.answer(say.part(DATA, 0, SIZE))
    await client.fetch(OBJ, 0, SIZE, CollectingSink(SIZE, view_bytes=100, wanted_bytes=300))
    assert await fetch(client) == DATA
    assert server.connections == 2


# -- answers that lie ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lie",
    [
        {"Content-Range": f"bytes 0-99/{SIZE}"},
        {"Content-Range": f"bytes 100-199/{SIZE + 1}"},
        {"Content-Range": None},
        {"Content-Length": 99},
        {"ETag": None},
        {"Content-Range": f"bytes 100-199/{'9' * 5000}"},
        {"Content-Length": "9" * 5000},
    ],
)
async def test_a_wrong_answer_is_asked_again_a_few_times_and_never_delivered(server, say, client, lie):
    server.answer(say.part(DATA, 100, 200, **lie))
    sink = CollectingSink(100)
    with pytest.raises(ObjectProtocolError):
        await client.fetch(OBJ, 100, 200, sink)
    assert (sink.received, len(server.requests)) == (0, 4)


async def test_a_date_that_is_none_is_a_wrong_answer(server, say, client):
    """Mutation: what Python says of it leaves the client, and ends the mount."""
    server.answer(say.part(DATA, 0, 9, ETag=None, Last_Modified="Mon, 01 Jan 99999 00:00:00 GMT"))
    with pytest.raises(ObjectProtocolError, match="unexpected"):
        await fetch(client, 0, 9, ObjectId("b", "k", "", SIZE, 1))


async def test_a_right_answer_after_a_wrong_one_counts(server, say, client):
    server.answer(say.part(DATA, 0, 100))
    server.answer(say.part(DATA, 100, 200))
    assert await fetch(client, 100, 200) == DATA[100:200]


async def test_another_etag_is_another_version(server, say, client):
    server.answer(say.part(DATA, 0, 100, ETag='"xyz"'))
    with pytest.raises(StaleObjectError):
        await fetch(client, 0, 100)
    assert len(server.requests) == 1


async def test_the_whole_object_instead_of_a_range_serves_only_its_beginning(server, say, client):
    server.answer(say.response(200, DATA, ETag='"abc"'))
    assert await fetch(client) == DATA
    assert await fetch(client, 0, 70_000) == DATA[:70_000]
    with pytest.raises(ObjectProtocolError, match="ignores ranges"):
        await fetch(client, 1, 70_000)


async def test_a_framed_body_is_read_too(server, say, client):
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in (DATA[:5], DATA[5:60_000], DATA[60_000:], b""))
    header = say.part(DATA, 0, SIZE, Content_Length=None, Transfer_Encoding="chunked").split(b"\r\n\r\n")[0]
    server.answer(header + b"\r\n\r\n" + framed)
    assert await fetch(client) == DATA


async def test_a_stored_content_encoding_is_left_alone(server, say, client):
    server.answer(say.part(DATA, 0, SIZE, Content_Encoding="gzip"))
    assert await fetch(client) == DATA


async def test_what_is_encoded_on_the_way_is_no_answer(server, say, client):
    """Mutation: the first bytes of a gzip stream, longer than what was asked for, pass for the object's."""
    header = say.response(
        200, Content_Length=None, Transfer_Encoding="chunked", Content_Encoding="gzip", ETag='W/"abc"'
    )
    packed = gzip.compress(DATA)
    server.answer(header + b"%x\r\n%s\r\n0\r\n\r\n" % (len(packed), packed))
    with pytest.raises(ObjectProtocolError, match="encoded on the way"):
        await fetch(client, 0, 100)


async def test_what_the_store_unpacks_is_no_answer(server, say, client):
    """Google's unpacks what was stored with Content-Encoding: gzip, and says neither range, length nor encoding: the
    first bytes of something else, cut off at the size of what is stored, passed for the object."""
    header = say.response(200, Content_Length=None, Transfer_Encoding="chunked", ETag='"abc"')
    unpacked = DATA + DATA
    server.answer(header + b"%x\r\n%s\r\n0\r\n\r\n" % (len(unpacked), unpacked))
    for stop in (100, SIZE):
        with pytest.raises(ObjectProtocolError, match="nobody says that it is the whole object"):
            await fetch(client, 0, stop)


# -- bodies that break -----------------------------------------------------------------------------------------


async def test_a_short_body_is_resumed_where_it_ended(server, say, client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 150_000], say.Then.CLOSE)
    server.answer(say.part(DATA, 150_000, SIZE))
    assert await fetch(client) == DATA
    assert [request.range for request in server.requests] == ["bytes=0-199999", "bytes=150000-199999"]
    assert all(request.headers["if-match"] == '"abc"' for request in server.requests)
    statistics = client.statistics()
    assert (statistics.get_requests, statistics.retries, statistics.bytes_fetched) == (2, 1, SIZE)
    assert statistics.errors == 0


async def test_a_stalled_body_is_resumed_behind_the_last_byte_delivered(server, say, client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 100_000], say.Then.STALL)
    server.answer(say.truth(DATA))
    sink = CollectingSink(SIZE, view_bytes=40_000)
    await client.fetch(OBJ, 0, SIZE, sink)
    assert sink.data == DATA
    assert [request.range for request in server.requests] == ["bytes=0-199999", "bytes=100000-199999"]


async def test_a_reset_body_is_resumed(server, say, client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 100_000], say.Then.RESET)
    server.answer(say.truth(DATA))
    assert await fetch(client) == DATA
    assert len(server.requests) == 2


async def test_a_connection_that_always_breaks_still_gets_there(server, say, client):
    def piece(request):
        whole = say.truth(DATA)(request)
        return whole[: whole.index(b"\r\n\r\n") + 4 + 70_000]

    server.answer(piece, say.Then.CLOSE)
    assert await fetch(client) == DATA
    assert len(server.requests) == 3


async def test_a_resumed_body_is_of_the_same_version_or_an_error(server, say, client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 100_000], say.Then.CLOSE)
    server.answer(say.part(pattern(SIZE, seed=2), 100_000, SIZE, ETag='"new"'))
    sink = CollectingSink(SIZE)
    with pytest.raises(StaleObjectError):
        await client.fetch(OBJ, 0, SIZE, sink)
    assert sink.data == DATA[:100_000]


async def test_a_store_that_is_silent_for_good_fails_at_the_deadline(server, say, make_client):
    server.answer(say.Then.STALL)
    client = make_client(server.url, request_timeout_s=0.5, stall_timeout_s=30.0)
    with pytest.raises(ObjectUnavailableError, match="did not answer within"):
        await fetch(client)
    assert client.statistics().errors == 1


async def test_a_body_that_hangs_at_the_deadline_is_cut_and_its_memory_left_alone(server, say, make_client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 100], say.Then.STALL)
    client = make_client(server.url, request_timeout_s=0.5, stall_timeout_s=60.0)
    sink = RecordingSink(SIZE)
    with trio.fail_after(30), pytest.raises(ObjectUnavailableError, match="did not answer within"):
        await client.fetch(OBJ, 0, SIZE, sink)
    assert sink.calls == ["next_view"]


async def test_cancelling_a_fetch_cuts_the_read_that_hangs(server, say, make_client):
    whole = say.part(DATA, 0, SIZE)
    server.answer(whole[: len(whole) - SIZE + 100], say.Then.STALL)
    client = make_client(server.url, stall_timeout_s=60.0)
    sink = RecordingSink(SIZE)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.fetch, OBJ, 0, SIZE, sink)
            await trio.to_thread.run_sync(sink.asked.wait)
            nursery.cancel_scope.cancel()
    assert sink.calls == ["next_view"]


class RecordingSink(CollectingSink):
    def __init__(self, size_bytes: int) -> None:
        super().__init__(size_bytes)
        self.calls: list[str] = []
        self.asked = threading.Event()

    def next_view(self) -> memoryview:
        self.calls.append("next_view")
        self.asked.set()
        return super().next_view()

    def wrote(self, count: int) -> None:
        self.calls.append("wrote")
        super().wrote(count)


# -- error answers ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [
        (412, "PreconditionFailed", StaleObjectError),
        (416, "InvalidRange", StaleObjectError),
        (404, "NoSuchKey", ObjectNotFoundError),
        (403, "InvalidObjectState", ObjectArchivedError),
        (403, "AccessDenied", ObjectAccessError),
        (400, "ExpiredToken", ObjectAccessError),
        (301, "PermanentRedirect", ObjectAccessError),
    ],
)
async def test_an_answer_that_will_not_change_is_asked_for_once(server, say, client, status, code, expected):
    server.answer(say.error(status, code))
    with pytest.raises(expected):
        await fetch(client)
    assert len(server.requests) == 1
    # That there is no such thing is an answer and no failure: names that may not be there are looked for all the time.
    assert client.statistics().errors == (0 if expected is ObjectNotFoundError else 1)


async def test_a_head_that_says_no_more_than_400_has_another_key_looked_for(server, say):
    """S3 says so of a token that has expired, and an answer to HEAD has no body that could tell: every look-up would
    fail although there is another key by now."""
    another = Credentials(source="another place", access_key_id="id2", secret_access_key="s2")
    config = S3Config(endpoint_url=server.url, region="us-east-1")
    client = S3Client(config, KEY, find_credentials=lambda: another, draw=lambda: 0.0)

    def head(request) -> bytes:
        return found if "Credential=id2/" in request.headers["authorization"] else say.response(400)

    found = say.response(200, ETag='"abc"', Content_Length=SIZE)
    server.answer(head)
    try:
        assert (await client.head("b", "k")).id == OBJ
        assert len(server.requests) == 2
    finally:
        await client.aclose()


async def test_a_head_that_is_answered_400_by_somebody_on_the_way_is_sent_again(server, say, client):
    """Mutation: where it is a refusal and no more, one bad proxy among several refuses the files of public buckets."""
    server.answer(say.response(400))
    server.answer(say.response(200, ETag='"abc"', Content_Length=SIZE))
    assert (await client.head("b", "k")).id == OBJ


async def test_a_head_that_is_answered_400_each_time_is_refused(server, say, client):
    """What may not be looked at is found in listings; as an error of another kind it would be none of that."""
    for _ in range(9):
        server.answer(say.response(400))
    with pytest.raises(ObjectAccessError, match="expired"):
        await client.head("b", "k")
    assert len(server.requests) == 4


@pytest.mark.parametrize("status", [400, 501])
async def test_a_head_asks_for_no_checksums_where_the_store_refuses_that(server, say, client, status):
    """Backblaze answers 400 to x-amz-checksum-mode, others 501: every look-up was refused, or failed after its time."""

    def head(request) -> bytes:
        if "x-amz-checksum-mode" in request.headers:
            return say.response(status)
        return say.response(404) if request.path.endswith("/gone") else found

    found = say.response(200, ETag='"abc"', Content_Length=SIZE)
    server.answer(head)
    with pytest.raises(ObjectNotFoundError):
        await client.head("b", "gone")
    server.requests.clear()
    assert (await client.head("b", "k")).id == OBJ
    assert len(server.requests) == 1, "what was found out holds"


async def test_checksums_are_asked_for_again_where_somebody_on_the_way_refused_a_head(server, say, client):
    server.answer(say.response(400))
    server.answer(say.response(200, ETag='"abc"', Content_Length=SIZE, x_amz_checksum_crc32="AAAAAA=="))
    for _ in range(2):
        assert (await client.head("b", "k")).checksums == (("crc32", "00000000"),)
    assert ["x-amz-checksum-mode" in request.headers for request in server.requests] == [True, False, True, True]


@pytest.fixture
def bad_in_turns(server, say):
    """Have a store that knows checksums answer behind two proxies in turns, of which one refuses; return which is next.

    Whoever asks alone meets the bad one, the good one, and the bad one: as if to be asked for checksums were refused.
    """
    turns = [True]

    def head(request) -> bytes:
        turns[0] = not turns[0]
        if not turns[0]:
            return say.response(400)
        told = {"x_amz_checksum_crc32": "AAAAAA=="} if "x-amz-checksum-mode" in request.headers else {}
        return say.response(200, ETag='"abc"', Content_Length=SIZE, **told)

    server.answer(head)
    return turns


async def test_a_store_that_told_checksums_is_asked_for_them_whoever_refuses_on_the_way(client, bad_in_turns):
    """Mutation: no file is compared with its checksum any more, and one that was refused for it is taken for good."""
    bad_in_turns[0] = False
    for _ in range(3):
        assert (await client.head("b", "k")).checksums == (("crc32", "00000000"),)


async def test_a_store_that_seemed_to_refuse_to_tell_checksums_is_asked_again_later(client, bad_in_turns, monkeypatch):
    monkeypatch.setattr(s3, "PLAIN_HEADS_S", 0.0)
    assert (await client.head("b", "k")).checksums == ()
    for _ in range(3):
        assert (await client.head("b", "k")).checksums == (("crc32", "00000000"),)


async def test_a_get_that_is_answered_400_by_somebody_on_the_way_is_sent_again(server, say, client):
    """Mutation: where it counts as a refusal as well, one bad proxy among several fails a read at once."""
    server.answer(say.response(400))
    server.answer(say.truth(DATA))
    assert await fetch(client) == DATA


async def test_a_metadata_service_that_is_away_is_waited_for(server, say, client, monkeypatch):
    """A machine's key is renewed while it is good: an agent that is started anew then failed whatever was read."""
    right = client._keys._inner

    class Renewing:
        tries = 0

        def get_frozen_credentials(self):
            self.tries += 1
            if self.tries < 5:
                raise CredentialRetrievalError(provider="container-role", error_msg="connection refused")
            return right.get_frozen_credentials()

    monkeypatch.setattr(client._keys, "_inner", Renewing())
    server.answer(say.truth(DATA))
    assert await fetch(client) == DATA


NOT_THE_STORE = [b"404 page not found\n", b"<html><body>Not Found</body></html>", b""]


@pytest.mark.parametrize("body", NOT_THE_STORE)
async def test_a_get_that_a_gateway_without_its_store_answers_is_sent_again(server, say, client, body):
    """Such as Traefik, for the seconds of a new deployment: every file that was read then was gone, or SIGBUS."""
    for _ in range(5):
        server.answer(say.response(404, body))
    server.answer(say.truth(DATA))
    assert await fetch(client) == DATA


@pytest.mark.parametrize("body", NOT_THE_STORE)
async def test_a_listing_that_a_gateway_without_its_store_answers_is_asked_again(server, say, client, body):
    """Mutation: the bucket is not there, so no directory of a mount is."""
    for _ in range(5):
        server.answer(say.response(404, body))
    server.answer(say.response(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))
    assert (await client.list_page("b", "")).next_token is None


async def test_a_moved_bucket_names_its_region(server, say, client):
    server.answer(say.error(301, "PermanentRedirect", x_amz_bucket_region="eu-west-1"))
    with pytest.raises(ObjectAccessError, match="--region eu-west-1"):
        await client.check_access("b", "")


async def test_a_store_in_trouble_is_asked_again(server, say, client):
    for status, code in ((503, "SlowDown"), (500, "InternalError"), (502, "BadGateway"), (307, "TemporaryRedirect")):
        server.answer(say.error(status, code))
    server.answer(say.part(DATA, 0, SIZE))
    assert await fetch(client) == DATA
    statistics = client.statistics()
    assert (statistics.get_requests, statistics.retries, statistics.slow_downs) == (5, 4, 1)


async def test_retries_can_be_limited(server, say, make_client):
    server.answer(say.error(500, "InternalError"))
    with pytest.raises(ObjectUnavailableError, match="gave up after 3 tries"):
        await fetch(make_client(server.url, max_retries=2))
    assert len(server.requests) == 3


async def test_slow_down_lowers_the_number_of_gets_at_once(server, say, make_client):
    server.delay_s = 0.05
    server.answer(say.error(503, "SlowDown"))
    server.answer(say.truth(DATA))
    client = make_client(server.url, concurrency=8)
    await fetch(client)
    server.peak_busy = 0
    async with trio.open_nursery() as nursery:
        for _ in range(7):  # three answers allow a fifth one: there are four left by then
            nursery.start_soon(fetch, client, 0, 10)
    assert server.peak_busy <= 4


async def test_gets_at_once_never_exceed_the_concurrency(server, say, make_client):
    server.delay_s = 0.02
    server.answer(say.truth(DATA))
    client = make_client(server.url, concurrency=3)
    async with trio.open_nursery() as nursery:
        for _ in range(9):
            nursery.start_soon(fetch, client, 0, 10)
    assert server.peak_busy <= 3
    assert server.connections <= 3


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><body>Log in to the hotel network</body></html>",
        b"<html><p>not XML",
        b"<ListBucketResult/>",
        b"<Error><Code>InternalError</Code></Error>",
    ],
)
async def test_a_listing_that_is_none_is_never_an_empty_bucket(server, say, client, body):
    server.answer(say.response(200, body, Content_Type="application/xml"))
    with pytest.raises(ObjectProtocolError, match="is it an S3 endpoint"):
        await client.list_page("b", "")


async def test_a_listing_that_breaks_off_is_asked_again(server, say, client):
    server.answer(say.response(200, b"<ListBucketResult><Contents>"))
    server.answer(say.response(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))
    assert (await client.list_page("b", "")).objects == ()
    assert client.statistics().retries == 1


async def test_a_listing_that_does_not_say_where_to_go_on_is_an_error(server, say, client):
    server.answer(say.response(200, b"<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>"))
    with pytest.raises(ObjectProtocolError, match="where to go on"):
        await client.list_page("b", "")


async def test_an_answer_nobody_foresaw_is_ours_too(server, say, client):
    server.answer(say.response(200, Content_Length="0", Last_Modified="never"))
    with pytest.raises(ObjectProtocolError, match="unexpected"):
        await client.head("b", "k")


async def test_names_no_request_can_carry_are_not_found(client):
    for call in (client.list_page("not a bucket", ""), client.head("b", "\ud800")):
        with pytest.raises(ObjectNotFoundError, match="no store can have such a name"):
            await call


@pytest.mark.parametrize("framing", ["identity, chunked", "chunked, chunked", "gzip, chunked"])
@pytest.mark.parametrize("length", [None, 9])
async def test_frames_are_never_taken_for_bytes_of_the_object(server, say, client, framing, length):
    """Mutation: ``http.client`` takes apart what is 'chunked' and no more, and the file begins with the first frame."""
    told = {"ETag": '"abc"', "Content_Range": f"bytes 0-8/{SIZE}", "Transfer_Encoding": framing}
    head = say.response(206, Content_Length=length, **told)
    server.answer(head + b"9\r\n" + DATA[:9] + b"\r\n0\r\n\r\n", say.Then.CLOSE)
    with pytest.raises(ObjectProtocolError, match="framed"):
        await fetch(client, 0, 9)


async def test_words_of_a_head_that_are_longer_than_any_are_not_kept(server, say, client):
    """Mutation: each name, and each of the versions that are remembered, takes 64 KB that a volume's own store says."""
    server.answer(say.response(200, ETag='"e"', x_amz_version_id="v" * 1025))
    server.answer(say.response(200, ETag='"' + "e" * 513 + '"'))
    info = await client.head("b", "k")
    assert (info.version_id, client.version_id(info.id), client.version_ids) == (None, "", 0)
    with pytest.raises(ObjectProtocolError, match="longer than any"):
        await client.head("b", "k")


async def test_a_key_that_is_no_utf8_is_asked_for_by_its_bytes(server, say, client):
    """Mutation: its file is seen in a listing, and every look at it says that no store can have such a name."""
    key = "d\udcff/\udcfe ü"
    server.answer(say.response(200, ETag='"abc"', Content_Length=SIZE))
    server.answer(say.response(200, b"<ListBucketResult><IsTruncated>false</IsTruncated></ListBucketResult>"))
    server.answer(say.part(DATA, 0, 9))
    assert (await client.head("b", key)).id.key == key
    await client.list_page("b", "d\udcff/", start_after=key)
    assert await fetch(client, 0, 9, ObjectId("b", key, "abc", SIZE)) == DATA[:9]
    head, listing, get = [request.path for request in server.requests]
    assert head == get == "/b/d%FF/%FE%20%C3%BC"
    assert "prefix=d%FF%2F&" in listing
    assert "start-after=d%FF%2F%FE%20%C3%BC" in listing


@pytest.mark.parametrize(
    ("prefix", "code", "error"),
    [
        ("d\udcff/", "InvalidURI", ObjectNotFoundError),
        ("d\udcff/", "ExpiredToken", ObjectAccessError),
        ("d/", "InvalidURI", ObjectProtocolError),
    ],
)
async def test_a_store_that_takes_no_such_names_has_nothing_under_them(server, say, client, prefix, code, error):
    """Mutation: to look for a name that is no UTF-8 is an EIO there, and no ENOENT."""
    server.answer(say.error(400, code))
    with pytest.raises(error):
        await client.list_page("b", prefix)


EMPTY_ETAG = "d41d8cd98f00b204e9800998ecf8427e"


async def test_a_head_without_a_length_is_of_an_empty_object_if_its_etag_says_so(server, say, client):
    server.answer(say.response(200, ETag=f'"{EMPTY_ETAG}"', Content_Length=None, x_amz_storage_class="GLACIER"))
    info = await client.head("b", "k")
    assert (info.id, info.storage_class, info.mtime_s) == (ObjectId("b", "k", EMPTY_ETAG, 0), "GLACIER", 0.0)


async def test_a_head_that_names_no_version_is_no_answer(server, say, client):
    """Mutation: a proxy's page is a file without a version, and what the next proxy says, of its size, is its bytes."""
    server.answer(say.response(200, Content_Type="text/html", Content_Length=SIZE))
    server.answer(say.response(200, ETag='"abc"', Content_Length=SIZE))
    assert (await client.head("b", "k")).id == OBJ


@pytest.mark.parametrize(
    ("restore", "restored"),
    [
        ('ongoing-request="false", expiry-date="Fri, 21 Dec 2035 00:00:00 GMT"', True),
        ('ongoing-request="true"', False),
        (None, False),
    ],
)
async def test_a_head_tells_whether_an_archived_object_can_be_read(server, say, client, restore, restored):
    server.answer(say.response(200, ETag='"e"', Content_Length=1, x_amz_storage_class="GLACIER", x_amz_restore=restore))
    info = await client.head("b", "k")
    assert (info.storage_class, info.archived) == ("GLACIER", not restored)


async def test_a_head_without_a_length_makes_no_file_short(server, say, client):
    server.answer(say.response(200, ETag='"e"', Content_Length=None))
    with pytest.raises(ObjectProtocolError, match="no Content-Length"):
        await client.head("b", "k")


# -- lanes -----------------------------------------------------------------------------------------------------


async def test_metadata_does_not_wait_behind_data(server, say, make_client):
    server.answer(say.Then.STALL)
    server.answer(say.response(200, ETag='"e"'))
    client = make_client(server.url, concurrency=1, stall_timeout_s=60.0)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fetch, client)
        await trio.to_thread.run_sync(server.wait_for_requests, 1)
        assert (await client.head("b", "k")).id.etag == "e"
        nursery.cancel_scope.cancel()


async def test_a_closed_client_refuses(server, client):
    await client.aclose()
    with pytest.raises(ObjectUnavailableError, match="closed"):
        await fetch(client)
    assert server.requests == []


# -- reaching the store ----------------------------------------------------------------------------------------


async def test_a_dead_endpoint_fails_the_check_soon_and_is_named(make_client):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = make_client(url)
    with pytest.raises(ObjectUnavailableError, match=f"{url} refuses connections: check .*; gave up after 6 tries"):
        await client.check_access("b", "")


async def test_a_connection_that_nobody_uses_is_not_used_again_once_it_is_dead(server, say, client):
    """As behind a gateway that forgets, without a word, who says nothing for minutes.

    Mutation: the kernel asks after two hours. Until then each of the connections that a load has left costs a look-up
    half of its time, and the second one makes it an EIO.
    """
    server.answer(say.part(DATA, 0, 10))
    await fetch(client, 0, 10)
    pool = client._boto._endpoint.http_session._manager.connection_from_url(server.url)
    (sock,) = [connection.sock for connection in pool.pool.queue if connection is not None]
    assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    names = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
    idle_s, again_s, times = (sock.getsockopt(socket.IPPROTO_TCP, name) for name in names)
    assert idle_s + again_s * times <= 60, "botocore has changed: see connection.py"


def test_the_check_goes_on_past_two_addresses_that_lead_nowhere():
    """As those of IPv6 where it ends at the next router: they are tried one after the other, and first of all.

    Mutation: a mount is refused whose reads would come through.
    """
    assert 2 * S3Config().connect_timeout_s + 3.0 <= s3.CHECK_TIMEOUT_S


async def test_an_untrusted_certificate_says_how_to_trust_it(say, make_client, certificate):
    context, ca_bundle = certificate
    server = say.Server(tls=context)
    try:
        server.answer(say.part(DATA, 0, 10))
        with pytest.raises(ObjectUnavailableError, match=r"cannot trust the certificate of .* pass its CA with --ca"):
            await make_client(server.url).check_access("b", "")
        assert await fetch(make_client(server.url, ca_bundle=ca_bundle), 0, 10) == DATA[:10]
    finally:
        server.stop()


async def test_the_authorities_of_the_system_are_trusted(say, make_client, certificate, monkeypatch):
    """That of an organisation is there and in no library's list; 'doctor' said that its certificates are trusted."""
    context, authority = certificate
    monkeypatch.setenv("SSL_CERT_FILE", authority)
    server = say.Server(tls=context)
    try:
        server.answer(say.part(DATA, 0, 10))
        assert await fetch(make_client(server.url, request_timeout_s=1.0), 0, 10) == DATA[:10]
    finally:
        server.stop()


async def test_cancelling_works_over_tls_too(say, make_client, certificate):
    context, ca_bundle = certificate
    server = say.Server(tls=context)
    try:
        whole = say.part(DATA, 0, SIZE)
        server.answer(whole[: len(whole) - SIZE + 100], say.Then.STALL)
        client = make_client(server.url, ca_bundle=ca_bundle, stall_timeout_s=60.0, request_timeout_s=0.5)
        sink = RecordingSink(SIZE)
        with trio.fail_after(30), pytest.raises(ObjectUnavailableError):
            await client.fetch(OBJ, 0, SIZE, sink)
        assert sink.calls == ["next_view"]
    finally:
        server.stop()


async def test_https_to_a_port_that_speaks_http_is_told(server, say, make_client):
    server.greeting = say.response(400)
    with pytest.raises(ObjectUnavailableError, match="check that this port speaks https"):
        await make_client(server.url.replace("http:", "https:")).check_access("b", "")


async def test_wrong_keys_are_told_apart(bucket, make_client):
    bucket.put("k", b"x")
    cases = {
        Credentials(
            source="env", access_key_id="nobody", secret_access_key="x"
        ): "does not know the access key from env",
        Credentials(
            source="env", access_key_id=bucket.s3.access_key, secret_access_key="x"
        ): "secret key does not belong",
    }
    for key, words in cases.items():
        with pytest.raises(ObjectAccessError, match=words):
            await make_client(bucket.s3.endpoint_url, key).check_access(bucket.name, "")


async def test_slow_down_from_a_real_server_is_waited_out(bucket, make_client):
    bucket.put("k", DATA)
    bucket.s3.inject(FaultRule(match="GET .*/k", action="status", status=503, code="SlowDown", count=2))
    key = Credentials(source="x", access_key_id=bucket.s3.access_key, secret_access_key=bucket.s3.secret_key)
    client = make_client(bucket.s3.endpoint_url, key)
    info = await client.head(bucket.name, "k")
    assert await fetch(client, obj=info.id) == DATA
    assert client.statistics().slow_downs == 2


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"url": "not a url"}, "cannot use not a url"),
        ({"url": "http://localhost:1", "ca_bundle": "/nonexistent.pem"}, "cannot read the CA bundle"),
        ({"url": "http://localhost:1", "credentials": Credentials(source="x", profile="no-such")}, "no-such"),
    ],
)
async def test_an_unusable_configuration_is_told_at_once(make_client, settings, words):
    with pytest.raises(ConfigError, match=words):
        make_client(**settings)


# -- the system ------------------------------------------------------------------------------------------------


async def test_without_a_thread_requests_fail_as_when_the_store_is_away(server, say, client):
    """A look-up and a GET, tried again until time is up; then all is as before. Mutation: Python's own error."""
    with no_threads():
        for ask in (partial(client.head, "b", "k"), partial(fetch, client)):
            with pytest.raises(ObjectUnavailableError, match="no thread left: raise the limit of tasks"):
                await ask()
    assert server.requests == []
    server.answer(say.part(DATA, 0, SIZE))
    assert await fetch(client) == DATA
