-- Writes that no text shows: only the read path stops them.
CREATE FUNCTION user_secret(users) RETURNS int VOLATILE LANGUAGE sql AS $$ SELECT w() $$;
CREATE FUNCTION allowed() RETURNS bool VOLATILE LANGUAGE sql AS $$ SELECT w() > 0 $$;
CREATE VIEW v_nextval AS SELECT nextval('app_seq') AS n;
CREATE VIEW v_writer AS SELECT w() AS n;
CREATE TABLE rls_t (id int);
INSERT INTO rls_t VALUES (1);
ALTER TABLE rls_t ENABLE ROW LEVEL SECURITY;
CREATE POLICY p ON rls_t USING (allowed());
