-- The groups that have rights, and what nobody else has in this database. A superuser runs this.
DO $$
DECLARE
    purpose text;
    locking regprocedure;
BEGIN
    IF to_regclass('public.job') IS NULL THEN
        RAISE 'the database % has no tables of Drover yet: run `drover db upgrade` first', current_database();
    END IF;
    EXECUTE format('REVOKE TEMPORARY, CREATE ON DATABASE %I FROM PUBLIC', current_database());
    REVOKE CREATE ON SCHEMA public FROM PUBLIC;
    FOREACH purpose IN ARRAY ARRAY['drover_host', 'drover_controller', 'drover_reader'] LOOP
        IF to_regrole(purpose) IS NULL THEN
            EXECUTE format('CREATE ROLE %I NOLOGIN', purpose);
        END IF;
        EXECUTE format('GRANT CONNECT ON DATABASE %I TO %I', current_database(), purpose);
        EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', purpose);
    END LOOP;
    -- The controller that leads is the one that holds an advisory lock: a hypervisor must not be able to take it.
    FOR locking IN
        SELECT oid FROM pg_proc WHERE pronamespace = 'pg_catalog'::regnamespace AND proname ~ '^pg_(try_)?advisory_'
    LOOP
        EXECUTE format('REVOKE EXECUTE ON FUNCTION %s FROM PUBLIC', locking);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO drover_controller, %I', locking,
            (SELECT tableowner FROM pg_tables WHERE schemaname = 'public' AND tablename = 'job'));
    END LOOP;
END $$;

-- One role that logs in, for one purpose.
CREATE FUNCTION pg_temp.enrol(login text, purpose text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = login AND rolsuper)
        OR EXISTS (SELECT FROM pg_class WHERE pg_get_userbyid(relowner) = login) THEN
        RAISE 'the role % is a superuser''s, or owns tables: use another name, or give its tables away first', login;
    END IF;
    IF to_regrole(quote_ident(login)) IS NULL THEN
        EXECUTE format('CREATE ROLE %I CONNECTION LIMIT 100', login); -- one that is stolen leaves some to others
    END IF;
    EXECUTE format('REVOKE drover_host, drover_controller, drover_reader FROM %I', login);
    EXECUTE format('ALTER ROLE %I LOGIN INHERIT NOCREATEDB NOCREATEROLE', login);
    EXECUTE format('GRANT %I TO %I', purpose, login);
END $$;
