"""The Celery application: one queue per host, and why each delivery setting is what it is.

Redis as a broker loses and repeats messages by design, so a message is only a hint (see `workflows.migration.claims`).
Early acknowledgement, because late ones repeat steps that still run; no countdown messages, because they are
repeated by the visibility timeout; no result backend, because all state is in Postgres.
"""

from typing import Any

from celery import Celery, Task
from celery.signals import setup_logging, worker_init
from kombu.transport import TRANSPORT_ALIASES

from drover import logs, tracing
from drover.settings import settings

TRANSPORT_ALIASES |= {
    "redis": "drover.broker.transport:Transport",
    "rediss": "drover.broker.transport:Transport",
    "sentinel": "drover.broker.transport:SentinelTransport",
}

CONTROL_QUEUE = "drover.control"
CONTROL_MODULES = ("workflows.tasks", "drover.controller.loop")
"""Imported where the control queue is served, see `workers.registration`: a worker is a quarter smaller without."""

UNROUTED_QUEUE = "drover.unrouted"
"""A queue that no process serves: a message that was sent without a queue stays visible there."""


def host_queue(host: str) -> str:
    """The queue that only this host's worker serves."""
    return f"drover.{host}"


def unacked(owner: str) -> tuple[str, str, str]:
    """Keys of what a process has taken and not yet acknowledged: messages, their index, and who restores them."""
    return f"unacked.{owner}", f"unacked_index.{owner}", f"unacked_mutex.{owner}"


def configuration() -> dict[str, Any]:
    """Celery's settings, from ours."""
    ours = settings()
    me = ours.host or "control"
    return {
        "broker_url": ours.broker_url,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_reject_on_worker_lost": False,
        "task_default_queue": UNROUTED_QUEUE,
        "task_routes": {
            "drover.job.*": {"queue": CONTROL_QUEUE},
            "drover.drain.*": {"queue": CONTROL_QUEUE},
        },
        "task_publish_retry_policy": {
            "max_retries": 5,
            "interval_start": 0,
            "interval_step": 0.5,
            "interval_max": 2,
        },
        "worker_pool": "threads",  # 49 MiB however many steps wait; SIGTERM reaches them through an Event
        "worker_concurrency": ours.concurrency,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_enable_remote_control": False,  # any process that may publish could shut every host's worker down
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "worker_consumer": "drover.broker.consumer:Consumer",
        "worker_enable_prefetch_count_reduction": False,  # after an outage as before it: steps count by claims
        "worker_soft_shutdown_timeout": 0,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "visibility_timeout": 3600,
            "socket_timeout": 10,  # without it a publisher blocks without end on a frozen Redis
            "socket_connect_timeout": 3,
            "socket_keepalive": True,
            "health_check_interval": 10,
            **dict(zip(("unacked_key", "unacked_index_key", "unacked_mutex_key"), unacked(me), strict=True)),
            "master_name": ours.broker_master,  # for Sentinels; others ignore it
            "priority_steps": [0],  # a queue is one key, whose name can be granted
        },
    }


FIELDS = {"job_id": "job", "drain_id": "drain", "guest": "guest"}
"""Names of log fields for arguments of tasks."""


class TaskWithLog(Task[Any, Any]):
    """A task whose log lines carry the job that its message names, and whose spans belong to the sender's trace."""

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Run it."""
        about = {
            FIELDS[name]: value for name, value in named.items() if name in FIELDS and isinstance(value, int | str)
        }
        with logs.about(**about), tracing.below(self.request.get(tracing.HEADER)):
            return super().__call__(*arguments, **named)


app = Celery("drover", task_cls="drover.broker.app:TaskWithLog", include=["workers.tasks", "workers.registration"])
app.add_defaults(configuration)  # evaluated at first use, so that importing needs no environment


@worker_init.connect
def ask_no_other_worker(sender: Any, **_: Any) -> None:
    """Celery's gossip and mingle speak to all workers, which a host's user of Redis may not, and nothing needs them.

    With them a worker that the standard command starts would connect again and again.
    """
    sender.options |= {"without_gossip": True, "without_mingle": True}


@setup_logging.connect
def configure_logs(**_: Any) -> None:
    """Celery's lines look like ours; because this signal has a receiver, Celery makes no handlers of its own."""
    logs.configure(settings().host or "control")
