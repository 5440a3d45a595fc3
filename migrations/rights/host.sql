-- What the worker of a hypervisor may do: read what it works by, and tell how it goes on. Which rows: policies.sql.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM drover_host;

-- Columns that decide what is run where (job.plan, the paths of disks) are only to be read.
GRANT SELECT ON job, step, attempt, disk, event, sample, guest, host, host_request, delivery, fleet_limits, storage,
    storage_mapping, budget TO drover_host;
GRANT SELECT ON alembic_version TO drover_host; -- `drover doctor`
-- What all moves share of the budgets each host computes from all moves: who sends from where to where, and what of it.
GRANT SELECT ON host_budget, move_under_way TO drover_host;
GRANT UPDATE (state, epoch, token, nbd_server, switchover, cancel_requested, cutover_begun_at, committed_at, downtime, ram,
    kept_by_source, wait_reason, progress_at, pace, file_copy, hold, seed, proof, health, way_back_needed, error, started_at,
    finished_at) ON job TO drover_host;
GRANT UPDATE (state, attempts, token, owner, lease_until, next_at, enqueued_at, started_at, finished_at, error)
    ON step TO drover_host;
GRANT INSERT ON attempt, event, sample, delivery, storage TO drover_host;
-- What an operator says of a host (state, labels, budgets, the key that counts) its first row does not say either.
GRANT INSERT (name, address, guest_root, incarnation, heartbeat_at, facts, guest_cpus, guest_memory_bytes,
    guest_disk_bytes, public_key) ON host TO drover_host;
-- No right to UPDATE or DELETE a whole table: with one, a host could lock it and stop all others.
GRANT UPDATE (host, name, driver, place, total_bytes, free_bytes, seen_at) ON storage TO drover_host;
GRANT UPDATE (ended_at, outcome, error) ON attempt TO drover_host;
GRANT UPDATE (at, sent_per_s, changed_per_s) ON sample TO drover_host;
GRANT UPDATE (bytes_total, bytes_copied, bytes_first, delta_bytes, ready_at, retired_path, retired_until, retired_bytes) ON disk TO drover_host;
GRANT UPDATE (host, qmp, moved_at, process, allocated_bytes, gone_at, runstate, launcher) ON guest TO drover_host;
GRANT UPDATE (name, address, guest_root, incarnation, heartbeat_at, facts, guest_cpus, guest_memory_bytes,
    guest_disk_bytes, public_key, qemus, qemus_at) ON host TO drover_host;
GRANT UPDATE (state, reply, answered_at) ON host_request TO drover_host;
