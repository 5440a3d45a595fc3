"""Every metric: its name, its labels and what it tells. docs/reference/metrics.md is made from these."""

from drover.metrics.builders import Counter, Durations, Gauge

LEADING = Gauge("drover_leading", "1: this controller acts; 0: it stands by")
DATABASE_UP = Gauge("drover_database_up", "1: this controller reaches Postgres; without it most metrics are missing")
BROKER_UP = Gauge("drover_broker_up", "1: this controller reaches Redis")

JOBS = Gauge("drover_jobs", "Jobs that are queued, running, rolling back, or need an operator", "state")
OLDEST_QUEUED_JOB_AGE = Gauge(
    "drover_oldest_queued_job_age_seconds",
    "Of those that wait for a slot or room; not of those with a time of their own",
)
JOB_STEP_AGE = Gauge(
    "drover_job_step_age_seconds",
    "Since a job that has begun was last seen to move on; 0 while its disks are kept in sync until a release or its "
    "window",
    "job_id guest state step host",
)
JOB_MOVED_BYTES = Gauge("drover_job_moved_bytes", "Of its disks and RAM so far", "job_id guest")
JOB_LEFT = Gauge(
    "drover_job_left_seconds",
    "Until its end once it goes on, by estimate; absent while it is rolled back",
    "job_id guest",
)
JOB_WAITING = Gauge(
    "drover_job_waiting",
    "1 for each that does not go on or is slowed down, with the sentence of `drover job show`; `#` stands for any "
    "number in it",
    "job_id guest reason",
)
QUEUED_JOBS = Gauge("drover_queued_jobs", "Jobs that wait to begin, by what for, likewise", "reason")
JOBS_ENDED = Counter("drover_jobs_ended_total", "How jobs ended: done, rolled back", "state")
MOVED_BYTES = Counter("drover_moved_bytes_total", "Disks and RAM of jobs that have ended", "what")
STEP_DURATION = Durations(
    "drover_step_duration_seconds",
    "Of each try at a step; its `_count` by `outcome` has retries and failures",
    "step side direction outcome",
)
DOWNTIME = Durations(
    "drover_downtime_seconds", "For how long moves paused their guests, by QEMU's events as in `drover job show`"
)

HOST_UP = Gauge("drover_host_up", "1: its worker sent a heartbeat lately", "host")
HOST_HEARTBEAT_AGE = Gauge("drover_host_heartbeat_age_seconds", "Since the last heartbeat of its worker", "host")
HOST_STATE = Gauge(
    "drover_host_state", "1 for the state that it is in: active, cordoned, maintenance or forgotten", "host state"
)
HOST_LABEL = Gauge(
    "drover_host_label",
    '1 for each label: `drover_host_up * on (host) group_left drover_host_label{key="rack",value="r1"}` selects by it',
    "host key value",
)
GUEST_LABEL = Gauge(
    "drover_guest_label", "Likewise of guests that are being moved, for the series of their jobs", "guest key value"
)
HOST_GUESTS = Gauge("drover_host_guests", "Guests known to live there", "host")
STORAGE_BYTES = Gauge(
    "drover_storage_bytes", "What a storage can hold, as its worker saw within the last five minutes", "host storage"
)
STORAGE_FREE_BYTES = Gauge("drover_storage_free_bytes", "What is free of it", "host storage")
STORAGE_LOW = Gauge(
    "drover_storage_low", "1: less than a tenth is free (at least 256 MB, at most 16 GB)", "host storage"
)
GUESTS = Gauge(
    "drover_guests", "Guests that are running, paused, gone, twice or unknown (their host is silent)", "state"
)
GUEST_UNWELL = Gauge(
    "drover_guest_unwell",
    "1 for each guest whose check failed after its move (`check`), or whose images differ (`images`) or could not be "
    "compared (`not proven`)",
    "guest host job_id reason",
)
GUEST_TROUBLE = Gauge("drover_guest_trouble", "1 for each guest that is gone or runs twice", "guest host state")
QUEUE_AGE = Gauge("drover_queue_age_seconds", "Of the oldest step that is due there and not begun", "host")
QUEUE_MESSAGES = Gauge(
    "drover_queue_messages",
    "Messages that no process has taken; `drover.unrouted` holds those sent without a queue",
    "queue",
)

DRAIN_GUESTS = Gauge("drover_drain_guests", "Guests of drains and returns that have not ended", "drain kind host state")
DRAIN_WAITING = Gauge("drover_drain_waiting", "As `drover_job_waiting`", "drain kind host reason")
DRAIN_STILL = Gauge(
    "drover_drain_still_seconds",
    "Since any of its moves was seen to move on; absent while it is paused, or waits for its window or a release",
    "drain kind host",
)
ROLLS = Gauge("drover_rolls", "Rolls that are running, paused or being cancelled", "state")
ROLL_HOSTS = Gauge("drover_roll_hosts", "Hosts of rolls that have not ended", "roll state")
ROLL_WAITING = Gauge("drover_roll_waiting", "As `drover_job_waiting`", "roll reason")
ROLL_FAILED = Gauge("drover_roll_failed", "1: it pauses because something failed on a host", "roll")
