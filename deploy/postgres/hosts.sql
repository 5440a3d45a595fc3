-- What the workers of hypervisors may do in the database. Run it as a superuser after each `drover db upgrade`:
--   su postgres -c "psql --quiet --port=5433 drover" <deploy/postgres/hosts.sql
-- and once per hypervisor, named as its worker is (--host):
--   CREATE ROLE "hv1" LOGIN IN ROLE drover_host;
-- Control nodes use the owner's role, which no policy binds.
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;

SELECT 'CREATE ROLE drover_host NOLOGIN'
WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'drover_host') \gexec
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM drover_host;

-- Columns that decide what is run where (job.plan, the paths of disks) are only to be read.
GRANT SELECT ON job, step, attempt, disk, event, guest, host, host_request, delivery, fleet_limits, storage,
    storage_mapping, budget TO drover_host;
-- What all moves share of the budgets each host computes from all moves: who sends from where to where, and what of it.
GRANT SELECT ON host_budget, move_under_way TO drover_host;
GRANT UPDATE (state, epoch, token, nbd_server, switchover, cancel_requested, cutover_begun_at, committed_at, downtime, ram,
    kept_by_source, wait_reason, progress_at, pace, file_copy, hold, seed, proof, health, way_back_needed, error, started_at,
    finished_at) ON job TO drover_host;
GRANT UPDATE (state, attempts, token, owner, lease_until, next_at, enqueued_at, started_at, finished_at, error)
    ON step TO drover_host;
GRANT INSERT ON host, attempt, event, delivery, storage TO drover_host;
GRANT UPDATE (host, name, driver, place, total_bytes, free_bytes, seen_at), DELETE ON storage TO drover_host;
GRANT UPDATE (ended_at, outcome, error) ON attempt TO drover_host;
GRANT UPDATE (bytes_total, bytes_copied, bytes_first, delta_bytes, ready_at, retired_path, retired_until, retired_bytes) ON disk TO drover_host;
GRANT UPDATE (host, qmp, moved_at, process, allocated_bytes, gone_at, runstate, launcher) ON guest TO drover_host;
GRANT UPDATE (name, address, guest_root, incarnation, heartbeat_at, facts, guest_cpus, guest_memory_bytes,
    guest_disk_bytes, public_key, qemus, qemus_at) ON host TO drover_host;
GRANT UPDATE (state, reply, answered_at) ON host_request TO drover_host;

-- A host sees itself, the questions put to it, and the moves that it takes part in.
CREATE FUNCTION pg_temp.bind(of text, what text, who_may text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', of);
    EXECUTE format('DROP POLICY IF EXISTS %I ON %I', 'host_' || lower(what), of);
    EXECUTE format('CREATE POLICY %I ON %I FOR %s TO drover_host USING (%s)', 'host_' || lower(what), of, what, who_may);
END $$;
DO $$
BEGIN
    PERFORM pg_temp.bind('host', 'ALL', 'name = current_user');
    PERFORM pg_temp.bind('storage', 'SELECT', 'true');
    PERFORM pg_temp.bind('storage', 'ALL', 'host = current_user');
    PERFORM pg_temp.bind('host_request', 'ALL', 'host = current_user');
    PERFORM pg_temp.bind('job', 'ALL', 'current_user IN (source, destination)');
    PERFORM pg_temp.bind(part, 'ALL', format('EXISTS (SELECT FROM job WHERE job.id = %I.job_id)', part))
    FROM unnest(ARRAY['step', 'attempt', 'disk', 'event']) AS part;
    PERFORM pg_temp.bind('guest', 'SELECT', 'host = current_user OR EXISTS (SELECT FROM job WHERE job.guest = guest.name)');
    -- A destination may take the guest's record over while the move is under way; no host may give a guest away.
    PERFORM pg_temp.bind('guest', 'UPDATE', 'host = current_user OR EXISTS (SELECT FROM job WHERE job.guest = guest.name'
        ' AND job.source = guest.host AND job.state NOT IN (''done'', ''rolled_back''))');
    -- A webhook goes only to the address that was submitted.
    PERFORM pg_temp.bind('delivery', 'ALL', 'url = (SELECT webhook FROM job WHERE job.id = job_id)');
END $$;
COMMIT;
