-- What lists and the console without actions may do: look, and note when a token was used.
REVOKE ALL ON ALL TABLES IN SCHEMA public FROM drover_reader;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO drover_reader;
REVOKE SELECT ON webhook_secret FROM drover_reader;
GRANT UPDATE (used_at) ON api_token TO drover_reader;
