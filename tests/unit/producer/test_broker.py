"""How Celery is told about Redis."""

from __future__ import annotations

import pytest

from producer.broker import celery_app
from producer.messages import Queue
from producer.settings import ProducerSettings


def settings(url: str) -> ProducerSettings:
    return ProducerSettings.model_validate({"redis_url": url})


def test_the_app_is_private_and_speaks_json_only(monkeypatch: pytest.MonkeyPatch) -> None:
    import celery

    monkeypatch.setenv("CELERY_BROKER_URL", "amqp://the.shop's.own")
    before = celery.current_app._get_current_object()
    app = celery_app(settings("redis://shop:1/2"))
    assert celery.current_app._get_current_object() is before
    assert app.conf.accept_content == ["json"]
    assert app.conf.task_acks_late
    assert {queue.name for queue in app.conf.task_queues} == {queue.value for queue in Queue}
    connection = app.connection_for_write()
    assert (connection.hostname, connection.port, connection.virtual_host) == ("shop", 1, "2")
    assert connection.transport_options["global_keyprefix"] == "lookalike:"


def test_a_unix_socket_is_spelled_as_the_broker_does() -> None:
    app = celery_app(settings("unix://shop:p%40ss@/run/redis.sock?db=3"))
    assert app.conf.broker_url == "redis+socket://shop:p%40ss@/run/redis.sock?virtual_host=3"


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://shop/0", None),
        ("rediss://shop/0", {"ssl_cert_reqs": "required"}),
        (
            "rediss://shop/0?ssl_cert_reqs=none&ssl_ca_certs=/ca.pem",
            {"ssl_cert_reqs": "none", "ssl_ca_certs": "/ca.pem"},
        ),
    ],
)
def test_tls_checks_the_certificate_unless_told_otherwise(
    url: str, expected: dict[str, str] | None
) -> None:
    assert celery_app(settings(url)).conf.broker_use_ssl == expected
