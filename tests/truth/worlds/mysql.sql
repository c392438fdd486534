-- What the statements of the corpus name. w() leaves a row in log wherever it runs.
CREATE TABLE users (id int PRIMARY KEY, name varchar(40), email varchar(40), role varchar(10), active tinyint, age int,
    created_at datetime DEFAULT '2024-01-01');
INSERT INTO users (id, name, email, role, active, age) VALUES (1, 'u1', 'u1@x', 'a', 1, 21), (2, 'u2', 'u2@x', 'b', 0, 22);
CREATE TABLE orders (id int PRIMARY KEY, user_id int, total decimal(10,2), status varchar(10));
INSERT INTO orders VALUES (1, 1, 10, 'new'), (2, 2, 20, 'new');
CREATE TABLE t (id int PRIMARY KEY, a int, b int);
INSERT INTO t VALUES (1, 1, 1), (2, 2, 2);
CREATE TABLE t2 (id int PRIMARY KEY, a int, b int);
INSERT INTO t2 VALUES (1, 1, 1);
CREATE TABLE docs (id int PRIMARY KEY, doc json);
INSERT INTO docs VALUES (1, '{"a": 1, "b": "two"}');
CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)
    (PARTITION p0 VALUES LESS THAN (10), PARTITION p1 VALUES LESS THAN (20));
INSERT INTO parts VALUES (1), (11);
-- Not InnoDB: its full-text index begins transactions of its own, even to be read.
CREATE TABLE articles (id int PRIMARY KEY, title varchar(100), FULLTEXT (title)) ENGINE=Aria;
INSERT INTO articles VALUES (1, 'a title');
CREATE TABLE people (id int PRIMARY KEY, name varchar(40)) ENGINE=MyISAM;
INSERT INTO people VALUES (1, 'p1');
CREATE TABLE log (id int AUTO_INCREMENT PRIMARY KEY, note varchar(40));
CREATE TABLE t1 (id int PRIMARY KEY, a int);
CREATE TABLE t3 (id int PRIMARY KEY, a int);
ALTER TABLE orders ADD created_at datetime;
ALTER TABLE t ADD x int, ADD c int, ADD d json, ADD e int, ADD email varchar(40), ADD `order` int, ADD INDEX a (a);
CREATE SEQUENCE s1;
CREATE FUNCTION w() RETURNS int MODIFIES SQL DATA BEGIN INSERT INTO log (note) VALUES ('w'); RETURN 1; END;
CREATE FUNCTION bump(n int) RETURNS int MODIFIES SQL DATA BEGIN INSERT INTO log (note) VALUES ('bump'); RETURN n; END;
CREATE VIEW v_active AS SELECT id, name FROM users WHERE active;
