-- Which rows: a host sees itself, the questions put to it, and the moves that it takes part in; the others see all.
-- Policies that are as they should be are left alone, for to change one waits for everybody who uses its table.
DO $$
DECLARE
    wanted record;
    rule text;
BEGIN
    FOR wanted IN
        WITH of_host (of, what, who_may) AS (VALUES
            ('host', 'ALL', 'name = current_user'),
            ('storage', 'SELECT', 'true'),
            ('storage', 'ALL', 'host = current_user'),
            ('host_request', 'ALL', 'host = current_user'),
            ('job', 'ALL', 'current_user IN (source, destination)'),
            ('step', 'ALL', 'EXISTS (SELECT FROM job WHERE job.id = step.job_id)'),
            ('attempt', 'ALL', 'EXISTS (SELECT FROM job WHERE job.id = attempt.job_id)'),
            ('disk', 'ALL', 'EXISTS (SELECT FROM job WHERE job.id = disk.job_id)'),
            ('event', 'ALL', 'EXISTS (SELECT FROM job WHERE job.id = event.job_id)'),
            ('sample', 'ALL', 'EXISTS (SELECT FROM job WHERE job.id = sample.job_id)'),
            ('guest', 'SELECT', 'host = current_user OR EXISTS (SELECT FROM job WHERE job.guest = guest.name)'),
            -- A destination may take the guest's record over while the move is under way; no host may give a guest away.
            ('guest', 'UPDATE', 'host = current_user OR EXISTS (SELECT FROM job WHERE job.guest = guest.name'
                ' AND job.source = guest.host AND job.state NOT IN (''done'', ''rolled_back''))'),
            -- A webhook goes only to the address that was submitted.
            ('delivery', 'ALL', 'url = (SELECT webhook FROM job WHERE job.id = job_id)')
        )
        SELECT of, 'host_' || lower(what) AS name, what, 'drover_host' AS who, who_may FROM of_host
        UNION
        SELECT of, 'controller_all', 'ALL', 'drover_controller', 'true' FROM of_host
        UNION
        SELECT of, 'reader_select', 'SELECT', 'drover_reader', 'true' FROM of_host
    LOOP
        CONTINUE WHEN to_regrole(wanted.who) IS NULL;
        rule := format('FOR %s TO %I USING (%s)', wanted.what, wanted.who, wanted.who_may);
        CONTINUE WHEN EXISTS (
            SELECT FROM pg_policy
            WHERE polrelid = to_regclass(wanted.of) AND polname = wanted.name AND obj_description(oid, 'pg_policy') = rule
        );
        EXECUTE format('DROP POLICY IF EXISTS %I ON %I', wanted.name, wanted.of);
        EXECUTE format('CREATE POLICY %I ON %I %s', wanted.name, wanted.of, rule);
        EXECUTE format('COMMENT ON POLICY %I ON %I IS %L', wanted.name, wanted.of, rule);
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', wanted.of);
    END LOOP;
END $$;
