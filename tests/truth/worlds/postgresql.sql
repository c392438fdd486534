-- What the statements of the corpus name. w() and bump() leave a row in audit_log wherever they run.
CREATE TABLE users (id int PRIMARY KEY, name text, email text, active bool, age int, role text,
    created_at timestamptz DEFAULT now());
INSERT INTO users SELECT i, 'u' || i, 'u' || i || '@x', i % 2 = 0, 20 + i, 'a' FROM generate_series(1, 5) i;
CREATE INDEX users_name ON users (name);
CREATE TABLE orders (id int PRIMARY KEY, user_id int REFERENCES users, total numeric, status text,
    created_at timestamptz DEFAULT now());
INSERT INTO orders SELECT i, i, i * 10, 'new' FROM generate_series(1, 5) i;
CREATE TABLE items (id int PRIMARY KEY, order_id int REFERENCES orders, name text);
INSERT INTO items VALUES (1, 1, 'thing');
CREATE TABLE t (id int PRIMARY KEY, a int, b text);
INSERT INTO t SELECT i, i, 'b' || i FROM generate_series(1, 5) i;
CREATE TABLE t2 (id int PRIMARY KEY, a int, b text);
INSERT INTO t2 VALUES (1, 1, 'one');
CREATE TABLE big (id int PRIMARY KEY);
INSERT INTO big SELECT generate_series(1, 100);
CREATE TABLE docs (id int PRIMARY KEY, data jsonb, doc xml, vec tsvector);
INSERT INTO docs VALUES (1, '{"a": 1}', '<a><b>1</b></a>', 'hello');
CREATE TABLE "Weird Table" ("Id" int, "select" text);
INSERT INTO "Weird Table" VALUES (1, 'x');
CREATE SCHEMA app;
CREATE TABLE app.events (id int, kind text);
INSERT INTO app.events VALUES (1, 'made');
CREATE TABLE pg_sleep_log_view (note text);
CREATE SEQUENCE app_seq;
SELECT nextval('app_seq');
CREATE TABLE audit_log (id serial PRIMARY KEY, note text);
SELECT lo_create(4711);


-- What ordinary reads name.
ALTER TABLE t ADD x int, ADD y int, ADD v int, ADD g int, ADD k text, ADD d date, ADD ts timestamp, ADD arr int[],
    ADD name text, ADD email text, ADD body text, ADD created_at timestamptz;
ALTER TABLE docs ADD tags text[], ADD body text;
ALTER TABLE orders ADD amount numeric;
CREATE TABLE n (id int, parent_id int);
INSERT INTO n VALUES (1, NULL), (2, 1);
CREATE TABLE a (id int, x int);
CREATE TABLE b (id int, x int);
CREATE TABLE c (id int);
CREATE TABLE d (id int);

CREATE FUNCTION w() RETURNS int VOLATILE LANGUAGE sql AS
    $$ INSERT INTO audit_log (note) VALUES ('w') RETURNING id $$;
CREATE FUNCTION bump(int) RETURNS int VOLATILE LANGUAGE sql AS
    $$ INSERT INTO audit_log (note) VALUES ('bump') RETURNING id $$;
CREATE FUNCTION bump(text) RETURNS int VOLATILE LANGUAGE sql AS
    $$ INSERT INTO audit_log (note) VALUES ('bump') RETURNING id $$;
CREATE FUNCTION bump(int, int) RETURNS int VOLATILE LANGUAGE sql AS
    $$ INSERT INTO audit_log (note) VALUES ('bump') RETURNING id $$;
CREATE OPERATOR <~> (LEFTARG = int, RIGHTARG = int, FUNCTION = bump);
CREATE DOMAIN evil_dom AS int CHECK (bump(VALUE) > 0);

CREATE VIEW v_active AS SELECT id, name FROM users WHERE active;
CREATE MATERIALIZED VIEW mv_totals AS SELECT user_id, sum(total) AS total FROM orders GROUP BY 1;
