-- What the statements of the corpus name.
CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT, email TEXT, role TEXT, active INT, age INT);
INSERT INTO users VALUES (1, 'u1', 'u1@x', 'a', 1, 21), (2, 'u2', 'u2@x', 'b', 0, 22);
CREATE INDEX i_name ON users (name);
CREATE TABLE orders (id INTEGER PRIMARY KEY, user_id INT REFERENCES users, total REAL, status TEXT);
INSERT INTO orders VALUES (1, 1, 10, 'new'), (2, 2, 20, 'new');
CREATE TABLE t (id INTEGER PRIMARY KEY, a INT, b TEXT);
INSERT INTO t VALUES (1, 1, 'one'), (2, 2, 'two');
CREATE TABLE t2 (id INTEGER PRIMARY KEY AUTOINCREMENT, a INT);
INSERT INTO t2 (a) VALUES (1);
CREATE TABLE docs (id INTEGER PRIMARY KEY, doc TEXT);
INSERT INTO docs VALUES (1, '{"a": 1, "b": 2}');
CREATE TABLE "Weird Table" (id INT, "select" TEXT);
INSERT INTO "Weird Table" VALUES (1, 'x');
CREATE VIRTUAL TABLE words USING fts5(body);
INSERT INTO words VALUES ('hello world');
CREATE VIEW v_active AS SELECT id, name FROM users WHERE active;
CREATE TRIGGER on_t AFTER INSERT ON t BEGIN UPDATE t2 SET a = a + 1; END;
