-- What controllers, the console with actions and the operators' command line may do: everything to rows, nothing to
-- tables. What has happened stays on record, and the story of a job is only added to.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM drover_controller;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO drover_controller;
REVOKE DELETE ON job, step, attempt, disk, event, sample, drain, drain_guest, roll, roll_host, hook_run, host, api_token
    FROM drover_controller;
REVOKE UPDATE ON event FROM drover_controller;
REVOKE INSERT, UPDATE, DELETE ON alembic_version FROM drover_controller;
